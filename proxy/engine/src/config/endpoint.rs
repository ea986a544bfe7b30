//! `envoy.config.endpoint.v3.ClusterLoadAssignment`: the endpoints of a cluster, by locality and priority.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use outrigger_proto::envoy::config::core::v3::{self as core, address::Address as AddressKind, socket_address};
use outrigger_proto::envoy::config::endpoint::v3 as pb;

use crate::config::address::pipe_path;
use crate::config::cluster::dns::check_addresses;
use crate::config::report::At;
use crate::{harmless, unsupported};

/// The endpoints of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadAssignment {
    /// The groups, in configuration order.
    pub localities: Box<[LocalityEndpoints]>,
    /// How much of a priority's hosts may be missing before load goes to the next one, in percent (140).
    pub overprovisioning_factor: u32,
    /// Health of a priority counts weights instead of hosts.
    pub weighted_priority_health: bool,
}

impl Default for LoadAssignment {
    fn default() -> Self {
        LoadAssignment { localities: Box::default(), overprovisioning_factor: 140, weighted_priority_health: false }
    }
}

/// One group of endpoints at one place, for one priority.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalityEndpoints {
    /// Where they are.
    pub locality: Arc<Locality>,
    /// 0 is the first to be used; at most 128.
    pub priority: u32,
    /// Share of the locality, for locality weighted balancing.
    pub weight: Option<u32>,
    /// The endpoints, in configuration order.
    pub endpoints: Box<[Endpoint]>,
}

/// Region, zone and sub-zone; empty strings where unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    /// `region`.
    pub region: Box<str>,
    /// `zone`.
    pub zone: Box<str>,
    /// `sub_zone`.
    pub sub_zone: Box<str>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: EndpointAddress,
    /// For `auto_host_rewrite` and health checks; `None` where it is not set.
    pub hostname: Option<Arc<str>>,
    /// Share of the load within its locality, at least 1.
    pub weight: u32,
    /// What the control plane says of it.
    pub health: HealthStatus,
}

/// The address of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    /// An IP address.
    Ip(SocketAddr),
    /// A name to be resolved.
    Name {
        /// The name.
        host: Arc<str>,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Pipe(Arc<str>),
}

/// `health_status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HealthStatus {
    /// `UNKNOWN` or `HEALTHY`.
    #[default]
    Healthy,
    /// `UNHEALTHY` or `TIMEOUT`.
    Unhealthy,
    /// No new requests; those under way may end.
    Draining,
    /// Used when the healthy ones do not suffice.
    Degraded,
}

impl LoadAssignment {
    /// An assignment of EDS: as [`LoadAssignment::convert`], and nothing in it has to be resolved.
    pub fn convert_discovered(message: pb::ClusterLoadAssignment, at: &At<'_>) -> Option<Self> {
        let problems = at.problem_count();
        let assignment = Self::convert(message, at)?;
        check_addresses(&assignment, at);
        (at.problem_count() == problems).then_some(assignment)
    }

    /// The assignment, or `None` if a part of it is not usable; every fault is in the report.
    pub fn convert(message: pb::ClusterLoadAssignment, at: &At<'_>) -> Option<Self> {
        let pb::ClusterLoadAssignment { cluster_name, endpoints, named_endpoints, policy } = message;
        let problems = at.problem_count();
        if cluster_name.is_empty() {
            at.field("cluster_name").reject("", "must not be empty");
        }
        unsupported!(at; named_endpoints = "endpoints are written where they are used");

        let mut assignment = LoadAssignment::default();
        if let Some(policy) = policy {
            let at = at.field("policy");
            let pb::cluster_load_assignment::Policy {
                drop_overloads,
                overprovisioning_factor,
                endpoint_stale_after,
                weighted_priority_health,
            } = policy;
            unsupported!(at; drop_overloads);
            harmless!(at; endpoint_stale_after = "only EDS makes endpoints stale");
            match overprovisioning_factor {
                Some(0) => at.field("overprovisioning_factor").reject(0, "must be greater than 0"),
                Some(factor) => assignment.overprovisioning_factor = factor,
                None => {}
            }
            assignment.weighted_priority_health = weighted_priority_health;
        }

        let list = at.field("endpoints");
        assignment.localities = endpoints
            .into_iter()
            .enumerate()
            .filter_map(|(i, group)| LocalityEndpoints::convert(group, &list.index(i)))
            .collect();
        assignment.check(&list);
        (at.problem_count() == problems).then_some(assignment)
    }

    /// What holds between groups: sums of weights stay within 32 bits.
    fn check(&self, at: &At<'_>) {
        let priorities: BTreeSet<u32> = self.localities.iter().map(|group| group.priority).collect();
        for priority in priorities {
            let groups = || self.localities.iter().filter(move |group| group.priority == priority);
            if u32::try_from(groups().map(|group| u64::from(group.weight.unwrap_or(0))).sum::<u64>()).is_err() {
                at.reject("", format_args!("the locality weights of priority {priority} sum to more than 4294967295"));
            }
        }
        for (i, group) in self.localities.iter().enumerate() {
            if u32::try_from(group.endpoints.iter().map(|e| u64::from(e.weight)).sum::<u64>()).is_err() {
                at.index(i).reject("", "the weights of the endpoints sum to more than 4294967295");
            }
        }
    }
}

