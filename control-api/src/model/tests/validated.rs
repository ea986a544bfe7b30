use crate::model::validate;
use crate::testing::object;

/// What is wrong, as lines of `path: value: reason`.
fn problems(yaml: &str) -> Vec<String> {
    validate(&object(yaml)).iter().map(ToString::to_string).collect()
}

fn route(spec: &str) -> Vec<String> {
    problems(&format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\nspec: {{{spec}}}"
    ))
}

fn rule(rule: &str) -> Vec<String> {
    let found = route(&format!("rules: [{{{rule}}}]"));
    found.iter().map(|line| line.strip_prefix("spec.rules[0].").unwrap_or(line).to_owned()).collect()
}

fn service(spec: &str) -> Vec<String> {
    problems(&format!("apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {{{spec}}}"))
}

fn workload(spec: &str) -> Vec<String> {
    problems(&format!("apiVersion: outrigger.dev/v1alpha1\nkind: Workload\nmetadata: {{name: w}}\nspec: {{{spec}}}"))
}

fn policy(spec: &str) -> Vec<String> {
    let head = "apiVersion: outrigger.dev/v1alpha1\nkind: ServicePolicy\nmetadata: {name: p}";
    problems(&format!("{head}\nspec: {{targetRefs: [{{kind: Service, name: s}}], {spec}}}"))
}

#[test]
fn what_every_object_has() {
    assert_eq!(
        problems(
            "apiVersion: v2\nkind: Service\nmetadata: {name: A.b, namespace: a.b, labels: {'/x': a, y: '-'}}\nspec: {}"
        ),
        [
            "apiVersion: v2: must be v1",
            "metadata.name: A.b: must be 1 to 63 lower case letters, digits and -, and begin and end with none of -",
            "metadata.namespace: a.b: must be 1 to 63 lower case letters, digits and -, and begin and end with none of -",
            "metadata.labels[\"/x\"]: /x: not a label's name: [prefix/]name, the name with 1 to 63 letters, digits, -_.",
            "metadata.labels[\"y\"]: -: not a label's value: up to 63 letters, digits, -_.",
        ]
    );
    assert_eq!(problems("apiVersion: v1\nkind: Service"), ["metadata.name: is required", "spec: is required"]);
}

#[test]
fn annotations_have_a_bound_as_in_kubernetes() {
    let annotated = |bytes: usize| {
        let text = "x".repeat(bytes - "k".len());
        problems(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s, annotations: {{k: {text}}}}}\nspec: {{ports: [{{port: 80}}]}}"
        ))
    };
    assert!(annotated(262_144).is_empty());
    let refused = ["metadata.annotations: take 262145 bytes, and no more than 262144 are allowed"];
    assert_eq!(annotated(262_145), refused);
}

#[test]
fn a_whole_route_is_right() {
    let right = route(
        "parentRefs: [{group: '', kind: Service, name: s, port: 80}, {group: '', kind: Service, name: s, port: 81}],
         hostnames: ['*.example.com'],
         rules: [{
           name: all,
           matches: [
             {path: {type: Exact, value: /a}, method: GET,
              headers: [{name: X-A, value: b}, {type: RegularExpression, name: x-b, value: 'b+'}],
              queryParams: [{name: q, value: v}, {type: RegularExpression, name: r, value: 'v|w'}]},
             {path: {type: RegularExpression, value: '/[0-9]+'}}],
           filters: [
             {type: RequestHeaderModifier,
              requestHeaderModifier: {set: [{name: a, value: '1'}], add: [{name: b, value: '%'}], remove: [c]}},
             {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [server]}},
             {type: URLRewrite, urlRewrite: {hostname: a.test, path: {type: ReplaceFullPath, replaceFullPath: /x}}}],
           backendRefs: [
             {name: a, port: 80, weight: 9}, {name: b, namespace: other, port: 80, weight: 0, filters: [
               {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: '2'}]}}]}],
           timeouts: {request: 1m30s, backendRequest: 500ms},
           retry: {codes: [500, 503], attempts: 0, backoff: 10ms}}]",
    );
    assert_eq!(right, [""; 0]);
    assert_eq!(route("parentRefs: [{name: gateway}, {name: gateway}]"), [""; 0], "gateways are other controllers'");
}

