//! The proxy as a management server sees it, and what its users see of that: a mesh comes by discovery, moves, breaks
//! in part, and goes on without its server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a suite reports what went wrong by failing"
)]

mod csds;
mod rules;
mod server;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use outrigger_engine::xds::Kind;
use outrigger_proto::envoy::admin::v3::ClientResourceStatus;
use outrigger_proto::envoy::service::discovery::v3 as pb;
use outrigger_proto::prost_types::Any;
use outrigger_tests::ports::Reserved;
use outrigger_tests::process::Process;
use outrigger_tests::{admin, named, peers};
use serde_json::{Value, json};

use crate::server::{Server, Stream, any, resource};

/// Longer than anything here takes, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);

/// A proxy that knows nothing but its management server.
struct Proxy {
    process: Process,
    directory: tempfile::TempDir,
    port: Reserved,
}

/// How the proxy asks.
#[derive(Clone, Copy)]
struct Mode {
    delta: bool,
    aggregated: bool,
}

impl Mode {
    fn api(self) -> Value {
        json!({
            "api_type": if self.delta { "DELTA_GRPC" } else { "GRPC" },
            "transport_api_version": "V3",
            "grpc_services": [{
                "envoy_grpc": {"cluster_name": "control", "authority": "control.mesh"},
                "initial_metadata": [{"key": "x-token", "value": "secret"}],
            }],
        })
    }

    /// A config source, for the bootstrap and for resources. It waits for ever: a machine that stands still ends no
    /// wait.
    fn source(self) -> Value {
        if self.aggregated {
            json!({"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"})
        } else {
            json!({"api_config_source": self.api(), "resource_api_version": "V3", "initial_fetch_timeout": "0s"})
        }
    }
}

