//! The upstream's answer on its way to the client, to its end or until it breaks off.

use std::borrow::Cow;
use std::future::poll_fn;
use std::task::Poll;

use http::{HeaderValue, StatusCode};
use outrigger_engine::balance::Host;
use outrigger_engine::connection_manager::names::{X_ENVOY_ATTEMPT_COUNT, X_ENVOY_UPSTREAM_SERVICE_TIME};
use outrigger_engine::message::RequestHead;
use outrigger_engine::route::Choice;
use outrigger_engine::stream_info::ResponseFlags;
use tokio::time::Instant;

use super::attempt::Responding;
use super::{Forwarding, Matched, Outcome};
use crate::http::codec::{Delivery, ResetCode};
use crate::http::deadlines::Limit;
use crate::http::failure::{Failure, reset_reason};
use crate::http::transfer::{Download, TransferError};
use crate::telemetry::stats::Origin;

impl Forwarding<'_, '_> {
    /// Passes the response on, to its end.
    pub(super) async fn respond(
        &mut self,
        responding: Responding,
        matched: Matched<'_>,
        choice: &Choice<'_>,
        upgrade: bool,
        request: &RequestHead,
    ) -> Outcome {
        let Responding { mut head, body, mut stream, host, guards } = responding;
        let status = head.status;
        self.upload.release();
        self.deadlines.per_try = None;
        self.deadlines.active = Instant::now();
        self.stream.info.details = Some(Cow::Borrowed("via_upstream"));
        let sent = self.stream.info.last_upstream_tx.unwrap_or_default();
        let service_time = self.stream.info.first_upstream_rx.unwrap_or_default().saturating_sub(sent);
        let switching = upgrade && status == StatusCode::SWITCHING_PROTOCOLS;
        if !self.stream.cx.hcm.suppress_envoy_headers && self.upload.is_sent() && !switching {
            let millis = u64::try_from(service_time.as_millis()).unwrap_or(u64::MAX);
            head.headers.set(X_ENVOY_UPSTREAM_SERVICE_TIME, HeaderValue::from(millis));
        }
        if matched.found.virtual_host.include_attempt_count_in_response {
            head.headers.set(X_ENVOY_ATTEMPT_COUNT, HeaderValue::from(self.stream.info.attempts));
        }
        self.charge(status, &host, self.origin);
        self.stream.info.response_code = Some(status.as_u16());
        let elapsed = self.stream.started.elapsed();
        matched.found.apply_response(Some(choice), &mut head, request, &self.stream.info, elapsed);
        if switching {
            self.stream.upgraded = true;
            let idle = self.deadlines.idle_after;
            return Outcome::Upgrade { stream: Box::new(stream), head, idle, under: guards };
        }
        let ended = self.is_head || body.is_end();
        if let Err(error) = self.stream.send_head(self.responder, head, ended) {
            self.stream.downstream_gone(error);
            return Outcome::Done;
        }
        let mut download = Download::new(body, ended);
        let keep_trailers = self.stream.keeps_for_log();
        let mut bytes = 0;
        let result = poll_fn(|task| {
            if !self.upload.is_sent() {
                match self.poll_upload(task, &mut stream) {
                    Poll::Ready(Err(TransferError::Downstream(error))) => {
                        return Poll::Ready(Err(Failure::Downstream(error)));
                    }
                    Poll::Ready(Err(TransferError::Upstream(_)) | Ok(())) | Poll::Pending => {}
                }
            }
            match download.poll(task, self.responder, keep_trailers) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(TransferError::Downstream(error))) => {
                    return Poll::Ready(Err(Failure::Downstream(error)));
                }
                Poll::Ready(Err(TransferError::Upstream(error))) => {
                    return Poll::Ready(Err(Failure::Stream { error, delivery: Delivery::Sent }));
                }
                Poll::Pending => {}
            }
            if download.is_complete() {
                // Only the client's reading is left to wait for.
                self.deadlines.request = None;
                self.deadlines.attempt = None;
            }
            let taken = download.bytes.saturating_sub(self.responder.unsent() as u64);
            if taken != bytes {
                bytes = taken;
                self.deadlines.active = Instant::now();
            }
            self.poll_limits(task).map(Err)
        })
        .await;
        let total = self.stream.started.elapsed();
        self.stream.info.bytes_sent = download.bytes.saturating_sub(self.responder.unsent() as u64);
        self.stream.info.last_upstream_rx = Some(total);
        self.stream.trailers = download.trailers.take();
        drop(guards);
        match result {
            Ok(()) => {
                let micros = total.saturating_sub(self.stream.info.last_downstream_rx.unwrap_or_default());
                self.cluster.stats.charge_time(micros.as_micros() as u64, self.origin);
                if !self.upload.is_sent() {
                    // The answer is complete and the request is not: the rest of it is not wanted.
                    self.stream.cx.answered_early();
                    self.responder.close_after();
                }
            }
            Err(failure) => self.broken_off(failure),
        }
        Outcome::Done
    }

    /// The response has begun and cannot be finished.
    fn broken_off(&mut self, failure: Failure) {
        let info = &mut self.stream.info;
        match failure {
            Failure::Downstream(error) => {
                self.stream.downstream_gone(error);
                return;
            }
            Failure::Stream { error, .. } => {
                let (reason, flag) = reset_reason(error);
                info.flags.insert(flag);
                info.details = Some(format!("upstream_reset_after_response_started{{{reason}}}").into());
            }
            Failure::Limit(limit) => {
                let (flag, details) = match limit {
                    Limit::Request | Limit::PerTry | Limit::PerTryIdle => {
                        (ResponseFlags::UPSTREAM_REQUEST_TIMEOUT, "response_timeout")
                    }
                    Limit::Attempt => {
                        self.cluster.stats.upstream_rq_max_duration_reached.inc();
                        (ResponseFlags::UPSTREAM_MAX_STREAM_DURATION_REACHED, "upstream_max_stream_duration_reached")
                    }
                    Limit::Idle | Limit::RequestArrival => {
                        self.stream.cx.stats.downstream_rq_idle_timeout.inc();
                        (ResponseFlags::STREAM_IDLE_TIMEOUT, "stream_idle_timeout")
                    }
                    Limit::Duration => {
                        self.stream.cx.stats.downstream_rq_max_duration_reached.inc();
                        (ResponseFlags::NONE, "max_duration_timeout")
                    }
                };
                if limit == Limit::Request {
                    self.cluster.stats.upstream_rq_timeout.inc();
                }
                info.flags.insert(flag);
                info.details = Some(details.into());
            }
            Failure::NoHost | Failure::Overflow | Failure::Connect { .. } => {}
        }
        self.stream.cx.stats.downstream_rq_tx_reset.inc();
        // Envoy counts a reset that it sends as one that came, too.
        self.stream.cx.stats.downstream_rq_rx_reset.inc();
        self.stream.reset = Some(ResetCode::Internal);
    }

    /// Counts an answer, for the cluster and for the host.
    pub(super) fn charge(&self, status: StatusCode, host: &Host, origin: Origin) {
        self.cluster.stats.charge_response(status.as_u16(), origin);
        let counters = host.stats();
        let counter = if status.is_server_error() { &counters.rq_error } else { &counters.rq_success };
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}
