use std::convert::Infallible;

use super::*;
use crate::balance::HostSet;
use crate::config::bootstrap::Bootstrap;
use crate::config::cluster::tests::cluster;
use crate::config::endpoint::{Endpoint, EndpointAddress, HealthStatus, LoadAssignment, LocalityEndpoints};
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

fn put(warmer: &mut Warmer, name: &str, version: u64, cluster: Arc<Cluster>) {
    let applied = warmer.set_cluster(name, version, || Ok::<_, Infallible>(cluster)).unwrap();
    assert_ne!(applied, Applied::Unchanged);
}

/// The cluster comes once more, and is not made again.
fn keep(warmer: &mut Warmer, name: &str, version: u64) {
    let applied = warmer.set_cluster(name, version, || Err("the same version is not made again"));
    assert_eq!(applied, Ok(Applied::Unchanged));
}

fn put_listener(warmer: &mut Warmer, name: &str, version: u64, now: Instant, listener: Arc<Listener>) {
    warmer.set_listener(name, version, now, |_| Ok::<_, Infallible>(listener)).unwrap();
}

/// The snapshot that comes out now, if one does, and how many clusters are to be resolved.
fn settle(warmer: &mut Warmer, now: Instant) -> (Option<Arc<Snapshot>>, usize) {
    let (mut snapshot, mut resolve) = (None, 0);
    for effect in warmer.settle(now) {
        match effect {
            Effect::Publish { snapshot: new, .. } => snapshot = Some(new),
            Effect::Resolve(_) => resolve += 1,
            Effect::Subscribe(_) | Effect::Exchange(..) | Effect::Hosts(_) | Effect::InForce(..) => {}
        }
    }
    (snapshot, resolve)
}

#[test]
fn what_did_not_change_is_the_same_object_and_a_repetition_is_no_change() {
    let (mut warmer, now) = (Warmer::new(WAIT), Instant::now());
    put(&mut warmer, "a", 1, named("a"));
    put(&mut warmer, "b", 1, named("b"));
    let first = settle(&mut warmer, now).0.unwrap();
    keep(&mut warmer, "a", 1);
    put(&mut warmer, "b", 2, named("b"));
    let second = settle(&mut warmer, now).0.unwrap();
    assert!(Arc::ptr_eq(&first.clusters["a"], &second.clusters["a"]));
    assert!(!Arc::ptr_eq(&first.clusters["b"], &second.clusters["b"]));
    keep(&mut warmer, "b", 2);
    assert!(settle(&mut warmer, now).0.is_none());
}

