//! The client against the rules of the protocol, and against a server with which things happen in any order.

mod random;
mod rules;

use outrigger_proto::envoy::config::cluster::v3::Cluster;
use outrigger_proto::envoy::config::core::v3::Node;
use outrigger_proto::envoy::service::discovery::v3 as pb;
use outrigger_proto::prost::Message as _;
use prost_types::Any;

use super::{Client, Kind, Rejection, Request, Response, Update, Variant};

/// A resource of any kind: all have their name in the same field.
fn any(kind: Kind, name: &str, content: &str) -> Any {
    let message = Cluster { name: name.to_owned(), alt_stat_name: content.to_owned(), ..Default::default() };
    Any { type_url: kind.type_url().to_owned(), value: message.encode_to_vec() }
}

/// What [`any`] put into a body.
fn content(body: &[u8]) -> String {
    Cluster::decode(body).unwrap().alt_stat_name
}

fn resource(kind: Kind, name: &str, version: &str, content: &str) -> pb::Resource {
    pb::Resource {
        name: name.to_owned(),
        version: version.to_owned(),
        resource: Some(any(kind, name, content)),
        ..Default::default()
    }
}

fn sotw(kind: Kind, version: &str, nonce: &str, resources: Vec<Any>) -> pb::DiscoveryResponse {
    pb::DiscoveryResponse {
        version_info: version.to_owned(),
        nonce: nonce.to_owned(),
        type_url: kind.type_url().to_owned(),
        resources,
        ..Default::default()
    }
}

fn delta(kind: Kind, nonce: &str, resources: Vec<pb::Resource>, removed: &[&str]) -> pb::DeltaDiscoveryResponse {
    pb::DeltaDiscoveryResponse {
        nonce: nonce.to_owned(),
        type_url: kind.type_url().to_owned(),
        resources,
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

fn node() -> Node {
    Node { id: "sidecar~1".to_owned(), ..Default::default() }
}

fn rejection(name: &str, reason: &str) -> Rejection {
    Rejection { name: name.to_owned(), reasons: vec![reason.to_owned()] }
}

fn changed(update: &Update) -> Vec<&str> {
    update.changed.iter().map(|resource| resource.name.as_str()).collect()
}

/// Rules of the protocol by number, as the names of the tests say it. 19 is about ECDS, which is not in this version.
#[test]
fn every_rule_has_a_test_that_names_it() {
    let files = [include_str!("rules/requests.rs"), include_str!("rules/answers.rs"), include_str!("rules/time.rs")];
    let names: Vec<&str> = files.iter().flat_map(|file| file.split("fn rule_").skip(1)).collect();
    for rule in (1..=28).filter(|rule| *rule != 19) {
        assert!(names.iter().any(|name| name.starts_with(&format!("{rule}_"))), "rule {rule} has no test");
    }
}
