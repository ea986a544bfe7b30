//! What the connection manager adds, removes and believes: addresses, request id, `server`, `via`, local replies.

use outrigger_tests::client::{Client, Step};
use outrigger_tests::upstream::Upstream;

use super::get_from;
use crate::scenario::{Scenario, scenario};

pub(crate) fn cases() -> Vec<Scenario> {
    let mut cases = forwarding();
    cases.extend(repeated());
    cases.extend(local_replies());
    cases
}

fn ok(name: &str) -> Scenario {
    scenario(name)
        .up(Upstream::h1().reply("HTTP/1.1 200 OK\r\nserver: mine\r\nvia: 1.1 up\r\ncontent-length: 0\r\n\r\n"))
}

/// What an attacker at the edge might send, and a mesh neighbour does.
const TOLD: [&str; 9] = [
    "x-forwarded-for: 1.2.3.4, 10.0.0.1",
    "x-forwarded-proto: https",
    "x-forwarded-host: h.test",
    "x-forwarded-port: 4443",
    "x-envoy-internal: true",
    "x-envoy-external-address: 9.9.9.9",
    "x-envoy-original-path: /told",
    "x-envoy-decorator-operation: told",
    "x-request-id: mine",
];

fn forwarding() -> Vec<Scenario> {
    let told = || Client::raw().request(get_from("/", &TOLD));
    vec![
        ok("headers_from_a_neighbour").client(told()),
        ok("headers_at_the_edge").hcm("{use_remote_address: true, via: mesh, server_name: edge}").client(told()),
        ok("headers_behind_a_trusted_proxy").hcm("{use_remote_address: true, xff_num_trusted_hops: 1}").client(told()),
        ok("headers_behind_two_trusted_proxies").hcm("{use_remote_address: false, xff_num_trusted_hops: 2}").client(told()),
        ok("forwarded_for_is_not_appended").hcm("{use_remote_address: true, skip_xff_append: true}").client(told()),
        ok("forwarded_port_is_appended").hcm("{use_remote_address: true, append_x_forwarded_port: true}").client(Client::raw().get("/")),
        ok("internal_addresses_are_configured")
            .hcm("{use_remote_address: true, internal_address_config: {cidr_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}]}}")
            .client(told()),
        ok("forwarded_for_that_is_no_address").client(Client::raw().request(get_from("/", &["x-forwarded-for: unknown, ::1"]))),
        ok("server_header_passes_through").hcm("server_header_transformation: PASS_THROUGH").client(Client::raw().get("/")),
        ok("server_header_of_answers_of_its_own_is_passed_through_too")
            .virtual_host("routes: []")
            .hcm("server_header_transformation: PASS_THROUGH")
            .client(Client::raw().get("/")),
        ok("server_header_only_if_absent").hcm("server_header_transformation: APPEND_IF_ABSENT").client(Client::raw().get("/")),
        ok("request_id_in_the_response").hcm("always_set_request_id_in_response: true").client(
            Client::raw().request(get_from("/", &["x-request-id: mine"])),
        ),
        ok("request_id_is_not_made").hcm("generate_request_id: false").client(
            Client::raw().get("/").request(get_from("/", &["x-request-id: mine"])),
        ),
        ok("request_id_of_a_stranger_is_preserved").hcm("{use_remote_address: true, preserve_external_request_id: true}").client(
            Client::raw().request(get_from("/", &["x-request-id: mine", "x-forwarded-for: 1.2.3.4"])),
        ),
        ok("envoy_headers_are_suppressed")
            .hcm("http_filters: [{name: router, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router, suppress_envoy_headers: true}}]")
            .client(Client::raw().get("/")),
        ok("timeout_is_asked_by_header").client(Client::raw().request(get_from("/", &["x-forwarded-for: 10.0.0.1", "x-envoy-upstream-rq-timeout-ms: 5000"]))),
        ok("expected_timeout_is_respected")
            .hcm("http_filters: [{name: router, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router, respect_expected_rq_timeout: true}}]")
            .client(Client::raw().request(get_from("/", &["x-forwarded-for: 10.0.0.1", "x-envoy-expected-rq-timeout-ms: 4000"]))),
        ok("envoy_headers_are_checked_strictly")
            .hcm(
                "http_filters: [{name: router, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router, \
                 strict_check_headers: [x-envoy-upstream-rq-timeout-ms, x-envoy-upstream-rq-per-try-timeout-ms, x-envoy-max-retries, \
                 x-envoy-retry-grpc-on, x-envoy-retry-on]}}]",
            )
            .client(
                [
                    "max-retries: many",
                    "max-retries: -1",
                    "max-retries: 1.0",
                    "max-retries: ",
                    "max-retries: +1",
                    "max-retries: 99999999999999999999",
                    "upstream-rq-timeout-ms: 10s",
                    "upstream-rq-timeout-ms: 1000",
                    "upstream-rq-per-try-timeout-ms: soon",
                    "upstream-rq-per-try-timeout-ms: 1000",
                    "retry-on: 5xx, reset ,gateway-error",
                    "retry-on: http3-post-connect-failure",
                    "retry-on: 5xx,cancelled",
                    "retry-on: ,",
                    "retry-grpc-on: cancelled, internal",
                    "retry-grpc-on: 5xx",
                ]
                .iter()
                .fold(Client::raw(), |client, field| {
                    client.request(get_from("/", &["x-forwarded-for: 10.0.0.1", &format!("x-envoy-{field}")]))
                })
                .request(get_from("/", &["x-forwarded-for: 10.0.0.1", "x-envoy-max-retries: 1", "x-envoy-max-retries: 2"]))
                .request(get_from("/", &["x-forwarded-for: 8.8.8.8", "x-envoy-max-retries: many"])),
            ),
        ok("envoy_headers_that_are_not_checked")
            .hcm("http_filters: [{name: router, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router, strict_check_headers: [x-envoy-max-retries]}}]")
            .client(Client::raw().request(get_from("/", &["x-forwarded-for: 10.0.0.1", "x-envoy-retry-on: sometimes"]))),
    ]
}

