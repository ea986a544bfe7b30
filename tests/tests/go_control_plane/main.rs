//! go-control-plane's own integration test with our proxy in Envoy's place: a management server and a set of checks
//! that we did not write. It pushes ten snapshots, each with new clusters and routes, and sends requests through every
//! listener at once; once the first snapshot is in force none may fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a suite reports what went wrong by failing"
)]

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use outrigger_tests::ports::Reserved;
use outrigger_tests::process::Process;
use outrigger_tests::{admin, peers};
use serde_json::{Value, json};

/// One at a time: each is a mesh of its own.
static TURN: Mutex<()> = Mutex::new(());

/// Listeners of each kind, HTTP and TCP.
const LISTENERS: u16 = 4;

/// The driver's pause after each batch of requests.
const DELAY: Duration = Duration::from_millis(250);

/// Batches that may come before the listeners are open: those of the first two snapshots of ten, 2.5 s and more. Who
/// takes longer to start is no proxy to be waited for, however busy the machine; and were there no bound, one whose
/// listeners open at the last snapshot would pass.
const MOST_EARLY: usize = 10;

/// Longer than anything here takes, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn ads() {
    passes("ads", json!({"ads_config": grpc("GRPC"), "cds_config": {"ads": {}}, "lds_config": {"ads": {}}}));
}

#[test]
fn delta_ads() {
    passes(
        "delta-ads",
        json!({"ads_config": grpc("DELTA_GRPC"), "cds_config": {"ads": {}}, "lds_config": {"ads": {}}}),
    );
}

#[test]
fn xds() {
    passes("xds", per_type("GRPC"));
}

#[test]
fn delta() {
    passes("delta", per_type("DELTA_GRPC"));
}

fn per_type(api_type: &str) -> Value {
    let source = json!({"resource_api_version": "V3", "api_config_source": grpc(api_type)});
    json!({"cds_config": source, "lds_config": source})
}

fn grpc(api_type: &str) -> Value {
    json!({
        "api_type": api_type,
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "xds_cluster"}}],
        "set_node_on_first_message_only": true,
    })
}

/// One run of the driver.
fn passes(mode: &str, dynamic_resources: Value) {
    let (Some(driver), Some(upstream)) = (peers::find("gcp-testmain", mode), peers::find("gcp-upstream", mode)) else {
        return;
    };
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    // The proxy shares its listeners' ports with these reservations; the Go programs need theirs alone.
    let listeners = Reserved::row(2 * LISTENERS).unwrap();
    let [server, gateway, als, echo] = std::array::from_fn(|_| Reserved::new().unwrap()).map(|port| port.port());

    let mut command = Command::new(upstream);
    command.args(["-upstream", &echo.to_string()]);
    let _upstream = Process::start(command, &at("upstream")).unwrap();
    let mut command = Command::new(driver);
    command.args(["-xds", mode, "-u", "10", "-r", "5", "-delay", &format!("{DELAY:?}")]);
    command.args(["-scopedhttp", "0", "-vhdshttp", "0", "-runtimes", "0", "-extension", "0"]);
    for (flag, number) in [
        ("-http", LISTENERS),
        ("-tcp", LISTENERS),
        ("-port", server),
        ("-gateway", gateway),
        ("-als", als),
        ("-upstream", echo),
        ("-base", listeners[0].port()),
    ] {
        command.args([flag, &number.to_string()]);
    }
    let mut driver = Process::start(command, &at("driver")).unwrap();
    // Its first requests come as soon as one stream is there: another that had to wait for it would be late.
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", server)).is_err() {
        assert!(Instant::now() < deadline, "the driver does not listen: {}", driver.output());
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let started = Instant::now();
    let bootstrap = json!({
        "node": {"id": "test-id", "cluster": "test-cluster"},
        "admin": {"address": {"pipe": {"path": at("admin")}}},
        "dynamic_resources": dynamic_resources,
        "static_resources": {"clusters": [cluster("xds_cluster", server), cluster("als_cluster", als)]},
    });
    let proxy = start_proxy(&at("bootstrap.json"), &bootstrap, &at("proxy"));
    let early = early(&at("driver"), &listeners, started);
    assert!(
        early <= MOST_EARLY,
        "{mode}: the listeners opened after {early} batches of requests, and {MOST_EARLY} are excused\nthe proxy: {}",
        proxy.output()
    );
    let status = driver.wait(Duration::from_secs(120));

    let log = std::fs::read_to_string(at("driver")).unwrap();
    let batches = batches(&log);
    let failed: Vec<&&str> = batches.iter().skip(early).filter(|line| !line.contains(" failed 0,")).collect();
    let errors = "no_cluster|no_route|rq_5xx|none_healthy|connect_fail|cx_no_route|rejected|rq_timeout|rx_reset";
    let stats = admin::request(&at("admin"), "GET", &format!("/stats?usedonly&filter={errors}"));
    let said = format!("{}\n{}", proxy.output(), stats.unwrap_or_default().1);
    assert!(
        status.is_some_and(|status| status.success()) && batches.len() == 50,
        "{mode}: {status:?}\n{log}\nthe proxy: {said}"
    );
    assert!(
        failed.is_empty(),
        "{mode}: requests failed, in batches after the first {early}:\n{failed:#?}\nthe proxy: {said}"
    );
    println!("{mode}: failed 0 in every batch after the first {early}");
}

/// Waits until the first snapshot is in force: each listener opens when it has its routes and clusters. Answers how many
/// batches of requests may have begun before: the first one, which the driver sends as soon as it has the snapshot, and
/// more only where the machine stood still for longer than the pause between two.
fn early(log: &Path, listeners: &[Reserved], started: Instant) -> usize {
    let deadline = Instant::now() + PATIENCE;
    // Since `absent` the last batch has ended that the driver told of.
    let (mut told, mut absent, mut looked) = (0, started, started);
    loop {
        let now = Instant::now();
        let count = batches(&std::fs::read_to_string(log).unwrap()).len();
        if count > told {
            (told, absent) = (count, looked);
        }
        looked = now;
        if listeners.iter().all(|port| TcpStream::connect(("127.0.0.1", port.port())).is_ok()) {
            let pauses = absent.elapsed().as_nanos() / DELAY.as_nanos();
            return told.max(1) + usize::try_from(pauses).unwrap();
        }
        assert!(Instant::now() < deadline, "the listeners do not open after {PATIENCE:?}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// What the driver's log tells of each batch of requests.
fn batches(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.contains("request batch")).collect()
}

fn cluster(name: &str, port: u16) -> Value {
    json!({
        "name": name,
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address":
            {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}]}]},
    })
}

fn start_proxy(config: &Path, bootstrap: &Value, log: &Path) -> Process {
    std::fs::write(config, bootstrap.to_string()).unwrap();
    let mut command = peers::proxy(env!("CARGO_BIN_EXE_mesh"));
    command.arg("-c").arg(config).args(["--concurrency", "1", "--drain-time-s", "1"]);
    Process::start(command, log).unwrap()
}
