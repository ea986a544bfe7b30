use std::collections::VecDeque;

use hickory_resolver::proto::op::{Message, MessageType, OpCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA};
use hickory_resolver::proto::rr::{RData, Record};
use outrigger_engine::config::bootstrap::Bootstrap;
use outrigger_engine::source::Source;
use tokio::net::UdpSocket;
use tokio::runtime::{Builder, LocalRuntime};

use super::*;
use crate::worker::Workers;

/// What the server says to one question.
#[derive(Clone, Debug)]
enum Say {
    Addresses(&'static [&'static str]),
    NoSuchName,
    ServerFailure,
}

/// A DNS server that answers each question for a type by the next of its lines, and the last again and again. Each
/// question comes out of `asked` when it is answered.
struct Server {
    address: SocketAddr,
    asked: mpsc::UnboundedReceiver<RecordType>,
}

impl Server {
    async fn new(a: &[Say], aaaa: &[Say]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (send, asked) = mpsc::unbounded_channel();
        let (mut a, mut aaaa): (VecDeque<_>, VecDeque<_>) =
            (a.iter().cloned().collect(), aaaa.iter().cloned().collect());
        spawn_local(async move {
            let mut buffer = [0; 512];
            loop {
                let (n, peer) = socket.recv_from(&mut buffer).await.unwrap();
                let request = Message::from_vec(&buffer[..n]).unwrap();
                let query = request.queries[0].clone();
                let lines = if query.query_type() == RecordType::A { &mut a } else { &mut aaaa };
                let say = if lines.len() > 1 { lines.pop_front().unwrap() } else { lines[0].clone() };
                let mut response = Message::new(request.id, MessageType::Response, OpCode::Query);
                response.add_query(query.clone());
                match say {
                    Say::NoSuchName => response.metadata.response_code = ResponseCode::NXDomain,
                    Say::ServerFailure => response.metadata.response_code = ResponseCode::ServFail,
                    Say::Addresses(addresses) => {
                        for address in addresses {
                            let data = match address.parse().unwrap() {
                                IpAddr::V4(ip) => RData::A(A(ip)),
                                IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
                            };
                            response.add_answer(Record::from_rdata(query.name().clone(), 3600, data));
                        }
                    }
                }
                socket.send_to(&response.to_vec().unwrap(), peer).await.unwrap();
                _ = send.send(query.query_type());
            }
        });
        Server { address, asked }
    }

    /// Waits for `n` questions. The answers to all but the last have been taken up by then: a name asks again only
    /// afterwards.
    async fn asked(&mut self, n: usize) {
        for _ in 0..n {
            self.asked.recv().await.unwrap();
        }
    }
}

/// A cluster with the one name `db.test` and further fields.
fn cluster(server: &Server, fields: &str) -> Arc<ClusterState> {
    let port = server.address.port();
    let text = format!(
        "static_resources:\n  clusters:\n  - name: c\n    dns_refresh_rate: 0.005s\n    \
         dns_resolvers: [{{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}]\n    \
         load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ \
         socket_address: {{ address: db.test., port_value: 80 }} }} }}, load_balancing_weight: 2 }}] }}] }}\n    \
         {fields}\n"
    );
    let bootstrap = Bootstrap::load(&[Source::new("b.yaml", &text)]).unwrap();
    Arc::new(ClusterState::new(bootstrap.clusters[0].clone()))
}

fn hosts(cluster: &ClusterState) -> Vec<String> {
    cluster.hosts.load().members().map(|member| member.host.display.to_string()).collect()
}

fn run(test: impl Future<Output = ()>) {
    let runtime: LocalRuntime = Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
    runtime.block_on(test);
}

/// The hosts after `n` questions and the first answers.
async fn after(server: &mut Server, cluster: &Arc<ClusterState>, n: usize) -> (Vec<String>, Stats) {
    let stats = Stats::new();
    let resolver = DnsResolver::new(1, Workers::default());
    resolver.start([cluster].into_iter(), &stats).ready().await;
    server.asked(n).await;
    (hosts(cluster), stats)
}

use Say::*;