#[test]
fn matches_that_are_wrong() {
    for (text, expected) in [
        ("path: {value: a}", "path.value: a: must begin with /"),
        ("path: {type: Exact, value: /a//b}", "path.value: /a//b: must not hold //, /./, /../, %2f or #"),
        ("path: {type: Suffix}", "path.type: Suffix: must be Exact, PathPrefix or RegularExpression"),
        (
            "headers: [{name: ':path', value: a}]",
            "headers[0].name: :path: must be a header's name: 1 to 256 letters, digits and !#$%&'*+-.^_`|~",
        ),
        ("headers: [{name: a}]", "headers[0].value: must be 1 to 4096 bytes of printable text"),
        ("queryParams: [{name: a}]", "queryParams[0].value: must be 1 to 1024 bytes"),
        (
            "queryParams: [{name: a, value: b, type: Prefix}]",
            "queryParams[0].type: Prefix: must be Exact or RegularExpression",
        ),
        ("method: get", "method: get: must be one of GET, HEAD, POST, PUT, DELETE, CONNECT, OPTIONS, TRACE, PATCH"),
        ("method: CONNECT", "method: CONNECT: not in this version: CONNECT comes later"),
    ] {
        assert_eq!(rule(&format!("matches: [{{{text}}}]")), [format!("matches[0].{expected}")], "{text}");
    }
    let wrong = rule("matches: [{path: {type: RegularExpression, value: '/('}}]");
    assert!(wrong[0].starts_with("matches[0].path.value: /(: "), "{wrong:?}");
    let wrong = rule("matches: [{headers: [{name: a, type: RegularExpression, value: '(?=x)'}]}]");
    assert!(wrong[0].starts_with("matches[0].headers[0].value: (?=x): "), "{wrong:?}");
}

#[test]
fn rules_that_are_wrong() {
    for (text, expected) in [
        (
            "name: A",
            "name: A: must be 1 to 253 lower case letters, digits, - and ., and each part begin and end with a letter or digit",
        ),
        ("backendRefs: [{name: a}]", "backendRefs[0].port: is required for a Service"),
        ("backendRefs: [{name: a, port: 0}]", "backendRefs[0].port: 0: must be 1 to 65535"),
        ("backendRefs: [{name: a, port: 1, weight: 1000001}]", "backendRefs[0].weight: 1000001: must be 0 to 1000000"),
        (
            "timeouts: {request: 1.5s}",
            "timeouts.request: 1.5s: not a duration: up to four of numbers (at most five digits) with h, m, s or ms, as in 1m30s",
        ),
        ("timeouts: {request: 1s, backendRequest: 2s}", "timeouts.backendRequest: 2s: must not be longer than request"),
        ("retry: {codes: [404, 200]}", "retry.codes[1]: 200: must be 400 to 599"),
        ("retry: {codes: [503, 503]}", "retry.codes[1]: 503: is there twice"),
        ("retry: {attempts: -1}", "retry.attempts: -1: must be 0 to 100"),
        ("retry: {attempts: 101}", "retry.attempts: 101: must be 0 to 100"),
        ("retry: {backoff: 0s}", "retry.backoff: 0s: must be greater than 0s"),
        ("sessionPersistence: {sessionName: s}", "sessionPersistence: not in this version: sticky sessions come later"),
    ] {
        assert_eq!(rule(text), [expected], "{text}");
    }
    assert_eq!(rule("timeouts: {request: 0s, backendRequest: 2s}"), [""; 0]);
    assert_eq!(route("rules: [{name: a}, {name: a}]"), ["spec.rules[1].name: a: another rule has this name"]);
    assert_eq!(
        route("parentRefs: [{group: '', kind: Service, name: s}, {group: '', kind: Service, name: s, port: 80}]"),
        [
            "spec.parentRefs[1]: default/s: two references to one object must both set sectionName or port, to different values"
        ]
    );
    assert_eq!(
        route("hostnames: [10.0.0.1, 'a:80']"),
        [
            "spec.hostnames[0]: 10.0.0.1: must be a name, not an address",
            "spec.hostnames[1]: a:80: must be a host name in lower case, without a port",
        ]
    );
    let many = format!("rules: [{}]", "{},".repeat(17));
    assert_eq!(route(&many), ["spec.rules: 17: has 17 elements, and at most 16 are allowed"]);
    let three = format!("{{matches: [{}]}},", "{method: GET},".repeat(64)).repeat(3);
    assert_eq!(route(&format!("rules: [{three}]")), ["spec.rules: the rules have more than 128 matches together"]);
}