impl Proxy {
    fn start(mode: Mode, directory: tempfile::TempDir) -> Proxy {
        let http2 = json!({
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        });
        let mut dynamic = json!({"cds_config": mode.source(), "lds_config": mode.source()});
        if mode.aggregated {
            dynamic["ads_config"] = mode.api();
        }
        let address = json!({"pipe": {"path": directory.path().join("control")}});
        let bootstrap = json!({
            "node": {"id": "sidecar-1", "cluster": "shop"},
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
        let mut command = peers::proxy(env!("CARGO_BIN_EXE_mesh"));
        command.args(["--concurrency", "1", "-c"]).arg(config);
        let process = Process::start(command, &directory.path().join("output")).unwrap();
        Proxy { process, directory, port: Reserved::new().unwrap() }
    }

    fn admin(&self) -> PathBuf {
        self.directory.path().join("admin")
    }

    fn stat(&self, name: &str) -> Option<u64> {
        let (_, text) = admin::request(&self.admin(), "GET", "/stats")?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line?.trim().parse().ok()
    }

    /// The body of the answer to a request, where it is 200.
    fn get(&self) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port.port())).ok()?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n").ok()?;
        let answer = std::io::read_to_string(stream).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
    }

    #[track_caller]
    fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            assert!(Instant::now() < deadline, "not after {PATIENCE:?}: {what}\n{}", self.process.output());
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    #[track_caller]
    fn answers(&self, name: &str) {
        self.until(&format!("{name} answers"), || self.get().as_deref() == Some(name));
    }

    fn listener(&self, mode: Mode) -> Value {
        let manager = json!({
            "@type":
                "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "in",
            "rds": {"route_config_name": "shop", "config_source": mode.source()},
            "http_filters": [{
                "name": "router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }],
        });
        let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": self.port.port()}});
        json!({"name": "in", "address": address, "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}]})
    }
}

fn cluster(name: &str, mode: Mode) -> Value {
    let eds = json!({"eds_config": mode.source()});
    json!({"name": name, "type": "EDS", "connect_timeout": "1s", "eds_cluster_config": eds})
}

fn endpoints(cluster: &str, address: SocketAddr) -> Value {
    let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": address.port()}});
    json!({"cluster_name": cluster, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]})
}

fn routes(cluster: &str) -> Value {
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": cluster}});
    json!({"name": "shop", "virtual_hosts": [{"name": "shop", "domains": ["*"], "routes": [route]}]})
}

/// Streams by kind: the same one for all where they are aggregated.
struct Streams {
    server: Server,
    streams: Vec<Stream>,
    aggregated: bool,
}

impl Streams {
    fn of(&mut self, kind: Kind) -> &mut Stream {
        if self.aggregated {
            if self.streams.is_empty() {
                self.streams.push(self.server.stream());
            }
            return &mut self.streams[0];
        }
        let service = match kind {
            Kind::Cluster => "ClusterDiscoveryService",
            Kind::Endpoints => "EndpointDiscoveryService",
            Kind::Listener => "ListenerDiscoveryService",
            Kind::Routes => "RouteDiscoveryService",
        };
        let index = loop {
            if let Some(index) = self.streams.iter().position(|stream| stream.path.contains(service)) {
                break index;
            }
            self.streams.push(self.server.stream());
        };
        &mut self.streams[index]
    }
}

/// A mesh of one service comes, moves, and breaks in part; then the server restarts.
fn a_mesh_comes_and_moves(mode: Mode) {
    let (first, second) = (named::upstream("first"), named::upstream("second"));
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("control");
    let server = Server::start(&socket);
    let mut proxy = Proxy::start(mode, directory);
    let mut mesh = Streams { server, streams: Vec::new(), aggregated: mode.aggregated };

    let clusters = mesh.of(Kind::Cluster);
    assert_eq!(clusters.headers["x-token"], "secret");
    assert_eq!(clusters.headers["content-type"], "application/grpc");
    assert_eq!(clusters.path.contains("Aggregated"), mode.aggregated);
    let asked = clusters.subscription(Kind::Cluster);
    assert_eq!((asked.node.as_deref(), asked.names.len()), (Some("sidecar-1"), 0));
    clusters.accepted(Kind::Cluster, "1", &[cluster("a", mode), cluster("b", mode)], &[]);
    mesh.of(Kind::Listener).subscription(Kind::Listener);
    let asked = mesh.of(Kind::Endpoints).request("a and b", |request| request.names == ["a", "b"]);
    assert_eq!((asked.kind, asked.node.is_some()), (Some(Kind::Endpoints), !mode.aggregated));
    mesh.of(Kind::Endpoints).accepted(Kind::Endpoints, "1", &[endpoints("a", first), endpoints("b", second)], &[]);
    mesh.of(Kind::Listener).accepted(Kind::Listener, "1", &[proxy.listener(mode)], &[]);
    assert_eq!(mesh.of(Kind::Routes).subscription(Kind::Routes).names, ["shop"]);
    mesh.of(Kind::Routes).accepted(Kind::Routes, "1", &[routes("a")], &[]);
    let admin = proxy.admin();
    proxy.process.ready(&admin, PATIENCE).unwrap();
    proxy.answers("first");

    // Routes move, and endpoints do.
    mesh.of(Kind::Routes).accepted(Kind::Routes, "2", &[routes("b")], &[]);
    proxy.answers("second");
    mesh.of(Kind::Endpoints).accepted(Kind::Endpoints, "2", &[endpoints("a", first), endpoints("b", first)], &[]);
    proxy.answers("first");

    // One of two is bad: it is named with path and reason, and the other applies.
    let mut bad = cluster("a", mode);
    bad["connect_timeout"] = json!("-1s");
    let mut also_new = cluster("c", mode);
    also_new["connect_timeout"] = json!("2s");
    let refused = mesh.of(Kind::Cluster).push(Kind::Cluster, "2", &[bad, cluster("b", mode), also_new], &[]);
    let error = refused.error.expect("a NACK");
    assert!(error.starts_with("a: ") && error.contains("connect_timeout"), "{error}");
    assert!(!error.contains("b:") && !error.contains("c:"), "{error}");
    if !mode.delta {
        assert_eq!(refused.version, "1");
    }
    let wants_c = |request: &server::Request| request.names.contains(&"c".to_owned());
    mesh.of(Kind::Endpoints).request("c", wants_c);
    proxy.answers("first");
    proxy.until("the refusal is counted", || proxy.stat("cluster_manager.cds.update_rejected") == Some(1));
    assert!(proxy.process.output().contains("connect_timeout"), "{}", proxy.process.output());
    let (_, words) = admin::request(&admin, "GET", "/stats?type=TextReadouts").unwrap();
    if mode.aggregated {
        assert!(words.contains("control_plane.identifier: \"the server\"\n"), "{words}");
    }
    if !mode.delta {
        assert!(words.contains("cluster_manager.cds.version_text: \"1\"\n"), "the last accepted one: {words}");
    }
    // So says whoever asks what became of it.
    let statuses = csds::fetch(&admin);
    let [config] = &statuses.config[..] else { panic!("one client: {statuses:?}") };
    assert_eq!(config.node.as_ref().unwrap().id, "sidecar-1");
    let of = |kind: Kind, name: &str| {
        config.generic_xds_configs.iter().find(|config| config.type_url == kind.type_url() && config.name == name)
    };
    let a = of(Kind::Cluster, "a").unwrap();
    assert_eq!((&*a.version_info, a.client_status), ("1", ClientResourceStatus::Nacked as i32));
    let error = a.error_state.as_ref().unwrap();
    assert!(error.details.contains("connect_timeout") && error.version_info == "2", "{error:?}");
    let b = of(Kind::Cluster, "b").unwrap();
    assert_eq!((&*b.version_info, b.client_status), ("2", ClientResourceStatus::Acked as i32));
    for (kind, name) in [(Kind::Endpoints, "b"), (Kind::Listener, "in"), (Kind::Routes, "shop")] {
        assert_eq!(
            of(kind, name).map(|config| config.client_status),
            Some(ClientResourceStatus::Acked as i32),
            "{name}"
        );
    }
    let (_, json) =
        outrigger_tests::admin::request(&admin, "GET", "/v3/discovery:client_status?exclude_resource_contents")
            .unwrap();
    assert!(json.contains("\"client_status\": \"NACKED\"") && !json.contains("\"xds_config\":"), "{json}");

    // Without its server the proxy goes on, and tells the next one what it has.
    let Streams { server, streams, .. } = mesh;
    drop(streams);
    drop(server);
    if mode.aggregated {
        proxy.until("the loss is noticed", || proxy.stat("control_plane.connected_state") == Some(0));
    }
    proxy.answers("first");
    let mut mesh = Streams { server: Server::start(&socket), streams: Vec::new(), aggregated: mode.aggregated };
    let clusters = mesh.of(Kind::Cluster);
    let asked = clusters.subscription(Kind::Cluster);
    assert_eq!(asked.node.as_deref(), Some("sidecar-1"));
    if mode.delta {
        let versions: Vec<_> = asked.versions.iter().map(|(name, version)| (name.as_str(), version.as_str())).collect();
        // Of a, which was rejected, it is to speak again.
        assert_eq!(versions, [("a", ""), ("b", "2"), ("c", "2")]);
    } else {
        assert_eq!(asked.version, "1");
    }
    let asked = mesh.of(Kind::Endpoints).request("a, b and c", wants_c);
    assert_eq!(asked.names, ["a", "b", "c"]);
    // What is there serves on; a change is applied.
    mesh.of(Kind::Routes).subscription(Kind::Routes);
    mesh.of(Kind::Endpoints).accepted(Kind::Endpoints, "3", &[endpoints("a", first), endpoints("b", second)], &[]);
    proxy.answers("second");
    if mode.aggregated {
        assert_eq!(proxy.stat("control_plane.connected_state"), Some(1));
    }

    // A cluster that goes takes its subscription with it.
    let left = [cluster("b", mode)];
    let (resources, removed): (&[Value], &[&str]) = if mode.delta { (&[], &["a", "c"]) } else { (&left, &[]) };
    mesh.of(Kind::Cluster).accepted(Kind::Cluster, "3", resources, removed);
    mesh.of(Kind::Endpoints).request("the end of a", |request| {
        let gone = |name: &str| request.unsubscribed.contains(&name.to_owned());
        if mode.delta { gone("a") || gone("c") } else { request.names == ["b"] }
    });
    proxy.answers("second");
}

#[test]
fn a_mesh_by_the_aggregated_delta_stream() {
    a_mesh_comes_and_moves(Mode { delta: true, aggregated: true });
}

#[test]
fn a_mesh_by_the_aggregated_state_of_the_world() {
    a_mesh_comes_and_moves(Mode { delta: false, aggregated: true });
}

#[test]
fn a_mesh_by_delta_streams_for_each_kind() {
    a_mesh_comes_and_moves(Mode { delta: true, aggregated: false });
}

#[test]
fn a_mesh_by_the_state_of_the_world_of_each_kind() {
    a_mesh_comes_and_moves(Mode { delta: false, aggregated: false });
}

#[test]
fn thousands_of_clusters_cost_few_messages() {
    let mode = Mode { delta: true, aggregated: true };
    let (first, second) = (named::upstream("first"), named::upstream("second"));
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&directory.path().join("control"));
    let mut proxy = Proxy::start(mode, directory);
    let mut stream = server.stream();
    let names: Vec<String> = (0..2000).map(|n| format!("cluster-{n:04}")).collect();
    let clusters: Vec<Value> = names.iter().map(|name| cluster(name, mode)).collect();
    stream.accepted(Kind::Cluster, "1", &clusters, &[]);
    assert_eq!(stream.subscription(Kind::Endpoints).names, names);
    let all: Vec<Value> = names.iter().map(|name| endpoints(name, first)).collect();
    stream.accepted(Kind::Endpoints, "1", &all, &[]);
    stream.subscription(Kind::Listener);
    stream.accepted(Kind::Listener, "1", &[proxy.listener(mode)], &[]);
    stream.subscription(Kind::Routes);
    stream.accepted(Kind::Routes, "1", &[routes("cluster-1999")], &[]);
    let admin = proxy.admin();
    proxy.process.ready(&admin, PATIENCE).unwrap();
    proxy.answers("first");
    // The same again changes nothing; one of them moves one.
    stream.accepted(Kind::Cluster, "2", &clusters, &[]);
    stream.accepted(Kind::Endpoints, "2", &[endpoints("cluster-1999", second)], &[]);
    proxy.answers("second");
}

/// The metrics that say what is refused.
fn rejected_metrics(admin: &Path) -> Vec<String> {
    let (_, text) = admin::request(admin, "GET", "/stats/prometheus").unwrap();
    let lines = text.lines().filter(|line| line.starts_with("envoy_xds_resource_rejected{"));
    lines.map(ToString::to_string).collect()
}

/// Of the clusters that came, as `/config_dump` shows them: what is wrong with those that are refused, and the
/// `connect_timeout` of each that is in force.
fn dumped_clusters(admin: &Path) -> (Vec<String>, BTreeMap<String, String>) {
    let (_, text) = admin::request(admin, "GET", "/config_dump").unwrap();
    let dump: Value = serde_json::from_str(&text).unwrap();
    let (mut errors, mut active) = (Vec::new(), BTreeMap::new());
    for part in dump["configs"].as_array().unwrap() {
        for list in ["dynamic_active_clusters", "dynamic_warming_clusters"] {
            for entry in part[list].as_array().into_iter().flatten() {
                errors.extend(entry["error_state"]["details"].as_str().map(ToString::to_string));
                let cluster = &entry["cluster"];
                if let (Some(name), Some(timeout)) = (cluster["name"].as_str(), cluster["connect_timeout"].as_str())
                    && list == "dynamic_active_clusters"
                {
                    active.insert(name.to_owned(), timeout.to_owned());
                }
            }
        }
    }
    (errors, active)
}

/// A cluster that goes and comes back at once, unchanged, was never out of force, and is shown as it is.
#[test]
fn a_cluster_that_comes_back_at_once_is_still_shown() {
    let mode = Mode { delta: true, aggregated: true };
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&directory.path().join("control"));
    let mut proxy = Proxy::start(mode, directory);
    let mut stream = server.stream();
    let same = json!({"name": "same", "type": "STATIC", "connect_timeout": "1s"});
    stream.accepted(Kind::Cluster, "1", std::slice::from_ref(&same), &[]);
    stream.subscription(Kind::Listener);
    stream.accepted(Kind::Listener, "1", &[], &[]);
    let admin = proxy.admin();
    proxy.process.ready(&admin, PATIENCE).unwrap();
    // Both are in the proxy's hands before the first is acknowledged, well within the time that a cluster stays.
    let removal = stream.send(Kind::Cluster, "2", &[], &["same"]);
    let again = stream.send(Kind::Cluster, "3", &[same], &[]);
    for nonce in [removal, again] {
        assert_eq!(stream.request("an answer", |request| request.nonce == nonce).error, None);
    }
    let (_, active) = dumped_clusters(&admin);
    assert_eq!(active.get("same").map(String::as_str), Some("1s"));
    let shown = csds::fetch(&admin).config.remove(0).generic_xds_configs;
    assert!(shown.iter().any(|config| config.name == "same" && config.version_info == "3"), "{shown:?}");
}

