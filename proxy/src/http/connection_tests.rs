//! What a client that stops in the middle of something can hold, and for how long. On paused time.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_engine::stream_info::Address;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use crate::io::Io;
use crate::listener::active::WorkerListener;
use crate::telemetry::stats::HttpStats;
use crate::testing::{http_listener, on_paused_time, worker};
use crate::worker::{Command, Worker};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

struct Proxy {
    worker: Rc<Worker>,
    listener: Rc<WorkerListener>,
}

impl Proxy {
    /// A proxy whose connection manager has these fields.
    fn new(fields: &str) -> Self {
        Self::answering(fields, "x")
    }

    fn answering(fields: &str, body: &str) -> Self {
        let worker = worker();
        let listener = Rc::new(WorkerListener::new(http_listener(fields, body), &worker));
        Proxy { worker, listener }
    }

    /// A client, with `room` bytes each way, and what ends with its connection.
    fn connect(&self, room: usize) -> (DuplexStream, JoinHandle<()>) {
        let (client, io) = duplex(room);
        let address = || Address::Ip(([127, 0, 0, 1], 1).into());
        let serving = crate::listener::connection::serve(self.listener.clone(), Io::Pipe(io), address(), address());
        (client, spawn_local(serving))
    }

    fn drain(&self) {
        self.worker.obey(Command::Drain);
    }

    fn stats(&self) -> Arc<HttpStats> {
        self.worker.stats.http("s")
    }
}

/// Reads to the end, and says how many seconds that took.
async fn to_end(client: &mut DuplexStream) -> (String, u64) {
    let started = Instant::now();
    let mut read = Vec::new();
    client.read_to_end(&mut read).await.unwrap();
    (String::from_utf8_lossy(&read).into_owned(), started.elapsed().as_secs())
}

#[test]
fn a_head_that_never_ends_is_answered_in_time() {
    on_paused_time(async {
        let cases = [
            ("codec_type: AUTO", 60, "request header timeout"),
            ("request_headers_timeout: 7s", 7, "request header timeout"),
            ("request_headers_timeout: 0s", 300, "stream timeout"),
            ("request_headers_timeout: 0s, stream_idle_timeout: 0s", 3600, "stream timeout"),
        ];
        for (fields, seconds, body) in cases {
            for begin in [&b"G"[..], b"GET / HTTP/1.1\r\n"] {
                let (mut client, _serving) = Proxy::new(fields).connect(4096);
                client.write_all(begin).await.unwrap();
                let (answer, after) = to_end(&mut client).await;
                assert!(answer.starts_with("HTTP/1.1 408 ") && answer.ends_with(body), "{fields}: {answer}");
                assert_eq!(after, seconds, "{fields}");
            }
        }
    });
}

#[test]
fn a_preface_that_never_comes_is_not_waited_for() {
    on_paused_time(async {
        for (fields, begin) in
            [("codec_type: HTTP2", ""), ("codec_type: HTTP2", "PRI"), ("codec_type: AUTO", "PRI * H")]
        {
            let (mut client, _serving) = Proxy::new(fields).connect(4096);
            client.write_all(begin.as_bytes()).await.unwrap();
            assert_eq!(to_end(&mut client).await, (String::new(), 60), "{fields} {begin}");
        }
        // Who has said nothing may still speak either protocol: it idles.
        let (mut client, _serving) = Proxy::new("codec_type: AUTO").connect(4096);
        assert_eq!(to_end(&mut client).await, (String::new(), 3600));
    });
}

#[test]
fn a_draining_process_serves_a_new_connection_and_ends_the_idle_ones() {
    on_paused_time(async {
        for codec in ["AUTO", "HTTP1"] {
            let proxy = Proxy::new(&format!("codec_type: {codec}"));
            let (mut used, _serving) = proxy.connect(4096);
            used.write_all(GET).await.unwrap();
            let mut answer = [0; 15];
            used.read_exact(&mut answer).await.unwrap();
            sleep(Duration::from_secs(1)).await;
            proxy.drain();
            assert_eq!(to_end(&mut used).await.1, 0);

            let (mut late, _serving) = proxy.connect(4096);
            let (mut silent, _silent) = proxy.connect(4096);
            sleep(Duration::from_secs(1)).await;
            late.write_all(GET).await.unwrap();
            let (answer, _) = to_end(&mut late).await;
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"), "{answer}");
            assert_eq!(to_end(&mut silent).await, (String::new(), 4));
        }
    });
}

