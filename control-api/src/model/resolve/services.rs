//! A Service by itself: its ports with their instances, and what the policies say of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::super::index::Dated;
use super::super::policy::Policy;
use super::super::workload::Workload;
use super::{Endpoint, Health, Kind, Model, Name, PolicyValues, Port, Protocol, Service, ServiceModel, ServicePort};
use crate::model::Target;

impl Model {
    /// A Service without its routes.
    pub(super) fn resolve_service(&self, service: &Arc<Service>) -> ServiceModel {
        let instances = self.index.instances(service);
        let ports = service.ports.iter().filter_map(|port| resolve_port(service, port, &instances));
        let mut model = ServiceModel { service: Arc::clone(service), ports: ports.collect(), lost: BTreeMap::new() };
        let policies = self.index.referring_by(Kind::ServicePolicy, &service.name);
        let mut policies: Vec<_> = policies.filter_map(|name| self.index.policies.get(name)).collect();
        // Oldest first: of two that say the same, it holds.
        policies.sort_by(|a, b| (a.created, &a.object.name).cmp(&(b.created, &b.object.name)));
        model.merge(&policies);
        model
    }
}

impl ServiceModel {
    /// Merges the policies that speak of the Service, the oldest first.
    fn merge(&mut self, policies: &[&Arc<Dated<Policy>>]) {
        // From special to general, each filling in what is not set yet.
        for of_a_port in [true, false] {
            let mut step: BTreeMap<usize, PolicyValues> = BTreeMap::new();
            for policy in policies.iter().map(|policy| &policy.object) {
                for (place, target) in policy.targets.iter().enumerate() {
                    if target.service != self.service.name || target.section.is_some() != of_a_port {
                        continue;
                    }
                    for (index, port) in self.ports.iter().enumerate() {
                        if target.section.as_ref().is_none_or(|section| *section == port.port.name) {
                            let lost = step.entry(index).or_default().or(&policy.values);
                            self.lost.insert((policy.name.clone(), place), lost);
                        }
                    }
                }
            }
            for (index, values) in step {
                if let Some(port) = self.ports.get_mut(index) {
                    _ = port.policy.or(&values);
                }
            }
        }
        self.lost.retain(|_, lost| !lost.is_empty());
        for port in &mut self.ports {
            if let Some(Some(protocol)) = port.policy.protocol {
                port.protocol = protocol;
            }
        }
    }

    /// The fields that a policy lost at one of its targets.
    pub(super) fn lost(&self, policy: &Name, place: usize) -> &[&'static str] {
        self.lost.get(&(policy.clone(), place)).map(Vec::as_slice).unwrap_or_default()
    }
}

/// A port with its instances; `None` if the mesh does not carry it.
fn resolve_port(service: &Service, port: &ServicePort, instances: &[&Workload]) -> Option<Port> {
    if port.protocol == Protocol::NotCarried {
        return None;
    }
    let endpoint = |workload: &&Workload| {
        let named = workload.services.iter().find(|(name, _)| **name == *service.name.name);
        let own = named.and_then(|(_, port)| *port).filter(|_| service.selector.is_empty());
        let number = match (own, &port.target) {
            (Some(number), _) => number,
            (None, Target::Number(number)) => *number,
            (None, Target::Name(name)) => *workload.ports.get(name)?,
        };
        let health = match workload.health {
            Health::Unhealthy if service.publish_not_ready => Health::Healthy,
            health => health,
        };
        Some(Endpoint {
            address: SocketAddr::new(workload.address, number),
            weight: workload.weight,
            health,
            locality: workload.locality.clone(),
        })
    };
    Some(Port {
        port: port.clone(),
        protocol: port.protocol,
        endpoints: instances.iter().filter_map(endpoint).collect(),
        policy: PolicyValues::default(),
        routes: Arc::default(),
        shadowed: Arc::default(),
    })
}
