//! What one xDS stream says and when: requests, views and time in, responses out, no I/O.
//!
//! One response per kind is in flight. By delta those of clusters and endpoints end at [`PART`], and the rest follows when
//! the client has answered (of clusters also where it has not for [`PATIENCE`], since others wait for them): so an endpoint
//! that goes does not wait for ten thousand clusters that change, and nobody has to hold all of a mesh in one message.
//! Kinds wait for one another so that nothing breaks on the way from one view to the next: clusters and their endpoints
//! go first; listeners and routes, which may name them, when the client has acknowledged those (Envoy holds its
//! acknowledgement of CDS until the new clusters are warm, for exactly this) and has asked for the endpoints of new ones,
//! which it would not get once they are gone again; clusters that are gone are taken away when the listeners and routes
//! that named them have been replaced. In place of a rejected one a client goes on using what it had: clusters that it
//! was told of by then stay until something in that place is accepted. Who does not answer is waited for [`PATIENCE`]
//! long.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_engine::xds::Kind;
use outrigger_proto::envoy::config::cluster::v3::{Cluster, cluster};
use prost::Message;

use super::subscription::{InFlight, Resources, Subscription};
use super::told::{AllTold, Last, Told};
use super::{Resource, View};

/// How long other kinds wait for the answer to a response: Envoy's default `initial_fetch_timeout`, after which a
/// cluster stops warming.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// A response in parts is full when its resources weigh so much ([`super::subscription::weight`]). A proxy reads and
/// applies them in some ten milliseconds.
pub(super) const PART: usize = 64 << 10;

/// The two ways to say what changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Changes and removals by name.
    Delta,
    /// All resources of CDS and LDS each time; of other kinds those that changed, and no removals.
    StateOfTheWorld,
}

/// The subscription in a request.
#[derive(Debug)]
pub(super) enum Names {
    Delta { subscribe: Vec<String>, unsubscribe: Vec<String>, versions: BTreeMap<String, String> },
    All(Vec<String>),
}

impl Names {
    /// How many resources it names, each as often as it stands there.
    pub(super) fn count(&self) -> usize {
        match self {
            Names::Delta { subscribe, unsubscribe, versions } => subscribe.len() + unsubscribe.len() + versions.len(),
            Names::All(names) => names.len(),
        }
    }

    /// The field that holds a text of more than `most` bytes.
    pub(super) fn longer_than(&self, most: usize) -> Option<&'static str> {
        let has = |names: &[String]| names.iter().any(|name| name.len() > most);
        match self {
            Names::Delta { subscribe, .. } if has(subscribe) => Some("resource_names_subscribe"),
            Names::Delta { unsubscribe, .. } if has(unsubscribe) => Some("resource_names_unsubscribe"),
            Names::Delta { versions, .. }
                if versions.iter().any(|(name, version)| name.len().max(version.len()) > most) =>
            {
                Some("initial_resource_versions")
            }
            Names::All(names) if has(names) => Some("resource_names"),
            Names::Delta { .. } | Names::All(_) => None,
        }
    }
}

/// A request of either protocol.
#[derive(Debug)]
pub(super) struct Request {
    /// Empty in a request that answers nothing.
    pub(super) nonce: String,
    /// Why the response with this nonce is rejected.
    pub(super) error: Option<String>,
    pub(super) names: Names,
}

/// What a request did beside changing subscriptions.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It answers no response that is in flight.
    None,
    /// The response with this version was accepted.
    Accepted(Arc<str>),
    /// It was rejected with this message.
    Rejected(String),
}

/// A response of either protocol.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) kind: Kind,
    pub(super) nonce: Arc<str>,
    /// Of all that the client then has of the kind.
    pub(super) version: Arc<str>,
    pub(super) resources: Vec<Arc<Resource>>,
    pub(super) removed: Vec<Arc<str>>,
}

/// What a client by state of the world had and had rejected when its stream ended. On its next one it says which version
/// of the clusters it has, and not which these are, so only who remembers can tell which it uses.
#[derive(Clone, Debug)]
pub(super) struct Past {
    responses: u64,
    /// Of the clusters: the one that it accepted last.
    accepted: Arc<str>,
    /// The one that it had not answered, and may have accepted since.
    unanswered: Option<Arc<str>>,
    clusters: AllTold,
    refused: BTreeMap<Kind, BTreeMap<Arc<str>, u64>>,
}

