//! Conversions that other resources do not have yet; each goes when its own comes.

use outrigger_proto::envoy::config::{accesslog::v3 as accesslog, cluster::v3 as cluster};

use super::access_log::AccessLog;
use super::cluster::Cluster;
use super::report::At;

impl AccessLog {
    /// No log.
    pub fn convert(_message: accesslog::AccessLog, _at: &At<'_>) -> Option<AccessLog> {
        Some(AccessLog {})
    }
}

impl Cluster {
    /// Rejected.
    pub fn convert(_message: cluster::Cluster, at: &At<'_>) -> Option<Cluster> {
        at.reject("", "clusters are not read yet");
        None
    }
}
