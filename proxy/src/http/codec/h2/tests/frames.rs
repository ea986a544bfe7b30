//! Clients that write their frames by hand: what is malformed, floods, and what the peer sees of our judgement.

use super::*;

/// Literal fields without indexing.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        assert!(name.len() < 127 && value.len() < 127);
        out.extend([0, name.len() as u8]);
        out.extend(name.as_bytes());
        out.push(value.len() as u8);
        out.extend(value.as_bytes());
    }
    out
}

fn request(stream: u32, end: bool, more: &[(&str, &str)]) -> Vec<u8> {
    let mut fields = vec![(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
    fields.extend(more);
    frame(1, 4 | u8::from(end), stream, &block(&fields))
}

/// What the peer of raw `frames` sees: (type, stream, code) of every frame but SETTINGS and WINDOW_UPDATE, and what the
/// server saw.
async fn raw(settings: ServerSettings, frames: &[u8]) -> (Vec<(u8, u32, u32)>, Vec<&'static str>, End) {
    let (a, mut b) = duplex(4 << 20);
    b.write_all(&preface()).await.unwrap();
    b.write_all(frames).await.unwrap();
    let server = spawn_local(serve(a, settings, |exchange| async move {
        let mut exchange = exchange;
        if collect(&mut exchange.body).await.is_ok() {
            exchange.responder.send_head(ok(&[]), true).unwrap();
        }
    }));
    // Where the server does not end the connection by itself, the client does.
    let mut wire = vec![0; 4 << 20];
    let mut size = 0;
    let second = std::time::Duration::from_secs(1);
    while let Ok(Ok(n @ 1..)) = tokio::time::timeout(second, b.read(&mut wire[size..])).await {
        size += n;
    }
    drop(b);
    let (malformed, end) = server.await.unwrap();
    let mut scanner = scan::Scanner::new(0);
    let mut seen = Vec::new();
    let mut rest = &wire[..size];
    while !rest.is_empty() {
        let (taken, found) = scanner.next(rest);
        rest = &rest[taken..];
        match found {
            Some(f) if f.kind == scan::RST_STREAM => seen.push((f.kind, f.stream, f.reset_code())),
            Some(f) if f.kind == scan::GOAWAY => seen.push((f.kind, 0, f.goaway().1)),
            Some(f) if !matches!(f.kind, 4 | 8) => seen.push((f.kind, f.stream, 0)),
            _ => {}
        }
    }
    (seen, malformed, end)
}

#[test]
fn a_malformed_request_ends_the_connection_without_a_frame_as_envoy_does() {
    run(async {
        let cases: [&[(&str, &str)]; 14] = [
            &[("connection", "close")],
            &[("transfer-encoding", "chunked")],
            &[("upgrade", "h2c")],
            &[("keep-alive", "1")],
            &[("proxy-connection", "x")],
            &[("te", "gzip")],
            &[("Upper", "x")],
            &[("a", "x\r\ny")],
            &[("a", "x\0y")],
            &[(":path", "/twice")],
            &[(":unknown", "x")],
            &[("content-length", "x")],
            &[("content-length", "0"), ("content-length", "0")],
            &[("host", "a"), ("host", "b")],
        ];
        for fields in cases {
            let (seen, malformed, end) = raw(server_settings(), &request(1, true, fields)).await;
            assert_eq!((seen, malformed.len()), (vec![], 1), "{fields:?}");
            assert_eq!(end, End::Protocol(malformed[0]), "{fields:?}");
        }
    });
}

#[test]
fn a_length_that_is_none_ends_the_connection_though_its_body_came_along() {
    run(async {
        for fields in [&[("content-length", "+1")][..], &[("content-length", "1"), ("content-length", "2")]] {
            let mut frames = request(1, true, &[]);
            frames.extend(request(3, false, fields));
            frames.extend(frame(0, 1, 3, b"x"));
            let (_, malformed, end) = raw(server_settings(), &frames).await;
            assert_eq!((malformed, end), (vec![head::BAD_FIELD], End::Protocol(head::BAD_FIELD)), "{fields:?}");
        }
    });
}

#[test]
fn a_fragment_in_the_path_is_not_lost() {
    run(async {
        let (a, mut b) = duplex(PIPE);
        let fields = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/a?b#c")];
        b.write_all(&[preface(), frame(1, 5, 1, &block(&fields))].concat()).await.unwrap();
        let mut server = ServerConnection::handshake(Io::Pipe(a), Bytes::new(), &server_settings()).await.unwrap();
        let Incoming::Request(exchange) = poll_fn(|cx| server.poll_incoming(cx)).await else { panic!("no request") };
        assert_eq!(exchange.head.path, "/a?b#c");
    });
}

#[test]
fn a_fragment_that_is_none_does_not_leave_a_path_that_is_one() {
    run(async {
        for (method, path, details) in [
            ("GET", "/a# b", head::BAD_FIELD),
            ("GET", "/a#\r\nb", head::BAD_FIELD),
            ("GET", "/a#\x7f", head::BAD_FIELD),
            ("OPTIONS", "*#b", head::BAD_MESSAGE),
        ] {
            let fields = [(":method", method), (":scheme", "http"), (":authority", "a"), (":path", path)];
            let (_, _, end) = raw(server_settings(), &frame(1, 5, 1, &block(&fields))).await;
            assert_eq!(end, End::Protocol(details), "{path:?}");
        }
    });
}

#[test]
fn a_pseudo_header_in_trailers_ends_the_connection_or_the_stream() {
    run(async {
        let mut frames = request(1, false, &[]);
        frames.extend(frame(1, 5, 1, &block(&[(":path", "/evil")])));
        let (seen, malformed, end) = raw(server_settings(), &frames).await;
        assert_eq!((seen, malformed, end), (vec![], vec![], End::Protocol(head::BAD_FIELD)));
        let mut settings = server_settings();
        settings.stream_error_on_invalid_http_message = true;
        let (seen, _, end) = raw(settings, &frames).await;
        assert_eq!((seen, end), (vec![(3, 1, 2)], End::Closed));
    });
}

#[test]
fn a_malformed_request_ends_its_stream_where_that_is_asked_for() {
    run(async {
        let mut settings = server_settings();
        settings.stream_error_on_invalid_http_message = true;
        let mut frames = request(1, true, &[("connection", "close")]);
        frames.extend(request(3, true, &[("host", "a"), ("host", "b")]));
        frames.extend(request(5, true, &[]));
        let (seen, malformed, end) = raw(settings, &frames).await;
        assert_eq!(malformed.len(), 2);
        assert_eq!(end, End::Closed);
        let mut seen = seen;
        seen.sort_unstable();
        assert_eq!(seen, [(1, 5, 0), (3, 1, 1), (3, 3, 1)]);
    });
}

#[test]
fn a_head_beyond_the_limits_is_reset_and_the_connection_goes_on() {
    run(async {
        let many = vec![("a", "b"); 97];
        let mut frames = request(1, true, &many);
        frames.extend(request(3, true, &[]));
        let (seen, malformed, end) = raw(server_settings(), &frames).await;
        assert_eq!(malformed, ["http2.too_many_headers"]);
        assert_eq!(end, End::Closed);
        assert!(seen.contains(&(3, 1, 2)) && seen.contains(&(1, 3, 0)), "{seen:?}");
    });
}

#[test]
fn a_body_that_does_not_fit_its_length_is_reset() {
    run(async {
        for body in ["x", "xyz"] {
            let mut frames = request(1, false, &[("content-length", "2")]);
            frames.extend(frame(0, 1, 1, body.as_bytes()));
            let (seen, _, end) = raw(server_settings(), &frames).await;
            assert_eq!((seen, end), (vec![(3, 1, 1)], End::Closed), "{body}");
        }
    });
}

#[test]
fn floods_end_the_connection() {
    run(async {
        let ping = frame(6, 0, 0, &[0; 8]);
        let mut continuations = frame(1, 1, 1, &block(&[(":method", "GET")]));
        continuations.extend(frame(9, 0, 1, &block(&[("a", "b")])).repeat(9));
        let mut empty = request(1, false, &[]);
        empty.extend(frame(0, 0, 1, &[]).repeat(2));
        let floods = [
            (ping.repeat(1001), "http2.outbound_control_frames_flood"),
            (frame(4, 0, 0, &[]).repeat(1001), "http2.outbound_control_frames_flood"),
            (frame(2, 0, 1, &[0, 0, 0, 0, 1]).repeat(101), "codec_error:Too_many_PRIORITY_frames"),
            (frame(8, 0, 0, &[0, 0, 0, 1]).repeat(6), "codec_error:Too_many_WINDOW_UPDATE_frames"),
            (continuations, "http2.too_many_headers"),
            (empty, "http2.inbound_empty_frames_flood"),
        ];
        for (frames, details) in floods {
            let (seen, _, end) = raw(server_settings(), &frames).await;
            assert_eq!(end, End::Protocol(details));
            assert!(seen.iter().all(|(kind, ..)| *kind == 6), "{details}: {seen:?}");
        }
        let (seen, _, end) = raw(server_settings(), &ping.repeat(999)).await;
        assert_eq!((seen.len(), end), (999, End::Closed));
    });
}

#[test]
fn half_a_head_is_reported_with_the_end_of_its_connection() {
    run(async {
        let codec = End::Protocol("codec_error:The_user_callback_function_failed");
        let half = frame(1, 0, 1, &block(&[(":method", "GET")]));
        let cases = [
            (half[..10].to_vec(), End::Broken),
            ([half.clone(), frame(0, 0, 1, b"data")].concat(), codec),
            ([half, frame(9, 0, 1, &[]).repeat(2)].concat(), End::Protocol("http2.inbound_empty_frames_flood")),
            (frame(1, 5, 1, &[0xff; 5]), codec),
            (frame(1, 5, 1, &[0x80 | 70]), codec),
        ];
        for (frames, expected) in cases {
            let (_, malformed, end) = raw(server_settings(), &frames).await;
            assert_eq!((malformed, end), (vec![UNFINISHED], expected), "{frames:?}");
        }
        let whole = [request(1, true, &[]), frame(1, 4, 2, &block(&[(":method", "GET")]))].concat();
        let (_, malformed, _) = raw(server_settings(), &whole).await;
        assert!(malformed.is_empty(), "a head on a stream that a client cannot open is no request: {malformed:?}");
    });
}

#[test]
fn a_window_that_cannot_be_ends_the_connection() {
    run(async {
        let overflow = vec![(3, 1, 3)];
        for (stream, increment, said) in [(0, 0, vec![]), (1, 0, vec![]), (1, 0x7fff_ffff_u32, overflow)] {
            let mut frames = request(1, false, &[]);
            frames.extend(frame(8, 0, stream, &increment.to_be_bytes()));
            let (seen, malformed, end) = raw(server_settings(), &frames).await;
            assert_eq!((seen, malformed), (said, vec![]), "{stream} {increment}");
            assert_eq!(end, End::Protocol("http2.unknown.nghttp2.error"), "{stream} {increment}");
        }
    });
}

#[test]
fn rapid_resets_end_the_connection() {
    run(async {
        let mut frames = Vec::new();
        for stream in (1..1400).step_by(2) {
            frames.extend(request(stream, false, &[]));
            frames.extend(frame(3, 0, stream, &8u32.to_be_bytes()));
        }
        let (seen, _, end) = raw(server_settings(), &frames).await;
        assert_eq!((seen, end), (vec![], End::Protocol("too_many_premature_resets")));
    });
}

#[test]
fn who_opens_more_streams_than_it_may_again_and_again_loses_the_connection() {
    run(async {
        let mut settings = server_settings();
        settings.http2.max_concurrent_streams = 1;
        let mut frames = request(1, false, &[]);
        for stream in (3..203).step_by(2) {
            frames.extend(request(stream, true, &[]));
        }
        let (sent, seen, end) = raw(settings.clone(), &frames).await;
        assert_eq!((seen, end), (vec![], End::Closed), "the streams that were too many end alone");
        assert!(sent.iter().filter(|(kind, _, code)| (*kind, *code) == (3, 7)).count() >= 100, "{sent:?}");
        for stream in (203..1403).step_by(2) {
            frames.extend(request(stream, true, &[]));
        }
        let (_, seen, end) = raw(settings, &frames).await;
        assert_eq!((seen, end), (vec![], End::Protocol("too_many_premature_resets")));
    });
}