impl Past {
    /// How many resources it remembers.
    pub(super) fn resources(&self) -> usize {
        self.refused.values().map(BTreeMap::len).sum::<usize>() + self.clusters.len()
    }

    /// Whether a client that has this version of the clusters may have this past.
    pub(super) fn is_of(&self, version: &str) -> bool {
        [Some(&self.accepted), self.unanswered.as_ref()].into_iter().flatten().any(|has| **has == *version)
    }
}

/// One stream.
#[derive(Debug)]
pub(super) struct Session {
    protocol: Protocol,
    /// Whether the stream carries all kinds, so that they can wait for one another.
    aggregated: bool,
    view: Arc<View>,
    subscriptions: BTreeMap<Kind, Subscription>,
    nonces: u64,
    /// The version of the clusters that the client accepted last, on this stream or before; empty if none.
    accepted: Arc<str>,
    /// [`PART`].
    pub(super) part: usize,
}

impl Session {
    pub(super) fn new(protocol: Protocol, aggregated: bool, view: Arc<View>) -> Self {
        Self {
            protocol,
            aggregated,
            view,
            subscriptions: Kind::ALL.map(|kind| (kind, Subscription::default())).into(),
            nonces: 0,
            accepted: Arc::default(),
            part: PART,
        }
    }

    /// At the end of the stream: what the client's next one is to know. `None` if nothing that it uses is other than it
    /// was sent.
    pub(super) fn past(&mut self) -> Option<Past> {
        if self.protocol == Protocol::Delta || !self.aggregated || self.accepted.is_empty() {
            return None;
        }
        let users = [Kind::Listener, Kind::Routes].into_iter();
        let refused = users.filter_map(|kind| Some((kind, self.subscriptions.get(&kind)?.refused.clone())));
        let refused: BTreeMap<_, _> = refused.filter(|(_, refused)| !refused.is_empty()).collect();
        let clusters = self.subscriptions.get_mut(&Kind::Cluster).filter(|_| !refused.is_empty())?;
        Some(Past {
            responses: self.nonces,
            accepted: self.accepted.clone(),
            unanswered: clusters.in_flight.take().map(|sent| sent.version),
            clusters: std::mem::take(&mut clusters.told),
            refused,
        })
    }

    /// To be called before the first request for clusters, by which the client says to have this version of them.
    /// `past`: of a client that has it.
    pub(super) fn resume(&mut self, version: &str, past: Option<Past>) {
        self.accepted = version.into();
        let Some(past) = past else { return };
        // Responses are counted on, so that it is still known which clusters came before which refusal.
        self.nonces = self.nonces.max(past.responses);
        for (kind, refused) in past.refused {
            if let Some(subscription) = self.subscriptions.get_mut(&kind) {
                subscription.refused.extend(refused);
            }
        }
        if let Some(clusters) = self.subscriptions.get_mut(&Kind::Cluster) {
            clusters.told = past.clusters;
        }
    }

    /// The node is to have `view` from now on.
    pub(super) fn update(&mut self, view: Arc<View>) {
        if Arc::ptr_eq(&self.view, &view) {
            return;
        }
        let before = std::mem::replace(&mut self.view, view);
        let none = Resources::new();
        for (kind, subscription) in &mut self.subscriptions {
            if subscription.opened {
                subscription.follow(before.get(kind).unwrap_or(&none), self.view.get(kind).unwrap_or(&none));
            }
        }
    }

    /// A request for `kind` came.
    pub(super) fn request(&mut self, kind: Kind, request: Request) -> Answer {
        let none = Resources::new();
        let resources = self.view.get(&kind).unwrap_or(&none);
        let Some(subscription) = self.subscriptions.get_mut(&kind) else { return Answer::None };
        let comes_back = !subscription.opened;
        let mut answer = Answer::None;
        if let Some(sent) = subscription.in_flight.take_if(|sent| sent.nonce.as_ref() == request.nonce) {
            let version = sent.version.clone();
            if kind == Kind::Cluster && request.error.is_none() {
                self.accepted = version.clone();
            }
            subscription.answered(sent, request.error.as_deref(), self.nonces);
            answer = request.error.map_or(Answer::Accepted(version), Answer::Rejected);
        }
        let drops = matches!(&request.names, Names::Delta { unsubscribe, .. } if !unsubscribe.is_empty());
        let may_not_ask = kind == Kind::Cluster && (drops || matches!(answer, Answer::Rejected(_)));
        // A request with a stale nonce answers nothing, and is not answered before the response that it crossed is.
        // What it wants is true all the same: a name that was dropped and taken up again meanwhile has to be sent
        // again.
        match request.names {
            Names::Delta { subscribe, unsubscribe, versions } => {
                subscription.change(kind, subscribe, unsubscribe, versions, resources);
            }
            Names::All(names) => subscription.replace(kind, names, resources),
        }
        let comes_back = comes_back && kind == Kind::Endpoints && subscription.told.len() > 0;
        // Nobody knows of which it will not ask for the endpoints.
        if may_not_ask && let Some(endpoints) = self.subscriptions.get_mut(&Kind::Endpoints) {
            endpoints.expected.clear();
        }
        // Clusters are sent as soon as they are asked for, which is before a client says which endpoints it has.
        if comes_back && let Some(clusters) = self.subscriptions.get(&Kind::Cluster) {
            let sent: Vec<_> = clusters.told.iter().filter_map(|(_, told)| sent(told)).collect();
            self.owe_endpoints(&sent, None);
        }
        answer
    }

