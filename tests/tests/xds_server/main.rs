//! Our xDS server drives the real Envoy, by delta and by state of the world, aggregated and by kind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a suite reports what went wrong by failing"
)]

mod resources;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use outrigger_engine::xds::Kind;
use outrigger_tests::management::Management;
use outrigger_tests::ports::Reserved;
use outrigger_tests::process::Process;
use outrigger_tests::{admin, named, peers};
use resources::view;
use serde_json::{Value, json};

/// Longer than anything here takes, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);

/// Status and body of one request.
fn get(port: u16) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n").ok()?;
    let answer = std::io::read_to_string(stream).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "not after {PATIENCE:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn cluster(name: &str, timeout: &str, source: &Value) -> (Kind, Value) {
    let eds = json!({"eds_config": source});
    (Kind::Cluster, json!({"name": name, "type": "EDS", "connect_timeout": timeout, "eds_cluster_config": eds}))
}

fn endpoints(cluster: &str, address: SocketAddr) -> (Kind, Value) {
    let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": address.port()}});
    let endpoint = json!({"endpoint": {"address": address}});
    (Kind::Endpoints, json!({"cluster_name": cluster, "endpoints": [{"lb_endpoints": [endpoint]}]}))
}

fn listener(port: u16, prefix: &str, source: &Value) -> (Kind, Value) {
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": prefix,
        "rds": {"route_config_name": "shop", "config_source": source},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
        }],
    });
    let filter = json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": manager});
    let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    (Kind::Listener, json!({"name": "in", "address": address, "filter_chains": [{"filters": [filter]}]}))
}

fn routes(cluster: &str) -> (Kind, Value) {
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": cluster}});
    (Kind::Routes, json!({"name": "shop", "virtual_hosts": [{"name": "shop", "domains": ["*"], "routes": [route]}]}))
}

/// An Envoy that is driven by the server at `control`.
struct Envoy {
    process: Process,
    directory: tempfile::TempDir,
}

impl Envoy {
    fn start(program: &Path, control: SocketAddr, api: &Value, source: &Value) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": control.port()}});
        let http2 = json!({
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        });
        let mut dynamic = json!({"cds_config": source, "lds_config": source});
        if source.get("ads").is_some() {
            dynamic["ads_config"] = api.clone();
        }
        let bootstrap = json!({
            "node": {"id": "envoy-1", "cluster": "shop"},
            "admin": {"address": {"pipe": {"path": directory.path().join("admin")}}},
            "dynamic_resources": dynamic,
            "static_resources": {"clusters": [{
                "name": "control",
                "connect_timeout": "1s",
                "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
                "load_assignment": {
                    "cluster_name": "control",
                    "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
                },
            }]},
        });
        let config = directory.path().join("bootstrap.json");
        std::fs::write(&config, bootstrap.to_string()).unwrap();
        let mut command = Command::new(program);
        command.args(["--use-dynamic-base-id", "--concurrency", "1", "-l", "warning", "-c"]).arg(config);
        let mut process = Process::start(command, &directory.path().join("output")).unwrap();
        process.ready(&directory.path().join("admin"), PATIENCE).unwrap();
        Self { process, directory }
    }

    fn admin(&self) -> PathBuf {
        self.directory.path().join("admin")
    }

    /// The statistics whose name holds `filter`.
    fn stats(&self, filter: &str) -> Vec<(String, String)> {
        let (_, text) = admin::request(&self.admin(), "GET", &format!("/stats?filter={filter}")).unwrap();
        let pairs = text.lines().filter_map(|line| line.split_once(": "));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[track_caller]
    fn rejects_nothing(&self) {
        let stats = self.stats("update_rejected");
        assert!(!stats.is_empty());
        assert!(stats.iter().all(|(_, value)| value == "0"), "{stats:?}\n{}", self.process.output());
    }
}

