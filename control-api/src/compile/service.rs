//! One Service, compiled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use outrigger_engine::config::cluster::Cluster;
use outrigger_engine::config::endpoint::LoadAssignment;
use outrigger_engine::config::report::{At, Report};
use outrigger_engine::route::RouteTable;
use outrigger_engine::xds::Kind;
use prost::Message;

use super::listener::Tunnel;
use super::{Rejected, cluster, endpoints, resource, resource_name, route};
use crate::model::{self, Protocol, ServiceModel, Target};
use crate::xds::Resource;

/// What a Service became.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Compiled {
    /// Its ports, as views look them up.
    pub(super) ports: Vec<Port>,
    /// Its clusters, endpoints and routes.
    pub(super) resources: BTreeMap<(Kind, Arc<str>), Arc<Resource>>,
    /// The clusters that each of its route tables names.
    pub(super) clusters: BTreeMap<Arc<str>, Arc<[Arc<str>]>>,
    /// What the engine did not accept.
    pub(super) rejected: Vec<Rejected>,
}

/// A port of a Service, as views look it up.
#[derive(Debug, PartialEq)]
pub(super) struct Port {
    pub(super) number: u16,
    /// The ports of its instances: that of the Service, and those that instances have under its name.
    pub(super) targets: BTreeSet<u16>,
    pub(super) name: String,
    pub(super) protocol: Protocol,
    /// Where HTTP is not spoken.
    pub(super) tunnel: Tunnel,
    /// Of its cluster and endpoints.
    pub(super) cluster: Arc<str>,
    /// Its route tables by the namespace of the callers; `None` for all others. Empty where HTTP is not spoken.
    pub(super) routes: BTreeMap<Option<Arc<str>>, Arc<str>>,
}

/// What became of a message.
enum Added<T> {
    /// It is as before.
    Same,
    New(T),
    Rejected,
}

impl Compiled {
    /// Compiles a Service. `before`: what is as it was then is neither checked again nor kept twice; the result is the
    /// same without it.
    pub(super) fn of(service: &ServiceModel, before: Option<(&ServiceModel, &Compiled)>) -> Compiled {
        let mut compiled = Compiled::default();
        for port in &service.ports {
            let cluster = resource_name(&service.service.name, port.port.number);
            let message = endpoints::assignment(&cluster, &port.endpoints);
            compiled.add(Kind::Endpoints, &cluster, message, LoadAssignment::convert_discovered, before);
            let same = before.and_then(|(model, compiled)| compiled.with_the_cluster_of(port, model));
            let routes = match same {
                Some((before, routes)) => compiled.take(before, &cluster, routes),
                None => {
                    let message = cluster::eds(&cluster, port.protocol, &port.policy);
                    compiled.add(Kind::Cluster, &cluster, message, Cluster::convert, before);
                    compiled.add_routes(&cluster, port, before)
                }
            };
            let mut targets: BTreeSet<u16> = port.endpoints.iter().map(|endpoint| endpoint.address.port()).collect();
            if let Target::Number(number) = port.port.target {
                targets.insert(number);
            }
            compiled.ports.push(Port {
                number: port.port.number,
                targets,
                name: port.port.name.clone(),
                protocol: port.protocol,
                tunnel: Tunnel { idle_timeout: port.policy.idle_timeout, max_duration: port.policy.max_duration },
                cluster,
                routes,
            });
        }
        compiled
    }

    /// The route tables of a port.
    fn add_routes(
        &mut self,
        cluster: &Arc<str>,
        port: &model::Port,
        before: Option<(&ServiceModel, &Compiled)>,
    ) -> BTreeMap<Option<Arc<str>>, Arc<str>> {
        let mut routes = BTreeMap::new();
        if !port.protocol.is_http() {
            return routes;
        }
        // Callers of a namespace without routes of its own have those for all, or none.
        let all = (!port.routes.contains_key(&None)).then_some((&None, None));
        let sets = port.routes.iter().map(|(callers, entries)| (callers, Some(entries.as_slice())));
        for (callers, entries) in sets.chain(all) {
            let table = match callers {
                None => Arc::clone(cluster),
                Some(namespace) => format!("{cluster}/from/{namespace}").into(),
            };
            let message = route::configuration(&table, cluster, port, entries);
            let names = match self.add(Kind::Routes, &table, message, RouteTable::convert, before) {
                Added::New(table) => table.cluster_names().cloned().collect::<BTreeSet<_>>().into_iter().collect(),
                Added::Same => before.and_then(|(_, before)| before.clusters.get(&table).cloned()).unwrap_or_default(),
                Added::Rejected => Arc::default(),
            };
            self.clusters.insert(Arc::clone(&table), names);
            routes.insert(callers.clone(), table);
        }
        routes
    }

    /// Itself and the route tables of a port, if cluster and tables are made of what `port` is made of.
    fn with_the_cluster_of(
        &self,
        port: &model::Port,
        model: &ServiceModel,
    ) -> Option<(&Compiled, &BTreeMap<Option<Arc<str>>, Arc<str>>)> {
        let same = |other: &&model::Port| {
            (&other.port, other.protocol, &other.policy) == (&port.port, port.protocol, &port.policy)
                && Arc::ptr_eq(&other.routes, &port.routes)
        };
        model.ports.iter().find(same).filter(|_| self.rejected.is_empty())?;
        let routes = &self.ports.iter().find(|other| other.number == port.port.number)?.routes;
        Some((self, routes))
    }

    /// Takes over the cluster of a port and its route tables.
    fn take(
        &mut self,
        before: &Compiled,
        cluster: &Arc<str>,
        routes: &BTreeMap<Option<Arc<str>>, Arc<str>>,
    ) -> BTreeMap<Option<Arc<str>>, Arc<str>> {
        let tables = routes.values().map(|table| (Kind::Routes, Arc::clone(table)));
        let keys = tables.chain([(Kind::Cluster, Arc::clone(cluster))]);
        self.resources.extend(keys.filter_map(|key| {
            let resource = Arc::clone(before.resources.get(&key)?);
            Some((key, resource))
        }));
        let named = routes.values().filter_map(|table| before.clusters.get_key_value(table));
        self.clusters.extend(named.map(|(table, names)| (Arc::clone(table), Arc::clone(names))));
        routes.clone()
    }

    /// Encodes a resource and, unless it is as before, checks it.
    fn add<M: Message, T>(
        &mut self,
        kind: Kind,
        name: &Arc<str>,
        message: M,
        convert: impl Fn(M, &At<'_>) -> Option<T>,
        before: Option<(&ServiceModel, &Compiled)>,
    ) -> Added<T> {
        let body = Bytes::from(message.encode_to_vec());
        let key = (kind, Arc::clone(name));
        let before = before.and_then(|(_, before)| before.resources.get(&key));
        if let Some(before) = before.filter(|before| before.body == body) {
            self.resources.insert(key, Arc::clone(before));
            return Added::Same;
        }
        let report = Report::new();
        let converted = convert(message, &report.root());
        let problems = report.into_parts().0;
        match converted.filter(|_| problems.is_empty()) {
            Some(converted) => {
                self.resources.insert(key, Arc::new(resource(name, body)));
                Added::New(converted)
            }
            None => {
                self.rejected.push(Rejected { kind, name: Arc::clone(name), problems });
                Added::Rejected
            }
        }
    }
}
