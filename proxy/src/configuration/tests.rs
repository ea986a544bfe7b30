use std::net::SocketAddr;

use outrigger_engine::config::hcm::RouteSource;
use outrigger_engine::config::listener::NetworkFilter;
use outrigger_engine::source::{Source, read_discovery};
use outrigger_engine::xds::{Rejection, Resource, Update};
use outrigger_proto::envoy::config::cluster::v3::{Cluster as Message, cluster};
use outrigger_proto::envoy::config::core::v3 as core;
use outrigger_proto::envoy::config::endpoint::v3 as eds;
use outrigger_proto::envoy::config::route::v3 as rds;
use outrigger_proto::prost::Message as _;
use tokio::task::yield_now;

use super::apply::{LARGE_TABLE, SLICE};
use super::builder::Builders;
use super::channel::Feed;
use super::*;
use crate::process::Process;
use crate::testing::on_paused_time;

/// So many clusters that they are applied in several steps.
const MANY: usize = 8 * SLICE;

/// Clusters of EDS, whose timeouts differ from those of another `change`.
fn clusters(change: i64) -> Update {
    let cluster = |number: usize| {
        let ads = core::config_source::ConfigSourceSpecifier::Ads(Default::default());
        let source = core::ConfigSource {
            resource_api_version: core::ApiVersion::V3 as i32,
            config_source_specifier: Some(ads),
            ..Default::default()
        };
        Message {
            name: number.to_string(),
            connect_timeout: Some(prost_types::Duration { seconds: 1 + change, nanos: 0 }),
            cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds as i32)),
            eds_cluster_config: Some(cluster::EdsClusterConfig { eds_config: Some(source), ..Default::default() }),
            ..Default::default()
        }
    };
    let resource = |message: Message| resource(&message.name, message.encode_to_vec());
    Update { changed: (0..MANY).map(cluster).map(resource).collect(), ..Update::empty(Kind::Cluster) }
}

/// The clusters' endpoints, each one with this port.
fn endpoints(numbers: std::ops::Range<usize>, port: u16) -> Update {
    let assignment = |number: usize| {
        let socket = core::SocketAddress {
            address: "127.0.0.1".to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port.into())),
            ..Default::default()
        };
        let address = core::Address { address: Some(core::address::Address::SocketAddress(socket)) };
        let endpoint = eds::Endpoint { address: Some(address), ..Default::default() };
        let endpoint = eds::LbEndpoint {
            host_identifier: Some(eds::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
            ..Default::default()
        };
        let endpoints = vec![eds::LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..Default::default() }];
        eds::ClusterLoadAssignment { cluster_name: number.to_string(), endpoints, ..Default::default() }
    };
    let resource = |message: eds::ClusterLoadAssignment| resource(&message.cluster_name, message.encode_to_vec());
    Update { changed: numbers.map(assignment).map(resource).collect(), ..Update::empty(Kind::Endpoints) }
}

fn resource(name: &str, body: Vec<u8>) -> Resource {
    Resource { name: name.to_owned(), version: String::new(), body: body.into() }
}

/// The hosts that requests to a cluster in force find.
fn hosts(process: &Process, number: usize) -> Vec<String> {
    let cluster = process.snapshot.load().clusters[number.to_string().as_str()].clone();
    cluster.hosts.load().members().map(|member| member.host.display.to_string()).collect()
}

fn address(port: u16) -> String {
    SocketAddr::from(([127, 0, 0, 1], port)).to_string()
}

/// A configuration that runs, of which `MANY` clusters with their endpoints on port 1 are in force.
async fn with_clusters() -> (Arc<Process>, Feed) {
    let worker = crate::testing::worker();
    let process = worker.process.clone();
    let (interests, _) = channel::interests();
    let configuration =
        Configuration::new(process.clone(), Vec::new(), Vec::new(), &DynamicResources::default(), interests).unwrap();
    let feed = configuration.feed().clone();
    let names = DnsResolver::new(worker.random(), process.workers.clone());
    spawn_local(configuration.run(names, oneshot::channel().0));
    assert_eq!(apply(&feed, clusters(0)).await, []);
    assert!(process.snapshot.load().clusters.is_empty(), "they wait for endpoints");
    assert_eq!(apply(&feed, endpoints(0..MANY, 1)).await, []);
    assert_eq!(process.snapshot.load().clusters.len(), MANY);
    (process, feed)
}

