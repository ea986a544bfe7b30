//! What is known of one request or one TCP connection, gathered while it passes and read by access logs, header
//! format strings and statistics.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::message::Protocol;

/// Envoy's response flags, as a set that knows which came first: `%RESPONSE_FLAGS%` prints them in that order, `-` for
/// none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseFlags {
    bits: u32,
    /// The numbers of the flags from 1, [`NUMBER_BITS`] bits each, the first in the lowest.
    order: u64,
}

const NUMBER_BITS: u32 = 5;
const NUMBER: u64 = (1 << NUMBER_BITS) - 1;

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $short:literal, $long:literal;)*) => {
        flags!(@consts 0; $($(#[$doc])* $name;)*);
        /// Every flag with its short name (`UF`) and its long one (`UpstreamConnectionFailure`).
        pub const RESPONSE_FLAGS: &[(ResponseFlags, &str, &str)] = &[$((ResponseFlags::$name, $short, $long)),*];
    };
    (@consts $n:expr; $(#[$doc:meta])* $name:ident; $($rest:tt)*) => {
        impl ResponseFlags {
            $(#[$doc])*
            pub const $name: ResponseFlags = ResponseFlags { bits: 1 << ($n), order: ($n) + 1 };
        }
        flags!(@consts $n + 1; $($rest)*);
    };
    (@consts $n:expr;) => {};
}

flags! {
    /// No healthy upstream host.
    NO_HEALTHY_UPSTREAM = "UH", "NoHealthyUpstream";
    /// The connection to the upstream failed.
    UPSTREAM_CONNECTION_FAILURE = "UF", "UpstreamConnectionFailure";
    /// A circuit breaker was open.
    UPSTREAM_OVERFLOW = "UO", "UpstreamOverflow";
    /// No route matched (HTTP), or no filter chain did (TCP).
    NO_ROUTE_FOUND = "NR", "NoRouteFound";
    /// No attempt succeeded within the retry limit.
    UPSTREAM_RETRY_LIMIT_EXCEEDED = "URX", "UpstreamRetryLimitExceeded";
    /// The route names a cluster that is not there.
    NO_CLUSTER_FOUND = "NC", "NoClusterFound";
    /// A stream or connection ran longer than its `max_*_duration`.
    DURATION_TIMEOUT = "DT", "DurationTimeout";
    /// The downstream connection ended first.
    DOWNSTREAM_CONNECTION_TERMINATION = "DC", "DownstreamConnectionTermination";
    /// A local health check failed.
    FAILED_LOCAL_HEALTH_CHECK = "LH", "FailedLocalHealthCheck";
    /// The upstream request timed out.
    UPSTREAM_REQUEST_TIMEOUT = "UT", "UpstreamRequestTimeout";
    /// We reset the upstream stream.
    LOCAL_RESET = "LR", "LocalReset";
    /// The upstream reset the stream.
    UPSTREAM_REMOTE_RESET = "UR", "UpstreamRemoteReset";
    /// The upstream closed the connection.
    UPSTREAM_CONNECTION_TERMINATION = "UC", "UpstreamConnectionTermination";
    /// The stream was idle for too long.
    STREAM_IDLE_TIMEOUT = "SI", "StreamIdleTimeout";
    /// The downstream broke the protocol.
    DOWNSTREAM_PROTOCOL_ERROR = "DPE", "DownstreamProtocolError";
    /// The upstream broke the protocol.
    UPSTREAM_PROTOCOL_ERROR = "UPE", "UpstreamProtocolError";
    /// `max_stream_duration` of the upstream was reached.
    UPSTREAM_MAX_STREAM_DURATION_REACHED = "UMSDR", "UpstreamMaxStreamDurationReached";
    /// The overload manager refused the request.
    OVERLOAD_MANAGER = "OM", "OverloadManagerTerminated";
    /// The name of the upstream could not be resolved.
    DNS_RESOLUTION_FAILED = "DF", "DnsResolutionFailed";
    /// The downstream reset the stream.
    DOWNSTREAM_REMOTE_RESET = "DR", "DownstreamRemoteReset";
    /// A header for the router has a value that says nothing (`strict_check_headers`).
    INVALID_ENVOY_REQUEST_HEADERS = "IH", "InvalidEnvoyRequestHeaders";
}

impl ResponseFlags {
    /// The empty set.
    pub const NONE: ResponseFlags = ResponseFlags { bits: 0, order: 0 };

    /// Adds the flags of `other`.
    pub fn insert(&mut self, other: ResponseFlags) {
        let mut rest = other.order;
        while rest != 0 {
            let bit = 1 << (rest & NUMBER).saturating_sub(1);
            if self.bits & bit == 0 {
                self.bits |= bit;
                let used = u64::BITS.saturating_sub(self.order.leading_zeros()).div_ceil(NUMBER_BITS);
                // A thirteenth flag has no place in the order; it is in the set all the same.
                self.order |= (rest & NUMBER).checked_shl(used.saturating_mul(NUMBER_BITS)).unwrap_or(0);
            }
            rest >>= NUMBER_BITS;
        }
    }

    /// Short and long names, the first flag first.
    pub fn names(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        (0..u64::BITS.div_ceil(NUMBER_BITS)).map_while(move |place| {
            let number = usize::try_from(self.order >> place.saturating_mul(NUMBER_BITS) & NUMBER).ok()?;
            RESPONSE_FLAGS.get(number.checked_sub(1)?).map(|&(_, short, long)| (short, long))
        })
    }

    /// Whether one of the flags of `other` is in the set.
    pub fn intersects(self, other: ResponseFlags) -> bool {
        self.bits & other.bits != 0
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.bits == 0
    }
}

/// A connection's own facts, fixed at accept (and after the TLS handshake) and shared by its requests.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Counts up in each process; `%CONNECTION_ID%`.
    pub id: u64,
    /// Our end, or the original destination where one was restored.
    pub local_address: Address,
    /// The peer's end of the socket, before any header or PROXY protocol is believed.
    pub direct_remote_address: Address,
    /// SNI of the client hello.
    pub requested_server_name: Option<Arc<str>>,
    /// The negotiated ALPN protocol.
    pub alpn: Option<Arc<[u8]>>,
    /// What TLS established, where the connection is TLS.
    pub tls: Option<Arc<TlsInfo>>,
}

/// Facts of a TLS connection, ours and the peer's.
#[derive(Clone, Debug, Default)]
pub struct TlsInfo {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: Option<&'static str>,
    /// OpenSSL's name of the cipher suite.
    pub cipher: Option<&'static str>,
    /// URI SANs of our own certificate.
    pub local_uri_sans: Vec<String>,
    /// Subject of our own certificate, RFC 2253.
    pub local_subject: Option<String>,
    /// The peer's certificate, if it presented one that was verified.
    pub peer: Option<PeerCertificate>,
}

/// The verified certificate of a peer.
#[derive(Clone, Debug, Default)]
pub struct PeerCertificate {
    /// Subject, RFC 2253.
    pub subject: String,
    /// Issuer, RFC 2253.
    pub issuer: String,
    /// Serial number, lower-case hexadecimal.
    pub serial: String,
    /// SHA-256 of the DER encoding, lower-case hexadecimal.
    pub sha256: String,
    /// URI SANs.
    pub uri_sans: Vec<String>,
    /// DNS SANs.
    pub dns_sans: Vec<String>,
    /// The certificate in PEM, URL-encoded, made when XFCC or a log asks for it: the DER encoding itself.
    pub der: Vec<u8>,
    /// The rest of the chain that the peer sent, DER.
    pub chain: Vec<Vec<u8>>,
    /// `notBefore`, seconds since the epoch.
    pub not_before: i64,
    /// `notAfter`, seconds since the epoch.
    pub not_after: i64,
}

/// An address of either end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP.
    Ip(SocketAddr),
    /// A Unix socket; empty for an unnamed peer.
    Pipe(Arc<str>),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Ip(address) => address.fmt(f),
            Address::Pipe(path) => f.write_str(path),
        }
    }
}

