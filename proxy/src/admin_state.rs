//! What the admin interface sees of the process.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use outrigger_engine::balance::{ClusterState, Health, HostSet, Member};
use outrigger_engine::config::cluster::{Discovery, Thresholds};
use outrigger_engine::config::endpoint::HealthStatus;
use outrigger_engine::resilience::breaker::{Breakers, Resource, RoutingPriority};
use outrigger_engine::snapshot::Waits;
use outrigger_engine::stream_info::Address;
use outrigger_engine::xds::Kind;
use outrigger_proto::envoy::admin::v3::{
    Certificate, ClusterStatus, CommandLineOptions, HostHealthStatus, HostStatus, SimpleMetric,
    server_info::State as ServerState, simple_metric, unready_targets_dumps::UnreadyTargetsDump,
};
use outrigger_proto::envoy::config::bootstrap::v3::Bootstrap;
use outrigger_proto::envoy::config::cluster::v3 as cluster_proto;
use outrigger_proto::envoy::config::core::v3 as core;

use crate::admin::{AdminState, DrainListeners, VisitCluster, certs};
use crate::configuration::record::Record;
use crate::process::Process;
use crate::telemetry::log;
use crate::telemetry::memory;
use crate::telemetry::stats::{self, Stats};

impl AdminState for Process {
    fn stats(&self) -> &Stats {
        &self.stats
    }

    fn refresh(&self) {
        let server = &self.stats.server;
        let memory = memory::read();
        server.memory_allocated.set(memory.allocated);
        server.memory_heap_size.set(memory.heap);
        server.memory_physical_size.set(memory.resident);
        server
            .days_until_first_cert_expiring
            .set(certs::days_until_first_expires(&self.certificates.load(), SystemTime::now()));
        server.uptime.set(self.started.elapsed().as_secs());
        server.concurrency.set(self.concurrency as u64);
        server.live.set(u64::from(self.server_state() == ServerState::Live));
        server.state.set(self.server_state() as u64);
        server.total_connections.set(self.connections.iter().map(|n| n.load(Ordering::Relaxed)).sum());
        let snapshot = self.snapshot.load();
        self.stats.listener_manager.total_listeners_active.set(snapshot.listeners.len() as u64);
        self.stats.listener_manager.total_listeners_draining.set(self.record.draining().len() as u64);
        self.stats.cluster_manager.active_clusters.set(snapshot.clusters.len() as u64);
        for cluster in snapshot.clusters.values() {
            let scope = self.stats.cluster(cluster.config.stat_name());
            let hosts = cluster.hosts.load();
            scope.shared.membership_total.set(hosts.len() as u64);
            scope.shared.membership_healthy.set(hosts.count(Health::Healthy) as u64);
            scope.shared.membership_degraded.set(hosts.count(Health::Degraded) as u64);
            show_breakers(&scope.shared.default_breakers, &cluster.breakers, RoutingPriority::Default);
            show_breakers(&scope.shared.high_breakers, &cluster.breakers, RoutingPriority::High);
        }
    }

    fn server_state(&self) -> ServerState {
        if self.draining.load(Ordering::Relaxed) || self.health_failed.load(Ordering::Relaxed) {
            ServerState::Draining
        } else if self.stats.listener_manager.workers_started.get() == 0 {
            ServerState::Initializing
        } else {
            ServerState::Live
        }
    }

    fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    fn command_line(&self) -> CommandLineOptions {
        let args = &self.args;
        let drain_time = args.drain_time().try_into().ok();
        CommandLineOptions {
            base_id: u64::from(args.base_id),
            concurrency: u32::try_from(self.concurrency).unwrap_or(u32::MAX),
            config_path: args.config.config_path.as_ref().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default(),
            config_yaml: args.config.config_yaml.clone().unwrap_or_default(),
            log_level: args.log_level.clone(),
            component_log_level: args.component_log_level.clone().unwrap_or_default(),
            log_path: args.log_path.as_ref().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default(),
            service_cluster: self.node.cluster.clone(),
            service_node: self.node.id.clone(),
            service_zone: self.node.locality.as_ref().map(|locality| locality.zone.clone()).unwrap_or_default(),
            restart_epoch: args.restart_epoch,
            disable_hot_restart: args.disable_hot_restart,
            drain_time,
            ..Default::default()
        }
    }

    fn node(&self) -> core::Node {
        self.node.clone()
    }

