//! Conversion of the message as a whole.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::envoy::config::cluster::v3::{self as pb, circuit_breakers};
use outrigger_proto::envoy::config::core::v3 as core;
use outrigger_proto::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use outrigger_proto::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use outrigger_proto::envoy::r#type::v3::Percent;

use super::protocol::ProtocolOptions;
use super::{
    Bind, CircuitBreakers, Cluster, Discovery, HttpProtocol, LoadBalancing, RetryBudget, TcpKeepalive, Thresholds,
};
use crate::config::any;
use crate::config::report::At;
use crate::config::tls::UpstreamTls;
use crate::config::value::duration;
use crate::{harmless, unsupported};

impl Cluster {
    /// The cluster, or `None` if a part of it is not usable; every fault is in the report.
    pub fn convert(message: pb::Cluster, at: &At<'_>) -> Option<Self> {
        let pb::Cluster {
            transport_socket_matches,
            transport_socket_matcher,
            name,
            alt_stat_name,
            stats_matcher,
            eds_cluster_config,
            connect_timeout,
            per_connection_buffer_limit_bytes,
            per_connection_buffer_high_watermark_timeout,
            lb_policy,
            load_assignment,
            health_checks,
            max_requests_per_connection,
            circuit_breakers,
            upstream_http_protocol_options,
            common_http_protocol_options,
            http_protocol_options,
            http2_protocol_options,
            typed_extension_protocol_options,
            dns_refresh_rate,
            dns_jitter,
            dns_failure_refresh_rate,
            respect_dns_ttl,
            dns_lookup_family,
            dns_resolvers,
            use_tcp_for_dns_lookups,
            dns_resolution_config,
            typed_dns_resolver_config,
            wait_for_warm_on_init,
            outlier_detection,
            cleanup_interval,
            upstream_bind_config,
            lb_subset_config,
            common_lb_config,
            transport_socket,
            metadata,
            protocol_selection,
            upstream_connection_options,
            close_connections_on_host_health_failure,
            ignore_health_on_host_removal,
            filters,
            load_balancing_policy,
            lrs_server,
            lrs_report_endpoint_metrics,
            track_timeout_budgets,
            upstream_config,
            track_cluster_stats,
            preconnect_policy,
            connection_pool_per_downstream_connection,
            queuing_policies,
            cluster_discovery_type,
            lb_config,
        } = message;
        let problems = at.problem_count();
        if name.is_empty() {
            at.field("name").reject("", "must not be empty");
        }
        unsupported!(at;
            transport_socket_matches = "one transport_socket for all hosts",
            transport_socket_matcher = "one transport_socket for all hosts",
            stats_matcher,
            per_connection_buffer_high_watermark_timeout,
            health_checks = "active health checks come later",
            outlier_detection = "outlier detection comes later",
            lb_subset_config = "subsets come later",
            filters = "there are no upstream network filters",
            lrs_server = "there are no load reports",
            upstream_config = "there is one way to an upstream",
            preconnect_policy,
            connection_pool_per_downstream_connection,
            queuing_policies,
        );
        harmless!(at;
            cleanup_interval = "only ORIGINAL_DST has hosts to clean up",
            metadata = "nothing here reads it",
            ignore_health_on_host_removal = "a host that is removed goes at once",
            lrs_report_endpoint_metrics = "there are no load reports",
            track_timeout_budgets = "the histograms of timeout budgets are not kept",
            track_cluster_stats = "these optional statistics are not kept",
            per_connection_buffer_limit_bytes = "64 KiB are buffered each way, by HTTP/2 as much as its windows",
            close_connections_on_host_health_failure = "there are no health checks yet",
        );

        let connect_timeout_at = at.field("connect_timeout");
        let connect_timeout = duration(connect_timeout, &connect_timeout_at).unwrap_or(Duration::from_secs(5));
        if connect_timeout.is_zero() {
            connect_timeout_at.reject("0s", "must be greater than 0s");
        }
        let dns = super::dns::Fields {
            refresh_rate: dns_refresh_rate,
            jitter: dns_jitter,
            failure_refresh_rate: dns_failure_refresh_rate,
            respect_ttl: respect_dns_ttl,
            family: dns_lookup_family,
            resolvers: dns_resolvers,
            use_tcp: use_tcp_for_dns_lookups,
            resolution_config: dns_resolution_config,
            typed_resolver_config: typed_dns_resolver_config,
        };
        let discovery = Discovery::convert(&name, cluster_discovery_type, eds_cluster_config, load_assignment, dns, at);
        let load_balancing = LoadBalancing::convert(lb_policy, load_balancing_policy, lb_config, common_lb_config, at);
        let deprecated = super::protocol::Deprecated {
            common: common_http_protocol_options,
            upstream: upstream_http_protocol_options,
            http1: http_protocol_options,
            http2: http2_protocol_options,
            selection: protocol_selection,
            max_requests_per_connection,
        };
        let options = ProtocolOptions::convert(typed_extension_protocol_options, deprecated, at);
        let tls = transport_socket.and_then(|socket| upstream_tls(socket, &at.field("transport_socket")));
        if matches!(options, Some(ProtocolOptions { protocol: HttpProtocol::Auto { .. }, .. }))
            && tls.is_none()
            && at.problem_count() == problems
        {
            at.field("transport_socket").reject("", "auto_config chooses by ALPN, so it needs TLS");
        }
        if options.as_ref().is_some_and(|options| options.auto_san_validation)
            && tls.as_ref().is_some_and(|tls| tls.common.validation.as_ref().is_none_or(|v| v.trusted_ca.is_none()))
            && at.problem_count() == problems
        {
            at.field("transport_socket")
                .reject("", "auto_san_validation needs a trusted_ca: a name that nobody vouches for says nothing");
        }
        let breakers = circuit_breakers
            .map(|message| CircuitBreakers::convert(message, &at.field("circuit_breakers")))
            .unwrap_or_default();
        let bind = upstream_bind_config.and_then(|bind| Bind::convert(bind, &at.field("upstream_bind_config")));
        let tcp_keepalive = upstream_connection_options
            .and_then(|options| keepalive(options, &at.field("upstream_connection_options")));
        if at.problem_count() != problems {
            return None;
        }
        let options = options?;
        Some(Cluster {
            name: name.into(),
            alt_stat_name: (!alt_stat_name.is_empty()).then(|| alt_stat_name.into()),
            discovery: discovery?,
            connect_timeout,
            protocol: options.protocol,
            idle_timeout: options.idle_timeout,
            max_requests_per_connection: options.max_requests_per_connection,
            max_connection_duration: options.max_connection_duration,
            max_stream_duration: options.max_stream_duration,
            max_response_headers_bytes: options.max_response_headers_bytes,
            max_response_headers_count: options.max_response_headers_count,
            auto_sni: options.auto_sni,
            auto_san_validation: options.auto_san_validation,
            override_auto_sni_header: options.override_auto_sni_header,
            tls,
            tcp_keepalive,
            bind,
            load_balancing: load_balancing?,
            circuit_breakers: breakers,
            wait_for_warm_on_init: wait_for_warm_on_init.unwrap_or(true),
        })
    }
}

