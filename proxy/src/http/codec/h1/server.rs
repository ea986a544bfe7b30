//! The server side: one request at a time.
//!
//! The connection task asks for the next request, runs the pipeline on it, and finishes it, in turns; body and
//! responder of the request work on the same state. What is left of them after the request was finished is inert.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Method, StatusCode};
use outrigger_engine::message::{Headers, Protocol, ResponseHead};

use super::body::{Body, Decoder, Length, Side};
use super::encode::{self, Encoder, ResponseContext};
use super::transport::Transport;
use super::{Limits, ServerSettings, head};
use crate::http::codec::{self, Exchange, Frame, StreamError, Tunnel};
use crate::io::Io;

/// What a connection brought.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "the large one is the usual one; a box would be paid by each request")]
pub enum Incoming {
    /// A request.
    Request(Exchange),
    /// Something that is to be refused; the connection closes after the answer.
    Malformed {
        /// The status of the answer.
        status: u16,
        /// Envoy's response code details.
        details: &'static str,
        /// The way to answer.
        responder: codec::Responder,
    },
    /// Nothing more.
    End(Ended),
}

/// How a downstream connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client closed it between two requests.
    Closed,
    /// The client closed it within a request head.
    Partial,
    /// It broke.
    Reset,
}

/// How an exchange left the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The next request may come.
    KeepAlive,
    /// The connection is to be shut down.
    Close,
    /// The responder took the transport.
    Upgraded,
}

/// A downstream connection.
pub struct ServerConnection {
    shared: Rc<RefCell<Shared>>,
}

struct Shared {
    transport: Transport,
    settings: Rc<ServerSettings>,
    /// Of the current exchange; body and responder of an earlier one have a lower number.
    generation: u32,
    decoder: Decoder,
    encoder: Encoder,
    http10: bool,
    to_head: bool,
    to_connect: bool,
    /// The request asked for something else than HTTP to follow.
    upgrade: bool,
    /// The connection ends with this exchange.
    close: bool,
    /// 101, or 2xx to CONNECT, was answered.
    tunnel: bool,
    /// The exchange failed: nothing of it can be repaired.
    broken: bool,
}

impl ServerConnection {
    /// A connection from which `buffered` has been read already.
    pub fn new(io: Io, buffered: Bytes, settings: Rc<ServerSettings>) -> Self {
        let decoder = Decoder::new(Length::None, limits(&settings), false);
        ServerConnection {
            shared: Rc::new(RefCell::new(Shared {
                transport: Transport::new(io, buffered),
                settings,
                generation: 0,
                decoder,
                encoder: Encoder::End,
                http10: false,
                to_head: false,
                to_connect: false,
                upgrade: false,
                close: false,
                tunnel: false,
                broken: false,
            })),
        }
    }

