//! The command `memory`: what a sidecar costs before it does anything, with the clusters of a whole mesh, and after it
//! has talked to each of them. Envoy stands beside Outrigger; the other peers have no such configuration.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::h2load::{self, Pace, Protocol};
use crate::machine::{Cores, free_ports};
use crate::peer::{Peer, target};
use crate::peers::http_upstream;
use crate::process::{Memory, Process};
use crate::report::table;
use crate::template::{Values, render};

/// Endpoints of each cluster.
const ENDPOINTS: usize = 10;

/// Connections of the load; each asks for every route once, so this is the number of requests that a cluster serves.
const REQUESTS_PER_CLUSTER: u64 = 20;

/// Requests a second: slow enough that the upstream's connections fit into the usual limit of descriptors.
const RATE: u32 = 4000;

#[derive(Args)]
pub(crate) struct Options {
    /// Clusters of the large configuration, each with 10 endpoints and a route
    #[arg(long, default_value_t = 2000)]
    clusters: usize,
    /// Seconds from the start of a proxy to the measurement
    #[arg(long, default_value_t = 5.0)]
    settle: f64,
    /// 50 clusters and no waiting: shows that everything runs, measures nothing
    #[arg(long)]
    smoke: bool,
    /// Where the raw numbers go; target/bench/memory.json unless given
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    clusters: usize,
    peers: Vec<PeerReport>,
}

#[derive(Serialize)]
struct PeerReport {
    peer: Peer,
    version: String,
    absent: Option<String>,
    /// Requests without a good answer, of those that used the clusters.
    failed: u64,
    states: Vec<State>,
}

#[derive(Serialize)]
struct State {
    name: String,
    /// From the start of the process until it accepted a connection.
    start_ms: Option<f64>,
    memory: Memory,
}

pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let cores = Cores::find()?;
    let clusters = if options.smoke { 50 } else { options.clusters };
    let settle = Duration::from_secs_f64(if options.smoke { 0.0 } else { options.settle });
    let mut report = Report { clusters, peers: Vec::new() };
    for peer in Peer::ALL.into_iter().filter(|peer| peer.has_admin()) {
        let mut of_peer = PeerReport { peer, version: String::new(), absent: None, failed: 0, states: Vec::new() };
        if let Err(error) = measure(&mut of_peer, cores, clusters, settle).await {
            of_peer.absent = Some(format!("{error:#}"));
        }
        report.peers.push(of_peer);
    }
    print(&report);
    let file = options.json.clone().unwrap_or_else(|| target().join("bench/memory.json"));
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(&file, serde_json::to_vec_pretty(&report)?)?;
    println!("Raw numbers: {}", file.display());
    Ok(())
}

async fn measure(report: &mut PeerReport, cores: Cores, clusters: usize, settle: Duration) -> anyhow::Result<()> {
    let program = report.peer.program().await?;
    report.version = report.peer.version(&program).await;
    let scene = Scene { peer: report.peer, program, cores, directory: tempfile::tempdir()? };

    let (empty, state, _) = scene.start("empty", 0, 0, settle).await?;
    report.states.push(state);
    empty.stop().await?;

    let [upstream_port, unused] = free_ports()?;
    let values = Values::from([
        ("directory", scene.path().display().to_string()),
        ("upstream_address", "0.0.0.0".to_owned()),
        ("upstream_http1", upstream_port.to_string()),
        ("upstream_http2", unused.to_string()),
        ("upstream_keepalive", "500ms".to_owned()),
    ]);
    let mut upstream = http_upstream(cores, scene.path(), &values)?;
    upstream.listening(upstream_port).await.context("the upstream")?;

    let name = format!("{clusters} clusters × {ENDPOINTS} endpoints, {clusters} routes");
    let (proxy, state, port) = scene.start(&name, clusters, upstream_port, settle).await?;
    report.states.push(state);
    let idle = proxy.descriptors()?;
    let targets = scene.path().join("targets.txt");
    std::fs::write(&targets, (0..clusters).map(|n| format!("http://bench.test{}\n", path(n))).collect::<String>())?;
    let amount = (clusters as u64 * REQUESTS_PER_CLUSTER, REQUESTS_PER_CLUSTER);
    let outcome = h2load::run(cores, Protocol::Http1, port, amount, Pace::Open(RATE), Some(&targets)).await?;
    // The upstream closes idle connections all the time, and now and then a request meets one.
    if outcome.failed * 100 > outcome.sent {
        bail!("{} of {} requests failed", outcome.failed, outcome.sent);
    }
    report.failed = outcome.failed;
    let deadline = Instant::now() + Duration::from_secs(30);
    while proxy.descriptors()? > idle {
        if Instant::now() > deadline {
            bail!("keeps {} descriptors after its connections were closed; it had {idle}", proxy.descriptors()?);
        }
        sleep(Duration::from_millis(50)).await;
    }
    sleep(settle).await;
    let name = format!("… after {REQUESTS_PER_CLUSTER} requests to each, connections closed");
    report.states.push(State { name, start_ms: None, memory: proxy.memory()? });
    proxy.stop().await?;
    upstream.stop().await
}

