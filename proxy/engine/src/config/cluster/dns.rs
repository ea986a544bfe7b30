//! Where a cluster's hosts come from: `type`, `cluster_type`, and the fields about DNS.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CustomClusterType, DiscoveryType, DnsLookupFamily, EdsClusterConfig, RefreshRate,
};
use outrigger_proto::envoy::config::core::v3 as core;
use outrigger_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use outrigger_proto::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily as TypedFamily;
use outrigger_proto::envoy::extensions::clusters::dns::v3::{DnsCluster, dns_cluster};
use outrigger_proto::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
use outrigger_proto::envoy::extensions::network::dns_resolver::getaddrinfo::v3::GetAddrInfoDnsResolverConfig;

use super::{Discovery, Dns, DnsFamily, Eds};
use crate::balance::HostSet;
use crate::config::any;
use crate::config::config_source::{ConfigSource, plain_name};
use crate::config::endpoint::{EndpointAddress, LoadAssignment};
use crate::config::report::At;
use crate::config::value::{Seconds, duration};
use crate::{harmless, unsupported};

/// The cluster's fields about DNS.
pub(super) struct Fields {
    pub(super) refresh_rate: Option<prost_types::Duration>,
    pub(super) jitter: Option<prost_types::Duration>,
    pub(super) failure_refresh_rate: Option<RefreshRate>,
    pub(super) respect_ttl: bool,
    pub(super) family: i32,
    pub(super) resolvers: Vec<core::Address>,
    pub(super) use_tcp: bool,
    pub(super) resolution_config: Option<core::DnsResolutionConfig>,
    pub(super) typed_resolver_config: Option<core::TypedExtensionConfig>,
}

impl Discovery {
    /// `at` is the cluster.
    pub(super) fn convert(
        name: &str,
        kind: Option<ClusterDiscoveryType>,
        eds: Option<EdsClusterConfig>,
        load_assignment: Option<ClusterLoadAssignment>,
        fields: Fields,
        at: &At<'_>,
    ) -> Option<Self> {
        let is_eds = matches!(kind, Some(ClusterDiscoveryType::Type(value)) if value == DiscoveryType::Eds as i32);
        if eds.is_some() && !is_eds {
            at.field("eds_cluster_config").reject("", "only a cluster of type EDS has one");
        }
        let assignment_at = at.field("load_assignment");
        let assignment = match load_assignment {
            Some(message) => LoadAssignment::convert(message, &assignment_at)?,
            None => LoadAssignment::default(),
        };
        let type_at = at.field("type");
        let kind = match kind {
            None => DiscoveryType::Static,
            Some(ClusterDiscoveryType::Type(value)) => match DiscoveryType::try_from(value) {
                Ok(kind) => kind,
                Err(_) => {
                    type_at.reject(value, "unknown value");
                    return None;
                }
            },
            Some(ClusterDiscoveryType::ClusterType(custom)) => {
                fields.note_unused(at);
                return Self::custom(custom, assignment, &assignment_at, &at.field("cluster_type"));
            }
        };
        match kind {
            DiscoveryType::Static => {
                fields.note_unused(at);
                check_addresses(&assignment, &assignment_at);
                Some(Discovery::Static(Arc::new(HostSet::from_assignment(&assignment, None))))
            }
            DiscoveryType::StrictDns => {
                check_names(&assignment, &assignment_at);
                fields.convert(assignment, at).map(Discovery::StrictDns)
            }
            DiscoveryType::LogicalDns => {
                check_single(&assignment, &assignment_at);
                fields.convert(assignment, at).map(Discovery::LogicalDns)
            }
            DiscoveryType::Eds => {
                fields.note_unused(at);
                Eds::convert(name, eds, assignment, at).map(Discovery::Eds)
            }
            DiscoveryType::OriginalDst => {
                type_at.reject("ORIGINAL_DST", "not in this version: it comes with interception");
                None
            }
        }
    }

