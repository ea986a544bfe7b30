//! The proxies that are connected, and what each of them said about what it was sent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use outrigger_engine::xds::Kind;
use outrigger_proto::envoy::config::core::v3::Node;
use tokio::sync::watch;
use tokio::time::Instant;

use super::session::{Answer, Past, Protocol, Response};

/// So many proxies are remembered that rejected something and have gone.
const PASTS: usize = 1024;
/// With so many resources in all, which may be no longer those of any view.
const PAST_RESOURCES: usize = 100_000;
/// How long each is: many times as long as clients wait between two attempts to connect.
const PAST: Duration = Duration::from_secs(600);

/// One proxy that is connected, with all its streams.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// `node.id`.
    pub node: String,
    /// `node.cluster`.
    pub cluster: String,
    /// The program and its version, as it says.
    pub agent: String,
    /// Where it connected from; `None` over a Unix socket.
    pub address: Option<SocketAddr>,
    /// Since when its oldest stream is open.
    pub connected: SystemTime,
    /// What its newest stream speaks.
    pub protocol: Protocol,
    /// The kinds of which it was sent something, or has something.
    pub kinds: BTreeMap<Kind, Status>,
    /// The kinds of which it is to have something.
    pub needs: BTreeSet<Kind>,
}

impl Proxy {
    /// The newest revision of which it has everything, and rejected nothing; 0 before the first. A kind that it needs
    /// and has not asked for yet it does not have.
    pub fn revision(&self) -> u64 {
        let kinds = self.needs.iter().chain(self.kinds.keys());
        kinds.map(|kind| self.kinds.get(kind).map_or(0, |status| status.revision)).min().unwrap_or_default()
    }
}

/// Where a proxy is with the resources of one kind. Versions are hashes of all resources of the kind that it was told.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The version of the last response.
    pub sent: String,
    /// The version that it accepted last; empty if none.
    pub accepted: String,
    /// How many resources it has been told.
    pub resources: usize,
    /// Why it rejected a response, as long as it has not accepted something in place of what it rejected.
    pub rejected: Option<String>,
    /// The newest revision of which it has everything of the kind, and rejected nothing; 0 before the first.
    pub revision: u64,
    /// The revision of the last response.
    pub sent_revision: u64,
}

impl Status {
    /// Whether it accepted the last response, and all that it was sent before.
    pub fn synced(&self) -> bool {
        self.sent == self.accepted && self.rejected.is_none()
    }
}

/// What was counted of one kind since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Responses sent.
    pub responses: u64,
    /// Responses accepted.
    pub accepted: u64,
    /// Responses rejected.
    pub rejected: u64,
}

/// All proxies that are connected.
#[derive(Debug, Default)]
pub struct Proxies {
    inner: Mutex<Inner>,
    /// Who came, went, has everything of another revision, or rejected something.
    changes: watch::Sender<()>,
    /// That, and what was sent and accepted.
    shown: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    streams: BTreeMap<u64, Proxy>,
    /// The streams of each `node.id`.
    nodes: BTreeMap<String, BTreeSet<u64>>,
    /// What the next stream of a proxy that has gone is to know, the oldest first.
    pasts: VecDeque<Gone>,
    counts: BTreeMap<Kind, Counts>,
}

/// A proxy that has gone. It comes back from another port.
#[derive(Debug)]
struct Gone {
    at: Instant,
    node: String,
    from: Option<IpAddr>,
    past: Past,
}

impl Inner {
    /// A stream and another of the same node that carries the kind.
    fn twins(&self, id: u64, kind: Kind) -> Option<(&Proxy, &Proxy)> {
        let stream = self.streams.get(&id)?;
        let others = self.nodes.get(&stream.node)?.iter().filter(|other| **other != id);
        let mut others = others.filter_map(|other| self.streams.get(other));
        Some((stream, others.find(|other| other.kinds.contains_key(&kind))?))
    }
}

