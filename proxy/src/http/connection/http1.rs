//! A connection of HTTP/1: one request after the other, and an end that no reset overtakes.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::StatusCode;
use outrigger_engine::message::Protocol;
use outrigger_engine::reply::LocalReply;
use outrigger_engine::stream_info::{ResponseFlags, StreamInfo};
use tokio::time::Instant;

use super::{HttpContext, Why};
use crate::alarm::Alarm;
use crate::http::codec::h1;
use crate::http::exchange;
use crate::io::Io;

enum Next {
    Incoming(h1::Incoming),
    HeadTimeout,
    End(Why),
}

/// Serves `io`, of which `buffered` was read before, until it ends.
pub(super) async fn serve(cx: &Rc<HttpContext>, io: Io, buffered: Bytes) {
    let hcm = &cx.hcm;
    let settings = h1::ServerSettings {
        max_head_bytes: hcm.max_request_headers_bytes,
        max_headers: hcm.max_headers_count,
        // As Envoy: behind another proxy the URL says how the client came to that one.
        refuse_https: cx.info.tls.is_none() && hcm.use_remote_address && hcm.xff_num_trusted_hops == 0,
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
                cx.count_protocol_error();
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
                    cx.count_protocol_error();
                }
                cx.stats.downstream_cx_destroy_remote.inc();
                break;
            }
            Next::HeadTimeout => {
                let mut responder = connection.abort_head();
                let reply = cx.head_timed_out();
                let info = StreamInfo::new(SystemTime::now(), cx.info.clone(), Some(Protocol::Http11));
                responder.close_after();
                exchange::refuse(cx, responder, info, reply, &mut alarm).await;
                close(cx, &mut connection, &mut alarm).await;
                break;
            }
            Next::End(why) => {
                why.count(&cx.stats);
                close(cx, &mut connection, &mut alarm).await;
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
                close(cx, &mut connection, &mut alarm).await;
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

/// Sends what is left and FIN, and waits for the peer's, so that it reads our last answer before it sees a reset.
/// Without `delayed_close_timeout` nobody waits for the peer's. Envoy waits for ever then until the rest is sent; here
/// the peer has `stream_idle_timeout` for that, unless it has had it.
async fn close(cx: &HttpContext, connection: &mut h1::ServerConnection, alarm: &mut Alarm) {
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
