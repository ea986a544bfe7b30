use http::Method;

use super::*;
use crate::message::{Protocol, Scheme};

fn request(headers: &[(&'static str, &'static str)]) -> RequestHead {
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: None,
        path: HeaderValue::from_static("/"),
        protocol: Protocol::Http11,
        connect_protocol: None,
        headers: fields(headers),
    }
}

fn response(status: u16, headers: &[(&'static str, &'static str)]) -> ResponseHead {
    ResponseHead { status: StatusCode::from_u16(status).unwrap(), protocol: Protocol::Http11, headers: fields(headers) }
}

fn fields(headers: &[(&'static str, &'static str)]) -> Headers {
    headers.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
}

fn policy(retry_on: &str) -> RetryPolicy {
    RetryPolicy { on: RetryOn::parse_any(retry_on).0, ..Default::default() }
}

/// Whether `retry_on` has a response retried.
fn retries(retry_on: &str, response: &ResponseHead) -> bool {
    let policy = policy(retry_on);
    RetryState::new(Some(&policy), &request(&[]))
        .is_some_and(|mut state| state.on_response(Some(&policy), response) == Decision::Retry)
}

#[test]
fn responses_are_retried_by_what_the_policy_names() {
    for (retry_on, status, expected) in [
        ("5xx", 500, true),
        ("5xx", 599, true),
        ("5xx", 404, false),
        ("gateway-error", 503, true),
        ("gateway-error", 500, false),
        ("retriable-4xx", 409, true),
        ("retriable-4xx", 404, false),
        ("reset,connect-failure", 503, false),
        ("no-such-token,5xx", 500, true),
        ("", 500, false),
    ] {
        assert_eq!(retries(retry_on, &response(status, &[])), expected, "{retry_on} {status}");
    }
}

#[test]
fn grpc_statuses_are_retried_by_name() {
    for (retry_on, status) in [
        ("cancelled", "1"),
        ("deadline-exceeded", "4"),
        ("resource-exhausted", "8"),
        ("internal", "13"),
        ("unavailable", "14"),
    ] {
        let policy = policy(retry_on);
        for other in ["0", "1", "4", "8", "13", "14"] {
            let mut state = RetryState::new(Some(&policy), &request(&[])).unwrap();
            let response = response(200, &[("grpc-status", other)]);
            assert_eq!(state.on_response(Some(&policy), &response) == Decision::Retry, other == status);
        }
    }
}

#[test]
fn a_rate_limited_response_is_retried_only_where_that_is_asked_for() {
    let limited = response(503, &[("x-envoy-ratelimited", "true")]);
    assert!(!retries("5xx", &limited));
    assert!(retries("envoy-ratelimited", &limited));
}

#[test]
fn resets_are_retried_by_kind() {
    use ResetKind::*;
    let decide = |retry_on: &str, kind, sent| {
        RetryState::new(Some(&policy(retry_on)), &request(&[])).unwrap().on_reset(kind, sent) == Decision::Retry
    };
    for kind in [ConnectFailure, RefusedStream, Reset, ProtocolError] {
        assert!(decide("5xx", kind, true) && decide("gateway-error", kind, true) && decide("reset", kind, true));
        assert_eq!(decide("connect-failure", kind, false), kind == ConnectFailure);
        assert_eq!(decide("refused-stream", kind, true), kind == RefusedStream);
        assert!(decide("reset-before-request", kind, false) && !decide("reset-before-request", kind, true));
    }
    assert!(!decide("5xx,reset", Overflow, false), "more load is no cure for too much");
}

#[test]
fn retries_end() {
    let policy = RetryPolicy { num_retries: 2, ..policy("5xx") };
    let mut state = RetryState::new(Some(&policy), &request(&[])).unwrap();
    let failure = response(500, &[]);
    assert_eq!(state.on_response(Some(&policy), &failure), Decision::Retry);
    assert_eq!(state.on_reset(ResetKind::Reset, true), Decision::Retry);
    assert!(!state.may_retry());
    assert_eq!(state.on_response(Some(&policy), &failure), Decision::LimitExceeded);
    assert_eq!(state.on_response(Some(&policy), &response(200, &[])), Decision::No);
    assert_eq!(state.retries_done(), 2);
}

#[test]
fn headers_of_the_request_add_and_override() {
    let mut state =
        RetryState::new(None, &request(&[("x-envoy-retry-on", "5xx"), ("x-envoy-max-retries", "3")])).unwrap();
    for _ in 0..3 {
        assert_eq!(state.on_response(None, &response(500, &[])), Decision::Retry);
    }
    assert_eq!(state.on_response(None, &response(500, &[])), Decision::LimitExceeded);

    let codes =
        request(&[("x-envoy-retry-on", "retriable-status-codes"), ("x-envoy-retriable-status-codes", "418, 422")]);
    assert_eq!(RetryState::new(None, &codes).unwrap().on_response(None, &response(422, &[])), Decision::Retry);
    let names = request(&[("x-envoy-retry-on", "retriable-headers"), ("x-envoy-retriable-header-names", "X-A,x-b")]);
    let answer = response(200, &[("x-a", "")]);
    assert_eq!(RetryState::new(None, &names).unwrap().on_response(None, &answer), Decision::Retry);
    let grpc = request(&[("x-envoy-retry-grpc-on", "unavailable")]);
    let answer = response(200, &[("grpc-status", "14")]);
    assert_eq!(RetryState::new(None, &grpc).unwrap().on_response(None, &answer), Decision::Retry);
    assert!(RetryState::new(None, &request(&[("x-envoy-max-retries", "3")])).is_none(), "nothing says when");
}

#[test]
fn what_is_meant_for_us_does_not_go_upstream() {
    let mut headers = fields(&[("x-envoy-retry-on", "5xx"), ("accept", "*/*"), ("x-envoy-max-retries", "1")]);
    RetryState::remove_headers(&mut headers);
    assert_eq!(headers, fields(&[("accept", "*/*")]));
}
