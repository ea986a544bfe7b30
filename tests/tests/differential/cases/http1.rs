//! HTTP/1 as RFC 9112 wants it, and as Envoy does it: framing, connections, upgrades, limits.

use std::time::Duration;

use outrigger_tests::client::{Client, Step};
use outrigger_tests::upstream::{Act, Upstream};

use super::get_from;
use crate::scenario::{Scenario, scenario};

pub(crate) fn cases() -> Vec<Scenario> {
    let mut cases = messages();
    cases.extend(bodies());
    cases.extend(connections());
    cases.extend(upgrades());
    cases.extend(limits());
    cases.extend(bad_upstreams());
    cases
}

fn ok(name: &str) -> Scenario {
    scenario(name).up(Upstream::h1().ok("ok"))
}

const WEBSOCKET: [&str; 4] = [
    "connection: Upgrade",
    "upgrade: websocket",
    "sec-websocket-version: 13",
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
];
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                         sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn messages() -> Vec<Scenario> {
    vec![
        scenario("get_is_forwarded").up(Upstream::h1().ok("hello")).client(Client::raw().get("/path")),
        ok("field_names_become_lower_case")
            .client(Client::raw().request("GET / HTTP/1.1\r\nHOST: a.test\r\nX-Mixed-Case: Value\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n")),
        scenario("response_fields_keep_their_order")
            .up(Upstream::h1().reply(
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nSet-Cookie: b=2\r\nSet-Cookie: a=1\r\nServer: mine\r\nDate: mine\r\n\
                 X-Powered-By: test\r\n\r\n",
            ))
            .client(Client::raw().get("/")),
        ok("field_names_in_proper_case")
            .hcm("http_protocol_options: {header_key_format: {proper_case_words: {}}}")
            .client(Client::raw().request(get_from("/", &["x-mixed-case: Value"]))),
        scenario("field_names_keep_their_case")
            .up(Upstream::h1().reply("HTTP/1.1 200 OK\r\nContent-LENGTH: 2\r\nX-BaCk: 1\r\n\r\nok"))
            .hcm("http_protocol_options: {header_key_format: {stateful_formatter: {name: preserve, typed_config: {'@type': type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig}}}}")
            .cluster(
                "up",
                "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {'@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http_protocol_options: {header_key_format: {stateful_formatter: {name: preserve, typed_config: {'@type': type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig}}}}}}}",
            )
            .client(Client::raw().request("GET / HTTP/1.1\r\nHoSt: a.test\r\nX-MiXed: 1\r\n\r\n")),
        ok("hop_by_hop_headers_are_removed").client(Client::raw().request(get_from(
            "/",
            &["connection: x-hop, keep-alive", "x-hop: 1", "keep-alive: timeout=5", "proxy-connection: keep-alive", "te: trailers"],
        ))),
        ok("te_other_than_trailers").client(Client::raw().request(get_from("/", &["te: gzip, trailers;q=0.5", "connection: te"]))),
        scenario("hop_by_hop_headers_of_a_response")
            .up(Upstream::h1().reply(
                "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\nproxy-connection: a\r\n\r\n",
            ))
            .client(Client::raw().get("/")),
        ok("absolute_form").client(
            Client::raw()
                .request("GET http://b.test/path?q HTTP/1.1\r\nhost: a.test\r\n\r\n")
                .request("GET https://b.test:8443 HTTP/1.1\r\nhost: a.test\r\n\r\n"),
        ),
        ok("options_asterisk").client(Client::raw().request("OPTIONS * HTTP/1.1\r\nhost: a.test\r\n\r\n")),
        ok("connect_without_upgrade").client(Client::raw().request("CONNECT b.test:443 HTTP/1.1\r\nhost: b.test:443\r\n\r\n")),
        ok("http_1_0_is_refused").client(Client::raw().request("GET / HTTP/1.0\r\nhost: a.test\r\n\r\n")),
        ok("http_1_0_is_accepted")
            .hcm("http_protocol_options: {accept_http_10: true, default_host_for_http_10: default.test}")
            .client(
                Client::raw()
                    .request("GET /1 HTTP/1.0\r\n\r\n")
                    .fresh()
                    .request("GET /2 HTTP/1.0\r\nhost: a.test\r\nconnection: keep-alive\r\n\r\n")
                    .request("GET /3 HTTP/1.0\r\nhost: a.test\r\n\r\n"),
            ),
        scenario("chunks_become_close_for_http_1_0")
            .up(Upstream::h1().reply("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"))
            .hcm("http_protocol_options: {accept_http_10: true}")
            .client(Client::raw().request("GET / HTTP/1.0\r\nhost: a.test\r\n\r\n")),
        ok("no_host_is_400").client(Client::raw().request("GET / HTTP/1.1\r\n\r\n")),
        ok("empty_host").client(Client::raw().request("GET / HTTP/1.1\r\nhost:\r\n\r\n")),
        ok("newlines_before_the_request").client(Client::raw().request("\r\n\r\nGET / HTTP/1.1\r\nhost: a.test\r\n\r\n")),
        ok("custom_method").client(Client::raw().request("PURGE /x HTTP/1.1\r\nhost: a.test\r\n\r\n").fresh().request(
            "FOO-BAR /x HTTP/1.1\r\nhost: a.test\r\n\r\n",
        )),
        ok("underscores_are_allowed").client(Client::raw().request(get_from("/", &["x_under: 1"]))),
        ok("underscores_are_dropped")
            .hcm("common_http_protocol_options: {headers_with_underscores_action: DROP_HEADER}")
            .client(Client::raw().request(get_from("/", &["x_under: 1", "x-dash: 1"]))),
        ok("underscores_are_rejected")
            .hcm("common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}")
            .client(Client::raw().request(get_from("/", &["x_under: 1"]))),
        ok("non_ascii_values").client(Client::raw().request("GET /\u{e9} HTTP/1.1\r\nhost: a.test\r\nx-a: caf\u{e9}\r\n\r\n")),
    ]
}

