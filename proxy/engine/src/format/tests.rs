use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::envoy::config::core::v3::SubstitutionFormatString;
use outrigger_proto::envoy::config::core::v3::substitution_format_string::Format as FormatMessage;

use super::*;
use crate::message::Protocol;
use crate::stream_info::{Address, PeerCertificate, ResponseFlags, TlsInfo};
use crate::testing::{convert, fields, request, response, stream_info};

/// A finished request with everything that operators can speak of.
fn finished() -> (RequestHead, ResponseHead, Headers, StreamInfo) {
    let headers = [
        ("x-envoy-original-path", "/old?q=1"),
        ("x-forwarded-for", "1.2.3.4"),
        ("user-agent", "curl"),
        ("x-request-id", "abc-def"),
        ("content-type", "application/grpc"),
        ("x-two", "first"),
        ("x-two", "second"),
    ];
    let request = request("h.example", "/new?a=v1&b&a=v2", &headers);
    let response = response(200, &[("x-envoy-upstream-service-time", "3"), ("x-up", "u")]);
    let trailers = fields(&[("grpc-status", "14"), ("x-t", "t")]);
    let mut info = stream_info();
    info.response_code = Some(200);
    info.details = Some("via upstream".into());
    info.flags = ResponseFlags::UPSTREAM_OVERFLOW;
    info.flags.insert(ResponseFlags::NO_HEALTHY_UPSTREAM);
    info.bytes_received = 12;
    info.bytes_sent = 345;
    info.upstream_host = Some("[::1]:8080".into());
    info.upstream_cluster = Some("c".into());
    info.upstream_local_address = Some("10.0.0.1:5555".parse().unwrap());
    info.upstream_protocol = Some(Protocol::Http2);
    info.upstream_transport_failure = Some("TLS error: bad".into());
    info.route_name = Some("r".into());
    info.attempts = 2;
    info.last_downstream_rx = Some(Duration::from_micros(1_500));
    info.first_upstream_rx = Some(Duration::from_millis(5));
    info.last_downstream_tx = Some(Duration::from_millis(42));
    (request, response, trailers, info)
}

fn write(format: &str) -> String {
    let (request, response, trailers, info) = finished();
    let ctx = FormatContext {
        request: Some(&request),
        response: Some(&response),
        trailers: Some(&trailers),
        local_reply_body: b"body",
        ..FormatContext::new(&info, Duration::from_secs(9))
    };
    let mut out = Vec::new();
    Format::parse(format).unwrap().write(&mut out, &ctx);
    String::from_utf8(out).unwrap()
}

/// Of a connection about which nothing more is known.
fn write_bare(format: &str) -> String {
    let info = stream_info();
    let mut out = Vec::new();
    Format::parse(format).unwrap().write(&mut out, &FormatContext::new(&info, Duration::from_millis(7)));
    String::from_utf8(out).unwrap()
}

#[test]
fn the_default_line() {
    assert_eq!(
        write(DEFAULT_LINE),
        "[2018-03-28T23:35:58.500Z] \"GET /old?q=1 HTTP/1.1\" 200 UO,UH 12 345 42 3 \"1.2.3.4\" \"curl\" \"abc-def\" \
         \"h.example\" \"[::1]:8080\"\n"
    );
    assert_eq!(
        write_bare(DEFAULT_LINE),
        "[2018-03-28T23:35:58.500Z] \"- - HTTP/1.1\" 0 - 0 0 7 - \"-\" \"-\" \"-\" \"-\" \"-\"\n"
    );
}

