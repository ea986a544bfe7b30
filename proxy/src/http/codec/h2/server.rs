//! The downstream's side: a connection that yields requests, and the way to answer each.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use h2::{Reason, server};
use http::StatusCode;
use outrigger_engine::config::hcm::{Http2Options, HttpConnectionManager};
use outrigger_engine::message::{Headers, ResponseHead};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::head::{self, Limits, Refused};
use super::keepalive::Keepalive;
use super::link::{CODEC_ERROR, Link, Policy};
use super::paced::Paced;
use super::scan::Floods;
use super::upgrade;
use super::wire::Wire;
use super::{MAX_LOCAL_ERROR_RESETS, MAX_SEND_BUFFER, Sender, reset, stream_error};
use crate::http::codec::{self, Exchange, ResetCode, StreamError};
use crate::io::Io;

/// Envoy's `overload.premature_reset_total_stream_count`.
const PREMATURE_RESET_STREAMS: u64 = 500;
/// What the crate keeps of streams that were reset before we took them: twice as many, so that it is the rule that ends
/// the connection.
const MAX_PENDING_RESETS: usize = 1000;
/// Envoy's `overload.premature_reset_min_stream_lifetime_seconds`.
const PREMATURE_RESET_AGE: Duration = Duration::from_secs(1);

/// The connection preface of a client (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// For the peer to close after it has sent something else.
const BAD_PREFACE_LINGER: Duration = Duration::from_secs(1);

/// What a listener's connection manager asks of HTTP/2.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// `http2_protocol_options`.
    pub http2: Http2Options,
    /// Bytes of a request head.
    pub max_headers_bytes: usize,
    /// Fields of a request head, pseudo-headers included.
    pub max_headers_count: usize,
    /// A malformed request ends its stream; otherwise the connection.
    pub stream_error_on_invalid_http_message: bool,
}

impl From<&HttpConnectionManager> for ServerSettings {
    fn from(hcm: &HttpConnectionManager) -> Self {
        ServerSettings {
            http2: hcm.http2.clone(),
            max_headers_bytes: hcm.max_request_headers_bytes,
            max_headers_count: hcm.max_headers_count,
            stream_error_on_invalid_http_message: hcm
                .http2
                .override_stream_error_on_invalid_http_message
                .unwrap_or(hcm.stream_error_on_invalid_http_message),
        }
    }
}