impl LocalityEndpoints {
    fn convert(message: pb::LocalityLbEndpoints, at: &At<'_>) -> Option<Self> {
        let pb::LocalityLbEndpoints {
            locality,
            metadata,
            lb_endpoints,
            load_balancing_weight,
            priority,
            proximity,
            lb_config,
        } = message;
        let problems = at.problem_count();
        harmless!(at; metadata = "metadata of localities is not read", proximity = "Envoy does not use it either");
        unsupported!(at; lb_config = "endpoints are written in lb_endpoints");
        if load_balancing_weight == Some(0) {
            at.field("load_balancing_weight").reject(0, "must be at least 1");
        }
        if priority > 128 {
            at.field("priority").reject(priority, "must be at most 128");
        }
        let locality = Arc::new(Locality::from(locality.unwrap_or_default()));
        let list = at.field("lb_endpoints");
        let endpoints = lb_endpoints
            .into_iter()
            .enumerate()
            .filter_map(|(i, endpoint)| Endpoint::convert(endpoint, &list.index(i)))
            .collect();
        (at.problem_count() == problems).then_some(LocalityEndpoints {
            locality,
            priority,
            weight: load_balancing_weight,
            endpoints,
        })
    }
}

impl From<core::Locality> for Locality {
    fn from(message: core::Locality) -> Self {
        let core::Locality { region, zone, sub_zone } = message;
        Locality { region: region.into(), zone: zone.into(), sub_zone: sub_zone.into() }
    }
}

impl Endpoint {
    fn convert(message: pb::LbEndpoint, at: &At<'_>) -> Option<Self> {
        let pb::LbEndpoint { health_status, metadata, load_balancing_weight, host_identifier } = message;
        let problems = at.problem_count();
        harmless!(at; metadata = "metadata of endpoints is read by subsets and transport_socket_matches only");
        if load_balancing_weight == Some(0) {
            at.field("load_balancing_weight").reject(0, "must be at least 1");
        }
        let health = HealthStatus::convert(health_status, &at.field("health_status"));
        let at_endpoint = at.field("endpoint");
        let endpoint = match host_identifier {
            Some(pb::lb_endpoint::HostIdentifier::Endpoint(endpoint)) => endpoint,
            Some(pb::lb_endpoint::HostIdentifier::EndpointName(name)) => {
                at.field("endpoint_name")
                    .reject(name, "not in this version: endpoints are written where they are used");
                return None;
            }
            None => {
                at_endpoint.reject("", "must be set");
                return None;
            }
        };
        let pb::Endpoint { address, health_check_config, hostname, additional_addresses, observability_name } =
            endpoint;
        if let Some(port) = health_check_config.as_ref().map(|check| check.port_value).filter(|port| *port > 65535) {
            at_endpoint.field("health_check_config").field("port_value").reject(port, "must be at most 65535");
        }
        harmless!(at_endpoint;
            health_check_config = "active health checks are not in this version",
            observability_name = "names of endpoints are not in the statistics",
        );
        unsupported!(at_endpoint; additional_addresses = "one address an endpoint");
        let address = EndpointAddress::convert(address, &at_endpoint.field("address"));
        if at.problem_count() != problems {
            return None;
        }
        Some(Endpoint {
            address: address?,
            hostname: (!hostname.is_empty()).then(|| hostname.into()),
            weight: load_balancing_weight.unwrap_or(1),
            health: health?,
        })
    }
}

impl HealthStatus {
    fn convert(value: i32, at: &At<'_>) -> Option<Self> {
        use outrigger_proto::envoy::config::core::v3::HealthStatus as Pb;
        match Pb::try_from(value) {
            Ok(Pb::Unknown | Pb::Healthy) => Some(HealthStatus::Healthy),
            Ok(Pb::Unhealthy | Pb::Timeout) => Some(HealthStatus::Unhealthy),
            Ok(Pb::Draining) => Some(HealthStatus::Draining),
            Ok(Pb::Degraded) => Some(HealthStatus::Degraded),
            Err(_) => {
                at.reject(value, "unknown value");
                None
            }
        }
    }
}

impl EndpointAddress {
    fn convert(message: Option<core::Address>, at: &At<'_>) -> Option<Self> {
        match message.and_then(|message| message.address) {
            Some(AddressKind::SocketAddress(address)) => Self::socket_address(address, &at.field("socket_address")),
            Some(AddressKind::Pipe(pipe)) => {
                let at = at.field("pipe");
                let mode = pipe.mode;
                harmless!(at; mode = "only a listener makes the file");
                pipe_path(pipe, &at).map(EndpointAddress::Pipe)
            }
            Some(AddressKind::EnvoyInternalAddress(_)) => {
                at.field("envoy_internal_address").reject("", "not in this version: there are no internal listeners");
                None
            }
            None => {
                at.reject("", "must be set");
                None
            }
        }
    }

