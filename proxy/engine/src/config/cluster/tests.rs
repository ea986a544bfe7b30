use super::*;
use crate::config::bootstrap::Bootstrap;
use crate::config::endpoint::EndpointAddress;
use crate::config::report::Report;
use crate::source::Source;

/// A static cluster with `hosts` and defaults for the rest.
pub(crate) fn cluster(hosts: HostSet) -> Cluster {
    Cluster {
        name: "c".into(),
        alt_stat_name: None,
        discovery: Discovery::Static(Arc::new(hosts)),
        connect_timeout: Duration::from_secs(5),
        protocol: HttpProtocol::Http1(Http1Options::default()),
        idle_timeout: None,
        max_requests_per_connection: None,
        max_connection_duration: None,
        max_stream_duration: None,
        max_response_headers_bytes: 60 << 10,
        max_response_headers_count: 100,
        auto_sni: false,
        auto_san_validation: false,
        override_auto_sni_header: None,
        tls: None,
        tcp_keepalive: None,
        bind: None,
        load_balancing: LoadBalancing::default(),
        circuit_breakers: CircuitBreakers::default(),
        wait_for_warm_on_init: true,
    }
}

/// The cluster whose fields are `yaml` (beside its name), or what is wrong with it, without line numbers.
fn read(yaml: &str) -> Result<Arc<Cluster>, Vec<String>> {
    read_noting(yaml).map(|(cluster, _)| cluster)
}

/// The cluster, and what is harmless in it.
fn read_noting(yaml: &str) -> Result<(Arc<Cluster>, Vec<String>), Vec<String>> {
    let fields: String = yaml.lines().map(|line| format!("    {line}\n")).collect();
    let text = format!("static_resources:\n  clusters:\n  - name: c\n{fields}");
    let report = Report::new();
    let bootstrap = Bootstrap::read(&[Source::new("b.yaml", &text)], &report);
    let rejected = report.is_rejected();
    let (problems, harmless) = report.into_parts();
    let within = |path: &str| path.trim_start_matches("static_resources.clusters[0].").to_owned();
    match bootstrap {
        Some(bootstrap) if !rejected => {
            let harmless = harmless.iter().map(|h| format!("{}: {}", within(&h.path), h.reason)).collect();
            Ok((bootstrap.clusters.into_iter().next().unwrap(), harmless))
        }
        _ => Err(problems.iter().map(|p| format!("{}: {}: {}", within(&p.path), p.value, p.reason)).collect()),
    }
}

fn options(yaml: &str) -> Result<Arc<Cluster>, Vec<String>> {
    let fields: String = yaml.lines().map(|line| format!("    {line}\n")).collect();
    read(&format!(
        "typed_extension_protocol_options:\n  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n    \
         \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n{fields}"
    ))
}

#[test]
fn a_name_suffices_and_the_rest_is_envoys_defaults() {
    let cluster = read("").unwrap();
    let Discovery::Static(hosts) = &cluster.discovery else { panic!() };
    assert!(hosts.is_empty());
    assert_eq!(cluster.connect_timeout, Duration::from_secs(5));
    assert_eq!(cluster.idle_timeout, Some(Duration::from_secs(3600)));
    assert!(matches!(cluster.protocol, HttpProtocol::Http1(_)));
    assert_eq!(cluster.load_balancing, LoadBalancing::default());
    assert_eq!(cluster.circuit_breakers, CircuitBreakers::default());
    assert_eq!(cluster.max_response_headers_bytes, 60 << 10);
}

#[test]
fn static_hosts_are_addresses() {
    let endpoint = |address: &str| {
        format!(
            "load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [\n  {{ endpoint: {{ address: {{ socket_address: {{ \
             address: {address:?}, port_value: 80 }} }} }}, load_balancing_weight: 3 }}] }}] }}"
        )
    };
    let cluster = read(&endpoint("10.0.0.1")).unwrap();
    let Discovery::Static(hosts) = &cluster.discovery else { panic!() };
    let member = hosts.members().next().unwrap();
    assert_eq!((&*member.host.display, member.weight), ("10.0.0.1:80", 3));
    assert_eq!(
        read(&endpoint("db.local")).unwrap_err(),
        ["load_assignment.endpoints[0].lb_endpoints[0].endpoint.address: db.local: \
          must be an IP address: names need type STRICT_DNS or LOGICAL_DNS"]
    );
}

