//! `envoy.config.route.v3.RetryPolicy`.

use std::time::Duration;

use outrigger_proto::envoy::config::route::v3::{self as proto, retry_policy};
use outrigger_proto::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;

use super::back_off::{BackOff, RateLimitedBackOff, ResetFormat};
use super::tokens;
use crate::config::any;
use crate::config::report::At;
use crate::config::value::{Seconds, duration, header_name};
use crate::matcher::{Head, HeaderMatcher};
use crate::message::{RequestHead, ResponseHead};
use crate::unsupported;

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
    /// For `retriable-headers`: a response with one of these.
    pub retriable_headers: Box<[HeaderMatcher]>,
    /// If there are any, only a request that matches one is retried.
    pub retriable_request_headers: Box<[HeaderMatcher]>,
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
    /// Of HTTP/3, which is not spoken.
    HTTP3_POST_CONNECT_FAILURE = 15 "http3-post-connect-failure";
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
            retriable_headers: Box::default(),
            retriable_request_headers: Box::default(),
            back_off: BackOff::default(),
            rate_limited_back_off: None,
        }
    }
}

impl RetryPolicy {
    /// The policy, or `None` if a part of it is not usable; every fault is in the report.
    pub fn convert(message: proto::RetryPolicy, at: &At<'_>) -> Option<Self> {
        let proto::RetryPolicy {
            retry_on,
            num_retries,
            per_try_timeout,
            per_try_idle_timeout,
            retry_priority,
            retry_host_predicate,
            retry_options_predicates,
            host_selection_retry_max_attempts,
            retriable_status_codes,
            retry_back_off,
            rate_limited_retry_back_off,
            retriable_headers,
            retriable_request_headers,
            refresh_cluster_on_retry,
        } = message;
        let problems = at.problem_count();
        unsupported!(at; retry_priority = "priorities are chosen anew for each attempt", retry_options_predicates,
            refresh_cluster_on_retry);
        let (on, all_known) = RetryOn::parse_any(&retry_on);
        if !all_known {
            at.field("retry_on").harmless("conditions that are not known are ignored, as in Envoy");
        }
        let statuses = at.field("retriable_status_codes");
        let status_code = |(i, code): (usize, u32)| match u16::try_from(code) {
            Ok(code @ 100..=599) => Some(code),
            _ => {
                statuses.index(i).harmless("no response has this status");
                None
            }
        };
        let matchers = |field: &'static str, messages: Vec<proto::HeaderMatcher>| -> Box<[HeaderMatcher]> {
            let list = at.field(field);
            let converted = messages.into_iter().enumerate().map(|(i, m)| HeaderMatcher::convert(m, &list.index(i)));
            converted.flatten().collect()
        };
        let timeout = |field: &'static str, message| duration(message, &at.field(field)).filter(|t| !t.is_zero());
        let policy = RetryPolicy {
            on,
            num_retries: num_retries.unwrap_or(1),
            per_try_timeout: timeout("per_try_timeout", per_try_timeout),
            per_try_idle_timeout: timeout("per_try_idle_timeout", per_try_idle_timeout),
            avoid_previous_hosts: host_predicates(retry_host_predicate, &at.field("retry_host_predicate")),
            host_selection_max_attempts: match host_selection_retry_max_attempts {
                0 => 1,
                n => u32::try_from(n.max(0)).unwrap_or(u32::MAX),
            },
            retriable_status_codes: retriable_status_codes.into_iter().enumerate().filter_map(status_code).collect(),
            retriable_headers: matchers("retriable_headers", retriable_headers),
            retriable_request_headers: matchers("retriable_request_headers", retriable_request_headers),
            back_off: match retry_back_off {
                Some(message) => BackOff::convert(message, &at.field("retry_back_off")),
                None => BackOff::default(),
            },
            rate_limited_back_off: rate_limited_retry_back_off
                .and_then(|message| RateLimitedBackOff::convert(message, &at.field("rate_limited_retry_back_off"))),
        };
        (at.problem_count() == problems).then_some(policy)
    }

    /// Whether `retriable_request_headers` let `request` be retried.
    pub fn allows(&self, request: &RequestHead) -> bool {
        let matchers = &self.retriable_request_headers;
        matchers.is_empty() || matchers.iter().any(|matcher| matcher.matches(Head::Request(request)))
    }

    /// Whether `response` has one of `retriable_headers`.
    pub fn has_retriable_header(&self, response: &ResponseHead) -> bool {
        self.retriable_headers.iter().any(|matcher| matcher.matches(Head::Response(response)))
    }
}

