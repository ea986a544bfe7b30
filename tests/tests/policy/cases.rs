//! One rule and one request for each field.

use std::net::SocketAddr;

use std::ops::RangeInclusive;

/// A rule of the route, a request that it takes, and what is in the answer; with `!` in front, what is not.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// The fields of the rule that the request tells apart, and those below them.
    pub(crate) shows: &'static [&'static str],
    pub(crate) rule: &'static str,
    pub(crate) request: &'static str,
    pub(crate) answer: &'static [&'static str],
}

const fn case(name: &'static str, rule: &'static str, request: &'static str, answer: &'static [&'static str]) -> Case {
    Case { name, shows: &[], rule, request, answer }
}

impl Case {
    const fn shows(self, shows: &'static [&'static str]) -> Self {
        Self { shows, ..self }
    }
}

/// A rule that chance has a part in, and what is in its answer to some requests, else in all others.
pub(crate) struct Share {
    pub(crate) rule: &'static str,
    pub(crate) request: &'static str,
    pub(crate) some: &'static str,
    pub(crate) others: &'static str,
    /// How many of [`OF`] requests are some. Chance alone is outside less often than once in 10^9 times.
    pub(crate) count: RangeInclusive<usize>,
}

/// So many requests tell shares apart.
pub(crate) const OF: usize = 500;

pub(crate) const SHARES: &[Share] = &[
    Share {
        rule: "{matches: [{path: {value: /tenth}}], backendRefs: [{name: one, port: 80, weight: 90}, {name: two, port: 80, weight: 10}]}",
        request: "GET /tenth",
        some: "two GET /tenth\n",
        others: "one GET /tenth\n",
        count: 13..=96,
    },
    // A backend that cannot be used answers for its share, and for no more.
    Share {
        rule: "{matches: [{path: {value: /quarter}}], backendRefs: [{name: one, port: 80, weight: 3}, {name: lost, port: 80, weight: 1}]}",
        request: "GET /quarter",
        some: "500 ",
        others: "one GET /quarter\n",
        count: 68..=188,
    },
];

