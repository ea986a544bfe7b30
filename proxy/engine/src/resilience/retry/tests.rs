use std::time::Duration;

use http::Method;
use outrigger_proto::envoy::config::route::v3 as proto;
use outrigger_proto::envoy::config::route::v3::retry_policy::{
    RateLimitedRetryBackOff, RetryBackOff, RetryHostPredicate,
};

use super::*;
use crate::config::report::Report;
use crate::message::{Protocol, Scheme};

fn request(headers: &[(&'static str, &'static str)]) -> RequestHead {
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: None,
        path: HeaderValue::from_static("/"),
        protocol: Protocol::Http11,
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

/// The policy of `message`, or what is wrong with it.
fn read(message: proto::RetryPolicy) -> Result<RetryPolicy, Vec<String>> {
    let report = Report::new();
    let policy = RetryPolicy::convert(message, &report.root());
    policy.ok_or_else(|| report.into_parts().0.iter().map(ToString::to_string).collect())
}

fn present(name: &str) -> proto::HeaderMatcher {
    proto::HeaderMatcher { name: name.into(), ..Default::default() }
}

#[test]
fn a_policy_is_read_with_envoys_defaults() {
    let policy = read(proto::RetryPolicy { retry_on: "5xx, unavailable, bogus".into(), ..Default::default() }).unwrap();
    assert_eq!(policy.on, RetryOn::SERVER_ERROR.union(RetryOn::UNAVAILABLE));
    assert_eq!((policy.num_retries, policy.host_selection_max_attempts), (1, 1));
    assert!(!policy.avoid_previous_hosts);
    assert_eq!(policy.back_off, BackOff::default());

    let previous = RetryHostPredicate { name: "envoy.retry_host_predicates.previous_hosts".into(), config_type: None };
    let message = proto::RetryPolicy {
        num_retries: Some(0),
        retry_host_predicate: vec![previous],
        host_selection_retry_max_attempts: 5,
        retry_back_off: Some(RetryBackOff { base_interval: Some(duration(1)), max_interval: None }),
        ..Default::default()
    };
    let policy = read(message).unwrap();
    assert_eq!((policy.num_retries, policy.host_selection_max_attempts), (0, 5));
    assert!(policy.avoid_previous_hosts);
    assert_eq!(policy.back_off.max, Duration::from_secs(10));
}

#[test]
fn headers_of_requests_and_responses_decide() {
    let policy = read(proto::RetryPolicy {
        retry_on: "retriable-headers".into(),
        retriable_headers: vec![present("x-again")],
        retriable_request_headers: vec![present("x-idempotent")],
        ..Default::default()
    })
    .unwrap();
    assert!(RetryState::new(Some(&policy), &request(&[])).is_none());
    let mut state = RetryState::new(Some(&policy), &request(&[("x-idempotent", "1")])).unwrap();
    assert_eq!(state.on_response(Some(&policy), &response(200, &[])), Decision::No);
    assert_eq!(state.on_response(Some(&policy), &response(200, &[("x-again", "1")])), Decision::Retry);
}

#[test]
fn faults_of_a_policy_are_named() {
    let message = proto::RetryPolicy {
        retry_back_off: Some(RetryBackOff { base_interval: Some(duration(2)), max_interval: Some(duration(1)) }),
        rate_limited_retry_back_off: Some(RateLimitedRetryBackOff::default()),
        retry_host_predicate: vec![RetryHostPredicate { name: "other".into(), config_type: None }],
        refresh_cluster_on_retry: true,
        ..Default::default()
    };
    assert_eq!(
        read(message).unwrap_err(),
        [
            "refresh_cluster_on_retry: not in this version",
            "retry_host_predicate[0].typed_config: must be set: \"other\" is not known by its name",
            "retry_back_off.max_interval: 1s: must not be less than base_interval",
            "rate_limited_retry_back_off.reset_headers: must not be empty",
        ]
    );
}

fn duration(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}