/// Whether hosts of earlier attempts are avoided.
fn host_predicates(messages: Vec<retry_policy::RetryHostPredicate>, list: &At<'_>) -> bool {
    let mut previous_hosts = false;
    for (i, message) in messages.into_iter().enumerate() {
        let at = list.index(i);
        let retry_policy::RetryHostPredicate { name, config_type } = message;
        match config_type {
            Some(retry_policy::retry_host_predicate::ConfigType::TypedConfig(config)) => {
                if any::is::<PreviousHostsPredicate>(&config) {
                    previous_hosts = true;
                } else {
                    any::reject_type(&config, &at.field("typed_config"));
                }
            }
            // istiod names it and sends no configuration.
            None if name == "envoy.retry_host_predicates.previous_hosts" => previous_hosts = true,
            None => at.field("typed_config").reject("", format_args!("must be set: {name:?} is not known by its name")),
        }
    }
    previous_hosts
}

impl BackOff {
    fn convert(message: retry_policy::RetryBackOff, at: &At<'_>) -> Self {
        let retry_policy::RetryBackOff { base_interval, max_interval } = message;
        let positive = |field: &'static str, message| {
            let at = at.field(field);
            let value = duration(message, &at);
            if value.is_some_and(|value| value.is_zero()) {
                at.reject("0s", "must be greater than 0s");
            }
            value
        };
        let least = Duration::from_millis(1);
        if base_interval.is_none() {
            at.field("base_interval").reject("", "must be set");
        }
        let Some(base) = positive("base_interval", base_interval) else { return BackOff::default() };
        let max = positive("max_interval", max_interval);
        if let Some(max) = max.filter(|max| *max < base) {
            at.field("max_interval").reject(Seconds(max), "must not be less than base_interval");
        }
        let base = base.max(least);
        BackOff { base, max: max.unwrap_or(base.saturating_mul(10)).max(least) }
    }
}

impl RateLimitedBackOff {
    fn convert(message: retry_policy::RateLimitedRetryBackOff, at: &At<'_>) -> Option<Self> {
        let retry_policy::RateLimitedRetryBackOff { reset_headers, max_interval } = message;
        let list = at.field("reset_headers");
        if reset_headers.is_empty() {
            list.reject("", "must not be empty");
        }
        let header = |(i, message): (usize, retry_policy::ResetHeader)| {
            let at = list.index(i);
            let name = header_name(&message.name, &at.field("name"))?;
            match proto::retry_policy::ResetHeaderFormat::try_from(message.format) {
                Ok(retry_policy::ResetHeaderFormat::Seconds) => Some((name, ResetFormat::Seconds)),
                Ok(retry_policy::ResetHeaderFormat::UnixTimestamp) => Some((name, ResetFormat::UnixTimestamp)),
                Err(_) => {
                    at.field("format").reject(message.format, "must be SECONDS or UNIX_TIMESTAMP");
                    None
                }
            }
        };
        let max_at = at.field("max_interval");
        let max_interval = duration(max_interval, &max_at).unwrap_or(Duration::from_secs(300));
        if max_interval.is_zero() {
            max_at.reject("0s", "must be greater than 0s");
        }
        let reset_headers = reset_headers.into_iter().enumerate().filter_map(header).collect();
        Some(RateLimitedBackOff { reset_headers, max_interval })
    }
}
