//! Conversion of a listener and its filter chains.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::envoy::config::accesslog::v3::AccessLog as AccessLogMessage;
use outrigger_proto::envoy::config::core::v3::{CidrRange, TransportSocket, transport_socket};
use outrigger_proto::envoy::config::listener::v3 as pb;
use outrigger_proto::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use outrigger_proto::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use outrigger_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager as HcmMessage;
use outrigger_proto::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy as TcpProxyMessage;
use outrigger_proto::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use outrigger_proto::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;
use outrigger_proto::prost::Message;

use super::{Cidr, FilterChain, FilterChainMatch, Listener, NetworkFilter, SourceType, TrafficDirection};
use crate::config::access_log::AccessLog;
use crate::config::address::{listening_address, takes_ipv4};
use crate::config::any;
use crate::config::hcm::HttpConnectionManager;
use crate::config::report::At;
use crate::config::tcp_proxy::TcpProxy;
use crate::config::time::timeout;
use crate::config::tls::DownstreamTls;
use crate::stream_info::Address;
use crate::{harmless, unsupported};

/// Equal for equal messages: their maps are ordered.
fn fingerprint(message: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(message);
    hasher.finish()
}

/// Reads a list of access logs.
pub(crate) fn access_logs(messages: Vec<AccessLogMessage>, at: &At<'_>) -> Vec<AccessLog> {
    let list = at.field("access_log");
    let convert = |(index, message)| AccessLog::convert(message, &list.index(index));
    messages.into_iter().enumerate().filter_map(convert).collect()
}

impl Listener {
    /// Reads the message. `None` where it was rejected.
    pub fn convert(message: pb::Listener, at: &At<'_>) -> Option<Listener> {
        let pb::Listener {
            name,
            address,
            additional_addresses,
            stat_prefix,
            stats_matcher,
            filter_chains,
            fcds_config,
            filter_chain_matcher,
            use_original_dst,
            default_filter_chain,
            per_connection_buffer_limit_bytes,
            per_connection_buffer_high_watermark_timeout,
            metadata,
            deprecated_v1,
            drain_type,
            listener_filters,
            listener_filters_timeout,
            continue_on_listener_filters_timeout,
            transparent,
            freebind,
            socket_options,
            tcp_fast_open_queue_length,
            traffic_direction,
            udp_listener_config,
            api_listener,
            connection_balance_config,
            reuse_port,
            enable_reuse_port,
            access_log,
            tcp_backlog_size,
            max_connections_to_accept_per_socket_event,
            bind_to_port,
            enable_mptcp,
            ignore_global_conn_limit,
            bypass_overload_manager,
            tcp_keepalive,
            listener_specifier,
        } = message;
        let problems = at.problem_count();
        unsupported!(at;
            stats_matcher, fcds_config, filter_chain_matcher,
            per_connection_buffer_high_watermark_timeout,
            deprecated_v1 = "write bind_to_port",
            drain_type = "every listener drains on shutdown, removal and failed health checks",
            socket_options, tcp_fast_open_queue_length,
            udp_listener_config = "only TCP is spoken",
            api_listener = "it is for clients without a proxy",
            connection_balance_config = "the kernel spreads connections over the workers",
            enable_mptcp, tcp_keepalive,
        );
        harmless!(at;
            metadata = "nothing reads it",
            per_connection_buffer_limit_bytes = "64 KiB are buffered each way, by HTTP/2 as much as its windows",
            reuse_port = "every worker has a socket of its own",
            enable_reuse_port = "every worker has a socket of its own",
            max_connections_to_accept_per_socket_event = "workers take turns between accepting and serving",
            bypass_overload_manager = "the only overload action is the limit of connections",
        );
        if use_original_dst == Some(true) {
            at.field("use_original_dst").reject("true", "not in this version: comes with interception");
        }
        if let Some(pb::listener::ListenerSpecifier::InternalListener(_)) = listener_specifier {
            at.field("internal_listener").reject("", "not in this version: there are no internal listeners");
        }

        let (addresses, ipv4_compat) = addresses(address, additional_addresses, at);
        let first = addresses.first().map(ToString::to_string).unwrap_or_default();
        let stat_prefix = if stat_prefix.is_empty() { &first } else { &stat_prefix };
        let stat_prefix = stat_prefix.replace(':', "_");
        let mut inspectors = Inspectors::convert(listener_filters, at);
        let (filter_chains, default_filter_chain) = filter_chains_of(filter_chains, default_filter_chain, at);
        // As Envoy does where a match needs what only the client hello says.
        inspectors.tls |= filter_chains.iter().any(|chain| chain.matches.needs_client_hello());
        let listener = Listener {
            name: if name.is_empty() { first.into() } else { name.into() },
            addresses,
            ipv4_compat,
            bind_to_port: bind_to_port.unwrap_or(true),
            stat_prefix: stat_prefix.into(),
            direction: direction(traffic_direction, at),
            backlog: tcp_backlog_size,
            transparent: transparent.unwrap_or(false),
            freebind: freebind.unwrap_or(false),
            tls_inspector: inspectors.tls,
            http_inspector: inspectors.http,
            listener_filters_timeout: timeout(
                listener_filters_timeout,
                Duration::from_secs(15),
                &at.field("listener_filters_timeout"),
            ),
            continue_on_listener_filters_timeout,
            filter_chains,
            default_filter_chain,
            access_logs: access_logs(access_log, at),
            ignore_global_connection_limit: ignore_global_conn_limit,
        };
        (at.problem_count() == problems).then_some(listener)
    }
}

