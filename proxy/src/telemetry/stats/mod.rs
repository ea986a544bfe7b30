//! Statistics under Envoy's names, so that existing dashboards and scripts work.
//!
//! A name such as `cluster.backend.upstream_rq_total` has three parts: the family (`cluster`), the scope (`backend`)
//! and the metric. Metrics are fields of a struct ([`ClusterStats`]), so a request reaches one without a look-up. Each
//! worker has a struct of its own for each scope it uses (a *shard*): an increment is a load and a store that no other
//! core contends for. Shards are added up when somebody scrapes, on the control thread.
//!
//! A [`Scope`], or a shard of it, is held by what it counts (a cluster, a connection manager). As in Envoy, two holders
//! of one name share it, so counters survive an update; when the last holder goes, so do they.

mod cluster;
mod codes;
mod histogram;
mod http;
mod listener;
mod metric;
mod scope;
mod server;
mod ssl;
mod worker;

use std::sync::Arc;

use outrigger_engine::xds::Kind;

pub use cluster::{Breakers, ClusterShared, ClusterStats, Times};
pub use codes::{CodeClasses, Codes, Origin};
pub use histogram::{Histogram, Snapshot};
pub use http::{HttpStats, RdsShared, RdsStats};
pub use listener::{ListenerHttpStats, ListenerStats, TcpStats};
pub use metric::{Counter, Gauge, SharedCounter, Text};
pub use scope::{Family, Merge, Metrics, Sample, SampleName, Scope, Single, Unit, Value};
pub use server::{
    ClusterManagerStats, ControlPlaneStats, FileStats, GrpcAccessLogStats, ListenerManagerStats, ServerStats,
    SubscriptionStats, XdsShared, XdsStats,
};
pub use ssl::{SslCounters, SslStats};
pub use worker::WorkerStats;

/// Every scope of the process. One per process, shared by all threads; taking or making a scope or a shard locks,
/// counting never does.
#[derive(Debug, Default)]
pub struct Stats {
    /// `http.<stat_prefix>.`
    http: Family<HttpStats>,
    /// `http.<stat_prefix>.rds.<route_config_name>.`, the scope's name being `<stat_prefix>.rds.<route_config_name>`.
    rds: Family<RdsStats>,
    /// `listener.<address>.`
    listener: Family<ListenerStats>,
    /// `listener.<address>.http.<stat_prefix>.`, the scope's name being `<address>.http.<stat_prefix>`.
    listener_http: Family<ListenerHttpStats>,
    /// `cluster.<name>.`
    cluster: Family<ClusterStats>,
    /// `tcp.<stat_prefix>.`
    tcp: Family<TcpStats>,
    /// `server.`
    pub server: ServerStats,
    /// `listener_manager.`
    pub listener_manager: ListenerManagerStats,
    /// `listener_manager.lds.`
    pub lds: SubscriptionStats,
    /// `cluster_manager.`
    pub cluster_manager: ClusterManagerStats,
    /// `cluster_manager.cds.`
    pub cds: SubscriptionStats,
    /// `xds.<cds|eds|lds|rds>.`
    xds: Family<XdsStats>,
    /// `control_plane.`
    pub control_plane: ControlPlaneStats,
    /// `filesystem.`, of the writer of access logs.
    pub filesystem: FileStats,
    /// `access_logs.grpc_access_log.`
    pub grpc_access_log: GrpcAccessLogStats,
}

impl Stats {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// The scope of the connection managers with this `stat_prefix`. Keep it as long as the filter chain lives.
    pub fn http(&self, stat_prefix: &str) -> Arc<Scope<HttpStats>> {
        self.http.scope(&sanitized(stat_prefix))
    }

    /// The scope of a route configuration that connection managers with this `stat_prefix` take by name.
    pub fn rds(&self, stat_prefix: &str, name: &str) -> Arc<Scope<RdsStats>> {
        self.rds.scope(&format!("{}.rds.{}", sanitized(stat_prefix), sanitized(name)))
    }

