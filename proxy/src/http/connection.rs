//! A downstream connection that speaks HTTP: which codec, its requests one after the other (HTTP/1) or side by side
//! (HTTP/2), its time limits, and its end.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::StatusCode;
use outrigger_engine::config::hcm::{CodecType, HttpConnectionManager};
use outrigger_engine::message::Protocol;
use outrigger_engine::reply::LocalReply;
use outrigger_engine::stream_info::{ConnectionInfo, ResponseFlags, StreamInfo};
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::codec::{ResetCode, h1, h2};
use super::exchange;
use crate::alarm::Alarm;
use crate::io::{Io, Meter};
use crate::listener::active::{HeldTable, WorkerChain};
use crate::telemetry::stats::{HttpStats, ListenerHttpStats};
use crate::worker::Worker;

/// What the requests of a connection share.
#[derive(Debug)]
pub struct HttpContext {
    /// The thread.
    pub worker: Rc<Worker>,
    /// The settings.
    pub hcm: Arc<HttpConnectionManager>,
    /// Whose connection it is, with its routes and its end.
    pub chain: Rc<WorkerChain>,
    /// The connection.
    pub info: Arc<ConnectionInfo>,
    /// Counters of the connection manager.
    pub stats: Arc<HttpStats>,
    /// Those of it on this listener.
    pub listener_stats: Arc<ListenerHttpStats>,
    /// Requests so far.
    requests: Cell<u32>,
    /// The client has left unread what is written for as long as it may.
    unread: Cell<bool>,
    started: Instant,
}

impl HttpContext {
    /// The route table for a request that begins now.
    pub fn routes(&self) -> Rc<HeldTable> {
        self.chain.routes()
    }

    /// Whether the connection shall end after the response at hand.
    pub fn is_closing(&self) -> bool {
        self.is_to_end() || self.is_too_old() || self.chain.drain.closes(|| self.worker.random())
    }

    /// Whether it has served all that it may, or the process is to end.
    fn is_to_end(&self) -> bool {
        let used_up = self.hcm.max_requests_per_connection.is_some_and(|max| self.requests.get() >= max);
        used_up || self.worker.drain().is_set()
    }

    /// Whether the connection has lived for as long as it may.
    fn is_too_old(&self) -> bool {
        self.hcm.max_connection_duration.is_some_and(|max| self.started.elapsed() >= max)
    }

    /// How long a request head, or what comes in its stead, may take from its first byte to its last. Where the
    /// configuration wants no limit, the idle timeout is left.
    fn head_limit(&self) -> Option<Duration> {
        let HttpConnectionManager { request_headers_timeout, stream_idle_timeout, idle_timeout, .. } = *self.hcm;
        [request_headers_timeout, stream_idle_timeout].into_iter().flatten().min().or(idle_timeout)
    }

    /// How long the client may leave unread what is written.
    pub fn read_limit(&self) -> Option<Duration> {
        self.hcm.stream_idle_timeout.or(self.hcm.idle_timeout)
    }

    /// The client has not read for so long: nobody waits for it a second time.
    pub fn set_unread(&self) {
        self.unread.set(true);
    }

