//! What is in force, and how one configuration follows another: make before break.
//!
//! Workers see a [`Snapshot`] and nothing else. A [`Warmer`] takes in changes of single resources and says when there
//! is a new snapshot. What a change does not touch is the same object before and after it, with its pools, breakers and
//! statistics. A cluster whose hosts are not known yet warms while its predecessor goes on serving; a listener waits
//! for the route tables that it takes by name; routes that name a cluster that is missing wait too, and those in force
//! go on serving, until the cluster is there or the wait is over. A removed cluster stays as long as such a wait takes:
//! routes that name it may still be in force, and requests that found it may be on their way.
//!
//! Endpoints and route tables are behind atomic pointers of their own: an update of them touches one cluster, or no
//! listener at all. No request is ever held for configuration. Time is a parameter, and what touches the world is not
//! done, only said: by [`Effect`]s.

mod endpoints;
mod routes;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use self::endpoints::Service;
use self::routes::Configuration;
use crate::balance::ClusterState;
use crate::config::cluster::{Cluster, Discovery};
use crate::config::config_source::{ConfigSource, Origin};
use crate::config::hcm::{Rds, RouteSource};
use crate::config::listener::{Listener, NetworkFilter};
use crate::route::RouteTable;
use crate::xds::{Interest, Kind};

/// Names of clusters that are not meant to exist: nobody waits for them.
pub const NEVER_SENT: &str = "outrigger.invalid/";

/// A route table that is exchanged while listeners use it.
pub type Routes = ArcSwap<RouteTable>;

/// All that is in force. Shared by all workers and exchanged whole.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By name.
    pub clusters: HashMap<Arc<str>, Arc<ClusterState>>,
    /// By name.
    pub listeners: BTreeMap<Arc<str>, Arc<Listener>>,
}

/// What a resource that others take by name is known by: one name from two sources is two resources.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Its name.
    pub name: Arc<str>,
    /// Who has it.
    pub origin: Origin,
}

impl Reference {
    fn new(name: &Arc<str>, source: &ConfigSource) -> Self {
        Reference { name: Arc::clone(name), origin: source.origin.clone() }
    }
}

/// What is wanted of the world.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Ask for this resource, or do not ask any more.
    Subscribe(Interest),
    /// Resolve the names of this cluster, and call [`Warmer::cluster_ready`] when each has had an answer.
    Resolve(Arc<ClusterState>),
    /// This is in force from now on.
    Publish {
        /// All of it.
        snapshot: Arc<Snapshot>,
        /// The clusters that another one took the place of, or none.
        clusters: Vec<Arc<str>>,
        /// Whether the listeners are not those of before.
        listeners: bool,
    },
    /// This table takes the place of the one there.
    Exchange(Arc<Routes>, Arc<RouteTable>),
    /// This cluster has other hosts than before: what is kept for those that left can go.
    Hosts(Arc<ClusterState>),
    /// What was accepted under this name is in force; of what is taken by name, what came from this source.
    InForce(Kind, Arc<str>, Option<Origin>),
}

/// On what a resource waits, as `/init_dump` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waits {
    /// A cluster, for its first hosts.
    ClusterForHosts(Arc<str>),
    /// A listener, for clusters that it names itself.
    ListenerForClusters(Arc<str>, Vec<Arc<str>>),
    /// A listener, for route tables.
    ListenerForRoutes(Arc<str>, Vec<Arc<str>>),
    /// A route table, for clusters.
    RoutesForClusters(Arc<str>, Vec<Arc<str>>),
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is no change.
    Unchanged,
    /// There was none of this name before.
    Added,
    /// It is another version than before.
    Modified,
}

/// Takes changes in and hands snapshots out.
#[derive(Debug)]
pub struct Warmer {
    /// How long routes wait for clusters, and a removed cluster stays.
    cluster_wait: Duration,
    snapshot: Snapshot,
    /// What the next snapshot has changed.
    changed: bool,
    changed_clusters: Vec<Arc<str>>,
    changed_listeners: bool,
    /// Versions, to tell a change from a repetition: of the clusters in force, and of the listeners that came last.
    cluster_versions: HashMap<Arc<str>, u64>,
    listener_versions: HashMap<Arc<str>, u64>,
    warming_clusters: BTreeMap<Arc<str>, (u64, Arc<ClusterState>)>,
    waiting_listeners: BTreeMap<Arc<str>, (Arc<Listener>, Instant)>,
    leaving_clusters: BTreeMap<Arc<str>, Instant>,
    /// Whose successors come into force with the next snapshot: until then their endpoints are wanted.
    replaced_clusters: Vec<Arc<ClusterState>>,
    /// By the name that EDS has for them.
    services: HashMap<Reference, Service>,
    /// By the name that RDS has for them.
    configurations: HashMap<Reference, Configuration>,
    /// Route tables that wait for clusters.
    waiting_routes: HashMap<Reference, (Arc<RouteTable>, Instant)>,
    /// What came into force since the last batch.
    in_force: Vec<(Kind, Arc<str>, Option<Origin>)>,
    effects: Vec<Effect>,
}

