//! The client side: one request at a time on a connection that a pool owns.
//!
//! [`ClientConnection`] is the idle connection, [`ClientStream`] and the response's body are the busy one; all three
//! are handles of the same state. When request and response have ended, whoever notices gives the connection back.

use std::cell::RefCell;
use std::fmt;
use std::io::ErrorKind;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::UPGRADE;
use http::{Method, StatusCode};
use outrigger_engine::message::{Headers, RequestHead};

use super::body::{Body, Decoder, Length, Side};
use super::encode::{self, Encoder};
use super::transport::Transport;
use super::{ClientSettings, Limits, head};
use crate::http::codec::{self, CloseReason, Delivery, Frame, Owner, OwnerRef, Reply, StreamError, Tunnel};
use crate::io::Io;

struct Shared {
    transport: Transport,
    settings: Rc<ClientSettings>,
    /// The pool owns idle connections, and busy ones keep the pool.
    idle_owner: Weak<dyn Owner>,
    owner: Option<OwnerRef>,
    /// Of the current request; handles of an earlier one have a lower number.
    generation: u32,
    created: Instant,
    requests: u32,
    method: Method,
    /// The request asks for an upgrade.
    upgrade: bool,
    /// An answer below this status is read ahead where all of it is there.
    unread_from: StatusCode,
    encoder: Encoder,
    decoder: Decoder,
    response: Response,
    keep_alive: bool,
    /// A byte of the response has come.
    started: bool,
    /// What had left us when the request began.
    sent_before: Option<u64>,
    /// The peer has ended its side, with or without TLS's word for it.
    peer_ended: bool,
    /// How far the request came, once it has failed.
    delivery: Delivery,
    /// The owner has been told of the end, or has the connection, or [`Lease`] will tell it.
    settled: bool,
}

/// The peer ended the connection within a response.
const CUT_SHORT: StreamError = StreamError::Protocol("http1.codec_error");

/// How far the response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Response {
    Head,
    Body,
    /// 101, or 2xx to CONNECT.
    Tunnel,
    End,
}

/// An idle upstream connection. Its owner may drop it, and is not told then.
pub struct ClientConnection {
    shared: Rc<RefCell<Shared>>,
}

impl ClientConnection {
    /// A connection that no request has used, of `owner`.
    pub fn new(io: Io, settings: Rc<ClientSettings>, owner: &OwnerRef) -> Self {
        let decoder = Decoder::new(Length::None, limits(&settings), false);
        ClientConnection {
            shared: Rc::new(RefCell::new(Shared {
                transport: Transport::new(io, Bytes::new()),
                settings,
                idle_owner: Rc::downgrade(owner),
                owner: None,
                generation: 0,
                created: Instant::now(),
                requests: 0,
                method: Method::GET,
                upgrade: false,
                unread_from: StatusCode::BAD_REQUEST,
                encoder: Encoder::End,
                decoder,
                response: Response::End,
                keep_alive: true,
                started: false,
                sent_before: None,
                peer_ended: false,
                delivery: Delivery::default(),
                settled: true,
            })),
        }
    }

    /// Takes the connection for a request. From now on its owner will be told how it ends.
    pub fn start(self) -> ClientStream {
        let mut shared = self.shared.borrow_mut();
        shared.generation = shared.generation.wrapping_add(1);
        shared.requests = shared.requests.saturating_add(1);
        shared.encoder = Encoder::Head;
        shared.response = Response::Head;
        shared.keep_alive = true;
        shared.unread_from = StatusCode::BAD_REQUEST;
        shared.started = false;
        shared.sent_before = shared.transport.sent();
        shared.settled = false;
        shared.owner = shared.idle_owner.upgrade();
        let generation = shared.generation;
        drop(shared);
        ClientStream { shared: self.shared, generation, body_taken: false }
    }

    /// Whether a request may be sent: looks for a FIN, a reset or bytes that nobody asked for, without waiting.
    pub fn is_alive(&mut self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        self.poll_idle(&mut cx).is_pending()
    }

    /// Ready when the idle connection was closed by the peer, or broke, or sent what nobody asked for.
    pub fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let mut shared = self.shared.borrow_mut();
        if !shared.transport.is_open() {
            return Poll::Ready(CloseReason::Remote);
        }
        match ready!(shared.transport.poll_fill(cx, 0)) {
            Ok(true) => Poll::Ready(CloseReason::Protocol),
            Ok(false) | Err(_) => Poll::Ready(CloseReason::Remote),
        }
    }

    /// Requests that this connection has taken.
    pub fn requests(&self) -> u32 {
        self.shared.borrow().requests
    }

    /// Time since it was made.
    pub fn age(&self) -> Duration {
        self.shared.borrow().created.elapsed()
    }
}

