//! What is in force, and how one configuration follows another: make before break.
//!
//! Workers see a [`Snapshot`] and nothing else. A [`Warmer`] takes in changes of single resources and says when there is
//! a new snapshot. What a change does not touch is the same object before and after it, with its pools, breakers and
//! statistics. A cluster whose hosts are not known yet warms while its predecessor goes on serving; a listener whose
//! routes name a cluster that is missing waits, and its predecessor goes on serving, until the cluster is there or
//! the wait is over; a removed cluster stays while a listener in force names it, no longer than that wait either.
//! No request is ever held for configuration. Time is a parameter, and nothing here is done, only said: by [`Effect`]s.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::balance::ClusterState;
use crate::config::cluster::{Cluster, Discovery};
use crate::config::hcm::RouteSource;
use crate::config::listener::{Listener, NetworkFilter};

/// Names of clusters that are not meant to exist: nobody waits for them.
const NEVER: &str = "outrigger.invalid/";

/// All that is in force. Shared by all workers and exchanged whole.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By name.
    pub clusters: HashMap<Arc<str>, Arc<ClusterState>>,
    /// By name.
    pub listeners: BTreeMap<Arc<str>, Arc<Listener>>,
}

/// What is wanted of the world.
#[derive(Clone, Debug)]
pub enum Effect {
    /// This is in force from now on.
    Publish(Arc<Snapshot>),
    /// Resolve the names of this cluster, and call [`Warmer::cluster_ready`] when each has had an answer.
    Resolve(Arc<ClusterState>),
}

/// On what a resource waits, as `/init_dump` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waits {
    /// A cluster, for its first hosts.
    ClusterForHosts(Arc<str>),
    /// A listener, for clusters.
    ListenerForClusters(Arc<str>, Vec<Arc<str>>),
}

/// Takes changes in and hands snapshots out.
#[derive(Debug)]
pub struct Warmer {
    /// How long a listener waits for clusters, and a removed cluster for listeners.
    cluster_wait: Duration,
    snapshot: Snapshot,
    changed: bool,
    /// Versions of what is in force or on its way there, to tell a change from a repetition.
    cluster_versions: HashMap<Arc<str>, u64>,
    listener_versions: HashMap<Arc<str>, u64>,
    warming_clusters: BTreeMap<Arc<str>, Arc<ClusterState>>,
    waiting_listeners: BTreeMap<Arc<str>, (Arc<Listener>, Instant)>,
    leaving_clusters: BTreeMap<Arc<str>, Instant>,
    effects: Vec<Effect>,
}

impl Warmer {
    /// Nothing is in force.
    pub fn new(cluster_wait: Duration) -> Self {
        Warmer {
            cluster_wait,
            snapshot: Snapshot::default(),
            changed: false,
            cluster_versions: HashMap::new(),
            listener_versions: HashMap::new(),
            warming_clusters: BTreeMap::new(),
            waiting_listeners: BTreeMap::new(),
            leaving_clusters: BTreeMap::new(),
            effects: Vec::new(),
        }
    }

    /// The cluster `name` has this version: the one that `make` makes, which is called only if it is another than
    /// before.
    pub fn set_cluster(&mut self, name: &str, version: u64, make: impl FnOnce() -> Arc<Cluster>) {
        if !self.leaving_clusters.is_empty() {
            self.leaving_clusters.remove(name);
        }
        if self.cluster_versions.get(name) == Some(&version) {
            return;
        }
        let state = Arc::new(ClusterState::new(make()));
        let name = Arc::clone(&state.config.name);
        self.cluster_versions.insert(Arc::clone(&name), version);
        self.warming_clusters.remove(&name);
        match state.config.discovery {
            Discovery::Static(_) => self.put_cluster(name, state),
            Discovery::StrictDns(_) | Discovery::LogicalDns(_) => {
                self.effects.push(Effect::Resolve(Arc::clone(&state)));
                self.warming_clusters.insert(name, state);
            }
        }
    }

    /// The hosts of a cluster are known, as far as they can be. A cluster that was changed again meanwhile is left out.
    pub fn cluster_ready(&mut self, cluster: &Arc<ClusterState>) {
        let name = &cluster.config.name;
        if self.warming_clusters.get(name).is_some_and(|warming| Arc::ptr_eq(warming, cluster)) {
            self.warming_clusters.remove(name);
            self.put_cluster(Arc::clone(name), Arc::clone(cluster));
        }
    }

