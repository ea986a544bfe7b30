//! What the process has once. The control thread writes it, except for [`FileStats`].

use std::hash::{DefaultHasher, Hasher as _};

use super::scope::metric_structs;

metric_structs! {
    /// `server.`
    ServerStats (single) {
        counters {}
        gauges {
            concurrency, days_until_first_cert_expiring, hot_restart_epoch, live, memory_allocated, memory_heap_size,
            memory_physical_size, parent_connections, state, total_connections, uptime, version,
        }
        histograms { initialization_time_ms: Milliseconds }
    }

    /// `listener_manager.`
    ListenerManagerStats (single) {
        counters {
            listener_added, listener_create_failure, listener_create_success, listener_in_place_updated,
            listener_modified, listener_removed,
        }
        gauges {
            total_listeners_active, total_listeners_draining, total_listeners_warming,
            workers_started,
        }
    }

    /// `cluster_manager.`
    ClusterManagerStats (single) {
        counters { cluster_added, cluster_modified, cluster_removed }
        gauges { active_clusters, warming_clusters }
    }

    /// One xDS subscription: `listener_manager.lds.`, `cluster_manager.cds.`
    SubscriptionStats (single) {
        counters { init_fetch_timeout, update_attempt, update_failure, update_rejected, update_success }
        gauges { update_time, version }
        histograms { update_duration: Milliseconds }
        texts { version_text }
    }

    /// `xds.<kind>.`
    XdsStats (shard XdsShared) {}

    /// `xds.<kind>.`, what Envoy does not have: resources that were refused, one by one.
    XdsShared (single) {
        counters { rejected }
    }

    /// `control_plane.`: the aggregated stream
    ControlPlaneStats (single) {
        counters {}
        gauges { connected_state }
        texts { identifier }
    }

    /// `filesystem.`: access logs in files. Several threads write it.
    FileStats (single) {
        shared_counters {
            flushed_by_timer, reopen_failed, write_buffered, write_completed, write_dropped, write_failed,
        }
    }

    /// `access_logs.grpc_access_log.` Several threads write it.
    GrpcAccessLogStats (single) {
        shared_counters { logs_dropped, logs_written }
    }
}

impl SubscriptionStats {
    /// What was accepted last is of this version; `version` is a hash of it.
    pub fn set_version(&self, text: &str) {
        let mut hasher = DefaultHasher::new();
        hasher.write(text.as_bytes());
        self.version.set(hasher.finish());
        self.version_text.set(text);
    }
}
