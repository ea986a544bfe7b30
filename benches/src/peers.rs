//! The command `peers`. A row is one kind of traffic; within a row all proxies are up, and in each round every one of
//! them gets the same load, in a turning order: what the machine does to one round it does to all of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::h2load::{self, Latency, Outcome, Pace, Protocol};
use crate::machine::{Cores, Place, free_ports};
use crate::peer::{Peer, target};
use crate::process::{Cpu, Memory, Process, get, pinned};
use crate::report::{cell, table};
use crate::tcp;
use crate::template::{Values, render};

/// Connections of the load generator, one request at a time on each.
const CONNECTIONS: u64 = 64;

#[derive(Args)]
pub(crate) struct Options {
    /// Rounds of each row
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each of the two loads that a proxy gets in a round
    #[arg(long, default_value_t = 5.0)]
    duration: f64,
    /// Requests a second of the open loop
    #[arg(long, default_value_t = 4000)]
    rate: u32,
    /// Only rows whose name contains this
    #[arg(long, default_value = "")]
    row: String,
    /// Only proxies whose name contains this
    #[arg(long, default_value = "")]
    peer: String,
    /// One short round: shows that everything runs, measures nothing
    #[arg(long)]
    smoke: bool,
    /// Where the raw numbers go; target/bench/peers.json unless given
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What a row sends.
#[derive(Clone, Copy)]
enum Traffic {
    Http(Protocol),
    Tcp,
}

struct Row {
    name: &'static str,
    traffic: Traffic,
    /// Virtual hosts and clusters beside the one that is used.
    further: usize,
    /// Names of the listener's port and of the `stat_prefix` of its counters.
    listener: &'static str,
}

const ROWS: [Row; 4] = [
    Row { name: "HTTP/1 keep-alive", traffic: Traffic::Http(Protocol::Http1), further: 0, listener: "http1" },
    Row {
        name: "HTTP/1 keep-alive, 1,000 further virtual hosts and clusters",
        traffic: Traffic::Http(Protocol::Http1),
        further: 1000,
        listener: "http1",
    },
    Row {
        name: "HTTP/2, 64 connections of one stream",
        traffic: Traffic::Http(Protocol::Http2),
        further: 0,
        listener: "http2",
    },
    Row { name: "TCP exchange, 128 bytes against 1,024", traffic: Traffic::Tcp, further: 0, listener: "tcp" },
];

#[derive(Serialize)]
struct Report {
    machine: Machine,
    rounds: usize,
    seconds: f64,
    rate: u32,
    connections: u64,
    rows: Vec<RowReport>,
}

#[derive(Serialize)]
struct Machine {
    cpu: String,
    kernel: String,
    cores: Cores,
}

#[derive(Serialize)]
struct RowReport {
    row: &'static str,
    peers: Vec<PeerReport>,
}

#[derive(Serialize)]
struct PeerReport {
    peer: Peer,
    version: String,
    /// Why there are no numbers, if there are none.
    absent: Option<String>,
    /// From the start of the process until it accepted a connection.
    start_ms: f64,
    sent: u64,
    failed: u64,
    /// Connections to the measured listener: 64 of each load, and the one that found it listening.
    connections: u64,
    samples: Vec<Sample>,
    counters: Option<Counters>,
}

impl PeerReport {
    fn new(peer: Peer) -> Self {
        Self {
            peer,
            version: String::new(),
            absent: None,
            start_ms: 0.0,
            sent: 0,
            failed: 0,
            connections: 0,
            samples: Vec::new(),
            counters: None,
        }
    }
}

/// One round of one proxy.
#[derive(Serialize)]
struct Sample {
    /// Closed loop.
    requests_per_second: f64,
    cpu_per_request: CpuPerRequest,
    /// Open loop.
    latency: Option<Latency>,
    cpu_per_request_open: CpuPerRequest,
    /// After both.
    memory: Memory,
}

/// CPU per request in microseconds.
#[derive(Clone, Copy, Serialize)]
struct CpuPerRequest {
    user: f64,
    system: f64,
}

impl CpuPerRequest {
    fn of(used: Cpu, outcome: &Outcome) -> Self {
        let per = |time: u64| time as f64 / outcome.sent as f64;
        Self { user: per(used.user_us), system: per(used.system_us) }
    }