    /// The next request.
    pub fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        let mut guard = self.shared.borrow_mut();
        let shared = &mut *guard;
        let settings = Rc::clone(&shared.settings);
        let parse = |bytes: &[u8]| head::request(bytes, &settings);
        let outcome = ready!(shared.transport.poll_head(cx, settings.max_head_bytes, parse));
        let request = match outcome {
            Ok(Some(Ok(request))) => request,
            Ok(Some(Err(fault))) => {
                shared.begin(false);
                shared.close = true;
                let responder = self.responder(shared.generation);
                let head::Fault { status, details } = fault;
                return Poll::Ready(Incoming::Malformed { status, details, responder });
            }
            Ok(None) if shared.transport.input.is_empty() => return Poll::Ready(Incoming::End(Ended::Closed)),
            Ok(None) => return Poll::Ready(Incoming::End(Ended::Partial)),
            Err(_) => return Poll::Ready(Incoming::End(Ended::Reset)),
        };
        shared.begin(request.keep_alive);
        shared.http10 = request.head.protocol == Protocol::Http10;
        shared.to_head = request.head.method == Method::HEAD;
        shared.to_connect = request.head.method == Method::CONNECT;
        shared.upgrade = request.upgrade;
        let generation = shared.generation;
        let mut decoder = Decoder::new(request.length, limits(&settings), settings.options.enable_trailers);
        let body = match request.length {
            Length::None => codec::Body::Empty,
            _ => match decoder.take_whole(&mut shared.transport.input) {
                Some(whole) => codec::Body::Full(whole),
                None if decoder.is_end() => codec::Body::Full(Bytes::new()),
                None => {
                    codec::Body::H1(Body(Side::Request(RequestBody { shared: Rc::clone(&self.shared), generation })))
                }
            },
        };
        shared.transport.consumed();
        shared.decoder = decoder;
        Poll::Ready(Incoming::Request(Exchange { head: request.head, body, responder: self.responder(generation) }))
    }

    fn responder(&self, generation: u32) -> codec::Responder {
        codec::Responder::H1(Responder { shared: Rc::clone(&self.shared), generation })
    }

    /// Gives up waiting for the rest of a request head: the way to say so. The connection closes after the answer.
    pub fn abort_head(&mut self) -> codec::Responder {
        let generation = {
            let mut shared = self.shared.borrow_mut();
            shared.begin(false);
            shared.generation
        };
        self.responder(generation)
    }

    /// Whether a request head has begun to arrive: the time for heads applies then, else the connection is idle.
    pub fn has_partial_head(&self) -> bool {
        !self.shared.borrow().transport.input.is_empty()
    }

    /// Writes the rest of the response; ready when the next request may be read, or the connection is to be closed, as
    /// after a response that did not wait for the end of the request.
    pub fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Finish> {
        let mut guard = self.shared.borrow_mut();
        let shared = &mut *guard;
        if shared.broken {
            return Poll::Ready(Finish::Close);
        }
        if shared.tunnel && !shared.transport.is_open() {
            return Poll::Ready(Finish::Upgraded);
        }
        let flushed = ready!(shared.transport.poll_flush(cx)).is_ok();
        if !flushed || !shared.encoder.is_end() || !shared.decoder.is_end() || shared.close {
            return Poll::Ready(Finish::Close);
        }
        // What came behind a refused upgrade may not be HTTP.
        if shared.upgrade && !shared.transport.input.is_empty() {
            return Poll::Ready(Finish::Close);
        }
        shared.generation = shared.generation.wrapping_add(1);
        Poll::Ready(Finish::KeepAlive)
    }

    /// Ends our side of the connection: writes what is buffered, then FIN.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut shared = self.shared.borrow_mut();
        if ready!(shared.transport.poll_flush(cx)).is_ok() {
            // Whether the peer still listens does not matter any more.
            let _ = ready!(shared.transport.poll_shutdown(cx));
        }
        Poll::Ready(())
    }

    /// Ready when the peer has closed its side. What it sends until then is thrown away: a socket that is closed with
    /// unread bytes resets the connection, and the peer may lose the response.
    pub fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut shared = self.shared.borrow_mut();
        loop {
            shared.transport.input.clear();
            match ready!(shared.transport.poll_fill(cx, 0)) {
                Ok(true) => {}
                Ok(false) | Err(_) => return Poll::Ready(()),
            }
        }
    }
}

impl fmt::Debug for ServerConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConnection").finish_non_exhaustive()
    }
}

fn limits(settings: &ServerSettings) -> Limits {
    Limits { bytes: settings.max_head_bytes, count: settings.max_headers }
}

impl Shared {
    /// Starts an exchange.
    fn begin(&mut self, keep_alive: bool) {
        self.generation = self.generation.wrapping_add(1);
        self.encoder = Encoder::Head;
        self.http10 = false;
        self.to_head = false;
        self.to_connect = false;
        self.upgrade = false;
        self.close = !keep_alive;
    }

    /// Writes informational heads while everybody waits. That it failed is seen by whoever writes or reads next.
    fn write_waiting(&mut self, cx: &mut Context<'_>) {
        if self.encoder == Encoder::Head && !self.transport.is_flushed() {
            let _ = self.transport.poll_flush(cx);
        }
    }

    fn fail(&mut self) {
        self.broken = true;
        self.close = true;
    }
}

/// The body of a request.
pub(super) struct RequestBody {
    shared: Rc<RefCell<Shared>>,
    generation: u32,
}

impl RequestBody {
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        let mut guard = self.shared.borrow_mut();
        let shared = &mut *guard;
        if shared.generation != self.generation || shared.tunnel {
            return Poll::Ready(Some(Err(StreamError::Local)));
        }
        // The client may wait for the 100 that asks for the body.
        shared.write_waiting(cx);
        let frame = ready!(shared.decoder.poll_frame(&mut shared.transport, cx));
        if matches!(frame, Some(Err(_))) {
            // A refusal may still be sent, but nothing more can be read.
            shared.close = true;
        }
        Poll::Ready(frame)
    }

    pub(super) fn is_end(&self) -> bool {
        let shared = self.shared.borrow();
        shared.generation == self.generation && shared.decoder.is_end()
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").finish_non_exhaustive()
    }
}

/// The way to answer a request.
pub struct Responder {
    shared: Rc<RefCell<Shared>>,
    generation: u32,
}

