use std::collections::BTreeMap;

use outrigger_proto::outrigger::control::v1 as pb;

use crate::model::{Health, Key, Kind, Model, Name, Protocol, Status};
use crate::testing::objects;

const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: products}
spec: {selector: {app: products}, ports: [{name: http, port: 80, targetPort: web}, {name: raw, port: 81, appProtocol: tcp}]}
---
apiVersion: v1
kind: Service
metadata: {name: users}
spec: {ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: members}
spec: {clusterIP: None, selector: {app: products}, ports: [{port: 80}]}
---
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {name: products-b, labels: {app: products, version: v1}}
spec: {addresses: [10.0.0.2], ports: {web: 9000}, weight: 2}
status: {health: Draining}
---
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {name: products-a, labels: {app: products}}
spec: {addresses: [10.0.0.1], ports: {other: 9000}}
---
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {name: users-a, labels: {app: users}}
spec: {addresses: ['::1'], services: [{name: users, port: 7000}]}
---
";

fn build(more: &str) -> Model {
    let model = Model::build(&objects(&format!("{SHOP}{more}")));
    assert!(model.faults().is_empty(), "{:?}", model.faults());
    model
}

fn addresses(model: &Model, service: &str, port: u16) -> Vec<String> {
    let port = model.port(&Name::new("default", service), port).unwrap();
    port.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
}

/// `type=status reason: message` of each condition of each entry.
fn conditions(model: &Model, kind: Kind, name: &str) -> Vec<String> {
    let line = |condition: &pb::Condition| {
        let pb::Condition { r#type, status, reason, message, .. } = condition;
        let text = format!("{type}={status} {reason}: {message}");
        text.trim_end_matches(": ").to_owned()
    };
    let Some(status) = model.statuses().get(&Key { kind, name: Name::new("default", name) }) else { return Vec::new() };
    match &**status {
        Status::Route(status) => status.parents.iter().flat_map(|parent| &parent.conditions).map(line).collect(),
        Status::Policy(status) => status.ancestors.iter().flat_map(|target| &target.conditions).map(line).collect(),
        Status::Object(conditions) => conditions.iter().map(line).collect(),
    }
}

fn route(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n---\n"
    )
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: outrigger.dev/v1alpha1\nkind: ServicePolicy\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n---\n"
    )
}

#[test]
fn instances_by_selector_or_by_naming() {
    let model = build("");
    assert_eq!(addresses(&model, "products", 80), ["10.0.0.2:9000"], "only one has a port of that name");
    assert_eq!(addresses(&model, "products", 81), ["10.0.0.1:81", "10.0.0.2:81"]);
    assert_eq!(addresses(&model, "users", 80), ["[::1]:7000"]);
    let port = model.port(&Name::new("default", "products"), 80).unwrap();
    assert_eq!((port.endpoints[0].weight, port.endpoints[0].health), (2, Health::Draining));
}

#[test]
fn a_target_port_that_no_instance_has_says_so() {
    let service = |port: &str, instances: &str| {
        let spec = format!("{{selector: {{app: a}}, ports: [{port}]}}");
        let service = format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {spec}\n---\n");
        let instance = |(number, ports): (usize, &str)| {
            format!(
                "apiVersion: outrigger.dev/v1alpha1\nkind: Workload\nmetadata: {{name: a-{number}, labels: {{app: a}}}}\n\
                 spec: {{addresses: [10.0.1.{number}], ports: {ports}}}\n---\n"
            )
        };
        let instances: String = instances.lines().enumerate().map(instance).collect();
        conditions(&build(&(service + &instances)), Kind::Service, "a")
    };
    let named = "{port: 80, targetPort: htpp}";
    for (port, instances, expected) in [
        (named, "", ""),
        (
            named,
            "{http: 8080}\n{http: 8080,x: 1}",
            "False PortNotFound: spec.ports[0].targetPort: no instance (2) has a port named \"htpp\"; did you mean \"http\"?",
        ),
        (
            named,
            "{http: 8080}\n{htpp: 8080}",
            "True ResolvedRefs: spec.ports[0].targetPort: 1 of 2 instances have no port named \"htpp\" and get nothing",
        ),
        (named, "{htpp: 8080}", ""),
        (
            "{port: 80, targetPort: 8081}",
            "{http: 8080}",
            "True ResolvedRefs: spec.ports[0].targetPort: 8081 is none of the ports that the instances (1) name",
        ),
        ("{port: 80, targetPort: 8081}", "{http: 8080}\n{}", ""),
        ("{port: 80, targetPort: 8081}", "{http: 8080}\n{http: 8081}", ""),
        ("{port: 80, targetPort: htpp, protocol: UDP}", "{http: 8080}", ""),
    ] {
        let expected: Vec<String> = Some(expected)
            .filter(|text| !text.is_empty())
            .map(|text| format!("ResolvedRefs={text}"))
            .into_iter()
            .collect();
        assert_eq!(service(port, instances), expected, "{port} {instances}");
    }
}

