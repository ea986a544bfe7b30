//! Timeouts and retries, as the engine reads them.

use outrigger_engine::resilience::retry::RetryOn;
use outrigger_engine::resilience::timeout::RouteTimeouts;

use super::*;

/// The one route of the shop with this rule and this policy: its timeouts and what it retries.
fn compiled(rule: &str, policy_spec: &str) -> (RouteTimeouts, String) {
    let policy = if policy_spec.is_empty() { String::new() } else { policy(policy_spec) };
    let mesh = shop(&format!("{}{policy}", route("r", &format!("{{backendRefs: [{{name: a, port: 80}}]{rule}}}"))));
    let table = table(&mesh, "default/shop/8080");
    let forward = table.routes().next().unwrap().forward().unwrap();
    let retry = match &forward.retry {
        None => "none".to_owned(),
        Some(retry) => {
            let names = [
                ("connect-failure", RetryOn::CONNECT_FAILURE),
                ("refused-stream", RetryOn::REFUSED_STREAM),
                ("reset-before-request", RetryOn::RESET_BEFORE_REQUEST),
                ("unavailable", RetryOn::UNAVAILABLE),
                ("internal", RetryOn::INTERNAL),
                ("reset", RetryOn::RESET),
                ("gateway-error", RetryOn::GATEWAY_ERROR),
                ("5xx", RetryOn::SERVER_ERROR),
                ("codes", RetryOn::RETRIABLE_STATUS_CODES),
            ];
            let on: Vec<_> = names.iter().filter(|(_, on)| retry.on.contains(*on)).map(|(name, _)| *name).collect();
            assert!(retry.avoid_previous_hosts);
            format!(
                "{} on {} {:?} try {:?} wait {:?}..{:?}",
                retry.num_retries,
                on.join(","),
                retry.retriable_status_codes,
                retry.per_try_timeout.unwrap_or_default(),
                retry.back_off.base,
                retry.back_off.max
            )
        }
    };
    (forward.timeouts.clone(), retry)
}

#[test]
fn timeouts_are_none_unless_asked_for_and_the_rule_has_the_last_word() {
    // Request, idle, gRPC's longest deadline, longest stream.
    let times = |rule: &str, policy: &str| {
        let times = compiled(rule, policy).0;
        let (stream, deadline) = match times.max_stream_duration {
            Some(max) => (max.max_stream_duration, max.grpc_timeout_header_max),
            None => (None, times.max_grpc_timeout),
        };
        [Some(times.timeout), times.idle_timeout, deadline, stream].map(|time| time.map(|time| time.as_millis()))
    };
    assert_eq!(times("", ""), [Some(0), Some(0), Some(0), None]);
    assert_eq!(times(", timeouts: {request: 1500ms}", ""), [Some(1500), Some(0), Some(1500), None]);
    assert_eq!(times("", "timeouts: {request: 2s, streamIdle: 5m}"), [Some(2000), Some(300_000), Some(2000), None]);
    assert_eq!(times(", timeouts: {request: 0s}", "timeouts: {request: 2s}"), [Some(0), Some(0), Some(0), None]);
    assert_eq!(times("", "timeouts: {grpcDeadline: Ignore}"), [Some(0), Some(0), None, None]);
    assert_eq!(times("", "timeouts: {grpcDeadline: Ignore, request: 1s}"), [Some(1000), Some(0), None, None]);
    for (request, deadline, most) in [("", 0, 3000), ("request: 1s, ", 1000, 1000), ("request: 4s, ", 4000, 3000)] {
        let [.., max_deadline, max] = times("", &format!("timeouts: {{{request}maxStream: 3s}}"));
        assert_eq!((max_deadline, max), (Some(deadline), Some(most)), "{request}");
    }
}

#[test]
fn retries_are_safe_unless_asked_for() {
    let safe = "connect-failure,refused-stream,reset-before-request,unavailable";
    for (rule, policy, expected) in [
        ("", "", format!("2 on {safe} [] try 0ns wait 25ms..250ms")),
        (", retry: {}", "", format!("2 on {safe} [] try 0ns wait 25ms..250ms")),
        (", retry: {attempts: 0}", "", "none".to_owned()),
        (
            ", retry: {attempts: 0}, timeouts: {backendRequest: 1s}",
            "",
            format!("0 on {safe} [] try 1s wait 25ms..250ms"),
        ),
        (
            ", retry: {attempts: 5, codes: [503, 500], backoff: 1s}",
            "",
            format!("5 on {safe},codes [500, 503] try 0ns wait 1s..10s"),
        ),
        ("", "retry: {attempts: 0}", "none".to_owned()),
        (", retry: {attempts: 1}", "retry: {attempts: 0}", format!("1 on {safe} [] try 0ns wait 25ms..250ms")),
        (
            ", timeouts: {backendRequest: 2s}",
            "timeouts: {attempt: 1s}",
            format!("2 on {safe} [] try 2s wait 25ms..250ms"),
        ),
        (
            ", timeouts: {backendRequest: 1s}, retry: {codes: [500, 504]}",
            "",
            format!("2 on {safe},reset,codes [500, 504] try 1s wait 25ms..250ms"),
        ),
        (
            ", timeouts: {backendRequest: 1s}, retry: {codes: [500]}",
            "",
            format!("2 on {safe},codes [500] try 1s wait 25ms..250ms"),
        ),
        (", retry: {codes: [504]}", "", format!("2 on {safe},codes [504] try 0ns wait 25ms..250ms")),
        (
            "",
            "retry: {on: [gatewayError], codes: [504]}, timeouts: {attempt: 1s}",
            "2 on gateway-error,codes [504] try 1s wait 25ms..250ms".to_owned(),
        ),
        ("", "timeouts: {attempt: 1s}", format!("2 on {safe} [] try 1s wait 25ms..250ms")),
        (
            "",
            "retry: {on: [reset, gatewayError], codes: [429], grpcCodes: [internal, unavailable], backoff: {base: 10ms, max: 40ms}}",
            "2 on unavailable,internal,reset,gateway-error,codes [429] try 0ns wait 10ms..40ms".to_owned(),
        ),
        (
            "",
            "retry: {on: [5xx, unavailable], grpcCodes: [unavailable]}",
            "2 on unavailable,5xx [] try 0ns wait 25ms..250ms".to_owned(),
        ),
        (
            ", retry: {codes: [500]}",
            "retry: {codes: [429]}",
            format!("2 on {safe},codes [500] try 0ns wait 25ms..250ms"),
        ),
        (", retry: {backoff: 1s}", "retry: {backoff: {max: 50ms}}", format!("2 on {safe} [] try 0ns wait 1s..10s")),
        ("", "retry: {backoff: {max: 5ms}}", format!("2 on {safe} [] try 0ns wait 5ms..5ms")),
        ("", "retry: {backoff: {max: 50ms}}", format!("2 on {safe} [] try 0ns wait 25ms..50ms")),
    ] {
        assert_eq!(compiled(rule, policy).1, expected, "{rule} {policy}");
    }
}

#[test]
fn bodies_up_to_64_kib_are_kept_to_be_sent_again() {
    let limit = |mesh: &Mesh| table(mesh, "default/shop/8080").routes().next().unwrap().request_body_buffer_limit;
    assert_eq!(limit(&shop("")), Some(65536));
    assert_eq!(limit(&shop(&policy("retry: {bufferBytes: 0}"))), Some(0));
}
