use std::future::poll_fn;
use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::task::Poll;

use http::{HeaderValue, Method};
use outrigger_engine::balance::ClusterState;
use outrigger_engine::config::bootstrap::Bootstrap;
use outrigger_engine::message::{Headers, RequestHead, Scheme};
use outrigger_engine::source::Source;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalRuntime};
use tokio::task::yield_now;

use super::*;
use crate::http::codec::Reply;
use crate::telemetry::stats::Stats;

const DEFAULT: RoutingPriority = RoutingPriority::Default;

fn run(test: impl Future<Output = ()>) {
    let runtime: LocalRuntime = Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
    runtime.block_on(test);
}

/// A cluster with one host at `address` and further fields.
fn cluster_at(address: &str, fields: &str) -> Rc<WorkerCluster> {
    let text = format!(
        "static_resources:\n  clusters:\n  - name: c\n    type: STATIC\n    load_assignment: {{ cluster_name: c, \
         endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {address} }} }}] }}] }}\n    {fields}\n"
    );
    let bootstrap = Bootstrap::load(&[Source::new("b.yaml", &text)]).unwrap();
    let state = Arc::new(ClusterState::new(bootstrap.clusters[0].clone()));
    WorkerCluster::with(state, Stats::new().cluster("c").shard(0), Rc::default(), 1, None).unwrap()
}

async fn cluster(fields: &str) -> (TcpListener, Rc<WorkerCluster>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, cluster_at(&format!("{{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}"), fields))
}

/// The fields of a cluster that speaks HTTP/2 with so many streams on a connection.
fn http2(streams: u32) -> String {
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    format!(
        "typed_extension_protocol_options: {{ {options}: {{ '@type': type.googleapis.com/{options}, \
         explicit_http_config: {{ http2_protocol_options: {{ max_concurrent_streams: {streams} }} }} }} }}"
    )
}

/// Those of one whose connections take so many requests, however many streams at a time.
fn http2_for_requests(requests: u32) -> String {
    format!("{}\n    max_requests_per_connection: {requests}", http2(100))
}

fn pool(cluster: &Rc<WorkerCluster>) -> Rc<HostPool> {
    let host = cluster.state.hosts.load().members().next().unwrap().host.clone();
    cluster.pool(&host, Protocol::Http11, None, DEFAULT).unwrap()
}

fn acquire(cluster: &Rc<WorkerCluster>) -> Result<Acquired, PoolError> {
    pool(cluster).acquire()
}

fn waits(cluster: &Rc<WorkerCluster>) -> Waiting {
    match acquire(cluster) {
        Ok(Acquired::Pending(waiting)) => waiting,
        other => panic!("{other:?}"),
    }
}

async fn lease(cluster: &Rc<WorkerCluster>) -> Box<Lease> {
    match acquire(cluster).unwrap() {
        Acquired::Ready(lease) => lease,
        Acquired::Pending(waiting) => waiting.await.unwrap(),
    }
}