impl Proxies {
    /// The proxies that are connected, by node id. One with a stream for each kind is one; streams that carry the same
    /// kind are of several, whatever they are called: each of them is to have everything.
    pub fn list(&self) -> Vec<Proxy> {
        let inner = self.inner();
        let mut proxies: Vec<Proxy> = Vec::with_capacity(inner.nodes.len());
        for streams in inner.nodes.values() {
            let of_node = proxies.len();
            // How many of the node's proxies have each kind: the first ones.
            let mut with: BTreeMap<Kind, usize> = BTreeMap::new();
            // Oldest first.
            for stream in streams.iter().filter_map(|id| inner.streams.get(id)) {
                let place = stream.kinds.keys().filter_map(|kind| with.get(kind)).max().copied().unwrap_or_default();
                with.extend(stream.kinds.keys().map(|kind| (*kind, place + 1)));
                match proxies.get_mut(of_node + place) {
                    None => proxies.push(stream.clone()),
                    Some(proxy) => {
                        proxy.protocol = stream.protocol;
                        proxy.needs.clone_from(&stream.needs);
                        proxy.kinds.extend(stream.kinds.iter().map(|(kind, status)| (*kind, status.clone())));
                    }
                }
            }
        }
        proxies
    }

    /// How many streams are open.
    pub fn streams(&self) -> usize {
        self.inner().streams.len()
    }

    /// What was counted, by kind.
    pub fn counts(&self) -> BTreeMap<Kind, Counts> {
        self.inner().counts.clone()
    }

    /// Is marked when what [`Proxy::revision`] or [`Status::rejected`] say of any proxy changes, or the proxies
    /// themselves.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Is marked when [`Proxies::list`] may show something else.
    pub fn shown(&self) -> watch::Receiver<()> {
        self.shown.subscribe()
    }

    fn mark_changed(&self) {
        self.changes.send_replace(());
        self.shown.send_replace(());
    }

    /// A stream of `node` is open, until the returned value is dropped.
    pub(crate) fn open(
        self: Arc<Self>,
        node: &Node,
        address: Option<SocketAddr>,
        protocol: Protocol,
        needs: BTreeSet<Kind>,
    ) -> Stream {
        let proxy = Proxy {
            node: node.id.clone(),
            cluster: node.cluster.clone(),
            agent: agent(node),
            address,
            connected: SystemTime::now(),
            protocol,
            kinds: BTreeMap::new(),
            needs,
        };
        let mut inner = self.inner();
        inner.next += 1;
        let id = inner.next;
        inner.nodes.entry(proxy.node.clone()).or_default().insert(id);
        inner.streams.insert(id, proxy);
        drop(inner);
        self.mark_changed();
        Stream { proxies: self, id }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        while inner.pasts.front().is_some_and(|gone| gone.at.elapsed() > PAST) {
            inner.pasts.pop_front();
        }
        inner
    }
}

fn agent(node: &Node) -> String {
    use outrigger_proto::envoy::config::core::v3::node::UserAgentVersionType;
    let version = match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(version)) => version.clone(),
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => build
            .version
            .as_ref()
            .map(|version| format!("{}.{}.{}", version.major_number, version.minor_number, version.patch))
            .unwrap_or_default(),
        None => String::new(),
    };
    format!("{} {version}", node.user_agent_name).trim().to_owned()
}

/// The entry of one open stream.
#[derive(Debug)]
pub(crate) struct Stream {
    proxies: Arc<Proxies>,
    id: u64,
}

impl Stream {
    /// Of this proxy's stream before, where that is known; it comes with this version of the clusters.
    pub(super) fn past(&self, version: &str) -> Option<Past> {
        let mut inner = self.proxies.inner();
        let Inner { streams, pasts, .. } = &mut *inner;
        let Proxy { node, address, .. } = streams.get(&self.id)?;
        let from = address.map(|address| address.ip());
        let is_it = |gone: &Gone| gone.node == *node && gone.from == from && gone.past.is_of(version);
        let newest = pasts.iter().rposition(is_it)?;
        Some(pasts.remove(newest)?.past)
    }

    /// The stream ends; the proxy's next one is to know this.
    pub(super) fn remember(&self, past: Past) {
        let mut inner = self.proxies.inner();
        let Inner { streams, pasts, .. } = &mut *inner;
        let Some(Proxy { node, address, .. }) = streams.get(&self.id) else { return };
        let from = address.map(|address| address.ip());
        pasts.push_back(Gone { at: Instant::now(), node: node.clone(), from, past });
        let mut resources: usize = pasts.iter().map(|gone| gone.past.resources()).sum();
        while pasts.len() > PASTS || resources > PAST_RESOURCES {
            let Some(oldest) = pasts.pop_front() else { break };
            resources -= oldest.past.resources();
        }
    }

