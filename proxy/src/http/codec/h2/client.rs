//! The upstream's side: a connection that carries many requests at a time, and one request on it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::{self, ResponseFuture, SendRequest};
use http::HeaderValue;
use outrigger_engine::config::hcm::Http2Options;
use outrigger_engine::message::{Headers, RequestHead};

use super::head::{self, BAD_MESSAGE, Limits, Refused};
use super::keepalive::Keepalive;
use super::link::{Link, Policy};
use super::scan::Floods;
use super::upgrade;
use super::wire::Wire;
use super::{MAX_LOCAL_ERROR_RESETS, MAX_SEND_BUFFER, Sender, gone, stream_error};
use crate::http::codec::{self, CloseReason, Delivery, Owner, OwnerRef, Reply, ResetBy, ResetCode, StreamError};
use crate::io::Io;

/// What a cluster asks of HTTP/2.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// `http2_protocol_options`.
    pub http2: Http2Options,
    /// Bytes of a response head (60 KiB by default).
    pub max_headers_bytes: usize,
    /// Fields of a response head, pseudo-headers included (100 by default).
    pub max_headers_count: usize,
}

/// A handle on an upstream connection. Cheap to clone; when the last handle and the last stream are gone, the
/// connection says GOAWAY and closes.
#[derive(Clone, Debug)]
pub struct ClientConnection(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    requests: SendRequest<Bytes>,
    link: Rc<Link>,
    limits: Limits,
    max_streams: usize,
    counts: Rc<Counts>,
}

/// What the handles and the driver share.
#[derive(Debug)]
struct Counts {
    /// As long as the connection lives.
    owner: Weak<dyn Owner>,
    active: Cell<usize>,
    /// Streams on which something is still to come or to be sent.
    under_way: Cell<usize>,
    /// Streams that ended with the connection.
    lost: Cell<usize>,
    closed: Cell<bool>,
}

/// One stream's place on a connection, held by its halves. With the last of them the stream is reset, unless both
/// directions have ended.
#[derive(Debug)]
pub(super) struct Lease {
    counts: Rc<Counts>,
    sender: RefCell<Option<Sender>>,
    request_ended: Cell<bool>,
    response_ended: Cell<bool>,
    /// Under way no longer.
    over: Cell<bool>,
}

impl Lease {
    fn new(counts: &Rc<Counts>) -> Rc<Self> {
        counts.active.set(counts.active.get().saturating_add(1));
        Rc::new(Lease {
            counts: counts.clone(),
            sender: RefCell::new(None),
            request_ended: Cell::new(false),
            response_ended: Cell::new(false),
            over: Cell::new(true),
        })
    }

    fn begin(&self, sender: Sender) {
        self.sender.replace(Some(sender));
        self.over.set(false);
        self.counts.under_way.set(self.counts.under_way.get().saturating_add(1));
    }

    fn set_request_ended(&self) {
        self.request_ended.set(true);
        if self.response_ended.get() {
            self.end();
        }
    }

    /// The response has been read to its end.
    pub(super) fn set_response_ended(&self) {
        self.response_ended.set(true);
        if self.request_ended.get() {
            self.end();
        }
    }

    /// Whether this is the end, of which nobody has heard.
    fn end(&self) -> bool {
        let first = !self.over.replace(true);
        if first {
            self.counts.under_way.set(self.counts.under_way.get().saturating_sub(1));
        }
        first
    }

    /// The stream has ended before its time.
    pub(super) fn failed(&self, error: StreamError) {
        if !self.end() {
            return;
        }
        let by = match error {
            StreamError::Reset(_) => ResetBy::Peer,
            StreamError::Protocol(_) | StreamError::TooLarge(_) | StreamError::Local => ResetBy::Us,
            StreamError::ConnectionClosed => return self.counts.lost.set(self.counts.lost.get().saturating_add(1)),
            // What the peer has not seen does not count.
            StreamError::Refused => return,
        };
        if let Some(owner) = self.counts.owner.upgrade() {
            owner.reset(by);
        }
    }

    /// Nothing more is sent or wanted: what has been sent still goes, and a reset follows it when the halves are
    /// dropped.
    fn abandon(&self) {
        self.request_ended.set(true);
        self.sender.take();
        self.failed(StreamError::Local);
    }

