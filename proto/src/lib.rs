//! The messages that Outrigger speaks: Envoy's xDS v3, generated at build time from one pruned descriptor set.
//!
//! `xds.fds` is the one list of what exists: the Rust types below, bootstrap YAML, `/config_dump` and CSDS all come
//! from it. It is made by `cargo run -p outrigger-proto-prune` from the roots in `roots.txt`.
//!
//! Maps are `BTreeMap`, so equal messages have equal bytes. Every message implements [`prost::Name`].

pub use prost;
pub use prost_types;

/// The descriptor set itself, encoded (`google.protobuf.FileDescriptorSet`), for reflection over messages.
pub const DESCRIPTORS: &[u8] = include_bytes!("../xds.fds");

#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/xds.rs"));
}

pub use generated::*;
