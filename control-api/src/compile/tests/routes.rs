//! Which rule takes a request.

use super::*;

/// Rules that each go to their own path, so that a test sees which one it was: `match` and the mark.
fn marked(rules: &[(&str, &str)]) -> String {
    let rule = |(matching, mark): &(&str, &str)| {
        format!(
            "{{matches: [{{{matching}}}], backendRefs: [{{name: a, port: 80}}], filters: [{{type: URLRewrite, \
             urlRewrite: {{path: {{type: ReplaceFullPath, replaceFullPath: /{mark}}}}}}}]}}"
        )
    };
    rules.iter().map(rule).collect::<Vec<_>>().join(", ")
}

/// The mark of the rule that takes the request; `404`.
fn mark(mesh: &Mesh, line: &str, headers: &[(&str, &str)]) -> String {
    let outcome = outcome(mesh, request(line, headers));
    let path = outcome.strip_prefix("default/a/80 /").unwrap_or(&outcome);
    path.split('?').next().unwrap_or_default().to_owned()
}

#[test]
fn without_a_route_the_instances_are_called() {
    let mesh = shop("");
    assert_eq!(outcome_in(&mesh, "default/a/80", request("/x?y", &[]), 0), "default/a/80 /x?y");
    assert_eq!(outcome(&mesh, request("/", &[])), "503", "there is no instance");
}

#[test]
fn a_route_replaces_that_and_what_it_does_not_match_is_not_found() {
    let mesh = shop(&route("r", &marked(&[("path: {value: /a}", "a")])));
    assert_eq!(mark(&mesh, "/a", &[]), "a");
    assert_eq!(mark(&mesh, "/b", &[]), "404");
}

#[test]
fn a_route_without_a_usable_rule_does_not_open_the_service() {
    // Of both it was accepted once: a later version takes no such expression any more.
    let rules =
        "rules: [{matches: [{path: {type: RegularExpression, value: '('}}], backendRefs: [{name: b, port: 80}]}]";
    let of = |name: &str, namespace: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{parentRefs: [{{group: '', kind: Service, name: a, namespace: default}}], {rules}}}\n---\n"
        )
    };
    let answer = |mesh: &Mesh, table| outcome_in(mesh, table, request("/", &[]), 0);
    let own = Mesh::build(&objects(&format!("{SHOP}{}", of("r", "default"))));
    assert_eq!(own.faults().len(), 1);
    assert_eq!(answer(&own, "default/a/80"), "404");
    let callers = Mesh::build(&objects(&format!("{SHOP}{}", of("r", "callers"))));
    assert_eq!(answer(&callers, "default/a/80/from/callers"), "404");
    assert_eq!(answer(&callers, "default/a/80"), "default/a/80 /", "callers of other namespaces have no route");
}

#[test]
fn prefixes_match_by_elements() {
    let mesh = shop(&route(
        "r",
        &marked(&[("path: {value: /v2}", "v2"), ("path: {value: /t/}", "t"), ("path: {type: Exact, value: /e}", "e")]),
    ));
    for (path, expected) in [
        ("/v2", "v2"),
        ("/v2/", "v2"),
        ("/v2/x?y", "v2"),
        ("/v2?x", "v2"),
        ("/v2example", "404"),
        ("/V2", "404"),
        ("/t", "t"),
        ("/t/x", "t"),
        ("/tx", "404"),
        ("/e", "e"),
        ("/e?x", "e"),
        ("/e/", "404"),
        ("/", "404"),
    ] {
        assert_eq!(mark(&mesh, path, &[]), expected, "{path}");
    }
}

#[test]
fn precedence_whatever_the_order_of_the_rules() {
    let rules = [
        ("path: {value: /}", "root"),
        ("path: {value: /a}", "short"),
        ("path: {value: /a/b}", "long"),
        ("path: {type: RegularExpression, value: '/a/.*c'}", "regex"),
        ("path: {type: Exact, value: /a/b/c}", "exact"),
        ("path: {value: /a}, method: POST", "post"),
        ("path: {value: /a}, headers: [{name: x, value: '1'}]", "header"),
        ("path: {value: /a}, headers: [{name: x, value: '1'}, {name: w, value: '1'}]", "two-headers"),
        ("path: {value: /a}, queryParams: [{name: q, value: '1'}]", "query"),
        ("path: {value: /a}, queryParams: [{name: q, value: '1'}, {name: r, value: '1'}]", "two-queries"),
    ];
    let (x, y) = (("x", "1"), ("W", "1"));
    let cases: [(&str, &[(&str, &str)], &str); 14] = [
        ("/z", &[], "root"),
        ("/a", &[], "short"),
        ("/a/b/x", &[], "long"),
        ("/a/xc", &[], "regex"),
        ("/a/b/c", &[], "exact"),
        ("POST /a/b/c", &[x, y], "exact"),
        ("POST /a/b", &[x, y], "long"),
        ("POST /a", &[x, y], "post"),
        ("/a", &[x], "header"),
        ("/a?q=1", &[x], "header"),
        ("/a", &[x, y], "two-headers"),
        ("/a?q=1", &[], "query"),
        ("/a?q=1&r=1", &[], "two-queries"),
        ("/a?q=2&q=1", &[], "short"),
    ];
    let mut reversed = rules;
    reversed.reverse();
    for rules in [rules, reversed] {
        let mesh = shop(&route("r", &marked(&rules)));
        for (line, headers, expected) in cases {
            assert_eq!(mark(&mesh, line, headers), expected, "{line} {headers:?}");
        }
    }
}

