//! Responses that nobody reads. What a client does not read stays in the transport, which asks for nothing more then:
//! nothing of the response runs any more, no time limit either. So somebody else looks whether it is still asked for
//! more, and ends the connection; else a client could have the largest message kept for as long as it likes, by each of
//! its streams.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
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

use crate::connection::Peer;

/// How often somebody looks.
const LOOK: Duration = Duration::from_secs(15);
/// How often in a row the transport may not have asked. Counted, so that a machine that stood still ends nothing.
const LOOKS: u32 = 4;
/// The transport takes a message whole, however little of it may be sent, and then asks for the next: by pieces of this
/// many bytes it asks when the one before is on its way.
const PIECE: usize = 16 << 10;

/// Watches over the responses of `routes`, and adds the connections that it ends to `ended`.
pub(crate) fn watch_over(routes: Routes, ended: Arc<AtomicU64>) -> Routes {
    let watch = from_fn(move |request: Request, next: Next| {
        let ended = Arc::clone(&ended);
        let peer = request.extensions().get::<Peer>().cloned();
        let path = request.uri().path().to_owned();
        async move {
            let end = move || end(peer.as_ref(), &path, &ended);
            next.run(request).await.map(|body| Body::new(Watched::new(body, end)))
        }
    });
    Routes::from(routes.into_axum_router().layer(watch))
}

/// Several responses of a connection may have waited: one of them says so.
fn end(peer: Option<&Peer>, path: &str, ended: &AtomicU64) {
    let Some(peer) = peer.filter(|peer| peer.cut.cut()) else { return };
    ended.fetch_add(1, Ordering::Relaxed);
    let from = peer.address.map(|address| format!(" from {address}")).unwrap_or_default();
    tracing::warn!("a client{from} read nothing of {path} for {:?}: its connection is ended", LOOK * LOOKS);
}

/// The body of a response.
struct Watched {
    body: Body,
    /// Of the message that was taken last.
    rest: Bytes,
    /// Looks since the transport asked.
    looks: Arc<AtomicU32>,
    /// Wakes the transport, so that it asks if nothing is in the way.
    tick: Interval,
    /// Ends with the response.
    _looking: JoinSet<()>,
}

impl Watched {
    fn new(body: Body, end: impl FnOnce() + Send + 'static) -> Self {
        let looks = Arc::new(AtomicU32::new(0));
        let (seen, mut tick) = (Arc::clone(&looks), ticks());
        let mut looking = JoinSet::new();
        looking.spawn(async move {
            while seen.fetch_add(1, Ordering::Relaxed) < LOOKS {
                tick.tick().await;
            }
            end();
        });
        Self { body, rest: Bytes::new(), looks, tick: ticks(), _looking: looking }
    }
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
        this.looks.store(0, Ordering::Relaxed);
        while this.tick.poll_tick(context).is_ready() {}
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let piece = this.rest.split_to(this.rest.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }
}
