//! All objects together: instances of Services, routes at their parents, policies at their targets.
//!
//! Everything here is a function of the objects and of a key: the ports of a Service, where a route leads, what is
//! attached to a Service, the status of a route or policy. A change marks the keys that it touches, and these are
//! computed again, in the order in which one builds on the other. A full rebuild is the same with all keys marked.

mod policies;
mod routes;
mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use outrigger_engine::config::report::Problem;
use outrigger_engine::source::nearest;

use super::http_filter::Filters;
use super::http_route::HttpRoute;
use super::index::{Dirty, Index, put};
use super::policy::PolicyValues;
use super::precedence::{Entry, Shadowed};
use super::service::{Protocol, Service, ServicePort};
use super::status::Status;
use super::{Key, Kind, Name, Stored};
use crate::versioned::Map;
use routes::Routed;

/// The whole mesh, every reference resolved. A copy costs next to nothing.
#[derive(Clone, Debug, Default)]
pub struct Model {
    index: Index,
    services: Map<Name, Arc<ServiceModel>>,
    routes: Map<Name, Arc<Routed>>,
    statuses: Map<Key, Arc<Status>>,
}

/// What differs between two models, or may.
#[derive(Debug, Default)]
pub struct Changed {
    /// Services that may have changed, came or went.
    pub services: BTreeSet<Name>,
    /// Objects whose statuses changed, came or went.
    pub statuses: BTreeSet<Key>,
}

/// A Service with all that speaks of it.
#[derive(Clone, Debug)]
pub struct ServiceModel {
    /// The Service.
    pub service: Arc<Service>,
    /// Its ports, in the order written; those that the mesh does not carry are left out.
    pub ports: Vec<Port>,
    /// What its `targetPort`s do not find.
    status: Option<Status>,
    /// The fields that policies lost to older ones, by the policy and the place of its target.
    lost: BTreeMap<(Name, usize), Vec<&'static str>>,
}

/// A port of a Service with all that speaks of it.
#[derive(Clone, Debug)]
pub struct Port {
    /// The port.
    pub port: ServicePort,
    /// What is spoken: the port's word, unless a policy has another.
    pub protocol: Protocol,
    /// Its instances, in the order of their localities and names.
    pub endpoints: Arc<[Endpoint]>,
    /// What the policies say together.
    pub policy: PolicyValues,
    /// The matches of its routes in their order: for callers of every namespace (`None`), and those for callers of one
    /// namespace, which hold instead of the former. Where there is no list, the port's own instances are called; one
    /// that is empty is of routes without a usable rule, and takes nothing.
    pub routes: Arc<BTreeMap<Option<Arc<str>>, Vec<Entry>>>,
    /// The matches that no request reaches, by their routes.
    shadowed: Arc<BTreeMap<Name, Vec<Shadowed>>>,
}

/// An instance of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is.
    pub address: SocketAddr,
    /// Its share beside others, 1 or more.
    pub weight: u32,
    /// How it is.
    pub health: Health,
    /// Region, zone and subzone; empty where unknown.
    pub locality: [String; 3],
}

/// How an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It is called.
    Healthy,
    /// It is not ready: it is not called.
    Unhealthy,
    /// It gets nothing new while another is healthy.
    Draining,
}

/// A route with its references resolved.
#[derive(Debug)]
pub struct ResolvedRoute {
    /// The route.
    pub route: Arc<HttpRoute>,
    /// Smaller is older.
    pub created: u64,
    /// For each rule, its backends.
    pub backends: Vec<Vec<Backend>>,
}

/// Where a share of a rule's requests goes.
#[derive(Clone, Debug)]
pub struct Backend {
    /// A Service and its port; `None` if the reference leads nowhere: its share is answered with 500.
    pub port: Option<(Name, u16)>,
    /// Its share.
    pub weight: u32,
    /// What is done to its requests and responses.
    pub filters: Filters,
}