    /// There is no cluster `name` any more. If it comes back in time with the version in force, nothing has happened.
    pub fn remove_cluster(&mut self, name: &str, now: Instant) {
        if self.warming_clusters.remove(name).is_some() {
            self.cluster_versions.remove(name);
        }
        if let Some((name, _)) = self.snapshot.clusters.get_key_value(name) {
            self.leaving_clusters.insert(Arc::clone(name), now + self.cluster_wait);
        }
    }

    /// The listener `name` has this version: the one that `make` makes, which is called only if it is another than
    /// before.
    pub fn set_listener(&mut self, name: &str, version: u64, now: Instant, make: impl FnOnce() -> Arc<Listener>) {
        if self.listener_versions.get(name) == Some(&version) {
            return;
        }
        let listener = make();
        self.listener_versions.insert(Arc::clone(&listener.name), version);
        self.waiting_listeners.insert(Arc::clone(&listener.name), (listener, now + self.cluster_wait));
    }

    /// There is no listener `name` any more.
    pub fn remove_listener(&mut self, name: &str) {
        self.listener_versions.remove(name);
        self.waiting_listeners.remove(name);
        self.changed |= self.snapshot.listeners.remove(name).is_some();
    }

    /// Ends a batch of changes, or a wait: what can be in force is. The effects come in the order in which they are to
    /// be done.
    pub fn settle(&mut self, now: Instant) -> Vec<Effect> {
        let Warmer { waiting_listeners, snapshot, .. } = self;
        let ready = waiting_listeners
            .extract_if(.., |_, (listener, until)| now >= *until || missing(listener, &snapshot.clusters).is_empty());
        for (name, (listener, _)) in ready {
            snapshot.listeners.insert(name, listener);
            self.changed = true;
        }
        self.drop_left_clusters(now);
        if std::mem::take(&mut self.changed) {
            self.effects.push(Effect::Publish(Arc::new(self.snapshot.clone())));
        }
        std::mem::take(&mut self.effects)
    }

    /// When [`Warmer::settle`] has something to do, even if nothing happens before.
    pub fn deadline(&self) -> Option<Instant> {
        let listeners = self.waiting_listeners.values().map(|(_, until)| *until);
        listeners.chain(self.leaving_clusters.values().copied()).min()
    }

    /// What is not in force yet, and why.
    pub fn waits(&self) -> Vec<Waits> {
        let clusters = self.warming_clusters.keys().map(|name| Waits::ClusterForHosts(Arc::clone(name)));
        let listeners = self.waiting_listeners.iter().map(|(name, (listener, _))| {
            Waits::ListenerForClusters(Arc::clone(name), missing(listener, &self.snapshot.clusters))
        });
        clusters.chain(listeners).collect()
    }

    fn put_cluster(&mut self, name: Arc<str>, state: Arc<ClusterState>) {
        self.snapshot.clusters.insert(name, state);
        self.changed = true;
    }

    fn drop_left_clusters(&mut self, now: Instant) {
        if self.leaving_clusters.is_empty() {
            return;
        }
        let named: HashSet<Arc<str>> = self.snapshot.listeners.values().flat_map(|l| named_clusters(l)).collect();
        let left = self.leaving_clusters.extract_if(.., |name, until| now >= *until || !named.contains(name));
        for (name, _) in left {
            self.cluster_versions.remove(&name);
            self.changed |= self.snapshot.clusters.remove(&name).is_some();
        }
    }
}

/// The clusters that a listener names and that are neither there nor meant to be missing.
fn missing(listener: &Listener, clusters: &HashMap<Arc<str>, Arc<ClusterState>>) -> Vec<Arc<str>> {
    let absent = |name: &Arc<str>| !clusters.contains_key(name) && !name.starts_with(NEVER);
    let mut missing: Vec<_> = named_clusters(listener).filter(absent).collect();
    missing.sort_unstable();
    missing.dedup();
    missing
}

/// The clusters that a listener's routes and TCP proxies name, repeated as they are.
fn named_clusters(listener: &Listener) -> impl Iterator<Item = Arc<str>> {
    listener.filter_chains.iter().chain(&listener.default_filter_chain).flat_map(|chain| -> Vec<Arc<str>> {
        match &chain.filter {
            NetworkFilter::Http(manager) => match &manager.routes {
                RouteSource::Inline(routes) => routes.cluster_names().cloned().collect(),
            },
            NetworkFilter::Tcp(proxy) => proxy.clusters.iter().map(|(name, _)| Arc::clone(name)).collect(),
        }
    })
}

#[cfg(test)]
mod tests;