#[test]
fn a_local_reply_that_nobody_reads_ends_its_connection() {
    on_paused_time(async {
        for (fields, seconds) in [("codec_type: AUTO", 301), ("delayed_close_timeout: 0s", 300)] {
            let proxy = Proxy::answering(fields, &"x".repeat(3000));
            let (mut client, serving) = proxy.connect(1024);
            client.write_all(GET).await.unwrap();
            let started = Instant::now();
            timeout(Duration::from_secs(700), serving).await.expect("the connection stays").unwrap();
            assert_eq!(started.elapsed().as_secs(), seconds, "{fields}");
            assert_eq!(proxy.stats().downstream_rq_idle_timeout.get(), 1);
            assert_eq!(proxy.stats().downstream_rq_active.get(), 0);
        }
    });
}

#[test]
fn the_rest_of_an_answer_is_waited_for_as_long_as_a_stream_may_idle() {
    on_paused_time(async {
        let proxy = Proxy::answering("codec_type: AUTO", &"x".repeat(3000));
        let (client, _serving) = proxy.connect(64 << 10);
        let (mut requests, connection) =
            h2::client::Builder::new().initial_window_size(1).handshake::<_, bytes::Bytes>(client).await.unwrap();
        spawn_local(connection);
        let started = Instant::now();
        let request = http::Request::get("http://a/").body(()).unwrap();
        let (response, _) = requests.send_request(request, true).unwrap();
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "x");
        assert_eq!(proxy.stats().downstream_rq_active.get(), 1, "its end is not in sight");
        let error = body.data().await.unwrap().unwrap_err();
        assert_eq!((error.reason(), started.elapsed().as_secs()), (Some(h2::Reason::INTERNAL_ERROR), 300));
        assert_eq!(proxy.stats().downstream_rq_idle_timeout.get(), 1);
        assert_eq!(proxy.stats().downstream_rq_active.get(), 0);
    });
}

