//! grpcurl, which learns a server's API by reflection, against tonic's own health and reflection services.

use std::net::Ipv4Addr;

use outrigger_tests::peers;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

use crate::{Proxy, Setup, run};

#[test]
fn grpcurl_lists_calls_and_hears_an_error() {
    let Some(program) = peers::find("grpcurl", "grpcurl") else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let upstream = listener.local_addr().unwrap().port();
    let (_reporter, health) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .unwrap();
    let serving = Server::builder().add_service(health).add_service(reflection);
    runtime.spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));

    let proxy = Proxy::start(&Setup { upstream, http2_upstream: true, ..Setup::default() });
    let address = format!("127.0.0.1:{}", proxy.port());
    let grpcurl = |arguments: &[&str]| run(program.clone(), &[&["-plaintext", "-max-time", "30"], arguments].concat());

    let (listed, services) = grpcurl(&[&address, "list"]);
    assert!(listed && services.lines().any(|line| line == "grpc.health.v1.Health"), "{services}");
    let (answered, health) = grpcurl(&["-d", "{}", &address, "grpc.health.v1.Health/Check"]);
    assert!(answered && health.contains("\"SERVING\""), "{health}");
    let (answered, error) = grpcurl(&["-d", r#"{"service": "nobody"}"#, &address, "grpc.health.v1.Health/Check"]);
    assert!(!answered && error.contains("Code: NotFound"), "{error}");
}