impl fmt::Debug for ClientConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConnection").finish_non_exhaustive()
    }
}

fn limits(settings: &ClientSettings) -> Limits {
    Limits { bytes: settings.max_head_bytes, count: settings.max_headers }
}

/// What the owner is to be told, once the state is no longer borrowed.
enum Settle {
    Nothing,
    Idle,
    Closed(CloseReason, usize),
}

impl Shared {
    /// Ends the exchange, if it is over: back to the owner, or closed.
    fn settle(&mut self) -> Settle {
        if self.settled || self.response != Response::End {
            return Settle::Nothing;
        }
        let reusable = self.keep_alive
            && self.encoder.is_end()
            && self.transport.is_open()
            && self.transport.is_flushed()
            && !self.transport.eof;
        if !reusable {
            return self.close(CloseReason::Local);
        }
        if !self.transport.input.is_empty() {
            return self.close(CloseReason::Protocol);
        }
        self.settled = true;
        self.generation = self.generation.wrapping_add(1);
        Settle::Idle
    }

    fn close(&mut self, reason: CloseReason) -> Settle {
        let under_way = self.response != Response::End || !self.encoder.is_end();
        self.transport.close();
        self.response = Response::End;
        self.generation = self.generation.wrapping_add(1);
        if std::mem::replace(&mut self.settled, true) {
            Settle::Nothing
        } else {
            Settle::Closed(reason, usize::from(under_way))
        }
    }

    /// Whether the current request is not its first.
    fn is_reused(&self) -> bool {
        self.requests > 1
    }

    /// How far the request came: to be asked when it has failed, and before the transport goes.
    fn judge(&self) -> Delivery {
        let unsent = self.transport.sent() == self.sent_before;
        if !self.is_reused() {
            if unsent { Delivery::Unsent } else { Delivery::Sent }
        } else if unsent {
            Delivery::Unread
        } else if self.started {
            Delivery::Sent
        } else if self.peer_ended && self.sent_before.is_some_and(|bytes| self.transport.has_acknowledged_only(bytes)) {
            // What ended the connection was sent before any of the request had arrived, and nobody can answer behind
            // it. A reset alone does not say so: the peer may have had, read and done what its kernel was yet to
            // acknowledge.
            Delivery::Unread
        } else {
            Delivery::Raced
        }
    }

    fn fail(&mut self, error: StreamError) -> Settle {
        self.delivery = self.judge();
        self.close(match error {
            CUT_SHORT if self.transport.eof => CloseReason::CutShort,
            StreamError::Protocol(_) | StreamError::TooLarge(_) => CloseReason::Protocol,
            StreamError::Local => CloseReason::Local,
            _ => CloseReason::Remote,
        })
    }
}

/// Runs `act` and tells the owner what came of it.
fn act<R>(shared: &Rc<RefCell<Shared>>, act: impl FnOnce(&mut Shared) -> (R, Settle)) -> R {
    let mut borrowed = shared.borrow_mut();
    let (result, settle) = act(&mut borrowed);
    let owner = match settle {
        Settle::Nothing => return result,
        _ => borrowed.owner.take(),
    };
    drop(borrowed);
    match (owner, settle) {
        (Some(owner), Settle::Idle) => owner.idle(ClientConnection { shared: Rc::clone(shared) }),
        (Some(owner), Settle::Closed(reason, under_way)) => owner.closed(reason, under_way),
        _ => {}
    }
    result
}

/// One request on an upstream connection.
pub struct ClientStream {
    shared: Rc<RefCell<Shared>>,
    generation: u32,
    /// The body of the final response has been handed out, and answers for the rest of the exchange.
    body_taken: bool,
}

impl ClientStream {
    fn send(&mut self, send: impl FnOnce(&mut Shared) -> Result<(), StreamError>) -> Result<(), StreamError> {
        let generation = self.generation;
        act(&self.shared, |shared| {
            if shared.generation != generation {
                return (Err(StreamError::Local), Settle::Nothing);
            }
            match send(shared) {
                Ok(()) => (Ok(()), Settle::Nothing),
                Err(error) => (Err(error), shared.fail(error)),
            }
        })
    }

