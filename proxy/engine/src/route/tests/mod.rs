use http::StatusCode;

use crate::message::RequestHead;
use crate::route::{Action, Lookup, RouteTable};
use crate::testing::{convert, request};

mod apply;
mod property;
mod rejected;

fn table(yaml: &str) -> RouteTable {
    convert(yaml, RouteTable::convert).unwrap()
}

/// A table whose routes each answer with their name; `routes` are flow mappings without braces: name and `match`.
fn named(routes: &[(&str, &str)]) -> RouteTable {
    let mut yaml = String::from("virtual_hosts: [{name: v, domains: ['*'], routes: [\n");
    for (name, matches) in routes {
        yaml.push_str(&format!("{{name: {name}, match: {{{matches}}}, direct_response: {{status: 200}}}},\n"));
    }
    yaml.push_str("]}]");
    table(&yaml)
}

fn found<'t>(table: &'t RouteTable, request: &RequestHead, random: u64) -> &'t str {
    match table.find(request, random) {
        Lookup::Found(found) => &found.route.name,
        _ => "-",
    }
}

#[test]
fn each_kind_of_path() {
    let table = named(&[
        ("exact", "path: /exact"),
        ("exact-any-case", "path: /Any, case_sensitive: false"),
        ("separated", "path_separated_prefix: /sep"),
        ("regex", "safe_regex: {regex: '/r/[0-9]+'}"),
        ("prefix-any-case", "prefix: /PRE, case_sensitive: false"),
        ("prefix", "prefix: /p"),
    ]);
    for (path, name) in [
        ("/exact", "exact"),
        ("/exact?x=/", "exact"),
        ("/exact/", "-"),
        ("/Exact", "-"),
        ("/aNY", "exact-any-case"),
        ("/sep", "separated"),
        ("/sep/x", "separated"),
        ("/sep?x", "separated"),
        ("/sepx", "-"),
        ("/r/42?y", "regex"),
        ("/r/42/", "-"),
        ("/prefix", "prefix-any-case"),
        ("/p?", "prefix"),
        ("/", "-"),
    ] {
        assert_eq!(found(&table, &request("h", path, &[]), 0), name, "{path}");
    }
}

#[test]
fn the_first_rule_of_the_configuration_wins() {
    let table = named(&[("short", "prefix: /a"), ("long", "prefix: /a/b"), ("exact", "path: /a/b/c")]);
    assert_eq!(found(&table, &request("h", "/a/b/c", &[]), 0), "short");
}

#[test]
fn each_kind_of_header_matcher() {
    let cases = [
        ("string_match: {exact: a}", "a", true),
        ("string_match: {exact: a}", "b", false),
        ("string_match: {prefix: A, ignore_case: true}", "ab", true),
        ("string_match: {suffix: b}", "ab", true),
        ("string_match: {contains: x}", "axb", true),
        ("string_match: {safe_regex: {regex: 'a+'}}", "aab", false),
        ("string_match: {safe_regex: {regex: 'a+'}}", "aa", true),
        ("string_match: {exact: a}, invert_match: true", "b", true),
        ("range_match: {start: 1, end: 5}", "04", true),
        ("range_match: {start: 1, end: 5}", "+4", true),
        ("range_match: {start: -3, end: 5}", "5", false),
        ("range_match: {start: 1, end: 5}", "4x", false),
        ("present_match: true", "", true),
        ("present_match: false", "x", false),
        ("present_match: false, invert_match: true", "x", true),
        ("exact_match: a", "a", true),
        ("prefix_match: a", "ab", true),
        ("suffix_match: b", "ab", true),
        ("contains_match: z", "ab", false),
        ("safe_regex_match: {regex: '.b'}", "ab", true),
    ];
    for (rule, value, matches) in cases {
        let table = named(&[("hit", &format!("prefix: /, headers: [{{name: X-H, {rule}}}]"))]);
        let name = if matches { "hit" } else { "-" };
        assert_eq!(found(&table, &request("h", "/", &[("x-h", value)]), 0), name, "{rule} with {value}");
    }
}

#[test]
fn a_missing_header_matches_absence_only() {
    for (rule, matches) in [
        ("present_match: false", true),
        ("present_match: true, invert_match: true", true),
        ("present_match: true", false),
        ("present_match: false, invert_match: true", false),
        ("string_match: {exact: a}, invert_match: true", false),
        ("string_match: {exact: a}, invert_match: true, treat_missing_header_as_empty: true", true),
        ("string_match: {exact: ''}, treat_missing_header_as_empty: true", true),
        ("present_match: false, treat_missing_header_as_empty: true", false),
    ] {
        let table = named(&[("hit", &format!("prefix: /, headers: [{{name: x-h, {rule}}}]"))]);
        assert_eq!(found(&table, &request("h", "/", &[]), 0), if matches { "hit" } else { "-" }, "{rule}");
    }
}