/// The addresses, and those of them that are for IPv4 too.
fn addresses(
    address: Option<outrigger_proto::envoy::config::core::v3::Address>,
    additional: Vec<pb::AdditionalAddress>,
    at: &At<'_>,
) -> (Vec<Address>, Vec<Address>) {
    let (mut addresses, mut compatible) = (Vec::new(), Vec::new());
    let mut add = |message: Option<outrigger_proto::envoy::config::core::v3::Address>, at: &At<'_>| {
        let compat = message.as_ref().is_some_and(takes_ipv4);
        if let Some(address) = listening_address(message, at) {
            compatible.extend(compat.then(|| address.clone()));
            addresses.push(address);
        }
    };
    add(address, &at.field("address"));
    let list = at.field("additional_addresses");
    for (index, pb::AdditionalAddress { address, socket_options, tcp_keepalive }) in additional.into_iter().enumerate()
    {
        let at = list.index(index);
        unsupported!(at; socket_options, tcp_keepalive);
        add(address, &at.field("address"));
    }
    (addresses, compatible)
}

fn direction(value: i32, at: &At<'_>) -> TrafficDirection {
    use outrigger_proto::envoy::config::core::v3::TrafficDirection as Pb;
    match Pb::try_from(value) {
        Ok(Pb::Unspecified) => TrafficDirection::Unspecified,
        Ok(Pb::Inbound) => TrafficDirection::Inbound,
        Ok(Pb::Outbound) => TrafficDirection::Outbound,
        Err(_) => {
            at.field("traffic_direction").reject(value, "not a value of envoy.config.core.v3.TrafficDirection");
            TrafficDirection::Unspecified
        }
    }
}

/// The listener filters.
#[derive(Default)]
struct Inspectors {
    tls: bool,
    http: bool,
}