    /// A response was sent, with which the proxy has so many resources of the kind.
    pub(super) fn sent(&self, response: &Response, resources: usize, revision: u64) {
        self.record(response.kind, |status, counts| {
            counts.responses += 1;
            status.sent_revision = revision;
            status.sent = response.version.to_string();
            status.resources = resources;
        });
    }

    /// A request came, from which the proxy has so many resources of the kind: one that comes back says what it has.
    /// `refused`: some that it was sent are rejected.
    pub(super) fn answered(&self, kind: Kind, answer: Answer, resources: usize, refused: bool) {
        self.record(kind, |status, counts| {
            status.resources = resources;
            match answer {
                Answer::Rejected(message) => {
                    counts.rejected += 1;
                    status.rejected = Some(message);
                    // What it had everything of came with what it has rejected now: a name that it asked for later.
                    if status.revision >= status.sent_revision {
                        status.revision = 0;
                    }
                    return;
                }
                Answer::Accepted(version) => {
                    counts.accepted += 1;
                    status.accepted = version.to_string();
                }
                Answer::None => {}
            }
            if !refused {
                status.rejected = None;
            }
        });
    }

    /// What the proxy is to have changed.
    pub(super) fn needs(&self, needs: BTreeSet<Kind>) {
        let mut inner = self.proxies.inner();
        let Some(proxy) = inner.streams.get_mut(&self.id).filter(|proxy| proxy.needs != needs) else { return };
        proxy.needs = needs;
        drop(inner);
        self.proxies.mark_changed();
    }

    /// A proxy that came back has this version of a kind already, and nothing was to be sent.
    pub(super) fn held(&self, kind: Kind, version: &str) {
        self.record(kind, |status, _| {
            if status.sent.is_empty() {
                version.clone_into(&mut status.sent);
                version.clone_into(&mut status.accepted);
            }
        });
    }

    /// The proxy has everything of a kind and revision, and rejected nothing of it.
    pub(crate) fn complete(&self, kind: Kind, revision: u64) {
        self.record(kind, |status, _| status.revision = revision);
    }

    fn record(&self, kind: Kind, change: impl FnOnce(&mut Status, &mut Counts)) {
        let mut inner = self.proxies.inner();
        let Inner { streams, counts, .. } = &mut *inner;
        let Some(proxy) = streams.get_mut(&self.id) else { return };
        // Its first kind says whether it is of a proxy that is there already.
        let first = proxy.kinds.is_empty();
        let status = proxy.kinds.entry(kind).or_default();
        let before = (status.revision, status.rejected.is_some());
        change(status, counts.entry(kind).or_default());
        let changed = first || before != (status.revision, status.rejected.is_some());
        if first && let Some((stream, other)) = inner.twins(self.id, kind) {
            let from = |proxy: &Proxy| proxy.address.map_or("a socket file".to_owned(), |address| address.to_string());
            tracing::warn!(
                target: crate::log::BOUNDED,
                "{} has two streams for {}, from {} and from {}: unless the former is about to end, these are two proxies \
                 of one name; give each its own (`outrigger bootstrap --id`)",
                stream.node,
                kind.abbreviation(),
                from(other),
                from(stream)
            );
        }
        drop(inner);
        if changed {
            self.proxies.mark_changed();
        } else {
            self.proxies.shown.send_replace(());
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut inner = self.proxies.inner();
        if let Some(proxy) = inner.streams.remove(&self.id)
            && let Some(streams) = inner.nodes.get_mut(&proxy.node)
        {
            streams.remove(&self.id);
            if streams.is_empty() {
                inner.nodes.remove(&proxy.node);
            }
        }
        drop(inner);
        self.proxies.mark_changed();
    }
}

#[cfg(test)]
mod tests {
    use super::super::past_tests;
    use super::*;

