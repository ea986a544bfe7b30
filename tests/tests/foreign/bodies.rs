//! Bodies that a slow client sends and reads at once: the proxy keeps no more of them than its buffers.
//!
//! A smoke of 20 bodies of 1 MB; `OUTRIGGER_BODY_MB=10` makes them 10 MB, with the release build that
//! `OUTRIGGER_BIN_DIR` names.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::spawn_local;

use crate::{Proxy, Setup};

const CLIENTS: usize = 20;
/// Bytes a second, of each client in each direction.
const RATE: usize = 1_000_000;
const PIECE: usize = 16 << 10;
/// How much the proxy may grow.
const GROWTH: u64 = 16 << 20;

/// Sends each request's body back while it comes.
fn echo(mut stream: TcpStream) {
    let (head, mut rest) = head(&mut stream);
    let length: usize = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(|n| n.trim().parse().unwrap()))
        .unwrap_or(0);
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").unwrap();
    let mut left = length;
    let mut piece = vec![0; 64 << 10];
    while left > 0 {
        if rest.is_empty() {
            let n = stream.read(&mut piece).unwrap();
            assert!(n > 0, "the body is cut");
            rest.extend_from_slice(&piece[..n]);
        }
        left -= rest.len();
        stream.write_all(&rest).unwrap();
        rest.clear();
    }
}

/// Reads up to the end of a head: the head, and what came behind it.
fn head(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let mut read = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = read.split_off(end + 4);
            return (String::from_utf8(read).unwrap(), rest);
        }
        let n = stream.read(&mut piece).unwrap();
        assert!(n > 0, "the connection ended within a head");
        read.extend_from_slice(&piece[..n]);
    }
}

/// The time that so many bytes take.
fn due(bytes: usize) -> Duration {
    Duration::from_secs_f64(bytes as f64 / RATE as f64)
}

/// Waits until so many bytes may have passed since `began`.
fn pace(began: Instant, bytes: usize) {
    let due = began + due(bytes);
    while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}

fn exchange(port: u16, length: usize) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let mut writer = stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            write!(writer, "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: {length}\r\n\r\n").unwrap();
            let began = Instant::now();
            let mut sent = 0;
            while sent < length {
                let piece = [b'x'; PIECE];
                let n = PIECE.min(length - sent);
                writer.write_all(&piece[..n]).unwrap();
                sent += n;
                pace(began, sent);
            }
        });
        let (answer, rest) = head(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let began = Instant::now();
        let mut got = rest.len();
        let mut piece = [0; PIECE];
        while got < length {
            let n = stream.read(&mut piece).unwrap();
            assert!(n > 0, "the body ended after {got} bytes");
            got += n;
            pace(began, got);
        }
        assert_eq!(got, length);
    });
}

/// Resident bytes of a process.
fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() << 10
}

/// The same over a connection of HTTP/2.
fn exchange_http2(port: u16, length: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let (requests, connection) = h2::client::handshake(stream).await.unwrap();
        spawn_local(connection);
        let mut requests = requests.ready().await.unwrap();
        let request = http::Request::post("http://a.test/").header("content-length", length).body(()).unwrap();
        let (response, mut body) = requests.send_request(request, false).unwrap();
        let writing = spawn_local(async move {
            let began = Instant::now();
            let mut sent = 0;
            while sent < length {
                let n = PIECE.min(length - sent);
                body.reserve_capacity(n);
                let granted = std::future::poll_fn(|cx| body.poll_capacity(cx)).await.unwrap().unwrap().min(n);
                sent += granted;
                body.send_data(bytes::Bytes::from_static(&[b'x'; PIECE]).slice(..granted), sent == length).unwrap();
                tokio::time::sleep_until((began + due(sent)).into()).await;
            }
        });
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        let began = Instant::now();
        let mut got = 0;
        while let Some(piece) = body.data().await {
            let piece = piece.unwrap();
            got += piece.len();
            tokio::time::sleep_until((began + due(got)).into()).await;
            body.flow_control().release_capacity(piece.len()).unwrap();
        }
        assert_eq!(got, length);
        writing.await.unwrap();
    });
}

#[test]
fn twenty_slow_bodies_each_way_do_not_pile_up() {
    slow_bodies("HTTP/1", exchange);
}

#[test]
fn twenty_slow_bodies_over_http2_do_not_pile_up() {
    slow_bodies("HTTP/2", exchange_http2);
}

fn slow_bodies(protocol: &str, exchange: fn(u16, usize)) {
    let length = std::env::var("OUTRIGGER_BODY_MB").map_or(1, |mb| mb.parse::<usize>().unwrap()) * 1_000_000;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let upstream = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || echo(stream));
        }
    });
    let proxy = Proxy::start(&Setup { upstream, ..Setup::default() });
    exchange(proxy.port(), 1000);
    let before = resident(proxy.process.id());
    let peak = AtomicU64::new(before);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(resident(proxy.process.id()), Ordering::Relaxed);
                std::thread::park_timeout(Duration::from_millis(20));
            }
        });
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| exchange(proxy.port(), length))).collect();
        let ended: Vec<_> = clients.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok));
    });
    let grown = peak.load(Ordering::Relaxed) - before;
    println!("{protocol}: {CLIENTS} bodies of {length} bytes each way: the proxy grew by {} KB", grown >> 10);
    assert!(grown <= GROWTH, "the proxy grew by {grown} bytes");
}
