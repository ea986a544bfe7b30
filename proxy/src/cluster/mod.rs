//! The upstream side: what a worker owns of a cluster, its connections, and the names that its hosts come from.

pub mod connect;
pub mod dns;
mod home;
pub mod pool;
pub(crate) mod sweep;
mod waiting;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_engine::balance::{ClusterState, Host, NoHost, PickContext, Picker};
use outrigger_engine::config::cluster::HttpProtocol;
use outrigger_engine::message::Protocol;
use outrigger_engine::resilience::breaker::{Guard, Resource, RoutingPriority, WorkerBreakers};
use tokio::time::Instant;

use self::pool::{HostPool, PoolError, PoolKey};
use self::sweep::Sweeper;
use crate::http::codec::{h1, h2};
use crate::telemetry::stats::ClusterStats;
use crate::tls::client::TlsConnector;
use crate::worker::Worker;

/// The `connection_keepalive` of the control thread's connections where the cluster sets none: they carry the streams of
/// management servers, whichever source names these, and those of access log services; a stream on which nothing comes
/// would not be told from one whose server is no more. Servers written with gRPC for Go end connections that are asked
/// more often than every 5 minutes.
const SERVER_KEEPALIVE: (Duration, Duration) = (Duration::from_secs(310), Duration::from_secs(20));

/// A cluster as one worker uses it: made at the cluster's first request on this thread.
#[derive(Debug)]
pub struct WorkerCluster {
    /// What all workers share.
    pub state: Arc<ClusterState>,
    /// This worker's counters.
    pub stats: Arc<ClusterStats>,
    /// This worker's handle on what is under way.
    pub breakers: WorkerBreakers,
    picker: RefCell<Picker>,
    pools: RefCell<HashMap<PoolKey, Rc<HostPool>>>,
    h1_settings: Rc<h1::ClientSettings>,
    h2_settings: Rc<h2::ClientSettings>,
    tls: Option<Rc<TlsConnector>>,
    sweeper: Rc<Sweeper>,
    /// Whether the sweeper has it.
    watched: Cell<bool>,
    /// It has left, or another one has taken its place.
    retired: Cell<bool>,
}

impl WorkerCluster {
    /// The share of `worker` in a cluster. `None` where its TLS was not made: nothing goes in plain text instead.
    pub fn new(state: Arc<ClusterState>, worker: &Rc<Worker>) -> Option<Rc<Self>> {
        let stats = worker.process.stats.cluster(state.config.stat_name()).shard(worker.index);
        let keepalive = worker.is_control_thread().then_some(SERVER_KEEPALIVE);
        Self::with(state, stats, worker.sweeper.clone(), worker.random(), keepalive)
    }

    /// `keepalive`: where the configuration sets none.
    fn with(
        state: Arc<ClusterState>,
        stats: Arc<ClusterStats>,
        sweeper: Rc<Sweeper>,
        seed: u64,
        keepalive: Option<(Duration, Duration)>,
    ) -> Option<Rc<Self>> {
        let config = &state.config;
        let (http1, mut http2) = match &config.protocol {
            HttpProtocol::Http1(http1) => (http1.clone(), Default::default()),
            HttpProtocol::Http2(http2) => (Default::default(), http2.clone()),
            HttpProtocol::Auto { http1, http2 } | HttpProtocol::UseDownstream { http1, http2 } => {
                (http1.clone(), http2.clone())
            }
        };
        http2.keepalive = http2.keepalive.or(keepalive);
        let tls = match &config.tls {
            Some(tls) => Some(Rc::new(tls.made.get::<TlsConnector>()?.clone())),
            None => None,
        };
        Some(Rc::new(WorkerCluster {
            stats,
            breakers: WorkerBreakers::new(state.breakers.clone()),
            picker: RefCell::new(Picker::new(&state, seed)),
            pools: RefCell::default(),
            h1_settings: Rc::new(h1::ClientSettings {
                max_head_bytes: config.max_response_headers_bytes,
                max_headers: config.max_response_headers_count,
                header_case: http1.header_case,
                enable_trailers: http1.enable_trailers,
                allow_chunked_length: http1.allow_chunked_length,
            }),
            h2_settings: Rc::new(h2::ClientSettings {
                http2,
                max_headers_bytes: config.max_response_headers_bytes,
                max_headers_count: config.max_response_headers_count,
            }),
            tls,
            sweeper,
            watched: Cell::new(false),
            retired: Cell::new(false),
            state,
        }))
    }

    /// Hosts have left: nothing new goes to them, and nothing is kept of them.
    pub fn drop_left_hosts(&self) {
        self.picker.borrow_mut().follow();
        if self.pools.borrow().is_empty() {
            return;
        }
        let hosts = self.state.hosts.load();
        let ids: HashSet<u64> = hosts.members().map(|member| member.host.id).collect();
        self.retire_pools(|key| !ids.contains(&key.host));
    }

