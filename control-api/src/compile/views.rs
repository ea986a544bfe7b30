//! What each node is to have of the mesh.
//!
//! A node whose bootstrap was made by `outrigger bootstrap` gets a listener for each Service that it calls and for each
//! port of its own, and of clusters, endpoints and routes those that these need. Any other node brings its listeners
//! itself: it gets all clusters, endpoints and routes, to be used by name.
//!
//! A view holds for as long as the Services that it was made of do: most changes leave most nodes the view that they
//! have, and what is asked of a new mesh is whether that is so.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, Weak};

use bytes::Bytes;
use outrigger_engine::xds::Kind;
use outrigger_proto::envoy::config::core::v3::TrafficDirection;
use prost::Message;

use super::listener::{Serve, Tunnel, listener};
use super::service::{Compiled, Port};
use super::{Mesh, cluster, resource, service_of};
use crate::model::{Name, Protocol};
use crate::node::{Caller, Inbound, NodeConfig, To};
use crate::xds::{View, Views};

impl Views for Mesh {
    fn view(&self, caller: &Caller) -> Arc<View> {
        let Some(config) = &caller.config else { return Arc::clone(self.everything()) };
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(view) = views.get(config).and_then(|held| held.still(self)) {
            return view;
        }
        // Of streams that ended; not at every new one, so that many at once cost no more than each by itself.
        if views.len().is_power_of_two() && !views.contains_key(config) {
            views.retain(|_, held| held.view.strong_count() > 0);
        }
        let (view, parts) = self.view_of(config);
        let view = Arc::new(view);
        views.insert(config.clone(), Held { view: Arc::downgrade(&view), parts });
        view
    }
}

/// What a view was made of: Services as they were compiled, `None` where there was none.
type Parts = BTreeMap<Name, Option<Arc<Compiled>>>;

/// A view that streams have.
#[derive(Debug)]
pub(super) struct Held {
    view: Weak<View>,
    parts: Parts,
}

impl Held {
    /// The view, if it is that of `mesh` too: all that it was made of is there, and the same.
    fn still(&self, mesh: &Mesh) -> Option<Arc<View>> {
        let same = |(name, part): (&Name, &Option<Arc<Compiled>>)| {
            mesh.services.get(name).map(Arc::as_ptr) == part.as_ref().map(Arc::as_ptr)
        };
        self.view.upgrade().filter(|_| self.parts.iter().all(same))
    }
}

impl Mesh {
    fn view_of(&self, config: &NodeConfig) -> (View, Parts) {
        let mut builder = Builder { mesh: self, view: View::new(), parts: Parts::new() };
        for inbound in &config.inbound {
            builder.inbound(&config.service, inbound);
        }
        for to in &config.to {
            builder.outbound(&config.service.namespace, to);
        }
        (builder.view, builder.parts)
    }
}

struct Builder<'m> {
    mesh: &'m Mesh,
    view: View,
    parts: Parts,
}

impl<'m> Builder<'m> {
    /// A Service, which the view depends on from now on.
    fn service(&mut self, name: &Name) -> Option<&'m Arc<Compiled>> {
        let service = self.mesh.services.get(name);
        self.parts.entry(name.clone()).or_insert_with(|| service.cloned());
        service
    }

    /// The listener in front of a port of the application, and the application as cluster.
    fn inbound(&mut self, service: &Name, inbound: &Inbound) {
        let port = inbound.listen.port();
        let ports = self.service(service).map(|compiled| compiled.ports.as_slice()).unwrap_or_default();
        let protocol = ports.iter().find(|own| own.targets.contains(&port)).map_or(Protocol::Http, |own| own.protocol);
        let name = format!("inbound/{}", inbound.listen);
        self.add(Kind::Cluster, &name, &cluster::application(&name, protocol, inbound.application));
        let serve = if protocol.is_http() { Serve::Application(&name) } else { Serve::Bytes(&name, Tunnel::default()) };
        let message = listener(&name, inbound.listen, TrafficDirection::Inbound, serve);
        self.add(Kind::Listener, &name, &message);
    }

    /// The listener where the application calls a Service, with all that it needs.
    fn outbound(&mut self, namespace: &Arc<str>, to: &To) {
        let service = Name::new(to.namespace.as_deref().unwrap_or(namespace), &to.service);
        let name = format!("outbound/{}", to.listen);
        let serve = match self.find(&service, to.port.as_deref()) {
            Err(why) => Serve::Unavailable(why),
            Ok((compiled, port)) if !port.protocol.is_http() => {
                self.take_cluster(compiled, &port.cluster);
                Serve::Bytes(&port.cluster, port.tunnel)
            }
            Ok((compiled, port)) => {
                let own = port.routes.get(&Some(Arc::clone(namespace)));
                let table = own.or_else(|| port.routes.get(&None)).unwrap_or(&port.cluster);
                self.take(compiled, Kind::Routes, table);
                for cluster in compiled.clusters.get(table).into_iter().flat_map(|clusters| &**clusters) {
                    if let Some(compiled) = service_of(cluster).and_then(|service| self.service(&service)) {
                        self.take_cluster(compiled, cluster);
                    }
                }
                Serve::Routes(table)
            }
        };
        self.add(Kind::Listener, &name, &listener(&name, to.listen, TrafficDirection::Outbound, serve));
    }

    /// A port of a Service, by number or name; without either the first. Why there is none.
    fn find(&mut self, service: &Name, port: Option<&str>) -> Result<(&'m Compiled, &'m Port), String> {
        let compiled = self.service(service).ok_or_else(|| format!("there is no Service {service}"))?;
        let found = match port {
            None => compiled.ports.first(),
            Some(port) => compiled.ports.iter().find(|own| own.name == port || own.number.to_string() == port),
        };
        let port = found.ok_or_else(|| format!("Service {service} has no port {}", port.unwrap_or_default()))?;
        Ok((compiled, port))
    }

    fn take_cluster(&mut self, compiled: &Compiled, name: &Arc<str>) {
        self.take(compiled, Kind::Cluster, name);
        self.take(compiled, Kind::Endpoints, name);
    }

    fn take(&mut self, compiled: &Compiled, kind: Kind, name: &Arc<str>) {
        if let Some(resource) = compiled.resources.get(&(kind, Arc::clone(name))) {
            self.view.entry(kind).or_default().insert(Arc::clone(name), Arc::clone(resource));
        }
    }

    fn add<M: Message>(&mut self, kind: Kind, name: &str, message: &M) {
        let name: Arc<str> = name.into();
        let resource = Arc::new(resource(&name, Bytes::from(message.encode_to_vec())));
        self.view.entry(kind).or_default().insert(name, resource);
    }
}
