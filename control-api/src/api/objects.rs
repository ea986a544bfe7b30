//! An object as it was written, as it is stored, and as it is shown.
//!
//! What people write is stored as they wrote it; what the store and the model know about it (versions, times,
//! conditions) is added when it is read and taken off when it comes back.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use outrigger_proto::CONTROL_DESCRIPTORS;
use outrigger_proto::outrigger::control::v1::object::Kind as Inner;
use outrigger_proto::outrigger::control::v1::{
    Condition, HttpRoute, Object, ObjectMeta, Service, ServicePolicy, Workload, WorkloadStatus,
};
use outrigger_proto::prost::{DecodeError, Message, Name};
use outrigger_proto::prost_types::Timestamp;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;

use crate::model::{Key, Kind, Status};
use crate::store::Record;

/// The key under which an object is stored: `HTTPRoute/default/products`.
pub fn store_key(key: &Key) -> Arc<str> {
    format!("{}/{}/{}", key.kind.as_str(), key.name.namespace, key.name.name).into()
}

/// The kind that is spelled so.
pub fn kind(name: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| kind.as_str() == name)
}

/// The full name of a kind's message.
pub fn message_name(kind: Kind) -> String {
    match kind {
        Kind::Service => Service::full_name(),
        Kind::Workload => Workload::full_name(),
        Kind::HttpRoute => HttpRoute::full_name(),
        Kind::ServicePolicy => ServicePolicy::full_name(),
    }
}

/// The field of `Object` that holds a kind, as JSON spells it.
pub fn field_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Service => "service",
        Kind::Workload => "workload",
        Kind::HttpRoute => "httpRoute",
        Kind::ServicePolicy => "servicePolicy",
    }
}

/// An object from the encoded message of its kind.
///
/// # Errors
/// Where the bytes are not such a message.
pub fn decode(kind: Kind, bytes: &[u8]) -> Result<Object, DecodeError> {
    let inner = match kind {
        Kind::Service => Inner::Service(Service::decode(bytes)?),
        Kind::Workload => Inner::Workload(Workload::decode(bytes)?),
        Kind::HttpRoute => Inner::HttpRoute(HttpRoute::decode(bytes)?),
        Kind::ServicePolicy => Inner::ServicePolicy(ServicePolicy::decode(bytes)?),
    };
    Ok(Object { kind: Some(inner) })
}

/// The object's metadata, if it has any.
pub fn metadata(object: &Object) -> Option<&ObjectMeta> {
    match object.kind.as_ref()? {
        Inner::Service(object) => object.metadata.as_ref(),
        Inner::Workload(object) => object.metadata.as_ref(),
        Inner::HttpRoute(object) => object.metadata.as_ref(),
        Inner::ServicePolicy(object) => object.metadata.as_ref(),
    }
}

fn metadata_mut(object: &mut Object) -> Option<&mut ObjectMeta> {
    match object.kind.as_mut()? {
        Inner::Service(object) => object.metadata.as_mut(),
        Inner::Workload(object) => object.metadata.as_mut(),
        Inner::HttpRoute(object) => object.metadata.as_mut(),
        Inner::ServicePolicy(object) => object.metadata.as_mut(),
    }
}

/// Puts an object that names no namespace into this one.
pub fn default_namespace(object: &mut Object, namespace: &str) {
    if let Some(metadata) = metadata_mut(object)
        && metadata.namespace.as_deref().unwrap_or_default().is_empty()
    {
        metadata.namespace = Some(namespace.to_owned());
    }
}

/// Takes off what the store and the model add. The health of a Workload stays: whoever writes the object says it.
pub fn strip(object: &mut Object) {
    if let Some(metadata) = metadata_mut(object) {
        metadata.resource_version = None;
        metadata.generation = None;
        metadata.creation_timestamp = None;
        metadata.managed_fields.clear();
    }
    match &mut object.kind {
        Some(Inner::Service(object)) => object.status = None,
        Some(Inner::Workload(object)) => {
            let health = object.status.take().and_then(|status| status.health);
            object.status = health.map(|health| WorkloadStatus { health: Some(health), ..WorkloadStatus::default() });
        }
        Some(Inner::HttpRoute(object)) => object.status = None,
        Some(Inner::ServicePolicy(object)) => object.status = None,
        None => {}
    }
}

/// Whether two objects ask for the same: equal but for their metadata.
pub fn same_spec(one: &Object, other: &Object) -> bool {
    match (&one.kind, &other.kind) {
        (Some(Inner::Service(one)), Some(Inner::Service(other))) => one.spec == other.spec,
        (Some(Inner::Workload(one)), Some(Inner::Workload(other))) => one.spec == other.spec,
        (Some(Inner::HttpRoute(one)), Some(Inner::HttpRoute(other))) => one.spec == other.spec,
        (Some(Inner::ServicePolicy(one)), Some(Inner::ServicePolicy(other))) => one.spec == other.spec,
        _ => false,
    }
}

