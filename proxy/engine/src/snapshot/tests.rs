use super::*;
use crate::balance::HostSet;
use crate::config::bootstrap::Bootstrap;
use crate::config::cluster::tests::cluster;
use crate::source::Source;

const WAIT: Duration = Duration::from_secs(1);

fn named(name: &str) -> Arc<Cluster> {
    Arc::new(Cluster { name: name.into(), ..cluster(HostSet::default()) })
}

fn by_dns(name: &str) -> Arc<Cluster> {
    let text = format!("static_resources: {{ clusters: [{{ name: {name}, type: STRICT_DNS }}] }}");
    Bootstrap::load(&[Source::new("b.yaml", &text)]).unwrap().clusters.remove(0)
}

/// A listener that passes TCP to `cluster`.
fn listener(name: &str, cluster: &str) -> Arc<Listener> {
    let text = format!(
        "static_resources: {{ clusters: [{{ name: {cluster:?} }}], listeners: [{{ name: {name}, address: {{ pipe: {{ \
         path: /{name} }} }}, filter_chains: [{{ filters: [{{ name: t, typed_config: {{ \"@type\": \
         type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: \
         {cluster:?} }} }}] }}] }}] }}"
    );
    Bootstrap::load(&[Source::new("b.yaml", &text)]).unwrap().listeners.remove(0)
}

/// The snapshot that comes out now, if one does, and how many clusters are to be resolved.
fn settle(warmer: &mut Warmer, now: Instant) -> (Option<Arc<Snapshot>>, usize) {
    let (mut snapshot, mut resolve) = (None, 0);
    for effect in warmer.settle(now) {
        match effect {
            Effect::Publish(new) => snapshot = Some(new),
            Effect::Resolve(_) => resolve += 1,
        }
    }
    (snapshot, resolve)
}

#[test]
fn what_did_not_change_is_the_same_object_and_a_repetition_is_no_change() {
    let (mut warmer, now) = (Warmer::new(WAIT), Instant::now());
    warmer.set_cluster("a", 1, || named("a"));
    warmer.set_cluster("b", 1, || named("b"));
    let first = settle(&mut warmer, now).0.unwrap();
    warmer.set_cluster("a", 1, || panic!("the same version is not made again"));
    warmer.set_cluster("b", 2, || named("b"));
    let second = settle(&mut warmer, now).0.unwrap();
    assert!(Arc::ptr_eq(&first.clusters["a"], &second.clusters["a"]));
    assert!(!Arc::ptr_eq(&first.clusters["b"], &second.clusters["b"]));
    warmer.set_cluster("b", 2, || panic!("the same version is not made again"));
    assert!(settle(&mut warmer, now).0.is_none());
}

#[test]
fn a_cluster_serves_until_its_successor_is_warm() {
    let (mut warmer, now) = (Warmer::new(WAIT), Instant::now());
    warmer.set_cluster("a", 1, || named("a"));
    let old = settle(&mut warmer, now).0.unwrap().clusters["a"].clone();
    warmer.set_cluster("a", 2, || by_dns("a"));
    let effects = warmer.settle(now);
    let [Effect::Resolve(second)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(warmer.waits(), [Waits::ClusterForHosts("a".into())]);
    warmer.set_cluster("a", 3, || by_dns("a"));
    let effects = warmer.settle(now);
    let [Effect::Resolve(third)] = &effects[..] else { panic!("{effects:?}") };
    warmer.cluster_ready(second);
    assert!(warmer.settle(now).is_empty(), "a later version is on its way");
    warmer.cluster_ready(third);
    let snapshot = settle(&mut warmer, now).0.unwrap();
    assert!(Arc::ptr_eq(&snapshot.clusters["a"], third) && !Arc::ptr_eq(&old, third));
    assert!(warmer.waits().is_empty());
}

#[test]
fn a_listener_waits_for_its_clusters_but_not_for_ever() {
    let (mut warmer, now) = (Warmer::new(WAIT), Instant::now());
    warmer.set_listener("l", 1, now, || listener("l", "a"));
    assert!(settle(&mut warmer, now).0.is_none());
    assert_eq!(warmer.waits(), [Waits::ListenerForClusters("l".into(), vec!["a".into()])]);
    warmer.set_cluster("a", 1, || named("a"));
    let snapshot = settle(&mut warmer, now).0.unwrap();
    assert!(snapshot.listeners.contains_key("l") && warmer.deadline().is_none());

    warmer.set_listener("l", 2, now, || listener("l", "missing"));
    assert!(settle(&mut warmer, now).0.is_none(), "the first goes on serving");
    assert_eq!(warmer.deadline(), Some(now + WAIT));
    let snapshot = settle(&mut warmer, now + WAIT).0.unwrap();
    assert!(!Arc::ptr_eq(&snapshot.listeners["l"], &listener("l", "a")));

    warmer.set_listener("never", 1, now, || listener("never", "outrigger.invalid/x"));
    assert!(settle(&mut warmer, now).0.unwrap().listeners.contains_key("never"));
}

#[test]
fn a_removed_cluster_stays_while_it_is_named_but_not_for_ever() {
    let (mut warmer, now) = (Warmer::new(WAIT), Instant::now());
    warmer.set_cluster("a", 1, || named("a"));
    warmer.set_cluster("b", 1, || named("b"));
    warmer.set_cluster("c", 1, || named("c"));
    warmer.set_listener("l", 1, now, || listener("l", "a"));
    warmer.settle(now);
    for name in ["a", "b", "c"] {
        warmer.remove_cluster(name, now);
    }
    warmer.set_cluster("c", 1, || panic!("it had not gone yet"));
    let snapshot = settle(&mut warmer, now).0.unwrap();
    assert_eq!(snapshot.clusters.len(), 2, "a is named, c came back, b is gone");
    assert!(settle(&mut warmer, now + WAIT / 2).0.is_none());
    warmer.remove_listener("l");
    assert!(!settle(&mut warmer, now + WAIT / 2).0.unwrap().clusters.contains_key("a"));
}

/// Kilobytes that this process has in memory.
fn rss() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4
}

/// 1,000 pushes of 5,000 clusters, of which some change each time and a hundred are held by streams from the first.
#[test]
fn pushes_leave_nothing_behind() {
    let (mut warmer, now) = (Warmer::new(WAIT), Instant::now());
    let names: Vec<String> = (0..5000).map(|i| format!("outbound|80||service-{i}.default.svc.cluster.local")).collect();
    let mut in_force: Arc<Snapshot> = Arc::default();
    let mut streams: Vec<Arc<ClusterState>> = Vec::new();
    let mut before = 0;
    for push in 0..1000u64 {
        for (i, name) in (0..).zip(&names) {
            // Each push changes 25 of them; after 200 pushes every one has changed.
            let version = (push + i) / 200;
            warmer.set_cluster(name, version, || named(name));
        }
        if let Some(snapshot) = settle(&mut warmer, now).0 {
            in_force = snapshot;
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
