//! Whether a failed attempt is made again, and when.
//!
//! [`RetryPolicy`] is what a route (or virtual host) configures; [`RetryState`] is one request's, after its
//! `x-envoy-*` headers had their say. It decides; the router sends.

mod back_off;
mod policy;

use http::{HeaderName, HeaderValue, StatusCode};
use smallvec::SmallVec;

use crate::message::{Headers, RequestHead, ResponseHead};

pub use back_off::{BackOff, RateLimitedBackOff, ResetFormat};
pub use policy::{RetryOn, RetryPolicy};

const MAX_RETRIES: HeaderName = HeaderName::from_static("x-envoy-max-retries");
const RETRY_ON: HeaderName = HeaderName::from_static("x-envoy-retry-on");
const RETRY_GRPC_ON: HeaderName = HeaderName::from_static("x-envoy-retry-grpc-on");
const RETRIABLE_STATUS_CODES: HeaderName = HeaderName::from_static("x-envoy-retriable-status-codes");
const RETRIABLE_HEADER_NAMES: HeaderName = HeaderName::from_static("x-envoy-retriable-header-names");
const HEDGE_ON_PER_TRY_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-hedge-on-per-try-timeout");
const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Why an attempt ended without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetKind {
    /// A circuit breaker refused it.
    Overflow,
    /// There was no connection: connect failed or timed out.
    ConnectFailure,
    /// The peer refused the stream before it did anything (`REFUSED_STREAM`, or above GOAWAY's last id).
    RefusedStream,
    /// The connection closed, or the peer reset the stream; also what we reset ourselves, as at a per-try timeout.
    Reset,
    /// The peer broke the protocol.
    ProtocolError,
}

/// What is to be done with a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Pass it on: nothing says that it can be made again.
    No,
    /// Pass it on: no retry is left (flag `URX`, counter `upstream_rq_retry_limit_exceeded`).
    LimitExceeded,
    /// Make it again after the back-off, if the breaker of retries has room.
    Retry,
}

/// The retries of one request.
#[derive(Clone, Debug)]
pub struct RetryState {
    on: RetryOn,
    remaining: u32,
    status_codes: SmallVec<[u16; 4]>,
    header_names: SmallVec<[HeaderName; 1]>,
    done: u32,
}

impl RetryState {
    /// The state of a request, or `None` if it is never retried. `policy` is that of the route, if it has one.
    pub fn new(policy: Option<&RetryPolicy>, request: &RequestHead) -> Option<Self> {
        let headers = &request.headers;
        let mut on = policy.map_or(RetryOn::NONE, |policy| policy.on);
        for value in headers.get_all(&RETRY_ON) {
            on.insert(RetryOn::parse_http(text(value)).0);
        }
        for value in headers.get_all(&RETRY_GRPC_ON) {
            on.insert(RetryOn::parse_grpc(text(value)).0);
        }
        if on.is_empty() || policy.is_some_and(|policy| !policy.allows(request)) {
            return None;
        }
        let mut remaining = policy.map_or(1, |policy| policy.num_retries);
        if let Some(max) = headers.get(&MAX_RETRIES).and_then(|value| text(value).trim().parse::<u64>().ok()) {
            remaining = u32::try_from(max).unwrap_or(u32::MAX);
        }
        let mut status_codes: SmallVec<[u16; 4]> = SmallVec::new();
        let mut header_names = SmallVec::new();
        for value in headers.get_all(&RETRIABLE_STATUS_CODES) {
            status_codes.extend(tokens(text(value)).filter_map(|code| code.parse::<u16>().ok()));
        }
        for value in headers.get_all(&RETRIABLE_HEADER_NAMES) {
            header_names.extend(tokens(text(value)).filter_map(|name| HeaderName::try_from(name).ok()));
        }
        Some(RetryState { on, remaining, status_codes, header_names, done: 0 })
    }

    /// Takes off what the client said about retries: it is meant for us and does not go upstream.
    pub fn remove_headers(headers: &mut Headers) {
        const OURS: [HeaderName; 6] = [
            MAX_RETRIES,
            RETRY_ON,
            RETRY_GRPC_ON,
            RETRIABLE_STATUS_CODES,
            RETRIABLE_HEADER_NAMES,
            HEDGE_ON_PER_TRY_TIMEOUT,
        ];
        headers.retain(|name, _| !OURS.contains(name));
    }

