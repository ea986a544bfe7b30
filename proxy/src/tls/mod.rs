//! TLS by rustls, on both sides; fail closed.

pub mod client;
