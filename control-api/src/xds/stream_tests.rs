//! The services over a connection, as tonic's own clients see them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::uri::PathAndQuery;
use outrigger_engine::xds::Kind;
use outrigger_proto::envoy::config::core::v3::Node;
use outrigger_proto::envoy::service::cluster::v3::cluster_discovery_service_client::ClusterDiscoveryServiceClient;
use outrigger_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use outrigger_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use outrigger_proto::envoy::service::listener::v3::listener_discovery_service_client::ListenerDiscoveryServiceClient;
use outrigger_proto::google::rpc;
use outrigger_proto::prost_types::{ListValue, Struct, Value, value};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint, Server as Transport};
use tonic::{Code, Streaming};
use tonic_prost::ProstCodec;

use super::session_tests::view;
use super::{Limits, Protocol, Proxies, Server, View, Views};
use crate::node::Caller;
use crate::serve::{Accepted, Idle, Unread, watch_over};
use crate::testing::Heard;

struct Same(Arc<View>);

impl Views for Same {
    fn view(&self, _: &Caller) -> Arc<View> {
        self.0.clone()
    }
}

/// The view of a revision.
struct At(u64, Arc<View>);

impl Views for At {
    fn view(&self, _: &Caller) -> Arc<View> {
        self.1.clone()
    }

    fn revision(&self) -> u64 {
        self.0
    }
}

/// A view where nothing was ever applied.
struct New(Arc<View>);

impl Views for New {
    fn view(&self, _: &Caller) -> Arc<View> {
        self.0.clone()
    }

    fn is_new(&self) -> bool {
        true
    }
}

struct Control {
    views: watch::Sender<Arc<dyn Views>>,
    proxies: Arc<Proxies>,
    endpoint: Endpoint,
    channel: Channel,
    unread: Arc<Unread>,
}

impl Control {
    async fn start(first: Arc<View>) -> Self {
        Self::limited(first, Limits::default()).await
    }

    async fn limited(first: Arc<View>, limits: Limits) -> Self {
        let (views, receiver) = watch::channel::<Arc<dyn Views>>(Arc::new(Same(first)));
        let server = Server::new(receiver, limits);
        let mut routes = Routes::builder();
        server.add_to(&mut routes);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let unread = Arc::<Unread>::default();
        let accepted = Accepted::tcp(listener, Idle::new(100, Duration::from_secs(3600)));
        let serving = Transport::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .add_routes(watch_over(routes.routes(), unread.clone()))
            .serve_with_incoming(accepted);
        tokio::runtime::Handle::current().spawn(serving);
        let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
        let channel = endpoint.connect().await.unwrap();
        Self { views, proxies: server.proxies(), endpoint, channel, unread }
    }

    fn update(&self, next: Arc<View>) {
        self.views.send_replace(Arc::new(Same(next)));
    }
}

fn node() -> Option<Node> {
    Some(Node { id: "orders-1".to_owned(), cluster: "orders".to_owned(), ..Node::default() })
}

/// Why the stream ended.
async fn refusal<T>(responses: Result<tonic::Response<Streaming<T>>, tonic::Status>) -> tonic::Status {
    match responses {
        Err(status) => status,
        Ok(responses) => responses.into_inner().message().await.err().unwrap(),
    }
}

#[tokio::test]
async fn a_stream_without_node_or_type_or_of_another_type_is_refused_with_the_reason() {
    let control = Control::start(view(&[])).await;
    let mut client = AggregatedDiscoveryServiceClient::new(control.channel.clone());
    let nobody = DeltaDiscoveryRequest { type_url: Kind::Cluster.type_url().to_owned(), ..Default::default() };
    let status = refusal(client.delta_aggregated_resources(tokio_stream::iter([nobody])).await).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("node.id"), "{status}");

    let nothing = DiscoveryRequest { node: node(), ..Default::default() };
    let status = refusal(client.stream_aggregated_resources(tokio_stream::iter([nothing])).await).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("type_url is required"), "{status}");

    let mut clusters = ClusterDiscoveryServiceClient::new(control.channel.clone());
    let other = DiscoveryRequest { node: node(), type_url: Kind::Routes.type_url().to_owned(), ..Default::default() };
    let status = refusal(clusters.stream_clusters(tokio_stream::iter([other])).await).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains(Kind::Cluster.type_url()), "{status}");
}

