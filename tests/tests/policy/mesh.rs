//! Objects from YAML, compiled and served.

use std::net::SocketAddr;
use std::sync::Arc;

use outrigger_control::compile::Mesh;
use outrigger_control::model::{Key, Stored, validate};
use outrigger_control::xds::{Limits, Server, Views};
use outrigger_proto::outrigger::control::v1 as pb;
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::Routes;

/// The objects of a YAML text with `---` between them.
pub(crate) fn objects(yaml: &str) -> Vec<Stored> {
    let pool = DescriptorPool::decode(outrigger_proto::CONTROL_DESCRIPTORS).unwrap();
    let object = |(text, created)| Stored { object: Arc::new(object(text, &pool)), created };
    yaml.split("\n---\n").zip(1..).map(object).collect()
}

/// They, compiled.
pub(crate) fn compile(yaml: &str) -> Arc<dyn Views> {
    let objects = objects(yaml);
    for stored in &objects {
        assert_eq!(validate(&stored.object), [], "{:?}", stored.object);
    }
    let mesh = Mesh::build(&objects);
    let names = objects.iter().filter_map(|stored| Key::of(&stored.object)).map(|key| key.name);
    for name in names {
        assert_eq!(mesh.rejected(&name), [], "{name}");
    }
    Arc::new(mesh)
}

fn object(text: &str, pool: &DescriptorPool) -> pb::Object {
    let json: serde_json::Value = serde_saphyr::from_str(text).unwrap();
    let kind = match json["kind"].as_str().unwrap() {
        "Service" => pb::object::Kind::Service(message(json, pool)),
        "Workload" => pb::object::Kind::Workload(message(json, pool)),
        "HTTPRoute" => pb::object::Kind::HttpRoute(message(json, pool)),
        "ServicePolicy" => pb::object::Kind::ServicePolicy(message(json, pool)),
        other => panic!("no kind {other}"),
    };
    pb::Object { kind: Some(kind) }
}

fn message<M: Message + Name + Default>(json: serde_json::Value, pool: &DescriptorPool) -> M {
    let descriptor = pool.get_message_by_name(&M::full_name()).unwrap();
    M::decode(DynamicMessage::deserialize(descriptor, json).unwrap().encode_to_vec().as_slice()).unwrap()
}

/// A server of xDS on a runtime of its own.
pub(crate) struct Control {
    views: watch::Sender<Arc<dyn Views>>,
    pub(crate) address: SocketAddr,
    _runtime: Runtime,
}

impl Control {
    pub(crate) fn start(views: Arc<dyn Views>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (views, receiver) = watch::channel(views);
        let mut routes = Routes::builder();
        Server::new(receiver, Limits::default()).add_to(&mut routes);
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = TcpListenerStream::new(listener);
        runtime.spawn(tonic::transport::Server::builder().add_routes(routes.routes()).serve_with_incoming(incoming));
        Self { views, address, _runtime: runtime }
    }

    pub(crate) fn update(&self, views: Arc<dyn Views>) {
        self.views.send_replace(views);
    }
}
