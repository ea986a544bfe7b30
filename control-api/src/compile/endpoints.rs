//! The instances of a port, by locality. One that is not ready is left out, as Kubernetes' users expect: a proxy would
//! call it where no other is left. Who is draining stays, for what goes on with it and for want of another.
//!
//! Several Workloads may have one address and port, such as one that its registrar left behind. To proxies they are one
//! host, of which the last that they read would count: it is sent once, as the best of them says it is.

use std::collections::BTreeMap;

use outrigger_proto::envoy::config::core::v3 as core;
use outrigger_proto::envoy::config::endpoint::v3 as pb;
use outrigger_proto::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;

use super::message::address;
use crate::model::{Endpoint, Health};

/// The instances of a port that may be called; all are in the order of their localities.
pub(super) fn assignment(name: &str, endpoints: &[Endpoint]) -> pb::ClusterLoadAssignment {
    let ready = || endpoints.iter().filter(|endpoint| endpoint.health != Health::Unhealthy);
    let mut best = BTreeMap::new();
    for endpoint in ready() {
        let held = best.entry(endpoint.address).or_insert(endpoint);
        if held.health == Health::Draining && endpoint.health == Health::Healthy {
            *held = endpoint;
        }
    }
    let is_best = |at: &&Endpoint| best.get(&at.address).is_some_and(|held| std::ptr::eq(*held, *at));
    let called: Vec<_> = ready().filter(is_best).collect();
    let groups = called.chunk_by(|a, b| a.locality == b.locality).map(|group_of| {
        let [region, zone, sub_zone] = group_of.first().map(|first| first.locality.clone()).unwrap_or_default();
        let endpoints = group_of.iter().map(|at| endpoint(address(at.address), at.weight, at.health));
        group(core::Locality { region, zone, sub_zone }, endpoints)
    });
    pb::ClusterLoadAssignment { cluster_name: name.to_owned(), endpoints: groups.collect(), ..Default::default() }
}

/// Instances at one place.
pub(super) fn group(
    locality: core::Locality,
    endpoints: impl IntoIterator<Item = pb::LbEndpoint>,
) -> pb::LocalityLbEndpoints {
    pb::LocalityLbEndpoints {
        locality: Some(locality),
        lb_endpoints: endpoints.into_iter().collect(),
        // gRPC's clients leave out a place without a weight.
        load_balancing_weight: Some(1),
        ..Default::default()
    }
}

/// One instance.
pub(super) fn endpoint(at: core::Address, weight: u32, health: Health) -> pb::LbEndpoint {
    pb::LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(pb::Endpoint { address: Some(at), ..Default::default() })),
        health_status: match health {
            Health::Healthy => core::HealthStatus::Healthy,
            Health::Unhealthy => core::HealthStatus::Unhealthy,
            Health::Draining => core::HealthStatus::Draining,
        } as i32,
        load_balancing_weight: (weight != 1).then_some(weight),
        ..Default::default()
    }
}