    /// The scope of a listener: its `stat_prefix`, else its address (`0.0.0.0:80` is shown as `0.0.0.0_80`).
    pub fn listener(&self, name: &str) -> Arc<Scope<ListenerStats>> {
        self.listener.scope(&sanitized(name))
    }

    /// The scope of the connection managers with this `stat_prefix` on one listener (named as in [`Stats::listener`]).
    pub fn listener_http(&self, listener: &str, stat_prefix: &str) -> Arc<Scope<ListenerHttpStats>> {
        self.listener_http.scope(&format!("{}.http.{}", sanitized(listener), sanitized(stat_prefix)))
    }

    /// The scope of a cluster, by its `alt_stat_name` or its name. Keep it as long as the cluster lives.
    pub fn cluster(&self, name: &str) -> Arc<Scope<ClusterStats>> {
        self.cluster.scope(&sanitized(name))
    }

    /// The scope of the TCP proxies with this `stat_prefix`.
    pub fn tcp(&self, stat_prefix: &str) -> Arc<Scope<TcpStats>> {
        self.tcp.scope(&sanitized(stat_prefix))
    }

    /// The counters of the subscription to all resources of a kind; the others are counted for those who take them.
    pub fn subscription(&self, kind: Kind) -> Option<&SubscriptionStats> {
        match kind {
            Kind::Cluster => Some(&self.cds),
            Kind::Listener => Some(&self.lds),
            Kind::Endpoints | Kind::Routes => None,
        }
    }

    /// The scope of a kind of discovery (`cds`).
    pub fn xds(&self, service: &str) -> Arc<Scope<XdsStats>> {
        self.xds.scope(service)
    }

    /// The clusters' scopes that are alive, by name.
    pub fn clusters(&self) -> Vec<Arc<Scope<ClusterStats>>> {
        self.cluster.scopes()
    }

    /// Hands out every sample, family by family; the scopes of a family by name. Runs on the control thread.
    pub fn visit(&self, visit: &mut dyn FnMut(Sample)) {
        self.http.visit("http", visit);
        self.rds.visit("http", visit);
        self.listener.visit("listener", visit);
        self.listener_http.visit("listener", visit);
        self.cluster.visit("cluster", visit);
        self.tcp.visit("tcp", visit);
        scope::visit_one(&self.server, "server", visit);
        scope::visit_one(&self.listener_manager, "listener_manager", visit);
        // Without a subscription, Envoy has no such metrics either.
        if self.lds.update_attempt.get() > 0 {
            scope::visit_one(&self.lds, "listener_manager.lds", visit);
        }
        scope::visit_one(&self.cluster_manager, "cluster_manager", visit);
        if self.cds.update_attempt.get() > 0 {
            scope::visit_one(&self.cds, "cluster_manager.cds", visit);
        }
        if self.lds.update_attempt.get() + self.cds.update_attempt.get() > 0 {
            scope::visit_one(&self.control_plane, "control_plane", visit);
        }
        self.xds.visit("xds", visit);
        scope::visit_one(&self.filesystem, "filesystem", visit);
        scope::visit_one(&self.grpc_access_log, "access_logs.grpc_access_log", visit);
    }

    /// Counts again from zero (`/reset_counters`): counters only, gauges and histograms stay.
    pub fn reset_counters(&self) {
        self.http.reset_counters();
        self.rds.reset_counters();
        self.listener.reset_counters();
        self.listener_http.reset_counters();
        self.cluster.reset_counters();
        self.tcp.reset_counters();
        self.server.reset_counters();
        self.listener_manager.reset_counters();
        self.lds.reset_counters();
        self.cluster_manager.reset_counters();
        self.cds.reset_counters();
        self.xds.reset_counters();
        self.filesystem.reset_counters();
        self.grpc_access_log.reset_counters();
    }
}

