//! What a rule does with a request that it takes.

use std::collections::BTreeMap;

use http::StatusCode;

use super::*;

/// How many of the numbers below `sum` lead where.
fn shares(backends: &str, sum: u64) -> BTreeMap<String, u64> {
    let mesh = shop(&route("r", &format!("{{backendRefs: [{backends}]}}")));
    let mut shares = BTreeMap::new();
    for random in 0..sum {
        *shares.entry(outcome_in(&mesh, "default/shop/8080", request("/", &[]), random)).or_default() += 1;
    }
    shares
}

#[test]
fn weights_are_shares_of_their_sum() {
    let (a, b) = ("default/a/80 /", "default/b/80 /");
    for (backends, expected) in [
        ("{name: a, port: 80, weight: 90}, {name: b, port: 80, weight: 10}", &[(a, 90), (b, 10)][..]),
        ("{name: a, port: 80}, {name: b, port: 80}", &[(a, 50), (b, 50)]),
        ("{name: a, port: 80, weight: 0}, {name: b, port: 80, weight: 7}", &[(b, 100)]),
        ("{name: a, port: 80, weight: 5}", &[(a, 100)]),
        ("{name: a, port: 80, weight: 0}", &[("500", 100)]),
        ("{name: a, port: 80, weight: 0}, {name: b, port: 80, weight: 0}", &[("500", 100)]),
        ("", &[("500", 100)]),
        // A backend that leads nowhere keeps its share; one that has no instance is another matter.
        ("{name: a, port: 80, weight: 75}, {name: none, port: 80, weight: 25}", &[(a, 75), ("500", 25)]),
        ("{name: a, port: 80, weight: 75}, {name: a, port: 81, weight: 25}", &[(a, 75), ("500", 25)]),
        ("{name: a, port: 80, weight: 0}, {name: none, port: 80, weight: 25}", &[("500", 100)]),
        ("{name: a, port: 80}, {name: none, port: 80, weight: 0}", &[(a, 100)]),
        ("{name: none, port: 80}", &[("500", 100)]),
        ("{name: none, port: 80}, {kind: Bucket, group: x.test, name: b}", &[("500", 100)]),
        ("{name: empty, port: 80}", &[("503", 100)]),
        ("{name: a, port: 80, weight: 50}, {name: empty, port: 80, weight: 50}", &[(a, 50), ("503", 50)]),
    ] {
        let expected = expected.iter().map(|(outcome, share)| ((*outcome).to_owned(), *share)).collect();
        assert_eq!(shares(backends, 100), expected, "{backends}");
    }
}

#[test]
fn prefixes_are_replaced_without_double_slashes() {
    for (old, new, cases) in [
        (
            "/foo",
            "/xyz",
            [("/foo/bar", "/xyz/bar"), ("/foo", "/xyz"), ("/foo/", "/xyz/"), ("/foo/b?q=/foo", "/xyz/b?q=/foo")],
        ),
        ("/foo", "/xyz/", [("/foo/bar", "/xyz/bar"), ("/foo", "/xyz"), ("/foo/", "/xyz/"), ("/foo?q", "/xyz?q")]),
        ("/foo/", "/xyz", [("/foo/bar", "/xyz/bar"), ("/foo", "/xyz"), ("/foo/", "/xyz/"), ("/foo/foo", "/xyz/foo")]),
        ("/foo", "''", [("/foo/bar", "/bar"), ("/foo", "/"), ("/foo/", "/"), ("/foo/bar/foo", "/bar/foo")]),
        ("/foo", "/", [("/foo/bar", "/bar"), ("/foo", "/"), ("/foo/", "/"), ("/foo?q=1", "/?q=1")]),
        ("/foo.a+b", "/", [("/foo.a+b/c", "/c"), ("/foo.a+b", "/"), ("/foo.a+b/", "/"), ("/foo.a+b//c", "/c")]),
        ("/", "/xyz", [("/bar", "/xyz/bar"), ("/", "/xyz/"), ("/bar/", "/xyz/bar/"), ("/?q", "/xyz/?q")]),
        ("/", "/", [("/bar", "/bar"), ("/", "/"), ("/bar/", "/bar/"), ("/?q", "/?q")]),
    ] {
        let path = format!("path: {{type: ReplacePrefixMatch, replacePrefixMatch: {new}}}");
        let rule = |filter: &str, more: &str| {
            shop(&route("r", &format!("{{matches: [{{path: {{value: {old}}}}}], filters: [{filter}]{more}}}")))
        };
        let rewritten =
            rule(&format!("{{type: URLRewrite, urlRewrite: {{{path}}}}}"), ", backendRefs: [{name: a, port: 80}]");
        let redirected = rule(&format!("{{type: RequestRedirect, requestRedirect: {{{path}}}}}"), "");
        for (asked, expected) in cases {
            let what = format!("{old} to {new}: {asked}");
            assert_eq!(outcome(&rewritten, request(asked, &[])), format!("default/a/80 {expected}"), "{what}");
            assert_eq!(outcome(&redirected, request(asked, &[])), format!("302 http://shop.test{expected}"), "{what}");
        }
    }
}

