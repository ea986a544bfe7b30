//! All objects, each converted once, and who speaks of whom: what a change of one of them touches is looked up, not
//! searched for.

use std::collections::BTreeSet;
use std::sync::Arc;

use outrigger_engine::config::report::{Problem, Report};
use outrigger_proto::outrigger::control::v1 as pb;

use super::http_route::HttpRoute;
use super::policy::Policy;
use super::service::Service;
use super::status::generation;
use super::workload::Workload;
use super::{Key, Kind, Name, Stored};
use crate::versioned::Map;

/// An object with what the store knows of it.
#[derive(Debug)]
pub(super) struct Dated<T> {
    /// The object.
    pub(super) object: Arc<T>,
    /// Smaller is older.
    pub(super) created: u64,
    /// What its conditions speak of.
    pub(super) generation: Option<i64>,
}

/// Objects that have to be looked at again.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    /// Services that changed, or whose instances or policies did.
    pub(super) services: BTreeSet<Name>,
    /// Workloads, routes and policies that changed, or to which something changed that they speak of.
    pub(super) others: BTreeSet<Key>,
    /// Services to which other routes are attached than before, or which other ports.
    pub(super) attached: BTreeSet<Name>,
}

/// The objects and who speaks of whom. An object that is wrong in itself is left out, of a route the rules that are.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    pub(super) services: Map<Name, Arc<Service>>,
    pub(super) routes: Map<Name, Arc<Dated<HttpRoute>>>,
    pub(super) policies: Map<Name, Arc<Dated<Policy>>>,
    pub(super) faults: Map<Key, Vec<Problem>>,
    pub(super) workloads: Map<Name, Arc<Workload>>,
    /// Workloads by each of their labels, as `key=value`.
    labelled: Map<(Arc<str>, Name), ()>,
    /// Services by the first label that they select.
    selecting: Map<(Arc<str>, Name), ()>,
    /// Workloads, routes and policies by the Services that they speak of, there or not.
    referring: Map<(Name, Key), ()>,
    /// The Services of these that are not there.
    missing: Map<Name, ()>,
}

fn label((key, value): (&String, &String)) -> Arc<str> {
    format!("{key}={value}").into()
}

/// The names of one namespace under one label.
fn under<'m>(
    map: &'m Map<(Arc<str>, Name), ()>,
    label: &Arc<str>,
    namespace: &Arc<str>,
) -> impl Iterator<Item = &'m Name> {
    let (label, namespace) = (Arc::clone(label), Arc::clone(namespace));
    let start = (Arc::clone(&label), Arc::clone(&namespace));
    map.from(move |(other, name)| (other, &name.namespace) < (&start.0, &start.1))
        .map(|(key, ())| key)
        .take_while(move |(other, name)| *other == label && name.namespace == namespace)
        .map(|(_, name)| name)
}

/// The Services that a route speaks of.
fn of_route(route: &HttpRoute) -> BTreeSet<&Name> {
    let backends = route.rules.iter().flat_map(|rule| &rule.backends).map(|backend| &backend.service);
    route.parents.iter().map(|parent| &parent.service).chain(backends).collect()
}

fn of_workload(workload: &Workload) -> BTreeSet<Name> {
    workload.services.iter().map(|(service, _)| Name::new(&workload.name.namespace, service)).collect()
}

fn of_policy(policy: &Policy) -> BTreeSet<&Name> {
    policy.targets.iter().map(|target| &target.service).collect()
}

impl Index {
    /// Puts an object in the place of the one under its key, or takes that away. What either touches is dirty.
    pub(super) fn put(&mut self, key: &Key, stored: Option<&Stored>, dirty: &mut Dirty) {
        let report = Report::new();
        let at = report.root();
        let name = &key.name;
        let (object, created) = stored.map(|stored| (stored.object.kind.as_ref(), stored.created)).unwrap_or_default();
        match (key.kind, object) {
            (Kind::Service, Some(pb::object::Kind::Service(object))) => {
                self.put_service(name, Service::convert(object, &at), dirty);
            }
            (Kind::Service, _) => self.put_service(name, None, dirty),
            (Kind::Workload, Some(pb::object::Kind::Workload(object))) => {
                self.put_workload(key, Workload::convert(object, &at), dirty);
            }
            (Kind::Workload, _) => self.put_workload(key, None, dirty),
            (Kind::HttpRoute, object) => {
                let after = object.and_then(|object| match object {
                    pb::object::Kind::HttpRoute(object) => Some(Arc::new(Dated {
                        object: Arc::new(HttpRoute::convert(object, &at)),
                        created,
                        generation: generation(object.metadata.as_ref()),
                    })),
                    _ => None,
                });
                let before = put(&mut self.routes, name, after.clone());
                let [before, after] =
                    [&before, &after].map(|side| side.iter().flat_map(|route| of_route(&route.object)).collect());
                self.refer(key, &before, &after);
                dirty.others.insert(key.clone());
            }
            (Kind::ServicePolicy, object) => {
                let after = object.and_then(|object| match object {
                    pb::object::Kind::ServicePolicy(object) => Some(Arc::new(Dated {
                        object: Arc::new(Policy::convert(object, &at)?),
                        created,
                        generation: generation(object.metadata.as_ref()),
                    })),
                    _ => None,
                });
                let before = put(&mut self.policies, name, after.clone());
                let [before, after]: [BTreeSet<&Name>; 2] =
                    [&before, &after].map(|side| side.iter().flat_map(|policy| of_policy(&policy.object)).collect());
                self.refer(key, &before, &after);
                dirty.services.extend(before.into_iter().chain(after).cloned());
                dirty.others.insert(key.clone());
            }
        }
        let problems = report.into_parts().0;
        put(&mut self.faults, key, (!problems.is_empty()).then_some(problems));
    }

