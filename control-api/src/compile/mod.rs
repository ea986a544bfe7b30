//! Model -> xDS resources.
//!
//! Each port of a Service becomes one cluster with its endpoints and one route table (and one more for each namespace
//! whose callers have routes of their own), all of the same name, `namespace/service/port`. A resource is encoded once
//! and shared by every proxy that sees it; its version is the hash of its bytes, so that equal configurations have
//! equal versions after a restart and on every replica. What is new or changed is checked by the engine's own
//! conversion, the code that will receive it.
//!
//! A Service is compiled by itself, from its model: a change compiles the Services that the model says it touches.

mod cluster;
mod endpoints;
mod listener;
mod message;
mod rewrite;
mod route;
mod service;
mod views;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use outrigger_engine::config::report::Problem;
use outrigger_engine::xds::Kind;

use self::service::Compiled;
use crate::model::{Changed, Key, Model, Name, Status, Stored};
use crate::node::NodeConfig;
use crate::versioned::Map;
use crate::xds::{Resource, View};

/// The whole mesh, compiled. Every node's view is a part of it.
#[derive(Debug, Default)]
pub struct Mesh {
    model: Model,
    services: Map<Name, Arc<Compiled>>,
    /// All clusters, endpoints and routes, once somebody has asked for them.
    everything: OnceLock<Arc<View>>,
    /// The views that streams hold, of this mesh or of one before or after it: nodes that list the same have one.
    views: Arc<Mutex<BTreeMap<NodeConfig, views::Held>>>,
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

impl Rejected {
    /// Whether the other says the same of the same resource. Places in it do not count: what comes before may differ.
    pub fn is_like(&self, other: &Rejected) -> bool {
        let said = |of: &Rejected| -> Vec<_> {
            of.problems.iter().map(|problem| (problem.value.clone(), problem.reason.clone())).collect()
        };
        (self.kind, &self.name) == (other.kind, &other.name) && said(self) == said(other)
    }
}

impl Mesh {
    /// Compiles the objects.
    pub fn build<'o>(objects: impl IntoIterator<Item = &'o Stored>) -> Mesh {
        let keyed = objects.into_iter().filter_map(|stored| Some((Key::of(&stored.object)?, Some(stored))));
        Mesh::default().with(keyed).0
    }

    /// The mesh of other objects: each key holds what is given for it from now on, or nothing. What does not change is
    /// the same object, and is not looked at; the result is that of compiling all objects.
    pub fn with<'o>(&self, changes: impl IntoIterator<Item = (Key, Option<&'o Stored>)>) -> (Mesh, Changed) {
        let (model, changed) = self.model.with(changes);
        let mut services = self.services.clone();
        for name in &changed.services {
            let before = self.model.service(name).zip(self.services.get(name).map(|compiled| &**compiled));
            match model.service(name) {
                Some(service) => {
                    let after = Compiled::of(service, before);
                    if before.is_none_or(|(_, before)| *before != after) {
                        services.insert(name.clone(), Arc::new(after));
                    }
                }
                None => _ = services.remove(name),
            }
        }
        let views = Arc::clone(&self.views);
        (Mesh { model, services, everything: OnceLock::new(), views }, changed)
    }

    /// What became of each route and each policy.
    pub fn statuses(&self) -> &Map<Key, Arc<Status>> {
        self.model.statuses()
    }

    /// Objects that are wrong in themselves, of which all or some rules are left out. Of what [`validate`] accepted
    /// there are none.
    ///
    /// [`validate`]: crate::model::validate
    pub fn faults(&self) -> &Map<Key, Vec<Problem>> {
        self.model.faults()
    }

    /// What the engine does not accept of what a Service became, and so no proxy would. A change that brings any is not
    /// to be stored.
    pub fn rejected(&self, service: &Name) -> &[Rejected] {
        self.services.get(service).map(|compiled| compiled.rejected.as_slice()).unwrap_or_default()
    }

    /// All that Services became.
    #[cfg(test)]
    pub(crate) fn services(&self) -> impl PartialEq + std::fmt::Debug {
        &self.services
    }

    /// All clusters, endpoints and routes.
    fn everything(&self) -> &Arc<View> {
        self.everything.get_or_init(|| {
            let mut view = View::new();
            for ((kind, name), resource) in self.services.values().flat_map(|compiled| &compiled.resources) {
                view.entry(*kind).or_default().insert(Arc::clone(name), Arc::clone(resource));
            }
            Arc::new(view)
        })
    }
}

/// `namespace/service/port`
fn resource_name(service: &Name, port: u16) -> Arc<str> {
    format!("{service}/{port}").into()
}

/// The Service that a resource was compiled for.
fn service_of(resource: &str) -> Option<Name> {
    let mut parts = resource.split('/');
    Some(Name::new(parts.next()?, parts.next()?))
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
