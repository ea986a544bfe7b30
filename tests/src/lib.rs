//! The harness of the end-to-end suites: programs as child processes, peers that say exactly what a script tells them,
//! and a record of everything that they were told.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a harness reports what went wrong by failing the test"
)]

pub mod admin;
pub mod client;
pub mod management;
pub mod named;
pub mod peers;
pub mod plane;
pub mod ports;
pub mod process;
pub mod tls;
pub mod upstream;
pub mod wire;
