//! Which host gets the next request.
//!
//! What all workers see is shared and immutable (a [`HostSet`], exchanged whole) or atomic (the counters of a
//! [`Host`]); what a worker needs to choose, a rotation or a schedule, is its own [`Picker`]. So a pick takes no lock
//! and writes nothing that another core reads.

mod edf;
mod host;
mod host_set;
mod load;
mod picker;

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::cluster::{Cluster, Discovery};
use crate::resilience::breaker::Breakers;

pub use host::{Health, Host, HostStats};
pub use host_set::{HostList, HostSet, HostSetBuilder, LocalityInfo, Member, PriorityHosts};
pub use picker::{NoHost, PickContext, Picker};

/// A cluster at work: its configuration, its hosts and what is under way, shared by all workers.
#[derive(Debug)]
pub struct ClusterState {
    /// The configuration.
    pub config: Arc<Cluster>,
    /// The hosts of now. A picker follows every exchange by itself.
    pub hosts: Arc<ArcSwap<HostSet>>,
    /// What is under way, for the whole process.
    pub breakers: Arc<Breakers>,
}

impl ClusterState {
    /// A cluster with its static hosts; without any for the other kinds of discovery.
    pub fn new(config: Arc<Cluster>) -> Self {
        let hosts = match &config.discovery {
            Discovery::Static(hosts) => Arc::clone(hosts),
            Discovery::StrictDns(_) | Discovery::LogicalDns(_) | Discovery::Eds(_) => Arc::default(),
        };
        let breakers = Arc::new(Breakers::new(&config.circuit_breakers));
        ClusterState { config, hosts: Arc::new(ArcSwap::new(hosts)), breakers }
    }
}