#[test]
fn a_local_reply_without_a_window_is_reset() {
    on_paused_time(async {
        let proxy = Proxy::new("codec_type: AUTO");
        let (client, _serving) = proxy.connect(64 << 10);
        let (mut requests, connection) =
            h2::client::Builder::new().initial_window_size(0).handshake::<_, bytes::Bytes>(client).await.unwrap();
        spawn_local(connection);
        let started = Instant::now();
        let request = http::Request::get("http://a/").body(()).unwrap();
        let (response, _) = requests.send_request(request, true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let error = body.data().await.unwrap().unwrap_err();
        assert_eq!((error.reason(), started.elapsed().as_secs()), (Some(h2::Reason::INTERNAL_ERROR), 300));
    });
}

/// Sends the preface and an empty SETTINGS frame, and acknowledges nothing.
async fn deaf_h2(client: &mut DuplexStream) {
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
}

#[test]
fn an_h2_client_that_answers_no_ping_is_not_kept() {
    on_paused_time(async {
        // Idle for 10 s, old after 10 s, draining: each time `drain_timeout` more for the answer to the PING.
        let idle = "common_http_protocol_options: {idle_timeout: 10s}, drain_timeout: 3s";
        let old = "common_http_protocol_options: {max_connection_duration: 10s}";
        for (fields, drain, seconds) in [(idle, false, 13), (old, false, 15), ("drain_timeout: 4s", true, 4)] {
            let proxy = Proxy::new(&format!("codec_type: HTTP2, {fields}"));
            let (mut client, _serving) = proxy.connect(64 << 10);
            deaf_h2(&mut client).await;
            if drain {
                sleep(Duration::ZERO).await;
                proxy.drain();
            }
            let (answer, after) = to_end(&mut client).await;
            assert_eq!(after, seconds, "{fields}");
            let goaways = answer.as_bytes().windows(5).filter(|w| w == &[0, 0, 8, 7, 0]).count();
            assert_eq!(goaways, 2, "{fields}: {answer:?}");
        }
    });
}

fn headers_frame(kind: u8, flags: u8, stream: u8, block: &[u8]) -> Vec<u8> {
    [&[0, 0, block.len() as u8, kind, flags, 0, 0, 0, stream], block].concat()
}

/// The block of `GET http://a/`.
const BLOCK: &[u8] = b"\x82\x86\x84\x41\x01a";
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

#[test]
fn an_h2_head_that_never_ends_ends_its_connection_in_time() {
    on_paused_time(async {
        let cases = [
            ("codec_type: HTTP2", 60, (1, 0)),
            ("request_headers_timeout: 7s", 7, (1, 0)),
            ("request_headers_timeout: 0s", 300, (0, 1)),
        ];
        for (fields, seconds, counted) in cases {
            let head = headers_frame(HEADERS, END_HEADERS, 1, BLOCK);
            for (begin, counted) in [
                (headers_frame(HEADERS, END_STREAM, 1, BLOCK), counted),
                // The frame itself stops.
                (head[..12].to_vec(), counted),
                // Trailers of a request that has been answered are no request.
                ([head, headers_frame(HEADERS, END_STREAM, 1, b"")].concat(), (0, 0)),
            ] {
                let proxy = Proxy::new(fields);
                let (mut client, _serving) = proxy.connect(4096);
                deaf_h2(&mut client).await;
                client.write_all(&begin).await.unwrap();
                let (answer, after) = to_end(&mut client).await;
                assert_eq!(after, seconds, "{fields} {begin:?}");
                assert!(answer.ends_with("\0\0\0\x01"), "GOAWAY says PROTOCOL_ERROR: {answer:?}");
                let stats = proxy.stats();
                assert_eq!((stats.downstream_rq_total.get(), stats.downstream_rq_active.get()), (1, 0));
                let timed_out = (stats.downstream_rq_header_timeout.get(), stats.downstream_rq_idle_timeout.get());
                assert_eq!(timed_out, counted, "{fields} {begin:?}");
            }
        }
    });
}

#[test]
fn each_h2_head_has_its_own_time() {
    on_paused_time(async {
        let proxy = Proxy::new("request_headers_timeout: 7s");
        let (mut client, _serving) = proxy.connect(64 << 10);
        deaf_h2(&mut client).await;
        let started = Instant::now();
        client.write_all(&headers_frame(HEADERS, END_STREAM, 1, BLOCK)).await.unwrap();
        for stream in [3, 5, 7] {
            sleep(Duration::from_secs(5)).await;
            let end = headers_frame(CONTINUATION, END_HEADERS, stream - 2, b"");
            let next = headers_frame(HEADERS, END_STREAM, stream, BLOCK);
            client.write_all(&[end, next].concat()).await.unwrap();
        }
        to_end(&mut client).await;
        assert_eq!(started.elapsed().as_secs(), 15 + 7);
        assert_eq!(proxy.stats().downstream_rq_total.get(), 4);
    });
}

#[test]
fn a_close_without_delay_waits_for_nobody_and_counts_no_timeout() {
    on_paused_time(async {
        let proxy = Proxy::new("delayed_close_timeout: 0s");
        let (mut client, serving) = proxy.connect(4096);
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let started = Instant::now();
        serving.await.unwrap();
        assert_eq!(started.elapsed(), Duration::ZERO);
        assert!(to_end(&mut client).await.0.ends_with("\r\n\r\nx"));
        assert_eq!(proxy.stats().downstream_cx_delayed_close_timeout.get(), 0);
    });
}

#[test]
fn the_bytes_of_a_connection_count_as_they_pass() {
    on_paused_time(async {
        let proxy = Proxy::new("codec_type: AUTO");
        let (mut client, _serving) = proxy.connect(4096);
        client.write_all(GET).await.unwrap();
        let mut answer = vec![0; 4096];
        let length = client.read(&mut answer).await.unwrap();
        let stats = proxy.stats();
        let counted = (stats.downstream_cx_rx_bytes_total.get(), stats.downstream_cx_tx_bytes_total.get());
        assert_eq!(counted, (GET.len() as u64, length as u64));
    });
}
