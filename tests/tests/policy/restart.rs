//! The control plane, killed by -9 and started again on its file: what it reads and compiles is, byte for byte, what
//! the proxies have, so it sends them nothing until something changes.

use std::collections::BTreeMap;

use outrigger_tests::plane::Plane;
use outrigger_tests::ports::Reserved;
use outrigger_tests::{admin, peers};
use serde_json::Value;

use crate::echo::Echo;
use crate::{Proxy, ask, cases, envoy, outrigger, until};

const MESH: &str = env!("CARGO_BIN_EXE_mesh");

/// Changes a cluster and nothing else.
const SLOWER: &str = "
apiVersion: outrigger.dev/v1alpha1
kind: ServicePolicy
metadata: {name: slower}
spec: {targetRefs: [{kind: Service, name: one}], connection: {connectTimeout: 7s}}";

fn apply(plane: &Plane, yaml: &str) {
    plane.write("objects.yaml", yaml);
    plane.run(&["apply", "-f", "objects.yaml"]).unwrap();
}

/// Whether these proxies have said of all four kinds what they have, and have all of it.
fn has_synced(plane: &Plane, ids: &[&str]) -> bool {
    let proxies: Value = serde_json::from_str(&plane.run(&["proxies", "-o", "json"]).unwrap()).unwrap();
    let proxies = proxies.as_array().unwrap();
    let is_synced = |of: &Value| of["sentVersion"] != "" && of["sentVersion"] == of["acceptedVersion"];
    let has_all = |proxy: &Value| {
        let types = proxy["types"].as_array().unwrap();
        types.len() == 4 && types.iter().all(is_synced)
    };
    ids.iter().all(|id| proxies.iter().any(|proxy| proxy["id"] == *id && has_all(proxy)))
}

/// A counter of `/metrics`, by type of resource; those that are not 0.
fn counts(plane: &Plane, name: &str) -> BTreeMap<String, u64> {
    let text = plane.page("/metrics");
    let samples = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix("{type=\"")?.split_once("\"} "));
    let samples = samples.map(|(of, value)| (of.to_owned(), value.trim().parse().unwrap()));
    samples.filter(|(_, value)| *value != 0).collect()
}

fn sent(plane: &Plane) -> BTreeMap<String, u64> {
    counts(plane, "outrigger_control_xds_responses_total")
}

#[test]
fn after_a_restart_nothing_is_sent_that_is_unchanged() {
    let (one, two, three) = (Echo::start("one").address, Echo::start("two").address, Echo::start("three").address);
    let directory = tempfile::tempdir().unwrap();
    let plane = Plane::start(MESH, directory.path());
    // One at a time: the order of the store is not that in which they came.
    apply(&plane, &cases::without_routes(one, two));
    for route in cases::routes().iter().rev() {
        apply(&plane, route);
    }
    let programs =
        [("outrigger", Some(outrigger())), ("envoy", peers::find("envoy", "restart").map(|program| envoy(&program)))];
    let running: Vec<_> = programs
        .into_iter()
        .filter_map(|(id, command)| {
            let [port, inbound] = [(); 2].map(|()| Reserved::new().unwrap());
            let flags = [
                "--service=caller".to_owned(),
                format!("--id={id}"),
                format!("--control={}", plane.address()),
                format!("--to=shop=127.0.0.1:{}", port.port()),
                format!("--inbound=127.0.0.1:{}={one}", inbound.port()),
            ];
            Some((id, Proxy::start(command?, &flags, true), port, inbound))
        })
        .collect();
    let ids: Vec<_> = running.iter().map(|(id, ..)| *id).collect();
    let reaches = |request: &str, name: &str| {
        running.iter().all(|(_, _, port, _)| ask(port.port(), request).is_some_and(|answer| answer.contains(name)))
    };
    until("instances of both", || reaches("GET /exact", "\none ") && reaches("PUT /q", "\ntwo "));
    // Nothing is on its way any more: each cluster has its endpoints, each listener its routes.
    let is_warm = |proxy: &Proxy| {
        let none = |name: &str| {
            let (_, text) = admin::request(&proxy.admin(), "GET", &format!("/stats?filter={name}")).unwrap();
            text.trim() == format!("{name}: 0")
        };
        none("cluster_manager.warming_clusters") && none("listener_manager.total_listeners_warming")
    };
    until("all is in force", || running.iter().all(|(_, proxy, ..)| is_warm(proxy)));
    until("all is acknowledged", || {
        has_synced(&plane, &ids) && sent(&plane) == counts(&plane, "outrigger_control_xds_accepted_total")
    });

    drop(plane);
    let plane = Plane::start(MESH, directory.path());
    until("they are back", || has_synced(&plane, &ids));
    assert_eq!(sent(&plane), BTreeMap::new());

    // What changes is all that is sent.
    let moved = cases::without_routes(three, two);
    let moved = moved.split("\n---\n").find(|object| object.contains("{name: one, labels")).unwrap();
    apply(&plane, moved);
    until("the instance that moved", || reaches("GET /exact", "\nthree "));
    let count = u64::try_from(ids.len()).unwrap();
    assert_eq!(sent(&plane), [("ClusterLoadAssignment".to_owned(), count)].into());

    // A cluster changes while they are cut off, and its endpoints do not. Envoy says that it has those before it has
    // warmed the cluster, and warms it until they come.
    drop(plane);
    let elsewhere = format!("unix:{}", directory.path().join("elsewhere.sock").display());
    let apart = Plane::start_at(MESH, directory.path(), &elsewhere, &[]);
    apply(&apart, SLOWER);
    drop(apart);
    let plane = Plane::start(MESH, directory.path());
    until("they have the changed cluster", || {
        counts(&plane, "outrigger_control_xds_accepted_total").get("Cluster") == Some(&count)
    });
    until("it is in force", || running.iter().all(|(_, proxy, ..)| is_warm(proxy)));
    assert_eq!(sent(&plane), ["Cluster", "ClusterLoadAssignment"].map(|kind| (kind.to_owned(), count)).into());
    for (_, proxy, ..) in &running {
        let (_, text) = admin::request(&proxy.admin(), "GET", "/stats?filter=init_fetch_timeout").unwrap();
        assert!(text.lines().all(|line| line.ends_with(": 0")), "{text}");
    }
    running.iter().for_each(|(_, proxy, ..)| proxy.rejects_nothing());
}