    /// Decides on a response head. `policy` is the one that the state was made with.
    pub fn on_response(&mut self, policy: Option<&RetryPolicy>, response: &ResponseHead) -> Decision {
        let wanted = self.wants_response(policy, response);
        self.decide(wanted)
    }

    /// Decides on an attempt without a response. `request_sent`: some of the request has gone to the peer.
    pub fn on_reset(&mut self, kind: ResetKind, request_sent: bool) -> Decision {
        let wanted = self.wants_reset(kind, request_sent);
        self.decide(wanted)
    }

    /// Whether even a response below 400 may be followed by another attempt: its headers or its status may ask for one.
    pub fn may_retry_success(&self, policy: Option<&RetryPolicy>) -> bool {
        let of_success = |codes: &[u16]| codes.iter().any(|code| *code < 400);
        self.on.intersects(RetryOn::RETRIABLE_HEADERS.union(RetryOn::ENVOY_RATE_LIMITED))
            || (self.on.contains(RetryOn::RETRIABLE_STATUS_CODES)
                && (of_success(&self.status_codes)
                    || policy.is_some_and(|policy| of_success(&policy.retriable_status_codes))))
    }

    /// Retries made so far.
    pub fn retries_done(&self) -> u32 {
        self.done
    }

    /// Whether a retry is left: if not, the body need not be kept.
    pub fn may_retry(&self) -> bool {
        self.remaining > 0
    }

    fn decide(&mut self, wanted: bool) -> Decision {
        if !wanted {
            return Decision::No;
        }
        if self.remaining == 0 {
            return Decision::LimitExceeded;
        }
        self.remaining = self.remaining.saturating_sub(1);
        self.done = self.done.saturating_add(1);
        Decision::Retry
    }

    fn wants_response(&self, policy: Option<&RetryPolicy>, response: &ResponseHead) -> bool {
        let on = self.on;
        if response.headers.contains(&RATE_LIMITED) {
            return on.contains(RetryOn::ENVOY_RATE_LIMITED);
        }
        let status = response.status.as_u16();
        let is_5xx = (500..600).contains(&status);
        if (on.contains(RetryOn::SERVER_ERROR) && is_5xx)
            || (on.contains(RetryOn::GATEWAY_ERROR) && matches!(status, 502..=504))
            || (on.contains(RetryOn::RETRIABLE_4XX) && response.status == StatusCode::CONFLICT)
        {
            return true;
        }
        if on.contains(RetryOn::RETRIABLE_STATUS_CODES) {
            let configured = policy.map_or(&[][..], |policy| &policy.retriable_status_codes);
            if configured.contains(&status) || self.status_codes.contains(&status) {
                return true;
            }
        }
        if on.contains(RetryOn::RETRIABLE_HEADERS) {
            let configured = policy.is_some_and(|policy| policy.has_retriable_header(response));
            if configured || self.header_names.iter().any(|name| response.headers.contains(name)) {
                return true;
            }
        }
        let grpc_status = response.headers.get(&GRPC_STATUS).and_then(|value| text(value).trim().parse().ok());
        grpc_status.is_some_and(|status: u32| on.intersects(RetryOn::of_grpc_status(status)))
    }

    fn wants_reset(&self, kind: ResetKind, request_sent: bool) -> bool {
        let on = self.on;
        if kind == ResetKind::Overflow {
            return false;
        }
        // A reset becomes a 503 or 504, so whoever wants those retried wants this.
        on.contains(RetryOn::RESET)
            || on.intersects(RetryOn::SERVER_ERROR.union(RetryOn::GATEWAY_ERROR))
            || (on.contains(RetryOn::RESET_BEFORE_REQUEST) && !request_sent)
            || (on.contains(RetryOn::REFUSED_STREAM) && kind == ResetKind::RefusedStream)
            || (on.contains(RetryOn::CONNECT_FAILURE) && kind == ResetKind::ConnectFailure)
    }
}

fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or_default()
}

fn tokens(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests;
