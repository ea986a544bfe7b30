//! What comes over an HTTP/1 connection, as requests and as a response: no panic, and however the bytes are cut, the
//! codec finds the same.

#![no_main]

use std::future::poll_fn;
use std::rc::Rc;

use bytes::Bytes;
use http::header::UPGRADE;
use http::{HeaderValue, Method, StatusCode};
use libfuzzer_sys::fuzz_target;
use outrigger_engine::config::hcm::{HeaderCase, Http1Options};
use outrigger_engine::message::{Headers, Protocol, RequestHead, ResponseHead, Scheme};
use outrigger_proxy::http::codec::{Body, CloseReason, Owner, OwnerRef, Reply, ResetBy, h1};
use outrigger_proxy::io::Io;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

const MAX_HEAD: usize = 2048;
const MAX_HEADERS: usize = 20;

#[derive(Debug)]
struct Nobody;

impl Owner for Nobody {
    fn idle(&self, _: h1::ClientConnection) {}
    fn closed(&self, _: CloseReason, _: usize) {}
    fn room(&self) {}
    fn draining(&self) {}
    fn reset(&self, _: ResetBy) {}
}

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let (first, second) = bytes.split_at(usize::from(cut).min(bytes.len()));
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else { return };
    runtime.block_on(async {
        assert_eq!(requests(&[bytes]).await, requests(&[first, second]).await);
        assert_eq!(response(&[bytes]).await, response(&[first, second]).await);
    });
});

/// Sends the pieces, lets the other side work after each, and ends the stream.
async fn send(mut peer: DuplexStream, pieces: &[&[u8]]) -> DuplexStream {
    for piece in pieces {
        if peer.write_all(piece).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let _ = peer.shutdown().await;
    peer
}

async fn requests(pieces: &[&[u8]]) -> Vec<String> {
    let (peer, io) = duplex(1 << 20);
    let options = Http1Options { accept_http_10: true, enable_trailers: true, ..Http1Options::default() };
    let settings =
        h1::ServerSettings { max_head_bytes: MAX_HEAD, max_headers: MAX_HEADERS, refuse_https: false, options };
    let mut connection = h1::ServerConnection::new(Io::Pipe(io), Bytes::new(), Rc::new(settings));
    let serve = async {
        let mut seen = Vec::new();
        loop {
            match poll_fn(|cx| connection.poll_incoming(cx)).await {
                h1::Incoming::Request(exchange) => {
                    let (mut body, mut responder) = (exchange.body, exchange.responder);
                    seen.push(format!("{:?} {}", exchange.head, read(&mut body).await));
                    // Whether the connection outlives a refused upgrade depends on whether more has come already.
                    if exchange.head.method == Method::CONNECT || exchange.head.headers.contains(&UPGRADE) {
                        return seen;
                    }
                    let ok =
                        ResponseHead { status: StatusCode::OK, protocol: Protocol::Http11, headers: Headers::new() };
                    if responder.send_head(ok, true).is_err() {
                        return seen;
                    }
                }
                h1::Incoming::Malformed { status, details, .. } => {
                    seen.push(format!("{status} {details}"));
                    return seen;
                }
                h1::Incoming::End(ended) => {
                    seen.push(format!("{ended:?}"));
                    return seen;
                }
            }
            if poll_fn(|cx| connection.poll_finish(cx)).await != h1::Finish::KeepAlive {
                return seen;
            }
        }
    };
    tokio::join!(send(peer, pieces), serve).1
}

async fn response(pieces: &[&[u8]]) -> Vec<String> {
    let (peer, io) = duplex(1 << 20);
    let settings = h1::ClientSettings {
        max_head_bytes: MAX_HEAD,
        max_headers: MAX_HEADERS,
        header_case: HeaderCase::Lower,
        enable_trailers: true,
        allow_chunked_length: false,
    };
    let owner: OwnerRef = Rc::new(Nobody);
    let connection = h1::ClientConnection::new(Io::Pipe(io), Rc::new(settings), &owner);
    let mut stream = outrigger_proxy::http::codec::ClientStream::H1(connection.start());
    let request = RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: Some(HeaderValue::from_static("fuzz.test")),
        path: HeaderValue::from_static("/"),
        protocol: Protocol::Http11,
        headers: Headers::new(),
    };
    let receive = async {
        let mut seen = Vec::new();
        if let Err(error) = stream.send_head(&request, true) {
            seen.push(error.to_string());
            return seen;
        }
        loop {
            match poll_fn(|cx| stream.poll_reply(cx)).await {
                Ok(Reply::Informational(head)) => seen.push(format!("{head:?}")),
                Ok(Reply::Response(head, mut body)) => {
                    seen.push(format!("{head:?} {}", read(&mut body).await));
                    return seen;
                }
                Err(error) => {
                    seen.push(error.to_string());
                    return seen;
                }
            }
        }
    };
    tokio::join!(send(peer, pieces), receive).1
}

/// A body's bytes and trailers, or its error.
async fn read(body: &mut Body) -> String {
    use outrigger_proxy::http::codec::Frame;
    let mut data = Vec::new();
    loop {
        match poll_fn(|cx| body.poll_frame(cx)).await {
            None => return format!("{data:?}"),
            Some(Ok(Frame::Data(piece))) => data.extend_from_slice(&piece),
            Some(Ok(Frame::Trailers(trailers))) => return format!("{data:?} {trailers:?}"),
            Some(Err(error)) => return format!("{data:?} {error}"),
        }
    }
}
