//! Requests read, responses written.

use super::*;

#[tokio::test]
async fn keeps_the_connection_for_pipelined_requests() {
    let (mut peer, mut connection) = server(settings());
    peer.write_all(
        b"GET /a HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\nPOST /b HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc",
    )
    .await
    .unwrap();
    let Exchange { head, body, mut responder } = request(&mut connection).await;
    assert_eq!(head.path, "/a");
    assert_eq!(head.authority.unwrap(), "x");
    assert_eq!(head.headers, headers(&[("accept", "*/*")]));
    assert!(matches!(body, codec::Body::Empty));
    responder.send_head(ok(&[("content-length", "2")]), false).unwrap();
    responder.send_data(Bytes::from_static(b"ok"), true).unwrap();
    assert_eq!(finish(&mut connection).await, Finish::KeepAlive);
    assert_eq!(written(&mut peer).await, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");

    let Exchange { head, mut body, mut responder } = request(&mut connection).await;
    assert_eq!((head.method, head.path.as_bytes()), (Method::POST, &b"/b"[..]));
    assert_eq!(read_body(&mut body).await.unwrap().0, b"abc");
    responder.send_head(ok(&[]), false).unwrap();
    responder.send_data(Bytes::from_static(b"hello"), false).unwrap();
    responder.send_data(Bytes::from_static(b"there, a longer one"), true).unwrap();
    assert_eq!(finish(&mut connection).await, Finish::KeepAlive);
    assert_eq!(
        written(&mut peer).await,
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n13\r\nthere, a longer one\r\n0\r\n\r\n"
    );
    drop(peer);
    assert!(matches!(incoming(&mut connection).await, Incoming::End(Ended::Closed)));
}

#[tokio::test]
async fn a_dropped_responder_closes() {
    let (mut peer, mut connection) = server(settings());
    peer.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let exchange = request(&mut connection).await;
    drop(exchange);
    assert_eq!(finish(&mut connection).await, Finish::Close);
}

/// What a connection makes of `bytes`: the answer's status and details, or 0 and the request's path.
async fn verdict(settings: ServerSettings, bytes: &[u8]) -> (u16, String) {
    let (mut peer, mut connection) = server(settings);
    peer.write_all(bytes).await.unwrap();
    peer.shutdown().await.unwrap();
    match incoming(&mut connection).await {
        Incoming::Request(Exchange { head, mut body, .. }) => match read_body(&mut body).await {
            Ok(_) => (0, String::from_utf8_lossy(head.path.as_bytes()).into_owned()),
            Err(error) => (1, error.to_string()),
        },
        Incoming::Malformed { status, details, .. } => (status, details.to_owned()),
        Incoming::End(ended) => (2, format!("{ended:?}")),
    }
}

#[tokio::test]
async fn refuses_what_smuggles() {
    let post = |fields: &str| format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n0\r\n\r\n");
    let get = |fields: &str| format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
    let line = |line: &str| format!("{line}\r\nHost: x\r\n\r\n");
    let codec = (400, "http1.codec_error");
    let te = (501, "http1.invalid_transfer_encoding");
    let characters = (400, "http1.invalid_characters");
    let url = (400, "http1.invalid_url");
    let authority = (400, "http.invalid_authority");
    let both = (400, "http1.content_length_and_chunked_not_allowed");
    let many = |n: usize| get(&"A: b\r\n".repeat(n));
    let cases: Vec<(String, (u16, &str))> = vec![
        (post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), both),
        (post("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"), both),
        (post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"), both),
        (post("Content-Length: 5\r\nContent-Length: 6\r\n"), codec),
        (post("Content-Length: 5\r\nContent-Length: 5\r\n"), codec),
        (post("Content-Length: 5, 5\r\n"), codec),
        (post("Content-Length: +1\r\n"), codec),
        (post("Content-Length: -1\r\n"), codec),
        (post("Content-Length: 1 1\r\n"), codec),
        (post("Content-Length: 0x1\r\n"), codec),
        (post("Content-Length: \r\n"), codec),
        (post("Content-Length: 99999999999999999999\r\n"), codec),
        (post("Transfer-Encoding: gzip, chunked\r\n"), te),
        (post("Transfer-Encoding: chunked, identity\r\n"), te),
        (post("Transfer-Encoding: identity\r\n"), te),
        (post("Transfer-Encoding: xchunked\r\n"), te),
        (post("Transfer-Encoding: \r\n"), te),
        (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), te),
        (post("Transfer-Encoding: \"chunked\"\r\n"), te),
        (post("Transfer-Encoding: chunked;q=1\r\n"), te),
        (post("Transfer-Encoding:\x0bchunked\r\n"), characters),
        (post("Transfer-Encoding : chunked\r\n"), codec),
        (post("Transfer_Encoding: chunked\r\n"), (0, "/")),
        (post(" Transfer-Encoding: chunked\r\n"), codec),
        (get("A: b\r\n c\r\n"), codec),
        (get("A: b\r\n\tc\r\n"), codec),
        (get("A : b\r\n"), codec),
        (get("A: b\0c\r\n"), characters),
        (get("A: b\rc\r\n"), characters),
        (get("A: b\x7f\r\n"), characters),
        (get("A: b\nB: c\r\n"), codec),
        (get("A\0: b\r\n"), codec),
        (get("A(: b\r\n"), codec),
        (get(": b\r\n"), codec),
        (get("Abc\r\n"), codec),
        ("GET / HTTP/1.1\nHost: x\n\n".into(), codec),
        ("\r\r\nGET  / HTTP/1.1\r\nHost: x\r\n\r\n".into(), codec),
        ("GET / HTTP/1.1\nHost: x\r\n\r\n".into(), codec),
        ("GET / HTTP/1.1\r\nHost: x\n\r\n".into(), codec),
        ("GET / HTTP/1.1\r\nHost: x\r\n\n".into(), codec),
        ("GET /\r\n\r\n".into(), (426, "low_version")),
        (line("GET / HTTP/1.0"), (426, "low_version")),
        (line("GET / HTTP/1.2"), (426, "low_version")),
        (line("GET / HTTP/2.0"), (426, "low_version")),
        (line("GET / http/1.1"), codec),
        (line("GET / HTTP/1.1x"), codec),
        (line("GET / HTTP/1.1 \t "), (0, "/")),
        (line("GET  / HTTP/1.1"), (0, "/")),
        (line("GET /  HTTP/1.1"), (0, "/")),
        (line("GET\t/\tHTTP/1.1"), (0, "/")),
        (line("GET / evil HTTP/1.1"), codec),
        (line("GET  / HTTP/1.1.1"), codec),
        (line("GET  / ICE/1.0"), codec),
        (line(" GET / HTTP/1.1"), codec),
        (line("get / HTTP/1.1"), codec),
        (line("FOO / HTTP/1.1"), codec),
        (line("G@T / HTTP/1.1"), codec),
        (line("GET /\x01 HTTP/1.1"), characters),
        (line("GET /\u{e9} HTTP/1.1"), codec),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), codec),
        ("\x16\x03\x01\x02\0\x01".into(), codec),
        ("GARBAGE\r\n".into(), codec),
        ("\x0c\x0cA\0".into(), codec),
        ("\r\n\r\nGET /a HTTP/1.1\r\nHost: x\r\n\r\n".into(), (0, "/a")),
        ("\r\n".repeat(40_000), (431, "http1.headers_too_large")),
        ("GET / HTTP/1.1\r\n\r\n".into(), (0, "/")),
        (get("Host: y\r\n"), authority),
        (get("Host: x\r\n"), authority),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".into(), authority),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".into(), authority),
        ("GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n".into(), authority),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n".into(), (0, "/")),
        (line("GET http:///x HTTP/1.1"), url),
        (line("GET http://foo:99999/x HTTP/1.1"), url),
        (line("GET http://a\"b/x HTTP/1.1"), codec),
        (line("GET http://a\\@b/x HTTP/1.1"), codec),
        (line("GET http://a@@b/x HTTP/1.1"), codec),
        (line("GET http://a@b@c/x HTTP/1.1"), url),
        (line("GET http://a[b]@c/x HTTP/1.1"), url),
        (line("GET http://a@/x HTTP/1.1"), url),
        (line("GET http://a!b/x HTTP/1.1"), url),
        (line("GET http://a:b:1/x HTTP/1.1"), url),
        (line("GET http://a:/x HTTP/1.1"), url),
        (line("GET http://[::1/x HTTP/1.1"), url),
        (line("GET http://[]/x HTTP/1.1"), url),
        (line("GET http://[::1]b/x HTTP/1.1"), url),
        (line("GET http://[::g]/x HTTP/1.1"), url),
        (line("GET http://[::1%25lo]/x HTTP/1.1"), url),
        (line("GET http://[1]/x HTTP/1.1"), url),
        (line("GET http://a_b/x HTTP/1.1"), url),
        (line("GET http://a.b#c/x HTTP/1.1"), codec),
        (line("GET ftp://foo/x HTTP/1.1"), (400, "http1.invalid_scheme")),
        (line("GET foo HTTP/1.1"), codec),
        (line("GET * HTTP/1.1"), url),
        (line("OPTIONS * HTTP/1.1"), (0, "*")),
        (line("CONNECT foo HTTP/1.1"), url),
        (line("CONNECT /foo HTTP/1.1"), url),
        (line("CONNECT foo:80/x HTTP/1.1"), url),
        (line("CONNECT foo:80 HTTP/1.1"), (0, "")),
        ("CONNECT foo:80 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n".into(), (400, "http1.body_disallowed")),
        ("CONNECT foo:80 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".into(), te),
        (many(99), (0, "/")),
        (many(100), (431, "http1.too_many_headers")),
        (get(&format!("A: {}\r\n", "b".repeat(62_000))), (431, "http1.headers_too_large")),
        (format!("GET /{}", "b".repeat(62_000)), (431, "http1.headers_too_large")),
        ("GET / HT".into(), (2, "Partial")),
        (String::new(), (2, "Closed")),
    ];
    for (bytes, (status, details)) in cases {
        let shown: String = bytes.chars().take(120).collect();
        assert_eq!(verdict(settings(), bytes.as_bytes()).await, (status, details.to_owned()), "{shown:?}");
    }
}

