//! One fault each: refused, with its path, its value and the reason.

use crate::route::RouteTable;
use crate::testing::convert;

fn problems(yaml: &str) -> Vec<String> {
    convert(yaml, RouteTable::convert).err().unwrap_or_default()
}

fn of_route(route: &str) -> Vec<String> {
    problems(&format!("virtual_hosts: [{{name: v, domains: ['*'], routes: [{{{route}}}]}}]"))
}

#[test]
fn faults_of_tables_and_virtual_hosts() {
    for (yaml, problem) in [
        ("virtual_hosts: [{name: v}]", "virtual_hosts[0].domains: at least one is required"),
        ("virtual_hosts: [{domains: [a]}]", "virtual_hosts[0].name: must not be empty"),
        (
            "virtual_hosts: [{name: a, domains: [x, q]}, {name: b, domains: [z, Q]}]",
            "virtual_hosts[1].domains[1]: Q: the same domain stands in this table before",
        ),
        ("vhds: {}", "vhds: not in this version"),
        (
            "request_mirror_policies: [{cluster: a}]",
            "request_mirror_policies: not in this version: mirroring comes later",
        ),
        (
            "request_headers_to_remove: [Host]",
            "request_headers_to_remove[0]: Host: pseudo-headers and host must not be modified here: a route has rewrites for them",
        ),
        ("response_headers_to_remove: ['a b']", "response_headers_to_remove[0]: a b: not a header name"),
        (
            "request_headers_to_add: [{header: {key: ':path', value: x}}]",
            "request_headers_to_add[0].header.key: :path: pseudo-headers and host must not be modified here: a route has rewrites for them",
        ),
        (
            "request_headers_to_add: [{header: {key: x, value: '%NOPE%'}}]",
            "request_headers_to_add[0].header.value: %NOPE%: no such operator in this version",
        ),
        ("request_headers_to_add: [{header: {key: x, value: 'a\\nb'}}]", ""),
        (
            "request_headers_to_add: [{header: {key: x, value: \"a\\nb\"}}]",
            "request_headers_to_add[0].header.value: a\\nb: not the value of a header",
        ),
        (
            "request_headers_to_add: [{header: {key: x, value: v}, append: true, append_action: ADD_IF_ABSENT}]",
            "request_headers_to_add[0].append: true: append and append_action exclude each other",
        ),
        (
            "internal_only_headers: [x-a]",
            "internal_only_headers: not in this version: they would have to be taken from requests of the outside",
        ),
    ] {
        let found = problems(yaml);
        assert_eq!(found.first().map_or("", |problem| problem), problem, "{yaml}");
        assert!(found.len() <= 1, "{found:?}");
    }
}

#[test]
fn headers_to_add_are_bounded() {
    let header = |name: &str, value: &str| format!("{{header: {{key: {name}, value: {value}}}}}");
    let list = |field: &str, list: &str| problems(&format!("{field}: [{list}]"));
    let (at_most, above) = ("x".repeat(16 << 10), "x".repeat((16 << 10) + 1));
    for field in ["request_headers_to_add", "response_headers_to_add"] {
        assert_eq!(list(field, &header("a", &at_most)), [""; 0]);
        let reason = "16385 bytes: must be at most 16384 bytes";
        assert_eq!(list(field, &header("a", &above)), [format!("{field}[0].header.value: {reason}")]);
        assert_eq!(list(field, &header(&above, "a")), [format!("{field}[0].header.key: {reason}")]);
        assert_eq!(list(field, &vec![header("a", "b"); 1000].join(",")), [""; 0]);
        let many = list(field, &vec![header("a", "b"); 1001].join(","));
        assert_eq!(many, [format!("{field}: 1001: must be at most 1000 headers")]);
    }
}

