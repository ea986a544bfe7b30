use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outrigger_engine::xds::{Kind, Resource};
use outrigger_proto::envoy::admin::v3::{HostHealthStatus, HostStatus, SimpleMetric, simple_metric};
use outrigger_proto::envoy::config::bootstrap::v3::bootstrap::StaticResources;
use outrigger_proto::envoy::config::cluster::v3::{CircuitBreakers, Cluster, circuit_breakers::Thresholds};
use outrigger_proto::envoy::config::core::v3::{DataSource, TransportSocket, data_source, transport_socket};
use outrigger_proto::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use outrigger_proto::envoy::config::route::v3::RouteConfiguration;
use outrigger_proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use outrigger_proto::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, TlsCertificate, UpstreamTlsContext,
};
use outrigger_proto::prost::{Message, Name};
use outrigger_proto::prost_types::Any;

use super::*;

pub(super) struct Fake {
    record: Record,
    stats: Stats,
    server_state: ServerState,
    done: Mutex<Vec<String>>,
}

impl Fake {
    pub(super) fn new() -> Self {
        Fake { record: Record::default(), stats: Stats::new(), server_state: ServerState::Live, done: Mutex::default() }
    }

    fn note(&self, what: impl Into<String>) {
        self.done.lock().unwrap().push(what.into());
    }

    fn get(&self, target: &str) -> (u16, String) {
        self.answer("GET", target)
    }

    pub(super) fn answer(&self, method: &str, target: &str) -> (u16, String) {
        let Response { status, body, .. } = handle(self, method, target, b"");
        let body = match body {
            Body::Whole(body) => body.to_vec(),
            Body::Parts(write) => {
                let mut body = Vec::new();
                let mut send = |part: Bytes| {
                    body.extend_from_slice(&part);
                    true
                };
                let mut parts = Parts::new(&mut send);
                write(self, &mut parts).unwrap();
                parts.finish().unwrap();
                body
            }
        };
        (status, String::from_utf8(body).unwrap())
    }

    fn json(&self, target: &str) -> serde_json::Value {
        let (status, body) = self.get(target);
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }
}

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: message.encode_to_vec() }
}

fn http_listener() -> Listener {
    let routes = RouteConfiguration { name: "local".into(), ..Default::default() };
    let manager = HttpConnectionManager {
        stat_prefix: "ingress".into(),
        route_specifier: Some(RouteSpecifier::RouteConfig(routes)),
        ..Default::default()
    };
    let config_type = Some(filter::ConfigType::TypedConfig(any(&manager)));
    let unknown = Any { type_url: "type.googleapis.com/acme.Filter".into(), value: vec![1, 2, 3] };
    let unknown = Filter { name: "acme".into(), config_type: Some(filter::ConfigType::TypedConfig(unknown)) };
    let filters = vec![unknown, Filter { name: "hcm".into(), config_type }];
    let filter_chains = vec![FilterChain { filters, ..Default::default() }];
    Listener { name: "web".into(), filter_chains, ..Default::default() }
}

fn tls_cluster() -> Cluster {
    let key = DataSource {
        specifier: Some(data_source::Specifier::InlineString("-----BEGIN PRIVATE KEY-----".into())),
        ..Default::default()
    };
    let certificate = TlsCertificate { private_key: Some(key), ..Default::default() };
    let common = CommonTlsContext { tls_certificates: vec![certificate], ..Default::default() };
    let context = UpstreamTlsContext { common_tls_context: Some(common), sni: "db".into(), ..Default::default() };
    let config_type = Some(transport_socket::ConfigType::TypedConfig(any(&context)));
    let transport_socket = Some(TransportSocket { name: "tls".into(), config_type });
    Cluster { name: "db".into(), transport_socket, ..Default::default() }
}

impl AdminState for Fake {
    fn stats(&self) -> &Stats {
        &self.stats
    }

    fn record(&self) -> &Record {
        &self.record
    }

    fn server_state(&self) -> ServerState {
        self.server_state
    }

    fn uptime(&self) -> Duration {
        Duration::from_secs(7)
    }

    fn command_line(&self) -> CommandLineOptions {
        CommandLineOptions { concurrency: 2, ..Default::default() }
    }

    fn node(&self) -> Node {
        Node { id: "sidecar~1".into(), ..Default::default() }
    }