fn upstream_tls(message: core::TransportSocket, at: &At<'_>) -> Option<Arc<UpstreamTls>> {
    let core::TransportSocket { name, config_type } = message;
    let Some(core::transport_socket::ConfigType::TypedConfig(config)) = config_type else {
        at.field("typed_config").reject("", format_args!("must be set: {name:?} alone does not say which socket"));
        return None;
    };
    let at = at.field("typed_config");
    if any::is::<RawBuffer>(&config) {
        return None;
    }
    if any::is::<UpstreamTlsContext>(&config) {
        return UpstreamTls::convert(any::decode(&config, &at)?, &at).map(Arc::new);
    }
    any::reject_type(&config, &at);
    None
}

impl CircuitBreakers {
    fn convert(message: pb::CircuitBreakers, at: &At<'_>) -> Self {
        let pb::CircuitBreakers { thresholds, per_host_thresholds } = message;
        let mut breakers = CircuitBreakers::default();
        let (mut default_seen, mut high_seen) = (false, false);
        let list = at.field("thresholds");
        for (i, message) in thresholds.into_iter().enumerate() {
            let at = list.index(i);
            let priority = message.priority;
            let thresholds = Thresholds::convert(message, &at);
            // The first of a priority holds, as in Envoy.
            match core::RoutingPriority::try_from(priority) {
                Ok(core::RoutingPriority::Default) if !std::mem::replace(&mut default_seen, true) => {
                    breakers.default = thresholds;
                }
                Ok(core::RoutingPriority::High) if !std::mem::replace(&mut high_seen, true) => {
                    breakers.high = thresholds;
                }
                Ok(_) => at.harmless("an earlier entry is for the same priority"),
                Err(_) => at.field("priority").reject(priority, "must be DEFAULT or HIGH"),
            }
        }
        let list = at.field("per_host_thresholds");
        for (i, message) in per_host_thresholds.into_iter().enumerate() {
            let circuit_breakers::Thresholds {
                priority,
                max_connections,
                max_pending_requests,
                max_requests,
                max_retries,
                retry_budget,
                track_remaining,
                max_connection_pools,
            } = message;
            let at = list.index(i);
            harmless!(at; track_remaining = "nothing is shown for one host");
            unsupported!(at;
                priority = "connections to a host count for DEFAULT",
                max_pending_requests = "only max_connections counts for one host",
                max_requests = "only max_connections counts for one host",
                max_retries = "only max_connections counts for one host",
                retry_budget = "only max_connections counts for one host",
                max_connection_pools = "only max_connections counts for one host",
            );
            breakers.max_connections_per_host = breakers.max_connections_per_host.or(max_connections);
        }
        breakers
    }
}

