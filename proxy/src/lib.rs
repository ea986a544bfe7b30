//! The sidecar proxy: everything that touches a socket.
//!
//! One pipeline, and its folders are the stations in the order a byte meets them: `listener/` -> `http/` or `tcp/` ->
//! `cluster/` -> the upstream socket.

pub mod admin;
pub mod http;
pub mod io;
pub mod telemetry;
