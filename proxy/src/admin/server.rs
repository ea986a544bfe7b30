//! The admin interface on a socket: the control thread serves it by the same codecs as any listener. HTTP/2 is there
//! for gRPC ([`csds`]), and answers the rest just as well.
//!
//! Whoever reaches it costs a bounded amount, for a bounded time: so many connections at a time ([`MAX_CONNECTIONS`],
//! others wait in the kernel's queue), so many requests at a time on one ([`MAX_STREAMS`]), so many long answers on all
//! of them ([`LONG_ANSWERS`]), and for each thing that a client may do slowly a limit ([`IDLE`], [`REQUEST`],
//! [`ANSWER`]).

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, StatusCode};
use outrigger_engine::config::hcm::{Http1Options, Http2Options};
use outrigger_engine::message::{Headers, Protocol, ResponseHead};
use outrigger_engine::stream_info::Address;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, spawn_blocking, spawn_local};
use tokio::time::{Instant, timeout};

use super::parts::PART;
use super::{AdminState, Body as Answer, Parts, Response, Write, csds, handle};
use crate::http::codec::{Body, Exchange, Frame, Responder, StreamError, h1, h2};
use crate::io::Io;
use crate::listener::socket::unix;

/// Bytes of a request body that are read.
const MAX_BODY: usize = 64 << 10;

/// Connections at a time.
const MAX_CONNECTIONS: usize = 64;

/// Requests at a time on a connection of HTTP/2.
const MAX_STREAMS: u32 = 16;

/// Answers at a time that are longer than a part or come in parts: each keeps a thread, or its text, until it has been
/// read. Files are read on such threads, too.
const LONG_ANSWERS: usize = 8;

/// How long a request for one more waits: half of what Prometheus waits for an answer.
const TURN: Duration = Duration::from_secs(5);

/// What it is told then.
const BUSY: &str = "other long answers are still being read, as many as there may be at a time: try again later\n";

/// How long a connection may be without a request: until the head of its first one is complete, and from the answer to
/// one to the head of the next.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// How long the body of a request may take.
const REQUEST: Duration = Duration::from_secs(30);

/// How long a client may take to read an answer. A dump of a large configuration has tens of megabytes.
pub(super) const ANSWER: Duration = Duration::from_secs(300);

/// The begin of the preface of HTTP/2 (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2";

/// Binds `address`; what comes back serves it.
pub fn bind(address: &Address) -> io::Result<AdminSocket> {
    match address {
        Address::Ip(address) => {
            let socket = std::net::TcpListener::bind(address)?;
            socket.set_nonblocking(true)?;
            Ok(AdminSocket::Tcp(socket))
        }
        Address::Pipe(path) => unix(path).map(AdminSocket::Unix),
    }
}

/// The listening socket.
#[derive(Debug)]
pub enum AdminSocket {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// A Unix socket.
    Unix(std::os::unix::net::UnixListener),
}

/// What all connections share.
struct Shared {
    state: Arc<dyn AdminState>,
    /// Permits to be [`LONG_ANSWERS`].
    long_answers: Semaphore,
}

impl Shared {
    fn new(state: Arc<dyn AdminState>) -> Rc<Self> {
        Rc::new(Self { state, long_answers: Semaphore::new(LONG_ANSWERS) })
    }
}