    fn bootstrap(&self) -> Result<Bootstrap, String> {
        let static_resources = StaticResources {
            listeners: vec![http_listener()],
            clusters: vec![tls_cluster(), Cluster { name: "app".into(), ..Default::default() }],
            ..Default::default()
        };
        let node = Some(self.node());
        Ok(Bootstrap { node, static_resources: Some(static_resources), ..Default::default() })
    }

    fn bootstrap_time(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_795_274_094)
    }

    fn clusters(&self, visit: VisitCluster<'_>) -> fmt::Result {
        let address = status::core_address(&Address::Ip("10.0.0.1:80".parse().unwrap()));
        let host = HostStatus {
            address: Some(address),
            stats: vec![SimpleMetric {
                r#type: simple_metric::Type::Counter as i32,
                value: 3,
                name: "rq_total".into(),
            }],
            health_status: Some(HostHealthStatus { eds_health_status: 2, ..Default::default() }),
            weight: 1,
            ..Default::default()
        };
        let thresholds = vec![Thresholds { max_connections: Some(1024), ..Default::default() }];
        let app = ClusterStatus {
            name: "app".into(),
            observability_name: "app".into(),
            circuit_breakers: Some(CircuitBreakers { thresholds, ..Default::default() }),
            ..Default::default()
        };
        visit(app, &mut [host].into_iter())?;
        visit(ClusterStatus { name: "db".into(), ..Default::default() }, &mut std::iter::empty())
    }

    fn listeners(&self) -> Vec<(String, Vec<Address>)> {
        vec![("web".into(), vec![Address::Ip("127.0.0.1:8080".parse().unwrap())])]
    }

    fn certificates(&self) -> Vec<Certificate> {
        Vec::new()
    }

    fn unready_targets(&self) -> Vec<unready_targets_dumps::UnreadyTargetsDump> {
        Vec::new()
    }

    fn runtime(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("health_check.min_interval".to_owned(), "5".to_owned())])
    }

    fn fail_health_checks(&self, fail: bool) {
        self.note(format!("fail {fail}"));
    }

    fn drain_listeners(&self, drain: DrainListeners) {
        self.note(format!("{drain:?}"));
    }

    fn reopen_logs(&self) {
        self.note("reopen");
    }

    fn quit(&self) {
        self.note("quit");
    }
}

#[test]
fn ready_says_where_the_process_is() {
    let mut fake = Fake::new();
    assert_eq!(fake.get("/ready"), (200, "LIVE\n".to_owned()));
    fake.server_state = ServerState::PreInitializing;
    assert_eq!(fake.get("/ready"), (503, "PRE_INITIALIZING\n".to_owned()));
}

#[test]
fn only_a_post_changes_anything() {
    let fake = Fake::new();
    for path in ["/quitquitquit", "/drain_listeners", "/healthcheck/fail", "/reset_counters", "/logging"] {
        assert_eq!(fake.get(path), (405, "Method GET not allowed, POST required.".to_owned()), "{path}");
    }
    assert!(fake.done.lock().unwrap().is_empty());
    for target in ["/drain_listeners?inboundonly&graceful", "/healthcheck/fail", "/healthcheck/ok", "/quitquitquit"] {
        assert_eq!(fake.answer("POST", target), (200, "OK\n".to_owned()), "{target}");
    }
    let drain = DrainListeners { inbound_only: true, graceful: true, skip_exit: false };
    let done = fake.done.lock().unwrap();
    assert_eq!(*done, [format!("{drain:?}"), "fail true".into(), "fail false".into(), "quit".into()]);
}

#[test]
fn an_unknown_path_is_answered_with_help() {
    let (status, body) = Fake::new().get("/nope?x=1");
    assert_eq!(status, 404);
    assert!(body.starts_with("invalid path. admin commands are:\n  /: Admin home page\n"), "{body}");
}

