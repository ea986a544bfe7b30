//! The codec against the `h2` crate, and against frames written by hand.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use outrigger_engine::config::hcm::Http2Options;
use outrigger_engine::message::{Headers, Protocol, RequestHead, ResponseHead, Scheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::LocalRuntime;
use tokio::task::spawn_local;

use super::*;
use crate::http::codec::{self, CloseReason, Exchange, Owner, Reply, h1};
use crate::io::Io;

const PIPE: usize = 256 << 10;

fn run<F: Future>(test: F) -> F::Output {
    let options = tokio::runtime::LocalOptions::default();
    let runtime: LocalRuntime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build_local(options).unwrap();
    runtime.block_on(test)
}

fn server_settings() -> ServerSettings {
    ServerSettings {
        http2: Http2Options::default(),
        max_headers_bytes: 60 << 10,
        max_headers_count: 100,
        stream_error_on_invalid_http_message: false,
    }
}

fn client_settings() -> ClientSettings {
    ClientSettings { http2: Http2Options::default(), max_headers_bytes: 60 << 10, max_headers_count: 100 }
}

fn headers(fields: &[(&'static str, &'static str)]) -> Headers {
    fields.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
}

fn ok(fields: &[(&'static str, &'static str)]) -> ResponseHead {
    ResponseHead { status: StatusCode::OK, protocol: Protocol::Http2, headers: headers(fields) }
}

fn get(path: &'static str) -> RequestHead {
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: Some(HeaderValue::from_static("upstream")),
        path: HeaderValue::from_static(path),
        protocol: Protocol::Http11,
        connect_protocol: None,
        headers: headers(&[("x-a", "1"), ("connection", "keep-alive")]),
    }
}

async fn next(body: &mut codec::Body) -> Option<Result<codec::Frame, StreamError>> {
    poll_fn(|cx| body.poll_frame(cx)).await
}

/// Bytes of the whole body, and its trailers.
async fn collect(body: &mut codec::Body) -> Result<(usize, Option<Headers>), StreamError> {
    let mut size = 0;
    while let Some(frame) = next(body).await {
        match frame? {
            codec::Frame::Data(data) => size += data.len(),
            codec::Frame::Trailers(trailers) => return Ok((size, Some(trailers))),
        }
    }
    Ok((size, None))
}

/// Serves `io` with `handler` for each request. Returns everything that was malformed, and the end.
async fn serve<F: Future<Output = ()> + 'static>(
    io: DuplexStream,
    settings: ServerSettings,
    handler: impl Fn(Exchange) -> F,
) -> (Vec<&'static str>, End) {
    let mut malformed = Vec::new();
    let mut connection = match ServerConnection::handshake(Io::Pipe(io), Bytes::new(), &settings).await {
        Ok(connection) => connection,
        Err(end) => return (malformed, end),
    };
    loop {
        match poll_fn(|cx| connection.poll_incoming(cx)).await {
            Incoming::Request(exchange) => drop(spawn_local(handler(exchange))),
            Incoming::Malformed(details) => malformed.push(details),
            Incoming::End(end) => {
                drop(connection);
                return (malformed, end);
            }
        }
    }
}

async fn echo(mut exchange: Exchange) {
    let mut responder = exchange.responder;
    let codec::Responder::H2(respond) = &mut responder else { return };
    respond.send_head(ok(&[("x-b", "2")]), false).unwrap();
    while let Some(frame) = next(&mut exchange.body).await {
        match frame {
            Ok(codec::Frame::Data(data)) => {
                poll_fn(|cx| respond.poll_ready(cx)).await.unwrap();
                respond.send_data(data, false).unwrap();
            }
            Ok(codec::Frame::Trailers(trailers)) => return respond.send_trailers(trailers).unwrap(),
            Err(_) => return,
        }
    }
    respond.send_data(Bytes::new(), true).unwrap();
}

#[derive(Debug, Default)]
struct Pool {
    closed: Cell<Option<CloseReason>>,
    told: RefCell<Vec<&'static str>>,
}