impl Thresholds {
    fn convert(message: circuit_breakers::Thresholds, at: &At<'_>) -> Self {
        let circuit_breakers::Thresholds {
            priority: _,
            max_connections,
            max_pending_requests,
            max_requests,
            max_retries,
            retry_budget,
            track_remaining,
            max_connection_pools,
        } = message;
        let default = Thresholds::default();
        Thresholds {
            max_connections: max_connections.unwrap_or(default.max_connections),
            max_pending_requests: max_pending_requests.unwrap_or(default.max_pending_requests),
            max_requests: max_requests.unwrap_or(default.max_requests),
            max_retries: max_retries.unwrap_or(default.max_retries),
            max_connection_pools: max_connection_pools.unwrap_or(default.max_connection_pools),
            retry_budget: retry_budget.map(|budget| RetryBudget::convert(budget, &at.field("retry_budget"))),
            track_remaining,
        }
    }
}

impl RetryBudget {
    fn convert(message: circuit_breakers::thresholds::RetryBudget, at: &At<'_>) -> Self {
        let circuit_breakers::thresholds::RetryBudget { budget_percent, budget_interval, min_retry_concurrency } =
            message;
        unsupported!(at; budget_interval = "the budget follows what is under way");
        RetryBudget {
            percent: percent(budget_percent, 20.0, &at.field("budget_percent")),
            min_concurrency: min_retry_concurrency.unwrap_or(3),
        }
    }
}

/// A percentage; `default` if it is not set or wrong.
pub(super) fn percent(message: Option<Percent>, default: f64, at: &At<'_>) -> f64 {
    match message {
        None => default,
        Some(Percent { value }) if (0.0..=100.0).contains(&value) => value,
        Some(Percent { value }) => {
            at.field("value").reject(value, "must be 0 to 100");
            default
        }
    }
}

impl Bind {
    fn convert(message: core::BindConfig, at: &At<'_>) -> Option<Self> {
        let core::BindConfig {
            source_address,
            freebind,
            socket_options,
            extra_source_addresses,
            additional_source_addresses,
            local_address_selector,
            validate_network_namespaces,
        } = message;
        unsupported!(at;
            socket_options,
            additional_source_addresses = "it is called extra_source_addresses now",
            local_address_selector = "addresses are chosen by family",
        );
        harmless!(at; validate_network_namespaces = "network namespaces are not entered");
        let mut bind = Bind { freebind: freebind.unwrap_or(false), ..Bind::default() };
        if let Some(address) = source_address {
            bind.add(address, &at.field("source_address"));
        }
        let list = at.field("extra_source_addresses");
        for (i, extra) in extra_source_addresses.into_iter().enumerate() {
            let core::ExtraSourceAddress { address, socket_options } = extra;
            let at = list.index(i);
            unsupported!(at; socket_options);
            match address {
                Some(address) => bind.add(address, &at.field("address")),
                None => at.field("address").reject("", "must be set"),
            }
        }
        (bind.v4.is_some() || bind.v6.is_some()).then_some(bind)
    }

    fn add(&mut self, message: core::SocketAddress, at: &At<'_>) {
        let core::SocketAddress {
            protocol,
            address,
            resolver_name,
            ipv4_compat,
            network_namespace_filepath,
            port_specifier,
        } = message;
        unsupported!(at; protocol = "must be TCP", resolver_name, network_namespace_filepath);
        harmless!(at; ipv4_compat = "it speaks of listeners");
        let port = match port_specifier {
            Some(core::socket_address::PortSpecifier::PortValue(port)) => u16::try_from(port).ok(),
            Some(core::socket_address::PortSpecifier::NamedPort(_)) => None,
            None => Some(0),
        };
        let (Ok(ip), Some(port)) = (address.parse::<IpAddr>(), port) else {
            at.reject(address, "must be an IP address with a port of at most 65535, or 0 for any");
            return;
        };
        let slot = if ip.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        if slot.replace(SocketAddr::new(ip, port)).is_some() {
            at.reject(ip, "there is a source address of this family already");
        }
    }
}

fn keepalive(message: pb::UpstreamConnectionOptions, at: &At<'_>) -> Option<TcpKeepalive> {
    let pb::UpstreamConnectionOptions {
        tcp_keepalive,
        set_local_interface_name_on_upstream_connections,
        happy_eyeballs_config,
    } = message;
    harmless!(at;
        set_local_interface_name_on_upstream_connections = "nothing here reads the name",
        happy_eyeballs_config = "a host has one address",
    );
    let core::TcpKeepalive { keepalive_probes, keepalive_time, keepalive_interval } = tcp_keepalive?;
    let seconds = |value: Option<u32>| value.map(|seconds| Duration::from_secs(seconds.into()));
    Some(TcpKeepalive {
        probes: keepalive_probes,
        time: seconds(keepalive_time),
        interval: seconds(keepalive_interval),
    })
}
