//! `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`.

use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::envoy::extensions::filters::network::tcp_proxy::v3 as pb;
use outrigger_proto::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::weighted_cluster::ClusterWeight;
use outrigger_proto::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::{
    ClusterSpecifier, WeightedCluster,
};

use crate::config::access_log::AccessLog;
use crate::config::listener::access_logs;
use crate::config::report::At;
use crate::config::time::timeout;
use crate::config::value::duration;
use crate::{harmless, unsupported};

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

impl TcpProxy {
    /// Reads the message. `None` where it was rejected.
    pub fn convert(message: pb::TcpProxy, at: &At<'_>) -> Option<TcpProxy> {
        let pb::TcpProxy {
            stat_prefix,
            on_demand,
            metadata_match,
            idle_timeout,
            downstream_idle_timeout,
            upstream_idle_timeout,
            access_log,
            max_connect_attempts,
            backoff_options,
            hash_policy,
            tunneling_config,
            max_downstream_connection_duration,
            max_downstream_connection_duration_jitter_percentage,
            access_log_flush_interval,
            flush_access_log_on_connected,
            access_log_options,
            proxy_protocol_tlvs,
            proxy_protocol_tlv_merge_policy,
            upstream_connect_mode,
            max_early_data_bytes,
            check_drain_close,
            cluster_specifier,
        } = message;
        let problems = at.problem_count();
        unsupported!(at;
            on_demand, metadata_match = "there are no subsets", downstream_idle_timeout, upstream_idle_timeout,
            backoff_options, tunneling_config, max_downstream_connection_duration_jitter_percentage,
            access_log_flush_interval, flush_access_log_on_connected, access_log_options,
            proxy_protocol_tlvs, proxy_protocol_tlv_merge_policy, upstream_connect_mode, max_early_data_bytes,
            check_drain_close,
        );
        harmless!(at; hash_policy = "no balancer of this version hashes");
        if stat_prefix.is_empty() {
            at.field("stat_prefix").reject("", "must not be empty");
        }
        let clusters = clusters(cluster_specifier, at);
        let max_connect_attempts = max_connect_attempts.unwrap_or(1);
        if max_connect_attempts == 0 {
            at.field("max_connect_attempts").reject(0, "must be at least 1");
        }
        let max_duration = at.field("max_downstream_connection_duration");
        let max_downstream_connection_duration = duration(max_downstream_connection_duration, &max_duration);
        if max_downstream_connection_duration.is_some_and(|duration| duration < Duration::from_millis(1)) {
            max_duration.reject("", "must be at least 0.001s");
        }
        let proxy = TcpProxy {
            stat_prefix: stat_prefix.into(),
            clusters,
            idle_timeout: timeout(idle_timeout, Duration::from_hours(1), &at.field("idle_timeout")),
            max_downstream_connection_duration,
            max_connect_attempts,
            access_logs: access_logs(access_log, at),
        };
        (at.problem_count() == problems).then_some(proxy)
    }
}

fn clusters(message: Option<pb::tcp_proxy::ClusterSpecifier>, at: &At<'_>) -> Vec<(Arc<str>, u32)> {
    match message {
        Some(ClusterSpecifier::Cluster(name)) => {
            if name.is_empty() {
                at.field("cluster").reject("", "must not be empty");
            }
            vec![(name.into(), 1)]
        }
        Some(ClusterSpecifier::WeightedClusters(WeightedCluster { clusters })) => {
            let at = at.field("weighted_clusters");
            let at = at.field("clusters");
            if clusters.is_empty() {
                at.reject("", "must not be empty");
            }
            let total: u64 = clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
            if total > u64::from(u32::MAX) {
                at.reject(total, format_args!("the sum of the weights must be at most {}", u32::MAX));
            }
            let one = |(index, ClusterWeight { name, weight, metadata_match })| {
                let at = at.index(index);
                unsupported!(at; metadata_match = "there are no subsets");
                if name.is_empty() {
                    at.field("name").reject("", "must not be empty");
                }
                if weight == 0 {
                    at.field("weight").reject(0, "must be at least 1");
                }
                (name.into(), weight)
            };
            clusters.into_iter().enumerate().map(one).collect()
        }
        None => {
            at.reject("", "one of cluster, weighted_clusters is required");
            Vec::new()
        }
    }
}
