//! Rules 12 to 22: what it makes of an answer, and what it says to it.

use std::collections::BTreeMap;

use super::*;

#[test]
fn rule_12_a_name_twice_in_one_response_is_refused() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let mut bench = Bench::with_clusters(variant);
        let response: Response = match variant {
            Variant::Sotw => {
                sotw(Kind::Cluster, "1", "n1", vec![cluster("a", "1"), cluster("b", ""), cluster("a", "2")]).into()
            }
            Variant::Delta => {
                let resource = |name, content| resource(Kind::Cluster, name, "1", content);
                delta(Kind::Cluster, "n1", vec![resource("a", "1"), resource("b", ""), resource("a", "2")], &[]).into()
            }
        };
        assert_eq!(changed(&bench.answer(response)), ["b"]);
        let error = match bench.requests().pop() {
            Some(Request::Sotw(request)) => request.error_detail,
            Some(Request::Delta(request)) => request.error_detail,
            None => None,
        };
        assert_eq!(error.unwrap().message, "a: is there more than once in one response");
    }
}

#[test]
fn rule_13_the_valid_apply_and_every_invalid_one_is_named() {
    let mut bench = Bench::with_clusters(Variant::Delta);
    let resource = |name, version, content| resource(Kind::Cluster, name, version, content);
    bench.answer(delta(Kind::Cluster, "n1", vec![resource("a", "1", ""), resource("b", "1", "")], &[]));
    bench.requests();
    let nameless = resource("", "2", "");
    let other_type = pb::Resource { resource: Some(any(Kind::Listener, "d", "")), ..resource("d", "2", "") };
    let two_names = pb::Resource { name: "e".into(), ..resource("f", "2", "") };
    let all = vec![resource("a", "2", "x"), resource("b", "2", "x"), nameless, other_type, two_names];
    let rejected = vec![rejection("a", "x: bad")];
    assert_eq!(changed(&bench.answer_with(delta(Kind::Cluster, "n2", all, &[]), rejected)), ["a", "b"]);
    let [nack] = &bench.delta_requests()[..] else { panic!() };
    let error = nack.error_detail.as_ref().unwrap();
    for part in [
        "(no name): a resource must have a name",
        "d: is a ",
        "e: is named \"e\" outside and \"f\" inside",
        "a: x: bad",
    ] {
        assert!(error.message.contains(part), "{part} in {}", error.message);
    }
    // The server is told the versions that are in force, and no version of what it sent last and was refused: whatever
    // it has of that now, it speaks of it.
    bench.reconnect();
    let [first] = &bench.delta_requests()[..] else { panic!() };
    let versions: BTreeMap<_, _> =
        first.initial_resource_versions.iter().map(|(name, version)| (&**name, &**version)).collect();
    assert_eq!(versions, [("a", ""), ("b", "2"), ("d", ""), ("e", "")].into());
    // Of what was never good it is said when it is gone, as it is shown until then.
    let update = bench.answer(delta(Kind::Cluster, "n1", vec![resource("a", "3", "")], &["d", "e", "f"]));
    assert_eq!((changed(&update), &update.removed[..]), (vec!["a"], &["", "d", "e"].map(str::to_owned)[..]));

    // A state of the world in which something has no name may mean one that is known.
    let mut bench = Bench::with_clusters(Variant::Sotw);
    bench.answer(sotw(Kind::Cluster, "1", "n1", vec![cluster("a", "")]));
    let garbage = Any { type_url: Kind::Cluster.type_url().to_owned(), value: vec![0xff] };
    let update = bench.answer(sotw(Kind::Cluster, "2", "n2", vec![garbage, cluster("b", "")]));
    assert_eq!((changed(&update), update.removed.len()), (vec!["b"], 0));
}