#[test]
fn of_equal_rank_the_first_rule_wins() {
    let mesh = shop(&route(
        "r",
        &marked(&[("headers: [{name: x, value: '1'}]", "x"), ("headers: [{name: w, value: '1'}]", "y")]),
    ));
    assert_eq!(mark(&mesh, "/", &[("x", "1"), ("w", "1")]), "x");
    assert_eq!(mark(&mesh, "/", &[("w", "1")]), "y");
}

#[test]
fn several_routes_of_one_service_are_merged() {
    let older = route("z-older", &marked(&[("path: {value: /same}", "older"), ("path: {value: /a}", "a")]));
    let younger = route("a-younger", &marked(&[("path: {value: /same}", "younger"), ("path: {value: /a/b}", "b")]));
    let mesh = shop(&(older + &younger));
    for (path, expected) in [("/same", "older"), ("/a/x", "a"), ("/a/b", "b")] {
        assert_eq!(mark(&mesh, path, &[]), expected, "{path}");
    }
}

#[test]
fn values_match_as_they_are_written() {
    let mesh = shop(&route(
        "r",
        &marked(&[
            ("headers: [{name: X-Exact, value: a.c}, {name: x-exact, value: other}]", "exact"),
            ("headers: [{name: x-regex, type: RegularExpression, value: 'a.c|d'}]", "regex"),
            ("queryParams: [{name: Q, value: '1'}]", "upper"),
            ("queryParams: [{name: q, type: RegularExpression, value: '[0-9]+'}]", "number"),
            ("method: PATCH", "patch"),
        ]),
    ));
    for (line, headers, expected) in [
        ("/", &[("x-exact", "a.c")][..], "exact"),
        ("/", &[("x-exact", "abc")], "404"),
        ("/", &[("x-exact", "b"), ("x-exact", "a.c")], "exact"),
        ("/", &[("x-exact", "a.c,a.c")], "404"),
        ("/", &[("x-regex", "abc")], "regex"),
        ("/", &[("x-regex", "abcd")], "404"),
        ("/", &[("x-regex", "d")], "regex"),
        ("/?Q=1", &[], "upper"),
        ("/?q=12", &[], "number"),
        ("/?q=1a", &[], "404"),
        ("PATCH /", &[], "patch"),
        ("GET /", &[], "404"),
    ] {
        assert_eq!(mark(&mesh, line, headers), expected, "{line} {headers:?}");
    }
}

#[test]
fn callers_of_a_namespace_with_routes_of_its_own_have_those_instead() {
    let all = route("all", &marked(&[("", "all")]));
    let own = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: own, namespace: callers}\n\
               spec: {parentRefs: [{group: '', kind: Service, name: shop, namespace: default}], rules: [{matches: [{path: {value: /own}}], \
               backendRefs: [{name: b, namespace: default, port: 80}]}]}\n---\n";
    let mesh = shop(&(all + own));
    assert_eq!(mark(&mesh, "/own", &[]), "all");
    let from = |path| outcome_in(&mesh, "default/shop/8080/from/callers", request(path, &[]), 0);
    assert_eq!(from("/own"), "default/b/80 /own");
    assert_eq!(from("/other"), "404");
    let mesh = shop(own);
    assert_eq!(outcome(&mesh, request("/own", &[])), "503", "others call the instances");
}

#[test]
fn a_route_may_name_one_port() {
    let ports = "apiVersion: v1\nkind: Service\nmetadata: {name: two}\nspec: {selector: {app: a}, ports: [{name: x, port: 80}, {name: w, port: 81}]}\n---\n";
    for parent in ["port: 81", "sectionName: w"] {
        let mesh = shop(&format!(
            "{ports}apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\n\
             spec: {{parentRefs: [{{group: '', kind: Service, name: two, {parent}}}], rules: [{{backendRefs: [{{name: b, port: 80}}]}}]}}"
        ));
        assert_eq!(outcome_in(&mesh, "default/two/80", request("/", &[]), 0), "default/two/80 /", "{parent}");
        assert_eq!(outcome_in(&mesh, "default/two/81", request("/", &[]), 0), "default/b/80 /", "{parent}");
    }
}