impl Owner for Pool {
    fn idle(&self, _: h1::ClientConnection) {}

    fn closed(&self, reason: CloseReason, _: usize) {
        assert_eq!(self.closed.replace(Some(reason)), None, "closed twice");
    }

    fn room(&self) {
        self.told.borrow_mut().push("room");
    }

    fn draining(&self) {
        self.told.borrow_mut().push("draining");
    }

    fn reset(&self, _: codec::ResetBy) {}
}

async fn client(io: DuplexStream, settings: &ClientSettings) -> (ClientConnection, Rc<Pool>) {
    let pool = Rc::new(Pool::default());
    (ClientConnection::handshake(Io::Pipe(io), settings, pool.clone()).await.unwrap(), pool)
}

async fn reply(stream: &mut ClientStream) -> Result<(ResponseHead, codec::Body), StreamError> {
    loop {
        if let Reply::Response(head, body) = poll_fn(|cx| stream.poll_reply(cx)).await? {
            return Ok((head, body));
        }
    }
}

#[test]
fn both_sides_stream_bodies_and_trailers_within_a_small_window() {
    run(async {
        let (a, b) = duplex(PIPE);
        let mut settings = server_settings();
        settings.http2.initial_stream_window_size = 65_535;
        settings.http2.initial_connection_window_size = 65_535;
        spawn_local(serve(a, settings, echo));
        let (connection, _pool) = client(b, &client_settings()).await;
        let mut stream = connection.open().unwrap();
        assert_eq!(connection.active(), 1);
        stream.send_head(&get("/echo?x"), false).unwrap();
        let (head, mut body) = reply(&mut stream).await.unwrap();
        assert_eq!(head.headers.get(&HeaderName::from_static("x-b")).unwrap(), "2");
        let sending = async {
            for _ in 0..64 {
                poll_fn(|cx| stream.poll_ready(cx)).await.unwrap();
                stream.send_data(Bytes::from(vec![7; 16 << 10]), false).unwrap();
            }
            stream.send_trailers(headers(&[("x-t", "end")])).unwrap();
        };
        let ((), received) = tokio::join!(sending, collect(&mut body));
        assert_eq!(received, Ok((1 << 20, Some(headers(&[("x-t", "end")])))));
        drop((stream, body));
        assert_eq!(connection.active(), 0);
    });
}

#[test]
fn a_sender_waits_for_the_peers_window() {
    run(async {
        let (a, b) = duplex(PIPE);
        let mut settings = server_settings();
        settings.http2.initial_stream_window_size = 65_535;
        let held = Rc::new(Cell::new(None));
        let keep = held.clone();
        spawn_local(serve(a, settings, move |exchange| {
            keep.set(Some(exchange));
            async {}
        }));
        let (connection, _pool) = client(b, &client_settings()).await;
        let mut stream = connection.open().unwrap();
        stream.send_head(&get("/"), false).unwrap();
        let mut sent = 0;
        let sending = poll_fn(|cx| {
            while stream.poll_ready(cx).is_ready() {
                stream.send_data(Bytes::from_static(&[0; 8192]), false).unwrap();
                sent += 8192;
            }
            Poll::<()>::Pending
        });
        // Time passes only when nothing else can run.
        tokio::time::timeout(std::time::Duration::from_secs(1), sending).await.unwrap_err();
        assert!((65_535..=65_535 + MAX_SEND_BUFFER + 8192).contains(&sent), "{sent}");
        let Some(Exchange { body: mut request, .. }) = held.take() else { panic!("no request") };
        assert!(next(&mut request).await.unwrap().is_ok());
    });
}