    /// When a connection that has nothing to do ends, and why. While the process drains that is at once; a new connection's
    /// first request may be on its way.
    fn ends_at(&self, idle_since: Instant) -> Option<(Instant, Why)> {
        let idle = self.hcm.idle_timeout.map(|timeout| (idle_since + timeout, Why::Idle));
        let drain = self.worker.drain().is_set().then(|| match self.requests.get() {
            0 => (self.started + self.hcm.drain_timeout, Why::Drain),
            _ => (idle_since, Why::Drain),
        });
        [idle, self.oldest(), drain].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    fn oldest(&self) -> Option<(Instant, Why)> {
        self.hcm.max_connection_duration.map(|max| (self.started + max, Why::TooOld))
    }

    /// Counts an answer that was complete before its request was.
    pub fn answered_early(&self) {
        self.stats.downstream_rq_response_before_rq_complete.inc();
        self.stats.downstream_rq_rx_reset.inc();
    }

    /// Counts a 1xx head sent downstream.
    pub fn count_informational(&self, status: http::StatusCode) {
        self.stats.responses.inc(status.as_u16());
        self.listener_stats.responses.inc(status.as_u16());
    }

    fn begin_request(&self) {
        self.requests.set(self.requests.get().saturating_add(1));
        if self.hcm.max_requests_per_connection == Some(self.requests.get()) {
            self.stats.downstream_cx_max_requests_reached.inc();
        }
    }
}

/// What tells HTTP/2 from HTTP/1: the begin of its connection preface (RFC 9113, section 3.4). The codec judges the rest.
const PREFACE: &[u8] = b"PRI * HTTP/2";

/// What a connection counts as long as it is open; it settles its accounts also if it is cut off.
struct Active {
    cx: Rc<HttpContext>,
    http2: Cell<Option<bool>>,
}

impl Active {
    fn new(cx: &Rc<HttpContext>) -> Self {
        cx.stats.downstream_cx_total.inc();
        cx.stats.downstream_cx_active.inc();
        if cx.info.tls.is_some() {
            cx.stats.downstream_cx_ssl_total.inc();
            cx.stats.downstream_cx_ssl_active.inc();
        }
        Active { cx: cx.clone(), http2: Cell::new(None) }
    }

