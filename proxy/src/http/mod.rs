//! HTTP, in the order in which a request meets it: codec, connection, exchange, router, upgrade.

pub mod codec;
pub mod connection;
mod deadlines;
pub mod exchange;
mod failure;
mod node_address;
pub mod router;
pub mod transfer;
pub mod upgrade;