#[test]
fn dns_clusters_keep_names_and_how_to_resolve_them() {
    let assignment = "load_assignment: { cluster_name: c, endpoints: [{ lb_endpoints: [{ endpoint: { address: { \
                      socket_address: { address: db.local, port_value: 80 } } } }] }] }";
    let cluster = read(&format!(
        "type: STRICT_DNS\ndns_lookup_family: V4_ONLY\nrespect_dns_ttl: true\ndns_refresh_rate: 60s\n\
         dns_failure_refresh_rate: {{ base_interval: 1s }}\n{assignment}"
    ))
    .unwrap();
    let Discovery::StrictDns(dns) = &cluster.discovery else { panic!() };
    assert_eq!(
        dns.assignment.localities[0].endpoints[0].address,
        EndpointAddress::Name { host: "db.local".into(), port: 80 }
    );
    assert_eq!((dns.family, dns.respect_ttl, dns.refresh_rate), (DnsFamily::V4Only, true, Duration::from_secs(60)));
    assert_eq!(dns.failure_refresh_rate, Some((Duration::from_secs(1), Duration::from_secs(10))));

    let cluster = read(&format!(
        "cluster_type:\n  name: envoy.cluster.dns\n  typed_config:\n    \
         \"@type\": type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster\n    \
         all_addresses_in_single_endpoint: true\n{assignment}"
    ))
    .unwrap();
    assert!(matches!(cluster.discovery, Discovery::LogicalDns(_)));
    assert_eq!(
        read("type: LOGICAL_DNS").unwrap_err(),
        ["load_assignment: : LOGICAL_DNS has one group of endpoints with one endpoint in it"]
    );
}

#[test]
fn the_protocol_comes_from_the_extension_or_from_the_old_fields() {
    let cluster = options(
        "explicit_http_config: { http2_protocol_options: {} }\n\
                           common_http_protocol_options: { idle_timeout: 0s, max_requests_per_connection: 7 }\n\
                           upstream_http_protocol_options: { auto_sni: true }",
    )
    .unwrap();
    assert!(matches!(cluster.protocol, HttpProtocol::Http2(_)));
    assert_eq!((cluster.idle_timeout, cluster.max_requests_per_connection), (None, Some(7)));
    assert!(cluster.auto_sni && !cluster.auto_san_validation);

    assert!(matches!(read("http2_protocol_options: {}").unwrap().protocol, HttpProtocol::Http2(_)));
    assert!(matches!(
        read("protocol_selection: USE_DOWNSTREAM_PROTOCOL").unwrap().protocol,
        HttpProtocol::UseDownstream { .. }
    ));
    assert_eq!(
        read("http_protocol_options: {}\nhttp2_protocol_options: {}").unwrap_err(),
        ["http2_protocol_options: : only one of http_protocol_options, http2_protocol_options may be set"]
    );
    assert_eq!(
        options("auto_config: {}").unwrap_err(),
        ["transport_socket: : auto_config chooses by ALPN, so it needs TLS"]
    );
    assert_eq!(options("{}").unwrap_err().len(), 1);
    let override_ = "override_stream_error_on_invalid_http_message: true";
    assert_eq!(
        read(&format!("http2_protocol_options: {{ {override_} }}")).unwrap_err(),
        [
            "http2_protocol_options.override_stream_error_on_invalid_http_message: true: not in this version: a malformed \
          response ends its connection"
        ]
    );
}

#[test]
fn what_speaks_of_a_downstream_is_said_to_be_harmless() {
    let text = "static_resources: { clusters: [\n\
        { name: a, http_protocol_options: { allow_absolute_url: true, accept_http_10: true, \
          default_host_for_http_10: x, allow_custom_methods: true, enable_trailers: true } },\n\
        { name: b, http2_protocol_options: { max_inbound_priority_frames_per_stream: 5, \
          max_inbound_window_update_frames_per_data_frame_sent: 5, max_concurrent_streams: 5 } }] }";
    let report = Report::new();
    assert!(Bootstrap::read(&[Source::new("b.yaml", text)], &report).is_some() && !report.is_rejected());
    let harmless: Vec<String> = report.into_parts().1.into_iter().map(|note| note.path).collect();
    let (http1, http2) = ("clusters[0].http_protocol_options", "clusters[1].http2_protocol_options");
    assert_eq!(
        harmless,
        [
            format!("static_resources.{http1}.allow_absolute_url"),
            format!("static_resources.{http1}.accept_http_10"),
            format!("static_resources.{http1}.default_host_for_http_10"),
            format!("static_resources.{http1}.allow_custom_methods"),
            format!("static_resources.{http2}.max_inbound_priority_frames_per_stream"),
            format!("static_resources.{http2}.max_inbound_window_update_frames_per_data_frame_sent"),
        ]
    );
}