#[test]
fn faults_of_routes() {
    let direct = "direct_response: {status: 200}";
    for (route, problem) in [
        (direct.to_owned(), "match: is required"),
        ("match: {prefix: /}".into(), "one of route, redirect, direct_response, non_forwarding_action is required"),
        (format!("match: {{}}, {direct}"), "match: one of prefix, path, safe_regex, path_separated_prefix is required"),
        (
            format!("match: {{path_separated_prefix: /a/}}, {direct}"),
            "match.path_separated_prefix: /a/: must begin with /, must not end with /, and holds neither ? nor #",
        ),
        (format!("match: {{safe_regex: {{regex: '('}}}}, {direct}"), "match.safe_regex.regex: (: unclosed group"),
        (
            format!("match: {{prefix: /, headers: [{{name: 'a b'}}]}}, {direct}"),
            "match.headers[0].name: a b: not a header name",
        ),
        (
            format!("match: {{prefix: /, headers: [{{name: a, string_match: {{prefix: ''}}}}]}}, {direct}"),
            "match.headers[0].string_match.prefix: must not be empty",
        ),
        (
            format!("match: {{prefix: /, runtime_fraction: {{}}}}, {direct}"),
            "match.runtime_fraction.default_value: is required",
        ),
        (
            format!("match: {{connect_matcher: {{}}}}, {direct}"),
            "match.connect_matcher: not in this version: CONNECT comes later",
        ),
        (
            "match: {prefix: /}, direct_response: {status: 600}".into(),
            "direct_response.status: 600: must be at least 200 and less than 600",
        ),
        (
            format!(
                "match: {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: '{}'}}}}",
                "x".repeat(4097)
            ),
            "direct_response.body: 4097 bytes: longer than max_direct_response_body_size_bytes, 4096",
        ),
        (
            "match: {prefix: /}, redirect: {port_redirect: 65536}".into(),
            "redirect.port_redirect: 65536: must be at most 65535",
        ),
        (
            "match: {prefix: /}, route: {}".into(),
            "route: one of cluster, cluster_header, weighted_clusters is required",
        ),
        ("match: {prefix: /}, route: {cluster: a, timeout: -1s}".into(), "route.timeout: -1s: must not be negative"),
        (
            "match: {prefix: /}, route: {cluster: a, prefix_rewrite: /x, regex_rewrite: {pattern: {regex: a}}}".into(),
            "route: prefix_rewrite, regex_rewrite and path_rewrite exclude each other",
        ),
        (
            "match: {prefix: /}, route: {cluster: a, regex_rewrite: {pattern: {regex: a}, substitution: '\\1'}}".into(),
            "route.regex_rewrite.substitution: \\1: names group 1, but the pattern has 0 groups",
        ),
        (
            "match: {prefix: /}, route: {cluster: a, path_rewrite: '/%NO%'}".into(),
            "route.path_rewrite: %NO%: no such operator in this version",
        ),
        (
            "match: {prefix: /}, route: {weighted_clusters: {clusters: [{name: a, weight: 0}]}}".into(),
            "route.weighted_clusters.clusters: 0: the sum of the weights must be at least 1 and at most 4294967295",
        ),
        (
            "match: {prefix: /}, route: {weighted_clusters: {clusters: [{name: a, cluster_header: b, weight: 1}]}}"
                .into(),
            "route.weighted_clusters.clusters[0]: a: exactly one of name and cluster_header is required",
        ),
        (
            "match: {prefix: /}, route: {cluster: a, upgrade_configs: [{upgrade_type: w}, {upgrade_type: W}]}".into(),
            "route.upgrade_configs[1].upgrade_type: W: is there twice",
        ),
        (
            "match: {prefix: /}, route: {cluster: a, hedge_policy: {}}".into(),
            "route.hedge_policy: not in this version: hedging comes later",
        ),
    ] {
        let found = of_route(&route);
        let [found] = found.as_slice() else { panic!("{route}: {found:?}") };
        let path = "virtual_hosts[0].routes[0]";
        let separator = if problem.starts_with("one of route") { ": " } else { "." };
        assert_eq!(*found, format!("{path}{separator}{problem}"), "{route}");
    }
}
