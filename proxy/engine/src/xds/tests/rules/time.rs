//! Rules 23 to 28: what time brings, and the bounds that keep a server from taking our memory.

use super::*;

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
    let update = bench.after(1).unwrap();
    assert_eq!((&update.removed, &update.timed_out), (&vec!["b".to_owned()], &vec!["b".to_owned()]));
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
    let wrap = |resource: &pb::Resource| Any {
        type_url: "type.googleapis.com/envoy.service.discovery.v3.Resource".to_owned(),
        value: resource.encode_to_vec(),
    };
    let kinds = [Kind::Cluster, Kind::Endpoints];
    for (kind, variant) in kinds.into_iter().flat_map(|kind| [(kind, Variant::Sotw), (kind, Variant::Delta)]) {
        let mut bench = match kind {
            Kind::Cluster => Bench::with_clusters(variant),
            _ => Bench::with_endpoints(variant, &["a", "b"]),
        };
        let live = pb::Resource { ttl, ..resource(kind, "a", "1", "") };
        let heartbeat = pb::Resource { resource: None, ..live.clone() };
        let stale = pb::Resource { version: "0".to_owned(), ..heartbeat.clone() };
        let response = |nonce: &str, resources: &[pb::Resource]| -> Response {
            match variant {
                Variant::Sotw => sotw(kind, "1", nonce, resources.iter().map(wrap).collect()).into(),
                Variant::Delta => delta(kind, nonce, resources.to_vec(), &[]).into(),
            }
        };
        let forever = resource(kind, "b", "1", "");
        assert_eq!(changed(&bench.answer(response("n1", &[live.clone(), forever]))), ["a", "b"]);
        assert!(bench.after(9).is_none());
        let update = bench.answer(response("n2", std::slice::from_ref(&heartbeat)));
        assert!(update.changed.is_empty() && update.removed.is_empty());
        assert!(bench.after(9).is_none());
        assert_eq!(bench.after(1).unwrap().removed, ["a"]);
        bench.requests();
        // To a new stream it is not here any more.
        if variant == Variant::Delta {
            bench.reconnect();
            let versions = bench.delta_requests().remove(0).initial_resource_versions;
            assert_eq!(versions.into_keys().collect::<Vec<_>>(), ["b"]);
            bench.answer(response("n3", std::slice::from_ref(&stale)));
            let error = bench.delta_requests()[0].error_detail.clone().unwrap();
            assert_eq!(error.message, "a: a heartbeat of a version that is not here");
        }
    }
}

#[test]
fn rule_25_streams_that_served_come_back_at_once_and_others_later_and_later() {
    const GROWING: [u64; 10] = [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000, 30_000];
    // The longest wait of each attempt: below a bound that doubles to 30 s.
    let longest = |reconnect: &mut Reconnect, lived, responded| -> Vec<u64> {
        GROWING.map(|bound| reconnect.ended(lived, responded, bound - 1).as_millis() as u64 + 1).into()
    };
    let mut reconnect = Reconnect::new(BackOff::default(), 2);
    assert_eq!(longest(&mut reconnect, Duration::ZERO, false), GROWING);
    assert_eq!(reconnect.ended(Duration::ZERO, false, 30_000), Duration::ZERO, "no wait is longer");
    assert_eq!(reconnect.service(), 1);
    // One that serves and ends is opened again at once, with the preferred server, however often.
    for _ in 0..10 {
        assert_eq!(reconnect.ended(Duration::from_millis(500), true, 499), Duration::ZERO);
        assert_eq!(reconnect.service(), 0);
    }
    // One that ends each time as soon as it has begun is not hammered; that it began does not start anew.
    assert_eq!(longest(&mut reconnect, Duration::from_millis(499), true), GROWING);
    assert_eq!(reconnect.service(), 0);
    assert_eq!(reconnect.ended(Duration::ZERO, false, 29_999), Duration::from_millis(29_999));
    // Who had nothing to say for long served too, as who has no news for who comes back; but not who is only slow to fail,
    // and then another server may be better.
    assert_eq!(reconnect.ended(Duration::from_secs(30), false, 499), Duration::ZERO);
    let before = reconnect.service();
    assert_eq!(reconnect.ended(Duration::from_secs(29), false, 499), Duration::from_millis(499));
    assert_ne!(reconnect.service(), before);
    assert_eq!(reconnect.ended(Duration::from_secs(60), true, 499), Duration::ZERO);
    assert_eq!(reconnect.ended(Duration::ZERO, false, 1_499), Duration::from_millis(499));
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