fn drives_envoy(test: &str, api_type: &str, ads: bool) {
    let Some(program) = peers::find("envoy", test) else { return };
    let grpc = json!([{"envoy_grpc": {"cluster_name": "control"}}]);
    let api = json!({"api_type": api_type, "transport_api_version": "V3", "grpc_services": grpc});
    let source = if ads {
        json!({"ads": {}, "resource_api_version": "V3"})
    } else {
        json!({"api_config_source": api, "resource_api_version": "V3"})
    };
    let (one, two) = (named::upstream("one"), named::upstream("two"));
    let reserved = Reserved::new().unwrap();
    let port = reserved.port();

    let control = Management::start(
        0,
        view(&[cluster("one", "1s", &source), endpoints("one", one), listener(port, "in", &source), routes("one")]),
    );
    let envoy = Envoy::start(&program, control.address, &api, &source);
    until("the listener", || get(port) == Some((200, "one".to_owned())));

    // The route moves to a cluster that comes in the same update, and the old one goes. Aggregated, nothing fails
    // meanwhile.
    let moved = |prefix: &str, timeout: &str, address: SocketAddr| {
        view(&[
            cluster("two", timeout, &source),
            endpoints("two", address),
            listener(port, prefix, &source),
            routes("two"),
        ])
    };
    control.update(moved("in", "1s", two));
    until("the new route", || {
        let (status, name) = get(port).unwrap();
        assert!(!ads || status == 200, "{status}");
        name == "two"
    });
    until("the end of the old cluster", || !envoy.stats("cluster.one.membership_total").iter().any(|(_, v)| v != "0"));

    // An update of endpoints only.
    control.update(moved("in", "1s", one));
    until("the new endpoint", || get(port) == Some((200, "one".to_owned())));

    // A changed cluster, whose endpoints are the same, and a changed listener.
    control.update(moved("changed", "2s", one));
    until("the new listener", || {
        get(port) == Some((200, "one".to_owned()))
            && envoy.stats("http.changed.downstream_rq_2xx").iter().any(|(_, value)| value != "0")
    });
    until("the warm cluster", || {
        envoy.stats("cluster_manager.warming_clusters") == [("cluster_manager.warming_clusters".into(), "0".into())]
    });
    // It did not wait for endpoints in vain.
    assert!(envoy.stats("init_fetch_timeout").iter().all(|(_, value)| value == "0"));
    envoy.rejects_nothing();
    until("all acknowledged", || {
        control.proxies.list().iter().all(|proxy| proxy.kinds.len() == 4 && proxy.kinds.values().all(|s| s.synced()))
    });
    let [proxy] = control.proxies.list().try_into().unwrap();
    assert_eq!((proxy.node.as_str(), proxy.cluster.as_str()), ("envoy-1", "shop"));
    assert!(proxy.agent.starts_with("envoy "), "{}", proxy.agent);

    // A server that comes back with the same resources has nothing to say by delta but what changes.
    let address = control.address;
    drop(control);
    let control = Management::start(address.port(), moved("changed", "2s", one));
    until("the stream", || control.proxies.list().iter().any(|proxy| ads || proxy.kinds.len() == 4));
    control.update(moved("changed", "2s", two));
    until("the endpoint after the restart", || get(port) == Some((200, "two".to_owned())));
    if api_type == "DELTA_GRPC" {
        let counts = control.proxies.counts();
        let responses = |kind| counts.get(&kind).map_or(0, |counts| counts.responses);
        assert_eq!(Kind::ALL.map(responses), [0, 1, 0, 0]);
    }
    envoy.rejects_nothing();

    // What it rejects is known here, with its reason, and the last good version serves.
    let mut bad = cluster("bad", "1s", &source);
    bad.1["lb_policy"] = "MAGLEV".into();
    bad.1["maglev_lb_config"] = json!({"table_size": 6});
    control.update(view(&[
        bad,
        cluster("two", "2s", &source),
        endpoints("two", two),
        listener(port, "changed", &source),
        routes("two"),
    ]));
    until("the rejection", || {
        let proxies = control.proxies.list();
        let rejected = |kind| proxies.first()?.kinds.get(&kind)?.rejected.clone();
        rejected(Kind::Cluster).is_some_and(|message| message.contains("table_size") || message.contains("prime"))
    });
    assert_eq!(get(port), Some((200, "two".to_owned())));
}

#[test]
fn delta_ads() {
    drives_envoy("delta_ads", "DELTA_GRPC", true);
}

#[test]
fn ads() {
    drives_envoy("ads", "GRPC", true);
}

#[test]
fn delta_by_kind() {
    drives_envoy("delta_by_kind", "DELTA_GRPC", false);
}

#[test]
fn by_kind() {
    drives_envoy("by_kind", "GRPC", false);
}
