//! What a route does to request and response: rewrites, redirects, direct responses, header operations.

use outrigger_tests::client::Client;
use outrigger_tests::upstream::Upstream;

use super::get_from;
use crate::scenario::{Scenario, scenario};

pub(crate) fn cases() -> Vec<Scenario> {
    let mut cases = rewrites();
    cases.extend(redirects());
    cases.extend(headers());
    cases
}

fn ok(name: &str) -> Scenario {
    scenario(name).up(Upstream::h1().ok(""))
}

fn rewrites() -> Vec<Scenario> {
    vec![
        ok("prefix_rewrite")
            .routes("- {match: {prefix: /old/}, route: {cluster: $up, prefix_rewrite: /new/, host_rewrite_literal: b.test}}")
            .client(Client::raw().get("/old/x?y=/old/")),
        ok("prefix_rewrite_of_an_exact_path")
            .routes("- {match: {path: /old}, route: {cluster: $up, prefix_rewrite: /}}")
            .client(Client::raw().get("/old?x=1")),
        ok("prefix_rewrite_of_a_regex_match")
            .routes("- {match: {safe_regex: {regex: '/old/.*'}}, route: {cluster: $up, prefix_rewrite: /new}}")
            .client(Client::raw().get("/old/x?x=1")),
        ok("regex_rewrite")
            .route(r"route: {cluster: $up, regex_rewrite: {pattern: {regex: '^/service/([^/]+)(/.*)$'}, substitution: '\2/instance/\1'}}")
            .client(Client::raw().get("/service/foo/v1/api?q=1").get("/unmatched")),
        ok("host_rewrite_from_a_header")
            .route("route: {cluster: $up, host_rewrite_header: x-host, append_x_forwarded_host: true}")
            .client(Client::raw().request(get_from("/", &["x-host: c.test"])).get("/")),
        ok("host_rewrite_from_the_path")
            .route(r"route: {cluster: $up, host_rewrite_path_regex: {pattern: {regex: '^/(.+)/.*$'}, substitution: '\1.test'}}")
            .client(Client::raw().get("/tenant/x?y").get("/none")),
    ]
}

fn redirects() -> Vec<Scenario> {
    let redirect = |name: &str, action: &str, client: Client| {
        scenario(name).route(&format!("redirect: {{{action}}}")).client(client)
    };
    vec![
        redirect(
            "redirect_to_https",
            "https_redirect: true",
            Client::raw()
                .get("/path?query=1")
                .request("GET / HTTP/1.1\r\nhost: a.test:80\r\n\r\n")
                .request("GET / HTTP/1.1\r\nhost: a.test:8080\r\n\r\n"),
        ),
        redirect(
            "redirect_to_another_host",
            "host_redirect: b.test, response_code: TEMPORARY_REDIRECT",
            Client::raw().get("/path?q"),
        ),
        redirect(
            "redirect_to_another_port",
            "port_redirect: 8443, scheme_redirect: https",
            Client::raw().get("/path?q"),
        ),
        redirect("redirect_path_with_query", "path_redirect: '/new?x=1'", Client::raw().get("/path?q")),
        redirect(
            "redirect_strips_query",
            "path_redirect: /new, strip_query: true, response_code: SEE_OTHER",
            Client::raw().get("/path?q"),
        ),
        redirect(
            "redirect_rewrites_prefix",
            "prefix_rewrite: /moved, response_code: PERMANENT_REDIRECT",
            Client::raw().get("/a/b?c"),
        ),
        redirect(
            "redirect_rewrites_by_regex",
            r"regex_rewrite: {pattern: {regex: '^/a/(.*)$'}, substitution: '/z/\1'}, response_code: FOUND",
            Client::raw().get("/a/b?c"),
        ),
        scenario("direct_response")
            .route("direct_response: {status: 418, body: {inline_string: short and stout}}")
            .client(Client::raw().get("/").request("HEAD / HTTP/1.1\r\nhost: a.test\r\n\r\n")),
        scenario("direct_response_with_headers_and_no_body")
            .route(
                "direct_response: {status: 204}, response_headers_to_add: [{header: {key: x-a, value: b}}, \
                 {header: {key: content-type, value: application/json}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]",
            )
            .client(Client::raw().get("/")),
        scenario("direct_response_to_a_request_with_body")
            .route("direct_response: {status: 200, body: {inline_string: early}}")
            .client(
                Client::raw()
                    .request("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 5\r\n\r\nhello")
                    .fresh()
                    .request("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 500000\r\n\r\nonly the begin"),
            ),
    ]
}

