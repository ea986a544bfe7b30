//! Updates become what is in force. This computes (decoding, converting, hashing) and binds sockets, so it runs beside
//! the control thread, one step at a time: [`Applier`] goes to the builder (`builder.rs`) with each step and comes back.

mod in_force;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use outrigger_engine::config::cluster::Cluster;
use outrigger_engine::config::config_source::Origin;
use outrigger_engine::config::hcm::RouteSource;
use outrigger_engine::config::listener::{Listener, NetworkFilter};
use outrigger_engine::route::RouteTable;
use outrigger_engine::snapshot::{Applied, Reference, Warmer};
use outrigger_engine::xds::{Kind, Rejection, Resource, Update};

pub(super) use self::in_force::Wanted;
use super::after;
use super::builder::Builder;
use super::graveyard::Graveyard;
use super::resource::{self, Reasons};
use super::sockets::Sockets;
use crate::process::Process;
use crate::server::StartError;
use crate::telemetry::access_log::LogFile;
use crate::telemetry::stats::{ClusterStats, RdsStats, Scope, XdsStats};

/// `cluster_wait`: how long routes wait for clusters, and removed clusters stay.
pub(super) const CLUSTER_WAIT: Duration = Duration::from_secs(1);

/// An update of so many resources frees so much that pages are given back, and when: after the last one of a series,
/// because that takes milliseconds, and what replaces it uses the same pages again; and when the workers have let go of
/// what it replaced and that is freed. A series that does not end leaves ever more pages half used, so the wait is no
/// longer than `SERIES`.
const MANY: usize = 100;
const QUIET: Duration = Duration::from_secs(2);
const SERIES: Duration = Duration::from_secs(10);

/// A slice of an update is over after so much time, in which two hundred clusters are made, or ten listeners with TLS;
/// and after so many resources, so that it is a slice on a quick machine too.
const SLICE_TIME: Duration = Duration::from_millis(5);
pub(super) const SLICE: usize = 256;

/// Route tables of more bytes are made beside the steps: ten thousand routes take thirty milliseconds.
pub(super) const LARGE_TABLE: usize = 64 << 10;

/// An update that is being applied.
#[derive(Debug)]
pub(super) struct Progress {
    origin: Origin,
    left: std::vec::IntoIter<Resource>,
    /// Route tables to be made beside the steps before it goes on, and those that were, by name.
    to_make: Vec<Resource>,
    made: HashMap<String, Result<Arc<RouteTable>, Reasons>>,
    /// Names to be removed when nothing is left of the resources.
    removed: std::vec::IntoIter<String>,
    /// Whether it frees much.
    large: bool,
    /// All but what comes in slices.
    rest: Update,
    unreadable: Vec<Rejection>,
    rejections: Vec<Rejection>,
    started: Instant,
    now: SystemTime,
}

impl Progress {
    /// Of all of it.
    pub(super) fn kind(&self) -> Kind {
        self.rest.kind
    }

    /// Whether [`Progress::make_tables`] comes before the next slice.
    pub(super) fn waits_for_tables(&self) -> bool {
        !self.to_make.is_empty()
    }

