//! One stream of discovery: opened, read, answered and opened again.

use std::collections::BTreeMap;
use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use outrigger_engine::config::config_source::{GrpcSource, Origin};
use outrigger_engine::xds::{Client, Interest, Kind, Reconnect, Rejection, Response, Variant, identify};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::configuration::channel::Feed;
use crate::grpc::{Call, CallError, frame};
use crate::telemetry::stats::SubscriptionStats;
use crate::worker::Worker;

/// Messages above this are decoded beside the control thread, in bytes: a tenth of a millisecond's work.
const LARGE: usize = 16 << 10;

/// A stream and what it is for.
pub(super) struct Stream {
    pub(super) worker: Rc<Worker>,
    /// The one kind that it carries; `None` on the aggregated stream.
    pub(super) kind: Option<Kind>,
    pub(super) source: Arc<GrpcSource>,
    /// The kinds of which it carries all, each with the wait for its first response.
    pub(super) kinds: Vec<(Kind, Option<Duration>)>,
    pub(super) feed: Feed,
    pub(super) interests: mpsc::UnboundedReceiver<Vec<Interest>>,
    pub(super) first_clusters: watch::Sender<bool>,
    pub(super) clusters_are_there: watch::Receiver<bool>,
}

/// Where the connection stands.
enum Link {
    /// The next attempt is at this time.
    Down(Instant),
    Opening(Pin<Box<dyn Future<Output = Result<Call, CallError>>>>),
    Up {
        call: Call,
        /// Waits until the stream takes it.
        outgoing: Option<Bytes>,
        since: Instant,
        /// Whether a response came.
        responded: bool,
    },
}

/// An update on its way into force, and what was rejected of it.
type Applying = Pin<Box<dyn Future<Output = Option<Vec<Rejection>>>>>;

/// What happens next.
enum Event {
    Interests(Option<Vec<Interest>>),
    /// The first clusters are there, so listeners can be asked for.
    Clusters,
    Applied(Kind, Option<Vec<Rejection>>),
    Opened(Result<Call, CallError>),
    /// The stream takes a message.
    Ready,
    Message(Bytes),
    Broken(CallError),
    Time,
}

