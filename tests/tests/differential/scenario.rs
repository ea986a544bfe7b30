//! A scenario: what differs from the common template in the bootstrap, the scripts of its upstreams, and a client.
//!
//! Each scenario has a listener and clusters of its own, all of them in one bootstrap file, so that one process serves
//! the whole suite. In a scenario's YAML, `$up` stands for its cluster `up`, `$up:port` and `$up:port2` for the ports
//! of that cluster's endpoints, `$port` for the listener's, `$log` for the access log's path, `$authority`,
//! `$stranger`, `$server_cert`, `$server_key` for TLS material in PEM, `$name` for the scenario's name.

use outrigger_tests::client::Client;
use outrigger_tests::tls;
use outrigger_tests::upstream::Upstream;
use serde_json::{Value, json};

/// The access log line of every scenario.
const ACCESS_LOG: &str = "%PROTOCOL% %REQ(:METHOD)% %REQ(:AUTHORITY)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% code=%RESPONSE_CODE% \
flags=%RESPONSE_FLAGS% details=%RESPONSE_CODE_DETAILS% termination=%CONNECTION_TERMINATION_DETAILS% \
in=%BYTES_RECEIVED% out=%BYTES_SENT% cluster=%UPSTREAM_CLUSTER% upstream=%UPSTREAM_HOST% \
failure=%UPSTREAM_TRANSPORT_FAILURE_REASON% route=%ROUTE_NAME%\n";

/// The part of the bootstrap that an overlay is merged into.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Listener,
    FilterChain,
    Manager,
    Routes,
    VirtualHost,
    Tcp,
    Cluster(&'static str),
    Bootstrap,
}

/// One field of the bootstrap with another value.
#[derive(Clone, Debug)]
pub(crate) struct Mutation {
    /// The overlay's target: `listener`, `hcm`, `tcp`, or `cluster`, which is the first one.
    pub(crate) part: &'static str,
    /// A JSON pointer below that part; its last step may be new.
    pub(crate) pointer: &'static str,
    /// The new value, in YAML.
    pub(crate) value: &'static str,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) area: &'static str,
    pub(crate) upstreams: Vec<(&'static str, Upstream)>,
    pub(crate) client: Client,
    /// No traffic: is the configuration accepted?
    pub(crate) validated: bool,
    /// Needs a process of its own.
    pub(crate) alone: bool,
    is_tcp: bool,
    overlays: Vec<(Part, String)>,
    mutation: Option<Mutation>,
}

/// Where the harness put a scenario.
#[derive(Clone, Debug)]
pub(crate) struct Placement {
    pub(crate) listener: u16,
    /// The ports of each upstream, in the order of the scenario's upstreams.
    pub(crate) upstreams: Vec<Vec<u16>>,
    pub(crate) access_log: String,
}

/// A scenario of this name, with the template's configuration.
pub(crate) fn scenario(name: &str) -> Scenario {
    Scenario {
        name: name.to_owned(),
        area: "",
        upstreams: Vec::new(),
        client: Client::raw(),
        validated: false,
        alone: false,
        is_tcp: false,
        overlays: Vec::new(),
        mutation: None,
    }
}

impl Scenario {
    fn overlay(mut self, part: Part, yaml: &str) -> Self {
        self.overlays.push((part, yaml.to_owned()));
        self
    }

    /// The routes of the only virtual host, a YAML list. Without it everything goes to the first upstream.
    pub(crate) fn routes(self, yaml: &str) -> Self {
        let indented = format!("routes:\n{yaml}");
        self.overlay(Part::VirtualHost, &indented)
    }

    /// One route action for every path: `route: {...}` beside `match: {prefix: /}`.
    pub(crate) fn route(self, yaml: &str) -> Self {
        let routes = format!("routes: [{{match: {{prefix: /}}, {yaml}}}]");
        self.overlay(Part::VirtualHost, &routes)
    }

    /// Fields of the virtual host.
    pub(crate) fn virtual_host(self, yaml: &str) -> Self {
        self.overlay(Part::VirtualHost, yaml)
    }

    /// Fields of the RouteConfiguration.
    pub(crate) fn route_config(self, yaml: &str) -> Self {
        self.overlay(Part::Routes, yaml)
    }

    /// Fields of the HttpConnectionManager.
    pub(crate) fn hcm(self, yaml: &str) -> Self {
        self.overlay(Part::Manager, yaml)
    }

