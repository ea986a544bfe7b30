//! HTTP/2, downstream and upstream, over the `h2` crate.
//!
//! The crate does framing, HPACK, flow control and stream states. Around it stand: `wire`, through which the frames
//! pass; `link`, which judges them as Envoy does, floods included; `block`, which sees what the crate drops of a
//! client's heads; `head`, which converts heads and refuses what Envoy refuses; and here the halves of a stream, which
//! the server and the client share.

mod block;
mod client;
mod head;
mod keepalive;
mod link;
mod paced;
mod scan;
mod server;
mod upgrade;
mod wire;

#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use outrigger_engine::message::Headers;

pub use self::client::{ClientConnection, ClientSettings, ClientStream};
pub(in crate::http) use self::scan::is_flood;
pub use self::server::{End, Incoming, Responder, ServerConnection, ServerSettings};

use self::head::{BAD_MESSAGE, Limits, Refused};
use self::link::Link;
use super::{Frame, ResetCode, StreamError};

/// Bytes of a stream's body that wait in our memory for the peer's window.
const MAX_SEND_BUFFER: usize = 64 << 10;
/// Streams that the crate ended because of the peer, over a connection's life, before it ends the connection. It bounds
/// the RST_STREAM frames that a peer can make us queue without reading them.
const MAX_LOCAL_ERROR_RESETS: usize = 16 << 10;

/// A body that this codec reads.
#[derive(Debug)]
pub struct Body {
    stream: RecvStream,
    link: Rc<Link>,
    limits: Limits,
    state: BodyState,
    failed: bool,
    /// Of a response: keeps its stream while it is read.
    lease: Option<Rc<client::Lease>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyState {
    Data,
    Trailers,
    End,
}

impl Body {
    fn new(stream: RecvStream, link: Rc<Link>, limits: Limits, lease: Option<Rc<client::Lease>>) -> Self {
        Body { stream, link, limits, state: BodyState::Data, failed: false, lease }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        while self.state == BodyState::Data {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // The window opens as the pipeline takes the bytes; it takes no more than it can pass on.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    if !data.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::Data(data))));
                    }
                }
                Some(Err(error)) => return self.fail(&error),
                None => self.state = BodyState::Trailers,
            }
        }
        if self.state == BodyState::End {
            return Poll::Ready(None);
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(None) => {
                self.state = BodyState::End;
                Poll::Ready(None)
            }
            Ok(Some(map)) => {
                self.state = BodyState::End;
                if let Err(details) = self.link.check_trailers(self.stream.stream_id().as_u32()) {
                    return Poll::Ready(Some(Err(StreamError::Protocol(details))));
                }
                let trailers = head::trailers(map, self.limits).map_err(|refused| match refused {
                    Refused::Malformed(details) => StreamError::Protocol(details),
                    Refused::TooLarge(details) => StreamError::TooLarge(details),
                    Refused::FieldTooLarge => StreamError::TooLarge("http2.header_list_size_too_large"),
                });
                Poll::Ready(Some(trailers.map(Frame::Trailers)))
            }
            Err(error) => self.fail(&error),
        }
    }

    pub(super) fn is_end(&self) -> bool {
        self.state == BodyState::End || self.stream.is_end_stream()
    }

    fn fail(&mut self, error: &h2::Error) -> Poll<Option<Result<Frame, StreamError>>> {
        self.state = BodyState::End;
        self.failed = true;
        let error = stream_error(error, &self.link, self.stream.stream_id().as_u32());
        if let Some(lease) = &self.lease {
            lease.failed(error);
        }
        Poll::Ready(Some(Err(error)))
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(lease) = &self.lease
            && !self.failed
            && self.is_end()
        {
            lease.set_response_ended();
        }
    }
}

/// The sending half of a stream after its head.
#[derive(Debug)]
struct Sender {
    stream: SendStream<Bytes>,
    link: Rc<Link>,
}

impl Sender {
    fn id(&self) -> u32 {
        self.stream.stream_id().as_u32()
    }

    fn error(&self, error: &h2::Error) -> StreamError {
        stream_error(error, &self.link, self.id())
    }

    /// Ready when the peer's window and our buffer have room.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.stream.reserve_capacity(1);
        if self.stream.capacity() > 0 {
            return Poll::Ready(Ok(()));
        }
        self.poll_capacity(cx)
    }

    /// Ready when there is more room than there was.
    fn poll_capacity(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match ready!(self.stream.poll_capacity(cx)) {
            Some(Ok(_)) => Poll::Ready(Ok(())),
            Some(Err(error)) => Poll::Ready(Err(self.error(&error))),
            None => Poll::Ready(Err(match self.poll_reset(cx) {
                Poll::Ready(error) => error,
                Poll::Pending => StreamError::Local,
            })),
        }
    }

    fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), StreamError> {
        self.stream.send_data(data, end).map_err(|error| self.broken(&error))
    }

    fn send_trailers(&mut self, trailers: Headers) -> Result<(), StreamError> {
        self.stream.send_trailers(head::map(trailers)).map_err(|error| self.broken(&error))
    }

    /// The crate says of a stream that is gone only that the call was out of place.
    fn broken(&mut self, error: &h2::Error) -> StreamError {
        match self.poll_reset(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(error) => error,
            Poll::Pending => self.error(error),
        }
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        Poll::Ready(match ready!(self.stream.poll_reset(cx)) {
            Ok(reason) => reset(reason, &self.link, self.id()),
            Err(error) => self.error(&error),
        })
    }

    fn send_reset(&mut self, code: ResetCode) {
        if code == ResetCode::Protocol {
            self.link.expect_reset(self.id());
        }
        self.stream.send_reset(reason(code));
    }
}

fn reason(code: ResetCode) -> Reason {
    match code {
        ResetCode::NoError => Reason::NO_ERROR,
        ResetCode::Internal => Reason::INTERNAL_ERROR,
        ResetCode::Cancel => Reason::CANCEL,
        ResetCode::Refused => Reason::REFUSED_STREAM,
        ResetCode::Protocol => Reason::PROTOCOL_ERROR,
    }
}

/// What an error of the crate means for stream `id`.
fn stream_error(error: &h2::Error, link: &Link, id: u32) -> StreamError {
    if let Some(details) = link.violation() {
        StreamError::Protocol(details)
    } else if error.is_reset() && error.is_remote() {
        match error.reason() {
            Some(Reason::REFUSED_STREAM) => StreamError::Refused,
            code => StreamError::Reset(code.map_or(0, u32::from)),
        }
    } else if error.is_library() {
        // A body that does not fit its length: Envoy takes its own reset for the client's.
        StreamError::Protocol(if link.is_client() { BAD_MESSAGE } else { "http2.remote_reset" })
    } else if error.is_go_away() || error.is_io() {
        gone(link, id)
    } else {
        StreamError::Local
    }
}

/// What a code means that the crate gives for a stream, of RST_STREAM or of a GOAWAY that took the stream along.
fn reset(code: Reason, link: &Link, id: u32) -> StreamError {
    if let Some(details) = link.violation() {
        StreamError::Protocol(details)
    } else if code == Reason::REFUSED_STREAM || link.goaway().is_some_and(|last| id > last && link.is_client()) {
        StreamError::Refused
    } else {
        StreamError::Reset(code.into())
    }
}

/// The connection is gone: a stream that the peer cannot have seen may be sent again.
fn gone(link: &Link, id: u32) -> StreamError {
    let unseen = link.goaway().is_some_and(|last| id > last) || !link.was_sent(id);
    if link.is_client() && unseen { StreamError::Refused } else { StreamError::ConnectionClosed }
}
