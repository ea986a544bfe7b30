//! The xDS server: what a node sees, and the streams that carry it there.

mod proxies;
mod services;
mod session;
#[cfg(test)]
mod session_model;
#[cfg(test)]
mod session_tests;
mod stream;
#[cfg(test)]
mod stream_tests;
mod subscription;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use outrigger_engine::xds::Kind;
use outrigger_proto::envoy::config::core::v3::Node;
pub use proxies::{Counts, Proxies, Proxy, Status};
pub use services::Server;
pub use session::Protocol;

/// One resource, encoded once and shared by every stream that sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its name, unique within its kind.
    pub name: Arc<str>,
    /// The hash of its bytes, in hexadecimal: equal bytes have equal versions in every process.
    pub version: Arc<str>,
    /// The encoded message.
    pub body: Bytes,
}

/// All that one node is to have, by kind and name.
pub type View = BTreeMap<Kind, BTreeMap<Arc<str>, Arc<Resource>>>;

/// What the compiler made of the whole mesh.
pub trait Views: Send + Sync {
    /// What `node` is to have. What several nodes have in common they share; only the listeners and applications of a node are made for it.
    fn view(&self, node: &Node) -> Arc<View>;
}