struct Scene {
    peer: Peer,
    program: PathBuf,
    cores: Cores,
    directory: tempfile::TempDir,
}

impl Scene {
    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Starts the proxy with so many clusters, waits, and reads its memory. The number returned is its HTTP port.
    async fn start(
        &self,
        name: &str,
        clusters: usize,
        upstream: u16,
        settle: Duration,
    ) -> anyhow::Result<(Process, State, u16)> {
        let [http1, admin] = free_ports()?;
        let values = Values::from([
            ("http1", http1.to_string()),
            ("admin", admin.to_string()),
            ("routes", routes(clusters)?),
            ("clusters", load_assignments(clusters, upstream)?),
        ]);
        let file = self.path().join(format!("{clusters}.yaml"));
        std::fs::write(&file, render(include_str!("../peers/memory.yaml"), &values)?)?;
        let began = Instant::now();
        let mut process = self.peer.launch(&self.program, self.cores, &file, self.path())?;
        process.listening(http1).await?;
        let start_ms = Some(began.elapsed().as_secs_f64() * 1e3);
        sleep(settle.saturating_sub(began.elapsed())).await;
        let state = State { name: name.to_owned(), start_ms, memory: process.memory()? };
        Ok((process, state, http1))
    }
}

fn path(cluster: usize) -> String {
    format!("/service-{cluster:04}/")
}

fn routes(clusters: usize) -> anyhow::Result<String> {
    let mut text = String::new();
    for number in 0..clusters {
        let path = path(number);
        writeln!(
            text,
            "- {{match: {{prefix: {path}}}, route: {{cluster: service-{number:04}, timeout: 15s, retry_policy: \
             {{retry_on: \"connect-failure,refused-stream,reset\", num_retries: 2}}}}}}"
        )?;
    }
    Ok(text.trim_end().to_owned())
}

fn load_assignments(clusters: usize, port: u16) -> anyhow::Result<String> {
    let mut text = String::new();
    for number in 0..clusters {
        write!(
            text,
            "- name: service-{number:04}\n  type: STATIC\n  connect_timeout: 1s\n  load_assignment:\n    cluster_name: \
             service-{number:04}\n    endpoints:\n    - lb_endpoints:\n"
        )?;
        for endpoint in 0..ENDPOINTS {
            let host = number * ENDPOINTS + endpoint;
            writeln!(
                text,
                "      - {{endpoint: {{address: {{socket_address: {{address: 127.1.{}.{}, port_value: {port}}}}}}}}}",
                host / 250,
                host % 250 + 1
            )?;
        }
    }
    Ok(text.trim_end().to_owned())
}

fn print(report: &Report) {
    let mebibytes = |kb: u64| format!("{:.1}", kb as f64 / 1024.0);
    let rows: Vec<Vec<String>> = report
        .peers
        .iter()
        .flat_map(|peer| peer.states.iter().map(move |state| (peer, state)))
        .map(|(peer, state)| {
            vec![
                peer.peer.to_string(),
                state.name.clone(),
                mebibytes(state.memory.rss_kb),
                mebibytes(state.memory.peak_kb),
                state.start_ms.map_or_else(|| "–".to_owned(), |time| format!("{time:.0}")),
            ]
        })
        .collect();
    print!("{}", table(&["proxy", "state", "RSS MiB", "peak MiB", "listening after ms"], &rows));
    println!();
    for peer in &report.peers {
        if peer.failed > 0 {
            println!("{}: {} requests failed", peer.peer, peer.failed);
        }
        if let Some(reason) = &peer.absent {
            println!("{}: not measured further: {reason}", peer.peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_have_addresses_of_their_own() {
        let text = load_assignments(2000, 80).unwrap();
        let addresses: std::collections::HashSet<_> = text.lines().filter(|line| line.contains("127.1.")).collect();
        assert_eq!(addresses.len(), 20_000);
        assert!(text.contains("127.1.79.250,"));
    }
}