    fn sum(self) -> f64 {
        self.user + self.system
    }
}

/// What the proxy's own counters say of the load.
#[derive(Serialize)]
struct Counters {
    expected: u64,
    found: Vec<(String, Option<u64>)>,
}

impl Counters {
    fn equal(&self) -> bool {
        self.found.iter().all(|(_, value)| *value == Some(self.expected))
    }
}

/// A proxy that is up.
struct Running {
    report: PeerReport,
    process: Process,
    port: u16,
    admin: u16,
    /// Requests of one closed loop.
    requests: u64,
}

pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let cores = Cores::find()?;
    let (rounds, seconds) = if options.smoke { (1, 0.5) } else { (options.rounds, options.duration) };
    let mut report = Report {
        machine: Machine { cpu: cpu_model(), kernel: kernel(), cores },
        rounds,
        seconds,
        rate: options.rate,
        connections: CONNECTIONS,
        rows: Vec::new(),
    };
    if cores.of(Place::Proxy).is_none() {
        println!("Only one core to use: proxy, load and upstream share it, and the numbers say little.\n");
    }
    for row in ROWS.iter().filter(|row| row.name.contains(&options.row)) {
        let peers = measure(row, options, cores, rounds, seconds).await.with_context(|| row.name)?;
        print(row, &peers, options.rate);
        report.rows.push(RowReport { row: row.name, peers });
    }
    let file = options.json.clone().unwrap_or_else(|| target().join("bench/peers.json"));
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(&file, serde_json::to_vec_pretty(&report)?)?;
    println!("Raw numbers: {}", file.display());
    Ok(())
}

async fn measure(
    row: &Row,
    options: &Options,
    cores: Cores,
    rounds: usize,
    seconds: f64,
) -> anyhow::Result<Vec<PeerReport>> {
    let directory = tempfile::tempdir()?;
    let [http1, http2, tcp] = free_ports()?;
    let mut values = Values::from([
        ("upstream_http1", http1.to_string()),
        ("upstream_http2", http2.to_string()),
        ("upstream_tcp", tcp.to_string()),
        ("upstream_address", "127.0.0.1".to_owned()),
        ("upstream_keepalive", "1h".to_owned()),
    ]);
    let upstream = start_upstream(row.traffic, cores, directory.path(), &mut values).await?;

    let mut running = Vec::new();
    let mut absent = Vec::new();
    for peer in Peer::ALL.into_iter().filter(|peer| peer.to_string().contains(&options.peer)) {
        match start(peer, row, cores, directory.path(), &values).await {
            Ok(mut proxy) => match warm_up(&mut proxy, row, cores, seconds, options.smoke).await {
                Ok(()) => running.push(proxy),
                Err(error) => {
                    proxy.report.absent = Some(format!("{error:#}"));
                    absent.push(proxy.report);
                }
            },
            Err(error) => absent.push(PeerReport { absent: Some(format!("{error:#}")), ..PeerReport::new(peer) }),
        }
    }
    for _ in 0..rounds {
        for proxy in &mut running {
            round(proxy, row, cores, options.rate, seconds).await.with_context(|| proxy.report.peer.to_string())?;
        }
        if !running.is_empty() {
            running.rotate_left(1);
        }
    }
    let mut reports = Vec::new();
    for mut proxy in running {
        if proxy.report.peer.has_admin() {
            proxy.report.counters = Some(counters(&proxy, row).await);
        }
        proxy.process.stop().await?;
        reports.push(proxy.report);
    }
    upstream.stop().await?;
    reports.extend(absent);
    reports.sort_by_key(|report| Peer::ALL.iter().position(|peer| *peer == report.peer));
    Ok(reports)
}

async fn start_upstream(
    traffic: Traffic,
    cores: Cores,
    directory: &Path,
    values: &mut Values,
) -> anyhow::Result<Process> {
    values.insert("directory", directory.display().to_string());
    let port = |name: &str| values.get(name).and_then(|port| port.parse().ok()).context("no upstream port");
    let log = directory.join("upstream.log");
    let (mut process, port) = match traffic {
        Traffic::Http(_) => (http_upstream(cores, directory, values)?, port("upstream_http1")?),
        Traffic::Tcp => {
            let port: u16 = port("upstream_tcp")?;
            let mut command = pinned(cores, Place::Load, &std::env::current_exe()?);
            command.arg("tcp-upstream").arg(format!("--port={port}"));
            (Process::start(command, log)?, port)
        }
    };
    process.listening(port).await.context("the upstream")?;
    Ok(process)
}

