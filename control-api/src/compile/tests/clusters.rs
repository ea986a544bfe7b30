//! Clusters and endpoints, as the engine reads them.

use outrigger_engine::config::cluster::{Cluster, HttpProtocol, LbPolicy, RetryBudget, TcpKeepalive};
use outrigger_engine::config::endpoint::HealthStatus;
use outrigger_proto::envoy::config::cluster::v3 as pb;

use super::*;

fn cluster(mesh: &Mesh, name: &str) -> Cluster {
    converted(mesh.everything(), Kind::Cluster, name, |message: pb::Cluster, at| Cluster::convert(message, at)).unwrap()
}

fn of_shop(policy_spec: &str) -> Cluster {
    cluster(&shop(&policy(policy_spec)), "default/shop/8080")
}

#[test]
fn what_nobody_asked_for_limits_nothing() {
    let cluster = cluster(&shop(""), "default/a/80");
    assert_eq!(cluster.connect_timeout, Duration::from_secs(5));
    assert_eq!(cluster.idle_timeout, Some(Duration::from_hours(1)));
    assert_eq!(cluster.load_balancing.panic_threshold, 1);
    assert!(matches!(cluster.load_balancing.policy, LbPolicy::LeastRequest { choices: 2, .. }));
    assert!(matches!(cluster.protocol, HttpProtocol::UseDownstream { .. }));
    for thresholds in [&cluster.circuit_breakers.default, &cluster.circuit_breakers.high] {
        assert_eq!(thresholds.max_connections, u32::MAX);
        assert_eq!(thresholds.max_pending_requests, u32::MAX);
        assert_eq!(thresholds.max_requests, u32::MAX);
        assert_eq!(thresholds.retry_budget, Some(RetryBudget { percent: 20.0, min_concurrency: 10 }));
    }
    assert_eq!(cluster.circuit_breakers.max_connections_per_host, None);
}

#[test]
fn a_limit_is_taken_back_by_the_largest_number() {
    let most = u32::MAX;
    let limits = format!(
        "limits: {{connections: {most}, pending: {most}, requests: {most}, perHostConnections: {most}, requestsPerConnection: 0}}"
    );
    let (taken_back, none) = (of_shop(&limits), of_shop("limits: {}"));
    assert_eq!(taken_back.circuit_breakers, none.circuit_breakers);
    assert_eq!(taken_back.max_requests_per_connection, None);
}

#[test]
fn every_field_of_a_policy_has_its_effect() {
    let cluster = of_shop(
        "balancing: {algorithm: RoundRobin, panicPercent: 50},
         limits: {connections: 1, pending: 2, requests: 3, perHostConnections: 4, requestsPerConnection: 5},
         retry: {budget: {percent: 30}},
         connection: {connectTimeout: 1s, idleTimeout: 0s, maxDuration: 1m, protocol: HTTP2,
                      tcpKeepalive: {idle: 7s, interval: 8s, probes: 9}}",
    );
    assert_eq!(cluster.load_balancing.policy, LbPolicy::RoundRobin);
    assert_eq!(cluster.load_balancing.panic_threshold, 50);
    for thresholds in [&cluster.circuit_breakers.default, &cluster.circuit_breakers.high] {
        assert_eq!(thresholds.max_connections, 1);
        assert_eq!(thresholds.max_pending_requests, 2);
        assert_eq!(thresholds.max_requests, 3);
        assert_eq!(thresholds.retry_budget.unwrap().percent, 30.0);
    }
    assert_eq!(cluster.circuit_breakers.max_connections_per_host, Some(4));
    assert_eq!(cluster.max_requests_per_connection, Some(5));
    assert_eq!(cluster.connect_timeout, Duration::from_secs(1));
    assert_eq!(cluster.idle_timeout, None);
    assert_eq!(cluster.max_connection_duration, Some(Duration::from_mins(1)));
    assert!(matches!(cluster.protocol, HttpProtocol::Http2(_)));
    let keepalive =
        TcpKeepalive { probes: Some(9), time: Some(Duration::from_secs(7)), interval: Some(Duration::from_secs(8)) };
    assert_eq!(cluster.tcp_keepalive, Some(keepalive));
    assert_eq!(of_shop("balancing: {algorithm: Random}").load_balancing.policy, LbPolicy::Random);
    assert!(matches!(
        of_shop("balancing: {choices: 5}").load_balancing.policy,
        LbPolicy::LeastRequest { choices: 5, .. }
    ));
    assert_eq!(of_shop("retry: {budget: {percent: 100}}").circuit_breakers.default.retry_budget, None);
}

#[test]
fn what_is_spoken_comes_from_app_protocol() {
    let ports = "ports: [{name: a, port: 1, appProtocol: http}, {name: b, port: 2, appProtocol: grpc}, \
                 {name: c, port: 3, appProtocol: x.test/other}, {name: d, port: 4, appProtocol: tcp}, {name: e, port: 5, protocol: UDP}]";
    let mesh = build(&format!("apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {{{ports}}}"));
    assert!(matches!(cluster(&mesh, "default/s/1").protocol, HttpProtocol::Http1(_)));
    assert!(matches!(cluster(&mesh, "default/s/2").protocol, HttpProtocol::Http2(_)));
    assert!(matches!(cluster(&mesh, "default/s/3").protocol, HttpProtocol::UseDownstream { .. }));
    cluster(&mesh, "default/s/4");
    assert!(!mesh.everything()[&Kind::Cluster].contains_key("default/s/5"), "UDP is not carried");
    assert!(!mesh.everything()[&Kind::Routes].contains_key("default/s/4"), "bytes have no routes");
}

#[test]
fn instances_go_by_locality_with_health_and_weight() {
    let workload = |name: &str, address: &str, zone: &str, more: &str| {
        format!(
            "apiVersion: outrigger.dev/v1alpha1\nkind: Workload\nmetadata: {{name: {name}, labels: {{app: a}}}}\n\
             spec: {{addresses: ['{address}'], locality: {{zone: {zone}}}}}\n{more}\n---\n"
        )
    };
    let mesh = shop(
        &[
            workload("z", "10.1.0.1", "z1", "status: {health: Unhealthy}"),
            workload("v", "10.1.0.2", "z2", ""),
            workload("x", "::1", "z1", "status: {health: Draining}"),
            workload("u", "10.1.0.3", "z3", "status: {health: Unhealthy}"),
            // One address and port: the best health counts, wherever it stands.
            workload("a-stale", "10.1.0.2", "z1", "status: {health: Draining}"),
            workload("stale", "10.1.0.2", "z2", "status: {health: Unhealthy}"),
            workload("twin", "10.1.0.2", "z3", ""),
        ]
        .concat(),
    );
    let assignment = |message: ClusterLoadAssignment, at: &At<'_>| LoadAssignment::convert(message, at);
    let assignment = converted(mesh.everything(), Kind::Endpoints, "default/a/80", assignment).unwrap();
    let found: Vec<_> = assignment
        .localities
        .iter()
        .map(|group| {
            let endpoints: Vec<_> =
                group.endpoints.iter().map(|endpoint| (format!("{:?}", endpoint.address), endpoint.health)).collect();
            (group.locality.zone.to_string(), endpoints)
        })
        .collect();
    let ip = |text: &str| format!("Ip({text})");
    assert_eq!(
        found,
        [
            (String::new(), vec![(ip("10.0.0.1:80"), HealthStatus::Healthy)]),
            ("z1".to_owned(), vec![(ip("[::1]:80"), HealthStatus::Draining)]),
            ("z2".to_owned(), vec![(ip("10.1.0.2:80"), HealthStatus::Healthy)]),
        ]
    );
}