    fn bootstrap(&self) -> Result<Bootstrap, String> {
        crate::bootstrap::message(&self.args.config)
    }

    fn bootstrap_time(&self) -> SystemTime {
        self.started_at
    }

    fn clusters(&self, visit: VisitCluster<'_>) -> fmt::Result {
        // A visit may take minutes, and what is replaced meanwhile is to be freed.
        let mut names: Vec<_> = self.snapshot.load().clusters.keys().cloned().collect();
        names.sort_unstable();
        for name in names {
            let Some(cluster) = self.snapshot.load().clusters.get(&name).cloned() else { continue };
            let added_via_api = self.record.contains(Kind::Cluster, &name);
            let hosts = cluster.hosts.load_full();
            visit(ClusterStatus { added_via_api, ..cluster_status(&cluster) }, &mut host_statuses(&hosts))?;
        }
        Ok(())
    }

    fn record(&self) -> &Record {
        &self.record
    }

    fn listeners(&self) -> Vec<(String, Vec<Address>)> {
        self.addresses.load().iter().map(|(name, addresses)| (name.to_string(), addresses.clone())).collect()
    }

    fn certificates(&self) -> Vec<Certificate> {
        certs::with_days(&self.certificates.load(), SystemTime::now())
    }

    fn unready_targets(&self) -> Vec<UnreadyTargetsDump> {
        let waits = self.waits.load();
        let named = |kind: &str, names: &[Arc<str>]| names.iter().map(|name| format!("{kind} {name}")).collect();
        let targets = waits.iter().map(|waits| match waits {
            Waits::ClusterForHosts(cluster) => (format!("cluster {cluster}"), vec!["hosts".to_owned()]),
            Waits::ListenerForClusters(listener, clusters) => {
                (format!("listener {listener}"), named("cluster", clusters))
            }
            Waits::ListenerForRoutes(listener, routes) => {
                (format!("listener {listener}"), named("route configuration", routes))
            }
            Waits::RoutesForClusters(routes, clusters) => {
                (format!("route configuration {routes}"), named("cluster", clusters))
            }
        });
        targets.map(|(name, target_names)| UnreadyTargetsDump { name, target_names }).collect()
    }

    fn runtime(&self) -> BTreeMap<String, String> {
        self.runtime.clone()
    }

    fn fail_health_checks(&self, fail: bool) {
        self.health_failed.store(fail, Ordering::Relaxed);
    }

    fn drain_listeners(&self, drain: DrainListeners) {
        // Fails only while the process ends.
        _ = self.drain_requests.send(drain);
    }

    fn reopen_logs(&self) {
        self.access_logs.reopen();
        if let Err(error) = log::reopen() {
            tracing::error!(target: "main", "cannot open the log again: {error}");
        }
    }

    fn quit(&self) {
        self.quit.notify_one();
    }
}