#[test]
fn stats_are_sorted_filtered_and_typed() {
    let fake = Fake::new();
    let cluster = fake.stats.cluster("app");
    cluster.shard(0).upstream_rq_total.add(2);
    cluster.shard(0).charge_time(5000, crate::telemetry::stats::Origin::External);
    let (_, text) = fake.get("/stats?filter=^cluster.app.upstream_rq_t");
    let quantiles = text.lines().find(|line| line.starts_with("cluster.app.upstream_rq_time: P0(nan,")).unwrap();
    assert!(quantiles.contains(" P99.5(nan,5."), "{quantiles}");
    assert!(text.starts_with("cluster.app.upstream_rq_timeout: 0\ncluster.app.upstream_rq_total: 2\n"), "{text}");
    let (_, used) = fake.get("/stats?usedonly&filter=upstream_rq_t(imeout|otal)%24");
    assert_eq!(used, "cluster.app.upstream_rq_total: 2\n");
    let (_, gauges) = fake.get("/stats?type=Gauges&filter=upstream_rq");
    assert_eq!(gauges, "cluster.app.upstream_rq_active: 0\ncluster.app.upstream_rq_pending_active: 0\n");
    let json = fake.json("/stats?format=json&filter=upstream_rq_t(otal|ime)%24");
    assert_eq!(json["stats"][0], serde_json::json!({"name": "cluster.app.upstream_rq_total", "value": 2}));
    assert_eq!(json["stats"][1]["histograms"]["supported_quantiles"][7], 99.5);
    for wrong in ["filter=[", "format=xml", "type=Some"] {
        assert_eq!(fake.get(&format!("/stats?{wrong}")).0, 400, "{wrong}");
    }
}

#[test]
fn histograms_are_shown_as_they_are_asked_for_or_not_at_all() {
    let fake = Fake::new();
    for (path, supported) in [
        ("/stats?", "summary"),
        ("/stats?format=json&", "summary"),
        ("/stats?format=prometheus&", "cumulative"),
        ("/stats/prometheus?", "cumulative"),
    ] {
        for asked in ["", "summary", "cumulative", "disjoint", "detailed", "none"] {
            let (status, text) = fake.get(&format!("{path}histogram_buckets={asked}"));
            if asked.is_empty() || asked == supported {
                assert_eq!(status, 200, "{path}{asked}");
            } else {
                assert_eq!(status, 400, "{path}{asked}");
                assert!(text.starts_with(&format!("usage: histogram_buckets={supported}:")), "{text}");
            }
        }
    }
}

#[test]
fn a_probe_finds_the_state_that_it_waits_for() {
    // What pilot-agent asks before it says that a pod is ready.
    let fake = Fake::new();
    fake.stats.listener_manager.workers_started.set(1);
    let (_, text) = fake.get("/stats?usedonly&filter=^(server\\.state|listener_manager\\.workers_started)");
    assert_eq!(text, "listener_manager.workers_started: 1\nserver.state: 0\n");
}