impl Warmer {
    /// Nothing is in force.
    pub fn new(cluster_wait: Duration) -> Self {
        Warmer {
            cluster_wait,
            snapshot: Snapshot::default(),
            changed: false,
            changed_clusters: Vec::new(),
            changed_listeners: false,
            cluster_versions: HashMap::new(),
            listener_versions: HashMap::new(),
            warming_clusters: BTreeMap::new(),
            waiting_listeners: BTreeMap::new(),
            leaving_clusters: BTreeMap::new(),
            replaced_clusters: Vec::new(),
            services: HashMap::new(),
            configurations: HashMap::new(),
            waiting_routes: HashMap::new(),
            in_force: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// The cluster `name` has this version: the one that `make` makes, which is called only if it is neither the one in
    /// force nor the one that warms. If it cannot be made, the one of before stays. Where the one in force comes back
    /// while another warms, that one is given up, and nothing else has happened.
    pub fn set_cluster<E>(
        &mut self,
        name: &str,
        version: u64,
        make: impl FnOnce() -> Result<Arc<Cluster>, E>,
    ) -> Result<Applied, E> {
        if self.cluster_versions.get(name) == Some(&version) {
            self.leaving_clusters.remove(name);
            self.drop_warming_cluster(name);
            return Ok(Applied::Unchanged);
        }
        if self.warming_clusters.get(name).is_some_and(|(warming, _)| *warming == version) {
            return Ok(Applied::Unchanged);
        }
        let state = Arc::new(ClusterState::new(make()?));
        self.leaving_clusters.remove(name);
        let name = Arc::clone(&state.config.name);
        let superseded = self.warming_clusters.remove(&name);
        let is_known = superseded.is_some() || self.cluster_versions.contains_key(&name);
        match &state.config.discovery {
            Discovery::Static(_) => self.put_cluster(name, version, state),
            Discovery::StrictDns(_) | Discovery::LogicalDns(_) => {
                self.effects.push(Effect::Resolve(Arc::clone(&state)));
                self.warming_clusters.insert(name, (version, state));
            }
            Discovery::Eds(_) => {
                self.warming_clusters.insert(name, (version, Arc::clone(&state)));
                self.take_endpoints(state);
            }
        }
        if let Some((_, superseded)) = superseded {
            self.release_endpoints(&superseded);
        }
        Ok(if is_known { Applied::Modified } else { Applied::Added })
    }

    /// The hosts of a cluster are known, as far as they can be. A cluster that was changed again meanwhile is left out.
    pub fn cluster_ready(&mut self, cluster: &Arc<ClusterState>) {
        let name = &cluster.config.name;
        if let Some((version, warming)) = self.warming_clusters.get(name)
            && Arc::ptr_eq(warming, cluster)
        {
            let version = *version;
            self.warming_clusters.remove(name);
            self.put_cluster(Arc::clone(name), version, Arc::clone(cluster));
        }
    }

    /// Says whether there was one.
    fn drop_warming_cluster(&mut self, name: &str) -> bool {
        let Some((_, warming)) = self.warming_clusters.remove(name) else { return false };
        self.release_endpoints(&warming);
        true
    }

    /// Until when what is met at `now` waits for clusters, or they for their return.
    fn end_of_wait(&self, now: Instant) -> Instant {
        now.checked_add(self.cluster_wait).unwrap_or(now)
    }

    /// There is no cluster `name` any more; says whether there was one. If it comes back in time with the version in
    /// force, nothing has happened.
    pub fn remove_cluster(&mut self, name: &str, now: Instant) -> bool {
        let warmed = self.drop_warming_cluster(name);
        let Some((name, _)) = self.snapshot.clusters.get_key_value(name) else { return warmed };
        if self.leaving_clusters.contains_key(name) {
            return false;
        }
        self.leaving_clusters.insert(Arc::clone(name), self.end_of_wait(now));
        true
    }

    /// The listener `name` has this version: the one that `make` makes, which is called only if it is another than
    /// before. If it cannot be made, the one of before stays. `make` gets the listener in force, to take its chains over:
    /// so one that comes back while another waits is made again, and its connections stay.
    pub fn set_listener<E>(
        &mut self,
        name: &str,
        version: u64,
        now: Instant,
        make: impl FnOnce(Option<&Arc<Listener>>) -> Result<Arc<Listener>, E>,
    ) -> Result<Applied, E> {
        if self.listener_versions.get(name) == Some(&version) {
            return Ok(Applied::Unchanged);
        }
        let listener = make(self.snapshot.listeners.get(name))?;
        let name = Arc::clone(&listener.name);
        let known = self.listener_versions.insert(Arc::clone(&name), version);
        self.take_routes(&listener);
        // As with routes: one that takes the place of another that waits has no more time than that had.
        let until = self.waiting_listeners.get(&name).map_or_else(|| self.end_of_wait(now), |(_, until)| *until);
        if let Some((superseded, _)) = self.waiting_listeners.insert(name, (listener, until)) {
            self.release_routes(&superseded);
        }
        Ok(known.map_or(Applied::Added, |_| Applied::Modified))
    }

    /// There is no listener `name` any more; says whether there was one.
    pub fn remove_listener(&mut self, name: &str) -> bool {
        self.listener_versions.remove(name);
        let waiting = self.waiting_listeners.remove(name).map(|(listener, _)| listener);
        let in_force = self.snapshot.listeners.remove(name);
        self.changed_listeners |= in_force.is_some();
        for listener in waiting.iter().chain(&in_force) {
            self.release_routes(listener);
        }
        waiting.is_some() || in_force.is_some()
    }

    /// Ends a batch of changes, or a wait: what can be in force is. The effects come in the order in which they are to
    /// be done.
    pub fn settle(&mut self, now: Instant) -> Vec<Effect> {
        self.drop_left_clusters(now);
        let exchanges = self.settle_routes(now);
        self.settle_listeners(now);
        for replaced in std::mem::take(&mut self.replaced_clusters) {
            self.release_endpoints(&replaced);
        }
        if std::mem::take(&mut self.changed) | self.changed_listeners | !self.changed_clusters.is_empty() {
            self.effects.push(Effect::Publish {
                snapshot: Arc::new(self.snapshot.clone()),
                clusters: std::mem::take(&mut self.changed_clusters),
                listeners: std::mem::take(&mut self.changed_listeners),
            });
        }
        // Routes come after the clusters that they name.
        self.effects.extend(exchanges);
        self.effects.extend(self.in_force.drain(..).map(|(kind, name, origin)| Effect::InForce(kind, name, origin)));
        std::mem::take(&mut self.effects)
    }

    /// What need not wait for the end of a batch: hosts, which clusters that are in force have already.
    pub fn settle_hosts(&mut self) -> Vec<Effect> {
        let mut effects: Vec<_> = self.effects.extract_if(.., |effect| matches!(effect, Effect::Hosts(_))).collect();
        let endpoints = self.in_force.extract_if(.., |(kind, ..)| *kind == Kind::Endpoints);
        effects.extend(endpoints.map(|(kind, name, origin)| Effect::InForce(kind, name, origin)));
        effects
    }

    fn settle_listeners(&mut self, now: Instant) {
        let Warmer { waiting_listeners, snapshot, configurations, .. } = self;
        let ready = waiting_listeners.extract_if(.., |name, (listener, until)| {
            let has_another = snapshot.listeners.contains_key(name);
            missing_routes(listener, has_another, configurations).is_empty()
                && (now >= *until || missing(own_clusters(listener), &snapshot.clusters).is_empty())
        });
        let ready: Vec<_> = ready.collect();
        for (name, (listener, _)) in ready {
            self.in_force.push((Kind::Listener, Arc::clone(&name), None));
            let replaced = self.snapshot.listeners.insert(name, listener);
            self.changed_listeners = true;
            if let Some(replaced) = replaced {
                self.release_routes(&replaced);
            }
        }
    }

    /// When [`Warmer::settle`] has something to do, even if nothing happens before.
    pub fn deadline(&self) -> Option<Instant> {
        let listeners = self.waiting_listeners.iter();
        let listeners = listeners.filter(|(name, (listener, _))| self.missing_routes(name, listener).is_empty());
        let routes = self.waiting_routes.values().map(|(_, until)| *until);
        listeners.map(|(_, (_, until))| *until).chain(routes).chain(self.leaving_clusters.values().copied()).min()
    }

    /// What is in force, with what came since the last snapshot.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The clusters that are to come into force.
    pub fn warming_clusters(&self) -> impl Iterator<Item = &Arc<ClusterState>> {
        self.warming_clusters.values().map(|(_, cluster)| cluster)
    }

    /// The listeners that are to come into force.
    pub fn warming_listeners(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.waiting_listeners.values().map(|(listener, _)| listener)
    }

    /// What is not in force yet, and why.
    pub fn waits(&self) -> Vec<Waits> {
        let clusters = self.warming_clusters.keys().map(|name| Waits::ClusterForHosts(Arc::clone(name)));
        let listeners = self.waiting_listeners.iter().map(|(name, (listener, _))| {
            let routes = self.missing_routes(name, listener);
            if routes.is_empty() {
                Waits::ListenerForClusters(Arc::clone(name), missing(own_clusters(listener), &self.snapshot.clusters))
            } else {
                Waits::ListenerForRoutes(Arc::clone(name), routes)
            }
        });
        let mut routes: Vec<_> = self.waiting_routes.iter().collect();
        routes.sort_unstable_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        let routes = routes.into_iter().map(|(routes, (table, _))| {
            let clusters = missing(table.cluster_names().cloned(), &self.snapshot.clusters);
            Waits::RoutesForClusters(Arc::clone(&routes.name), clusters)
        });
        clusters.chain(listeners).chain(routes).collect()
    }

    /// A version of a resource that others take by name came and was refused. Who has nothing yet goes on without, for
    /// a start must not hang on one fault; who would take the place of something that serves waits for a good one.
    pub fn refuse(&mut self, kind: Kind, resource: &Reference) {
        match kind {
            Kind::Endpoints => self.refuse_endpoints(resource),
            Kind::Routes => self.refuse_routes(resource),
            Kind::Cluster | Kind::Listener => {}
        }
    }

    fn missing_routes(&self, name: &str, listener: &Listener) -> Vec<Arc<str>> {
        missing_routes(listener, self.snapshot.listeners.contains_key(name), &self.configurations)
    }

    fn put_cluster(&mut self, name: Arc<str>, version: u64, state: Arc<ClusterState>) {
        self.cluster_versions.insert(Arc::clone(&name), version);
        self.in_force.push((Kind::Cluster, Arc::clone(&name), None));
        if let Some(replaced) = self.snapshot.clusters.insert(Arc::clone(&name), state) {
            self.changed_clusters.push(name);
            self.replaced_clusters.push(replaced);
        }
        self.changed = true;
    }

    fn drop_left_clusters(&mut self, now: Instant) {
        let left: Vec<_> = self.leaving_clusters.extract_if(.., |_, until| now >= *until).collect();
        for (name, _) in left {
            self.cluster_versions.remove(&name);
            if let Some(cluster) = self.snapshot.clusters.remove(&name) {
                self.release_endpoints(&cluster);
                self.changed_clusters.push(name);
            }
        }
    }

    fn subscribe(&mut self, kind: Kind, name: &Arc<str>, source: &Arc<ConfigSource>, wanted: bool) {
        let interest = Interest { kind, name: name.to_string(), source: Arc::clone(source), wanted };
        self.effects.push(Effect::Subscribe(interest));
    }
}

/// The clusters among `named` that are neither there nor meant to be missing.
fn missing(named: impl Iterator<Item = Arc<str>>, clusters: &HashMap<Arc<str>, Arc<ClusterState>>) -> Vec<Arc<str>> {
    let absent = |name: &Arc<str>| !clusters.contains_key(name) && !name.starts_with(NEVER_SENT);
    let missing: HashSet<_> = named.filter(absent).collect();
    let mut missing: Vec<_> = missing.into_iter().collect();
    missing.sort_unstable();
    missing
}

/// The route tables that a listener takes by name and has to wait for. `has_another`: one of its name is in force.
fn missing_routes(
    listener: &Listener,
    has_another: bool,
    configurations: &HashMap<Reference, Configuration>,
) -> Vec<Arc<str>> {
    let unknown = |rds: &&Rds| {
        let configuration = configurations.get(&Reference::new(&rds.name, &rds.source));
        !configuration.is_some_and(|configuration| configuration.is_settled(has_another))
    };
    rds_of(listener).filter(unknown).map(|rds| Arc::clone(&rds.name)).collect()
}

/// The clusters that a listener names itself, in its own routes and TCP proxies, repeated as they are.
fn own_clusters(listener: &Listener) -> impl Iterator<Item = Arc<str>> {
    listener.chains().flat_map(|chain| -> Vec<Arc<str>> {
        match &chain.filter {
            NetworkFilter::Http(manager) => match &manager.routes {
                RouteSource::Inline(routes) => routes.cluster_names().cloned().collect(),
                RouteSource::Rds(_) => Vec::new(),
            },
            NetworkFilter::Tcp(proxy) => proxy.clusters.iter().map(|(name, _)| Arc::clone(name)).collect(),
        }
    })
}

/// The route tables that a listener takes by name, repeated as they are.
fn rds_of(listener: &Listener) -> impl Iterator<Item = &Rds> {
    listener.chains().filter_map(|chain| match &chain.filter {
        NetworkFilter::Http(manager) => match &manager.routes {
            RouteSource::Rds(rds) => Some(rds),
            RouteSource::Inline(_) => None,
        },
        NetworkFilter::Tcp(_) => None,
    })
}

#[cfg(test)]
mod tests;