#[test]
fn filters_that_are_wrong() {
    let rewrite = "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}";
    let redirect = "{type: RequestRedirect, requestRedirect: {scheme: https}}";
    for (text, expected) in [
        ("filters: [{type: Rewrite}]".to_owned(), "filters[0].type: Rewrite: must be one of RequestHeaderModifier, ResponseHeaderModifier, RequestMirror, RequestRedirect, URLRewrite, CORS, ExternalAuth, ExtensionRef"),
        ("filters: [{type: URLRewrite}]".to_owned(), "filters[0].urlRewrite: is required where the type is URLRewrite"),
        ("filters: [{type: URLRewrite, urlRewrite: {}, requestRedirect: {}}]".to_owned(), "filters[0].requestRedirect: must not be set where the type is URLRewrite"),
        (format!("filters: [{rewrite}, {rewrite}]"), "filters[1].type: URLRewrite: may stand only once in a list"),
        (format!("filters: [{rewrite}, {redirect}]"), "filters: URLRewrite and RequestRedirect exclude each other (IncompatibleFilters)"),
        (format!("filters: [{redirect}], backendRefs: [{{name: a, port: 1}}]"), "backendRefs: must be empty beside RequestRedirect"),
        (format!("matches: [{{path: {{type: Exact, value: /a}}}}], filters: [{rewrite}]"), "filters: ReplacePrefixMatch needs exactly one match in the rule, of type PathPrefix (IncompatibleFilters)"),
        (format!("matches: [{{}}, {{method: GET}}], filters: [{rewrite}]"), "filters: ReplacePrefixMatch needs exactly one match in the rule, of type PathPrefix (IncompatibleFilters)"),
        (format!("backendRefs: [{{name: a, port: 1, filters: [{rewrite}]}}]"), "backendRefs[0].filters[0].type: URLRewrite: not in this version: it may stand in the rule's filters"),
        ("filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}}}]".to_owned(), "filters[0].type: RequestMirror: not in this version: mirroring comes later"),
        ("filters: [{type: CORS, cors: {}}]".to_owned(), "filters[0].type: CORS: not in this version"),
        ("filters: [{type: ExternalAuth, externalAuth: {protocol: HTTP}}]".to_owned(), "filters[0].type: ExternalAuth: not in this version"),
        ("filters: [{type: ExtensionRef, extensionRef: {kind: TrafficFilter, name: x}}]".to_owned(), "filters[0].type: ExtensionRef: not in this version: faults and rate limits come later"),
        ("filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: A, value: b}], remove: [a]}}]".to_owned(), "filters[0].requestHeaderModifier.remove[0]: a: a header may be changed once only"),
        ("filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Content-Length, value: '3'}]}}]".to_owned(), "filters[0].requestHeaderModifier.set[0].name: Content-Length: cannot be changed: the proxy sets it itself, for it says where a message ends or is for one connection"),
        ("filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: ':path', value: /}]}}]".to_owned(), "filters[0].requestHeaderModifier.add[0].name: :path: a pseudo-header cannot be changed: the host and the path are, by urlRewrite"),
        ("filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [transfer-encoding]}}]".to_owned(), "filters[0].responseHeaderModifier.remove[0]: transfer-encoding: cannot be changed: the proxy sets it itself, for it says where a message ends or is for one connection"),
        ("filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Host, value: b}]}}]".to_owned(), "filters[0].requestHeaderModifier.set[0].name: Host: the host is changed by urlRewrite.hostname"),
        ("filters: [{type: RequestRedirect, requestRedirect: {statusCode: 304}}]".to_owned(), "filters[0].requestRedirect.statusCode: 304: must be 301, 302, 303, 307 or 308"),
        ("filters: [{type: RequestRedirect, requestRedirect: {scheme: ftp}}]".to_owned(), "filters[0].requestRedirect.scheme: ftp: must be http or https"),
        ("filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replacePrefixMatch: /}}}]".to_owned(), "filters[0].urlRewrite.path.replacePrefixMatch: must not be set where the type is ReplaceFullPath\nfilters[0].urlRewrite.path.replaceFullPath: is required where the type is ReplaceFullPath"),
        ("filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: '/a?b'}}}]".to_owned(), "filters[0].urlRewrite.path.replaceFullPath: /a?b: holds a character that a path cannot have: letters, digits, /-._~!$&'()*+,;=:@ and %XX can"),
    ] {
        assert_eq!(rule(&text).join("\n"), expected, "{text}");
    }
    assert_eq!(rule(&format!("filters: [{rewrite}]")), [""; 0], "a rule without matches has one: /");
}

