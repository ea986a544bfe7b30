//! The codec over an in-process pipe, byte for byte.

mod client;
mod server;
mod splits;
mod tls;

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
use crate::http::codec::{
    self, CloseReason, Delivery, Exchange, Frame, Owner, OwnerRef, Reply, ResetBy, Responder, StreamError,
};
use crate::io::{Io, Meter};

fn settings() -> ServerSettings {
    ServerSettings {
        max_head_bytes: 60 * 1024,
        max_headers: 100,
        refuse_https: false,
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

fn response(status: u16, fields: &[(&'static str, &'static str)]) -> ResponseHead {
    ResponseHead { status: StatusCode::from_u16(status).unwrap(), ..ok(fields) }
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

    fn closed(&self, reason: CloseReason, _: usize) {
        self.closed.borrow_mut().push(reason);
    }

    fn room(&self) {}

    fn draining(&self) {}

    fn reset(&self, _: ResetBy) {}
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
    let io = Io::Pipe(io).metered(Meter::Silent);
    (peer, ClientConnection::new(io, Rc::new(settings), &owner).start(), pool)
}

async fn reply(stream: &mut ClientStream) -> Result<Reply, StreamError> {
    poll_fn(|cx| stream.poll_reply(cx)).await
}