#[test]
fn a_name_is_not_checked_on_a_certificate_that_nobody_vouches_for() {
    let with = |validation: &str| {
        read(&format!(
            "upstream_http_protocol_options: {{ auto_sni: true, auto_san_validation: true }}\n\
             transport_socket:\n  name: tls\n  typed_config:\n    \
             \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext\n    \
             common_tls_context: {{ {validation} }}"
        ))
        .map(|cluster| cluster.auto_san_validation)
    };
    let refused = Err(vec![
        "transport_socket: : auto_san_validation needs a trusted_ca: a name that nobody vouches for says nothing"
            .to_owned(),
    ]);
    assert_eq!(with(""), refused);
    let hash = "df6ff72fe9116521268f6f2dd4966f51df479883fe7037b39f75916ac3049d1a";
    assert_eq!(with(&format!("validation_context: {{ verify_certificate_hash: [{hash}] }}")), refused);
    assert_eq!(with("validation_context: { trusted_ca: { filename: /ca.pem } }"), Ok(true));
}

#[test]
fn policies_are_read_old_and_typed() {
    let least = |choices, full_scan| LbPolicy::LeastRequest { choices, active_request_bias: 1.0, full_scan };
    assert_eq!(read("lb_policy: LEAST_REQUEST").unwrap().load_balancing.policy, least(2, false));
    assert_eq!(
        read("lb_policy: LEAST_REQUEST\nleast_request_lb_config: { choice_count: 1 }").unwrap_err(),
        ["least_request_lb_config.choice_count: 1: must be at least 2"]
    );
    let typed = |policies: &str| {
        read(&format!("lb_policy: RING_HASH\nload_balancing_policy:\n  policies:\n{policies}"))
            .map(|cluster| cluster.load_balancing.clone())
    };
    let policy = |name: &str, more: &str| {
        format!(
            "  - typed_extension_config:\n      name: x\n      typed_config: {{ \"@type\": \
             type.googleapis.com/envoy.extensions.load_balancing_policies.{name}{more} }}\n"
        )
    };
    let list = policy("least_request.v3.LeastRequest", ", choice_count: 3, selection_method: FULL_SCAN")
        + &policy("random.v3.Random", "");
    assert_eq!(typed(&list).unwrap().policy, least(3, true), "the first that is known holds");
    let common =
        read("common_lb_config: { healthy_panic_threshold: { value: 12.6 }, locality_weighted_lb_config: {} }");
    let common = &common.unwrap().load_balancing;
    assert_eq!((common.panic_threshold, common.locality_weighted), (13, true));
    assert_eq!(read("lb_policy: MAGLEV").unwrap_err(), ["lb_policy: MAGLEV: not in this version: hashing comes later"]);
}

