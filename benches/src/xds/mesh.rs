//! A management server, and the mesh that it tells the proxy about: clusters by EDS, each with its endpoints and a
//! route.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use outrigger_control::node::Caller;
use outrigger_control::xds::{Limits, Proxies, Resource, Server, View, Views};
use outrigger_engine::xds::Kind;
use outrigger_proto::envoy::config::cluster::v3::{self as cds, cluster};
use outrigger_proto::envoy::config::core::v3 as core;
use outrigger_proto::envoy::config::endpoint::v3 as eds;
use outrigger_proto::envoy::config::route::v3 as rds;
use outrigger_proto::prost::Message;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::Routes;

use super::priority;

/// How long a push may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the proxy is to have.
#[derive(Clone, Debug)]
pub(crate) struct Mesh {
    /// Clusters beside the one that traffic uses.
    pub(crate) clusters: usize,
    pub(crate) endpoints: usize,
    /// Where the traffic goes.
    pub(crate) target: u16,
    /// What is different in every resource.
    pub(crate) change: u32,
    /// Clusters hold their endpoints themselves: those that EDS has for changed clusters are sent once more.
    pub(crate) inline: bool,
    /// What the versions of equal resources differ by.
    pub(crate) label: u32,
}

/// The name of a cluster.
fn name(number: usize) -> String {
    format!("service-{number:05}")
}

/// The path whose requests go to a cluster.
fn path(number: usize) -> String {
    format!("/{}/", name(number))
}

/// The path that traffic asks for.
pub(crate) const TRAFFIC: &str = "/traffic/";

impl Mesh {
    /// All of it, encoded to be pushed.
    pub(crate) fn view(&self) -> Arc<View> {
        let mut view = View::new();
        let mut add = |kind, name: &str, body| self.add(&mut view, kind, name, body);
        let mut routes = vec![route(TRAFFIC, "traffic", 15)];
        add(Kind::Cluster, "traffic", cluster("traffic", 5).encode_to_vec());
        add(Kind::Endpoints, "traffic", self.traffic().encode_to_vec());
        for number in 0..self.clusters {
            let name = name(number);
            let host = |endpoint| {
                let [_, high, middle, low] = u32::try_from(number * self.endpoints + endpoint + 1)?.to_be_bytes();
                Ok::<_, std::num::TryFromIntError>(SocketAddr::from(([10, high, middle, low], 8080)))
            };
            let hosts = (0..self.endpoints).filter_map(|endpoint| host(endpoint).ok());
            let (mut cluster, hosts) =
                (cluster(&name, 5 + self.change), assignment(&name, hosts, 1 + self.change % 100));
            if self.inline {
                let fixed = cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Static as i32);
                cluster.cluster_discovery_type = Some(fixed);
                (cluster.eds_cluster_config, cluster.load_assignment) = (None, Some(hosts));
            } else {
                add(Kind::Endpoints, &name, hosts.encode_to_vec());
            }
            add(Kind::Cluster, &name, cluster.encode_to_vec());
            routes.push(route(&path(number), &name, 15 + self.change));
        }
        let host =
            rds::VirtualHost { name: "all".to_owned(), domains: vec!["*".to_owned()], routes, ..Default::default() };
        let table =
            rds::RouteConfiguration { name: "routes".to_owned(), virtual_hosts: vec![host], ..Default::default() };
        add(Kind::Routes, "routes", table.encode_to_vec());
        Arc::new(view)
    }

    /// As `view`, but for the endpoint that traffic uses: all else is the same object, as a compiler of changes would
    /// leave it.
    pub(crate) fn moved(&self, view: &View) -> Arc<View> {
        let mut view = view.clone();
        self.add(&mut view, Kind::Endpoints, "traffic", self.traffic().encode_to_vec());
        Arc::new(view)
    }

    fn traffic(&self) -> eds::ClusterLoadAssignment {
        assignment("traffic", [SocketAddr::from((Ipv4Addr::LOCALHOST, self.target))], 1)
    }

    fn add(&self, view: &mut View, kind: Kind, name: &str, body: Vec<u8>) {
        let mut hash = DefaultHasher::new();
        (&body, self.label).hash(&mut hash);
        let version = format!("{:016x}", hash.finish()).into();
        let resource = Resource { name: name.into(), version, body: body.into() };
        view.entry(kind).or_default().insert(name.into(), Arc::new(resource));
    }
}

fn seconds(seconds: u32) -> Option<outrigger_proto::prost_types::Duration> {
    Some(outrigger_proto::prost_types::Duration { seconds: seconds.into(), nanos: 0 })
}

fn cluster(name: &str, connect_timeout: u32) -> cds::Cluster {
    let source = core::ConfigSource {
        resource_api_version: core::ApiVersion::V3 as i32,
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(Default::default())),
        ..Default::default()
    };
    cds::Cluster {
        name: name.to_owned(),
        connect_timeout: seconds(connect_timeout),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(cluster::EdsClusterConfig { eds_config: Some(source), ..Default::default() }),
        ..Default::default()
    }
}

