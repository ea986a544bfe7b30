//! What the pipeline sees of HTTP/1 and HTTP/2: the same four things. A head, a body, a way to answer, and why it
//! ended.
//!
//! Everything here runs on one thread and, for HTTP/1, in one task: the connection task polls the pipeline's future for
//! a request, and body and responder work on the connection's buffers directly (`Rc<RefCell<…>>`). There is no channel
//! and no task between a byte read from one socket and written to the other.
//!
//! All `poll_*` methods follow the rules of `Future::poll`. `send_*` methods never wait: they append to the
//! connection's write buffer (HTTP/1 tries to write it when polled) and the caller respects back-pressure by
//! `poll_ready` before each piece of body.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

pub mod h1;
pub mod h2;

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderName;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use outrigger_engine::message::{Headers, RequestHead, ResponseHead};

use crate::io::Io;

/// A request as it came from the downstream.
#[derive(Debug)]
pub struct Exchange {
    /// Its head.
    pub head: RequestHead,
    /// Its body.
    pub body: Body,
    /// The way to answer.
    pub responder: Responder,
}

/// A piece of a body.
#[derive(Clone, Debug)]
pub enum Frame {
    /// Bytes, never empty.
    Data(Bytes),
    /// Trailers; nothing follows.
    Trailers(Headers),
}

/// Whether a field is about framing or routing: it is the head's, and nobody behind us shall see it in trailers
/// (RFC 9110, section 6.5.1).
fn is_only_of_heads(name: &HeaderName) -> bool {
    matches!(*name, CONTENT_LENGTH | TRANSFER_ENCODING | HOST | CONNECTION | UPGRADE)
}

/// A message's body, of either direction.
#[derive(Debug)]
pub enum Body {
    /// None at all (not the same as one of length 0: no framing header was there).
    Empty,
    /// Bytes at hand.
    Full(Bytes),
    /// From an HTTP/1 connection.
    H1(h1::Body),
    /// From an HTTP/2 stream.
    H2(h2::Body),
}

impl Body {
    /// The next piece. `None` after the last one; trailers are the last one.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        match self {
            Body::Empty => Poll::Ready(None),
            Body::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Body::Full(bytes) => Poll::Ready(Some(Ok(Frame::Data(std::mem::take(bytes))))),
            Body::H1(body) => body.poll_frame(cx),
            Body::H2(body) => body.poll_frame(cx),
        }
    }

    /// Whether it is known without reading that nothing more comes.
    pub fn is_end(&self) -> bool {
        match self {
            Body::Empty => true,
            Body::Full(bytes) => bytes.is_empty(),
            Body::H1(body) => body.is_end(),
            Body::H2(body) => body.is_end(),
        }
    }
}

/// The way to answer one request: any number of informational heads, one final head, data, trailers. Dropping it
/// before the end of the response resets the stream (HTTP/2) or closes the connection (HTTP/1).
#[derive(Debug)]
pub enum Responder {
    /// HTTP/1.
    H1(h1::Responder),
    /// HTTP/2.
    H2(h2::Responder),
}

impl Responder {
    /// Sends a 1xx head.
    pub fn send_informational(&mut self, head: ResponseHead) -> Result<(), StreamError> {
        match self {
            Responder::H1(r) => r.send_informational(head),
            Responder::H2(r) => r.send_informational(head),
        }
    }

    /// Sends the final head; `end` where no body follows. The codec adds framing (`transfer-encoding: chunked`, where
    /// there is no `content-length`) and, on HTTP/1, `connection: close` where the connection will not go on.
    pub fn send_head(&mut self, head: ResponseHead, end: bool) -> Result<(), StreamError> {
        match self {
            Responder::H1(r) => r.send_head(head, end),
            Responder::H2(r) => r.send_head(head, end),
        }
    }

