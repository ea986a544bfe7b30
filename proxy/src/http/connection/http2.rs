//! A connection of HTTP/2: requests side by side, each a task, and a drain that no client can put off.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::{HttpContext, Why, opening};
use crate::alarm::Alarm;
use crate::http::codec::{ResetCode, h2};
use crate::http::exchange;
use crate::io::Io;

enum NextStream {
    Incoming(h2::Incoming),
    /// The connection is to end with its last stream.
    End(Why),
    /// It has no stream any more, and its peer does not end it.
    Drained,
    /// A header block does not come to its end. Only with the connection can it end otherwise.
    HeadTimeout,
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

/// Serves `io`, of which `buffered` was read before, until it ends.
pub(super) async fn serve(cx: &Rc<HttpContext>, io: Io, buffered: Bytes) {
    let hcm = &cx.hcm;
    let mut alarm = cx.worker.take_alarm();
    let settings = hcm.as_ref().into();
    let handshake = h2::ServerConnection::handshake(io, buffered, &settings);
    let mut connection = match opening(cx, &mut alarm, cx.head_limit(), handshake).await {
        Some(Ok(connection)) => connection,
        Some(Err(_)) => {
            cx.count_protocol_error();
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
    // The header block that was open last, and since when.
    let mut open_block = (0, idle_since);
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
            let head = connection.open_block().zip(cx.head_limit()).map(|(number, limit)| {
                if open_block.0 != number {
                    open_block = (number, Instant::now());
                }
                open_block.1 + limit
            });
            if let Some(at) = head
                && end.is_none_or(|(end, _)| at <= end)
            {
                return alarm.poll(task, Some(at)).map(|()| NextStream::HeadTimeout);
            }
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
            NextStream::Drained => break abort(&mut connection, ResetCode::NoError, &mut alarm).await,
            NextStream::HeadTimeout => {
                if connection.is_within_a_head() {
                    exchange::log_head_timeout(cx, cx.head_timed_out());
                }
                break abort(&mut connection, ResetCode::Protocol, &mut alarm).await;
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
                cx.count_protocol_error();
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

/// Ends the connection with all its streams; the GOAWAY that says `code` is written within [`GOAWAY_LIMIT`] or not at
/// all.
async fn abort(connection: &mut h2::ServerConnection, code: ResetCode, alarm: &mut Alarm) -> h2::End {
    connection.abort(code);
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
    h2::End::Local
}