    /// Leaves the answer's body unread until somebody asks for it, whatever the status.
    pub(in crate::http::codec) fn leave_unread(&mut self) {
        self.shared.borrow_mut().unread_from = StatusCode::CONTINUE;
    }

    pub(in crate::http::codec) fn send_head(&mut self, head: &RequestHead, end: bool) -> Result<(), StreamError> {
        self.send(|shared| {
            if shared.encoder != Encoder::Head {
                return Err(StreamError::Local);
            }
            shared.upgrade = head.headers.contains(&UPGRADE);
            shared.encoder = encode::request(&mut shared.transport.output, head, end, shared.settings.header_case);
            shared.method.clone_from(&head.method);
            if end { shared.encoder.data(&mut shared.transport.output, Bytes::new(), true) } else { Ok(()) }
        })
    }

    pub(in crate::http::codec) fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), StreamError> {
        self.send(|shared| shared.encoder.data(&mut shared.transport.output, data, end))
    }

    pub(in crate::http::codec) fn send_trailers(&mut self, trailers: Headers) -> Result<(), StreamError> {
        self.send(|shared| {
            let trailers = shared.settings.enable_trailers.then_some(&trailers);
            shared.encoder.trailers(&mut shared.transport.output, trailers, shared.settings.header_case)
        })
    }

    pub(in crate::http::codec) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let mut shared = self.shared.borrow_mut();
        if shared.generation != self.generation {
            return Poll::Ready(Err(StreamError::Local));
        }
        shared.transport.poll_ready(cx)
    }

    pub(in crate::http::codec) fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, StreamError>> {
        let generation = self.generation;
        let rc = Rc::clone(&self.shared);
        let reply = ready!(act(&self.shared, |shared| {
            if shared.generation != generation || shared.response != Response::Head {
                return (Poll::Ready(Err(StreamError::Local)), Settle::Nothing);
            }
            // A failed write does not end it: the answer that explains it may already be here.
            let _ = shared.transport.poll_flush(cx);
            match shared.poll_response(cx).map_ok(|response| shared.reply(response, &rc)) {
                Poll::Pending => (Poll::Pending, Settle::Nothing),
                Poll::Ready(Ok(Ok(reply))) => (Poll::Ready(Ok(reply)), shared.settle()),
                Poll::Ready(Ok(Err(error)) | Err(error)) => (Poll::Ready(Err(error)), shared.fail(error)),
            }
        }))?;
        self.body_taken |= matches!(reply, Reply::Response(_, codec::Body::H1(_)));
        Poll::Ready(Ok(reply))
    }

    pub(in crate::http::codec) fn is_reused(&self) -> bool {
        self.shared.borrow().is_reused()
    }

    /// See [`codec::ClientStream::delivery`].
    pub(in crate::http::codec) fn delivery(&self) -> Delivery {
        self.shared.borrow().delivery
    }

    /// Takes the transport after `101 Switching Protocols`, or a 2xx to CONNECT, was received.
    ///
    /// # Errors
    ///
    /// [`StreamError::Local`] where there was no such reply.
    pub fn into_tunnel(self) -> Result<(Tunnel, Lease), StreamError> {
        let mut shared = self.shared.borrow_mut();
        if shared.generation != self.generation || shared.response != Response::Tunnel {
            return Err(StreamError::Local);
        }
        let tunnel = shared.transport.take().ok_or(StreamError::Local)?;
        shared.settled = true;
        shared.response = Response::End;
        Ok((tunnel, Lease { owner: shared.owner.take() }))
    }
}

impl Shared {
    fn poll_response(&mut self, cx: &mut Context<'_>) -> Poll<Result<head::Response, StreamError>> {
        let Shared { transport, settings, method, .. } = self;
        let parse = |bytes: &[u8]| head::response(bytes, settings, method);
        let outcome = transport.poll_head(cx, settings.max_head_bytes, parse);
        self.started |= !self.transport.input.is_empty() || matches!(outcome, Poll::Ready(Ok(Some(_))));
        match ready!(outcome) {
            Ok(Some(response)) => Poll::Ready(response),
            // A head that is cut short is a fault of the peer; one that has not begun may be an idle close.
            Ok(None) if self.started => Poll::Ready(Err(CUT_SHORT)),
            Ok(None) => {
                self.peer_ended = true;
                Poll::Ready(Err(StreamError::ConnectionClosed))
            }
            Err(error) => {
                // How TLS says that the stream beneath it has ended.
                self.peer_ended = error.kind() == ErrorKind::UnexpectedEof;
                Poll::Ready(Err(StreamError::ConnectionClosed))
            }
        }
    }

