//! A port of a Service as cluster: how its instances are chosen, how much may be under way, what is spoken.

use std::net::SocketAddr;
use std::time::Duration;

use outrigger_proto::envoy::config::cluster::v3 as pb;
use outrigger_proto::envoy::config::cluster::v3::circuit_breakers::{Thresholds, thresholds};
use outrigger_proto::envoy::config::cluster::v3::cluster;
use outrigger_proto::envoy::config::core::v3 as core;
use outrigger_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use outrigger_proto::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use outrigger_proto::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig, explicit_http_config,
};
use outrigger_proto::envoy::r#type::v3::Percent;

use super::endpoints;
use super::message::{address, ads, any, duration};
use crate::model::{Algorithm, Health, PolicyValues, Protocol};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Retries under way, in percent of what is under way and waits.
const RETRY_BUDGET: u32 = 20;
/// So many retries may be under way however little else is. Envoy's default, three, is too few where one of two instances
/// has died and answers by a refused connection: every second request wants a retry.
const MIN_RETRIES: u32 = 10;

/// The cluster of a port; its endpoints come by EDS.
pub(super) fn eds(name: &str, protocol: Protocol, policy: &PolicyValues) -> pb::Cluster {
    pb::Cluster {
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(cluster::EdsClusterConfig { eds_config: Some(ads()), service_name: String::new() }),
        ..base(name, protocol, policy)
    }
}

/// The cluster of the one application behind an inbound listener.
pub(super) fn application(name: &str, protocol: Protocol, at: SocketAddr) -> pb::Cluster {
    let assignment = ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![endpoints::group(Default::default(), [endpoints::endpoint(address(at), 1, Health::Healthy)])],
        ..Default::default()
    };
    pb::Cluster {
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Static as i32)),
        load_assignment: Some(assignment),
        ..base(name, protocol, &PolicyValues::default())
    }
}

fn base(name: &str, protocol: Protocol, policy: &PolicyValues) -> pb::Cluster {
    let balancing = policy.balancing.unwrap_or_default();
    let (lb_policy, lb_config) = match balancing.algorithm {
        Algorithm::LeastRequest { choices } => {
            let config = cluster::LeastRequestLbConfig { choice_count: Some(choices), ..Default::default() };
            (cluster::LbPolicy::LeastRequest, Some(cluster::LbConfig::LeastRequestLbConfig(config)))
        }
        Algorithm::RoundRobin => (cluster::LbPolicy::RoundRobin, None),
        Algorithm::Random => (cluster::LbPolicy::Random, None),
    };
    pb::Cluster {
        name: name.to_owned(),
        connect_timeout: duration(policy.connect_timeout.unwrap_or(CONNECT_TIMEOUT)),
        lb_policy: lb_policy as i32,
        lb_config,
        common_lb_config: Some(cluster::CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: balancing.panic_percent.into() }),
            ..Default::default()
        }),
        circuit_breakers: Some(circuit_breakers(policy)),
        upstream_connection_options: policy.tcp_keepalive.map(|keepalive| pb::UpstreamConnectionOptions {
            tcp_keepalive: Some(core::TcpKeepalive {
                keepalive_probes: keepalive.probes,
                keepalive_time: keepalive.idle.map(seconds),
                keepalive_interval: keepalive.interval.map(seconds),
            }),
            ..Default::default()
        }),
        typed_extension_protocol_options: protocol_options(protocol, policy)
            .map(|options| ("envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(), any(&options)))
            .into_iter()
            .collect(),
        ..Default::default()
    }
}

fn seconds(value: Duration) -> u32 {
    u32::try_from(value.as_secs()).unwrap_or(u32::MAX)
}

/// No limit that nobody asked for: the field's default of 1024 trips healthy services.
fn circuit_breakers(policy: &PolicyValues) -> pb::CircuitBreakers {
    let limit = |value: Option<u32>| Some(value.unwrap_or(u32::MAX));
    let percent = policy.budget_percent.unwrap_or(RETRY_BUDGET);
    let thresholds = |priority: core::RoutingPriority| Thresholds {
        priority: priority as i32,
        max_connections: limit(policy.connections),
        max_pending_requests: limit(policy.pending),
        max_requests: limit(policy.requests),
        max_retries: Some(u32::MAX),
        retry_budget: (percent < 100).then(|| thresholds::RetryBudget {
            budget_percent: Some(Percent { value: percent.into() }),
            min_retry_concurrency: Some(MIN_RETRIES),
            ..Default::default()
        }),
        ..Default::default()
    };
    let per_host = policy.per_host_connections.filter(|most| *most < u32::MAX);
    let per_host = per_host.map(|most| Thresholds { max_connections: Some(most), ..Default::default() });
    pb::CircuitBreakers {
        thresholds: vec![thresholds(core::RoutingPriority::Default), thresholds(core::RoutingPriority::High)],
        per_host_thresholds: per_host.into_iter().collect(),
    }
}

fn protocol_options(protocol: Protocol, policy: &PolicyValues) -> Option<HttpProtocolOptions> {
    let explicit =
        |config| UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config: Some(config) });
    let upstream = match protocol {
        Protocol::Http => UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options: Some(Default::default()),
            http2_protocol_options: Some(Default::default()),
            ..Default::default()
        }),
        Protocol::Http1 => explicit(explicit_http_config::ProtocolConfig::HttpProtocolOptions(Default::default())),
        Protocol::Http2 => explicit(explicit_http_config::ProtocolConfig::Http2ProtocolOptions(Default::default())),
        Protocol::Tcp | Protocol::NotCarried => return None,
    };
    let common = core::HttpProtocolOptions {
        idle_timeout: policy.idle_timeout.and_then(duration),
        max_connection_duration: policy.max_duration.filter(|value| !value.is_zero()).and_then(duration),
        max_requests_per_connection: policy.requests_per_connection.filter(|most| *most > 0),
        ..Default::default()
    };
    Some(HttpProtocolOptions {
        common_http_protocol_options: (common != Default::default()).then_some(common),
        upstream_protocol_options: Some(upstream),
        ..Default::default()
    })
}
