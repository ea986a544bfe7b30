//! HTTP/2 in frames that no library would send.

use std::time::Duration;

use outrigger_tests::client::{Client, Step, h2_head};
use outrigger_tests::upstream::Upstream;
use outrigger_tests::wire::h2::{self, kind};
use outrigger_tests::wire::hpack;

use crate::scenario::{Scenario, scenario};

const CANCEL: u32 = 8;

pub(crate) fn cases() -> Vec<Scenario> {
    let mut cases: Vec<Scenario> = floods().into_iter().map(Scenario::alone).collect();
    cases.extend(windows());
    cases.extend(fields());
    cases.extend(lengths());
    cases.extend(frames());
    cases.extend(unfinished_heads());
    cases
}

fn hostile(name: &str, client: Client) -> Scenario {
    scenario(&format!("hostile_h2_{name}")).up(Upstream::h1().ok("ok")).client(client)
}

/// Bytes after the preface.
fn sends(name: &str, bytes: impl AsRef<[u8]>) -> Scenario {
    hostile(name, Client::h2().send(bytes))
}

/// These frames, then a good request on the same connection.
fn then_a_good_request(name: &str, bytes: Vec<u8>) -> Scenario {
    let after = h2_head(3, "GET", "/after", &[], true);
    hostile(name, Client::h2().send(bytes).step(Step::Stream(1)).step(Step::SendUnlessAway(after)))
}

/// A request with exactly these fields.
fn with_fields(name: &str, fields: &[(&str, &str)]) -> Scenario {
    then_a_good_request(name, h2::headers(1, fields.iter().copied(), true))
}

/// A good request but for these fields.
fn get(name: &str, fields: &[(&str, &str)]) -> Scenario {
    then_a_good_request(name, h2_head(1, "GET", "/", fields, true))
}

