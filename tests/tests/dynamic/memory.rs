//! Configuration that was replaced is given back, though requests that began under it go on.
//!
//! A few pushes of a few clusters; `OUTRIGGER_PUSHES=1000` is the long form, with 5,000 clusters, which is a section of
//! `.ci/run`.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::mesh::{Mesh, cluster, eventually, inline_listener};

const STREAMS: usize = 100;
/// What the memory at rest may grow by.
const GROWTH_KB: u64 = 10 << 10;
/// After so many pushes the allocator has seen what pushes need.
const SETTLED: u64 = 20;
/// The allocator's gaps come and go with each push, which a leak does not: so often it is looked again, one push later.
const LOOKS: u64 = 10;

/// The memory once freed pages have been given back: when it has not become less for three seconds.
fn at_rest_kb(mesh: &Mesh) -> u64 {
    let (mut low, mut since) = (mesh.rss_kb(), Instant::now());
    while since.elapsed() < Duration::from_secs(3) {
        thread::park_timeout(Duration::from_millis(50));
        let now = mesh.rss_kb();
        if now < low {
            (low, since) = (now, Instant::now());
        }
    }
    low
}

#[test]
fn pushes_under_open_streams_cost_no_memory() {
    let pushes: Option<u64> = std::env::var("OUTRIGGER_PUSHES").ok().map(|n| n.parse().unwrap());
    let (pushes, clusters) = pushes.map_or((SETTLED + 5, 300), |pushes| (pushes.max(SETTLED + 1), 5000));
    // An upstream that reads, and never answers.
    let upstream = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = upstream.local_addr().unwrap().port();
    let (began, begins) = mpsc::channel();
    thread::spawn(move || {
        for stream in upstream.incoming() {
            let (Ok(mut stream), began) = (stream, began.clone()) else { return };
            thread::spawn(move || {
                if stream.read(&mut [0; 1024]).is_ok_and(|n| n > 0) {
                    began.send(()).unwrap();
                }
                let _ = stream.read(&mut [0; 1024]);
            });
        }
    });
    let mut listener = inline_listener("in", 0, "c0");
    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    manager["stream_idle_timeout"] = json!("0s");
    manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]["timeout"] = json!("0s");
    let first = (0..clusters).map(|index| cluster(&format!("c{index}"), port)).collect();
    let mesh = Mesh::start(&[("cds", first), ("lds", json!([listener]))]);
    let listening = mesh.port("in").unwrap();
    let streams: Vec<TcpStream> = (0..STREAMS)
        .map(|_| {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, listening)).unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
            begins.recv().unwrap();
            stream
        })
        .collect();

    let applied = mesh.stat("cluster_manager.cds.update_success");
    let first = mesh.file("cds");
    // Every cluster changes.
    let push = |n: u64| {
        mesh.set_text("cds", &first.replace("\"5s\"", &format!("\"{}s\"", 5 + n)));
        eventually("the push is applied", || mesh.stat("cluster_manager.cds.update_success") == applied + n);
    };
    (1..=SETTLED).for_each(push);
    let before = at_rest_kb(&mesh);
    (SETTLED + 1..=pushes).for_each(push);
    assert_eq!(mesh.stat("cluster_manager.active_clusters"), clusters as u64);
    for stream in &streams {
        stream.set_nonblocking(true).unwrap();
        let read = (&mut &*stream).read(&mut [0]);
        assert!(read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "it is open still");
    }
    let mut low = at_rest_kb(&mesh);
    for n in pushes + 1..=pushes + LOOKS {
        if low < before + GROWTH_KB {
            break;
        }
        push(n);
        low = low.min(at_rest_kb(&mesh));
    }
    assert!(low < before + GROWTH_KB, "{low} KB at rest, {before} KB after {SETTLED} pushes");
}
