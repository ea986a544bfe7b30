//! Whatever was there before and whatever changes, what comes of it is what compiling all objects makes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::check::{Compiled, date};
use super::left_out::reasons;
use super::objects::rfc3339;
use crate::compile::Mesh;
use crate::model::{Key, Name, Status, Stored};
use crate::node::{Caller, NodeConfig};
use crate::testing::object;
use crate::xds::Views;

/// What one step does: objects in YAML to apply, and keys to delete, of which some are there.
#[derive(Clone, Debug)]
struct Step {
    apply: Vec<String>,
    /// Places among the objects that are there.
    delete: Vec<usize>,
}

const SERVICES: [&str; 6] = ["users", "user", "products", "orders", "order", "x"];
const NAMESPACES: [&str; 2] = ["default", "shop"];

fn one_of(texts: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    select(texts)
}

fn namespace() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => Just(NAMESPACES[0]), 1 => Just(NAMESPACES[1])]
}

fn service() -> impl Strategy<Value = String> {
    let selector = one_of(&[
        "",
        "selector: {app: a}, ",
        "selector: {app: b}, ",
        "selector: {app: a, tier: t}, ",
        "selector: {tier: t}, ",
    ]);
    let ports = one_of(&[
        "{name: http, port: 80}",
        "{name: http, port: 80, targetPort: web}, {name: raw, port: 81, appProtocol: tcp}",
        "{name: http, port: 80, targetPort: 9000}, {name: other, port: 82, targetPort: wep}",
        "{name: http, port: 80, appProtocol: grpc}, {name: other, port: 82}",
        "{name: raw, port: 80, appProtocol: tcp}",
        "{name: u, port: 80, protocol: UDP}",
        // Wrong in itself, as only an older version stored it.
        "{port: 0}",
    ]);
    let reach = one_of(&["", "", "", "clusterIP: None, "]);
    let ready = one_of(&["", "publishNotReadyAddresses: true, "]);
    (one_of(&SERVICES), namespace(), selector, ports, reach, ready).prop_map(
        |(name, namespace, selector, ports, reach, ready)| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{{selector}{reach}{ready}ports: [{ports}]}}"
            )
        },
    )
}

fn workload() -> impl Strategy<Value = String> {
    let labels = one_of(&["{}", "{app: a}", "{app: b}", "{app: a, tier: t}", "{app: b, tier: t}", "{tier: t}"]);
    let spec = one_of(&[
        "",
        ", services: [{name: users}]",
        ", services: [{name: users, port: 7000}, {name: x}]",
        ", ports: {web: 9000}",
        ", ports: {web: 9001, wep: 82}",
        ", ports: {wep: 80}, services: [{name: user, port: 1}, {name: produces}]",
        ", locality: {zone: b}, weight: 3",
        ", weight: 0",
    ]);
    let health = one_of(&["Healthy", "Healthy", "Unhealthy", "Draining"]);
    (0..6_u8, namespace(), labels, spec, health).prop_map(|(number, namespace, labels, spec, health)| {
        format!(
            "apiVersion: outrigger.dev/v1alpha1\nkind: Workload\n\
             metadata: {{name: w-{number}, namespace: {namespace}, labels: {labels}}}\n\
             spec: {{addresses: [10.0.0.{number}]{spec}}}\nstatus: {{health: {health}}}"
        )
    })
}