impl Stream {
    /// Runs until nobody is interested any more, or the process ends.
    pub(super) async fn run(mut self) {
        let variant = if self.source.delta { Variant::Delta } else { Variant::Sotw };
        let node = identify(self.worker.process.node.clone(), env!("CARGO_PKG_VERSION"));
        let mut client = Client::new(variant, node, self.source.rate_limit);
        let policy = self.source.services.first().map(|service| service.back_off).unwrap_or_default();
        let mut reconnect = Reconnect::new(policy, self.source.services.len());
        let mut link = Link::Down(Instant::now());
        let mut applying = BTreeMap::new();
        // Listeners wait for clusters of another stream; of this one the client sees to it.
        let own_clusters = self.kinds.iter().any(|(kind, _)| *kind == Kind::Cluster);
        let mut listeners = None;
        for (kind, timeout) in std::mem::take(&mut self.kinds) {
            if kind == Kind::Listener && !own_clusters {
                listeners = Some(timeout);
            } else {
                self.subscribe_all(&mut client, kind, timeout);
            }
        }
        loop {
            let now = Instant::now();
            while let Some((update, unreadable)) = client.poll_update(now.into_std()) {
                let is_empty = update.changed.is_empty() && update.removed.is_empty();
                if is_empty
                    && !client.is_response(update.kind)
                    && let Some(stats) = self.stats(update.kind)
                {
                    // The wait for the first response is over.
                    stats.init_fetch_timeout.inc();
                }
                let (kind, feed, origin) = (update.kind, self.feed.clone(), self.origin());
                let outcome: Applying = Box::pin(async move { feed.apply(origin, update, unreadable).await });
                applying.insert(kind, outcome);
            }
            if let Link::Up { outgoing, .. } = &mut link
                && outgoing.is_none()
            {
                *outgoing = client.poll_request(now.into_std()).map(|request| frame(&request.encode()));
            }
            if let Link::Down(at) = &link
                && *at <= now
            {
                link = Link::Opening(self.open(reconnect.service()));
            }
            let event = {
                let wants_response = client.wants_response();
                let deadline = client.deadline(now.into_std());
                let waits_for_clusters = listeners.is_some();
                tokio::select! {
                    biased;
                    (kind, outcome) = applied(&mut applying) => Event::Applied(kind, outcome),
                    interests = self.interests.recv() => Event::Interests(interests),
                    // An error is as good as a change: the stream that was to bring them is gone.
                    _ = self.clusters_are_there.wait_for(|there| *there), if waits_for_clusters => Event::Clusters,
                    event = next_of(&mut link, wants_response) => event,
                    () = async {
                        match deadline {
                            Some(deadline) => sleep_until(deadline.into()).await,
                            None => pending().await,
                        }
                    } => Event::Time,
                }
            };
            match event {
                Event::Interests(Some(interests)) => {
                    for interest in interests {
                        self.interest(&mut client, &interest);
                    }
                }
                Event::Interests(None) => return,
                Event::Clusters => {
                    if let Some(timeout) = listeners.take() {
                        self.subscribe_all(&mut client, Kind::Listener, timeout);
                    }
                }
                Event::Applied(kind, outcome) => {
                    applying.remove(&kind);
                    let Some(rejected) = outcome else { return };
                    client.verdict(kind, &rejected, Instant::now().into_std());
                    if kind == Kind::Cluster {
                        self.first_clusters.send_replace(true);
                    }
                    if let Some(stats) = self.stats(kind) {
                        stats.update_attempt.inc();
                        if !client.version(kind).is_empty() {
                            stats.set_version(client.version(kind));
                        }
                    }
                }
                Event::Opened(Ok(call)) => {
                    client.connected();
                    self.set_connected(1);
                    link = Link::Up { call, outgoing: None, since: Instant::now(), responded: false };
                }
                Event::Ready => {
                    if let Link::Up { call, outgoing, .. } = &mut link
                        && let Some(message) = outgoing.take()
                        && let Err(error) = call.send(message)
                    {
                        link = self.broken(&mut client, &mut reconnect, &link, &error);
                    }
                }
                Event::Message(message) => {
                    let response = match message.len() {
                        0..LARGE => Response::decode(variant, &message),
                        _ => self.feed.builders().steps.run(move || Response::decode(variant, &message)).await,
                    };
                    match response {
                        Ok(response) => {
                            if let Link::Up { responded, .. } = &mut link {
                                *responded = true;
                            }
                            self.receive(&mut client, response);
                        }
                        Err(error) => {
                            let error = CallError::Malformed(error.to_string());
                            link = self.broken(&mut client, &mut reconnect, &link, &error);
                        }
                    }
                }
                Event::Opened(Err(error)) | Event::Broken(error) => {
                    link = self.broken(&mut client, &mut reconnect, &link, &error);
                }
                Event::Time => {}
            }
        }
    }

    /// What resources name to come by this stream.
    fn origin(&self) -> Origin {
        match self.kind {
            None => Origin::Ads,
            Some(_) => Origin::Grpc(self.source.clone()),
        }
    }

    fn open(&self, service: usize) -> Pin<Box<dyn Future<Output = Result<Call, CallError>>>> {
        let (worker, source) = (self.worker.clone(), self.source.clone());
        let path = method(self.kind, source.delta);
        Box::pin(async move {
            match source.services.get(service) {
                Some(service) => Call::open(&worker, service, path).await,
                // There is always one: the configuration says so.
                None => pending().await,
            }
        })
    }

    fn subscribe_all(&self, client: &mut Client, kind: Kind, timeout: Option<Duration>) {
        client.subscribe_all(kind, timeout, Instant::now().into_std());
        if let Some(stats) = self.stats(kind) {
            stats.update_attempt.inc();
        }
    }

    fn interest(&self, client: &mut Client, interest: &Interest) {
        let Interest { kind, name, source, wanted } = interest;
        client.interest(*kind, name, *wanted, source.initial_fetch_timeout, Instant::now().into_std());
    }