async fn apply(feed: &Feed, update: Update) -> Vec<Rejection> {
    feed.apply(Origin::Ads, update, Vec::new()).await.unwrap()
}

#[test]
fn endpoints_are_picked_while_clusters_are_applied() {
    on_paused_time(async {
        let (process, feed) = with_clusters().await;
        // Each slice is a step of its own, so that this thread has its turn after each.
        let _waits = feed.waits().await;
        let before = process.snapshot.load_full();
        let modified = || process.stats.cluster_manager.cluster_modified.get();
        let mut push = clusters(1);
        push.changed[MANY - 1].body = vec![0xff].into();
        let applying = {
            let feed = feed.clone();
            spawn_local(async move { apply(&feed, push).await })
        };
        while modified() == 0 {
            yield_now().await;
        }
        // One that is changed already, and one that is not yet.
        for number in [0, MANY - 2] {
            assert_eq!(apply(&feed, endpoints(number..number + 1, 2)).await, []);
            assert_eq!(hosts(&process, number), [address(2)]);
        }
        assert!(!applying.is_finished(), "nobody has been told of the clusters");
        assert!(Arc::ptr_eq(&before, &process.snapshot.load_full()), "they come into force all at once");

        let rejected = applying.await.unwrap();
        assert_eq!(rejected.iter().map(|rejection| &*rejection.name).collect::<Vec<_>>(), [(MANY - 1).to_string()]);
        assert_eq!(modified(), MANY as u64 - 1);
        let after = process.snapshot.load_full();
        for number in 0..MANY {
            let changed = !Arc::ptr_eq(&before.clusters[&*number.to_string()], &after.clusters[&*number.to_string()]);
            assert_eq!(changed, number != MANY - 1, "{number}");
            let port = if number == 0 || number == MANY - 2 { 2 } else { 1 };
            assert_eq!(hosts(&process, number), [address(port)]);
        }
    });
}

/// A listener that takes its routes by RDS.
fn listener() -> Update {
    let listener = "resources:
- '@type': type.googleapis.com/envoy.config.listener.v3.Listener
  name: l
  address: { socket_address: { address: 127.0.0.1, port_value: 0 } }
  filter_chains:
  - filters:
    - name: http
      typed_config:
        '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: l
        rds: { route_config_name: routes, config_source: { ads: {}, resource_api_version: V3 } }
        http_filters:
        - name: router
          typed_config: { '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }";
    let file = read_discovery(&Source::new("listener", listener), Kind::Listener).unwrap();
    assert_eq!(file.unreadable, []);
    Update { changed: file.resources, ..Update::empty(Kind::Listener) }
}

/// Routes to each cluster, and as many bytes as `LARGE_TABLE` has at least.
fn routes() -> Update {
    let route = |number: usize| rds::Route {
        name: "x".repeat(LARGE_TABLE / MANY),
        r#match: Some(rds::RouteMatch {
            path_specifier: Some(rds::route_match::PathSpecifier::Prefix("/".to_owned())),
            ..Default::default()
        }),
        action: Some(rds::route::Action::Route(rds::RouteAction {
            cluster_specifier: Some(rds::route_action::ClusterSpecifier::Cluster(number.to_string())),
            ..Default::default()
        })),
        ..Default::default()
    };
    let routes = (0..MANY).map(route).collect();
    let host = rds::VirtualHost { name: "all".to_owned(), domains: vec!["*".to_owned()], routes, ..Default::default() };
    let table = rds::RouteConfiguration { name: "routes".to_owned(), virtual_hosts: vec![host], ..Default::default() };
    Update { changed: vec![resource("routes", table.encode_to_vec())], ..Update::empty(Kind::Routes) }
}