fn floods() -> Vec<Scenario> {
    let direct = |name: &str, client: Client| scenario(&format!("hostile_h2_{name}")).client(client);
    let mut resets = Vec::new();
    for stream in (0..1200).map(|n| 2 * n + 1) {
        resets.extend(h2_head(stream, "GET", "/", &[], true));
        resets.extend(h2::rst_stream(stream, CANCEL));
    }
    let block = hpack::encode([(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.test")]);
    // So small that one read brings all of them: what Envoy answers depends on where a read ends.
    let continuations = |count: usize| {
        let mut bytes = h2::frame(kind::HEADERS, h2::END_STREAM, 1, &block);
        bytes.extend(h2::frame(kind::CONTINUATION, 0, 1, &hpack::encode([("x", "")])).repeat(count));
        bytes
    };
    let mut empty = h2::frame(kind::HEADERS, h2::END_STREAM, 1, &block);
    empty.extend(h2::frame(kind::CONTINUATION, 0, 1, &[]).repeat(2000));
    let mut data = h2_head(1, "POST", "/", &[], false);
    data.extend(h2::data(1, b"", false).repeat(20_000));
    let mut priorities = h2_head(1, "POST", "/", &[], false);
    priorities.extend(h2::frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 0, 16]).repeat(20_000));
    let mut windows = h2_head(1, "POST", "/", &[], false);
    windows.extend(h2::window_update(1, 1).repeat(20_000));
    // One entry of 4,000 bytes in the dynamic table, named 200 times.
    let mut bomb = block.clone();
    bomb.push(0x40);
    hpack::put_string(&mut bomb, b"x-bomb");
    hpack::put_string(&mut bomb, "b".repeat(3900).as_bytes());
    bomb.extend([0x80 | 62].repeat(200));
    let many: Vec<(String, String)> = (0..200).map(|n| (format!("x-{n}"), String::new())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let cookies = vec![("cookie", "a=1"); 500];
    vec![
        direct("rapid_reset", Client::h2().send(resets))
            .up(Upstream::h1().acts([outrigger_tests::upstream::Act::Hang]))
            .route("direct_response: {status: 200}"),
        direct("continuation_flood", Client::h2().send(continuations(1000))),
        direct("continuation_flood_that_stops", Client::h2().send(continuations(200)).step(Step::Stream(1))),
        direct("empty_continuation_flood", Client::h2().send(empty)),
        direct("settings_flood", Client::h2().send(h2::settings(&[(4, 65_535)]).repeat(20_000))),
        direct("ping_flood", Client::h2().send(h2::frame(kind::PING, 0, 0, b"12345678").repeat(20_000))),
        hostile("empty_data_flood", Client::h2().send(data)),
        hostile("priority_flood", Client::h2().send(priorities)),
        hostile("window_update_flood", Client::h2().send(windows)),
        sends("hpack_bomb", h2::frame(kind::HEADERS, h2::END_STREAM | h2::END_HEADERS, 1, &bomb)),
        get("more_than_100_fields", &many),
        get("cookies_without_number", &cookies),
        sends("head_over_60_kib", {
            let long = hpack::encode([("x-long", "v".repeat(15_000))]);
            let mut bytes = h2::frame(kind::HEADERS, h2::END_STREAM, 1, &block);
            for n in 0..5 {
                bytes.extend(h2::frame(kind::CONTINUATION, if n == 4 { h2::END_HEADERS } else { 0 }, 1, &long));
            }
            bytes
        }),
    ]
}

/// Heads that begin and do not end.
fn unfinished_heads() -> Vec<Scenario> {
    let block = hpack::encode([(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.test")]);
    let begun = h2::frame(kind::HEADERS, h2::END_STREAM, 1, &block);
    vec![
        hostile("head_without_end", Client::h2().send(&begun).end()).hcm("request_headers_timeout: 0.3s"),
        hostile("head_without_end_is_idle", Client::h2().send(&begun).end()).hcm("stream_idle_timeout: 0.3s"),
    ]
}

fn windows() -> Vec<Scenario> {
    vec![
        scenario("hostile_h2_zero_window").up(Upstream::h1().ok("never seen")).hcm("stream_idle_timeout: 0.5s").client(
            Client::h2_bare()
                .send([h2::PREFACE, &h2::settings(&[(4, 0)])].concat())
                .send(h2_head(1, "GET", "/", &[], true))
                .step(Step::Stream(1)),
        ),
        scenario("hostile_h2_window_of_one")
            .up(Upstream::h1().ok(&"seen in part".repeat(1000)))
            .hcm("stream_idle_timeout: 0.5s")
            .client(
                Client::h2_bare()
                    .passive()
                    .send([h2::PREFACE, &h2::settings(&[(4, 1)])].concat())
                    .send(h2_head(1, "GET", "/", &[], true))
                    .step(Step::Stream(1)),
            ),
        scenario("hostile_h2_window_of_one_byte").up(Upstream::h1().ok("slowly")).client(
            Client::h2_bare()
                .send([h2::PREFACE, &h2::settings(&[(4, 1)])].concat())
                .send(h2_head(1, "GET", "/", &[], true))
                .step(Step::Stream(1)),
        ),
        scenario("hostile_h2_never_reads").up(Upstream::h1().ok("unread")).client(
            Client::h2()
                .passive()
                .send(h2_head(1, "GET", "/", &[], true))
                .step(Step::Delay(Duration::from_millis(500))),
        ),
    ]
}

fn fields() -> Vec<Scenario> {
    let basic = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.test")];
    let with = |extra: (&'static str, &'static str)| {
        let mut all = basic.to_vec();
        all.push(extra);
        all
    };
    let without = |name: &str| basic.iter().copied().filter(|(n, _)| *n != name).collect::<Vec<_>>();
    vec![
        get("cr_in_a_value", &[("x-a", "b\rc")]),
        get("lf_in_a_value", &[("x-a", "b\nc: d")]),
        get("crlf_in_a_value", &[("x-a", "b\r\nhost: evil.test\r\n\r\n")]),
        get("nul_in_a_value", &[("x-a", "b\0c")]),
        get("space_around_a_value", &[("x-a", " b ")]),
        get("cr_in_a_name", &[("x-a\r", "b")]),
        get("colon_in_a_name", &[("x-a: b", "c")]),
        get("space_in_a_name", &[("x a", "b")]),
        get("capital_in_a_name", &[("X-A", "b")]),
        get("empty_name", &[("", "b")]),
        get("quotation_mark_in_a_name", &[("x-\"a", "b")]),
        get("transfer_encoding", &[("transfer-encoding", "chunked")]),
        get("connection", &[("connection", "close")]),
        get("keep_alive", &[("keep-alive", "timeout=5")]),
        get("proxy_connection", &[("proxy-connection", "keep-alive")]),
        get("upgrade", &[("upgrade", "websocket")]),
        get("te_other_than_trailers", &[("te", "gzip")]),
        get("host_beside_authority", &[("host", "evil.test")]),
        get("path_is_empty", &[(":path", " ")]),
        with_fields(
            "path_of_no_length",
            &[(":method", "GET"), (":scheme", "http"), (":path", ""), (":authority", "a.test")],
        ),
        get("path_without_a_slash", &[(":path", "evil")]),
        get("path_is_an_asterisk", &[(":path", "*")]),
        get("path_is_absolute", &[(":path", "http://evil.test/")]),
        get("path_with_a_space", &[(":path", "/a b HTTP/1.1")]),
        get("path_with_line_ends", &[(":path", "/ HTTP/1.1\r\nhost: evil.test\r\n\r\n")]),
        get("path_with_a_fragment", &[(":path", "/a#b")]),
        get("path_with_a_space_in_a_fragment", &[(":path", "/a# b")]),
        get("path_with_a_space_before_a_fragment", &[(":path", "/a #b")]),
        get("path_with_a_line_end_in_a_fragment", &[(":path", "/a#\r\nb")]),
        get("path_with_a_delete_in_a_fragment", &[(":path", "/a#\u{7f}")]),
        get("path_with_a_high_byte_in_a_fragment", &[(":path", "/a#\u{e9}")]),
        get("path_is_an_asterisk_with_a_fragment", &[(":method", "OPTIONS"), (":path", "*#b")]),
        get("path_with_a_high_byte", &[(":path", "/\u{e9}")]),
        get("authority_with_user_information", &[(":authority", "user@a.test")]),
        get("authority_with_a_path", &[(":authority", "a.test/evil")]),
        get("authority_with_a_space", &[(":authority", "a.test evil")]),
        get("method_with_a_space", &[(":method", "GET /evil HTTP/1.1")]),
        get("method_unknown", &[(":method", "BREW")]),
        get("scheme_odd", &[(":scheme", "ftp")]),
        get("scheme_with_a_space", &[(":scheme", "http ")]),
        with_fields("no_path", &without(":path")),
        with_fields("no_method", &without(":method")),
        with_fields("no_scheme", &without(":scheme")),
        with_fields("no_authority", &without(":authority")),
        with_fields("path_twice", &with((":path", "/evil"))),
        with_fields("authority_twice", &with((":authority", "evil.test"))),
        with_fields("status_in_a_request", &with((":status", "200"))),
        with_fields("unknown_pseudo_header", &with((":evil", "1"))),
        with_fields(
            "pseudo_header_after_a_field",
            &[(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), ("x-a", "b"), (":path", "/")],
        ),
        sends("pseudo_header_in_trailers", {
            let mut bytes = h2_head(1, "POST", "/", &[], false);
            bytes.extend(h2::headers(1, [(":path", "/evil")], true));
            bytes
        }),
    ]
}

fn lengths() -> Vec<Scenario> {
    let post = |name: &str, length: &[(&str, &str)], body: &str| {
        let mut bytes = h2_head(1, "POST", "/", length, false);
        bytes.extend(h2::data(1, body.as_bytes(), true));
        sends(name, bytes)
    };
    let after_the_head = |name: &str, length: &str, body: &str| {
        let head = h2_head(1, "POST", "/", &[("content-length", length)], false);
        let body = h2::data(1, body.as_bytes(), true);
        hostile(name, Client::h2().send(head).step(Step::Upstream(1)).send(body))
    };
    vec![
        after_the_head("data_below_its_length", "10", "half"),
        after_the_head("data_over_its_length", "2", "GET /hidden"),
        post("two_equal_lengths", &[("content-length", "4"), ("content-length", "4")], "body"),
        post("two_lengths", &[("content-length", "4"), ("content-length", "5")], "body"),
        post("length_that_is_no_number", &[("content-length", "four")], "body"),
        post("length_with_a_plus", &[("content-length", "+4")], "body"),
        sends("length_without_data", h2_head(1, "POST", "/", &[("content-length", "10")], true)),
    ]
}

fn frames() -> Vec<Scenario> {
    let open = |then: Vec<u8>| [h2_head(1, "POST", "/", &[], false), then].concat();
    let done = |then: Vec<u8>| [h2_head(1, "GET", "/", &[], true), then].concat();
    let block = hpack::encode([(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.test")]);
    vec![
        hostile("bad_preface", Client::h2_bare().send("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n")),
        hostile(
            "preface_without_settings",
            Client::h2_bare().send([h2::PREFACE, &h2_head(1, "GET", "/", &[], true)].concat()),
        ),
        sends("data_on_an_idle_stream", h2::data(1, b"evil", true)),
        sends("data_after_the_end", done(h2::data(1, b"evil", true))),
        sends("headers_on_an_even_stream", h2_head(2, "GET", "/", &[], true)),
        sends("headers_on_stream_zero", h2_head(0, "GET", "/", &[], true)),
        sends(
            "stream_ids_that_go_back",
            [h2_head(5, "GET", "/", &[], true), h2_head(3, "GET", "/", &[], true)].concat(),
        ),
        sends("reset_of_an_idle_stream", h2::rst_stream(7, CANCEL)),
        sends("frame_over_the_limit", h2::frame(kind::DATA, 0, 1, &vec![0; 20_000])),
        sends("settings_of_a_bad_length", h2::frame(kind::SETTINGS, 0, 0, &[0; 5])),
        sends("settings_on_a_stream", h2::frame(kind::SETTINGS, 0, 1, &[])),
        sends("settings_with_a_huge_window", h2::settings(&[(4, 0x8000_0000)])),
        sends("settings_with_a_tiny_frame", h2::settings(&[(5, 1)])),
        sends("ping_of_a_bad_length", h2::frame(kind::PING, 0, 0, &[0; 7])),
        sends("window_update_of_zero", h2::window_update(0, 0)),
        sends("window_update_of_zero_on_a_stream", open(h2::window_update(1, 0))),
        sends("window_that_overflows", h2::window_update(0, 0x7fff_ffff)),
        sends("window_of_a_stream_that_overflows", open(h2::window_update(1, 0x7fff_ffff))),
        sends("push_promise_from_a_client", h2::frame(kind::PUSH_PROMISE, h2::END_HEADERS, 1, &[0, 0, 0, 2])),
        sends("continuation_alone", h2::frame(kind::CONTINUATION, h2::END_HEADERS, 1, &block)),
        sends(
            "data_between_header_frames",
            [h2::frame(kind::HEADERS, 0, 1, &block[..4]), h2::data(1, b"evil", false)].concat(),
        ),
        sends("unknown_frame", done(h2::frame(99, 0, 0, b"whatever"))),
        sends("goaway_on_a_stream", h2::frame(kind::GOAWAY, 0, 1, &[0; 8])),
        sends(
            "hpack_that_does_not_decode",
            h2::frame(kind::HEADERS, h2::END_HEADERS | h2::END_STREAM, 1, &[0xff, 0xff, 0xff, 0xff, 0xff]),
        ),
        sends("hpack_index_out_of_range", h2::frame(kind::HEADERS, h2::END_HEADERS | h2::END_STREAM, 1, &[0x80 | 70])),
        sends("padding_over_the_frame", h2::frame(kind::DATA, 8, 1, &[200, 1, 2])),
        sends("priority_on_itself", h2::frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 1, 16])),
        hostile("cut_in_a_frame", Client::h2().send([0, 0, 100, 1, 4, 0, 0, 0, 1, 1]).step(Step::HalfClose)),
    ]
}
