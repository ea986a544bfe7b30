//! What each node is to have of the mesh.
//!
//! A node whose bootstrap was made by `outrigger bootstrap` gets a listener for each Service that it calls and for each
//! port of its own, and of clusters, endpoints and routes those that these need. Any other node brings its listeners
//! itself: it gets all clusters, endpoints and routes, to be used by name.

use std::sync::{Arc, PoisonError, Weak};

use bytes::Bytes;
use outrigger_engine::xds::Kind;
use outrigger_proto::envoy::config::core::v3::TrafficDirection;
use prost::Message;

use super::listener::{Serve, Tunnel, listener};
use super::{Mesh, Port, cluster, resource};
use crate::model::{Name, Protocol};
use crate::node::{Caller, Inbound, NodeConfig, To};
use crate::xds::{View, Views};

impl Views for Mesh {
    fn view(&self, caller: &Caller) -> Arc<View> {
        let Some(config) = &caller.config else { return Arc::clone(&self.everything) };
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(view) = views.get(config).and_then(Weak::upgrade) {
            return view;
        }
        // Of streams that ended; not at every new one, so that many at once cost no more than each by itself.
        if views.len().is_power_of_two() {
            views.retain(|_, view| view.strong_count() > 0);
        }
        let view = Arc::new(self.view_of(config));
        views.insert(config.clone(), Arc::downgrade(&view));
        view
    }
}

impl Mesh {
    fn view_of(&self, config: &NodeConfig) -> View {
        let mut builder = Builder { mesh: self, view: View::new() };
        for inbound in &config.inbound {
            builder.inbound(&config.service, inbound);
        }
        for to in &config.to {
            builder.outbound(&config.service.namespace, to);
        }
        builder.view
    }
}

struct Builder<'m> {
    mesh: &'m Mesh,
    view: View,
}

impl Builder<'_> {
    /// The listener in front of a port of the application, and the application as cluster.
    fn inbound(&mut self, service: &Name, inbound: &Inbound) {
        let port = inbound.listen.port();
        let ports = self.mesh.services.get(service).map(Vec::as_slice).unwrap_or_default();
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
        let serve = match self.mesh.find(&service, to.port.as_deref()) {
            Err(why) => Serve::Unavailable(why),
            Ok(port) if !port.protocol.is_http() => {
                self.take_cluster(&port.cluster);
                Serve::Bytes(&port.cluster, port.tunnel)
            }
            Ok(port) => {
                let own = port.routes.get(&Some(Arc::clone(namespace)));
                let table = own.or_else(|| port.routes.get(&None)).unwrap_or(&port.cluster);
                self.take(Kind::Routes, table);
                for cluster in self.mesh.clusters.get(table).into_iter().flatten() {
                    self.take_cluster(cluster);
                }
                Serve::Routes(table)
            }
        };
        self.add(Kind::Listener, &name, &listener(&name, to.listen, TrafficDirection::Outbound, serve));
    }

    fn take_cluster(&mut self, name: &Arc<str>) {
        self.take(Kind::Cluster, name);
        self.take(Kind::Endpoints, name);
    }

    fn take(&mut self, kind: Kind, name: &Arc<str>) {
        if let Some(resource) = self.mesh.everything.get(&kind).and_then(|resources| resources.get(name)) {
            self.view.entry(kind).or_default().insert(Arc::clone(name), Arc::clone(resource));
        }
    }

    fn add<M: Message>(&mut self, kind: Kind, name: &str, message: &M) {
        let name: Arc<str> = name.into();
        let resource = Arc::new(resource(&name, Bytes::from(message.encode_to_vec())));
        self.view.entry(kind).or_default().insert(name, resource);
    }
}

impl Mesh {
    /// A port of a Service, by number or name; without either the first. Why there is none.
    fn find(&self, service: &Name, port: Option<&str>) -> Result<&Port, String> {
        let ports = self.services.get(service).ok_or_else(|| format!("there is no Service {service}"))?;
        let found = match port {
            None => ports.first(),
            Some(port) => ports.iter().find(|own| own.name == port || own.number.to_string() == port),
        };
        found.ok_or_else(|| format!("Service {service} has no port {}", port.unwrap_or_default()))
    }
}
