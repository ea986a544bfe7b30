//! Connections that ask for nothing. Each is a descriptor, and whoever reaches the port may open them: without a bound
//! somebody could hold all that there are, and no proxy would get in any more.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::service::Routes;

use super::descriptors;
use crate::connection::{Cut, Peer};

/// How long a connection may be without its first request: from its accept, over TLS from the end of its handshake.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// Connections of a listener without a request under way; for one more the one that is so for longest is ended.
const MOST: usize = 4096;

/// The connections of a listener that have no request under way.
#[derive(Clone, Debug)]
pub(crate) struct Idle {
    list: Arc<Mutex<List>>,
    most: usize,
    /// How long a connection may be without its first request.
    pub(super) first_request: Duration,
}

#[derive(Debug, Default)]
struct List {
    last: u64,
    /// Who is so for longest first.
    connections: BTreeMap<u64, Cut>,
}

impl Idle {
    pub(crate) fn new(most: usize, first_request: Duration) -> Self {
        Self { list: Arc::default(), most, first_request }
    }

    /// As many as leave most descriptors to those that ask for something.
    pub(super) fn bounded() -> Self {
        Self::new(MOST.min(descriptors::limit() / 4), FIRST_REQUEST)
    }

    /// A connection was accepted; `cut` ends it.
    pub(super) fn accepted(&self, cut: &Cut) -> Arc<Requests> {
        let state = State { under_way: 0, place: self.enter(cut) };
        Arc::new(Requests { idle: self.clone(), cut: cut.clone(), asked: AtomicBool::new(false), state: state.into() })
    }

    fn enter(&self, cut: &Cut) -> u64 {
        let mut list = locked(&self.list);
        list.last += 1;
        let place = list.last;
        list.connections.insert(place, cut.clone());
        let longest = if list.connections.len() > self.most { list.connections.pop_first() } else { None };
        drop(list);
        if longest.is_some_and(|(_, longest)| longest.cut()) {
            tracing::warn!(
                target: crate::log::BOUNDED,
                "more than {} connections ask for nothing: the one that did so for longest is ended",
                self.most
            );
        }
        place
    }

    fn leave(&self, place: u64) {
        locked(&self.list).connections.remove(&place);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The requests of one connection.
#[derive(Debug)]
pub(crate) struct Requests {
    idle: Idle,
    cut: Cut,
    /// Whether there was one.
    asked: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    under_way: usize,
    /// In the list, where none is under way.
    place: u64,
}

impl Requests {
    /// Whether there was one.
    pub(super) fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// One is under way, until what is returned is dropped.
    fn begin(self: Arc<Self>) -> UnderWay {
        self.asked.store(true, Ordering::Relaxed);
        let mut state = locked(&self.state);
        if state.under_way == 0 {
            self.idle.leave(state.place);
        }
        state.under_way += 1;
        drop(state);
        UnderWay(self)
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.idle.leave(locked(&self.state).place);
    }
}

#[derive(Debug)]
struct UnderWay(Arc<Requests>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = locked(&self.0.state);
        state.under_way -= 1;
        if state.under_way == 0 {
            state.place = self.0.idle.enter(&self.0.cut);
        }
    }
}

/// Notes the requests of each connection, each until the end of its response.
pub(super) fn note_requests(routes: Routes) -> Routes {
    let note = from_fn(async |request: Request, next: Next| {
        let under_way = request.extensions().get::<Peer>().map(|peer| Arc::clone(&peer.requests).begin());
        next.run(request).await.map(|body| Body::new(With { body, kept: under_way }))
    });
    Routes::from(routes.into_axum_router().layer(note))
}

/// The body of a response, and what is kept for as long.
pub(super) struct With<T> {
    pub(super) body: Body,
    #[allow(dead_code, reason = "it is dropped with the body")]
    pub(super) kept: T,
}

impl<T: Unpin> http_body::Body for With<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Notify;

    use super::super::listen::Accepted;
    use super::*;

    /// Of requests of `/hold`.
    #[derive(Default)]
    struct Hold {
        begun: Notify,
        release: Notify,
    }

    async fn serve(idle: Idle, holds: Arc<Hold>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let hold = async move || {
            holds.begun.notify_one();
            holds.release.notified().await;
            "held\n"
        };
        let routes = Router::new().route("/", get(async || "done\n")).route("/hold", get(hold));
        let serving = tonic::transport::Server::builder()
            .accept_http1(true)
            .add_routes(note_requests(Routes::from(routes)))
            .serve_with_incoming(Accepted::tcp(listener, idle));
        tokio::runtime::Handle::current().spawn(serving);
        address
    }

    async fn ask(stream: &mut TcpStream, path: &str) {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await.unwrap();
    }

    async fn answered(stream: &mut TcpStream, body: &str) {
        let mut answer = Vec::new();
        while !answer.ends_with(body.as_bytes()) {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
        }
    }

    async fn ended(stream: &mut TcpStream) -> bool {
        matches!(stream.read(&mut [0; 64]).await, Ok(0) | Err(_))
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_is_ended_in_time() {
        let address = serve(Idle::new(100, FIRST_REQUEST), Arc::default()).await;
        let mut asking = TcpStream::connect(address).await.unwrap();
        ask(&mut asking, "/").await;
        answered(&mut asking, "done\n").await;
        for said in ["", "GET / HTTP/1.1\r\nho", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"] {
            let start = tokio::time::Instant::now();
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
            let end = async { while !ended(&mut stream).await {} };
            tokio::time::timeout(FIRST_REQUEST + Duration::from_secs(1), end).await.unwrap();
            assert!(start.elapsed() >= FIRST_REQUEST, "{said:?}");
            if said.is_empty() {
                // Who has asked may wait longer.
                ask(&mut asking, "/").await;
                answered(&mut asking, "done\n").await;
            }
        }
    }

    #[tokio::test]
    async fn of_too_many_that_ask_for_nothing_the_longest_idle_is_ended() {
        let holds = Arc::<Hold>::default();
        let address = serve(Idle::new(2, Duration::from_secs(3600)), Arc::clone(&holds)).await;
        let connect = async || TcpStream::connect(address).await.unwrap();
        let mut held = connect().await;
        ask(&mut held, "/").await;
        answered(&mut held, "done\n").await;
        ask(&mut held, "/hold").await;
        holds.begun.notified().await;
        let (mut first, mut second) = (connect().await, connect().await);
        for of_first in [true, false, true] {
            let stream = if of_first { &mut first } else { &mut second };
            ask(stream, "/").await;
            answered(stream, "done\n").await;
        }
        // The second asked before the first, and `held` asks for something.
        let mut third = connect().await;
        assert!(ended(&mut second).await);
        for stream in [&mut first, &mut third] {
            ask(stream, "/").await;
            answered(stream, "done\n").await;
        }
        holds.release.notify_one();
        answered(&mut held, "held\n").await;
    }
}
