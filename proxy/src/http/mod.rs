//! HTTP, in the order in which a request meets it: codec, connection manager, filters, router, upgrade.

pub mod codec;
