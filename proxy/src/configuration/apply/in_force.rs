//! What was accepted comes into force: a snapshot is exchanged, workers hear of it, and what it replaced is freed. The
//! exchange is one step; what need not be done with it follows in parts, between which others have their turn.

use std::sync::Arc;
use std::time::Instant;

use outrigger_engine::balance::ClusterState;
use outrigger_engine::config::listener::FilterChain;
use outrigger_engine::snapshot::{Effect, Reference, Snapshot};
use outrigger_engine::xds::{Interest, Kind};

use super::Applier;
use crate::admin::certs;
use crate::telemetry::memory;
use crate::worker::Command;

/// What the control thread is to do after a step.
#[derive(Debug, Default)]
pub(in crate::configuration) struct Wanted {
    /// Names to resolve.
    pub(in crate::configuration) resolve: Vec<Arc<ClusterState>>,
    /// Resources to ask for, or no more.
    pub(in crate::configuration) interests: Vec<Interest>,
}

impl Wanted {
    /// Whether nothing is.
    pub(in crate::configuration) fn is_empty(&self) -> bool {
        self.resolve.is_empty() && self.interests.is_empty()
    }
}

impl Applier {
    /// The names of a cluster have had their first answers.
    pub(in crate::configuration) fn cluster_ready(&mut self, cluster: &Arc<ClusterState>) {
        self.warmer.cluster_ready(cluster);
    }

    /// When [`Applier::settle`] or [`Applier::tidy`] has something to do, even if nothing happens before.
    pub(in crate::configuration) fn deadline(&self) -> Option<Instant> {
        // An update that is applied in part holds up all else, however long its large tables take.
        let whole = [self.warmer.deadline(), self.trim.map(|(at, _)| at)].into_iter().filter(|_| !self.in_part);
        whole.chain([self.old.deadline()]).flatten().min()
    }

    /// Whether an update of something else than endpoints is applied in part.
    pub(in crate::configuration) fn is_in_part(&self) -> bool {
        self.in_part
    }

    /// Whether everything that was accepted is in force.
    pub(in crate::configuration) fn is_settled(&self) -> bool {
        !self.in_part && self.warmer.waits().is_empty()
    }

    /// Whether a cluster waits for hosts.
    pub(in crate::configuration) fn has_warming_clusters(&self) -> bool {
        self.warmer.warming_clusters().next().is_some()
    }

    /// Workers accept from now on.
    pub(in crate::configuration) fn accept(&mut self) {
        self.accepting = true;
        self.settle_sockets();
        let process = &self.process;
        process.stats.listener_manager.workers_started.set(1);
        let taken = process.started.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
        process.stats.server.initialization_time_ms.record(taken);
    }

    /// Puts in force what need not wait until an update is applied as a whole: hosts of clusters.
    pub(in crate::configuration) fn settle_hosts(&mut self) {
        let effects = self.warmer.settle_hosts();
        self.carry_out(effects);
    }

    /// Puts in force what can be.
    pub(in crate::configuration) fn settle(&mut self, now: Instant) -> Wanted {
        let effects = self.warmer.settle(now);
        let wanted = self.carry_out(effects);
        self.process.waits.store(Arc::new(self.warmer.waits()));
        let stats = &self.process.stats;
        stats.cluster_manager.warming_clusters.set(self.warmer.warming_clusters().count() as u64);
        stats.listener_manager.total_listeners_warming.set(self.warmer.warming_listeners().count() as u64);
        if std::mem::take(&mut self.sockets_changed) {
            self.settle_sockets();
        }
        wanted
    }

    /// Whether [`Applier::tidy`] has something to do.
    pub(in crate::configuration) fn is_untidy(&self, now: Instant) -> bool {
        let whole = !self.in_part && (self.tls_changed || self.trim.is_some_and(|(at, _)| at <= now));
        whole || self.old.is_due(now)
    }

    /// Does one part, of milliseconds, of what can wait until an update is in force and its source has been told.
    /// `waits`: somebody does, so that pages are given back only if they have been kept for long.
    pub(in crate::configuration) fn tidy(&mut self, now: Instant, waits: bool) {
        if !self.in_part && self.trim.take_if(|(_, latest)| *latest <= now).is_some() {
            memory::trim();
        } else if !self.in_part && std::mem::take(&mut self.tls_changed) {
            self.describe_certificates();
        } else if self.old.is_due(now) {
            self.old.clear(now);
        } else if !self.in_part && !waits && self.trim.take_if(|(at, _)| *at <= now).is_some() {
            memory::trim();
        }
    }

