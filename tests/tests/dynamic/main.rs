//! The configuration changes while the proxy runs: what a user of it sees. The configuration comes from files, so that
//! nothing else is tested with it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "all of it is tests")]

mod admin;
mod changes;
mod listeners;
mod logs;
mod memory;
mod mesh;
mod shutdown;
mod workers;
