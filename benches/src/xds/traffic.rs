//! Traffic while the configuration changes: an open loop on a thread of its own, and upstreams that say who they are.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::mesh::TRAFFIC;
use super::priority;

/// Connections of the load.
const CONNECTIONS: u32 = 32;

/// How many of its requests go past the proxy, one in so many: what those wait is not the proxy's doing.
const DIRECT: u32 = 10;

/// How often it is looked which upstream answers.
const LOOK: Duration = Duration::from_millis(1);

/// Starts a server that answers everything with its letter, on a port of its own.
pub(crate) async fn upstream(letter: char) -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = listener.local_addr()?.port();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{letter}");
    std::thread::spawn(move || -> anyhow::Result<()> {
        let listener = listener.into_std()?;
        runtime()?.block_on(async move {
            let listener = TcpListener::from_std(listener)?;
            let mut connections = JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await?;
                let answer = answer.clone();
                connections.spawn(async move {
                    stream.set_nodelay(true)?;
                    let mut head = Vec::new();
                    while stream.read_buf(&mut head).await? > 0 {
                        if head.ends_with(b"\r\n\r\n") {
                            head.clear();
                            stream.write_all(answer.as_bytes()).await?;
                        }
                    }
                    anyhow::Ok(())
                });
                while connections.try_join_next().is_some() {}
            }
        })
    });
    Ok(port)
}

/// Of a thread that the others of the bench are not to delay.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    priority::wake_soon();
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// When a request was due, and how long after that its answer was there.
type Sample = (Instant, Duration);

/// What a load has measured: through the proxy, and past it.
pub(crate) struct Samples {
    pub(crate) proxied: Vec<Sample>,
    pub(crate) direct: Vec<Sample>,
}

/// A load that runs.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<Samples>>,
}

impl Load {
    /// So many requests a second to the proxy's port, and a tenth of that to the upstream's.
    pub(crate) fn start(proxy: u16, upstream: u16, rate: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            runtime()?.block_on(async {
                let (mut proxied, mut direct) =
                    (clients(proxy, rate, stopped.clone()), clients(upstream, (rate / DIRECT).max(1), stopped));
                Ok(Samples { proxied: all(&mut proxied).await?, direct: all(&mut direct).await? })
            })
        });
        Self { stop, thread }
    }

    /// All requests.
    pub(crate) async fn stop(self) -> anyhow::Result<Samples> {
        self.stop.store(true, Ordering::Relaxed);
        tokio::task::spawn_blocking(|| self.thread.join()).await?.ok().context("the load panicked")?
    }
}

type Clients = JoinSet<anyhow::Result<Vec<Sample>>>;

/// Clients that ask in turn.
fn clients(port: u16, rate: u32, stopped: Arc<AtomicBool>) -> Clients {
    let began = Instant::now();
    let interval = Duration::from_secs(1) * CONNECTIONS / rate;
    (0..CONNECTIONS)
        .map(|number| client(port, began + interval * number / CONNECTIONS, interval, stopped.clone()))
        .collect()
}

async fn all(clients: &mut Clients) -> anyhow::Result<Vec<Sample>> {
    let mut samples = Vec::new();
    while let Some(client) = clients.join_next().await {
        samples.extend(client??);
    }
    Ok(samples)
}

async fn client(
    port: u16,
    mut due: Instant,
    interval: Duration,
    stopped: Arc<AtomicBool>,
) -> anyhow::Result<Vec<Sample>> {
    let mut samples = Vec::new();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.set_nodelay(true)?;
    while !stopped.load(Ordering::Relaxed) {
        sleep_until(due).await;
        exchange(&mut stream).await?;
        samples.push((due, due.elapsed()));
        due += interval;
    }
    Ok(samples)
}

/// The letter that answers.
async fn exchange(stream: &mut TcpStream) -> anyhow::Result<char> {
    stream.write_all(format!("GET {TRAFFIC} HTTP/1.1\r\nhost: bench.test\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::with_capacity(512);
    while stream.read_buf(&mut answer).await? > 0 {
        if let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")
            && let Some(letter) = answer.get(end + 4)
        {
            if !answer.starts_with(b"HTTP/1.1 200 ") {
                break;
            }
            return Ok(char::from(*letter));
        }
    }
    bail!("answered {:?}", String::from_utf8_lossy(&answer))
}

/// Asks until this upstream answers; how long after `began` that was. It asks now and then: as often as it can would be
/// a load of its own.
pub(crate) async fn until_answers(port: u16, letter: char, began: Instant) -> anyhow::Result<Duration> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.set_nodelay(true)?;
    while exchange(&mut stream).await? != letter {
        if began.elapsed() > Duration::from_secs(10) {
            bail!("{letter} does not answer");
        }
        sleep(LOOK).await;
    }
    Ok(began.elapsed())
}

/// The latency that a share of the requests had at most, of those that were due in the time.
pub(crate) fn quantile(samples: &[Sample], from: Instant, to: Instant, share: f64) -> Duration {
    let mut latencies: Vec<Duration> =
        samples.iter().filter(|(due, _)| (from..to).contains(due)).map(|(_, latency)| *latency).collect();
    latencies.sort_unstable();
    let index = (latencies.len() as f64 * share) as usize;
    latencies.get(index.min(latencies.len().saturating_sub(1))).copied().unwrap_or_default()
}
