//! gRPC: trailers, statuses of local replies, timeouts, retries by status.

use outrigger_tests::client::{Client, Step, h2_head};
use outrigger_tests::upstream::{Act, Upstream};
use outrigger_tests::wire::h2;

use crate::scenario::{Scenario, scenario};

/// A message of one byte, in gRPC's framing.
const MESSAGE: &[u8] = &[0, 0, 0, 0, 1, 7];

fn fields(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// An answer with a message and this status in its trailers.
fn answer(status: &str) -> [Act; 3] {
    [
        Act::Headers(fields(&[(":status", "200"), ("content-type", "application/grpc")]), false),
        Act::Data(MESSAGE.to_vec(), false),
        Act::Headers(fields(&[("grpc-status", status), ("grpc-message", "said")]), true),
    ]
}

/// An answer of headers only.
fn trailers_only(status: &str) -> [Act; 1] {
    [Act::Headers(fields(&[(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", status)]), true)]
}

fn call(with: &[(&str, &str)]) -> Client {
    let mut all = vec![("content-type", "application/grpc"), ("te", "trailers")];
    all.extend_from_slice(with);
    Client::h2()
        .send(h2_head(1, "POST", "/pkg.Service/Method", &all, false))
        .send(h2::data(1, MESSAGE, true))
        .step(Step::Stream(1))
}

pub(crate) fn cases() -> Vec<Scenario> {
    let retry = |name: &str, on: &str, first: &str| {
        scenario(name)
            .up(Upstream::h2().acts(trailers_only(first)).acts(answer("0")))
            .route(&format!("route: {{cluster: $up, retry_policy: {{retry_on: {on}}}}}"))
            .client(call(&[]))
    };
    vec![
        scenario("grpc_unary").up(Upstream::h2().acts(answer("0"))).client(call(&[])),
        scenario("grpc_error_in_trailers").up(Upstream::h2().acts(answer("5"))).client(call(&[])),
        scenario("grpc_trailers_only").up(Upstream::h2().acts(trailers_only("7"))).client(call(&[])),
        scenario("grpc_no_route").virtual_host("routes: []").client(call(&[])),
        scenario("grpc_connect_failure").up(Upstream::refuses()).client(call(&[])),
        scenario("grpc_direct_response")
            .route("direct_response: {status: 403, body: {inline_string: not you}}")
            .client(call(&[])),
        scenario("grpc_redirect").route("redirect: {https_redirect: true}").client(call(&[])),
        scenario("grpc_timeout_of_the_route")
            .up(Upstream::h2().acts([]))
            .route("route: {cluster: $up, timeout: 0.3s}")
            .client(call(&[])),
        scenario("grpc_timeout_header_is_ignored_by_default")
            .up(Upstream::h2().acts(answer("0")))
            .client(call(&[("grpc-timeout", "5S")])),
        scenario("grpc_timeout_header_is_the_timeout")
            .up(Upstream::h2().acts([Act::Hang]))
            .route("route: {cluster: $up, timeout: 10s, max_grpc_timeout: 5s}")
            .client(call(&[("grpc-timeout", "300m")])),
        scenario("grpc_timeout_header_is_honoured")
            .up(Upstream::h2().acts([]))
            .route(
                "route: {cluster: $up, max_stream_duration: {max_stream_duration: 10s, grpc_timeout_header_max: 5s}}",
            )
            .client(call(&[("grpc-timeout", "300m")])),
        scenario("grpc_upstream_resets").up(Upstream::h2().acts([Act::Reset(2)])).client(call(&[])),
        scenario("grpc_breaker")
            .up(Upstream::h2().acts(answer("0")))
            .cluster("up", "circuit_breakers: {thresholds: [{max_requests: 0}]}")
            .client(call(&[])),
        scenario("grpc_http_error_of_the_upstream").up(Upstream::h2().status(503, "no")).client(call(&[])),
        scenario("grpc_body_over_its_length").up(Upstream::h2().acts(answer("0"))).client(
            Client::h2()
                .send(h2_head(1, "POST", "/", &[("content-type", "application/grpc"), ("content-length", "3")], false))
                .step(Step::Upstream(1))
                .send(h2::data(1, MESSAGE, true))
                .step(Step::Stream(1)),
        ),
        retry("grpc_retry_on_unavailable", "unavailable", "14"),
        retry("grpc_retry_on_cancelled", "cancelled", "1"),
        retry("grpc_retry_on_deadline_exceeded", "deadline-exceeded", "4"),
        retry("grpc_retry_on_resource_exhausted", "resource-exhausted", "8"),
        retry("grpc_retry_on_internal", "internal", "13"),
        retry("grpc_no_retry_on_another_status", "unavailable", "5"),
        scenario("grpc_retry_by_header").up(Upstream::h2().acts(trailers_only("14")).acts(answer("0"))).client(call(
            &[("x-forwarded-for", "10.0.0.1"), ("x-envoy-retry-grpc-on", "unavailable"), ("x-envoy-max-retries", "2")],
        )),
        scenario("grpc_over_h1_upstream")
            .up(Upstream::h1().reply(
                "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: 0\r\ncontent-length: 0\r\n\r\n",
            ))
            .client(call(&[])),
    ]
}
