//! Access logs: lines for people and programs, entries for a log service.
//!
//! A worker formats a line straight into a buffer of its own. Full buffers, and once a second all others, go to a
//! thread that does nothing but write that file, or to the control thread, which sends them to the service. A slow
//! disk, a pipe that nobody reads or a service that is away costs lines, which are counted, never a request's time or
//! unbounded memory.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

mod buffer;
mod entry;
mod file;
mod grpc;
mod logger;
pub mod service;

pub use file::{LogFile, LogFiles};
pub use logger::{AccessLogs, NewStream, OpenError, WorkerLogs};