    fn reply(&mut self, response: head::Response, rc: &Rc<RefCell<Shared>>) -> Result<Reply, StreamError> {
        let head::Response { head, length, keep_alive } = response;
        let status = head.status;
        let switching = status == StatusCode::SWITCHING_PROTOCOLS;
        if switching && !self.upgrade {
            return Err(StreamError::Protocol("http1.codec_error"));
        }
        if status.is_informational() && !switching {
            self.transport.consumed();
            return Ok(Reply::Informational(head));
        }
        self.keep_alive &= keep_alive;
        if switching || (self.method == Method::CONNECT && status.is_success()) {
            self.response = Response::Tunnel;
            return Ok(Reply::Response(head, codec::Body::Empty));
        }
        self.decoder = Decoder::new(length, limits(&self.settings), self.settings.enable_trailers);
        // An answer that may be retried, and is then not read, takes its connection along as in Envoy.
        let whole = if status < self.unread_from { self.decoder.take_whole(&mut self.transport.input) } else { None };
        self.transport.consumed();
        if self.decoder.is_end() {
            self.response = Response::End;
            let body = match (length, whole) {
                (Length::None, _) => codec::Body::Empty,
                (_, whole) => codec::Body::Full(whole.unwrap_or_default()),
            };
            return Ok(Reply::Response(head, body));
        }
        self.response = Response::Body;
        let body = ResponseBody { shared: Rc::clone(rc), generation: self.generation, ended: false };
        Ok(Reply::Response(head, codec::Body::H1(Body(Side::Response(body)))))
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        let (generation, body_taken) = (self.generation, self.body_taken);
        act(&self.shared, |shared| {
            if shared.generation != generation || (body_taken && shared.encoder.is_end()) {
                return ((), Settle::Nothing);
            }
            // Nothing was sent: the connection is as good as before.
            if shared.encoder == Encoder::Head && shared.response == Response::Head && shared.transport.is_open() {
                shared.settled = true;
                shared.response = Response::End;
                shared.generation = shared.generation.wrapping_add(1);
                return ((), Settle::Idle);
            }
            ((), shared.close(CloseReason::Local))
        });
    }
}

impl fmt::Debug for ClientStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientStream").finish_non_exhaustive()
    }
}

/// The body of a response.
pub(super) struct ResponseBody {
    shared: Rc<RefCell<Shared>>,
    generation: u32,
    /// All of it has been handed out; the connection may serve somebody else by now.
    ended: bool,
}

impl ResponseBody {
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let generation = self.generation;
        let ended = &mut self.ended;
        act(&self.shared, |shared| {
            if shared.generation != generation {
                return (Poll::Ready(Some(Err(StreamError::Local))), Settle::Nothing);
            }
            if !shared.transport.is_flushed() {
                let _ = shared.transport.poll_flush(cx);
            }
            let mut frame = shared.decoder.poll_frame(&mut shared.transport, cx);
            let cut_short = matches!(frame, Poll::Ready(Some(Err(StreamError::ConnectionClosed))));
            if cut_short {
                frame = Poll::Ready(Some(Err(CUT_SHORT)));
            }
            let settle = match &frame {
                _ if cut_short => shared.close(CloseReason::CutShort),
                Poll::Ready(Some(Err(error))) => {
                    let error = *error;
                    shared.fail(error)
                }
                Poll::Ready(_) if shared.decoder.is_end() => {
                    *ended = true;
                    shared.response = Response::End;
                    shared.settle()
                }
                _ => Settle::Nothing,
            };
            (frame, settle)
        })
    }

    pub(super) fn is_end(&self) -> bool {
        self.ended
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let generation = self.generation;
        act(&self.shared, |shared| {
            if shared.generation != generation { ((), Settle::Nothing) } else { ((), shared.close(CloseReason::Local)) }
        });
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}

/// The owner's claim on a connection that has become a tunnel: when it is dropped, the owner learns of the end.
#[derive(Debug)]
pub struct Lease {
    owner: Option<OwnerRef>,
}

impl Lease {
    /// The peer has ended the tunnel.
    pub fn ended_by_peer(mut self) {
        if let Some(owner) = self.owner.take() {
            owner.closed(CloseReason::Remote, 1);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(owner) = self.owner.take() {
            owner.closed(CloseReason::Local, 1);
        }
    }
}
