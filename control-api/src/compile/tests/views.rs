//! What a node gets.

use outrigger_engine::config::cluster::Cluster;
use std::time::Duration;

use outrigger_engine::config::hcm::EscapedSlashes;
use outrigger_engine::config::listener::{Listener, NetworkFilter};
use outrigger_proto::envoy::config::cluster::v3 as cluster_pb;
use outrigger_proto::envoy::config::listener::v3 as listener_pb;

use super::*;
use crate::model::{Key, Name, Stored};
use crate::node::{Caller, NodeConfig};
use crate::testing::object;
use crate::xds::Views;

fn node(namespace: &str, inbound: &[&str], to: &[&str]) -> Caller {
    let config = NodeConfig {
        service: Name::new(namespace, "orders"),
        inbound: inbound.iter().map(|text| text.parse().unwrap()).collect(),
        to: to.iter().map(|text| text.parse().unwrap()).collect(),
    };
    Caller { config: Some(config), ..Caller::default() }
}

/// All names, as `kind: names`.
fn names(view: &View) -> Vec<String> {
    view.iter()
        .map(|(kind, resources)| {
            format!("{kind:?}: {}", resources.keys().map(|name| &**name).collect::<Vec<_>>().join(" "))
        })
        .collect()
}

#[test]
fn a_node_gets_what_it_calls_and_no_more() {
    let mesh = shop(&route("r", "{backendRefs: [{name: a, port: 80}, {name: none, port: 80}]}"));
    let view = mesh.view(&node(
        "default",
        &["127.0.0.1:8080=127.0.0.1:9080"],
        &["shop=127.0.0.1:9101", "b:80=127.0.0.1:9102"],
    ));
    assert_eq!(
        names(&view),
        [
            "Cluster: default/a/80 default/b/80 inbound/127.0.0.1:8080",
            "Endpoints: default/a/80 default/b/80",
            "Listener: inbound/127.0.0.1:8080 outbound/127.0.0.1:9101 outbound/127.0.0.1:9102",
            "Routes: default/b/80 default/shop/8080",
        ]
    );
    let shared = &mesh.everything()[&Kind::Routes]["default/shop/8080"];
    assert!(Arc::ptr_eq(shared, &view[&Kind::Routes]["default/shop/8080"]), "the very same");
    for name in view[&Kind::Listener].keys() {
        let convert = |message: listener_pb::Listener, at: &At<'_>| Listener::convert(message, at);
        converted(&view, Kind::Listener, name, convert).unwrap();
    }
    let convert = |message: cluster_pb::Cluster, at: &At<'_>| Cluster::convert(message, at);
    converted(&view, Kind::Cluster, "inbound/127.0.0.1:8080", convert).unwrap();
}

#[test]
fn a_node_without_lists_gets_everything_by_name() {
    let mesh = shop("");
    assert_eq!(
        names(&mesh.view(&Caller::default())),
        [
            "Cluster: default/a/80 default/b/80 default/empty/80 default/shop/8080",
            "Endpoints: default/a/80 default/b/80 default/empty/80 default/shop/8080",
            "Routes: default/a/80 default/b/80 default/empty/80 default/shop/8080",
        ]
    );
}

#[test]
fn what_is_not_there_is_answered_with_503() {
    let mesh = shop("");
    for (to, expected) in [
        ("nothing=127.0.0.1:9101", "there is no Service default/nothing"),
        ("a:81=127.0.0.1:9101", "Service default/a has no port 81"),
        ("other/a=127.0.0.1:9101", "there is no Service other/a"),
    ] {
        let view = mesh.view(&node("default", &[], &[to]));
        assert_eq!(names(&view), ["Listener: outbound/127.0.0.1:9101"]);
        let body = &view[&Kind::Listener]["outbound/127.0.0.1:9101"].body;
        assert!(String::from_utf8_lossy(body).contains(expected), "{to}");
        let convert = |message: listener_pb::Listener, at: &At<'_>| Listener::convert(message, at);
        converted(&view, Kind::Listener, "outbound/127.0.0.1:9101", convert).unwrap();
    }
}

#[test]
fn paths_are_normalized_on_both_ways_and_otherwise_left_alone() {
    let view =
        shop("").view(&node("default", &["8080=127.0.0.1:9080"], &["a=127.0.0.1:9101", "nothing=127.0.0.1:9102"]));
    for name in view[&Kind::Listener].keys() {
        let convert = |message: listener_pb::Listener, at: &At<'_>| Listener::convert(message, at);
        let listener = converted(&view, Kind::Listener, name, convert).unwrap();
        let NetworkFilter::Http(manager) = &listener.chains().next().unwrap().filter else { panic!("{listener:?}") };
        assert!(manager.normalize_path && !manager.merge_slashes, "{name}");
        assert_eq!(manager.escaped_slashes, EscapedSlashes::KeepUnchanged, "{name}");
    }
    assert_eq!(view[&Kind::Listener].len(), 3);
}

#[test]
fn callers_of_a_namespace_get_its_own_routes() {
    let own = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: own, namespace: callers}\n\
               spec: {parentRefs: [{group: '', kind: Service, name: shop, namespace: default}], rules: [{backendRefs: [{name: b, namespace: default, port: 80}]}]}";
    let mesh = shop(own);
    let routes = |namespace| names(&mesh.view(&node(namespace, &[], &["default/shop=127.0.0.1:9101"])))[3].clone();
    assert_eq!(routes("callers"), "Routes: default/shop/8080/from/callers");
    assert_eq!(routes("default"), "Routes: default/shop/8080");
}