fn route() -> impl Strategy<Value = String> {
    let parent = (
        // Those of other kinds attach it to nothing; without its group, a Service is wrong in itself.
        one_of(&[
            "group: '', kind: Service",
            "group: '', kind: Service",
            "group: '', kind: Service",
            "group: core, kind: Service",
            "kind: Gateway",
            "group: x.test, kind: Bucket",
            "kind: Service",
        ]),
        one_of(&SERVICES),
        one_of(&["", ", namespace: shop", ", namespace: default"]),
        one_of(&["", "", ", port: 80", ", port: 82", ", sectionName: http", ", sectionName: htpt"]),
    )
        .prop_map(|(kind, name, namespace, port)| format!("{{{kind}, name: {name}{namespace}{port}}}"));
    let matches = one_of(&[
        "",
        "matches: [{path: {value: /a}}], ",
        "matches: [{path: {value: /a}}, {path: {value: /b}}], ",
        "matches: [{path: {type: Exact, value: /a}}, {method: GET}], ",
        "matches: [{path: {type: RegularExpression, value: '/[ab]'}, headers: [{name: h, value: v}]}], ",
        // Wrong in itself: the rule is dropped.
        "matches: [{method: x}], ",
    ]);
    let kind = one_of(&["", "", "", "group: core, ", "group: x.test, kind: Bucket, ", "kind: Secret, "]);
    let backend = (kind, one_of(&SERVICES), one_of(&["", ", namespace: shop"]), one_of(&["80", "81", "82"]), 0..3_u8)
        .prop_map(|(kind, name, namespace, port, weight)| {
            format!("{{{kind}name: {name}{namespace}, port: {port}, weight: {weight}}}")
        });
    let backends = vec(backend, 0..3);
    let rule = (matches, backends)
        .prop_map(|(matches, backends)| format!("{{{matches}backendRefs: [{}]}}", backends.join(", ")));
    (0..5_u8, namespace(), vec(parent, 0..3), vec(rule, 0..3), any::<bool>()).prop_map(
        |(number, namespace, parents, rules, hosts)| {
            let hosts = if hosts { "hostnames: [a.test], " } else { "" };
            format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r-{number}, namespace: {namespace}}}\n\
                 spec: {{{hosts}parentRefs: [{}], rules: [{}]}}",
                parents.join(", "),
                rules.join(", ")
            )
        },
    )
}

fn policy() -> impl Strategy<Value = String> {
    let section = one_of(&["", "", ", sectionName: http", ", sectionName: raw", ", sectionName: htpt"]);
    // One of another group is wrong in itself: the policy is left out.
    let kind = one_of(&["group: ''", "group: ''", "group: core", "group: x.test"]);
    let target = (kind, one_of(&SERVICES), section)
        .prop_map(|(group, name, section)| format!("{{{group}, kind: Service, name: {name}{section}}}"));
    let values = one_of(&[
        "timeouts: {request: 1s}",
        "timeouts: {request: 2s, attempt: 1s}, limits: {requests: 5}",
        "limits: {requests: 6}",
        "connection: {protocol: TCP}",
        "connection: {protocol: HTTP2}, timeouts: {request: 3s}",
        "connection: {protocol: Auto}",
    ]);
    (0..5_u8, namespace(), vec(target, 1..3), values).prop_map(|(number, namespace, targets, values)| {
        format!(
            "apiVersion: outrigger.dev/v1alpha1\nkind: ServicePolicy\nmetadata: {{name: p-{number}, namespace: {namespace}}}\n\
             spec: {{targetRefs: [{}], {values}}}",
            targets.join(", ")
        )
    })
}

fn step() -> impl Strategy<Value = Step> {
    let object = prop_oneof![4 => service(), 3 => workload(), 4 => route(), 3 => policy()];
    (vec(object, 0..5), vec(any::<usize>(), 0..2)).prop_map(|(apply, delete)| Step { apply, delete })
}

/// Nodes that see a part of the mesh, and one that sees all.
fn callers() -> Vec<Caller> {
    let node = |service: &str, namespace: &str, inbound: &[&str], to: &[&str]| {
        let config = NodeConfig {
            service: Name::new(namespace, service),
            inbound: inbound.iter().map(|text| text.parse().unwrap()).collect(),
            to: to.iter().map(|text| text.parse().unwrap()).collect(),
        };
        Caller { config: Some(config), ..Caller::default() }
    };
    vec![
        Caller::default(),
        node("orders", "default", &["80=127.0.0.1:9080"], &["users=127.0.0.1:9101", "products:81=127.0.0.1:9102"]),
        node("users", "shop", &["9000=127.0.0.1:9080"], &["default/users:http=127.0.0.1:9101", "x=127.0.0.1:9102"]),
    ]
}

/// All that is made of objects, but for times.
fn assert_same(mesh: &Mesh, full: &Mesh) {
    assert_eq!(mesh.faults(), full.faults());
    assert_eq!(mesh.statuses(), full.statuses());
    assert_eq!(mesh.services(), full.services());
    for caller in callers() {
        assert_eq!(mesh.view(&caller), full.view(&caller), "{caller:?}");
    }
}