    fn describe_certificates(&self) {
        let snapshot = self.warmer.snapshot();
        let listeners = snapshot.listeners.values().flat_map(|listener| listener.chains());
        let downstream = listeners.filter_map(|chain| Some(&chain.tls.as_deref()?.common));
        let upstream = snapshot.clusters.values().filter_map(|cluster| Some(&cluster.config.tls.as_deref()?.common));
        self.process.certificates.store(Arc::new(certs::describe(downstream.chain(upstream))));
    }

    fn carry_out(&mut self, effects: Vec<Effect>) -> Wanted {
        let mut wanted = Wanted::default();
        let (mut changed_hosts, mut exchanged) = (Vec::new(), false);
        for effect in effects {
            match effect {
                Effect::Subscribe(interest) => {
                    let Interest { kind, name, source, .. } = &interest;
                    if interest.wanted {
                        self.process.record.requested(*kind, &source.origin, name);
                    } else {
                        let reference = Reference { name: name.as_str().into(), origin: source.origin.clone() };
                        if *kind == Kind::Routes {
                            self.rds_stats.remove(&reference);
                        }
                        self.process.record.removed(*kind, Some(&source.origin), name);
                    }
                    wanted.interests.push(interest);
                }
                Effect::Resolve(cluster) => wanted.resolve.push(cluster),
                Effect::Publish { snapshot, clusters, listeners } => self.publish(snapshot, clusters, listeners),
                Effect::Exchange(place, table) => {
                    self.old.bury(place.swap(table));
                    exchanged = true;
                }
                Effect::Hosts(cluster) => {
                    // Until a successor is in force, both take the hosts; they have one name, and count once.
                    let in_force = self.warmer.snapshot().clusters.get(&cluster.config.name);
                    if in_force.is_none_or(|state| Arc::ptr_eq(state, &cluster)) {
                        let scope = self.process.stats.cluster(cluster.config.stat_name());
                        scope.shared.update_success.inc();
                        scope.shared.membership_change.inc();
                    }
                    changed_hosts.push(cluster);
                }
                Effect::InForce(kind, name, origin) => self.process.record.in_force(kind, origin.as_ref(), &name),
            }
        }
        if !changed_hosts.is_empty() {
            let changed = Arc::new(changed_hosts);
            self.process.workers.tell(|| Command::Hosts(changed.clone()));
            self.old.bury(changed);
        }
        if exchanged {
            self.process.workers.tell(|| Command::Routes);
        }
        wanted
    }

    fn publish(&mut self, snapshot: Arc<Snapshot>, clusters: Vec<Arc<str>>, listeners: bool) {
        let process = self.process.clone();
        if listeners {
            for (name, old) in &process.snapshot.load().listeners {
                let Some(new) = snapshot.listeners.get(name) else { continue };
                let kept = |chain: &Arc<FilterChain>| new.chains().any(|new| Arc::ptr_eq(new, chain));
                if Arc::ptr_eq(old, new) {
                    continue;
                }
                if old.chains().any(kept) {
                    process.stats.listener_manager.listener_in_place_updated.inc();
                } else {
                    process.record.drains(old);
                }
            }
        }
        let old = process.snapshot.swap(snapshot.clone());
        for cluster in clusters.iter().filter_map(|name| old.clusters.get(name)) {
            self.old.bury(cluster.clone());
        }
        self.old.bury(old);
        for name in clusters.iter().filter(|name| !snapshot.clusters.contains_key(*name)) {
            self.cluster_stats.remove(name);
        }
        if listeners || !clusters.is_empty() {
            let clusters = Arc::new(clusters);
            process.workers.tell(|| Command::Follow { clusters: clusters.clone(), listeners });
            self.old.bury(clusters);
        }
        self.sockets_changed |= listeners;
        if listeners {
            // One that waits is configured too.
            self.log_files.retain(|name, _| self.listener_names.contains(name));
        }
    }

    /// Hands sockets out, and closes those that nobody wants.
    fn settle_sockets(&mut self) {
        let in_force = &self.warmer.snapshot().listeners;
        if self.accepting {
            self.sockets.settle(in_force, self.warmer.warming_listeners(), &self.process.workers);
        }
        self.process.addresses.store(Arc::new(self.sockets.addresses(in_force)));
    }
}
