//! `envoy.config.cluster.v3.Cluster`: a group of hosts that serve the same, and how to speak with them.

mod convert;
pub(crate) mod dns;
mod load_balancing;
mod protocol;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use crate::balance::HostSet;
use crate::config::config_source::ConfigSource;
use crate::config::endpoint::LoadAssignment;
use crate::config::hcm::{Http1Options, Http2Options};
use crate::config::tls::UpstreamTls;

/// A cluster as configured; what changes while it runs is in [`crate::balance::ClusterState`].
#[derive(Debug)]
pub struct Cluster {
    /// Its name, as routes give it.
    pub name: Arc<str>,
    /// `alt_stat_name`: the name in statistics, where it is another one.
    pub alt_stat_name: Option<Arc<str>>,
    /// Where its hosts come from.
    pub discovery: Discovery,
    /// For TCP and TLS together, above zero (5 s).
    pub connect_timeout: Duration,
    /// The HTTP versions that its hosts are spoken to by.
    pub protocol: HttpProtocol,
    /// A connection without a request is closed after so long (1 h); `None` for never.
    pub idle_timeout: Option<Duration>,
    /// Requests on one connection before it is closed.
    pub max_requests_per_connection: Option<u32>,
    /// Longest life of a connection; then it takes no new request.
    pub max_connection_duration: Option<Duration>,
    /// Longest life of an attempt's stream.
    pub max_stream_duration: Option<Duration>,
    /// Bytes of a response head (60 KiB).
    pub max_response_headers_bytes: usize,
    /// Fields of a response head (100).
    pub max_response_headers_count: usize,
    /// SNI is the request's host.
    pub auto_sni: bool,
    /// The certificate must name the request's host.
    pub auto_san_validation: bool,
    /// The header that both take the host from, instead of `:authority`.
    pub override_auto_sni_header: Option<HeaderName>,
    /// TLS to the hosts; `None` for plain text.
    pub tls: Option<Arc<UpstreamTls>>,
    /// TCP keep-alive; `None` leaves it off.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Our end of each connection.
    pub bind: Option<Bind>,
    /// How a host is chosen.
    pub load_balancing: LoadBalancing,
    /// How much may be under way at a time.
    pub circuit_breakers: CircuitBreakers,
    /// `wait_for_warm_on_init`: the start waits for this cluster (true).
    pub wait_for_warm_on_init: bool,
}

impl Cluster {
    /// The name in statistics.
    pub fn stat_name(&self) -> &Arc<str> {
        self.alt_stat_name.as_ref().unwrap_or(&self.name)
    }
}

/// Where the hosts of a cluster come from.
#[derive(Debug)]
pub enum Discovery {
    /// From the configuration: the hosts themselves, so that addresses are kept once.
    Static(Arc<HostSet>),
    /// Every address that the names resolve to is a host.
    StrictDns(Dns),
    /// One host, whose address follows the one name; connections to earlier addresses live on.
    LogicalDns(Dns),
    /// From a management server, or a file beside.
    Eds(Eds),
}

/// `eds_cluster_config`.
#[derive(Clone, Debug)]
pub struct Eds {
    /// What the assignment is called: `service_name`, else the cluster's name.
    pub service_name: Arc<str>,
    /// Where it comes from.
    pub source: Arc<ConfigSource>,
}

/// How names are resolved.
#[derive(Clone, Debug)]
pub struct Dns {
    /// The names with their ports, weights, localities and priorities; some may be addresses.
    pub assignment: LoadAssignment,
    /// Which addresses are asked for.
    pub family: DnsFamily,
    /// Between two look-ups (5 s).
    pub refresh_rate: Duration,
    /// Up to so much is added to each interval.
    pub jitter: Duration,
    /// The answer's TTL replaces `refresh_rate`.
    pub respect_ttl: bool,
    /// No interval that a TTL gives is shorter.
    pub min_refresh_rate: Duration,
    /// After a failure: from the first to the second, doubling with jitter; without it as `refresh_rate` says.
    pub failure_refresh_rate: Option<(Duration, Duration)>,
    /// The servers to ask; empty for those of the system.
    pub resolvers: Box<[SocketAddr]>,
    /// Ask by TCP.
    pub use_tcp: bool,
}

