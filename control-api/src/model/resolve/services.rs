//! A Service by itself: its ports with their instances, and what the policies say of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use outrigger_engine::source::nearest;

use super::super::index::{Dated, selects};
use super::super::policy::Policy;
use super::super::status::{Status, resolved_refs};
use super::super::workload::Workload;
use super::{Endpoint, Health, Kind, Model, Name, PolicyValues, Port, Protocol, Service, ServiceModel, ServicePort};
use crate::model::Target;

impl Model {
    /// A Service without its routes.
    pub(super) fn resolve_service(&self, service: &Arc<Service>) -> ServiceModel {
        let instances = self.index.instances(service);
        let ports = service.ports.iter().filter_map(|port| resolve_port(service, port, &instances));
        let mut model = ServiceModel {
            service: Arc::clone(service),
            ports: ports.collect(),
            status: service_status(service, &instances),
            lost: BTreeMap::new(),
        };
        let policies = self.index.referring_by(Kind::ServicePolicy, &service.name);
        let mut policies: Vec<_> = policies.filter_map(|name| self.index.policies.get(name)).collect();
        // Oldest first: of two that say the same, it holds.
        policies.sort_by(|a, b| (a.created, &a.object.name).cmp(&(b.created, &b.object.name)));
        model.merge(&policies);
        model
    }

    /// What became of the Services that a Workload names.
    pub(super) fn workload_status(&self, workload: &Workload) -> Option<Status> {
        let (mut lost, mut notes, mut reason) = (Vec::new(), Vec::new(), "NotSelected");
        for (place, (name, port)) in workload.services.iter().enumerate() {
            let (at, name) = (format!("spec.services[{place}]"), Name::new(&workload.name.namespace, name));
            match self.index.services.get(&name) {
                None => {
                    reason = "ServiceNotFound";
                    lost.push(format!("{at}.name: there is no Service {name}{}", self.near(&name)));
                }
                Some(service) if service.selector.is_empty() => {}
                Some(service) if !selects(service, workload) => {
                    lost.push(format!(
                        "{at}.name: Service {name} has a selector, and that does not select this Workload"
                    ));
                }
                Some(_) if port.is_some() => {
                    notes.push(format!(
                        "{at}.port has no effect: Service {name} has a selector, and its targetPort holds"
                    ));
                }
                Some(_) => {}
            }
        }
        let lost = (!lost.is_empty()).then_some((reason, lost.as_slice()));
        Some(Status::Object(vec![resolved_refs(lost, &notes)?]))
    }
}

/// What the `targetPort`s of a Service find at its instances. While it has none, nothing can be said.
fn service_status(service: &Service, instances: &[&Workload]) -> Option<Status> {
    // Whose Workload says the port itself does not need the Service's.
    let asked: Vec<_> = instances.iter().filter(|workload| own_port(service, workload).is_none()).collect();
    let count = asked.len();
    let (mut lost, mut notes) = (Vec::new(), Vec::new());
    let carried = service.ports.iter().enumerate().filter(|(_, port)| port.protocol != Protocol::NotCarried);
    for (place, port) in carried.filter(|_| count > 0) {
        let at = format!("spec.ports[{place}].targetPort");
        match &port.target {
            Target::Name(name) => {
                let without = asked.iter().filter(|workload| !workload.ports.contains_key(name)).count();
                if without == instances.len() {
                    let names: BTreeSet<&str> =
                        asked.iter().flat_map(|workload| workload.ports.keys().map(String::as_str)).collect();
                    let near = nearest(name, names.into_iter());
                    lost.push(format!("{at}: no instance ({count}) has a port named {name:?}{near}"));
                } else if without > 0 {
                    let all = instances.len();
                    notes.push(format!(
                        "{at}: {without} of {all} instances have no port named {name:?} and get nothing"
                    ));
                }
            }
            // Ports need not be named to be called by their numbers; where they are, one that is not is conspicuous.
            Target::Number(number) => {
                let names_others = |workload: &&&&Workload| {
                    !workload.ports.is_empty() && !workload.ports.values().any(|port| port == number)
                };
                if asked.iter().filter(names_others).count() == instances.len() {
                    notes.push(format!("{at}: {number} is none of the ports that the instances ({count}) name"));
                }
            }
        }
    }
    let lost = (!lost.is_empty()).then_some(("PortNotFound", lost.as_slice()));
    Some(Status::Object(vec![resolved_refs(lost, &notes)?]))
}

/// The port at which a Workload wants to be called for a Service.
fn own_port(service: &Service, workload: &Workload) -> Option<u16> {
    let named = workload.services.iter().find(|(name, _)| **name == *service.name.name)?;
    named.1.filter(|_| service.selector.is_empty())
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
        let number = match (own_port(service, workload), &port.target) {
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
