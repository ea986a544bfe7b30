//! Listeners come, change and go, and nobody is refused.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use outrigger_tests::ports::Reserved;
use serde_json::json;

use crate::mesh::{Connection, Mesh, Upstream, cluster, eventually, get, inline_listener};

#[test]
fn a_listener_is_added_and_removed() {
    let a = Upstream::start("a");
    let mesh = Mesh::start(&[("cds", json!([cluster("a", a.port)]))]);
    let reserved = Reserved::new().unwrap();
    let listener = inline_listener("in", reserved.port(), "a");
    mesh.set("lds", json!([listener]));
    eventually("it answers", || get(reserved.port(), "/") == Some((200, "a".to_owned())));
    assert_eq!(mesh.stat("listener_manager.total_listeners_active"), 1);
    let mut open = Connection::open(reserved.port()).unwrap();
    assert!(open.get("/").is_some());

    mesh.set("lds", json!([]));
    eventually("nobody listens", || {
        Connection::open(reserved.port()).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    let (head, body) = open.get("/").expect("an open connection is served once more");
    assert!(head.contains("connection: close") && body == "a", "{head}");
    eventually("and is closed then", || open.is_closed());
    assert_eq!(mesh.stat("listener_manager.listener_added"), 1);
    assert_eq!(mesh.stat("listener_manager.listener_removed"), 1);
    eventually("nothing drains", || mesh.stat("listener_manager.total_listeners_draining") == 0);
}

#[test]
fn an_address_that_is_taken_rejects_its_listener_alone() {
    let a = Upstream::start("a");
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let mesh = Mesh::start(&[
        ("cds", json!([cluster("a", a.port)])),
        ("lds", json!([inline_listener("good", 0, "a"), inline_listener("bad", port, "a")])),
    ]);
    assert_eq!(get(mesh.port("good").unwrap(), "/").unwrap().1, "a");
    let dump = mesh.admin("/config_dump");
    assert!(dump.contains(&format!("cannot listen on 127.0.0.1:{port}: Address already in use")), "{dump}");
    assert_eq!(mesh.stat("listener_manager.lds.update_rejected"), 1);
}

/// How many updates, under how many clients, each of which connects so often.
struct Form {
    updates: u32,
    clients: u32,
    pause: Duration,
}

impl Form {
    /// `OUTRIGGER_LOAD=full`: a thousand new connections a second.
    fn chosen() -> Self {
        match std::env::var("OUTRIGGER_LOAD").is_ok_and(|form| form == "full") {
            true => Form { updates: 200, clients: 16, pause: Duration::from_millis(16) },
            false => Form { updates: 20, clients: 2, pause: Duration::ZERO },
        }
    }
}

/// Updates of a listener while clients connect without a pause: no connect is refused, no request fails, and a
/// connection whose filter chain does not change stays.
#[test]
fn updates_under_connects_refuse_nobody() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let reserved = Reserved::new().unwrap();
    let port = reserved.port();
    let of = |cluster: &str, note: u32| {
        let mut changing = inline_listener("changing", port, cluster);
        changing["filter_chains"][0]["name"] = json!(format!("chain-{note}"));
        let mut steady = inline_listener("steady", 0, "a");
        steady["per_connection_buffer_limit_bytes"] = json!(100_000 + note);
        json!([changing, steady])
    };
    let mesh = Mesh::start(&[("cds", json!([cluster("a", a.port), cluster("b", b.port)])), ("lds", of("a", 0))]);
    let mut steady = Connection::open(mesh.port("steady").unwrap()).unwrap();
    assert_eq!(steady.get("/").unwrap().1, "a");

    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let Form { updates, clients, pause } = Form::chosen();
    let began = Instant::now();
    let clients: Vec<_> = (0..clients)
        .map(|_| {
            let (stop, served) = (stop.clone(), served.clone());
            thread::spawn(move || {
                let (mut due, mut end) = (began, None);
                loop {
                    // One that is late goes on at once, and at the end makes up for what is left: the rate holds over
                    // the run.
                    thread::park_timeout(due.saturating_duration_since(Instant::now()));
                    if end.is_none() && stop.load(Ordering::SeqCst) {
                        end = Some(Instant::now());
                    }
                    if end.is_some_and(|end| pause.is_zero() || end < due) {
                        break;
                    }
                    due += pause;
                    let mut connection = Connection::open(port).expect("no connect is refused");
                    let (head, _) = connection.get("/").expect("no connection is reset");
                    assert!(head.starts_with("http/1.1 200"), "{head}");
                    served.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let mut idle = Connection::open(port).unwrap();
    assert!(idle.get("/").is_some());
    for update in 1..=updates {
        mesh.set("lds", of(if update % 2 == 0 { "a" } else { "b" }, update));
        eventually("the update is applied", || {
            mesh.stat("listener_manager.listener_modified") == u64::from(2 * update)
        });
        let before = served.load(Ordering::SeqCst);
        eventually("clients are served", || served.load(Ordering::SeqCst) > before + 2);
        assert!(!clients.iter().any(thread::JoinHandle::is_finished), "a client failed");
    }
    let changing = began.elapsed();
    stop.store(true, Ordering::SeqCst);
    let count = u32::try_from(clients.len()).unwrap();
    for client in clients {
        client.join().expect("every connect and every request succeeded");
    }
    let (seconds, served) = (began.elapsed().as_secs_f64(), served.load(Ordering::SeqCst));
    println!(
        "{updates} updates and {served} connections in {seconds:.1} s, {:.0} a second",
        f64::from(served) / seconds
    );
    if !pause.is_zero() {
        let due = (changing.as_secs_f64() / pause.as_secs_f64()) as u32 * count;
        assert!(served >= due, "{served} connects while the listener changed, and {due} were due");
    }
    assert_eq!(get(port, "/").unwrap().1, "a");
    let (head, _) = idle.get("/").expect("a connection of a chain that is gone is served once more");
    assert!(head.contains("connection: close"), "{head}");
    eventually("and is closed then", || idle.is_closed());
    assert_eq!(steady.get("/").expect("its chain did not change").1, "a");
}

#[test]
fn what_has_not_ended_when_the_drain_time_is_over_is_cut_off_and_accounted_for() {
    let a = Upstream::start("a");
    let mesh = Mesh::start_with(
        &[("cds", json!([cluster("a", a.port)])), ("lds", json!([inline_listener("in", 0, "a")]))],
        &["--drain-time-s", "1"],
    );
    let port = mesh.port("in").unwrap();
    let mut idle = Connection::open(port).unwrap();
    assert!(idle.get("/").is_some());
    let request = thread::spawn(move || Connection::open(port).unwrap().get("/hold"));
    a.holds();
    mesh.set("lds", json!([]));
    eventually("the idle connection is closed", || idle.is_closed());
    assert!(request.join().unwrap().is_none(), "the request never ends by itself");
    eventually("nothing is active", || mesh.stat("http.in.downstream_cx_active") == 0);
    assert_eq!(mesh.stat("http.in.downstream_rq_active"), 0);
    assert_eq!(mesh.stat("listener_manager.total_listeners_draining"), 0);
    a.release();
    // That of the first request may idle in its pool.
    eventually("what it used upstream is closed", || a.connections() <= 1);
    assert_eq!(mesh.stat("cluster.a.upstream_rq_active"), 0);
}
