//! `envoy.config.cluster.v3.Cluster`.

use std::sync::Arc;

/// A cluster as configured.
#[derive(Debug)]
pub struct Cluster {
    /// Its name.
    pub name: Arc<str>,
}
