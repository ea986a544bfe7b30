//! `envoy.config.listener.v3.Listener`, its filter chains and how they are matched.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::access_log::AccessLog;
use crate::config::hcm::HttpConnectionManager;
use crate::config::tcp_proxy::TcpProxy;
use crate::config::tls::DownstreamTls;
use crate::stream_info::Address;

mod convert;
pub(crate) use self::convert::access_logs;

/// A listener: addresses to accept on, and the filter chains that take the connections.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Its name; made from the address where the configuration gives none.
    pub name: Arc<str>,
    /// The addresses, at least one. Port 0 lets the kernel choose.
    pub addresses: Vec<Address>,
    /// Whether it has sockets of its own (`bind_to_port`, true by default).
    pub bind_to_port: bool,
    /// `listener.<stat_prefix>`: `stat_prefix`, else the first address with `:` as `_` where Envoy does so.
    pub stat_prefix: Arc<str>,
    /// INBOUND, OUTBOUND or unspecified.
    pub direction: TrafficDirection,
    /// Listen backlog of each socket; the kernel's maximum where it is not set.
    pub backlog: Option<u32>,
    /// `IP_TRANSPARENT`.
    pub transparent: bool,
    /// `IP_FREEBIND`.
    pub freebind: bool,
    /// `ipv4_compat`: the addresses whose sockets take IPv4 connections too.
    pub ipv4_compat: Vec<Address>,
    /// Whether a TLS inspector reads the client hello.
    pub tls_inspector: bool,
    /// Whether an HTTP inspector tells `http/1.x` and `h2c` apart for filter chain matching.
    pub http_inspector: bool,
    /// Time for the listener filters, `None` for no limit.
    pub listener_filters_timeout: Option<Duration>,
    /// Whether a connection goes on when that time is over.
    pub continue_on_listener_filters_timeout: bool,
    /// Filter chains in configuration order.
    pub filter_chains: Vec<Arc<FilterChain>>,
    /// The one for connections that no chain matches.
    pub default_filter_chain: Option<Arc<FilterChain>>,
    /// Access logs of the listener itself: a line for each connection, when it is over.
    pub access_logs: Vec<AccessLog>,
    /// Not counted against `global_downstream_max_connections`.
    pub ignore_global_connection_limit: bool,
}

impl Listener {
    /// Its filter chains, the default one last.
    pub fn chains(&self) -> impl Iterator<Item = &Arc<FilterChain>> {
        self.filter_chains.iter().chain(&self.default_filter_chain)
    }

    /// Takes over the chains of `previous` that have not changed, so that their connections stay.
    pub fn keep_chains(&mut self, previous: &Listener) {
        for chain in self.filter_chains.iter_mut().chain(&mut self.default_filter_chain) {
            let same = |old: &&Arc<FilterChain>| old.fingerprint == chain.fingerprint;
            if let Some(old) = previous.chains().find(same) {
                *chain = Arc::clone(old);
            }
        }
    }

    /// Its own access logs, and those of the filters in its chains.
    pub fn all_access_logs(&self) -> impl Iterator<Item = &[AccessLog]> {
        let of_chains = self.chains().map(|chain| match &chain.filter {
            NetworkFilter::Http(manager) => &*manager.access_logs,
            NetworkFilter::Tcp(proxy) => &*proxy.access_logs,
        });
        std::iter::once(&*self.access_logs).chain(of_chains)
    }
}

/// `traffic_direction`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficDirection {
    /// Not set.
    #[default]
    Unspecified,
    /// To the application beside us.
    Inbound,
    /// From it.
    Outbound,
}

/// A filter chain: who may enter, transport security, and the one network filter that ends it.
#[derive(Clone, Debug)]
pub struct FilterChain {
    /// Of the message that it was made from: chains with the same one do the same.
    pub fingerprint: u64,
    /// Its name, may be empty.
    pub name: Arc<str>,
    /// Whom it takes.
    pub matches: FilterChainMatch,
    /// TLS, or none.
    pub tls: Option<Arc<DownstreamTls>>,
    /// Time for the TLS handshake (15 s by default); `None` for no limit.
    pub transport_socket_connect_timeout: Option<Duration>,
    /// What happens to its connections.
    pub filter: NetworkFilter,
}

/// `filter_chain_match`; an empty list matches everything. Matching takes the most specific chain, criterion by
/// criterion in the order of the fields here (Envoy's order).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterChainMatch {
    /// Destination port.
    pub destination_port: Option<u16>,
    /// Destination addresses.
    pub prefix_ranges: Vec<Cidr>,
    /// SNI: exact names in lower case, or `*.suffix`.
    pub server_names: Vec<Arc<str>>,
    /// `tls`, `raw_buffer`, or empty.
    pub transport_protocol: Option<Arc<str>>,
    /// ALPN protocols, or what the HTTP inspector found.
    pub application_protocols: Vec<Arc<str>>,
    /// The peer's socket address.
    pub direct_source_prefix_ranges: Vec<Cidr>,
    /// Local or external peers only.
    pub source_type: SourceType,
    /// The client's address, after a PROXY header if there was one.
    pub source_prefix_ranges: Vec<Cidr>,
    /// The client's port.
    pub source_ports: Vec<u16>,
}

/// `source_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SourceType {
    /// Anyone.
    #[default]
    Any,
    /// The same address as the destination, or loopback.
    SameIpOrLoopback,
    /// Anyone else.
    External,
}

/// An address range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    /// The network's address, host bits cleared.
    pub address: IpAddr,
    /// 0..=32 or 0..=128.
    pub prefix_len: u8,
}

impl Cidr {
    /// Whether `ip` lies in the range. A v4-mapped v6 address is the v4 address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let shift = 32u32.saturating_sub(u32::from(self.prefix_len));
                let mask = u32::MAX.checked_shl(shift).unwrap_or(0);
                net.to_bits() & mask == ip.to_bits() & mask
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let shift = 128u32.saturating_sub(u32::from(self.prefix_len));
                let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
                net.to_bits() & mask == ip.to_bits() & mask
            }
            _ => false,
        }
    }
}

/// The network filter at the end of a chain.
#[derive(Clone, Debug)]
pub enum NetworkFilter {
    /// HTTP.
    Http(Arc<HttpConnectionManager>),
    /// Bytes.
    Tcp(Arc<TcpProxy>),
}
