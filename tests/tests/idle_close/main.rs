//! An application ends a connection that has idled just as a request is sent on it: what users of sidecars complain of
//! most. Callers and application wait at random around the same few milliseconds, without a retry policy, and every
//! request has an id that the application notes.
//!
//! Whatever the application does, no request is done twice, and none fails that may be repeated: GET and PUT here (RFC
//! 9110, section 9.2.2). A POST fails only where nobody but the application could know that it was not done:
//! - it lay in the application's kernel when the application ended the connection without having looked. The end then
//!   acknowledges it, as it would a request that was read and done. The application finds its id and notes it;
//! - the connection was reset rather than ended: a reset may come behind what was read and done, too.
//!
//! A thousand requests for each way to end; `OUTRIGGER_IDLE_CLOSES=1000000` is the long form, with so many of both GET
//! and POST where the application closes, which is a section of `.ci/run`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a suite reports what went wrong by failing"
)]

mod application;
mod caller;
mod ledger;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use application::{Application, Close};
use ledger::Ledger;
use outrigger_tests::process::Process;
use outrigger_tests::{admin, peers, tls};
use serde_json::{Value, json};

/// Longer than anything here takes, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long callers and application wait, on average.
const PAUSE: Duration = Duration::from_millis(2);
/// A run in which the two met less often says nothing.
const MEETINGS: u64 = 5;

/// A number between 0 and twice the pause, from a seed that goes on.
fn pause(seed: &mut u64) -> Duration {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    let micros = u64::try_from(PAUSE.as_micros()).unwrap();
    Duration::from_micros(*seed % (2 * micros))
}

/// The proxy before one application.
struct Proxy {
    directory: tempfile::TempDir,
    process: Process,
    port: u16,
}

impl Proxy {
    fn start(application: u16, close: Close) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("bootstrap.json");
        std::fs::write(&config, bootstrap(directory.path(), application, close).to_string()).unwrap();
        let mut command = peers::proxy(env!("CARGO_BIN_EXE_mesh"));
        command.args(["--concurrency", "2", "-l", "warning", "-c"]).arg(config);
        let mut process = Process::start(command, &directory.path().join("output")).unwrap();
        process.ready(&directory.path().join("admin"), PATIENCE).unwrap();
        let mut proxy = Proxy { directory, process, port: 0 };
        proxy.port = proxy.ask("/listeners").trim().rsplit(':').next().unwrap().parse().unwrap();
        proxy
    }

    fn admin(&self) -> PathBuf {
        self.directory.path().join("admin")
    }

    fn ask(&self, target: &str) -> String {
        admin::request(&self.admin(), "GET", target).unwrap().1
    }

    fn stat(&self, name: &str) -> u64 {
        self.ask(&format!("/stats?filter={name}$")).trim().rsplit(' ').next().unwrap().parse().unwrap()
    }
}

fn bootstrap(directory: &Path, application: u16, close: Close) -> Value {
    let address = |port| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let mut cluster = json!({
        "name": "application",
        "connect_timeout": "30s",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "application",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(application)}}]}],
        },
    });
    if close.over_tls() {
        cluster["transport_socket"] = json!({"name": "tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": "server.test",
            "common_tls_context": {"validation_context": {"trusted_ca": {"inline_string": tls::material().authority}}},
        }});
    }
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {"virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "application"}}],
        }]},
        "http_filters": [{
            "name": "router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
        }],
    });
    json!({
        "admin": {"address": {"pipe": {"path": directory.join("admin")}}},
        "static_resources": {
            "clusters": [cluster],
            "listeners": [{
                "name": "in",
                "address": address(0),
                "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
            }],
        },
    })
}

/// Sends requests until enough of them have met the end of their connection, and judges what became of them.
/// `share`: the part of the long form that this way to close gets.
fn meet(close: Close, share: usize) {
    let long: Option<usize> = std::env::var("OUTRIGGER_IDLE_CLOSES").ok().map(|n| n.parse().unwrap());
    let (requests, callers) = long.map_or((1_000, 32), |each| (2 * each / share, 128));
    let application = Application::start(close);
    let proxy = Proxy::start(application.port, close);
    let began = Instant::now();
    loop {
        let ledger = Arc::new(Ledger::new(requests));
        application.note_in(&ledger);
        caller::call(proxy.port, callers, &ledger);
        application.settle();
        let verdict = ledger.judge(close);
        let meetings = proxy.stat("upstream_rq_retry");
        println!("{close:?}, {:.1} s: {verdict}; {meetings} went again", began.elapsed().as_secs_f64());
        let some = verdict.wrong.get(..20).unwrap_or(&verdict.wrong);
        assert!(verdict.wrong.is_empty(), "{verdict}\n{some:#?}\n{}", proxy.process.output());
        if meetings >= MEETINGS {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "callers and application hardly ever meet");
    }
}

#[test]
fn the_application_closes() {
    meet(Close::Fin, 1);
}

#[test]
fn the_application_resets() {
    meet(Close::Reset, 10);
}

#[test]
fn the_application_closes_tls() {
    meet(Close::Notify, 10);
}

#[test]
fn the_application_drops_tls() {
    meet(Close::TlsFin, 10);
}
