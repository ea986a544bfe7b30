//! The time limits of one request, all behind one alarm.

use std::time::Duration;

use outrigger_engine::resilience::timeout::Timeouts;
use tokio::time::Instant;

/// A time limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// The route's timeout.
    Request,
    /// One attempt's.
    PerTry,
    /// Nothing came of an attempt.
    PerTryIdle,
    /// The longest life of an attempt's stream, which is the cluster's.
    Attempt,
    /// Nothing moved.
    Idle,
    /// The stream's longest life.
    Duration,
    /// `request_timeout`: the request did not arrive in time.
    RequestArrival,
}

/// Deadlines of a request.
#[derive(Debug)]
pub(super) struct Deadlines {
    pub(super) timeouts: Timeouts,
    pub(super) request: Option<Instant>,
    pub(super) per_try: Option<Instant>,
    pub(super) idle_after: Option<Duration>,
    pub(super) active: Instant,
    /// `per_try_idle_timeout`: nothing came of an attempt since `active`.
    pub(super) per_try_idle: Option<Duration>,
    pub(super) duration: Option<Instant>,
    /// `max_stream_duration` of the cluster, for the attempt that is under way.
    pub(super) attempt: Option<Instant>,
    pub(super) arrival: Option<Instant>,
}

impl Deadlines {
    /// The nearest one.
    pub(super) fn next(&self) -> Option<Instant> {
        let idle = self.idle_after.map(|after| self.active + after);
        let per_try_idle = self.per_try_idle.map(|after| self.active + after);
        let limits = [self.request, self.per_try, per_try_idle, idle, self.duration, self.attempt, self.arrival];
        limits.into_iter().flatten().min()
    }

    /// Which one has passed, when one has.
    pub(super) fn reached(&self, now: Instant) -> Limit {
        let is = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is(self.request) {
            Limit::Request
        } else if is(self.duration) {
            Limit::Duration
        } else if is(self.attempt) {
            Limit::Attempt
        } else if is(self.per_try) {
            Limit::PerTry
        } else if is(self.per_try_idle.map(|after| self.active + after)) {
            Limit::PerTryIdle
        } else if is(self.arrival) {
            Limit::RequestArrival
        } else {
            Limit::Idle
        }
    }

    /// There is no attempt any more whose time runs.
    pub(super) fn attempt_over(&mut self, now: Instant) {
        self.per_try = None;
        self.attempt = None;
        self.active = now;
    }

    /// The request is complete: the time for the answer begins.
    pub(super) fn request_complete(&mut self, now: Instant, attempt_started: bool) {
        self.arrival = None;
        if self.request.is_none() {
            self.request = self.timeouts.request.map(|timeout| now + timeout);
        }
        if attempt_started && self.per_try.is_none() {
            self.per_try = self.timeouts.per_try.map(|timeout| now + timeout);
        }
    }
}