#[test]
fn prometheus_has_envoys_names_and_labels() {
    let fake = Fake::new();
    let cluster = fake.stats.cluster("outbound|80||app");
    cluster.shard(0).charge_response(503, crate::telemetry::stats::Origin::External);
    cluster.shard(0).charge_time(3000, crate::telemetry::stats::Origin::External);
    let http = fake.stats.http("ingress");
    http.shard(0).responses.inc(200);
    let listener = fake.stats.listener("0.0.0.0:80");
    listener.shard(0).downstream_cx_total.inc();
    let both = fake.stats.listener_http("0.0.0.0:80", "ingress");
    both.shard(1).responses.inc(404);
    let (_, text) = fake.get("/stats/prometheus");
    for line in [
        "# TYPE envoy_cluster_upstream_rq_total counter",
        "envoy_cluster_upstream_rq_total{envoy_cluster_name=\"outbound|80||app\"} 0",
        "envoy_cluster_upstream_rq{envoy_response_code=\"503\",envoy_cluster_name=\"outbound|80||app\"} 1",
        "envoy_cluster_external_upstream_rq_xx{envoy_response_code_class=\"5\",envoy_cluster_name=\"outbound|80||app\"} 1",
        "envoy_cluster_circuit_breakers_default_cx_open{envoy_cluster_name=\"outbound|80||app\"} 0",
        "# TYPE envoy_cluster_upstream_rq_time histogram",
        "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"outbound|80||app\",le=\"1\"} 0",
        "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"outbound|80||app\",le=\"5\"} 1",
        "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"outbound|80||app\",le=\"+Inf\"} 1",
        "envoy_cluster_upstream_rq_time_count{envoy_cluster_name=\"outbound|80||app\"} 1",
        "envoy_http_downstream_rq_xx{envoy_response_code_class=\"2\",envoy_http_conn_manager_prefix=\"ingress\"} 1",
        "envoy_listener_downstream_cx_total{envoy_listener_address=\"0.0.0.0_80\"} 1",
        "envoy_listener_http_downstream_rq_xx{envoy_response_code_class=\"4\",envoy_http_conn_manager_prefix=\"ingress\",envoy_listener_address=\"0.0.0.0_80\"} 1",
        "envoy_server_live{} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    let types = text.lines().filter(|line| line.starts_with("# TYPE")).collect::<Vec<_>>();
    let distinct = types.iter().collect::<std::collections::BTreeSet<_>>();
    assert_eq!(types.len(), distinct.len(), "a metric stands in one place");
}

#[test]
fn what_is_refused_is_named_in_a_bounded_number_of_metrics() {
    let fake = Fake::new();
    let refuse = |name: &str, reason: String| {
        let resource = Resource { name: name.into(), version: "1".into(), body: Bytes::new() };
        fake.record.rejected(Kind::Cluster, None, &resource, reason, SystemTime::now());
    };
    refuse("", "type: \"x\": one\ntwo".into());
    refuse("long", "ü".repeat(1000));
    (0..150).for_each(|n| refuse(&format!("name-{n:03}"), "bad".into()));
    let (_, text) = fake.get("/stats?filter=^xds");
    assert!(text.contains("xds.cds..resource_rejected: \"type: \"x\": one; two\"\n"), "{text}");
    assert!(text.contains("xds.cds.rejected_resources: 152\n"), "{text}");
    let (_, text) = fake.get("/stats/prometheus?filter=^xds");
    let first = "envoy_xds_resource_rejected{reason=\"type: \\\"x\\\": one; two\",type=\"cds\",name=\"\"} 1\n";
    assert!(text.contains(first), "{text}");
    assert!(text.contains("envoy_xds_rejected_resources{type=\"cds\"} 152\n"), "{text}");
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("envoy_xds_resource_rejected{")).collect();
    assert_eq!(lines.len(), 100);
    assert!(lines.iter().all(|line| line.len() < 400), "{lines:?}");
}

#[test]
fn words_are_shown_as_envoy_does() {
    let fake = Fake::new();
    fake.stats.cds.update_attempt.inc();
    fake.stats.control_plane.identifier.set("istiod");
    let (_, text) = fake.get("/stats");
    assert!(
        text.starts_with("cluster_manager.cds.version_text: \"\"\ncontrol_plane.identifier: \"istiod\"\n"),
        "{text}"
    );
    assert_eq!(fake.get("/stats?type=TextReadouts&usedonly").1, "control_plane.identifier: \"istiod\"\n");
    assert!(!fake.get("/stats/prometheus").1.contains("istiod"));
    let (_, text) = fake.get("/stats/prometheus?text_readouts");
    assert!(text.contains("envoy_control_plane_identifier{text_value=\"istiod\"} 0\n"), "{text}");
}

