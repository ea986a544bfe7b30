//! Rules of a correct client that show on the wire, or in what users see. The tests bear the rules' numbers, as those
//! of the engine's state machine do for the others.

use std::io::{Read, Write};
use std::net::TcpStream;

use outrigger_engine::xds::Kind;
use outrigger_proto::envoy::admin::v3::ClientResourceStatus;
use outrigger_proto::envoy::service::discovery::v3 as pb;
use outrigger_proto::envoy::service::status::v3::client_config::GenericXdsConfig;
use outrigger_proto::google::rpc::Status;
use outrigger_tests::{admin, named};
use serde_json::json;

use crate::server::{Request, Server, Stream, resource};
use crate::{Mode, PATIENCE, Proxy, cluster, csds, endpoints, routes};

const BOTH: [Mode; 2] = [Mode { delta: true, aggregated: true }, Mode { delta: false, aggregated: true }];

/// A proxy that serves `a` by its route table, and the stream by which all that came.
fn serving(mode: Mode, upstream: std::net::SocketAddr) -> (Proxy, Server, Stream) {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&directory.path().join("control"));
    let mut proxy = Proxy::start(mode, directory);
    let mut stream = server.stream();
    stream.accepted(Kind::Cluster, "1", &[cluster("a", mode)], &[]);
    stream.subscription(Kind::Endpoints);
    stream.accepted(Kind::Endpoints, "1", &[endpoints("a", upstream)], &[]);
    stream.subscription(Kind::Listener);
    stream.accepted(Kind::Listener, "1", &[proxy.listener(mode)], &[]);
    stream.subscription(Kind::Routes);
    stream.accepted(Kind::Routes, "1", &[routes("a")], &[]);
    let admin = proxy.admin();
    proxy.process.ready(&admin, PATIENCE).unwrap();
    proxy.answers("first");
    (proxy, server, stream)
}

/// What CSDS says of a resource.
fn shown(proxy: &Proxy, kind: Kind, name: &str) -> Option<GenericXdsConfig> {
    let configs = csds::fetch(&proxy.admin()).config.remove(0).generic_xds_configs;
    configs.into_iter().find(|config| config.type_url == kind.type_url() && config.name == name)
}

fn status(proxy: &Proxy, kind: Kind, name: &str) -> Option<ClientResourceStatus> {
    ClientResourceStatus::try_from(shown(proxy, kind, name)?.client_status).ok()
}

