//! Between two attempts: whether there is another one, and how long it waits.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use http::Method;
use outrigger_engine::message::RequestHead;
use outrigger_engine::reply::is_grpc;
use outrigger_engine::resilience::breaker::{Guard, Resource};
use outrigger_engine::resilience::retry::{Decision, RetryPolicy, RetryState};
use outrigger_engine::route::Forward;
use outrigger_engine::stream_info::ResponseFlags;
use tokio::time::Instant;

use super::Forwarding;
use crate::http::failure::Failure;

/// What follows an attempt that may be made again.
pub(super) enum Go {
    /// Another attempt.
    Again,
    /// This one counts.
    On,
}

impl Forwarding<'_, '_> {
    /// Turns a decision into what happens: the breaker of retries has the last word.
    pub(super) fn decide(&mut self, decision: Decision, guard: &mut Option<Guard>) -> Go {
        let stats = &self.cluster.stats;
        match decision {
            Decision::No => Go::On,
            Decision::LimitExceeded => {
                stats.upstream_rq_retry_limit_exceeded.inc();
                self.stream.info.flags.insert(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
                Go::On
            }
            Decision::Retry => {
                drop(guard.take());
                match self.cluster.breakers.acquire(self.priority, Resource::Retries) {
                    Some(taken) => {
                        *guard = Some(taken);
                        stats.upstream_rq_retry.inc();
                        Go::Again
                    }
                    None => {
                        stats.upstream_rq_retry_overflow.inc();
                        self.stream.info.flags.insert(ResponseFlags::UPSTREAM_OVERFLOW);
                        Go::On
                    }
                }
            }
        }
    }

    /// Whether the request goes to another connection, once, though the policy has no say in it or no retry left: no
    /// host has acted on it.
    pub(super) fn goes_again(&mut self, failure: &Failure, method: &Method) -> bool {
        let goes = !self.went_again && self.upload.can_replay() && failure.may_go_again(method);
        self.went_again |= goes;
        goes
    }

    /// Tells the upstream of another attempt what is left of the time, which runs from the end of the request.
    pub(super) fn tell_what_is_left(&self, head: &mut RequestHead, forward: &Forward) {
        let complete = self.stream.info.last_downstream_rx;
        let elapsed = complete.map_or(Duration::ZERO, |at| self.stream.started.elapsed().saturating_sub(at));
        let grpc = is_grpc(head);
        let suppress = self.stream.cx.hcm.suppress_envoy_headers;
        let timeouts = &self.deadlines.timeouts;
        timeouts.write_headers(&mut head.headers, &forward.timeouts, elapsed, grpc, !suppress, false);
    }

    /// Waits before the next attempt.
    pub(super) async fn back_off(
        &mut self,
        policy: Option<&RetryPolicy>,
        asked: Option<Duration>,
    ) -> Result<(), Failure> {
        let done = self.retry.as_ref().map_or(1, RetryState::retries_done);
        let delay = match asked {
            Some(delay) => {
                self.cluster.stats.upstream_rq_retry_backoff_ratelimited.inc();
                delay
            }
            None => {
                self.cluster.stats.upstream_rq_retry_backoff_exponential.inc();
                policy.map_or_else(Default::default, |policy| policy.back_off).delay(done, self.random())
            }
        };
        let now = Instant::now();
        let until = now + delay;
        self.deadlines.attempt_over(now);
        let per_try_idle = self.deadlines.per_try_idle.take();
        let waited = poll_fn(|task| {
            if let Poll::Ready(error) = self.responder.poll_reset(task) {
                return Poll::Ready(Err(Failure::Downstream(error)));
            }
            let limit = self.deadlines.next();
            let deadline = limit.map_or(until, |limit| limit.min(until));
            if self.alarm.poll(task, Some(deadline)).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            Poll::Ready(match limit {
                Some(limit) if limit <= now && limit < until => Err(Failure::Limit(self.deadlines.reached(now))),
                _ => Ok(()),
            })
        })
        .await;
        self.deadlines.per_try_idle = per_try_idle;
        self.deadlines.active = Instant::now();
        waited
    }
}