impl Inspectors {
    fn convert(messages: Vec<pb::ListenerFilter>, at: &At<'_>) -> Inspectors {
        let mut inspectors = Inspectors::default();
        let list = at.field("listener_filters");
        for (index, pb::ListenerFilter { name, filter_disabled, config_type }) in messages.into_iter().enumerate() {
            let at = list.index(index);
            unsupported!(at; filter_disabled);
            if name.is_empty() {
                at.field("name").reject("", "must not be empty");
            }
            let config = match config_type {
                Some(pb::listener_filter::ConfigType::TypedConfig(config)) => config,
                Some(pb::listener_filter::ConfigType::ConfigDiscovery(_)) => {
                    at.field("config_discovery").reject("", "not in this version: write typed_config");
                    continue;
                }
                None => {
                    at.field("typed_config").reject("", "is required");
                    continue;
                }
            };
            let at = at.field("typed_config");
            if any::is::<TlsInspector>(&config) {
                inspectors.tls = true;
                let Some(message) = any::decode::<TlsInspector>(&config, &at) else { continue };
                let TlsInspector {
                    enable_ja3_fingerprinting,
                    enable_ja4_fingerprinting,
                    initial_read_buffer_size,
                    close_connection_on_client_hello_parsing_errors,
                    max_client_hello_size,
                } = message;
                unsupported!(at; close_connection_on_client_hello_parsing_errors);
                harmless!(at;
                    initial_read_buffer_size = "the hello is looked at where it lies in the socket",
                    max_client_hello_size = "the bound is fixed",
                );
                for (name, value) in [
                    ("enable_ja3_fingerprinting", enable_ja3_fingerprinting),
                    ("enable_ja4_fingerprinting", enable_ja4_fingerprinting),
                ] {
                    if value == Some(true) {
                        at.field(name).reject("true", "not in this version");
                    }
                }
            } else if any::is::<HttpInspector>(&config) {
                inspectors.http = true;
                any::decode::<HttpInspector>(&config, &at);
            } else {
                any::reject_type(&config, &at);
            }
        }
        inspectors
    }
}

type Chains = (Vec<Arc<FilterChain>>, Option<Arc<FilterChain>>);

fn filter_chains_of(messages: Vec<pb::FilterChain>, default: Option<pb::FilterChain>, at: &At<'_>) -> Chains {
    let list = at.field("filter_chains");
    if messages.is_empty() && default.is_none() {
        list.reject("", "is required, unless there is a default_filter_chain");
    }
    let mut chains: Vec<(usize, Arc<FilterChain>)> = Vec::with_capacity(messages.len());
    for (index, message) in messages.into_iter().enumerate() {
        let here = list.index(index);
        let Some(chain) = FilterChain::convert(message, &here) else { continue };
        if let Some((other, _)) = chains.iter().find(|(_, other)| other.matches.overlaps(&chain.matches)) {
            here.field("filter_chain_match").reject(
                "",
                format_args!("takes connections that filter_chains[{other}] takes as well: a match must be unique"),
            );
        }
        chains.push((index, Arc::new(chain)));
    }
    let default = default.and_then(|message| {
        let at = at.field("default_filter_chain");
        if message.filter_chain_match.is_some() {
            at.field("filter_chain_match").harmless("the default chain takes what no other does");
        }
        FilterChain::convert(pb::FilterChain { filter_chain_match: None, ..message }, &at)
    });
    (chains.into_iter().map(|(_, chain)| chain).collect(), default.map(Arc::new))
}

/// `transport_socket_connect_timeout` where it is not set. Envoy leaves a handshake that does not come to its end to
/// the connection's idle timeout.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);

impl FilterChain {
    /// Reads the message. `None` where it was rejected.
    pub fn convert(message: pb::FilterChain, at: &At<'_>) -> Option<FilterChain> {
        let fingerprint = fingerprint(&message.encode_to_vec());
        let pb::FilterChain {
            filter_chain_match,
            filters,
            use_proxy_proto,
            metadata,
            transport_socket,
            transport_socket_connect_timeout,
            name,
        } = message;
        let problems = at.problem_count();
        harmless!(at; metadata = "nothing reads it");
        if use_proxy_proto == Some(true) {
            at.field("use_proxy_proto").reject("true", "not in this version: there is no PROXY protocol");
        }
        let connect_timeout = at.field("transport_socket_connect_timeout");
        let filter = NetworkFilter::convert(filters, at);
        let chain = FilterChain {
            fingerprint,
            name: name.into(),
            matches: FilterChainMatch::convert(filter_chain_match.unwrap_or_default(), &at.field("filter_chain_match")),
            tls: downstream_tls(transport_socket, &at.field("transport_socket")),
            transport_socket_connect_timeout: timeout(
                transport_socket_connect_timeout,
                HANDSHAKE_TIMEOUT,
                &connect_timeout,
            ),
            filter: filter?,
        };
        (at.problem_count() == problems).then_some(chain)
    }
}

