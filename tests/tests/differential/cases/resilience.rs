//! Timeouts, retries, breakers.

use std::time::Duration;

use outrigger_tests::client::{Client, Step};
use outrigger_tests::upstream::{Act, Upstream};

use super::get_from;
use crate::scenario::{Scenario, scenario};

const MAX_STREAM_DURATION: &str = "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {'@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, common_http_protocol_options: {max_stream_duration: 0.3s}, explicit_http_config: {http_protocol_options: {}}}}";

pub(crate) fn cases() -> Vec<Scenario> {
    let mut cases = timeouts();
    cases.extend(retries());
    cases.extend(breakers());
    cases
}

fn timeouts() -> Vec<Scenario> {
    let slow = Act::Delay(Duration::from_millis(600));
    let ok = || Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec());
    vec![
        scenario("connect_failure_is_503").up(Upstream::refuses()).client(Client::raw().get("/")),
        scenario("route_timeout_is_504")
            .up(Upstream::h1().acts([Act::Hang]))
            .route("route: {cluster: $up, timeout: 0.2s}")
            .client(Client::raw().get("/")),
        scenario("route_without_timeout")
            .up(Upstream::h1().acts([slow.clone(), ok()]))
            .route("route: {cluster: $up, timeout: 0s}")
            .client(Client::raw().get("/")),
        scenario("timeout_in_the_response")
            .up(Upstream::h1().acts([Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".to_vec()), Act::Hang]))
            .route("route: {cluster: $up, timeout: 0.3s}")
            .client(Client::raw().get("/")),
        scenario("timeout_asked_by_header")
            .up(Upstream::h1().acts([Act::Hang]))
            .route("route: {cluster: $up, timeout: 1s}")
            .client(Client::raw().request(get_from("/", &["x-forwarded-for: 10.0.0.1", "x-envoy-upstream-rq-timeout-ms: 300"]))),
        scenario("timeout_asked_by_header_from_outside")
            .up(Upstream::h1().acts([slow.clone(), ok()]))
            .hcm("use_remote_address: true")
            .client(Client::raw().request(get_from("/", &["x-forwarded-for: 8.8.8.8", "x-envoy-upstream-rq-timeout-ms: 100"]))),
        scenario("per_try_timeout_then_success")
            .up(Upstream::h1().acts([Act::Hang]).ok("yes"))
            .route("route: {cluster: $up, retry_policy: {retry_on: 5xx, num_retries: 1, per_try_timeout: 0.3s}}")
            .client(Client::raw().get("/")),
        scenario("per_try_timeout_every_time")
            .up(Upstream::h1().acts([Act::Hang]))
            .route("route: {cluster: $up, retry_policy: {retry_on: 5xx, num_retries: 1, per_try_timeout: 0.3s}}")
            .client(Client::raw().get("/")),
        scenario("per_try_timeout_is_told")
            .up(Upstream::h1().status(503, "no").acts([Act::Hang]).ok("yes"))
            .virtual_host("include_is_timeout_retry_header: true")
            .route("route: {cluster: $up, retry_policy: {retry_on: 5xx, num_retries: 2, per_try_timeout: 0.3s}}")
            .client(Client::raw().get("/")),
        scenario("stream_of_a_cluster_too_long")
            .up(Upstream::h1().acts([Act::Hang]))
            .cluster("up", MAX_STREAM_DURATION)
            .client(Client::raw().get("/")),
        scenario("stream_of_a_cluster_too_long_is_retried")
            .up(Upstream::h1().acts([Act::Hang]).ok("yes"))
            .cluster("up", MAX_STREAM_DURATION)
            .route("route: {cluster: $up, retry_policy: {retry_on: reset}}")
            .client(Client::raw().get("/")),
        scenario("stream_of_a_cluster_too_long_after_the_head")
            .up(Upstream::h1().acts([Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".to_vec()), Act::Hang]))
            .cluster("up", MAX_STREAM_DURATION)
            .client(Client::raw().get("/")),
        scenario("per_try_idle_timeout")
            .up(Upstream::h1().acts([Act::Hang]).ok("yes"))
            .route("route: {cluster: $up, retry_policy: {retry_on: 5xx, num_retries: 1, per_try_idle_timeout: 0.3s}}")
            .client(Client::raw().get("/")),
        scenario("timeout_during_retries")
            .up(Upstream::h1().status(503, "no").acts([Act::Hang]))
            .route("route: {cluster: $up, timeout: 0.5s, retry_policy: {retry_on: 5xx, num_retries: 3}}")
            .client(Client::raw().get("/")),
        scenario("route_max_stream_duration")
            .up(Upstream::h1().acts([Act::Hang]))
            .route("route: {cluster: $up, max_stream_duration: {max_stream_duration: 0.3s}}")
            .client(Client::raw().get("/")),
        scenario("upstream_idle_connection_is_closed")
            .up(Upstream::h1().ok("ok"))
            .cluster(
                "up",
                "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {'@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, common_http_protocol_options: {idle_timeout: 0.3s}, explicit_http_config: {http_protocol_options: {}}}}",
            )
            .client(Client::raw().get("/1").step(Step::Delay(Duration::from_millis(900))).get("/2")),
        scenario("idle_close_of_the_upstream_is_no_error")
            .up(Upstream::h1().acts([ok(), Act::Delay(Duration::from_millis(100)), Act::Close]).ok("second"))
            .client(Client::raw().get("/1").step(Step::Delay(Duration::from_millis(500))).get("/2")),
    ]
}

fn retries() -> Vec<Scenario> {
    let retry = |name: &str, policy: &str, first: Act| {
        scenario(name)
            .up(Upstream::h1().acts([first]).ok("yes"))
            .route(&format!("route: {{cluster: $up, retry_policy: {{{policy}}}}}"))
            .client(Client::raw().get("/"))
    };
    let status = |status: u16| {
        Act::Send(format!("HTTP/1.1 {status} Status\r\ncontent-length: 2\r\nx-retry: me\r\n\r\nno").into_bytes())
    };
    let post = "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 5\r\n\r\nhello";
    let large = format!("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 50000\r\n\r\n{}", "z".repeat(50_000));
    vec![
        retry("retry_on_5xx", "retry_on: 5xx, num_retries: 1", status(503)),
        retry("retry_on_5xx_not_of_404", "retry_on: 5xx, num_retries: 1", status(404)),
        retry("retry_on_gateway_error", "retry_on: gateway-error", status(502)),
        retry("retry_on_gateway_error_not_of_500", "retry_on: gateway-error", status(500)),
        retry("retry_on_reset", "retry_on: reset, num_retries: 1", Act::Rst),
        retry("retry_on_reset_before_request", "retry_on: reset-before-request", Act::Rst),
        retry("retry_on_connect_failure_not_of_reset", "retry_on: connect-failure", Act::Rst),
        retry("retry_on_retriable_4xx", "retry_on: retriable-4xx", status(409)),
        retry("retry_on_status_codes", "retry_on: retriable-status-codes, retriable_status_codes: [418]", status(418)),
        retry(
            "retry_on_response_headers",
            "retry_on: retriable-headers, retriable_headers: [{name: x-retry, string_match: {exact: me}}]",
            status(200),
        ),
        retry(
            "retry_only_of_some_requests",
            "retry_on: 5xx, retriable_request_headers: [{name: ':method', string_match: {exact: POST}}]",
            status(503),
        ),
        retry("no_retries_are_allowed", "retry_on: 5xx, num_retries: 0", status(503)),
        scenario("retries_run_out")
            .up(Upstream::h1().status(503, "no"))
            .route("route: {cluster: $up, retry_policy: {retry_on: 5xx, num_retries: 2}}")
            .virtual_host("{include_request_attempt_count: true, include_attempt_count_in_response: true}")
            .client(Client::raw().get("/")),
        scenario("retry_policy_of_the_virtual_host")
            .up(Upstream::h1().status(503, "no").ok("yes"))
            .virtual_host("retry_policy: {retry_on: 5xx}")
            .client(Client::raw().get("/")),
        scenario("retry_asked_by_header")
            .up(Upstream::h1().status(503, "no").status(503, "no").ok("yes"))
            .client(Client::raw().request(get_from("/", &["x-forwarded-for: 10.0.0.1", "x-envoy-retry-on: 5xx", "x-envoy-max-retries: 2"]))),
        scenario("retry_with_the_body")
            .up(Upstream::h1().status(503, "no").ok("yes"))
            .route("route: {cluster: $up, retry_policy: {retry_on: 5xx}}")
            .client(Client::raw().request(post)),
        scenario("no_retry_with_a_body_over_the_buffer")
            .up(Upstream::h1().status(503, "no").ok("yes"))
            .route("per_request_buffer_limit_bytes: 1000, route: {cluster: $up, retry_policy: {retry_on: 5xx}}")
            .client(Client::raw().request(&large)),
        scenario("retry_goes_to_another_host")
            .up(Upstream::h1().endpoints(2).status(503, "no").ok("yes"))
            .route(
                "route: {cluster: $up, retry_policy: {retry_on: 5xx, host_selection_retry_max_attempts: 5, \
                 retry_host_predicate: [{name: p, typed_config: {'@type': type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}]}}",
            )
            .client(Client::raw().get("/")),
        scenario("retry_on_connect_failure")
            .up(Upstream::refuses())
            .route("route: {cluster: $up, retry_policy: {retry_on: connect-failure, num_retries: 2}}")
            .client(Client::raw().get("/")),
        scenario("retry_with_back_off")
            .up(Upstream::h1().status(503, "no").status(503, "no").ok("yes"))
            .route("route: {cluster: $up, retry_policy: {retry_on: 5xx, num_retries: 2, retry_back_off: {base_interval: 0.01s, max_interval: 0.02s}}}")
            .client(Client::raw().get("/")),
        scenario("no_retry_once_the_response_began")
            .up(Upstream::h1().acts([Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".to_vec()), Act::Close]).ok("yes"))
            .route("route: {cluster: $up, retry_policy: {retry_on: '5xx,reset'}}")
            .client(Client::raw().get("/")),
        scenario("retry_on_refused_stream")
            .up(Upstream::h2().acts([Act::Reset(7)]).ok("yes"))
            .route("route: {cluster: $up, retry_policy: {retry_on: refused-stream}}")
            .client(Client::raw().get("/")),
        scenario("retry_breaker_is_open")
            .up(Upstream::h1().status(503, "no").ok("yes"))
            .cluster("up", "circuit_breakers: {thresholds: [{max_retries: 0}]}")
            .route("route: {cluster: $up, retry_policy: {retry_on: 5xx}}")
            .client(Client::raw().get("/")),
        retry("retry_on_a_success_of_some_status", "retry_on: retriable-status-codes, retriable_status_codes: [200]", status(200)),
        retry(
            "retry_waits_as_the_response_says",
            "retry_on: retriable-status-codes, retriable_status_codes: [429], \
             rate_limited_retry_back_off: {reset_headers: [{name: retry-after, format: SECONDS}], max_interval: 2s}",
            Act::Send(b"HTTP/1.1 429 Slow\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n".to_vec()),
        ),
        retry(
            "retry_on_envoy_ratelimited",
            "retry_on: envoy-ratelimited",
            Act::Send(b"HTTP/1.1 429 Slow\r\nx-envoy-ratelimited: true\r\ncontent-length: 0\r\n\r\n".to_vec()),
        ),
        scenario("retry_of_statuses_and_headers_asked_by_header")
            .up(Upstream::h1().status(418, "no").acts([status(200)]).ok("yes"))
            .client(Client::raw().request(get_from(
                "/",
                &[
                    "x-forwarded-for: 10.0.0.1",
                    "x-envoy-retry-on: retriable-status-codes,retriable-headers",
                    "x-envoy-retriable-status-codes: 418",
                    "x-envoy-retriable-header-names: x-retry",
                    "x-envoy-max-retries: 3",
                ],
            ))),
        scenario("per_try_timeout_asked_by_header")
            .up(Upstream::h1().acts([Act::Hang]).ok("yes"))
            .route("route: {cluster: $up, retry_policy: {retry_on: 5xx}}")
            .client(Client::raw().request(get_from("/", &["x-forwarded-for: 10.0.0.1", "x-envoy-upstream-rq-per-try-timeout-ms: 300"]))),
        scenario("retry_comes_back_to_the_only_host")
            .up(Upstream::h1().status(503, "no").ok("yes"))
            .route(
                "route: {cluster: $up, retry_policy: {retry_on: 5xx, host_selection_retry_max_attempts: 3, \
                 retry_host_predicate: [{name: p, typed_config: {'@type': type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}]}}",
            )
            .client(Client::raw().get("/")),
        scenario("retry_budget_of_nothing")
            .up(Upstream::h1().status(503, "no").ok("yes"))
            .cluster("up", "circuit_breakers: {thresholds: [{retry_budget: {budget_percent: {value: 0}, min_retry_concurrency: 0}}]}")
            .route("route: {cluster: $up, retry_policy: {retry_on: 5xx}}")
            .client(Client::raw().get("/")),
        scenario("retry_budget_allows_the_least")
            .up(Upstream::h1().status(503, "no").ok("yes"))
            .cluster("up", "circuit_breakers: {thresholds: [{retry_budget: {budget_percent: {value: 0}, min_retry_concurrency: 1}}]}")
            .route("route: {cluster: $up, retry_policy: {retry_on: 5xx}}")
            .client(Client::raw().get("/")),
    ]
}

fn breakers() -> Vec<Scenario> {
    let breaker = |name: &str, threshold: &str, upstream: Upstream| {
        scenario(name).up(upstream).cluster("up", &format!("circuit_breakers: {{thresholds: [{{{threshold}}}]}}"))
    };
    let second_while_the_first_waits =
        || Client::raw().send(get_from("/1", &[])).step(Step::Upstream(1)).fresh().get("/2");
    vec![
        breaker("breaker_without_requests", "max_requests: 0", Upstream::h1().ok("never")).client(Client::raw().get("/")),
        breaker("breaker_on_requests", "max_requests: 1", Upstream::h1().acts([Act::Hang])).client(second_while_the_first_waits()),
        breaker("breaker_on_requests_of_h2", "max_requests: 1", Upstream::h2().acts([])).client(second_while_the_first_waits()),
        breaker(
            "breaker_on_pending_requests",
            "max_connections: 1, max_pending_requests: 1",
            Upstream::h1().acts([Act::Hang]),
        )
        .client(
            Client::raw()
                .send(get_from("/1", &[]))
                .step(Step::Upstream(1))
                .fresh()
                .send(get_from("/2", &[]))
                .step(Step::Delay(Duration::from_millis(200)))
                .fresh()
                .get("/3"),
        ),
        breaker(
            "breaker_on_pending_requests_forgets_who_left",
            "max_connections: 1, max_pending_requests: 1",
            Upstream::h1().acts([Act::Hang]),
        )
        .client(
            Client::raw()
                .send(get_from("/1", &[]))
                .step(Step::Upstream(1))
                .fresh()
                .send(get_from("/2", &[]))
                .step(Step::Delay(Duration::from_millis(200)))
                .step(Step::Reset)
                .fresh()
                .step(Step::Delay(Duration::from_millis(200)))
                .send(get_from("/3", &[])),
        ),
        breaker(
            "breaker_on_connections_queues",
            "max_connections: 1",
            Upstream::h1().acts([
                Act::Delay(Duration::from_millis(400)),
                Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()),
            ]),
        )
        .client(second_while_the_first_waits()),
        breaker(
            "breaker_on_connection_pools",
            "max_connection_pools: 1, track_remaining: true",
            Upstream::h1().endpoints(2).acts([Act::Hang]),
        )
        .client(second_while_the_first_waits()),
        breaker(
            "breaker_on_connection_pools_is_retried_as_policies_say",
            "max_connection_pools: 1",
            Upstream::h1().endpoints(2).acts([Act::Hang]).ok("yes"),
        )
        .route("route: {cluster: $up, retry_policy: {retry_on: '5xx,connect-failure', num_retries: 2}}")
        .client(second_while_the_first_waits()),
        breaker("breaker_on_connection_pools_counts_those_that_idle", "max_connection_pools: 1", Upstream::h1().endpoints(2).ok("ok"))
            .client(Client::raw().get("/1").get("/2")),
        breaker("breaker_on_connection_pools_of_priorities", "max_connection_pools: 1", Upstream::h1().ok("ok"))
            .routes("- {match: {prefix: /high}, route: {cluster: $up, priority: HIGH}}\n- {match: {prefix: /}, route: {cluster: $up}}")
            .client(Client::raw().get("/high").get("/default")),
        breaker("breaker_of_high_priority", "priority: HIGH, max_requests: 0", Upstream::h1().ok("ok"))
            .routes("- {match: {prefix: /high}, route: {cluster: $up, priority: HIGH}}\n- {match: {prefix: /}, route: {cluster: $up}}")
            .client(Client::raw().get("/high").get("/default")),
    ]
}
