//! From a resource's bytes to what runs: the model, and what belongs to it and touches the world (TLS contexts, bodies
//! in files). Every reason against it is gathered; one is enough to refuse it.

use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use outrigger_engine::config::any::note_unknown_fields;
use outrigger_engine::config::cluster::Cluster;
use outrigger_engine::config::endpoint::LoadAssignment;
use outrigger_engine::config::hcm::RouteSource;
use outrigger_engine::config::listener::{FilterChain, Listener, NetworkFilter};
use outrigger_engine::config::report::{At, Report};
use outrigger_engine::route::RouteTable;
use outrigger_engine::xds::Resource;
use outrigger_proto::envoy::config::cluster::v3::Cluster as ClusterMessage;
use outrigger_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use outrigger_proto::envoy::config::listener::v3::Listener as ListenerMessage;
use outrigger_proto::envoy::config::route::v3::RouteConfiguration;
use outrigger_proto::prost::{Message, Name};

use crate::bootstrap;
use crate::tls::TlsError;
use crate::tls::client::TlsConnector;
use crate::tls::server::TlsAcceptor;

/// Why a resource is refused.
pub(super) type Reasons = Vec<String>;

/// What tells two versions of a resource apart, whatever the server calls them.
pub(super) fn fingerprint(resource: &Resource) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(&resource.body);
    hasher.finish()
}

pub(super) fn cluster(resource: &Resource) -> Result<Arc<Cluster>, Reasons> {
    let cluster = read(resource, |message: ClusterMessage, at| {
        let cluster = Cluster::convert(message, at)?;
        prepare_cluster(&cluster, at);
        Some(cluster)
    })?;
    Ok(Arc::new(cluster))
}

/// The chains that `previous` has too are taken over.
pub(super) fn listener(resource: &Resource, previous: Option<&Listener>) -> Result<Listener, Reasons> {
    read(resource, |message: ListenerMessage, at| {
        if message.name.is_empty() {
            at.field("name").reject("", "must not be empty");
        }
        let mut listener = Listener::convert(message, at)?;
        for chain in listener.chains() {
            if let NetworkFilter::Http(manager) = &chain.filter
                && let RouteSource::Inline(table) = &manager.routes
            {
                table.load_bodies(&bootstrap::read, &at.field("route_config"));
            }
        }
        if let Some(previous) = previous {
            listener.keep_chains(previous);
        }
        prepare_listener(&listener, at);
        Some(listener)
    })
}

pub(super) fn endpoints(resource: &Resource) -> Result<LoadAssignment, Reasons> {
    read(resource, |message: ClusterLoadAssignment, at| LoadAssignment::convert_discovered(message, at))
}

pub(super) fn routes(resource: &Resource) -> Result<Arc<RouteTable>, Reasons> {
    let table = read(resource, |message: RouteConfiguration, at| {
        let table = RouteTable::convert(message, at)?;
        table.load_bodies(&bootstrap::read, at);
        Some(table)
    })?;
    Ok(Arc::new(table))
}

/// Makes what connects by TLS, where the cluster at `at` wants it: reads certificates, keys and trust.
pub(crate) fn prepare_cluster(cluster: &Cluster, at: &At<'_>) {
    let Some(tls) = &cluster.tls else { return };
    match TlsConnector::new(tls, cluster.auto_san_validation, &cluster.protocol) {
        Ok(connector) => tls.made.keep(connector),
        Err(error) => reject(&error, at),
    }
}

/// Makes what accepts TLS, for the chains of the listener at `at` that want it and do not have it.
pub(crate) fn prepare_listener(listener: &Listener, at: &At<'_>) {
    let chains = at.field("filter_chains");
    for (index, chain) in listener.filter_chains.iter().enumerate() {
        prepare_chain(chain, &chains.index(index));
    }
    if let Some(chain) = &listener.default_filter_chain {
        prepare_chain(chain, &at.field("default_filter_chain"));
    }
}

fn prepare_chain(chain: &FilterChain, at: &At<'_>) {
    let Some(tls) = &chain.tls else { return };
    if tls.made.get::<TlsAcceptor>().is_some() {
        return;
    }
    match TlsAcceptor::new(tls) {
        Ok(acceptor) => tls.made.keep(acceptor),
        Err(error) => reject(&error, at),
    }
}

fn reject(error: &TlsError, at: &At<'_>) {
    at.field("transport_socket").field("typed_config").field(&error.field).reject("", &error.reason);
}

fn read<M, T>(resource: &Resource, convert: impl FnOnce(M, &At<'_>) -> Option<T>) -> Result<T, Reasons>
where
    M: Message + Name + Default,
{
    let message = M::decode(&*resource.body)
        .map_err(|error| vec![format!("cannot be decoded as {}: {error}", M::full_name())])?;
    let report = Report::new();
    note_unknown_fields(&message, resource.body.len(), &report.root());
    let model = convert(message, &report.root());
    let (problems, _) = report.into_parts();
    match model {
        Some(model) if problems.is_empty() => Ok(model),
        _ => Err(problems.iter().map(ToString::to_string).collect()),
    }
}