/// Of 500 clusters, 7 are bad in different ways, one of them a known one: 493 apply.
#[test]
fn bad_resources_are_named_one_by_one_and_the_others_apply() {
    let mode = Mode { delta: true, aggregated: true };
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&directory.path().join("control"));
    let mut proxy = Proxy::start(mode, directory);
    let mut stream = server.stream();
    let first = named::upstream("first");
    let plain = |name: &str, timeout: &str| {
        let assignment = endpoints(name, first);
        json!({"name": name, "type": "STATIC", "connect_timeout": timeout, "load_assignment": assignment})
    };
    let good = |name: &str| resource(Kind::Cluster, "2", &plain(name, "2s"));
    stream.accepted(Kind::Cluster, "1", &[plain("known", "1s")], &[]);
    stream.subscription(Kind::Listener);
    stream.accepted(Kind::Listener, "1", &[proxy.listener(mode)], &[]);
    stream.subscription(Kind::Routes);
    stream.accepted(Kind::Routes, "1", &[routes("known")], &[]);
    let admin = proxy.admin();
    proxy.process.ready(&admin, PATIENCE).unwrap();
    proxy.answers("first");

    let any_of = |value: &[u8]| Any { type_url: Kind::Cluster.type_url().to_owned(), value: value.to_vec() };
    let listener = any(Kind::Listener, &json!({"name": "other-type"}));
    let no_eds = json!({"name": "no-eds", "type": "EDS", "connect_timeout": "1s"});
    let mut resources: Vec<_> = (0..493).map(|n| good(&format!("good-{n}"))).collect();
    resources.extend([
        resource(Kind::Cluster, "2", &plain("known", "-1s")),
        resource(Kind::Cluster, "2", &no_eds),
        good("twice"),
        good("twice"),
        good(""),
        pb::Resource { resource: Some(listener), ..good("other-type") },
        pb::Resource { resource: Some(any_of(&[0xff])), ..good("garbage") },
        pb::Resource { name: "outside".to_owned(), ..good("inside") },
    ]);
    let names: std::collections::BTreeSet<&str> = resources.iter().map(|resource| resource.name.as_str()).collect();
    assert_eq!((names.len(), resources.len()), (500, 501), "one of them comes twice");
    let error = stream.push_raw(Kind::Cluster, resources, &[]).error.expect("a NACK");
    let faults = [
        ("known", "connect_timeout: -1s: must not be negative"),
        ("no-eds", "eds_cluster_config"),
        ("twice", "more than once"),
        ("", "must have a name"),
        ("other-type", "envoy.config.listener.v3.Listener"),
        ("garbage", "cannot be decoded"),
        ("outside", "inside"),
    ];
    let refused = || {
        let config = csds::fetch(&admin).config.remove(0);
        let mut refused = std::collections::BTreeMap::new();
        for config in config.generic_xds_configs {
            if let Some(state) = config.error_state {
                refused.insert(config.name, state.details);
            }
        }
        refused
    };
    let shown = refused();
    let log = proxy.process.output();
    let metrics = rejected_metrics(&admin);
    let (dump, active) = dumped_clusters(&admin);
    for (name, reason) in faults {
        let said = if name.is_empty() { "(no name)" } else { name };
        assert!(error.contains(&format!("{said}: ")) && error.contains(reason), "{said}: {error}");
        assert!(shown.get(name).is_some_and(|details| details.contains(reason)), "{said}: {shown:?}");
        assert!(log.contains(&format!("{name:?}")) && log.contains(reason), "{said}: {log}");
        let details = dump.iter().find_map(|details| details.strip_prefix(&format!("{said}: ")));
        assert!(details.is_some_and(|details| details.contains(reason)), "{said}: {dump:?}");
        let label = format!("name={name:?}");
        assert!(metrics.iter().any(|line| line.contains(&label) && line.contains(reason)), "{said}: {metrics:?}");
    }
    assert_eq!((shown.len(), dump.len(), metrics.len()), (faults.len(), faults.len(), faults.len()));
    assert_eq!(active["known"], "1s", "the last good version serves");
    proxy.answers("first");
    assert_eq!(proxy.stat("xds.cds.rejected"), Some(7));
    assert_eq!(proxy.stat("xds.cds.rejected_resources"), Some(7));
    assert_eq!(proxy.stat("cluster_manager.cds.update_rejected"), Some(1));
    // Those of the bootstrap and the first push among them.
    proxy.until("the good ones are there", || proxy.stat("cluster_manager.active_clusters") == Some(495));

    // The next good push clears them.
    let resources = ["known", "no-eds", "twice", "other-type"].into_iter().map(good).collect();
    let answer = stream.push_raw(Kind::Cluster, resources, &["garbage", "outside"]);
    assert_eq!((answer.error, refused().len()), (None, 0));
    let (dump, active) = dumped_clusters(&admin);
    assert_eq!((dump.len(), rejected_metrics(&admin).len()), (0, 0));
    assert_eq!(active["known"], "2s");
    assert_eq!(proxy.stat("xds.cds.rejected_resources"), Some(0));
    assert_eq!(proxy.stat("xds.cds.rejected"), Some(7));
}
