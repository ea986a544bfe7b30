//! The descriptors know each field: it is shown, or it is said here why there is nothing to show.

use std::collections::BTreeSet;

use outrigger_control::model::validate;
use outrigger_control::node::Caller;
use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};

use crate::mesh::{compile, objects};
use crate::{cases, services};

/// Fields of Kubernetes and the Gateway API that are kept and change nothing, with a value.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("Service.type", "type: LoadBalancer"),
    ("Service.ipFamilies", "ipFamilies: [IPv4]"),
    ("Service.ipFamilyPolicy", "ipFamilyPolicy: SingleStack"),
    ("Service.externalIPs", "externalIPs: [192.0.2.1]"),
    ("Service.externalTrafficPolicy", "externalTrafficPolicy: Local"),
    ("Service.healthCheckNodePort", "healthCheckNodePort: 32000"),
    ("Service.loadBalancerIP", "loadBalancerIP: 192.0.2.1"),
    ("Service.loadBalancerClass", "loadBalancerClass: example.com/any"),
    ("Service.loadBalancerSourceRanges", "loadBalancerSourceRanges: [192.0.2.0/24]"),
    ("Service.allocateLoadBalancerNodePorts", "allocateLoadBalancerNodePorts: false"),
    ("Service.ports.nodePort", "ports: [{port: 80, nodePort: 30080}]"),
    ("HTTPRoute.hostnames", "hostnames: [shop.example]"),
];

/// Fields that are refused by their name, with a value. What is below them is refused with them.
const NOT_IN_THIS_VERSION: &[(&str, &str)] = &[
    ("Service.externalName", "externalName: example.com"),
    ("Service.sessionAffinity", "sessionAffinity: ClientIP"),
    ("Service.sessionAffinityConfig", "sessionAffinityConfig: {}"),
    ("Service.trafficDistribution", "trafficDistribution: PreferClose"),
    ("Service.internalTrafficPolicy", "internalTrafficPolicy: Local"),
    ("HTTPRoute.useDefaultGateways", "useDefaultGateways: All"),
    ("HTTPRoute.rules.sessionPersistence", "rules: [{sessionPersistence: {sessionName: a}}]"),
    (
        "HTTPRoute.rules.filters.requestMirror",
        "rules: [{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 80}}}]}]",
    ),
    ("HTTPRoute.rules.filters.cors", "rules: [{filters: [{type: CORS, cors: {}}]}]"),
    ("HTTPRoute.rules.filters.externalAuth", "rules: [{filters: [{type: ExternalAuth, externalAuth: {}}]}]"),
    (
        "HTTPRoute.rules.filters.extensionRef",
        "rules: [{filters: [{type: ExtensionRef, extensionRef: {group: a.test, kind: A, name: a}}]}]",
    ),
    (
        "HTTPRoute.rules.backendRefs.filters.requestMirror",
        "rules: [{backendRefs: [{name: a, port: 80, filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 80}}}]}]}]",
    ),
    (
        "HTTPRoute.rules.backendRefs.filters.requestRedirect",
        "rules: [{backendRefs: [{name: a, port: 80, filters: [{type: RequestRedirect, requestRedirect: {}}]}]}]",
    ),
    (
        "HTTPRoute.rules.backendRefs.filters.urlRewrite",
        "rules: [{backendRefs: [{name: a, port: 80, filters: [{type: URLRewrite, urlRewrite: {}}]}]}]",
    ),
    (
        "HTTPRoute.rules.backendRefs.filters.cors",
        "rules: [{backendRefs: [{name: a, port: 80, filters: [{type: CORS, cors: {}}]}]}]",
    ),
    (
        "HTTPRoute.rules.backendRefs.filters.externalAuth",
        "rules: [{backendRefs: [{name: a, port: 80, filters: [{type: ExternalAuth, externalAuth: {}}]}]}]",
    ),
    (
        "HTTPRoute.rules.backendRefs.filters.extensionRef",
        "rules: [{backendRefs: [{name: a, port: 80, filters: [{type: ExtensionRef, extensionRef: {group: a.test, kind: A, name: a}}]}]}]",
    ),
    ("ServicePolicy.targetRefs.namespace", "targetRefs: [{kind: Service, name: a, namespace: other}]"),
    ("ServicePolicy.locality", "locality: {}"),
    ("ServicePolicy.outlier", "outlier: {}"),
    ("ServicePolicy.health", "health: []"),
    ("ServicePolicy.tls", "tls: {}"),
    ("ServicePolicy.sessionPersistence", "sessionPersistence: {}"),
    ("ServicePolicy.balancing.key", "balancing: {key: a}"),
    ("ServicePolicy.balancing.slowStart", "balancing: {slowStart: {}}"),
    ("ServicePolicy.retry.budget.interval", "retry: {budget: {interval: 10s}}"),
    ("ServicePolicy.retry.budget.minRetryRate", "retry: {budget: {minRetryRate: {count: 1}}}"),
    ("ServicePolicy.connection.http2", "connection: {http2: {}}"),
    ("ServicePolicy.connection.proxyProtocol", "connection: {proxyProtocol: V2}"),
];