#[test]
fn each_operator() {
    for (format, text) in [
        ("100%% %PROTOCOL%%UPSTREAM_PROTOCOL%", "100% HTTP/1.1HTTP/2"),
        ("%REQ(X-Two)% %REQ(:path):4% %REQ(host)% %REQ(:scheme)%", "first /new h.example http"),
        ("%REQ(x-none?:METHOD)% %REQ(x-none?x-none)%", "GET -"),
        ("%RESP(x-up)% %RESP(:status)% %TRAILER(x-t)% %TRAILER(x-u)%", "u 200 t -"),
        (
            "%REQ_WITHOUT_QUERY(X-ENVOY-ORIGINAL-PATH?:PATH)% %QUERY_PARAM(a)%|%QUERY_PARAM(b)%|%QUERY_PARAM(c)%",
            "/old v1||-",
        ),
        ("%START_TIME(%Y/%m/%dT%H:%M:%S%z %s.%3f)%", "2018/03/28T23:35:58+0000 1522280158.500"),
        ("%START_TIME% %EMIT_TIME(%T)%", "2018-03-28T23:35:58.500Z 23:36:07"),
        ("%RESPONSE_CODE_DETAILS% %RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%", "via_upstream via upstream"),
        ("%RESPONSE_FLAGS_LONG%", "UpstreamOverflow,NoHealthyUpstream"),
        ("%UPSTREAM_TRANSPORT_FAILURE_REASON%|%CONNECTION_TERMINATION_DETAILS%", "TLS_error:_bad|-"),
        ("%REQUEST_DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION% %REQUEST_TX_DURATION%", "1 5 37 -"),
        ("%COMMON_DURATION(DS_RX_BEG:DS_RX_END:us)% %COMMON_DURATION(US_RX_BEG:DS_TX_END)%", "1500 37"),
        ("%COMMON_DURATION(DS_TX_END:US_RX_BEG)%", "-"),
        (
            "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_REMOTE_PORT%",
            "10.0.0.9:4711 10.0.0.9 4711",
        ),
        (
            "%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_PORT% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
            "10.0.0.1:80 80 10.0.0.9:4711",
        ),
        (
            "%UPSTREAM_HOST% %UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_REMOTE_PORT% %UPSTREAM_LOCAL_ADDRESS%",
            "[::1]:8080 ::1 8080 10.0.0.1:5555",
        ),
        ("%UPSTREAM_CLUSTER% %UPSTREAM_CLUSTER_RAW% %ROUTE_NAME% %UPSTREAM_REQUEST_ATTEMPT_COUNT%", "c c r 2"),
        ("%CONNECTION_ID% %STREAM_ID% %ACCESS_LOG_TYPE% %LOCAL_REPLY_BODY%", "7 abc-def DownstreamEnd body"),
        ("%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS_NUMBER%", "Unavailable UNAVAILABLE 14"),
        ("%DYNAMIC_METADATA(a:b)% %FILTER_STATE(k:PLAIN)% %METADATA(ROUTE:a)% %VIRTUAL_CLUSTER_NAME%", "- - - -"),
        ("%ENVIRONMENT(OUTRIGGER_NO_SUCH_VARIABLE)% %REQUESTED_SERVER_NAME%", "- -"),
        ("%RESPONSE_HEADERS_BYTES% %RESPONSE_TRAILERS_BYTES%", "45 17"),
    ] {
        assert_eq!(write(format), text, "{format}");
    }
}

#[test]
fn certificates_and_tls() {
    let mut info = stream_info();
    let mut connection = (*info.connection).clone();
    connection.requested_server_name = Some("sni".into());
    connection.tls = Some(Arc::new(TlsInfo {
        version: Some("TLSv1.3"),
        cipher: Some("TLS_AES_128_GCM_SHA256"),
        local_uri_sans: vec!["spiffe://a".into(), "spiffe://b".into()],
        local_subject: None,
        peer: Some(PeerCertificate {
            subject: "CN=x".into(),
            sha256: "00ff".into(),
            der: b"Man+/~".to_vec(),
            not_before: 0,
            not_after: 1_522_280_158,
            ..PeerCertificate::default()
        }),
    }));
    info.connection = Arc::new(connection);
    info.remote_address = Address::Pipe("/run/x".into());
    let mut out = Vec::new();
    let format = "%DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_TLS_CIPHER% %DOWNSTREAM_LOCAL_URI_SAN% %DOWNSTREAM_LOCAL_SUBJECT% \
        %DOWNSTREAM_PEER_SUBJECT% %DOWNSTREAM_PEER_ISSUER% %DOWNSTREAM_PEER_FINGERPRINT_256% %DOWNSTREAM_PEER_CERT% \
        %DOWNSTREAM_PEER_CERT_V_END(%F)% %REQUESTED_SERVER_NAME% %DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_PORT%";
    Format::parse(format).unwrap().write(&mut out, &FormatContext::new(&info, Duration::ZERO));
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "TLSv1.3 TLS_AES_128_GCM_SHA256 spiffe://a,spiffe://b - CN=x - 00ff \
         -----BEGIN%20CERTIFICATE-----%0ATWFuKy9%2B%0A-----END%20CERTIFICATE-----%0A 2018-03-28 sni /run/x -"
    );
}