    fn put_service(&mut self, name: &Name, after: Option<Service>, dirty: &mut Dirty) {
        let after = after.map(Arc::new);
        let selected = |service: &Arc<Service>| Some((service.selector.iter().next().map(label)?, name.clone()));
        let first = after.as_ref().and_then(selected);
        let before = put(&mut self.services, name, after).as_ref().and_then(selected);
        if before != first {
            before.map(|entry| self.selecting.remove(&entry));
            first.map(|entry| self.selecting.insert(entry, ()));
        }
        self.note_missing(name);
        dirty.services.insert(name.clone());
    }

    fn put_workload(&mut self, key: &Key, after: Option<Workload>, dirty: &mut Dirty) {
        let name = &key.name;
        let after = after.map(Arc::new);
        let before = put(&mut self.workloads, name, after.clone());
        for workload in before.iter() {
            for entry in workload.labels.iter().map(label) {
                self.labelled.remove(&(entry, name.clone()));
            }
        }
        for workload in after.iter() {
            for entry in workload.labels.iter().map(label) {
                self.labelled.insert((entry, name.clone()), ());
            }
        }
        let [named, names] = [&before, &after].map(|side| side.as_deref().map(of_workload).unwrap_or_default());
        self.refer(key, &named.iter().collect(), &names.iter().collect());
        dirty.others.insert(key.clone());
        for workload in before.iter().chain(&after) {
            dirty.services.extend(self.services_of(workload));
        }
    }

    /// The Services that a Workload is an instance of.
    fn services_of(&self, workload: &Workload) -> Vec<Name> {
        let namespace = &workload.name.namespace;
        let is = |name: &&Name| self.services.get(name).is_some_and(|service| selects(service, workload));
        let mut names = Vec::new();
        for label in workload.labels.iter().map(label) {
            names.extend(under(&self.selecting, &label, namespace).filter(is).cloned());
        }
        let named = workload.services.iter().map(|(service, _)| Name::new(namespace, service));
        names.extend(named.filter(|name| self.services.get(name).is_some_and(|service| service.selector.is_empty())));
        names
    }

    /// The instances of a Service, in the order of their localities and names.
    pub(super) fn instances(&self, service: &Service) -> Vec<&Workload> {
        let namespace = &service.name.namespace;
        let labels: Vec<Arc<str>> = service.selector.iter().map(label).collect();
        let mut walks: Vec<_> = labels.iter().map(|label| under(&self.labelled, label, namespace)).collect();
        // Each list has all that is selected. They are walked side by side: the one that ends first is the shortest.
        let shortest = loop {
            match walks.iter_mut().position(|walk| walk.next().is_none()) {
                Some(shortest) => break labels.get(shortest),
                None if walks.is_empty() => break None,
                None => {}
            }
        };
        let get = |name: &Name| self.workloads.get(name).map(|workload| &**workload);
        let mut instances: Vec<&Workload> = match shortest {
            Some(label) => under(&self.labelled, label, namespace)
                .filter_map(get)
                .filter(|workload| selects(service, workload))
                .collect(),
            None => self.referring_by(Kind::Workload, &service.name).filter_map(get).collect(),
        };
        instances.sort_by(|a, b| (&a.locality, &a.name).cmp(&(&b.locality, &b.name)));
        instances
    }

    /// The object `key` speaks of other Services from now on.
    fn refer(&mut self, key: &Key, before: &BTreeSet<&Name>, after: &BTreeSet<&Name>) {
        for name in before.difference(after) {
            self.referring.remove(&((*name).clone(), key.clone()));
            self.note_missing(name);
        }
        for name in after.difference(before) {
            self.referring.insert(((*name).clone(), key.clone()), ());
            self.note_missing(name);
        }
    }

    fn note_missing(&mut self, name: &Name) {
        let missing = !self.services.contains_key(name) && self.referring(name).next().is_some();
        put(&mut self.missing, name, missing.then_some(()));
    }

    /// The Workloads, routes and policies that speak of a Service.
    pub(super) fn referring(&self, name: &Name) -> impl Iterator<Item = &Key> {
        let keys = self.referring.from(|(other, _)| other < name).map(|(key, ())| key);
        keys.take_while(move |(other, _)| other == name).map(|(_, key)| key)
    }

    /// Those of one kind.
    pub(super) fn referring_by(&self, kind: Kind, name: &Name) -> impl Iterator<Item = &Name> {
        let keys = self.referring.from(move |(other, key)| (other, key.kind) < (name, kind)).map(|(key, ())| key);
        keys.take_while(move |(other, key)| other == name && key.kind == kind).map(|(_, key)| &key.name)
    }

    /// The Services that are spoken of and not there.
    pub(super) fn missing(&self) -> impl Iterator<Item = &Name> {
        self.missing.keys()
    }

    /// The names of a namespace's Services.
    pub(super) fn siblings(&self, service: &Name) -> impl Iterator<Item = &str> {
        let names = self.services.from(|other| other.namespace < service.namespace).map(|(name, _)| name);
        names.take_while(move |other| other.namespace == service.namespace).map(|other| &*other.name)
    }
}

/// Whether a Service with a selector selects the Workload.
pub(super) fn selects(service: &Service, workload: &Workload) -> bool {
    service.selector.iter().all(|(key, value)| workload.labels.get(key).is_some_and(|other| other == value))
}

/// Puts a value under a key, or takes it away; what was there.
pub(super) fn put<K: Ord + Clone, V: Clone>(map: &mut Map<K, V>, key: &K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => map.insert(key.clone(), value),
        None => map.remove(key),
    }
}
