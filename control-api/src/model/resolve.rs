//! All objects together: instances of Services, routes at their parents, policies at their targets.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use outrigger_engine::config::report::{Problem, Report};
use outrigger_engine::source::nearest;
use outrigger_proto::outrigger::control::v1 as pb;

use super::http_filter::Filters;
use super::http_route::{BackendRef, HttpRoute, ParentRef};
use super::policy::{Policy, PolicyValues};
use super::precedence::{self, Entry, Shadowed};
use super::service::{Protocol, Reach, Service, ServicePort, Target};
use super::status::{Status, condition, generation};
use super::workload::Workload;
use super::{CONTROLLER, Key, Kind, Name, Stored};

/// The whole mesh, every reference resolved.
#[derive(Debug, Default)]
pub struct Model {
    /// Every Service.
    pub services: BTreeMap<Name, ServiceModel>,
    /// What became of each route and each policy.
    pub statuses: BTreeMap<Key, Status>,
    /// Objects that are wrong in themselves: they were stored when they were not. They, or the rules that are wrong,
    /// are left out.
    pub faults: BTreeMap<Key, Vec<Problem>>,
}

/// A Service with all that speaks of it.
#[derive(Debug)]
pub struct ServiceModel {
    /// The Service.
    pub service: Service,
    /// Its ports, in the order written; those that the mesh does not carry are left out.
    pub ports: Vec<Port>,
}