#[test]
fn rule_14_an_error_says_name_path_and_reason_within_bounds() {
    let mut bench = Bench::with_clusters(Variant::Sotw);
    let names: Vec<String> = (0..1000).map(|n| format!("cluster-{n}")).collect();
    let resources = names.iter().map(|name| cluster(name, "")).collect();
    let rejected = names.iter().map(|name| rejection(name, "connect_timeout: 0s: must be greater than 0s")).collect();
    bench.answer_with(sotw(Kind::Cluster, "1", "n1", resources), rejected);
    let message = bench.sotw_requests().pop().unwrap().error_detail.unwrap().message;
    assert!(message.starts_with("cluster-0: connect_timeout: 0s: must be greater than 0s; cluster-1: "), "{message}");
    let shown = message.matches("connect_timeout").count();
    assert!(message.ends_with(&format!("; and {} more", 1000 - shown)), "{message}");
    assert!((3500..=4096).contains(&message.len()), "{}", message.len());

    let long = vec![rejection("a", &"é".repeat(5000)), rejection("b", "x")];
    bench.answer_with(sotw(Kind::Cluster, "2", "n2", vec![cluster("a", ""), cluster("b", "")]), long);
    let message = bench.sotw_requests().pop().unwrap().error_detail.unwrap().message;
    assert!(message.len() <= 4096 && message.ends_with("é; and 1 more"), "{}", message.len());
}

fn error(name: &str) -> pb::ResourceError {
    error_because(name, "no such service")
}

fn error_because(name: &str, reason: &str) -> pb::ResourceError {
    pb::ResourceError {
        resource_name: Some(pb::ResourceName { name: name.to_owned(), ..Default::default() }),
        error_detail: Some(outrigger_proto::google::rpc::Status {
            code: 5,
            message: reason.to_owned(),
            details: Vec::new(),
        }),
    }
}

#[test]
fn rule_15_errors_of_single_resources_and_names_of_removed_ones() {
    let mut bench = Bench::with_endpoints(Variant::Delta, &["a", "b", "c"]);
    bench.answer(delta(Kind::Endpoints, "n1", vec![resource(Kind::Endpoints, "a", "1", "")], &[]));
    let response = pb::DeltaDiscoveryResponse {
        resource_errors: vec![error("a"), error("b"), error("not-wanted")],
        removed_resource_names: vec![pb::ResourceName { name: "c".to_owned(), ..Default::default() }],
        ..delta(Kind::Endpoints, "n2", vec![], &[])
    };
    // What is here goes on serving.
    let update = bench.answer(response);
    assert_eq!(update.removed, ["c", "b"]);
    // Whoever shows the state of each resource gets the reasons, and whoever sends is to speak of them again.
    assert_eq!(update.errors, ["a", "b"].map(|name| (name.to_owned(), "no such service".to_owned())));
    bench.requests();
    bench.reconnect();
    let versions = bench.delta_requests().remove(0).initial_resource_versions;
    assert_eq!(versions, [("a".to_owned(), String::new()), ("b".to_owned(), String::new())].into());
}

#[test]
fn rule_15_errors_of_what_all_of_a_kind_holds() {
    let errors = |update: &Update| update.errors.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    // Of one that is here, and one that nobody knew.
    let mut bench = Bench::with_clusters(Variant::Delta);
    bench.answer(delta(Kind::Cluster, "n1", vec![resource(Kind::Cluster, "a", "1", "")], &[]));
    let resource_errors = vec![error("a"), error("b")];
    let update =
        bench.answer(pb::DeltaDiscoveryResponse { resource_errors, ..delta(Kind::Cluster, "n2", vec![], &[]) });
    assert_eq!((errors(&update), update.removed), (vec!["a".to_owned(), "b".to_owned()], vec![]));
    bench.requests();
    bench.reconnect();
    let versions = bench.delta_requests().remove(0).initial_resource_versions;
    assert_eq!(versions, [("a".to_owned(), String::new()), ("b".to_owned(), String::new())].into());
    // Whoever shows them is told when there is none any more, or one is there.
    let update = bench.answer(delta(Kind::Cluster, "n3", vec![resource(Kind::Cluster, "a", "2", "")], &["b"]));
    assert_eq!((update.removed, update.changed.len()), (vec!["b".to_owned()], 1));

    // A state of the world that has errors of some is not without them: what is here goes on serving.
    let mut bench = Bench::with_clusters(Variant::Sotw);
    bench.answer(sotw(Kind::Cluster, "1", "n1", vec![cluster("a", ""), cluster("b", "")]));
    let resource_errors = vec![error("a"), error("c")];
    let update = bench.answer(pb::DiscoveryResponse { resource_errors, ..sotw(Kind::Cluster, "2", "n2", vec![]) });
    assert_eq!((errors(&update), update.removed), (vec!["a".to_owned(), "c".to_owned()], vec!["b".to_owned()]));
    let update = bench.answer(sotw(Kind::Cluster, "3", "n3", vec![]));
    assert_eq!((errors(&update), update.removed), (vec![], vec!["a".to_owned(), "c".to_owned()]));
}