    /// Ready when more body may be sent. HTTP/1 writes only what is above its bound, so that head and first piece leave
    /// together: where nothing more is at hand, `poll_flush` writes the rest.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match self {
            Responder::H1(r) => r.poll_ready(cx),
            Responder::H2(r) => r.poll_ready(cx),
        }
    }

    /// Sends body bytes; `end` with the last.
    pub fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), StreamError> {
        match self {
            Responder::H1(r) => r.send_data(data, end),
            Responder::H2(r) => r.send_data(data, end),
        }
    }

    /// Sends trailers and ends the response. HTTP/1 drops them unless `enable_trailers` is set.
    pub fn send_trailers(&mut self, trailers: Headers) -> Result<(), StreamError> {
        match self {
            Responder::H1(r) => r.send_trailers(trailers),
            Responder::H2(r) => r.send_trailers(trailers),
        }
    }

    /// Bytes of the body that were sent and that the client's window (HTTP/2) has not taken yet.
    pub fn unsent(&self) -> usize {
        match self {
            Responder::H1(_) => 0,
            Responder::H2(r) => r.unsent(),
        }
    }

    /// Writes out what is buffered; ready when all of it has gone to the kernel (HTTP/1) or has been taken by the
    /// client's window (HTTP/2).
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match self {
            Responder::H1(r) => r.poll_flush(cx),
            Responder::H2(r) => r.poll_flush(cx),
        }
    }

    /// Ready when the downstream has gone away or reset the stream. Polled while the upstream works.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        match self {
            Responder::H1(r) => r.poll_reset(cx),
            Responder::H2(r) => r.poll_reset(cx),
        }
    }

    /// The connection shall end after this response (drain, `max_requests_per_connection`). HTTP/1 says
    /// `connection: close`; on HTTP/2 the connection manager sends GOAWAY itself.
    pub fn close_after(&mut self) {
        match self {
            Responder::H1(r) => r.close_after(),
            Responder::H2(_) => {}
        }
    }

    /// Ends the stream at once: RST_STREAM with `code`, or the HTTP/1 connection closed.
    pub fn reset(self, code: ResetCode) {
        match self {
            Responder::H1(r) => r.reset(),
            Responder::H2(r) => r.reset(code),
        }
    }
}

impl Responder {
    /// The transport of a connection that has become a tunnel, after its head was flushed.
    ///
    /// # Errors
    ///
    /// [`StreamError::Local`] where no such head was sent.
    pub fn into_tunnel(self) -> Result<Tunnel, StreamError> {
        match self {
            Responder::H1(r) => r.into_tunnel(),
            Responder::H2(r) => r.into_tunnel(),
        }
    }
}

/// What comes back from an upstream before the body of the final response.
#[derive(Debug)]
pub enum Reply {
    /// 1xx (but 101), any number of times.
    Informational(ResponseHead),
    /// The final head.
    Response(ResponseHead, Body),
}

/// One request on an upstream connection.
///
/// Dropping it before the response has ended resets the stream (HTTP/2) or closes the connection (HTTP/1). An HTTP/1
/// connection on which request and response have ended goes back to its [`Owner`] by itself, from here or from the
/// body.
#[derive(Debug)]
pub enum ClientStream {
    /// HTTP/1.
    H1(h1::ClientStream),
    /// HTTP/2.
    H2(h2::ClientStream),
}

impl ClientStream {
    /// Leaves the body of the answer with the peer until somebody reads it, even of one that is seldom thrown away.
    pub fn leave_unread(&mut self) {
        match self {
            ClientStream::H1(s) => s.leave_unread(),
            // Only what was asked for comes.
            ClientStream::H2(_) => {}
        }
    }

    /// Sends the head; `end` where no body follows. The codec adds framing.
    pub fn send_head(&mut self, head: &RequestHead, end: bool) -> Result<(), StreamError> {
        match self {
            ClientStream::H1(s) => s.send_head(head, end),
            ClientStream::H2(s) => s.send_head(head, end),
        }
    }

    /// Ready when more body may be sent. HTTP/1 writes only what is above its bound, so that head and first piece leave
    /// together: where nothing more is at hand, `poll_reply` writes the rest.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match self {
            ClientStream::H1(s) => s.poll_ready(cx),
            ClientStream::H2(s) => s.poll_ready(cx),
        }
    }

    /// Sends body bytes; `end` with the last.
    pub fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), StreamError> {
        match self {
            ClientStream::H1(s) => s.send_data(data, end),
            ClientStream::H2(s) => s.send_data(data, end),
        }
    }

    /// Sends trailers and ends the request.
    pub fn send_trailers(&mut self, trailers: Headers) -> Result<(), StreamError> {
        match self {
            ClientStream::H1(s) => s.send_trailers(trailers),
            ClientStream::H2(s) => s.send_trailers(trailers),
        }
    }

    /// The next head of the response (and, on HTTP/1, progress of buffered writes).
    pub fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, StreamError>> {
        match self {
            ClientStream::H1(s) => s.poll_reply(cx),
            ClientStream::H2(s) => s.poll_reply(cx),
        }
    }
}

