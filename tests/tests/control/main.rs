//! The control plane as its users meet it: the command line, any gRPC client through reflection, and its end by -9.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a suite reports what went wrong by failing"
)]

mod command_line;
mod crash;
mod full_disk;
mod grpcurl;
mod security;
mod shop;