#[test]
fn an_lb_config_that_nobody_reads_is_harmless_and_keeps_its_bounds() {
    let harmless = |yaml: &str| read_noting(yaml).map(|(_, harmless)| harmless).unwrap();
    let unread = |name: &str| format!("{name}: the policy of the cluster does not read it");
    assert_eq!(harmless("least_request_lb_config: { choice_count: 2 }"), [unread("least_request_lb_config")]);
    assert_eq!(harmless("lb_policy: LEAST_REQUEST\nring_hash_lb_config: {}"), [unread("ring_hash_lb_config")]);
    assert_eq!(
        harmless("lb_policy: RANDOM\nround_robin_lb_config: { slow_start_config: {} }"),
        [unread("round_robin_lb_config")]
    );
    let typed = "load_balancing_policy:\n  policies:\n  - typed_extension_config:\n      name: x\n      typed_config: \
                 { \"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.random.v3.Random }\n";
    assert_eq!(
        harmless(&format!("{typed}lb_policy: MAGLEV\nmaglev_lb_config: {{ table_size: 5000011 }}")),
        ["lb_policy: load_balancing_policy replaces it".to_owned(), unread("maglev_lb_config")]
    );
    assert_eq!(harmless(&format!("{typed}lb_policy: LOAD_BALANCING_POLICY_CONFIG")), [""; 0]);
    for (yaml, problem) in [
        ("least_request_lb_config: { choice_count: 1 }", "least_request_lb_config.choice_count: 1: must be at least 2"),
        (
            "lb_policy: LEAST_REQUEST\nround_robin_lb_config: { slow_start_config: { min_weight_percent: { value: 101 } } }",
            "round_robin_lb_config.slow_start_config.min_weight_percent.value: 101: must be 0 to 100",
        ),
        (
            "ring_hash_lb_config: { minimum_ring_size: 8388609 }",
            "ring_hash_lb_config.minimum_ring_size: 8388609: must be at most 8388608",
        ),
        ("maglev_lb_config: { table_size: 5000012 }", "maglev_lb_config.table_size: 5000012: must be at most 5000011"),
        (
            "original_dst_lb_config: { upstream_port_override: 65536 }",
            "original_dst_lb_config.upstream_port_override: 65536: must be at most 65535",
        ),
        (
            "common_lb_config: { consistent_hashing_lb_config: { hash_balance_factor: 99 } }",
            "common_lb_config.consistent_hashing_lb_config.hash_balance_factor: 99: must be at least 100",
        ),
        (
            "common_lb_config: { zone_aware_lb_config: { routing_enabled: { value: 101 } } }",
            "common_lb_config.zone_aware_lb_config.routing_enabled.value: 101: must be 0 to 100",
        ),
    ] {
        assert_eq!(read(yaml).unwrap_err(), [problem]);
    }
    for field in ["locality_weighted_lb_config", "zone_aware_lb_config", "consistent_hashing_lb_config"] {
        assert_eq!(
            read(&format!("{typed}common_lb_config: {{ {field}: {{}} }}")).unwrap_err(),
            [format!("common_lb_config.{field}: : load_balancing_policy has its own: it cannot be combined with it")]
        );
    }
}

#[test]
fn breakers_are_read_by_priority_and_the_first_holds() {
    let cluster = read(
        "circuit_breakers:\n  thresholds:\n  - { priority: HIGH, max_requests: 5 }\n  \
                        - { max_connections: 7, retry_budget: {} }\n  - { max_connections: 8 }\n  \
                        per_host_thresholds: [{ max_connections: 2 }]",
    );
    let breakers = &cluster.unwrap().circuit_breakers;
    assert_eq!((breakers.default.max_connections, breakers.high.max_requests), (7, 5));
    assert_eq!(breakers.default.retry_budget, Some(RetryBudget { percent: 20.0, min_concurrency: 3 }));
    assert_eq!(breakers.max_connections_per_host, Some(2));
}

#[test]
fn sockets_to_upstreams_are_prepared() {
    let cluster = read(
        "upstream_bind_config: { source_address: { address: 127.0.0.6, port_value: 0 }, \
                        extra_source_addresses: [{ address: { address: \"::6\", port_value: 0 } }] }\n\
                        upstream_connection_options: { tcp_keepalive: { keepalive_time: 300 } }",
    );
    let cluster = cluster.unwrap();
    let bind = cluster.bind.unwrap();
    assert_eq!(bind.source_for(&"10.0.0.1:80".parse().unwrap()), Some("127.0.0.6:0".parse().unwrap()));
    assert_eq!(bind.source_for(&"[::1]:80".parse().unwrap()), Some("[::6]:0".parse().unwrap()));
    assert_eq!(cluster.tcp_keepalive.unwrap().time, Some(Duration::from_secs(300)));
}

#[test]
fn what_is_not_there_yet_is_refused_by_name() {
    let problems = read(
        "connect_timeout: 0s\ntype: ORIGINAL_DST\noutlier_detection: {}\nhealth_checks: []\n\
                         lb_subset_config: {}",
    )
    .unwrap_err();
    assert_eq!(
        problems,
        [
            "outlier_detection: : not in this version: outlier detection comes later",
            "lb_subset_config: : not in this version: subsets come later",
            "connect_timeout: 0s: must be greater than 0s",
            "type: ORIGINAL_DST: not in this version: it comes with interception",
        ]
    );
}