#[test]
fn informational_responses_pass() {
    run(async {
        let (a, b) = duplex(PIPE);
        spawn_local(serve(a, server_settings(), |exchange| async {
            let mut responder = exchange.responder;
            let hints = headers(&[("link", "</s.css>")]);
            let early = ResponseHead { status: StatusCode::EARLY_HINTS, protocol: Protocol::Http2, headers: hints };
            responder.send_informational(early.clone()).unwrap();
            responder.send_informational(early).unwrap();
            responder.send_head(ok(&[]), true).unwrap();
        }));
        let (connection, _pool) = client(b, &client_settings()).await;
        let mut stream = connection.open().unwrap();
        stream.send_head(&get("/"), true).unwrap();
        for _ in 0..2 {
            let Reply::Informational(head) = poll_fn(|cx| stream.poll_reply(cx)).await.unwrap() else {
                panic!("final")
            };
            assert_eq!((head.status, head.headers.len()), (StatusCode::EARLY_HINTS, 1));
        }
        let Reply::Response(head, body) = poll_fn(|cx| stream.poll_reply(cx)).await.unwrap() else { panic!("1xx") };
        assert_eq!(head.status, StatusCode::OK);
        assert!(matches!(body, codec::Body::Empty));
    });
}

#[test]
fn what_goaway_left_out_is_refused_and_the_rest_is_not() {
    run(async {
        let (a, mut b) = duplex(PIPE);
        let (connection, pool) = client(a, &client_settings()).await;
        let mut streams: Vec<ClientStream> = (0..2).map(|_| connection.open().unwrap()).collect();
        for stream in &mut streams {
            stream.send_head(&get("/"), true).unwrap();
        }
        read_heads(&mut b, 2).await;
        // Stream 1 was processed, stream 3 was not; then the connection goes.
        b.write_all(&frame(4, 0, 0, &[])).await.unwrap();
        b.write_all(&frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])).await.unwrap();
        assert_eq!(reply(&mut streams[1]).await.unwrap_err(), StreamError::Refused);
        assert!(connection.is_draining());
        assert_eq!(connection.open().unwrap_err(), StreamError::Refused);
        drop(b);
        assert_eq!(reply(&mut streams[0]).await.unwrap_err(), StreamError::ConnectionClosed);
        drop((streams, connection));
        tokio::task::yield_now().await;
        assert_eq!(pool.closed.get(), Some(CloseReason::Remote));
    });
}

#[test]
fn resets_carry_their_code() {
    run(async {
        let (a, mut b) = duplex(PIPE);
        let (connection, _pool) = client(a, &client_settings()).await;
        let mut streams: Vec<ClientStream> = (0..2).map(|_| connection.open().unwrap()).collect();
        for stream in &mut streams {
            stream.send_head(&get("/"), true).unwrap();
        }
        read_heads(&mut b, 2).await;
        b.write_all(&frame(4, 0, 0, &[])).await.unwrap();
        b.write_all(&frame(3, 0, 1, &11u32.to_be_bytes())).await.unwrap();
        b.write_all(&frame(3, 0, 3, &7u32.to_be_bytes())).await.unwrap();
        assert_eq!(reply(&mut streams[0]).await.unwrap_err(), StreamError::Reset(11));
        assert_eq!(reply(&mut streams[1]).await.unwrap_err(), StreamError::Refused);
        assert!(!connection.is_draining());
    });
}

#[test]
fn the_last_handle_closes_the_connection() {
    run(async {
        let (a, b) = duplex(PIPE);
        let server = spawn_local(serve(a, server_settings(), echo));
        let (connection, pool) = client(b, &client_settings()).await;
        let mut stream = connection.open().unwrap();
        drop(connection);
        stream.send_head(&get("/"), true).unwrap();
        let (_, mut body) = reply(&mut stream).await.unwrap();
        drop(stream);
        assert_eq!(collect(&mut body).await, Ok((0, None)));
        drop(body);
        assert_eq!(server.await.unwrap(), (vec![], End::Closed));
        assert_eq!(pool.closed.get(), Some(CloseReason::Local));
    });
}

