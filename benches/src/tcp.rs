//! Load and upstream of the TCP row: exchanges of a fixed size on connections that stay open. HTTP load generators
//! would do for a TCP proxy too, but their own cost per message is several times that of a copied buffer.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::h2load::{Latency, Outcome, Pace};
use crate::machine::{Cores, Place};
use crate::process::pinned;

/// Bytes of a request, and of its answer.
const REQUEST: usize = 128;
const ANSWER: usize = 1024;

#[derive(Args)]
pub(crate) struct LoadOptions {
    #[arg(long)]
    port: u16,
    #[arg(long)]
    connections: u64,
    /// On all connections together
    #[arg(long)]
    exchanges: u64,
    /// Exchanges a second on all connections together; without it, each sends again when it has its answer
    #[arg(long)]
    rate: Option<u32>,
}

#[derive(Args)]
pub(crate) struct UpstreamOptions {
    #[arg(long)]
    port: u16,
}

/// Runs `load` in a process of its own on the core for load.
pub(crate) async fn run(
    cores: Cores,
    port: u16,
    (exchanges, connections): (u64, u64),
    pace: Pace,
) -> anyhow::Result<Outcome> {
    let mut command = pinned(cores, Place::Load, &std::env::current_exe()?);
    command.arg("tcp-load").arg(format!("--port={port}")).arg(format!("--connections={connections}"));
    command.arg(format!("--exchanges={exchanges}"));
    if let Pace::Open(rate) = pace {
        command.arg(format!("--rate={rate}"));
    }
    let output = command.output().await.context("cannot start the TCP load")?;
    if !output.status.success() {
        bail!("TCP load: {}", String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).context("the TCP load's report")
}

/// Sends the load and prints its outcome as JSON.
pub(crate) async fn load(options: &LoadOptions) -> anyhow::Result<()> {
    let interval = options.rate.map(|rate| Duration::from_secs_f64(options.connections as f64 / f64::from(rate)));
    let each = options.exchanges / options.connections;
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for number in 0..options.connections {
        // Spread over the first interval, so that an open loop does not send in bursts.
        let start = began + interval.unwrap_or_default().mul_f64(number as f64 / options.connections as f64);
        clients.spawn(client(options.port, each, start, interval));
    }
    let mut all = Histogram::<u64>::new(3)?;
    let mut failed = 0;
    while let Some(client) = clients.join_next().await {
        match client? {
            Ok(latencies) => all.add(latencies)?,
            Err(error) => {
                eprintln!("{error:#}");
                failed += each;
            }
        }
    }
    let outcome = Outcome {
        sent: each * options.connections,
        failed,
        seconds: began.elapsed().as_secs_f64(),
        latency: interval.map(|_| Latency::of(&all)),
    };
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

async fn client(
    port: u16,
    exchanges: u64,
    start: Instant,
    interval: Option<Duration>,
) -> anyhow::Result<Histogram<u64>> {
    let mut latencies = Histogram::<u64>::new(3)?;
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.set_nodelay(true)?;
    let request = [b'x'; REQUEST];
    let mut answer = [0; ANSWER];
    let mut due = start;
    for _ in 0..exchanges {
        if let Some(interval) = interval {
            sleep_until(due).await;
            due += interval;
        }
        let sent = Instant::now();
        stream.write_all(&request).await?;
        stream.read_exact(&mut answer).await.context("the answer is short")?;
        let latency = u64::try_from(sent.elapsed().as_micros())?;
        match interval {
            // As for HTTP: what a late answer kept back counts too.
            Some(interval) => latencies.record_correct(latency, u64::try_from(interval.as_micros())?)?,
            None => latencies.record(latency)?,
        }
    }
    Ok(latencies)
}

/// Answers each request on the port until it is killed.
pub(crate) async fn upstream(options: &UpstreamOptions) -> anyhow::Result<()> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, options.port))).await?;
    let mut connections = JoinSet::new();
    loop {
        connections.spawn(serve(listener.accept().await?.0));
        while connections.try_join_next().is_some() {}
    }
}

/// Answers until the client closes.
async fn serve(mut stream: TcpStream) -> std::io::Result<Infallible> {
    stream.set_nodelay(true)?;
    let mut request = [0; REQUEST];
    let answer = [b'y'; ANSWER];
    loop {
        stream.read_exact(&mut request).await?;
        stream.write_all(&answer).await?;
    }
}
