//! SIGTERM: what is under way is finished, clients are told, and a second one ends the process at once.

use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::Instant;

use outrigger_tests::wire::h2::{self, Event};
use outrigger_tests::wire::{Connection as Wire, End, Filled, Transport};
use serde_json::json;

use crate::mesh::{Connection, Mesh, PATIENCE, Upstream, cluster, eventually, inline_listener};

fn mesh(upstream: &Upstream) -> (Mesh, u16) {
    let mesh =
        Mesh::start(&[("cds", json!([cluster("a", upstream.port)])), ("lds", json!([inline_listener("in", 0, "a")]))]);
    let port = mesh.port("in").unwrap();
    (mesh, port)
}

#[test]
fn sigterm_finishes_what_is_under_way_tells_clients_and_ends() {
    let a = Upstream::start("a");
    let (mut mesh, port) = mesh(&a);
    let mut idle = Connection::open(port).unwrap();
    assert!(idle.get("/").is_some());
    let under_way = thread::spawn(move || {
        let mut connection = Connection::open(port).unwrap();
        let answer = connection.get("/hold");
        (answer, connection)
    });
    a.holds();

    mesh.terminate();
    eventually("an idle connection is closed", || idle.is_closed());
    a.release();
    let (answer, mut connection) = under_way.join().unwrap();
    let (head, body) = answer.expect("what is under way is finished");
    assert!(head.contains("connection: close") && body == "a", "{head}");
    eventually("its connection is closed then", || connection.is_closed());
    drop((idle, connection));
    assert!(mesh.ends().success());
}

#[test]
fn a_second_sigterm_ends_at_once() {
    let a = Upstream::start("a");
    let (mut mesh, port) = mesh(&a);
    let mut idle = Connection::open(port).unwrap();
    assert!(idle.get("/").is_some());
    let under_way = thread::spawn(move || Connection::open(port).unwrap().get("/hold"));
    a.holds();
    mesh.terminate();
    eventually("it drains", || idle.is_closed());
    mesh.terminate();
    assert!(mesh.ends().success());
    assert!(under_way.join().unwrap().is_none(), "nobody answers any more");
    a.release();
}

#[test]
fn sigterm_tells_http2_in_two_steps_and_finishes_its_streams() {
    let a = Upstream::start("a");
    let (mut mesh, port) = mesh(&a);
    let mut wire = Wire::new(Transport::Plain(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap()));
    let request = |stream, path| {
        let fields = [(":method", "GET"), (":scheme", "http"), (":authority", "shop"), (":path", path)];
        h2::headers(stream, fields, true)
    };
    wire.send(&[h2::PREFACE, &h2::settings(&[]), &request(1, "/hold")].concat());
    a.holds();
    mesh.terminate();

    let mut reader = h2::Reader::default();
    let (mut told, mut answered, mut released) = (Vec::new(), Vec::new(), false);
    let deadline = Instant::now() + PATIENCE;
    let end = loop {
        let event = match reader.next(&mut wire, deadline) {
            Ok(event) => event,
            Err(end) => break end,
        };
        // The last id may be told only after our answer to a PING.
        if let Some(answer) = h2::housekeeping(&event) {
            wire.send(&answer);
        }
        match event {
            Event::GoAway { last, code } => {
                told.push((last, code));
                match told.len() {
                    // Sent before we could know: it is served.
                    1 => wire.send(&request(3, "/")),
                    _ if !released => {
                        a.release();
                        released = true;
                    }
                    _ => {}
                }
            }
            Event::Headers { stream, fields, .. } => {
                let ok = fields.unwrap().iter().any(|field| *field == (b":status".to_vec(), b"200".to_vec()));
                answered.push((stream, ok));
            }
            Event::Reset { stream, code } => panic!("stream {stream} is reset: {code}"),
            _ => {}
        }
    };
    assert_eq!(end, Filled::Ended(End::Fin));
    assert_eq!(told.first(), Some(&(0x7fff_ffff, 0)), "the first GOAWAY only announces: {told:?}");
    assert!(told.len() == 2 && told[1].1 == 0 && [1, 3].contains(&told[1].0), "{told:?}");
    answered.sort_unstable();
    assert!(answered.contains(&(1, true)), "what was under way is finished: {answered:?}");
    assert!(told[1].0 < 3 || answered.contains(&(3, true)), "what GOAWAY includes is finished: {answered:?}");
    drop(wire);
    assert!(mesh.ends().success());
}

#[test]
fn sigterm_waits_for_no_file_that_keeps_its_reader_waiting() {
    let a = Upstream::start("a");
    let (mut mesh, _) = mesh(&a);
    let _pipe = mesh.set_pipe("cds");
    mesh.terminate();
    assert!(mesh.ends().success());
}