#[tokio::test]
async fn refuses_bad_chunks() {
    let chunks = |body: &str| format!("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n{body}");
    for (body, good) in [
        ("5\r\nhello\r\n0\r\n\r\n", true),
        ("00000000000000000000005\r\nhello\r\n0\r\n\r\n", true),
        ("5;a=\"b\"\r\nhello\r\n0;x\r\n\r\n", true),
        ("5 ;a\r\nhello\r\n0\r\n\r\n", true),
        ("5\r\nhello\r\n0\r\nA: b\r\n\r\n", true),
        ("5;a=\x01\r\nhello\r\n0\r\n\r\n", false),
        ("5;a\rb\r\nhello\r\n0\r\n\r\n", false),
        ("5 \r\nhello\r\n0\r\n\r\n", true),
        ("5 x\r\nhello\r\n0\r\n\r\n", false),
        (" 5\r\nhello\r\n0\r\n\r\n", false),
        ("5x\r\nhello\r\n0\r\n\r\n", false),
        ("0x5\r\nhello\r\n0\r\n\r\n", false),
        ("+5\r\nhello\r\n0\r\n\r\n", false),
        ("\r\nhello\r\n0\r\n\r\n", false),
        ("5\nhello\r\n0\r\n\r\n", false),
        ("5\r\nhello\n0\r\n\r\n", false),
        ("5\r\nhelloX\r\n0\r\n\r\n", false),
        ("5\r\nhello\r\n0\r\n\n", false),
        ("5\r\nhello\r\n0\r\nA: b\n\r\n", false),
        ("5\r\nhello\r\n0\r\nA b\r\n\r\n", false),
        ("5\r\nhello\r\n0\r\nA: b\r\n c\r\n\r\n", false),
        ("fffffffffffffffff\r\nhello", false),
    ] {
        let verdict = verdict(settings(), chunks(body).as_bytes()).await;
        let expected = if good { (0, "/") } else { (1, "protocol error: http1.codec_error") };
        assert_eq!(verdict, (expected.0, expected.1.to_owned()), "{body:?}");
    }
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(40_000));
    assert_eq!(verdict(settings(), chunks(&long).as_bytes()).await.0, 1);
    let often = format!("1;{}\r\nx\r\n", "a".repeat(4000)).repeat(20);
    assert_eq!(verdict(settings(), chunks(&often).as_bytes()).await.0, 1);
    let cut = "5\r\nhello\r\n";
    assert_eq!(verdict(settings(), chunks(cut).as_bytes()).await, (1, "connection closed by the peer".to_owned()));
}