#[test]
fn a_workload_that_names_a_service_in_vain_says_so() {
    let named = |spec: &str| {
        let workload = "apiVersion: outrigger.dev/v1alpha1\nkind: Workload";
        let text = format!(
            "{workload}\nmetadata: {{name: w, labels: {{app: other}}}}\nspec: {{addresses: [10.0.1.1], {spec}}}\n---\n"
        );
        conditions(&build(&text), Kind::Workload, "w")
    };
    assert_eq!(named("services: [{name: users}]"), [""; 0]);
    assert_eq!(
        named("services: [{name: users}, {name: usres}, {name: products}]"),
        [
            "ResolvedRefs=False ServiceNotFound: spec.services[1].name: there is no Service default/usres; did you mean \"users\"?; \
          spec.services[2].name: Service default/products has a selector, and that does not select this Workload"
        ]
    );
    let selected = "labels: {app: products}";
    let text = format!(
        "apiVersion: outrigger.dev/v1alpha1\nkind: Workload\nmetadata: {{name: w, {selected}}}\nspec: {{addresses: [10.0.1.1], services: [{{name: products, port: 1}}]}}\n---\n"
    );
    assert_eq!(
        conditions(&build(&text), Kind::Workload, "w"),
        [
            "ResolvedRefs=True ResolvedRefs: spec.services[0].port has no effect: Service default/products has a selector, and its targetPort holds"
        ]
    );
}

#[test]
fn a_parent_that_is_not_there_says_so() {
    let to = |parent: &str| route("r", &format!("parentRefs: [{{group: '', kind: Service, {parent}}}]"));
    for (parent, expected) in [
        ("name: products", "Accepted=True Accepted"),
        ("name: products, port: 80", "Accepted=True Accepted"),
        ("name: products, sectionName: http", "Accepted=True Accepted"),
        (
            "name: product",
            "Accepted=False NoMatchingParent: there is no Service default/product; did you mean \"products\"?",
        ),
        ("name: products, namespace: shop", "Accepted=False NoMatchingParent: there is no Service shop/products"),
        (
            "name: products, port: 8080",
            "Accepted=False NoMatchingParent: Service default/products has no such port; it has 80 (http), 81 (raw)",
        ),
        (
            "name: products, port: 81",
            "Accepted=False UnsupportedValue: Service default/products does not speak HTTP on that port",
        ),
        (
            "name: members",
            "Accepted=False NoMatchingParent: Service default/members is headless: its instances are called one by one",
        ),
    ] {
        assert_eq!(conditions(&build(&to(parent)), Kind::HttpRoute, "r"), [expected, "ResolvedRefs=True ResolvedRefs"]);
    }
}

#[test]
fn a_parent_that_is_no_service_says_so() {
    let what_to_do = "and only Services are parents in this version: write group: \"\" and kind: Service";
    for (parent, found) in [
        ("{name: products}", "the reference has no kind, which means Gateway"),
        ("{kind: Gateway, name: g}", "the reference is to the kind Gateway of the group \"gateway.networking.k8s.io\""),
        ("{group: '', kind: Servcie, name: products}", "the reference is to the kind Servcie of the group \"\""),
    ] {
        let no_parent = format!("Accepted=False NoMatchingParent: {found}, {what_to_do}");
        let alone = build(&route("r", &format!("parentRefs: [{parent}]")));
        assert_eq!(conditions(&alone, Kind::HttpRoute, "r"), [no_parent.as_str(), "ResolvedRefs=True ResolvedRefs"]);
        // A Service beside it is served.
        let beside = build(&route("r", &format!("parentRefs: [{parent}, {{group: '', kind: Service, name: users}}]")));
        let found = conditions(&beside, Kind::HttpRoute, "r");
        assert_eq!((found[0].as_str(), found[2].as_str()), ("Accepted=True Accepted", no_parent.as_str()));
    }
}

