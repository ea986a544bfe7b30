//! TLS to a cluster's hosts.

use std::convert::Infallible;
use std::sync::Arc;

use outrigger_engine::config::tls::UpstreamTls;

use crate::io::Io;

/// Makes TLS connections for one cluster.
#[derive(Clone, Debug)]
pub struct TlsConnector(Infallible);

impl TlsConnector {
    /// Not inhabited until TLS lands: a cluster with TLS is refused at start.
    pub fn new(_: &UpstreamTls) -> Result<Self, &'static str> {
        Err("not in this version")
    }

    /// The handshake; the transport and what ALPN chose.
    pub async fn connect(&self, _: Io, _: Option<&Arc<str>>) -> Result<(Io, Option<Vec<u8>>), String> {
        match self.0 {}
    }
}
