//! Traffic at a fixed rate while the mesh changes under it: routes move to clusters that come in the same push,
//! instances join and leave and really stop, the control plane dies. No request fails, and none is done twice.
//!
//! The form of every run is short. `OUTRIGGER_LOAD=full` is what the issue asks for: 2,000 requests a second on 64
//! HTTP/1 and 8 HTTP/2 connections for a minute under 20 updates a second, and the same with the control plane gone for
//! 30 s.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a suite reports what went wrong by failing"
)]

mod generator;
mod instance;
mod ledger;
mod objects;
mod updates;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use generator::{Generator, Outcome, Pace};
use ledger::Ledger;
use outrigger_control::bootstrap::{BootstrapArgs, bootstrap};
use outrigger_tests::plane::Plane;
use outrigger_tests::ports::Reserved;
use outrigger_tests::process::Process;
use outrigger_tests::{admin, peers};
use updates::{Changes, Updater};

/// Longer than anything here takes, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(90);

/// From the start of a control plane until it has taken a write.
const BACK: Duration = Duration::from_secs(5);

/// How much of everything.
struct Form {
    pace: Pace,
    /// Routes, each to a Service of its own.
    routes: usize,
    /// Updates before the control plane dies (or all), and after it.
    updates: [usize; 2],
    updates_per_second: u32,
    /// How long it is dead.
    outage: Duration,
    /// It is the form that the claim is about.
    is_full: bool,
}

impl Form {
    fn chosen() -> Self {
        if std::env::var("OUTRIGGER_LOAD").is_ok_and(|form| form == "full") {
            Form {
                pace: Pace { rate: 2000, http1: 64, http2: 8 },
                routes: 10,
                updates: [600, 600],
                updates_per_second: 20,
                outage: Duration::from_secs(30),
                is_full: true,
            }
        } else {
            Form {
                pace: Pace { rate: 150, http1: 8, http2: 2 },
                routes: 3,
                updates: [18, 18],
                updates_per_second: 10,
                outage: Duration::from_millis(500),
                is_full: false,
            }
        }
    }
}

impl Form {
    /// That the run was what it says, however the machine stood still: load that was not there proves nothing.
    fn was_met(&self, changes: &Changes, outcome: &Outcome, sent: usize, with_outage: bool) {
        let count: usize = self.updates.iter().sum();
        assert_eq!(changes.updates(), count, "{changes}");
        assert_eq!(changes.stopped, changes.left, "who leaves stops: {changes}");
        let nominal = Duration::from_secs(1) * u32::try_from(count).unwrap() / self.updates_per_second;
        assert!(outcome.sending >= nominal, "traffic of {:?}, changes of {nominal:?}", outcome.sending);
        // All that was due, late or not; the first one at once.
        let due = (outcome.sending.as_secs_f64() * f64::from(self.pace.rate)) as usize + 1;
        assert!(sent.abs_diff(due) <= 1, "{sent} requests were sent and {due} were due");
        // Where the rate of changes is the claim: what is late is made up for, so a tenth less is a rate that was not
        // there. From the return of the control plane until it is found again nothing can change.
        if self.is_full {
            let most = nominal * 10 / 9 + if with_outage { self.outage + BACK } else { Duration::ZERO };
            assert!(changes.took <= most, "{count} changes in {nominal:?} were wanted: {changes}");
        }
    }
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    args: BootstrapArgs,
}

/// A sidecar that calls the Service `shop` on this port.
fn sidecar(directory: &Path, plane: &Plane, port: u16) -> Process {
    let flags = ["bootstrap", "--service", "caller", "--control", plane.address()].map(ToOwned::to_owned);
    let flags = Flags::parse_from(flags.into_iter().chain([format!("--to=shop=127.0.0.1:{port}")]));
    let yaml = bootstrap(flags.args).unwrap();
    // A socket file, so that the port is nobody else's.
    let tcp = r#"socket_address: { address: "127.0.0.1", port_value: 15000 }"#;
    assert!(yaml.contains(tcp), "{yaml}");
    let yaml = yaml.replace(tcp, &format!("pipe: {{ path: {:?} }}", directory.join("admin")));
    let config = directory.join("bootstrap.yaml");
    std::fs::write(&config, yaml).unwrap();
    let mut command = peers::proxy(env!("CARGO_BIN_EXE_mesh"));
    command.args(["--concurrency", "2", "-l", "warning", "-c"]).arg(config);
    Process::start(command, &directory.join("output")).unwrap()
}

/// Waits until `is_so`, looking again and again.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not after {PATIENCE:?}: {what}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

fn run(form: &Form, with_outage: bool) {
    // Side by side the two would be twice the load that the claim is about.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = form.is_full.then(|| ALONE.lock().unwrap_or_else(PoisonError::into_inner));
    let directory = tempfile::tempdir().unwrap();
    let ledger = Arc::new(Ledger::new());
    let mut plane = Plane::start(env!("CARGO_BIN_EXE_mesh"), directory.path());
    let port = Reserved::new().unwrap();
    let mut proxy = sidecar(directory.path(), &plane, port.port());
    let admin = directory.path().join("admin");
    let mut updater = Updater::start(&plane, &admin, &ledger, form.routes);
    proxy.ready(&admin, PATIENCE).unwrap();
    eventually("the shop is open", || generator::serves(port.port(), form.routes));

    let generator = Generator::start(form.pace, form.routes, port.port(), ledger.clone());
    let began = Instant::now();
    updater.update(form.updates[0], form.updates_per_second);
    if with_outage {
        // It dies under writes, and comes back while they are tried again.
        plane = thread::scope(|scope| {
            let writes = scope.spawn(|| updater.update(form.updates[1], form.updates_per_second));
            drop(plane);
            thread::park_timeout(form.outage);
            let plane = Plane::start(env!("CARGO_BIN_EXE_mesh"), directory.path());
            writes.join().unwrap();
            plane
        });
    } else {
        updater.update(form.updates[1], form.updates_per_second);
    }
    let changes = updater.finish();
    let outcome = generator.stop();

    println!(
        "{:.1} s{}",
        began.elapsed().as_secs_f64(),
        if with_outage { ", the control plane was killed" } else { "" }
    );
    println!("{changes}\n{outcome}");
    let report = ledger.report();
    println!("{report}");
    let output = proxy.output();
    assert_eq!(outcome.failed, 0, "{:#?}\nthe proxy said: {output}", outcome.failures);
    assert_eq!((report.missing, report.repeated), (0, 0), "the proxy said: {output}");
    form.was_met(&changes, &outcome, report.sent, with_outage);
    let (_, rejected) = admin::request(&admin, "GET", "/stats?filter=update_rejected").unwrap();
    assert!(rejected.lines().all(|line| line.ends_with(": 0")), "{rejected}");
    drop(plane);
}

#[test]
fn no_request_fails_while_everything_moves() {
    run(&Form::chosen(), false);
}

#[test]
fn no_request_fails_while_the_control_plane_is_killed_and_comes_back() {
    run(&Form::chosen(), true);
}