/// nginx as upstream, on the core for load.
pub(crate) fn http_upstream(cores: Cores, directory: &Path, values: &Values) -> anyhow::Result<Process> {
    let file = directory.join("upstream.conf");
    std::fs::write(&file, render(include_str!("../peers/upstream.conf"), values)?)?;
    let mut command = pinned(cores, Place::Load, Path::new("nginx"));
    command.arg("-e").arg("stderr").arg("-c").arg(file);
    Process::start(command, directory.join("upstream.log")).context("the upstream is nginx")
}

async fn start(peer: Peer, row: &Row, cores: Cores, directory: &Path, values: &Values) -> anyhow::Result<Running> {
    let program = peer.program().await?;
    let version = peer.version(&program).await;
    let directory = directory.join(peer.to_string());
    std::fs::create_dir(&directory)?;
    let [http1, http2, tcp, admin] = free_ports()?;
    let mut values = values.clone();
    let ports = [("http1", http1), ("http2", http2), ("tcp", tcp), ("admin", admin)];
    values.extend(ports.map(|(name, port)| (name, port.to_string())));
    let (_, port) = ports.into_iter().find(|(name, _)| *name == row.listener).context("a row without a listener")?;
    let began = Instant::now();
    let mut process = peer.start(&program, cores, &directory, &values, row.further)?;
    process.listening(port).await?;
    let start_ms = began.elapsed().as_secs_f64() * 1e3;
    let report = PeerReport { version, start_ms, connections: 1, ..PeerReport::new(peer) };
    Ok(Running { report, process, port, admin, requests: 0 })
}

/// Opens pools, and finds how many requests the proxy answers in the time of a round.
async fn warm_up(proxy: &mut Running, row: &Row, cores: Cores, seconds: f64, smoke: bool) -> anyhow::Result<()> {
    let requests = if smoke { 640 } else { 20_000 };
    let outcome = send(proxy, row, cores, requests, Pace::Closed).await?;
    if outcome.failed == outcome.sent {
        bail!("no request was answered well");
    }
    proxy.requests = whole(outcome.sent as f64 / outcome.seconds * seconds);
    Ok(())
}

async fn round(proxy: &mut Running, row: &Row, cores: Cores, rate: u32, seconds: f64) -> anyhow::Result<()> {
    let before = proxy.process.cpu()?;
    let closed = send(proxy, row, cores, proxy.requests, Pace::Closed).await?;
    let between = proxy.process.cpu()?;
    let open = send(proxy, row, cores, whole(f64::from(rate) * seconds), Pace::Open(rate)).await?;
    let after = proxy.process.cpu()?;
    proxy.report.samples.push(Sample {
        requests_per_second: closed.sent as f64 / closed.seconds,
        cpu_per_request: CpuPerRequest::of(between.since(before), &closed),
        latency: open.latency,
        cpu_per_request_open: CpuPerRequest::of(after.since(between), &open),
        memory: proxy.process.memory()?,
    });
    Ok(())
}

/// A number of requests that every connection gets the same share of.
fn whole(requests: f64) -> u64 {
    ((requests / CONNECTIONS as f64).round() as u64).max(1) * CONNECTIONS
}

async fn send(proxy: &mut Running, row: &Row, cores: Cores, requests: u64, pace: Pace) -> anyhow::Result<Outcome> {
    let amount = (requests, CONNECTIONS);
    let outcome = match row.traffic {
        Traffic::Http(protocol) => h2load::run(cores, protocol, proxy.port, amount, pace, None).await?,
        Traffic::Tcp => tcp::run(cores, proxy.port, amount, pace).await?,
    };
    proxy.report.sent += outcome.sent;
    proxy.report.failed += outcome.failed;
    proxy.report.connections += CONNECTIONS;
    Ok(outcome)
}

