//! What unit tests share: objects from YAML, and an ear at the log.

use std::sync::{Arc, Mutex, OnceLock};

use outrigger_proto::outrigger::control::v1 as pb;
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage};
use tracing::{Event, Metadata, Subscriber, span};

use crate::log::BOUNDED;
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

/// What is logged by the thread that has it as its subscriber.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard(Arc<Mutex<Vec<(String, &'static str)>>>);

impl Heard {
    /// A text for each event of this program.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|(line, _)| line.clone()).collect()
    }

    /// Of these the ones of which the log has only so many in a time.
    pub(crate) fn bounded(&self) -> Vec<String> {
        let lines = self.0.lock().unwrap();
        lines.iter().filter(|(_, target)| *target == BOUNDED).map(|(line, _)| line.clone()).collect()
    }
}

impl Subscriber for Heard {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("outrigger")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        self.0.lock().unwrap().push((crate::log::text(event), event.metadata().target()));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