    fn custom(
        message: CustomClusterType,
        assignment: LoadAssignment,
        assignment_at: &At<'_>,
        at: &At<'_>,
    ) -> Option<Self> {
        let CustomClusterType { name, typed_config } = message;
        let Some(config) = typed_config else {
            at.field("typed_config").reject("", format_args!("must be set: {name:?} alone does not say which cluster"));
            return None;
        };
        let at = at.field("typed_config");
        if !any::is::<DnsCluster>(&config) {
            any::reject_type(&config, &at);
            return None;
        }
        let DnsCluster {
            dns_refresh_rate,
            dns_failure_refresh_rate,
            respect_dns_ttl,
            dns_jitter,
            typed_dns_resolver_config,
            dns_lookup_family,
            all_addresses_in_single_endpoint,
            dns_min_refresh_rate,
        } = any::decode(&config, &at)?;
        let family = match TypedFamily::try_from(dns_lookup_family) {
            Ok(TypedFamily::Unspecified | TypedFamily::Auto) => DnsLookupFamily::Auto,
            Ok(TypedFamily::V4Only) => DnsLookupFamily::V4Only,
            Ok(TypedFamily::V6Only) => DnsLookupFamily::V6Only,
            Ok(TypedFamily::V4Preferred) => DnsLookupFamily::V4Preferred,
            Ok(TypedFamily::All) => DnsLookupFamily::All,
            Err(_) => {
                at.field("dns_lookup_family").reject(dns_lookup_family, "unknown value");
                return None;
            }
        };
        if all_addresses_in_single_endpoint {
            check_single(&assignment, assignment_at);
        } else {
            check_names(&assignment, assignment_at);
        }
        let fields = Fields {
            refresh_rate: dns_refresh_rate,
            jitter: dns_jitter,
            failure_refresh_rate: dns_failure_refresh_rate.map(
                |dns_cluster::RefreshRate { base_interval, max_interval }| RefreshRate { base_interval, max_interval },
            ),
            respect_ttl: respect_dns_ttl,
            family: family as i32,
            resolvers: Vec::new(),
            use_tcp: false,
            resolution_config: None,
            typed_resolver_config: typed_dns_resolver_config,
        };
        let mut dns = fields.convert(assignment, &at)?;
        if let Some(least) = at_least(dns_min_refresh_rate, Duration::from_secs(1), &at.field("dns_min_refresh_rate")) {
            dns.min_refresh_rate = least;
        }
        Some(if all_addresses_in_single_endpoint { Discovery::LogicalDns(dns) } else { Discovery::StrictDns(dns) })
    }
}

impl Eds {
    fn convert(name: &str, message: Option<EdsClusterConfig>, assignment: LoadAssignment, at: &At<'_>) -> Option<Self> {
        if !assignment.localities.is_empty() {
            at.field("load_assignment").harmless("the endpoints come by EDS");
        }
        let at = at.field("eds_cluster_config");
        let Some(EdsClusterConfig { eds_config, service_name }) = message else {
            at.reject("", "must be set for a cluster of type EDS");
            return None;
        };
        let source_at = at.field("eds_config");
        let Some(source) = eds_config else {
            source_at.reject("", "must be set");
            return None;
        };
        plain_name(&service_name, &at.field("service_name"));
        let service_name = if service_name.is_empty() { name.into() } else { service_name.into() };
        Some(Eds { service_name, source: Arc::new(ConfigSource::convert(source, &source_at)?) })
    }
}

impl Fields {
    /// No name is resolved by them.
    fn note_unused(self, at: &At<'_>) {
        let Fields {
            refresh_rate: dns_refresh_rate,
            jitter: dns_jitter,
            failure_refresh_rate: dns_failure_refresh_rate,
            respect_ttl: respect_dns_ttl,
            family: dns_lookup_family,
            resolvers: dns_resolvers,
            use_tcp: use_tcp_for_dns_lookups,
            resolution_config: dns_resolution_config,
            typed_resolver_config: typed_dns_resolver_config,
        } = self;
        harmless!(at;
            dns_refresh_rate = "only STRICT_DNS and LOGICAL_DNS read it",
            dns_jitter = "only STRICT_DNS and LOGICAL_DNS read it",
            dns_failure_refresh_rate = "only STRICT_DNS and LOGICAL_DNS read it",
            respect_dns_ttl = "only STRICT_DNS and LOGICAL_DNS read it",
            dns_lookup_family = "only STRICT_DNS and LOGICAL_DNS read it",
            dns_resolvers = "only STRICT_DNS and LOGICAL_DNS read it",
            use_tcp_for_dns_lookups = "only STRICT_DNS and LOGICAL_DNS read it",
            dns_resolution_config = "only STRICT_DNS and LOGICAL_DNS read it",
            typed_dns_resolver_config = "only STRICT_DNS and LOGICAL_DNS read it",
        );
    }

