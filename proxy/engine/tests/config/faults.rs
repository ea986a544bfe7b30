//! Two hundred bootstraps with one fault each: every one is refused, with the field's path, value, reason and line.

use outrigger_engine::config::bootstrap::Bootstrap;
use outrigger_engine::source::Source;

use crate::FULL;

/// A fault: what is replaced (it occurs once), by what, the end of the field's path, and a part of the reason.
type Fault = (&'static str, &'static str, &'static str, &'static str);

#[test]
fn every_fault_is_refused_with_path_value_reason_and_line() {
    assert!(FAULTS.len() >= 200, "{} faults", FAULTS.len());
    let mut wrong = String::new();
    for fault in FAULTS {
        if let Err(complaint) = check(fault) {
            wrong += &format!("{:?} -> {:?}\n    {complaint}\n", fault.0, fault.1);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn check(&(find, replace, path, reason): &Fault) -> Result<(), String> {
    let (before, after) = FULL.split_once(find).ok_or("is not in the bootstrap")?;
    if after.contains(find) {
        return Err("is in the bootstrap more than once".to_owned());
    }
    let text = format!("{before}{replace}{after}");
    let first_line = before.matches('\n').count() + 1;
    let last_line = first_line + replace.matches('\n').count();
    let problems = match Bootstrap::load(&[Source::new("full.yaml", &text)]) {
        Ok(_) => return Err("is accepted".to_owned()),
        Err(problems) => problems,
    };
    let [problem] = problems.as_slice() else {
        let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
        return Err(format!("{} problems:\n        {}", all.len(), all.join("\n        ")));
    };
    if !problem.path.ends_with(path) || !problem.reason.contains(reason) {
        return Err(format!("expected {path}: {reason}, got: {problem}"));
    }
    // What is shown was written there, an address or a type URL perhaps in pieces; a whole message is called what it is.
    let shown = problem.value.trim_matches('"').trim_start_matches("type.googleapis.com/");
    if !["a list", "a mapping"].contains(&shown)
        && !text.contains(shown)
        && !shown.split(':').all(|piece| text.contains(piece))
    {
        return Err(format!("the value is not what was written: {problem}"));
    }
    let location = problem.location.as_ref().ok_or("has no place")?;
    let line = location.line as usize;
    // What is missing is reported where the message around it starts.
    let earliest = if problem.value.is_empty() { 1 } else { first_line };
    // A parser may notice only later that the text is not YAML.
    if line < earliest || (line > last_line && !problem.path.is_empty()) {
        return Err(format!("expected line {first_line} to {last_line}, got: {problem}"));
    }
    Ok(())
}

const FAULTS: &[Fault] = &[
    // Form: unknown fields.
    ("  id: sidecar-1", "  ident: sidecar-1", "node.ident", "no such field"),
    (
        "stat_prefix: inbound_tls",
        "stat_prefix: inbound_tls\n                statprefix: x",
        ".typed_config.statprefix",
        "did you mean \"stat_prefix\"?",
    ),
    ("type: STATIC\n", "type: STATIC\n      typ: STATIC\n", "clusters[0].typ", "did you mean \"type\"?"),
    (
        "connect_timeout: 0.25s",
        "connect_timeout: 0.25s\n      conect_timeout: 1s",
        "clusters[0].conect_timeout",
        "did you mean \"connect_timeout\"?",
    ),
    ("prefix_rewrite: /w", "prefix_rewrites: /w", "route.prefix_rewrites", "did you mean \"prefix_rewrite\""),
    ("case_sensitive: false", "caseInsensitive: true", "match.caseInsensitive", "no such field"),
    ("num_retries: 3", "num_retry: 3", "retry_policy.num_retry", "did you mean \"num_retries\"?"),
    ("sni: secure.example.test", "sni_name: secure.example.test", "typed_config.sni_name", "no such field"),
    ("max_pending_requests: 200", "max_pending: 200", "thresholds[0].max_pending", "no such field"),
    (
        "static_resources:",
        "static_resource: {}\nstatic_resources:",
        "static_resource",
        "did you mean \"static_resources\"",
    ),
    ("path: /dev/stdout", "path: /dev/stdout\n                    mode: 0644", "typed_config.mode", "no such field"),
    ("keepalive_probes: 3", "probes: 3", "tcp_keepalive.probes", "no such field"),
    // Form: fields that are there twice.
    ("type: STRICT_DNS", "type: STRICT_DNS\n      type: STRICT_DNS", "clusters[1].type", "is there twice"),
    (
        "dns_refresh_rate: 60s",
        "dns_refresh_rate: 60s\n      dnsRefreshRate: 60s",
        "clusters[1].dns_refresh_rate",
        "is there twice",
    ),
    ("role: sidecar, ", "role: sidecar, role: gateway, ", "node.metadata[\"role\"]", "is there twice"),
    (
        "num_retries: 3",
        "num_retries: 3\n                      num_retries: 3",
        "retry_policy.num_retries",
        "is there twice",
    ),
    (
        "codec_type: HTTP2",
        "codec_type: HTTP2\n                codec_type: HTTP2",
        "typed_config.codec_type",
        "is there twice",
    ),
    // Form: types.
    ("  cluster: shop", "  cluster: 7", "node.cluster", "must be a string"),
    ("  cluster: shop", "  cluster: [shop]", "node.cluster", "must be a string"),
    ("  cluster: shop", "  cluster: yes", "node.cluster", "must be a string"),
    ("locality: { region: eu, zone: a, sub_zone: a1 }", "locality: eu", "node.locality", "must be a mapping"),
    ("metadata: { role: sidecar, weight: 3 }", "metadata: [role]", "node.metadata", "must be a mapping"),
    ("port_value: 9901", "port_value: http", "socket_address.port_value", "must be an integer"),
    ("port_value: 9901", "port_value: -1", "socket_address.port_value", "must be an integer"),
    ("port_value: 9901", "port_value: 4294967296", "socket_address.port_value", "must be an integer"),
    ("port_value: 9901", "port_value: 80.5", "socket_address.port_value", "must be an integer"),
    ("port_value: 9901", "port_value: true", "socket_address.port_value", "must be an integer"),
    ("tcp_backlog_size: 512", "tcp_backlog_size: {}", "listeners[0].tcp_backlog_size", "must be an integer"),
    (
        "require_client_certificate: true",
        "require_client_certificate: \"true\"",
        "require_client_certificate",
        "must be true or false",
    ),
    (
        "require_client_certificate: true",
        "require_client_certificate: 1",
        "require_client_certificate",
        "must be true or false",
    ),
    ("merge_slashes: true", "merge_slashes: maybe", "merge_slashes", "must be true or false"),
    (
        "domains: [shop.example.test, \"*.shop.example.test\"]",
        "domains: shop.example.test",
        "virtual_hosts[0].domains",
        "must be a list",
    ),
    ("server_names: [example.test, \"*.example.test\"]", "server_names: [80]", "server_names[0]", "must be a string"),
    ("source_ports: [1024, 1025]", "source_ports: [1024, x]", "source_ports[1]", "must be an integer"),
    ("source_ports: [1024, 1025]", "source_ports: 1024", "source_ports", "must be a list"),
    (
        "healthy_panic_threshold: { value: 40 }",
        "healthy_panic_threshold: { value: forty }",
        "healthy_panic_threshold.value",
        "must be a number",
    ),
    (
        "healthy_panic_threshold: { value: 40 }",
        "healthy_panic_threshold: 40",
        "healthy_panic_threshold",
        "must be a mapping",
    ),
    ("budget_percent: { value: 25 }", "budget_percent: 25", "retry_budget.budget_percent", "must be a mapping"),
    (
        "retriable_status_codes: [503]",
        "retriable_status_codes: [\"x\"]",
        "retriable_status_codes[0]",
        "must be an integer",
    ),
    ("range_match: { start: 1, end: 10 }", "range_match: 1-10", "headers[1].range_match", "must be a mapping"),
    (
        "json_format: { status: \"%RESPONSE_CODE%\", flags: \"%RESPONSE_FLAGS%\" }",
        "json_format: text",
        "log_format.json_format",
        "must be a mapping",
    ),
    ("inline_string: nothing here", "inline_bytes: \"not base64!\"", "body.inline_bytes", "must be base64"),
    (
        "  listeners:\n    - name: inbound\n",
        "  listeners:\n    - just-a-string\n    - name: inbound\n",
        "listeners[0]",
        "must be a mapping",
    ),
    (
        "layers:\n    - name: static-values",
        "layers:\n    - 7\n    - name: static-values",
        "layers[0]",
        "must be a mapping",
    ),
    // Form: enumerations.
    ("type: STATIC\n", "type: STATICS\n", "clusters[0].type", "did you mean \"STATIC\"?"),
    ("type: LOGICAL_DNS", "type: logical_dns", "clusters[2].type", "did you mean \"LOGICAL_DNS\"?"),
    ("type: LOGICAL_DNS", "type: 99", "clusters[2].type", "not a value"),
    (
        "lb_policy: LEAST_REQUEST",
        "lb_policy: LEAST_REQUESTS",
        "clusters[0].lb_policy",
        "did you mean \"LEAST_REQUEST\"?",
    ),
    ("codec_type: HTTP2", "codec_type: HTTP/2", "codec_type", "not a value"),
    ("traffic_direction: INBOUND", "traffic_direction: IN", "traffic_direction", "not a value"),
    (
        "tls_minimum_protocol_version: TLSv1_2",
        "tls_minimum_protocol_version: TLS1.2",
        "tls_minimum_protocol_version",
        "not a value",
    ),
    ("require_tls: NONE", "require_tls: ALWAYS", "require_tls", "not a value"),
    ("response_code: FOUND", "response_code: 302", "redirect.response_code", "not a value"),
    (
        "priority: HIGH\n                      - name: weighted",
        "priority: HIGHEST\n                      - name: weighted",
        "route.priority",
        "not a value",
    ),
    ("health_status: HEALTHY", "health_status: GOOD", "health_status", "not a value"),
    ("dns_lookup_family: V4_ONLY", "dns_lookup_family: IPV4", "dns_lookup_family", "not a value"),
    ("denominator: HUNDRED", "denominator: THOUSAND", "denominator", "not a value"),
    ("san_type: URI", "san_type: URL", "san_type", "not a value"),
    (
        "comparison: { op: GE, value: { default_value: 500",
        "comparison: { op: GT, value: { default_value: 500",
        "comparison.op",
        "not a value",
    ),
    ("source_type: EXTERNAL", "source_type: INTERNAL", "source_type", "not a value"),
    ("append_action: OVERWRITE_IF_EXISTS_OR_ADD", "append_action: OVERWRITE", "append_action", "not a value"),
    (
        "server_header_transformation: APPEND_IF_ABSENT",
        "server_header_transformation: APPEND",
        "server_header_transformation",
        "not a value",
    ),
    (
        "path_with_escaped_slashes_action: REJECT_REQUEST",
        "path_with_escaped_slashes_action: REJECT",
        "path_with_escaped_slashes_action",
        "not a value",
    ),
    (
        "forward_client_cert_details: SANITIZE_SET",
        "forward_client_cert_details: SET",
        "forward_client_cert_details",
        "not a value",
    ),
    ("statuses: [UNAVAILABLE]", "statuses: [BROKEN]", "statuses[0]", "not a value"),
    ("protocol: TCP", "protocol: SCTP", "socket_address.protocol", "not a value"),
    // Form: durations.
    ("connect_timeout: 0.25s", "connect_timeout: 250ms", "clusters[0].connect_timeout", "must be a duration"),
    ("connect_timeout: 0.25s", "connect_timeout: 1", "clusters[0].connect_timeout", "must be a duration"),
    ("connect_timeout: 0.25s", "connect_timeout: 1m", "clusters[0].connect_timeout", "must be a duration"),
    ("connect_timeout: 0.25s", "connect_timeout: .25s", "clusters[0].connect_timeout", "must be a duration"),
    ("connect_timeout: 0.25s", "connect_timeout: { seconds: 1 }", "clusters[0].connect_timeout", "must be a duration"),
    ("connect_timeout: 0.25s", "connect_timeout: 999999999999s", "clusters[0].connect_timeout", "must be a duration"),
    ("per_try_timeout: 2s", "per_try_timeout: 2 s", "retry_policy.per_try_timeout", "must be a duration"),
    ("session_timeout: 7200s", "session_timeout: 2h", "session_timeout", "must be a duration"),
    ("drain_timeout: 5s", "drain_timeout: five", "drain_timeout", "must be a duration"),
    ("base_interval: 0.025s", "base_interval: 25", "retry_back_off.base_interval", "must be a duration"),
    (
        "keepalive: { interval: 30s",
        "keepalive: { interval: 1e3s",
        "connection_keepalive.interval",
        "must be a duration",
    ),
    // Form: extensions.
    (
        "filters.http.router.v3.Router\n      default_filter_chain",
        "filters.http.route.v3.Router\n      default_filter_chain",
        "http_filters[0].typed_config.@type",
        "unknown, or not in this version",
    ),
    (
        "        \"@type\": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig\n",
        "",
        "resource_monitors[0].typed_config.@type",
        "is missing",
    ),
    (
        "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
        "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
        "transport_socket.typed_config.@type",
        "must be type.googleapis.com/",
    ),
    (
        "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
        "7",
        "transport_socket.typed_config.@type",
        "unknown",
    ),
    (
        "load_balancing_policies.random.v3.Random",
        "load_balancing_policies.ring_hash.v3.RingHash",
        "typed_config.@type",
        "unknown, or not in this version",
    ),
    (
        "load_balancing_policies.random.v3.Random",
        "load_balancing_policies.randm.v3.Random",
        "typed_config.@type",
        "did you mean \"envoy.extensions.load_balancing_policies.random.v3.Random\"",
    ),
    (
        "retry.host.previous_hosts.v3.PreviousHostsPredicate",
        "retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate",
        "typed_config.@type",
        "unknown, or not in this version",
    ),
    (
        "access_loggers.stream.v3.StderrAccessLog",
        "access_loggers.wasm.v3.WasmAccessLog",
        "access_log[0].typed_config.@type",
        "unknown, or not in this version",
    ),
    // Form: two members of one oneof.
    (
        "trusted_ca: { filename: /etc/ssl/certs/ca-certificates.crt }",
        "trusted_ca: { filename: /ca.pem, inline_string: x }",
        "trusted_ca.inline_string",
        "only one of",
    ),
    (
        "prefix_rewrite: /w\n",
        "prefix_rewrite: /w\n                          cluster: static-upstream\n",
        "route.weighted_clusters",
        "only one of",
    ),
    ("path: /exact", "path: /exact\n                          prefix: /exact", "match.prefix", "only one of"),
    (
        "direct_response:\n",
        "redirect: {}\n                        direct_response:\n",
        "routes[4].direct_response",
        "only one of",
    ),
    ("port_value: 15006 }", "port_value: 15006, named_port: x }", "socket_address.named_port", "only one of"),
    // Form: YAML itself.
    ("node:\n", "node: [\n", "", "not YAML"),
    ("admin:\n", "\tadmin:\n", "", "not YAML"),
    ("sub_zone: a1 }", "sub_zone: a1", "", "not YAML"),
    ("admin_layer: {}", "admin_layer: *nobody", "", "not YAML"),
    // Listeners.
    ("port_value: 15006", "port_value: 70000", "address.socket_address.port_value", "at most 65535"),
    ("address: 0.0.0.0", "address: localhost", "address.socket_address.address", "must be an IP address"),
    ("address: 0.0.0.0", "address: 0.0.0", "address.socket_address.address", "must be an IP address"),
    (", port_value: 15006", "", "listeners[0].address.socket_address.port_value", "is required"),
    ("protocol: TCP", "protocol: UDP", "socket_address.protocol", "not in this version"),
    ("path: /run/outrigger/tcp.sock", "path: \"\"", "address.pipe.path", "must not be empty"),
    (
        "port_value: 15006",
        "port_value: 15007, ipv4_compat: true }\n      use_original_dst: true\n      metadata: { filter_metadata: {}",
        "listeners[0].use_original_dst",
        "not in this version",
    ),
    (
        "listener_filters_timeout: 5s",
        "listener_filters_timeout: -5s",
        "listener_filters_timeout",
        "must not be negative",
    ),
    ("tcp_backlog_size: 512", "tcp_fast_open_queue_length: 512", "tcp_fast_open_queue_length", "not in this version"),
    (
        "tcp_backlog_size: 512",
        "socket_options: [{ level: 1, name: 2, int_value: 3 }]",
        "socket_options",
        "not in this version",
    ),
    ("tcp_backlog_size: 512", "drain_type: MODIFY_ONLY", "drain_type", "not in this version"),
    ("tcp_backlog_size: 512", "api_listener: {}", "api_listener", "not in this version"),
    ("tcp_backlog_size: 512", "udp_listener_config: {}", "udp_listener_config", "not in this version"),
    ("    - name: tcp\n", "    - name: inbound\n", "listeners[1].name", "another listener has this name"),
    (
        "address:\n        pipe: { path: /run/outrigger/tcp.sock }",
        "address:\n        socket_address: { address: 0.0.0.0, port_value: 15006 }",
        "listeners[1].address",
        "another listener has this address",
    ),
    ("- name: tls-inspector", "- name: \"\"", "listener_filters[0].name", "must not be empty"),
    (
        "initial_read_buffer_size: 512",
        "enable_ja3_fingerprinting: true",
        "typed_config.enable_ja3_fingerprinting",
        "not in this version",
    ),
    (
        "listener.http_inspector.v3.HttpInspector",
        "listener.original_dst.v3.OriginalDst",
        "listener_filters[1].typed_config.@type",
        "in this version",
    ),
    ("destination_port: 8443", "destination_port: 0", "destination_port", "1 to 65535"),
    ("destination_port: 8443", "destination_port: 65536", "destination_port", "1 to 65535"),
    (
        "address_prefix: 10.0.0.0, prefix_len: 8",
        "address_prefix: 10.0.0, prefix_len: 8",
        "prefix_ranges[0].address_prefix",
        "must be an IP address",
    ),
    ("prefix_len: 8", "prefix_len: 129", "prefix_ranges[0].prefix_len", "at most 128"),
    (
        "server_names: [example.test, \"*.example.test\"]",
        "server_names: [\"w*.example.test\"]",
        "server_names[0]",
        "wildcard",
    ),
    ("source_ports: [1024, 1025]", "source_ports: [0]", "source_ports[0]", "1 to 65535"),
    (
        "      default_filter_chain:\n",
        "        - name: mutual-tls-again\n          filter_chain_match: { destination_port: 8443, prefix_ranges: [{ address_prefix: 10.0.0.0, prefix_len: 8 }], server_names: [example.test], transport_protocol: tls, application_protocols: [h2], direct_source_prefix_ranges: [{ address_prefix: 10.1.0.0, prefix_len: 16 }], source_type: EXTERNAL, source_prefix_ranges: [{ address_prefix: 10.2.0.0, prefix_len: 16 }], source_ports: [1025] }\n          filters:\n            - name: tcp-again\n              typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: x, cluster: tls-upstream }\n      default_filter_chain:\n",
        "filter_chains[1].filter_chain_match",
        "filter_chains[0] takes as well",
    ),
    ("- name: tcp-proxy", "- name: \"\"", "filters[0].name", "must not be empty"),
    ("name: plain-socket", "name: \"\"", "transport_socket.name", "must not be empty"),
    (
        "transport_socket_connect_timeout: 15s",
        "transport_socket_connect_timeout: -1s",
        "transport_socket_connect_timeout",
        "must not be negative",
    ),
    (
        "transport_sockets.raw_buffer.v3.RawBuffer",
        "transport_sockets.tls.v3.UpstreamTlsContext",
        "transport_socket.typed_config.@type",
        "can stand here",
    ),
    (
        "    - name: tcp\n      address:\n        pipe: { path: /run/outrigger/tcp.sock }\n",
        "    - name: empty\n      address:\n        pipe: { path: /run/outrigger/empty.sock }\n    - name: tcp\n      address:\n        pipe: { path: /run/outrigger/tcp.sock }\n",
        "listeners[1].filter_chains",
        "is required",
    ),
    // TCP proxy.
    ("stat_prefix: tcp\n", "stat_prefix: \"\"\n", "typed_config.stat_prefix", "must not be empty"),
    ("max_connect_attempts: 3", "max_connect_attempts: 0", "max_connect_attempts", "at least 1"),
    (
        "max_downstream_connection_duration: 7200s",
        "max_downstream_connection_duration: 0s",
        "max_downstream_connection_duration",
        "at least 0.001s",
    ),
    ("idle_timeout: 600s", "idle_timeout: -600s", "idle_timeout", "must not be negative"),
    (
        "weight: 3 }\n                    - { name: dns-upstream, weight: 1 }",
        "weight: 0 }",
        "weighted_clusters.clusters[0].weight",
        "at least 1",
    ),
    (
        "- { name: static-upstream, weight: 3 }",
        "- { weight: 3 }",
        "weighted_clusters.clusters[0].name",
        "must not be empty",
    ),
    ("max_connect_attempts: 3", "tunneling_config: { hostname: x }", "tunneling_config", "not in this version"),
    (
        "max_connect_attempts: 3",
        "upstream_connect_mode: ON_DOWNSTREAM_DATA",
        "upstream_connect_mode",
        "not in this version",
    ),
    (
        "weighted_clusters:\n                  clusters:\n                    - { name: static-upstream, weight: 3 }\n                    - { name: dns-upstream, weight: 1 }",
        "cluster: \"\"",
        "typed_config.cluster",
        "must not be empty",
    ),
    (
        "                weighted_clusters:\n                  clusters:\n                    - { name: static-upstream, weight: 3 }\n                    - { name: dns-upstream, weight: 1 }\n",
        "",
        "filters[0].typed_config",
        "one of cluster, weighted_clusters is required",
    ),
    // HTTP connection manager.
    ("stat_prefix: inbound_plain", "stat_prefix: \"\"", "typed_config.stat_prefix", "must not be empty"),
    ("codec_type: HTTP2", "codec_type: HTTP3", "codec_type", "not in this version"),
    ("max_request_headers_kb: 96", "max_request_headers_kb: 0", "max_request_headers_kb", "1 to 8192"),
    ("max_request_headers_kb: 96", "max_request_headers_kb: 8193", "max_request_headers_kb", "1 to 8192"),
    ("max_headers_count: 200", "max_headers_count: 0", "max_headers_count", "at least 1"),
    ("stream_idle_timeout: 300s", "stream_idle_timeout: -1s", "stream_idle_timeout", "must not be negative"),
    ("server_name: edge", "server_name: \"ed\\nge\"", "server_name", "not a header value"),
    ("via: 1.1 edge", "via: \"1.1\\0edge\"", "via", "not a header value"),
    (
        "default_host_for_http_10: example.test",
        "default_host_for_http_10: \"a\\rb\"",
        "default_host_for_http_10",
        "not a header value",
    ),
    (
        "header_key_format: { proper_case_words: {} }",
        "header_key_format: {}",
        "header_key_format",
        "one of proper_case_words",
    ),
    ("upgrade_type: websocket", "upgrade_type: CONNECT", "upgrade_configs[0].upgrade_type", "not in this version"),
    ("upgrade_type: websocket", "upgrade_type: \"\"", "upgrade_configs[0].upgrade_type", "must be a token"),
    (
        "- upgrade_type: websocket",
        "- upgrade_type: websocket\n                - upgrade_type: WebSocket",
        "upgrade_configs[1].upgrade_type",
        "is there twice",
    ),
    (
        "max_concurrent_streams: 100",
        "max_concurrent_streams: 0",
        "http2_protocol_options.max_concurrent_streams",
        "must be 1 to",
    ),
    (
        "initial_stream_window_size: 65536",
        "initial_stream_window_size: 65534",
        "initial_stream_window_size",
        "must be 65535 to",
    ),
    (
        "initial_connection_window_size: 1048576",
        "initial_connection_window_size: 2147483648",
        "initial_connection_window_size",
        "must be 65535 to",
    ),
    ("timeout: 5s }", "timeout: 0s }", "connection_keepalive.timeout", "at least 0.001s"),
    (", timeout: 5s }", " }", "connection_keepalive.timeout", "is required"),
    (
        "via: 1.1 edge",
        "strip_matching_host_port: true\n              strip_any_host_port: true",
        "strip_matching_host_port",
        "cannot be set beside",
    ),
    ("via: 1.1 edge", "tracing: {}", "typed_config.tracing", "not in this version"),
    ("via: 1.1 edge", "local_reply_config: {}", "typed_config.local_reply_config", "not in this version"),
    ("via: 1.1 edge", "add_user_agent: true", "typed_config.add_user_agent", "not in this version"),
    ("- name: plain-router", "- name: \"\"", "http_filters[0].name", "must not be empty"),
    (
        "suppress_envoy_headers: false",
        "strict_check_headers: [x-envoy-retry-on]",
        "typed_config.strict_check_headers",
        "not in this version",
    ),
    (
        "- name: plain-router\n",
        "- name: plain-router\n                  disabled: true\n",
        "http_filters[0].disabled",
        "cannot be disabled",
    ),
    (
        "              http_filters:\n                - name: plain-router\n                  typed_config:\n                    \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router\n                    suppress_envoy_headers: false\n",
        "",
        "typed_config.http_filters",
        "must end with the router",
    ),
    (
        "                - name: plain-router\n",
        "                - name: first-router\n                  typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }\n                - name: plain-router\n",
        "http_filters[0]",
        "must be the last",
    ),
    // Routes.
    (
        "- name: shop\n                    domains",
        "- name: \"\"\n                    domains",
        "virtual_hosts[0].name",
        "must not be empty",
    ),
    (
        "domains: [shop.example.test, \"*.shop.example.test\"]",
        "domains: []",
        "virtual_hosts[0].domains",
        "at least one",
    ),
    (
        "domains: [shop.example.test, \"*.shop.example.test\"]",
        "domains: [a.test, A.test]",
        "virtual_hosts[0].domains[1]",
        "the same domain",
    ),
    (
        "ignore_port_in_host_matching: true",
        "ignore_port_in_host_matching: true\n                internal_only_headers: [x-internal]",
        "route_config.internal_only_headers",
        "not in this version",
    ),
    ("key: x-from", "key: \"x from\"", "header.key", "header name"),
    ("key: x-from", "key: \":path\"", "header.key", ":"),
    ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "%NO_SUCH_OPERATOR%", "header.value", "no such operator"),
    ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "%REQ(x-from%", "header.value", ""),
    (
        "response_headers_to_remove: [x-powered-by]",
        "response_headers_to_remove: [\"\"]",
        "response_headers_to_remove[0]",
        "must not be empty",
    ),
    ("regex: \"v[0-9]+\"", "regex: \"v[0-9\"", "safe_regex.regex", ""),
    ("regex: \"/items/[0-9]+\"", "regex: \"(\"", "safe_regex.regex", ""),
    ("pattern: { regex: \"^/items/(.*)$\" }", "pattern: { regex: \"*\" }", "pattern.regex", ""),
    ("substitution: /i/\\1", "substitution: /i/\\7", "substitution", ""),
    ("cluster_header: x-cluster", "cluster_header: \"x cluster\"", "cluster_header", "header name"),
    ("regex: \"v[0-9]+\"", "regex: \"\"", "safe_regex.regex", "must not be empty"),
    ("- name: x-version", "- name: \"\"", "headers[0].name", "not a header name"),
    ("- name: x-count", "- name: \"x count\"", "headers[1].name", "header name"),
    ("- name: q\n", "- name: \"\"\n", "query_parameters[0].name", "1 to 1024"),
    (
        "string_match: { contains: ab, ignore_case: true }",
        "string_match: { contains: \"\" }",
        "string_match.contains",
        "must not be empty",
    ),
    (
        "match: { path_separated_prefix: /weighted }",
        "match: { path_separated_prefix: /weighted/ }",
        "path_separated_prefix",
        "",
    ),
    ("match: { path_separated_prefix: /weighted }", "match: {}", "routes[1].match", "required"),
    ("path: /exact\n", "connect_matcher: {}\n", "match.connect_matcher", "not in this version"),
    (
        "cluster: static-upstream\n                          timeout: 10s",
        "cluster: no-upstream\n                          timeout: 10s",
        "routes[0].route.cluster",
        "no such cluster",
    ),
    (
        "- { name: dns-upstream, weight: 10 }",
        "- { name: no-upstream, weight: 10 }",
        "weighted_clusters.clusters[1].name",
        "no such cluster",
    ),
    ("cluster: tls-upstream }", "cluster: \"\" }", "routes[0].route.cluster", "must not be empty"),
    (
        "                          timeout: 10s",
        "                          timeout: -10s",
        "route.timeout",
        "must not be negative",
    ),
    ("status: 404", "status: 600", "direct_response.status", ""),
    ("status: 404", "status: 99", "direct_response.status", ""),
    ("base_interval: 0.025s", "base_interval: 0s", "retry_back_off.base_interval", "greater than 0"),
    ("max_interval: 0.25s", "max_interval: 0.001s", "retry_back_off.max_interval", ""),
    ("per_try_timeout: 2s", "retry_priority: { name: x }", "retry_policy.retry_priority", "not in this version"),
    (
        "host_rewrite_literal: upstream.example.test",
        "hash_policy: [{ header: { header_name: x } }]\n                          request_mirror_policies: [{ cluster: static-upstream }]",
        "route.request_mirror_policies",
        "not in this version",
    ),
    (
        "host_redirect: new.example.test, ",
        "host_redirect: new.example.test, path_redirect: /a, regex_rewrite: {}, ",
        "redirect.regex_rewrite",
        "only one of",
    ),
    // Access logs.
    ("path: /dev/stdout", "path: \"\"", "access_log[0].typed_config.path", "must not be empty"),
    ("%START_TIME% %REQ(:METHOD)% ", "%START_TIM% ", "text_format_source", "no such operator"),
    ("%START_TIME% %REQ(:METHOD)% ", "%REQ()% ", "text_format_source", "not the name of a header"),
    ("flags: \"%RESPONSE_FLAGS%\"", "flags: \"%RESPONSE_FLAG%\"", "json_format[\"flags\"]", "no such operator"),
    ("flags: [NR]", "flags: [XX]", "flags[0]", ""),
    // Clusters.
    (
        "    - name: static-upstream\n      type",
        "    - name: \"\"\n      type",
        "clusters[0].name",
        "must not be empty",
    ),
    (
        "    - name: dns-upstream\n      type",
        "    - name: static-upstream\n      type",
        "clusters[1].name",
        "another cluster has this name",
    ),
    ("connect_timeout: 0.25s", "connect_timeout: 0s", "clusters[0].connect_timeout", "greater than 0"),
    ("connect_timeout: 0.25s", "connect_timeout: -1s", "clusters[0].connect_timeout", "negative"),
    ("type: LOGICAL_DNS", "type: EDS", "clusters[2].type", "not in this version"),
    ("type: LOGICAL_DNS", "type: ORIGINAL_DST", "clusters[2].type", "not in this version"),
    ("lb_policy: LEAST_REQUEST", "lb_policy: RING_HASH", "clusters[0].lb_policy", "not in this version"),
    (
        "lb_policy: LEAST_REQUEST",
        "lb_policy: LEAST_REQUEST\n      least_request_lb_config: { choice_count: 1 }",
        "least_request_lb_config.choice_count",
        "at least 2",
    ),
    (
        "lb_policy: LEAST_REQUEST",
        "health_checks: [{ timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {} }]",
        "clusters[0].health_checks",
        "not in this version",
    ),
    ("lb_policy: LEAST_REQUEST", "outlier_detection: {}", "clusters[0].outlier_detection", "not in this version"),
    (
        "lb_policy: LEAST_REQUEST",
        "lb_subset_config: { subset_selectors: [{ keys: [a] }] }",
        "clusters[0].lb_subset_config",
        "not in this version",
    ),
    ("dns_refresh_rate: 60s", "dns_refresh_rate: 0s", "dns_refresh_rate", ""),
    (
        "base_interval: 5s, max_interval: 30s",
        "base_interval: 0s, max_interval: 30s",
        "dns_failure_refresh_rate.base_interval",
        "",
    ),
    (
        "healthy_panic_threshold: { value: 40 }",
        "healthy_panic_threshold: { value: 140 }",
        "healthy_panic_threshold.value",
        "",
    ),
    ("overprovisioning_factor: 140", "overprovisioning_factor: 0", "overprovisioning_factor", "greater than 0"),
    ("priority: 0\n", "priority: 129\n", "endpoints[0].priority", "at most 128"),
    ("load_balancing_weight: 7", "load_balancing_weight: 0", "lb_endpoints[0].load_balancing_weight", "at least 1"),
    ("load_balancing_weight: 2", "load_balancing_weight: 0", "endpoints[0].load_balancing_weight", "at least 1"),
    (
        "address:\n                    socket_address: { address: 10.0.0.1, port_value: 8081",
        "address:\n                    socket_address: { address: one.example.test, port_value: 8081",
        "endpoint.address",
        "must be an IP address",
    ),
    ("port_value: 8081", "port_value: 65536", "socket_address.port_value", "65535"),
    ("path: /run/app.sock", "path: \"\"", "pipe.path", "must not be empty"),
    ("cluster_name: tls-upstream", "cluster_name: \"\"", "load_assignment.cluster_name", "must not be empty"),
    ("max_concurrent_streams: 250", "max_concurrent_streams: 0", "max_concurrent_streams", "must be 1 to"),
    (
        "socket_address: { address: secure.example.test, port_value: 443 }",
        "envoy_internal_address: { server_listener_name: x }",
        "envoy_internal_address",
        "not in this version",
    ),
    // TLS.
    ("sni: secure.example.test", "auto_host_sni: true", "typed_config.auto_host_sni", "not in this version"),
    (
        "sni: secure.example.test",
        "allow_renegotiation: true",
        "typed_config.allow_renegotiation",
        "not in this version",
    ),
    ("alpn_protocols: [h2, http/1.1]", "alpn_protocols: [\"\"]", "alpn_protocols[0]", "1 to 255 bytes"),
    (
        "tls_minimum_protocol_version: TLSv1_2",
        "tls_minimum_protocol_version: TLSv1_0",
        "tls_minimum_protocol_version",
        "not in this version",
    ),
    (
        "tls_maximum_protocol_version: TLSv1_3",
        "tls_maximum_protocol_version: TLSv1_1",
        "tls_maximum_protocol_version",
        "not in this version",
    ),
    (
        "tls_minimum_protocol_version: TLSv1_2\n                  tls_maximum_protocol_version: TLSv1_3",
        "tls_minimum_protocol_version: TLSv1_3\n                  tls_maximum_protocol_version: TLSv1_2",
        "tls_minimum_protocol_version",
        "above",
    ),
    (
        "cipher_suites: [ECDHE-ECDSA-AES128-GCM-SHA256, ",
        "cipher_suites: [AES128-SHA, ",
        "cipher_suites[0]",
        "not in this version",
    ),
    ("ecdh_curves: [X25519, P-256]", "ecdh_curves: [P-224]", "ecdh_curves[0]", "not in this version"),
    ("-----END PRIVATE KEY-----", "-----END PRIVATE-----", "tls_certificates[0].private_key", "not PEM"),
    (
        "                  - certificate_chain:\n                      inline_string: |",
        "                  - certificate_chain:\n                      inline_string: |\n                        preface\n                        -----BEGIN CERTIFICATE-----",
        "tls_certificates[0].certificate_chain",
        "not PEM",
    ),
    (
        "trusted_ca: { filename: /etc/ssl/certs/ca-certificates.crt }",
        "trusted_ca: { filename: \"\" }",
        "trusted_ca.filename",
        "must not be empty",
    ),
    (
        "trusted_ca: { filename: /etc/ssl/certs/ca-certificates.crt }",
        "trusted_ca: {}",
        "validation_context.trusted_ca",
        "required",
    ),
    (
        "trusted_ca: { filename: /etc/ssl/certs/ca-certificates.crt }\n              match",
        "match",
        "match_typed_subject_alt_names",
        "needs a trusted_ca",
    ),
    (
        "trusted_ca: { filename: /etc/ssl/certs/ca-certificates.crt }",
        "trusted_ca: { filename: /ca.pem }\n              trust_chain_verification: ACCEPT_UNTRUSTED",
        "trust_chain_verification",
        "not in this version",
    ),
    (
        "trusted_ca: { filename: /etc/ssl/certs/ca-certificates.crt }",
        "trusted_ca: { filename: /ca.pem }\n              allow_expired_certificate: true",
        "allow_expired_certificate",
        "not in this version",
    ),
    (
        "trusted_ca: { filename: /etc/ssl/certs/ca-certificates.crt }",
        "trusted_ca: { filename: /ca.pem }\n              crl: { inline_string: x }",
        "validation_context.crl",
        "not PEM",
    ),
    (
        "                - san_type: DNS\n                  matcher: { exact: secure.example.test }",
        "                - matcher: { exact: secure.example.test }",
        "match_typed_subject_alt_names[0].san_type",
        "required",
    ),
    (
        "df6ff72fe9116521268f6f2dd4966f51df479883fe7037b39f75916ac3049d1a",
        "df6ff72f",
        "verify_certificate_hash[0]",
        "SHA-256",
    ),
    ("NvqYIYSbgK2vCJpQhObf77vv+bQWtc5ek5RIOwPiC9A=", "NvqYIYSb", "verify_certificate_spki[0]", "SHA-256"),
    ("require_client_certificate: true", "require_sni: true", "require_sni", "not in this version"),
    (
        "alpn_protocols: [h2]\n            validation_context:",
        "alpn_protocols: [h2]\n            tls_certificate_sds_secret_configs: [{ name: x }]\n            validation_context:",
        "tls_certificate_sds_secret_configs",
        "not in this version",
    ),
    (
        "alpn_protocols: [h2]\n            validation_context:",
        "alpn_protocols: [h2]\n            key_log: { path: /keys }\n            validation_context:",
        "key_log",
        "not in this version",
    ),
    // The rest of the bootstrap.
    (
        "address: 127.0.0.1, port_value: 9901",
        "address: local, port_value: 9901",
        "admin.address.socket_address.address",
        "must be an IP address",
    ),
    ("admin:\n", "admin:\n  allow_paths: [{ exact: /ready }]\n", "admin.allow_paths", "not in this version"),
    (
        "max_active_downstream_connections: 40000",
        "max_active_downstream_connections: 0",
        "max_active_downstream_connections",
        "greater than 0",
    ),
    ("    - name: admin-values", "    - name: static-values", "layers[1].name", "another layer has this name"),
    ("    - name: admin-values\n      admin_layer: {}", "    - name: admin-values\n", "layers[1]", "is required"),
    ("admin_layer: {}", "disk_layer: { symlink_root: /x }", "layers[1].disk_layer", "not in this version"),
    (
        "envoy_grpc: { cluster_name: dns-upstream,",
        "envoy_grpc: { cluster_name: dns-uptream,",
        "ads_config.grpc_services[0].envoy_grpc.cluster_name",
        "no static cluster has this name",
    ),
    ("api_type: DELTA_GRPC", "api_type: REST", "ads_config.api_type", "write GRPC or DELTA_GRPC"),
    ("transport_api_version: V3\n", "transport_api_version: AUTO\n", "transport_api_version", "must be V3"),
    ("fill_rate: 5 ", "fill_rate: 0 ", "rate_limit_settings.fill_rate", "greater than 0"),
    ("path: /etc/outrigger/lds.yaml", "path: ''", "lds_config.path_config_source.path", "must not be empty"),
    (
        "cds_config: { ads: {}, resource_api_version: V3",
        "cds_config: { self: {}, resource_api_version: V3",
        "cds_config.self",
        "not in this version",
    ),
    ("static_resources:\n", "stats_sinks: [{ name: x }]\nstatic_resources:\n", "stats_sinks", "not in this version"),
    (
        "static_resources:\n",
        "static_resources:\n  secrets: [{ name: x }]\n",
        "static_resources.secrets[0]",
        "not in this version",
    ),
];
