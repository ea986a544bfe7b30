//! What Envoy 1.40 did with the same routes and requests.

use std::time::Duration;

use crate::config::report::Report;
use crate::config::value::DataSource;
use crate::message::RequestHead;
use crate::route::{Action, Found, Lookup, RouteTable};
use crate::testing::{lines, request, response, stream_info};

use super::table;

fn find<'t>(table: &'t RouteTable, request: &RequestHead) -> Found<'t> {
    match table.find(request, 0) {
        Lookup::Found(found) => found,
        other => panic!("{other:?}"),
    }
}

/// One route to cluster `c`, with more of the route's fields and of the action's.
fn forward(matches: &str, route: &str, action: &str) -> RouteTable {
    table(&format!(
        "virtual_hosts: [{{name: v, domains: ['*'], routes: [
           {{match: {{{matches}}}, route: {{cluster: c{action}}}{route}}}]}}]"
    ))
}

/// The request as the upstream sees it.
fn forwarded(table: &RouteTable, mut head: RequestHead) -> RequestHead {
    let found = find(table, &head);
    let choice = found.route.forward().unwrap().choose(&head, 0);
    found.apply_request(&choice, &mut head, &stream_info(), Duration::ZERO, true);
    head
}

const LEVELS: &str = "
request_headers_to_add:
- {header: {key: x-lvl, value: table}}
- {header: {key: x-seen, value: 't-%REQ(x-seen)%'}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
response_headers_to_add: [{header: {key: x-lvl, value: table}}]
virtual_hosts:
- name: v
  domains: ['*']
  request_headers_to_add: [{header: {key: x-lvl, value: vhost}}]
  routes:
  - match: {prefix: /}
    route: {cluster: c}
    request_headers_to_remove: [x-rm, x-App]
    request_headers_to_add:
    - {header: {key: x-lvl, value: route}}
    - {header: {key: x-seen, value: 'r-%REQ(x-seen)%'}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
    - {header: {key: x-app, value: 'a-%REQ(x-rm)%-%REQ(x-none)%'}}
    - {header: {key: x-empty, value: '%REQ(x-none)%'}}
    - {header: {key: x-kept, value: '%REQ(x-none)%'}, keep_empty_value: true}
    - {header: {key: x-abs, value: new}, append_action: ADD_IF_ABSENT}
    - {header: {key: x-ow, value: new}, append_action: OVERWRITE_IF_EXISTS}
    - {header: {key: user-agent, value: more}}
    - {header: {key: cookie, value: more=1}}
    - {header: {key: x-pct, value: '100%%'}}
    response_headers_to_add:
    - {header: {key: x-lvl, value: route}}
    - {header: {key: x-req, value: '%REQ(:path)% %RESPONSE_CODE% %RESP(x-up)%'}}
    - {header: {key: x-up, value: three}}
    response_headers_to_remove: [x-gone]
";

#[test]
fn header_operations_of_all_levels() {
    let table = table(LEVELS);
    let client = [
        ("user-agent", "curl"),
        ("x-rm", "1"),
        ("x-app", "0"),
        ("x-seen", "s"),
        ("x-abs", "old"),
        ("cookie", "k=1"),
        ("x-lvl", "0"),
    ];
    let head = forwarded(&table, request("h", "/hd?x=1", &client));
    assert_eq!(
        lines(&head.headers),
        [
            "user-agent: curl,more",
            "x-abs: old",
            "cookie: k=1",
            "x-lvl: 0",
            "x-lvl: route",
            "x-app: a--",
            "x-kept: ",
            "cookie: more=1",
            "x-pct: 100%",
            "x-lvl: vhost",
            "x-seen: t-r-s",
            "x-lvl: table",
        ]
    );
    let mut answer = response(200, &[("x-up", "one"), ("x-up", "two"), ("x-gone", "1")]);
    let mut info = stream_info();
    info.response_code = Some(200);
    find(&table, &head).apply_response(None, &mut answer, &head, &info, Duration::ZERO);
    assert_eq!(
        lines(&answer.headers),
        ["x-up: one", "x-up: two", "x-lvl: route", "x-req: /hd?x=1 200 one", "x-up: three", "x-lvl: table"]
    );
}

#[test]
fn the_most_specific_has_the_last_word_where_asked() {
    let yaml = |wins: bool| {
        let level = |value: &str| {
            format!(
                "request_headers_to_add: [{{header: {{key: x, value: {value}}},
                   append_action: OVERWRITE_IF_EXISTS_OR_ADD}}]"
            )
        };
        format!(
            "{{most_specific_header_mutations_wins: {wins}, {}, virtual_hosts: [{{name: v, domains: ['*'], {},
               routes: [{{match: {{prefix: /}}, route: {{cluster: c}}, {}}}]}}]}}",
            level("table"),
            level("vhost"),
            level("route")
        )
    };
    for (wins, value) in [(false, "x: table"), (true, "x: route")] {
        assert_eq!(lines(&forwarded(&table(&yaml(wins)), request("h", "/", &[])).headers), [value]);
    }
}