async fn now<T>(waiting: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
    poll_fn(|cx| match Pin::new(&mut *waiting).poll(cx) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

fn post() -> RequestHead {
    RequestHead {
        method: Method::POST,
        scheme: Scheme::Http,
        authority: Some(HeaderValue::from_static("c")),
        path: HeaderValue::from_static("/"),
        protocol: Protocol::Http11,
        headers: Headers::new(),
    }
}

/// One request and its answer; the connection idles then.
async fn exchange(mut lease: Box<Lease>, peer: &mut TcpStream) {
    lease.stream.send_head(&post(), true).unwrap();
    assert!(poll_fn(|cx| Poll::Ready(lease.stream.poll_reply(cx))).await.is_pending());
    assert!(peer.read(&mut [0; 1024]).await.unwrap() > 0);
    peer.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    let reply = poll_fn(|cx| lease.stream.poll_reply(cx)).await.unwrap();
    assert!(matches!(reply, Reply::Response(head, _) if head.status == 204));
}

fn under_way(cluster: &WorkerCluster, resource: Resource) -> u32 {
    cluster.breakers.shared().under_way(DEFAULT, resource)
}

/// Connections of the pools that the cluster knows.
fn open(cluster: &WorkerCluster) -> usize {
    cluster.pools.borrow().values().map(|pool| pool.state.borrow().open).sum()
}

#[test]
fn a_pool_whose_only_connection_has_died_keeps_what_it_makes_next() {
    run(async {
        let (listener, cluster) = cluster("").await;
        let first = lease(&cluster).await;
        let (mut peer, _) = listener.accept().await.unwrap();
        exchange(first, &mut peer).await;
        drop(peer);
        let before = pool(&cluster);
        while before.state.borrow_mut().idle[0].connection.is_alive() {
            yield_now().await;
        }
        let second = lease(&cluster).await;
        let (mut peer, _) = listener.accept().await.unwrap();
        exchange(second, &mut peer).await;
        assert_eq!(open(&cluster), 1);
        assert!(matches!(acquire(&cluster), Ok(Acquired::Ready(_))), "the second connection is found");
        cluster.retire();
        assert_eq!((cluster.stats.upstream_cx_active.get(), under_way(&cluster, Resource::Connections)), (0, 0));
        assert!(cluster.pools.borrow().is_empty());
    });
}

#[test]
fn a_stream_that_ends_makes_room_for_who_has_waited_longest() {
    run(async {
        let fields = format!("{}\n    circuit_breakers: {{ thresholds: [{{ max_connections: 1 }}] }}", http2(1));
        let (_listener, cluster) = cluster(&fields).await;
        let first = lease(&cluster).await;
        let (mut second, mut third) = (waits(&cluster), waits(&cluster));
        assert!(now(&mut second).await.is_none());
        drop(first);
        let mut fourth = waits(&cluster);
        let second = now(&mut second).await.expect("its turn").unwrap();
        assert!(now(&mut third).await.is_none());
        drop(second);
        assert!(now(&mut fourth).await.is_none());
        drop(now(&mut third).await.expect("its turn").unwrap());
        assert!(now(&mut fourth).await.expect("its turn").is_ok());
        assert_eq!(cluster.stats.upstream_cx_total.get(), 1);
    });
}

#[test]
fn an_http2_connection_that_has_taken_its_requests_ends_with_the_last_of_them() {
    run(async {
        let (_listener, cluster) = cluster(&http2_for_requests(2)).await;
        let counts =
            || (cluster.stats.upstream_cx_total.get(), cluster.stats.upstream_cx_max_requests.get(), open(&cluster));
        let first = lease(&cluster).await;
        drop(first);
        let second = lease(&cluster).await;
        assert_eq!(counts(), (1, 1, 1), "one after the other counts as well");
        let (third, fourth, fifth) = (waits(&cluster), waits(&cluster), waits(&cluster));
        assert_eq!(counts(), (3, 1, 3), "as many connections as those who wait need");
        let (third, fourth, fifth) = (third.await.unwrap(), fourth.await.unwrap(), fifth.await.unwrap());
        assert_eq!(counts(), (3, 2, 3));
        drop(second);
        while open(&cluster) > 2 {
            yield_now().await;
        }
        drop((third, fourth));
        while open(&cluster) > 1 {
            yield_now().await;
        }
        drop(fifth);
        drop(lease(&cluster).await);
        assert_eq!(counts().0, 3, "the third had room for one more");
        while open(&cluster) > 0 {
            yield_now().await;
        }
    });
}

#[test]
fn who_no_longer_waits_takes_no_place() {
    run(async {
        let fields = "circuit_breakers: { thresholds: [{ max_pending_requests: 1 }] }";
        let (_listener, cluster) = cluster(fields).await;
        let first = waits(&cluster);
        assert!(matches!(acquire(&cluster), Err(PoolError::Overflow)));
        drop(first);
        let second = waits(&cluster);
        assert_eq!(under_way(&cluster, Resource::Pending), 1);
        let second = second.await.unwrap();
        assert_eq!(under_way(&cluster, Resource::Pending), 0);
        drop(second);
    });
}

#[test]
fn a_pool_that_gets_no_connection_leaves() {
    run(async {
        let (listener, cluster) = cluster("circuit_breakers: { thresholds: [{ max_pending_requests: 0 }] }").await;
        drop(listener);
        assert!(matches!(acquire(&cluster), Err(PoolError::Overflow)));
        assert!(cluster.pools.borrow().is_empty());

        let (listener, cluster) = self::cluster("").await;
        drop(listener);
        assert!(matches!(waits(&cluster).await, Err(PoolError::Connect(_))));
        while cluster.stats.upstream_cx_active.get() > 0 {
            yield_now().await;
        }
        assert!(cluster.pools.borrow().is_empty());
    });
}

/// The pool to the only host for requests that ask for `name`.
fn pool_of(cluster: &Rc<WorkerCluster>, name: &str, priority: RoutingPriority) -> Result<Rc<HostPool>, PoolError> {
    let host = cluster.state.hosts.load().members().next().unwrap().host.clone();
    cluster.pool(&host, Protocol::Http11, Some(name.into()), priority)
}

async fn lease_of(cluster: &Rc<WorkerCluster>, name: &str) -> Box<Lease> {
    match pool_of(cluster, name, DEFAULT).unwrap().acquire().unwrap() {
        Acquired::Ready(lease) => lease,
        Acquired::Pending(waiting) => waiting.await.unwrap(),
    }
}

#[test]
fn a_pool_beyond_their_number_takes_the_place_of_an_idle_one_and_of_no_other() {
    run(async {
        let (listener, cluster) = cluster("circuit_breakers: { thresholds: [{ max_connection_pools: 1 }] }").await;
        let pools = || under_way(&cluster, Resource::ConnectionPools);
        let busy = lease_of(&cluster, "one").await;
        let (mut one, _) = listener.accept().await.unwrap();
        assert!(matches!(pool_of(&cluster, "two", DEFAULT), Err(PoolError::PoolOverflow)));
        assert_eq!((cluster.stats.upstream_cx_pool_overflow.get(), pools()), (1, 1));
        drop(pool_of(&cluster, "two", RoutingPriority::High).expect("priorities are apart"));

        exchange(busy, &mut one).await;
        let busy = lease_of(&cluster, "two").await;
        let (mut two, _) = listener.accept().await.unwrap();
        assert_eq!(one.read(&mut [0; 8]).await.unwrap(), 0, "the idle connection has made room");
        assert_eq!((open(&cluster), pools()), (1, 1));
        exchange(busy, &mut two).await;

        let waits = pool_of(&cluster, "three", DEFAULT).unwrap().acquire().unwrap();
        assert!(matches!(pool_of(&cluster, "four", DEFAULT), Err(PoolError::PoolOverflow)), "who waits keeps its pool");
        drop(waits);
        cluster.retire();
        while cluster.stats.upstream_cx_active.get() > 0 {
            yield_now().await;
        }
        assert_eq!((cluster.pools.borrow().len(), pools()), (0, 0));
    });
}

#[test]
fn an_idle_http2_pool_makes_room_before_its_connection_is_closed() {
    run(async {
        let fields = format!("{}\n    circuit_breakers: {{ thresholds: [{{ max_connection_pools: 1 }}] }}", http2(10));
        let (_listener, cluster) = cluster(&fields).await;
        let first = lease_of(&cluster, "one").await;
        assert!(matches!(pool_of(&cluster, "two", DEFAULT), Err(PoolError::PoolOverflow)));
        drop(first);
        drop(lease_of(&cluster, "two").await);
        assert_eq!((cluster.pools.borrow().len(), under_way(&cluster, Resource::ConnectionPools)), (1, 1));
        while cluster.stats.upstream_cx_active.get() > 1 {
            yield_now().await;
        }
    });
}

#[test]
fn a_connection_that_ends_in_its_handshake_is_not_made_again() {
    run(async {
        let directory = std::env::temp_dir().join(format!("outrigger-pool-{}", std::process::id()));
        _ = std::fs::remove_file(&directory);
        let listener = UnixListener::bind(&directory).unwrap();
        listener.set_nonblocking(true).unwrap();
        let cluster = cluster_at(&format!("{{ pipe: {{ path: '{}' }} }}", directory.display()), &http2(100));
        let waiting = waits(&cluster);
        // It is closed before the connect has even been noticed.
        while listener.accept().is_err() {
            yield_now().await;
        }
        assert!(matches!(waiting.await, Err(PoolError::Connect(_))));
        assert_eq!(cluster.stats.upstream_cx_total.get(), 1);
        std::fs::remove_file(&directory).unwrap();
    });
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Acquire,
    /// A stream of which nothing was sent goes back.
    Return(usize),
    /// A stream that was begun is dropped.
    Break(usize),
    GiveUp(usize),
    /// The host closes all its connections.
    HostCloses,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => Just(Op::Acquire),
        2 => (0..8usize).prop_map(Op::Return),
        1 => (0..8usize).prop_map(Op::Break),
        1 => (0..8usize).prop_map(Op::GiveUp),
        1 => Just(Op::HostCloses),
    ];
    proptest::collection::vec(op, 1..40)
}

/// Runs `ops` on a pool of at most two connections and looks at it after each.
async fn check(fields: &str, streams: usize, ops: Vec<Op>) {
    let fields = format!("{fields}\n    circuit_breakers: {{ thresholds: [{{ max_connections: 2 }}] }}");
    let (listener, cluster) = cluster(&fields).await;
    let (mut held, mut waiting, mut peers) = (Vec::new(), Vec::new(), Vec::new());
    for op in ops {
        match op {
            Op::Acquire => match acquire(&cluster).unwrap() {
                Acquired::Ready(lease) => held.push(lease),
                Acquired::Pending(place) => waiting.push(place),
            },
            Op::Return(n) if n < held.len() => drop(held.remove(n)),
            Op::Break(n) if n < held.len() => {
                // The host may have closed the connection meanwhile.
                _ = held[n].stream.send_head(&post(), false);
                drop(held.remove(n));
            }
            Op::GiveUp(n) if n < waiting.len() => drop(waiting.remove(n)),
            Op::HostCloses => peers.clear(),
            _ => {}
        }
        loop {
            while let Some(Ok((peer, _))) = poll_fn(|cx| match listener.poll_accept(cx) {
                Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
                Poll::Pending => Poll::Ready(None),
            })
            .await
            {
                peers.push(peer);
            }
            if cluster.pools.borrow().values().all(|pool| pool.state.borrow().connecting == 0) {
                break;
            }
            yield_now().await;
        }
        let mut still = Vec::new();
        for mut place in waiting.drain(..) {
            match now(&mut place).await {
                Some(lease) => held.push(lease.expect("a host that accepts")),
                None => still.push(place),
            }
        }
        waiting = still;
        look(&cluster, waiting.len(), streams);
    }
    drop((held, waiting));
    cluster.retire();
    while cluster.stats.upstream_cx_active.get() > 0 {
        yield_now().await;
    }
    assert!(cluster.pools.borrow().is_empty());
    assert_eq!((under_way(&cluster, Resource::Connections), under_way(&cluster, Resource::Pending)), (0, 0));
}

fn look(cluster: &Rc<WorkerCluster>, waiting: usize, streams: usize) {
    let pools: Vec<_> = cluster.pools.borrow().values().cloned().collect();
    let host = cluster.state.hosts.load().members().next().unwrap().host.clone();
    assert_eq!(open(cluster), host.stats().cx_active.load(Ordering::Relaxed) as usize, "connections without a pool");
    assert_eq!(open(cluster), under_way(cluster, Resource::Connections) as usize);
    assert_eq!(under_way(cluster, Resource::Pending) as usize, waiting);
    for pool in pools {
        let state = pool.state.borrow();
        assert_eq!(state.waiting.len(), waiting);
        if waiting > 0 {
            let room = |shared: &Shared| !shared.connection.is_draining() && shared.connection.active() < streams;
            assert!(state.idle.is_empty() && !state.shared.iter().any(room), "one waits while there is room");
            assert!(state.open >= 2 || state.connecting > 0, "one waits for nothing");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_http1_pool_keeps_its_accounts(ops in ops()) {
        run(check("", 1, ops));
    }

    #[test]
    fn an_http2_pool_keeps_its_accounts(ops in ops()) {
        run(check(&http2(2), 2, ops));
    }
}

#[test]
fn connections_to_management_servers_are_watched_and_others_where_it_is_configured() {
    // Whatever names the server, its streams start on the control thread.
    let requests = crate::testing::worker();
    let control = crate::worker::Worker::new(requests.process.clone(), requests.process.concurrency);
    let keepalive = |worker: &Rc<crate::worker::Worker>, fields: &str| {
        let state = cluster_at("{ pipe: { path: /x } }", fields).state.clone();
        WorkerCluster::new(state, worker).unwrap().h2_settings.http2.keepalive
    };
    let seconds = Duration::from_secs;
    assert_eq!(keepalive(&control, &http2(100)), Some((seconds(310), seconds(20))));
    assert_eq!(keepalive(&requests, &http2(100)), None);
    let own = http2(100).replace("max_concurrent_streams: 100", "connection_keepalive: { interval: 30s, timeout: 5s }");
    assert_eq!(keepalive(&control, &own), Some((seconds(30), seconds(5))));
    assert_eq!(keepalive(&requests, &own), Some((seconds(30), seconds(5))));
}
