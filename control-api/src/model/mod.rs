//! Objects as they were written -> services, instances, routes and policies with every reference resolved.
//!
//! In two steps. [`validate`] looks at one object alone: what is wrong with it is wrong whatever else there is, and it
//! is not stored. [`Model`] puts all objects together: a reference may lead nowhere today and somewhere tomorrow, so
//! that what it finds is no error but a condition in the object's status.

mod http_filter;
mod http_route;
mod index;
mod policy;
mod precedence;
mod resolve;
mod service;
pub(crate) mod status;
pub(crate) mod value;
mod workload;

use std::fmt;
use std::sync::Arc;

use outrigger_engine::config::report::{At, NOT_IN_THIS_VERSION, Problem, Report};
use outrigger_engine::source::nearest;
use outrigger_proto::outrigger::control::v1 as pb;

pub use http_filter::{Filters, HeaderOp, HeaderOps, PathModifier, Redirect, Rewrite};
pub use http_route::{HttpRoute, Match, PathMatch, Rule, RuleRetry, Text};
pub use policy::{Algorithm, Balancing, Keepalive, Policy, PolicyValues, RetryCause};
pub use precedence::Entry;
pub use resolve::{Backend, Changed, Endpoint, Health, Model, Port, ResolvedRoute, ServiceModel};
pub use service::{Protocol, Reach, Service, ServicePort, Target};
pub use status::Status;
pub use workload::Workload;

/// The name of this control plane in the status of routes and policies.
pub const CONTROLLER: &str = "outrigger.dev/mesh";
/// The API version of our own kinds.
pub const OWN_API_VERSION: &str = "outrigger.dev/v1alpha1";
/// How Linkerd's users write the group of Services, which is empty.
const CORE: &str = "core";
/// What is said of that.
const CORE_IS_TAKEN: &str = "group \"core\" is taken for \"\", the group of Services,";
/// The namespace of an object that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Namespace and name, ordered and printed as `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name there.
    pub name: Arc<str>,
}

impl Name {
    /// `namespace/name`.
    pub fn new(namespace: &str, name: &str) -> Name {
        Name { namespace: namespace.into(), name: name.into() }
    }

    fn of(metadata: Option<&pb::ObjectMeta>) -> Name {
        let namespace = metadata.and_then(|metadata| metadata.namespace.as_deref());
        let name = metadata.map(|metadata| metadata.name.as_str());
        Name::new(namespace.filter(|text| !text.is_empty()).unwrap_or(DEFAULT_NAMESPACE), name.unwrap_or_default())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `Service`
    Service,
    /// `Workload`
    Workload,
    /// `HTTPRoute`
    HttpRoute,
    /// `ServicePolicy`
    ServicePolicy,
}

/// Kinds of the Gateway API and of our own that are no typing errors, and that a later version may take.
const LATER: [&str; 15] = [
    "AuthorizationPolicy",
    "BackendTLSPolicy",
    "GRPCRoute",
    "Gateway",
    "GatewayClass",
    "ListenerSet",
    "MeshConfig",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
    "TrafficFilter",
    "UDPRoute",
    "WorkloadPolicy",
    "XBackend",
    "XBackendTrafficPolicy",
];

impl Kind {
    /// Why there is no kind that is written so; `names`: what may be written.
    pub fn why_not<'n>(written: &str, names: impl Iterator<Item = &'n str>) -> String {
        let there = format!("; there are {}", Kind::ALL.map(Kind::as_str).join(", "));
        // The command line takes plurals and groups, too.
        let plain = written.split('.').next().unwrap_or_default().to_ascii_lowercase();
        let is_it = |later: &str| {
            let later = later.to_ascii_lowercase();
            let plural = later.strip_suffix('y').map_or_else(|| format!("{later}s"), |stem| format!("{stem}ies"));
            plain == later || plain == plural
        };
        if LATER.into_iter().any(is_it) {
            return format!("{NOT_IN_THIS_VERSION}{there}");
        }
        let near = nearest(written, names);
        format!("no such kind{}", if near.is_empty() { there } else { near })
    }

    /// All kinds.
    pub const ALL: [Kind; 4] = [Kind::Service, Kind::Workload, Kind::HttpRoute, Kind::ServicePolicy];