    fn send<R>(&self, call: impl FnOnce(&mut Sender) -> Result<R, StreamError>) -> Result<R, StreamError> {
        match &mut *self.sender.borrow_mut() {
            Some(sender) if !self.request_ended.get() => call(sender),
            _ => Err(StreamError::Local),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(mut sender) = self.sender.take()
            && !(self.request_ended.get() && self.response_ended.get())
        {
            sender.send_reset(ResetCode::Internal);
            self.failed(StreamError::Local);
        }
        self.counts.active.set(self.counts.active.get().saturating_sub(1));
        if let Some(owner) = self.counts.owner.upgrade() {
            owner.room();
        }
    }
}

impl ClientConnection {
    /// Sends the preface and our SETTINGS, and spawns the connection's driver on this thread. `owner` learns once when
    /// the connection has ended. Requests may be sent before the peer's SETTINGS arrive.
    ///
    /// # Errors
    ///
    /// The transport broke; `owner` is not called then.
    pub async fn handshake(io: Io, settings: &ClientSettings, owner: OwnerRef) -> Result<Self, StreamError> {
        let http2 = &settings.http2;
        let limits = Limits { bytes: settings.max_headers_bytes, count: settings.max_headers_count };
        let link = Link::new(io, Bytes::new(), Policy::EndConnection, Floods::new(http2, limits.bytes), false);
        let (requests, mut connection) = client::Builder::new()
            .enable_push(false)
            .initial_window_size(http2.initial_stream_window_size)
            .initial_connection_window_size(http2.initial_connection_window_size)
            .header_table_size(http2.hpack_table_size)
            .max_header_list_size(limits.of_the_crate())
            .max_send_buffer_size(MAX_SEND_BUFFER)
            .max_local_error_reset_streams(Some(MAX_LOCAL_ERROR_RESETS))
            .handshake(Wire(link.clone()))
            .await
            .map_err(|_| StreamError::ConnectionClosed)?;
        let keepalive = match http2.keepalive {
            Some(times) => connection.ping_pong().map(|pings| Keepalive::new(pings, times)),
            None => None,
        };
        let counts = Rc::new(Counts {
            owner: Rc::downgrade(&owner),
            active: Cell::default(),
            under_way: Cell::default(),
            lost: Cell::default(),
            closed: Cell::default(),
        });
        let driver = Driver { connection, keepalive, link: link.clone() };
        let ended = counts.clone();
        tokio::task::spawn_local(async move {
            let reason = driver.run(&owner).await;
            ended.closed.set(true);
            // Streams whose answer has come take it now: they are not lost.
            tokio::task::yield_now().await;
            owner.closed(reason, ended.lost.get().saturating_add(ended.under_way.get()));
        });
        let max_streams = http2.max_concurrent_streams as usize;
        Ok(ClientConnection(Rc::new(Shared { requests, link, limits, max_streams, counts })))
    }

    /// A place for one more request.
    ///
    /// # Errors
    ///
    /// [`StreamError::Refused`] where there is none: all are taken, or the connection is draining or closed.
    pub fn open(&self) -> Result<ClientStream, StreamError> {
        if self.is_draining() || self.active() >= self.max_concurrent() {
            return Err(StreamError::Refused);
        }
        Ok(ClientStream {
            state: State::Idle,
            id: 0,
            upgrade: None,
            upgraded: None,
            shared: self.0.clone(),
            lease: Lease::new(&self.0.counts),
        })
    }

    /// Streams in use.
    pub fn active(&self) -> usize {
        self.0.counts.active.get()
    }

    /// Streams that may be in use at a time: the lower one of our limit and the peer's.
    pub fn max_concurrent(&self) -> usize {
        self.0.max_streams.min(self.0.requests.current_max_send_streams())
    }

    /// Whether no new stream may be opened: the peer has sent GOAWAY, or the connection is closed.
    pub fn is_draining(&self) -> bool {
        self.0.counts.closed.get() || self.0.link.goaway().is_some()
    }
}

struct Driver {
    connection: client::Connection<Wire, Bytes>,
    keepalive: Option<Keepalive>,
    link: Rc<Link>,
}

impl Driver {
    async fn run(mut self, owner: &OwnerRef) -> CloseReason {
        let result = poll_fn(|cx| {
            if let Some(keepalive) = &mut self.keepalive
                && keepalive.poll(cx).is_ready()
            {
                return Poll::Ready(None);
            }
            let ended = Pin::new(&mut self.connection).poll(cx).map(Some);
            if self.link.take_news() {
                if self.link.goaway().is_some() { owner.draining() } else { owner.room() }
            }
            if self.link.violation().is_some() { Poll::Ready(None) } else { ended }
        })
        .await;
        let local = matches!(&result, Some(Ok(()))) && self.link.goaway().is_none() && !self.link.saw_end();
        match result {
            _ if self.link.violation().is_some() => CloseReason::Protocol,
            Some(Err(error)) if error.is_library() => CloseReason::Protocol,
            None => CloseReason::Local,
            Some(_) if local => CloseReason::Local,
            Some(_) => CloseReason::Remote,
        }
    }
}

/// A request on an upstream connection.
#[derive(Debug)]
pub struct ClientStream {
    state: State,
    /// Its number, once the head is sent.
    id: u32,
    /// The protocol of an upgrade that was asked for.
    upgrade: Option<HeaderValue>,
    /// What comes after an upgrade.
    upgraded: Option<super::Body>,
    shared: Rc<Shared>,
    lease: Rc<Lease>,
}

#[derive(Debug)]
enum State {
    /// Nothing sent yet.
    Idle,
    /// The head is sent.
    Waiting(ResponseFuture),
    /// The final head has come, or an error.
    Replied,
}

impl ClientStream {
    pub(in crate::http::codec) fn send_head(&mut self, head: &RequestHead, end: bool) -> Result<(), StreamError> {
        let State::Idle = self.state else { return Err(StreamError::Local) };
        let mut head = head.clone();
        self.upgrade = upgrade::to_connect(&mut head);
        let end = end && self.upgrade.is_none();
        let Some(request) = head::to_request(head, self.upgrade.as_ref()) else {
            return Err(StreamError::Protocol("http2.invalid_request"));
        };
        // A clone each: a handle that has sent a request beyond the peer's limit sends no other.
        match self.shared.requests.clone().send_request(request, end) {
            Ok((response, stream)) => {
                self.lease.begin(Sender { stream, link: self.shared.link.clone() });
                if end {
                    self.lease.set_request_ended();
                }
                self.id = response.stream_id().as_u32();
                self.state = State::Waiting(response);
                Ok(())
            }
            // No stream was opened: nothing has been sent.
            Err(error) if error.is_io() || error.is_go_away() => Err(StreamError::Refused),
            Err(error) => Err(stream_error(&error, &self.shared.link, u32::MAX)),
        }
    }

