//! What `/config_dump` and the counters say of resources that came from outside.

use std::net::{Ipv4Addr, TcpListener};
use std::thread;

use serde_json::{Value, json};

use crate::mesh::{
    Mesh, Upstream, assignment, cluster, eds_cluster, eventually, get, inline_listener, rds_listener, routes,
};

/// The part of a dump of this type.
fn part(dump: &Value, name: &str) -> Value {
    let parts = dump["configs"].as_array().unwrap();
    let found = parts.iter().find(|part| part["@type"].as_str().unwrap().ends_with(name));
    found.unwrap_or_else(|| panic!("no {name} in {dump:#}")).clone()
}

#[test]
fn a_bad_resource_is_rejected_alone_and_the_reason_is_shown_until_it_is_good() {
    let a = Upstream::start("a");
    let mesh = Mesh::start(&[
        ("cds", json!([cluster("shop", a.port), cluster("known", a.port)])),
        ("lds", json!([inline_listener("in", 0, "shop")])),
    ]);
    let port = mesh.port("in").unwrap();
    let mut known = cluster("known", a.port);
    known["connect_timeout"] = json!("0s");
    let mut unreadable = cluster("unreadable", a.port);
    unreadable["no_such_field"] = json!(1);
    mesh.set("cds", json!([cluster("shop", a.port), known, unreadable, cluster("more", a.port)]));
    eventually("the rest is applied", || mesh.stat("cluster_manager.active_clusters") == 3);
    assert_eq!(get(port, "/").unwrap().0, 200);
    assert_eq!(mesh.stat("cluster_manager.cds.update_rejected"), 1);

    let clusters = part(&mesh.admin_json("/config_dump"), "ClustersConfigDump");
    let dynamic = clusters["dynamic_active_clusters"].as_array().unwrap();
    let of = |name: &str| dynamic.iter().find(|entry| entry["cluster"]["name"] == name).unwrap();
    assert_eq!(of("known")["cluster"]["connect_timeout"], "5s", "the last good one serves");
    let details = of("known")["error_state"]["details"].as_str().unwrap();
    assert!(details.contains("connect_timeout: 0s: must be greater than 0s"), "{details}");
    assert_eq!(of("shop")["version_info"], "v");
    assert!(of("shop")["error_state"].is_null() && of("shop")["last_updated"].is_string());
    assert!(clusters.to_string().contains("no_such_field"), "{clusters:#}");

    mesh.set("cds", json!([cluster("shop", a.port), cluster("known", a.port), cluster("more", a.port)]));
    eventually("nothing is wrong any more", || !mesh.admin("/config_dump").contains("error_state"));
}

#[test]
fn a_dump_shows_listeners_routes_and_endpoints() {
    let a = Upstream::start("a");
    let mesh = Mesh::start(&[
        ("cds", json!([eds_cluster("shop")])),
        ("eds", json!([assignment("shop", &[a.port])])),
        ("lds", json!([rds_listener("in", 0, "shop")])),
        ("rds", json!([routes("shop", "shop")])),
    ]);
    assert_eq!(get(mesh.port("in").unwrap(), "/").unwrap().1, "a");
    let dump = mesh.admin_json("/config_dump?include_eds");
    let listeners = part(&dump, "ListenersConfigDump");
    let listener = &listeners["dynamic_listeners"][0];
    assert_eq!(listener["name"], "in");
    assert_eq!(listener["active_state"]["listener"]["name"], "in");
    let routes = part(&dump, "RoutesConfigDump");
    assert_eq!(routes["dynamic_route_configs"][0]["route_config"]["name"], "shop");
    let endpoints = part(&dump, "EndpointsConfigDump");
    let text = endpoints["dynamic_endpoint_configs"][0].to_string();
    assert!(text.contains(&a.port.to_string()), "{endpoints:#}");
    assert!(mesh.admin("/clusters").contains(&format!("shop::127.0.0.1:{}::", a.port)));
}

