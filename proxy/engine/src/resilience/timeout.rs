//! How long a request may take: the route's timeouts, the request's headers, gRPC's deadline.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::message::{Headers, RequestHead};

const RQ_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
const PER_TRY_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms");
const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The timeouts of a route. Zero is "no timeout" wherever a duration is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTimeouts {
    /// `timeout`: the whole answer, all attempts together (15 s).
    pub timeout: Duration,
    /// `idle_timeout`: overrides the connection manager's `stream_idle_timeout`.
    pub idle_timeout: Option<Duration>,
    /// `max_grpc_timeout` (deprecated): gRPC requests bring their own timeout, up to this.
    pub max_grpc_timeout: Option<Duration>,
    /// `grpc_timeout_offset` (deprecated): taken off that.
    pub grpc_timeout_offset: Option<Duration>,
    /// `max_stream_duration`; if it is there, `timeout` and `max_grpc_timeout` have no effect.
    pub max_stream_duration: Option<MaxStreamDuration>,
}

/// `RouteAction.MaxStreamDuration`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaxStreamDuration {
    /// For streams without a deadline of their own; overrides the connection manager's.
    pub max_stream_duration: Option<Duration>,
    /// `grpc-timeout` is believed up to this.
    pub grpc_timeout_header_max: Option<Duration>,
    /// Taken off `grpc-timeout`.
    pub grpc_timeout_header_offset: Option<Duration>,
}

impl Default for RouteTimeouts {
    fn default() -> Self {
        RouteTimeouts {
            timeout: Duration::from_secs(15),
            idle_timeout: None,
            max_grpc_timeout: None,
            grpc_timeout_offset: None,
            max_stream_duration: None,
        }
    }
}

/// The timeouts of one request. `None` is no timeout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the end of the request to the end of the response, all attempts together.
    pub request: Option<Duration>,
    /// For one attempt; always shorter than `request`.
    pub per_try: Option<Duration>,
}

impl Timeouts {
    /// The timeouts of `request`, whose `x-envoy-*` headers count. `per_try` is the retry policy's;
    /// `respect_expected` is the router's `respect_expected_rq_timeout`.
    pub fn new(
        route: &RouteTimeouts,
        per_try: Option<Duration>,
        request: &RequestHead,
        is_grpc: bool,
        respect_expected: bool,
    ) -> Self {
        let headers = &request.headers;
        let mut timeouts = Timeouts { request: route.request_timeout(headers, is_grpc), per_try: some(per_try) };
        let expected = if respect_expected { milliseconds(headers, &EXPECTED_TIMEOUT) } else { None };
        if let Some(timeout) = expected.or_else(|| milliseconds(headers, &RQ_TIMEOUT)) {
            timeouts.request = some(Some(timeout));
        }
        if let Some(timeout) = milliseconds(headers, &PER_TRY_TIMEOUT) {
            timeouts.per_try = some(Some(timeout));
        }
        timeouts.per_try = timeouts.per_try.filter(|t| timeouts.request.is_none_or(|whole| *t < whole));
        timeouts
    }

    /// What the upstream may expect of an attempt that starts `elapsed` after the request: the value of
    /// `x-envoy-expected-rq-timeout-ms`, in milliseconds. `None` if there is no timeout.
    pub fn expected(&self, elapsed: Duration) -> Option<u64> {
        let expected = self.per_try.or(self.request)?;
        let expected = match self.request {
            // Out of time, but zero would be no timeout: the timers will end it soon.
            Some(whole) if elapsed >= whole => Duration::from_millis(1),
            Some(whole) => expected.min(whole - elapsed),
            None => expected,
        };
        Some(u64::try_from(expected.as_millis()).unwrap_or(u64::MAX))
    }

    /// Writes the headers of an attempt: takes off what was meant for us, and tells the upstream what to expect.
    /// `set_expected` is false where the router has `suppress_envoy_headers`.
    pub fn write_headers(
        &self,
        headers: &mut Headers,
        route: &RouteTimeouts,
        elapsed: Duration,
        is_grpc: bool,
        set_expected: bool,
        respect_expected: bool,
    ) {
        let keep_expected = respect_expected && headers.contains(&EXPECTED_TIMEOUT);
        headers.retain(|name, _| *name != RQ_TIMEOUT && *name != PER_TRY_TIMEOUT);
        let Some(expected) = self.expected(elapsed) else { return };
        if set_expected && !keep_expected {
            headers.set(EXPECTED_TIMEOUT, HeaderValue::from(expected));
        }
        if is_grpc && route.max_stream_duration.is_none() && route.max_grpc_timeout.is_some() {
            headers.set(GRPC_TIMEOUT, grpc_timeout_value(expected));
        }
    }
}

impl RouteTimeouts {
    fn request_timeout(&self, headers: &Headers, is_grpc: bool) -> Option<Duration> {
        if self.max_stream_duration.is_some() {
            return None;
        }
        match self.max_grpc_timeout {
            Some(max) if is_grpc => {
                let asked = grpc_timeout(headers).unwrap_or_default();
                let asked = match self.grpc_timeout_offset {
                    // Zero would be no timeout.
                    Some(offset) if offset < asked => asked - offset,
                    _ => asked,
                };
                some(Some(if !max.is_zero() && (asked.is_zero() || asked > max) { max } else { asked }))
            }
            _ => some(Some(self.timeout)),
        }
    }

    /// The longest life of a stream, from its first byte: the client's deadline where the route believes it, else the
    /// route's, else the connection manager's.
    pub fn stream_duration(&self, headers: &Headers, connection_manager: Option<Duration>) -> Option<Duration> {
        let route = self.max_stream_duration.as_ref();
        let own = grpc_timeout(headers).zip(route.and_then(|route| route.grpc_timeout_header_max));
        match own {
            None => some(route.and_then(|route| route.max_stream_duration).or(connection_manager)),
            Some((asked, max)) => {
                let mut timeout = if !max.is_zero() && asked > max { max } else { asked };
                if let Some(offset) = route.and_then(|route| route.grpc_timeout_header_offset) {
                    timeout = timeout.saturating_sub(offset);
                }
                Some(timeout)
            }
        }
    }
}

/// Zero means no timeout.
fn some(timeout: Option<Duration>) -> Option<Duration> {
    timeout.filter(|timeout| !timeout.is_zero())
}

fn milliseconds(headers: &Headers, name: &HeaderName) -> Option<Duration> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok().map(Duration::from_millis)
}

/// The value of `grpc-timeout`: at most 8 digits and a unit. `None` if there is none that can be read.
pub fn grpc_timeout(headers: &Headers) -> Option<Duration> {
    let value = headers.get(&GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        // Envoy keeps milliseconds and rounds up, so that a short timeout does not become none.
        "u" => Some(Duration::from_millis(number.div_ceil(1_000))),
        "n" => Some(Duration::from_millis(number.div_ceil(1_000_000))),
        _ => None,
    }
}

/// `milliseconds` as a value of `grpc-timeout`: in the first unit whose number has at most 8 digits.
pub fn grpc_timeout_value(milliseconds: u64) -> HeaderValue {
    const MAX: u64 = 99_999_999;
    let (number, unit) = [(1, 'm'), (1_000, 'S'), (60_000, 'M')]
        .into_iter()
        .map(|(size, unit)| (milliseconds / size, unit))
        .find(|(number, _)| *number <= MAX)
        .unwrap_or(((milliseconds / 3_600_000).min(MAX), 'H'));
    HeaderValue::try_from(format!("{number}{unit}")).unwrap_or(HeaderValue::from_static("99999999H"))
}
