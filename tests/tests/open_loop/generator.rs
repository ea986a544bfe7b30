//! The load: a request every so often, whether or not earlier ones were answered. What a request waits because its
//! connection is busy, or because the generator itself is late, is part of its latency, and counted.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc as channel;
use tokio::task::JoinSet;

use crate::PATIENCE;
use crate::instance::{BODY, content, is_post};
use crate::ledger::Ledger;

/// A request that is sent later than this after its time is late.
const LATE: Duration = Duration::from_millis(10);

/// How fast, and on how many connections.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    /// Requests a second.
    pub(crate) rate: u32,
    pub(crate) http1: usize,
    pub(crate) http2: usize,
}

#[derive(Clone, Copy)]
struct Job {
    id: usize,
    route: usize,
    due: Instant,
}

impl Job {
    fn is_post(self) -> bool {
        is_post(self.id)
    }
}

/// What became of one request.
struct Done {
    id: usize,
    late: Duration,
    latency: Duration,
    failure: Option<String>,
}

/// What became of all of them.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) failed: usize,
    /// The first ones.
    pub(crate) failures: Vec<String>,
    /// From the first request's time to the last moment in which one was due.
    pub(crate) sending: Duration,
    late: usize,
    latest: Duration,
    latencies: Vec<Duration>,
}

impl Outcome {
    fn add(&mut self, done: Done) {
        if let Some(failure) = done.failure {
            self.failed += 1;
            if self.failures.len() < 20 {
                self.failures.push(format!("{}: {failure}", done.id));
            }
        }
        self.late += usize::from(done.late > LATE);
        self.latest = self.latest.max(done.late);
        self.latencies.push(done.latency);
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |share: f64| self.latencies.get((self.latencies.len() as f64 * share) as usize).copied();
        let at = |share: f64| at(share).unwrap_or_default().as_secs_f64() * 1e3;
        let (sent, last) = (self.latencies.len(), self.latencies.last().copied().unwrap_or_default());
        write!(
            f,
            "client: {sent} requests in {:.1} s, {} failed; {} sent more than {LATE:?} late, at most {:?}; from their time to their answer \
             p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms, at most {:.1} ms",
            self.sending.as_secs_f64(),
            self.failed,
            self.late,
            self.latest,
            at(0.5),
            at(0.99),
            at(0.999),
            last.as_secs_f64() * 1e3
        )
    }
}

/// A thread that sends.
pub(crate) struct Generator {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Outcome>,
}

impl Generator {
    pub(crate) fn start(pace: Pace, routes: usize, port: u16, ledger: Arc<Ledger>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(generate(pace, routes, port, &ledger, &stopped))
        });
        Self { stop, thread }
    }

    /// Sends no more, and waits for the answers.
    pub(crate) fn stop(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let mut outcome = self.thread.join().unwrap();
        outcome.latencies.sort_unstable();
        outcome
    }
}

async fn generate(pace: Pace, routes: usize, port: u16, ledger: &Ledger, stopped: &AtomicBool) -> Outcome {
    let (done, results) = mpsc::channel();
    let mut tasks = JoinSet::new();
    let mut connections = Vec::new();
    for number in 0..pace.http1 + pace.http2 {
        let (jobs, queue) = channel::unbounded_channel();
        connections.push(jobs);
        if number < pace.http1 {
            tasks.spawn(http1(port, queue, done.clone()));
        } else {
            tasks.spawn(http2(port, queue, done.clone()));
        }
    }
    drop(done);
    let began = Instant::now();
    let mut end = None;
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    for number in 0u32.. {
        let due = began + Duration::from_secs(1) * number / pace.rate;
        while Instant::now() < due && end.is_none() {
            ticks.tick().await;
            end = stopped.load(Ordering::Relaxed).then(Instant::now);
        }
        // One that is late sends all that was due when it was stopped.
        if end.is_some_and(|end| end < due) {
            break;
        }
        let id = ledger.next();
        // Of neither the same parity as the id nor the same order as the routes.
        let connection = &connections[(id / 2) % connections.len()];
        let job = Job { id, route: (id / 3) % routes, due };
        assert!(connection.send(job).is_ok(), "a client ended");
    }
    drop(connections);
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    let sending = end.map_or(Duration::ZERO, |end| end - began);
    let mut outcome = Outcome { sending, ..Outcome::default() };
    results.into_iter().for_each(|done| outcome.add(done));
    outcome
}

