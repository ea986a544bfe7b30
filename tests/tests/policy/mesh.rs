//! Objects from YAML, compiled.

use std::sync::Arc;

use outrigger_control::compile::Mesh;
use outrigger_control::model::{Key, Stored, validate};
use outrigger_control::xds::Views;
use outrigger_proto::outrigger::control::v1 as pb;
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage};

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
