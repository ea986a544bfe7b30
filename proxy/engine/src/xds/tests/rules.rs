//! Each rule of the protocol has a test that bears its number in the list of what a correct client does.

use std::time::{Duration, Instant};

use prost_types::Any;

use super::*;
use crate::config::config_source::RateLimit;
use crate::config::grpc_service::BackOff;
use crate::xds::{Reconnect, identify};

const WAIT: Option<Duration> = Some(Duration::from_secs(15));

/// A client with its clock.
struct Bench {
    client: Client,
    now: Instant,
}

impl Bench {
    fn new(variant: Variant) -> Bench {
        Bench { client: Client::new(variant, node(), None), now: Instant::now() }
    }

    /// With a stream, on which all clusters were asked for.
    fn with_clusters(variant: Variant) -> Bench {
        let mut bench = Bench::new(variant);
        bench.client.subscribe_all(Kind::Cluster, WAIT, bench.now);
        bench.client.connected();
        assert_eq!(bench.requests().len(), 1);
        bench
    }

    /// With a stream, on which these endpoints were asked for.
    fn with_endpoints(variant: Variant, names: &[&str]) -> Bench {
        let mut bench = Bench::new(variant);
        bench.client.connected();
        names.iter().for_each(|name| bench.want(name));
        assert_eq!(bench.requests().len(), 1);
        bench
    }

    fn want(&mut self, name: &str) {
        self.client.interest(Kind::Endpoints, name, true, WAIT, self.now);
    }

    fn give_up(&mut self, name: &str) {
        self.client.interest(Kind::Endpoints, name, false, WAIT, self.now);
    }

    fn requests(&mut self) -> Vec<Request> {
        std::iter::from_fn(|| self.client.poll_request(self.now)).collect()
    }

    fn sotw_requests(&mut self) -> Vec<pb::DiscoveryRequest> {
        let sotw = |request| match request {
            Request::Sotw(request) => request,
            Request::Delta(_) => panic!("a delta request"),
        };
        self.requests().into_iter().map(sotw).collect()
    }

    fn delta_requests(&mut self) -> Vec<pb::DeltaDiscoveryRequest> {
        let delta = |request| match request {
            Request::Delta(request) => request,
            Request::Sotw(_) => panic!("a request for the state of the world"),
        };
        self.requests().into_iter().map(delta).collect()
    }

    /// Applies a response, with these verdicts.
    fn answer_with(&mut self, response: impl Into<Response>, rejected: Vec<Rejection>) -> Update {
        self.client.receive(response.into()).expect("a kind that was asked for");
        let (update, mut all) = self.client.poll_update(self.now).expect("an update");
        all.extend(rejected);
        self.client.verdict(&all, self.now);
        update
    }

    fn answer(&mut self, response: impl Into<Response>) -> Update {
        self.answer_with(response, Vec::new())
    }

    fn reconnect(&mut self) {
        self.client.disconnected();
        self.client.connected();
    }

    /// The next update that time brings.
    fn after(&mut self, seconds: u64) -> Option<Update> {
        self.now += Duration::from_secs(seconds);
        let (update, _) = self.client.poll_update(self.now)?;
        self.client.verdict(&[], self.now);
        Some(update)
    }
}

fn cluster(name: &str, content: &str) -> Any {
    any(Kind::Cluster, name, content)
}

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
    assert!(node.client_features.iter().any(|feature| feature == "xds.config.resource-in-sotw"));
    // Overprovisioning is supported, load reports are not.
    assert!(!node.client_features.iter().any(|feature| feature.starts_with("envoy.")));
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
    bench.client.verdict(&[], bench.now);
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
    bench.client.verdict(&[], bench.now);
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
    bench.client.verdict(&[], bench.now);
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
    // The server is told the versions that are in force.
    bench.reconnect();
    let [first] = &bench.delta_requests()[..] else { panic!() };
    let versions: Vec<_> =
        first.initial_resource_versions.iter().map(|(name, version)| (&**name, &**version)).collect();
    assert_eq!(versions, [("a", "1"), ("b", "2")]);
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

