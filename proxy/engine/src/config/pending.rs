//! Conversions that other resources do not have yet; each goes when its own comes.

use outrigger_proto::envoy::config::cluster::v3 as cluster;

use super::cluster::Cluster;
use super::report::At;

impl Cluster {
    /// Rejected.
    pub fn convert(_message: cluster::Cluster, at: &At<'_>) -> Option<Cluster> {
        at.reject("", "clusters are not read yet");
        None
    }
}

impl crate::resilience::retry::RetryPolicy {
    /// None.
    pub fn convert(_: outrigger_proto::envoy::config::route::v3::RetryPolicy, at: &At<'_>) -> Option<Self> {
        at.reject("", "retry policies are not read yet");
        None
    }
}