/// The object of a record, with what the store knows about it.
///
/// # Errors
/// Where the bytes are not an object: the file is damaged.
pub fn of_record(record: &Record) -> Result<Object, DecodeError> {
    let mut object = Object::decode(record.bytes.as_ref())?;
    if let Some(metadata) = metadata_mut(&mut object) {
        metadata.resource_version = Some(record.revision.to_string());
        metadata.generation = i64::try_from(record.generation).ok();
        metadata.creation_timestamp = Some(rfc3339(record.created_at));
    }
    Ok(object)
}

/// The bytes to store for a stripped object.
pub fn bytes(object: &Object) -> Bytes {
    object.encode_to_vec().into()
}

/// The object with the status that the model computed.
pub fn with_status(object: &Object, status: Option<&Status>) -> Object {
    let mut object = object.clone();
    let generation = metadata(&object).and_then(|metadata| metadata.generation);
    let own = |conditions: &[Condition]| {
        let own = conditions.iter().map(|one| Condition { observed_generation: generation, ..one.clone() });
        own.collect::<Vec<_>>()
    };
    match (&mut object.kind, status) {
        (Some(Inner::Service(service)), Some(Status::Object(conditions))) => {
            service.status.get_or_insert_default().conditions = own(conditions);
        }
        (Some(Inner::Workload(workload)), Some(Status::Object(conditions))) => {
            workload.status.get_or_insert_default().conditions = own(conditions);
        }
        (Some(Inner::HttpRoute(route)), Some(Status::Route(status))) => route.status = Some(status.clone()),
        (Some(Inner::ServicePolicy(policy)), Some(Status::Policy(status))) => policy.status = Some(status.clone()),
        _ => {}
    }
    object
}

/// Seconds since 1970 as `2026-11-21T18:22:00Z`.
pub fn rfc3339(seconds: u64) -> String {
    Timestamp { seconds: i64::try_from(seconds).unwrap_or_default(), nanos: 0 }.to_string()
}

/// The object as JSON, as Kubernetes' tools show it: without the level that says its kind once more.
pub fn json(object: &Object) -> Value {
    static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| DescriptorPool::decode(CONTROL_DESCRIPTORS).ok());
    let (kind, bytes) = match &object.kind {
        Some(Inner::Service(object)) => (Kind::Service, object.encode_to_vec()),
        Some(Inner::Workload(object)) => (Kind::Workload, object.encode_to_vec()),
        Some(Inner::HttpRoute(object)) => (Kind::HttpRoute, object.encode_to_vec()),
        Some(Inner::ServicePolicy(object)) => (Kind::ServicePolicy, object.encode_to_vec()),
        None => return Value::Null,
    };
    let written = || {
        let descriptor = POOL.as_ref()?.get_message_by_name(&message_name(kind))?;
        let message = DynamicMessage::decode(descriptor, bytes.as_slice()).ok()?;
        let options = SerializeOptions::new().stringify_64_bit_integers(false);
        message.serialize_with_options(serde_json::value::Serializer, &options).ok()
    };
    let mut value = written().unwrap_or_default();
    integers(&mut value);
    value
}

/// `google.protobuf.Value` knows only doubles: a port of it is to be written 8080 and not 8080.0.
fn integers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            #[allow(clippy::cast_possible_truncation, reason = "the comparison shows that nothing was lost")]
            let whole = number.as_f64().map(|float| (float, float as i64));
            if let Some((float, whole)) = whole
                && number.is_f64()
                && whole.unsigned_abs() < 1 << 53
                && whole as f64 == float
            {
                *value = whole.into();
            }
        }
        Value::Array(list) => list.iter_mut().for_each(integers),
        Value::Object(map) => map.values_mut().for_each(integers),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use outrigger_engine::config::report::Report;
    use outrigger_engine::source::{Schema, Source, documents};

    use super::*;

    #[test]
    fn an_object_is_stored_as_written_and_shown_with_what_is_known() {
        let text = "\
apiVersion: v1
kind: Service
metadata: {name: a, resourceVersion: '7', generation: 3, creationTimestamp: '2026-11-21T00:00:00Z', labels: {x: z}}
spec: {clusterIP: None, ports: [{port: 80, targetPort: 8080}]}
status: {conditions: []}
";
        let (schema, report) = (Schema::new(CONTROL_DESCRIPTORS), Report::new());
        let document = documents(&Source::new("a.yaml", text)).unwrap().remove(0);
        let mut object =
            decode(Kind::Service, &document.encode(&schema, &message_name(Kind::Service), &report)).unwrap();
        assert!(!report.is_rejected());
        strip(&mut object);
        let record =
            Record { revision: 9, created: 4, generation: 2, created_at: 1_795_285_320, bytes: bytes(&object) };
        let expected = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": "a", "labels": {"x": "z"}, "resourceVersion": "9", "generation": 2,
                "creationTimestamp": "2026-11-21T18:22:00Z",
            },
            "spec": {"clusterIP": "None", "ports": [{"port": 80, "targetPort": 8080}]},
        });
        let shown = of_record(&record).unwrap();
        assert_eq!(json(&shown), expected);
        let mut back = shown;
        strip(&mut back);
        assert_eq!(back, object);
    }
}