/// The proxy's counters and histogram counts, read until they equal what was sent, or for 7 s: Envoy merges histograms
/// every 5 s.
async fn counters(proxy: &Running, row: &Row) -> Counters {
    let deadline = Instant::now() + Duration::from_secs(7);
    loop {
        let stats = get(proxy.admin, "/stats").await.unwrap_or_default();
        let prometheus = get(proxy.admin, "/stats/prometheus").await.unwrap_or_default();
        let counters = read_counters(row, &proxy.report, &stats, &prometheus);
        if counters.equal() || Instant::now() > deadline {
            return counters;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

fn read_counters(row: &Row, report: &PeerReport, stats: &str, prometheus: &str) -> Counters {
    let prefix = row.listener;
    let value = |text: &str, start: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(start))?;
        rest.trim_start_matches(':').trim().parse::<u64>().ok()
    };
    let counter = |name: String| (value(stats, &name), name);
    let (expected, found) = match row.traffic {
        Traffic::Http(_) => {
            let count = format!("envoy_http_downstream_rq_time_count{{envoy_http_conn_manager_prefix=\"{prefix}\"}}");
            let found = vec![
                counter(format!("http.{prefix}.downstream_rq_total")),
                counter(format!("http.{prefix}.downstream_rq_completed")),
                (value(prometheus, &count), count),
            ];
            (report.sent, found)
        }
        Traffic::Tcp => (report.connections, vec![counter(format!("tcp.{prefix}.downstream_cx_total"))]),
    };
    Counters { expected, found: found.into_iter().map(|(value, name)| (name, value)).collect() }
}

fn print(row: &Row, peers: &[PeerReport], rate: u32) {
    println!("### {}\n", row.name);
    // Rounds are compared one by one: what disturbed the machine in a round disturbed both proxies.
    let ratio = |own: &PeerReport, peer: Peer| {
        let other = peers.iter().filter(|report| report.peer == peer).flat_map(|report| &report.samples);
        let pairs = own.samples.iter().zip(other);
        cell(pairs.map(|(own, other)| own.cpu_per_request.sum() / other.cpu_per_request.sum()), 2)
    };
    let rows: Vec<Vec<String>> = peers
        .iter()
        .filter(|report| report.absent.is_none())
        .map(|report| {
            let column = |value: fn(&Sample) -> f64, decimals| cell(report.samples.iter().map(value), decimals);
            let latency = |value: fn(&Latency) -> u64| {
                cell(report.samples.iter().filter_map(|sample| Some(value(sample.latency.as_ref()?) as f64)), 0)
            };
            vec![
                report.peer.to_string(),
                column(|sample| sample.requests_per_second, 0),
                column(|sample| sample.cpu_per_request.sum(), 1),
                column(|sample| sample.cpu_per_request.user, 1),
                column(|sample| sample.cpu_per_request.system, 1),
                ratio(report, Peer::Envoy),
                ratio(report, Peer::Haproxy),
                latency(|latency| latency.p50),
                latency(|latency| latency.p99),
                latency(|latency| latency.p999),
                column(|sample| sample.memory.rss_kb as f64 / 1024.0, 1),
                report.failed.to_string(),
            ]
        })
        .collect();
    let head = [
        "proxy",
        "requests/s",
        "CPU µs/request",
        "user",
        "system",
        "of Envoy's",
        "of HAProxy's",
        "p50 µs",
        "p99 µs",
        "p99.9 µs",
        "RSS MiB",
        "failed",
    ];
    print!("{}", table(&head, &rows));
    println!("\nLatencies at {rate} requests/s, the rest under saturation; median (lowest–highest) of the rounds.");
    for report in peers {
        if let Some(reason) = &report.absent {
            println!("{}: not measured: {reason}", report.peer);
        }
        if let Some(counters) = &report.counters {
            let verdict = if counters.equal() { "equal" } else { "NOT EQUAL" };
            let found = counters.found.iter().map(|(name, value)| match value {
                Some(value) => format!("{name} {value}"),
                None => format!("{name} missing"),
            });
            let found = found.collect::<Vec<_>>().join(", ");
            println!("{}: counters {verdict} to the {} sent: {found}.", report.peer, counters.expected);
        }
    }
    println!();
}

fn cpu_model() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or("unknown", |(_, name)| name.trim()).to_owned()
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_a_row() {
        let stats = "http.http1.downstream_rq_completed: 7\nhttp.http1.downstream_rq_total: 7\n";
        let prometheus = "envoy_http_downstream_rq_time_count{envoy_http_conn_manager_prefix=\"http1\"} 7\n";
        let [row, ..] = &ROWS;
        let sent = |sent| PeerReport { sent, ..PeerReport::new(Peer::Envoy) };
        assert!(read_counters(row, &sent(7), stats, prometheus).equal());
        assert!(!read_counters(row, &sent(8), stats, prometheus).equal());
        assert!(!read_counters(row, &sent(7), "", prometheus).equal());
    }

    #[test]
    fn requests_are_a_multiple_of_the_connections() {
        assert_eq!(whole(0.0), CONNECTIONS);
        assert_eq!(whole(1000.0), 1024);
    }
}