    /// Whether the client has all of the kind that it is to have, said so, and rejected nothing of it.
    pub(super) fn complete(&self, kind: Kind) -> bool {
        self.subscriptions.get(&kind).is_some_and(Subscription::complete) && self.has(kind)
    }

    /// Whether anything that the client was sent of the kind is rejected and was not replaced since.
    pub(super) fn refused(&self, kind: Kind) -> bool {
        self.subscriptions.get(&kind).is_some_and(|subscription| !subscription.refused.is_empty())
    }

    /// The kinds of which the client is to have something.
    pub(super) fn needs(&self) -> BTreeSet<Kind> {
        self.view.iter().filter(|(_, resources)| !resources.is_empty()).map(|(kind, _)| *kind).collect()
    }

    /// Whether the client has asked for what it is to have of the kind. A view with listeners was made for this client,
    /// and holds what they name; who brings its listeners itself takes of the rest what it likes.
    fn has(&self, kind: Kind) -> bool {
        let there = self.view.get(&kind).filter(|there| !there.is_empty());
        let Some((there, subscription)) = there.zip(self.subscriptions.get(&kind)) else { return true };
        let made_for_it = self.view.get(&Kind::Listener).is_some_and(|listeners| !listeners.is_empty());
        let has_all = match subscription.gone.is_empty() {
            // All that it was told of is there.
            true => subscription.told.len() == there.len(),
            false => there.keys().all(|name| subscription.told.contains(name)),
        };
        subscription.opened && (!made_for_it || has_all)
    }

    /// The version of all that the client has of the kind, where it is what it is to have: a client that comes back
    /// says what it has, and is sent nothing if that is so.
    pub(super) fn held(&self, kind: Kind) -> Option<Arc<str>> {
        let subscription = self.subscriptions.get(&kind)?;
        let waits = subscription.in_flight.is_some() || subscription.due() || !subscription.gone.is_empty();
        (!waits && subscription.told.len() > 0).then(|| subscription.told.version().text())
    }

    /// Whether the client came with other resources of the kind than it is to have. `version`: what it says to have of
    /// all of them, by state of the world; empty if nothing.
    pub(super) fn came_with_others(&self, kind: Kind, version: &str) -> bool {
        let none = Resources::new();
        let there = self.view.get(&kind).unwrap_or(&none);
        self.subscriptions.get(&kind).is_some_and(|subscription| subscription.came_with_others(version, there))
    }

    /// Whether every subscription has due what its view makes due.
    #[cfg(test)]
    pub(super) fn is_consistent(&self) -> bool {
        let none = Resources::new();
        let mut open = self.subscriptions.iter().filter(|(_, subscription)| subscription.opened);
        open.all(|(kind, subscription)| subscription.is_consistent(self.view.get(kind).unwrap_or(&none)))
    }

    /// The version of the response of the kind that the client has not answered.
    pub(super) fn unanswered(&self, kind: Kind) -> Option<Arc<str>> {
        Some(self.subscriptions.get(&kind)?.in_flight.as_ref()?.version.clone())
    }

    /// How many resources of the kind the client has.
    pub(super) fn told(&self, kind: Kind) -> usize {
        self.subscriptions.get(&kind).map_or(0, |subscription| subscription.told.len())
    }

    /// How many resources the client has named, and not dropped, of all kinds.
    pub(super) fn names(&self) -> usize {
        self.subscriptions.values().map(Subscription::named_resources).sum()
    }