    fn socket_address(message: core::SocketAddress, at: &At<'_>) -> Option<Self> {
        let core::SocketAddress {
            protocol,
            address,
            resolver_name,
            ipv4_compat,
            network_namespace_filepath,
            port_specifier,
        } = message;
        let problems = at.problem_count();
        harmless!(at; ipv4_compat = "it speaks of listeners");
        unsupported!(at; resolver_name = "there are no custom resolvers", network_namespace_filepath);
        if protocol != socket_address::Protocol::Tcp as i32 {
            at.field("protocol").reject(protocol, "must be TCP");
        }
        if address.is_empty() {
            at.field("address").reject("", "must not be empty");
        }
        let port = match port_specifier {
            Some(socket_address::PortSpecifier::PortValue(port)) => match u16::try_from(port) {
                Ok(port) => port,
                Err(_) => {
                    at.field("port_value").reject(port, "must be at most 65535");
                    return None;
                }
            },
            Some(socket_address::PortSpecifier::NamedPort(name)) => {
                at.field("named_port").reject(name, "not in this version: ports are numbers");
                return None;
            }
            None => {
                at.field("port_value").reject("", "must be set");
                return None;
            }
        };
        if at.problem_count() != problems {
            return None;
        }
        Some(match address.parse::<IpAddr>() {
            Ok(ip) => EndpointAddress::Ip(SocketAddr::new(ip, port)),
            Err(_) => EndpointAddress::Name { host: address.into(), port },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::report::Report;

    fn endpoint(address: &str, port: u32) -> pb::LbEndpoint {
        pb::LbEndpoint {
            host_identifier: Some(pb::lb_endpoint::HostIdentifier::Endpoint(pb::Endpoint {
                address: Some(core::Address {
                    address: Some(AddressKind::SocketAddress(core::SocketAddress {
                        address: address.into(),
                        port_specifier: Some(socket_address::PortSpecifier::PortValue(port)),
                        ..Default::default()
                    })),
                }),
                ..Default::default()
            })),
            ..Default::default()
        }
    }

    fn assignment(groups: Vec<pb::LocalityLbEndpoints>) -> pb::ClusterLoadAssignment {
        pb::ClusterLoadAssignment { cluster_name: "c".into(), endpoints: groups, ..Default::default() }
    }

    fn problems(message: pb::ClusterLoadAssignment) -> Vec<String> {
        let report = Report::new();
        let converted = LoadAssignment::convert(message, &report.root());
        let problems: Vec<_> = report.into_parts().0.iter().map(ToString::to_string).collect();
        assert_eq!(converted.is_none(), !problems.is_empty());
        problems
    }

    #[test]
    fn names_and_addresses_are_told_apart() {
        let report = Report::new();
        let message = assignment(vec![pb::LocalityLbEndpoints {
            lb_endpoints: vec![endpoint("10.0.0.1", 80), endpoint("::1", 81), endpoint("db.local", 5432)],
            ..Default::default()
        }]);
        let assignment = LoadAssignment::convert(message, &report.root()).unwrap();
        assert_eq!(assignment.overprovisioning_factor, 140);
        let addresses: Vec<_> = assignment.localities[0].endpoints.iter().map(|e| e.address.clone()).collect();
        assert_eq!(
            addresses,
            [
                EndpointAddress::Ip("10.0.0.1:80".parse().unwrap()),
                EndpointAddress::Ip("[::1]:81".parse().unwrap()),
                EndpointAddress::Name { host: "db.local".into(), port: 5432 },
            ]
        );
    }

    #[test]
    fn every_fault_is_named_with_its_path() {
        let mut heavy = endpoint("10.0.0.1", 70_000);
        heavy.load_balancing_weight = Some(0);
        heavy.health_status = 99;
        let group = pb::LocalityLbEndpoints { lb_endpoints: vec![heavy], priority: 129, ..Default::default() };
        assert_eq!(
            problems(assignment(vec![group])),
            [
                "endpoints[0].priority: 129: must be at most 128",
                "endpoints[0].lb_endpoints[0].load_balancing_weight: 0: must be at least 1",
                "endpoints[0].lb_endpoints[0].health_status: 99: unknown value",
                "endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value: 70000: must be at most 65535",
            ]
        );
    }

    #[test]
    fn sums_of_weights_fit() {
        let group = |priority, weight| pb::LocalityLbEndpoints {
            lb_endpoints: vec![endpoint("10.0.0.1", 80)],
            load_balancing_weight: Some(weight),
            priority,
            ..Default::default()
        };
        assert!(problems(assignment(vec![group(0, u32::MAX), group(2, 1)])).is_empty());
        assert_eq!(
            problems(assignment(vec![group(0, u32::MAX), group(0, 1)])),
            ["endpoints: the locality weights of priority 0 sum to more than 4294967295"]
        );
    }
}
