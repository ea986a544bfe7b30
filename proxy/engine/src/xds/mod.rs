//! The xDS client without its I/O: what is subscribed, what came, what is acknowledged.
//!
//! A [`Client`] is the state of one stream of discovery, over all the connections that carry it one after the other.
//! Events and the time go in; requests to send, [`Update`]s to apply and the next deadline come out. An update is
//! applied before its response is acknowledged, so an acknowledgement says what is so; one at a time and in the order
//! in which they came, but that endpoints do not wait for the other kinds.
//!
//! The rules are those of Envoy's `xds_protocol` page, with what servers do besides; `tests/rules/` names them.

mod back_off;
mod client;
mod node;
mod response;
mod subscription;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use prost::{DecodeError, Message};

use crate::config::config_source::ConfigSource;

pub use self::back_off::Reconnect;
pub use self::client::{Client, Request, Variant};
pub use self::node::identify;
pub use self::response::Response;

/// The kinds of resources that are discovered, in the order in which a push has to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// CDS.
    Cluster,
    /// EDS.
    Endpoints,
    /// LDS.
    Listener,
    /// RDS.
    Routes,
}

impl Kind {
    /// All kinds, in the order of application.
    pub const ALL: [Kind; 4] = [Kind::Cluster, Kind::Endpoints, Kind::Listener, Kind::Routes];

    /// The type URL of its resources.
    pub const fn type_url(self) -> &'static str {
        match self {
            Kind::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Kind::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Kind::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Kind::Routes => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// What its discovery is called for short: `cds`.
    pub const fn service(self) -> &'static str {
        match self {
            Kind::Cluster => "cds",
            Kind::Endpoints => "eds",
            Kind::Listener => "lds",
            Kind::Routes => "rds",
        }
    }

    /// The same as operators write it: `CDS`.
    pub const fn abbreviation(self) -> &'static str {
        match self {
            Kind::Cluster => "CDS",
            Kind::Endpoints => "EDS",
            Kind::Listener => "LDS",
            Kind::Routes => "RDS",
        }
    }

    /// The kind with this type URL.
    pub fn from_type_url(url: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.type_url() == url)
    }
}

/// The name that an encoded resource has. Nothing else of it is decoded.
///
/// # Errors
/// Where the bytes are no message, or its first field is no text.
pub fn name_of(body: &[u8]) -> Result<String, DecodeError> {
    // `name`, or `cluster_name`: the first field of each.
    Named::decode(body).map(|message| message.name)
}

/// The start of every kind's message: its name is its first field.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

/// One resource as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its name, unique within its kind.
    pub name: String,
    /// The version that the server gave it.
    pub version: String,
    /// The encoded message.
    pub body: Bytes,
}

/// Resources of one kind that came, and names of those that are gone, from one source in one step.
#[derive(Clone, Debug)]
pub struct Update {
    /// Of all of them.
    pub kind: Kind,
    /// New or changed; what did not change may be among them.
    pub changed: Vec<Resource>,
    /// Removed by the server, or absent after the wait for them was over.
    pub removed: Vec<String>,
    /// Those of `removed` of which nothing was heard in time.
    pub timed_out: Vec<String>,
    /// What the server says of resources that it cannot send: name and reason. What is in force stays.
    pub errors: Vec<(String, String)>,
}

impl Update {
    /// Nothing of a kind; it says that its source has answered.
    pub fn empty(kind: Kind) -> Update {
        Update { kind, changed: Vec::new(), removed: Vec::new(), timed_out: Vec::new(), errors: Vec::new() }
    }

    /// The update, leaving an empty one of the same kind.
    fn take(&mut self) -> Update {
        std::mem::replace(self, Update::empty(self.kind))
    }
}

/// Why a resource of an update is not applied. Its last good version keeps serving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Its name; empty where the resource could not be read far enough to have one.
    pub name: String,
    /// Every reason, each with path and value.
    pub reasons: Vec<String>,
}

/// A resource's name as it is shown where something is said of it: also where it has none.
pub fn shown_name(name: &str) -> &str {
    if name.is_empty() { "(no name)" } else { name }
}

/// A resource that the configuration in force names: the client is to subscribe to it, or to stop.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Interest {
    /// [`Kind::Endpoints`] or [`Kind::Routes`].
    pub kind: Kind,
    /// The resource's name.
    pub name: String,
    /// Who has it, and how long to wait for it. Equal sources share what comes.
    pub source: Arc<ConfigSource>,
    /// Whether it is wanted from now on.
    pub wanted: bool,
}