/// What a connection yields.
#[allow(clippy::large_enum_variant, reason = "nearly all of what comes is requests, and none is kept in this form")]
#[derive(Debug)]
pub enum Incoming {
    /// A request.
    Request(Exchange),
    /// A request that was refused and reset; for the log and the counters, with Envoy's response code detail. The
    /// connection goes on, unless [`Incoming::End`] follows.
    Malformed(&'static str),
    /// A request of which there is no whole head, because the connection ended so; for the log and the counters.
    /// [`Incoming::End`] follows.
    Unfinished(End),
    /// Nothing more comes.
    End(End),
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// The peer closed it, or the drain is complete.
    #[error("closed")]
    Closed,
    /// The transport broke.
    #[error("connection reset by the peer")]
    Broken,
    /// The peer broke the protocol; Envoy's response code detail.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// No answer to a keepalive PING.
    #[error("keepalive timeout")]
    KeepaliveTimeout,
    /// We ended it ([`ServerConnection::abort`]).
    #[error("closed locally")]
    Local,
}

/// A downstream connection. [`ServerConnection::poll_incoming`] drives it: nothing moves on its streams otherwise.
#[derive(Debug)]
pub struct ServerConnection {
    h2: Option<server::Connection<Wire, Bytes>>,
    link: Rc<Link>,
    streams: Rc<Streams>,
    limits: Limits,
    keepalive: Option<Keepalive>,
    end: Option<End>,
    aborted: bool,
}

/// Counts of a connection's streams.
#[derive(Debug, Default)]
struct Streams {
    active: Cell<usize>,
    finished: Cell<u64>,
    premature: Cell<u64>,
}

impl Streams {
    /// Envoy's rule against rapid resets: more than half of 500 streams, or of all where there were more. What was
    /// `refused` counts like a stream that the client has reset: it knows how many it may open.
    fn too_many_premature(&self, refused: u64) -> bool {
        let premature = self.premature.get().saturating_add(refused);
        let all = self.finished.get().saturating_add(refused);
        premature > 0 && premature.saturating_mul(2) >= all.max(PREMATURE_RESET_STREAMS)
    }
}

impl ServerConnection {
    /// Reads the preface and sends our SETTINGS. `buffered` was read from `io` before.
    ///
    /// # Errors
    ///
    /// The peer speaks something else, or is gone; the transport has been closed.
    pub async fn handshake(io: Io, buffered: Bytes, settings: &ServerSettings) -> Result<Self, End> {
        let mut io = io;
        let buffered = read_preface(&mut io, buffered).await?;
        let policy =
            if settings.stream_error_on_invalid_http_message { Policy::EndStream } else { Policy::EndConnection };
        let http2 = &settings.http2;
        let limits = Limits { bytes: settings.max_headers_bytes, count: settings.max_headers_count };
        let link = Link::new(io, buffered, policy, Floods::new(http2, limits.bytes), true);
        let mut builder = server::Builder::new();
        builder
            .max_concurrent_streams(http2.max_concurrent_streams)
            .initial_window_size(http2.initial_stream_window_size)
            .initial_connection_window_size(http2.initial_connection_window_size)
            .header_table_size(http2.hpack_table_size)
            // Ours is the limit; the crate's counts 32 bytes a field and answers otherwise than Envoy.
            .max_header_list_size(limits.of_the_crate())
            .max_send_buffer_size(MAX_SEND_BUFFER)
            .max_local_error_reset_streams(Some(MAX_LOCAL_ERROR_RESETS))
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS);
        if http2.allow_connect {
            builder.enable_connect_protocol();
        }
        match builder.handshake(Wire(link.clone())).await {
            Ok(mut h2) => {
                let keepalive = match http2.keepalive {
                    Some(times) => h2.ping_pong().map(|pings| Keepalive::new(pings, times)),
                    None => None,
                };
                let streams = Rc::default();
                Ok(ServerConnection { h2: Some(h2), link, streams, limits, keepalive, end: None, aborted: false })
            }
            Err(_) => Err(End::Broken),
        }
    }

