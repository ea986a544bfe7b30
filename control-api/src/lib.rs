//! The control plane: objects come in by its API, are checked, stored, resolved to a model and compiled to xDS, and go
//! out to proxies.

pub mod api;
pub mod bootstrap;
pub mod cli;
pub mod compile;
mod connection;
pub mod log;
pub mod model;
pub mod node;
pub mod serve;
pub mod store;
pub mod tls;
pub mod versioned;
pub mod xds;

#[cfg(test)]
mod testing;

/// Where the control plane serves gRPC if nothing else is asked for.
pub const DEFAULT_SERVER: &str = "127.0.0.1:15010";

pub use cli::run;