    fn receive(&self, client: &mut Client, response: Response) {
        let (type_url, count) = (response.type_url.clone(), response.len());
        if self.kind.is_none() {
            self.worker.process.stats.control_plane.identifier.set(&response.control_plane);
        }
        for (name, reason) in &response.errors {
            tracing::warn!(target: "config", "the management server has trouble with {type_url:?} {name:?}: {reason}");
        }
        match client.receive(response) {
            Some(kind) => tracing::debug!(target: "config", "{kind:?}: a response with {count} resources"),
            None => tracing::warn!(
                target: "config",
                "a response of {type_url:?}, which was not asked for, is not answered"
            ),
        }
    }

    /// The stream is no more; when there is another attempt.
    fn broken(&self, client: &mut Client, reconnect: &mut Reconnect, link: &Link, error: &CallError) -> Link {
        let now = Instant::now();
        let (lived, responded) = match link {
            Link::Up { since, responded, .. } => (now.saturating_duration_since(*since), *responded),
            Link::Down(_) | Link::Opening(_) => (Duration::ZERO, false),
        };
        client.disconnected();
        self.set_connected(0);
        let cluster = self.source.services.get(reconnect.service()).map_or("", |service| &service.cluster);
        tracing::warn!(target: "config", "management server in cluster {cluster:?}: {error}");
        for kind in [Kind::Cluster, Kind::Listener] {
            if let Some(stats) = self.stats(kind)
                && (self.kind.is_none() || self.kind == Some(kind))
            {
                stats.update_failure.inc();
            }
        }
        let wait = reconnect.ended(lived, responded, self.worker.random());
        Link::Down(now.checked_add(wait).unwrap_or(now))
    }

    fn stats(&self, kind: Kind) -> Option<&SubscriptionStats> {
        self.worker.process.stats.subscription(kind)
    }

    /// Envoy has one such gauge, for the aggregated stream.
    fn set_connected(&self, connected: u64) {
        if self.kind.is_none() {
            self.worker.process.stats.control_plane.connected_state.set(connected);
        }
    }
}

/// The next update that is applied.
async fn applied(applying: &mut BTreeMap<Kind, Applying>) -> (Kind, Option<Vec<Rejection>>) {
    let poll = |(kind, applying): (&Kind, &mut Applying), cx: &mut Context| match applying.as_mut().poll(cx) {
        Poll::Ready(outcome) => Some((*kind, outcome)),
        Poll::Pending => None,
    };
    poll_fn(|cx| applying.iter_mut().find_map(|entry| poll(entry, cx)).map_or(Poll::Pending, Poll::Ready)).await
}

/// What the connection brings next.
async fn next_of(link: &mut Link, wants_response: bool) -> Event {
    match link {
        Link::Down(at) => {
            sleep_until(*at).await;
            Event::Time
        }
        Link::Opening(opening) => Event::Opened(opening.await),
        Link::Up { call, outgoing, .. } => {
            poll_fn(|cx| {
                if outgoing.is_some()
                    && let Poll::Ready(ready) = call.poll_ready(cx)
                {
                    return Poll::Ready(ready.map_or_else(Event::Broken, |()| Event::Ready));
                }
                if wants_response && let Poll::Ready(message) = call.poll_message(cx) {
                    return Poll::Ready(message.map_or_else(Event::Broken, Event::Message));
                }
                Poll::Pending
            })
            .await
        }
    }
}

/// The method of a stream for one kind, or of the aggregated one.
fn method(kind: Option<Kind>, delta: bool) -> &'static str {
    match (kind, delta) {
        (None, false) => "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        (None, true) => "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
        (Some(Kind::Cluster), false) => "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters",
        (Some(Kind::Cluster), true) => "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters",
        (Some(Kind::Endpoints), false) => "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints",
        (Some(Kind::Endpoints), true) => "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints",
        (Some(Kind::Listener), false) => "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners",
        (Some(Kind::Listener), true) => "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners",
        (Some(Kind::Routes), false) => "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes",
        (Some(Kind::Routes), true) => "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes",
    }
}
