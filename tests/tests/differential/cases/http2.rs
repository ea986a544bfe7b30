//! HTTP/2 on either side, and translation between the versions.

use std::time::Duration;

use outrigger_tests::client::{Client, Step, h2_head};
use outrigger_tests::upstream::{Act, Upstream};
use outrigger_tests::wire::h2::{self, kind};
use outrigger_tests::wire::hpack;

use super::get_from;
use crate::scenario::{Scenario, scenario};

const CANCEL: u32 = 8;
const INTERNAL_ERROR: u32 = 2;
const NO_ERROR: u32 = 0;
const REFUSED_STREAM: u32 = 7;

pub(crate) fn cases() -> Vec<Scenario> {
    let mut cases = translation();
    cases.extend(streams());
    cases.extend(upstreams());
    cases
}

fn fields(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn to_h1(name: &str) -> Scenario {
    scenario(name).up(Upstream::h1().ok("ok"))
}

fn to_h2(name: &str) -> Scenario {
    scenario(name).up(Upstream::h2().ok("ok"))
}

/// An HTTP/2 upstream whose answer has trailers.
fn with_trailers() -> Upstream {
    Upstream::h2().acts([
        Act::Headers(fields(&[(":status", "200"), ("x-head", "1")]), false),
        Act::Data(b"body".to_vec(), false),
        Act::Headers(fields(&[("x-trailer", "1")]), true),
    ])
}

/// The head of a request in so many frames of 16 KiB, all but the first of them CONTINUATION.
fn long_head(frames: usize) -> Vec<u8> {
    let good = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.test")];
    let mut bytes = h2::frame(kind::HEADERS, h2::END_STREAM, 1, &hpack::encode(good));
    for n in 1..frames {
        let flags = if n == frames - 1 { h2::END_HEADERS } else { 0 };
        let field = (format!("x-{n}"), "v".repeat(16_000));
        bytes.extend(h2::frame(kind::CONTINUATION, flags, 1, &hpack::encode([field])));
    }
    bytes
}

fn translation() -> Vec<Scenario> {
    vec![
        to_h1("h2_to_h1").client(Client::h2().h2_get(1, "/path?q", &[("x-a", "1")])),
        to_h1("h2_to_h1_with_a_body").client(
            Client::h2()
                .h2_post(1, "/chunked", &[], "hello")
                .h2_post(3, "/length", &[("content-length", "5")], "hello")
                .h2_post(5, "/empty", &[], ""),
        ),
        to_h1("h2_to_h1_joins_cookies").client(Client::h2().h2_get(1, "/", &[("cookie", "a=1"), ("cookie", "b=2")])),
        to_h1("h2_head_limit_is_raised").hcm("max_request_headers_kb: 256").client(Client::h2().send(long_head(12)).step(Step::Stream(1))),
        to_h1("h2_to_h1_with_trailers").client(
            Client::h2()
                .send(h2_head(1, "POST", "/", &[("te", "trailers")], false))
                .send(h2::data(1, b"body", false))
                .send(h2::headers(1, [("x-trailer", "1")], true))
                .step(Step::Stream(1)),
        ),
        scenario("h1_response_becomes_h2")
            .up(Upstream::h1().reply(
                "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\ntransfer-encoding: chunked\r\nX-Upper: 1\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            ))
            .client(Client::h2().h2_get(1, "/", &[])),
        scenario("h1_trailers_become_h2")
            .up(Upstream::h1().reply("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-t: 1\r\n\r\n"))
            .cluster(
                "up",
                "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {'@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http_protocol_options: {enable_trailers: true}}}}",
            )
            .client(Client::h2().h2_get(1, "/", &[])),
        to_h2("h1_to_h2").client(Client::raw().request(get_from(
            "/path?q",
            &["connection: x-hop, keep-alive", "x-hop: 1", "te: trailers", "X-Upper: 1", "cookie: a=1; b=2"],
        ))),
        to_h2("h1_to_h2_with_a_body").client(
            Client::raw()
                .request("POST /1 HTTP/1.1\r\nhost: a.test\r\ncontent-length: 5\r\n\r\nhello")
                .request("POST /2 HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ),
        scenario("h2_trailers_are_dropped_for_h1").up(with_trailers()).client(Client::raw().get("/")),
        scenario("h2_trailers_become_h1")
            .up(with_trailers())
            .hcm("http_protocol_options: {enable_trailers: true}")
            .client(Client::raw().request(get_from("/", &["te: trailers"]))),
        scenario("h2_to_h2_with_trailers").up(with_trailers()).client(
            Client::h2()
                .send(h2_head(1, "POST", "/", &[("te", "trailers")], false))
                .send(h2::data(1, b"body", false))
                .send(h2::headers(1, [("x-trailer", "1")], true))
                .step(Step::Stream(1)),
        ),
        to_h2("h2_to_h2_head_and_204").client(
            Client::h2().send(h2_head(1, "HEAD", "/", &[], true)).step(Step::Stream(1)).h2_get(3, "/", &[]),
        ),
        to_h1("h2_expect_100_continue").client(
            Client::h2()
                .send(h2_head(1, "POST", "/", &[("expect", "100-continue"), ("content-length", "5")], false))
                .step(Step::Head(1))
                .send(h2::data(1, b"hello", true))
                .step(Step::Stream(1)),
        ),
        scenario("h2_local_reply").virtual_host("routes: []").client(Client::h2().h2_get(1, "/", &[]).h2_post(3, "/", &[], "body")),
        to_h1("h2_without_authority_but_host").client(Client::h2().h2_get(1, "/", &[(":authority", ""), ("host", "h.test")])),
        to_h1("h2_with_authority_and_host").client(Client::h2().h2_get(1, "/", &[("host", "h.test")])),
        to_h1("h2_scheme_is_https").client(Client::h2().h2_get(1, "/", &[(":scheme", "https")])),
        to_h2("scheme_reaches_an_h2_upstream").client(
            Client::raw().request(get_from("/", &["x-forwarded-proto: https"])),
        ),
        scenario("websocket_over_h2_upstream")
            .up(Upstream::h2().at_headers().acts([
                Act::Headers(fields(&[(":status", "200")]), false),
                Act::Data(b"hello".to_vec(), false),
            ]).settings(&[(8, 1)]))
            .hcm("upgrade_configs: [{upgrade_type: websocket}]")
            .cluster(
                "up",
                "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {'@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {allow_connect: true}}}}",
            )
            .client(
                Client::raw()
                    .request(get_from("/chat", &["connection: Upgrade", "upgrade: websocket", "sec-websocket-version: 13", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="]))
                    .step(Step::Bytes(5)),
            ),
    ]
}

fn streams() -> Vec<Scenario> {
    vec![
        to_h1("h2_streams_need_connections_to_h1").client(Client::h2().h2_get(1, "/1", &[]).h2_get(3, "/2", &[])),
        scenario("h2_streams_share_a_connection_to_h2").up(Upstream::h2().acts([]).ok("second")).client(
            Client::h2()
                .send(h2_head(1, "GET", "/first", &[], true))
                .step(Step::Upstream(1))
                .h2_get(3, "/second", &[])
                .send(h2::rst_stream(1, CANCEL))
                .step(Step::Delay(Duration::from_millis(300))),
        ),
        scenario("h2_client_cancels").up(Upstream::h1().acts([Act::Hang])).client(
            Client::h2()
                .send(h2_head(1, "GET", "/", &[], true))
                .step(Step::Upstream(1))
                .send(h2::rst_stream(1, CANCEL))
                .step(Step::Delay(Duration::from_millis(200)))
                .send(h2::frame(h2::kind::PING, 0, 0, b"12345678")),
        ),
        scenario("h2_route_timeout")
            .up(Upstream::h2().acts([]))
            .route("route: {cluster: $up, timeout: 0.3s}")
            .client(Client::h2().h2_get(1, "/", &[])),
        scenario("h2_stream_idle_in_the_response")
            .up(Upstream::h2().acts([Act::Headers(fields(&[(":status", "200")]), false)]))
            .hcm("stream_idle_timeout: 0.3s")
            .client(Client::h2().h2_get(1, "/", &[])),
        to_h1("h2_too_many_streams").hcm("http2_protocol_options: {max_concurrent_streams: 1}").client(
            Client::h2()
                .send(h2_head(1, "POST", "/", &[], false))
                .step(Step::Upstream(1))
                .send(h2_head(3, "GET", "/", &[], true))
                .step(Step::Stream(3)),
        ),
        to_h1("h2_idle_connection_goes_away")
            .hcm("{common_http_protocol_options: {idle_timeout: 0.3s}, drain_timeout: 0.2s}")
            .client(Client::h2().h2_get(1, "/", &[]).end()),
        to_h1("h2_connection_for_two_requests")
            .hcm("common_http_protocol_options: {max_requests_per_connection: 2}")
            .client(Client::h2().h2_get(1, "/1", &[]).h2_get(3, "/2", &[])),
        to_h1("h2_connection_duration_is_limited")
            .hcm("{common_http_protocol_options: {max_connection_duration: 0.3s}, drain_timeout: 0.2s}")
            .client(Client::h2().h2_get(1, "/", &[]).end()),
        to_h1("h2_client_goes_away").client(Client::h2().h2_get(1, "/", &[]).send(h2::goaway(0, NO_ERROR))),
        to_h1("h2_head_too_large").client(Client::h2().h2_get(1, "/", &[("x-long", &"v".repeat(15 * 1024))]).h2_get(
            3,
            "/",
            &[("x-after", "1")],
        )),
        to_h1("h2_codec_is_http_1_only").hcm("codec_type: HTTP1").client(Client::h2().end()),
        to_h1("h2_codec_is_http_2_only").hcm("codec_type: HTTP2").client(Client::raw().send(get_from("/", &[])).end()),
        to_h1("h2_connect_without_upgrade").client(
            Client::h2()
                .send(h2::headers(1, [(":method", "CONNECT"), (":authority", "a.test:443")], false))
                .step(Step::Stream(1)),
        ),
        scenario("h2_window_limits_the_response")
            .up(Upstream::h1()
                .reply(format!("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n{}", "x".repeat(100_000))))
            .client(Client::h2().h2_get(1, "/", &[])),
        to_h1("h2_large_request_body").client({
            let part = "y".repeat(10_000);
            let mut client = Client::h2().send(h2_head(1, "POST", "/", &[], false));
            for _ in 0..5 {
                client = client.send(h2::data(1, part.as_bytes(), false));
            }
            client.send(h2::data(1, b"end", true)).step(Step::Stream(1))
        }),
    ]
}

fn upstreams() -> Vec<Scenario> {
    let answers =
        |name: &str, acts: Vec<Act>| scenario(name).up(Upstream::h2().acts(acts)).client(Client::raw().get("/"));
    vec![
        answers("h2_upstream_resets_before_the_head", vec![Act::Reset(INTERNAL_ERROR)]),
        answers("h2_upstream_refuses_the_stream", vec![Act::Reset(REFUSED_STREAM)]),
        answers(
            "h2_upstream_resets_after_the_head",
            vec![
                Act::Headers(fields(&[(":status", "200")]), false),
                Act::Delay(Duration::from_millis(100)),
                Act::Reset(INTERNAL_ERROR),
            ],
        ),
        scenario("h2_upstream_resets_after_the_head_for_h2")
            .up(Upstream::h2().acts([
                Act::Headers(fields(&[(":status", "200")]), false),
                Act::Delay(Duration::from_millis(100)),
                Act::Reset(INTERNAL_ERROR),
            ]))
            .client(Client::h2().h2_get(1, "/", &[])),
        scenario("h2_upstream_goes_away_after_the_response")
            .up(Upstream::h2()
                .acts([Act::Headers(fields(&[(":status", "200")]), true), Act::GoAway(NO_ERROR, true)])
                .ok("second"))
            .client(Client::raw().get("/1").step(Step::Delay(Duration::from_millis(100))).get("/2")),
        scenario("h2_upstream_goes_away_before_the_stream")
            .up(Upstream::h2().acts([Act::GoAway(NO_ERROR, false)]).ok("second"))
            .route("route: {cluster: $up, retry_policy: {retry_on: 'reset,refused-stream'}}")
            .client(Client::raw().get("/1")),
        scenario("h2_upstream_allows_one_stream")
            .up(Upstream::h2()
                .settings(&[(3, 1)])
                .at_headers()
                .acts([Act::Delay(Duration::from_millis(200)), Act::Headers(fields(&[(":status", "200")]), true)]))
            .client(Client::raw().get("/1").fresh().get("/2")),
        to_h2("h2_upstream_connections_for_two_requests")
            .cluster(
                "up",
                "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {common_http_protocol_options: {max_requests_per_connection: 2}}}",
            )
            .client(Client::raw().get("/1").get("/2").get("/3").get("/4").get("/5")),
        scenario("h2_upstream_closes").up(Upstream::h2().acts([Act::Close])).client(Client::raw().get("/")),
        answers("h2_upstream_answers_without_a_status", vec![Act::Headers(fields(&[("x-a", "1")]), true)]),
        answers(
            "h2_upstream_answers_an_upper_case_name",
            vec![Act::Headers(fields(&[(":status", "200"), ("X-A", "1")]), true)],
        ),
        answers(
            "h2_upstream_answers_connection_fields",
            vec![Act::Headers(fields(&[(":status", "200"), ("connection", "close")]), true)],
        ),
        answers(
            "h2_upstream_answers_less_than_its_length",
            vec![
                Act::Headers(fields(&[(":status", "200"), ("content-length", "10")]), false),
                Act::Data(b"half".to_vec(), true),
            ],
        ),
        answers(
            "h2_upstream_early_hints",
            vec![
                Act::Headers(fields(&[(":status", "103"), ("link", "</a>")]), false),
                Act::Headers(fields(&[(":status", "200")]), true),
            ],
        ),
        scenario("h1_client_cancels_an_h2_stream")
            .up(Upstream::h2().acts([]))
            .client(Client::raw().send(get_from("/", &[])).step(Step::Upstream(1)).step(Step::Reset)),
        scenario("h2_upstream_answers_before_the_request_is_complete")
            .up(Upstream::h2().at_headers().acts([Act::Headers(fields(&[(":status", "403")]), true)]))
            .client(Client::raw().request("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 100\r\n\r\nbegin")),
    ]
}