fn assignment(name: &str, hosts: impl IntoIterator<Item = SocketAddr>, weight: u32) -> eds::ClusterLoadAssignment {
    let endpoint = |host: SocketAddr| {
        let address = core::SocketAddress {
            address: host.ip().to_string(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(host.port().into())),
            ..Default::default()
        };
        let address = core::Address { address: Some(core::address::Address::SocketAddress(address)) };
        let endpoint = eds::Endpoint { address: Some(address), ..Default::default() };
        eds::LbEndpoint {
            host_identifier: Some(eds::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
            load_balancing_weight: Some(weight),
            ..Default::default()
        }
    };
    eds::ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![eds::LocalityLbEndpoints {
            lb_endpoints: hosts.into_iter().map(endpoint).collect(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn route(prefix: &str, cluster: &str, timeout: u32) -> rds::Route {
    let action = rds::RouteAction {
        cluster_specifier: Some(rds::route_action::ClusterSpecifier::Cluster(cluster.to_owned())),
        timeout: seconds(timeout),
        ..Default::default()
    };
    rds::Route {
        r#match: Some(rds::RouteMatch {
            path_specifier: Some(rds::route_match::PathSpecifier::Prefix(prefix.to_owned())),
            ..Default::default()
        }),
        action: Some(rds::route::Action::Route(action)),
        ..Default::default()
    }
}

struct Same(Arc<View>);

impl Views for Same {
    fn view(&self, _: &Caller) -> Arc<View> {
        self.0.clone()
    }
}

/// The server.
pub(crate) struct Management {
    views: watch::Sender<Arc<dyn Views>>,
    proxies: Arc<Proxies>,
    pub(crate) port: u16,
    _runtime: Runtime,
}

/// A runtime of its own, which may be dropped anywhere.
struct Runtime(Option<tokio::runtime::Runtime>);

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Management {
    pub(crate) fn start(mesh: &Mesh) -> anyhow::Result<Self> {
        // What the server computes is not to be taken for the proxy's delay.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .on_thread_start(priority::give_way)
            .build()?;
        let (views, receiver) = watch::channel::<Arc<dyn Views>>(Arc::new(Same(mesh.view())));
        let server = Server::new(receiver, Limits::default());
        let mut routes = Routes::builder();
        server.add_to(&mut routes);
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let guard = runtime.enter();
        // As `outrigger serve` does: the end of a response does not wait for an acknowledgement.
        let incoming = TcpListenerStream::new(TcpListener::from_std(listener)?)
            .map(|stream| stream.inspect(|stream| _ = stream.set_nodelay(true)));
        drop(guard);
        runtime.spawn(tonic::transport::Server::builder().add_routes(routes.routes()).serve_with_incoming(incoming));
        Ok(Self { views, proxies: server.proxies(), port, _runtime: Runtime(Some(runtime)) })
    }

    /// Makes this what the proxy is to have; how long after it has all of it and said so.
    pub(crate) async fn push(&self, view: &Arc<View>) -> anyhow::Result<Duration> {
        let accepted = self.accepted();
        let began = Instant::now();
        self.tell(view);
        let settled = self.settled(accepted + 1).await?;
        Ok(settled - began)
    }

    /// As [`Management::push`], and does not wait.
    pub(crate) fn tell(&self, view: &Arc<View>) {
        self.views.send_replace(Arc::new(Same(view.clone())));
    }

    /// Whether the proxy has been sent clusters and has not said what became of them.
    pub(crate) fn awaits_clusters(&self) -> bool {
        let proxies = self.proxies.list();
        let mut clusters = proxies.iter().filter_map(|proxy| proxy.kinds.get(&Kind::Cluster));
        clusters.any(|status| !status.synced())
    }

    /// How many responses the proxy has accepted.
    pub(crate) fn accepted(&self) -> u64 {
        self.proxies.counts().values().map(|counts| counts.accepted).sum()
    }

    /// Waits until at least so many responses were accepted, and nothing is on its way for a moment; since when that is
    /// so.
    async fn settled(&self, accepted: u64) -> anyhow::Result<Instant> {
        let deadline = Instant::now() + PATIENCE;
        let mut last = (0, Instant::now());
        loop {
            let now = self.accepted();
            let proxies = self.proxies.list();
            let kinds = proxies.iter().flat_map(|proxy| proxy.kinds.values());
            if let Some(reason) = kinds.clone().find_map(|status| status.rejected.clone()) {
                bail!("rejected: {reason}");
            }
            let is_synced = kinds.clone().count() > 0 && kinds.clone().all(|status| status.synced());
            if now != last.0 || !is_synced {
                last = (now, Instant::now());
            }
            if now >= accepted && last.1.elapsed() > Duration::from_millis(50) {
                return Ok(last.1);
            }
            if Instant::now() > deadline {
                bail!("not accepted after {PATIENCE:?}: {proxies:?}");
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until nothing is on its way.
    pub(crate) async fn quiet(&self) -> anyhow::Result<()> {
        self.settled(0).await.map(drop)
    }

    /// Waits until the proxy has everything.
    pub(crate) async fn first(&self) -> anyhow::Result<()> {
        self.settled(1).await.map(drop).context("the first state")
    }
}

/// The proxy's file.
pub(crate) fn bootstrap(http: u16, admin: u16, management: u16) -> String {
    include_str!("../../peers/xds.yaml")
        .replace("{http}", &http.to_string())
        .replace("{admin}", &admin.to_string())
        .replace("{management}", &management.to_string())
}
