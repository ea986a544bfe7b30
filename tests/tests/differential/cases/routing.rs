//! Which route a request takes, and what becomes of it there.

use outrigger_tests::client::Client;
use outrigger_tests::upstream::Upstream;

use crate::scenario::{Scenario, scenario};

pub(crate) fn cases() -> Vec<Scenario> {
    vec![
        scenario("first_match_wins")
            .upstream("a", Upstream::h1().ok("a"))
            .upstream("b", Upstream::h1().ok("b"))
            .routes(
                r"
- {match: {prefix: /a}, route: {cluster: $a}}
- {match: {path: /a/exact}, route: {cluster: $b}}
- {match: {path: /b}, route: {cluster: $b}}",
            )
            .client(Client::raw().get("/a").get("/a/exact").get("/b?q=1").get("/ab").get("/b/")),
        scenario("no_route_is_404").virtual_host("routes: []").client(Client::raw().get("/").get("/again")),
        scenario("no_cluster_is_503")
            .route_config("validate_clusters: false")
            .route("route: {cluster: missing}")
            .client(Client::raw().get("/")),
        scenario("direct_response")
            .route("direct_response: {status: 418, body: {inline_string: short and stout}}")
            .client(Client::raw().get("/").request("HEAD / HTTP/1.1\r\nhost: a.test\r\n\r\n")),
        scenario("redirect_to_https")
            .route("redirect: {https_redirect: true}")
            .client(Client::raw().get("/path?query=1")),
        scenario("header_operations")
            .up(Upstream::h1().reply("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-secret: 1\r\nx-set: upstream\r\n\r\n"))
            .route("route: {cluster: $up}")
            .virtual_host(
                r"
request_headers_to_add:
- {header: {key: x-added, value: from-host}}
- {header: {key: x-set, value: replaced}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
- {header: {key: x-absent, value: kept}, append_action: ADD_IF_ABSENT}
request_headers_to_remove: [x-remove]
response_headers_to_add: [{header: {key: x-set, value: proxy}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]
response_headers_to_remove: [x-secret]",
            )
            .client(Client::raw().request(
                "GET / HTTP/1.1\r\nhost: a.test\r\nx-added: client\r\nx-set: client\r\nx-absent: client\r\nx-remove: 1\r\n\r\n",
            )),
        scenario("prefix_rewrite")
            .up(Upstream::h1().ok(""))
            .routes("- {match: {prefix: /old/}, route: {cluster: $up, prefix_rewrite: /new/, host_rewrite_literal: b.test}}")
            .client(Client::raw().get("/old/x?y=/old/")),
    ]
}
