//! The streams of discovery, on the control thread. They move messages: what those mean is the engine's
//! ([`outrigger_engine::xds::Client`]), and what becomes of the resources is [`crate::configuration`]'s.
//!
//! There is one stream for the aggregated source, and one for each kind and server of other sources. A stream that ends
//! is opened again, and what came by it stays in force meanwhile.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

mod stream;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_engine::config::config_source::{ConfigSource, GrpcSource, Origin};
use outrigger_engine::config::dynamic_resources::DynamicResources;
use outrigger_engine::xds::{Interest, Kind, Update};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;

use self::stream::Stream;
use crate::configuration::channel::Feed;
use crate::worker::Worker;

/// So many names are taken in at once.
const BATCH: usize = 16_384;

/// What tells streams apart: the kind is that of a stream for one kind only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    kind: Option<Kind>,
    source: Arc<GrpcSource>,
}

/// A stream that runs.
#[derive(Debug)]
struct Running {
    interests: mpsc::UnboundedSender<Vec<Interest>>,
    /// How many names it is wanted for; it ends with the last one.
    names: usize,
    /// It carries all of a kind, so it does not end.
    forever: bool,
}

/// Opens the streams that the bootstrap names, and those that interests name as long as they do. Runs until the process
/// ends.
pub async fn run(
    worker: Rc<Worker>,
    resources: DynamicResources,
    feed: Feed,
    mut interests: mpsc::UnboundedReceiver<Interest>,
) {
    let ads = resources.ads.clone();
    let wildcard = |kind, source: &Option<ConfigSource>| {
        let ConfigSource { origin, initial_fetch_timeout } = source.as_ref()?;
        Some((key(kind, origin, ads.as_ref())?, (kind, *initial_fetch_timeout)))
    };
    let mut all: HashMap<Key, Vec<(Kind, Option<Duration>)>> = HashMap::new();
    if let Some(source) = &ads {
        all.insert(Key { kind: None, source: source.clone() }, Vec::new());
    }
    let clusters = wildcard(Kind::Cluster, &resources.clusters);
    // Listeners are asked for after the first clusters, by whatever stream those come.
    let (first_clusters, clusters_are_there) = watch::channel(clusters.is_none());
    for (key, kind) in clusters.into_iter().chain(wildcard(Kind::Listener, &resources.listeners)) {
        all.entry(key).or_default().push(kind);
    }
    let start = |key: &Key, kinds: Vec<(Kind, Option<Duration>)>, forever: bool| {
        let (send, receive) = mpsc::unbounded_channel();
        let stream = Stream {
            worker: worker.clone(),
            kind: key.kind,
            source: key.source.clone(),
            kinds,
            feed: feed.clone(),
            interests: receive,
            first_clusters: first_clusters.clone(),
            clusters_are_there: clusters_are_there.clone(),
        };
        spawn_local(stream.run());
        Running { interests: send, names: 0, forever }
    };
    let mut running: HashMap<Key, Running> = HashMap::new();
    for (key, kinds) in all {
        let stream = start(&key, kinds, true);
        running.insert(key, stream);
    }
    let mut batch = Vec::new();
    // Thousands of names that are wanted at once go into one request.
    while interests.recv_many(&mut batch, BATCH).await > 0 {
        let mut by_key: HashMap<Key, Vec<Interest>> = HashMap::new();
        for interest in batch.drain(..) {
            match key(interest.kind, &interest.source.origin, ads.as_ref()) {
                Some(key) => by_key.entry(key).or_default().push(interest),
                None if interest.wanted => nobody_sends(&feed, interest),
                None => {}
            }
        }
        for (key, interests) in by_key {
            let stream = running.entry(key.clone()).or_insert_with(|| start(&key, Vec::new(), false));
            for interest in &interests {
                stream.names =
                    if interest.wanted { stream.names.saturating_add(1) } else { stream.names.saturating_sub(1) };
            }
            let is_over = stream.names == 0 && !stream.forever;
            // Its task is there as long as this end of the channel is.
            _ = stream.interests.send(interests);
            if is_over {
                running.remove(&key);
            }
        }
    }
}

/// What is to come by the aggregated source where the bootstrap has none: nobody will send it, so nobody shall wait.
fn nobody_sends(feed: &Feed, Interest { kind, name, .. }: Interest) {
    tracing::warn!(target: "config", "{kind:?} {name:?}: is to come by ads, and dynamic_resources.ads_config is not set");
    let feed = feed.clone();
    let update = Update { removed: vec![name], ..Update::empty(kind) };
    spawn_local(async move { feed.apply(Origin::Ads, update, Vec::new()).await });
}

/// The stream by which a kind comes from `origin`; `None` for what is not a stream, or not configured.
fn key(kind: Kind, origin: &Origin, ads: Option<&Arc<GrpcSource>>) -> Option<Key> {
    match origin {
        Origin::Ads => Some(Key { kind: None, source: ads?.clone() }),
        Origin::Grpc(source) => Some(Key { kind: Some(kind), source: source.clone() }),
        Origin::Path(_) => None,
    }
}