#[test]
fn the_configuration_is_shown_without_secrets() {
    let (status, text) = Fake::new().get("/config_dump?include_eds");
    assert_eq!(status, 200, "{text}");
    assert!(!text.contains("PRIVATE KEY"), "{text}");
    assert!(text.contains("\"private_key\": {\n"), "{text}");
    assert!(text.contains("\"inline_string\": \"[redacted]\""), "{text}");
    let json = serde_json::from_str::<serde_json::Value>(&text).unwrap();
    let types = json["configs"].as_array().unwrap().iter().map(|config| config["@type"].as_str().unwrap());
    let types = types.map(|name| name.rsplit('.').next().unwrap()).collect::<Vec<_>>();
    assert_eq!(
        types,
        ["BootstrapConfigDump", "ClustersConfigDump", "EndpointsConfigDump", "ListenersConfigDump", "RoutesConfigDump"]
    );
    assert_eq!(json["configs"][1]["static_clusters"][0]["cluster"]["name"], "app");
    assert_eq!(json["configs"][1]["static_clusters"][0]["last_updated"], "2026-11-21T15:14:54Z");
    let endpoint = &json["configs"][2]["static_endpoint_configs"][0]["endpoint_config"]["endpoints"][0];
    assert_eq!(endpoint["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]["port_value"], 80);
    assert_eq!(json["configs"][4]["static_route_configs"][0]["route_config"]["name"], "local");
    let unknown = &json["configs"][3]["static_listeners"][0]["listener"]["filter_chains"][0]["filters"][0];
    assert_eq!(unknown["typed_config"]["value"]["type_url"], "type.googleapis.com/acme.Filter");
    assert_eq!(unknown["typed_config"]["value"]["value"], "AQID");
}

#[test]
fn a_dump_can_be_cut_down() {
    let fake = Fake::new();
    let json = fake.json("/config_dump?mask=bootstrap.node.id");
    let bootstrap = serde_json::json!({
        "@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump", "bootstrap": {"node": {"id": "sidecar~1"}}
    });
    assert_eq!(json, serde_json::json!({"configs": [bootstrap]}));
    let json = fake.json("/config_dump?resource=static_clusters&mask=cluster.name&name_regex=d.*");
    let cluster = serde_json::json!({
        "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.StaticCluster",
        "cluster": {"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "db"},
    });
    assert_eq!(json, serde_json::json!({"configs": [cluster]}));
    assert_eq!(fake.get("/config_dump?resource=dynamic_listeners"), (200, "{}\n".to_owned()));
    assert_eq!(
        fake.get("/config_dump?resource=bootstrap"),
        (400, "bootstrap is not a repeated field. Use ?mask=bootstrap to get only this field".to_owned())
    );
    assert_eq!(fake.get("/config_dump?resource=nope"), (404, "nope not found in config dump".to_owned()));
    assert_eq!(fake.get("/config_dump?mask=nope").0, 400);
    assert_eq!(fake.get("/config_dump?name_regex=(").0, 400);
}

#[test]
fn clusters_have_a_line_for_each_fact() {
    let fake = Fake::new();
    let (_, text) = fake.get("/clusters?filter=^app");
    for line in [
        "app::observability_name::app",
        "app::default_priority::max_connections::1024",
        "app::added_via_api::false",
        "app::10.0.0.1:80::rq_total::3",
        "app::10.0.0.1:80::health_flags::/failed_eds_health",
        "app::10.0.0.1:80::weight::1",
        "app::10.0.0.1:80::success_rate::-1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(!text.contains("db::"));
    let json = fake.json("/clusters?format=json");
    assert_eq!(json["cluster_statuses"][0]["host_statuses"][0]["stats"][0]["value"], "3");
    assert_eq!(json["cluster_statuses"][1]["name"], "db");
}

#[test]
fn the_rest_answers_as_envoy_does() {
    let fake = Fake::new();
    assert_eq!(fake.get("/listeners"), (200, "web::127.0.0.1:8080\n".to_owned()));
    let listeners = fake.json("/listeners?format=json");
    assert_eq!(listeners["listener_statuses"][0]["local_address"]["socket_address"]["port_value"], 8080);
    assert_eq!(fake.get("/init_dump"), (200, "{}\n".to_owned()));
    assert_eq!(fake.json("/certs"), serde_json::json!({"certificates": []}));
    let info = fake.json("/server_info");
    assert_eq!(info["state"], "LIVE");
    assert_eq!(info["uptime_current_epoch"], "7s");
    assert_eq!(info["node"]["id"], "sidecar~1");
    assert_eq!(info["command_line_options"]["mode"], "Serve");
    assert_eq!(fake.json("/runtime")["entries"]["health_check.min_interval"]["final_value"], "5");
    assert!(fake.json("/memory")["total_physical_bytes"].is_string());
    assert!(fake.get("/").1.contains("<a href=\"/stats\">stats</a>"));
}

#[test]
fn a_wrong_level_is_refused_with_usage() {
    let fake = Fake::new();
    for query in ["level=loud", "nobody=info", "paths=http", "paths=http:loud"] {
        let (status, text) = fake.answer("POST", &format!("/logging?{query}"));
        assert_eq!(status, 400, "{query}");
        assert!(text.starts_with("error: ") && text.contains("usage: /logging?level=<level>"), "{text}");
    }
    assert!(fake.answer("POST", "/logging").1.starts_with("active loggers:\n  admin: "));
}