    /// A TcpProxy instead, with these fields beside cluster and access log.
    pub(crate) fn tcp(mut self, yaml: &str) -> Self {
        self.is_tcp = true;
        self.overlay(Part::Tcp, yaml)
    }

    /// Fields of the filter chain.
    pub(crate) fn filter_chain(self, yaml: &str) -> Self {
        self.overlay(Part::FilterChain, yaml)
    }

    /// Fields of the listener.
    pub(crate) fn listener(self, yaml: &str) -> Self {
        self.overlay(Part::Listener, yaml)
    }

    /// Fields of the bootstrap; the scenario gets a process of its own.
    pub(crate) fn bootstrap(mut self, yaml: &str) -> Self {
        self.alone = true;
        self.overlay(Part::Bootstrap, yaml)
    }

    /// Fields of the cluster of this upstream.
    pub(crate) fn cluster(self, upstream: &'static str, yaml: &str) -> Self {
        self.overlay(Part::Cluster(upstream), yaml)
    }

    /// An upstream, and with it a cluster of this name.
    pub(crate) fn upstream(mut self, name: &'static str, upstream: Upstream) -> Self {
        self.upstreams.push((name, upstream));
        self
    }

    /// The upstream `up`.
    pub(crate) fn up(self, upstream: Upstream) -> Self {
        self.upstream("up", upstream)
    }

    /// The client.
    pub(crate) fn client(mut self, client: Client) -> Self {
        self.client = client;
        self
    }

    /// Takes a process of its own: it keeps a worker so busy that the others would be late.
    pub(crate) fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Compares whether the configuration is accepted, by `--mode validate` and at start.
    pub(crate) fn validated(mut self) -> Self {
        self.validated = true;
        self
    }

    /// The same scenario with one field changed.
    pub(crate) fn mutated(&self, number: usize, mutation: &Mutation) -> Self {
        let mut mutant = self.clone();
        mutant.name = format!("m{number}_{}", self.name);
        mutant.mutation = Some(mutation.clone());
        mutant
    }

    /// The name of a cluster in the bootstrap.
    pub(crate) fn cluster_name(&self, upstream: &str) -> String {
        format!("{}_{upstream}", self.name)
    }

    /// The listener and the clusters of this scenario.
    pub(crate) fn resources(&self, at: &Placement) -> (Value, Vec<Value>) {
        let mut listener = self.listener_resource(at);
        let mut clusters: Vec<Value> = self
            .upstreams
            .iter()
            .zip(&at.upstreams)
            .map(|((name, up), ports)| self.cluster_resource(name, up, ports, at))
            .collect();
        if let Some(Mutation { part, pointer, value }) = &self.mutation {
            let filter = "/filter_chains/0/filters/0/typed_config";
            let target = match *part {
                "listener" => Some(&mut listener),
                "hcm" | "tcp" => listener.pointer_mut(filter),
                _ => clusters.first_mut(),
            };
            let target = target.expect("a mutation's part");
            set(target, pointer, self.yaml(value, at));
        }
        (listener, clusters)
    }

    /// What this scenario wants in the bootstrap itself.
    pub(crate) fn bootstrap_overlay(&self, at: &Placement) -> Value {
        let mut value = json!({});
        self.apply(&Part::Bootstrap, &mut value, at);
        value
    }

    fn listener_resource(&self, at: &Placement) -> Value {
        let log = json!([{
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": at.access_log,
                "log_format": {"text_format_source": {"inline_string": ACCESS_LOG}},
            },
        }]);
        let filter = if self.is_tcp { self.tcp_filter(log, at) } else { self.http_filter(log, at) };
        let mut chain = json!({"filters": [filter]});
        self.apply(&Part::FilterChain, &mut chain, at);
        let mut listener = json!({
            "name": self.name,
            "stat_prefix": self.name,
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": at.listener}},
            "filter_chains": [chain],
        });
        self.apply(&Part::Listener, &mut listener, at);
        listener
    }

