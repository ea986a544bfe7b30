//! `envoy.config.bootstrap.v3.Bootstrap`: what the process starts from.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use outrigger_proto::envoy::config::bootstrap::v3 as pb;
use outrigger_proto::envoy::config::overload::v3 as overload;
use outrigger_proto::envoy::extensions::resource_monitors::downstream_connections::v3::DownstreamConnectionsConfig;

use crate::config::address::listening_address;
use crate::config::any;
use crate::config::cluster::Cluster;
use crate::config::dynamic_resources::DynamicResources;
use crate::config::hcm::RouteSource;
use crate::config::listener::{FilterChain, Listener, NetworkFilter};
use crate::config::report::{At, Problem, Report};
use crate::source::{Element, Locator, Rest, Source, read_bootstrap};
use crate::stream_info::Address;
use crate::{harmless, unsupported};

/// The validated bootstrap.
#[derive(Debug)]
pub struct Bootstrap {
    /// Who we are, as control planes see it; kept as the message.
    pub node: outrigger_proto::envoy::config::core::v3::Node,
    /// `static_resources.listeners`.
    pub listeners: Vec<Arc<Listener>>,
    /// `static_resources.clusters`, each with its `load_assignment`.
    pub clusters: Vec<Arc<Cluster>>,
    /// `dynamic_resources`: where everything else comes from.
    pub dynamic: DynamicResources,
    /// The admin listener.
    pub admin: Option<Admin>,
    /// `envoy.resource_monitors.global_downstream_max_connections`, or the runtime key
    /// `overload.global_downstream_max_connections`.
    pub max_downstream_connections: Option<u64>,
    /// The static layers of `layered_runtime`, flattened in order: key and value as text.
    pub runtime: BTreeMap<String, String>,
}

/// `admin`.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where it listens.
    pub address: Address,
}