#[test]
fn path_rewrites_keep_the_query_and_the_original() {
    for (matches, action, path, rewritten) in [
        ("prefix: /PW, case_sensitive: false", "prefix_rewrite: /x", "/pw/a?b", "/x/a?b"),
        ("path_separated_prefix: /sep", "prefix_rewrite: /x", "/sep?x", "/x?x"),
        ("path: /p", "prefix_rewrite: /x/y", "/p?q", "/x/y?q"),
        ("safe_regex: {regex: '/r.*'}", "prefix_rewrite: /x", "/rest?q", "/x?q"),
        ("prefix: /a", "path_rewrite: '/new/%REQ(x-none)%%REQ(:method)%'", "/a/b?q=1", "/new/GET?q=1"),
        ("prefix: /rw", "regex_rewrite: {pattern: {regex: r}, substitution: R}", "/rw/rr?rr", "/Rw/RR?rr"),
        (
            "prefix: /",
            "regex_rewrite: {pattern: {regex: '^/service/([^/]+)(/.*)$'}, substitution: '\\2/instance/\\1'}",
            "/service/foo/v1/api",
            "/v1/api/instance/foo",
        ),
    ] {
        let head = forwarded(&forward(matches, "", &format!(", {action}")), request("h", path, &[]));
        assert_eq!(head.path, rewritten, "{action}");
        assert_eq!(lines(&head.headers), [format!("x-envoy-original-path: {path}")]);
    }
}

#[test]
fn host_rewrites() {
    let regex = "host_rewrite_path_regex: {pattern: {regex: '^/hr/(.+)$'}, substitution: '\\1'}";
    for (action, path, client, host, headers) in [
        (
            "host_rewrite_literal: lit.example, append_x_forwarded_host: true",
            "/",
            &[("x-forwarded-host", "a")][..],
            "lit.example",
            &["x-forwarded-host: a,old:80", "x-envoy-original-host: old:80"][..],
        ),
        (
            "host_rewrite_literal: new, append_x_forwarded_host: true",
            "/",
            &[],
            "new",
            &["x-envoy-original-host: old:80", "x-forwarded-host: old:80"],
        ),
        ("host_rewrite_header: x-h", "/", &[("x-h", "hh")], "hh", &["x-h: hh", "x-envoy-original-host: old:80"]),
        ("host_rewrite_header: x-h", "/", &[], "old:80", &[]),
        (regex, "/hr/foo?x", &[], "foo", &["x-envoy-original-host: old:80"]),
        (regex, "/none", &[], "/none", &["x-envoy-original-host: old:80"]),
        ("host_rewrite: 'h-%REQ(x-none)%'", "/", &[], "h--", &["x-envoy-original-host: old:80"]),
        ("auto_host_rewrite: true", "/", &[], "old:80", &[]),
    ] {
        let head = forwarded(&forward("prefix: /", "", &format!(", {action}")), request("old:80", path, client));
        assert_eq!(
            (head.authority.unwrap(), lines(&head.headers)),
            (host.parse().unwrap(), strings(headers)),
            "{action}"
        );
    }
}

fn strings(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
}

