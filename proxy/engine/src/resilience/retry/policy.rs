//! `envoy.config.route.v3.RetryPolicy`.

use std::time::Duration;

use super::back_off::{BackOff, RateLimitedBackOff};
use super::tokens;

/// When and how often attempts are made again.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// What is retried.
    pub on: RetryOn,
    /// Retries after the first attempt (1).
    pub num_retries: u32,
    /// For each attempt; `None` leaves the route's timeout alone.
    pub per_try_timeout: Option<Duration>,
    /// Without a byte from the upstream an attempt ends after so long.
    pub per_try_idle_timeout: Option<Duration>,
    /// `envoy.retry_host_predicates.previous_hosts`: another host than before, if one comes up.
    pub avoid_previous_hosts: bool,
    /// How often another host is looked for (1).
    pub host_selection_max_attempts: u32,
    /// Statuses for `retriable-status-codes`.
    pub retriable_status_codes: Box<[u16]>,
    /// Time before a retry.
    pub back_off: BackOff,
    /// Time before a retry where the response says it.
    pub rate_limited_back_off: Option<RateLimitedBackOff>,
}

/// What is retried: a set of `retry_on`'s tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn(u32);

macro_rules! retry_on {
    ($($table:ident { $($(#[$doc:meta])* $name:ident = $bit:literal $token:literal;)* })*) => {
        impl RetryOn {
            $($($(#[$doc])* pub const $name: RetryOn = RetryOn(1 << $bit);)*)*
        }
        $(const $table: &[(&str, RetryOn)] = &[$(($token, RetryOn::$name)),*];)*
    };
}

retry_on! {
    HTTP {
    /// Any 5xx, and every reset.
    SERVER_ERROR = 0 "5xx";
    /// 502, 503, 504, and every reset.
    GATEWAY_ERROR = 1 "gateway-error";
    /// No answer: disconnect, reset, read timeout.
    RESET = 2 "reset";
    /// The same, before anything of the request was sent.
    RESET_BEFORE_REQUEST = 3 "reset-before-request";
    /// No connection.
    CONNECT_FAILURE = 4 "connect-failure";
    /// 409.
    RETRIABLE_4XX = 5 "retriable-4xx";
    /// `REFUSED_STREAM`.
    REFUSED_STREAM = 6 "refused-stream";
    /// Statuses of the policy or the request.
    RETRIABLE_STATUS_CODES = 7 "retriable-status-codes";
    /// Headers of the policy or the request.
    RETRIABLE_HEADERS = 8 "retriable-headers";
    /// `x-envoy-ratelimited` is there.
    ENVOY_RATE_LIMITED = 9 "envoy-ratelimited";
    }

    GRPC {
    /// gRPC status 1 in the head.
    CANCELLED = 10 "cancelled";
    /// gRPC status 4 in the head.
    DEADLINE_EXCEEDED = 11 "deadline-exceeded";
    /// gRPC status 13 in the head.
    INTERNAL = 12 "internal";
    /// gRPC status 8 in the head.
    RESOURCE_EXHAUSTED = 13 "resource-exhausted";
    /// gRPC status 14 in the head.
    UNAVAILABLE = 14 "unavailable";
    }
}

impl RetryOn {
    /// The empty set.
    pub const NONE: RetryOn = RetryOn(0);

    /// The tokens of `x-envoy-retry-on`, and whether all are known; others are ignored, as in Envoy.
    pub fn parse_http(list: &str) -> (RetryOn, bool) {
        Self::parse(list, &[HTTP])
    }

    /// The tokens of `x-envoy-retry-grpc-on`.
    pub fn parse_grpc(list: &str) -> (RetryOn, bool) {
        Self::parse(list, &[GRPC])
    }

    /// The tokens of `RetryPolicy.retry_on`, which may be of both kinds.
    pub fn parse_any(list: &str) -> (RetryOn, bool) {
        Self::parse(list, &[HTTP, GRPC])
    }

    fn parse(list: &str, tables: &[&[(&str, RetryOn)]]) -> (RetryOn, bool) {
        let mut set = RetryOn::NONE;
        let mut all_known = true;
        for token in tokens(list) {
            match tables.iter().copied().flatten().find(|(name, _)| *name == token) {
                Some((_, on)) => set.insert(*on),
                None => all_known = false,
            }
        }
        (set, all_known)
    }

    /// The token for a gRPC status; empty if there is none.
    pub fn of_grpc_status(status: u32) -> RetryOn {
        match status {
            1 => RetryOn::CANCELLED,
            4 => RetryOn::DEADLINE_EXCEEDED,
            8 => RetryOn::RESOURCE_EXHAUSTED,
            13 => RetryOn::INTERNAL,
            14 => RetryOn::UNAVAILABLE,
            _ => RetryOn::NONE,
        }
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of `other` are in the set.
    pub fn contains(self, other: RetryOn) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether one of `other` is in the set.
    pub fn intersects(self, other: RetryOn) -> bool {
        self.0 & other.0 != 0
    }

    /// Both sets.
    pub fn union(self, other: RetryOn) -> RetryOn {
        RetryOn(self.0 | other.0)
    }

    /// Adds the tokens of `other`.
    pub fn insert(&mut self, other: RetryOn) {
        self.0 |= other.0;
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            on: RetryOn::NONE,
            num_retries: 1,
            per_try_timeout: None,
            per_try_idle_timeout: None,
            avoid_previous_hosts: false,
            host_selection_max_attempts: 1,
            retriable_status_codes: Box::default(),
            back_off: BackOff::default(),
            rate_limited_back_off: None,
        }
    }
}