/// To how many clusters the listener's routes in force lead.
fn routed(process: &Process) -> usize {
    let snapshot = process.snapshot.load();
    let NetworkFilter::Http(manager) = &snapshot.listeners["l"].filter_chains[0].filter else { unreachable!() };
    let RouteSource::Rds(rds) = &manager.routes else { unreachable!() };
    rds.table.get().unwrap().load().cluster_names().count()
}

#[test]
fn endpoints_are_picked_while_a_large_route_table_is_made() {
    on_paused_time(async {
        let (process, feed) = with_clusters().await;
        assert_eq!(apply(&feed, listener()).await, []);
        // Who makes the table has something else to do first.
        let pieces = &feed.builders().pieces;
        let (go, wait) = std::sync::mpsc::channel::<()>();
        pieces.begin(move || _ = wait.recv());
        while pieces.has_waiting() {
            yield_now().await;
        }
        let begin = |update| {
            let feed = feed.clone();
            spawn_local(async move { apply(&feed, update).await })
        };
        let table = begin(routes());
        while !pieces.has_waiting() {
            yield_now().await;
        }
        let behind = begin(clusters(1));
        assert_eq!(apply(&feed, endpoints(0..1, 2)).await, []);
        assert_eq!(hosts(&process, 0), [address(2)]);
        assert_eq!(process.stats.cluster_manager.cluster_modified.get(), 0, "what is no endpoint keeps its order");

        drop(go);
        assert_eq!((table.await.unwrap(), behind.await.unwrap()), (vec![], vec![]));
        assert_eq!(routed(&process), MANY);
    });
}

#[test]
fn what_is_due_waits_for_the_end_of_an_update() {
    on_paused_time(async {
        let mut applier = Applier::new(crate::testing::worker().process.clone(), Builders::start().unwrap().pieces);
        let mut progress = applier.begin(Origin::Ads, clusters(0), Vec::new());
        while applier.advance(&mut progress).is_none() {}
        applier.settle(Instant::now());
        assert!(applier.deadline().is_some(), "many came, so pages are given back");
        // Whoever looks while its table is made would look again and again.
        let mut progress = applier.begin(Origin::Ads, Update::empty(Kind::Routes), Vec::new());
        assert_eq!(applier.deadline(), None);
        assert_eq!(applier.advance(&mut progress), Some(vec![]));
        assert!(applier.deadline().is_some());
    });
}

#[test]
fn what_is_wrong_with_a_large_route_table_is_told_as_ever() {
    on_paused_time(async {
        let (process, feed) = with_clusters().await;
        assert_eq!(apply(&feed, listener()).await, []);
        assert_eq!(apply(&feed, routes()).await, []);
        let mut update = routes();
        update.changed[0].body = [&update.changed[0].body[..], &[0xff]].concat().into();
        let rejected = apply(&feed, update).await;
        assert_eq!(rejected.len(), 1);
        assert!(rejected[0].reasons[0].starts_with("cannot be decoded as"), "{rejected:?}");
        assert_eq!(routed(&process), MANY);
    });
}

#[test]
fn a_few_endpoints_of_one_source_do_not_wait_for_many_of_another() {
    on_paused_time(async {
        let (process, feed) = with_clusters().await;
        // Each slice is a step of its own, so that this thread has its turn after each.
        let _waits = feed.waits().await;
        let many = {
            let feed = feed.clone();
            spawn_local(async move { apply(&feed, endpoints(0..MANY, 2)).await })
        };
        while hosts(&process, 0) == [address(1)] {
            yield_now().await;
        }
        assert_eq!(apply(&feed, endpoints(0..1, 3)).await, []);
        assert_eq!(hosts(&process, 0), [address(3)]);
        assert!(!many.is_finished());
        assert_eq!(many.await.unwrap(), []);
        assert_eq!((hosts(&process, 0), hosts(&process, MANY - 1)), (vec![address(3)], vec![address(2)]));
    });
}
