//! An instance of a Service: a server of HTTP/1 and HTTP/2 that writes down the id of each request, and that stops for
//! good.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use crate::ledger::Ledger;

/// Length of the body of a POST.
pub(crate) const BODY: usize = 4096;

const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// What it tells others when it serves.
pub(crate) struct Served {
    pub(crate) ledger: Arc<Ledger>,
    /// Requests of this instance.
    pub(crate) count: AtomicU64,
    /// The version of its Service, and the newest one of its route that has served anything.
    pub(crate) version: u64,
    pub(crate) newest: Arc<AtomicU64>,
}

impl Served {
    /// Whether the request is as its client sent it.
    fn take(&self, id: Option<usize>, body: &[u8]) -> bool {
        let Some(id) = id else { return false };
        self.ledger.seen(id);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.newest.fetch_max(self.version, Ordering::Relaxed);
        if is_post(id) { body == content(id).as_ref() } else { body.is_empty() }
    }
}

/// Whether the request with this id is a POST: half of them are.
pub(crate) fn is_post(id: usize) -> bool {
    id % 2 == 1
}

/// The body of the POST with this id.
pub(crate) fn content(id: usize) -> Bytes {
    id.to_be_bytes().repeat(BODY / size_of::<usize>()).into()
}

/// See the module.
pub(crate) struct Instance {
    pub(crate) port: u16,
    pub(crate) served: Arc<Served>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Instance {
    pub(crate) fn start(runtime: &Handle, served: Served) -> Self {
        let _guard = runtime.enter();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let listener = TcpListener::from_std(listener).unwrap();
        let served = Arc::new(served);
        let (stop, stopped) = oneshot::channel();
        let serving = runtime.spawn(accept(listener, served.clone(), stopped));
        Self { port, served, stop, serving }
    }

    /// Closes its port and all connections, whatever they are doing.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        self.serving.await.unwrap();
    }
}

async fn accept(listener: TcpListener, served: Arc<Served>, mut stopped: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                let _ = stream.set_nodelay(true);
                connections.spawn(serve(stream, served.clone()));
            }
            Some(_) = connections.join_next() => {}
            _ = &mut stopped => break,
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn serve(stream: TcpStream, served: Arc<Served>) {
    let mut start = [0; PREFACE.len()];
    let mut known = 0;
    while known < start.len() {
        // Bytes that are only peeked at make the socket readable for ever: the rest of them is a moment away.
        match stream.peek(&mut start).await {
            Ok(0) | Err(_) => return,
            Ok(length) if start[..length] != PREFACE[..length] => break,
            Ok(length) => known = length,
        }
        tokio::task::yield_now().await;
    }
    // A peer that goes is none of our business: the client says what it got.
    let _ = if known == start.len() { http2(stream, served).await } else { http1(stream, &served).await };
}

async fn http1(mut stream: TcpStream, served: &Served) -> Option<()> {
    let mut buffer = BytesMut::new();
    loop {
        let head = loop {
            if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break buffer.split_to(end + 4);
            }
            more(&mut stream, &mut buffer).await?;
        };
        let head = String::from_utf8(head.to_vec()).ok()?;
        let field = |name: &str| {
            let fields = head.lines().filter_map(|line| line.split_once(": "));
            fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).find_map(|(_, value)| value.parse().ok())
        };
        let length: usize = field("content-length").unwrap_or(0);
        while buffer.len() < length {
            more(&mut stream, &mut buffer).await?;
        }
        let body = buffer.split_to(length);
        let id = field("x-id");
        let status = if served.take(id, &body) { "200 OK" } else { "400 Bad Request" };
        let id = id.unwrap_or_default();
        let answer = format!("HTTP/1.1 {status}\r\nx-id: {id}\r\ncontent-length: 2\r\n\r\nok");
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
}

async fn more(stream: &mut TcpStream, buffer: &mut BytesMut) -> Option<()> {
    (stream.read_buf(buffer).await.ok()? > 0).then_some(())
}

async fn http2(stream: TcpStream, served: Arc<Served>) -> Option<()> {
    let mut connection = h2::server::handshake(stream).await.ok()?;
    let mut requests = JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let (request, respond) = accepted?.ok()?;
                requests.spawn(answer(request, respond, served.clone()));
            }
            Some(_) = requests.join_next() => {}
        }
    }
}

async fn answer(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    served: Arc<Served>,
) -> Option<()> {
    let (head, mut stream) = request.into_parts();
    let mut body = BytesMut::new();
    while let Some(data) = stream.data().await {
        let data = data.ok()?;
        let _ = stream.flow_control().release_capacity(data.len());
        body.extend_from_slice(data.chunk());
    }
    let id = head.headers.get("x-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let status = if served.take(id, &body) { 200 } else { 400 };
    let response = http::Response::builder().status(status).header("x-id", id.unwrap_or_default());
    let mut body = respond.send_response(response.body(()).ok()?, false).ok()?;
    body.send_data(Bytes::from_static(b"ok"), true).ok()
}
