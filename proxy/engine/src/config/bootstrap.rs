//! `envoy.config.bootstrap.v3.Bootstrap`: what the process starts from.

use std::sync::Arc;

use crate::config::cluster::Cluster;
use crate::config::listener::Listener;
use crate::stream_info::Address;

/// The validated bootstrap.
#[derive(Debug)]
pub struct Bootstrap {
    /// Who we are, as control planes see it; kept as the message.
    pub node: outrigger_proto::envoy::config::core::v3::Node,
    /// `static_resources.listeners`.
    pub listeners: Vec<Arc<Listener>>,
    /// `static_resources.clusters`, each with its `load_assignment`.
    pub clusters: Vec<Arc<Cluster>>,
    /// The admin listener.
    pub admin: Option<Admin>,
    /// `envoy.resource_monitors.global_downstream_max_connections`, or the runtime key
    /// `overload.global_downstream_max_connections`.
    pub max_downstream_connections: Option<u64>,
    /// The static layers of `layered_runtime`, flattened in order: key and value as text.
    pub runtime: std::collections::BTreeMap<String, String>,
}

/// `admin`.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where it listens.
    pub address: Address,
}