fn bodies() -> Vec<Scenario> {
    let big = "0123456789abcdef".repeat(16 * 1024);
    let big_post = format!("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: {}\r\n\r\n{big}", big.len());
    vec![
        scenario("chunked_both_ways")
            .up(Upstream::h1().reply(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
            ))
            .client(Client::raw().request(
                "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
            )),
        ok("chunk_extensions").client(Client::raw().request(
            "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n3;a=b;c\r\nabc\r\n0;last\r\n\r\n",
        )),
        ok("content_length_body")
            .client(Client::raw().request("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 5\r\n\r\nhello")),
        ok("post_without_a_body").client(
            Client::raw()
                .request("POST / HTTP/1.1\r\nhost: a.test\r\n\r\n")
                .request("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 0\r\n\r\n")
                .request("POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        ),
        ok("get_with_a_body").client(Client::raw().request("GET / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 2\r\n\r\nhi")),
        scenario("large_bodies_both_ways")
            .up(Upstream::h1().reply(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{big}", big.len())))
            .client(Client::raw().request(&big_post)),
        scenario("body_until_close")
            .up(Upstream::h1().acts([Act::Send(b"HTTP/1.1 200 OK\r\n\r\nuntil the end".to_vec()), Act::Close]))
            .client(Client::raw().get("/")),
        scenario("head_has_no_body")
            .up(Upstream::h1().reply("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n").reply(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            ))
            .client(
                Client::raw()
                    .request("HEAD / HTTP/1.1\r\nhost: a.test\r\n\r\n")
                    .request("HEAD / HTTP/1.1\r\nhost: a.test\r\n\r\n"),
            ),
        scenario("no_content_and_not_modified")
            .up(Upstream::h1()
                .reply("HTTP/1.1 204 No Content\r\n\r\n")
                .reply("HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\ncontent-length: 10\r\n\r\n"))
            .client(Client::raw().get("/204").get("/304")),
        scenario("no_content_with_content_length_zero")
            .up(Upstream::h1().reply("HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n"))
            .client(Client::raw().get("/204")),
        scenario("trailers_are_dropped_by_default")
            .up(Upstream::h1().reply(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n2\r\nok\r\n0\r\nx-t: 1\r\n\r\n",
            ))
            .client(Client::raw().request(
                "POST / HTTP/1.1\r\nhost: a.test\r\nte: trailers\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-r: 1\r\n\r\n",
            )),
        scenario("trailers_pass_where_enabled")
            .up(Upstream::h1().reply(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n2\r\nok\r\n0\r\nx-t: 1\r\nX-U: 2\r\n\r\n",
            ))
            .hcm("http_protocol_options: {enable_trailers: true}")
            .cluster(
                "up",
                "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {'@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http_protocol_options: {enable_trailers: true}}}}",
            )
            .client(Client::raw().request(
                "POST / HTTP/1.1\r\nhost: a.test\r\nte: trailers\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-r: 1\r\n\r\n",
            )),
        scenario("response_before_the_request_is_complete")
            .up(Upstream::h1().acts([Act::Send(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno".to_vec()), Act::Body]))
            .client(Client::raw().request("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 100\r\n\r\nbegin")),
    ]
}

fn connections() -> Vec<Scenario> {
    vec![
        scenario("keep_alive_reuses_both_connections")
            .up(Upstream::h1().ok("one").ok("two"))
            .client(Client::raw().get("/1").get("/2")),
        ok("two_clients_share_an_upstream_connection").client(Client::raw().get("/1").fresh().get("/2")),
        ok("connection_close_is_honoured").client(Client::raw().request(get_from("/", &["connection: close"]))),
        scenario("upstream_closes_after_response")
            .up(Upstream::h1().reply("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"))
            .client(Client::raw().get("/1").get("/2")),
        scenario("upstream_speaks_http_1_0")
            .up(Upstream::h1().reply("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok"))
            .client(Client::raw().get("/1").get("/2")),
        ok("upstream_connection_for_one_request")
            .cluster(
                "up",
                "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {'@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, common_http_protocol_options: {max_requests_per_connection: 1}, explicit_http_config: {http_protocol_options: {}}}}",
            )
            .client(Client::raw().get("/1").get("/2")),
        ok("downstream_connection_for_two_requests")
            .hcm("common_http_protocol_options: {max_requests_per_connection: 2}")
            .client(Client::raw().get("/1").get("/2")),
        scenario("pipelined_requests").up(Upstream::h1().ok("one").ok("two")).client(
            Client::raw()
                .send("GET /1 HTTP/1.1\r\nhost: a.test\r\n\r\nGET /2 HTTP/1.1\r\nhost: a.test\r\n\r\n")
                .step(Step::Response(false))
                .step(Step::Response(false)),
        ),
        scenario("client_closes_its_direction_after_the_request").up(Upstream::h1().acts([Act::Hang])).client(
            Client::raw().send(get_from("/", &[])).step(Step::Upstream(1)).step(Step::HalfClose).step(Step::Response(false)),
        ),
        scenario("client_closes_while_it_waits").up(Upstream::h1().acts([Act::Hang])).client(
            Client::raw().send(get_from("/", &[])).step(Step::Upstream(1)).step(Step::Reset),
        ),
        ok("client_closes_in_the_middle_of_a_body").client(
            Client::raw()
                .send("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 100\r\n\r\nbegin")
                .step(Step::Upstream(1))
                .step(Step::HalfClose)
                .end(),
        ),
        ok("idle_connection_is_closed")
            .hcm("common_http_protocol_options: {idle_timeout: 0.3s}")
            .client(Client::raw().get("/").end()),
        ok("connection_without_a_request_is_closed")
            .hcm("common_http_protocol_options: {idle_timeout: 0.3s}")
            .client(Client::raw().end()),
        ok("connection_duration_is_limited")
            .hcm("{common_http_protocol_options: {max_connection_duration: 0.3s}, drain_timeout: 0.1s}")
            .client(Client::raw().get("/").end()),
    ]
}

fn upgrades() -> Vec<Scenario> {
    let socket = |name: &str| scenario(name).up(Upstream::h1().acts([Act::Send(SWITCHING.into()), Act::Echo]));
    vec![
        socket("websocket").hcm("upgrade_configs: [{upgrade_type: websocket}]").client(
            Client::raw()
                .request(get_from("/chat", &WEBSOCKET))
                .send("frames")
                .step(Step::Bytes(6))
                .step(Step::HalfClose),
        ),
        scenario("websocket_is_ended_by_the_upstream")
            .up(Upstream::h1().acts([
                Act::Send(SWITCHING.into()),
                Act::Expect(6),
                Act::Send(b"bye".to_vec()),
                Act::Close,
            ]))
            .hcm("upgrade_configs: [{upgrade_type: websocket}]")
            .client(Client::raw().request(get_from("/chat", &WEBSOCKET)).send("frames").step(Step::Bytes(3)).end()),
        scenario("websocket_is_a_request_until_it_ends")
            .up(Upstream::h1().acts([Act::Send(SWITCHING.into()), Act::Echo]).ok("passed"))
            .hcm("upgrade_configs: [{upgrade_type: websocket}]")
            .cluster("up", "circuit_breakers: {thresholds: [{max_requests: 1}]}")
            .client(
                Client::raw()
                    .request(get_from("/chat", &WEBSOCKET))
                    .send("frames")
                    .step(Step::Bytes(6))
                    .fresh()
                    .get("/second"),
            ),
        ok("upgrade_without_configuration").client(Client::raw().request(get_from("/chat", &WEBSOCKET))),
        socket("upgrade_of_another_kind")
            .hcm("upgrade_configs: [{upgrade_type: websocket}]")
            .client(Client::raw().request(get_from("/", &["connection: upgrade", "upgrade: other"]))),
        ok("upgrade_is_declined_by_the_upstream")
            .hcm("upgrade_configs: [{upgrade_type: websocket}]")
            .client(Client::raw().request(get_from("/chat", &WEBSOCKET))),
        socket("upgrade_is_disabled_on_the_route")
            .hcm("upgrade_configs: [{upgrade_type: websocket}]")
            .route("route: {cluster: $up, upgrade_configs: [{upgrade_type: websocket, enabled: false}]}")
            .client(Client::raw().request(get_from("/chat", &WEBSOCKET))),
        socket("upgrade_is_enabled_on_the_route")
            .hcm("upgrade_configs: [{upgrade_type: websocket, enabled: false}]")
            .route("route: {cluster: $up, upgrade_configs: [{upgrade_type: websocket}]}")
            .client(
                Client::raw()
                    .request(get_from("/chat", &WEBSOCKET))
                    .send("frames")
                    .step(Step::Bytes(6))
                    .step(Step::HalfClose),
            ),
        ok("h2c_upgrade_is_ignored").client(Client::raw().request(get_from(
            "/",
            &["connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABkAAQAAP__"],
        ))),
        ok("h2c_upgrade_beside_a_field_of_this_hop").client(Client::raw().request(get_from(
            "/",
            &[
                "connection: Upgrade, HTTP2-Settings, x-secret",
                "upgrade: h2c",
                "http2-settings: AAMAAABkAAQAAP__",
                "x-secret: 1",
                "x-open: 2",
            ],
        ))),
        ok("expect_100_continue").client(
            Client::raw()
                .send("POST / HTTP/1.1\r\nhost: a.test\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
                .step(Step::Informational)
                .send("hello")
                .step(Step::Response(false)),
        ),
        scenario("expect_100_continue_is_forwarded")
            .up(Upstream::h1().acts([
                Act::Send(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()),
                Act::Body,
                Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()),
            ]))
            .hcm("proxy_100_continue: true")
            .client(
                Client::raw()
                    .send("POST / HTTP/1.1\r\nhost: a.test\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
                    .step(Step::Informational)
                    .send("hello")
                    .step(Step::Response(false)),
            ),
        ok("expect_of_something_else").client(
            Client::raw().request("POST / HTTP/1.1\r\nhost: a.test\r\nexpect: magic\r\ncontent-length: 5\r\n\r\nhello"),
        ),
        scenario("early_hints")
            .up(Upstream::h1().reply(
                "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            ))
            .client(Client::raw().get("/")),
    ]
}

fn limits() -> Vec<Scenario> {
    let value = "v".repeat(70 * 1024);
    let many: String = (0..120).map(|n| format!("x-{n}: 1\r\n")).collect();
    vec![
        ok("head_larger_than_60_kib_is_431")
            .client(Client::raw().request(format!("GET / HTTP/1.1\r\nhost: a.test\r\nx-long: {value}\r\n\r\n"))),
        ok("head_limit_is_raised")
            .hcm("max_request_headers_kb: 96")
            .client(Client::raw().request(format!("GET / HTTP/1.1\r\nhost: a.test\r\nx-long: {value}\r\n\r\n"))),
        ok("more_than_100_fields_are_431")
            .client(Client::raw().request(format!("GET / HTTP/1.1\r\nhost: a.test\r\n{many}\r\n"))),
        ok("field_limit_is_raised")
            .hcm("common_http_protocol_options: {max_headers_count: 200}")
            .client(Client::raw().request(format!("GET / HTTP/1.1\r\nhost: a.test\r\n{many}\r\n"))),
        ok("head_takes_too_long")
            .hcm("request_headers_timeout: 0.3s")
            .client(Client::raw().send("GET / HTTP/1.1\r\nhost: a").step(Step::Response(false)).end()),
        ok("request_takes_too_long").hcm("request_timeout: 0.3s").client(
            Client::raw()
                .send("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 10\r\n\r\nhalf")
                .step(Step::Response(false))
                .end(),
        ),
        scenario("stream_idle_before_the_response")
            .up(Upstream::h1().acts([Act::Hang]))
            .hcm("stream_idle_timeout: 0.3s")
            .client(Client::raw().get("/")),
        scenario("stream_idle_in_the_response")
            .up(Upstream::h1()
                .acts([Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".to_vec()), Act::Hang]))
            .hcm("stream_idle_timeout: 0.3s")
            .client(Client::raw().get("/").end()),
        scenario("stream_duration_is_limited")
            .up(Upstream::h1().acts([Act::Hang]))
            .hcm("common_http_protocol_options: {max_stream_duration: 0.3s}")
            .client(Client::raw().get("/")),
        scenario("route_idle_timeout_replaces_the_managers")
            .up(Upstream::h1().acts([Act::Hang]))
            .hcm("stream_idle_timeout: 30s")
            .route("route: {cluster: $up, idle_timeout: 0.3s}")
            .client(Client::raw().get("/")),
    ]
}

fn bad_upstreams() -> Vec<Scenario> {
    let answers =
        |name: &str, bytes: &str| scenario(name).up(Upstream::h1().reply(bytes)).client(Client::raw().get("/"));
    let answers_and_closes = |name: &str, bytes: &str| {
        let acts = [Act::Send(bytes.into()), Act::Close];
        scenario(name).up(Upstream::h1().acts(acts)).client(Client::raw().get("/"))
    };
    let many: String = (0..120).map(|n| format!("x-{n}: 1\r\n")).collect();
    vec![
        answers("upstream_answers_garbage", "SSH-2.0-OpenSSH_9.2\r\n\r\n"),
        answers("upstream_answers_an_unknown_status", "HTTP/1.1 799 Whatever\r\ncontent-length: 0\r\n\r\n"),
        answers("upstream_answers_a_status_of_two_digits", "HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n"),
        answers("upstream_answers_without_a_reason", "HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n"),
        answers(
            "upstream_answers_both_lengths",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        answers("upstream_answers_two_lengths", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok!"),
        answers("upstream_answers_a_folded_field", "HTTP/1.1 200 OK\r\nx-a: one\r\n two\r\ncontent-length: 0\r\n\r\n"),
        answers("upstream_answers_a_nul", "HTTP/1.1 200 OK\r\nx-a: a\0b\r\ncontent-length: 0\r\n\r\n"),
        answers(
            "upstream_answers_101_unasked",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        ),
        answers("upstream_answers_too_many_fields", &format!("HTTP/1.1 200 OK\r\n{many}content-length: 0\r\n\r\n")),
        answers("upstream_answers_204_with_a_body", "HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\nok"),
        answers("upstream_answers_more_than_its_length", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok and more"),
        answers("upstream_answers_a_bad_chunk", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nok\r\n"),
        answers_and_closes("upstream_ends_in_the_head", "HTTP/1.1 200 OK\r\ncontent-le"),
        answers_and_closes("upstream_ends_in_the_body", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"),
        answers_and_closes(
            "upstream_ends_in_a_chunk",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\nhalf",
        ),
        scenario("upstream_resets_in_the_body")
            .up(Upstream::h1().acts([
                Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".to_vec()),
                Act::Delay(Duration::from_millis(200)),
                Act::Rst,
            ]))
            .client(Client::raw().get("/")),
        scenario("upstream_closes_before_response")
            .up(Upstream::h1().acts([Act::Close]))
            .client(Client::raw().get("/")),
        scenario("upstream_resets_before_response").up(Upstream::h1().acts([Act::Rst])).client(Client::raw().get("/")),
    ]
}