#[test]
fn services() {
    assert_eq!(
        service(
            "selector: {app: s}, clusterIP: 10.0.0.1, type: LoadBalancer, externalTrafficPolicy: Local,
             ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080}, {name: dns, port: 53, protocol: UDP},
                     {name: grpc, port: 90, targetPort: grpc, appProtocol: grpc}]"
        ),
        [""; 0]
    );
    assert_eq!(
        service(
            "ports: [{port: 80}, {name: A, port: 0}, {name: a, port: 80, protocol: HTTP, targetPort: 1.5}, {name: b, port: 81, targetPort: '27003'}]"
        ),
        [
            "spec.ports[0].name: is required where there are several ports",
            "spec.ports[1].name: A: must be 1 to 63 lower case letters, digits and -, and begin and end with none of -",
            "spec.ports[1].port: 0: must be 1 to 65535",
            "spec.ports[2].protocol: HTTP: must be TCP, UDP or SCTP",
            "spec.ports[2].targetPort: 1.5: must be 1 to 65535, or the name of a port",
            "spec.ports[3].targetPort: 27003: the name of a port holds a letter, and a number is whole and without quotes",
        ]
    );
    // Of YAML: one that is no integer comes as a text.
    let fraction = "targetPort: 8080.5: the name of a port holds a letter, and a number is whole and without quotes";
    assert_eq!(service("ports: [{port: 80, targetPort: '8080.5'}]"), [format!("spec.ports[0].{fraction}")]);
    assert_eq!(
        service(
            "type: ExternalName, externalName: a.test, sessionAffinity: ClientIP, internalTrafficPolicy: Local, trafficDistribution: PreferClose, clusterIP: x"
        ),
        [
            "spec.type: ExternalName: not in this version: Services outside the mesh come later",
            "spec.externalName: not in this version: Services outside the mesh come later",
            "spec.sessionAffinity: ClientIP: not in this version: balancing by a key comes later",
            "spec.trafficDistribution: PreferClose: not in this version: balancing by locality comes later",
            "spec.internalTrafficPolicy: Local: not in this version: balancing by locality comes later",
            "spec.clusterIP: x: must be an address or None",
        ]
    );
}

#[test]
fn workloads() {
    assert_eq!(
        workload(
            "addresses: ['::1'], ports: {http: 8080}, services: [{name: s, port: 81}], weight: 3, locality: {zone: a}"
        ),
        [""; 0]
    );
    assert_eq!(
        workload(
            "addresses: [a.test], ports: {http: 70000}, services: [{name: s}, {name: s}], weight: 0, identity: 'spiffe://x', ttl: 15s"
        ),
        [
            "spec.identity: spiffe://x: not in this version: identities come with mTLS",
            "spec.ttl: 15s: not in this version: self-registration comes later",
            "spec.addresses[0]: a.test: must be an IPv4 or IPv6 address",
            "spec.ports[\"http\"]: 70000: must be 1 to 65535",
            "spec.services[1].name: s: is named twice",
            "spec.weight: 0: must be at least 1",
        ]
    );
    assert_eq!(workload(""), ["spec.addresses: is required"]);
    for address in ["0.0.0.0", "::", "::ffff:0.0.0.0"] {
        let reason = "must be the address of one instance: it stands for all of a machine's";
        assert_eq!(workload(&format!("addresses: ['{address}']")), [format!("spec.addresses[0]: {address}: {reason}")]);
    }
    for address in ["224.0.0.1", "ff02::1"] {
        let reason = "must be the address of one instance, not of multicast";
        assert_eq!(workload(&format!("addresses: ['{address}']")), [format!("spec.addresses[0]: {address}: {reason}")]);
    }
    assert_eq!(
        workload("addresses: [10.0.0.1, '::1']"),
        ["spec.addresses: not in this version: one address an instance"]
    );
    let status = "apiVersion: outrigger.dev/v1alpha1\nkind: Workload\nmetadata: {name: w}\nspec: {addresses: [10.0.0.1]}\nstatus: {health: Sick}";
    assert_eq!(problems(status), ["status.health: Sick: must be Healthy, Unhealthy or Draining"]);
}