    /// Drives the connection, and yields its requests. After [`Incoming::End`] it yields the same again.
    pub fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        if let Some(end) = self.end {
            return Poll::Ready(Incoming::End(end));
        }
        if self.streams.too_many_premature(self.link.refused()) {
            return self.end(End::Protocol("too_many_premature_resets"));
        }
        if let Some(keepalive) = &mut self.keepalive
            && keepalive.poll(cx).is_ready()
        {
            return self.end(End::KeepaliveTimeout);
        }
        loop {
            let Some(h2) = &mut self.h2 else { return self.end(End::Closed) };
            let accepted = h2.poll_accept(cx);
            if let Some(details) = self.link.violation() {
                return Poll::Ready(self.violated(details));
            }
            if let Some(details) = self.link.take_malformed() {
                // What `poll_accept` has found must not be lost: a request that is ready is ready again, a stream that
                // is dropped here would be reset.
                if accepted.is_pending() {
                    return Poll::Ready(Incoming::Malformed(details));
                }
                self.link.put_malformed(details);
            }
            if accepted.is_pending() && self.link.settle_doubt() {
                continue;
            }
            if accepted.is_pending() && self.streams.too_many_premature(self.link.refused()) {
                return self.end(End::Protocol("too_many_premature_resets"));
            }
            if accepted.is_pending()
                && self.link.settle_later(cx)
                && let Some(details) = self.link.violation()
            {
                return Poll::Ready(self.violated(details));
            }
            match ready!(accepted) {
                Some(Ok((request, respond))) => {
                    if let Some(incoming) = self.accept(request, respond) {
                        return Poll::Ready(incoming);
                    }
                }
                Some(Err(error)) => {
                    let end = match error.reason() {
                        _ if error.is_io() => End::Broken,
                        _ if self.aborted => End::Local,
                        _ if error.is_remote() => End::Closed,
                        _ => End::Protocol(CODEC_ERROR),
                    };
                    return self.end(end);
                }
                None => return self.end(if self.aborted { End::Local } else { End::Closed }),
            }
        }
    }

    fn accept(
        &mut self,
        request: http::Request<h2::RecvStream>,
        mut respond: server::SendResponse<Bytes>,
    ) -> Option<Incoming> {
        let id = respond.stream_id().as_u32();
        self.link.set_accepted(id);
        let (parts, stream) = request.into_parts();
        let parsed = head::request(parts, self.limits).and_then(|(mut head, connect_protocol)| {
            if let Some(path) = self.link.take_path(id) {
                head.path = head::path_with_fragment(path)?;
            }
            Ok((head, connect_protocol))
        });
        let (mut head, connect_protocol) = match parsed {
            Ok(parsed) => parsed,
            Err(Refused::TooLarge(details)) => {
                respond.send_reset(Reason::INTERNAL_ERROR);
                return Some(Incoming::Malformed(details));
            }
            Err(Refused::FieldTooLarge) => {
                self.go_away(Reason::COMPRESSION_ERROR);
                return None;
            }
            Err(Refused::Malformed(details)) => {
                if self.link.policy() == Policy::EndConnection {
                    self.link.set_violation(details);
                    return Some(self.violated(details));
                }
                self.link.expect_reset(id);
                respond.send_reset(Reason::PROTOCOL_ERROR);
                return Some(Incoming::Malformed(details));
            }
        };
        let mut upgraded = None;
        let body = if let Some(protocol) = connect_protocol {
            upgrade::from_connect(&mut head, protocol);
            upgraded = Some(super::Body::new(stream, self.link.clone(), self.limits, None));
            codec::Body::Empty
        } else if stream.is_end_stream() {
            codec::Body::Empty
        } else {
            codec::Body::H2(super::Body::new(stream, self.link.clone(), self.limits, None))
        };
        self.streams.active.set(self.streams.active.get().saturating_add(1));
        let responder = Responder {
            id,
            state: State::Waiting(respond),
            upgraded,
            link: self.link.clone(),
            streams: self.streams.clone(),
            started: Instant::now(),
            head_sent: false,
        };
        Some(Incoming::Request(Exchange { head, body, responder: codec::Responder::H2(responder) }))
    }

    /// A malformed request is reported first, so that it has its log line; a flood is none.
    fn violated(&mut self, details: &'static str) -> Incoming {
        let end = self.ended(End::Protocol(details));
        let unknown = head::is_malformed(details) && !self.link.is_of_stream();
        if unknown { Incoming::Malformed(details) } else { end }
    }

    fn end(&mut self, end: End) -> Poll<Incoming> {
        Poll::Ready(self.ended(end))
    }

    fn ended(&mut self, end: End) -> Incoming {
        self.end = Some(end);
        self.keepalive = None;
        // Streams that are still open learn of it.
        self.h2 = None;
        match end {
            End::Closed | End::Broken | End::Protocol(_) if self.link.is_within_a_head() => Incoming::Unfinished(end),
            _ => Incoming::End(end),
        }
    }

    /// Says GOAWAY in two steps: at once with the highest id, so that the peer opens no more streams, and one round
    /// trip later with the last id that we have seen. The connection ends with its last stream.
    pub fn start_drain(&mut self) {
        if let Some(h2) = &mut self.h2 {
            h2.graceful_shutdown();
        }
    }

    /// Ends the connection with GOAWAY and `code`, whatever is open on it.
    pub fn abort(&mut self, code: ResetCode) {
        self.go_away(super::reason(code));
    }

    fn go_away(&mut self, reason: Reason) {
        if let Some(h2) = &mut self.h2 {
            self.aborted = true;
            self.link.expect_goaway();
            h2.abrupt_shutdown(reason);
        }
    }

    /// The number of the header block that has begun and is not complete: another one has another number. Until it is,
    /// the client can say nothing else on any stream.
    pub fn open_block(&self) -> Option<u32> {
        self.link.open_block()
    }

    /// Whether the head of a request has begun, and is not complete.
    pub fn is_within_a_head(&self) -> bool {
        self.link.is_within_a_head()
    }

    /// Bytes that the transport has taken.
    pub fn written_bytes(&self) -> u64 {
        self.link.written_bytes()
    }

    /// Requests that are being answered.
    pub fn active_streams(&self) -> usize {
        self.streams.active.get()
    }

    /// After [`Incoming::End`]: closes our direction and waits for the peer to close, throwing away what it sends, so
    /// that no reset overtakes our last frames. The caller bounds it with `delayed_close_timeout`.
    pub fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.link.poll_close(cx)
    }
}

