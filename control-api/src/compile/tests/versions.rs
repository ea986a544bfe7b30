//! Equal meshes have equal resources, and what did not change is the same object.

use proptest::prelude::*;

use super::*;
use crate::model::Stored;

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

fn some(objects: &[Stored], chosen: u32) -> Vec<Stored> {
    objects.iter().enumerate().filter(|(index, _)| chosen >> index & 1 == 1).map(|(_, object)| object.clone()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever was there before, the result is that of a full rebuild.
    #[test]
    fn a_step_from_anywhere_is_a_full_rebuild(steps in proptest::collection::vec(any::<u32>(), 1..5)) {
        let objects = all();
        let mut mesh = Mesh::build([], None);
        for chosen in steps {
            let objects = some(&objects, chosen);
            mesh = Mesh::build(&objects, Some(&mesh));
            let full = Mesh::build(&objects, None);
            prop_assert_eq!(&mesh.everything, &full.everything);
            prop_assert_eq!(&mesh.clusters, &full.clusters);
            prop_assert_eq!(&mesh.statuses, &full.statuses);
            prop_assert_eq!(&mesh.rejected, &full.rejected);
        }
    }
}

#[test]
fn an_instance_more_changes_its_endpoints_only() {
    let objects = all();
    let before = Mesh::build(&objects[..objects.len() - 1], None);
    let after = Mesh::build(&objects, Some(&before));
    let mut changed = Vec::new();
    for (kind, resources) in &*after.everything {
        for (name, resource) in resources {
            if !Arc::ptr_eq(resource, &before.everything[kind][name]) {
                changed.push((*kind, name.to_string()));
            }
        }
    }
    assert_eq!(changed, [(Kind::Endpoints, "default/a/80".to_owned())]);
}

#[test]
fn the_order_of_objects_says_nothing() {
    let mut objects = all();
    let one = Mesh::build(&objects, None);
    objects.reverse();
    assert_eq!(one.everything, Mesh::build(&objects, None).everything);
}

#[test]
fn versions_are_hashes_that_never_change() {
    assert_eq!(crate::compile::hash(b""), 0x6c62272e07bb014262b821756295c58d);
    assert_eq!(crate::compile::hash(b"a"), 0xd228cb696f1a8caf78912b704e4a8964);
}
