//! Where a route leads, which Services it is attached to, and what became of it at each.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use outrigger_proto::outrigger::control::v1 as pb;

use super::super::http_route::{BackendRef, GATEWAY_GROUP, HttpRoute, ParentRef};
use super::super::index::{Dated, Dirty, put};
use super::super::precedence::{self, Entry, Shadowed};
use super::super::status::{Status, condition};
use super::{Backend, Key, Kind, Model, Name, Port, ResolvedRoute, ServiceModel};
use crate::model::{CONTROLLER, CORE, Reach};

/// A route with what its references lead to.
#[derive(Debug)]
pub(super) struct Routed {
    route: Arc<ResolvedRoute>,
    generation: Option<i64>,
    /// For each parent, the ports that it attaches to, or reason and message of `Accepted=False`.
    parents: Vec<Result<Vec<usize>, (&'static str, String)>>,
    /// Reason and message of `ResolvedRefs=False`.
    unresolved: Option<(&'static str, String)>,
}

impl Routed {
    /// The Services that it is attached to, with its ports there.
    fn attached(&self) -> impl Iterator<Item = (&Name, &[usize])> {
        let parents = self.route.route.parents.iter().zip(&self.parents);
        parents.filter_map(|(parent, ports)| Some((&parent.service, ports.as_deref().ok()?)))
    }
}

impl Model {
    /// The routes that are dirty. Where one is attached otherwise than before, or another one is, the Service is dirty.
    pub(super) fn renew_routes(&mut self, dirty: &mut Dirty) {
        for key in dirty.others.iter().filter(|key| key.kind == Kind::HttpRoute) {
            let before = self.routes.get(&key.name);
            let after = self.index.routes.get(&key.name).map(|dated| Arc::new(self.resolve_route(dated, before)));
            let sides = [before, after.as_ref()];
            let same = match sides {
                [Some(before), Some(after)] => {
                    Arc::ptr_eq(&before.route, &after.route) && before.attached().eq(after.attached())
                }
                _ => false,
            };
            if !same {
                let attached = sides.into_iter().flatten().flat_map(|routed| routed.attached());
                dirty.attached.extend(attached.map(|(service, _)| service.clone()));
            }
            put(&mut self.routes, &key.name, after);
        }
    }

    /// Attaches routes to the Services that are dirty in this. Routes that have won a match or lost one are dirty.
    pub(super) fn attach_routes(&mut self, dirty: &mut Dirty) {
        for name in &dirty.attached {
            let Some(before) = self.services.get(name) else { continue };
            let mut after = ServiceModel::clone(before);
            for (index, port) in after.ports.iter_mut().enumerate() {
                let mut shadowed: BTreeMap<Name, Vec<Shadowed>> = BTreeMap::new();
                let mut routes = BTreeMap::new();
                for (callers, attached) in self.attached(name, index) {
                    let (entries, losers) = precedence::order(&attached);
                    for loser in losers {
                        shadowed.entry(loser.loser.route.route.name.clone()).or_default().push(loser);
                    }
                    routes.insert(callers, entries);
                }
                let losers = port.shadowed.keys().chain(shadowed.keys()).cloned();
                dirty.others.extend(losers.map(|name| Key { kind: Kind::HttpRoute, name }));
                port.routes = Arc::new(routes);
                port.shadowed = Arc::new(shadowed);
            }
            self.services.insert(name.clone(), Arc::new(after));
        }
    }

    /// The routes that are attached to a port, by the namespace of the callers. One without a usable rule is attached too:
    /// a Service that has a route is never called past it.
    fn attached(&self, service: &Name, index: usize) -> BTreeMap<Option<Arc<str>>, Vec<Arc<ResolvedRoute>>> {
        let mut attached: BTreeMap<_, Vec<Arc<ResolvedRoute>>> = BTreeMap::new();
        let names = self.index.referring_by(Kind::HttpRoute, service);
        for routed in names.filter_map(|name| self.routes.get(name)) {
            // Two references of one route to one port attach it once.
            if routed.attached().any(|(parent, ports)| parent == service && ports.contains(&index)) {
                // A route of another namespace than its Service's is that namespace's own.
                let namespace = &routed.route.route.name.namespace;
                let callers = (*namespace != service.namespace).then(|| Arc::clone(namespace));
                attached.entry(callers).or_default().push(Arc::clone(&routed.route));
            }
        }
        attached
    }

    /// Where a route leads. What is as `before` stays the same object.
    fn resolve_route(&self, dated: &Dated<HttpRoute>, before: Option<&Arc<Routed>>) -> Routed {
        let Dated { object: route, created, generation } = dated;
        let (backends, unresolved) = self.resolve_backends(route);
        let parents = route.parents.iter().map(|parent| self.resolve_parent(parent)).collect();
        let ports = |backends: &[Vec<Backend>]| {
            backends.iter().flatten().map(|backend| backend.port.clone()).collect::<Vec<_>>()
        };
        let same = before.map(|before| &before.route).filter(|before| {
            Arc::ptr_eq(&before.route, route)
                && before.created == *created
                && ports(&before.backends) == ports(&backends)
        });
        let route = same
            .cloned()
            .unwrap_or_else(|| Arc::new(ResolvedRoute { route: Arc::clone(route), created: *created, backends }));
        Routed { route, generation: *generation, parents, unresolved }
    }

    pub(super) fn route_status(&self, routed: &Routed) -> Status {
        let Routed { route: resolved, generation, parents, unresolved } = routed;
        let route = &resolved.route;
        let resolved_refs = || match unresolved {
            None => condition("ResolvedRefs", true, "ResolvedRefs", "", *generation),
            Some((reason, message)) => condition("ResolvedRefs", false, reason, message.as_str(), *generation),
        };
        let statuses = route.parents.iter().zip(parents).map(|(parent, ports)| {
            let mut conditions = vec![match ports {
                Ok(_) => accepted(route, *generation),
                Err((reason, message)) => condition("Accepted", false, reason, message.as_str(), *generation),
            }];
            conditions.push(resolved_refs());
            if !route.dropped.is_empty() && !route.rules.is_empty() {
                let message = format!("Dropped Rule: {}", rule_list(&route.dropped));
                conditions.push(condition("PartiallyInvalid", true, "UnsupportedValue", message, *generation));
            }
            let there = self.service(&parent.service).map(|service| service.ports.as_slice()).unwrap_or_default();
            let ports = ports.iter().flatten().filter_map(|port| there.get(*port));
            if let Some(message) = shadowed_message(&route.name, ports) {
                conditions.push(condition("Shadowed", true, "Shadowed", message, *generation));
            }
            pb::RouteParentStatus {
                parent_ref: Some(parent.written.clone()),
                controller_name: CONTROLLER.to_owned(),
                conditions,
            }
        });
        let foreign = route.foreign.iter().map(|parent| pb::RouteParentStatus {
            parent_ref: Some(parent.clone()),
            controller_name: CONTROLLER.to_owned(),
            conditions: vec![
                condition("Accepted", false, "NoMatchingParent", no_service(parent), *generation),
                resolved_refs(),
            ],
        });
        Status::Route(pb::RouteStatus { parents: statuses.chain(foreign).collect() })
    }

    /// The ports of a parent that a route attaches to, or reason and message of `Accepted=False`.
    fn resolve_parent(&self, parent: &ParentRef) -> Result<Vec<usize>, (&'static str, String)> {
        let name = &parent.service;
        let no_parent = |message: String| Err(("NoMatchingParent", message));
        let Some(service) = self.service(name) else {
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
            return no_parent(format!("Service {name} has no such port; it has {}", port_list(service)));
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
        if !group.is_empty() && group != CORE || kind != "Service" {
            return Err(("InvalidKind", format!("{group}/{kind} is not a Service")));
        }
        let name = &backend.service;
        let Some(service) = self.service(name) else {
            return Err(("BackendNotFound", format!("there is no Service {name}{}", self.near(name))));
        };
        let number = backend.port.unwrap_or_default();
        let Some(port) = service.ports.iter().find(|port| port.port.number == number) else {
            let there = port_list(service);
            return Err(("BackendNotFound", format!("Service {name} has no port {number}; it has {there}")));
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
    condition("Accepted", true, "Accepted", route.notes.join("; "), generation)
}

/// Why a reference to something else than a Service attaches a route to nothing.
fn no_service(parent: &pb::ParentReference) -> String {
    let group = parent.group.as_deref().unwrap_or(GATEWAY_GROUP);
    let found = match parent.kind.as_deref() {
        None => "the reference has no kind, which means Gateway".to_owned(),
        Some(kind) => format!("the reference is to the kind {kind} of the group {group:?}"),
    };
    format!("{found}, and only Services are parents in this version: write group: \"\" and kind: Service")
}

/// `80 (http), 81`
fn port_list(service: &ServiceModel) -> String {
    let text = |port: &Port| match port.port.name.as_str() {
        "" => port.port.number.to_string(),
        name => format!("{} ({name})", port.port.number),
    };
    let ports: Vec<String> = service.ports.iter().map(text).collect();
    if ports.is_empty() { "none".to_owned() } else { ports.join(", ") }
}

/// `rules[0], rules[3]`
fn rule_list(rules: &[usize]) -> String {
    rules.iter().map(|index| format!("rules[{index}]")).collect::<Vec<_>>().join(", ")
}

/// Which matches of a route no request reaches at these ports, and what is asked before them.
fn shadowed_message<'p>(route: &Name, ports: impl Iterator<Item = &'p Port>) -> Option<String> {
    let place = |entry: &Entry| {
        let rule = entry.rule().map(|rule| rule.index).unwrap_or_default();
        format!("spec.rules[{rule}].matches[{}]", entry.matching)
    };
    let mut messages: Vec<String> = ports
        .filter_map(|port| port.shadowed.get(route))
        .flatten()
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
