//! A downstream connection that speaks HTTP: what its requests share, its time limits, and which codec it is. How its
//! requests come and how it ends is another matter with each of the two: one after the other ([`http1`]) or side by
//! side ([`http2`]).

mod http1;
mod http2;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use outrigger_engine::config::hcm::{CodecType, HttpConnectionManager};
use outrigger_engine::message::Protocol;
use outrigger_engine::reply::LocalReply;
use outrigger_engine::stream_info::{ConnectionInfo, ResponseFlags};
use tokio::time::Instant;

use crate::alarm::Alarm;
use crate::io::{Io, Meter};
use crate::listener::active::{HeldTable, WorkerChain};
use crate::listener::connection_log::ConnectionLog;
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
    /// Its line in the listener's own log, where there is one.
    log: Option<RefCell<Box<ConnectionLog>>>,
    started: Instant,
}

impl HttpContext {
    /// Counts what is against the protocol: the end of the connection.
    pub fn count_protocol_error(&self) {
        self.stats.downstream_cx_protocol_error.inc();
        if let Some(log) = &self.log {
            log.borrow_mut().info.flags.insert(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR);
        }
    }

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

    /// Counts a head that did not come to its end in time. The answer to it is Envoy's, whichever of its limits it was.
    fn head_timed_out(&self) -> LocalReply {
        let status = StatusCode::REQUEST_TIMEOUT;
        if self.hcm.request_headers_timeout == self.head_limit() {
            self.stats.downstream_rq_header_timeout.inc();
            return LocalReply::new(status, "request header timeout", "request_header_timeout");
        }
        self.stats.downstream_rq_idle_timeout.inc();
        LocalReply::new(status, "stream timeout", "stream_idle_timeout").flag(ResponseFlags::STREAM_IDLE_TIMEOUT)
    }

    /// How long the client may leave unread what is written.
    pub fn read_limit(&self) -> Option<Duration> {
        self.hcm.stream_idle_timeout.or(self.hcm.idle_timeout)
    }

    /// The client has not read for so long: nobody waits for it a second time.
    pub fn set_unread(&self) {
        self.unread.set(true);
    }

    /// When a connection that has nothing to do ends, and why. While the process drains that is at once; a new
    /// connection's first request may be on its way.
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

    /// What a request speaks, the connection's own log says.
    pub fn log_protocol(&self, protocol: Protocol) {
        if let Some(log) = &self.log {
            log.borrow_mut().info.protocol = Some(protocol);
        }
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

/// What tells HTTP/2 from HTTP/1: the begin of its connection preface (RFC 9113, section 3.4). The codec judges the
/// rest.
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

/// A connection as its filter chain gets it.
#[derive(Debug)]
pub struct Connection {
    /// Its facts.
    pub info: Arc<ConnectionInfo>,
    /// Its line in the listener's own log, where there is one.
    pub log: Option<Box<ConnectionLog>>,
    /// The connection itself.
    pub io: Io,
    /// What was read from it before.
    pub buffered: Bytes,
}

/// Serves a connection of the listener with this `stat_prefix` until it ends.
pub async fn serve(
    worker: Rc<Worker>,
    hcm: Arc<HttpConnectionManager>,
    chain: Rc<WorkerChain>,
    listener: &str,
    connection: Connection,
) {
    let Connection { info, log, io, mut buffered } = connection;
    let stats = worker.stats.http(&hcm.stat_prefix);
    let meter = match &log {
        Some(log) => Meter::Logged(stats.clone(), log.tally.clone()),
        None => Meter::Downstream(stats.clone()),
    };
    meter.read(buffered.len());
    let mut io = io.metered(meter);
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
        log: log.map(RefCell::new),
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
        http2::serve(&cx, io, buffered).await;
    } else {
        http1::serve(&cx, io, buffered).await;
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

/// Reads until the bytes are, or cannot be, the begin of the preface of HTTP/2. `None`: the connection ended or idled
/// first.
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

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