#[test]
fn every_address_is_a_host_of_a_strict_cluster() {
    run(async {
        let mut server = Server::new(&[Addresses(&["10.0.0.2", "10.0.0.1", "10.0.0.2"])], &[NoSuchName]).await;
        let cluster = cluster(&server, "type: STRICT_DNS\n    dns_lookup_family: V4_ONLY");
        let (hosts, _) = after(&mut server, &cluster, 1).await;
        assert_eq!(hosts, ["10.0.0.1:80", "10.0.0.2:80"]);
        let set = cluster.hosts.load();
        let member = set.members().next().unwrap();
        assert_eq!((member.weight, member.host.hostname.as_deref()), (2, Some("db.test.")));
    });
}

#[test]
fn answers_change_the_hosts_and_those_that_stay_are_the_same() {
    run(async {
        let lines = [Addresses(&["10.0.0.1", "10.0.0.2"]), Addresses(&["10.0.0.2", "10.0.0.3"])];
        let mut server = Server::new(&lines, &[NoSuchName]).await;
        let cluster = cluster(&server, "type: STRICT_DNS\n    dns_lookup_family: V4_ONLY");
        let (_, stats) = after(&mut server, &cluster, 1).await;
        let before = cluster.hosts.load().members().last().unwrap().host.clone();
        server.asked(3).await;
        assert_eq!(hosts(&cluster), ["10.0.0.2:80", "10.0.0.3:80"]);
        assert!(Arc::ptr_eq(&before, &cluster.hosts.load().members().next().unwrap().host));
        assert!(stats.cluster("c").shared.update_no_rebuild.get() >= 1, "the same answer again is no change");
    });
}

#[test]
fn a_failing_server_takes_nothing_away_but_its_word_that_there_is_no_such_name_does() {
    run(async {
        let lines = [Addresses(&["10.0.0.1"]), ServerFailure];
        let mut server = Server::new(&lines, &[NoSuchName]).await;
        let strict = cluster(&server, "type: STRICT_DNS\n    dns_lookup_family: V4_ONLY");
        let (_, stats) = after(&mut server, &strict, 8).await;
        assert_eq!(hosts(&strict), ["10.0.0.1:80"]);
        assert!(stats.cluster("c").shared.update_failure.get() >= 1);

        let mut server = Server::new(&[Addresses(&["10.0.0.1"]), NoSuchName], &[NoSuchName]).await;
        let strict = cluster(&server, "type: STRICT_DNS\n    dns_lookup_family: V4_ONLY");
        let (now, _) = after(&mut server, &strict, 3).await;
        assert!(now.is_empty());
    });
}

#[test]
fn a_logical_cluster_has_one_host_and_keeps_it_while_it_is_in_the_answer() {
    run(async {
        let lines = [
            Addresses(&["10.0.0.2", "10.0.0.1"]),
            Addresses(&["10.0.0.1", "10.0.0.2"]),
            NoSuchName,
            Addresses(&["10.0.0.3"]),
        ];
        let mut server = Server::new(&lines, &[NoSuchName]).await;
        let cluster = cluster(&server, "type: LOGICAL_DNS\n    dns_lookup_family: V4_ONLY");
        after(&mut server, &cluster, 4).await;
        // Three answers have been taken up, the fourth may have been.
        server.asked(1).await;
        assert_eq!(hosts(&cluster), ["10.0.0.3:80"]);
    });
}

#[test]
fn families_are_asked_for_as_configured() {
    run(async {
        for (family, v6, expected) in [
            ("AUTO", Addresses(&["fd00::1"]), &["[fd00::1]:80"][..]),
            ("AUTO", NoSuchName, &["10.0.0.1:80"]),
            ("AUTO", ServerFailure, &["10.0.0.1:80"]),
            ("V4_PREFERRED", Addresses(&["fd00::1"]), &["10.0.0.1:80"]),
            ("V6_ONLY", Addresses(&["fd00::1"]), &["[fd00::1]:80"]),
            ("ALL", Addresses(&["fd00::1"]), &["10.0.0.1:80", "[fd00::1]:80"]),
            ("ALL", NoSuchName, &["10.0.0.1:80"]),
            ("ALL", ServerFailure, &["10.0.0.1:80"]),
        ] {
            let mut server = Server::new(&[Addresses(&["10.0.0.1"])], std::slice::from_ref(&v6)).await;
            let cluster = cluster(&server, &format!("type: STRICT_DNS\n    dns_lookup_family: {family}"));
            assert_eq!(after(&mut server, &cluster, 1).await.0, expected, "{family} {v6:?}");
        }
    });
}