    /// The cluster has left, or another one has taken its place: idle connections go, the others after their requests.
    pub fn retire(&self) {
        self.retired.set(true);
        self.retire_pools(|_| true);
    }

    fn retire_pools(&self, which: impl Fn(&PoolKey) -> bool) {
        let retired = |(key, pool): (&PoolKey, &Rc<HostPool>)| which(key).then(|| pool.clone());
        // A pool that gets empty leaves the table, so it is not borrowed meanwhile.
        let pools: Vec<_> = self.pools.borrow().iter().filter_map(retired).collect();
        pools.iter().for_each(|pool| pool.retire());
    }

    /// The host for a request.
    pub fn pick(&self, context: &PickContext<'_>) -> Result<Arc<Host>, NoHost> {
        let mut picker = self.picker.borrow_mut();
        let host = picker.pick(context).cloned();
        if picker.panicked() {
            self.stats.lb_healthy_panic.inc();
        }
        host
    }

    /// The pool to `host` for a request of `priority` that came by `downstream`, and with the SNI that the request
    /// decides. Each priority has connections of its own, as in Envoy: those of one never take the other's places.
    ///
    /// # Errors
    ///
    /// [`PoolError::PoolOverflow`]: it would be one pool more than `max_connection_pools`, and none of the host's is
    /// idle.
    pub fn pool(
        self: &Rc<Self>,
        host: &Arc<Host>,
        downstream: Protocol,
        server_name: Option<Arc<str>>,
        priority: RoutingPriority,
    ) -> Result<Rc<HostPool>, PoolError> {
        let protocol = match &self.state.config.protocol {
            HttpProtocol::Http1(_) => pool::PoolProtocol::Http1,
            HttpProtocol::Http2(_) => pool::PoolProtocol::Http2,
            HttpProtocol::Auto { .. } => pool::PoolProtocol::Alpn,
            HttpProtocol::UseDownstream { .. } if downstream == Protocol::Http2 => pool::PoolProtocol::Http2,
            HttpProtocol::UseDownstream { .. } => pool::PoolProtocol::Http1,
        };
        let key = PoolKey { host: host.id, protocol, server_name, priority };
        if let Some(pool) = self.pools.borrow().get(&key) {
            return Ok(pool.clone());
        }
        let place = self.place_for(&key)?;
        // A request may have picked its host just before that, or the cluster, left.
        let is_there = || self.state.hosts.load().members().any(|member| member.host.id == host.id);
        let retired = self.retired.get() || !is_there();
        let pool = HostPool::new(self, host.clone(), key.clone(), retired, place);
        self.pools.borrow_mut().insert(key, pool.clone());
        Ok(pool)
    }

    /// Room for one pool more, if need be in the place of an idle one of the same host and priority, as in Envoy.
    fn place_for(&self, key: &PoolKey) -> Result<Guard, PoolError> {
        let acquire = || self.breakers.acquire(key.priority, Resource::ConnectionPools);
        if let Some(place) = acquire() {
            return Ok(place);
        }
        let rivals = |(other, pool): (&PoolKey, &Rc<HostPool>)| {
            (other.host == key.host && other.priority == key.priority).then(|| pool.clone())
        };
        // A pool that ends leaves the table, so it is not borrowed meanwhile.
        let rivals: Vec<_> = self.pools.borrow().iter().filter_map(rivals).collect();
        let place = rivals.iter().any(|pool| pool.make_room()).then(acquire).flatten();
        place.ok_or_else(|| {
            self.stats.upstream_cx_pool_overflow.inc();
            PoolError::PoolOverflow
        })
    }

    /// A pool that had left has something to do again.
    fn list(&self, key: &PoolKey, pool: &Rc<HostPool>) {
        self.pools.borrow_mut().insert(key.clone(), pool.clone());
    }

    /// A pool has nothing to do.
    fn unlist(&self, key: &PoolKey) {
        // Whoever calls holds it, so nothing is dropped while the table is borrowed.
        self.pools.borrow_mut().remove(key);
    }

    /// Has idle connections looked at, as long as there are connections.
    fn watch(self: &Rc<Self>) {
        if !self.watched.replace(true) {
            self.sweeper.watch(self);
        }
    }

    /// Looks at all idle connections. `false` when there is nothing left to look at.
    fn sweep(&self) -> bool {
        let pools: Vec<Rc<HostPool>> = self.pools.borrow().values().cloned().collect();
        let now = Instant::now();
        let mut more = false;
        for pool in pools {
            more |= pool.sweep(now);
        }
        self.watched.set(more);
        more
    }

    /// TLS to the hosts, where the cluster uses it.
    pub fn tls(&self) -> Option<&Rc<TlsConnector>> {
        self.tls.as_ref()
    }
}