#[test]
fn rule_15_errors_of_single_resources_and_names_of_removed_ones() {
    let mut bench = Bench::with_endpoints(Variant::Delta, &["a", "b", "c"]);
    bench.answer(delta(Kind::Endpoints, "n1", vec![resource(Kind::Endpoints, "a", "1", "")], &[]));
    let error = |name: &str| pb::ResourceError {
        resource_name: Some(pb::ResourceName { name: name.to_owned(), ..Default::default() }),
        error_detail: Some(outrigger_proto::google::rpc::Status {
            code: 5,
            message: "no such service".to_owned(),
            details: Vec::new(),
        }),
    };
    let response = pb::DeltaDiscoveryResponse {
        resource_errors: vec![error("a"), error("b"), error("not-wanted")],
        removed_resource_names: vec![pb::ResourceName { name: "c".to_owned(), ..Default::default() }],
        ..delta(Kind::Endpoints, "n2", vec![], &[])
    };
    // What is here goes on serving.
    assert_eq!(bench.answer(response).removed, ["c", "b"]);
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
    bench.want("a");
    bench.requests();
    bench.client.receive(delta(Kind::Endpoints, "n1", vec![], &[]).into());
    bench.client.receive(delta(Kind::Cluster, "n2", vec![], &[]).into());
    assert!(!bench.client.wants_response());
    assert_eq!(bench.client.poll_update(bench.now).unwrap().0.kind, Kind::Endpoints);
    assert!(bench.client.poll_update(bench.now).is_none());
    bench.client.verdict(&[], bench.now);
    assert_eq!(bench.client.poll_update(bench.now).unwrap().0.kind, Kind::Cluster);
    bench.client.verdict(&[], bench.now);
    assert!(bench.client.wants_response());
}

