//! EDS: which clusters take their hosts from which assignment.
//!
//! An assignment's hosts are made once, whichever clusters use them, and a host that stays is the same object from one
//! assignment to the next. A changed cluster starts with the hosts of its predecessor: nobody has to send them again,
//! unless it takes them from another source.

use std::sync::Arc;

use super::{Applied, Effect, Reference, Warmer};
use crate::balance::{ClusterState, HostSet};
use crate::config::cluster::{Discovery, Eds};
use crate::config::config_source::ConfigSource;
use crate::config::endpoint::LoadAssignment;
use crate::xds::Kind;

/// What EDS says under one name.
#[derive(Debug)]
pub(super) struct Service {
    source: Arc<ConfigSource>,
    /// Of the assignment in force; `None`: there is none yet.
    version: Option<u64>,
    state: State,
    hosts: Arc<HostSet>,
    /// The clusters with these hosts: warming, in force, or leaving.
    clusters: Vec<Arc<ClusterState>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing is known: clusters wait.
    Unknown,
    /// All that came was refused: clusters that have no predecessor wait no longer.
    Refused,
    /// An assignment came, or it is certain that there is none.
    Settled,
}

impl Warmer {
    /// The assignment has this version: the one that `make` makes, which is called only if it is another than
    /// before, and if some cluster uses it.
    pub fn set_endpoints<E>(
        &mut self,
        assignment: &Reference,
        version: u64,
        make: impl FnOnce() -> Result<LoadAssignment, E>,
    ) -> Result<Applied, E> {
        let Some((known, _)) = self.services.get_key_value(assignment) else { return Ok(Applied::Unchanged) };
        let (name, origin) = (Arc::clone(&known.name), known.origin.clone());
        let Some(service) = self.services.get_mut(assignment) else { return Ok(Applied::Unchanged) };
        if service.version == Some(version) {
            return Ok(Applied::Unchanged);
        }
        service.hosts = Arc::new(HostSet::from_assignment(&make()?, Some(&service.hosts)));
        let known = service.version.replace(version);
        service.state = State::Settled;
        self.in_force.push((Kind::Endpoints, name, Some(origin)));
        let clusters = service.clusters.clone();
        for cluster in &clusters {
            cluster.hosts.store(Arc::clone(&service.hosts));
            self.effects.push(Effect::Hosts(Arc::clone(cluster)));
        }
        clusters.iter().for_each(|cluster| self.cluster_ready(cluster));
        Ok(known.map_or(Applied::Added, |_| Applied::Modified))
    }

    /// Nobody has the assignment. Clusters that wait for it go on without hosts; hosts that are known stay.
    pub fn remove_endpoints(&mut self, assignment: &Reference) {
        let Some(service) = self.services.get_mut(assignment) else { return };
        service.state = State::Settled;
        let clusters = service.clusters.clone();
        clusters.iter().for_each(|cluster| self.cluster_ready(cluster));
    }

    /// See [`Warmer::refuse`].
    pub(super) fn refuse_endpoints(&mut self, assignment: &Reference) {
        let Some(service) = self.services.get_mut(assignment) else { return };
        if service.state == State::Unknown {
            service.state = State::Refused;
        }
        for cluster in service.clusters.clone() {
            if !self.snapshot.clusters.contains_key(&cluster.config.name) {
                self.cluster_ready(&cluster);
            }
        }
    }

    /// The clusters that take their hosts from the assignment.
    pub fn clusters_of(&self, assignment: &Reference) -> &[Arc<ClusterState>] {
        self.services.get(assignment).map_or(&[], |service| service.clusters.as_slice())
    }

    /// A cluster of EDS is warming: it takes the hosts that are known, and those to come.
    pub(super) fn take_endpoints(&mut self, cluster: Arc<ClusterState>) {
        let Discovery::Eds(Eds { service_name, source }) = &cluster.config.discovery else { return };
        let assignment = Reference::new(service_name, source);
        if !self.services.contains_key(&assignment) {
            self.subscribe(Kind::Endpoints, service_name, source, true);
        }
        let service = self.services.entry(assignment).or_insert_with(|| Service {
            source: Arc::clone(source),
            version: None,
            state: State::Unknown,
            hosts: Arc::default(),
            clusters: Vec::new(),
        });
        service.clusters.push(Arc::clone(&cluster));
        let is_ready = match service.state {
            State::Unknown => false,
            State::Refused => !self.snapshot.clusters.contains_key(&cluster.config.name),
            State::Settled => true,
        };
        if is_ready {
            cluster.hosts.store(Arc::clone(&service.hosts));
            self.cluster_ready(&cluster);
        }
    }

    /// A cluster has gone; with the last one, the interest in its assignment goes too.
    pub(super) fn release_endpoints(&mut self, cluster: &Arc<ClusterState>) {
        let Discovery::Eds(Eds { service_name, source }) = &cluster.config.discovery else { return };
        let assignment = Reference::new(service_name, source);
        let Some(service) = self.services.get_mut(&assignment) else { return };
        service.clusters.retain(|user| !Arc::ptr_eq(user, cluster));
        if service.clusters.is_empty()
            && let Some(service) = self.services.remove(&assignment)
        {
            self.subscribe(Kind::Endpoints, &assignment.name, &service.source, false);
        }
    }
}