/// Reads as much as the preface is long. What is not one has the connection closed before we have said anything.
async fn read_preface(io: &mut Io, buffered: Bytes) -> Result<Bytes, End> {
    let mut read = BytesMut::from(buffered);
    while read.len() < PREFACE.len() && PREFACE.starts_with(&read) {
        match io.read_buf(&mut read).await {
            Ok(1..) => {}
            _ => return Err(End::Broken),
        }
    }
    if read.starts_with(PREFACE) {
        return Ok(read.freeze());
    }
    let _ = io.shutdown().await;
    // Bytes that wait to be read when the socket goes would make a reset of our FIN.
    let _ = tokio::time::timeout(BAD_PREFACE_LINGER, async {
        while let Ok(1..) = io.read_buf(&mut read).await {
            read.clear();
        }
    })
    .await;
    Err(End::Protocol("http2.bad_preface"))
}

/// The way to answer.
#[derive(Debug)]
pub struct Responder {
    id: u32,
    state: State,
    /// What comes after an upgrade, where one is asked for.
    upgraded: Option<super::Body>,
    link: Rc<Link>,
    streams: Rc<Streams>,
    started: Instant,
    head_sent: bool,
}

#[derive(Debug)]
enum State {
    /// No final head yet.
    Waiting(server::SendResponse<Bytes>),
    /// The head is sent.
    Sending(Paced),
    /// All is sent, or the stream is reset.
    Done,
}

impl Responder {
    pub(in crate::http::codec) fn send_informational(&mut self, head: ResponseHead) -> Result<(), StreamError> {
        match &mut self.state {
            State::Waiting(respond) => {
                let sent = respond.send_informational(head::to_response(head));
                sent.map_err(|error| stream_error(&error, &self.link, self.id))?;
                self.link.set_interim_given(self.id);
                Ok(())
            }
            _ => Err(StreamError::Local),
        }
    }

    pub(in crate::http::codec) fn send_head(&mut self, mut head: ResponseHead, end: bool) -> Result<(), StreamError> {
        if self.upgraded.is_some() && head.status == StatusCode::SWITCHING_PROTOCOLS {
            head.status = StatusCode::OK;
        } else {
            self.upgraded = None;
        }
        let State::Waiting(respond) = &mut self.state else { return Err(StreamError::Local) };
        match respond.send_response(head::to_response(head), end) {
            Ok(stream) => {
                self.head_sent = true;
                let sender = Sender { stream, link: self.link.clone() };
                self.state = if end { State::Done } else { State::Sending(Paced::new(sender)) };
                Ok(())
            }
            Err(error) => Err(match self.poll_reset(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(error) => error,
                Poll::Pending => stream_error(&error, &self.link, self.id),
            }),
        }
    }

