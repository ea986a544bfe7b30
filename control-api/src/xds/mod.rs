//! The xDS server: what a node sees, and the streams that carry it there.

#[cfg(test)]
mod past_tests;
mod proxies;
mod services;
mod session;
#[cfg(test)]
mod session_model;
#[cfg(test)]
mod session_order;
#[cfg(test)]
mod session_tests;
mod stream;
#[cfg(test)]
mod stream_tests;
mod subscription;
mod told;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::node::Caller;
use bytes::Bytes;
use outrigger_engine::xds::Kind;
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

/// What clients may make the server keep. Beyond it they get `RESOURCE_EXHAUSTED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Streams that are open, of all clients together.
    pub streams: usize,
    /// Resources that one stream names, of all kinds together: those that it is subscribed to by name, and those that
    /// it says to have.
    pub names: usize,
}

impl Default for Limits {
    /// Five types for each of 4,000 proxies; clusters, endpoints, listeners and routes of 25,000 ports.
    fn default() -> Self {
        Self { streams: 20_000, names: 100_000 }
    }
}

/// All that one node is to have, by kind and name.
pub type View = BTreeMap<Kind, BTreeMap<Arc<str>, Arc<Resource>>>;

/// What the compiler made of the whole mesh.
pub trait Views: Send + Sync {
    /// What `caller` is to have. What several nodes have in common they share; only the listeners and applications of a
    /// node are made for it.
    fn view(&self, caller: &Caller) -> Arc<View>;

    /// Whether nothing was ever applied. A client that has resources then has them from a store that is not this one.
    fn is_new(&self) -> bool {
        false
    }

    /// The revision of the objects that it was made of; 0 where they have none.
    fn revision(&self) -> u64 {
        0
    }
}