/// One request (or one TCP connection), from its first byte to its log line. Durations count from `start`.
#[derive(Clone, Debug)]
pub struct StreamInfo {
    /// When the request head (or the connection) arrived.
    pub start: SystemTime,
    /// The downstream's connection.
    pub connection: Arc<ConnectionInfo>,
    /// The client's address as believed after XFF; the direct one by default.
    pub remote_address: Address,
    /// The downstream's protocol; `None` for TCP.
    pub protocol: Option<Protocol>,
    /// The status sent downstream; `None` while there is none.
    pub response_code: Option<u16>,
    /// Envoy's `%RESPONSE_CODE_DETAILS%`: `via_upstream`, `route_not_found`, ...
    pub details: Option<Cow<'static, str>>,
    /// Why the downstream connection was closed, where it was.
    pub termination_details: Option<Cow<'static, str>>,
    /// The flags.
    pub flags: ResponseFlags,
    /// Body bytes from the downstream.
    pub bytes_received: u64,
    /// Body bytes to the downstream.
    pub bytes_sent: u64,
    /// Name of the route that matched, where it has one.
    pub route_name: Option<Arc<str>>,
    /// Name of the virtual host that matched.
    pub virtual_host: Option<Arc<str>>,
    /// Name of the cluster that the route chose.
    pub upstream_cluster: Option<Arc<str>>,
    /// `host:port` of the last attempt's host.
    pub upstream_host: Option<Arc<str>>,
    /// Our end of the upstream connection.
    pub upstream_local_address: Option<SocketAddr>,
    /// The upstream's protocol.
    pub upstream_protocol: Option<Protocol>,
    /// Why the upstream's transport failed (`%UPSTREAM_TRANSPORT_FAILURE_REASON%`).
    pub upstream_transport_failure: Option<Cow<'static, str>>,
    /// Attempts made, 1 for a request that was sent once.
    pub attempts: u32,
    /// Last byte of the request received.
    pub last_downstream_rx: Option<Duration>,
    /// First byte of the request sent upstream (last attempt).
    pub first_upstream_tx: Option<Duration>,
    /// Last byte of the request sent upstream.
    pub last_upstream_tx: Option<Duration>,
    /// First byte of the response received (last attempt).
    pub first_upstream_rx: Option<Duration>,
    /// Last byte of the response received.
    pub last_upstream_rx: Option<Duration>,
    /// First byte of the response sent.
    pub first_downstream_tx: Option<Duration>,
    /// Last byte of the response sent; the request is over.
    pub last_downstream_tx: Option<Duration>,
}

impl StreamInfo {
    /// A stream that starts now on `connection`.
    pub fn new(start: SystemTime, connection: Arc<ConnectionInfo>, protocol: Option<Protocol>) -> Self {
        StreamInfo {
            start,
            remote_address: connection.direct_remote_address.clone(),
            connection,
            protocol,
            response_code: None,
            details: None,
            termination_details: None,
            flags: ResponseFlags::NONE,
            bytes_received: 0,
            bytes_sent: 0,
            route_name: None,
            virtual_host: None,
            upstream_cluster: None,
            upstream_host: None,
            upstream_local_address: None,
            upstream_protocol: None,
            upstream_transport_failure: None,
            attempts: 0,
            last_downstream_rx: None,
            first_upstream_tx: None,
            last_upstream_tx: None,
            first_upstream_rx: None,
            last_upstream_rx: None,
            first_downstream_tx: None,
            last_downstream_tx: None,
        }
    }
}
