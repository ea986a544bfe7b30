//! HTTP/1 from someone who wants a proxy and a server to disagree about where a request ends, or worse.

use outrigger_tests::client::Client;
use outrigger_tests::upstream::Upstream;

use crate::scenario::{Scenario, scenario};

/// A second request, hidden in what may or may not be a body.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nhost: a.test\r\n\r\n";

pub(crate) fn cases() -> Vec<Scenario> {
    let mut cases = framing();
    cases.extend(chunks());
    cases.extend(fields());
    cases.extend(request_lines());
    cases
}

/// These bytes, before an upstream that answers every request.
fn hostile(name: &str, bytes: impl AsRef<[u8]>) -> Scenario {
    scenario(&format!("hostile_{name}")).up(Upstream::h1().ok("ok")).client(Client::raw().send(bytes))
}

/// A POST with these fields, and this after the head.
fn post(name: &str, fields: &str, rest: &str) -> Scenario {
    hostile(name, format!("POST / HTTP/1.1\r\nhost: a.test\r\n{fields}\r\n{rest}"))
}

fn framing() -> Vec<Scenario> {
    let last_chunk_and_hidden = format!("0\r\n\r\n{HIDDEN}");
    let chunk = "5\r\nhello\r\n0\r\n\r\n";
    vec![
        post("length_then_chunked", "content-length: 6\r\ntransfer-encoding: chunked\r\n", &last_chunk_and_hidden),
        post("chunked_then_length", "transfer-encoding: chunked\r\ncontent-length: 6\r\n", &last_chunk_and_hidden),
        post("two_different_lengths", "content-length: 5\r\ncontent-length: 6\r\n", "hello!"),
        post("two_equal_lengths", "content-length: 5\r\ncontent-length: 5\r\n", "hello"),
        post("equal_lengths_in_one_field", "content-length: 5, 5\r\n", "hello"),
        post("different_lengths_in_one_field", "content-length: 5, 6\r\n", "hello!"),
        post("length_with_a_plus", "content-length: +5\r\n", "hello"),
        post("length_below_zero", "content-length: -5\r\n", "hello"),
        post("length_in_hexadecimal", "content-length: 0x5\r\n", "hello"),
        post("length_over_64_bits", "content-length: 18446744073709551621\r\n", "hello"),
        post("length_that_is_empty", "content-length:\r\n", HIDDEN),
        post("length_with_spaces", "content-length:    5   \r\n", "hello"),
        post("length_with_a_fraction", "content-length: 5.0\r\n", "hello"),
        post("length_split_by_a_space", "content-length: 1 0\r\n", "0123456789"),
        post("identity_encoding", "transfer-encoding: identity\r\ncontent-length: 5\r\n", "hello"),
        post("chunked_is_not_the_last_encoding", "transfer-encoding: chunked, identity\r\n", chunk),
        post("gzip_before_chunked", "transfer-encoding: gzip, chunked\r\n", chunk),
        post("chunked_twice", "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", chunk),
        post("chunked_and_identity", "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n", chunk),
        post("almost_chunked", "transfer-encoding: xchunked\r\n", chunk),
        post("chunked_after_a_vertical_tab", "transfer-encoding: \x0bchunked\r\n", chunk),
        post("chunked_in_capitals", "Transfer-Encoding: CHUNKED\r\n", chunk),
        post("chunked_with_a_quote", "transfer-encoding: \"chunked\"\r\n", chunk),
        post("encoding_with_a_space_before_the_colon", "transfer-encoding : chunked\r\n", chunk),
        post("encoding_in_a_folded_field", "transfer-encoding:\r\n chunked\r\n", chunk),
        post("encoding_hidden_in_a_fold", "x-a: b\r\n transfer-encoding: chunked\r\n", chunk),
        post("encoding_with_an_underscore", "transfer_encoding: chunked\r\ncontent-length: 5\r\n", "hello"),
        hostile("chunked_in_http_1_0", format!("POST / HTTP/1.0\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n{chunk}"))
            .hcm("http_protocol_options: {accept_http_10: true}"),
        hostile("get_with_chunks", format!("GET / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n{chunk}{HIDDEN}")),
        hostile("head_with_a_body", format!("HEAD / HTTP/1.1\r\nhost: a.test\r\ncontent-length: {}\r\n\r\n{HIDDEN}", HIDDEN.len())),
        post("connection_names_the_length", "connection: content-length\r\ncontent-length: 5\r\n", "hello"),
        post("connection_names_the_encoding", "connection: transfer-encoding\r\ntransfer-encoding: chunked\r\n", chunk),
        post("connection_names_the_host", "connection: host, x-forwarded-for, close\r\ncontent-length: 0\r\n", ""),
        post(
            "upgrade_with_a_body",
            "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\ncontent-length: 5\r\n",
            "hello",
        )
        .hcm("upgrade_configs: [{upgrade_type: websocket}]"),
        post("expectation_with_a_hidden_request", "expect: 100-continue\r\ncontent-length: 0\r\n", HIDDEN),
    ]
}