#[test]
fn what_is_taken_otherwise_than_it_is_written_is_said_where_the_route_is_accepted() {
    let note = |spec: &str| {
        let parents = "parentRefs: [{group: '', kind: Service, name: users}]";
        conditions(&build(&route("r", &format!("{parents}, rules: [{{{spec}}}]"))), Kind::HttpRoute, "r").remove(0)
    };
    let request = |name: &str| {
        format!("{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: {name}, value: v}}]}}}}")
    };
    let response = "{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [server]}}";
    let redirect = "{type: RequestRedirect, requestRedirect: {hostname: other.test}}";
    let rewrite = "{type: URLRewrite, urlRewrite: {hostname: other.test}}";
    let accepted = "Accepted=True Accepted";
    for (filters, expected) in [
        (
            format!("{redirect}, {response}"),
            "ResponseHeaderModifier changes the redirect too, though it stands behind RequestRedirect",
        ),
        (
            format!("{rewrite}, {}", request("X-Forwarded-Host")),
            "RequestHeaderModifier comes before URLRewrite, which adds the old host to x-forwarded-host, though it stands behind it",
        ),
        (format!("{response}, {redirect}"), ""),
        (format!("{}, {rewrite}", request("x-forwarded-host")), ""),
        (format!("{rewrite}, {}, {response}", request("x-other")), ""),
    ] {
        let expected = match expected {
            "" => accepted.to_owned(),
            note => format!("{accepted}: spec.rules[0].filters: {note}"),
        };
        assert_eq!(note(&format!("filters: [{filters}]")), expected);
    }
    assert_eq!(
        note("backendRefs: [{name: users, port: 80}, {group: core, name: users, port: 80}]"),
        format!("{accepted}: group \"core\" is taken for \"\", the group of Services, in spec.rules[0].backendRefs[1]")
    );
    let target = policy("p", "targetRefs: [{group: core, kind: Service, name: users}], limits: {requests: 1}");
    assert_eq!(
        conditions(&build(&target), Kind::ServicePolicy, "p"),
        [format!("{accepted}: group \"core\" is taken for \"\", the group of Services, in spec.targetRefs[0]")]
    );
}

#[test]
fn a_backend_that_is_not_there_says_so() {
    let refs = "backendRefs: [{name: users, port: 80}, {name: user, port: 80}, {name: users, port: 81}, {name: products, port: 81}, {group: x.test, kind: Bucket, name: b}]";
    let model = build(&route(
        "r",
        &format!(
            "hostnames: [a.test], parentRefs: [{{group: core, kind: Service, name: products}}], rules: [{{{refs}}}]"
        ),
    ));
    assert_eq!(
        conditions(&model, Kind::HttpRoute, "r"),
        [
            "Accepted=True Accepted: spec.hostnames has no effect where a Service is the parent; \
             group \"core\" is taken for \"\", the group of Services, in spec.parentRefs[0]",
            "ResolvedRefs=False BackendNotFound: spec.rules[0].backendRefs[1]: there is no Service default/user; did you mean \"users\"?; \
             spec.rules[0].backendRefs[2]: Service default/users has no port 81; it has 80; \
             spec.rules[0].backendRefs[3]: Service default/products does not speak HTTP on port 81; \
             spec.rules[0].backendRefs[4]: x.test/Bucket is not a Service",
        ]
    );
}

#[test]
fn a_rule_that_became_wrong_is_dropped_alone() {
    let broken = "parentRefs: [{group: '', kind: Service, name: products}], rules: [{}, {matches: [{path: {type: RegularExpression, value: '('}}]}]";
    let model = Model::build(&objects(&format!("{SHOP}{}", route("r", broken))));
    assert_eq!(model.faults().len(), 1);
    assert_eq!(
        conditions(&model, Kind::HttpRoute, "r")[2],
        "PartiallyInvalid=True UnsupportedValue: Dropped Rule: rules[1]"
    );
    let all = "parentRefs: [{group: '', kind: Service, name: products}], rules: [{matches: [{method: x}]}]";
    let model = Model::build(&objects(&format!("{SHOP}{}", route("r", all))));
    assert_eq!(
        conditions(&model, Kind::HttpRoute, "r")[0],
        "Accepted=False UnsupportedValue: no rule is usable: rules[0]"
    );
}