#[test]
fn rule_15_the_reason_of_an_error_is_cut() {
    for variant in [Variant::Delta, Variant::Sotw] {
        let mut bench = Bench::with_endpoints(variant, &["a", "b"]);
        let (long, longest) = (format!("x{}", "é".repeat(5000)), "y".repeat(4096));
        let resource_errors = vec![error_because("a", &long), error_because("b", &longest)];
        let update = match variant {
            Variant::Delta => bench
                .answer(pb::DeltaDiscoveryResponse { resource_errors, ..delta(Kind::Endpoints, "n1", vec![], &[]) }),
            Variant::Sotw => {
                bench.answer(pb::DiscoveryResponse { resource_errors, ..sotw(Kind::Endpoints, "1", "n1", vec![]) })
            }
        };
        let [(_, cut), (_, whole)] = &update.errors[..] else { panic!("{:?}", update.errors) };
        assert_eq!((cut.as_str(), whole), (&*format!("x{}", "é".repeat(2047)), &longest));
    }
}

#[test]
fn rule_16_delta_answers_have_the_nonce_and_a_new_stream_says_what_is_here() {
    let mut bench = Bench::with_endpoints(Variant::Delta, &["a", "b"]);
    bench.answer(delta(Kind::Endpoints, "n1", vec![resource(Kind::Endpoints, "a", "7", "")], &[]));
    let [ack] = &bench.delta_requests()[..] else { panic!() };
    let expected = pb::DeltaDiscoveryRequest {
        type_url: Kind::Endpoints.type_url().to_owned(),
        response_nonce: "n1".to_owned(),
        ..Default::default()
    };
    assert_eq!(ack, &expected);
    bench.want("c");
    assert_eq!(bench.delta_requests()[0].response_nonce, "");
    bench.reconnect();
    let [first] = &bench.delta_requests()[..] else { panic!() };
    assert_eq!(first.resource_names_subscribe, ["a", "b", "c"]);
    assert_eq!(first.initial_resource_versions.iter().collect::<Vec<_>>(), [(&"a".to_owned(), &"7".to_owned())]);
    bench.want("d");
    assert!(bench.delta_requests()[0].initial_resource_versions.is_empty());
}

#[test]
fn rule_17_who_asks_for_all_names_none() {
    // So nothing is ever unsubscribed beside a wildcard; that a name asked for anew yields its resource is rule 11.
    let mut bench = Bench::with_clusters(Variant::Delta);
    bench.answer(delta(Kind::Cluster, "n1", vec![resource(Kind::Cluster, "a", "1", "")], &[]));
    bench.answer(delta(Kind::Cluster, "n2", vec![], &["a"]));
    for request in bench.delta_requests() {
        assert!(request.resource_names_subscribe.is_empty() && request.resource_names_unsubscribe.is_empty());
    }
}

#[test]
fn rule_18_what_is_unchanged_may_come_again() {
    let mut bench = Bench::with_clusters(Variant::Delta);
    let resource = |version| vec![resource(Kind::Cluster, "a", version, "same")];
    assert_eq!(changed(&bench.answer(delta(Kind::Cluster, "n1", resource("1"), &[]))), ["a"]);
    // Whoever applies it compares the bytes; the version is the new one.
    assert_eq!(changed(&bench.answer(delta(Kind::Cluster, "n2", resource("2"), &[]))), ["a"]);
    assert_eq!(bench.client.accepted(Kind::Cluster).next().map(|(_, version)| version), Some("2"));
    assert!(bench.delta_requests().iter().all(|request| request.error_detail.is_none()));
}

#[test]
fn rule_20_updates_come_one_after_the_other_in_the_order_of_the_server() {
    let mut bench = Bench::with_clusters(Variant::Delta);
    bench.client.subscribe_all(Kind::Listener, WAIT, bench.now);
    bench.answer(delta(Kind::Cluster, "n1", vec![], &[]));
    bench.want("a");
    bench.requests();
    for (kind, nonce) in [(Kind::Endpoints, "n2"), (Kind::Cluster, "n3"), (Kind::Listener, "n4")] {
        bench.client.receive(delta(kind, nonce, vec![], &[]).into());
    }
    for kind in [Kind::Endpoints, Kind::Cluster, Kind::Listener] {
        assert_eq!(bench.client.poll_update(bench.now).unwrap().0.kind, kind);
        assert!(bench.client.poll_update(bench.now).is_none());
        bench.client.verdict(kind, &[], bench.now);
    }
    assert!(bench.client.wants_response());
}