#[tokio::test]
async fn a_type_that_is_not_served_is_left_unanswered_and_named_once() {
    let heard = Heard::default();
    let _heard = tracing::subscriber::set_default(heard.clone());
    let control = Control::start(view(&[(Kind::Cluster, &["a=1"])])).await;
    let mut client = AggregatedDiscoveryServiceClient::new(control.channel.clone());
    let (requests, receiver) = mpsc::channel(4);
    let secrets = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
    // The first names the node, the others do not have to.
    for (node, type_url) in [(node(), secrets), (None, secrets), (None, Kind::Cluster.type_url())] {
        let request = DeltaDiscoveryRequest { node, type_url: type_url.to_owned(), ..Default::default() };
        requests.send(request).await.unwrap();
    }
    let mut responses = client.delta_aggregated_resources(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    let response = responses.message().await.unwrap().unwrap();
    assert_eq!((response.type_url.as_str(), response.resources.len()), (Kind::Cluster.type_url(), 1));
    let lines: Vec<String> = heard.lines().into_iter().filter(|line| line.contains(secrets)).collect();
    assert!(matches!(lines.as_slice(), [line] if line.contains("orders-1")), "{lines:?}");
}

#[tokio::test]
async fn a_service_of_one_kind_needs_no_type_url() {
    let control = Control::start(view(&[(Kind::Cluster, &["a=1"])])).await;
    let mut client = ClusterDiscoveryServiceClient::new(control.channel.clone());
    let (requests, receiver) = mpsc::channel(4);
    requests.send(DiscoveryRequest { node: node(), ..Default::default() }).await.unwrap();
    let mut responses = client.stream_clusters(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    let response = responses.message().await.unwrap().unwrap();
    assert_eq!(response.type_url, Kind::Cluster.type_url());
    assert_eq!(response.resources[0].type_url, Kind::Cluster.type_url());
    assert!(!response.version_info.is_empty() && !response.nonce.is_empty());
    assert!(response.control_plane.unwrap().identifier.starts_with("outrigger/"));
}

#[tokio::test]
async fn updates_are_sent_and_what_the_proxy_says_of_them_is_kept_while_it_is_connected() {
    let control = Control::start(view(&[(Kind::Cluster, &["a=1", "b=1"])])).await;
    let mut client = AggregatedDiscoveryServiceClient::new(control.channel.clone());
    let (requests, receiver) = mpsc::channel(4);
    let type_url = Kind::Cluster.type_url().to_owned();
    let request = DeltaDiscoveryRequest { type_url: type_url.clone(), ..Default::default() };
    requests.send(DeltaDiscoveryRequest { node: node(), ..request.clone() }).await.unwrap();
    let mut responses = client.delta_aggregated_resources(ReceiverStream::new(receiver)).await.unwrap().into_inner();

    let first = responses.message().await.unwrap().unwrap();
    assert_eq!(first.resources.iter().map(|resource| resource.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let ack = DeltaDiscoveryRequest { response_nonce: first.nonce, ..request.clone() };
    requests.send(ack).await.unwrap();
    control.update(view(&[(Kind::Cluster, &["a=2"])]));
    let second = responses.message().await.unwrap().unwrap();
    // The first was accepted, or the second would not have come.
    let [proxy] = control.proxies.list().try_into().unwrap();
    assert_eq!((proxy.node.as_str(), proxy.cluster.as_str()), ("orders-1", "orders"));
    assert_eq!(proxy.protocol, Protocol::Delta);
    assert!(proxy.address.is_some_and(|address| address.ip().is_loopback()));
    let status = &proxy.kinds[&Kind::Cluster];
    assert_eq!(status.accepted, first.system_version_info);
    assert_eq!((status.resources, status.synced()), (1, false));

    let error = Some(rpc::Status { message: "a: connect_timeout: 0s".to_owned(), ..Default::default() });
    requests
        .send(DeltaDiscoveryRequest { response_nonce: second.nonce, error_detail: error, ..request.clone() })
        .await
        .unwrap();
    control.update(view(&[(Kind::Cluster, &["a=3"])]));
    let third = responses.message().await.unwrap().unwrap();
    assert_eq!(third.resources[0].version, "3");
    let status = control.proxies.list().remove(0).kinds.remove(&Kind::Cluster).unwrap();
    assert_eq!(status.rejected.as_deref(), Some("a: connect_timeout: 0s"));
    let counts = control.proxies.counts()[&Kind::Cluster];
    assert_eq!((counts.responses, counts.accepted, counts.rejected), (3, 1, 1));

    drop(requests);
    assert!(responses.message().await.unwrap().is_none());
    assert_eq!(control.proxies.streams(), 0);
}

#[tokio::test]
async fn a_proxy_that_comes_back_is_known_with_what_it_has() {
    let control = Control::start(view(&[(Kind::Cluster, &["a=1", "b=1"])])).await;
    let mut client = AggregatedDiscoveryServiceClient::new(control.channel.clone());
    let (requests, receiver) = mpsc::channel(4);
    let versions = ["a", "b"].map(|name| (name.to_owned(), "1".to_owned()));
    let request = DeltaDiscoveryRequest {
        node: node(),
        type_url: Kind::Cluster.type_url().to_owned(),
        initial_resource_versions: versions.into(),
        ..Default::default()
    };
    requests.send(request).await.unwrap();
    let mut responses = client.delta_aggregated_resources(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    control.update(view(&[(Kind::Cluster, &["a=1", "b=2"])]));
    let response = responses.message().await.unwrap().unwrap();
    assert_eq!(response.resources.iter().map(|resource| resource.name.as_str()).collect::<Vec<_>>(), ["b"]);
    let status = control.proxies.list().remove(0).kinds.remove(&Kind::Cluster).unwrap();
    assert_eq!((status.resources, status.synced()), (2, false));
}

#[tokio::test]
async fn a_proxy_has_a_revision_when_it_has_all_kinds_of_it_and_loses_it_by_a_late_rejection() {
    let all = [(Kind::Cluster, &["a=1"][..]), (Kind::Listener, &["l=1"]), (Kind::Routes, &["r=1", "s=1"])];
    let control = Control::start(view(&[])).await;
    control.views.send_replace(Arc::new(At(7, view(&all))));
    let mut changes = control.proxies.changes();
    let mut client = AggregatedDiscoveryServiceClient::new(control.channel.clone());
    let (requests, receiver) = mpsc::channel(4);
    let request = |kind: Kind, names: &[&str], nonce: &str, error: Option<&str>| DeltaDiscoveryRequest {
        node: node(),
        type_url: kind.type_url().to_owned(),
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        response_nonce: nonce.to_owned(),
        error_detail: error.map(|message| rpc::Status { message: message.to_owned(), ..Default::default() }),
        ..Default::default()
    };
    requests.send(request(Kind::Cluster, &[], "", None)).await.unwrap();
    let mut responses = client.delta_aggregated_resources(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    let mut nonce = responses.message().await.unwrap().unwrap().nonce;
    for (kind, next) in [(Kind::Cluster, (Kind::Listener, &[][..])), (Kind::Listener, (Kind::Routes, &["r", "s"]))] {
        requests.send(request(kind, &[], &nonce, None)).await.unwrap();
        requests.send(request(next.0, next.1, "", None)).await.unwrap();
        nonce = responses.message().await.unwrap().unwrap().nonce;
        assert_eq!(control.proxies.list()[0].revision(), 0, "{:?} is not accepted yet", next.0);
    }
    requests.send(request(Kind::Routes, &[], &nonce, None)).await.unwrap();
    while control.proxies.list()[0].revision() != 7 {
        changes.changed().await.unwrap();
    }
    // It asks for one again, at the same revision, and rejects it.
    requests.send(request(Kind::Routes, &["s"], "", None)).await.unwrap();
    let nonce = responses.message().await.unwrap().unwrap().nonce;
    requests.send(request(Kind::Routes, &[], &nonce, Some("s: no"))).await.unwrap();
    while control.proxies.list()[0].revision() != 0 {
        changes.changed().await.unwrap();
    }
    assert_eq!(control.proxies.list()[0].kinds[&Kind::Routes].rejected.as_deref(), Some("s: no"));
}

#[tokio::test]
async fn streams_end_when_the_views_end() {
    let control = Control::start(view(&[(Kind::Cluster, &["a=1"])])).await;
    let mut client = AggregatedDiscoveryServiceClient::new(control.channel.clone());
    let (requests, receiver) = mpsc::channel(4);
    let type_url = Kind::Cluster.type_url().to_owned();
    requests.send(DiscoveryRequest { node: node(), type_url, ..Default::default() }).await.unwrap();
    let mut responses = client.stream_aggregated_resources(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    assert!(responses.message().await.unwrap().is_some());
    drop(control.views);
    assert!(responses.message().await.unwrap().is_none());
}

#[tokio::test]
async fn a_stream_beyond_the_limit_is_refused_until_another_ends() {
    let limits = Limits { streams: 1, ..Limits::default() };
    let control = Control::limited(view(&[(Kind::Cluster, &["a=1"])]), limits).await;
    let mut client = ClusterDiscoveryServiceClient::new(control.channel.clone());
    let (requests, receiver) = mpsc::channel(4);
    requests.send(DiscoveryRequest { node: node(), ..Default::default() }).await.unwrap();
    let mut first = client.stream_clusters(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    first.message().await.unwrap().unwrap();

    let request = || tokio_stream::iter([DiscoveryRequest { node: node(), ..Default::default() }]);
    let status = refusal(client.stream_clusters(request()).await).await;
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("--xds-max-streams"), "{status}");

    drop(requests);
    assert_eq!(first.message().await.unwrap(), None);
    // The end of the stream is seen before its place is free.
    while client.stream_clusters(request()).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_stream_that_names_too_much_is_refused() {
    let limits = Limits { names: 3, ..Limits::default() };
    let control = Control::limited(view(&[]), limits).await;
    let mut client = AggregatedDiscoveryServiceClient::new(control.channel.clone());
    let named = |kind: Kind, names: &[&str]| DeltaDiscoveryRequest {
        node: node(),
        type_url: kind.type_url().to_owned(),
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    };
    // At once, and little by little; over one kind, and over several.
    for requests in [
        vec![named(Kind::Routes, &["a", "b", "c", "d"])],
        vec![named(Kind::Routes, &["a", "b"]), named(Kind::Endpoints, &["a"]), named(Kind::Endpoints, &["b"])],
    ] {
        let mut responses = client.delta_aggregated_resources(tokio_stream::iter(requests)).await.unwrap().into_inner();
        let status = loop {
            match responses.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without a reason"),
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(
            status.message().contains("names 4 resources") && status.message().contains("--xds-max-names"),
            "{status}"
        );
        assert!(control.proxies.list().is_empty());
    }
}

#[tokio::test]
async fn a_text_that_is_too_long_to_keep_is_refused_by_the_name_of_its_field() {
    let control = Control::start(view(&[])).await;
    let mut client = AggregatedDiscoveryServiceClient::new(control.channel.clone());
    let (long, type_url) = ("x".repeat(1025), Kind::Routes.type_url().to_owned());
    let request = DeltaDiscoveryRequest { node: node(), type_url: type_url.clone(), ..Default::default() };
    for (request, field) in [
        (DeltaDiscoveryRequest { resource_names_subscribe: vec![long.clone()], ..request.clone() }, "resource_names_s"),
        (
            DeltaDiscoveryRequest { resource_names_unsubscribe: vec![long.clone()], ..request.clone() },
            "resource_names_u",
        ),
        (
            DeltaDiscoveryRequest {
                initial_resource_versions: [("a".to_owned(), long.clone())].into(),
                ..request.clone()
            },
            "initial_resource_versions",
        ),
        (DeltaDiscoveryRequest { type_url: long.clone(), ..request.clone() }, "type_url"),
        (DeltaDiscoveryRequest { node: Some(Node { id: long.clone(), ..Node::default() }), ..request }, "node.id"),
    ] {
        let status = refusal(client.delta_aggregated_resources(tokio_stream::iter([request])).await).await;
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(field), "{status}");
    }
    let request = DiscoveryRequest { node: node(), type_url, ..Default::default() };
    for (request, field) in [
        (DiscoveryRequest { resource_names: vec![long.clone()], ..request.clone() }, "resource_names has"),
        (DiscoveryRequest { version_info: long, ..request }, "version_info has"),
    ] {
        let status = refusal(client.stream_aggregated_resources(tokio_stream::iter([request])).await).await;
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(field), "{status}");
    }
}

#[tokio::test]
async fn a_rejection_is_logged_and_its_reason_kept_as_far_as_it_is_short() {
    let heard = Heard::default();
    let _guard = tracing::subscriber::set_default(heard.clone());
    let control = Control::start(view(&[(Kind::Cluster, &["a=1"])])).await;
    let mut client = AggregatedDiscoveryServiceClient::new(control.channel.clone());
    let (requests, receiver) = mpsc::channel(4);
    let request = DeltaDiscoveryRequest { type_url: Kind::Cluster.type_url().to_owned(), ..Default::default() };
    requests.send(DeltaDiscoveryRequest { node: node(), ..request.clone() }).await.unwrap();
    let mut responses = client.delta_aggregated_resources(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    let first = responses.message().await.unwrap().unwrap();
    let error = Some(rpc::Status { message: format!("a: {}", "é".repeat(5000)), ..Default::default() });
    let nack = DeltaDiscoveryRequest { response_nonce: first.nonce, error_detail: error, ..request };
    requests.send(nack).await.unwrap();
    control.update(view(&[(Kind::Cluster, &["a=2"])]));
    responses.message().await.unwrap().unwrap();
    let status = control.proxies.list().remove(0).kinds.remove(&Kind::Cluster).unwrap();
    assert_eq!(status.rejected.unwrap().len(), 4095);
    // A proxy may reject as often as it likes.
    let [line] = heard.bounded().try_into().unwrap();
    let begin = format!(" orders-1 rejects version {} of cds: a: é", first.system_version_info);
    assert!(line.starts_with(&begin) && line.len() < 4200, "{line}");
}

#[tokio::test]
async fn a_stream_whose_request_cannot_be_read_ends_with_the_reason() {
    let control = Control::start(view(&[])).await;
    let mut client = AggregatedDiscoveryServiceClient::new(control.channel.clone());
    let mut value = Value { kind: Some(value::Kind::BoolValue(true)) };
    for _ in 0..100 {
        value = Value { kind: Some(value::Kind::ListValue(ListValue { values: vec![value] })) };
    }
    let metadata = Some(Struct { fields: [("deep".to_owned(), value)].into() });
    let deep = DiscoveryRequest { node: Some(Node { metadata, ..node().unwrap() }), ..Default::default() };
    let status = refusal(client.stream_aggregated_resources(tokio_stream::iter([deep])).await).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "node.metadata.fields.kind cannot be read: recursion limit reached");

    let mut client = Grpc::new(control.channel.clone());
    client.ready().await.unwrap();
    let path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
    // Field 1 is a string there, and these bytes are no text.
    let request = tonic::Request::new(tokio_stream::iter([vec![0xff_u8]]));
    let codec = ProstCodec::<Vec<u8>, Vec<u8>>::default();
    let status = refusal(client.streaming(request, PathAndQuery::from_static(path), codec).await).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("version_info cannot be read: invalid string value"), "{status}");
}

#[tokio::test]
async fn a_stream_without_a_request_ends_after_a_while() {
    let limits = Limits { streams: 1, ..Limits::default() };
    let control = Control::limited(view(&[(Kind::Cluster, &["a=1"])]), limits).await;
    let mut client = ClusterDiscoveryServiceClient::new(control.channel.clone());
    let mut responses = client.stream_clusters(tokio_stream::pending()).await.unwrap().into_inner();
    tokio::time::pause();
    // The clock runs on whenever nothing else can, also while bytes are on their way: many steps, with a look at them
    // after each.
    let patience = async {
        for _ in 0..100_000 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let status = tokio::select! {
        ended = responses.message() => ended.err().unwrap(),
        () = patience => panic!("it stays open"),
    };
    tokio::time::resume();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    // Its place is free.
    let request = || tokio_stream::iter([DiscoveryRequest { node: node(), ..Default::default() }]);
    while client.stream_clusters(request()).await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_stream_by_state_of_the_world_goes_on_where_the_one_before_ended() {
    let control = Control::start(view(&[(Kind::Cluster, &["a=1"]), (Kind::Listener, &["l=1"])])).await;
    let mut client = AggregatedDiscoveryServiceClient::new(control.channel.clone());
    let request = |kind: Kind, version: &str, nonce: &str, error: Option<&str>| DiscoveryRequest {
        node: node(),
        type_url: kind.type_url().to_owned(),
        version_info: version.to_owned(),
        response_nonce: nonce.to_owned(),
        error_detail: error.map(|error| rpc::Status { message: error.to_owned(), ..rpc::Status::default() }),
        ..DiscoveryRequest::default()
    };
    let (requests, receiver) = mpsc::channel(8);
    requests.send(request(Kind::Cluster, "", "", None)).await.unwrap();
    let mut responses = client.stream_aggregated_resources(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    let clusters = responses.message().await.unwrap().unwrap();
    let version = clusters.version_info;
    requests.send(request(Kind::Cluster, &version, &clusters.nonce, None)).await.unwrap();
    requests.send(request(Kind::Listener, "", "", None)).await.unwrap();
    let listeners = responses.message().await.unwrap().unwrap();
    requests.send(request(Kind::Listener, "", &listeners.nonce, Some("l: no"))).await.unwrap();
    while control.proxies.counts()[&Kind::Listener].rejected == 0 {
        tokio::task::yield_now().await;
    }
    drop((requests, responses));
    while control.proxies.streams() > 0 {
        tokio::task::yield_now().await;
    }
    control.update(view(&[(Kind::Cluster, &["b=1"]), (Kind::Listener, &["l=1"])]));
    let again = tokio_stream::iter([request(Kind::Cluster, &version, "", None)]).chain(tokio_stream::pending());
    let mut responses = client.stream_aggregated_resources(again).await.unwrap().into_inner();
    assert_eq!(responses.message().await.unwrap().unwrap().resources.len(), 2, "a may be in use");
}

#[tokio::test]
async fn a_client_that_reads_nothing_loses_its_connection_and_one_that_waits_does_not() {
    let heard = Heard::default();
    let _heard = tracing::subscriber::set_default(heard.clone());
    let large = format!("a={}", "x".repeat(1 << 20));
    let control = Control::start(view(&[(Kind::Cluster, &[&large])])).await;
    let request = || {
        let request = DiscoveryRequest { node: node(), ..Default::default() };
        tokio_stream::iter([request]).chain(tokio_stream::pending())
    };
    let mut waits = ClusterDiscoveryServiceClient::new(control.channel.clone());
    let mut waits = waits.stream_clusters(request()).await.unwrap().into_inner();
    assert_eq!(waits.message().await.unwrap().unwrap().resources.len(), 1);
    // It answers pings, and gives back nothing of the windows of its two streams.
    let channel = control.endpoint.clone().initial_stream_window_size(65_535).connect().await.unwrap();
    let mut never = ClusterDiscoveryServiceClient::new(channel);
    let _unread = [never.stream_clusters(request()).await.unwrap(), never.stream_clusters(request()).await.unwrap()];
    while control.proxies.streams() < 3 {
        tokio::task::yield_now().await;
    }
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    while control.proxies.streams() > 1 {
        assert!(began.elapsed() < Duration::from_secs(100_000), "it stays open");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(began.elapsed() >= Duration::from_secs(60), "{:?}", began.elapsed());
    tokio::time::sleep(Duration::from_secs(600)).await;
    tokio::time::resume();
    assert_eq!(control.unread.connections.load(Ordering::Relaxed), 1);
    let lines: Vec<_> = heard.lines().into_iter().filter(|line| line.contains("its connection is ended")).collect();
    assert!(
        matches!(lines.as_slice(), [line] if line.contains("from 127.0.0.1:") && line.contains("/StreamClusters")),
        "{lines:?}"
    );
    drop(control.views);
    assert!(waits.message().await.unwrap().is_none(), "who waits is still there");
}

#[tokio::test]
async fn a_stream_that_is_not_read_does_not_end_the_others_of_its_connection() {
    let large = format!("a={}", "x".repeat(1 << 20));
    let control = Control::start(view(&[(Kind::Cluster, &[&large]), (Kind::Listener, &["l=1"])])).await;
    let request = || {
        let request = DiscoveryRequest { node: node(), ..Default::default() };
        tokio_stream::iter([request]).chain(tokio_stream::pending())
    };
    let channel = control.endpoint.clone().initial_stream_window_size(65_535).connect().await.unwrap();
    let mut never = ClusterDiscoveryServiceClient::new(channel.clone());
    let mut unread = never.stream_clusters(request()).await.unwrap().into_inner();
    let mut reads = ListenerDiscoveryServiceClient::new(channel);
    let mut reads = reads.stream_listeners(request()).await.unwrap().into_inner();
    assert_eq!(reads.message().await.unwrap().unwrap().resources.len(), 1);
    while control.proxies.streams() < 2 {
        tokio::task::yield_now().await;
    }
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    while control.proxies.streams() > 1 {
        assert!(began.elapsed() < Duration::from_secs(100_000), "it stays open");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::resume();
    let Unread { responses, connections } = &*control.unread;
    assert_eq!((responses.load(Ordering::Relaxed), connections.load(Ordering::Relaxed)), (1, 0));
    // Once it reads, it hears of the end.
    assert!(unread.message().await.is_err());
    drop(control.views);
    assert!(reads.message().await.unwrap().is_none(), "the other one was still there");
}

#[tokio::test]
async fn nothing_is_taken_by_a_store_to_which_nothing_was_ever_applied() {
    let own = view(&[(Kind::Cluster, &["inbound=1"])]);
    let control = Control::start(view(&[])).await;
    control.views.send_replace(Arc::new(New(own.clone())));
    let mut client = AggregatedDiscoveryServiceClient::new(control.channel.clone());
    let type_url = || Kind::Cluster.type_url().to_owned();
    let delta = |has: &[(&str, &str)]| {
        let versions = has.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned()));
        DeltaDiscoveryRequest {
            node: node(),
            type_url: type_url(),
            initial_resource_versions: versions.collect(),
            ..Default::default()
        }
    };
    let world = |version: &str| DiscoveryRequest {
        node: node(),
        type_url: type_url(),
        version_info: version.to_owned(),
        ..Default::default()
    };
    // Who comes with nothing is served.
    let once = tokio_stream::iter([world("")]).chain(tokio_stream::pending());
    let mut responses = client.stream_aggregated_resources(once).await.unwrap().into_inner();
    let version = responses.message().await.unwrap().unwrap().version_info;

    // Others have more, or something else under a name of this store.
    for has in [&[("users", "1"), ("inbound", "1")][..], &[("inbound", "2")]] {
        let status = refusal(client.delta_aggregated_resources(tokio_stream::iter([delta(has)])).await).await;
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    }
    let status = refusal(client.stream_aggregated_resources(tokio_stream::iter([world("5")])).await).await;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");

    // Who comes back with what this store gave is served.
    let again = tokio_stream::iter([world(&version)]).chain(tokio_stream::pending());
    let mut responses = client.stream_aggregated_resources(again).await.unwrap().into_inner();
    assert_eq!(responses.message().await.unwrap().unwrap().version_info, version);
    let again = tokio_stream::iter([delta(&[("inbound", "1")])]).chain(tokio_stream::pending());
    let mut responses = client.delta_aggregated_resources(again).await.unwrap().into_inner();
    control.update(view(&[(Kind::Cluster, &["inbound=2"])]));
    assert_eq!(responses.message().await.unwrap().unwrap().resources[0].version, "2");

    // Once something was applied, what is there counts.
    let stale = tokio_stream::iter([delta(&[("users", "1")])]).chain(tokio_stream::pending());
    let mut responses = client.delta_aggregated_resources(stale).await.unwrap().into_inner();
    let response = responses.message().await.unwrap().unwrap();
    assert_eq!((response.resources.len(), response.removed_resources.as_slice()), (1, &["users".to_owned()][..]));
}