    /// Ready when the client's window has taken what was sent before.
    pub(in crate::http::codec) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match &mut self.state {
            State::Sending(paced) => paced.poll_ready(cx),
            State::Waiting(_) => Poll::Ready(Ok(())),
            State::Done => Poll::Ready(Err(StreamError::Local)),
        }
    }

    pub(in crate::http::codec) fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), StreamError> {
        let State::Sending(paced) = &mut self.state else { return Err(StreamError::Local) };
        paced.send_data(data, end)?;
        self.settle();
        Ok(())
    }

    pub(in crate::http::codec) fn send_trailers(&mut self, trailers: Headers) -> Result<(), StreamError> {
        let State::Sending(paced) = &mut self.state else { return Err(StreamError::Local) };
        paced.send_trailers(trailers)?;
        self.settle();
        Ok(())
    }

    /// Bytes of the body that wait for the client's window.
    pub(in crate::http::codec) fn unsent(&self) -> usize {
        match &self.state {
            State::Sending(paced) => paced.unsent(),
            State::Waiting(_) | State::Done => 0,
        }
    }

    fn settle(&mut self) {
        if matches!(&self.state, State::Sending(paced) if paced.is_sent()) {
            self.state = State::Done;
        }
    }

    /// The stream as a transport, after `101 Switching Protocols`, which HTTP/2 calls 200.
    pub(in crate::http::codec) fn into_tunnel(mut self) -> Result<codec::Tunnel, StreamError> {
        let body = self.upgraded.take().ok_or(StreamError::Local)?;
        Ok(upgrade::tunnel(self, body))
    }

    /// Ready when the client's window has taken what was sent, and few 1xx heads wait to be written. The connection's
    /// own task writes: there is nothing else to wait for here.
    pub(in crate::http::codec) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match &mut self.state {
            State::Waiting(_) => return self.link.poll_interim_room(self.id, cx).map(Ok),
            State::Sending(paced) => ready!(paced.poll_ready(cx))?,
            State::Done => {}
        }
        self.settle();
        Poll::Ready(Ok(()))
    }

    pub(in crate::http::codec) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        match &mut self.state {
            State::Waiting(respond) => Poll::Ready(match ready!(respond.poll_reset(cx)) {
                Ok(code) => reset(code, &self.link, self.id),
                Err(error) => stream_error(&error, &self.link, self.id),
            }),
            State::Sending(paced) => paced.sender.poll_reset(cx),
            State::Done => Poll::Pending,
        }
    }

    pub(in crate::http::codec) fn reset(mut self, code: ResetCode) {
        self.send_reset(code);
    }

    fn send_reset(&mut self, code: ResetCode) {
        match &mut self.state {
            State::Waiting(respond) => {
                if code == ResetCode::Protocol {
                    self.link.expect_reset(self.id);
                }
                respond.send_reset(super::reason(code));
            }
            State::Sending(paced) => paced.sender.send_reset(code),
            State::Done => {}
        }
        self.state = State::Done;
    }
}

impl upgrade::Send for Responder {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        Responder::poll_ready(self, cx)
    }

    fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), StreamError> {
        Responder::send_data(self, data, end)
    }

    fn finish(&mut self) -> Result<bool, StreamError> {
        Responder::send_data(self, Bytes::new(), true).map(|()| false)
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.link.forget(self.id);
        let streams = &self.streams;
        streams.active.set(streams.active.get().saturating_sub(1));
        streams.finished.set(streams.finished.get().saturating_add(1));
        if !self.head_sent
            && self.started.elapsed() <= PREMATURE_RESET_AGE
            && self.poll_reset(&mut Context::from_waker(Waker::noop())).is_ready()
        {
            self.streams.premature.set(self.streams.premature.get().saturating_add(1));
        }
        self.send_reset(ResetCode::Internal);
    }
}
