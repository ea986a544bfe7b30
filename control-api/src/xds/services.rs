//! The xDS services, aggregated and one for each kind, over both protocols.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use outrigger_engine::xds::Kind;
use outrigger_proto::envoy::service::cluster::v3::cluster_discovery_service_server::{
    ClusterDiscoveryService, ClusterDiscoveryServiceServer,
};
use outrigger_proto::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use outrigger_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest, DiscoveryResponse};
use outrigger_proto::envoy::service::endpoint::v3::endpoint_discovery_service_server::{
    EndpointDiscoveryService, EndpointDiscoveryServiceServer,
};
use outrigger_proto::envoy::service::listener::v3::listener_discovery_service_server::{
    ListenerDiscoveryService, ListenerDiscoveryServiceServer,
};
use outrigger_proto::envoy::service::route::v3::route_discovery_service_server::{
    RouteDiscoveryService, RouteDiscoveryServiceServer,
};
use tokio::sync::{Semaphore, watch};
use tonic::service::RoutesBuilder;
use tonic::{Request, Response, Status, Streaming};

use super::proxies::Proxies;
use super::stream::{Delta, Messages, Places, Serve, StateOfTheWorld};
use super::{Limits, Views};

/// The largest request, in bytes: a client with tens of thousands of resources says the version of each in one.
const LARGEST_REQUEST: usize = 64 << 20;

/// Serves views to proxies.
pub struct Server(Services);

/// What carries the services.
#[derive(Clone)]
struct Services {
    views: watch::Receiver<Arc<dyn Views>>,
    proxies: Arc<Proxies>,
    limits: Limits,
    /// A permit for each stream that may be open.
    streams: Arc<Semaphore>,
    /// Whether it was said that proxies have resources of another store.
    warned: Arc<AtomicBool>,
}

impl Server {
    /// Serves the newest of `views`. Streams end when its sender is dropped.
    pub fn new(views: watch::Receiver<Arc<dyn Views>>, limits: Limits) -> Self {
        let streams = Arc::new(Semaphore::new(limits.streams.min(Semaphore::MAX_PERMITS)));
        Self(Services { views, proxies: Arc::default(), limits, streams, warned: Arc::default() })
    }

    /// Who is connected.
    pub fn proxies(&self) -> Arc<Proxies> {
        self.0.proxies.clone()
    }

    /// Adds the services to a gRPC server.
    pub fn add_to(&self, routes: &mut RoutesBuilder) {
        let services = || self.0.clone();
        routes
            .add_service(AggregatedDiscoveryServiceServer::new(services()).max_decoding_message_size(LARGEST_REQUEST))
            .add_service(ClusterDiscoveryServiceServer::new(services()).max_decoding_message_size(LARGEST_REQUEST))
            .add_service(EndpointDiscoveryServiceServer::new(services()).max_decoding_message_size(LARGEST_REQUEST))
            .add_service(ListenerDiscoveryServiceServer::new(services()).max_decoding_message_size(LARGEST_REQUEST))
            .add_service(RouteDiscoveryServiceServer::new(services()).max_decoding_message_size(LARGEST_REQUEST));
    }
}

impl Services {
    /// A stream, if there is room for one more.
    fn open<M: Messages>(
        &self,
        request: Request<Streaming<M::Request>>,
        only: Option<Kind>,
    ) -> Result<Response<Serve<M>>, Status> {
        let Ok(permit) = Arc::clone(&self.streams).try_acquire_owned() else {
            return Err(Status::resource_exhausted(format!(
                "{} xDS streams are open, and no more are allowed (--xds-max-streams)",
                self.limits.streams
            )));
        };
        let places = Places { names: self.limits.names, warned: self.warned.clone(), _stream: permit };
        Ok(Response::new(Serve::new(request, self.views.clone(), self.proxies.clone(), only, places)))
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Services {
    type StreamAggregatedResourcesStream = Serve<StateOfTheWorld>;
    type DeltaAggregatedResourcesStream = Serve<Delta>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Serve<StateOfTheWorld>>, Status> {
        self.open(request, None)
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Serve<Delta>>, Status> {
        self.open(request, None)
    }
}

/// The service of one kind.
macro_rules! service {
    ($kind:expr, $service:ident, $stream:ident $stream_type:ident, $delta:ident $delta_type:ident, $fetch:ident) => {
        #[tonic::async_trait]
        impl $service for Services {
            type $stream_type = Serve<StateOfTheWorld>;
            type $delta_type = Serve<Delta>;

            async fn $stream(
                &self,
                request: Request<Streaming<DiscoveryRequest>>,
            ) -> Result<Response<Serve<StateOfTheWorld>>, Status> {
                self.open(request, Some($kind))
            }

            async fn $delta(
                &self,
                request: Request<Streaming<DeltaDiscoveryRequest>>,
            ) -> Result<Response<Serve<Delta>>, Status> {
                self.open(request, Some($kind))
            }

            async fn $fetch(&self, _: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
                Err(Status::unimplemented("resources are streamed; there is no polling"))
            }
        }
    };
}

service!(
    Kind::Cluster, ClusterDiscoveryService,
    stream_clusters StreamClustersStream, delta_clusters DeltaClustersStream, fetch_clusters
);
service!(
    Kind::Endpoints, EndpointDiscoveryService,
    stream_endpoints StreamEndpointsStream, delta_endpoints DeltaEndpointsStream, fetch_endpoints
);
service!(
    Kind::Listener, ListenerDiscoveryService,
    stream_listeners StreamListenersStream, delta_listeners DeltaListenersStream, fetch_listeners
);
service!(
    Kind::Routes, RouteDiscoveryService,
    stream_routes StreamRoutesStream, delta_routes DeltaRoutesStream, fetch_routes
);