    fn convert(self, assignment: LoadAssignment, at: &At<'_>) -> Option<Dns> {
        let problems = at.problem_count();
        let family = match DnsLookupFamily::try_from(self.family) {
            Ok(DnsLookupFamily::Auto) => DnsFamily::Auto,
            Ok(DnsLookupFamily::V4Only) => DnsFamily::V4Only,
            Ok(DnsLookupFamily::V6Only) => DnsFamily::V6Only,
            Ok(DnsLookupFamily::V4Preferred) => DnsFamily::V4Preferred,
            Ok(DnsLookupFamily::All) => DnsFamily::All,
            Err(_) => {
                at.field("dns_lookup_family").reject(self.family, "unknown value");
                return None;
            }
        };
        let milli = Duration::from_millis(1);
        let refresh_rate = at_least(self.refresh_rate, milli, &at.field("dns_refresh_rate"));
        let jitter = duration(self.jitter, &at.field("dns_jitter")).unwrap_or_default();
        let failure_refresh_rate = self.failure_refresh_rate.and_then(|message| {
            let at = at.field("dns_failure_refresh_rate");
            let RefreshRate { base_interval, max_interval } = message;
            if base_interval.is_none() {
                at.field("base_interval").reject("", "must be set");
            }
            let base = at_least(base_interval, milli, &at.field("base_interval"))?;
            let max = at_least(max_interval, milli, &at.field("max_interval")).unwrap_or(base.saturating_mul(10));
            if max < base {
                at.field("max_interval").reject(Seconds(max), "must not be less than base_interval");
            }
            Some((base, max))
        });
        let servers =
            Servers::convert(self.resolvers, self.use_tcp, self.resolution_config, self.typed_resolver_config, at);
        (at.problem_count() == problems).then_some(Dns {
            assignment,
            family,
            refresh_rate: refresh_rate.unwrap_or(Duration::from_secs(5)),
            jitter,
            respect_ttl: self.respect_ttl,
            min_refresh_rate: Duration::from_secs(1),
            failure_refresh_rate,
            resolvers: servers.addresses.into(),
            use_tcp: servers.use_tcp,
        })
    }
}

/// Who is asked, and how.
#[derive(Default)]
struct Servers {
    addresses: Vec<SocketAddr>,
    use_tcp: bool,
}

impl Servers {
    /// The newest of the ways to say it counts.
    fn convert(
        addresses: Vec<core::Address>,
        use_tcp: bool,
        resolution: Option<core::DnsResolutionConfig>,
        typed: Option<core::TypedExtensionConfig>,
        at: &At<'_>,
    ) -> Self {
        if let Some(extension) = typed {
            return Self::typed(extension, &at.field("typed_dns_resolver_config"));
        }
        if let Some(core::DnsResolutionConfig { resolvers, dns_resolver_options }) = resolution {
            let at = at.field("dns_resolution_config");
            return Self::new(resolvers, dns_resolver_options, &at);
        }
        let list = at.field("dns_resolvers");
        Servers { addresses: servers(addresses, &list), use_tcp }
    }