fn cluster_status(cluster: &ClusterState) -> ClusterStatus {
    let config = &cluster.config;
    let thresholds = |priority: i32, thresholds: &Thresholds| cluster_proto::circuit_breakers::Thresholds {
        priority,
        max_connections: Some(thresholds.max_connections),
        max_pending_requests: Some(thresholds.max_pending_requests),
        max_requests: Some(thresholds.max_requests),
        max_retries: Some(thresholds.max_retries),
        ..Default::default()
    };
    ClusterStatus {
        name: config.name.to_string(),
        observability_name: config.stat_name().to_string(),
        eds_service_name: match &config.discovery {
            Discovery::Eds(eds) => eds.service_name.to_string(),
            Discovery::Static(_) | Discovery::StrictDns(_) | Discovery::LogicalDns(_) => String::new(),
        },
        circuit_breakers: Some(cluster_proto::CircuitBreakers {
            thresholds: vec![
                thresholds(0, &config.circuit_breakers.default),
                thresholds(1, &config.circuit_breakers.high),
            ],
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn host_statuses(hosts: &HostSet) -> impl Iterator<Item = HostStatus> {
    hosts.priorities.iter().enumerate().flat_map(|(priority, hosts)| {
        hosts.localities.iter().enumerate().flat_map(move |(index, info)| {
            let locality = core::Locality {
                region: info.locality.region.to_string(),
                zone: info.locality.zone.to_string(),
                sub_zone: info.locality.sub_zone.to_string(),
            };
            hosts.all.locality(index).iter().map(move |member| host_status(member, priority, &locality))
        })
    })
}

fn host_status(member: &Member, priority: usize, locality: &core::Locality) -> HostStatus {
    let host = &member.host;
    let metric = |name: &str, value: u64, kind: simple_metric::Type| SimpleMetric {
        r#type: kind as i32,
        value,
        name: name.to_owned(),
    };
    let counter = |name, value: Option<&AtomicU64>| {
        metric(name, value.map_or(0, |n| n.load(Ordering::Relaxed)), simple_metric::Type::Counter)
    };
    let gauge = |name, value: Option<&AtomicU32>| {
        metric(name, value.map_or(0, |n| u64::from(n.load(Ordering::Relaxed))), simple_metric::Type::Gauge)
    };
    let stats = host.stats_if_used();
    let health = match host.status() {
        HealthStatus::Healthy => core::HealthStatus::Healthy,
        HealthStatus::Unhealthy => core::HealthStatus::Unhealthy,
        HealthStatus::Draining => core::HealthStatus::Draining,
        HealthStatus::Degraded => core::HealthStatus::Degraded,
    };
    HostStatus {
        address: Some(crate::admin::status::core_address(&host.address)),
        stats: vec![
            gauge("cx_active", stats.map(|s| &s.cx_active)),
            counter("cx_connect_fail", stats.map(|s| &s.cx_connect_fail)),
            counter("cx_total", stats.map(|s| &s.cx_total)),
            gauge("rq_active", stats.map(|s| &s.rq_active)),
            counter("rq_error", stats.map(|s| &s.rq_error)),
            counter("rq_success", stats.map(|s| &s.rq_success)),
            counter("rq_timeout", stats.map(|s| &s.rq_timeout)),
            counter("rq_total", stats.map(|s| &s.rq_total)),
        ],
        health_status: Some(HostHealthStatus { eds_health_status: health as i32, ..Default::default() }),
        weight: member.weight,
        hostname: host.hostname.as_deref().unwrap_or_default().to_owned(),
        priority: u32::try_from(priority).unwrap_or(u32::MAX),
        locality: Some(locality.clone()),
        ..Default::default()
    }
}

fn show_breakers<const HIGH: bool>(shown: &stats::Breakers<HIGH>, breakers: &Breakers, priority: RoutingPriority) {
    for (resource, open, remaining) in [
        (Resource::Connections, &shown.cx_open, &shown.remaining_cx),
        (Resource::ConnectionPools, &shown.cx_pool_open, &shown.remaining_cx_pools),
        (Resource::Requests, &shown.rq_open, &shown.remaining_rq),
        (Resource::Pending, &shown.rq_pending_open, &shown.remaining_pending),
        (Resource::Retries, &shown.rq_retry_open, &shown.remaining_retries),
    ] {
        open.set(u64::from(breakers.is_open(priority, resource)));
        let left = breakers.remaining(priority, resource);
        shown.track_remaining.set(u64::from(left.is_some()));
        remaining.set(left.unwrap_or(0).into());
    }
}

#[cfg(test)]
mod tests {
    use outrigger_engine::snapshot::Snapshot;
    use outrigger_engine::source::Source;

    use super::*;
    use crate::testing;

    #[test]
    fn who_reads_clusters_slowly_keeps_no_snapshot() {
        let text =
            "static_resources: {clusters: [{name: b, type: STATIC}, {name: c, type: STATIC}, {name: a, type: STATIC}]}";
        let bootstrap = outrigger_engine::config::bootstrap::Bootstrap::load(&[Source::new("test", text)]).unwrap();
        let snapshot = |names: &[&str]| {
            let clusters = bootstrap.clusters.iter().filter(|cluster| names.contains(&&*cluster.name));
            let clusters = clusters.map(|cluster| (cluster.name.clone(), Arc::new(ClusterState::new(cluster.clone()))));
            Arc::new(Snapshot { clusters: clusters.collect(), ..Default::default() })
        };
        let process = testing::worker().process.clone();
        process.snapshot.store(snapshot(&["a", "b", "c"]));
        let before = Arc::downgrade(&process.snapshot.load_full());
        let mut visited = Vec::new();
        let visit = &mut |cluster: ClusterStatus, _: &mut dyn Iterator<Item = HostStatus>| {
            visited.push(cluster.name);
            process.snapshot.store(snapshot(&["a", "c"]));
            assert!(before.upgrade().is_none());
            Ok(())
        };
        process.clusters(visit).unwrap();
        assert_eq!(visited, ["a", "c"], "what has gone is not shown");
    }
}
