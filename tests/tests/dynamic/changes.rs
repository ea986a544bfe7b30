//! Routes, endpoints and clusters change under a listener that stays.

use std::thread;

use serde_json::json;

use crate::mesh::{
    Connection, Mesh, Upstream, assignment, cluster, eds_cluster, eventually, get, inline_listener, rds_listener,
    routes,
};

#[test]
fn a_route_update_is_seen_by_connections_that_are_open() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let mesh = Mesh::start(&[
        ("cds", json!([cluster("a", a.port)])),
        ("lds", json!([rds_listener("first", 0, "shop"), rds_listener("second", 0, "shop")])),
        ("rds", json!([routes("shop", "a")])),
    ]);
    let mut connections: Vec<_> =
        ["first", "second"].map(|name| Connection::open(mesh.port(name).unwrap()).unwrap()).into();
    for connection in &mut connections {
        assert_eq!(connection.get("/").unwrap().1, "a");
    }
    // The routes come first; they wait for their cluster, and those in force go on.
    mesh.set("rds", json!([routes("shop", "b")]));
    mesh.set("cds", json!([cluster("a", a.port), cluster("b", b.port)]));
    for connection in &mut connections {
        eventually("the other cluster answers", || {
            let (head, body) = connection.get("/").expect("the connection stays");
            assert!(head.starts_with("http/1.1 200"), "no request fails: {head}");
            body == "b"
        });
    }
    assert_eq!(mesh.stat("listener_manager.listener_modified"), 0);
    assert_eq!(mesh.stat("http.first.rds.shop.config_reload"), 2);
    assert_eq!(mesh.stat("http.second.rds.shop.update_rejected"), 0);
    let labels = "envoy_http_conn_manager_prefix=\"first\",envoy_rds_route_config=\"shop\"";
    let metric = format!("envoy_http_rds_config_reload{{{labels}}} 2");
    assert!(mesh.admin("/stats/prometheus").contains(&metric));
    assert_eq!(mesh.stat("cluster_manager.cluster_added"), 2);
}

#[test]
fn an_endpoint_update_is_picked_and_idle_connections_to_hosts_that_left_are_closed() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let mesh = Mesh::start(&[
        ("cds", json!([eds_cluster("shop")])),
        ("eds", json!([assignment("shop", &[a.port])])),
        ("lds", json!([inline_listener("in", 0, "shop")])),
    ]);
    let mut connection = Connection::open(mesh.port("in").unwrap()).unwrap();
    assert_eq!(connection.get("/").unwrap().1, "a");
    assert_eq!(a.connections(), 1);
    mesh.set("eds", json!([assignment("shop", &[b.port])]));
    eventually("the other endpoint answers", || {
        let (head, body) = connection.get("/").expect("the connection stays");
        assert!(head.starts_with("http/1.1 200"), "no request fails: {head}");
        body == "b"
    });
    eventually("the idle connection is closed", || a.connections() == 0);
    assert_eq!(mesh.stat("cluster_manager.cluster_modified"), 0);
}

#[test]
fn a_changed_cluster_takes_over_and_a_removed_one_is_gone() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let mesh =
        Mesh::start(&[("cds", json!([cluster("shop", a.port)])), ("lds", json!([inline_listener("in", 0, "shop")]))]);
    let port = mesh.port("in").unwrap();
    let mut connection = Connection::open(port).unwrap();
    assert_eq!(connection.get("/").unwrap().1, "a");
    mesh.set("cds", json!([cluster("shop", b.port)]));
    eventually("the changed cluster answers", || connection.get("/").unwrap().1 == "b");
    eventually("nothing is kept of the old one", || a.connections() == 0);
    assert_eq!(mesh.stat("cluster_manager.cluster_modified"), 1);

    mesh.set("cds", json!([]));
    eventually("its routes have no cluster", || get(port, "/").unwrap().0 == 503);
    assert_eq!(mesh.stat("cluster_manager.cluster_removed"), 1);
    eventually("its numbers go with it", || !mesh.admin("/stats").contains("cluster.shop."));
    eventually("nothing is kept of it", || b.connections() == 0);
    mesh.set("cds", json!([cluster("shop", a.port)]));
    eventually("it comes back", || get(port, "/").unwrap() == (200, "a".to_owned()));
}

/// A request that is under way ends as if nothing had happened, whatever becomes of its listener, routes, cluster and
/// host.
#[test]
fn a_request_that_is_under_way_survives_the_change_of_everything() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let mesh = Mesh::start(&[
        ("cds", json!([eds_cluster("old")])),
        ("eds", json!([assignment("old", &[a.port])])),
        ("lds", json!([inline_listener("in", 0, "old")])),
    ]);
    let port = mesh.port("in").unwrap();
    let request = thread::spawn(move || Connection::open(port).unwrap().get("/hold"));
    a.holds();
    mesh.set("eds", json!([assignment("old", &[b.port])]));
    eventually("the other endpoint answers", || get(port, "/").unwrap().1 == "b");
    mesh.set("cds", json!([cluster("new", b.port)]));
    mesh.set("lds", json!([inline_listener("in", 0, "new")]));
    eventually("the old cluster is gone", || !mesh.admin("/clusters").contains("old::"));
    eventually("the old listener drains", || mesh.stat("listener_manager.total_listeners_draining") == 1);
    a.release();
    let (head, body) = request.join().unwrap().expect("an answer");
    assert!(head.starts_with("http/1.1 200") && body == "a", "{head}");
    assert!(head.contains("connection: close"), "{head}");
    eventually("nothing is kept of the old host", || a.connections() == 0);
    eventually("nothing drains", || mesh.stat("listener_manager.total_listeners_draining") == 0);
}

/// A first version that is bad stops neither the start nor what has nothing to do with it.
#[test]
fn first_endpoints_and_routes_that_are_bad_are_as_none() {
    let a = Upstream::start("a");
    let mut bad_routes = routes("bad", "a");
    bad_routes["virtual_hosts"][0]["domains"] = json!([]);
    let mut bad_endpoints = assignment("bad", &[a.port]);
    bad_endpoints["endpoints"][0]["lb_endpoints"][0]["load_balancing_weight"] = json!(0);
    let mesh = Mesh::start(&[
        ("cds", json!([cluster("a", a.port), eds_cluster("bad")])),
        ("eds", json!([bad_endpoints])),
        ("rds", json!([routes("shop", "a"), bad_routes])),
        (
            "lds",
            json!([rds_listener("good", 0, "shop"), rds_listener("bad", 0, "bad"), inline_listener("in", 0, "bad")]),
        ),
    ]);
    assert_eq!(get(mesh.port("good").unwrap(), "/").unwrap(), (200, "a".to_owned()));
    assert_eq!(get(mesh.port("bad").unwrap(), "/").unwrap().0, 404);
    assert_eq!(get(mesh.port("in").unwrap(), "/").unwrap().0, 503);
    mesh.set("rds", json!([routes("shop", "a"), routes("bad", "a")]));
    mesh.set("eds", json!([assignment("bad", &[a.port])]));
    for name in ["bad", "in"] {
        let port = mesh.port(name).unwrap();
        eventually("a good version clears it", || get(port, "/").unwrap() == (200, "a".to_owned()));
    }
}