    fn open(proxies: &Arc<Proxies>, kinds: &[Kind]) -> Stream {
        let node = Node { id: "orders-1".to_owned(), ..Node::default() };
        let stream = Arc::clone(proxies).open(&node, None, Protocol::Delta, [Kind::Cluster, Kind::Listener].into());
        for kind in kinds {
            stream.answered(*kind, Answer::None, 0, false);
        }
        stream
    }

    fn revisions(proxies: &Proxies) -> Vec<u64> {
        proxies.list().iter().map(Proxy::revision).collect()
    }

    #[test]
    fn two_proxies_of_one_name_are_two() {
        let proxies = Arc::<Proxies>::default();
        let both = [Kind::Cluster, Kind::Listener];
        let first = open(&proxies, &both);
        for kind in both {
            first.complete(kind, 7);
        }
        assert_eq!(revisions(&proxies), [7]);
        let second = open(&proxies, &[]);
        let mut changes = proxies.changes();
        changes.mark_unchanged();
        second.answered(Kind::Cluster, Answer::None, 0, false);
        assert!(changes.has_changed().unwrap());
        assert_eq!(revisions(&proxies), [7, 0]);
        let mut shown = proxies.shown();
        shown.mark_unchanged();
        changes.mark_unchanged();
        second.answered(Kind::Cluster, Answer::None, 3, false);
        assert!(shown.has_changed().unwrap() && !changes.has_changed().unwrap(), "only how many resources it has");
        second.answered(Kind::Cluster, Answer::Rejected("no".to_owned()), 0, true);
        // Neither hides the other, whoever has come last.
        for kind in both {
            second.complete(kind, 8);
        }
        first.answered(Kind::Listener, Answer::Rejected("no".to_owned()), 0, true);
        let rejected = |proxy: &Proxy| proxy.kinds.values().any(|status| status.rejected.is_some());
        assert_eq!(proxies.list().iter().map(rejected).collect::<Vec<_>>(), [true, true]);
        drop(first);
        assert_eq!(revisions(&proxies), [8]);
        drop(second);
        assert!(proxies.list().is_empty() && proxies.inner().nodes.is_empty());
    }

    #[test]
    fn a_proxy_with_a_stream_for_each_kind_is_one() {
        let proxies = Arc::<Proxies>::default();
        let (clusters, listeners) = (open(&proxies, &[Kind::Cluster]), open(&proxies, &[Kind::Listener]));
        clusters.complete(Kind::Cluster, 7);
        assert_eq!(revisions(&proxies), [0]);
        listeners.complete(Kind::Listener, 6);
        assert_eq!(revisions(&proxies), [6]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_that_comes_back_in_time_has_its_own_past() {
        let proxies = Arc::<Proxies>::default();
        let open = |node: &str, address: &str| {
            let node = Node { id: node.to_owned(), ..Node::default() };
            let protocol = Protocol::StateOfTheWorld;
            Arc::clone(&proxies).open(&node, address.parse().ok(), protocol, BTreeSet::new())
        };
        let (past, version) = past_tests::past();
        let gone = || open("orders-1", "10.0.0.1:1").remember(past.clone());
        gone();
        for (node, address) in [("orders-2", "10.0.0.1:2"), ("orders-1", "10.0.0.2:2"), ("orders-1", "")] {
            assert!(open(node, address).past(&version).is_none(), "{node} {address}");
        }
        let back = open("orders-1", "10.0.0.1:2");
        assert!(back.past("other").is_none() && back.past(&version).is_some());
        assert!(back.past(&version).is_none(), "it is on its stream now");
        gone();
        tokio::time::advance(PAST + Duration::from_secs(1)).await;
        assert!(back.past(&version).is_none());
        for _ in 0..=PASTS {
            gone();
        }
        assert_eq!(proxies.inner().pasts.len(), PASTS);

        let of_many = past_tests::past_of(PAST_RESOURCES / 3);
        for node in ["orders-3", "orders-4", "orders-5"] {
            open(node, "10.0.0.1:1").remember(of_many.clone());
        }
        let nodes = |proxies: &Proxies| proxies.inner().pasts.iter().map(|gone| gone.node.clone()).collect::<Vec<_>>();
        assert_eq!(nodes(&proxies), ["orders-4", "orders-5"], "the oldest go first");
    }
}
