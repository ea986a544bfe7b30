//! Model -> xDS resources.
//!
//! Each port of a Service becomes one cluster with its endpoints and one route table (and one more for each namespace
//! whose callers have routes of their own), all of the same name, `namespace/service/port`. A resource is encoded once
//! and shared by every proxy that sees it; its version is the hash of its bytes, so that equal configurations have
//! equal versions after a restart and on every replica. What is new or changed is checked by the engine's own
//! conversion, the code that will receive it.

mod cluster;
mod endpoints;
mod listener;
mod message;
mod rewrite;
mod route;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use outrigger_engine::config::cluster::Cluster;
use outrigger_engine::config::endpoint::LoadAssignment;
use outrigger_engine::config::report::{At, Problem, Report};
use outrigger_engine::route::RouteTable;
use outrigger_engine::xds::Kind;
use prost::Message;

use self::listener::Tunnel;
use crate::model::{Key, Model, Name, Protocol, Status, Stored, Target};
use crate::node::NodeConfig;
use crate::xds::{Resource, View};

/// The whole mesh, compiled. Every node's view is a part of it.
#[derive(Debug)]
pub struct Mesh {
    services: BTreeMap<Name, Vec<Port>>,
    statuses: BTreeMap<Key, Status>,
    faults: BTreeMap<Key, Vec<Problem>>,
    /// All clusters, endpoints and routes.
    everything: Arc<View>,
    /// The clusters that each route table names.
    clusters: BTreeMap<Arc<str>, Vec<Arc<str>>>,
    rejected: Vec<Rejected>,
    /// The views that streams hold: nodes that list the same have one.
    views: Mutex<BTreeMap<NodeConfig, Weak<View>>>,
}

/// A port of a Service, as views look it up.
#[derive(Debug)]
struct Port {
    number: u16,
    /// The ports of its instances: that of the Service, and those that instances have under its name.
    targets: BTreeSet<u16>,
    name: String,
    protocol: Protocol,
    /// Where HTTP is not spoken.
    tunnel: Tunnel,
    /// Of its cluster and endpoints.
    cluster: Arc<str>,
    /// Its route tables by the namespace of the callers; `None` for all others. Empty where HTTP is not spoken.
    routes: BTreeMap<Option<Arc<str>>, Arc<str>>,
}

/// A resource that the engine did not accept. It is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: Arc<str>,
    /// Every reason.
    pub problems: Vec<Problem>,
}

impl Mesh {
    /// Compiles the objects. `previous`: what did not change since then is neither checked again nor kept twice; the
    /// result is the same without it.
    pub fn build<'o>(objects: impl IntoIterator<Item = &'o Stored>, previous: Option<&Mesh>) -> Mesh {
        let model = Model::build(objects);
        let mut compiler = Compiler { view: View::new(), rejected: Vec::new(), previous };
        let mut clusters = BTreeMap::new();
        let mut services = BTreeMap::new();
        for (name, service) in &model.services {
            let mut ports = Vec::with_capacity(service.ports.len());
            for port in &service.ports {
                let cluster = resource_name(name, port.port.number);
                let message = cluster::eds(&cluster, port.protocol, &port.policy);
                compiler.add(Kind::Cluster, &cluster, message, Cluster::convert);
                let message = endpoints::assignment(&cluster, &port.endpoints);
                compiler.add(Kind::Endpoints, &cluster, message, LoadAssignment::convert_discovered);
                let mut routes = BTreeMap::new();
                if port.protocol.is_http() {
                    // Callers of a namespace without routes of its own have those for all, or none.
                    let all = (!port.routes.contains_key(&None)).then_some((&None, None));
                    let sets = port.routes.iter().map(|(callers, entries)| (callers, Some(entries.as_slice())));
                    for (callers, entries) in sets.chain(all) {
                        let table = match callers {
                            None => Arc::clone(&cluster),
                            Some(namespace) => format!("{cluster}/from/{namespace}").into(),
                        };
                        let message = route::configuration(&table, &cluster, port, entries);
                        let names = compiler.add(Kind::Routes, &table, message, RouteTable::convert).map(|table| {
                            let mut names: Vec<_> = table.cluster_names().cloned().collect();
                            names.sort();
                            names.dedup();
                            names
                        });
                        // What was not converted again did not change.
                        let names = names.or_else(|| previous?.clusters.get(&table).cloned());
                        clusters.insert(Arc::clone(&table), names.unwrap_or_default());
                        routes.insert(callers.clone(), table);
                    }
                }
                let mut targets: BTreeSet<u16> =
                    port.endpoints.iter().map(|endpoint| endpoint.address.port()).collect();
                if let Target::Number(number) = port.port.target {
                    targets.insert(number);
                }
                ports.push(Port {
                    number: port.port.number,
                    targets,
                    name: port.port.name.clone(),
                    protocol: port.protocol,
                    tunnel: Tunnel { idle_timeout: port.policy.idle_timeout, max_duration: port.policy.max_duration },
                    cluster,
                    routes,
                });
            }
            services.insert(name.clone(), ports);
        }
        let Compiler { view, rejected, .. } = compiler;
        Mesh {
            services,
            statuses: model.statuses,
            faults: model.faults,
            everything: Arc::new(view),
            clusters,
            rejected,
            views: Mutex::default(),
        }
    }

    /// What became of each route and each policy.
    pub fn statuses(&self) -> &BTreeMap<Key, Status> {
        &self.statuses
    }

    /// Objects that are wrong in themselves, of which all or some rules are left out. Of what [`validate`] accepted
    /// there are none.
    ///
    /// [`validate`]: crate::model::validate
    pub fn faults(&self) -> &BTreeMap<Key, Vec<Problem>> {
        &self.faults
    }

    /// What the engine does not accept, and so no proxy would. A change that brings any is not to be stored.
    pub fn rejected(&self) -> &[Rejected] {
        &self.rejected
    }
}

/// `namespace/service/port`
fn resource_name(service: &Name, port: u16) -> Arc<str> {
    format!("{service}/{port}").into()
}

/// Collects resources.
struct Compiler<'p> {
    view: View,
    rejected: Vec<Rejected>,
    previous: Option<&'p Mesh>,
}

impl Compiler<'_> {
    /// Encodes a resource and, unless it is as before, checks it. What `convert` made of it.
    fn add<M: Message, T>(
        &mut self,
        kind: Kind,
        name: &Arc<str>,
        message: M,
        convert: impl Fn(M, &At<'_>) -> Option<T>,
    ) -> Option<T> {
        let body = Bytes::from(message.encode_to_vec());
        let previous = self.previous.and_then(|mesh| mesh.everything.get(&kind)?.get(name));
        if let Some(previous) = previous.filter(|previous| previous.body == body) {
            self.view.entry(kind).or_default().insert(Arc::clone(name), Arc::clone(previous));
            return None;
        }
        let report = Report::new();
        let converted = convert(message, &report.root());
        let problems = report.into_parts().0;
        if converted.is_none() || !problems.is_empty() {
            self.rejected.push(Rejected { kind, name: Arc::clone(name), problems });
            return None;
        }
        self.view.entry(kind).or_default().insert(Arc::clone(name), Arc::new(resource(name, body)));
        converted
    }
}

/// A resource with its version.
fn resource(name: &Arc<str>, body: Bytes) -> Resource {
    Resource { name: Arc::clone(name), version: format!("{:032x}", hash(&body)).into(), body }
}

/// FNV-1a with 128 bits: equal in every process and every version of this program.
fn hash(bytes: &[u8]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(OFFSET, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests;