    fn speaks(&self, http2: bool) {
        self.http2.set(Some(http2));
        let stats = &self.cx.stats;
        if http2 {
            stats.downstream_cx_http2_total.inc();
            stats.downstream_cx_http2_active.inc();
        } else {
            stats.downstream_cx_http1_total.inc();
            stats.downstream_cx_http1_active.inc();
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let HttpContext { stats, info, started, .. } = &*self.cx;
        match self.http2.get() {
            Some(true) => stats.downstream_cx_http2_active.dec(),
            Some(false) => stats.downstream_cx_http1_active.dec(),
            None => {}
        }
        if info.tls.is_some() {
            stats.downstream_cx_ssl_active.dec();
        }
        stats.downstream_cx_active.dec();
        stats.downstream_cx_destroy.inc();
        stats.downstream_cx_length_ms.record(started.elapsed().as_micros() as u64);
    }
}

/// Serves `io` until it ends. `buffered` was read from it before.
pub async fn serve(
    worker: Rc<Worker>,
    hcm: Arc<HttpConnectionManager>,
    chain: Rc<WorkerChain>,
    listener: &str,
    info: Arc<ConnectionInfo>,
    io: Io,
    mut buffered: Bytes,
) {
    let stats = worker.stats.http(&hcm.stat_prefix);
    stats.downstream_cx_rx_bytes_total.add(buffered.len() as u64);
    let mut io = io.metered(Meter::Downstream(stats.clone()));
    let listener_stats = worker.stats.listener_http(listener, &hcm.stat_prefix);
    let cx = Rc::new(HttpContext {
        worker: worker.clone(),
        hcm,
        chain,
        info,
        stats,
        listener_stats,
        requests: Cell::new(0),
        unread: Cell::new(false),
        started: Instant::now(),
    });
    let active = Active::new(&cx);
    let http2 = match cx.hcm.codec {
        CodecType::Http1 => Some(false),
        CodecType::Http2 => Some(true),
        CodecType::Auto => match cx.info.alpn.as_deref() {
            Some(b"h2") => Some(true),
            Some(b"http/1.1" | b"http/1.0") => Some(false),
            _ => detect(&cx, &mut io, &mut buffered).await,
        },
    };
    let Some(http2) = http2 else { return };
    active.speaks(http2);
    if http2 {
        serve_h2(&cx, io, buffered).await;
    } else {
        serve_h1(&cx, io, buffered).await;
    }
}

/// Counts a connection whose TLS handshake failed: it was one all the same.
pub fn count_failed(worker: &Worker, hcm: &HttpConnectionManager) {
    let stats = worker.stats.http(&hcm.stat_prefix);
    stats.downstream_cx_total.inc();
    stats.downstream_cx_destroy.inc();
}

/// Why a connection that has nothing to do is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Drain,
    Idle,
    TooOld,
}

impl Why {
    fn count(self, stats: &HttpStats) {
        match self {
            Why::Drain => stats.downstream_cx_drain_close.inc(),
            Why::Idle => stats.downstream_cx_idle_timeout.inc(),
            Why::TooOld => stats.downstream_cx_max_duration_reached.inc(),
        }
    }
}

/// Waits for something that a connection says before its first request, for `limit` at most.
async fn opening<T>(
    cx: &HttpContext,
    alarm: &mut Alarm,
    limit: Option<Duration>,
    waited: impl Future<Output = T>,
) -> Option<T> {
    let mut waited = pin!(waited);
    let since = Instant::now();
    let mut registration = None;
    poll_fn(|task| {
        if let Poll::Ready(value) = waited.as_mut().poll(task) {
            return Poll::Ready(Some(value));
        }
        registration.get_or_insert_with(|| cx.worker.drain().register(task.waker()));
        let limit = limit.map(|limit| (since + limit, Why::Idle));
        let end = [limit, cx.ends_at(since)].into_iter().flatten().min_by_key(|(at, _)| *at);
        ready!(alarm.poll(task, end.map(|(at, _)| at)));
        if let Some((_, why)) = end {
            why.count(&cx.stats);
            cx.stats.downstream_cx_destroy_local.inc();
        }
        Poll::Ready(None)
    })
    .await
}

/// Reads until the bytes are, or cannot be, the begin of the preface of HTTP/2. `None`: the connection ended or idled first.
async fn detect(cx: &HttpContext, io: &mut Io, buffered: &mut Bytes) -> Option<bool> {
    use tokio::io::AsyncReadExt;
    let mut read = bytes::BytesMut::from(&buffered[..]);
    let mut alarm = cx.worker.take_alarm();
    let verdict = loop {
        if read.len() >= PREFACE.len() {
            break Some(read.starts_with(PREFACE));
        }
        if !read.is_empty() && !PREFACE.starts_with(&read) {
            break Some(false);
        }
        // Who has sent a part of something is not idle.
        let limit = if read.is_empty() { None } else { cx.head_limit() };
        match opening(cx, &mut alarm, limit, io.read_buf(&mut read)).await {
            None | Some(Err(_)) => break None,
            Some(Ok(0)) if read.is_empty() => break None,
            // What came is not HTTP/2; HTTP/1 will say what it is.
            Some(Ok(0)) => break Some(false),
            Some(Ok(_)) => {}
        }
    };
    cx.worker.put_alarm(alarm);
    *buffered = read.freeze();
    verdict
}

enum Next {
    Incoming(h1::Incoming),
    HeadTimeout,
    End(Why),
}

async fn serve_h1(cx: &Rc<HttpContext>, io: Io, buffered: Bytes) {
    let hcm = &cx.hcm;
    let settings = h1::ServerSettings {
        max_head_bytes: hcm.max_request_headers_bytes,
        max_headers: hcm.max_headers_count,
        options: hcm.http1.clone(),
    };
    let mut connection = h1::ServerConnection::new(io, buffered, Rc::new(settings));
    let mut alarm = cx.worker.take_alarm();
    let mut registration = None;
    loop {
        let idle_since = Instant::now();
        let mut head_since = None;
        let next = poll_fn(|task| {
            if let Poll::Ready(incoming) = connection.poll_incoming(task) {
                return Poll::Ready(Next::Incoming(incoming));
            }
            if connection.has_partial_head() {
                let since = *head_since.get_or_insert_with(Instant::now);
                let deadline = cx.head_limit().map(|limit| since + limit);
                return alarm.poll(task, deadline).map(|()| Next::HeadTimeout);
            }
            registration.get_or_insert_with(|| cx.worker.drain().register(task.waker()));
            let Some((at, why)) = cx.ends_at(idle_since) else { return Poll::Pending };
            alarm.poll(task, Some(at)).map(|()| Next::End(why))
        })
        .await;
        match next {
            Next::Incoming(h1::Incoming::Request(exchange)) => {
                cx.begin_request();
                exchange::handle(cx, exchange, &mut alarm).await;
            }
            Next::Incoming(h1::Incoming::Malformed { status, details, mut responder }) => {
                cx.stats.downstream_cx_protocol_error.inc();
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
                let body =
                    if details == "missing_host_header" { "" } else { status.canonical_reason().unwrap_or_default() };
                let reply = LocalReply::new(status, body, details).flag(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR);
                let info = StreamInfo::new(SystemTime::now(), cx.info.clone(), Some(Protocol::Http11));
                responder.close_after();
                exchange::refuse(cx, responder, info, reply, &mut alarm).await;
            }
            Next::Incoming(h1::Incoming::End(ended)) => {
                if ended == h1::Ended::Partial {
                    cx.stats.downstream_cx_protocol_error.inc();
                }
                cx.stats.downstream_cx_destroy_remote.inc();
                break;
            }
            Next::HeadTimeout => {
                let mut responder = connection.abort_head();
                let reply = head_timed_out(cx);
                let info = StreamInfo::new(SystemTime::now(), cx.info.clone(), Some(Protocol::Http11));
                responder.close_after();
                exchange::refuse(cx, responder, info, reply, &mut alarm).await;
                close_h1(cx, &mut connection, &mut alarm).await;
                break;
            }
            Next::End(why) => {
                why.count(&cx.stats);
                close_h1(cx, &mut connection, &mut alarm).await;
                break;
            }
        }
        let mut unread_at = None;
        let finish = poll_fn(|task| {
            if let Poll::Ready(finish) = connection.poll_finish(task) {
                return Poll::Ready(finish);
            }
            let deadline = *unread_at.get_or_insert_with(|| cx.read_limit().map(|limit| Instant::now() + limit));
            ready!(alarm.poll(task, deadline));
            cx.set_unread();
            Poll::Ready(h1::Finish::Close)
        });
        match finish.await {
            h1::Finish::KeepAlive => {}
            h1::Finish::Close => {
                close_h1(cx, &mut connection, &mut alarm).await;
                break;
            }
            h1::Finish::Upgraded => {
                cx.stats.downstream_cx_destroy_remote.inc();
                break;
            }
        }
    }
    cx.worker.put_alarm(alarm);
}

/// The answer to a head that did not come to its end: Envoy's, whichever of its limits it was.
fn head_timed_out(cx: &HttpContext) -> LocalReply {
    let status = StatusCode::REQUEST_TIMEOUT;
    if cx.hcm.request_headers_timeout == cx.head_limit() {
        cx.stats.downstream_rq_header_timeout.inc();
        return LocalReply::new(status, "request header timeout", "request_header_timeout");
    }
    cx.stats.downstream_rq_idle_timeout.inc();
    LocalReply::new(status, "stream timeout", "stream_idle_timeout").flag(ResponseFlags::STREAM_IDLE_TIMEOUT)
}

/// Sends what is left and FIN, and waits for the peer's, so that it reads our last answer before it sees a reset. Without
/// `delayed_close_timeout` nobody waits for the peer's. Envoy waits for ever then until the rest is sent; here the peer has
/// `stream_idle_timeout` for that, unless it has had it.
async fn close_h1(cx: &HttpContext, connection: &mut h1::ServerConnection, alarm: &mut Alarm) {
    cx.stats.downstream_cx_destroy_local.inc();
    let linger = cx.hcm.delayed_close_timeout;
    let limit = if cx.unread.get() { Some(Duration::ZERO) } else { cx.read_limit() };
    let deadline = linger.or(limit).map(|limit| Instant::now() + limit);
    let mut shut = false;
    poll_fn(|task| {
        shut = shut || connection.poll_shutdown(task).is_ready();
        if shut && (linger.is_none() || connection.poll_linger(task).is_ready()) {
            return Poll::Ready(());
        }
        ready!(alarm.poll(task, deadline));
        if linger.is_some() {
            cx.stats.downstream_cx_delayed_close_timeout.inc();
        }
        Poll::Ready(())
    })
    .await;
}

enum NextStream {
    Incoming(h2::Incoming),
    /// The connection is to end with its last stream.
    End(Why),
    /// It has no stream any more, and its peer does not end it.
    Drained,
}

/// How an HTTP/2 connection drains. The codec ends it with its last stream, as soon as the peer has acknowledged that
/// there will be no more; where that does not come, or what was sent is not read, it ends after `drain_timeout` without
/// progress, and after `stream_idle_timeout` at the latest.
struct Draining {
    since: Instant,
    /// There was no stream from then on.
    empty_since: Instant,
    /// Bytes were written last, and how many then.
    progress: (Instant, u64),
}

impl Draining {
    fn new() -> Self {
        let now = Instant::now();
        Draining { since: now, empty_since: now, progress: (now, 0) }
    }