#[test]
fn rule_21_endpoints_are_asked_for_while_clusters_are_applied() {
    let mut bench = Bench::with_clusters(Variant::Delta);
    bench.client.receive(delta(Kind::Cluster, "n1", vec![resource(Kind::Cluster, "a", "1", "")], &[]).into());
    bench.client.poll_update(bench.now).unwrap();
    bench.want("a");
    assert_eq!(bench.delta_requests()[0].resource_names_subscribe, ["a"]);
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

#[test]
fn rule_23_what_does_not_come_in_time_does_not_exist() {
    let mut bench = Bench::new(Variant::Delta);
    // Without a stream the time runs as well: the process waits for its configuration.
    bench.want("a");
    assert_eq!(bench.after(15).unwrap().removed, ["a"]);
    // With one, from the request on.
    bench.want("b");
    bench.now += Duration::from_secs(14);
    bench.client.connected();
    bench.requests();
    assert_eq!(bench.after(14).map(|update| update.removed), None);
    // A server that ends its streams without a word does not stop it.
    for _ in 0..3 {
        bench.client.disconnected();
        bench.client.connected();
        bench.requests();
    }
    assert_eq!(bench.after(1).unwrap().removed, ["b"]);
    // While the stream to a server that has said something is down nobody can say what exists.
    bench.answer(delta(Kind::Endpoints, "n0", Vec::new(), &[]));
    bench.want("d");
    bench.requests();
    bench.client.disconnected();
    assert_eq!(bench.after(60).map(|update| update.removed), None);
    bench.client.connected();
    bench.requests();
    assert_eq!(bench.client.deadline(bench.now), Some(bench.now + Duration::from_secs(15)));
    assert_eq!(bench.after(15).unwrap().removed, ["d"]);
    // It may still come.
    let both = vec![resource(Kind::Endpoints, "a", "1", ""), resource(Kind::Endpoints, "b", "1", "")];
    assert_eq!(changed(&bench.answer(delta(Kind::Endpoints, "n1", both, &[]))), ["a", "b"]);
    // Zero, which is none here, waits for ever.
    bench.client.interest(Kind::Endpoints, "c", true, None, bench.now);
    bench.requests();
    assert_eq!((bench.client.deadline(bench.now), bench.after(100_000).map(|update| update.removed)), (None, None));
}

#[test]
fn rule_24_a_resource_lives_as_long_as_its_heartbeats() {
    let ttl = Some(prost_types::Duration { seconds: 10, nanos: 0 });
    let live = pb::Resource { ttl, ..resource(Kind::Cluster, "a", "1", "") };
    let heartbeat = pb::Resource { resource: None, ..live.clone() };
    let stale = pb::Resource { version: "0".to_owned(), ..heartbeat.clone() };
    let wrap = |resource: &pb::Resource| Any {
        type_url: "type.googleapis.com/envoy.service.discovery.v3.Resource".to_owned(),
        value: resource.encode_to_vec(),
    };
    for variant in [Variant::Sotw, Variant::Delta] {
        let mut bench = Bench::with_clusters(variant);
        let response = |nonce: &str, resources: &[pb::Resource]| -> Response {
            match variant {
                Variant::Sotw => sotw(Kind::Cluster, "1", nonce, resources.iter().map(wrap).collect()).into(),
                Variant::Delta => delta(Kind::Cluster, nonce, resources.to_vec(), &[]).into(),
            }
        };
        let forever = resource(Kind::Cluster, "b", "1", "");
        assert_eq!(changed(&bench.answer(response("n1", &[live.clone(), forever]))), ["a", "b"]);
        assert!(bench.after(9).is_none());
        let update = bench.answer(response("n2", std::slice::from_ref(&heartbeat)));
        assert!(update.changed.is_empty() && update.removed.is_empty());
        assert!(bench.after(9).is_none());
        assert_eq!(bench.after(1).unwrap().removed, ["a"]);
        bench.requests();
        if variant == Variant::Delta {
            bench.answer(response("n3", std::slice::from_ref(&stale)));
            let error = bench.delta_requests()[0].error_detail.clone().unwrap();
            assert_eq!(error.message, "a: a heartbeat of a version that is not here");
        }
    }
}

#[test]
fn rule_25_streams_that_served_come_back_at_once_and_others_later_and_later() {
    let mut reconnect = Reconnect::new(BackOff::default(), 2);
    let longest = u64::MAX - 1;
    let waits: Vec<u64> = (0..9).map(|_| reconnect.ended(None, longest).as_millis() as u64).collect();
    // Each is random below a bound, which doubles to 30 s.
    for (wait, bound) in waits.iter().zip([500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]) {
        assert!(*wait < bound, "{waits:?}");
    }
    assert!(waits.iter().any(|wait| *wait > 8000), "{waits:?}");
    assert_eq!(reconnect.service(), 1);
    assert_eq!(reconnect.ended(Some(Duration::from_secs(60)), longest), Duration::ZERO);
    // One that serves for a moment only is not hammered.
    assert_eq!(reconnect.service(), 0);
    assert!(reconnect.ended(Some(Duration::ZERO), 499) > Duration::from_millis(400));
}

#[test]
fn rule_26_requests_are_limited_where_that_is_asked_for() {
    let limit = RateLimit { max_tokens: 2, fill_interval: Duration::from_millis(100) };
    let now = Instant::now();
    let mut client = Client::new(Variant::Delta, node(), Some(limit));
    client.connected();
    let sent = |client: &mut Client, now| {
        client.interest(Kind::Endpoints, &format!("{now:?}"), true, None, now);
        client.poll_request(now).is_some()
    };
    assert!(sent(&mut client, now));
    assert!(sent(&mut client, now + Duration::from_millis(1)));
    assert!(!sent(&mut client, now + Duration::from_millis(2)));
    assert_eq!(client.deadline(now), Some(now + Duration::from_millis(100)));
    let later = now + Duration::from_millis(100);
    assert!(sent(&mut client, later));
    assert!(!sent(&mut client, later + Duration::from_millis(1)));
    client.disconnected();
    assert_eq!(client.deadline(now + Duration::from_secs(1)), None, "while nothing can be sent, time brings nothing");
}

#[test]
fn rule_27_what_nobody_asked_for_takes_no_memory_and_gets_no_answer() {
    let mut bench = Bench::with_endpoints(Variant::Delta, &["a"]);
    assert_eq!(bench.client.receive(delta(Kind::Routes, "n1", vec![], &[]).into()), None);
    let unknown = pb::DeltaDiscoveryResponse { type_url: "type.googleapis.com/x.Y".into(), ..Default::default() };
    assert_eq!(bench.client.receive(unknown.into()), None);
    assert_eq!(bench.requests(), []);
    // Of a kind that was asked for, the rest is no fault.
    let both = vec![resource(Kind::Endpoints, "a", "1", ""), resource(Kind::Endpoints, "b", "1", "")];
    assert_eq!(changed(&bench.answer(delta(Kind::Endpoints, "n2", both, &[]))), ["a"]);
    assert_eq!(bench.delta_requests()[0].error_detail, None);
    assert_eq!(bench.client.accepted(Kind::Endpoints).count(), 1);
    // One that is called otherwise here comes by its alias.
    let aliased = pb::Resource { aliases: vec!["a".into()], ..resource(Kind::Endpoints, "other", "2", "x") };
    assert_eq!(changed(&bench.answer(delta(Kind::Endpoints, "n3", vec![aliased], &[]))), ["a"]);
}

#[test]
fn rule_28_the_state_of_each_resource_is_known() {
    let mut bench = Bench::with_clusters(Variant::Sotw);
    bench.answer(sotw(Kind::Cluster, "1", "n1", vec![cluster("a", ""), cluster("b", "")]));
    let response = Response::from(pb::DiscoveryResponse {
        control_plane: Some(outrigger_proto::envoy::config::core::v3::ControlPlane { identifier: "cp-1".to_owned() }),
        ..sotw(Kind::Cluster, "2", "n2", vec![cluster("a", "x"), cluster("b", "")])
    });
    assert_eq!((&*response.control_plane, response.len()), ("cp-1", 2));
    bench.answer_with(response, vec![rejection("a", "x: bad")]);
    let mut accepted: Vec<_> = bench.client.accepted(Kind::Cluster).map(|(name, version)| (&**name, version)).collect();
    accepted.sort_unstable();
    assert_eq!(accepted, [("a", "1"), ("b", "2")]);
    assert_eq!(bench.client.version(Kind::Cluster), "1");
}
