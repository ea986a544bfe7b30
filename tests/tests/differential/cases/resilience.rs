//! Timeouts, retries, breakers.

use outrigger_tests::client::Client;
use outrigger_tests::upstream::{Act, Upstream};

use crate::scenario::{Scenario, scenario};

pub(crate) fn cases() -> Vec<Scenario> {
    vec![
        scenario("connect_failure_is_503").up(Upstream::refuses()).client(Client::raw().get("/")),
        scenario("breaker_without_requests")
            .up(Upstream::h1().ok("never"))
            .cluster("up", "circuit_breakers: {thresholds: [{max_requests: 0}]}")
            .client(Client::raw().get("/")),
        scenario("route_timeout_is_504")
            .up(Upstream::h1().acts([Act::Hang]))
            .route("route: {cluster: $up, timeout: 0.2s}")
            .client(Client::raw().get("/")),
        scenario("retry_on_5xx")
            .up(Upstream::h1().status(503, "no").ok("yes"))
            .route("route: {cluster: $up, retry_policy: {retry_on: 5xx, num_retries: 1}}")
            .client(Client::raw().get("/")),
        scenario("retry_on_reset")
            .up(Upstream::h1().acts([Act::Rst]).ok("yes"))
            .route("route: {cluster: $up, retry_policy: {retry_on: reset, num_retries: 1}}")
            .client(Client::raw().get("/")),
    ]
}