#[test]
fn bytes_pass_without_routes() {
    let raw = "apiVersion: v1\nkind: Service\nmetadata: {name: orders}\nspec: {selector: {app: a}, ports: [{port: 90, appProtocol: tcp}]}";
    let view = shop(raw).view(&node("default", &["90=127.0.0.1:9080"], &["orders=127.0.0.1:9101"]));
    assert_eq!(
        names(&view),
        [
            "Cluster: default/orders/90 inbound/0.0.0.0:90",
            "Endpoints: default/orders/90",
            "Listener: inbound/0.0.0.0:90 outbound/127.0.0.1:9101",
        ]
    );
    for name in view[&Kind::Listener].keys() {
        let convert = |message: listener_pb::Listener, at: &At<'_>| Listener::convert(message, at);
        converted(&view, Kind::Listener, name, convert).unwrap();
    }
}

#[test]
fn the_times_of_a_connection_hold_for_bytes_too() {
    let raw = "apiVersion: v1\nkind: Service\nmetadata: {name: orders}\n\
               spec: {selector: {app: a}, ports: [{port: 90, appProtocol: tcp}]}\n---\n\
               apiVersion: outrigger.dev/v1alpha1\nkind: ServicePolicy\nmetadata: {name: long}\n\
               spec: {targetRefs: [{kind: Service, name: orders}], connection: {idleTimeout: 24h, maxDuration: 48h}}";
    let view = shop(raw).view(&node("default", &[], &["orders=127.0.0.1:9101"]));
    let convert = |message: listener_pb::Listener, at: &At<'_>| Listener::convert(message, at);
    let listener = converted(&view, Kind::Listener, "outbound/127.0.0.1:9101", convert).unwrap();
    let NetworkFilter::Tcp(proxy) = &listener.chains().next().unwrap().filter else { panic!("{listener:?}") };
    assert_eq!(proxy.idle_timeout, Some(Duration::from_hours(24)));
    assert_eq!(proxy.max_downstream_connection_duration, Some(Duration::from_hours(48)));
}

#[test]
fn a_port_that_instances_have_by_name_is_what_the_service_says_it_is() {
    let named = "apiVersion: v1\nkind: Service\nmetadata: {name: orders}\n\
                 spec: {selector: {app: db}, ports: [{port: 90, targetPort: db, appProtocol: tcp}]}\n---\n\
                 apiVersion: outrigger.dev/v1alpha1\nkind: Workload\nmetadata: {name: one, labels: {app: db}}\n\
                 spec: {addresses: [127.0.0.5], ports: {db: 5432}}";
    let view = shop(named).view(&node("default", &["5432=127.0.0.1:5433"], &[]));
    let listener = listener_pb::Listener::decode(view[&Kind::Listener]["inbound/0.0.0.0:5432"].body.clone()).unwrap();
    assert!(listener.filter_chains[0].filters[0].name.contains("tcp_proxy"), "{listener:?}");
}

#[test]
fn a_view_stays_while_nothing_that_it_is_made_of_changes() {
    let mesh = shop(&route("r", "{backendRefs: [{name: a, port: 80}]}"));
    let caller = node("default", &[], &["shop=127.0.0.1:9101", "later=127.0.0.1:9102"]);
    let view = mesh.view(&caller);
    let change = |text: &str| {
        let stored = Stored { object: Arc::new(object(text)), created: 99 };
        mesh.with([(Key::of(&stored.object).unwrap(), Some(&stored))]).0.view(&caller)
    };
    let instance = |app: &str| {
        format!(
            "apiVersion: outrigger.dev/v1alpha1\nkind: Workload\nmetadata: {{name: more, labels: {{app: {app}}}}}\n\
             spec: {{addresses: [10.0.0.9]}}"
        )
    };
    assert!(Arc::ptr_eq(&view, &change(&instance("b"))), "it calls no b");
    let service = |name: &str| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80}}]}}")
    };
    assert!(Arc::ptr_eq(&view, &change(&service("another"))));
    // Of a change, only what changed is another object.
    let after = change(&instance("a"));
    let differs = |kind: Kind, name: &str| !Arc::ptr_eq(&view[&kind][name], &after[&kind][name]);
    assert!(differs(Kind::Endpoints, "default/a/80") && !differs(Kind::Cluster, "default/a/80"));
    assert_ne!(view[&Kind::Listener], change(&service("later"))[&Kind::Listener], "it came");
}

#[test]
fn nodes_that_list_the_same_share_one_view() {
    let mesh = shop("");
    let of = |to: &str| mesh.view(&node("default", &["90=127.0.0.1:9080"], &[to]));
    let (one, other, third) = (of("a=127.0.0.1:9101"), of("a=127.0.0.1:9101"), of("b=127.0.0.1:9101"));
    assert!(Arc::ptr_eq(&one, &other));
    assert!(!Arc::ptr_eq(&one, &third));
    drop((one, other));
    // What nobody has any more is not kept.
    for port in 1..20 {
        drop(of(&format!("a=127.0.0.1:{port}")));
    }
    assert!(mesh.views.lock().unwrap().len() <= 4);
    drop(third);
}
