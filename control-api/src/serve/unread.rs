//! Responses that nobody reads. What a client does not read stays in the transport, which asks for nothing more then:
//! nothing of the response runs any more, no time limit either. So somebody else looks whether it is still asked for
//! more, and drops what is left of it; else a client could have the largest message kept for as long as it likes, by each
//! of its streams.
//!
//! Only that stream ends (by a reset, after the [`PIECE`] that the transport has): whoever shares the connection, as
//! clients behind one proxy do, goes on. A connection over which nothing else was read either is ended.

use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use bytes::Bytes;
use http_body::Frame;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tonic::service::Routes;

use crate::connection::{Cut, Peer, Progress};

/// How often somebody looks.
const LOOK: Duration = Duration::from_secs(15);
/// How often in a row the transport may not have asked. Counted, so that a machine that stood still ends nothing.
const LOOKS: u32 = 4;
/// The transport takes a message whole, however little of it may be sent, and then asks for the next: by pieces of this
/// many bytes it asks when the one before is on its way.
const PIECE: usize = 16 << 10;

/// What clients lost because they did not read.
#[derive(Debug, Default)]
pub struct Unread {
    /// Responses that were dropped; their connections went on.
    pub responses: AtomicU64,
    /// Connections that were ended.
    pub connections: AtomicU64,
}

/// Watches over the responses of `routes`, and counts what it ends.
pub(crate) fn watch_over(routes: Routes, unread: Arc<Unread>) -> Routes {
    let watch = from_fn(move |request: Request, next: Next| {
        let unread = Arc::clone(&unread);
        let peer = request.extensions().get::<Peer>().cloned();
        let path = request.uri().path().to_owned();
        async move {
            let progress = peer.as_ref().map(|peer| peer.progress.clone()).unwrap_or_default();
            let end = move |why| end(peer.as_ref(), why, &path, &unread);
            let response = next.run(request).await;
            let cut = response.extensions().get::<Cut>().cloned();
            response.map(|body| Body::new(Watched::new(body, progress, cut, end)))
        }
    });
    Routes::from(routes.into_axum_router().layer(watch))
}

/// Why a response is given up.
#[derive(Clone, Copy)]
enum Why {
    /// Nothing of it was read. `shared`: others of its connection are read.
    Unread { shared: bool },
    /// Its service needs the room that it takes up.
    Room,
}

/// A response is given up.
fn end(peer: Option<&Peer>, why: Why, path: &str, unread: &Unread) {
    let from = peer.and_then(|peer| peer.address).map(|address| format!(" from {address}")).unwrap_or_default();
    let reset = "its stream is reset, others of the connection go on";
    let what = match why {
        Why::Room => {
            unread.responses.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(target: crate::log::BOUNDED, "a client{from} reads {path} too slowly, and others wait for room: {reset}");
            return;
        }
        Why::Unread { shared: true } => {
            unread.responses.fetch_add(1, Ordering::Relaxed);
            reset
        }
        Why::Unread { .. } if peer.is_some_and(|peer| peer.cut.cut()) => {
            unread.connections.fetch_add(1, Ordering::Relaxed);
            "its connection is ended"
        }
        Why::Unread { .. } => return,
    };
    tracing::warn!(target: crate::log::BOUNDED, "a client{from} read nothing of {path} for {:?}: {what}", LOOK * LOOKS);
}

/// The body of a response.
struct Watched {
    /// `None` once it is given up.
    left: Arc<Mutex<Option<Left>>>,
    /// How far the responses of the connection have got.
    progress: Progress,
    asked: Arc<Asked>,
    /// Wakes the transport, so that it asks if nothing is in the way.
    tick: Interval,
    /// Ends with the response.
    _looking: JoinSet<()>,
}

/// What the transport has not taken yet.
struct Left {
    body: Body,
    /// Of the message that was taken last.
    rest: Bytes,
}

/// When the transport asked for more of a response.
#[derive(Debug, Default)]
struct Asked {
    /// Looks since then.
    looks: AtomicU32,
    /// The connection's progress then.
    at: AtomicU64,
}

impl Watched {
    /// `cut` asks to give it up.
    fn new(body: Body, progress: Progress, cut: Option<Cut>, end: impl FnOnce(Why) + Send + 'static) -> Self {
        let left = Arc::new(Mutex::new(Some(Left { body, rest: Bytes::new() })));
        let asked = Arc::new(Asked { looks: AtomicU32::new(0), at: AtomicU64::new(progress.asked()) });
        let (seen, all, given_up, mut tick) = (Arc::clone(&asked), progress.clone(), Arc::clone(&left), ticks());
        let mut looking = JoinSet::new();
        looking.spawn(async move {
            let unread = async {
                while seen.looks.fetch_add(1, Ordering::Relaxed) < LOOKS {
                    tick.tick().await;
                }
            };
            let room = async {
                match &cut {
                    Some(cut) => cut.ended().await,
                    None => std::future::pending().await,
                }
            };
            let why = tokio::select! {
                () = unread => Why::Unread { shared: all.count() != seen.at.load(Ordering::Relaxed) },
                () = room => Why::Room,
            };
            let left = lock(&given_up).take();
            end(why);
            drop(left);
        });
        Self { left, progress, asked, tick: ticks(), _looking: looking }
    }
}

fn lock(left: &Mutex<Option<Left>>) -> MutexGuard<'_, Option<Left>> {
    left.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ticks() -> Interval {
    let mut ticks = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        this.asked.looks.store(0, Ordering::Relaxed);
        this.asked.at.store(this.progress.asked(), Ordering::Relaxed);
        while this.tick.poll_tick(context).is_ready() {}
        let mut left = lock(&this.left);
        let Some(Left { body, rest }) = left.as_mut() else {
            // The transport resets the stream.
            return Poll::Ready(Some(Err(axum::Error::new(std::io::Error::from(std::io::ErrorKind::TimedOut)))));
        };
        if rest.is_empty() {
            match ready!(Pin::new(body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => *rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let piece = rest.split_to(rest.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.left).as_ref().is_some_and(|left| left.rest.is_empty() && left.body.is_end_stream())
    }
}
