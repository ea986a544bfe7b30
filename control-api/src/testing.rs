//! What unit tests share: objects from YAML.

use std::sync::{Arc, OnceLock};

use outrigger_proto::outrigger::control::v1 as pb;
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage};

use crate::model::Stored;

/// The objects of a YAML text with `---` between them, the first the oldest.
pub(crate) fn objects(yaml: &str) -> Vec<Stored> {
    let texts = yaml.split("\n---\n").filter(|text| !text.trim().is_empty());
    texts.zip(1..).map(|(text, created)| Stored { object: Arc::new(object(text)), created }).collect()
}

/// The one object of a YAML text.
pub(crate) fn object(yaml: &str) -> pb::Object {
    let json: serde_json::Value = serde_saphyr::from_str(yaml).unwrap();
    let kind = match json["kind"].as_str().unwrap() {
        "Service" => pb::object::Kind::Service(message(json)),
        "Workload" => pb::object::Kind::Workload(message(json)),
        "HTTPRoute" => pb::object::Kind::HttpRoute(message(json)),
        "ServicePolicy" => pb::object::Kind::ServicePolicy(message(json)),
        other => panic!("no kind {other}"),
    };
    pb::Object { kind: Some(kind) }
}

fn message<M: Message + Name + Default>(json: serde_json::Value) -> M {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    let pool = POOL.get_or_init(|| DescriptorPool::decode(outrigger_proto::CONTROL_DESCRIPTORS).unwrap());
    let descriptor = pool.get_message_by_name(&M::full_name()).unwrap();
    M::decode(DynamicMessage::deserialize(descriptor, json).unwrap().encode_to_vec().as_slice()).unwrap()
}