#[test]
fn a_match_that_no_request_reaches_names_the_winner() {
    let spec = "parentRefs: [{group: '', kind: Service, name: users}], rules: [{matches: [{path: {value: /a}}, {path: {value: /b/}}]}]";
    let model = build(&(route("newer-in-name", spec) + &route("a-later", spec)));
    assert_eq!(conditions(&model, Kind::HttpRoute, "newer-in-name").len(), 2);
    assert_eq!(
        conditions(&model, Kind::HttpRoute, "a-later")[2],
        "Shadowed=True Shadowed: spec.rules[0].matches[0] is never reached: HTTPRoute default/newer-in-name has the same in spec.rules[0].matches[0]; \
         spec.rules[0].matches[1] is never reached: HTTPRoute default/newer-in-name has the same in spec.rules[0].matches[1]"
    );
}

#[test]
fn a_match_is_shadowed_at_one_parent_and_not_at_another() {
    let parent = |name: &str| format!("{{group: '', kind: Service, name: {name}}}");
    let both = format!("parentRefs: [{}, {}]", parent("products"), parent("users"));
    let model = build(&(route("first", &format!("parentRefs: [{}]", parent("users"))) + &route("second", &both)));
    let key = Key { kind: Kind::HttpRoute, name: Name::new("default", "second") };
    let Status::Route(status) = &**model.statuses().get(&key).unwrap() else { panic!("a route") };
    let shadowed = |conditions: &[pb::Condition]| conditions.iter().any(|condition| condition.r#type == "Shadowed");
    assert_eq!(status.parents.iter().map(|parent| shadowed(&parent.conditions)).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn a_port_may_go_back_to_the_protocol_that_it_says_itself() {
    let text =
        "targetRefs: [{group: '', kind: Service, name: products, sectionName: http}], connection: {protocol: Auto}";
    let whole = "targetRefs: [{group: '', kind: Service, name: products}], connection: {protocol: HTTP2}";
    let model = build(&(policy("port", text) + &policy("whole", whole)));
    let protocol = |port| model.port(&Name::new("default", "products"), port).unwrap().protocol;
    assert_eq!((protocol(80), protocol(81)), (Protocol::Http, Protocol::Http2));
}

#[test]
fn policies_merge_by_field_and_lost_fields_are_named() {
    let target = |more: &str| format!("targetRefs: [{{group: '', kind: Service, name: products{more}}}]");
    let model = build(
        &[
            policy("whole", &format!("{}, timeouts: {{request: 1s, attempt: 1s}}", target(""))),
            policy("port", &format!("{}, timeouts: {{request: 2s}}", target(", sectionName: http"))),
            policy("late", &format!("{}, timeouts: {{request: 3s, streamIdle: 3s}}", target(""))),
            policy("lost", &format!("{}, timeouts: {{request: 4s}}", target(""))),
            policy("lost-port", &format!("{}, timeouts: {{request: 4s}}", target(", sectionName: htpt"))),
            policy("nowhere", "targetRefs: [{kind: Service, name: produce}], limits: {requests: 1}"),
        ]
        .concat(),
    );
    let seconds = |port| {
        let policy = &model.port(&Name::new("default", "products"), port).unwrap().policy;
        [policy.request, policy.attempt, policy.stream_idle].map(|value| value.map(|value| value.as_secs()))
    };
    assert_eq!(seconds(80), [Some(2), Some(1), Some(3)]);
    assert_eq!(seconds(81), [Some(1), Some(1), Some(3)]);
    let expected: BTreeMap<&str, &[&str]> = [
        ("whole", &["Accepted=True Accepted"][..]),
        ("port", &["Accepted=True Accepted"]),
        (
            "late",
            &[
                "Accepted=True Accepted",
                "Programmed=False PartiallyProgrammed: an older policy of this target sets timeouts.request",
            ],
        ),
        (
            "lost",
            &["Accepted=True Accepted", "Programmed=False Overridden: an older policy of this target sets timeouts.request"],
        ),
        (
            "lost-port",
            &["Accepted=False TargetNotFound: Service default/products has no port named \"htpt\"; did you mean \"http\"?"],
        ),
        ("nowhere", &["Accepted=False TargetNotFound: there is no Service default/produce; did you mean \"products\"?"]),
    ]
    .into();
    for (name, expected) in expected {
        assert_eq!(conditions(&model, Kind::ServicePolicy, name), expected, "{name}");
    }
}
