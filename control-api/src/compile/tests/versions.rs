//! Equal meshes have equal resources, and what did not change is the same object.

use super::*;
use crate::model::{Key, Name, Stored};

/// Objects of which any set is a mesh: the shop's, routes, policies, more instances.
fn all() -> Vec<Stored> {
    objects(&format!(
        "{SHOP}{}{}{}{}{}",
        route("r1", "{backendRefs: [{name: a, port: 80, weight: 9}, {name: b, port: 80}]}"),
        route("r2", "{matches: [{path: {value: /x}}], backendRefs: [{name: empty, port: 80}]}"),
        policy("limits: {requests: 5}, timeouts: {request: 1s}"),
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: own, namespace: callers}\n\
         spec: {parentRefs: [{group: '', kind: Service, name: shop, namespace: default}]}\n---\n",
        "apiVersion: outrigger.dev/v1alpha1\nkind: Workload\nmetadata: {name: a-2, labels: {app: a}}\nspec: {addresses: [10.0.0.9]}\n---\n",
    ))
}

#[test]
fn an_instance_more_changes_its_endpoints_only() {
    let objects = all();
    let before = Mesh::build(&objects[..objects.len() - 1]);
    let more = objects.last().map(|stored| (Key::of(&stored.object).unwrap(), Some(stored)));
    let (after, changed) = before.with(more);
    assert_eq!(changed.services, [Name::new("default", "a")].into());
    let mut changed = Vec::new();
    for (kind, resources) in &**after.everything() {
        for (name, resource) in resources {
            if !Arc::ptr_eq(resource, &before.everything()[kind][name]) {
                changed.push((*kind, name.to_string()));
            }
        }
    }
    assert_eq!(changed, [(Kind::Endpoints, "default/a/80".to_owned())]);
}

#[test]
fn the_order_of_objects_says_nothing() {
    let mut objects = all();
    let one = Mesh::build(&objects);
    objects.reverse();
    assert_eq!(one.everything(), Mesh::build(&objects).everything());
}

#[test]
fn versions_are_hashes_that_never_change() {
    assert_eq!(crate::compile::hash(b""), 0x6c62272e07bb014262b821756295c58d);
    assert_eq!(crate::compile::hash(b"a"), 0xd228cb696f1a8caf78912b704e4a8964);
}