#[test]
fn a_cluster_serves_until_its_successor_is_warm() {
    let (mut warmer, now) = (Warmer::new(WAIT), Instant::now());
    put(&mut warmer, "a", 1, named("a"));
    let old = settle(&mut warmer, now).0.unwrap().clusters["a"].clone();
    put(&mut warmer, "a", 2, by_dns("a"));
    let effects = warmer.settle(now);
    let [Effect::Resolve(second)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(warmer.waits(), [Waits::ClusterForHosts("a".into())]);
    put(&mut warmer, "a", 3, by_dns("a"));
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
fn the_version_in_force_that_comes_back_gives_the_one_that_warms_up() {
    let (mut warmer, now) = (Warmer::new(WAIT), Instant::now());
    let elsewhere = || by_eds_from("a", "1s", "path_config_source: { path: /f }");
    put(&mut warmer, "a", 1, by_eds("a", "1s"));
    put(&mut warmer, "b", 1, by_dns("b"));
    endpoints(&mut warmer, 1, &[1]);
    let resolved = warmer.warming_clusters().next().unwrap().clone();
    warmer.cluster_ready(&resolved);
    let first = settle(&mut warmer, now).0.unwrap();

    put(&mut warmer, "a", 2, elsewhere());
    put(&mut warmer, "b", 2, by_dns("b"));
    let given_up = warmer.warming_clusters().last().unwrap().clone();
    assert!(settle(&mut warmer, now).0.is_none());
    keep(&mut warmer, "a", 2);
    keep(&mut warmer, "a", 1);
    keep(&mut warmer, "b", 1);
    assert!(warmer.waits().is_empty());
    let (wanted, snapshot) = interests(&mut warmer, now);
    assert_eq!((wanted, snapshot.is_none()), (vec![("s".to_owned(), false)], true), "the other source");
    warmer.cluster_ready(&given_up);
    assert!(warmer.settle(now).is_empty(), "nobody waits for it");
    endpoints(&mut warmer, 2, &[1, 2]);
    assert_eq!(ports(&first.clusters["a"]).len(), 2, "the one in force has the hosts that come");

    // What was given up is made again.
    put(&mut warmer, "a", 2, elsewhere());
    endpoints_of(&mut warmer, &by_file("s"), 1, &[3]);
    let second = settle(&mut warmer, now).0.unwrap();
    assert!(!Arc::ptr_eq(&first.clusters["a"], &second.clusters["a"]));
    assert!(Arc::ptr_eq(&first.clusters["b"], &second.clusters["b"]));
    keep(&mut warmer, "a", 2);
}

#[test]
fn a_cluster_that_is_removed_while_another_version_warms_may_come_back() {
    let (mut warmer, now) = (Warmer::new(WAIT), Instant::now());
    put(&mut warmer, "a", 1, named("a"));
    let first = settle(&mut warmer, now).0.unwrap();
    put(&mut warmer, "a", 2, by_dns("a"));
    assert!(warmer.remove_cluster("a", now) && warmer.waits().is_empty());
    keep(&mut warmer, "a", 1);
    assert!(warmer.deadline().is_none());

    assert!(warmer.remove_cluster("a", now));
    let applied = warmer.set_cluster("a", 2, || Ok::<_, Infallible>(by_dns("a")));
    assert_eq!(applied, Ok(Applied::Modified), "it is one that waits for its hosts again");
    keep(&mut warmer, "a", 1);
    put(&mut warmer, "b", 1, named("b"));
    let second = settle(&mut warmer, now + WAIT).0.unwrap();
    assert!(Arc::ptr_eq(&first.clusters["a"], &second.clusters["a"]));

    put(&mut warmer, "c", 1, by_dns("c"));
    assert!(warmer.remove_cluster("c", now) && !warmer.remove_cluster("c", now), "nothing of it was in force");
    let applied = warmer.set_cluster("c", 1, || Ok::<_, Infallible>(by_dns("c")));
    assert_eq!(applied, Ok(Applied::Added));
}

#[test]
fn a_listener_waits_for_its_clusters_but_not_for_ever() {
    let (mut warmer, now) = (Warmer::new(WAIT), Instant::now());
    put_listener(&mut warmer, "l", 1, now, listener("l", "a"));
    assert!(settle(&mut warmer, now).0.is_none());
    assert_eq!(warmer.waits(), [Waits::ListenerForClusters("l".into(), vec!["a".into()])]);
    put(&mut warmer, "a", 1, named("a"));
    let snapshot = settle(&mut warmer, now).0.unwrap();
    assert!(snapshot.listeners.contains_key("l") && warmer.deadline().is_none());

    put_listener(&mut warmer, "l", 2, now, listener("l", "missing"));
    assert!(settle(&mut warmer, now).0.is_none(), "the first goes on serving");
    assert_eq!(warmer.deadline(), Some(now + WAIT));
    let snapshot = settle(&mut warmer, now + WAIT).0.unwrap();
    assert!(!Arc::ptr_eq(&snapshot.listeners["l"], &listener("l", "a")));

    put_listener(&mut warmer, "never", 1, now, listener("never", "outrigger.invalid/x"));
    assert!(settle(&mut warmer, now).0.unwrap().listeners.contains_key("never"));
}

#[test]
fn a_removed_cluster_stays_for_a_while_and_may_come_back() {
    let (mut warmer, now) = (Warmer::new(WAIT), Instant::now());
    put(&mut warmer, "a", 1, named("a"));
    put(&mut warmer, "b", 1, named("b"));
    let first = settle(&mut warmer, now).0.unwrap();
    assert!(warmer.remove_cluster("a", now) && warmer.remove_cluster("b", now));
    assert!(!warmer.remove_cluster("a", now), "it is gone already for whoever sends it");
    assert!(settle(&mut warmer, now + WAIT / 2).0.is_none());
    assert_eq!(warmer.set_cluster("a", 2, || Err("bad")), Err("bad"), "which does not bring it back");
    keep(&mut warmer, "b", 1);
    assert_eq!(warmer.deadline(), Some(now + WAIT));
    let second = settle(&mut warmer, now + WAIT).0.unwrap();
    assert!(!second.clusters.contains_key("a") && Arc::ptr_eq(&first.clusters["b"], &second.clusters["b"]));
    assert!(warmer.deadline().is_none());
}

fn by_eds(name: &str, timeout: &str) -> Arc<Cluster> {
    by_eds_from(name, timeout, "ads: {}")
}

fn by_eds_from(name: &str, timeout: &str, source: &str) -> Arc<Cluster> {
    let text = format!(
        "static_resources: {{ clusters: [{{ name: {name}, type: EDS, connect_timeout: {timeout}, eds_cluster_config: \
         {{ service_name: s, eds_config: {{ {source} }} }} }}] }}"
    );
    Bootstrap::load(&[Source::new("b.yaml", &text)]).unwrap().clusters.remove(0)
}

/// A name that comes by the aggregated stream.
fn by_ads(name: &str) -> Reference {
    Reference { name: name.into(), origin: Origin::Ads }
}

/// A name that comes from a file.
fn by_file(name: &str) -> Reference {
    Reference { name: name.into(), origin: Origin::file("/f") }
}

fn endpoints(warmer: &mut Warmer, version: u64, ports: &[u16]) {
    endpoints_of(warmer, &by_ads("s"), version, ports);
}

fn endpoints_of(warmer: &mut Warmer, service: &Reference, version: u64, ports: &[u16]) {
    let endpoint = |port: &u16| Endpoint {
        address: EndpointAddress::Ip(([127, 0, 0, 1], *port).into()),
        hostname: None,
        weight: 1,
        health: HealthStatus::Healthy,
    };
    let group = LocalityEndpoints {
        locality: Arc::default(),
        priority: 0,
        weight: None,
        endpoints: ports.iter().map(endpoint).collect(),
    };
    let assignment = LoadAssignment { localities: [group].into(), ..Default::default() };
    warmer.set_endpoints(service, version, || Ok::<_, Infallible>(assignment)).unwrap();
}

/// The interests among the effects, and whether something is published.
fn interests(warmer: &mut Warmer, now: Instant) -> (Vec<(String, bool)>, Option<Arc<Snapshot>>) {
    let (mut interests, mut snapshot) = (Vec::new(), None);
    for effect in warmer.settle(now) {
        match effect {
            Effect::Subscribe(interest) => interests.push((interest.name, interest.wanted)),
            Effect::Publish { snapshot: new, .. } => snapshot = Some(new),
            _ => {}
        }
    }
    (interests, snapshot)
}

fn ports(cluster: &ClusterState) -> Vec<(String, u64)> {
    cluster.hosts.load().members().map(|m| (m.host.display.to_string(), m.host.id)).collect()
}

#[test]
fn a_cluster_of_eds_serves_when_its_endpoints_are_there_and_its_successor_starts_with_them() {
    let (mut warmer, now) = (Warmer::new(WAIT), Instant::now());
    put(&mut warmer, "a", 1, by_eds("a", "1s"));
    let (wanted, snapshot) = interests(&mut warmer, now);
    assert_eq!((wanted, snapshot.is_none()), (vec![("s".to_owned(), true)], true));
    assert_eq!(warmer.waits(), [Waits::ClusterForHosts("a".into())]);
    endpoints(&mut warmer, 1, &[1, 2]);
    let first = interests(&mut warmer, now).1.unwrap().clusters["a"].clone();
    let before = ports(&first);
    assert_eq!(before.len(), 2);

    // An update of the endpoints is no new snapshot, and hosts that stay are the same.
    endpoints(&mut warmer, 2, &[2, 3]);
    let effects = warmer.settle(now);
    let [Effect::Hosts(cluster), Effect::InForce(Kind::Endpoints, ..)] = &effects[..] else { panic!("{effects:?}") };
    assert!(Arc::ptr_eq(cluster, &first));
    let after = ports(&first);
    assert_eq!((&after[0], after.len()), (&before[1], 2));

    put(&mut warmer, "a", 2, by_eds("a", "2s"));
    let (wanted, snapshot) = interests(&mut warmer, now);
    assert!(wanted.is_empty(), "somebody was interested all the time");
    let second = snapshot.unwrap().clusters["a"].clone();
    assert!(!Arc::ptr_eq(&first, &second));
    assert_eq!(ports(&second), after);

    warmer.remove_cluster("a", now);
    assert_eq!(interests(&mut warmer, now + WAIT).0, [("s".to_owned(), false)]);
}

#[test]
fn endpoints_reach_a_cluster_in_force_until_its_successor_is() {
    let (mut warmer, now) = (Warmer::new(WAIT), Instant::now());
    put(&mut warmer, "a", 1, by_eds("a", "1s"));
    endpoints(&mut warmer, 1, &[1]);
    let first = interests(&mut warmer, now).1.unwrap().clusters["a"].clone();
    // A batch has begun, and is not at its end.
    put(&mut warmer, "a", 2, by_eds("a", "2s"));
    endpoints(&mut warmer, 2, &[2]);
    let effects = warmer.settle_hosts();
    let [Effect::Hosts(_), Effect::Hosts(_), Effect::InForce(Kind::Endpoints, ..)] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(ports(&first)[0].0, "127.0.0.1:2");
    assert!(warmer.settle_hosts().is_empty());
    let second = interests(&mut warmer, now).1.unwrap().clusters["a"].clone();
    assert_eq!(ports(&first), ports(&second));
    endpoints(&mut warmer, 3, &[3]);
    assert_eq!((&*ports(&first)[0].0, &*ports(&second)[0].0), ("127.0.0.1:2", "127.0.0.1:3"));
}

#[test]
fn a_cluster_whose_endpoints_do_not_exist_serves_without_and_hosts_stay_when_endpoints_are_removed() {
    let (mut warmer, now) = (Warmer::new(WAIT), Instant::now());
    put(&mut warmer, "a", 1, by_eds("a", "1s"));
    assert!(settle(&mut warmer, now).0.is_none());
    warmer.remove_endpoints(&by_ads("s"));
    let cluster = settle(&mut warmer, now).0.unwrap().clusters["a"].clone();
    assert!(ports(&cluster).is_empty());
    endpoints(&mut warmer, 1, &[1]);
    warmer.remove_endpoints(&by_ads("s"));
    assert_eq!(ports(&cluster).len(), 1);
}

/// A listener that takes its routes `r` by name.
fn by_rds(name: &str) -> Arc<Listener> {
    by_rds_from(name, "ads: {}")
}

fn by_rds_from(name: &str, source: &str) -> Arc<Listener> {
    let text = format!(
        "static_resources: {{ listeners: [{{ name: {name}, address: {{ pipe: {{ path: /{name} }} }}, filter_chains: [{{ \
         filters: [{{ name: h, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.network.\
         http_connection_manager.v3.HttpConnectionManager, stat_prefix: h, rds: {{ route_config_name: r, config_source: \
         {{ {source} }} }}, http_filters: [{{ name: r, typed_config: {{ \"@type\": \
         type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }}] }} }}] }}] }}] }}"
    );
    Bootstrap::load(&[Source::new("b.yaml", &text)]).unwrap().listeners.remove(0)
}

fn table(cluster: &str) -> Arc<RouteTable> {
    use outrigger_proto::envoy::config::route::v3 as pb;
    let action = pb::RouteAction {
        cluster_specifier: Some(pb::route_action::ClusterSpecifier::Cluster(cluster.to_owned())),
        ..Default::default()
    };
    let matches = pb::RouteMatch {
        path_specifier: Some(pb::route_match::PathSpecifier::Prefix("/".to_owned())),
        ..Default::default()
    };
    let route =
        pb::Route { r#match: Some(matches), action: Some(pb::route::Action::Route(action)), ..Default::default() };
    let host = pb::VirtualHost {
        name: "h".to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![route],
        ..Default::default()
    };
    let message = pb::RouteConfiguration { name: "r".to_owned(), virtual_hosts: vec![host], ..Default::default() };
    Arc::new(RouteTable::convert(message, &crate::config::report::Report::new().root()).unwrap())
}

fn routes(warmer: &mut Warmer, version: u64, now: Instant, cluster: &str) {
    warmer.set_routes(&by_ads("r"), version, now, || Ok::<_, Infallible>(table(cluster))).unwrap();
}

/// The table by RDS of a listener in force.
fn table_of(snapshot: &Snapshot, listener: &str) -> Arc<Routes> {
    rds_of(&snapshot.listeners[listener]).next().unwrap().table.get().unwrap().clone()
}

#[test]
fn listeners_share_a_route_table_and_an_update_of_it_replaces_none_of_them() {
    let (mut warmer, now) = (Warmer::new(WAIT), Instant::now());
    put(&mut warmer, "a", 1, named("a"));
    put_listener(&mut warmer, "l", 1, now, by_rds("l"));
    put_listener(&mut warmer, "m", 1, now, by_rds("m"));
    let (wanted, snapshot) = interests(&mut warmer, now);
    assert_eq!(wanted, [("r".to_owned(), true)]);
    assert!(snapshot.unwrap().listeners.is_empty());
    assert_eq!(warmer.waits()[0], Waits::ListenerForRoutes("l".into(), vec!["r".into()]));
    assert!(warmer.deadline().is_none(), "nobody knows how long the server takes");

    routes(&mut warmer, 1, now, "a");
    let snapshot = settle(&mut warmer, now).0.unwrap();
    assert_eq!(snapshot.listeners.len(), 2);
    let seen = || table_of(&snapshot, "l").load().cluster_names().next().unwrap().to_string();
    assert_eq!(seen(), "a");

    put(&mut warmer, "b", 1, named("b"));
    routes(&mut warmer, 2, now, "b");
    let effects = warmer.settle(now);
    let [Effect::Publish { listeners: false, .. }, Effect::Exchange(place, table), ..] = &effects[..] else {
        panic!("clusters come before the routes that name them: {effects:?}")
    };
    place.store(table.clone());
    assert_eq!(seen(), "b");

    warmer.remove_listener("l");
    assert!(interests(&mut warmer, now).0.is_empty());
    warmer.remove_listener("m");
    let (wanted, snapshot) = interests(&mut warmer, now);
    assert_eq!(wanted, [("r".to_owned(), false)]);
    assert!(snapshot.unwrap().listeners.is_empty());
    assert_eq!(seen(), "b", "a connection that is still on its way finds them");
}

#[test]
fn routes_wait_for_their_clusters_but_not_for_ever() {
    let (mut warmer, now) = (Warmer::new(WAIT), Instant::now());
    put(&mut warmer, "a", 1, named("a"));
    put_listener(&mut warmer, "l", 1, now, by_rds("l"));
    routes(&mut warmer, 1, now, "a");
    settle(&mut warmer, now);
    routes(&mut warmer, 2, now, "b");
    assert!(warmer.settle(now).is_empty(), "those in force go on serving");
    assert_eq!(warmer.waits(), [Waits::RoutesForClusters("r".into(), vec!["b".into()])]);
    assert_eq!(warmer.deadline(), Some(now + WAIT));
    assert!(matches!(&warmer.settle(now + WAIT)[..], [Effect::Exchange(..), Effect::InForce(Kind::Routes, ..)]));
    assert!(warmer.deadline().is_none());
}

#[test]
fn routes_and_listeners_pushed_over_and_over_wait_no_longer_than_one() {
    let (mut warmer, now) = (Warmer::new(WAIT), Instant::now());
    put_listener(&mut warmer, "l", 1, now, by_rds("l"));
    for push in 0..10 {
        let now = now + WAIT * push / 10;
        routes(&mut warmer, u64::from(push), now, "b");
        put_listener(&mut warmer, "m", u64::from(push), now, listener("m", "b"));
        assert!(settle(&mut warmer, now).0.is_none());
    }
    assert_eq!(warmer.deadline(), Some(now + WAIT));
    assert_eq!(settle(&mut warmer, now + WAIT).0.unwrap().listeners.len(), 2);
}

#[test]
fn a_listener_whose_routes_do_not_exist_serves_without() {
    let (mut warmer, now) = (Warmer::new(WAIT), Instant::now());
    put_listener(&mut warmer, "l", 1, now, by_rds("l"));
    settle(&mut warmer, now);
    warmer.remove_routes(&by_ads("r"));
    let snapshot = settle(&mut warmer, now).0.unwrap();
    assert!(snapshot.listeners.contains_key("l"));
    assert_eq!(table_of(&snapshot, "l").load().cluster_names().count(), 0);
}

#[test]
fn a_cluster_that_takes_its_endpoints_from_elsewhere_warms_anew_and_the_old_one_serves_meanwhile() {
    let (mut warmer, now) = (Warmer::new(WAIT), Instant::now());
    put(&mut warmer, "a", 1, by_eds("a", "1s"));
    endpoints(&mut warmer, 1, &[1]);
    let old = interests(&mut warmer, now).1.unwrap().clusters["a"].clone();
    put(&mut warmer, "a", 2, by_eds_from("a", "1s", "path_config_source: { path: /f }"));
    let mut subscribed = Vec::new();
    for effect in warmer.settle(now) {
        match effect {
            Effect::Subscribe(interest) => subscribed.push((interest.source.origin.clone(), interest.wanted)),
            other => panic!("nothing else happens yet: {other:?}"),
        }
    }
    assert_eq!(subscribed, [(by_file("s").origin, true)]);
    // What the old source says is the old cluster's.
    endpoints(&mut warmer, 2, &[1, 2]);
    assert_eq!(ports(&old).len(), 2);
    assert_eq!(warmer.waits(), [Waits::ClusterForHosts("a".into())]);
    warmer.settle(now);
    endpoints_of(&mut warmer, &by_file("s"), 1, &[3, 4, 5]);
    let (mut new, mut subscribed) = (None, Vec::new());
    for effect in warmer.settle(now) {
        match effect {
            Effect::Subscribe(interest) => subscribed.push((interest.source.origin.clone(), interest.wanted)),
            Effect::Publish { snapshot, .. } => new = Some(snapshot.clusters["a"].clone()),
            _ => {}
        }
    }
    assert_eq!(subscribed, [(Origin::Ads, false)], "nobody uses the old source any more");
    assert_eq!((ports(&new.unwrap()).len(), ports(&old).len()), (3, 2));
}

#[test]
fn a_listener_that_takes_its_routes_from_elsewhere_warms_anew_and_the_old_one_serves_meanwhile() {
    let (mut warmer, now) = (Warmer::new(WAIT), Instant::now());
    put(&mut warmer, "a", 1, named("a"));
    put(&mut warmer, "b", 1, named("b"));
    put_listener(&mut warmer, "l", 1, now, by_rds("l"));
    routes(&mut warmer, 1, now, "a");
    let old = settle(&mut warmer, now).0.unwrap();
    put_listener(&mut warmer, "l", 2, now, by_rds_from("l", "path_config_source: { path: /f }"));
    let (wanted, snapshot) = interests(&mut warmer, now);
    assert_eq!((wanted, snapshot.is_none()), (vec![("r".to_owned(), true)], true));
    assert_eq!(warmer.waits(), [Waits::ListenerForRoutes("l".into(), vec!["r".into()])]);
    warmer.set_routes(&by_file("r"), 1, now, || Ok::<_, Infallible>(table("b"))).unwrap();
    let (wanted, new) = interests(&mut warmer, now);
    assert_eq!(wanted, [("r".to_owned(), false)], "the old source");
    let clusters = |snapshot: &Snapshot| table_of(snapshot, "l").load().cluster_names().next().unwrap().to_string();
    assert_eq!((clusters(&old), clusters(&new.unwrap())), ("a".to_owned(), "b".to_owned()));
}

#[test]
fn what_has_no_predecessor_does_not_wait_for_what_was_refused() {
    let (mut warmer, now) = (Warmer::new(WAIT), Instant::now());
    put(&mut warmer, "a", 1, by_eds("a", "1s"));
    put_listener(&mut warmer, "l", 1, now, by_rds("l"));
    assert!(settle(&mut warmer, now).0.is_none());
    warmer.refuse(Kind::Endpoints, &by_ads("s"));
    warmer.refuse(Kind::Routes, &by_ads("r"));
    put(&mut warmer, "b", 1, by_eds("b", "1s"));
    let first = settle(&mut warmer, now).0.unwrap();
    assert!(warmer.waits().is_empty());
    assert!(ports(&first.clusters["a"]).is_empty() && first.clusters.contains_key("b"));
    assert_eq!(table_of(&first, "l").load().cluster_names().count(), 0);
    // The first good versions come into force, though these are in use.
    endpoints(&mut warmer, 1, &[1]);
    routes(&mut warmer, 1, now, "a");
    let effects = warmer.settle(now);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Exchange(..))), "{effects:?}");
    assert_eq!(ports(&first.clusters["a"]).len(), 1);

    // Successors wait for something good, and what serves goes on.
    put(&mut warmer, "a", 2, by_eds_from("a", "1s", "path_config_source: { path: /f }"));
    put_listener(&mut warmer, "l", 2, now, by_rds_from("l", "path_config_source: { path: /f }"));
    warmer.refuse(Kind::Endpoints, &by_file("s"));
    warmer.refuse(Kind::Routes, &by_file("r"));
    assert!(settle(&mut warmer, now).0.is_none());
    let waits = [Waits::ClusterForHosts("a".into()), Waits::ListenerForRoutes("l".into(), vec!["r".into()])];
    assert_eq!(warmer.waits(), waits);
}