proptest! {
    // Each takes many steps, and each step builds all.
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 4))]

    #[test]
    fn a_change_makes_what_a_full_rebuild_makes(steps in vec(step(), 1..12)) {
        let mut objects: BTreeMap<Key, Stored> = BTreeMap::new();
        let mut compiled = Compiled::default();
        let (mut versions, mut held) = (Vec::new(), Vec::new());
        for (Step { apply, delete }, now) in steps.into_iter().zip(1..) {
            let mut changes: BTreeMap<Key, Option<Stored>> = BTreeMap::new();
            for place in delete {
                let key = objects.keys().nth(place % objects.len().max(1));
                changes.extend(key.map(|key| (key.clone(), None)));
            }
            for text in apply {
                let object = Arc::new(object(&text));
                let key = Key::of(&object).unwrap();
                // Those of one set are as old as one another; what is changed keeps its age.
                let created = objects.get(&key).map_or(now, |stored| stored.created);
                changes.insert(key, Some(Stored { object, created }));
            }
            for (key, stored) in &changes {
                match stored {
                    Some(stored) => _ = objects.insert(key.clone(), stored.clone()),
                    None => _ = objects.remove(key),
                }
            }
            let before = compiled;
            let changed = changes.iter().map(|(key, stored)| (key.clone(), stored.as_ref()));
            compiled = before.check(changed, now, now).unwrap();
            let full = Mesh::build(objects.values());
            assert_same(&compiled.mesh, &full);
            // Those of which there is nothing to say any more are told to watches, unless the log tells them.
            for key in objects.keys() {
                let [said, says] = [&before.mesh, &full].map(|mesh| mesh.statuses().get(key).is_some());
                let fell_silent = said && !says && !changes.contains_key(key);
                prop_assert_eq!(compiled.fell_silent(key, now), fell_silent, "{}", key);
            }
            // What may be said otherwise is what watches look at.
            let touched: BTreeSet<&Key> = compiled.touched(now - 1).unwrap().collect();
            for key in objects.keys() {
                let says = |compiled: &Compiled| (compiled.statuses.get(key).cloned(), reasons(&compiled.mesh, key));
                prop_assert!(says(&before) == says(&compiled) || touched.contains(key), "{} is not touched", key);
            }
            // Each condition has the time of its last transition.
            let dated = full.statuses().iter().map(|(key, status)| {
                let mut status = Status::clone(status);
                date(&mut status, before.statuses.get(key).map(|before| &**before), &rfc3339(now));
                (key.clone(), Arc::new(status))
            });
            prop_assert_eq!(&compiled.statuses, &dated.collect());
            versions.push((Arc::clone(&compiled.mesh), full));
            // Streams hold what they see until they see something else.
            held = callers().iter().map(|caller| compiled.mesh.view(caller)).collect();
        }
        drop(held);
        // Readers hold what was in force before.
        for (mesh, full) in versions {
            assert_same(&mesh, &full);
        }
    }
}

/// A route that speaks of a Service, which is the only one of its namespace: similar names would be touched, too.
fn route_of(number: usize) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: n-{number}}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, name: s}}]}}"
    )
}

#[test]
fn a_watch_has_a_few_objects_to_look_at_unless_it_is_far_behind() {
    let stored = |text: &str, created| {
        let object = Arc::new(object(text));
        (Key::of(&object).unwrap(), Stored { object, created })
    };
    let routes: Vec<_> = (0..1000).map(|number| stored(&route_of(number), 1)).collect();
    let routes = || routes.iter().map(|(key, stored)| (key.clone(), stored));
    let mut compiled = Compiled::stored(routes(), 1, 1);
    assert_eq!(compiled.touched(1).unwrap().count(), 0);
    assert!(compiled.touched(0).is_none(), "what was before the start is not known");
    let (service, parent) =
        stored("apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: n-7}\nspec: {ports: [{port: 80}]}", 2);
    compiled = compiled.check([(service.clone(), Some(&parent))], 2, 2).unwrap();
    let touched: BTreeSet<String> = compiled.touched(1).unwrap().map(ToString::to_string).collect();
    assert_eq!(touched, ["HTTPRoute n-7/r", "Service n-7/s"].map(str::to_owned).into());
    for revision in 3..15 {
        compiled = compiled.check(routes().map(|(key, stored)| (key, Some(stored))), revision, revision).unwrap();
    }
    assert!(compiled.touched(2).is_none(), "more than is kept");
    // And the Service that one of them speaks of.
    assert_eq!(compiled.touched(13).unwrap().count(), 1001);
}
