//! Which route a request takes.

use outrigger_tests::client::Client;
use outrigger_tests::upstream::Upstream;

use super::get_from;
use crate::scenario::{Scenario, scenario};

/// A scenario whose routes answer by themselves: what matched is what the body says.
fn direct(name: &str, routes: &str, client: Client) -> Scenario {
    let answers = |line: &str| match line.split_once("=> ") {
        Some((route, body)) => {
            format!("{route}, direct_response: {{status: 200, body: {{inline_string: {body}}}}}}}")
        }
        None => line.to_owned(),
    };
    let routes: Vec<String> = routes.lines().map(answers).collect();
    scenario(name).routes(&routes.join("\n")).client(client)
}

pub(crate) fn cases() -> Vec<Scenario> {
    let mut cases = matching();
    cases.extend(clusters());
    cases
}

fn matching() -> Vec<Scenario> {
    vec![
        direct(
            "first_match_wins",
            "- {match: {prefix: /a} => a
- {match: {path: /a/exact} => never
- {match: {path: /b} => b",
            Client::raw().get("/a").get("/a/exact").get("/b?q=1").get("/ab").get("/b/"),
        ),
        direct(
            "path_match_ignores_case",
            "- {match: {path: /Exact, case_sensitive: false} => exact
- {match: {prefix: /Pre, case_sensitive: false} => prefix",
            Client::raw().get("/EXACT").get("/prefix").get("/other"),
        ),
        direct(
            "regex_matches_the_whole_path",
            "- {match: {safe_regex: {regex: '/v[0-9]+/x'}} => regex",
            Client::raw().get("/v12/x").get("/v12/x?query").get("/v12/xy").get("/a/v12/x"),
        ),
        direct(
            "path_separated_prefix",
            "- {match: {path_separated_prefix: /api} => api",
            Client::raw().get("/api").get("/api/v1").get("/api?x").get("/apis").get("/api/"),
        ),
        direct(
            "header_matchers",
            "- {match: {prefix: /, headers: [{name: x-a, string_match: {exact: one}}]} => exact
- {match: {prefix: /, headers: [{name: x-a, string_match: {prefix: pre}}]} => prefix
- {match: {prefix: /, headers: [{name: x-a, string_match: {suffix: .end}}]} => suffix
- {match: {prefix: /, headers: [{name: x-a, string_match: {contains: mid}}]} => contains
- {match: {prefix: /, headers: [{name: x-a, string_match: {exact: CASE, ignore_case: true}}]} => ignore-case
- {match: {prefix: /, headers: [{name: x-a, string_match: {safe_regex: {regex: 'r+'}}}]} => regex
- {match: {prefix: /, headers: [{name: x-n, range_match: {start: 10, end: 20}}]} => range
- {match: {prefix: /, headers: [{name: x-p, present_match: true}]} => present
- {match: {prefix: /, headers: [{name: x-i, string_match: {exact: 'no'}, invert_match: true}]} => inverted",
            ["x-a: one", "x-a: prefixed", "x-a: the.end", "x-a: amidst", "x-a: case", "x-a: rrr", "x-n: 10", "x-n: 20", "x-p:", "x-i: no", "x-i: yes"]
                .iter()
                .fold(Client::raw(), |client, field| client.request(get_from("/", &[field]))),
        ),
        header_matchers_of_absent_and_repeated_fields(),
        direct(
            "query_matchers",
            "- {match: {prefix: /, query_parameters: [{name: a, string_match: {exact: '1'}}, {name: b, present_match: true}]} => both
- {match: {prefix: /, query_parameters: [{name: a, string_match: {prefix: x}}]} => prefix
- {match: {prefix: /, query_parameters: [{name: c, present_match: true}]} => present",
            Client::raw().get("/?a=1&b").get("/?b=2&a=1").get("/?a=xyz").get("/?c=").get("/?a=2&a=1&b").get("/?d"),
        ),
        direct(
            "runtime_fraction_none_and_all",
            "- {match: {prefix: /, runtime_fraction: {default_value: {numerator: 0, denominator: HUNDRED}}} => none
- {match: {prefix: /, runtime_fraction: {default_value: {numerator: 100, denominator: HUNDRED}}} => all",
            Client::raw().get("/"),
        ),
        direct(
            "grpc_route_matches_by_content_type",
            "- {match: {prefix: /, grpc: {}} => grpc
- {match: {prefix: /} => other",
            Client::raw()
                .request(get_from("/", &["content-type: application/grpc"]))
                .request(get_from("/", &["content-type: application/grpc+proto"]))
                .request(get_from("/", &["content-type: application/grpc-web"]))
                .get("/"),
        ),
        direct(
            "fragment_in_the_path",
            "- {match: {path: /a} => a
- {match: {prefix: /} => other",
            Client::raw().get("/a#fragment"),
        ),
        direct(
            "path_is_normalised",
            "- {match: {path: /b} => b
- {match: {prefix: /} => other",
            ["/a/../b", "/a/./b", "//b", "/%62", "/a/%2e%2e/b", "/../b", "/a\\..\\b", "/%zz"]
                .iter()
                .fold(Client::raw(), |client, path| client.fresh().get(path)),
        )
        .hcm("{normalize_path: true}"),
        direct(
            "path_is_left_alone",
            "- {match: {path: /b} => b
- {match: {prefix: /} => other",
            Client::raw().get("/a/../b").get("//b").get("/%62"),
        )
        .hcm("{normalize_path: false}"),
        direct(
            "slashes_are_merged",
            "- {match: {path: /a/b} => merged
- {match: {prefix: /} => other",
            Client::raw().get("/a//b").get("///a///b").get("/a/b?x=//"),
        )
        .hcm("{merge_slashes: true}"),
        direct(
            "escaped_slashes_are_rejected",
            "- {match: {prefix: /} => ok",
            Client::raw().get("/a%2fb").fresh().get("/a%5Cb").fresh().get("/ab"),
        )
        .hcm("{path_with_escaped_slashes_action: REJECT_REQUEST}"),
        direct(
            "escaped_slashes_are_unescaped_and_redirected",
            "- {match: {prefix: /} => ok",
            Client::raw().get("/a%2Fb?x=%2f").get("/ab"),
        )
        .hcm("{path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT}"),
        direct(
            "escaped_slashes_are_unescaped_and_forwarded",
            "- {match: {path: /a/b} => unescaped
- {match: {prefix: /} => other",
            Client::raw().get("/a%2Fb").get("/a%5cb"),
        )
        .hcm("{path_with_escaped_slashes_action: UNESCAPE_AND_FORWARD}"),
        domains("domains_by_precedence").client(hosts(&[
            "a.test",
            "A.Test",
            "x.a.test",
            "x.y.a.test",
            "b.test",
            "b.example",
            "other",
            "a.test:80",
        ])),
        domains("domains_without_the_port")
            .route_config("ignore_port_in_host_matching: true")
            .client(hosts(&["a.test:80", "x.a.test:8080"])),
        scenario("host_port_is_stripped")
            .up(Upstream::h1().ok(""))
            .hcm("strip_any_host_port: true")
            .client(hosts(&["a.test:80", "a.test:8080", "[::1]:80", "[::1]"])),
        scenario("matching_host_port_is_stripped")
            .up(Upstream::h1().ok(""))
            .hcm("strip_matching_host_port: true")
            .client(hosts(&["a.test:80", "a.test:8080"])),
        scenario("trailing_dot_of_the_host_is_stripped")
            .up(Upstream::h1().ok(""))
            .hcm("strip_trailing_host_dot: true")
            .client(hosts(&["a.test.", "a.test.:80", "a.test"])),
        scenario("no_virtual_host_is_404")
            .virtual_host("domains: [b.test]")
            .client(Client::raw().get("/").request("GET / HTTP/1.1\r\nhost: b.test\r\n\r\n")),
        scenario("no_route_is_404").virtual_host("routes: []").client(Client::raw().get("/").get("/again")),
        scenario("virtual_host_requires_tls")
            .virtual_host("require_tls: ALL")
            .client(Client::raw().get("/path?q").request(get_from("/", &["x-forwarded-proto: https"]))),
    ]
}

/// Each kind of matcher, plain and inverted, before a field that is missing, there once, and repeated. `accept` and
/// `x-forwarded-for` are of those fields of which Envoy has one at most.
fn header_matchers_of_absent_and_repeated_fields() -> Scenario {
    let rules = [
        "present_match: true",
        "present_match: false",
        "string_match: {exact: one}",
        "string_match: {exact: 'one,two'}",
        "string_match: {exact: ''}",
        "string_match: {prefix: one}",
        "string_match: {suffix: one}",
        "string_match: {contains: ','}",
        "string_match: {safe_regex: {regex: 'o.*e'}}",
        "range_match: {start: 5, end: 10}",
    ];
    let more = [
        "",
        ", invert_match: true",
        ", treat_missing_header_as_empty: true",
        ", invert_match: true, treat_missing_header_as_empty: true",
    ];
    let values: [&[&str]; 7] = [&["one", "two"], &["two", "one"], &["", ""], &["7", "30"], &[], &["one"], &["two"]];
    let mut routes = Vec::new();
    let mut client = Client::raw();
    for (name, field) in [("x-a", "a"), ("accept", "b"), ("x-forwarded-for", "c")] {
        for (number, rule) in rules.iter().enumerate() {
            for (further, more) in more.iter().enumerate().filter(|(further, _)| name == "x-a" || *further == 0) {
                let path = format!("/{field}{number}.{further}");
                routes
                    .push(format!("- {{match: {{path: {path}, headers: [{{name: {name}, {rule}{more}}}]}} => matched"));
                // What repeats is what the last two are about.
                for values in values.iter().take(if name == "x-a" { values.len() } else { 4 }) {
                    let fields: Vec<String> = values.iter().map(|value| format!("{name}: {value}")).collect();
                    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
                    client = client.request(get_from(&path, &fields));
                }
            }
        }
    }
    direct("header_matchers_of_absent_and_repeated_fields", &routes.join("\n"), client)
}

fn domains(name: &str) -> Scenario {
    let host = |name: &str, domains: &str| {
        format!(
            "{{name: {name}, domains: [{domains}], routes: [{{match: {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: {name}}}}}}}]}}"
        )
    };
    let hosts = [
        host("rest", "'*'"),
        host("prefix", "'b.*'"),
        host("suffix", "'*.a.test'"),
        host("longer", "'*.y.a.test'"),
        host("exact", "a.test, b.test"),
    ];
    scenario(name).route_config(&format!("virtual_hosts: [{}]", hosts.join(", ")))
}

fn hosts(hosts: &[&str]) -> Client {
    hosts.iter().fold(Client::raw(), |client, host| client.request(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")))
}

fn clusters() -> Vec<Scenario> {
    let two = |name: &str| scenario(name).upstream("a", Upstream::h1().ok("a")).upstream("b", Upstream::h1().ok("b"));
    vec![
        scenario("no_cluster_is_503")
            .route_config("validate_clusters: false")
            .route("route: {cluster: missing}")
            .client(Client::raw().get("/")),
        scenario("no_cluster_with_a_status_of_its_own")
            .route_config("validate_clusters: false")
            .route("route: {cluster: missing, cluster_not_found_response_code: NOT_FOUND}")
            .client(Client::raw().get("/")),
        two("cluster_by_header").route("route: {cluster_header: x-cluster}").client(
            Client::raw()
                .request(get_from("/", &["x-cluster: cluster_by_header_b"]))
                .request(get_from("/", &["x-cluster: missing"]))
                .get("/"),
        ),
        two("weighted_clusters_all_to_one")
            .route("route: {weighted_clusters: {clusters: [{name: $a, weight: 0}, {name: $b, weight: 100}]}}")
            .client(Client::raw().get("/").get("/").get("/")),
        two("weighted_cluster_with_header_operations")
            .route(
                "route: {weighted_clusters: {clusters: [{name: $b, weight: 1, host_rewrite_literal: w.test, \
                 request_headers_to_add: [{header: {key: x-weighted, value: 'yes'}}], response_headers_to_remove: [x-gone], \
                 response_headers_to_add: [{header: {key: x-from, value: b}}]}]}}",
            )
            .client(Client::raw().get("/")),
        scenario("empty_cluster_is_503")
            .up(Upstream::h1())
            .cluster("up", "load_assignment: {cluster_name: x, endpoints: []}")
            .client(Client::raw().get("/")),
        scenario("round_robin_over_two_endpoints")
            .up(Upstream::h1().endpoints(2).ok(""))
            .client(Client::raw().get("/1").get("/2").get("/3").get("/4")),
        two("second_priority_when_the_first_is_unhealthy")
            .cluster(
                "a",
                "load_assignment: {cluster_name: x, endpoints: [\
                 {priority: 0, lb_endpoints: [{health_status: UNHEALTHY, endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: $a:port}}}}]}, \
                 {priority: 1, lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: $b:port}}}}]}]}",
            )
            .client(Client::raw().get("/1").get("/2")),
        two("unhealthy_endpoints_are_used_in_panic")
            .cluster(
                "a",
                "load_assignment: {cluster_name: x, endpoints: [\
                 {lb_endpoints: [{health_status: UNHEALTHY, endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: $a:port}}}}]}]}",
            )
            .client(Client::raw().get("/1")),
        two("unhealthy_endpoints_without_panic")
            .cluster(
                "a",
                "{common_lb_config: {healthy_panic_threshold: {value: 0}}, load_assignment: {cluster_name: x, endpoints: [\
                 {lb_endpoints: [{health_status: UNHEALTHY, endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: $a:port}}}}]}]}}",
            )
            .client(Client::raw().get("/1")),
        scenario("strict_dns_cluster")
            .up(Upstream::h1().ok("resolved"))
            .cluster(
                "up",
                "{type: STRICT_DNS, dns_lookup_family: V4_ONLY, load_assignment: {cluster_name: x, endpoints: [{lb_endpoints: [{endpoint: \
                 {address: {socket_address: {address: localhost, port_value: $up:port}}}}]}]}}",
            )
            .route("route: {cluster: $up, auto_host_rewrite: true, append_x_forwarded_host: true}")
            .client(Client::raw().get("/")),
        scenario("logical_dns_cluster")
            .up(Upstream::h1().ok("resolved"))
            .cluster(
                "up",
                "{type: LOGICAL_DNS, dns_lookup_family: V4_ONLY, load_assignment: {cluster_name: x, endpoints: [{lb_endpoints: [{endpoint: \
                 {address: {socket_address: {address: localhost, port_value: $up:port}}}}]}]}}",
            )
            .client(Client::raw().get("/")),
    ]
}