    /// The next response, if there is one to send now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Response> {
        let held = self.rejected_until();
        for (kind, subscription) in &mut self.subscriptions {
            let since = subscription.gone_since.unwrap_or(now);
            let some = removable(subscription, *kind, held).next().is_some();
            subscription.gone_since = some.then_some(since);
        }
        let kind = Kind::ALL.into_iter().find(|kind| self.ready(*kind, now))?;
        let removals = self.may_remove(kind, now);
        self.respond(kind, removals, now)
    }

    /// When [`Session::next`] is to be asked again though nothing came: the end of the patience with a response that
    /// others wait for, or with a client that does not ask for what a removal waits for.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let waits = |subscription: &Subscription| {
            subscription.in_flight.is_none() && (subscription.due() || !subscription.gone.is_empty())
        };
        if !self.subscriptions.values().any(waits) {
            return None;
        }
        let sent = self.subscriptions.values().filter_map(|subscription| Some(subscription.in_flight.as_ref()?.since));
        let gone = self.subscriptions.values().filter_map(|subscription| subscription.gone_since);
        let expected = self.subscriptions.values().filter_map(|subscription| subscription.expected_since);
        sent.chain(gone).chain(expected).map(|since| since + PATIENCE).filter(|end| *end > now).min()
    }

    fn ready(&self, kind: Kind, now: Instant) -> bool {
        let Some(subscription) = self.subscriptions.get(&kind) else { return false };
        // Who does not answer a part of the clusters gets the rest of them, before what may name these.
        let free = subscription.in_flight.is_none()
            || kind == Kind::Cluster && !subscription.unanswered(now, PATIENCE) && subscription.due();
        free && (subscription.due() && self.may_add(kind, now)
            || removable(subscription, kind, self.rejected_until()).next().is_some() && self.may_remove(kind, now))
    }

    fn is(&self, kind: Kind, test: impl Fn(&Subscription) -> bool) -> bool {
        self.subscriptions.get(&kind).is_none_or(test)
    }

    /// Whether what resources of `kind` may name is there.
    fn may_add(&self, kind: Kind, now: Instant) -> bool {
        match kind {
            Kind::Cluster | Kind::Endpoints => true,
            // Endpoints of clusters that are there already may change ever again: nothing waits for that.
            Kind::Listener | Kind::Routes => {
                self.is(Kind::Cluster, |clusters| !clusters.unanswered(now, PATIENCE))
                    && self.is(Kind::Endpoints, |endpoints| !endpoints.owes(now, PATIENCE))
            }
        }
    }

    /// Whether nothing names the resources of `kind` any more that are gone.
    fn may_remove(&self, kind: Kind, now: Instant) -> bool {
        let settled = |kind| self.is(kind, |subscription| subscription.settled(now, PATIENCE));
        match kind {
            Kind::Cluster => [Kind::Listener, Kind::Routes].into_iter().all(settled) && self.replaced(kind, now),
            // A client unsubscribes from the endpoints of a cluster that goes, and keeps those of one that stays.
            Kind::Endpoints => settled(Kind::Cluster),
            Kind::Listener => self.may_add(kind, now),
            Kind::Routes => self.may_add(kind, now) && settled(Kind::Listener) && self.replaced(kind, now),
        }
    }

    /// In place of what it rejected, a client uses what it had, which may name any cluster that it had then: those that
    /// the first so many responses told of.
    fn rejected_until(&self) -> Option<u64> {
        let users = [Kind::Listener, Kind::Routes].into_iter().filter_map(|kind| self.subscriptions.get(&kind));
        // One that comes back and does not ask for a kind uses nothing of it.
        let users = users.filter(|subscription| subscription.opened);
        users.flat_map(|subscription| subscription.refused.values().copied()).max()
    }

    /// Whether the client has asked for all listeners and routes that it is to have in place of those that name what is
    /// gone of `kind`. On a stream of one kind nobody can tell.
    fn replaced(&self, kind: Kind, now: Instant) -> bool {
        let waited = |subscription: &Subscription| subscription.gone_since.is_some_and(|since| now >= since + PATIENCE);
        !self.aggregated || self.has(Kind::Listener) && self.has(Kind::Routes) || self.is(kind, waited)
    }

    fn respond(&mut self, kind: Kind, removals: bool, now: Instant) -> Option<Response> {
        let none = Resources::new();
        let there = self.view.get(&kind).unwrap_or(&none);
        let held = self.rejected_until();
        let in_parts = self.protocol == Protocol::Delta
            && match kind {
                Kind::Endpoints => true,
                // On a stream of its own nothing else could wait for the last part.
                Kind::Cluster => self.aggregated,
                // A client is ready with its first response, and an address may go from one listener to another.
                Kind::Listener | Kind::Routes => false,
            };
        let subscription = self.subscriptions.get_mut(&kind)?;
        let most = if in_parts && subscription.in_flight.is_none() { self.part } else { usize::MAX };
        let answer = std::mem::take(&mut subscription.answer);
        let before = subscription.owed.len();

        let mut resources = Vec::new();
        let mut removed = Vec::new();
        for name in subscription.take_due(there, most) {
            if let Some(resource) = there.get(&name) {
                let since = subscription.told.get(&name).map_or(self.nonces + 1, |told| told.since);
                subscription.told.insert(name, Told { since, last: Last::Sent(resource.clone()) });
                resources.push(resource.clone());
            } else if !subscription.told.contains(&name) {
                subscription.refused.remove(&name);
                removed.push(name);
            } else {
                // Told and gone: it is removed in its turn.
                subscription.gone.insert(name);
            }
        }
        let owed = subscription.owed.len() < before;
        if removals && !subscription.due() {
            for name in removable(subscription, kind, held).cloned().collect::<Vec<_>>() {
                subscription.gone.remove(&name);
                subscription.told.remove(&name);
                subscription.refused.remove(&name);
                removed.push(name);
            }
        }

        let version = subscription.told.version().text();
        let warming = resources.clone();
        let whole = matches!(kind, Kind::Cluster | Kind::Listener) && self.protocol == Protocol::StateOfTheWorld;
        if whole {
            // What is gone and not yet to be removed is among them.
            resources = subscription.told.iter().filter_map(|(_, told)| sent(told)).collect();
            let Subscription { refused, told, .. } = subscription;
            refused.retain(|name, _| told.contains(name));
        }
        if self.protocol == Protocol::StateOfTheWorld {
            removed.clear();
        }
        if resources.is_empty() && removed.is_empty() && !whole && !answer {
            return self.next(now);
        }
        self.nonces += 1;
        let nonce: Arc<str> = self.nonces.to_string().into();
        let names = resources.iter().map(|resource| resource.name.clone()).collect();
        subscription.in_flight =
            Some(InFlight { nonce: nonce.clone(), version: version.clone(), since: now, names, owed });
        if kind == Kind::Cluster {
            self.owe_endpoints(&warming, Some(now));
        }
        Some(Response { kind, nonce, version, resources, removed })
    }

    /// A client warms a changed cluster until its endpoints come, also if they are the same; being subscribed to them
    /// already, it does not ask for them. To those of clusters that are `sent` now and new to it, it subscribes.
    fn owe_endpoints(&mut self, clusters: &[Arc<Resource>], sent: Option<Instant>) {
        let Some(subscription) = self.subscriptions.get_mut(&Kind::Endpoints).filter(|endpoints| endpoints.opened)
        else {
            return;
        };
        for name in clusters.iter().filter_map(|cluster| endpoints_of(cluster)) {
            if subscription.wants(&name) {
                subscription.owed.insert(name);
            } else if sent.is_some() {
                subscription.expected.insert(name);
                subscription.expected_since = sent;
            }
        }
    }
}

fn sent(told: &Told) -> Option<Arc<Resource>> {
    match &told.last {
        Last::Sent(resource) => Some(resource.clone()),
        Last::Before(_) => None,
    }
}

/// What is gone, but for the clusters that something in use may name: those of the first so many responses.
fn removable(subscription: &Subscription, kind: Kind, in_use: Option<u64>) -> impl Iterator<Item = &Arc<str>> {
    let is_in_use = move |name: &Arc<str>| {
        let since = subscription.told.get(name).map(|told| told.since);
        kind == Kind::Cluster && since.zip(in_use).is_some_and(|(since, until)| since <= until)
    };
    subscription.gone.iter().filter(move |name| !is_in_use(name))
}

/// The name of the resource that holds the endpoints of a cluster, if one does.
fn endpoints_of(resource: &Resource) -> Option<Arc<str>> {
    let cluster = Cluster::decode(resource.body.clone()).ok()?;
    if cluster.cluster_discovery_type != Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds.into())) {
        return None;
    }
    let service = cluster.eds_cluster_config.map(|eds| eds.service_name).unwrap_or_default();
    Some(if service.is_empty() { resource.name.clone() } else { service.into() })
}