    fn typed(extension: core::TypedExtensionConfig, at: &At<'_>) -> Self {
        let Some(config) = extension.typed_config else {
            at.field("typed_config").reject("", "must be set");
            return Self::default();
        };
        let at = at.field("typed_config");
        if any::is::<GetAddrInfoDnsResolverConfig>(&config) {
            at.harmless("the system's configuration is read, and asked without getaddrinfo");
            return Self::default();
        }
        if !any::is::<CaresDnsResolverConfig>(&config) {
            any::reject_type(&config, &at);
            return Self::default();
        }
        let Some(message) = any::decode::<CaresDnsResolverConfig>(&config, &at) else { return Self::default() };
        let CaresDnsResolverConfig {
            resolvers,
            use_resolvers_as_fallback,
            filter_unroutable_families,
            dns_resolver_options,
            udp_max_queries,
            query_timeout_seconds,
            query_tries,
            rotate_nameservers,
            edns0_max_payload_size,
            max_udp_channel_duration,
            reinit_channel_on_timeout,
            qcache_max_ttl,
        } = message;
        unsupported!(at; use_resolvers_as_fallback, filter_unroutable_families);
        harmless!(at;
            udp_max_queries = "each query has a socket of its own",
            query_timeout_seconds = "a query has 5 s",
            query_tries = "a query is made twice",
            rotate_nameservers = "the server that answers soonest is preferred",
            edns0_max_payload_size = "answers that are too long come by TCP",
            max_udp_channel_duration = "each query has a socket of its own",
            reinit_channel_on_timeout = "each query has a socket of its own",
            qcache_max_ttl = "answers are not cached: the refresh rate decides",
        );
        Self::new(resolvers, dns_resolver_options, &at)
    }

    fn new(resolvers: Vec<core::Address>, options: Option<core::DnsResolverOptions>, at: &At<'_>) -> Self {
        let core::DnsResolverOptions { use_tcp_for_dns_lookups, no_default_search_domain } =
            options.unwrap_or_default();
        let options = at.field("dns_resolver_options");
        harmless!(options; no_default_search_domain = "write names with a final dot to skip the search list");
        Servers { addresses: servers(resolvers, &at.field("resolvers")), use_tcp: use_tcp_for_dns_lookups }
    }
}

fn servers(messages: Vec<core::Address>, list: &At<'_>) -> Vec<SocketAddr> {
    let convert = |(i, message): (usize, core::Address)| {
        let at = list.index(i);
        let address = match message.address {
            Some(core::address::Address::SocketAddress(address)) => address,
            _ => {
                at.field("socket_address").reject("", "must be set");
                return None;
            }
        };
        let port = match address.port_specifier {
            Some(core::socket_address::PortSpecifier::PortValue(port)) => u16::try_from(port).ok(),
            _ => None,
        };
        match (address.address.parse::<IpAddr>(), port) {
            (Ok(ip), Some(port)) => Some(SocketAddr::new(ip, port)),
            _ => {
                at.field("socket_address").reject(address.address, "must be an IP address with a port_value");
                None
            }
        }
    };
    messages.into_iter().enumerate().filter_map(convert).collect()
}

fn at_least(message: Option<prost_types::Duration>, least: Duration, at: &At<'_>) -> Option<Duration> {
    let value = duration(message, at)?;
    if value < least {
        at.reject(Seconds(value), format_args!("must be at least {}", Seconds(least)));
        return None;
    }
    Some(value)
}

/// Where nothing is resolved, every address is an IP address or a path.
pub(crate) fn check_addresses(assignment: &LoadAssignment, at: &At<'_>) {
    each_address(assignment, at, |address, at| {
        if let EndpointAddress::Name { host, .. } = address {
            at.reject(host, "must be an IP address: names need type STRICT_DNS or LOGICAL_DNS");
        }
    });
}

/// A name or an IP address can be resolved, a path cannot.
fn check_names(assignment: &LoadAssignment, at: &At<'_>) {
    each_address(assignment, at, |address, at| {
        if let EndpointAddress::Pipe(path) = address {
            at.reject(path, "a Unix socket needs type STATIC");
        }
    });
}

fn check_single(assignment: &LoadAssignment, at: &At<'_>) {
    check_names(assignment, at);
    if assignment.localities.len() != 1 || assignment.localities.iter().any(|group| group.endpoints.len() != 1) {
        at.reject("", "LOGICAL_DNS has one group of endpoints with one endpoint in it");
    }
}

fn each_address(assignment: &LoadAssignment, at: &At<'_>, check: impl Fn(&EndpointAddress, &At<'_>)) {
    let groups = at.field("endpoints");
    for (i, group) in assignment.localities.iter().enumerate() {
        let group_at = groups.index(i);
        let endpoints = group_at.field("lb_endpoints");
        for (j, endpoint) in group.endpoints.iter().enumerate() {
            let at = endpoints.index(j);
            let at = at.field("endpoint");
            check(&endpoint.address, &at.field("address"));
        }
    }
}