/// A port of a Service with all that speaks of it.
#[derive(Debug)]
pub struct Port {
    /// The port.
    pub port: ServicePort,
    /// What is spoken: the port's word, unless a policy has another.
    pub protocol: Protocol,
    /// Its instances, in the order of their localities and names.
    pub endpoints: Vec<Endpoint>,
    /// What the policies say together.
    pub policy: PolicyValues,
    /// The matches of its routes in their order: for callers of every namespace (`None`), and those for callers of one
    /// namespace, which hold instead of the former. Where there is no list, the port's own instances are called; one
    /// that is empty is of routes without a usable rule, and takes nothing.
    pub routes: BTreeMap<Option<Arc<str>>, Vec<Entry>>,
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
    pub route: HttpRoute,
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
        let mut model = Model::default();
        let mut workloads = Workloads::default();
        let (mut routes, mut policies) = (Vec::new(), Vec::new());
        for Stored { object, created } in objects {
            let Some(key) = Key::of(object) else { continue };
            let report = Report::new();
            let at = report.root();
            match &object.kind {
                Some(pb::object::Kind::Service(object)) => {
                    if let Some(service) = Service::convert(object, &at) {
                        model.services.insert(key.name.clone(), ServiceModel { service, ports: Vec::new() });
                    }
                }
                Some(pb::object::Kind::Workload(object)) => workloads.all.extend(Workload::convert(object, &at)),
                Some(pb::object::Kind::HttpRoute(object)) => {
                    routes.push((*created, generation(object.metadata.as_ref()), HttpRoute::convert(object, &at)));
                }
                Some(pb::object::Kind::ServicePolicy(object)) => {
                    let generation = generation(object.metadata.as_ref());
                    policies.extend(Policy::convert(object, &at).map(|policy| (*created, generation, policy)));
                }
                None => {}
            }
            let problems = report.into_parts().0;
            if !problems.is_empty() {
                model.faults.insert(key, problems);
            }
        }
        workloads.index();
        for service in model.services.values_mut() {
            service.ports =
                service.service.ports.iter().filter_map(|port| workloads.port(&service.service, port)).collect();
        }
        // Oldest first: of two that say the same, it holds.
        policies.sort_by(|(a, _, x), (b, _, y)| (a, &x.name).cmp(&(b, &y.name)));
        model.attach_policies(&policies);
        routes.sort_by(|(a, _, x), (b, _, y)| (a, &x.name).cmp(&(b, &y.name)));
        model.attach_routes(routes);
        model
    }

    /// The port `number` of a Service.
    pub fn port(&self, service: &Name, number: u16) -> Option<&Port> {
        self.services.get(service)?.ports.iter().find(|port| port.port.number == number)
    }

    fn attach_policies(&mut self, policies: &[(u64, Option<i64>, Policy)]) {
        let mut lost: Vec<Vec<Vec<&'static str>>> = Vec::new();
        for (_, _, policy) in policies {
            lost.push(vec![Vec::new(); policy.targets.len()]);
        }
        // From special to general, each filling in what is not set yet.
        for of_a_port in [true, false] {
            let mut step: BTreeMap<(&Name, usize), PolicyValues> = BTreeMap::new();
            for ((_, _, policy), lost) in policies.iter().zip(&mut lost) {
                for (target, lost) in policy.targets.iter().zip(lost) {
                    let Some((name, service)) = self.services.get_key_value(&target.service) else { continue };
                    if target.section.is_some() != of_a_port {
                        continue;
                    }
                    for (index, port) in service.ports.iter().enumerate() {
                        if target.section.as_ref().is_none_or(|section| *section == port.port.name) {
                            *lost = step.entry((name, index)).or_default().or(&policy.values);
                        }
                    }
                }
            }
            let step: Vec<_> = step.into_iter().map(|((name, index), values)| (name.clone(), index, values)).collect();
            for (name, index, values) in step {
                if let Some(port) = self.services.get_mut(&name).and_then(|service| service.ports.get_mut(index)) {
                    _ = port.policy.or(&values);
                }
            }
        }
        for port in self.services.values_mut().flat_map(|service| &mut service.ports) {
            if let Some(Some(protocol)) = port.policy.protocol {
                port.protocol = protocol;
            }
        }
        for ((_, generation, policy), lost) in policies.iter().zip(lost) {
            let ancestors = policy
                .targets
                .iter()
                .zip(lost)
                .map(|(target, lost)| self.policy_status(policy, target, &lost, *generation));
            let status = pb::PolicyStatus { ancestors: ancestors.collect() };
            let key = Key { kind: Kind::ServicePolicy, name: policy.name.clone() };
            self.statuses.insert(key, Status::Policy(status));
        }
    }

    fn policy_status(
        &self,
        policy: &Policy,
        target: &super::policy::TargetRef,
        lost: &[&'static str],
        generation: Option<i64>,
    ) -> pb::PolicyAncestorStatus {
        let missing = match self.services.get(&target.service) {
            None => Some(format!("there is no Service {}{}", target.service, self.near(&target.service))),
            Some(service) => target.section.as_ref().and_then(|section| {
                let names = || service.ports.iter().map(|port| port.port.name.as_str());
                let found = names().any(|name| name == section);
                (!found).then(|| {
                    format!("Service {} has no port named {section:?}{}", target.service, nearest(section, names()))
                })
            }),
        };
        let mut conditions = Vec::new();
        match missing {
            Some(message) => conditions.push(condition("Accepted", false, "TargetNotFound", message, generation)),
            None => conditions.push(condition("Accepted", true, "Accepted", "", generation)),
        }
        if !lost.is_empty() {
            let all = lost.len() == policy.values.count();
            let reason = if all { "Overridden" } else { "PartiallyProgrammed" };
            let message = format!("an older policy of this target sets {}", lost.join(", "));
            conditions.push(condition("Programmed", false, reason, message, generation));
        }
        let pb::PolicyTargetReference { group, kind, name, namespace, section_name } = target.written.clone();
        pb::PolicyAncestorStatus {
            ancestor_ref: Some(pb::ParentReference {
                group: Some(group.unwrap_or_default()),
                kind: Some(kind),
                namespace,
                name,
                section_name,
                port: None,
            }),
            controller_name: CONTROLLER.to_owned(),
            conditions,
        }
    }

    /// `; did you mean …?` for a Service that is not there.
    fn near(&self, service: &Name) -> String {
        let siblings = self.services.keys().filter(|other| other.namespace == service.namespace);
        nearest(&service.name, siblings.map(|other| &*other.name))
    }

    fn attach_routes(&mut self, routes: Vec<(u64, Option<i64>, HttpRoute)>) {
        let mut attached: BTreeMap<(Name, usize, Option<Arc<str>>), Vec<Arc<ResolvedRoute>>> = BTreeMap::new();
        let mut parents: Vec<(Arc<ResolvedRoute>, Option<i64>, Vec<pb::RouteParentStatus>)> = Vec::new();
        for (created, generation, route) in routes {
            let (backends, unresolved) = self.resolve_backends(&route);
            let route = Arc::new(ResolvedRoute { route, created, backends });
            let mut statuses = Vec::new();
            for parent in &route.route.parents {
                let mut conditions = Vec::new();
                match self.resolve_parent(parent) {
                    Ok(ports) => {
                        conditions.push(accepted(&route.route, generation));
                        // It is attached without a usable rule too: a Service that has a route is never called past
                        // it. A route of another namespace than its Service's is that namespace's own.
                        let own = route.route.name.namespace == parent.service.namespace;
                        let callers = (!own).then(|| Arc::clone(&route.route.name.namespace));
                        for port in ports {
                            let at = attached.entry((parent.service.clone(), port, callers.clone())).or_default();
                            at.push(Arc::clone(&route));
                        }
                    }
                    Err((reason, message)) => {
                        conditions.push(condition("Accepted", false, reason, message, generation))
                    }
                }
                conditions.push(match &unresolved {
                    None => condition("ResolvedRefs", true, "ResolvedRefs", "", generation),
                    Some((reason, message)) => condition("ResolvedRefs", false, reason, message.as_str(), generation),
                });
                if !route.route.dropped.is_empty() && !route.route.rules.is_empty() {
                    let message = format!("Dropped Rule: {}", rule_list(&route.route.dropped));
                    conditions.push(condition("PartiallyInvalid", true, "UnsupportedValue", message, generation));
                }
                statuses.push(pb::RouteParentStatus {
                    parent_ref: Some(parent.written.clone()),
                    controller_name: CONTROLLER.to_owned(),
                    conditions,
                });
            }
            parents.push((route, generation, statuses));
        }
        let mut shadowed: BTreeMap<(Name, usize), Vec<Shadowed>> = BTreeMap::new();
        for ((service, port, callers), mut routes) in attached {
            // Two references of one route to one port attach it once.
            routes.dedup_by(|a, b| Arc::ptr_eq(a, b));
            let (entries, losers) = precedence::order(&routes);
            shadowed.entry((service.clone(), port)).or_default().extend(losers);
            if let Some(port) = self.services.get_mut(&service).and_then(|service| service.ports.get_mut(port)) {
                port.routes.insert(callers, entries);
            }
        }
        for (route, generation, mut statuses) in parents {
            for (status, parent) in statuses.iter_mut().zip(&route.route.parents) {
                let ports = self.resolve_parent(parent).unwrap_or_default();
                let there = ports.into_iter().filter_map(|port| shadowed.get(&(parent.service.clone(), port)));
                if let Some(message) = shadowed_message(&route, there.flatten()) {
                    status.conditions.push(condition("Shadowed", true, "Shadowed", message, generation));
                }
            }
            let key = Key { kind: Kind::HttpRoute, name: route.route.name.clone() };
            self.statuses.insert(key, Status::Route(pb::RouteStatus { parents: statuses }));
        }
    }

    /// The ports of a parent that a route attaches to, or reason and message of `Accepted=False`.
    fn resolve_parent(&self, parent: &ParentRef) -> Result<Vec<usize>, (&'static str, String)> {
        let name = &parent.service;
        let no_parent = |message: String| Err(("NoMatchingParent", message));
        let Some(service) = self.services.get(name) else {
            return no_parent(format!("there is no Service {name}{}", self.near(name)));
        };
        if service.service.reach == Reach::Headless {
            return no_parent(format!("Service {name} is headless: its instances are called one by one"));
        }
        let fits = |port: &Port| {
            parent.port.is_none_or(|number| number == port.port.number)
                && parent.section.as_ref().is_none_or(|section| *section == port.port.name)
        };
        let ports: Vec<usize> =
            service.ports.iter().enumerate().filter(|(_, port)| fits(port)).map(|(index, _)| index).collect();
        if ports.is_empty() {
            let ports: Vec<_> = service.ports.iter().map(|port| port.port.number.to_string()).collect();
            return no_parent(format!("Service {name} has no such port; it has {}", ports.join(", ")));
        }
        let http: Vec<usize> = ports
            .into_iter()
            .filter(|index| service.ports.get(*index).is_some_and(|port| port.protocol.is_http()))
            .collect();
        if http.is_empty() {
            return Err(("UnsupportedValue", format!("Service {name} does not speak HTTP on that port")));
        }
        Ok(http)
    }

    /// The backends of each rule; and reason and message of `ResolvedRefs=False` where some lead nowhere.
    fn resolve_backends(&self, route: &HttpRoute) -> (Vec<Vec<Backend>>, Option<(&'static str, String)>) {
        let mut unresolved: Option<(&'static str, String)> = None;
        let mut all = Vec::with_capacity(route.rules.len());
        for rule in &route.rules {
            let mut backends = Vec::with_capacity(rule.backends.len());
            for (index, backend) in rule.backends.iter().enumerate() {
                let port = match self.resolve_backend(backend) {
                    Ok(port) => Some(port),
                    Err((reason, message)) => {
                        let place = format!("spec.rules[{}].backendRefs[{index}]: {message}", rule.index);
                        match &mut unresolved {
                            // One condition: the first reason, and every reference in the message.
                            Some((_, messages)) => _ = write!(messages, "; {place}"),
                            None => unresolved = Some((reason, place)),
                        }
                        None
                    }
                };
                backends.push(Backend { port, weight: backend.weight, filters: backend.filters.clone() });
            }
            all.push(backends);
        }
        (all, unresolved)
    }

    fn resolve_backend(&self, backend: &BackendRef) -> Result<(Name, u16), (&'static str, String)> {
        let (group, kind) = &backend.kind;
        if !group.is_empty() && group != "core" || kind != "Service" {
            return Err(("InvalidKind", format!("{group}/{kind} is not a Service")));
        }
        let name = &backend.service;
        let Some(service) = self.services.get(name) else {
            return Err(("BackendNotFound", format!("there is no Service {name}{}", self.near(name))));
        };
        let number = backend.port.unwrap_or_default();
        let Some(port) = service.ports.iter().find(|port| port.port.number == number) else {
            return Err(("BackendNotFound", format!("Service {name} has no port {number}")));
        };
        if !port.protocol.is_http() {
            return Err(("UnsupportedProtocol", format!("Service {name} does not speak HTTP on port {number}")));
        }
        Ok((name.clone(), number))
    }
}

/// `Accepted` of a route whose parent is there.
fn accepted(route: &HttpRoute, generation: Option<i64>) -> pb::Condition {
    if route.rules.is_empty() {
        let message = format!("no rule is usable: {}", rule_list(&route.dropped));
        return condition("Accepted", false, "UnsupportedValue", message, generation);
    }
    let message = if route.has_hostnames { "spec.hostnames has no effect where a Service is the parent" } else { "" };
    condition("Accepted", true, "Accepted", message, generation)
}

/// `rules[0], rules[3]`
fn rule_list(rules: &[usize]) -> String {
    rules.iter().map(|index| format!("rules[{index}]")).collect::<Vec<_>>().join(", ")
}

/// Which matches of a route no request reaches, and what is asked before them.
fn shadowed_message<'a>(route: &Arc<ResolvedRoute>, shadowed: impl Iterator<Item = &'a Shadowed>) -> Option<String> {
    let place = |entry: &Entry| {
        let rule = entry.rule().map(|rule| rule.index).unwrap_or_default();
        format!("spec.rules[{rule}].matches[{}]", entry.matching)
    };
    let mut messages: Vec<String> = shadowed
        .filter(|shadowed| Arc::ptr_eq(&shadowed.loser.route, route))
        .map(|Shadowed { loser, winner }| {
            format!(
                "{} is never reached: HTTPRoute {} has the same in {}",
                place(loser),
                winner.route.route.name,
                place(winner)
            )
        })
        .collect();
    messages.dedup();
    (!messages.is_empty()).then(|| messages.join("; "))
}

/// All Workloads, found by what Services select.
#[derive(Default)]
struct Workloads {
    all: Vec<Workload>,
    /// By namespace and one label.
    by_label: BTreeMap<(Arc<str>, String, String), Vec<usize>>,
    /// By the Service that they name.
    by_service: BTreeMap<Name, Vec<usize>>,
}

impl Workloads {
    fn index(&mut self) {
        self.all.sort_by(|a, b| (&a.locality, &a.name).cmp(&(&b.locality, &b.name)));
        for (index, workload) in self.all.iter().enumerate() {
            let namespace = &workload.name.namespace;
            for (key, value) in &workload.labels {
                let label = (Arc::clone(namespace), key.clone(), value.clone());
                self.by_label.entry(label).or_default().push(index);
            }
            for (service, _) in &workload.services {
                self.by_service.entry(Name::new(namespace, service)).or_default().push(index);
            }
        }
    }

    /// The instances of a Service.
    fn of(&self, service: &Service) -> Vec<&Workload> {
        let namespace = &service.name.namespace;
        let lists = service.selector.iter().map(|(key, value)| {
            let label = (Arc::clone(namespace), key.clone(), value.clone());
            self.by_label.get(&label).map(Vec::as_slice).unwrap_or_default()
        });
        // The shortest list has all that match.
        let candidates = match lists.min_by_key(|list| list.len()) {
            Some(list) => list,
            None => self.by_service.get(&service.name).map(Vec::as_slice).unwrap_or_default(),
        };
        let selected = |workload: &&Workload| {
            service.selector.iter().all(|(key, value)| workload.labels.get(key).is_some_and(|other| other == value))
        };
        candidates.iter().filter_map(|index| self.all.get(*index)).filter(selected).collect()
    }

    /// A port with its instances; `None` if the mesh does not carry it.
    fn port(&self, service: &Service, port: &ServicePort) -> Option<Port> {
        if port.protocol == Protocol::NotCarried {
            return None;
        }
        let endpoint = |workload: &Workload| {
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
            endpoints: self.of(service).into_iter().filter_map(endpoint).collect(),
            policy: PolicyValues::default(),
            routes: BTreeMap::new(),
        })
    }
}
