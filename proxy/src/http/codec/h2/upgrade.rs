//! Upgrades over HTTP/2 (RFC 8441), in the clothes of HTTP/1: the pipeline asks with `upgrade` and sees `101`, whatever
//! the codecs of both sides, as in Envoy. The stream of an upgrade becomes a transport by a pipe in this process, so
//! that a tunnel joins it like any other.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::{CONNECTION, CONTENT_LENGTH, UPGRADE};
use http::{HeaderValue, Method, StatusCode};
use outrigger_engine::message::{RequestHead, ResponseHead};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::task::spawn_local;

use super::Body;
use crate::http::codec::{Frame, StreamError, Tunnel};
use crate::io::{Io, PumpState, Pumped};

/// Bytes that wait in the pipe, each way.
const PIPE_BYTES: usize = 64 << 10;
/// Bytes of one DATA frame.
const PIECE: usize = 16 << 10;

/// Turns the request of an upgrade into an extended CONNECT, and returns the protocol. Others stay as they are.
pub(super) fn to_connect(head: &mut RequestHead) -> Option<HeaderValue> {
    if !head.headers.contains(&CONNECTION) {
        return None;
    }
    let protocol = head.headers.remove(&UPGRADE)?;
    head.headers.remove(&CONNECTION);
    if head.headers.get(&CONTENT_LENGTH).is_some_and(|length| length == "0") {
        head.headers.remove(&CONTENT_LENGTH);
    }
    head.method = Method::CONNECT;
    Some(protocol)
}

/// Turns an extended CONNECT for `protocol` into the request of an upgrade.
pub(super) fn from_connect(head: &mut RequestHead, protocol: HeaderValue) {
    head.method = Method::GET;
    head.headers.set(UPGRADE, protocol);
    head.headers.set(CONNECTION, HeaderValue::from_static("upgrade"));
}

/// Turns the answer to an extended CONNECT for `protocol` into the one to an upgrade. Whether it agrees.
pub(super) fn to_switching(head: &mut ResponseHead, protocol: HeaderValue) -> bool {
    if head.status != StatusCode::OK {
        return false;
    }
    head.status = StatusCode::SWITCHING_PROTOCOLS;
    head.headers.set(UPGRADE, protocol);
    head.headers.set(CONNECTION, HeaderValue::from_static("upgrade"));
    true
}

/// The sending half of a stream.
pub(super) trait Send {
    /// Ready when more may be sent.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>>;
    /// Sends bytes; `end` with the last.
    fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), StreamError>;
    /// The tunnel's other side has sent its end: this side gets it too. Whether the stream is over with that.
    fn finish(&mut self) -> Result<bool, StreamError>;
}

/// Joins a stream to a pipe, in a task of its own, and returns the pipe's other end. When either breaks, both go: a
/// stream whose other end was dropped before both directions were at their end is reset, and a reset of the stream is
/// read as one.
pub(super) fn tunnel(stream: impl Send + 'static, body: Body) -> Tunnel {
    let (near, far) = duplex(PIPE_BYTES);
    let state: Rc<PumpState> = Rc::default();
    let near = Pumped::new(near, state.clone());
    spawn_local(async move {
        let mut pump = Pump {
            far,
            state,
            stream,
            body,
            scratch: vec![0; PIECE].into_boxed_slice(),
            pending: Bytes::new(),
            sent: false,
            received: false,
        };
        poll_fn(|cx| pump.poll(cx)).await;
    });
    Tunnel { io: Io::Pumped(Box::new(near)), buffered: Bytes::new() }
}

struct Pump<S> {
    far: DuplexStream,
    state: Rc<PumpState>,
    stream: S,
    body: Body,
    scratch: Box<[u8]>,
    /// Read from the stream, not yet written to the pipe.
    pending: Bytes,
    /// The pipe's end has been passed to the stream.
    sent: bool,
    /// The stream's end has been passed to the pipe.
    received: bool,
}

impl<S: Send> Pump<S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Whoever has it waits in its shutdown until all is sent: if it is gone, nobody wants the rest. The stream is
        // dropped with the pump, which resets it unless it has ended both ways.
        if self.state.is_given_up(cx) {
            return Poll::Ready(());
        }
        if matches!(self.poll_send(cx), Poll::Ready(Err(_))) || matches!(self.poll_receive(cx), Poll::Ready(Err(_))) {
            // Whoever has ended its own direction has left first: to it the other one ends too, however it does.
            if !self.sent {
                self.state.set_broken();
            }
            return Poll::Ready(());
        }
        if self.sent && self.received { Poll::Ready(()) } else { Poll::Pending }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        while !self.sent {
            ready!(self.stream.poll_ready(cx))?;
            let mut buf = ReadBuf::new(&mut self.scratch);
            ready!(Pin::new(&mut self.far).poll_read(cx, &mut buf)).map_err(|_| StreamError::Local)?;
            if buf.filled().is_empty() {
                self.received |= self.stream.finish()?;
                self.sent = true;
                self.state.set_sent();
                break;
            }
            self.stream.send_data(Bytes::copy_from_slice(buf.filled()), false)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        while !self.received {
            while !self.pending.is_empty() {
                let n =
                    ready!(Pin::new(&mut self.far).poll_write(cx, &self.pending)).map_err(|_| StreamError::Local)?;
                self.pending.advance(n);
            }
            match ready!(self.body.poll_frame(cx)) {
                Some(Ok(Frame::Data(data))) => self.pending = data,
                Some(Ok(Frame::Trailers(_))) | None => {
                    let _ = ready!(Pin::new(&mut self.far).poll_shutdown(cx));
                    self.received = true;
                }
                Some(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}
