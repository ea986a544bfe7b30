//! Access logs: lines for people and programs, entries for a log service.
//!
//! A worker formats a line straight into a buffer of its own. Full buffers, and once a second all others, go to a thread
//! that does nothing but write that file. A slow disk or a pipe that nobody reads costs lines, which are counted, never a
//! request's time or unbounded memory.

mod file;

pub use file::{LogBuffer, LogFile, LogFiles, WorkerLogs};
