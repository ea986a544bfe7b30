//! Clients and servers of other people's making, through the proxy: h2spec, grpcurl, Node's WebSocket; and bodies that
//! move slowly both ways at once, which must not pile up in our memory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a suite reports what went wrong by failing"
)]

mod bodies;
mod grpc;
mod h2spec;
mod websocket;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use outrigger_tests::peers;
use outrigger_tests::ports::Reserved;
use outrigger_tests::process::Process;
use outrigger_tests::tls::material;
use serde_json::{Value, json};

/// A proxy with one listener, and one cluster behind it.
struct Proxy {
    process: Process,
    port: Reserved,
    _directory: tempfile::TempDir,
}

/// How the proxy is reached, and what is behind it.
#[derive(Default)]
struct Setup {
    /// `codec_type`; `AUTO` by default.
    codec: Option<&'static str>,
    tls: bool,
    /// The upstream's port.
    upstream: u16,
    /// The upstream speaks HTTP/2.
    http2_upstream: bool,
}

impl Proxy {
    fn start(setup: &Setup) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = Reserved::new().unwrap();
        let at = |name: &str| directory.path().join(name);
        let config = at("bootstrap.json");
        std::fs::write(&config, bootstrap(setup, port.port(), &at("admin")).to_string()).unwrap();
        let mut command = peers::proxy(env!("CARGO_BIN_EXE_mesh"));
        command.arg("-c").arg(config).args(["--concurrency", "1", "-l", "warning"]);
        let mut process = Process::start(command, &at("output")).unwrap();
        process.ready(&at("admin"), Duration::from_secs(30)).unwrap();
        Self { process, port, _directory: directory }
    }

    fn port(&self) -> u16 {
        self.port.port()
    }
}

fn bootstrap(setup: &Setup, port: u16, admin: &std::path::Path) -> Value {
    let address = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let action = json!({"match": {"prefix": "/"}, "route": {"cluster": "upstream", "timeout": "0s"}});
    let mut chain = json!({"filters": [{
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "foreign",
            "codec_type": setup.codec.unwrap_or("AUTO"),
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }],
            "route_config": {"name": "r", "virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [action]}]},
        },
    }]});
    if setup.tls {
        let server = &material().server;
        chain["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {
                    "alpn_protocols": ["h2", "http/1.1"],
                    "tls_certificates": [{
                        "certificate_chain": {"inline_string": server.certificate},
                        "private_key": {"inline_string": server.key},
                    }],
                },
            },
        });
    }
    json!({
        "admin": {"address": {"pipe": {"path": admin}}},
        "static_resources": {
            "listeners": [{"name": "foreign", "address": address(port), "filter_chains": [chain]}],
            "clusters": [cluster(setup, address(setup.upstream))],
        },
    })
}

fn cluster(setup: &Setup, address: Value) -> Value {
    let mut cluster = json!({
        "name": "upstream",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "upstream",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    });
    if setup.http2_upstream {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        });
    }
    cluster
}

/// What a program printed, and whether it was content.
fn run(program: PathBuf, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}