#[test]
fn policies() {
    assert_eq!(
        policy(
            "balancing: {algorithm: LeastRequest, choices: 3, panicPercent: 50},
             limits: {connections: 10, pending: 0, requests: 5, perHostConnections: 2, requestsPerConnection: 1000},
             retry: {attempts: 3, on: [connectFailure, 5xx], codes: [429], grpcCodes: [internal],
                     backoff: {base: 10ms, max: 1s}, bufferBytes: 0, budget: {percent: 100}},
             timeouts: {request: 10s, attempt: 1s, streamIdle: 5m, maxStream: 1h, grpcDeadline: Ignore},
             connection: {connectTimeout: 1s, idleTimeout: 1m, maxDuration: 1h, protocol: HTTP2,
                          tcpKeepalive: {idle: 10s, interval: 5s, probes: 3}}"
        ),
        [""; 0]
    );
    assert_eq!(
        policy(
            "balancing: {algorithm: RoundRobin, choices: 3, panicPercent: 101},
             limits: {connections: 0, requests: 4294967296},
             retry: {on: [timeout, perTryTimeout], grpcCodes: [ok], backoff: {base: 1s, max: 1ms},
                     budget: {percent: 101, interval: 10s}},
             timeouts: {grpcDeadline: Maybe}, connection: {protocol: HTTP3, connectTimeout: 0s, proxyProtocol: V2,
             tcpKeepalive: {idle: 1ms, interval: 1s500ms}}, outlier: {}, health: [], tls: {mode: Mesh}"
        ),
        [
            "spec.outlier: not in this version: outlier detection comes later",
            "spec.health: not in this version: active health checks come later",
            "spec.tls: not in this version: mTLS comes later",
            "spec.balancing.choices: 3: is for LeastRequest only",
            "spec.balancing.panicPercent: 101: must be 0 to 100",
            "spec.limits.connections: 0: must be 1 to 4294967295",
            "spec.limits.requests: 4294967296: must be 1 to 4294967295",
            "spec.retry.on[0]: timeout: must be one of connectFailure, refused, unread, unavailable, gatewayError, reset, 5xx",
            "spec.retry.on[1]: perTryTimeout: not in this version",
            "spec.retry.grpcCodes[0]: ok: must be one of cancelled, deadline-exceeded, internal, resource-exhausted, unavailable",
            "spec.retry.backoff.max: 1ms: must not be less than base",
            "spec.retry.budget.interval: 10s: not in this version: the budget follows what is under way",
            "spec.retry.budget.percent: 101: must be 0 to 100",
            "spec.timeouts.grpcDeadline: Maybe: must be Honour or Ignore",
            "spec.connection.proxyProtocol: V2: not in this version",
            "spec.connection.connectTimeout: 0s: must be greater than 0s",
            "spec.connection.tcpKeepalive.idle: 1ms: must be at least 1s",
            "spec.connection.tcpKeepalive.interval: 1s500ms: must be whole seconds",
            "spec.connection.protocol: HTTP3: must be Auto, HTTP1, HTTP2 or TCP",
        ]
    );
    for (text, expected) in [
        ("algorithm: Maglev", "algorithm: Maglev: not in this version"),
        ("algorithm: Best", "algorithm: Best: must be LeastRequest, RoundRobin or Random"),
        ("choices: 1", "choices: 1: must be at least 2"),
        ("key: [{sourceIP: true}]", "key: not in this version: balancing by a key comes later"),
    ] {
        assert_eq!(policy(&format!("balancing: {{{text}}}")), [format!("spec.balancing.{expected}")]);
    }
    let twice = "apiVersion: outrigger.dev/v1alpha1\nkind: ServicePolicy\nmetadata: {name: p}\nspec: {targetRefs: [{kind: Service, name: s}, {kind: Service, name: s, group: core}]}";
    assert_eq!(problems(twice), ["spec.targetRefs[1]: default/s: another reference of this policy names it already"]);
    let other = "apiVersion: outrigger.dev/v1alpha1\nkind: ServicePolicy\nmetadata: {name: p}\nspec: {targetRefs: [{kind: Pod, name: s, namespace: other}]}";
    assert_eq!(
        problems(other),
        [
            "spec.targetRefs[0].kind: Pod: must be Service",
            "spec.targetRefs[0].namespace: other: not in this version: policies of callers in another namespace come later",
        ]
    );
}

#[test]
fn a_parent_of_kind_service_says_its_group() {
    let route = |parent: &str| {
        let head = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}";
        problems(&format!("{head}\nspec: {{parentRefs: [{{{parent}, name: s}}]}}"))
    };
    assert!(route("group: '', kind: Service").is_empty());
    assert!(route("kind: Gateway").is_empty(), "for others to read");
    assert_eq!(
        route("kind: Service"),
        [
            "spec.parentRefs[0].group: gateway.networking.k8s.io: must be \"\", the group of Services; it is not that if left out"
        ]
    );
}
