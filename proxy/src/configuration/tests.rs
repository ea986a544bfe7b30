use std::net::SocketAddr;

use outrigger_engine::xds::{Rejection, Resource, Update};
use outrigger_proto::envoy::config::cluster::v3::{Cluster as Message, cluster};
use outrigger_proto::envoy::config::core::v3 as core;
use outrigger_proto::envoy::config::endpoint::v3 as eds;
use outrigger_proto::prost::Message as _;
use tokio::task::yield_now;

use super::apply::SLICE;
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