#[test]
fn places_are_limited_by_the_lower_side_and_their_owner_hears_of_room() {
    run(async {
        let (a, b) = duplex(PIPE);
        let mut settings = server_settings();
        settings.http2.max_concurrent_streams = 1;
        spawn_local(serve(a, settings, echo));
        let (connection, pool) = client(b, &client_settings()).await;
        let mut stream = connection.open().unwrap();
        stream.send_head(&get("/"), true).unwrap();
        let (_, mut body) = reply(&mut stream).await.unwrap();
        assert_eq!(connection.max_concurrent(), 1);
        assert_eq!(connection.open().unwrap_err(), StreamError::Refused);
        collect(&mut body).await.unwrap();
        // The peer's SETTINGS may have made room.
        assert!(pool.told.take().contains(&"room"));
        drop((stream, body));
        assert_eq!(pool.told.take(), ["room"]);
        assert!(connection.open().is_ok());
    });
}

#[test]
fn a_drained_connection_ends_with_its_last_stream() {
    run(async {
        let (a, b) = duplex(PIPE);
        let (connection, pool) = client(b, &client_settings()).await;
        let mut stream = connection.open().unwrap();
        stream.send_head(&get("/"), false).unwrap();
        let mut server = ServerConnection::handshake(Io::Pipe(a), Bytes::new(), &server_settings()).await.unwrap();
        let Incoming::Request(exchange) = poll_fn(|cx| server.poll_incoming(cx)).await else { panic!("no request") };
        assert_eq!(server.active_streams(), 1);
        server.start_drain();
        let serving = spawn_local(async move {
            loop {
                if let Incoming::End(end) = poll_fn(|cx| server.poll_incoming(cx)).await {
                    return end;
                }
            }
        });
        while !connection.is_draining() {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.told.borrow().last(), Some(&"draining"));
        spawn_local(echo(exchange));
        stream.send_data(Bytes::from_static(b"late"), true).unwrap();
        let (_, mut body) = reply(&mut stream).await.unwrap();
        assert_eq!(collect(&mut body).await, Ok((4, None)));
        drop((stream, body));
        assert_eq!(serving.await.unwrap(), End::Closed);
    });
}

#[test]
fn a_response_before_the_end_of_the_request_tells_the_client_to_stop() {
    run(async {
        let (a, b) = duplex(PIPE);
        spawn_local(serve(a, server_settings(), |exchange| async {
            let mut responder = exchange.responder;
            responder.send_head(ok(&[]), false).unwrap();
            responder.send_data(Bytes::from_static(b"no"), true).unwrap();
        }));
        let (mut requests, connection) = h2::client::handshake(b).await.unwrap();
        spawn_local(connection);
        let request = http::Request::post("http://a/").body(()).unwrap();
        let (response, mut sender) = requests.send_request(request, false).unwrap();
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "no");
        assert_eq!(poll_fn(|cx| sender.poll_reset(cx)).await.unwrap(), h2::Reason::NO_ERROR);
    });
}