#[test]
fn redirects_build_the_location_as_envoy_does() {
    for (action, authority, path, location) in [
        ("https_redirect: true", "h.com:80", "/a?q=1", "301 https://h.com/a?q=1"),
        ("https_redirect: true", "h.com:81", "/a", "301 https://h.com:81/a"),
        ("port_redirect: 9999", "h.com:80", "/b?q", "301 http://h.com:9999/b?q"),
        ("port_redirect: 9999", "[::1]:8080", "/b", "301 http://[::1]:9999/b"),
        ("path_redirect: /new", "h.com:80", "/c/y?q=1", "301 http://h.com:80/new?q=1"),
        ("path_redirect: new", "h", "/c", "301 http://h/new"),
        ("path_redirect: '/new?x=1', strip_query: true", "h", "/d?q=1", "301 http://h/new?x=1"),
        ("path_redirect: /new, strip_query: true", "h", "/d?q=1", "301 http://h/new"),
        ("prefix_rewrite: /ee, strip_query: true, response_code: FOUND", "h", "/p/y?q", "302 http://h/ee/y"),
        (
            "regex_rewrite: {pattern: {regex: '/f/(.*)'}, substitution: '/\\1/f'}, host_redirect: o.example",
            "h",
            "/p/f/y?q=1",
            "301 http://o.example/p/y/f?q=1",
        ),
        ("scheme_redirect: ftp, port_redirect: 80, host_redirect: 'h:1'", "x", "/g?q", "301 ftp://h:1:80/g?q"),
        ("path_rewrite: '/new/%REQ(:method)%'", "h", "/c?q", "301 http://h/new/GET?q"),
        ("response_code: PERMANENT_REDIRECT, host_redirect: o", "x", "/", "308 http://o/"),
    ] {
        let prefix = if path.starts_with("/p/") { "/p" } else { "/" };
        let table = table(&format!(
            "virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: {prefix}}}, redirect: {{{action}}}}}]}}]"
        ));
        let mut head = request(authority, path, &[("x-forwarded-proto", "http")]);
        let found = find(&table, &head);
        let Action::Redirect(redirect) = &found.route.action else { panic!() };
        let (status, value) = found.redirect(redirect, &mut head, &stream_info(), Duration::ZERO, true);
        assert_eq!(format!("{} {}", status.as_u16(), value.to_str().unwrap()), location, "{action}");
    }
}

#[test]
fn clusters_by_name_by_header_and_by_weight() {
    let table = table(
        "virtual_hosts: [{name: v, domains: ['*'], routes: [
          {match: {path: /single}, route: {cluster: one}},
          {match: {path: /header}, route: {cluster_header: x-c}},
          {match: {path: /weights}, route: {weighted_clusters: {header_name: x-r, clusters: [
            {name: a, weight: 1, host_rewrite_literal: ah, request_headers_to_add: [{header: {key: x, value: a}}]},
            {name: none, weight: 0}, {cluster_header: x-c, weight: 2}, {name: b, weight: 7}]}}}]}]",
    );
    assert_eq!(table.cluster_names().map(|name| &**name).collect::<Vec<_>>(), ["one", "a", "none", "b"]);
    let choose = |path: &str, headers: &[(&str, &str)], random: u64| {
        let head = request("h", path, headers);
        let found = find(&table, &head);
        found.route.forward().unwrap().choose(&head, random).name().to_string()
    };
    assert_eq!(choose("/single", &[], 9), "one");
    assert_eq!(choose("/header", &[("x-c", "two")], 9), "two");
    assert_eq!(choose("/header", &[], 9), "");
    let mut counts = std::collections::BTreeMap::new();
    for random in 0..1000 {
        *counts.entry(choose("/weights", &[("x-c", "h")], random)).or_insert(0) += 1;
    }
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [("a".into(), 100), ("b".into(), 700), ("h".into(), 200)]);
    assert_eq!(choose("/weights", &[("x-r", "10")], 5), "a", "the header's value chooses");
    assert_eq!(choose("/weights", &[("x-r", "?")], 5), "b");
    let head = forwarded(&table, request("h", "/weights", &[]));
    assert_eq!((head.authority.unwrap().to_str().unwrap(), lines(&head.headers)), ("ah", strings(&["x: a"])));
}

#[test]
fn bodies_that_are_not_inline_are_read_by_the_loader() {
    let table = table(
        "{max_direct_response_body_size_bytes: 5, virtual_hosts: [{name: v, domains: ['*'], routes: [
          {match: {path: /file}, direct_response: {status: 200, body: {filename: /f}}},
          {match: {path: /long}, direct_response: {status: 200, body: {environment_variable: LONG}}},
          {match: {path: /bad}, direct_response: {status: 200, body: {filename: /none}}}]}]}",
    );
    let read = |source: &DataSource| match source {
        DataSource::File(name) if &**name == "/f" => Ok(b"text".to_vec()),
        DataSource::Environment(_) => Ok(b"longer".to_vec()),
        _ => Err("no such file".to_owned()),
    };
    let report = Report::new();
    table.load_bodies(&read, &report.root());
    let problems: Vec<_> = report.into_parts().0.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "virtual_hosts[0].routes[1].direct_response.body: 6 bytes: longer than max_direct_response_body_size_bytes, 5",
            "virtual_hosts[0].routes[2].direct_response.body: no such file",
        ]
    );
    let found = find(&table, &request("h", "/file", &[]));
    let Action::Respond(response) = &found.route.action else { panic!() };
    assert_eq!(response.body(), "text");
}