    pub(in crate::http::codec) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match self.lease.send(|sender| Ok(sender.poll_ready(cx))) {
            Ok(ready) => ready,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    pub(in crate::http::codec) fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), StreamError> {
        self.lease.send(|sender| sender.send_data(data, end))?;
        if end {
            self.lease.set_request_ended();
        }
        Ok(())
    }

    pub(in crate::http::codec) fn send_trailers(&mut self, trailers: Headers) -> Result<(), StreamError> {
        self.lease.send(|sender| sender.send_trailers(trailers))?;
        self.lease.set_request_ended();
        Ok(())
    }

    pub(in crate::http::codec) fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, StreamError>> {
        let reply = ready!(self.poll_head(cx));
        if let Err(error) = reply {
            self.lease.failed(error);
        }
        Poll::Ready(reply)
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, StreamError>> {
        let State::Waiting(future) = &mut self.state else { return Poll::Ready(Err(StreamError::Local)) };
        let link = &self.shared.link;
        let limits = self.shared.limits;
        let id = future.stream_id().as_u32();
        let refused = |refused| match refused {
            Refused::Malformed(details) => StreamError::Protocol(details),
            Refused::TooLarge(details) => StreamError::TooLarge(details),
            Refused::FieldTooLarge => StreamError::TooLarge("http2.header_list_size_too_large"),
        };
        match ready!(future.poll_informational(cx)) {
            Some(Ok(informational)) if informational.status() == http::StatusCode::SWITCHING_PROTOCOLS => {
                return Poll::Ready(Err(StreamError::Protocol(BAD_MESSAGE)));
            }
            Some(Ok(informational)) => {
                let head = head::response(informational.into_parts().0, limits).map_err(refused);
                return Poll::Ready(head.map(Reply::Informational));
            }
            Some(Err(error)) => return Poll::Ready(Err(stream_error(&error, link, id))),
            None => {}
        }
        let result = ready!(Pin::new(future).poll(cx));
        self.state = State::Replied;
        Poll::Ready(match result {
            Ok(reply) => {
                let (parts, stream) = reply.into_parts();
                head::response(parts, limits).map_err(refused).map(|mut head| {
                    let switching =
                        self.upgrade.take().is_some_and(|protocol| upgrade::to_switching(&mut head, protocol));
                    let body = if switching {
                        let lease = Some(self.lease.clone());
                        self.upgraded = Some(super::Body::new(stream, link.clone(), limits, lease));
                        codec::Body::Empty
                    } else if stream.is_end_stream() {
                        self.lease.set_response_ended();
                        codec::Body::Empty
                    } else {
                        codec::Body::H2(super::Body::new(stream, link.clone(), limits, Some(self.lease.clone())))
                    };
                    Reply::Response(head, body)
                })
            }
            // A connection that ended without an error leaves its streams without one.
            Err(error) if error.is_library() && self.shared.counts.closed.get() => Err(gone(link, id)),
            Err(error) => Err(stream_error(&error, link, id)),
        })
    }

    /// See [`codec::ClientStream::delivery`].
    pub(in crate::http::codec) fn delivery(&self) -> Delivery {
        let link = &self.shared.link;
        if matches!(self.state, State::Idle) || !link.was_sent(self.id) {
            Delivery::Unsent
        } else if link.goaway().is_some_and(|last| self.id > last) {
            Delivery::Unread
        } else {
            Delivery::Sent
        }
    }

    /// The stream as a transport, after `101 Switching Protocols`.
    pub(in crate::http::codec) fn into_tunnel(mut self) -> Result<codec::Tunnel, StreamError> {
        let body = self.upgraded.take().ok_or(StreamError::Local)?;
        Ok(upgrade::tunnel(self, body))
    }
}

impl upgrade::Send for ClientStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        ClientStream::poll_ready(self, cx)
    }

    fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), StreamError> {
        ClientStream::send_data(self, data, end)
    }

    /// The client is gone, as in Envoy, and nobody reads what is still to come.
    fn finish(&mut self) -> Result<bool, StreamError> {
        self.send_data(Bytes::new(), true)?;
        self.lease.abandon();
        Ok(true)
    }
}
