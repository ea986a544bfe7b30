//! What operators see of the proxy: statistics, access logs, the process's own log.
//!
//! All of it costs a request next to nothing: counters are plain adds in memory of the worker's own, lines are
//! formatted into a buffer of the worker's own, and everything else happens on other threads.

pub mod access_log;
pub mod log;
pub mod memory;
pub mod stats;
