//! HTTP, in the order in which a request meets it: codec, connection, exchange, router, upgrade.

pub mod codec;
pub mod connection;
pub mod exchange;
pub mod router;
pub mod transfer;
pub mod upgrade;
