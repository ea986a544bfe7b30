//! `envoy.extensions.transport_sockets.tls.v3`: contexts of both sides, certificates inline or from files.

/// `DownstreamTlsContext`.
#[derive(Clone, Debug)]
pub struct DownstreamTls {}

/// `UpstreamTlsContext`.
#[derive(Clone, Debug)]
pub struct UpstreamTls {}