impl Bootstrap {
    /// Reads the texts, merged in order. On failure, every problem that was found, in the order of the texts, each with
    /// its place.
    pub fn load(sources: &[Source<'_>]) -> Result<Bootstrap, Vec<Problem>> {
        let report = Report::new();
        let bootstrap = Bootstrap::read(sources, &report);
        let (mut problems, _) = report.into_parts();
        match bootstrap {
            Some(bootstrap) if problems.is_empty() => Ok(bootstrap),
            _ => {
                Locator::new(sources).locate(&mut problems);
                Err(problems)
            }
        }
    }

    /// As [`Bootstrap::load`], for whoever wants to know what was harmless, too. It is of use only if nothing was
    /// rejected.
    pub fn read(sources: &[Source<'_>], report: &Report) -> Option<Bootstrap> {
        let mut resources = Resources::default();
        let Rest { message, faults } = read_bootstrap(sources, report, &mut |element, at| resources.add(element, at))?;
        // A cluster that was rejected is not missing.
        if !report.is_rejected() {
            resources.check_routes(&report.root());
        }
        let bootstrap = convert(message, resources, &report.root());
        report.drop_consequences(faults);
        Some(bootstrap)
    }
}

/// What `static_resources` held, checked one against the other as it is read.
#[derive(Default)]
struct Resources {
    listeners: Vec<Arc<Listener>>,
    clusters: Vec<Arc<Cluster>>,
    cluster_names: HashSet<Arc<str>>,
    listener_names: HashSet<Arc<str>>,
    bound: HashSet<Address>,
}

impl Resources {
    fn add(&mut self, element: Element, at: &At<'_>) {
        match element {
            Element::Cluster(message) => {
                let Some(cluster) = Cluster::convert(*message, at) else { return };
                if !self.cluster_names.insert(Arc::clone(&cluster.name)) {
                    at.field("name").reject(&cluster.name, "another cluster has this name");
                }
                self.clusters.push(Arc::new(cluster));
            }
            Element::Listener(message) => {
                let Some(listener) = Listener::convert(*message, at) else { return };
                if !self.listener_names.insert(Arc::clone(&listener.name)) {
                    at.field("name").reject(&listener.name, "another listener has this name");
                }
                for address in listener.addresses.iter().filter(|_| listener.bind_to_port) {
                    let any_port = matches!(address, Address::Ip(address) if address.port() == 0);
                    if !any_port && !self.bound.insert(address.clone()) {
                        at.field("address").reject(address, "another listener has this address");
                    }
                }
                self.listeners.push(Arc::new(listener));
            }
            Element::Secret => at.reject("", "not in this version: secrets are inline or files"),
        }
    }

    /// Routes of a static configuration name clusters that exist, unless they say otherwise.
    fn check_routes(&self, root: &At<'_>) {
        let at = root.field("static_resources");
        let list = at.field("listeners");
        for (index, listener) in self.listeners.iter().enumerate() {
            let at = list.index(index);
            let chains = at.field("filter_chains");
            for (index, chain) in listener.filter_chains.iter().enumerate() {
                self.check_chain(chain, &chains.index(index));
            }
            if let Some(chain) = &listener.default_filter_chain {
                self.check_chain(chain, &at.field("default_filter_chain"));
            }
        }
    }

    fn check_chain(&self, chain: &FilterChain, at: &At<'_>) {
        let NetworkFilter::Http(manager) = &chain.filter else { return };
        let RouteSource::Inline(table) = &manager.routes else { return };
        if table.validate_clusters.unwrap_or(true) {
            // The connection manager is the only filter.
            let at = at.field("filters");
            let at = at.index(0);
            let at = at.field("typed_config");
            let exists = |name: &str| self.cluster_names.contains(name);
            table.check_clusters(&exists, &at.field("route_config"));
        }
    }
}

fn convert(message: pb::Bootstrap, resources: Resources, at: &At<'_>) -> Bootstrap {
    let pb::Bootstrap {
        node,
        node_context_params,
        // Its lists were handed over one by one.
        static_resources: _,
        dynamic_resources,
        cluster_manager,
        hds_config,
        flags_path,
        stats_sinks,
        deferred_stat_options,
        stats_config,
        stats_flush_interval,
        watchdog,
        watchdogs,
        tracing,
        layered_runtime,
        admin,
        overload_manager,
        enable_dispatcher_stats,
        header_prefix,
        stats_server_version_override,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config,
        bootstrap_extensions,
        fatal_actions,
        config_sources,
        default_config_source,
        default_socket_interface,
        certificate_provider_instances,
        inline_headers,
        perf_tracing_file_path,
        default_regex_engine,
        xds_delegate_extension,
        xds_config_tracker_extension,
        listener_manager,
        application_log_config,
        grpc_async_client_manager_config,
        memory_allocator_manager,
        enable_worker_cpu_affinity,
        stats_flush,
        stats_eviction,
    } = message;
    unsupported!(at;
        node_context_params = "resources have plain names",
        hds_config, flags_path, stats_sinks, stats_config, tracing = "comes with telemetry",
        header_prefix, use_tcp_for_dns_lookups, dns_resolution_config, typed_dns_resolver_config,
        bootstrap_extensions, fatal_actions,
        config_sources = "resources have plain names", default_config_source = "resources have plain names",
        default_socket_interface, certificate_provider_instances = "certificates are inline or files",
        default_regex_engine, xds_delegate_extension, xds_config_tracker_extension, listener_manager,
        application_log_config, enable_worker_cpu_affinity,
    );
    harmless!(at;
        deferred_stat_options = "statistics are always made at their first use",
        stats_flush_interval = "there are no sinks to flush to",
        stats_flush = "there are no sinks to flush to",
        stats_eviction = "statistics go with the cluster or listener that they count for",
        watchdog = "there is no watchdog",
        watchdogs = "there is no watchdog",
        enable_dispatcher_stats = "there is no such dispatcher",
        stats_server_version_override = "server.version is our own",
        inline_headers = "it makes Envoy's look-ups faster, nothing else",
        perf_tracing_file_path = "Envoy writes it in special builds only",
        grpc_async_client_manager_config = "it tunes a cache of Envoy",
        memory_allocator_manager = "the allocator is not Envoy's",
    );
    let runtime = runtime(layered_runtime.unwrap_or_default(), &at.field("layered_runtime"));
    let monitored = overload_manager.and_then(|message| max_connections(message, &at.field("overload_manager")));
    let from_runtime =
        runtime.get("overload.global_downstream_max_connections").and_then(|value| value.parse::<u64>().ok());
    if let Some(message) = cluster_manager {
        check_cluster_manager(message, &at.field("cluster_manager"));
    }
    // A cluster that was rejected is not missing.
    let clusters = Some(&resources.cluster_names).filter(|_| at.problem_count() == 0);
    let dynamic =
        dynamic_resources.map(|message| DynamicResources::convert(message, clusters, &at.field("dynamic_resources")));
    let dynamic = dynamic.unwrap_or_default();
    Bootstrap {
        node: node.unwrap_or_default(),
        dynamic,
        listeners: resources.listeners,
        clusters: resources.clusters,
        admin: admin.and_then(|message| Admin::convert(message, &at.field("admin"))),
        max_downstream_connections: monitored.or(from_runtime),
        runtime,
    }
}

fn check_cluster_manager(message: pb::ClusterManager, at: &At<'_>) {
    let pb::ClusterManager {
        local_cluster_name,
        outlier_detection,
        upstream_bind_config,
        load_stats_config,
        enable_deferred_cluster_creation,
    } = message;
    unsupported!(at;
        local_cluster_name = "no balancer of this version looks at zones", outlier_detection, upstream_bind_config,
        load_stats_config = "loads are not reported",
    );
    harmless!(at; enable_deferred_cluster_creation = "an unused cluster always costs next to nothing");
}

impl Admin {
    fn convert(message: pb::Admin, at: &At<'_>) -> Option<Admin> {
        let pb::Admin {
            access_log,
            access_log_path,
            profile_path,
            address,
            socket_options,
            ignore_global_conn_limit,
            allow_paths,
        } = message;
        unsupported!(at; socket_options, allow_paths);
        harmless!(at;
            access_log = "requests to the admin listener are not logged",
            access_log_path = "requests to the admin listener are not logged",
            profile_path = "there is no profiler inside",
            ignore_global_conn_limit = "connections to the admin listener are never counted",
        );
        // Without an address there is no admin listener.
        Some(Admin { address: listening_address(Some(address?), &at.field("address"))? })
    }
}

/// The limit of `envoy.resource_monitors.global_downstream_max_connections`.
fn max_connections(message: overload::OverloadManager, at: &At<'_>) -> Option<u64> {
    let overload::OverloadManager {
        refresh_interval,
        resource_monitors,
        actions,
        loadshed_points,
        buffer_factory_config,
    } = message;
    unsupported!(at; actions, loadshed_points);
    harmless!(at;
        refresh_interval = "connections are counted as they come",
        buffer_factory_config = "it is for actions that are not in this version",
    );
    let mut limit = None;
    let list = at.field("resource_monitors");
    for (index, overload::ResourceMonitor { name, config_type }) in resource_monitors.into_iter().enumerate() {
        let at = list.index(index);
        if name.is_empty() {
            at.field("name").reject("", "must not be empty");
        }
        let at = at.field("typed_config");
        let Some(overload::resource_monitor::ConfigType::TypedConfig(config)) = config_type else {
            at.reject("", "is required");
            continue;
        };
        if !any::is::<DownstreamConnectionsConfig>(&config) {
            any::reject_type(&config, &at);
            continue;
        }
        let Some(message) = any::decode::<DownstreamConnectionsConfig>(&config, &at) else { continue };
        let DownstreamConnectionsConfig { max_active_downstream_connections } = message;
        match u64::try_from(max_active_downstream_connections) {
            Ok(value) if value > 0 => limit = Some(value),
            _ => at
                .field("max_active_downstream_connections")
                .reject(max_active_downstream_connections, "must be greater than 0"),
        }
    }
    limit
}

/// The static layers, a later one over an earlier one.
fn runtime(message: pb::LayeredRuntime, at: &At<'_>) -> BTreeMap<String, String> {
    use pb::runtime_layer::LayerSpecifier;
    let mut values = BTreeMap::new();
    let mut names = HashSet::new();
    let list = at.field("layers");
    for (index, pb::RuntimeLayer { name, layer_specifier }) in message.layers.into_iter().enumerate() {
        let at = list.index(index);
        if name.is_empty() {
            at.field("name").reject("", "must not be empty");
        } else if !names.insert(name.clone()) {
            at.field("name").reject(&name, "another layer has this name");
        }
        match layer_specifier {
            Some(LayerSpecifier::StaticLayer(layer)) => flatten("", layer, &mut values),
            Some(LayerSpecifier::AdminLayer(_)) => {
                at.field("admin_layer").harmless("values cannot be changed while running");
            }
            Some(LayerSpecifier::DiskLayer(_)) => at.field("disk_layer").reject("", "not in this version"),
            Some(LayerSpecifier::RtdsLayer(_)) => {
                at.field("rtds_layer").reject("", "not in this version: write static_layer");
            }
            None => at.reject("", "one of static_layer, disk_layer, admin_layer, rtds_layer is required"),
        }
    }
    values
}

fn flatten(prefix: &str, layer: prost_types::Struct, values: &mut BTreeMap<String, String>) {
    use prost_types::value::Kind;
    for (key, value) in layer.fields {
        let path = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        let text = match value.kind {
            Some(Kind::StructValue(layer)) => {
                flatten(&path, layer, values);
                continue;
            }
            Some(Kind::NumberValue(value)) => value.to_string(),
            Some(Kind::StringValue(value)) => value,
            Some(Kind::BoolValue(value)) => value.to_string(),
            Some(Kind::ListValue(_) | Kind::NullValue(_)) | None => continue,
        };
        values.insert(path, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIMPLE: &str = r#"
admin:
  address: { socket_address: { address: 127.0.0.1, port_value: 9901 } }
static_resources:
  listeners:
    - name: in
      address: { socket_address: { address: 0.0.0.0, port_value: 8080 } }
      filter_chains:
        - filters:
            - name: http
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: in
                stream_idle_timeout: 0s
                route_config:
                  virtual_hosts:
                    - name: all
                      domains: ["*"]
                      routes:
                        - match: { prefix: / }
                          route: { cluster: app }
                http_filters:
                  - name: router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
    - address: { pipe: { path: /run/tcp.sock } }
      filterChains:
        - filters:
            - name: tcp
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
                stat_prefix: tcp
                cluster: app
  clusters:
    - name: app
      type: STATIC
      connect_timeout: 0.25s
      load_assignment:
        cluster_name: app
        endpoints:
          - lb_endpoints:
              - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: 9000 } } }
layered_runtime:
  layers:
    - name: static
      static_layer: { overload: { global_downstream_max_connections: 50000 } }
"#;

    fn problems(text: &str) -> Vec<String> {
        let problems = Bootstrap::load(&[Source::new("b.yaml", text)]).unwrap_err();
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_bootstrap_becomes_its_model() {
        let bootstrap = Bootstrap::load(&[Source::new("b.yaml", SIMPLE)]).unwrap();
        assert_eq!(bootstrap.admin.unwrap().address.to_string(), "127.0.0.1:9901");
        assert_eq!(bootstrap.max_downstream_connections, Some(50_000));
        assert_eq!(&*bootstrap.clusters[0].name, "app");
        let http = &bootstrap.listeners[0];
        assert_eq!(&*http.stat_prefix, "0.0.0.0_8080");
        let NetworkFilter::Http(manager) = &http.filter_chains[0].filter else { panic!() };
        assert_eq!(manager.stream_idle_timeout, None);
        assert_eq!(manager.max_request_headers_bytes, 60 * 1024);
        let tcp = &bootstrap.listeners[1];
        assert_eq!(&*tcp.name, "/run/tcp.sock");
        let NetworkFilter::Tcp(proxy) = &tcp.filter_chains[0].filter else { panic!() };
        assert_eq!(proxy.clusters, [("app".into(), 1)]);
    }

    #[test]
    fn a_second_text_is_merged_over_the_first() {
        let more = "admin: {address: {socket_address: {port_value: 1}}}\nstatic_resources: {clusters: [{name: more}]}";
        let sources = [Source::new("b.yaml", SIMPLE), Source::new("--config-yaml", more)];
        let bootstrap = Bootstrap::load(&sources).unwrap();
        assert_eq!(bootstrap.admin.unwrap().address.to_string(), "127.0.0.1:1");
        assert_eq!(bootstrap.clusters.iter().map(|c| &*c.name).collect::<Vec<_>>(), ["app", "more"]);
    }

    #[test]
    fn every_fault_is_named_with_its_place() {
        let text = SIMPLE
            .replace("stat_prefix: in", "statprefix: in")
            .replace("connect_timeout: 0.25s", "connect_timeout: 250ms\n      conect_timeout: 1s")
            .replace("type: STATIC", "type: STATICC")
            .replace("stat_prefix: tcp", "stat_prefix: \"\"");
        assert_eq!(
            problems(&text),
            [
                "b.yaml:13:17: static_resources.listeners[0].filter_chains[0].filters[0].typed_config.statprefix: \
                 envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager has no such field; \
                 did you mean \"stat_prefix\"?",
                "b.yaml:32:30: static_resources.listeners[1].filter_chains[0].filters[0].typed_config.stat_prefix: \
                 must not be empty",
                "b.yaml:36:13: static_resources.clusters[0].type: STATICC: \
                 not a value of envoy.config.cluster.v3.Cluster.DiscoveryType; did you mean \"STATIC\"?",
                "b.yaml:37:24: static_resources.clusters[0].connect_timeout: 250ms: \
                 must be a duration in seconds, like 5s or 0.25s",
                "b.yaml:38:7: static_resources.clusters[0].conect_timeout: \
                 envoy.config.cluster.v3.Cluster has no such field; did you mean \"connect_timeout\"?",
            ]
        );
        let text = SIMPLE.replace("route: { cluster: app }", "route: { cluster: ap }");
        assert_eq!(
            problems(&text),
            ["b.yaml:21:45: static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.\
              virtual_hosts[0].routes[0].route.cluster: ap: there is no such cluster (validate_clusters is on)"]
        );
        assert_eq!(problems("a: ["), ["b.yaml:1:4: this is not YAML: unclosed bracket '['"]);
    }
}