/// A request on a connection that stays open, whose answer is 200.
fn ask(connection: &mut TcpStream) -> String {
    connection.write_all(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        connection.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let head = String::from_utf8(answer).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    let mut body = vec![0; length];
    connection.read_exact(&mut body).unwrap();
    String::from_utf8(body).unwrap()
}

#[test]
fn rule_11_what_goes_takes_its_subscriptions_along_and_asks_anew_when_it_comes_back() {
    let first = named::upstream("first");
    for mode in BOTH {
        let (proxy, _server, mut stream) = serving(mode, first);
        let is = |request: &Request, kind: Kind, names: &[&str], gone: &[&str]| {
            let equal = |list: &[String], names: &[&str]| list.iter().map(String::as_str).eq(names.iter().copied());
            let all_or_gone =
                if mode.delta { equal(&request.unsubscribed, gone) } else { equal(&request.names, names) };
            request.kind == Some(kind) && all_or_gone
        };
        let (a, both) = ([cluster("a", mode)], [cluster("a", mode), cluster("b", mode)]);
        for version in ["2", "3"] {
            stream.accepted(Kind::Cluster, version, &both, &[]);
            stream.request("b", |request| request.names.contains(&"b".to_owned()));
            // The same endpoints as before.
            stream.accepted(Kind::Endpoints, version, &[endpoints("b", first)], &[]);
            proxy.until("b is warm", || proxy.stat("cluster_manager.warming_clusters") == Some(0));
            let (resources, removed): (&[_], &[&str]) = if mode.delta { (&[], &["b"]) } else { (&a, &[]) };
            stream.accepted(Kind::Cluster, &format!("{version}-less"), resources, removed);
            stream.request("the end of b", |request| is(request, Kind::Endpoints, &["a"], &["b"]));
        }
        for version in ["2", "3"] {
            let removed: &[&str] = if mode.delta { &["in"] } else { &[] };
            stream.accepted(Kind::Listener, &format!("{version}-less"), &[], removed);
            stream.request("the end of the table", |request| is(request, Kind::Routes, &[], &["shop"]));
            stream.accepted(Kind::Listener, version, &[proxy.listener(mode)], &[]);
            stream.request("the table", |request| request.names == ["shop"]);
            stream.accepted(Kind::Routes, version, &[routes("a")], &[]);
            proxy.answers("first");
        }
    }
}

#[test]
fn rule_18_what_comes_again_unchanged_changes_nothing() {
    let first = named::upstream("first");
    for mode in BOTH {
        let (proxy, _server, mut stream) = serving(mode, first);
        let mut connection = TcpStream::connect(("127.0.0.1", proxy.port.port())).unwrap();
        assert_eq!(ask(&mut connection), "first");
        let counters = || {
            [
                "cluster_manager.cluster_added",
                "cluster_manager.cluster_modified",
                "listener_manager.listener_added",
                "listener_manager.listener_modified",
                "listener_manager.listener_in_place_updated",
                "http.in.rds.shop.config_reload",
                "cluster.a.membership_change",
                "cluster.a.upstream_cx_total",
            ]
            .map(|name| proxy.stat(name).unwrap_or_else(|| panic!("there is no {name}")))
        };
        let before = counters();
        for version in ["2", "3"] {
            stream.accepted(Kind::Cluster, version, &[cluster("a", mode)], &[]);
            stream.accepted(Kind::Endpoints, version, &[endpoints("a", first)], &[]);
            stream.accepted(Kind::Listener, version, &[proxy.listener(mode)], &[]);
            stream.accepted(Kind::Routes, version, &[routes("a")], &[]);
        }
        assert_eq!(ask(&mut connection), "first", "on the same connections, down and up");
        assert_eq!(counters(), before);
        for (kind, name) in
            [(Kind::Cluster, "a"), (Kind::Endpoints, "a"), (Kind::Listener, "in"), (Kind::Routes, "shop")]
        {
            assert_eq!(shown(&proxy, kind, name).unwrap().version_info, "3", "{kind:?}: what the server calls it now");
        }
    }
}

#[test]
fn rule_20_what_serves_goes_on_until_its_successor_is_warm() {
    let (first, second) = (named::upstream("first"), named::upstream("second"));
    for mode in BOTH {
        let (proxy, _server, mut stream) = serving(mode, first);
        // A new cluster warms until its endpoints come.
        let all = [cluster("a", mode), cluster("b", mode)];
        stream.accepted(Kind::Cluster, "2", &all, &[]);
        stream.request("b", |request| request.names.contains(&"b".to_owned()));
        proxy.until("b warms", || proxy.stat("cluster_manager.warming_clusters") == Some(1));
        proxy.answers("first");
        stream.accepted(Kind::Endpoints, "2", &[endpoints("b", second)], &[]);
        proxy.until("b is warm", || proxy.stat("cluster_manager.warming_clusters") == Some(0));
        stream.accepted(Kind::Routes, "2", &[routes("b")], &[]);
        proxy.answers("second");
        // A changed one has its endpoints: whether they come again or not, it is in force.
        let mut changed = cluster("b", mode);
        changed["connect_timeout"] = json!("2s");
        stream.accepted(Kind::Cluster, "3", &[cluster("a", mode), changed], &[]);
        proxy.until("the change is in force", || {
            proxy.stat("cluster_manager.cluster_modified") == Some(1)
                && proxy.stat("cluster_manager.warming_clusters") == Some(0)
        });
        assert_eq!(status(&proxy, Kind::Cluster, "b"), Some(ClientResourceStatus::Acked));
        proxy.answers("second");
        stream.accepted(Kind::Endpoints, "3", &[endpoints("b", second)], &[]);
        proxy.answers("second");
        // A listener waits for a table that is new to it, and the old one serves; one that is known it takes at once.
        let mut other = proxy.listener(mode);
        let manager = "/filter_chains/0/filters/0/typed_config";
        other.pointer_mut(manager).unwrap()["rds"]["route_config_name"] = json!("other");
        stream.accepted(Kind::Listener, "2", &[other], &[]);
        stream.request("other", |request| request.names.contains(&"other".to_owned()));
        proxy.until("it warms", || proxy.stat("listener_manager.total_listeners_warming") == Some(1));
        proxy.answers("second");
        let mut known = proxy.listener(mode);
        known.pointer_mut(manager).unwrap()["stat_prefix"] = json!("known");
        stream.accepted(Kind::Listener, "3", &[known], &[]);
        proxy.until("it is in force", || proxy.stat("listener_manager.total_listeners_warming") == Some(0));
        proxy.until("the new one serves", || {
            proxy.answers("second");
            proxy.stat("http.known.downstream_rq_total").is_some_and(|count| count > 0)
        });
    }
}

#[test]
fn rule_22_ready_is_who_has_clusters_and_listeners_or_knows_that_there_are_none() {
    for mode in BOTH {
        let directory = tempfile::tempdir().unwrap();
        let server = Server::start(&directory.path().join("control"));
        let mut proxy = Proxy::start(mode, directory);
        let admin = proxy.admin();
        let is_ready = || admin::request(&admin, "GET", "/ready").map(|(status, _)| status == 200);
        let mut stream = server.stream();
        assert_eq!(stream.request("the first", |_| true).kind, Some(Kind::Cluster));
        proxy.until("it answers", || is_ready().is_some());
        assert_eq!(is_ready(), Some(false), "without clusters");
        stream.accepted(Kind::Cluster, "1", &[], &[]);
        stream.subscription(Kind::Listener);
        assert_eq!(is_ready(), Some(false), "without listeners");
        assert_eq!(proxy.stat("listener_manager.workers_started"), Some(0));
        stream.accepted(Kind::Listener, "1", &[], &[]);
        proxy.process.ready(&admin, PATIENCE).unwrap();
        assert_eq!(proxy.stat("listener_manager.workers_started"), Some(1));
    }
}

#[test]
fn rule_24_what_outlives_its_ttl_is_dropped_and_endpoints_serve_on() {
    let first = named::upstream("first");
    let [mode, _] = BOTH;
    let (proxy, _server, mut stream) = serving(mode, first);
    let ttl = Some(outrigger_proto::prost_types::Duration { seconds: 0, nanos: 100_000_000 });
    let brief = |kind, json| pb::Resource { ttl, ..resource(kind, "2", &json) };
    let bare = json!({"name": "brief", "type": "STATIC", "connect_timeout": "1s"});
    assert_eq!(stream.push_raw(Kind::Cluster, vec![brief(Kind::Cluster, bare)], &[]).error, None);
    proxy.until("the cluster is gone", || shown(&proxy, Kind::Cluster, "brief").is_none());
    assert_eq!(stream.push_raw(Kind::Endpoints, vec![brief(Kind::Endpoints, endpoints("a", first))], &[]).error, None);
    assert_eq!(stream.push_raw(Kind::Routes, vec![brief(Kind::Routes, routes("a"))], &[]).error, None);
    for (kind, name) in [(Kind::Endpoints, "a"), (Kind::Routes, "shop")] {
        proxy.until("its time is over", || status(&proxy, kind, name) == Some(ClientResourceStatus::DoesNotExist));
    }
    // As where the server removes them, and as in Envoy.
    proxy.answers("first");
    stream.accepted(Kind::Endpoints, "3", &[endpoints("a", first)], &[]);
    assert_eq!(status(&proxy, Kind::Endpoints, "a"), Some(ClientResourceStatus::Acked));
}

/// gRPC's usual limit is 4 MiB, and the configuration of a large mesh is more.
#[test]
fn rule_27_responses_above_4_mib_are_taken() {
    let first = named::upstream("first");
    for mode in BOTH {
        let (proxy, _server, mut stream) = serving(mode, first);
        let note = json!({"filter_metadata": {"note": {"text": "x".repeat(64 << 10)}}});
        let mut all = vec![cluster("a", mode)];
        all.extend((0..100).map(|n| json!({"name": format!("static-{n}"), "type": "STATIC", "metadata": note})));
        stream.accepted(Kind::Cluster, "2", &all, &[]);
        proxy.until("all are there", || proxy.stat("cluster_manager.active_clusters") == Some(102));
        assert_eq!(proxy.stat("control_plane.connected_state"), Some(1));
        proxy.answers("first");
    }
}

#[test]
fn rule_28_the_state_of_each_resource_is_told() {
    use ClientResourceStatus::{Acked, DoesNotExist, Nacked, ReceivedError, Requested, Timeout};

    let first = named::upstream("first");
    let [mode, _] = BOTH;
    let (proxy, _server, mut stream) = serving(mode, first);
    let mut late = cluster("late", mode);
    late["eds_cluster_config"]["eds_config"]["initial_fetch_timeout"] = json!("0.1s");
    let all = [cluster("absent", mode), cluster("error", mode), cluster("never", mode), late];
    stream.accepted(Kind::Cluster, "2", &all, &[]);
    stream.request("their endpoints", |request| request.names.contains(&"never".to_owned()));
    proxy.until("the wait is over", || status(&proxy, Kind::Endpoints, "late") == Some(Timeout));
    let of = |name: &str| status(&proxy, Kind::Endpoints, name);
    for name in ["absent", "error", "never"] {
        assert_eq!(of(name), Some(Requested), "{name}");
    }
    // The server says that it has none, or why it cannot send it.
    let error = pb::ResourceError {
        resource_name: Some(pb::ResourceName { name: "error".to_owned(), ..Default::default() }),
        error_detail: Some(Status { code: 7, message: "not for you".to_owned(), details: Vec::new() }),
    };
    let errors = pb::DeltaDiscoveryResponse {
        removed_resources: vec!["absent".to_owned()],
        resource_errors: vec![error],
        ..Default::default()
    };
    assert_eq!(stream.push_message(Kind::Endpoints, errors).error, None);
    assert_eq!([of("absent"), of("error"), of("never")], [Some(DoesNotExist), Some(ReceivedError), Some(Requested)]);
    let error = shown(&proxy, Kind::Endpoints, "error").unwrap().error_state.unwrap();
    assert_eq!(error.details, "error: not for you");
    // All of them may still come.
    let names = ["absent", "error", "late", "never"];
    stream.accepted(Kind::Endpoints, "3", &names.map(|name| endpoints(name, first)), &[]);
    for name in names {
        let shown = shown(&proxy, Kind::Endpoints, name).unwrap();
        assert_eq!((shown.client_status, &*shown.version_info), (Acked as i32, "3"), "{name}");
        assert!(shown.error_state.is_none() && shown.xds_config.is_some(), "{name}");
    }
    // What is refused is told with the reason, beside what is in force.
    let mut bad = endpoints("a", first);
    bad["endpoints"][0]["lb_endpoints"][0]["load_balancing_weight"] = json!(0);
    let sent = resource(Kind::Endpoints, "4", &bad);
    assert!(stream.push_raw(Kind::Endpoints, vec![sent.clone()], &[]).error.is_some());
    let refused = shown(&proxy, Kind::Endpoints, "a").unwrap();
    assert_eq!((refused.client_status, &*refused.version_info), (Nacked as i32, "1"));
    let good = resource(Kind::Endpoints, "1", &endpoints("a", first));
    assert_eq!(refused.xds_config, good.resource);
    let error = refused.error_state.unwrap();
    assert_eq!((error.failed_configuration, &*error.version_info), (sent.resource, "4"));
    assert!(error.details.starts_with("a: ") && error.details.contains("load_balancing_weight"), "{}", error.details);
    assert!(error.last_update_attempt.is_some());
    // What is removed does not exist any more, and serves as long as its cluster does.
    stream.accepted(Kind::Endpoints, "5", &[], &["a"]);
    let removed = shown(&proxy, Kind::Endpoints, "a").unwrap();
    assert_eq!((removed.client_status, removed.error_state), (DoesNotExist as i32, None));
    assert_eq!(removed.xds_config, good.resource);
    proxy.answers("first");
    // So it is counted, by kind.
    for prefix in ["cluster_manager.cds", "listener_manager.lds"] {
        for name in ["update_attempt", "update_success", "update_failure", "update_rejected", "update_time", "version"]
        {
            assert!(proxy.stat(&format!("{prefix}.{name}")).is_some(), "{prefix}.{name}");
        }
    }
    assert_eq!(proxy.stat("cluster.a.update_rejected"), Some(1));
    assert_eq!(proxy.stat("xds.eds.rejected"), Some(1));
    assert_eq!(proxy.stat("control_plane.connected_state"), Some(1));
    // So it is with a cluster of which nothing was known: nobody asks for clusters by name.
    let unknown = pb::ResourceError {
        resource_name: Some(pb::ResourceName { name: "unknown".to_owned(), ..Default::default() }),
        error_detail: Some(Status { code: 7, message: "not yours".to_owned(), details: Vec::new() }),
    };
    let errors = pb::DeltaDiscoveryResponse { resource_errors: vec![unknown], ..Default::default() };
    assert_eq!(stream.push_message(Kind::Cluster, errors).error, None);
    let told = shown(&proxy, Kind::Cluster, "unknown").unwrap();
    assert_eq!(
        (told.client_status, told.error_state.unwrap().details),
        (ReceivedError as i32, "unknown: not yours".into())
    );
    let (_, dump) = admin::request(&proxy.admin(), "GET", "/config_dump").unwrap();
    assert!(dump.contains("unknown: not yours"), "{dump}");
    stream.accepted(Kind::Cluster, "2", &[], &["unknown"]);
    assert!(shown(&proxy, Kind::Cluster, "unknown").is_none());
    // With the last one who asks for it a name is gone.
    stream.accepted(Kind::Cluster, "3", &[], &["never"]);
    proxy.until("nobody asks", || shown(&proxy, Kind::Endpoints, "never").is_none());
}
