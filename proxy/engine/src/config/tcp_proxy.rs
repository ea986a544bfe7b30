//! `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`.

use std::sync::Arc;
use std::time::Duration;

use crate::config::access_log::AccessLog;

/// Passes bytes between a downstream connection and one of a cluster's hosts.
#[derive(Clone, Debug)]
pub struct TcpProxy {
    /// `tcp.<stat_prefix>`.
    pub stat_prefix: Arc<str>,
    /// Clusters with their weights; the sum is above zero.
    pub clusters: Vec<(Arc<str>, u32)>,
    /// Neither direction has moved a byte for so long: the connection is closed. 1 h by default, `None` for never.
    pub idle_timeout: Option<Duration>,
    /// The connection's longest life.
    pub max_downstream_connection_duration: Option<Duration>,
    /// Connects tried, at least 1.
    pub max_connect_attempts: u32,
    /// Access logs.
    pub access_logs: Vec<AccessLog>,
}
