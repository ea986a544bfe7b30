//! Access logs at the end of the process: what was under way has its line, and the last lines get where they belong.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::mpsc;
use std::thread;

use outrigger_proto::envoy::service::accesslog::v3::access_log_service_server::{
    AccessLogService, AccessLogServiceServer,
};
use outrigger_proto::envoy::service::accesslog::v3::stream_access_logs_message::LogEntries;
use outrigger_proto::envoy::service::accesslog::v3::{StreamAccessLogsMessage, StreamAccessLogsResponse};
use serde_json::{Value, json};
use tonic::{Request, Response, Status, Streaming};

use crate::mesh::{Connection, Mesh, PATIENCE, Upstream, cluster, eventually, listener, routes};

fn file_log(format: &str) -> Value {
    json!([{"name": "file", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": "DIRECTORY/log",
        "log_format": {"text_format_source": {"inline_string": format}},
    }}])
}

fn tcp_listener(name: &str, cluster: &str, logs: &Value) -> Value {
    let config = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": name, "cluster": cluster, "access_log": logs,
    });
    json!({
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "tcp", "typed_config": config}]}],
    })
}

#[test]
fn what_is_cut_off_with_the_process_has_its_line() {
    let a = Upstream::start("a");
    let format = "%REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE_DETAILS%\n";
    let http = listener("http", 0, json!({"route_config": routes("own", "a"), "access_log": file_log(format)}));
    let tcp = tcp_listener("tcp", "a", &file_log("tcp %BYTES_RECEIVED% %BYTES_SENT%\n"));
    let mut mesh = Mesh::start(&[("cds", json!([cluster("a", a.port)])), ("lds", json!([http, tcp]))]);
    let (http, tcp) = (mesh.port("http").unwrap(), mesh.port("tcp").unwrap());
    let mut idle = Connection::open(http).unwrap();
    assert!(idle.get("/").is_some());
    let mut tunnel = Connection::open(tcp).unwrap();
    assert!(tunnel.get("/").is_some());
    let under_way = thread::spawn(move || Connection::open(http).unwrap().get("/hold"));
    a.holds();
    mesh.terminate();
    eventually("it drains", || idle.is_closed());
    mesh.terminate();
    assert!(mesh.ends().success());
    assert!(under_way.join().unwrap().is_none(), "nobody answers any more");
    a.release();
    let log = mesh.file("log");
    let mut lines = log.lines().collect::<Vec<_>>();
    lines.sort_unstable();
    assert_eq!(lines, ["GET / via_upstream", "GET /hold downstream_local_disconnect", "tcp 30 39"]);
}

/// Says the path of each request that it is told of.
struct LogService(mpsc::Sender<String>);

#[tonic::async_trait]
impl AccessLogService for LogService {
    async fn stream_access_logs(
        &self,
        request: Request<Streaming<StreamAccessLogsMessage>>,
    ) -> Result<Response<StreamAccessLogsResponse>, Status> {
        let mut messages = request.into_inner();
        while let Some(message) = messages.message().await? {
            let Some(LogEntries::HttpLogs(logs)) = message.log_entries else { continue };
            for entry in logs.log_entry {
                self.0.send(entry.request.unwrap_or_default().path).map_err(|_| Status::cancelled(""))?;
            }
        }
        Ok(Response::new(StreamAccessLogsResponse {}))
    }
}

#[test]
fn the_last_entries_reach_the_log_service() {
    let (to_test, paths) = mpsc::channel();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let socket = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let port = socket.local_addr().unwrap().port();
    let server = tonic::transport::Server::builder().add_service(AccessLogServiceServer::new(LogService(to_test)));
    runtime.spawn(server.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(socket)));

    let a = Upstream::start("a");
    let mut service = cluster("als", port);
    service["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }});
    // The first entry goes at once, the next ones after an hour, or with the process.
    let log = json!([{"name": "grpc", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
        "common_config": {
            "log_name": "mesh", "transport_api_version": "V3", "buffer_flush_interval": "3600s",
            "grpc_service": {"envoy_grpc": {"cluster_name": "als"}},
        },
    }}]);
    let http = listener("http", 0, json!({"route_config": routes("own", "a"), "access_log": log}));
    let files = [("cds", json!([cluster("a", a.port), service])), ("lds", json!([http]))];
    let mut mesh = Mesh::start(&files);
    let mut client = Connection::open(mesh.port("http").unwrap()).unwrap();
    assert!(client.get("/first").is_some());
    assert_eq!(paths.recv_timeout(PATIENCE).unwrap(), "/first");
    assert!(client.get("/last").is_some());
    drop(client);
    mesh.terminate();
    assert!(mesh.ends().success());
    assert_eq!(paths.recv_timeout(PATIENCE).expect("it is sent before the end"), "/last");
    runtime.shutdown_background();
}

#[test]
fn a_tcp_connection_that_is_being_made_counts() {
    // It accepts, and never says a word of TLS.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut slow = cluster("slow", silent.local_addr().unwrap().port());
    slow["connect_timeout"] = json!("600s");
    slow["circuit_breakers"] = json!({"per_host_thresholds": [{"max_connections": 1}]});
    slow["transport_socket"] = json!({"name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
    }});
    let mesh = Mesh::start(&[("cds", json!([slow])), ("lds", json!([tcp_listener("tcp", "slow", &json!([]))]))]);
    let port = mesh.port("tcp").unwrap();
    let mut first = Connection::open(port).unwrap();
    eventually("it is counted", || mesh.stat("cluster.slow.upstream_cx_active") == 1);
    let mut second = Connection::open(port).unwrap();
    eventually("there is no room for another", || second.is_closed());
    assert_eq!(mesh.stat("cluster.slow.upstream_cx_overflow"), 1);
    assert!(!first.is_closed());
}
