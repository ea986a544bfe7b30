//! The codec against itself over a pipe, and against frames written by hand. Here stands what the tests share.

mod ends;
mod frames;
mod upgrades;

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

/// What [`serve`] says of a request without a whole head.
const UNFINISHED: &str = "unfinished";
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
            Incoming::Unfinished(_) => malformed.push(UNFINISHED),
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

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// Reads what a client sends up to its `count`th HEADERS.
async fn read_heads(io: &mut DuplexStream, count: usize) {
    read_heads_by(scan::Scanner::new(24), io, count).await;
}

async fn read_heads_by(mut scanner: scan::Scanner, io: &mut DuplexStream, mut count: usize) {
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