    /// Makes the large tables, which takes long.
    pub(super) fn make_tables(mut self) -> Self {
        for resource in std::mem::take(&mut self.to_make) {
            let table = resource::routes(&resource);
            self.made.insert(resource.name, table);
        }
        self
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Applier {
    process: Arc<Process>,
    warmer: Warmer,
    sockets: Sockets,
    /// Whether workers accept connections: not before what the start waits for is there.
    accepting: bool,
    /// Names that only the bootstrap configures.
    static_clusters: HashSet<Arc<str>>,
    static_listeners: HashSet<Arc<str>>,
    /// The counters of each kind that came by discovery.
    kinds: BTreeMap<Kind, Arc<Scope<XdsStats>>>,
    /// The counters of each cluster, so that unused ones show too.
    cluster_stats: HashMap<Arc<str>, Arc<Scope<ClusterStats>>>,
    /// The counters of each route configuration, once for each `stat_prefix` that takes it.
    rds_stats: HashMap<Reference, Vec<Arc<Scope<RdsStats>>>>,
    /// The files that listeners log to, open as long as one is configured to.
    log_files: HashMap<Arc<str>, Vec<Arc<LogFile>>>,
    /// The listeners that are configured, in force or not yet.
    listener_names: HashSet<Arc<str>>,
    /// Listeners came, went or failed: sockets may have to be handed out or closed.
    sockets_changed: bool,
    /// TLS contexts came or went.
    tls_changed: bool,
    /// An update of something else than endpoints is applied in part: what came of it is not to be seen yet.
    in_part: bool,
    /// What is not in force any more, and may be in use.
    old: Graveyard,
    /// When freed pages are to be given back, and at the latest.
    trim: Option<(Instant, Instant)>,
}

impl Applier {
    /// Nothing is configured. `pieces` frees what takes long.
    pub(super) fn new(process: Arc<Process>, pieces: Builder) -> Self {
        Applier {
            process,
            warmer: Warmer::new(CLUSTER_WAIT),
            sockets: Sockets::default(),
            accepting: false,
            static_clusters: HashSet::new(),
            static_listeners: HashSet::new(),
            kinds: BTreeMap::new(),
            cluster_stats: HashMap::new(),
            rds_stats: HashMap::new(),
            log_files: HashMap::new(),
            listener_names: HashSet::new(),
            sockets_changed: false,
            tls_changed: false,
            in_part: false,
            old: Graveyard::new(pieces),
            trim: None,
        }
    }

    /// Takes in what the bootstrap configures, whose files were read with it; one thing that cannot be is the end.
    pub(super) fn start(
        &mut self,
        clusters: Vec<Arc<Cluster>>,
        listeners: Vec<Arc<Listener>>,
    ) -> Result<(), StartError> {
        for cluster in clusters {
            let name = cluster.name.clone();
            self.static_clusters.insert(name.clone());
            self.set_cluster(&name, 0, || Ok::<_, StartError>(cluster))?;
        }
        for listener in listeners {
            self.open(&listener)?;
            let name = listener.name.clone();
            self.static_listeners.insert(name.clone());
            self.set_listener(&name, 0, Instant::now(), |_| Ok::<_, StartError>(listener))?;
        }
        Ok(())
    }

    /// Something came: [`Applier::advance`] applies it. `unreadable` came with it and could not even be decoded. Of all
    /// kinds but endpoints, one is done with before the next begins.
    pub(super) fn begin(&mut self, origin: Origin, mut rest: Update, unreadable: Vec<Rejection>) -> Progress {
        let (started, now) = (Instant::now(), SystemTime::now());
        let (changed, mut removed) = (std::mem::take(&mut rest.changed), std::mem::take(&mut rest.removed));
        let large = changed.len().saturating_add(removed.len()) >= MANY;
        self.in_part |= rest.kind != Kind::Endpoints;
        // An address must be free before another listener takes it; everything else is made before the old one breaks.
        if rest.kind == Kind::Listener {
            removed.drain(..).for_each(|name| self.remove(rest.kind, &origin, &name));
        }
        let is_to_be_made = |resource: &&Resource| {
            let reference = || Reference { name: resource.name.as_str().into(), origin: origin.clone() };
            rest.kind == Kind::Routes
                && resource.body.len() > LARGE_TABLE
                && self.warmer.wants_routes(&reference(), resource::fingerprint(resource))
        };
        let to_make = changed.iter().filter(is_to_be_made).cloned().collect();
        let (left, removed, made, rejections) = (changed.into_iter(), removed.into_iter(), HashMap::new(), Vec::new());
        Progress { origin, left, to_make, made, removed, large, rest, unreadable, rejections, started, now }
    }

    /// Applies the next slice, each resource by itself. All that were rejected, if nothing is left.
    pub(super) fn advance(&mut self, progress: &mut Progress) -> Option<Vec<Rejection>> {
        if progress.waits_for_tables() {
            return None;
        }
        let Progress { origin, left, made, removed, large, rest, unreadable, rejections, started, now, .. } = progress;
        let (kind, origin, now) = (rest.kind, &*origin, *now);
        let slice = Instant::now();
        for resource in left.take(SLICE) {
            let reference = Reference { name: resource.name.as_str().into(), origin: origin.clone() };
            let outcome = self.set(kind, &reference, &resource, made);
            if kind == Kind::Routes {
                self.count_routes(&reference, &outcome);
            }
            let of = by_name(kind, origin);
            match outcome {
                Ok(Applied::Unchanged) => {
                    self.process.record.repeated(kind, of, &resource);
                    if kind == Kind::Cluster {
                        self.process.record.kept(kind, &resource, now);
                    }
                }
                Ok(Applied::Added | Applied::Modified) => {
                    self.process.record.accepted(kind, of, &resource, now);
                }
                Err(reasons) => {
                    self.reject(kind, origin, &resource, &reasons, now);
                    rejections.push(Rejection { name: resource.name, reasons });
                }
            }
            if slice.elapsed() >= SLICE_TIME {
                break;
            }
        }
        if !left.as_slice().is_empty() {
            return None;
        }
        for name in removed {
            self.remove(kind, origin, &name);
            if slice.elapsed() >= SLICE_TIME {
                return None;
            }
        }
        self.in_part &= kind == Kind::Endpoints;
        if *large {
            let ended = Instant::now();
            let latest = self.trim.map_or_else(|| after(ended, SERIES), |(_, latest)| latest);
            self.trim = Some((latest.min(after(ended, QUIET)), latest));
        }
        for name in &rest.timed_out {
            self.process.record.timed_out(kind, origin, name);
        }
        for (name, reason) in std::mem::take(&mut rest.errors) {
            self.process.record.unavailable(kind, by_name(kind, origin), name, reason, now);
        }
        for Rejection { name, reasons } in std::mem::take(unreadable) {
            let body = Default::default();
            let nothing = Resource { name: name.clone(), version: String::new(), body };
            self.reject(kind, origin, &nothing, &reasons, now);
            rejections.push(Rejection { name, reasons });
        }
        let stats = self.kinds.entry(kind).or_insert_with(|| self.process.stats.xds(kind.service()));
        stats.shared.rejected.add(rejections.len() as u64);
        if let Some(stats) = self.process.stats.subscription(kind) {
            match rejections.is_empty() {
                true => stats.update_success.inc(),
                false => stats.update_rejected.inc(),
            }
            let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
            stats.update_time.set(since.as_millis().try_into().unwrap_or(u64::MAX));
            stats.update_duration.record(started.elapsed().as_micros().try_into().unwrap_or(u64::MAX));
        }
        Some(std::mem::take(rejections))
    }

    /// What comes from `origin` cannot be had at present; an empty name stands for all of it.
    pub(super) fn fail(&mut self, kind: Kind, origin: &Origin, names: &[String], reason: &str) {
        tracing::warn!(target: "config", "{kind:?}: {reason}");
        let now = SystemTime::now();
        if let Some(stats) = self.process.stats.subscription(kind) {
            stats.update_failure.inc();
        }
        for name in names {
            let reference = Reference { name: name.as_str().into(), origin: origin.clone() };
            for cluster in self.warmer.clusters_of(&reference) {
                self.process.stats.cluster(cluster.config.stat_name()).shared.update_failure.inc();
            }
            if kind == Kind::Routes {
                for scope in self.rds_stats.get(&reference).into_iter().flatten() {
                    scope.shared.update_failure.inc();
                }
            }
            let resource = Resource { name: name.clone(), version: String::new(), body: Default::default() };
            self.process.record.rejected(kind, by_name(kind, origin), &resource, reason.to_owned(), now);
        }
    }

    fn reject(&mut self, kind: Kind, origin: &Origin, resource: &Resource, reasons: &[String], now: SystemTime) {
        let name = &resource.name;
        let reference = Reference { name: name.as_str().into(), origin: origin.clone() };
        self.warmer.refuse(kind, &reference);
        if kind == Kind::Endpoints {
            for cluster in self.warmer.clusters_of(&reference) {
                self.process.stats.cluster(cluster.config.stat_name()).shared.update_rejected.inc();
            }
        }
        if self.process.record.rejected(kind, by_name(kind, origin), resource, reasons.join("\n"), now) {
            tracing::warn!(target: "config", "{kind:?} {name:?} is rejected: {}", reasons.join("; "));
        } else {
            tracing::debug!(target: "config", "{kind:?} {name:?} is rejected once more");
        }
    }

    fn set(
        &mut self,
        kind: Kind,
        reference: &Reference,
        resource: &Resource,
        made: &mut HashMap<String, Result<Arc<RouteTable>, Reasons>>,
    ) -> Result<Applied, Reasons> {
        let name = resource.name.as_str();
        let version = resource::fingerprint(resource);
        match kind {
            Kind::Cluster => {
                if self.static_clusters.contains(name) {
                    return Err(vec!["name: a cluster of the bootstrap has this name".to_owned()]);
                }
                self.set_cluster(name, version, || resource::cluster(resource))
            }
            Kind::Endpoints => self.warmer.set_endpoints(reference, version, || resource::endpoints(resource)),
            Kind::Listener => {
                if self.static_listeners.contains(name) {
                    return Err(vec!["name: a listener of the bootstrap has this name".to_owned()]);
                }
                // `make` cannot borrow them while the warmer is at work.
                let (mut sockets, mut log_files) = (std::mem::take(&mut self.sockets), None);
                let names = std::mem::take(&mut self.listener_names);
                let process = self.process.clone();
                let applied = self.set_listener(name, version, Instant::now(), |previous| {
                    let listener = resource::listener(resource, previous.map(|listener| &**listener))?;
                    let files = open_logs(&process, &listener).map_err(|error| vec![error.to_string()])?;
                    // Last: what it takes is not given back.
                    let is_there = |name: &str| names.contains(name);
                    sockets.bind(&listener, process.concurrency, is_there).map_err(|error| vec![error.to_string()])?;
                    log_files = Some(files);
                    Ok::<_, Reasons>(Arc::new(listener))
                });
                (self.sockets, self.listener_names) = (sockets, names);
                if applied.is_ok() {
                    self.listener_names.insert(name.into());
                }
                if let (Some(files), Ok(_)) = (log_files, &applied) {
                    self.log_files.insert(name.into(), files);
                }
                applied
            }
            Kind::Routes => self.warmer.set_routes(reference, version, Instant::now(), || {
                made.remove(name).unwrap_or_else(|| resource::routes(resource))
            }),
        }
    }

    fn set_cluster<E>(
        &mut self,
        name: &str,
        version: u64,
        make: impl FnOnce() -> Result<Arc<Cluster>, E>,
    ) -> Result<Applied, E> {
        let mut made = None;
        let applied =
            self.warmer.set_cluster(name, version, || make().inspect(|cluster| made = Some(cluster.clone())))?;
        let stats = &self.process.stats;
        match applied {
            Applied::Added => stats.cluster_manager.cluster_added.inc(),
            Applied::Modified => stats.cluster_manager.cluster_modified.inc(),
            Applied::Unchanged => {}
        }
        if let Some(cluster) = made {
            self.tls_changed |= cluster.tls.is_some();
            self.cluster_stats.insert(cluster.name.clone(), stats.cluster(cluster.stat_name()));
        }
        Ok(applied)
    }

    fn set_listener<E>(
        &mut self,
        name: &str,
        version: u64,
        now: Instant,
        make: impl FnOnce(Option<&Arc<Listener>>) -> Result<Arc<Listener>, E>,
    ) -> Result<Applied, E> {
        let mut made = None;
        let make = |previous: Option<&Arc<Listener>>| make(previous).inspect(|listener| made = Some(listener.clone()));
        let applied = self.warmer.set_listener(name, version, now, make);
        if let Some(listener) = made {
            self.hold_rds_stats(&listener);
        }
        let stats = &self.process.stats.listener_manager;
        match &applied {
            Ok(Applied::Added) => stats.listener_added.inc(),
            Ok(Applied::Modified) => stats.listener_modified.inc(),
            Ok(Applied::Unchanged) => {}
            Err(_) => stats.listener_create_failure.inc(),
        }
        self.sockets_changed |= !matches!(applied, Ok(Applied::Unchanged));
        if applied.as_ref().is_ok_and(|applied| *applied != Applied::Unchanged) {
            stats.listener_create_success.add(self.process.concurrency as u64);
            self.tls_changed = true;
        }
        applied
    }

    /// Route configurations are counted for the connection managers that take them.
    fn hold_rds_stats(&mut self, listener: &Listener) {
        for chain in listener.chains() {
            let NetworkFilter::Http(manager) = &chain.filter else { continue };
            let RouteSource::Rds(rds) = &manager.routes else { continue };
            let scope = self.process.stats.rds(&manager.stat_prefix, &rds.name);
            let reference = Reference { name: rds.name.clone(), origin: rds.source.origin.clone() };
            let scopes = self.rds_stats.entry(reference).or_default();
            if !scopes.iter().any(|known| Arc::ptr_eq(known, &scope)) {
                scopes.push(scope);
            }
        }
    }

    fn count_routes(&self, routes: &Reference, applied: &Result<Applied, Reasons>) {
        for scope in self.rds_stats.get(routes).into_iter().flatten() {
            match applied {
                Ok(applied) => {
                    scope.shared.update_success.inc();
                    scope.shared.config_reload.add((*applied != Applied::Unchanged).into());
                }
                Err(_) => scope.shared.update_rejected.inc(),
            }
        }
    }

    /// Binds a listener of the bootstrap, and opens its logs.
    fn open(&mut self, listener: &Listener) -> Result<(), StartError> {
        self.sockets.bind(listener, self.process.concurrency, |_| true)?;
        let files = open_logs(&self.process, listener)?;
        self.listener_names.insert(listener.name.clone());
        self.log_files.insert(listener.name.clone(), files);
        Ok(())
    }

    fn remove(&mut self, kind: Kind, origin: &Origin, name: &str) {
        let reference = || Reference { name: name.into(), origin: origin.clone() };
        let stats = &self.process.stats;
        match kind {
            Kind::Cluster if !self.static_clusters.contains(name) => {
                if self.warmer.remove_cluster(name, Instant::now()) {
                    stats.cluster_manager.cluster_removed.inc();
                }
                if !self.warmer.snapshot().clusters.contains_key(name) {
                    self.cluster_stats.remove(name);
                }
                self.process.record.removed(kind, None, name);
            }
            Kind::Listener if !self.static_listeners.contains(name) => {
                if let Some(listener) = self.warmer.snapshot().listeners.get(name) {
                    self.process.record.drains(listener);
                }
                self.listener_names.remove(name);
                if self.warmer.remove_listener(name) {
                    self.sockets_changed = true;
                    stats.listener_manager.listener_removed.inc();
                    self.tls_changed = true;
                }
                self.process.record.removed(kind, None, name);
            }
            // What was refused in favour of the bootstrap's is shown no longer.
            Kind::Cluster | Kind::Listener => self.process.record.removed(kind, None, name),
            Kind::Endpoints => {
                self.warmer.remove_endpoints(&reference());
                self.process.record.absent(kind, origin, name);
            }
            Kind::Routes => {
                self.warmer.remove_routes(&reference());
                self.process.record.absent(kind, origin, name);
            }
        }
    }
}

/// The source that tells resources of one name apart; clusters and listeners have one for all.
fn by_name(kind: Kind, origin: &Origin) -> Option<&Origin> {
    match kind {
        Kind::Endpoints | Kind::Routes => Some(origin),
        Kind::Cluster | Kind::Listener => None,
    }
}

fn open_logs(
    process: &Process,
    listener: &Listener,
) -> Result<Vec<Arc<LogFile>>, crate::telemetry::access_log::OpenError> {
    let mut files = Vec::new();
    for logs in listener.all_access_logs() {
        files.extend(process.access_logs.open(logs)?);
    }
    Ok(files)
}