/// A name as it may stand in a metric's: Envoy replaces what would break statsd.
fn sanitized(name: &str) -> String {
    name.replace("://", "_").replace(":/", "_").replace([':', '\0'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(stats: &Stats) -> Vec<(String, Value)> {
        let mut samples = Vec::new();
        stats.visit(&mut |sample| samples.push((sample.name.to_string(), sample.value)));
        samples
    }

    fn number(stats: &Stats, name: &str) -> Option<u64> {
        all(stats).into_iter().find(|(n, _)| n == name).map(|(_, value)| match value {
            Value::Counter(n) | Value::Gauge(n) => n,
            Value::Histogram(_, h) => h.count(),
            Value::Text(text) => panic!("{name}: {text:?}"),
        })
    }

    #[test]
    fn shards_add_up_under_envoys_name() {
        let stats = Stats::new();
        let scope = stats.http("ingress");
        scope.shard(0).downstream_rq_total.add(3);
        scope.shard(1).downstream_rq_total.inc();
        scope.shard(0).downstream_cx_active.inc();
        scope.shard(1).downstream_cx_active.dec();
        assert_eq!(number(&stats, "http.ingress.downstream_rq_total"), Some(4));
        assert_eq!(number(&stats, "http.ingress.downstream_cx_active"), Some(0));
    }

    #[test]
    fn names_are_ordered_as_they_are_shown() {
        let stats = Stats::new();
        let names = ["a", "a-b", "a.b", "ab", "a.rds.b", "b", ""];
        let held = names.map(|name| (stats.cluster(name), stats.http(name), stats.rds(name, "r")));
        let mut samples = Vec::new();
        stats.visit(&mut |sample| samples.push(sample.name));
        // Scopes that are not the same object are compared as well.
        let other = Stats::new();
        let _scope = other.cluster("a");
        other.visit(&mut |sample| samples.push(sample.name));
        let mut shown: Vec<String> = samples.iter().map(ToString::to_string).collect();
        shown.sort();
        samples.sort();
        assert_eq!(samples.iter().map(ToString::to_string).collect::<Vec<_>>(), shown);
        drop(held);
    }

    #[test]
    fn one_name_is_one_scope_and_lives_as_long_as_its_holders() {
        let stats = Stats::new();
        let old = stats.cluster("a");
        old.shard(0).upstream_rq_total.inc();
        let new = stats.cluster("a");
        drop(old);
        new.shard(0).upstream_rq_total.inc();
        assert_eq!(number(&stats, "cluster.a.upstream_rq_total"), Some(2));
        let shard = new.shard(1);
        drop(new);
        assert_eq!(number(&stats, "cluster.a.upstream_rq_total"), Some(2));
        drop(shard);
        assert_eq!(number(&stats, "cluster.a.upstream_rq_total"), None);
    }

    #[test]
    fn names_are_sanitized_as_envoy_does() {
        let stats = Stats::new();
        let _scope = stats.listener("0.0.0.0:15006");
        let shard = _scope.shard(0);
        shard.downstream_cx_total.inc();
        assert_eq!(number(&stats, "listener.0.0.0.0_15006.downstream_cx_total"), Some(1));
    }

    #[test]
    fn reset_starts_counters_again_and_leaves_gauges_and_histograms() {
        let stats = Stats::new();
        let scope = stats.cluster("a");
        let shard = scope.shard(0);
        shard.upstream_rq_total.add(5);
        shard.upstream_cx_active.inc();
        shard.charge_response(503, Origin::External);
        shard.charge_time(1500, Origin::External);
        stats.reset_counters();
        shard.upstream_rq_total.inc();
        shard.charge_response(503, Origin::External);
        assert_eq!(number(&stats, "cluster.a.upstream_rq_total"), Some(1));
        assert_eq!(number(&stats, "cluster.a.upstream_rq_503"), Some(1));
        assert_eq!(number(&stats, "cluster.a.upstream_rq_5xx"), Some(1));
        assert_eq!(number(&stats, "cluster.a.upstream_cx_active"), Some(1));
        assert_eq!(number(&stats, "cluster.a.upstream_rq_time"), Some(1));
    }
}