    /// As `kind` spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Service => "Service",
            Kind::Workload => "Workload",
            Kind::HttpRoute => "HTTPRoute",
            Kind::ServicePolicy => "ServicePolicy",
        }
    }

    /// The values that `apiVersion` may have; the first is the one to write.
    pub const fn api_versions(self) -> &'static [&'static str] {
        match self {
            Kind::Service => &["v1"],
            Kind::HttpRoute => &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"],
            Kind::Workload | Kind::ServicePolicy => &[OWN_API_VERSION],
        }
    }
}

/// Which object: unique in the store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace and name.
    pub name: Name,
}

impl Key {
    /// The key of an object; `None` where the message is empty.
    pub fn of(object: &pb::Object) -> Option<Key> {
        let (kind, metadata) = match object.kind.as_ref()? {
            pb::object::Kind::Service(object) => (Kind::Service, &object.metadata),
            pb::object::Kind::Workload(object) => (Kind::Workload, &object.metadata),
            pb::object::Kind::HttpRoute(object) => (Kind::HttpRoute, &object.metadata),
            pb::object::Kind::ServicePolicy(object) => (Kind::ServicePolicy, &object.metadata),
        };
        Some(Key { kind, name: Name::of(metadata.as_ref()) })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}

/// An object as the store has it.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The object.
    pub object: Arc<pb::Object>,
    /// The store's revision at its creation, kept over updates: the smaller one is the older object.
    pub created: u64,
}

/// What is wrong with an object, whatever else there is: each problem with the path in it (`spec.rules[0].name`), the
/// value and the reason. Empty if it may be stored.
pub fn validate(object: &pb::Object) -> Vec<Problem> {
    let report = Report::new();
    let root = report.root();
    match &object.kind {
        Some(pb::object::Kind::Service(object)) => _ = Service::convert(object, &root),
        Some(pb::object::Kind::Workload(object)) => _ = Workload::convert(object, &root),
        Some(pb::object::Kind::HttpRoute(object)) => _ = HttpRoute::convert(object, &root),
        Some(pb::object::Kind::ServicePolicy(object)) => _ = Policy::convert(object, &root),
        None => root.reject("", "an object has to be of a kind"),
    }
    report.into_parts().0
}

/// What keys and values of annotations may take together, in bytes, as in Kubernetes.
const MOST_ANNOTATIONS: usize = 256 << 10;

/// What is the same for all kinds: version, kind and metadata.
fn check_head(kind: Kind, api_version: &str, name: &str, metadata: Option<&pb::ObjectMeta>, at: &At<'_>) {
    if !kind.api_versions().contains(&api_version) {
        let word = if api_version.is_empty() { "is required:" } else { "must be" };
        at.field("apiVersion").reject(api_version, format_args!("{word} {}", kind.api_versions().join(" or ")));
    }
    if name != kind.as_str() {
        at.field("kind").reject(name, format_args!("must be {}", kind.as_str()));
    }
    let at = at.field("metadata");
    let Some(metadata) = metadata else {
        at.field("name").reject("", "is required");
        return;
    };
    // Services are names in DNS, of one label.
    let name_check = if kind == Kind::Service { value::dns_label } else { value::dns_subdomain };
    value::check(&at.field("name"), &metadata.name, name_check);
    if let Some(namespace) = metadata.namespace.as_deref().filter(|text| !text.is_empty()) {
        value::check(&at.field("namespace"), namespace, value::dns_label);
    }
    labels(&at.field("labels"), &metadata.labels);
    let size: usize = metadata.annotations.iter().map(|(key, text)| key.len().saturating_add(text.len())).sum();
    if size > MOST_ANNOTATIONS {
        at.field("annotations")
            .reject("", format_args!("take {size} bytes, and no more than {MOST_ANNOTATIONS} are allowed"));
    }
}

/// Labels as Kubernetes has them: an optional prefix, a name, a value.
fn labels(at: &At<'_>, labels: &std::collections::BTreeMap<String, String>) {
    let is_part = |text: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        text.len() <= 63 && text.bytes().all(inner) && edge(text.bytes().next()) && edge(text.bytes().last())
    };
    for (key, text) in labels {
        let name = match key.split_once('/') {
            Some((prefix, name)) if value::dns_subdomain(prefix).is_ok() => name,
            Some(_) => "",
            None => key,
        };
        if !is_part(name) {
            at.key(key).reject(key, "not a label's name: [prefix/]name, the name with 1 to 63 letters, digits, -_.");
        }
        if !text.is_empty() && !is_part(text) {
            at.key(key).reject(text, "not a label's value: up to 63 letters, digits, -_.");
        }
    }
}

#[cfg(test)]
mod tests;
