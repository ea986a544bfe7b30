//! EDS: which clusters take their hosts from which assignment.
//!
//! An assignment's hosts are made once, whichever clusters use them, and a host that stays is the same object from one
//! assignment to the next. A changed cluster starts with the hosts of its predecessor: nobody has to send them again.

use std::sync::Arc;

use super::{Applied, Effect, Warmer};
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
    /// An assignment came, or it is certain that there is none.
    settled: bool,
    hosts: Arc<HostSet>,
    /// The clusters with these hosts: warming, in force, or leaving.
    clusters: Vec<Arc<ClusterState>>,
}

impl Warmer {
    /// The assignment `name` has this version: the one that `make` makes, which is called only if it is another than
    /// before, and if some cluster uses it.
    pub fn set_endpoints<E>(
        &mut self,
        name: &str,
        version: u64,
        make: impl FnOnce() -> Result<LoadAssignment, E>,
    ) -> Result<Applied, E> {
        let Some((known_name, _)) = self.services.get_key_value(name) else { return Ok(Applied::Unchanged) };
        let known_name = Arc::clone(known_name);
        let Some(service) = self.services.get_mut(name) else { return Ok(Applied::Unchanged) };
        if service.version == Some(version) {
            return Ok(Applied::Unchanged);
        }
        service.hosts = Arc::new(HostSet::from_assignment(&make()?, Some(&service.hosts)));
        let known = service.version.replace(version);
        service.settled = true;
        self.in_force.push((Kind::Endpoints, known_name));
        let clusters = service.clusters.clone();
        for cluster in &clusters {
            cluster.hosts.store(Arc::clone(&service.hosts));
            self.effects.push(Effect::Hosts(Arc::clone(cluster)));
        }
        clusters.iter().for_each(|cluster| self.cluster_ready(cluster));
        Ok(known.map_or(Applied::Added, |_| Applied::Modified))
    }

    /// Nobody has an assignment `name`. Clusters that wait for it go on without hosts; hosts that are known stay.
    pub fn remove_endpoints(&mut self, name: &str) {
        let Some(service) = self.services.get_mut(name) else { return };
        service.settled = true;
        let clusters = service.clusters.clone();
        clusters.iter().for_each(|cluster| self.cluster_ready(cluster));
    }

    /// The clusters that take their hosts from the assignment `name`.
    pub fn clusters_of(&self, name: &str) -> &[Arc<ClusterState>] {
        self.services.get(name).map_or(&[], |service| service.clusters.as_slice())
    }

    /// A cluster of EDS is warming: it takes the hosts that are known, and those to come.
    pub(super) fn take_endpoints(&mut self, cluster: Arc<ClusterState>) {
        let Discovery::Eds(Eds { service_name, source }) = &cluster.config.discovery else { return };
        let (name, source) = (Arc::clone(service_name), Arc::clone(source));
        if !self.services.contains_key(&name) {
            self.subscribe(Kind::Endpoints, &name, &source, true);
        }
        let service = self.services.entry(name).or_insert_with(|| Service {
            source,
            version: None,
            settled: false,
            hosts: Arc::default(),
            clusters: Vec::new(),
        });
        service.clusters.push(Arc::clone(&cluster));
        if service.settled {
            cluster.hosts.store(Arc::clone(&service.hosts));
            self.cluster_ready(&cluster);
        }
    }

    /// A cluster has gone; with the last one, the interest in its assignment goes too.
    pub(super) fn release_endpoints(&mut self, cluster: &Arc<ClusterState>) {
        let Discovery::Eds(Eds { service_name, .. }) = &cluster.config.discovery else { return };
        let Some(service) = self.services.get_mut(service_name) else { return };
        service.clusters.retain(|user| !Arc::ptr_eq(user, cluster));
        if service.clusters.is_empty()
            && let Some((name, service)) = self.services.remove_entry(service_name)
        {
            self.subscribe(Kind::Endpoints, &name, &service.source, false);
        }
    }
}