async fn timed(job: Job, exchange: impl Future<Output = Result<(), String>>, done: &mpsc::Sender<Done>) {
    let late = job.due.elapsed();
    let failure = match tokio::time::timeout(PATIENCE, exchange).await {
        Ok(result) => result.err(),
        Err(_) => Some(format!("no answer after {PATIENCE:?}")),
    };
    // Whoever listens does so until all have ended.
    let _ = done.send(Done { id: job.id, late, latency: job.due.elapsed(), failure });
}

async fn connect(port: u16) -> Result<TcpStream, String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = TcpStream::connect(address).await.map_err(|error| format!("connect: {error}"))?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    Ok(stream)
}

async fn http1(port: u16, mut jobs: channel::UnboundedReceiver<Job>, done: mpsc::Sender<Done>) {
    let mut connection = None;
    while let Some(job) = jobs.recv().await {
        timed(job, exchange(port, &mut connection, job), &done).await;
    }
}

/// One exchange; the connection is kept if it may be.
async fn exchange(port: u16, connection: &mut Option<TcpStream>, job: Job) -> Result<(), String> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => connect(port).await?,
    };
    let Job { id, route, .. } = job;
    let mut request = if job.is_post() {
        format!("POST /r{route}/ HTTP/1.1\r\nhost: shop\r\nx-id: {id}\r\ncontent-length: {BODY}\r\n\r\n").into_bytes()
    } else {
        format!("GET /r{route}/ HTTP/1.1\r\nhost: shop\r\nx-id: {id}\r\n\r\n").into_bytes()
    };
    if job.is_post() {
        request.extend_from_slice(&content(id));
    }
    stream.write_all(&request).await.map_err(|error| format!("write: {error}"))?;
    let mut answer = BytesMut::with_capacity(1024);
    // The body of a good answer ends in `ok`, and nothing else does: of a bad one some more may come.
    while !answer.ends_with(b"\r\n\r\nok") {
        match stream.read_buf(&mut answer).await {
            Ok(0) => return Err(format!("the connection ended after {:?}", String::from_utf8_lossy(&answer))),
            Err(error) => return Err(format!("read: {error}")),
            Ok(_) if answer.starts_with(b"HTTP/1.1 200 ") || answer.len() < 13 => {}
            Ok(_) => return Err(format!("answered {:?}", String::from_utf8_lossy(&answer))),
        }
    }
    let head = String::from_utf8_lossy(&answer).to_ascii_lowercase();
    if !head.contains(&format!("\r\nx-id: {id}\r\n")) {
        return Err(format!("the answer of another request: {head:?}"));
    }
    if !head.contains("\r\nconnection: close\r\n") {
        *connection = Some(stream);
    }
    Ok(())
}

async fn http2(port: u16, mut jobs: channel::UnboundedReceiver<Job>, done: mpsc::Sender<Done>) {
    let stream = connect(port).await.expect("the proxy listens");
    let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let mut requests = JoinSet::new();
    while let Some(job) = jobs.recv().await {
        let (client, done) = (client.clone(), done.clone());
        requests.spawn(async move { timed(job, stream_of(client, job), &done).await });
        while requests.try_join_next().is_some() {}
    }
    while requests.join_next().await.is_some() {}
}

async fn stream_of(client: h2::client::SendRequest<Bytes>, job: Job) -> Result<(), String> {
    let Job { id, route, .. } = job;
    let method = if job.is_post() { "POST" } else { "GET" };
    let request = http::Request::builder().method(method).uri(format!("http://shop/r{route}/")).header("x-id", id);
    let request = request.body(()).map_err(|error| error.to_string())?;
    let told = |error: h2::Error| error.to_string();
    let mut client = client.ready().await.map_err(told)?;
    let (response, mut body) = client.send_request(request, !job.is_post()).map_err(told)?;
    if job.is_post() {
        body.send_data(content(id), true).map_err(told)?;
    }
    let (head, mut body) = response.await.map_err(told)?.into_parts();
    let mut text = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(told)?;
        let _ = body.flow_control().release_capacity(data.len());
        text.extend_from_slice(&data);
    }
    let echoed = head.headers.get("x-id").is_some_and(|echoed| echoed.as_bytes() == id.to_string().as_bytes());
    if head.status != 200 || text != "ok" || !echoed {
        return Err(format!("answered {head:?} {text:?}"));
    }
    Ok(())
}

/// Whether each route has an instance.
pub(crate) fn serves(port: u16, routes: usize) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for route in 0..routes {
            // An id that no request has.
            let job = Job { id: usize::MAX - 1, route, due: Instant::now() };
            if exchange(port, &mut None, job).await.is_err() {
                return false;
            }
        }
        true
    })
}