#[test]
fn whole_paths_and_hosts_are_replaced() {
    let mesh = shop(&route(
        "r",
        "{matches: [{path: {type: RegularExpression, value: '/a.*'}}], backendRefs: [{name: a, port: 80}], filters: [{type: URLRewrite, \
         urlRewrite: {hostname: new.test, path: {type: ReplaceFullPath, replaceFullPath: '/n$1'}}}]}",
    ));
    let response = ResponseHead { status: StatusCode::OK, protocol: Protocol::Http11, headers: Default::default() };
    let (seen, _) = passed(&mesh, request("/a/b?q=1", &[]), response, 0);
    assert_eq!(seen.path, "/n$1?q=1");
    assert_eq!(seen.authority.unwrap(), "new.test");
    assert_eq!(seen.headers.get(&HeaderName::from_static("x-forwarded-host")).unwrap(), "shop.test");
}

#[test]
fn redirects_print_the_port_that_is_needed() {
    // The Service's port is 8080.
    for (redirect, expected) in [
        ("scheme: https", "302 https://shop.test/p?q"),
        ("scheme: https, port: 443", "302 https://shop.test/p?q"),
        ("scheme: http", "302 http://shop.test/p?q"),
        ("hostname: new.test", "302 http://new.test:8080/p?q"),
        ("hostname: new.test, scheme: https", "302 https://new.test/p?q"),
        ("hostname: new.test, scheme: http", "302 http://new.test/p?q"),
        ("hostname: new.test, scheme: https, port: 443", "302 https://new.test/p?q"),
        ("hostname: new.test, scheme: http, port: 443", "302 http://new.test:443/p?q"),
        ("hostname: new.test, port: 80", "302 http://new.test/p?q"),
        ("port: 8083, statusCode: 301", "301 http://shop.test:8083/p?q"),
        ("statusCode: 303", "303 http://shop.test/p?q"),
        ("statusCode: 307, path: {type: ReplaceFullPath, replaceFullPath: /n}", "307 http://shop.test/n?q"),
        ("statusCode: 308, path: {type: ReplaceFullPath, replaceFullPath: ''}", "308 http://shop.test/?q"),
    ] {
        let rule = format!("{{filters: [{{type: RequestRedirect, requestRedirect: {{{redirect}}}}}]}}");
        assert_eq!(outcome(&shop(&route("r", &rule)), request("/p?q", &[])), expected, "{redirect}");
    }
}