#[tokio::test]
async fn methods_of_ones_own_pass_where_they_are_allowed() {
    let settings = |allow_custom_methods| {
        let settings = settings();
        ServerSettings { options: Http1Options { allow_custom_methods, ..settings.options }, ..settings }
    };
    let request = b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(verdict(settings(false), request).await, (400, "http1.codec_error".to_owned()));
    assert_eq!(verdict(settings(true), request).await, (0, "/".to_owned()));
    assert_eq!(verdict(settings(true), b"BR(EW / HTTP/1.1\r\nHost: x\r\n\r\n").await.0, 400);
}

#[tokio::test]
async fn a_limit_of_billions_of_fields_costs_nothing() {
    let settings = ServerSettings { max_headers: usize::MAX, ..settings() };
    let fields = "A:\r\n".repeat(1000);
    let bytes =
        format!("POST /many HTTP/1.1\r\nHost: x\r\n{fields}Transfer-Encoding: chunked\r\n\r\n0\r\n{fields}\r\n");
    assert_eq!(verdict(settings, bytes.as_bytes()).await, (0, "/many".to_owned()));
}

#[tokio::test]
async fn passes_trailers_where_asked() {
    let bytes = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\nContent-Length: 3\r\n\r\n";
    for enable in [false, true] {
        let mut settings = settings();
        settings.options.enable_trailers = enable;
        let (mut peer, mut connection) = server(settings);
        peer.write_all(bytes).await.unwrap();
        let Exchange { mut body, mut responder, .. } = request(&mut connection).await;
        let (data, trailers) = read_body(&mut body).await.unwrap();
        assert_eq!(data, b"hello");
        assert_eq!(trailers, enable.then(|| headers(&[("a", "b")])));
        assert!(body.is_end());
        responder.send_head(ok(&[]), false).unwrap();
        responder.send_trailers(headers(&[("grpc-status", "0")])).unwrap();
        assert_eq!(finish(&mut connection).await, Finish::KeepAlive);
        let tail = if enable { "0\r\ngrpc-status: 0\r\n\r\n" } else { "0\r\n\r\n" };
        assert_eq!(written(&mut peer).await, format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{tail}"));
    }
}

#[tokio::test]
async fn refuses_https_in_the_clear_at_the_edge() {
    let at_the_edge = || ServerSettings { refuse_https: true, ..settings() };
    let line = |url: &str| format!("GET {url} HTTP/1.1\r\nHost: x\r\n\r\n");
    let refused = (403, "http1.https_url_on_plaintext_connection".to_owned());
    assert_eq!(verdict(at_the_edge(), line("https://b/a").as_bytes()).await, refused);
    assert_eq!(verdict(at_the_edge(), line("HTTPS://b/a").as_bytes()).await, refused);
    assert_eq!(verdict(at_the_edge(), line("https://a@b@c/").as_bytes()).await, (400, "http1.invalid_url".to_owned()));
    assert_eq!(verdict(at_the_edge(), line("http://b/a").as_bytes()).await, (0, "/a".to_owned()));
    assert_eq!(verdict(settings(), line("https://b/a").as_bytes()).await, (0, "/a".to_owned()));
}

#[tokio::test]
async fn takes_targets_apart() {
    for (line, authority, path, scheme) in [
        ("GET http://foo.com/a?b HTTP/1.1", "foo.com", "/a?b", Scheme::Http),
        ("GET HTTP://u@foo.com:80 HTTP/1.1", "foo.com:80", "/", Scheme::Http),
        ("GET https://[::1]:80/ HTTP/1.1", "[::1]:80", "/", Scheme::Https),
        ("GET http://foo.com?a=b HTTP/1.1", "foo.com", "/?a=b", Scheme::Http),
        ("GET /a HTTP/1.1", "x", "/a", Scheme::Http),
        ("OPTIONS * HTTP/1.1", "x", "*", Scheme::Http),
        ("CONNECT foo:443 HTTP/1.1", "foo:443", "", Scheme::Http),
    ] {
        let (mut peer, mut connection) = server(settings());
        peer.write_all(format!("{line}\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let head = request(&mut connection).await.head;
        assert_eq!((head.authority.unwrap().as_bytes(), head.path.as_bytes()), (authority.as_bytes(), path.as_bytes()));
        assert_eq!(head.scheme, scheme);
    }
}

/// The answer to `request`, and what becomes of the connection.
async fn answer(
    settings: ServerSettings,
    sent: &[u8],
    head: ResponseHead,
    body: Option<&'static str>,
) -> (String, Finish) {
    let (mut peer, mut connection) = server(settings);
    peer.write_all(sent).await.unwrap();
    let Exchange { mut responder, .. } = request(&mut connection).await;
    responder.send_head(head, body.is_none()).unwrap();
    if let Some(body) = body {
        responder.send_data(Bytes::from_static(body.as_bytes()), true).unwrap();
    }
    let finish = finish(&mut connection).await;
    poll_fn(|cx| connection.poll_shutdown(cx)).await;
    let mut out = String::new();
    peer.read_to_string(&mut out).await.unwrap();
    (out, finish)
}

#[tokio::test]
async fn frames_responses_as_envoy_does() {
    let get = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let head = b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n";
    let close = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: foo, Close\r\n\r\n";
    let proxy_close = b"GET / HTTP/1.1\r\nHost: x\r\nProxy-Connection: close\r\n\r\n";
    let early = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe";
    let old = b"GET / HTTP/1.0\r\n\r\n";
    let old_keep = b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n";
    let chunked = "transfer-encoding: chunked\r\n";
    let cases: Vec<(&[u8], ResponseHead, Option<&'static str>, String, Finish)> = vec![
        (get, ok(&[]), None, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".into(), Finish::KeepAlive),
        (
            get,
            ok(&[("a", "b")]),
            Some("hi"),
            format!("HTTP/1.1 200 OK\r\na: b\r\n{chunked}\r\n2\r\nhi\r\n0\r\n\r\n"),
            Finish::KeepAlive,
        ),
        (get, response(204, &[]), None, "HTTP/1.1 204 No Content\r\n\r\n".into(), Finish::KeepAlive),
        (get, response(304, &[]), None, "HTTP/1.1 304 Not Modified\r\n\r\n".into(), Finish::KeepAlive),
        (
            get,
            response(304, &[("content-length", "9")]),
            None,
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n".into(),
            Finish::KeepAlive,
        ),
        (get, response(418, &[]), None, "HTTP/1.1 418 Unknown\r\ncontent-length: 0\r\n\r\n".into(), Finish::KeepAlive),
        (
            get,
            ok(&[("transfer-encoding", "gzip"), ("content-length", "x")]),
            None,
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".into(),
            Finish::KeepAlive,
        ),
        (
            head,
            ok(&[("content-length", "9")]),
            None,
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n".into(),
            Finish::KeepAlive,
        ),
        (head, ok(&[]), None, format!("HTTP/1.1 200 OK\r\n{chunked}\r\n"), Finish::KeepAlive),
        (head, ok(&[]), Some("dropped"), format!("HTTP/1.1 200 OK\r\n{chunked}\r\n"), Finish::KeepAlive),
        (
            close,
            ok(&[]),
            None,
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".into(),
            Finish::Close,
        ),
        (
            proxy_close,
            ok(&[]),
            None,
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".into(),
            Finish::Close,
        ),
        (
            early,
            ok(&[]),
            None,
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".into(),
            Finish::Close,
        ),
        (old, ok(&[]), Some("hi"), "HTTP/1.0 200 OK\r\nconnection: close\r\n\r\nhi".into(), Finish::Close),
        (old_keep, ok(&[]), Some("hi"), "HTTP/1.0 200 OK\r\nconnection: close\r\n\r\nhi".into(), Finish::Close),
        (
            old_keep,
            ok(&[("content-length", "2")]),
            Some("hi"),
            "HTTP/1.0 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nhi".into(),
            Finish::KeepAlive,
        ),
    ];
    for (sent, head, body, expected, finish) in cases {
        let mut settings = settings();
        settings.options.accept_http_10 = true;
        settings.options.default_host_for_http_10 = Some(HeaderValue::from_static("d"));
        assert_eq!(answer(settings, sent, head, body).await, (expected, finish));
    }
}

#[tokio::test]
async fn spells_names_in_proper_case() {
    let mut settings = settings();
    settings.options.header_case = HeaderCase::ProperCaseWords;
    let head = ok(&[("x-foo_bar", "b"), ("etag", "c")]);
    let (out, _) = answer(settings, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", head, Some("hi")).await;
    assert!(out.starts_with("HTTP/1.1 200 OK\r\nX-Foo_Bar: b\r\nEtag: c\r\nTransfer-Encoding: chunked\r\n"), "{out}");
}

#[tokio::test]
async fn what_the_sender_spelled_comes_before_what_the_receiver_is_configured_to_have() {
    let kept = HeaderCase::Preserved { reason: true, others_in_proper_case: true };
    let mut settings = settings();
    settings.options.header_case = kept;
    let (mut peer, mut connection) = server(settings);
    peer.write_all(b"GET / HTTP/1.1\r\nHoSt: x\r\nx-ONE: 1\r\nx-two: 2\r\nX-One: 3\r\n\r\n").await.unwrap();
    let Exchange { mut head, mut responder, .. } = request(&mut connection).await;
    head.headers.append(HeaderName::from_static("x-added"), HeaderValue::from_static("4"));

    let upstream = ClientSettings { header_case: kept, ..client_settings() };
    let (mut host, mut stream, _pool) = client(upstream);
    stream.send_head(&head, true).unwrap();
    host.write_all(b"HTTP/1.1 200 Fine\r\nSERVER: h\r\nContent-length: 0\r\n\r\n").await.unwrap();
    let Reply::Response(answer, _) = reply(&mut stream).await.unwrap() else { panic!("informational") };
    let sent = "GET / HTTP/1.1\r\nHoSt: x\r\nx-ONE: 1\r\nx-two: 2\r\nx-ONE: 3\r\nX-Added: 4\r\n\r\n";
    assert_eq!(written(&mut host).await, sent);

    responder.send_head(answer, true).unwrap();
    poll_fn(|cx| responder.poll_flush(cx)).await.unwrap();
    assert_eq!(written(&mut peer).await, "HTTP/1.1 200 Fine\r\nSERVER: h\r\nContent-length: 0\r\n\r\n");
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_announced_closes() {
    for (body, end) in [("toolong", true), ("s", true)] {
        let (mut peer, mut connection) = server(settings());
        peer.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let Exchange { mut responder, .. } = request(&mut connection).await;
        responder.send_head(ok(&[("content-length", "5")]), false).unwrap();
        assert_eq!(responder.send_data(Bytes::from_static(body.as_bytes()), end), Err(StreamError::Local));
        assert_eq!(finish(&mut connection).await, Finish::Close);
    }
}

#[tokio::test]
async fn informational_heads_go_out_before_the_final_one() {
    let (mut peer, mut connection) = server(settings());
    peer.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n").await.unwrap();
    let Exchange { mut body, mut responder, .. } = request(&mut connection).await;
    responder.send_informational(response(100, &[])).unwrap();
    assert!(poll_fn(|cx| std::task::Poll::Ready(body.poll_frame(cx))).await.is_pending());
    assert_eq!(written(&mut peer).await, "HTTP/1.1 100 Continue\r\n\r\n");
    peer.write_all(b"hi").await.unwrap();
    assert_eq!(read_body(&mut body).await.unwrap().0, b"hi");
    responder.send_head(ok(&[]), true).unwrap();
    assert_eq!(finish(&mut connection).await, Finish::KeepAlive);
}

#[tokio::test]
async fn hands_over_the_transport_after_101() {
    let (mut peer, mut connection) = server(settings());
    peer.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly")
        .await
        .unwrap();
    let Exchange { head, mut responder, .. } = request(&mut connection).await;
    assert_eq!(head.headers, headers(&[("connection", "Upgrade"), ("upgrade", "websocket")]));
    responder.send_head(response(101, &[("connection", "Upgrade"), ("upgrade", "websocket")]), false).unwrap();
    poll_fn(|cx| responder.poll_flush(cx)).await.unwrap();
    #[allow(irrefutable_let_patterns, reason = "refutable once HTTP/2 is there")]
    let Responder::H1(responder) = responder else { panic!() };
    let mut tunnel = responder.into_tunnel().unwrap();
    assert_eq!(tunnel.buffered, "early");
    assert_eq!(finish(&mut connection).await, Finish::Upgraded);
    tunnel.io.write_all(b"DATA").await.unwrap();
    let expected = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    let mut out = written(&mut peer).await;
    if out == expected {
        out.push_str(&written(&mut peer).await);
    }
    assert_eq!(out, format!("{expected}DATA"));
}

#[tokio::test]
async fn bytes_behind_a_refused_upgrade_are_not_requests() {
    let sent =
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n";
    let (_, finish) = answer(settings(), sent, ok(&[]), None).await;
    assert_eq!(finish, Finish::Close);
}

#[tokio::test]
async fn an_upgrade_to_cleartext_http2_is_ignored() {
    let (mut peer, mut connection) = server(settings());
    peer.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nA: b\r\n\r\n").await.unwrap();
    assert_eq!(request(&mut connection).await.head.headers, headers(&[("a", "b")]));
}

#[tokio::test]
async fn an_upgrade_to_cleartext_http2_leaves_what_else_connection_names() {
    let (mut peer, mut connection) = server(settings());
    peer.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, x-secret\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nConnection: x-other,\r\nX-Secret: b\r\n\r\n").await.unwrap();
    let expected = headers(&[("connection", "x-secret,x-other"), ("x-secret", "b")]);
    assert_eq!(request(&mut connection).await.head.headers, expected);
}

#[tokio::test]
async fn a_client_that_goes_away_is_noticed() {
    let (mut peer, mut connection) = server(settings());
    peer.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /next HTTP/1.1\r\n").await.unwrap();
    let Exchange { mut responder, .. } = request(&mut connection).await;
    assert!(poll_fn(|cx| std::task::Poll::Ready(responder.poll_reset(cx))).await.is_pending());
    drop(peer);
    assert_eq!(poll_fn(|cx| responder.poll_reset(cx)).await, StreamError::ConnectionClosed);
}

#[tokio::test]
async fn long_bodies_pass_with_back_pressure() {
    let (mut peer, io) = duplex(1000);
    let mut connection = ServerConnection::new(Io::Pipe(io), Bytes::new(), Rc::new(settings()));
    let length = 1_000_000;
    let client = async {
        let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
        peer.write_all(head.as_bytes()).await.unwrap();
        peer.write_all(&vec![b'u'; length]).await.unwrap();
        let mut out = Vec::new();
        peer.read_to_end(&mut out).await.unwrap();
        out
    };
    let serving = async {
        let Exchange { mut body, mut responder, .. } = request(&mut connection).await;
        assert_eq!(read_body(&mut body).await.unwrap().0, vec![b'u'; length]);
        responder.send_head(ok(&[]), false).unwrap();
        for _ in 0..100 {
            poll_fn(|cx| responder.poll_ready(cx)).await.unwrap();
            responder.send_data(Bytes::from(vec![b'd'; 10_000]), false).unwrap();
        }
        responder.send_data(Bytes::new(), true).unwrap();
        assert_eq!(finish(&mut connection).await, Finish::KeepAlive);
        drop((body, responder, connection));
    };
    let (out, ()) = tokio::join!(client, serving);
    let expected = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}0\r\n\r\n",
        format!("2710\r\n{}\r\n", "d".repeat(10_000)).repeat(100)
    );
    assert!(out == expected.as_bytes());
}