#[test]
fn a_failure_for_one_family_of_all_keeps_its_hosts_and_takes_up_the_others() {
    run(async {
        let v4 = [Addresses(&["10.0.0.1"]), Addresses(&["10.0.0.2"])];
        let mut server = Server::new(&v4, &[Addresses(&["fd00::1"]), ServerFailure]).await;
        let all = cluster(&server, "type: STRICT_DNS\n    dns_lookup_family: ALL");
        after(&mut server, &all, 20).await;
        assert_eq!(hosts(&all), ["10.0.0.2:80", "[fd00::1]:80"]);

        let v6 = [Addresses(&["fd00::1"]), Addresses(&["fd00::2"])];
        let mut server = Server::new(&[Addresses(&["10.0.0.1"]), ServerFailure], &v6).await;
        let all = cluster(&server, "type: STRICT_DNS\n    dns_lookup_family: ALL");
        after(&mut server, &all, 20).await;
        assert_eq!(hosts(&all), ["10.0.0.1:80", "[fd00::2]:80"]);
    });
}

#[test]
fn a_failure_for_one_family_and_no_address_of_the_other_say_nothing() {
    let nothing = || Ok(Answer { addresses: Vec::new(), ttl: None });
    let failed = || Err(NetError::Message("failed"));
    assert!(merge(DnsFamily::All, nothing(), failed(), &[]).is_err());
    assert!(merge(DnsFamily::All, failed(), nothing(), &[]).is_err());
    assert!(merge(DnsFamily::All, failed(), failed(), &[]).is_err());
    assert_eq!(merge(DnsFamily::All, nothing(), nothing(), &[]).unwrap(), nothing().unwrap());
}

#[test]
fn a_cluster_that_is_gone_asks_no_more() {
    run(async {
        let mut server = Server::new(&[Addresses(&["10.0.0.1"])], &[NoSuchName]).await;
        let cluster = cluster(&server, "type: STRICT_DNS\n    dns_lookup_family: V4_ONLY");
        let stats = Stats::new();
        let resolver = DnsResolver::new(1, Workers::default());
        resolver.start([&cluster].into_iter(), &stats).ready().await;
        server.asked(1).await;
        drop(cluster);
        // The tasks hold the resolver; this is the last of it when they have ended.
        while Rc::strong_count(&resolver) > 1 {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn intervals_follow_the_configuration() {
    let resolver = DnsResolver::new(7, Workers::default());
    let dns = |respect_ttl, failure_refresh_rate| Dns {
        assignment: Default::default(),
        family: DnsFamily::Auto,
        refresh_rate: Duration::from_secs(5),
        jitter: Duration::from_secs(1),
        respect_ttl,
        min_refresh_rate: Duration::from_secs(1),
        failure_refresh_rate,
        resolvers: Box::default(),
        use_tcp: false,
    };
    let seconds = |n| Some(Duration::from_secs(n));
    let within = |delay: Duration, from, to| {
        let (from, to) = (Duration::from_secs_f64(from), Duration::from_secs_f64(to));
        assert!((from..=to).contains(&delay), "{delay:?}");
    };
    for _ in 0..100 {
        within(resolver.after_success(&dns(false, None), seconds(30)), 5.0, 6.0);
        within(resolver.after_success(&dns(true, None), seconds(30)), 30.0, 31.0);
        within(resolver.after_success(&dns(true, None), Some(Duration::from_millis(1))), 1.0, 2.0);
        within(resolver.after_success(&dns(true, None), seconds(0)), 5.0, 6.0);
        within(resolver.after_failure(&dns(true, None), 3), 5.0, 6.0);
        let backing_off = dns(true, Some((Duration::from_secs(2), Duration::from_secs(10))));
        within(resolver.after_failure(&backing_off, 1), 1.0, 2.0);
        within(resolver.after_failure(&backing_off, 2), 2.0, 4.0);
        within(resolver.after_failure(&backing_off, 60), 5.0, 10.0);
    }
}