fn downstream_tls(message: Option<TransportSocket>, at: &At<'_>) -> Option<Arc<DownstreamTls>> {
    let TransportSocket { name, config_type } = message?;
    if name.is_empty() {
        at.field("name").reject("", "must not be empty");
    }
    let Some(transport_socket::ConfigType::TypedConfig(config)) = config_type else {
        at.field("typed_config").reject("", "is required");
        return None;
    };
    let at = at.field("typed_config");
    if any::is::<DownstreamTlsContext>(&config) {
        return DownstreamTls::convert(any::decode(&config, &at)?, &at).map(Arc::new);
    }
    if any::is::<RawBuffer>(&config) {
        any::decode::<RawBuffer>(&config, &at);
    } else {
        any::reject_type(&config, &at);
    }
    None
}

impl NetworkFilter {
    fn convert(messages: Vec<pb::Filter>, at: &At<'_>) -> Option<NetworkFilter> {
        let list = at.field("filters");
        let last = messages.len().checked_sub(1);
        if last.is_none() {
            list.reject("", "must not be empty: it must end with an HttpConnectionManager or a TcpProxy");
        }
        let mut terminal = None;
        for (index, pb::Filter { name, config_type }) in messages.into_iter().enumerate() {
            let at = list.index(index);
            if name.is_empty() {
                at.field("name").reject("", "must not be empty");
            }
            let config = match config_type {
                Some(pb::filter::ConfigType::TypedConfig(config)) => config,
                Some(pb::filter::ConfigType::ConfigDiscovery(_)) => {
                    at.field("config_discovery").reject("", "not in this version: write typed_config");
                    continue;
                }
                None => {
                    at.field("typed_config").reject("", "is required");
                    continue;
                }
            };
            if Some(index) != last {
                at.reject(&name, "a filter that ends the connection must be the last");
            }
            let at = at.field("typed_config");
            terminal = if any::is::<HcmMessage>(&config) {
                any::decode(&config, &at)
                    .and_then(|message| HttpConnectionManager::convert(message, &at))
                    .map(|manager| NetworkFilter::Http(Arc::new(manager)))
            } else if any::is::<TcpProxyMessage>(&config) {
                any::decode(&config, &at)
                    .and_then(|message| TcpProxy::convert(message, &at))
                    .map(|proxy| NetworkFilter::Tcp(Arc::new(proxy)))
            } else {
                any::reject_type(&config, &at);
                None
            };
        }
        terminal
    }
}

