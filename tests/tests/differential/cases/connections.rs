//! Upstream connections that end under a request, and what the further attempts of a request keep of the first.

use std::time::Duration;

use outrigger_tests::client::Client;
use outrigger_tests::upstream::{Act, Upstream};

use crate::scenario::{Scenario, scenario};

const NO_ERROR: u32 = 0;

pub(crate) fn cases() -> Vec<Scenario> {
    let post = "POST /2 HTTP/1.1\r\nhost: a.test\r\ncontent-length: 5\r\n\r\nhello";
    let resets_the_second = || Upstream::h1().ok("first").acts([Act::Rst]).ok("third");
    vec![
        scenario("reset_before_request_is_not_of_half_a_body")
            .up(Upstream::h1().acts([Act::Rst, Act::Body]).ok("twice"))
            .route("route: {cluster: $up, retry_policy: {retry_on: reset-before-request}}")
            .client(Client::raw().request("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 10\r\n\r\nhalf")),
        scenario("reset_of_a_reused_connection").up(resets_the_second()).client(Client::raw().get("/1").get("/2")),
        scenario("reset_of_a_reused_connection_under_post")
            .up(resets_the_second())
            .client(Client::raw().get("/1").request(post)),
        scenario("reset_of_a_new_connection").up(Upstream::h1().acts([Act::Rst]).ok("twice")).client(Client::raw().get("/")),
        scenario("h2_upstream_goes_away_without_a_retry_policy")
            .up(Upstream::h2().acts([Act::GoAway(NO_ERROR, false)]).ok("second"))
            .client(Client::raw().get("/")),
        scenario("h2_upstream_goes_away_twice")
            .up(Upstream::h2().acts([Act::GoAway(NO_ERROR, false)]))
            .client(Client::raw().get("/")),
        scenario("retry_tells_what_is_left_of_the_timeout")
            .up(Upstream::h1()
                .acts([
                    Act::Delay(Duration::from_millis(1320)),
                    Act::Send(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n".to_vec()),
                ])
                .ok("yes"))
            .route("route: {cluster: $up, timeout: 2s, retry_policy: {retry_on: 5xx, num_retries: 1}}")
            .client(Client::raw().get("/")),
        scenario("retry_keeps_the_server_name_of_the_first_attempt")
            .up(Upstream::h1().tls(&[]).status(503, "no").ok("yes"))
            .cluster(
                "up",
                "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {'@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, upstream_http_protocol_options: {auto_sni: true}, explicit_http_config: {http_protocol_options: {}}}}\n\
                 load_assignment: {cluster_name: $up, endpoints: [{lb_endpoints: [{endpoint: {hostname: another.test, address: {socket_address: {address: 127.0.0.1, port_value: $up:port}}}}]}]}",
            )
            .route("route: {cluster: $up, auto_host_rewrite: true, retry_policy: {retry_on: 5xx, num_retries: 1}}")
            .client(Client::raw().request("GET / HTTP/1.1\r\nhost: server.test\r\n\r\n")),
    ]
}