    /// When it ends, as things stand.
    fn ends_at(&mut self, cx: &HttpContext, connection: &h2::ServerConnection) -> Instant {
        let now = Instant::now();
        let written = connection.written_bytes();
        if connection.active_streams() > 0 {
            (self.empty_since, self.progress) = (now, (now, written));
            return now + LOOK.max(cx.hcm.drain_timeout);
        }
        if written != self.progress.1 {
            self.progress = (now, written);
        }
        let quiet = self.progress.0 + cx.hcm.drain_timeout;
        cx.read_limit().map_or(quiet, |limit| quiet.min(self.empty_since + limit))
    }

    /// Whether new streams are refused: the peer has had the time to learn that there shall be none.
    fn refuses(&self, cx: &HttpContext) -> bool {
        self.since.elapsed() >= cx.hcm.drain_timeout
    }
}

/// Between two looks at a connection that drains and has streams, at least.
const LOOK: Duration = Duration::from_secs(1);

/// For the last GOAWAY to be written.
const GOAWAY_LIMIT: Duration = Duration::from_secs(1);

async fn serve_h2(cx: &Rc<HttpContext>, io: Io, buffered: Bytes) {
    let hcm = &cx.hcm;
    let mut alarm = cx.worker.take_alarm();
    let settings = hcm.as_ref().into();
    let handshake = h2::ServerConnection::handshake(io, buffered, &settings);
    let mut connection = match opening(cx, &mut alarm, cx.head_limit(), handshake).await {
        Some(Ok(connection)) => connection,
        Some(Err(_)) => {
            cx.stats.downstream_cx_protocol_error.inc();
            cx.stats.downstream_cx_destroy_remote.inc();
            return cx.worker.put_alarm(alarm);
        }
        None => return cx.worker.put_alarm(alarm),
    };
    let worker_drain = cx.worker.drain();
    let mut registrations = None;
    // Its place in a gradual drain.
    let lot = cx.worker.random();
    let mut idle_since = Instant::now();
    let mut draining: Option<Draining> = None;
    let ended = loop {
        let next = poll_fn(|task| {
            if let Poll::Ready(incoming) = connection.poll_incoming(task) {
                return Poll::Ready(NextStream::Incoming(incoming));
            }
            registrations
                .get_or_insert_with(|| (worker_drain.register(task.waker()), cx.chain.drain.register(task.waker())));
            if let Some(draining) = &mut draining {
                loop {
                    let at = draining.ends_at(cx, &connection);
                    ready!(alarm.poll(task, Some(at)));
                    // It rang for what was so then.
                    if draining.ends_at(cx, &connection) <= Instant::now() {
                        return Poll::Ready(NextStream::Drained);
                    }
                }
            }
            if cx.is_too_old() {
                return Poll::Ready(NextStream::End(Why::TooOld));
            }
            if cx.is_to_end() {
                return Poll::Ready(NextStream::End(Why::Drain));
            }
            let idle = match hcm.idle_timeout {
                Some(timeout) if connection.active_streams() == 0 => Some((idle_since + timeout, Why::Idle)),
                _ => {
                    idle_since = Instant::now();
                    None
                }
            };
            let drains = cx.chain.drain.moment(lot).map(|at| (at, Why::Drain));
            let end = [idle, cx.oldest(), drains].into_iter().flatten().min_by_key(|(at, _)| *at);
            let Some((at, why)) = end else { return Poll::Pending };
            alarm.poll(task, Some(at)).map(|()| NextStream::End(why))
        })
        .await;
        match next {
            NextStream::Incoming(h2::Incoming::Request(exchange)) => {
                if draining.as_ref().is_some_and(|draining| draining.refuses(cx)) {
                    exchange.responder.reset(ResetCode::Refused);
                    continue;
                }
                idle_since = Instant::now();
                cx.begin_request();
                let cx = cx.clone();
                spawn_local(async move {
                    let mut alarm = cx.worker.take_alarm();
                    exchange::handle(&cx, exchange, &mut alarm).await;
                    cx.worker.put_alarm(alarm);
                });
            }
            NextStream::Incoming(h2::Incoming::Malformed(details)) => exchange::log_malformed(cx, details),
            NextStream::Incoming(h2::Incoming::Unfinished(ended)) => exchange::log_unfinished(cx, ended),
            NextStream::Incoming(h2::Incoming::End(ended)) => break ended,
            NextStream::End(why) => {
                draining = Some(Draining::new());
                why.count(&cx.stats);
                connection.start_drain();
            }
            NextStream::Drained => {
                connection.abort(0);
                let deadline = Some(Instant::now() + GOAWAY_LIMIT);
                poll_fn(|task| {
                    while let Poll::Ready(incoming) = connection.poll_incoming(task) {
                        if matches!(incoming, h2::Incoming::End(_)) {
                            return Poll::Ready(());
                        }
                    }
                    alarm.poll(task, deadline)
                })
                .await;
                break h2::End::Local;
            }
        }
    };
    if connection.active_streams() > 0 {
        cx.stats.downstream_cx_destroy_active_rq.inc();
        match ended {
            h2::End::Closed | h2::End::Broken => cx.stats.downstream_cx_destroy_remote_active_rq.inc(),
            _ => cx.stats.downstream_cx_destroy_local_active_rq.inc(),
        }
    }
    match ended {
        h2::End::Closed if draining.is_none() => cx.stats.downstream_cx_destroy_remote.inc(),
        h2::End::Broken => cx.stats.downstream_cx_destroy_remote.inc(),
        h2::End::Closed | h2::End::Local | h2::End::KeepaliveTimeout => cx.stats.downstream_cx_destroy_local.inc(),
        h2::End::Protocol(details) => {
            if details == "too_many_premature_resets" {
                cx.stats.downstream_rq_too_many_premature_resets.inc();
            }
            if !h2::is_flood(details) {
                cx.stats.downstream_cx_protocol_error.inc();
            }
            cx.stats.downstream_cx_destroy_local.inc();
        }
    }
    if let Some(linger) = hcm.delayed_close_timeout {
        let deadline = Some(Instant::now() + linger);
        poll_fn(|task| {
            if connection.poll_close(task).is_ready() {
                return Poll::Ready(());
            }
            alarm.poll(task, deadline).map(|()| cx.stats.downstream_cx_delayed_close_timeout.inc())
        })
        .await;
    }
    cx.worker.put_alarm(alarm);
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