#[test]
fn errors_name_the_operator() {
    for (format, operator, reason) in [
        ("a %NOPE% b", "%NOPE%", "no such operator in this version"),
        ("%REQ%", "%REQ%", "needs the name of a header"),
        ("%REQ(a?b?c)%", "%REQ(a?b?c)%", "takes one alternative only"),
        ("%REQ(a b)%", "%REQ(a b)%", "\"a b\" is not the name of a header"),
        ("%PROTOCOL(x)%", "%PROTOCOL(x)%", "takes no argument"),
        ("%PROTOCOL:3%", "%PROTOCOL:3%", "takes no length"),
        ("100% of", "% of", "not an operator: write %% for a percent sign"),
        ("%REQ(a", "%REQ(a", "no closing )%"),
        ("%", "%", "no closing %: write %% for a percent sign"),
        ("%START_TIME(%n)%", "%START_TIME(%n)%", "a time must not hold a line break"),
        ("%GRPC_STATUS(X)%", "%GRPC_STATUS(X)%", "takes CAMEL_STRING, SNAKE_STRING or NUMBER"),
        ("%COMMON_DURATION(A:B)%", "%COMMON_DURATION(A:B)%", "\"A\" is no point in time of this version"),
    ] {
        let error = Format::parse(format).unwrap_err();
        assert_eq!((error.operator.as_str(), error.reason.as_str()), (operator, reason), "{format}");
    }
}

fn read_json(yaml: &str, omit_empty: bool) -> Result<JsonFormat, Vec<String>> {
    convert(&format!("json_format: {yaml}"), |message: SubstitutionFormatString, at| match message.format {
        Some(FormatMessage::JsonFormat(format)) => JsonFormat::convert(format, omit_empty, at),
        _ => None,
    })
}

fn json(yaml: &str, omit_empty: bool) -> String {
    let format = read_json(yaml, omit_empty).unwrap();
    let (mut request, response, trailers, info) = finished();
    let bytes = http::HeaderValue::from_bytes(b"\xc3\xa9 \xff\t\"").unwrap();
    request.headers.append(http::HeaderName::from_static("x-latin"), bytes);
    let utf8 = http::HeaderValue::from_bytes("é\\".as_bytes()).unwrap();
    request.headers.append(http::HeaderName::from_static("x-utf8"), utf8);
    let ctx = FormatContext {
        request: Some(&request),
        response: Some(&response),
        trailers: Some(&trailers),
        ..FormatContext::new(&info, Duration::ZERO)
    };
    let mut out = Vec::new();
    format.write(&mut out, &ctx);
    String::from_utf8(out).unwrap()
}

#[test]
fn json_keeps_types_and_sorts_keys() {
    assert_eq!(
        json(
            "{z: '%RESPONSE_CODE%', a: '%REQ(x-none)%', m: '%RESPONSE_CODE%ms', n: {k: lit, l: ['%BYTES_SENT%', 1, true, null]}}",
            false
        ),
        r#"{"a":null,"m":"200ms","n":{"k":"lit","l":[345,1,true,null]},"z":200}"#
    );
    assert_eq!(
        json("{a: '%REQ(x-latin)%', b: '%REQ(x-utf8)%', c: '%REQ(x-none)% x', p: '%DOWNSTREAM_LOCAL_PORT%'}", false),
        "{\"a\":\"Ã© ÿ\\t\\\"\",\"b\":\"é\\\\\",\"c\":\"- x\",\"p\":80}"
    );
    assert_eq!(
        json(
            "{a: '%REQ(x-none)%', b: {z: '%REQ(x-none)%'}, c: '%REQ(x-none)% x', l: ['%REQ(x-none)%'], r: '%PROTOCOL%'}",
            true
        ),
        r#"{"c":" x","l":[],"r":"HTTP/1.1"}"#
    );
    assert_eq!(json("{a: '%REQ(x-none)%'}", true), "{}");
}

#[test]
fn json_errors_have_a_path() {
    let problems = read_json("{a: {b: ['x', '%NO%']}}", false).unwrap_err();
    assert_eq!(problems, ["[\"a\"][\"b\"][1]: %NO%: no such operator in this version"]);
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "[%A-Z_():0-9?a-z ]{0,30}|(%(REQ|START_TIME|PROTOCOL)[(:%a-z]{0,5}\\)?%){0,4}") {
        if let Ok(format) = Format::parse(&text) {
            let info = stream_info();
            format.write(&mut Vec::new(), &FormatContext::new(&info, Duration::ZERO));
        }
    }
}