impl FilterChainMatch {
    fn convert(message: pb::FilterChainMatch, at: &At<'_>) -> FilterChainMatch {
        let pb::FilterChainMatch {
            destination_port,
            prefix_ranges,
            address_suffix,
            suffix_len,
            direct_source_prefix_ranges,
            source_type,
            source_prefix_ranges,
            source_ports,
            server_names,
            transport_protocol,
            application_protocols,
        } = message;
        unsupported!(at; address_suffix = "Envoy has not implemented it", suffix_len = "Envoy has not implemented it");
        let port = |value: u32, at: &At<'_>| match u16::try_from(value) {
            Ok(port) if port > 0 => Some(port),
            _ => {
                at.reject(value, "must be 1 to 65535");
                None
            }
        };
        let ranges = |messages: Vec<CidrRange>, at: &At<'_>| {
            let convert = |(index, message)| Cidr::convert(message, &at.index(index));
            messages.into_iter().enumerate().filter_map(convert).collect()
        };
        let names = at.field("server_names");
        for (index, name) in server_names.iter().enumerate() {
            if name.strip_prefix("*.").unwrap_or(name).contains('*') {
                names.index(index).reject(name, "a wildcard is *. and the rest of the name");
            }
        }
        let ports = at.field("source_ports");
        let matches = FilterChainMatch {
            destination_port: destination_port.and_then(|value| port(value, &at.field("destination_port"))),
            prefix_ranges: ranges(prefix_ranges, &at.field("prefix_ranges")),
            server_names: server_names.iter().map(|name| name.to_ascii_lowercase().into()).collect(),
            transport_protocol: Some(transport_protocol).filter(|name| !name.is_empty()).map(Arc::from),
            application_protocols: application_protocols.into_iter().map(Arc::from).collect(),
            direct_source_prefix_ranges: ranges(direct_source_prefix_ranges, &at.field("direct_source_prefix_ranges")),
            source_type: source_kind(source_type, at),
            source_prefix_ranges: ranges(source_prefix_ranges, &at.field("source_prefix_ranges")),
            source_ports: source_ports
                .into_iter()
                .enumerate()
                .filter_map(|(index, value)| port(value, &ports.index(index)))
                .collect(),
        };
        once(&matches.prefix_ranges, "prefix_ranges", at);
        once(&matches.server_names, "server_names", at);
        once(&matches.application_protocols, "application_protocols", at);
        once(&matches.direct_source_prefix_ranges, "direct_source_prefix_ranges", at);
        once(&matches.source_prefix_ranges, "source_prefix_ranges", at);
        once(&matches.source_ports, "source_ports", at);
        matches
    }

    /// Whether it asks for what only a TLS inspector finds.
    fn needs_client_hello(&self) -> bool {
        match self.transport_protocol.as_deref() {
            Some(protocol) => protocol == "tls",
            None => !self.server_names.is_empty() || !self.application_protocols.is_empty(),
        }
    }

    /// Whether some connection would be taken by both with equal right.
    fn overlaps(&self, other: &FilterChainMatch) -> bool {
        fn common<T: PartialEq>(a: &[T], b: &[T]) -> bool {
            (a.is_empty() && b.is_empty()) || a.iter().any(|a| b.contains(a))
        }
        self.destination_port == other.destination_port
            && self.transport_protocol == other.transport_protocol
            && self.source_type == other.source_type
            && common(&self.server_names, &other.server_names)
            && common(&self.prefix_ranges, &other.prefix_ranges)
            && common(&self.application_protocols, &other.application_protocols)
            && common(&self.direct_source_prefix_ranges, &other.direct_source_prefix_ranges)
            && common(&self.source_prefix_ranges, &other.source_prefix_ranges)
            && common(&self.source_ports, &other.source_ports)
    }
}

/// Reports values that are there twice: the chain would stand beside itself, which Envoy refuses as it does of two
/// chains.
fn once<T: Eq + Hash>(values: &[T], field: &'static str, at: &At<'_>) {
    let mut seen = HashSet::with_capacity(values.len());
    if let Some(index) = values.iter().position(|value| !seen.insert(value)) {
        at.field(field).index(index).reject("", "is there twice");
    }
}

fn source_kind(value: i32, at: &At<'_>) -> SourceType {
    use pb::filter_chain_match::ConnectionSourceType as Pb;
    match Pb::try_from(value) {
        Ok(Pb::Any) => SourceType::Any,
        Ok(Pb::SameIpOrLoopback) => SourceType::SameIpOrLoopback,
        Ok(Pb::External) => SourceType::External,
        Err(_) => {
            at.field("source_type").reject(value, "not a value of FilterChainMatch.ConnectionSourceType");
            SourceType::Any
        }
    }
}