/// Serves the admin interface until the task is dropped.
pub async fn serve(socket: AdminSocket, state: Arc<dyn AdminState>) -> io::Result<()> {
    let settings = Rc::new(h1::ServerSettings {
        max_head_bytes: 60 << 10,
        max_headers: 100,
        refuse_https: false,
        options: Http1Options { allow_absolute_url: true, accept_http_10: true, ..Default::default() },
    });
    let shared = Shared::new(state);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let listener = match socket {
        AdminSocket::Tcp(socket) => Listening::Tcp(TcpListener::from_std(socket)?),
        AdminSocket::Unix(socket) => Listening::Unix(UnixListener::from_std(socket)?),
    };
    loop {
        // It is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        if let Ok(io) = listener.accept().await {
            let (settings, shared) = (settings.clone(), shared.clone());
            spawn_local(async move {
                connection(io, settings, shared).await;
                drop(place);
            });
        } else {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The socket as its thread accepts on it.
enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listening {
    async fn accept(&self) -> io::Result<Io> {
        match self {
            Listening::Tcp(listener) => listener.accept().await.map(|(stream, _)| Io::Tcp(stream)),
            Listening::Unix(listener) => listener.accept().await.map(|(stream, _)| Io::Unix(stream)),
        }
    }
}

async fn connection(mut io: Io, settings: Rc<h1::ServerSettings>, shared: Rc<Shared>) {
    let mut idle_since = Instant::now();
    let left = |idle_since: Instant| IDLE.saturating_sub(idle_since.elapsed());
    let mut read = BytesMut::new();
    while read.len() < PREFACE.len() && PREFACE.starts_with(&read) {
        // Whatever is wrong with the connection, the codec will meet it, too.
        match timeout(left(idle_since), io.read_buf(&mut read)).await {
            Ok(Ok(1..)) => {}
            Ok(_) => break,
            Err(_) => return,
        }
    }
    if read.starts_with(PREFACE) {
        return http2(io, read.freeze(), &settings, &shared).await;
    }
    let mut connection = h1::ServerConnection::new(io, read.freeze(), settings);
    loop {
        let Ok(incoming) = timeout(left(idle_since), poll_fn(|task| connection.poll_incoming(task))).await else {
            return;
        };
        match incoming {
            h1::Incoming::Request(exchange) => {
                if request(exchange, &shared).await.is_err() {
                    return;
                }
            }
            h1::Incoming::Malformed { status, mut responder, .. } => {
                responder.close_after();
                if respond(&mut responder, Response::new(status, "text/plain", ""), &shared).await.is_err() {
                    return;
                }
            }
            h1::Incoming::End(_) => return,
        }
        // What is left of a request is read here, and what is left of an answer written.
        match timeout(ANSWER, poll_fn(|task| connection.poll_finish(task))).await {
            Ok(h1::Finish::KeepAlive) => {}
            Ok(h1::Finish::Close | h1::Finish::Upgraded) => {
                _ = timeout(IDLE, poll_fn(|task| connection.poll_shutdown(task))).await;
                return;
            }
            Err(_) => return,
        }
        idle_since = Instant::now();
    }
}

async fn http2(io: Io, buffered: Bytes, settings: &h1::ServerSettings, shared: &Rc<Shared>) {
    let settings = h2::ServerSettings {
        http2: Http2Options { max_concurrent_streams: MAX_STREAMS, ..Default::default() },
        max_headers_bytes: settings.max_head_bytes,
        max_headers_count: settings.max_headers,
        stream_error_on_invalid_http_message: true,
    };
    let Ok(Ok(mut connection)) = timeout(IDLE, h2::ServerConnection::handshake(io, buffered, &settings)).await else {
        return;
    };
    loop {
        match timeout(IDLE, poll_fn(|task| connection.poll_incoming(task))).await {
            Ok(h2::Incoming::Request(exchange)) => {
                let shared = shared.clone();
                // Whoever has reset its stream wants no answer.
                spawn_local(async move { _ = request(exchange, &shared).await });
            }
            Ok(h2::Incoming::Malformed(_) | h2::Incoming::Unfinished(_)) => {}
            Ok(h2::Incoming::End(_)) => return,
            Err(_) if connection.active_streams() == 0 => return,
            // Each has limits of its own.
            Err(_) => {}
        }
    }
}

/// Does `what`, which the other side can hold up, within `limit`.
pub(super) async fn in_time<T>(
    limit: Duration,
    what: impl Future<Output = Result<T, StreamError>>,
) -> Result<T, StreamError> {
    timeout(limit, what).await.unwrap_or(Err(StreamError::Local))
}

async fn request(exchange: Exchange, shared: &Shared) -> Result<(), StreamError> {
    let Exchange { head, mut body, mut responder } = exchange;
    if csds::is_method(head.path.as_bytes()) && head.protocol == Protocol::Http2 {
        return csds::serve(body, &mut responder, &shared.state).await;
    }
    let mut form = BytesMut::new();
    in_time(REQUEST, poll_fn(|task| poll_form(task, &mut body, &mut form))).await?;
    let target = String::from_utf8_lossy(head.path.as_bytes()).into_owned();
    let method = head.method.as_str().to_owned();
    // A probe does not wait for other answers.
    if target == "/ready" {
        return respond(&mut responder, handle(&*shared.state, &method, &target, &form), shared).await;
    }
    let worker = shared.state.clone();
    // Long answers take milliseconds; this thread also has connections, signals and timers to serve.
    let response = spawn_blocking(move || handle(&*worker, &method, &target, &form)).await;
    let response = response.unwrap_or_else(|_| Response::error(500, "the answer could not be made\n"));
    respond(&mut responder, response, shared).await
}

fn poll_form(task: &mut Context<'_>, body: &mut Body, form: &mut BytesMut) -> Poll<Result<(), StreamError>> {
    while form.len() < MAX_BODY {
        match ready!(body.poll_frame(task)) {
            Some(Ok(Frame::Data(data))) => form.extend_from_slice(&data),
            Some(Ok(Frame::Trailers(_))) => {}
            Some(Err(error)) => return Poll::Ready(Err(error)),
            None => break,
        }
    }
    Poll::Ready(Ok(()))
}

async fn respond(responder: &mut Responder, response: Response, shared: &Shared) -> Result<(), StreamError> {
    let (response, _turn) = match &response.body {
        Answer::Whole(body) if body.len() <= PART => (response, None),
        _ => match timeout(TURN, shared.long_answers.acquire()).await {
            Ok(turn) => (response, turn.ok()),
            Err(_) => (Response::error(503, BUSY), None),
        },
    };
    let Response { status, content_type, body } = response;
    let mut headers = Headers::with_capacity(5);
    headers.append(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.append(CACHE_CONTROL, HeaderValue::from_static("no-cache, max-age=0"));
    headers.append(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut head = ResponseHead { status, protocol: Protocol::Http11, headers };
    let (first, rest) = match body {
        Answer::Whole(body) => (body, None),
        Answer::Parts(write) => {
            let mut written = Written::start(write, shared.state.clone());
            let first = written.next().await?.unwrap_or_default();
            let second = written.next().await?;
            (first, second.map(|second| (second, written)))
        }
    };
    let Some((mut part, mut written)) = rest else {
        head.headers.append(CONTENT_LENGTH, HeaderValue::from(first.len()));
        let end = first.is_empty();
        responder.send_head(head, end)?;
        if !end {
            in_time(ANSWER, poll_fn(|task| responder.poll_ready(task))).await?;
            responder.send_data(first, true)?;
        }
        return in_time(ANSWER, poll_fn(|task| responder.poll_flush(task))).await;
    };
    let send = async {
        responder.send_head(head, false)?;
        poll_fn(|task| responder.poll_ready(task)).await?;
        responder.send_data(first, false)?;
        loop {
            poll_fn(|task| responder.poll_ready(task)).await?;
            let next = written.next().await?;
            responder.send_data(part, next.is_none())?;
            match next {
                Some(next) => part = next,
                None => break poll_fn(|task| responder.poll_flush(task)).await,
            }
        }
    };
    in_time(ANSWER, send).await
}

/// The parts of an answer, as a thread writes them that waits for who reads them.
struct Written {
    parts: mpsc::Receiver<Bytes>,
    /// Is there until it has ended.
    writer: Option<JoinHandle<std::fmt::Result>>,
}

impl Written {
    fn start(write: Write, state: Arc<dyn AdminState>) -> Self {
        let (sender, parts) = mpsc::channel(1);
        let writer = spawn_blocking(move || {
            let mut send = |part| sender.blocking_send(part).is_ok();
            let mut out = Parts::new(&mut send);
            write(&*state, &mut out)?;
            out.finish()
        });
        Self { parts, writer: Some(writer) }
    }

    /// The next one; fails where the writer did, for then it was not the last.
    async fn next(&mut self) -> Result<Option<Bytes>, StreamError> {
        if let Some(part) = self.parts.recv().await {
            return Ok(Some(part));
        }
        match self.writer.take() {
            None => Ok(None),
            Some(writer) => match writer.await {
                Ok(Ok(())) => Ok(None),
                _ => Err(StreamError::Local),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;
    use crate::admin::tests::Fake;
    use crate::testing::on_paused_time;

    fn settings() -> Rc<h1::ServerSettings> {
        let options = Http1Options { accept_http_10: true, ..Default::default() };
        Rc::new(h1::ServerSettings { max_head_bytes: 60 << 10, max_headers: 100, refuse_https: false, options })
    }

    fn connect(room: usize) -> (DuplexStream, JoinHandle<()>) {
        let (client, io) = duplex(room);
        (client, spawn_local(connection(Io::Pipe(io), settings(), Shared::new(Arc::new(Fake::new())))))
    }

    /// Seconds until the connection has ended.
    async fn ends(connection: JoinHandle<()>) -> u64 {
        let started = Instant::now();
        timeout(Duration::from_secs(3600), connection).await.expect("the connection stays").unwrap();
        started.elapsed().as_secs()
    }

    #[test]
    fn who_stops_in_the_middle_of_something_is_not_waited_for() {
        on_paused_time(async {
            let preface = [PREFACE, b".0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"].concat();
            let cases: [(&[u8], u64); 7] = [
                (b"", 60),
                (b"P", 60),
                (PREFACE, 60),
                (&preface, 60),
                (b"GET / HT", 60),
                (b"POST /quitquitquit HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nx", 30),
                (b"GET /ready HTTP/1.1\r\nhost: a\r\n\r\n", 60),
            ];
            for (sent, seconds) in cases {
                let (mut client, serving) = connect(64 << 10);
                client.write_all(sent).await.unwrap();
                assert_eq!(ends(serving).await, seconds, "{}", String::from_utf8_lossy(sent));
            }
        });
    }

    #[test]
    fn an_answer_that_nobody_reads_is_given_up() {
        on_paused_time(async {
            let (mut client, serving) = connect(64);
            client.write_all(b"GET /help HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            assert!(ends(serving).await >= 300);
        });
    }

    #[test]
    fn a_long_answer_comes_in_parts_as_it_is_read_and_whole() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
        runtime.unwrap().block_on(async {
            let fake = Fake::new();
            let _scope = fake.stats().cluster(&"n".repeat(1 << 20));
            let (status, expected) = fake.answer("GET", "/stats");
            assert!(status == 200 && expected.len() > 20 << 20, "a name in every line");
            let (mut client, io) = duplex(64 << 10);
            spawn_local(connection(Io::Pipe(io), settings(), Shared::new(Arc::new(fake))));
            client.write_all(b"GET /stats HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            let answer = String::from_utf8(answer).unwrap();
            let (head, mut rest) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.contains("transfer-encoding: chunked"), "{head}");
            let mut body = String::new();
            while let Some((size, tail)) = rest.split_once("\r\n") {
                let size = usize::from_str_radix(size, 16).unwrap();
                assert!(size <= PART);
                body.push_str(&tail[..size]);
                rest = &tail[size + 2..];
            }
            assert!(body == expected, "{} bytes of {}", body.len(), expected.len());
        });
    }

    /// The status line of the answer, or of what is there of it.
    async fn status(client: &mut DuplexStream) -> String {
        let mut line = [0; 12];
        client.read_exact(&mut line).await.unwrap();
        String::from_utf8(line.into()).unwrap()
    }

    #[test]
    fn who_reads_no_long_answer_takes_only_so_many_of_them() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
        runtime.unwrap().block_on(async {
            let fake = Fake::new();
            let _scope = fake.stats().cluster(&"n".repeat(PART));
            let shared = Shared::new(Arc::new(fake));
            let mut unread = Vec::new();
            for _ in 0..LONG_ANSWERS {
                let (mut client, io) = duplex(64);
                spawn_local(connection(Io::Pipe(io), settings(), shared.clone()));
                client.write_all(b"GET /stats HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
                assert_eq!(status(&mut client).await, "HTTP/1.1 200");
                unread.push(client);
            }
            assert!(shared.long_answers.try_acquire().is_err());
            unread.pop();
            // As soon as it is noticed.
            let turn = timeout(Duration::from_secs(60), shared.long_answers.acquire()).await;
            assert!(turn.is_ok());
        });
    }

    #[test]
    fn one_long_answer_too_many_is_refused_and_the_others_do_not_wait() {
        on_paused_time(async {
            let shared = Shared::new(Arc::new(Fake::new()));
            let _all = shared.long_answers.try_acquire_many(LONG_ANSWERS.try_into().unwrap()).unwrap();
            let started = Instant::now();
            for (target, expected, seconds) in [("ready", 200, 0), ("help", 200, 0), ("stats", 503, 5)] {
                let (mut client, io) = duplex(64 << 10);
                spawn_local(connection(Io::Pipe(io), settings(), shared.clone()));
                client.write_all(format!("GET /{target} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await.unwrap();
                assert_eq!(status(&mut client).await, format!("HTTP/1.1 {expected}"), "{target}");
                assert_eq!(started.elapsed().as_secs(), seconds, "{target}");
            }
        });
    }

    #[test]
    fn a_connection_of_http2_has_few_requests_at_a_time() {
        on_paused_time(async {
            let (mut client, _serving) = connect(64 << 10);
            client.write_all(&[PREFACE, b".0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"].concat()).await.unwrap();
            let mut head = [0; 9];
            client.read_exact(&mut head).await.unwrap();
            let [0, 0, length, 4, 0, 0, 0, 0, 0] = head else { panic!("no SETTINGS: {head:?}") };
            let mut settings = vec![0; length.into()];
            client.read_exact(&mut settings).await.unwrap();
            assert!(settings.chunks(6).any(|setting| setting == [0, 3, 0, 0, 0, 16]), "{settings:?}");
        });
    }

    #[test]
    fn only_so_many_are_served_at_a_time() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
        runtime.unwrap().block_on(async {
            let socket = bind(&Address::Ip(([127, 0, 0, 1], 0).into())).unwrap();
            let AdminSocket::Tcp(listener) = &socket else { panic!() };
            let address = listener.local_addr().unwrap();
            spawn_local(serve(socket, Arc::new(Fake::new())));
            let mut silent = Vec::new();
            for _ in 0..MAX_CONNECTIONS {
                silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
            }
            let mut late = tokio::net::TcpStream::connect(address).await.unwrap();
            late.write_all(b"GET /ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            let early = timeout(Duration::from_millis(100), late.read_buf(&mut answer)).await;
            assert!(early.is_err(), "there is no place for it");
            silent.pop();
            late.read_to_end(&mut answer).await.unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        });
    }
}