fn chunks() -> Vec<Scenario> {
    let chunked = |name: &str, body: &str| post(name, "transfer-encoding: chunked\r\n", body);
    vec![
        chunked("chunk_size_with_a_space", "5 \r\nhello\r\n0\r\n\r\n"),
        chunked("chunk_size_with_a_prefix", "0x5\r\nhello\r\n0\r\n\r\n"),
        chunked("chunk_size_below_zero", "-5\r\nhello\r\n0\r\n\r\n"),
        chunked("chunk_size_with_a_plus", "+5\r\nhello\r\n0\r\n\r\n"),
        chunked("chunk_size_over_64_bits", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        chunked("chunk_size_with_zeros", "0000000000000005\r\nhello\r\n0\r\n\r\n"),
        chunked("chunk_size_that_is_empty", "\r\nhello\r\n0\r\n\r\n"),
        chunked("chunk_longer_than_its_size", "5\r\nhello!\r\n0\r\n\r\n"),
        chunked("chunk_line_ends_in_lf", "5\nhello\n0\n\n"),
        chunked("chunk_extension_with_lf", &format!("5;a\nhello\r\n0\r\n\r\n{HIDDEN}")),
        chunked("chunk_extension_with_cr", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        chunked("chunk_extension_of_20_kib", &format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(20 * 1024))),
        chunked("trailer_names_the_length", "5\r\nhello\r\n0\r\ncontent-length: 50\r\n\r\n"),
        chunked("trailer_names_the_host", "5\r\nhello\r\n0\r\nhost: evil.test\r\n\r\n")
            .hcm("http_protocol_options: {enable_trailers: true}"),
        chunked("trailer_without_a_colon", "5\r\nhello\r\n0\r\nnonsense\r\n\r\n"),
        chunked("last_chunk_without_an_end", "5\r\nhello\r\n0\r\n"),
    ]
}

fn fields() -> Vec<Scenario> {
    let get =
        |name: &str, fields: &str| hostile(name, format!("GET / HTTP/1.1\r\nhost: a.test\r\n{fields}\r\n{HIDDEN}"));
    let hosts = |name: &str, fields: &str| hostile(name, format!("GET / HTTP/1.1\r\n{fields}\r\n"));
    vec![
        hostile("lines_end_in_lf", "GET / HTTP/1.1\nhost: a.test\n\n"),
        get("field_with_a_bare_cr", "x-a: b\rc: d\r\n"),
        get("field_with_a_bare_lf", "x-a: b\nc: d\r\n"),
        get("field_with_a_nul", "x-a: b\0c\r\n"),
        get("field_with_a_control_byte", "x-a: b\x01c\r\n"),
        get("field_with_a_tab", "x-a: b\tc\r\n"),
        get("field_name_with_a_space", "x a: b\r\n"),
        get("field_name_with_a_bracket", "x(a): b\r\n"),
        get("field_name_that_is_empty", ": b\r\n"),
        get("field_without_a_colon", "nonsense\r\n"),
        get("field_that_begins_with_a_space", " x-a: b\r\n"),
        get("field_that_is_folded", "x-a: b\r\n c\r\n"),
        get("pseudo_header_as_a_field", ":path: /evil\r\n"),
        hostile("first_field_is_a_fold", "GET / HTTP/1.1\r\n x-a: b\r\nhost: a.test\r\n\r\n"),
        hosts("two_hosts", "host: a.test\r\nhost: evil.test\r\n"),
        hosts("host_with_a_path", "host: a.test/evil\r\n"),
        hosts("host_with_user_information", "host: user@a.test\r\n"),
        hosts("host_with_a_space", "host: a.test evil.test\r\n"),
        hosts("host_with_a_comma", "host: a.test,evil.test\r\n"),
        hosts("host_with_a_bad_port", "host: a.test:99999999\r\n"),
    ]
}

fn request_lines() -> Vec<Scenario> {
    let line = |name: &str, line: &str| hostile(name, format!("{line}\r\nhost: a.test\r\n\r\n"));
    // With the client's own address as the remote one.
    let edge = |name: &str, text: &str| line(&format!("absolute_form_{name}"), text).hcm("use_remote_address: true");
    vec![
        line("request_line_with_two_spaces", "GET  / HTTP/1.1"),
        line("request_line_with_tabs", "GET\t/\tHTTP/1.1"),
        line("request_line_with_a_word_too_many", "GET / evil HTTP/1.1"),
        line("request_line_without_a_version", "GET /"),
        line("request_line_that_begins_with_a_space", " GET / HTTP/1.1"),
        line("request_line_that_ends_with_a_space", "GET / HTTP/1.1 "),
        line("version_1_2", "GET / HTTP/1.2"),
        line("version_2_0", "GET / HTTP/2.0"),
        line("version_in_small_letters", "GET / http/1.1"),
        line("version_of_three_parts", "GET / HTTP/1.1.1"),
        line("version_of_another_protocol", "GET / ICE/1.0"),
        line("method_with_a_bracket", "GE(T / HTTP/1.1"),
        line("method_in_small_letters", "get / HTTP/1.1"),
        line("path_with_a_nul", "GET /a\0b HTTP/1.1"),
        line("path_with_a_control_byte", "GET /a\x01b HTTP/1.1"),
        line("path_without_a_slash", "GET evil HTTP/1.1"),
        line("path_with_encoded_line_ends", "GET /%0d%0aset-cookie:%20a=1 HTTP/1.1"),
        line("absolute_form_with_user_information", "GET http://user:password@a.test/ HTTP/1.1"),
        line("absolute_form_with_a_backslash", "GET http://a.test\\@evil.test/ HTTP/1.1"),
        line("absolute_form_with_two_at_signs", "GET http://a@evil.test@a.test/ HTTP/1.1"),
        line("absolute_form_with_two_at_signs_together", "GET http://a@@a.test/ HTTP/1.1"),
        line("absolute_form_with_brackets_in_the_user_information", "GET http://a[b]@a.test/ HTTP/1.1"),
        line("absolute_form_with_empty_user_information", "GET http://@a.test/ HTTP/1.1"),
        line("absolute_form_with_user_information_only", "GET http://a@/ HTTP/1.1"),
        line("absolute_form_with_a_sub_delimiter_in_the_host", "GET http://a!b/ HTTP/1.1"),
        line("absolute_form_with_two_colons", "GET http://a.test:80:80/ HTTP/1.1"),
        line("absolute_form_with_an_empty_port", "GET http://a.test:/ HTTP/1.1"),
        line("absolute_form_with_an_open_bracket", "GET http://[::1/ HTTP/1.1"),
        line("absolute_form_with_a_name_behind_brackets", "GET http://[::1]a.test/ HTTP/1.1"),
        line("absolute_form_with_a_name_in_brackets", "GET http://[a.test]/ HTTP/1.1"),
        line("absolute_form_with_a_zone", "GET http://[fe80::1%25eth0]:80/ HTTP/1.1"),
        line("absolute_form_with_an_empty_zone", "GET http://[fe80::1%]/ HTTP/1.1"),
        edge("https_in_plaintext", "GET https://evil.test/ HTTP/1.1"),
        edge("https_in_capitals_in_plaintext", "GET HTTPS://evil.test/ HTTP/1.1"),
        edge("http_in_plaintext", "GET http://a.test/ HTTP/1.1"),
        edge("https_in_plaintext_behind_a_proxy", "GET https://a.test/ HTTP/1.1")
            .hcm("{use_remote_address: true, xff_num_trusted_hops: 1}"),
        edge("https_of_no_host_in_plaintext", "GET https://a@b@c/ HTTP/1.1"),
        line("absolute_form_of_another_scheme", "GET ftp://a.test/ HTTP/1.1"),
        line("absolute_form_without_a_host", "GET http:///evil HTTP/1.1"),
        line("request_line_of_100_kib", &format!("GET /{} HTTP/1.1", "a".repeat(100 * 1024))),
        hostile("tls_on_a_plain_listener", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"),
        hostile("proxy_protocol_unasked", "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET / HTTP/1.1\r\nhost: a.test\r\n\r\n"),
        scenario("hostile_line_ends_in_a_redirect")
            .route("redirect: {https_redirect: true}")
            .client(Client::raw().send("GET /%0d%0aset-cookie:%20a=1?b=%0a HTTP/1.1\r\nhost: a.test\r\n\r\n")),
    ]
}
