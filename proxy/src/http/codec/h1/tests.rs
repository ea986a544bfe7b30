//! The codec over an in-process pipe, byte for byte.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use outrigger_engine::config::hcm::{HeaderCase, Http1Options};
use outrigger_engine::message::{Headers, Protocol, RequestHead, ResponseHead, Scheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::http::codec::{self, CloseReason, Exchange, Frame, Owner, OwnerRef, Reply, StreamError};
use crate::io::Io;

fn settings() -> ServerSettings {
    ServerSettings {
        max_head_bytes: 60 * 1024,
        max_headers: 100,
        options: Http1Options { allow_absolute_url: true, ..Http1Options::default() },
    }
}

fn server(settings: ServerSettings) -> (DuplexStream, ServerConnection) {
    let (peer, io) = duplex(1 << 20);
    (peer, ServerConnection::new(Io::Pipe(io), Bytes::new(), Rc::new(settings)))
}

async fn incoming(connection: &mut ServerConnection) -> Incoming {
    poll_fn(|cx| connection.poll_incoming(cx)).await
}

async fn request(connection: &mut ServerConnection) -> Exchange {
    match incoming(connection).await {
        Incoming::Request(exchange) => exchange,
        other => panic!("not a request: {other:?}"),
    }
}

async fn finish(connection: &mut ServerConnection) -> Finish {
    poll_fn(|cx| connection.poll_finish(cx)).await
}

async fn read_body(body: &mut codec::Body) -> Result<(Vec<u8>, Option<Headers>), StreamError> {
    let mut data = Vec::new();
    while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
        match frame? {
            Frame::Data(piece) => data.extend_from_slice(&piece),
            Frame::Trailers(trailers) => return Ok((data, Some(trailers))),
        }
    }
    Ok((data, None))
}

fn headers(fields: &[(&'static str, &'static str)]) -> Headers {
    fields.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
}

fn ok(fields: &[(&'static str, &'static str)]) -> ResponseHead {
    ResponseHead { status: StatusCode::OK, protocol: Protocol::Http11, headers: headers(fields) }
}

async fn written(peer: &mut DuplexStream) -> String {
    let mut buf = vec![0; 1 << 16];
    let n = peer.read(&mut buf).await.unwrap();
    buf.truncate(n);
    String::from_utf8(buf).unwrap()
}

fn get(path: &'static str) -> RequestHead {
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: Some(HeaderValue::from_static("example.com")),
        path: HeaderValue::from_static(path),
        protocol: Protocol::Http11,
        connect_protocol: None,
        headers: Headers::new(),
    }
}

#[derive(Debug, Default)]
struct Pool {
    idle: RefCell<Vec<ClientConnection>>,
    closed: RefCell<Vec<CloseReason>>,
}

impl Owner for Pool {
    fn idle(&self, connection: ClientConnection) {
        self.idle.borrow_mut().push(connection);
    }

    fn closed(&self, reason: CloseReason) {
        self.closed.borrow_mut().push(reason);
    }
}

fn client_settings() -> ClientSettings {
    ClientSettings {
        max_head_bytes: 60 * 1024,
        max_headers: 100,
        header_case: HeaderCase::Lower,
        enable_trailers: false,
        allow_chunked_length: false,
    }
}

fn client(settings: ClientSettings) -> (DuplexStream, ClientStream, Rc<Pool>) {
    let (peer, io) = duplex(1 << 20);
    let pool = Rc::new(Pool::default());
    let owner: OwnerRef = Rc::<Pool>::clone(&pool);
    (peer, ClientConnection::new(Io::Pipe(io), Rc::new(settings), &owner).start(), pool)
}

async fn reply(stream: &mut ClientStream) -> Result<Reply, StreamError> {
    poll_fn(|cx| stream.poll_reply(cx)).await
}

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

#[tokio::test]
async fn client_reuses_the_connection() {
    let (mut peer, mut stream, pool) = client(client_settings());
    stream.send_head(get("/x"), true).unwrap();
    peer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
    let Reply::Response(head, mut body) = reply(&mut stream).await.unwrap() else { panic!() };
    assert_eq!(head.headers.get(&CONTENT_LENGTH).unwrap(), "2");
    assert_eq!(pool.idle.borrow().len(), 1);
    assert_eq!(read_body(&mut body).await.unwrap().0, b"hi");
    assert_eq!(written(&mut peer).await, "GET /x HTTP/1.1\r\nhost: example.com\r\n\r\n");
    drop((stream, body));

    let mut connection = pool.idle.borrow_mut().pop().unwrap();
    assert!(connection.is_alive());
    let mut stream = connection.start();
    let mut head = get("/y");
    head.method = Method::POST;
    stream.send_head(head, false).unwrap();
    stream.send_data(Bytes::from_static(b"abc"), true).unwrap();
    peer.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n").await.unwrap();
    let Reply::Response(_, mut body) = reply(&mut stream).await.unwrap() else { panic!() };
    assert_eq!(
        written(&mut peer).await,
        "POST /y HTTP/1.1\r\nhost: example.com\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    );
    drop(stream);
    peer.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(read_body(&mut body).await.unwrap().0, b"abc");
    let mut connection = pool.idle.borrow_mut().pop().unwrap();
    assert_eq!(connection.requests(), 2);
    assert!(connection.is_alive());
    drop(peer);
    assert!(!connection.is_alive());
    assert_eq!(*pool.closed.borrow(), []);
}