#[test]
fn a_file_that_cannot_be_read_is_a_failure_that_is_shown_until_it_can_be() {
    let a = Upstream::start("a");
    let files = [
        ("cds", json!([eds_cluster("shop")])),
        ("eds", json!([assignment("shop", &[a.port])])),
        ("lds", json!([rds_listener("in", 0, "shop")])),
        ("rds", json!([routes("shop", "shop")])),
    ];
    let mesh = Mesh::start(&files);
    let port = mesh.port("in").unwrap();
    assert!(mesh.admin("/stats").contains("cluster_manager.cds.version_text: \"v\"\n"));
    let failures = ["cluster_manager.cds", "cluster.shop", "listener_manager.lds", "http.in.rds.shop"];
    for ((kind, _), scope) in files.iter().zip(failures) {
        mesh.set_text(kind, "resources: [");
        eventually(kind, || mesh.stat(&format!("{scope}.update_failure")) == 1);
        let metrics = mesh.admin("/stats?filter=resource_rejected");
        assert!(metrics.lines().any(|line| line.contains(&format!("/{kind}:1:"))), "{kind}: {metrics}");
    }
    assert_eq!(get(port, "/").unwrap().1, "a", "what was good serves on");
    let dump = mesh.admin_json("/config_dump?include_eds");
    let details = |name: &str, list: &str| {
        let entries = part(&dump, name)[list].clone();
        let details = entries.as_array().unwrap().iter().find_map(|entry| entry["error_state"]["details"].as_str());
        details.unwrap_or_else(|| panic!("nothing is wrong: {entries:#}")).to_owned()
    };
    assert!(details("ClustersConfigDump", "dynamic_warming_clusters").starts_with("(no name): "));
    assert!(details("ListenersConfigDump", "dynamic_listeners").starts_with("(no name): "));
    assert!(details("EndpointsConfigDump", "dynamic_endpoint_configs").starts_with("shop: "));
    assert!(details("RoutesConfigDump", "dynamic_route_configs").starts_with("shop: "));
    for (kind, resources) in files {
        mesh.set(kind, resources);
    }
    eventually("nothing is wrong any more", || !mesh.admin("/config_dump?include_eds").contains("error_state"));
    assert_eq!(get(port, "/").unwrap().1, "a");
}

/// [`Mesh::start`] waits until the proxy accepts.
#[test]
fn a_first_version_that_is_refused_does_not_hold_the_start() {
    let a = Upstream::start("a");
    let mut bad = assignment("broken", &[a.port]);
    bad["endpoints"][0]["lb_endpoints"][0]["load_balancing_weight"] = json!(0);
    let mesh = Mesh::start(&[
        ("cds", json!([cluster("shop", a.port), eds_cluster("broken")])),
        ("eds", json!([bad])),
        ("lds", json!([inline_listener("in", 0, "shop")])),
    ]);
    assert_eq!(get(mesh.port("in").unwrap(), "/").unwrap().1, "a");
    assert!(mesh.stat("cluster.broken.update_rejected") >= 1);
}

/// What `/clusters` says of a host: requests that it did not answer in time, and those that it broke off.
#[test]
fn a_host_that_is_late_or_breaks_off_is_shown_so() {
    let host = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = host.local_addr().unwrap().port();
    let mut listener = inline_listener("in", 0, "shop");
    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    let routes = manager["route_config"]["virtual_hosts"][0]["routes"].as_array_mut().unwrap();
    routes.insert(0, json!({"match": {"prefix": "/late"}, "route": {"cluster": "shop", "timeout": "0.2s"}}));
    let mesh = Mesh::start(&[("cds", json!([cluster("shop", port)])), ("lds", json!([listener]))]);
    let count = |name: &str| {
        let clusters = mesh.admin("/clusters");
        let line = clusters.lines().find_map(|line| line.strip_prefix(&format!("shop::127.0.0.1:{port}::{name}::")));
        line.unwrap_or_else(|| panic!("no {name} in {clusters}")).parse::<u64>().unwrap()
    };
    assert_eq!(get(mesh.port("in").unwrap(), "/late").unwrap().0, 504);
    assert_eq!((count("rq_timeout"), count("rq_error")), (1, 0));
    thread::spawn(move || host.incoming().for_each(drop));
    assert_eq!(get(mesh.port("in").unwrap(), "/").unwrap().0, 503);
    assert_eq!(count("rq_timeout"), 1);
    assert!(count("rq_error") > 0);
}