/// `dns_lookup_family`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DnsFamily {
    /// IPv6, and IPv4 if there is none.
    #[default]
    Auto,
    /// IPv4.
    V4Only,
    /// IPv6.
    V6Only,
    /// IPv4, and IPv6 if there is none.
    V4Preferred,
    /// Both.
    All,
}

/// Which HTTP a cluster's hosts are spoken to by.
#[derive(Clone, Debug)]
pub enum HttpProtocol {
    /// HTTP/1.1.
    Http1(Http1Options),
    /// HTTP/2, with prior knowledge or by ALPN.
    Http2(Http2Options),
    /// Whichever ALPN chooses; HTTP/1.1 where it chooses none.
    Auto {
        /// For connections by HTTP/1.1.
        http1: Http1Options,
        /// For connections by HTTP/2.
        http2: Http2Options,
    },
    /// The version of the request.
    UseDownstream {
        /// For requests by HTTP/1.
        http1: Http1Options,
        /// For requests by HTTP/2.
        http2: Http2Options,
    },
}

/// `tcp_keepalive`; what is `None` is the system's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// Unanswered probes before the connection is given up.
    pub probes: Option<u32>,
    /// Idle time before the first probe.
    pub time: Option<Duration>,
    /// Between two probes.
    pub interval: Option<Duration>,
}

/// `upstream_bind_config`: the source address by the family of the host's address. Port 0 is any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bind {
    /// For IPv4 hosts.
    pub v4: Option<SocketAddr>,
    /// For IPv6 hosts.
    pub v6: Option<SocketAddr>,
    /// `IP_FREEBIND`.
    pub freebind: bool,
}

impl Bind {
    /// The source address for a connection to `host`.
    pub fn source_for(&self, host: &SocketAddr) -> Option<SocketAddr> {
        if host.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// How a host is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadBalancing {
    /// Among the hosts of a priority (and locality).
    pub policy: LbPolicy,
    /// Below so many percent of healthy hosts all are used (50); 0 turns it off.
    pub panic_threshold: u32,
    /// First a locality by weight, then a host in it.
    pub locality_weighted: bool,
    /// Refuse requests instead of using all hosts in panic.
    pub fail_traffic_on_panic: bool,
}

impl Default for LoadBalancing {
    fn default() -> Self {
        LoadBalancing {
            policy: LbPolicy::RoundRobin,
            panic_threshold: 50,
            locality_weighted: false,
            fail_traffic_on_panic: false,
        }
    }
}

/// `lb_policy`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LbPolicy {
    /// One after another, by weight.
    RoundRobin,
    /// Any; weights have no effect, as in Envoy.
    Random,
    /// The one with the fewest requests under way.
    LeastRequest {
        /// Hosts looked at, at least 2.
        choices: u32,
        /// With unequal weights: how much requests under way count, at least 0 (1.0).
        active_request_bias: f64,
        /// Look at all hosts.
        full_scan: bool,
    },
}

/// `circuit_breakers`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CircuitBreakers {
    /// For requests of routes with `priority: DEFAULT`.
    pub default: Thresholds,
    /// For requests of routes with `priority: HIGH`.
    pub high: Thresholds,
    /// `per_host_thresholds`: connections to one host.
    pub max_connections_per_host: Option<u32>,
}

/// The thresholds of one priority. `u32::MAX` is no threshold.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds {
    /// Connections (1024).
    pub max_connections: u32,
    /// Requests that wait for a connection (1024).
    pub max_pending_requests: u32,
    /// Requests under way (1024).
    pub max_requests: u32,
    /// Retries under way (3), unless there is a budget.
    pub max_retries: u32,
    /// Connection pools (no threshold): each host has one, and with `auto_sni` one for each name that is asked for.
    pub max_connection_pools: u32,
    /// `retry_budget`.
    pub retry_budget: Option<RetryBudget>,
    /// Show how much is left in `remaining_*`.
    pub track_remaining: bool,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            max_connection_pools: u32::MAX,
            retry_budget: None,
            track_remaining: false,
        }
    }
}

/// Retries under way as a share of requests under way and waiting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// 0.0..=100.0 (20.0).
    pub percent: f64,
    /// So many retries are always allowed (3).
    pub min_concurrency: u32,
}

#[cfg(test)]
pub(crate) mod tests;
