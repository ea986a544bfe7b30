//! `fuzz/seeds/xds`: what the fuzz target `xds` starts from, for nobody guesses a message from nothing. Each listener,
//! cluster, assignment and route table of the full bootstrap, alone and together, in the form that the target reads: the
//! variant of the protocol, and steps with their length.

use std::collections::BTreeMap;
use std::path::PathBuf;

use outrigger_engine::source::{Source, bootstrap_message};
use outrigger_engine::xds::Kind;
use outrigger_proto::envoy::config::route::v3::RouteConfiguration;
use outrigger_proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use outrigger_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
use outrigger_proto::prost::Message;
use prost_types::Any;

use crate::FULL;

const STATE_OF_THE_WORLD: u8 = 0;
const DELTA: u8 = 1;

/// A message as it is.
const MESSAGE: u8 = 0;
const CLUSTER: u8 = 1;
const ENDPOINTS: u8 = 2;
const LISTENER: u8 = 3;
const ROUTES: u8 = 4;
const DISCONNECTED: u8 = 7;
const CONNECTED: u8 = 8;
const TIME: u8 = 9;

#[test]
fn the_seeds_of_the_fuzz_target_are_current() {
    let directory = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/xds"));
    let seeds = seeds();
    if std::env::var_os("OUTRIGGER_UPDATE_DOCS").is_some() {
        _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        seeds.iter().for_each(|(name, bytes)| std::fs::write(directory.join(name), bytes).unwrap());
    }
    let files = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let found: BTreeMap<String, Vec<u8>> = files
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap()))
        .collect();
    assert!(
        found == seeds,
        "fuzz/seeds/xds is old: OUTRIGGER_UPDATE_DOCS=1 cargo test -p outrigger-engine --test config"
    );
}

fn input(variant: u8, steps: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![variant];
    for (step, content) in steps {
        bytes.push(*step);
        bytes.extend_from_slice(&u16::try_from(content.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(content);
    }
    bytes
}

fn seeds() -> BTreeMap<String, Vec<u8>> {
    let bootstrap = bootstrap_message(&[Source::new("full.yaml", FULL)]).unwrap();
    let resources = bootstrap.static_resources.unwrap();
    let cluster = |name: &str| resources.clusters.iter().find(|cluster| cluster.name == name).unwrap().clone();
    let (small, by_name) = (cluster("static-upstream"), cluster("eds-upstream"));
    let mut seeds = BTreeMap::new();
    let mut add = |name: String, variant, steps: &[(u8, Vec<u8>)]| {
        seeds.insert(name, input(variant, steps));
    };
    for cluster in &resources.clusters {
        add(format!("cluster-{}", cluster.name), STATE_OF_THE_WORLD, &[(CLUSTER, cluster.encode_to_vec())]);
    }
    // Listeners are asked for after clusters.
    let mut tables: Vec<RouteConfiguration> = Vec::new();
    for listener in &resources.listeners {
        let steps = [(CLUSTER, by_name.encode_to_vec()), (LISTENER, listener.encode_to_vec())];
        add(format!("listener-{}", listener.name), DELTA, &steps);
        let filters =
            listener.filter_chains.iter().chain(&listener.default_filter_chain).flat_map(|chain| &chain.filters);
        for filter in filters {
            let Some(any) = filter.config_type.as_ref().map(|config| match config {
                outrigger_proto::envoy::config::listener::v3::filter::ConfigType::TypedConfig(any) => any,
                other => panic!("{other:?}"),
            }) else {
                continue;
            };
            if !any.type_url.ends_with("HttpConnectionManager") {
                continue;
            }
            let manager = HttpConnectionManager::decode(any.value.as_slice()).unwrap();
            if let Some(RouteSpecifier::RouteConfig(table)) = manager.route_specifier {
                tables.push(table);
            }
        }
    }
    for table in &tables {
        add(format!("routes-{}", table.name), DELTA, &[(ROUTES, table.encode_to_vec())]);
    }
    let mut assignment = small.load_assignment.clone().unwrap();
    assignment.cluster_name = "shop/eds-upstream".to_owned();
    let mut table = tables.pop().unwrap();
    table.name = "shop-routes".to_owned();
    let listener = resources.listeners.iter().find(|listener| listener.name == "by-name").unwrap();
    let goes = DeltaDiscoveryResponse {
        type_url: Kind::Cluster.type_url().to_owned(),
        nonce: "last".to_owned(),
        removed_resources: vec![by_name.name.clone()],
        ..Default::default()
    };
    let steps = [
        (CLUSTER, by_name.encode_to_vec()),
        (ENDPOINTS, assignment.encode_to_vec()),
        (LISTENER, listener.encode_to_vec()),
        (ROUTES, table.encode_to_vec()),
        (MESSAGE, goes.encode_to_vec()),
        (TIME, vec![20]),
        (DISCONNECTED, Vec::new()),
        (TIME, vec![200]),
        (CONNECTED, Vec::new()),
        (CLUSTER, small.encode_to_vec()),
    ];
    add("stream-delta".to_owned(), DELTA, &steps);
    let any = |message: Vec<u8>| Any { type_url: Kind::Cluster.type_url().to_owned(), value: message };
    let all = DiscoveryResponse {
        version_info: "1".to_owned(),
        type_url: Kind::Cluster.type_url().to_owned(),
        nonce: "1".to_owned(),
        resources: vec![any(small.encode_to_vec()), any(by_name.encode_to_vec())],
        ..Default::default()
    };
    let steps = [
        (MESSAGE, all.encode_to_vec()),
        (0x80 | LISTENER, listener.encode_to_vec()),
        (ENDPOINTS, assignment.encode_to_vec()),
        (ROUTES, table.encode_to_vec()),
    ];
    add("stream-state-of-the-world".to_owned(), STATE_OF_THE_WORLD, &steps);
    seeds
}