    fn tcp_filter(&self, log: Value, at: &Placement) -> Value {
        let mut proxy = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": self.name,
            "access_log": log,
        });
        self.apply(&Part::Tcp, &mut proxy, at);
        if proxy.get("cluster").or(proxy.get("weighted_clusters")).is_none() {
            set(&mut proxy, "/cluster", self.first_cluster().into());
        }
        json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy})
    }

    fn first_cluster(&self) -> String {
        self.upstreams.first().map(|(name, _)| self.cluster_name(name)).unwrap_or_default()
    }

    fn http_filter(&self, log: Value, at: &Placement) -> Value {
        let action = if self.upstreams.is_empty() {
            json!({"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": "direct"}}})
        } else {
            json!({"match": {"prefix": "/"}, "route": {"cluster": self.first_cluster()}})
        };
        let mut host = json!({"name": "all", "domains": ["*"], "routes": [action]});
        self.apply(&Part::VirtualHost, &mut host, at);
        let mut routes = json!({"name": "routes", "virtual_hosts": [host]});
        self.apply(&Part::Routes, &mut routes, at);
        let mut manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": self.name,
            "route_config": routes,
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }],
            "access_log": log,
        });
        self.apply(&Part::Manager, &mut manager, at);
        json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": manager})
    }

    fn cluster_resource(&self, name: &'static str, upstream: &Upstream, ports: &[u16], at: &Placement) -> Value {
        let endpoints: Vec<Value> = ports
            .iter()
            .map(|port| {
                json!({"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}})
            })
            .collect();
        let mut cluster = json!({
            "name": self.cluster_name(name),
            "type": "STATIC",
            "connect_timeout": "2s",
            "load_assignment": {
                "cluster_name": self.cluster_name(name),
                "endpoints": [{"lb_endpoints": endpoints}],
            },
        });
        if upstream.is_h2() {
            let options = json!({
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            });
            set(&mut cluster, "/typed_extension_protocol_options", json!({}));
            cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"] =
                options;
        }
        if upstream.is_tls() {
            cluster["transport_socket"] = json!({
                "name": "envoy.transport_sockets.tls",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                    "sni": "server.test",
                    "common_tls_context": {"validation_context": {"trusted_ca": {"inline_string": tls::material().authority}}},
                },
            });
        }
        self.apply(&Part::Cluster(name), &mut cluster, at);
        cluster
    }

    fn apply(&self, part: &Part, target: &mut Value, at: &Placement) {
        for (_, yaml) in self.overlays.iter().filter(|(p, _)| p == part) {
            merge(target, self.yaml(yaml, at));
        }
    }

    fn yaml(&self, text: &str, at: &Placement) -> Value {
        let mut text = text.to_owned();
        for ((name, _), ports) in self.upstreams.iter().zip(&at.upstreams) {
            for (index, port) in ports.iter().enumerate().skip(1) {
                text = text.replace(&format!("${name}:port{}", index + 1), &port.to_string());
            }
            text = text.replace(&format!("${name}:port"), &ports.first().copied().unwrap_or(0).to_string());
            text = text.replace(&format!("${name}"), &self.cluster_name(name));
        }
        let material = tls::material();
        for (word, value) in [
            ("$authority", &material.authority),
            ("$stranger", &material.stranger_authority),
            ("$server_cert", &material.server.certificate),
            ("$server_key", &material.server.key),
        ] {
            text = text.replace(word, &Value::from(value.as_str()).to_string());
        }
        text = text
            .replace("$log", &at.access_log)
            .replace("$port", &at.listener.to_string())
            .replace("$name", &self.name);
        match serde_saphyr::from_str(&text) {
            Ok(value) => value,
            Err(error) => panic!("{}: {error}\n{text}", self.name),
        }
    }
}

/// Maps are merged, everything else replaces; null removes.
fn merge(target: &mut Value, overlay: Value) {
    match (target, overlay) {
        (Value::Object(target), Value::Object(overlay)) => {
            for (key, value) in overlay {
                if value.is_null() {
                    target.remove(&key);
                } else {
                    merge(target.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (target, overlay) => *target = overlay,
    }
}

/// Sets what `pointer` names, making the last step where it is missing.
fn set(target: &mut Value, pointer: &str, value: Value) {
    let (parent, last) = pointer.rsplit_once('/').expect("a JSON pointer");
    match target.pointer_mut(parent) {
        Some(Value::Object(map)) => {
            map.insert(last.to_owned(), value);
        }
        Some(Value::Array(list)) => {
            let index: usize = last.parse().expect("an index");
            list[index] = value;
        }
        _ => panic!("nothing at {parent}"),
    }
}