/// Fields in more than one line: what the proxy in front of us adds at the end counts as much as what it was told.
fn repeated() -> Vec<Scenario> {
    let from = |fields: &[&str]| Client::raw().request(get_from("/", fields));
    let told_and_seen = || {
        from(&[
            "x-forwarded-for: 10.0.0.1",
            "x-envoy-retry-on: 5xx",
            "x-forwarded-for: 8.8.8.8",
            "x-envoy-upstream-rq-timeout-ms: 5000",
        ])
    };
    let internal = "internal_address_config: {cidr_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}, {address_prefix: 127.0.0.0, prefix_len: 8}]}";
    let websocket = |name: &str, fields: &[&str]| {
        let head = [fields, &["sec-websocket-version: 13", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="]].concat();
        scenario(name)
            .up(Upstream::h1()
                .reply("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"))
            .hcm("upgrade_configs: [{upgrade_type: websocket}]")
            .client(Client::raw().request(get_from("/", &head)))
    };
    vec![
        ok("forwarded_for_in_two_lines").hcm(&format!("{{{internal}}}")).client(told_and_seen()),
        ok("forwarded_for_in_two_lines_behind_a_trusted_proxy")
            .hcm(&format!("{{use_remote_address: true, xff_num_trusted_hops: 1, {internal}}}"))
            .client(told_and_seen()),
        ok("forwarded_for_in_two_lines_at_the_edge")
            .hcm(&format!("{{use_remote_address: true, {internal}}}"))
            .client(told_and_seen()),
        ok("forwarded_proto_in_two_lines").hcm("{use_remote_address: true, xff_num_trusted_hops: 1}").client(from(&[
            "x-forwarded-proto: https",
            "x-forwarded-proto: http",
            "x-forwarded-for: 8.8.8.8",
        ])),
        ok("connection_in_two_lines").client(from(&["connection: x-a", "x-a: 1", "x-b: 2", "connection: x-b"])),
        ok("connection_in_two_lines_names_what_we_say").client(from(&[
            "connection: close",
            "x-forwarded-for: 8.8.8.8",
            "connection: x-forwarded-for",
        ])),
        websocket(
            "upgrade_with_connection_in_two_lines",
            &["connection: upgrade", "upgrade: websocket", "connection: x-a"],
        ),
        websocket("upgrade_in_two_lines", &["connection: upgrade", "upgrade: websocket", "upgrade: other"]),
        ok("te_in_two_lines").client(from(&["te: gzip", "te: trailers"])),
        ok("via_in_two_lines").hcm("via: mesh").client(from(&["via: 1.1 a", "via: 1.1 b"])),
        ok("envoy_headers_in_two_lines").client(from(&[
            "x-forwarded-for: 10.0.0.1",
            "x-envoy-upstream-rq-timeout-ms: 5000",
            "x-envoy-upstream-rq-timeout-ms: 6000",
            "x-request-id: a",
            "x-request-id: b",
            "expect: 100-continue",
            "expect: nothing",
            "x-any: a",
            "x-any: b",
        ])),
    ]
}

fn local_replies() -> Vec<Scenario> {
    vec![
        scenario("local_reply_is_mapped")
            .up(Upstream::refuses())
            .hcm(
                "local_reply_config: {mappers: [{filter: {status_code_filter: {comparison: {op: EQ, value: {default_value: 503, runtime_key: k}}}}, \
                 status_code: 599, body: {inline_string: sorry}, headers_to_add: [{header: {key: x-mapped, value: 'yes'}}]}]}",
            )
            .client(Client::raw().get("/")),
        scenario("local_reply_has_a_format")
            .virtual_host("routes: []")
            .hcm("local_reply_config: {body_format: {text_format_source: {inline_string: '%RESPONSE_CODE% %LOCAL_REPLY_BODY% %REQ(:path)%'}, content_type: text/html}}")
            .client(Client::raw().get("/missing")),
        scenario("local_reply_in_json")
            .up(Upstream::refuses())
            .hcm("local_reply_config: {body_format: {json_format: {code: '%RESPONSE_CODE%', body: '%LOCAL_REPLY_BODY%'}}}")
            .client(Client::raw().get("/")),
        scenario("local_reply_to_grpc_over_http_1")
            .up(Upstream::refuses())
            .client(Client::raw().request(get_from("/", &["content-type: application/grpc"]))),
        scenario("local_reply_to_head")
            .up(Upstream::refuses())
            .client(Client::raw().send("HEAD / HTTP/1.1\r\nhost: a.test\r\n\r\n").step(Step::Response(true))),
        scenario("json_access_log")
            .hcm(
                "access_log: [{name: f, typed_config: {'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: $log, \
                 log_format: {json_format: {code: '%RESPONSE_CODE%', path: '%REQ(:PATH)%', nothing: '%REQ(X-MISSING)%', nested: {text: 'a %PROTOCOL%'}}}}}]",
            )
            .client(Client::raw().get("/path")),
        scenario("access_log_filter")
            .hcm(
                "access_log: [{name: f, filter: {status_code_filter: {comparison: {op: GE, value: {default_value: 400, runtime_key: k}}}}, \
                 typed_config: {'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: $log, \
                 log_format: {text_format_source: {inline_string: \"%RESPONSE_CODE% %REQ(:PATH)%\\n\"}}}}]",
            )
            .routes("- {match: {prefix: /good}, direct_response: {status: 200}}\n- {match: {prefix: /bad}, direct_response: {status: 404}}")
            .client(Client::raw().get("/good").get("/bad")),
    ]
}