fn headers() -> Vec<Scenario> {
    let formats = [
        ("x-literal", "100%% of it"),
        ("x-peer", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
        ("x-protocol", "%PROTOCOL%"),
        ("x-request", "%REQ(X-A)%,%REQ(X-B?X-A)%,%REQ(X-A):2%"),
        ("x-missing", "%REQ(X-MISSING)%"),
        ("x-mixed", "[%REQ(X-MISSING)%]"),
        ("x-path", "%REQ(:PATH)% %REQ(:METHOD)%"),
        ("x-route", "%ROUTE_NAME%"),
        ("x-host", "%VIRTUAL_CLUSTER_NAME%"),
    ];
    let added = |formats: &[(&str, &str)]| {
        let one = |(key, value): &(&str, &str)| format!("{{header: {{key: {key}, value: '{value}'}}}}");
        formats.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    vec![
        scenario("header_operations")
            .up(Upstream::h1().reply("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx-secret: 1\r\nx-set: upstream\r\n\r\n"))
            .virtual_host(
                r"
request_headers_to_add:
- {header: {key: x-added, value: from-host}}
- {header: {key: x-set, value: replaced}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
- {header: {key: x-absent, value: kept}, append_action: ADD_IF_ABSENT}
- {header: {key: x-over, value: never}, append_action: OVERWRITE_IF_EXISTS}
request_headers_to_remove: [x-remove]
response_headers_to_add: [{header: {key: x-set, value: proxy}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]
response_headers_to_remove: [x-secret]",
            )
            .client(Client::raw().request(get_from(
                "/",
                &["x-added: client", "x-set: client", "x-absent: client", "x-remove: 1"],
            ))),
        ok("header_operations_at_three_levels")
            .route_config("{request_headers_to_add: [{header: {key: x-l, value: config}}], response_headers_to_add: [{header: {key: x-l, value: config}}]}")
            .virtual_host("{request_headers_to_add: [{header: {key: x-l, value: host}}], response_headers_to_add: [{header: {key: x-l, value: host}}]}")
            .route("route: {cluster: $up}, request_headers_to_add: [{header: {key: x-l, value: route}}], response_headers_to_add: [{header: {key: x-l, value: route}}]")
            .client(Client::raw().get("/")),
        ok("header_operations_most_specific_wins")
            .route_config("{most_specific_header_mutations_wins: true, request_headers_to_add: [{header: {key: x-l, value: config}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]}")
            .virtual_host("{request_headers_to_add: [{header: {key: x-l, value: host}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]}")
            .route("route: {cluster: $up}, request_headers_to_add: [{header: {key: x-l, value: route}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]")
            .client(Client::raw().get("/")),
        ok("header_formats_on_the_request")
            .route(&format!("name: my-route, route: {{cluster: $up}}, request_headers_to_add: [{}]", added(&formats)))
            .client(Client::raw().request(get_from("/path?q", &["x-a: abcdef"]))),
        scenario("header_formats_on_the_response")
            .up(Upstream::h1().reply("HTTP/1.1 201 Created\r\ncontent-length: 0\r\nx-u: up\r\n\r\n"))
            .route(&format!(
                "name: my-route, route: {{cluster: $up}}, response_headers_to_add: [{}]",
                added(&[
                    ("x-code", "%RESPONSE_CODE%"),
                    ("x-flags", "%RESPONSE_FLAGS%"),
                    ("x-details", "%RESPONSE_CODE_DETAILS%"),
                    ("x-copy", "%RESP(X-U)%"),
                    ("x-cluster", "%UPSTREAM_CLUSTER%"),
                    ("x-upstream", "%UPSTREAM_HOST%"),
                    ("x-request", "%REQ(X-A)%"),
                ])
            ))
            .client(Client::raw().request(get_from("/", &["x-a: 1"]))),
        ok("header_operations_keep_empty_values")
            .route("route: {cluster: $up}, request_headers_to_add: [{header: {key: x-e, value: '%REQ(X-MISSING)%'}, keep_empty_value: true}]")
            .client(Client::raw().get("/")),
        ok("attempt_count_is_shown")
            .virtual_host("{include_request_attempt_count: true, include_attempt_count_in_response: true}")
            .client(Client::raw().get("/")),
        ok("response_headers_on_a_local_reply")
            .virtual_host("{routes: [], response_headers_to_add: [{header: {key: x-a, value: b}}]}")
            .client(Client::raw().get("/")),
    ]
}
