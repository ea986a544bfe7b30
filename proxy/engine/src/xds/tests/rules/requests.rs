//! Rules 1 to 11: what the client asks for, and in which words.

use super::*;

#[test]
fn rule_1_one_stream_carries_all_kinds_clusters_first() {
    let mut bench = Bench::new(Variant::Delta);
    bench.client.subscribe_all(Kind::Cluster, WAIT, bench.now);
    bench.client.subscribe_all(Kind::Listener, WAIT, bench.now);
    bench.client.interest(Kind::Routes, "r", true, WAIT, bench.now);
    bench.client.interest(Kind::Endpoints, "e", true, WAIT, bench.now);
    bench.client.connected();
    let kinds = |bench: &mut Bench| -> Vec<Option<Kind>> {
        bench.delta_requests().iter().map(|request| Kind::from_type_url(&request.type_url)).collect()
    };
    assert_eq!(kinds(&mut bench), [Some(Kind::Cluster), Some(Kind::Endpoints), Some(Kind::Routes)]);
    bench.answer(delta(Kind::Cluster, "1", vec![], &[]));
    assert_eq!(kinds(&mut bench), [Some(Kind::Cluster), Some(Kind::Listener)]);
    // All at once where the clusters are known.
    bench.reconnect();
    assert_eq!(kinds(&mut bench).len(), 4);
}

#[test]
fn rule_2_the_node_is_in_the_first_request_of_each_stream_only() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let mut bench = Bench::new(variant);
        bench.client.subscribe_all(Kind::Cluster, WAIT, bench.now);
        bench.want("a");
        for _ in 0..2 {
            bench.client.connected();
            let ids = bench.requests().into_iter().map(|request| match request {
                Request::Sotw(request) => request.node.map(|node| node.id),
                Request::Delta(request) => request.node.map(|node| node.id),
            });
            assert_eq!(ids.collect::<Vec<_>>(), [Some("sidecar~1".to_owned()), None]);
            bench.client.disconnected();
        }
    }
}

#[test]
fn rule_3_each_request_has_its_type() {
    let mut bench = Bench::with_clusters(Variant::Sotw);
    bench.want("a");
    bench.answer(sotw(Kind::Cluster, "1", "n", vec![]));
    let requests = bench.sotw_requests();
    assert_eq!(
        requests.iter().map(|request| request.type_url.as_str()).collect::<Vec<_>>(),
        [Kind::Cluster.type_url(), Kind::Endpoints.type_url()]
    );
}

#[test]
fn rule_4_the_node_says_what_the_client_can() {
    let node = identify(node(), "1.2.3");
    assert_eq!((&*node.id, &*node.user_agent_name), ("sidecar~1", "outrigger"));
    // Overprovisioning is supported, load reports are not.
    let expected =
        ["xds.config.resource-in-sotw", "xds.config.supports-resource-in-sotw", "xds.config.supports-resource-ttl"];
    assert_eq!(node.client_features, expected);
    assert_eq!(identify(node.clone(), "1.2.3"), node);
}

#[test]
fn rule_5_state_of_the_world_is_acknowledged_or_refused_by_version_and_nonce() {
    let mut bench = Bench::with_clusters(Variant::Sotw);
    bench.answer(sotw(Kind::Cluster, "1", "n1", vec![cluster("a", "")]));
    let [ack] = &bench.sotw_requests()[..] else { panic!() };
    assert_eq!((&*ack.version_info, &*ack.response_nonce, &ack.error_detail), ("1", "n1", &None));
    let bad = vec![rejection("a", "lb_policy: 9: unknown")];
    bench.answer_with(sotw(Kind::Cluster, "2", "n2", vec![cluster("a", "x")]), bad);
    let [nack] = &bench.sotw_requests()[..] else { panic!() };
    assert_eq!((&*nack.version_info, &*nack.response_nonce), ("1", "n2"));
    assert_eq!(nack.error_detail.as_ref().unwrap().message, "a: lb_policy: 9: unknown");
    // Nothing is said before the verdict is in.
    bench.client.receive(sotw(Kind::Cluster, "3", "n3", vec![]).into());
    assert!(bench.client.poll_update(bench.now).is_some());
    assert_eq!(bench.requests(), []);
}

#[test]
fn rule_6_nonces_stay_on_their_stream_and_versions_survive_it() {
    let mut bench = Bench::with_clusters(Variant::Sotw);
    bench.answer(sotw(Kind::Cluster, "1", "n1", vec![cluster("a", "")]));
    bench.requests();
    bench.reconnect();
    let [first] = &bench.sotw_requests()[..] else { panic!() };
    assert_eq!((&*first.version_info, &*first.response_nonce), ("1", ""));
    // An answer to an earlier stream goes nowhere, but what came is in force.
    bench.client.receive(sotw(Kind::Cluster, "2", "n2", vec![cluster("a", "x")]).into());
    assert!(bench.client.poll_update(bench.now).is_some());
    bench.reconnect();
    bench.client.verdict(Kind::Cluster, &[], bench.now);
    let [first] = &bench.sotw_requests()[..] else { panic!() };
    assert_eq!((&*first.version_info, &*first.response_nonce), ("2", ""));
}

#[test]
fn rule_7_an_acknowledgement_carries_the_current_names() {
    let mut bench = Bench::with_endpoints(Variant::Sotw, &["a"]);
    bench.client.receive(sotw(Kind::Endpoints, "1", "n1", vec![any(Kind::Endpoints, "a", "")]).into());
    // The change crosses the response; a request of its own would answer that.
    bench.want("b");
    assert_eq!(bench.requests(), []);
    bench.client.poll_update(bench.now).unwrap();
    bench.client.verdict(Kind::Endpoints, &[], bench.now);
    let [ack] = &bench.sotw_requests()[..] else { panic!() };
    assert_eq!((&*ack.response_nonce, &ack.resource_names[..]), ("n1", &["a".to_owned(), "b".to_owned()][..]));
}

