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
            Some(whole) => expected.min(whole.saturating_sub(elapsed)),
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
                    Some(offset) if offset < asked => asked.saturating_sub(offset),
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
        "H" => Some(Duration::from_secs(number.saturating_mul(3600))),
        "M" => Some(Duration::from_secs(number.saturating_mul(60))),
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
        .filter_map(|(size, unit)| Some((milliseconds.checked_div(size)?, unit)))
        .find(|(number, _)| *number <= MAX)
        .unwrap_or(((milliseconds / 3_600_000).min(MAX), 'H'));
    HeaderValue::try_from(format!("{number}{unit}")).unwrap_or(HeaderValue::from_static("99999999H"))
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::message::{Protocol, Scheme};

    fn request(headers: &[(&'static str, &'static str)]) -> RequestHead {
        let headers = headers.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)));
        RequestHead {
            method: Method::POST,
            scheme: Scheme::Http,
            authority: None,
            path: HeaderValue::from_static("/"),
            protocol: Protocol::Http2,
            headers: headers.collect(),
        }
    }

    fn ms(n: u64) -> Option<Duration> {
        Some(Duration::from_millis(n))
    }

    /// Request and per-try timeouts in milliseconds.
    fn of(route: &RouteTimeouts, per_try: Option<Duration>, request: &RequestHead, is_grpc: bool) -> [Option<u128>; 2] {
        let timeouts = Timeouts::new(route, per_try, request, is_grpc, false);
        [timeouts.request, timeouts.per_try].map(|t| t.map(|t| t.as_millis()))
    }

    #[test]
    fn headers_override_the_route_and_zero_is_none() {
        let route = RouteTimeouts::default();
        assert_eq!(of(&route, None, &request(&[]), false), [Some(15_000), None]);
        let header = |value| request(&[("x-envoy-upstream-rq-timeout-ms", value)]);
        assert_eq!(of(&route, None, &header("200"), false), [Some(200), None]);
        assert_eq!(of(&route, None, &header("0"), false), [None, None]);
        assert_eq!(of(&route, None, &header("soon"), false), [Some(15_000), None]);
        let per_try = |value| request(&[("x-envoy-upstream-rq-per-try-timeout-ms", value)]);
        assert_eq!(of(&route, ms(300), &request(&[]), false), [Some(15_000), Some(300)]);
        assert_eq!(of(&route, ms(300), &per_try("5"), false), [Some(15_000), Some(5)]);
        assert_eq!(of(&route, ms(20_000), &request(&[]), false), [Some(15_000), None], "not shorter than the whole");
        let unlimited = RouteTimeouts { timeout: Duration::ZERO, ..route.clone() };
        assert_eq!(of(&unlimited, ms(20_000), &request(&[]), false), [None, Some(20_000)]);
    }

    #[test]
    fn what_another_proxy_expects_is_respected_where_that_is_wanted() {
        let route = RouteTimeouts::default();
        let request = request(&[("x-envoy-expected-rq-timeout-ms", "70"), ("x-envoy-upstream-rq-timeout-ms", "90")]);
        assert_eq!(Timeouts::new(&route, None, &request, false, true).request, ms(70));
        assert_eq!(Timeouts::new(&route, None, &request, false, false).request, ms(90));
    }

    #[test]
    fn grpc_brings_its_own_timeout_within_the_routes_maximum() {
        let max = |n| RouteTimeouts { max_grpc_timeout: ms(n), ..Default::default() };
        let asks = |value| request(&[("grpc-timeout", value)]);
        assert_eq!(of(&max(1000), None, &asks("300m"), true), [Some(300), None]);
        assert_eq!(of(&max(1000), None, &asks("3S"), true), [Some(1000), None]);
        assert_eq!(of(&max(1000), None, &request(&[]), true), [Some(1000), None]);
        assert_eq!(of(&max(0), None, &request(&[]), true), [None, None]);
        assert_eq!(of(&max(0), None, &asks("3S"), true), [Some(3000), None]);
        assert_eq!(of(&max(0), None, &asks("3S"), false), [Some(15_000), None], "only for gRPC");
        let offset = RouteTimeouts { grpc_timeout_offset: ms(100), ..max(1000) };
        assert_eq!(of(&offset, None, &asks("300m"), true), [Some(200), None]);
        assert_eq!(of(&offset, None, &asks("100m"), true), [Some(100), None], "nothing would be left");
    }

    #[test]
    fn the_life_of_a_stream_replaces_the_timeout() {
        let route = |duration| RouteTimeouts { max_stream_duration: Some(duration), ..Default::default() };
        let plain = route(MaxStreamDuration { max_stream_duration: ms(500), ..Default::default() });
        assert_eq!(of(&plain, None, &request(&[]), false), [None, None]);
        assert_eq!(plain.stream_duration(&Headers::new(), ms(900)), ms(500));
        assert_eq!(RouteTimeouts::default().stream_duration(&Headers::new(), ms(900)), ms(900));
        let unlimited = route(MaxStreamDuration { max_stream_duration: ms(0), ..Default::default() });
        assert_eq!(unlimited.stream_duration(&Headers::new(), ms(900)), None);
        let grpc = route(MaxStreamDuration {
            max_stream_duration: ms(500),
            grpc_timeout_header_max: ms(2000),
            grpc_timeout_header_offset: ms(10),
        });
        let asks = |value| request(&[("grpc-timeout", value)]).headers;
        assert_eq!(grpc.stream_duration(&asks("1S"), None), ms(990));
        assert_eq!(grpc.stream_duration(&asks("5S"), None), ms(1990));
        assert_eq!(grpc.stream_duration(&Headers::new(), None), ms(500));
    }

    #[test]
    fn the_upstream_hears_what_to_expect() {
        let route = RouteTimeouts { max_grpc_timeout: ms(0), ..Default::default() };
        let timeouts = Timeouts { request: ms(1000), per_try: ms(300) };
        assert_eq!(timeouts.expected(Duration::ZERO), Some(300));
        assert_eq!(timeouts.expected(Duration::from_millis(900)), Some(100));
        assert_eq!(timeouts.expected(Duration::from_secs(2)), Some(1));
        assert_eq!(Timeouts::default().expected(Duration::ZERO), None);

        let mut headers = request(&[("x-envoy-upstream-rq-timeout-ms", "9"), ("grpc-timeout", "9S")]).headers;
        timeouts.write_headers(&mut headers, &route, Duration::ZERO, true, true, false);
        let expected = request(&[("grpc-timeout", "300m"), ("x-envoy-expected-rq-timeout-ms", "300")]).headers;
        assert_eq!(headers, expected);
    }

    #[test]
    fn grpc_timeouts_are_read_and_written() {
        let read = |value| grpc_timeout(&request(&[("grpc-timeout", value)]).headers);
        for (value, expected) in [
            ("1H", ms(3_600_000)),
            ("2M", ms(120_000)),
            ("3S", ms(3000)),
            ("4m", ms(4)),
            ("1u", ms(1)),
            ("1500u", ms(2)),
            ("1n", ms(1)),
            ("0m", ms(0)),
            ("123456789m", None),
            ("m", None),
            ("", None),
            ("1", None),
            ("-1S", None),
        ] {
            assert_eq!(read(value), expected, "{value}");
        }
        for (milliseconds, expected) in
            [(0, "0m"), (99_999_999, "99999999m"), (100_000_000, "100000S"), (u64::MAX, "99999999H")]
        {
            assert_eq!(grpc_timeout_value(milliseconds), expected);
        }
    }
}