pub(crate) const CASES: &[Case] = &[
    case("nothing matches", "", "GET /nothing", &["404 "]),
    case(
        "exact path",
        "{name: named, matches: [{path: {type: Exact, value: /exact}}], backendRefs: [{group: '', kind: Service, name: one, port: 80}]}",
        "GET /exact",
        &["200 ", "one GET /exact\n", "server: app\n"],
    )
    .shows(&["name", "matches.path", "backendRefs.group", "backendRefs.kind", "backendRefs.name"]),
    case("exact is not a prefix", "", "GET /exact/", &["404 "]),
    case(
        "prefix",
        "{matches: [{path: {value: /prefix/}}], backendRefs: [{name: one, port: 80}]}",
        "GET /prefix/a?b",
        &["one GET /prefix/a?b\n"],
    )
    .shows(&["matches.path.value"]),
    case("prefix without its slash", "", "GET /prefix", &["one GET /prefix\n"]),
    case("a path is what it leads to", "", "GET /prefix/../exact", &["one GET /exact\n"]),
    case("however it is written", "", "GET /prefix/%2e%2E/exact", &["one GET /exact\n"]),
    case("slashes are left alone", "", "GET /prefix//a%2Fb", &["one GET /prefix//a%2Fb\n"]),
    case("prefix by elements", "", "GET /prefixes", &["404 "]),
    case(
        "expression",
        "{matches: [{path: {type: RegularExpression, value: '/re/[0-9]+'}}], backendRefs: [{name: one, port: 80}]}",
        "GET /re/12?x",
        &["one GET /re/12?x\n"],
    )
    .shows(&["matches.path"]),
    case("expression is whole", "", "GET /re/12x", &["404 "]),
    case(
        "method",
        "{matches: [{path: {value: /m}, method: DELETE}], backendRefs: [{name: one, port: 80}]}",
        "DELETE /m",
        &["one DELETE /m\n"],
    )
    .shows(&["matches.method"]),
    case("other method", "", "GET /m", &["404 "]),
    case(
        "header",
        "{matches: [{path: {value: /h}, headers: [{name: X-A, value: b}]}], backendRefs: [{name: one, port: 80}]}",
        "GET /h\nx-a: b",
        &["one GET /h\n"],
    )
    .shows(&["matches.headers"]),
    case("other header", "", "GET /h\nx-a: bb", &["404 "]),
    case(
        "header by expression",
        "{matches: [{path: {value: /hr}, headers: [{name: x-a, type: RegularExpression, value: 'b+'}]}], backendRefs: [{name: one, port: 80}]}",
        "GET /hr\nx-a: bbb",
        &["one GET /hr\n"],
    )
    .shows(&["matches.headers"]),
    case(
        "query",
        "{matches: [{path: {value: /q}, queryParams: [{name: a, value: b}]}], backendRefs: [{name: one, port: 80}]}",
        "GET /q?a=b",
        &["one GET /q?a=b\n"],
    )
    .shows(&["matches.queryParams"]),
    case("the first of a parameter", "", "GET /q?a=c&a=b", &["404 "]),
    case(
        "query by expression",
        "{matches: [{path: {value: /qr}, queryParams: [{name: a, type: RegularExpression, value: 'b|c'}]}], backendRefs: [{name: one, port: 80}]}",
        "GET /qr?a=c",
        &["one GET /qr?a=c\n"],
    )
    .shows(&["matches.queryParams"]),
    case(
        "precedence",
        "{matches: [{path: {value: /q}, method: PUT}], backendRefs: [{name: two, port: 80}]}",
        "PUT /q?a=b",
        &["two PUT /q?a=b\n"],
    ),
    case(
        "request headers",
        "{matches: [{path: {value: /rh}}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: '50%'}], add: [{name: x-add, value: new}], remove: [X-Gone]}}], backendRefs: [{name: one, port: 80}]}",
        "GET /rh\nx-set: old\nx-add: old\nx-gone: 1",
        &["x-set: 50%\n", "x-add: old\n", "x-add: new\n", "!x-gone", "!x-set: old"],
    )
    .shows(&["filters"]),
    case(
        "response headers",
        "{matches: [{path: {value: /ah}}], filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-set, value: new}], add: [{name: x-up, value: down}], remove: [server]}}], backendRefs: [{name: one, port: 80}]}",
        "GET /ah",
        &["x-set: new\n", "x-up: up\n", "x-up: down\n", "!server: app"],
    )
    .shows(&["filters"]),
    case(
        "headers of the backend",
        "{matches: [{path: {value: /bh}}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: rule}]}}, {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-back, value: rule}]}}], \
         backendRefs: [{name: one, port: 80, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: backend}]}}, {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-back, value: backend}, {name: x-own, value: own}]}}]}, {name: two, port: 80, weight: 0}]}",
        "GET /bh",
        &["x-set: backend\n", "!x-set: rule", "x-back: rule\n", "!x-back: backend", "x-own: own\n"],
    )
    .shows(&["filters", "backendRefs.filters"]),
    case(
        "headers that the backend adds and removes",
        "{matches: [{path: {value: /br}}], backendRefs: [{name: one, port: 80, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: x-add, value: new}], remove: [x-gone]}}, {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-up, value: down}], remove: [server]}}]}]}",
        "GET /br\nx-add: old\nx-gone: 1",
        &["x-add: old\n", "x-add: new\n", "!x-gone", "x-up: up\n", "x-up: down\n", "!server: app"],
    )
    .shows(&["backendRefs.filters"]),
    case(
        "host",
        "{matches: [{path: {value: /host}}], filters: [{type: URLRewrite, urlRewrite: {hostname: new.test}}], backendRefs: [{name: one, port: 80}]}",
        "GET /host",
        &["host: new.test\n", "x-forwarded-host: shop.test\n"],
    )
    .shows(&["filters"]),
    case(
        "whole path",
        "{matches: [{path: {value: /full}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /n}}}], backendRefs: [{name: one, port: 80}]}",
        "GET /full/a?b=c",
        &["one GET /n?b=c\n"],
    )
    .shows(&["filters"]),
    case(
        "prefix for another",
        "{matches: [{path: {value: /old}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}], backendRefs: [{name: one, port: 80}]}",
        "GET /old/a?b",
        &["one GET /new/a?b\n"],
    )
    .shows(&["filters"]),
    case("only the prefix", "", "GET /old", &["one GET /new\n"]),
    case(
        "prefix for nothing",
        "{matches: [{path: {value: /cut.x}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}], backendRefs: [{name: one, port: 80}]}",
        "GET /cut.x/a",
        &["one GET /a\n"],
    ),
    case("the root remains", "", "GET /cut.x", &["one GET /\n"]),
    case(
        "redirect",
        "{matches: [{path: {value: /rd}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: new.test, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]}",
        "GET /rd/a?b",
        &["302 ", "location: https://new.test/a?b\n"],
    )
    .shows(&["filters"]),
    case(
        "redirect with port and status",
        "{matches: [{path: {value: /rp}}], filters: [{type: RequestRedirect, requestRedirect: {port: 8083, statusCode: 308, path: {type: ReplaceFullPath, replaceFullPath: /n}}}]}",
        "GET /rp?b",
        &["308 ", "location: http://shop.test:8083/n?b\n"],
    )
    .shows(&["filters"]),
    case(
        "redirect to a host keeps the port",
        "{matches: [{path: {value: /ro}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: new.test}}]}",
        "GET /ro",
        &["location: http://new.test:8080/ro\n"],
    ),
    case(
        "redirect to a scheme has the scheme's port",
        "{matches: [{path: {value: /rs}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}",
        "GET /rs",
        &["302 ", "location: https://shop.test/rs\n"],
    ),
    case(
        "not that of the listener that was called",
        "",
        "GET /rs\nhost: shop.test:9101",
        &["302 ", "location: https://shop.test:443/rs\n"],
    ),
    case("no backend", "{matches: [{path: {value: /none}}]}", "GET /none", &["500 "]),
    case(
        "a backend that is not there",
        "{matches: [{path: {value: /lost}}], backendRefs: [{name: lost, port: 80}]}",
        "GET /lost",
        &["500 "],
    ),
    case(
        "its share",
        "{matches: [{path: {value: /share}}], backendRefs: [{name: one, port: 80, weight: 1}, {name: lost, port: 80, weight: 1000000}]}",
        "GET /share",
        &["500 "],
    ),
    case(
        "weights",
        "{matches: [{path: {value: /w}}], backendRefs: [{name: one, port: 80, weight: 0}, {name: two, port: 80, weight: 1}]}",
        "GET /w",
        &["two GET /w\n"],
    )
    .shows(&["backendRefs.weight"]),
    case(
        "no instance",
        "{matches: [{path: {value: /empty}}], backendRefs: [{name: empty, port: 80}]}",
        "GET /empty",
        &["503 "],
    ),
    case(
        "request timeout",
        "{matches: [{path: {value: /t}}], backendRefs: [{name: one, port: 80}], timeouts: {request: 50ms}}",
        "GET /t\nx-hang: 1",
        &["504 "],
    )
    .shows(&["timeouts"]),
    case(
        "attempt timeout",
        "{matches: [{path: {value: /ta}}], backendRefs: [{name: one, port: 80}], timeouts: {backendRequest: 50ms}}",
        "GET /ta\nx-hang: 1",
        &["504 "],
    )
    .shows(&["timeouts"]),
    case(
        "retry by status",
        "{matches: [{path: {value: /retry}}], backendRefs: [{name: one, port: 80}], retry: {codes: [500], attempts: 3, backoff: 1ms}}",
        "GET /retry\nx-fail: 500 3",
        &["200 ", "asked 4\n"],
    )
    .shows(&["retry.codes", "retry.attempts"]),
    // One whose next attempt is not due for years is not tried again, where the usual wait is some milliseconds.
    case(
        "retry later",
        "{matches: [{path: {value: /wait}}], backendRefs: [{name: one, port: 80}], timeouts: {request: 500ms}, retry: {codes: [500], attempts: 3, backoff: 99999h}}",
        "GET /wait\nx-fail: 500 1",
        &["504 "],
    )
    .shows(&["retry.backoff"]),
    case("there was one attempt", "", "GET /wait", &["200 ", "asked 2\n"]),
    case(
        "retry no more often",
        "{matches: [{path: {value: /retries}}], backendRefs: [{name: one, port: 80}], retry: {codes: [500], attempts: 1, backoff: 1ms}}",
        "GET /retries\nx-fail: 500 2",
        &["500 ", "asked 2\n"],
    ),
    case("retry no other status", "", "GET /retries/a\nx-fail: 503 1", &["503 ", "asked 1\n"]),
    case(
        "retry of an attempt that took too long",
        "{matches: [{path: {value: /late}}], backendRefs: [{name: one, port: 80}], timeouts: {backendRequest: 500ms}, retry: {codes: [504], attempts: 5, backoff: 1ms}}",
        "GET /late\nx-hang: 1",
        &["200 ", "\nasked "],
    ),
    case(
        "not without its status",
        "{matches: [{path: {value: /later}}], backendRefs: [{name: one, port: 80}], timeouts: {backendRequest: 50ms}, retry: {codes: [503], attempts: 5, backoff: 1ms}}",
        "GET /later\nx-hang: 1",
        &["504 "],
    ),
    case(
        "retry of another instance",
        "{matches: [{path: {value: /dead}}], backendRefs: [{name: half-dead, port: 80}], retry: {attempts: 5, backoff: 1ms}}",
        "GET /dead",
        &["200 ", "one GET /dead\n"],
    ),
];

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {selector: {own: shop}, ports: [{port: 8080, targetPort: web}]}
---
apiVersion: v1
kind: Service
metadata: {name: one}
spec: {selector: {app: one}, ports: [{port: 80, targetPort: web}]}
---
apiVersion: v1
kind: Service
metadata: {name: two}
spec: {selector: {app: two}, ports: [{port: 80, targetPort: web}]}
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: half-dead}
spec: {ports: [{port: 80, targetPort: web}]}";