impl ClientStream {
    /// How far the request came, after the stream has failed without a response.
    pub fn delivery(&self) -> Delivery {
        match self {
            ClientStream::H1(s) => s.delivery(),
            ClientStream::H2(s) => s.delivery(),
        }
    }

    /// Whether it is on a connection of HTTP/1 that another request has used before.
    pub fn is_reused(&self) -> bool {
        match self {
            ClientStream::H1(s) => s.is_reused(),
            ClientStream::H2(_) => false,
        }
    }

    /// The transport of a connection that has become a tunnel, and the owner's claim on it. A stream of HTTP/2 has its
    /// own.
    ///
    /// # Errors
    ///
    /// [`StreamError::Local`] where the peer did not agree to it.
    pub fn into_tunnel(self) -> Result<(Tunnel, Option<h1::Lease>), StreamError> {
        match self {
            ClientStream::H1(s) => s.into_tunnel().map(|(tunnel, lease)| (tunnel, Some(lease))),
            ClientStream::H2(s) => s.into_tunnel().map(|tunnel| (tunnel, None)),
        }
    }
}

/// What became of a request that got no response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// None of it has left us, on a connection that no request has used before.
    Unsent,
    /// The peer has not acted on it and will not: its GOAWAY says so, or it ended a connection that had been idle
    /// before any of the request had come.
    Unread,
    /// The peer ended a connection that had been idle, without a byte of a response: most likely the request and the
    /// end met on their way.
    Raced,
    /// The peer may have acted on it.
    #[default]
    Sent,
}

/// Who gets an upstream connection back: a pool. Implemented once, by the cluster's host pool.
pub trait Owner: std::fmt::Debug {
    /// The HTTP/1 connection may take another request.
    fn idle(&self, connection: h1::ClientConnection);
    /// A stream of HTTP/2 has ended, or the peer allows more of them: there may be room for another.
    fn room(&self);
    /// The peer of an HTTP/2 connection will take no more streams on it.
    fn draining(&self);
    /// A connection of either codec has ended, with so many requests under way. Called once for each.
    fn closed(&self, reason: CloseReason, under_way: usize);
    /// A stream of HTTP/2 was reset, and not with its connection.
    fn reset(&self, by: ResetBy);
}

/// An [`Owner`] as connections hold it.
pub type OwnerRef = Rc<dyn Owner>;

/// Why an upstream connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// We closed it.
    Local,
    /// The peer closed or reset it, or sent GOAWAY.
    Remote,
    /// The peer broke the protocol.
    Protocol,
    /// The peer closed or reset it within a message.
    CutShort,
}

/// Who ended a stream before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetBy {
    /// We did.
    Us,
    /// The peer did, after it may have seen the request.
    Peer,
}

/// A tunnel after `101 Switching Protocols` or CONNECT: what is left of the connection, and bytes already read.
#[derive(Debug)]
pub struct Tunnel {
    /// The transport.
    pub io: Io,
    /// Read from it, not yet consumed.
    pub buffered: Bytes,
}

/// RST_STREAM codes that the pipeline itself sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetCode {
    /// NO_ERROR: the response is complete, the rest of the request is not wanted.
    NoError,
    /// INTERNAL_ERROR.
    Internal,
    /// CANCEL.
    Cancel,
    /// REFUSED_STREAM: nothing has been done of it.
    Refused,
    /// PROTOCOL_ERROR.
    Protocol,
}

/// Why a stream or a connection ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The peer closed the connection (FIN, close_notify) or it broke.
    #[error("connection closed by the peer")]
    ConnectionClosed,
    /// The peer reset the stream, with the HTTP/2 code.
    #[error("stream reset by the peer with code {0}")]
    Reset(u32),
    /// The peer has not seen the request: REFUSED_STREAM, or above the last id of a GOAWAY. Safe to send again.
    #[error("refused by the peer")]
    Refused,
    /// The peer broke the protocol; Envoy's response code detail (`http1.codec_error`, ...).
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// A head beyond the limits.
    #[error("headers too large: {0}")]
    TooLarge(&'static str),
    /// We ended it ourselves.
    #[error("ended locally")]
    Local,
}
