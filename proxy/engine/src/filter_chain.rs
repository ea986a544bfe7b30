//! Which filter chain takes a connection.
//!
//! Criteria are looked at one after the other, in Envoy's order. At each, the chains with the most specific match stay
//! in the race and the others are out for good: a chain that wins by its port is not given up because its SNI does not
//! match later. So the answer does not depend on the order of the chains.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use smallvec::SmallVec;

use crate::config::listener::{Cidr, FilterChain, FilterChainMatch, Listener, SourceType};

/// What is known of a connection when its chain is chosen.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionFacts<'a> {
    /// Destination, as the client meant it; `None` for a Unix socket.
    pub destination: Option<SocketAddr>,
    /// The client, after a PROXY header if there was one.
    pub source: Option<SocketAddr>,
    /// The peer of the socket.
    pub direct_source: Option<SocketAddr>,
    /// SNI.
    pub server_name: Option<&'a str>,
    /// `tls` where the inspector saw a client hello, else `raw_buffer`.
    pub transport_protocol: &'a str,
    /// ALPN of the client hello, or what the HTTP inspector found.
    pub application_protocols: &'a [&'a str],
}

/// The chain for `facts`: the best match, else the default chain.
pub fn find_filter_chain<'a>(listener: &'a Listener, facts: &ConnectionFacts<'_>) -> Option<&'a Arc<FilterChain>> {
    if let [only] = listener.filter_chains.as_slice()
        && only.matches == FilterChainMatch::default()
    {
        return Some(only);
    }
    let mut candidates: SmallVec<[&'a Arc<FilterChain>; 8]> = listener.filter_chains.iter().collect();
    for criterion in [
        destination_port,
        destination_ip,
        server_name,
        transport_protocol,
        application_protocol,
        direct_source_ip,
        source_type,
        source_ip,
        source_port,
    ] {
        let best = candidates.iter().filter_map(|chain| criterion(&chain.matches, facts)).max();
        let Some(best) = best else { return listener.default_filter_chain.as_ref() };
        candidates.retain(|chain| criterion(&chain.matches, facts) == Some(best));
    }
    candidates.first().copied().or(listener.default_filter_chain.as_ref())
}

// Each criterion says how specific its match is: 0 for "matches anything", `None` for no match.

fn destination_port(m: &FilterChainMatch, facts: &ConnectionFacts<'_>) -> Option<u32> {
    match m.destination_port {
        None => Some(0),
        Some(port) => (facts.destination.map(|d| d.port()) == Some(port)).then_some(1),
    }
}

fn destination_ip(m: &FilterChainMatch, facts: &ConnectionFacts<'_>) -> Option<u32> {
    longest_prefix(&m.prefix_ranges, facts.destination.map(|d| d.ip()))
}

fn server_name(m: &FilterChainMatch, facts: &ConnectionFacts<'_>) -> Option<u32> {
    if m.server_names.is_empty() {
        return Some(0);
    }
    let name = facts.server_name?;
    m.server_names
        .iter()
        .filter_map(|pattern| match pattern.strip_prefix('*') {
            Some(suffix) => (name.len() > suffix.len() && name.ends_with(suffix)).then_some(suffix.len()),
            None => (**pattern == *name).then_some(usize::MAX >> 1),
        })
        .max()
        .map(|len| u32::try_from(len).unwrap_or(u32::MAX).saturating_add(1))
}

fn transport_protocol(m: &FilterChainMatch, facts: &ConnectionFacts<'_>) -> Option<u32> {
    match &m.transport_protocol {
        None => Some(0),
        Some(protocol) => (**protocol == *facts.transport_protocol).then_some(1),
    }
}

fn application_protocol(m: &FilterChainMatch, facts: &ConnectionFacts<'_>) -> Option<u32> {
    if m.application_protocols.is_empty() {
        return Some(0);
    }
    // The client's first choice that some chain names wins.
    let count = u32::try_from(facts.application_protocols.len()).unwrap_or(u32::MAX);
    let at = facts.application_protocols.iter().position(|p| m.application_protocols.iter().any(|a| **a == **p))?;
    Some(count.saturating_sub(u32::try_from(at).unwrap_or(u32::MAX)))
}

fn direct_source_ip(m: &FilterChainMatch, facts: &ConnectionFacts<'_>) -> Option<u32> {
    longest_prefix(&m.direct_source_prefix_ranges, facts.direct_source.map(|d| d.ip()))
}

fn source_type(m: &FilterChainMatch, facts: &ConnectionFacts<'_>) -> Option<u32> {
    let local = match (facts.source, facts.destination) {
        (Some(source), Some(destination)) => {
            let source = source.ip().to_canonical();
            source.is_loopback() || source == destination.ip().to_canonical()
        }
        // A Unix socket's peer is on this host.
        _ => true,
    };
    match m.source_type {
        SourceType::Any => Some(0),
        SourceType::SameIpOrLoopback => local.then_some(1),
        SourceType::External => (!local).then_some(1),
    }
}

fn source_ip(m: &FilterChainMatch, facts: &ConnectionFacts<'_>) -> Option<u32> {
    longest_prefix(&m.source_prefix_ranges, facts.source.map(|s| s.ip()))
}

fn source_port(m: &FilterChainMatch, facts: &ConnectionFacts<'_>) -> Option<u32> {
    if m.source_ports.is_empty() {
        return Some(0);
    }
    facts.source.is_some_and(|s| m.source_ports.contains(&s.port())).then_some(1)
}

fn longest_prefix(ranges: &[Cidr], ip: Option<IpAddr>) -> Option<u32> {
    if ranges.is_empty() {
        return Some(0);
    }
    let ip = ip?;
    ranges.iter().filter(|range| range.contains(ip)).map(|range| u32::from(range.prefix_len).saturating_add(1)).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::listener::{NetworkFilter, TrafficDirection};
    use crate::config::tcp_proxy::TcpProxy;

    fn chain(name: &str, matches: FilterChainMatch) -> Arc<FilterChain> {
        Arc::new(FilterChain {
            fingerprint: 0,
            name: name.into(),
            matches,
            tls: None,
            transport_socket_connect_timeout: None,
            filter: NetworkFilter::Tcp(Arc::new(TcpProxy {
                stat_prefix: "t".into(),
                clusters: vec![("c".into(), 1)],
                idle_timeout: None,
                max_downstream_connection_duration: None,
                max_connect_attempts: 1,
                access_logs: vec![],
            })),
        })
    }

    fn listener(chains: Vec<Arc<FilterChain>>) -> Listener {
        Listener {
            name: "l".into(),
            addresses: vec![],
            bind_to_port: true,
            stat_prefix: "l".into(),
            direction: TrafficDirection::Unspecified,
            backlog: None,
            transparent: false,
            ipv4_compat: Vec::new(),
            freebind: false,
            tls_inspector: true,
            http_inspector: false,
            listener_filters_timeout: None,
            continue_on_listener_filters_timeout: false,
            filter_chains: chains,
            default_filter_chain: Some(chain("default", FilterChainMatch::default())),
            access_logs: vec![],
            ignore_global_connection_limit: false,
        }
    }

    fn names(list: &[&str]) -> Vec<Arc<str>> {
        list.iter().map(|n| Arc::from(*n)).collect()
    }

    fn found(listener: &Listener, destination: &str, source: &str, sni: Option<&str>, alpn: &[&str]) -> String {
        let facts = ConnectionFacts {
            destination: destination.parse().ok(),
            source: source.parse().ok(),
            direct_source: source.parse().ok(),
            server_name: sni,
            transport_protocol: if sni.is_some() { "tls" } else { "raw_buffer" },
            application_protocols: alpn,
        };
        find_filter_chain(listener, &facts).map(|c| c.name.to_string()).unwrap_or_default()
    }

    #[test]
    fn the_most_specific_name_wins_whatever_the_order() {
        let m = |list: &[&str]| FilterChainMatch { server_names: names(list), ..Default::default() };
        let chains = vec![
            chain("suffix", m(&["*.example.com"])),
            chain("longer", m(&["*.a.example.com"])),
            chain("exact", m(&["x.a.example.com"])),
            chain("none", FilterChainMatch::default()),
        ];
        let reversed: Vec<_> = chains.iter().rev().cloned().collect();
        for list in [chains, reversed] {
            let l = listener(list);
            let at = |sni| found(&l, "10.0.0.1:80", "10.0.0.2:1", sni, &[]);
            assert_eq!(at(Some("x.a.example.com")), "exact");
            assert_eq!(at(Some("y.a.example.com")), "longer");
            assert_eq!(at(Some("b.example.com")), "suffix");
            assert_eq!(at(Some("example.com")), "none");
            assert_eq!(at(None), "none");
        }
    }

    #[test]
    fn an_earlier_criterion_is_not_given_up_for_a_later_one() {
        let by_port =
            FilterChainMatch { destination_port: Some(443), server_names: names(&["a.test"]), ..Default::default() };
        let by_name = FilterChainMatch { server_names: names(&["b.test"]), ..Default::default() };
        let l = listener(vec![chain("port", by_port), chain("name", by_name)]);
        assert_eq!(found(&l, "10.0.0.1:443", "10.0.0.2:1", Some("b.test"), &[]), "default");
        assert_eq!(found(&l, "10.0.0.1:80", "10.0.0.2:1", Some("b.test"), &[]), "name");
    }

    #[test]
    fn sources_and_protocols_are_told_apart() {
        let cidr = |a: &str, n| Cidr { address: a.parse().unwrap(), prefix_len: n };
        let l = listener(vec![
            chain("local", FilterChainMatch { source_type: SourceType::SameIpOrLoopback, ..Default::default() }),
            chain(
                "ten",
                FilterChainMatch {
                    source_type: SourceType::External,
                    source_prefix_ranges: vec![cidr("10.0.0.0", 8)],
                    ..Default::default()
                },
            ),
            chain("h2", FilterChainMatch { application_protocols: names(&["h2", "http/1.1"]), ..Default::default() }),
        ]);
        assert_eq!(found(&l, "10.0.0.1:80", "127.0.0.1:1", None, &[]), "local");
        assert_eq!(found(&l, "10.0.0.1:80", "10.9.9.9:1", None, &[]), "ten");
        assert_eq!(found(&l, "10.0.0.1:80", "192.168.0.1:1", None, &[]), "default");
        assert_eq!(found(&l, "10.0.0.1:80", "10.9.9.9:1", None, &["h2"]), "h2");
    }
}