#[test]
fn a_dead_peer_fails_the_keepalive() {
    run(async {
        let (a, mut b) = duplex(PIPE);
        let mut settings = server_settings();
        let second = std::time::Duration::from_secs(1);
        settings.http2.keepalive = Some((second * 10, second));
        b.write_all(&preface()).await.unwrap();
        let started = tokio::time::Instant::now();
        assert_eq!(serve(a, settings, echo).await, (vec![], End::KeepaliveTimeout));
        assert_eq!(started.elapsed().as_secs(), 11);
    });
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// Reads what a client sends up to its `count`th HEADERS.
async fn read_heads(io: &mut DuplexStream, mut count: usize) {
    let mut scanner = scan::Scanner::new(24);
    while count > 0 {
        let byte = [io.read_u8().await.unwrap()];
        if let (_, Some(frame)) = scanner.next(&byte) {
            count -= usize::from(frame.kind == scan::HEADERS);
        }
    }
}

fn preface() -> Vec<u8> {
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    out.extend(frame(4, 0, 0, &[]));
    out
}

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
            (continuations, "http2.too_many_continuation_frames"),
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

#[test]
fn an_upgrade_is_an_extended_connect_on_the_wire_and_an_upgrade_to_the_pipeline() {
    run(async {
        let (a, b) = duplex(PIPE);
        let mut settings = server_settings();
        settings.http2.allow_connect = true;
        spawn_local(serve(a, settings, |exchange| async move {
            assert_eq!(exchange.head.method, Method::GET);
            assert_eq!(exchange.head.headers.get(&http::header::UPGRADE).unwrap(), "websocket");
            let codec::Responder::H2(mut responder) = exchange.responder else { return };
            let mut head = ok(&[("connection", "upgrade"), ("upgrade", "websocket")]);
            head.status = StatusCode::SWITCHING_PROTOCOLS;
            responder.send_head(head, false).unwrap();
            let mut tunnel = responder.into_tunnel().unwrap();
            let mut question = [0; 4];
            tunnel.io.read_exact(&mut question).await.unwrap();
            tunnel.io.write_all(&question).await.unwrap();
            tunnel.io.write_all(b"!").await.unwrap();
            tunnel.io.shutdown().await.unwrap();
            // Gone before the client has ended, it would reset the stream.
            _ = tunnel.io.read_to_end(&mut Vec::new()).await;
        }));
        let (connection, _pool) = client(b, &client_settings()).await;
        let mut stream = connection.open().unwrap();
        let mut head = get("/chat");
        head.headers = headers(&[("connection", "upgrade"), ("upgrade", "websocket")]);
        // The peer says in its SETTINGS that it takes such a request.
        tokio::task::yield_now().await;
        stream.send_head(&head, true).unwrap();
        let (head, _) = reply(&mut stream).await.unwrap();
        assert_eq!(head.status, StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(head.headers.get(&http::header::UPGRADE).unwrap(), "websocket");
        let mut tunnel = stream.into_tunnel().unwrap();
        tunnel.io.write_all(b"ping").await.unwrap();
        let mut answer = Vec::new();
        tunnel.io.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"ping!");
    });
}

/// The two ends of an upgrade over HTTP/2: the server's and the client's.
async fn upgraded() -> (codec::Tunnel, codec::Tunnel) {
    let (a, b) = duplex(PIPE);
    let mut settings = server_settings();
    settings.http2.allow_connect = true;
    let (give, taken) = tokio::sync::oneshot::channel();
    let give = Rc::new(Cell::new(Some(give)));
    spawn_local(serve(a, settings, move |exchange| {
        let give = give.clone();
        async move {
            let codec::Responder::H2(mut responder) = exchange.responder else { return };
            let mut head = ok(&[("connection", "upgrade"), ("upgrade", "websocket")]);
            head.status = StatusCode::SWITCHING_PROTOCOLS;
            responder.send_head(head, false).unwrap();
            give.take().unwrap().send(responder.into_tunnel().unwrap()).unwrap();
        }
    }));
    let (connection, _pool) = client(b, &client_settings()).await;
    let mut stream = connection.open().unwrap();
    let mut head = get("/chat");
    head.headers = headers(&[("connection", "upgrade"), ("upgrade", "websocket")]);
    tokio::task::yield_now().await;
    stream.send_head(&head, true).unwrap();
    reply(&mut stream).await.unwrap();
    (taken.await.unwrap(), stream.into_tunnel().unwrap())
}

#[test]
fn an_upgrade_that_is_given_up_at_one_end_is_reset_at_the_other() {
    run(async {
        for server_gives_up in [false, true] {
            let (server, client) = upgraded().await;
            let (mut gone, mut left) = if server_gives_up { (server, client) } else { (client, server) };
            gone.io.write_all(b"abc").await.unwrap();
            left.io.read_exact(&mut [0; 3]).await.unwrap();
            drop(gone);
            let wait = std::time::Duration::from_secs(60);
            let read = tokio::time::timeout(wait, left.io.read_u8()).await.expect("the stream stays");
            assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        }
    });
}
