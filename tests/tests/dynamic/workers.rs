//! What is counted for all workers together withholds nothing from one of them.

use std::thread;

use serde_json::json;

use crate::mesh::{Connection, Mesh, Upstream, cluster, eventually, inline_listener};

/// Clients, each with a connection of its own: the kernel deals them out to the workers.
const CLIENTS: usize = 32;
const REQUESTS: usize = 50;

#[test]
fn one_connection_for_two_workers_starves_neither() {
    let a = Upstream::start("a");
    let mut limited = cluster("a", a.port);
    limited["circuit_breakers"] = json!({"thresholds": [{"max_connections": 1}]});
    let mesh = Mesh::start(&[("cds", json!([limited])), ("lds", json!([inline_listener("in", 0, "a")]))]);
    let port = mesh.port("in").unwrap();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            thread::spawn(move || {
                let mut connection = Connection::open(port).unwrap();
                for _ in 0..REQUESTS {
                    let (head, body) = connection.get("/").expect("an answer");
                    assert!(head.starts_with("http/1.1 200") && body == "a", "{head}");
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("every request is answered");
    }
    // Each worker made one, the second one beyond the threshold; neither made another.
    eventually("two connections are open", || a.connections() == 2);
    assert_eq!(mesh.stat("cluster.a.upstream_cx_total"), 2);
    assert!(mesh.stat("cluster.a.upstream_cx_overflow") >= 1);
    assert_eq!(mesh.stat("cluster.a.upstream_rq_200"), (CLIENTS * REQUESTS) as u64);
    assert_eq!(mesh.stat("cluster.a.upstream_rq_pending_overflow"), 0);
}
