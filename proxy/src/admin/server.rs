//! The admin interface on a socket: the control thread serves it by the same codecs as any listener. HTTP/2 is there for
//! gRPC ([`csds`]), and answers the rest just as well.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};
use outrigger_engine::config::hcm::{Http1Options, Http2Options};
use outrigger_engine::message::{Headers, Protocol, ResponseHead};
use outrigger_engine::stream_info::Address;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::{spawn_blocking, spawn_local};

use super::{AdminState, Response, csds, handle};
use crate::http::codec::{Body, Exchange, Frame, Responder, StreamError, h1, h2};
use crate::io::Io;
use crate::listener::socket::unix;

/// Bytes of a request body that are read.
const MAX_BODY: usize = 64 << 10;

/// The begin of the preface of HTTP/2 (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2";

/// Binds `address`; what comes back serves it.
pub fn bind(address: &Address) -> io::Result<AdminSocket> {
    match address {
        Address::Ip(address) => {
            let socket = std::net::TcpListener::bind(address)?;
            socket.set_nonblocking(true)?;
            Ok(AdminSocket::Tcp(socket))
        }
        Address::Pipe(path) => unix(path).map(AdminSocket::Unix),
    }
}

/// The listening socket.
#[derive(Debug)]
pub enum AdminSocket {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// A Unix socket.
    Unix(std::os::unix::net::UnixListener),
}

/// Serves the admin interface until the task is dropped.
pub async fn serve(socket: AdminSocket, state: Arc<dyn AdminState>) -> io::Result<()> {
    let settings = Rc::new(h1::ServerSettings {
        max_head_bytes: 60 << 10,
        max_headers: 100,
        options: Http1Options { allow_absolute_url: true, accept_http_10: true, ..Default::default() },
    });
    match socket {
        AdminSocket::Tcp(socket) => {
            let listener = TcpListener::from_std(socket)?;
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    spawn_local(connection(Io::Tcp(stream), settings.clone(), state.clone()));
                } else {
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        }
        AdminSocket::Unix(socket) => {
            let listener = UnixListener::from_std(socket)?;
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    spawn_local(connection(Io::Unix(stream), settings.clone(), state.clone()));
                } else {
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        }
    }
}

async fn connection(mut io: Io, settings: Rc<h1::ServerSettings>, state: Arc<dyn AdminState>) {
    let mut read = BytesMut::new();
    while read.len() < PREFACE.len() && PREFACE.starts_with(&read) {
        // Whatever is wrong with the connection, the codec will meet it, too.
        if io.read_buf(&mut read).await.unwrap_or_default() == 0 {
            break;
        }
    }
    if read.starts_with(PREFACE) {
        return http2(io, read.freeze(), &settings, &state).await;
    }
    let mut connection = h1::ServerConnection::new(io, read.freeze(), settings);
    loop {
        match poll_fn(|task| connection.poll_incoming(task)).await {
            h1::Incoming::Request(exchange) => {
                if request(exchange, &state).await.is_err() {
                    return;
                }
            }
            h1::Incoming::Malformed { status, mut responder, .. } => {
                responder.close_after();
                let response = Response { status, content_type: "text/plain", body: Bytes::new() };
                if respond(&mut responder, response).await.is_err() {
                    return;
                }
            }
            h1::Incoming::End(_) => return,
        }
        match poll_fn(|task| connection.poll_finish(task)).await {
            h1::Finish::KeepAlive => {}
            h1::Finish::Close | h1::Finish::Upgraded => {
                poll_fn(|task| connection.poll_shutdown(task)).await;
                return;
            }
        }
    }
}

async fn http2(io: Io, buffered: Bytes, settings: &h1::ServerSettings, state: &Arc<dyn AdminState>) {
    let settings = h2::ServerSettings {
        http2: Http2Options::default(),
        max_headers_bytes: settings.max_head_bytes,
        max_headers_count: settings.max_headers,
        stream_error_on_invalid_http_message: true,
    };
    let Ok(mut connection) = h2::ServerConnection::handshake(io, buffered, &settings).await else { return };
    loop {
        match poll_fn(|task| connection.poll_incoming(task)).await {
            h2::Incoming::Request(exchange) => {
                let state = state.clone();
                // Whoever has reset its stream wants no answer.
                spawn_local(async move { _ = request(exchange, &state).await });
            }
            h2::Incoming::Malformed(_) | h2::Incoming::Unfinished(_) => {}
            h2::Incoming::End(_) => return,
        }
    }
}

async fn request(exchange: Exchange, state: &Arc<dyn AdminState>) -> Result<(), StreamError> {
    let Exchange { head, mut body, mut responder } = exchange;
    if csds::is_method(head.path.as_bytes()) && head.protocol == Protocol::Http2 {
        return csds::serve(body, &mut responder, state).await;
    }
    let mut form = BytesMut::new();
    poll_fn(|task| poll_form(task, &mut body, &mut form)).await?;
    let target = String::from_utf8_lossy(head.path.as_bytes()).into_owned();
    let method = head.method.as_str().to_owned();
    let worker = state.clone();
    // Long answers take milliseconds; this thread also has connections, signals and timers to serve.
    let response = spawn_blocking(move || handle(&*worker, &method, &target, &form)).await;
    let response = response.unwrap_or(Response {
        status: 500,
        content_type: "text/plain; charset=UTF-8",
        body: Bytes::from_static(b"the answer could not be made\n"),
    });
    respond(&mut responder, response).await
}

fn poll_form(task: &mut Context<'_>, body: &mut Body, form: &mut BytesMut) -> Poll<Result<(), StreamError>> {
    while form.len() < MAX_BODY {
        match ready!(body.poll_frame(task)) {
            Some(Ok(Frame::Data(data))) => form.extend_from_slice(&data),
            Some(Ok(Frame::Trailers(_))) => {}
            Some(Err(error)) => return Poll::Ready(Err(error)),
            None => break,
        }
    }
    Poll::Ready(Ok(()))
}

async fn respond(responder: &mut Responder, response: Response) -> Result<(), StreamError> {
    let mut headers = Headers::with_capacity(5);
    headers.append(CONTENT_TYPE, HeaderValue::from_static(response.content_type));
    headers.append(CACHE_CONTROL, HeaderValue::from_static("no-cache, max-age=0"));
    headers.append(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.append(CONTENT_LENGTH, HeaderValue::from(response.body.len()));
    let head = ResponseHead {
        status: StatusCode::from_u16(response.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        protocol: Protocol::Http11,
        headers,
    };
    let end = response.body.is_empty();
    responder.send_head(head, end)?;
    if !end {
        poll_fn(|task| responder.poll_ready(task)).await?;
        responder.send_data(response.body, true)?;
    }
    poll_fn(|task| responder.poll_flush(task)).await
}
