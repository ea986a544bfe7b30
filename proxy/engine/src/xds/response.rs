//! Responses of both variants of the protocol, in one form.

use std::time::Duration;

use bytes::Bytes;
use outrigger_proto::envoy::service::discovery::v3 as pb;
use outrigger_proto::prost::{DecodeError, Message as _};
use prost_types::Any;

use super::{Variant, name_of};
use crate::config::value::LONGEST;

/// Bytes of what a server says of a resource that it does not send: it is kept as long as it says so, and shown.
const MAX_REASON: usize = 4096;

/// What a management server sent, with its resources unwrapped and named. Making it is most of the work that a response
/// costs before its resources are converted, and touches nothing else, so it can be done on any thread.
#[derive(Debug)]
pub struct Response {
    /// The type of the resources.
    pub type_url: String,
    /// What the server calls itself (`control_plane.identifier`); empty where it does not say.
    pub control_plane: String,
    pub(super) version: String,
    pub(super) nonce: String,
    pub(super) resources: Vec<Received>,
    pub(super) removed: Vec<String>,
    /// What the server has to say about resources that it does not send: name and reason, which is cut to 4,096 bytes.
    pub errors: Vec<(String, String)>,
}

/// A resource as it came.
#[derive(Debug)]
pub(super) struct Received {
    /// Empty where it has none, or none can be read.
    pub name: String,
    pub aliases: Vec<String>,
    pub version: String,
    pub ttl: Option<Duration>,
    pub content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    /// The message.
    Body(Bytes),
    /// What is there stays for another TTL.
    Heartbeat,
    /// Not a resource, and why.
    Faulty(String),
}

impl Response {
    /// Reads a message from the wire.
    pub fn decode(variant: Variant, message: &[u8]) -> Result<Response, DecodeError> {
        match variant {
            Variant::Sotw => pb::DiscoveryResponse::decode(message).map(Response::from),
            Variant::Delta => pb::DeltaDiscoveryResponse::decode(message).map(Response::from),
        }
    }

    /// The number of resources in it.
    pub fn len(&self) -> usize {
        self.resources.len()
    }

    /// Whether there is no resource in it.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }
}

impl From<pb::DiscoveryResponse> for Response {
    fn from(message: pb::DiscoveryResponse) -> Self {
        let pb::DiscoveryResponse {
            version_info: version,
            resources,
            canary: _,
            type_url,
            nonce,
            control_plane,
            resource_errors,
        } = message;
        let resources = resources.into_iter().map(|any| state_of_the_world(any, &type_url, &version)).collect();
        Response {
            control_plane: control_plane.map(|plane| plane.identifier).unwrap_or_default(),
            version,
            nonce,
            resources,
            removed: Vec::new(),
            errors: resource_errors.into_iter().filter_map(error).collect(),
            type_url,
        }
    }
}

impl From<pb::DeltaDiscoveryResponse> for Response {
    fn from(message: pb::DeltaDiscoveryResponse) -> Self {
        let pb::DeltaDiscoveryResponse {
            system_version_info: version,
            resources,
            type_url,
            mut removed_resources,
            removed_resource_names,
            nonce,
            control_plane,
            resource_errors,
        } = message;
        removed_resources.extend(removed_resource_names.into_iter().map(|name| name.name));
        Response {
            control_plane: control_plane.map(|plane| plane.identifier).unwrap_or_default(),
            version,
            nonce,
            resources: resources.into_iter().map(|resource| unwrap(resource, &type_url)).collect(),
            removed: removed_resources,
            errors: resource_errors.into_iter().filter_map(error).collect(),
            type_url,
        }
    }
}

/// The name of a resource that the server has trouble with, and its reason, cut to [`MAX_REASON`].
fn error(message: pb::ResourceError) -> Option<(String, String)> {
    let pb::ResourceError { resource_name, error_detail } = message;
    let name = resource_name?.name;
    let mut reason = error_detail.map(|status| status.message).unwrap_or_default();
    if reason.len() > MAX_REASON {
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
        reason.shrink_to_fit();
    }
    (!name.is_empty()).then_some((name, reason))
}

/// A resource of a state-of-the-world response: plain, or in the wrapper that delta responses have.
fn state_of_the_world(any: Any, type_url: &str, version: &str) -> Received {
    if type_name(&any.type_url) == "envoy.service.discovery.v3.Resource" {
        return match pb::Resource::decode(any.value.as_slice()) {
            Ok(resource) => {
                let mut received = unwrap(resource, type_url);
                version.clone_into(&mut received.version);
                received
            }
            Err(error) => plain(String::new(), version.to_owned(), faulty(&error)),
        };
    }
    let (name, content) = body(any, type_url);
    plain(name, version.to_owned(), content)
}

fn plain(name: String, version: String, content: Content) -> Received {
    Received { name, aliases: Vec::new(), version, ttl: None, content }
}

fn faulty(error: &DecodeError) -> Content {
    Content::Faulty(format!("cannot be decoded: {error}"))
}

fn unwrap(resource: pb::Resource, type_url: &str) -> Received {
    let pb::Resource { name, resource_name, aliases, version, resource, ttl, cache_control: _, metadata: _ } = resource;
    let name = resource_name.map(|name| name.name).filter(|name| !name.is_empty()).unwrap_or(name);
    let ttl = ttl.and_then(|ttl| Duration::try_from(ttl).ok()).filter(|ttl| *ttl <= LONGEST);
    let Some(any) = resource else { return Received { name, aliases, version, ttl, content: Content::Heartbeat } };
    let (inner, content) = body(any, type_url);
    // The wrapper may leave the name to the message; a resource under two names is none under either.
    let (name, content) = match content {
        content if name.is_empty() => (inner, content),
        Content::Body(_) if inner != name && !aliases.contains(&inner) => {
            let reason = format!("is named {name:?} outside and {inner:?} inside");
            (name, Content::Faulty(reason))
        }
        content => (name, content),
    };
    Received { name, aliases, version, ttl, content }
}

/// The name in the message, and the message.
fn body(any: Any, type_url: &str) -> (String, Content) {
    if type_name(&any.type_url) != type_name(type_url) {
        return (String::new(), Content::Faulty(format!("is a {:?} in a response of {type_url:?}", any.type_url)));
    }
    match name_of(&any.value) {
        Ok(name) => (name, Content::Body(any.value.into())),
        Err(error) => (String::new(), faulty(&error)),
    }
}

fn type_name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use outrigger_proto::envoy::config::cluster::v3::Cluster;
    use outrigger_proto::prost::encoding::WireType;

    use super::*;

    #[test]
    fn a_name_is_found_without_the_rest() {
        let cluster = Cluster { name: "a".into(), alt_stat_name: "b".into(), ..Default::default() };
        assert_eq!(name_of(&cluster.encode_to_vec()).unwrap(), "a");
        assert_eq!(name_of(&[]).unwrap(), "");
        assert!(name_of(&[10, 5, b'a']).is_err());
        assert!(name_of(&[0xff; 12]).is_err());
        let wrong_type = [(1 << 3) | WireType::Varint as u8, 1];
        assert!(name_of(&wrong_type).is_err());
    }
}
