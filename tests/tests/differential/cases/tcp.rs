//! The TCP proxy: bytes, and how a connection ends. Where the proxy ends it at once the client says nothing: bytes that
//! meet a closed socket would make a reset of the end, by chance.

use std::time::Duration;

use outrigger_tests::client::{Client, Step};
use outrigger_tests::upstream::{Act, Upstream};

use crate::scenario::{Scenario, scenario};

/// A log of the listener itself, which has a line for each connection.
const OWN_LOG: &str = "access_log: [{name: f, typed_config: {'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: $log, \
    log_format: {text_format_source: {inline_string: \"connection %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %PROTOCOL% %UPSTREAM_CLUSTER% %BYTES_RECEIVED% %BYTES_SENT%\\n\"}}}}]";

pub(crate) fn cases() -> Vec<Scenario> {
    let hello = || Client::raw().send("hello");
    vec![
        scenario("tcp_echo")
            .up(Upstream::tcp().acts([Act::Echo]))
            .tcp("{}")
            .client(hello().step(Step::Bytes(5)).step(Step::HalfClose)),
        scenario("tcp_client_closes_its_direction_first")
            .up(Upstream::tcp().acts([Act::Hang]))
            .tcp("{}")
            .client(hello().step(Step::Upstream(1)).step(Step::HalfClose)),
        scenario("tcp_upstream_answers_after_the_client_closed")
            .up(Upstream::tcp().acts([
                Act::Expect(5),
                Act::Delay(Duration::from_millis(300)),
                Act::Send(b"late".to_vec()),
                Act::Close,
            ]))
            .tcp("{}")
            .client(hello().step(Step::HalfClose).step(Step::Bytes(4))),
        scenario("tcp_upstream_closes_its_direction_first")
            .up(Upstream::tcp().acts([Act::Send(b"bye".to_vec()), Act::Fin, Act::Hang]))
            .tcp("{}")
            .client(
                Client::raw()
                    .step(Step::Bytes(3))
                    .end()
                    .send("more")
                    .step(Step::Delay(Duration::from_millis(300)))
                    .step(Step::HalfClose),
            ),
        scenario("tcp_upstream_speaks_first_and_closes")
            .up(Upstream::tcp().on_accept([Act::Send(b"welcome".to_vec()), Act::Close]))
            .tcp("{}")
            .client(Client::raw().step(Step::Bytes(7))),
        scenario("tcp_upstream_resets")
            .up(Upstream::tcp().acts([Act::Expect(5), Act::Rst]))
            .tcp("{}")
            .client(hello().end()),
        scenario("tcp_client_resets")
            .up(Upstream::tcp().acts([Act::Hang]))
            .tcp("{}")
            .client(hello().step(Step::Upstream(1)).step(Step::Delay(Duration::from_millis(200))).step(Step::Reset)),
        scenario("tcp_upstream_refuses").up(Upstream::refuses()).tcp("{}").client(Client::raw().end()),
        scenario("tcp_connect_attempts_run_out")
            .up(Upstream::refuses())
            .tcp("max_connect_attempts: 3")
            .client(Client::raw().end()),
        scenario("tcp_second_attempt_reaches_another_host")
            .upstream("down", Upstream::refuses())
            .upstream("good", Upstream::tcp().acts([Act::Echo]))
            .cluster(
                "down",
                "load_assignment: {cluster_name: x, endpoints: [{priority: 0, lb_endpoints: [\
                 {endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: $good:port}}}}]}]}",
            )
            .tcp("max_connect_attempts: 2")
            .client(hello().step(Step::Bytes(5)).step(Step::HalfClose)),
        scenario("tcp_idle_timeout")
            .up(Upstream::tcp().acts([Act::Hang]))
            .tcp("idle_timeout: 0.3s")
            .client(hello().end()),
        scenario("tcp_duration_is_limited")
            .up(Upstream::tcp().acts([Act::Hang]))
            .tcp("max_downstream_connection_duration: 0.3s")
            .client(hello().end()),
        scenario("tcp_no_cluster").tcp("cluster: missing").client(Client::raw().end()),
        scenario("tcp_empty_cluster")
            .up(Upstream::tcp())
            .cluster("up", "load_assignment: {cluster_name: x, endpoints: []}")
            .tcp("{}")
            .client(Client::raw().end()),
        scenario("tcp_weighted_clusters_all_to_one")
            .upstream("a", Upstream::tcp().acts([Act::Echo]))
            .upstream("b", Upstream::tcp().acts([Act::Echo]))
            .tcp("weighted_clusters: {clusters: [{name: $b, weight: 1}]}")
            .client(hello().step(Step::Bytes(5)).step(Step::HalfClose)),
        scenario("tcp_breaker_on_connections")
            .up(Upstream::tcp().acts([Act::Hang]))
            .cluster("up", "circuit_breakers: {thresholds: [{max_connections: 1}]}")
            .tcp("{}")
            .client(hello().step(Step::Upstream(1)).fresh().end()),
        scenario("tcp_large_transfer")
            .up(Upstream::tcp().acts([Act::Echo]))
            .tcp("{}")
            .client(Client::raw().send("0123456789".repeat(20_000)).step(Step::Bytes(200_000)).step(Step::HalfClose)),
        scenario("listener_access_log_of_tcp")
            .up(Upstream::tcp().acts([Act::Echo]))
            .tcp("{}")
            .listener(OWN_LOG)
            .client(hello().step(Step::Bytes(5)).step(Step::HalfClose)),
        scenario("listener_access_log_without_a_cluster")
            .tcp("cluster: nobody")
            .listener(OWN_LOG)
            .client(Client::raw().end()),
        scenario("listener_access_log_without_a_filter_chain")
            .up(Upstream::tcp().acts([Act::Echo]))
            .tcp("{}")
            .listener(OWN_LOG)
            .filter_chain("filter_chain_match: {source_prefix_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]}")
            .client(Client::raw().end()),
        scenario("listener_access_log_of_http")
            .up(Upstream::h1().ok("ok"))
            .listener(OWN_LOG)
            .client(Client::raw().get("/one").get("/two")),
        scenario("listener_access_log_of_a_bad_request")
            .up(Upstream::h1().ok("ok"))
            .listener(OWN_LOG)
            .client(Client::raw().send("no request\r\n\r\n").end()),
        scenario("tcp_filter_chain_by_source_prefix")
            .up(Upstream::tcp().acts([Act::Echo]))
            .tcp("{}")
            .filter_chain("filter_chain_match: {source_prefix_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]}")
            .client(Client::raw().end()),
    ]
}