#[test]
fn each_of_repeated_headers_counts_and_pseudo_headers_are_headers() {
    let table = named(&[
        ("joined", "prefix: /, headers: [{name: accept, string_match: {exact: 'a,b'}}]"),
        ("not joined", "prefix: /, headers: [{name: x-h, string_match: {exact: 'a,b'}}]"),
        ("second", "prefix: /, headers: [{name: x-h, string_match: {exact: b}}]"),
        ("method", "prefix: /, headers: [{name: ':method', string_match: {exact: POST}}]"),
        ("host", "prefix: /, headers: [{name: host, string_match: {exact: special}}]"),
        ("path", "prefix: /, headers: [{name: ':path', string_match: {suffix: '?q'}}]"),
    ]);
    assert_eq!(found(&table, &request("h", "/", &[("x-h", "a"), ("x-h", "b")]), 0), "second");
    assert_eq!(found(&table, &request("h", "/", &[("accept", "a"), ("accept", "b")]), 0), "joined");
    let mut post = request("h", "/", &[]);
    post.method = http::Method::POST;
    assert_eq!(found(&table, &post, 0), "method");
    assert_eq!(found(&table, &request("special", "/", &[]), 0), "host");
    assert_eq!(found(&table, &request("h", "/x?q", &[]), 0), "path");
}

#[test]
fn a_request_without_a_path_has_no_route() {
    for rule in ["prefix: ''", "safe_regex: {regex: '.*'}", "path: ''"] {
        let table = named(&[("hit", rule)]);
        let mut connect = request("h", "", &[]);
        connect.method = http::Method::CONNECT;
        assert_eq!(found(&table, &connect, 0), "-", "{rule}");
    }
    assert_eq!(found(&named(&[("hit", "prefix: ''")]), &request("h", "/", &[]), 0), "hit");
}

#[test]
fn query_parameters_cookies_and_grpc() {
    let table = named(&[
        ("value", "prefix: /, query_parameters: [{name: a, string_match: {exact: '1'}}]"),
        ("both", "prefix: /, query_parameters: [{name: b}, {name: c, present_match: true}]"),
        ("cookie", "prefix: /, cookies: [{name: k, string_match: {exact: v}}]"),
        ("grpc", "prefix: /, grpc: {}"),
        ("without", "prefix: /w, query_parameters: [{name: z, present_match: false}]"),
    ]);
    let find = |path: &str, headers: &[(&str, &str)]| found(&table, &request("h", path, headers), 0).to_owned();
    assert_eq!(find("/?x&a=1", &[]), "value");
    assert_eq!(find("/?a=2&a=1", &[]), "-", "the first value counts");
    assert_eq!(find("/?c&b=", &[]), "both");
    assert_eq!(find("/", &[("cookie", "x=y; k=\"v\"")]), "cookie");
    assert_eq!(find("/", &[("cookie", "x=y"), ("cookie", "k=v")]), "cookie");
    assert_eq!(find("/", &[("content-type", "application/grpc+proto")]), "grpc");
    assert_eq!(find("/", &[("content-type", "application/grpc;x")]), "-");
    assert_eq!(find("/w?y", &[]), "without");
    assert_eq!(find("/w?z=1", &[]), "-");
}

#[test]
fn a_fraction_of_requests() {
    let fraction = "runtime_fraction: {default_value: {numerator: 25, denominator: HUNDRED}}";
    let table = named(&[("some", &format!("prefix: /, {fraction}")), ("rest", "prefix: /")]);
    let request = request("h", "/", &[]);
    let some = (0..1000u64).filter(|random| found(&table, &request, *random) == "some").count();
    assert_eq!(some, 250);
}

#[test]
fn virtual_hosts_and_what_they_lack() {
    let table = table(
        "{ignore_port_in_host_matching: true, virtual_hosts: [
           {name: a, domains: [a.example, '*.a.example'], routes: [{match: {path: /x}, direct_response: {status: 204}}]},
           {name: tls, domains: [tls.example], require_tls: EXTERNAL_ONLY}]}",
    );
    assert!(matches!(table.find(&request("b.example", "/x", &[]), 0), Lookup::NoVirtualHost));
    assert!(matches!(table.find(&request("a.example:80", "/y", &[]), 0), Lookup::NoRoute(host) if &*host.name == "a"));
    let Lookup::Found(found) = table.find(&request("x.A.example", "/x?y", &[]), 0) else { panic!() };
    let Action::Respond(response) = &found.route.action else { panic!() };
    assert_eq!((response.status, response.body().len()), (StatusCode::NO_CONTENT, 0));
    let Lookup::RequireTls(_, location) = table.find(&request("tls.example", "/q?a", &[]), 0) else { panic!() };
    assert_eq!(location, "https://tls.example/q?a");
    for header in [("x-forwarded-proto", "https"), ("x-envoy-internal", "true")] {
        assert!(matches!(table.find(&request("tls.example", "/", &[header]), 0), Lookup::NoRoute(_)));
    }
}

#[test]
fn path_parameters_are_ignored_where_asked() {
    let yaml = |ignore: bool| {
        format!(
            "{{ignore_path_parameters_in_path_matching: {ignore}, virtual_hosts: [{{name: v, domains: ['*'],
               routes: [{{name: hit, match: {{path: /a}}, direct_response: {{status: 200}}}}]}}]}}"
        )
    };
    assert_eq!(found(&table(&yaml(true)), &request("h", "/a;v=1?q", &[]), 0), "hit");
    assert_eq!(found(&table(&yaml(false)), &request("h", "/a;v=1?q", &[]), 0), "-");
}