/// The fields below `spec` that hold values, as `KIND.path`.
fn fields(kind: &str) -> Vec<String> {
    fn walk(message: &MessageDescriptor, path: &str, found: &mut Vec<String>) {
        for field in message.fields() {
            let path = format!("{path}.{}", field.json_name());
            match field.kind() {
                Kind::Message(inner) if !field.is_map() && inner.package_name() == "outrigger.control.v1" => {
                    walk(&inner, &path, found);
                }
                _ => found.push(path),
            }
        }
    }
    let pool = DescriptorPool::decode(outrigger_proto::CONTROL_DESCRIPTORS).unwrap();
    let message = pool.get_message_by_name(&format!("outrigger.control.v1.{kind}")).unwrap();
    let mut found = Vec::new();
    match message.get_field_by_name("spec").unwrap().kind() {
        Kind::Message(spec) => walk(&spec, kind, &mut found),
        other => panic!("spec is {other:?}"),
    }
    found
}

/// The fields that a value sets, below `path`.
fn set(value: &serde_json::Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| set(value, &format!("{path}.{name}"), found));
        }
        serde_json::Value::Array(elements) => elements.iter().for_each(|element| set(element, path, found)),
        _ => _ = found.insert(path.to_owned()),
    }
}

fn read(yaml: &str) -> serde_json::Value {
    serde_saphyr::from_str(yaml).unwrap()
}

/// What the cases show.
fn shown() -> BTreeSet<String> {
    let mut shown = BTreeSet::new();
    for case in cases::CASES.iter().filter(|case| !case.shows.is_empty()) {
        let mut sets = BTreeSet::new();
        set(&read(case.rule), "HTTPRoute.rules", &mut sets);
        for field in case.shows {
            let field = format!("HTTPRoute.rules.{field}");
            let below: Vec<_> = sets.iter().filter(|set| format!("{set}.").starts_with(&format!("{field}."))).collect();
            assert!(!below.is_empty(), "{}: {field}: {sets:?}", case.name);
            shown.extend(below.into_iter().cloned());
        }
    }
    for case in services::CASES {
        // A case sets what it says that it shows.
        let mut sets = BTreeSet::new();
        for text in case.objects("case", &[1, 2, 3]).split("\n---\n") {
            let object = read(text);
            set(&object["spec"], object["kind"].as_str().unwrap(), &mut sets);
        }
        for field in case.shows {
            assert!(sets.iter().any(|set| format!("{set}.").starts_with(&format!("{field}."))), "{field}: {sets:?}");
            shown.insert((*field).to_owned());
        }
        // Without these neither policy nor route speaks of anything.
        let is_target = |field: &String| {
            ["group", "kind", "name"].iter().any(|name| {
                *field == format!("ServicePolicy.targetRefs.{name}") || *field == format!("HTTPRoute.parentRefs.{name}")
            })
        };
        shown.extend(sets.into_iter().filter(is_target));
    }
    shown
}

#[test]
fn each_field_is_shown_or_has_a_reason() {
    let shown = shown();
    let below =
        |field: &str, of: &str| field.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let listed = |field: &str| WITHOUT_EFFECT.iter().chain(NOT_IN_THIS_VERSION).any(|(listed, _)| below(field, listed));
    let all: Vec<_> = ["Service", "HTTPRoute", "ServicePolicy"].into_iter().flat_map(fields).collect();
    let missing: Vec<_> = all.iter().filter(|field| !shown.contains(*field) && !listed(field)).collect();
    assert!(missing.is_empty(), "no case shows, and no list explains: {missing:#?}");
    let unknown = |name: &&str| !all.iter().any(|field| below(field, name));
    let names = WITHOUT_EFFECT.iter().chain(NOT_IN_THIS_VERSION).map(|(name, _)| *name);
    let stale: Vec<_> = names.filter(unknown).collect();
    assert!(stale.is_empty(), "there is no such field: {stale:?}");
}

/// An object of the kind whose `spec` holds the fields.
fn with(field: &str, value: &str) -> String {
    let (kind, path) = field.split_once('.').unwrap();
    let (version, rest) = match kind {
        "Service" if path.starts_with("ports") => ("v1", ""),
        "Service" => ("v1", "ports: [{port: 80}], "),
        "HTTPRoute" if path.starts_with("rules") => {
            ("gateway.networking.k8s.io/v1", "parentRefs: [{group: '', kind: Service, name: a}], ")
        }
        "HTTPRoute" => (
            "gateway.networking.k8s.io/v1",
            "parentRefs: [{group: '', kind: Service, name: a}], rules: [{backendRefs: [{name: a, port: 80}]}], ",
        ),
        _ if path.starts_with("targetRefs") => ("outrigger.dev/v1alpha1", ""),
        _ => ("outrigger.dev/v1alpha1", "targetRefs: [{kind: Service, name: a}], "),
    };
    format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{{rest}{value}}}\n")
}

#[test]
fn what_is_without_effect_changes_nothing() {
    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n";
    for (field, value) in WITHOUT_EFFECT {
        let view = |yaml: &str| {
            let more = if field.starts_with("HTTPRoute") { format!("{SERVICE}---\n") } else { String::new() };
            compile(&(more + yaml)).view(&Caller::default())
        };
        let without = if field.starts_with("Service.") { SERVICE.to_owned() } else { with(field, "") };
        assert_eq!(view(&with(field, value)), view(&without), "{field}");
    }
}

#[test]
fn what_is_not_in_this_version_is_refused_by_its_name() {
    for (field, value) in NOT_IN_THIS_VERSION {
        let problems = validate(&objects(&with(field, value))[0].object);
        let name = field.rsplit('.').next().unwrap();
        let refused = |path: &str| path.contains(name) || path.ends_with(".type");
        assert!(
            problems.iter().any(|problem| refused(&problem.path) && problem.reason.starts_with("not in this version")),
            "{field}: {problems:?}"
        );
    }
}