impl Responder {
    fn with<R>(&self, act: impl FnOnce(&mut Shared) -> Result<R, StreamError>) -> Result<R, StreamError> {
        let mut shared = self.shared.borrow_mut();
        if shared.generation != self.generation || shared.broken {
            return Err(StreamError::Local);
        }
        act(&mut shared)
    }

    pub(in crate::http::codec) fn send_informational(&mut self, head: ResponseHead) -> Result<(), StreamError> {
        self.with(|shared| {
            // HTTP/1.0 knows no informational responses.
            if !shared.http10 && shared.encoder == Encoder::Head {
                let context = shared.context();
                encode::response(&mut shared.transport.output, &head, true, context);
            }
            Ok(())
        })
    }

    pub(in crate::http::codec) fn send_head(&mut self, head: ResponseHead, end: bool) -> Result<(), StreamError> {
        self.with(|shared| {
            if shared.encoder != Encoder::Head {
                return Err(StreamError::Local);
            }
            shared.tunnel = (shared.upgrade && head.status == StatusCode::SWITCHING_PROTOCOLS)
                || (shared.to_connect && head.status.is_success());
            let upgrade = shared.tunnel;
            // Without a length, only the connection's end tells a 1.0 client where the body ends.
            let endless = shared.http10 && !end && !head.headers.contains(&http::header::CONTENT_LENGTH);
            shared.close |= endless && !shared.to_head;
            shared.close |= !shared.decoder.is_end() || (shared.to_connect && !upgrade);
            let mut context = shared.context();
            context.close &= !upgrade;
            shared.encoder = encode::response(&mut shared.transport.output, &head, end, context);
            if end { shared.data(Bytes::new(), true) } else { Ok(()) }
        })
    }

    pub(in crate::http::codec) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let mut shared = self.shared.borrow_mut();
        if shared.generation != self.generation || shared.broken {
            return Poll::Ready(Err(StreamError::Local));
        }
        shared.transport.poll_ready(cx)
    }

    pub(in crate::http::codec) fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), StreamError> {
        self.with(|shared| shared.data(data, end))
    }

    pub(in crate::http::codec) fn send_trailers(&mut self, trailers: Headers) -> Result<(), StreamError> {
        self.with(|shared| {
            let options = &shared.settings.options;
            let trailers = options.enable_trailers.then_some(&trailers);
            shared.encoder.trailers(&mut shared.transport.output, trailers, options.header_case)
        })
    }

    pub(in crate::http::codec) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let mut shared = self.shared.borrow_mut();
        if shared.generation != self.generation || shared.broken {
            return Poll::Ready(Err(StreamError::Local));
        }
        shared.transport.poll_flush(cx)
    }

    pub(in crate::http::codec) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        let mut guard = self.shared.borrow_mut();
        let shared = &mut *guard;
        if shared.generation != self.generation || shared.broken {
            return Poll::Ready(StreamError::Local);
        }
        shared.write_waiting(cx);
        // While body is to come, whoever reads it meets the end.
        if !shared.decoder.is_end() {
            return Poll::Pending;
        }
        ready!(shared.transport.poll_closed(cx));
        shared.close = true;
        Poll::Ready(StreamError::ConnectionClosed)
    }

    pub(in crate::http::codec) fn close_after(&mut self) {
        let mut shared = self.shared.borrow_mut();
        if shared.generation == self.generation {
            shared.close = true;
        }
    }

    pub(in crate::http::codec) fn reset(self) {
        let mut shared = self.shared.borrow_mut();
        if shared.generation == self.generation {
            shared.fail();
        }
    }

    /// Takes the transport after `101 Switching Protocols`, or a 2xx to CONNECT, was sent and flushed.
    ///
    /// # Errors
    ///
    /// [`StreamError::Local`] where no such head was sent, or not all of it was written.
    pub fn into_tunnel(self) -> Result<Tunnel, StreamError> {
        self.with(|shared| {
            if !shared.tunnel || !shared.transport.is_flushed() {
                return Err(StreamError::Local);
            }
            shared.encoder = Encoder::End;
            shared.transport.take().ok_or(StreamError::Local)
        })
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        let mut shared = self.shared.borrow_mut();
        if shared.generation == self.generation && !shared.encoder.is_end() {
            shared.fail();
        }
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").finish_non_exhaustive()
    }
}

impl Shared {
    fn context(&self) -> ResponseContext {
        ResponseContext {
            case: self.settings.options.header_case,
            http10: self.http10,
            to_head: self.to_head,
            to_connect: self.to_connect,
            close: self.close,
        }
    }

    fn data(&mut self, data: Bytes, end: bool) -> Result<(), StreamError> {
        let sent = self.encoder.data(&mut self.transport.output, data, end);
        if sent.is_err() {
            self.fail();
        }
        sent
    }
}
