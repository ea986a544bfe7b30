//! Message -> validated model: one file (or folder) per resource.
//!
//! A conversion reads like a table. It takes the message apart by naming *every* field, so that a field which a newer
//! xDS brings does not compile until someone decides about it: used, `unsupported!` (an error if set) or `harmless!`.
//! The same lines feed `outrigger-proxy validate`.

pub mod access_log;
pub mod address;
pub mod any;
pub mod bootstrap;
pub mod cluster;
pub mod config_source;
pub mod dynamic_resources;
pub mod endpoint;
pub mod grpc_service;
pub mod hcm;
pub mod listener;
pub mod report;
pub mod tcp_proxy;
pub mod time;
pub mod tls;
pub mod value;
