//! Views of resources that are written as JSON.

use std::sync::Arc;

use outrigger_control::node::Caller;
use outrigger_control::xds::{Resource, View, Views};
use outrigger_engine::xds::Kind;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;

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