#[test]
fn rule_8_a_change_of_names_is_the_whole_list_or_a_message_of_its_own() {
    let mut bench = Bench::with_endpoints(Variant::Sotw, &["a"]);
    bench.answer(sotw(Kind::Endpoints, "1", "n1", vec![any(Kind::Endpoints, "a", "")]));
    bench.requests();
    bench.want("b");
    let [change] = &bench.sotw_requests()[..] else { panic!() };
    assert_eq!((&*change.version_info, &*change.response_nonce), ("1", "n1"));
    assert_eq!(change.resource_names, ["a", "b"]);

    let mut bench = Bench::with_endpoints(Variant::Delta, &["a"]);
    bench.client.receive(delta(Kind::Endpoints, "n1", vec![resource(Kind::Endpoints, "a", "1", "")], &[]).into());
    bench.client.poll_update(bench.now).unwrap();
    bench.client.verdict(Kind::Endpoints, &[], bench.now);
    bench.want("b");
    let [ack, change] = &bench.delta_requests()[..] else { panic!() };
    assert_eq!((&*ack.response_nonce, ack.resource_names_subscribe.len()), ("n1", 0));
    assert_eq!((&*change.response_nonce, &change.resource_names_subscribe[..]), ("", &["b".to_owned()][..]));
}

#[test]
fn rule_9_no_name_stands_for_all_in_a_first_request_and_for_none_later() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let mut bench = Bench::new(variant);
        bench.client.connected();
        bench.want("a");
        bench.give_up("a");
        // A first request without a name would be for everything.
        assert_eq!(bench.requests(), []);
        bench.client.subscribe_all(Kind::Cluster, WAIT, bench.now);
        assert_eq!(bench.requests().len(), 1);
    }
    let mut bench = Bench::with_endpoints(Variant::Sotw, &["a"]);
    bench.give_up("a");
    let [none] = &bench.sotw_requests()[..] else { panic!() };
    assert!(none.resource_names.is_empty());
    bench.reconnect();
    assert_eq!(bench.requests(), []);
}

#[test]
fn rule_10_absence_removes_clusters_and_never_endpoints() {
    let mut bench = Bench::with_clusters(Variant::Sotw);
    bench.answer(sotw(Kind::Cluster, "1", "n1", vec![cluster("a", ""), cluster("b", "")]));
    let update = bench.answer(sotw(Kind::Cluster, "2", "n2", vec![cluster("b", "")]));
    assert_eq!((changed(&update), &update.removed[..]), (vec!["b"], &["a".to_owned()][..]));
    let update = bench.answer(sotw(Kind::Cluster, "3", "n3", vec![]));
    assert_eq!(update.removed, ["b"]);

    let mut bench = Bench::with_endpoints(Variant::Sotw, &["a", "b"]);
    let both = vec![any(Kind::Endpoints, "a", ""), any(Kind::Endpoints, "b", "")];
    assert_eq!(changed(&bench.answer(sotw(Kind::Endpoints, "1", "n1", both))), ["a", "b"]);
    let update = bench.answer(sotw(Kind::Endpoints, "2", "n2", vec![any(Kind::Endpoints, "b", "x")]));
    assert_eq!((changed(&update), update.removed.len()), (vec!["b"], 0));

    let mut bench = Bench::with_clusters(Variant::Delta);
    bench.answer(delta(Kind::Cluster, "n1", vec![resource(Kind::Cluster, "a", "1", "")], &[]));
    let update = bench.answer(delta(Kind::Cluster, "n2", vec![], &["a", "never-seen"]));
    assert_eq!(update.removed, ["a"]);
    // Of what is wanted by name, one that was never seen does not exist.
    let mut bench = Bench::with_endpoints(Variant::Delta, &["a"]);
    assert_eq!(bench.answer(delta(Kind::Endpoints, "n1", vec![], &["a", "b"])).removed, ["a"]);
    assert_eq!(bench.after(60).map(|update| update.removed), None);
}

#[test]
fn rule_11_a_name_that_is_wanted_again_is_asked_for_anew() {
    let mut bench = Bench::with_endpoints(Variant::Delta, &["a", "b"]);
    let both = || vec![resource(Kind::Endpoints, "a", "1", ""), resource(Kind::Endpoints, "b", "1", "")];
    bench.answer(delta(Kind::Endpoints, "n1", both(), &[]));
    bench.requests();
    bench.give_up("a");
    let accepted: Vec<&str> = bench.client.accepted(Kind::Endpoints).map(|(name, _)| &**name).collect();
    assert_eq!(accepted, ["b"], "what nobody wants is not kept");
    bench.want("a");
    let [gone, new] = &bench.delta_requests()[..] else { panic!() };
    assert_eq!((&gone.resource_names_unsubscribe[..], gone.resource_names_subscribe.len()), (&["a".to_owned()][..], 0));
    assert_eq!((&new.resource_names_subscribe[..], new.resource_names_unsubscribe.len()), (&["a".to_owned()][..], 0));
    assert_eq!(changed(&bench.answer(delta(Kind::Endpoints, "n2", both(), &[]))), ["a", "b"]);

    let mut bench = Bench::with_endpoints(Variant::Sotw, &["a", "b"]);
    bench.give_up("a");
    bench.want("a");
    let [gone, new] = &bench.sotw_requests()[..] else { panic!() };
    assert_eq!((&gone.resource_names[..], new.resource_names.len()), (&["b".to_owned()][..], 2));
}
