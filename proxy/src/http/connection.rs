//! A downstream connection that speaks HTTP: which codec, its requests one after the other (HTTP/1) or side by side
//! (HTTP/2), its time limits, and its end.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::SystemTime;

use bytes::Bytes;
use http::StatusCode;
use outrigger_engine::config::hcm::{CodecType, HttpConnectionManager};
use outrigger_engine::message::Protocol;
use outrigger_engine::reply::LocalReply;
use outrigger_engine::stream_info::{ConnectionInfo, ResponseFlags, StreamInfo};
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::codec::{h1, h2};
use super::exchange;
use crate::io::Io;
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
    mut io: Io,
    mut buffered: Bytes,
) {
    let stats = worker.stats.http(&hcm.stat_prefix);
    let listener_stats = worker.stats.listener_http(listener, &hcm.stat_prefix);
    let cx = Rc::new(HttpContext {
        worker: worker.clone(),
        hcm,
        chain,
        info,
        stats,
        listener_stats,
        requests: Cell::new(0),
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

/// Reads until the bytes are, or cannot be, the begin of the preface of HTTP/2. `None`: the connection ended or idled first.
async fn detect(cx: &HttpContext, io: &mut Io, buffered: &mut Bytes) -> Option<bool> {
    use tokio::io::AsyncReadExt;
    let mut read = bytes::BytesMut::from(&buffered[..]);
    let mut alarm = cx.worker.take_alarm();
    let mut registration = None;
    let deadline = cx.hcm.idle_timeout.map(|timeout| Instant::now() + timeout);
    let verdict = loop {
        if read.len() >= PREFACE.len() {
            break Some(read.starts_with(PREFACE));
        }
        if !read.is_empty() && !PREFACE.starts_with(&read) {
            break Some(false);
        }
        let mut reading = std::pin::pin!(io.read_buf(&mut read));
        let result = poll_fn(|task| {
            use std::future::Future;
            if let Poll::Ready(result) = reading.as_mut().poll(task) {
                return Poll::Ready(result.ok());
            }
            if cx.worker.drain().is_set() {
                return Poll::Ready(None);
            }
            registration.get_or_insert_with(|| cx.worker.drain().register(task.waker()));
            alarm.poll(task, deadline).map(|()| {
                cx.stats.downstream_cx_idle_timeout.inc();
                None
            })
        })
        .await;
        match result {
            None => break None,
            Some(0) if read.is_empty() => break None,
            // What came is not HTTP/2; HTTP/1 will say what it is.
            Some(0) => break Some(false),
            Some(_) => {}
        }
    };
    cx.worker.put_alarm(alarm);
    *buffered = read.freeze();
    verdict
}

enum Next {
    Incoming(h1::Incoming),
    Drain,
    Idle,
    HeadTimeout,
    TooOld,
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
    let oldest = hcm.max_connection_duration.map(|max| cx.started + max);
    loop {
        let idle_since = Instant::now();
        let mut head_since = None;
        let next = poll_fn(|task| {
            if let Poll::Ready(incoming) = connection.poll_incoming(task) {
                return Poll::Ready(Next::Incoming(incoming));
            }
            if connection.has_partial_head() {
                let since = *head_since.get_or_insert_with(Instant::now);
                let deadline = hcm.request_headers_timeout.map(|timeout| since + timeout);
                return alarm.poll(task, deadline).map(|()| Next::HeadTimeout);
            }
            if cx.worker.drain().is_set() {
                return Poll::Ready(Next::Drain);
            }
            registration.get_or_insert_with(|| cx.worker.drain().register(task.waker()));
            let idle = hcm.idle_timeout.map(|timeout| idle_since + timeout);
            let (deadline, next) = match (idle, oldest) {
                (Some(idle), Some(oldest)) if oldest < idle => (Some(oldest), Next::TooOld),
                (None, Some(oldest)) => (Some(oldest), Next::TooOld),
                (idle, _) => (idle, Next::Idle),
            };
            match alarm.poll(task, deadline) {
                Poll::Ready(()) => Poll::Ready(next),
                Poll::Pending => Poll::Pending,
            }
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
                exchange::refuse(cx, responder, info, reply).await;
            }
            Next::Incoming(h1::Incoming::End(ended)) => {
                if ended == h1::Ended::Partial {
                    cx.stats.downstream_cx_protocol_error.inc();
                }
                cx.stats.downstream_cx_destroy_remote.inc();
                break;
            }
            Next::HeadTimeout => {
                cx.stats.downstream_rq_header_timeout.inc();
                let mut responder = connection.abort_head();
                let reply =
                    LocalReply::new(StatusCode::REQUEST_TIMEOUT, "request header timeout", "request_header_timeout");
                let info = StreamInfo::new(SystemTime::now(), cx.info.clone(), Some(Protocol::Http11));
                responder.close_after();
                exchange::refuse(cx, responder, info, reply).await;
                close_h1(cx, &mut connection, &mut alarm).await;
                break;
            }
            Next::Drain => {
                cx.stats.downstream_cx_drain_close.inc();
                close_h1(cx, &mut connection, &mut alarm).await;
                break;
            }
            Next::Idle => {
                cx.stats.downstream_cx_idle_timeout.inc();
                close_h1(cx, &mut connection, &mut alarm).await;
                break;
            }
            Next::TooOld => {
                cx.stats.downstream_cx_max_duration_reached.inc();
                close_h1(cx, &mut connection, &mut alarm).await;
                break;
            }
        }
        match poll_fn(|task| connection.poll_finish(task)).await {
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

/// Sends FIN and waits for the peer's, so that it reads our last answer before it sees a reset.
async fn close_h1(cx: &HttpContext, connection: &mut h1::ServerConnection, alarm: &mut crate::alarm::Alarm) {
    cx.stats.downstream_cx_destroy_local.inc();
    let deadline = Some(Instant::now() + cx.hcm.delayed_close_timeout.unwrap_or_default());
    let mut shut = false;
    poll_fn(|task| {
        shut = shut || connection.poll_shutdown(task).is_ready();
        if shut && connection.poll_linger(task).is_ready() {
            return Poll::Ready(());
        }
        alarm.poll(task, deadline).map(|()| cx.stats.downstream_cx_delayed_close_timeout.inc())
    })
    .await;
}

enum NextStream {
    Incoming(h2::Incoming),
    Drain,
    Idle,
    TooOld,
}

async fn serve_h2(cx: &Rc<HttpContext>, io: Io, buffered: Bytes) {
    let hcm = &cx.hcm;
    let Ok(mut connection) = h2::ServerConnection::handshake(io, buffered, &hcm.as_ref().into()).await else {
        cx.stats.downstream_cx_protocol_error.inc();
        cx.stats.downstream_cx_destroy_remote.inc();
        return;
    };
    let mut alarm = cx.worker.take_alarm();
    let worker_drain = cx.worker.drain();
    let mut registrations = None;
    // Its place in a gradual drain.
    let lot = cx.worker.random();
    let mut idle_since = Instant::now();
    let mut draining = false;
    let oldest = hcm.max_connection_duration.map(|max| cx.started + max);
    let ended = loop {
        let next = poll_fn(|task| {
            if let Poll::Ready(incoming) = connection.poll_incoming(task) {
                return Poll::Ready(NextStream::Incoming(incoming));
            }
            registrations
                .get_or_insert_with(|| (worker_drain.register(task.waker()), cx.chain.drain.register(task.waker())));
            if !draining && cx.is_too_old() {
                return Poll::Ready(NextStream::TooOld);
            }
            let drains = cx.chain.drain.moment(lot);
            if !draining && (cx.is_to_end() || drains.is_some_and(|at| at <= Instant::now())) {
                return Poll::Ready(NextStream::Drain);
            }
            if draining {
                return Poll::Pending;
            }
            let idle = match hcm.idle_timeout {
                Some(timeout) if connection.active_streams() == 0 => Some(idle_since + timeout),
                _ => {
                    idle_since = Instant::now();
                    None
                }
            };
            let deadline = [idle, oldest, drains].into_iter().flatten().min();
            alarm.poll(task, deadline).map(|()| match deadline {
                _ if deadline == drains => NextStream::Drain,
                _ if deadline == idle => NextStream::Idle,
                _ => NextStream::TooOld,
            })
        })
        .await;
        match next {
            NextStream::Incoming(h2::Incoming::Request(exchange)) => {
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
            NextStream::Incoming(h2::Incoming::End(ended)) => break ended,
            NextStream::Drain => {
                draining = true;
                cx.stats.downstream_cx_drain_close.inc();
                connection.start_drain();
            }
            NextStream::TooOld => {
                draining = true;
                cx.stats.downstream_cx_max_duration_reached.inc();
                connection.start_drain();
            }
            NextStream::Idle => {
                draining = true;
                cx.stats.downstream_cx_idle_timeout.inc();
                connection.start_drain();
            }
        }
    };
    match ended {
        h2::End::Closed if !draining => cx.stats.downstream_cx_destroy_remote.inc(),
        h2::End::Broken => cx.stats.downstream_cx_destroy_remote.inc(),
        h2::End::Closed | h2::End::Local | h2::End::KeepaliveTimeout => cx.stats.downstream_cx_destroy_local.inc(),
        h2::End::Protocol(details) => {
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