impl Model {
    /// Puts the objects together.
    pub fn build<'o>(objects: impl IntoIterator<Item = &'o Stored>) -> Model {
        let keyed = objects.into_iter().filter_map(|stored| Some((Key::of(&stored.object)?, Some(stored))));
        Model::default().with(keyed).0
    }

    /// The model of other objects: each key holds what is given for it from now on, or nothing.
    pub fn with<'o>(&self, changes: impl IntoIterator<Item = (Key, Option<&'o Stored>)>) -> (Model, Changed) {
        let mut next = self.clone();
        let mut dirty = Dirty::default();
        for (key, stored) in changes {
            next.index.put(&key, stored, &mut dirty);
        }
        next.renew_services(&mut dirty);
        next.renew_routes(&mut dirty);
        next.attach_routes(&mut dirty);
        let mut statuses = dirty.others;
        statuses.extend(dirty.services.iter().map(|name| Key { kind: Kind::Service, name: name.clone() }));
        statuses.retain(|key| {
            let status = match key.kind {
                Kind::HttpRoute => next.routes.get(&key.name).map(|routed| next.route_status(routed)),
                Kind::ServicePolicy => next.index.policies.get(&key.name).map(|policy| next.policy_status(policy)),
                Kind::Service => next.services.get(&key.name).and_then(|service| service.status.clone()),
                Kind::Workload => next.index.workloads.get(&key.name).and_then(|one| next.workload_status(one)),
            };
            let changes = next.statuses.get(key).map(|status| &**status) != status.as_ref();
            if changes {
                put(&mut next.statuses, key, status.map(Arc::new));
            }
            changes
        });
        let mut services = dirty.services;
        services.append(&mut dirty.attached);
        (next, Changed { services, statuses })
    }

    /// A Service.
    pub fn service(&self, name: &Name) -> Option<&ServiceModel> {
        self.services.get(name).map(|service| &**service)
    }

    /// The port `number` of a Service.
    pub fn port(&self, service: &Name, number: u16) -> Option<&Port> {
        self.service(service)?.ports.iter().find(|port| port.port.number == number)
    }

    /// What became of each route and each policy, and of what Services and Workloads refer to.
    pub fn statuses(&self) -> &Map<Key, Arc<Status>> {
        &self.statuses
    }

    /// Objects that are wrong in themselves: they were stored when they were not. They, or the rules that are wrong,
    /// are left out.
    pub fn faults(&self) -> &Map<Key, Vec<Problem>> {
        &self.index.faults
    }

    /// The Services that are dirty, by themselves. What speaks of them is dirty where it depends on what changed.
    fn renew_services(&mut self, dirty: &mut Dirty) {
        let mut came_or_went = Vec::new();
        for name in &dirty.services {
            let mut after = self.index.services.get(name).map(|service| self.resolve_service(service));
            let before = self.services.get(name);
            if before.is_some() != after.is_some() {
                came_or_went.push(name.clone());
            }
            match (before, &mut after) {
                (Some(before), Some(after)) if before.has_shape_of(after) => {
                    // The same routes are attached to it, unless one of them changed.
                    for (before, after) in before.ports.iter().zip(&mut after.ports) {
                        after.routes = Arc::clone(&before.routes);
                        after.shadowed = Arc::clone(&before.shadowed);
                    }
                    if before.lost != after.lost {
                        let policies = self.index.referring_by(Kind::ServicePolicy, name).cloned();
                        dirty.others.extend(policies.map(|name| Key { kind: Kind::ServicePolicy, name }));
                    }
                }
                _ => {
                    dirty.others.extend(self.index.referring(name).cloned());
                    dirty.attached.insert(name.clone());
                }
            }
            put(&mut self.services, name, after.map(Arc::new));
        }
        if came_or_went.is_empty() {
            return;
        }
        // Who speaks of a Service that is not there is told which ones have a name like it.
        for missing in self.index.missing() {
            let near = |name: &&Name| {
                name.namespace == missing.namespace && !nearest(&missing.name, [&*name.name].into_iter()).is_empty()
            };
            if !self.index.referring(missing).all(|key| dirty.others.contains(key))
                && came_or_went.iter().any(|name| near(&name))
            {
                dirty.others.extend(self.index.referring(missing).cloned());
            }
        }
    }

    /// `; did you mean …?` for a Service that is not there.
    fn near(&self, service: &Name) -> String {
        nearest(&service.name, self.index.siblings(service))
    }
}

impl ServiceModel {
    /// Whether all that Workloads, routes and policies ask of a Service is the same.
    fn has_shape_of(&self, other: &ServiceModel) -> bool {
        let ports = |model: &ServiceModel| {
            let ports = model.ports.iter().map(|port| (port.port.name.clone(), port.port.number, port.protocol));
            ports.collect::<Vec<_>>()
        };
        let same = self.service.reach == other.service.reach && self.service.selector == other.service.selector;
        same && ports(self) == ports(other)
    }
}