#[test]
fn rule_21_endpoints_are_asked_for_read_and_acknowledged_while_clusters_are_applied() {
    for variant in [Variant::Delta, Variant::Sotw] {
        let mut bench = Bench::with_clusters(variant);
        let respond = |kind, nonce: &str| -> Response {
            match variant {
                Variant::Delta => delta(kind, nonce, vec![resource(kind, "a", nonce, nonce)], &[]).into(),
                Variant::Sotw => sotw(kind, nonce, nonce, vec![any(kind, "a", nonce)]).into(),
            }
        };
        bench.client.subscribe_all(Kind::Listener, WAIT, bench.now);
        bench.answer(respond(Kind::Cluster, "n1"));
        bench.requests();
        bench.client.receive(respond(Kind::Cluster, "n2"));
        assert_eq!(bench.client.poll_update(bench.now).unwrap().0.kind, Kind::Cluster);
        bench.want("a");
        assert_eq!(answers(&bench.requests()), [(Kind::Endpoints, "")]);

        // Others behind the clusters have to wait, and do not hold the endpoints up.
        for (kind, nonce) in [(Kind::Listener, "n3"), (Kind::Endpoints, "n4")] {
            assert!(bench.client.wants_response());
            bench.client.receive(respond(kind, nonce));
        }
        let (update, _) = bench.client.poll_update(bench.now).unwrap();
        assert_eq!((update.kind, changed(&update)), (Kind::Endpoints, vec!["a"]));
        bench.client.receive(respond(Kind::Endpoints, "n5"));
        assert!(bench.client.poll_update(bench.now).is_none(), "endpoints come one after the other");
        assert!(!bench.client.wants_response(), "memory is bounded");
        bench.client.verdict(Kind::Endpoints, &[], bench.now);
        assert_eq!(answers(&bench.requests()), [(Kind::Endpoints, "n4")]);
        assert_eq!(bench.client.poll_update(bench.now).unwrap().0.kind, Kind::Endpoints);
        bench.client.verdict(Kind::Endpoints, &[], bench.now);
        assert_eq!(answers(&bench.requests()), [(Kind::Endpoints, "n5")]);

        // Those that are bad are refused by themselves, and what waits comes when the clusters are applied.
        assert!(bench.client.poll_update(bench.now).is_none());
        bench.client.verdict(Kind::Cluster, &[rejection("a", "bad")], bench.now);
        assert_eq!(answers(&bench.requests()), [(Kind::Cluster, "n2")]);
        assert_eq!(bench.client.poll_update(bench.now).unwrap().0.kind, Kind::Listener);
    }
}

/// What is answered, or asked for without a nonce.
fn answers(requests: &[Request]) -> Vec<(Kind, &str)> {
    let mut all = Vec::new();
    for request in requests {
        let (url, nonce) = match request {
            Request::Sotw(request) => (&request.type_url, &request.response_nonce),
            Request::Delta(request) => (&request.type_url, &request.response_nonce),
        };
        all.push((Kind::from_type_url(url).unwrap(), nonce.as_str()));
    }
    all
}

#[test]
fn rule_22_listeners_come_after_the_first_clusters_or_the_wait_for_them() {
    let mut bench = Bench::new(Variant::Sotw);
    bench.client.subscribe_all(Kind::Cluster, WAIT, bench.now);
    bench.client.subscribe_all(Kind::Listener, WAIT, bench.now);
    bench.client.connected();
    assert_eq!(bench.requests().len(), 1);
    let update = bench.after(15).unwrap();
    assert_eq!((update.kind, update.changed.len(), update.removed.len()), (Kind::Cluster, 0, 0));
    assert_eq!(bench.sotw_requests()[0].type_url, Kind::Listener.type_url());
    // An empty answer is one.
    assert!(bench.after(14).is_none());
    bench.answer(sotw(Kind::Listener, "1", "n1", vec![]));
    assert!(bench.after(60).is_none());
}
