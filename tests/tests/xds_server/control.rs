//! An xDS server over resources that are written as JSON.

use std::net::SocketAddr;
use std::sync::Arc;

use outrigger_control::node::Caller;
use outrigger_control::xds::{Limits, Proxies, Resource, Server, View, Views};
use outrigger_engine::xds::Kind;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::Routes;

struct Same(Arc<View>);

impl Views for Same {
    fn view(&self, _: &Caller) -> Arc<View> {
        self.0.clone()
    }
}

/// A view of these resources; the version of each is its JSON.
pub(crate) fn view(resources: &[(Kind, Value)]) -> Arc<dyn Views> {
    let pool = DescriptorPool::decode(outrigger_proto::DESCRIPTORS).unwrap();
    let mut view = View::new();
    for (kind, json) in resources {
        let name = json["name"].as_str().or(json["cluster_name"].as_str()).unwrap();
        let descriptor = pool.get_message_by_name(kind.type_url().rsplit_once('/').unwrap().1).unwrap();
        let message = DynamicMessage::deserialize(descriptor, json).unwrap();
        let resource =
            Resource { name: name.into(), version: json.to_string().into(), body: message.encode_to_vec().into() };
        view.entry(*kind).or_default().insert(name.into(), Arc::new(resource));
    }
    Arc::new(Same(Arc::new(view)))
}

/// A server on a runtime of its own. Dropping it ends all streams and closes its port.
pub(crate) struct Control {
    views: watch::Sender<Arc<dyn Views>>,
    pub(crate) proxies: Arc<Proxies>,
    pub(crate) address: SocketAddr,
    _runtime: Runtime,
}

impl Control {
    /// Port 0 is a free one.
    pub(crate) fn start(port: u16, views: Arc<dyn Views>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (views, receiver) = watch::channel(views);
        let server = Server::new(receiver, Limits::default());
        let mut routes = Routes::builder();
        server.add_to(&mut routes);
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", port))).unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = TcpListenerStream::new(listener);
        runtime.spawn(tonic::transport::Server::builder().add_routes(routes.routes()).serve_with_incoming(incoming));
        Self { views, proxies: server.proxies(), address, _runtime: runtime }
    }

    pub(crate) fn update(&self, views: Arc<dyn Views>) {
        self.views.send_replace(views);
    }
}