#[test]
fn redirects_leave_the_port_that_was_called_behind() {
    // Whatever the Service's port is: what is called may be another listener's.
    for (service, table) in [("shop", "default/shop/8080"), ("a", "default/a/80")] {
        for (redirect, asked, expected) in [
            ("scheme: https", "127.0.0.1:9101", "https://127.0.0.1:443/"),
            ("scheme: https, port: 443", "127.0.0.1:9101", "https://127.0.0.1:443/"),
            ("scheme: https", "[::1]:9101", "https://[::1]:443/"),
            ("scheme: https", "[::1]", "https://[::1]/"),
            ("scheme: https", "shop.test:80", "https://shop.test:443/"),
            ("scheme: https, port: 8443", "127.0.0.1:9101", "https://127.0.0.1:8443/"),
            ("scheme: https, port: 80", "127.0.0.1:9101", "https://127.0.0.1:80/"),
            ("scheme: http", "127.0.0.1:9101", "http://127.0.0.1:80/"),
            ("port: 80", "127.0.0.1:9101", "http://127.0.0.1:80/"),
            ("port: 80", "shop.test", "http://shop.test/"),
            ("hostname: new.test, scheme: https", "127.0.0.1:9101", "https://new.test/"),
            ("statusCode: 302", "127.0.0.1:9101", "http://127.0.0.1:9101/"),
        ] {
            let rule = format!("{{filters: [{{type: RequestRedirect, requestRedirect: {{{redirect}}}}}]}}");
            let mesh = shop(&route("r", &rule).replace("name: shop", &format!("name: {service}")));
            let mut head = request("/", &[]);
            head.authority = Some(HeaderValue::from_static(asked));
            let what = format!("{service}: {redirect}: {asked}");
            assert_eq!(outcome_in(&mesh, table, head, 0), format!("302 {expected}"), "{what}");
        }
    }
}

fn lines(headers: &outrigger_engine::message::Headers) -> Vec<String> {
    let mut lines: Vec<_> =
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort();
    lines
}

#[test]
fn headers_change_at_the_rule_and_then_at_the_backend() {
    let filters = |prefix: &str| {
        format!(
            "filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: X-Set, value: {prefix}-set}}], \
             add: [{{name: x-add, value: '{prefix}-100%'}}], remove: [x-{prefix}-gone]}}}}, \
             {{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-set, value: {prefix}-set}}], \
             add: [{{name: x-add, value: {prefix}-add}}]}}}}]"
        )
    };
    let asked = || request("/", &[("x-set", "old"), ("x-add", "old"), ("x-rule-gone", "1"), ("x-backend-gone", "1")]);
    let answered = || ResponseHead {
        status: StatusCode::OK,
        protocol: Protocol::Http11,
        headers: [(HeaderName::from_static("x-set"), HeaderValue::from_static("old"))].into_iter().collect(),
    };
    let backend = format!("{{name: a, port: 80, {}}}", filters("backend"));
    let both = ["x-add: backend-100%", "x-add: old", "x-add: rule-100%", "x-set: backend-set"];
    let both_back = ["x-add: backend-add", "x-add: rule-add", "x-set: rule-set"];
    // The same whether it is the only backend or one of two.
    for (backends, random) in [(backend.clone(), 0), (format!("{backend}, {{name: b, port: 80}}"), 0)] {
        let mesh = shop(&route("r", &format!("{{{}, backendRefs: [{backends}]}}", filters("rule"))));
        let (seen, back) = passed(&mesh, asked(), answered(), random);
        assert_eq!(lines(&seen.headers), both);
        assert_eq!(lines(&back.headers), both_back);
    }
    let mesh = shop(&route("r", &format!("{{{}, backendRefs: [{backend}, {{name: b, port: 80}}]}}", filters("rule"))));
    let (seen, back) = passed(&mesh, asked(), answered(), 1);
    assert_eq!(lines(&seen.headers), ["x-add: old", "x-add: rule-100%", "x-backend-gone: 1", "x-set: rule-set"]);
    assert_eq!(lines(&back.headers), ["x-add: rule-add", "x-set: rule-set"]);
}