/// The Services and their instances; those of `shop` itself are `two`.
pub(crate) fn without_routes(one: SocketAddr, two: SocketAddr) -> String {
    let workload = |name: &str, labels: &str, port: u16, services: &str| {
        format!(
            "\n---\napiVersion: outrigger.dev/v1alpha1\nkind: Workload\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n\
             spec: {{addresses: [127.0.0.1], ports: {{web: {port}}}, services: [{services}]}}"
        )
    };
    // Nobody listens on port 1.
    SERVICES.to_owned()
        + &workload("one", "app: one", one.port(), "{name: half-dead}")
        + &workload("two", "app: two, own: shop", two.port(), "")
        + &workload("dead", "app: dead", 1, "{name: half-dead}")
}

/// All rules, in routes of as many as one may have.
pub(crate) fn routes() -> Vec<String> {
    let rules = CASES.iter().map(|case| case.rule).chain(SHARES.iter().map(|share| share.rule));
    let rules: Vec<_> = rules.filter(|rule| !rule.is_empty()).collect();
    let route = |(index, rules): (usize, &[&str])| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: shop-{index}}}\n\
             spec: {{parentRefs: [{{group: '', kind: Service, name: shop, port: 8080}}], rules: [{}]}}",
            rules.join(", ")
        )
    };
    rules.chunks(16).enumerate().map(route).collect()
}

/// The Services with all rules.
pub(crate) fn objects(one: SocketAddr, two: SocketAddr) -> String {
    std::iter::once(without_routes(one, two)).chain(routes()).collect::<Vec<_>>().join("\n---\n")
}
