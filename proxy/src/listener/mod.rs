//! From a listening socket to the filter chain that takes the connection.

pub mod accept;
pub mod active;
pub mod connection;
pub mod connection_log;
pub mod drain;
pub mod inspect;
pub mod socket;
