//! The messages that Outrigger speaks, generated at build time: Envoy's xDS v3 from one pruned descriptor set, and
//! the control API from the files in `outrigger/control/v1`.
//!
//! `xds.fds` is the one list of what exists: the Rust types below, bootstrap YAML, `/config_dump` and CSDS all come
//! from it. It is made by `cargo run -p outrigger-proto-prune` from the roots in `roots.txt`.
//!
//! Maps are `BTreeMap`, so equal messages have equal bytes. Every message implements [`prost::Name`].

pub use prost;
pub use prost_types;

/// The descriptor set itself, encoded (`google.protobuf.FileDescriptorSet`), for reflection over messages.
pub const DESCRIPTORS: &[u8] = include_bytes!("../xds.fds");

/// The descriptors of `outrigger.control.v1` and of what it imports, encoded (`google.protobuf.FileDescriptorSet`): for
/// gRPC reflection, and to walk an object's YAML beside its message.
pub const CONTROL_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/control.fds"));

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::allow_attributes_without_reason, reason = "generated code")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/xds.rs"));
}

pub use generated::*;
