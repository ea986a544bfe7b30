//! What a thousand pushes leave behind: a program of its own, because it reads how much memory it has.

#![allow(clippy::unwrap_used, reason = "a test reports what went wrong by failing")]

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_engine::balance::ClusterState;
use outrigger_engine::config::cluster::Cluster;
use outrigger_engine::config::report::Report;
use outrigger_engine::snapshot::{Effect, Snapshot, Warmer};
use outrigger_proto::envoy::config::cluster::v3 as proto;

/// Kilobytes that this process has in memory.
fn rss() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4
}

/// 1,000 pushes of 5,000 clusters, of which some change each time and a hundred are held by streams from the first.
#[test]
fn pushes_leave_nothing_behind() {
    let named = |name: &str| {
        let message = proto::Cluster { name: name.to_owned(), ..Default::default() };
        Ok::<_, Infallible>(Arc::new(Cluster::convert(message, &Report::new().root()).unwrap()))
    };
    let (mut warmer, now) = (Warmer::new(Duration::from_secs(1)), Instant::now());
    let names: Vec<String> = (0..5000).map(|i| format!("outbound|80||service-{i}.default.svc.cluster.local")).collect();
    let mut in_force: Arc<Snapshot> = Arc::default();
    let mut streams: Vec<Arc<ClusterState>> = Vec::new();
    let mut before = 0;
    for push in 0..1000u64 {
        for (i, name) in (0..).zip(&names) {
            // Each push changes 25 of them; after 200 pushes every one has changed.
            let version = (push + i) / 200;
            warmer.set_cluster(name, version, || named(name)).unwrap();
        }
        for effect in warmer.settle(now) {
            if let Effect::Publish { snapshot, .. } = effect {
                in_force = snapshot;
            }
        }
        if push == 0 {
            streams = names.iter().step_by(50).map(|name| in_force.clusters[name.as_str()].clone()).collect();
        }
        if push == 20 {
            before = rss();
        }
    }
    let grown = rss().saturating_sub(before);
    assert!(grown < 10 * 1024, "{grown} KiB");
    assert_eq!((in_force.clusters.len(), streams.len()), (5000, 100));
}
