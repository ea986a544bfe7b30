//! What people write to the control plane.

use std::collections::BTreeMap;

use outrigger_proto::outrigger::control::v1 as pb;
use outrigger_proto::outrigger::control::v1::object::Kind;
use outrigger_proto::prost_types::Value;
use outrigger_proto::prost_types::value::Kind as ValueKind;

fn meta(name: &str, labels: &[(&str, &str)]) -> Option<pb::ObjectMeta> {
    let labels: BTreeMap<_, _> = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Some(pb::ObjectMeta { name: name.to_owned(), labels, ..Default::default() })
}

/// A Service whose instances have its name as label `app`.
pub(crate) fn service(name: &str) -> pb::Object {
    let target_port = Some(Value { kind: Some(ValueKind::StringValue("http".to_owned())) });
    let port = pb::ServicePort { name: Some("http".to_owned()), port: Some(80), target_port, ..Default::default() };
    let selector = [("app".to_owned(), name.to_owned())].into();
    let object = pb::Service {
        api_version: "v1".to_owned(),
        kind: "Service".to_owned(),
        metadata: meta(name, &[]),
        spec: Some(pb::ServiceSpec { ports: vec![port], selector, ..Default::default() }),
        status: None,
    };
    pb::Object { kind: Some(Kind::Service(object)) }
}

/// An instance of a Service.
pub(crate) fn workload(name: &str, service: &str, port: u16) -> pb::Object {
    let object = pb::Workload {
        api_version: "outrigger.dev/v1alpha1".to_owned(),
        kind: "Workload".to_owned(),
        metadata: meta(name, &[("app", service)]),
        spec: Some(pb::WorkloadSpec {
            addresses: vec!["127.0.0.1".to_owned()],
            ports: [("http".to_owned(), i32::from(port))].into(),
            ..Default::default()
        }),
        status: None,
    };
    pb::Object { kind: Some(Kind::Workload(object)) }
}

/// What is called as `/rN` of the shop goes to this Service.
pub(crate) fn route(number: usize, service: &str) -> pb::Object {
    let path = pb::HttpPathMatch { r#type: None, value: Some(format!("/r{number}")) };
    let backend = pb::HttpBackendRef { name: service.to_owned(), port: Some(80), ..Default::default() };
    let rule = pb::HttpRouteRule {
        matches: vec![pb::HttpRouteMatch { path: Some(path), ..Default::default() }],
        backend_refs: vec![backend],
        ..Default::default()
    };
    let parent = pb::ParentReference {
        group: Some(String::new()),
        kind: Some("Service".to_owned()),
        name: "shop".to_owned(),
        ..Default::default()
    };
    let object = pb::HttpRoute {
        api_version: "gateway.networking.k8s.io/v1".to_owned(),
        kind: "HTTPRoute".to_owned(),
        metadata: meta(&format!("r{number}"), &[]),
        spec: Some(pb::HttpRouteSpec { parent_refs: vec![parent], rules: vec![rule], ..Default::default() }),
        status: None,
    };
    pb::Object { kind: Some(Kind::HttpRoute(object)) }
}

/// Names an object.
pub(crate) fn key(kind: &str, name: &str) -> pb::ObjectKey {
    pb::ObjectKey { kind: kind.to_owned(), name: name.to_owned(), ..Default::default() }
}
