//! The connections of one worker to one host.
//!
//! An HTTP/1 connection that is idle is taken last in, first out, so that the others age and go. A request that finds
//! none waits in a queue while a connection is made; whichever connection is ready first, new or returned, takes the
//! request that has waited longest. A failed connect fails all that wait, as in Envoy: their own attempts and retries
//! decide what happens next.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use outrigger_engine::balance::Host;
use outrigger_engine::message::Protocol;
use outrigger_engine::resilience::breaker::{ConnectionPermit, Guard, Resource, RoutingPriority};
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::WorkerCluster;
use super::connect::{ConnectError, Connected, connect};
use crate::http::codec::{ClientStream, CloseReason, Owner, OwnerRef, ResetBy, h1, h2};
use crate::telemetry::stats::ClusterStats;

/// What tells two pools of a cluster apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// [`Host::id`].
    pub host: u64,
    /// How the host is spoken to.
    pub protocol: PoolProtocol,
    /// SNI, where the request decides it.
    pub server_name: Option<Arc<str>>,
    /// Whose thresholds its connections and waiting requests count against.
    pub priority: RoutingPriority,
}

/// How a host is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// As ALPN says.
    Alpn,
}

/// Why a request got no stream.
#[derive(Clone, Debug)]
pub enum PoolError {
    /// Too many wait (`max_pending_requests`).
    Overflow,
    /// No connection.
    Connect(ConnectError),
}

/// A stream, at once or later.
#[derive(Debug)]
pub enum Acquired {
    /// On a connection at hand.
    Ready(Box<Lease>),
    /// Once a connection is there.
    Pending(Waiting),
}

/// A place in a pool's queue, until it is dropped.
#[derive(Debug)]
pub struct Waiting {
    take: oneshot::Receiver<Result<Box<Lease>, PoolError>>,
    _counted: Counted,
    _guard: Guard,
}

impl Waiting {
    /// Ready with the stream, or with the reason why there is none: `None` if the pool has gone away with its cluster.
    pub fn poll(&mut self, task: &mut Context<'_>) -> Poll<Option<Result<Box<Lease>, PoolError>>> {
        Pin::new(&mut self.take).poll(task).map(Result::ok)
    }
}

/// A stream on a connection of the pool.
#[derive(Debug)]
pub struct Lease {
    /// The stream.
    pub stream: ClientStream,
    /// Its protocol.
    pub protocol: Protocol,
    /// Our end of the connection.
    pub local_address: Option<std::net::SocketAddr>,
}

/// See the module.
#[derive(Debug)]
pub struct HostPool {
    cluster: Weak<WorkerCluster>,
    host: Arc<Host>,
    key: PoolKey,
    state: RefCell<State>,
    /// Its host or its cluster has left: a connection that has nothing to do goes.
    retired: Cell<bool>,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Idle>,
    shared: Vec<Shared>,
    /// Waiting for a connection, the oldest first.
    pending: VecDeque<oneshot::Sender<Result<Box<Lease>, PoolError>>>,
    connecting: usize,
    /// Open connections, idle or busy, with those that are being made.
    open: usize,
}

#[derive(Debug)]
struct Idle {
    connection: h1::ClientConnection,
    home: Rc<Home>,
    since: Instant,
}

/// An HTTP/2 connection.
#[derive(Debug)]
struct Shared {
    connection: h2::ClientConnection,
    local_address: Option<std::net::SocketAddr>,
    started: Instant,
    since: Instant,
}

/// One of `upstream_rq_pending_active`.
#[derive(Debug)]
struct Counted(Arc<ClusterStats>);

impl Counted {
    fn new(stats: &Arc<ClusterStats>) -> Self {
        stats.upstream_rq_pending_active.inc();
        Self(stats.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.upstream_rq_pending_active.dec();
    }
}

/// Streams at a time on one HTTP/2 connection, if the peer allows more.
const STREAMS_PER_CONNECTION: usize = 1024;

impl State {
    /// Forgets those who no longer wait.
    fn drop_cancelled(&mut self) {
        self.pending.retain(|give| !give.is_closed());
    }
}

impl HostPool {
    pub(super) fn new(cluster: &Rc<WorkerCluster>, host: Arc<Host>, key: PoolKey, retired: bool) -> Rc<Self> {
        Rc::new(HostPool {
            cluster: Rc::downgrade(cluster),
            host,
            key,
            state: RefCell::default(),
            retired: Cell::new(retired),
        })
    }

    /// A stream for one request.
    pub fn acquire(self: &Rc<Self>) -> Result<Acquired, PoolError> {
        if let Some(lease) = self.take_idle() {
            return Ok(Acquired::Ready(Box::new(lease)));
        }
        let Some(cluster) = self.cluster.upgrade() else { return Err(PoolError::Overflow) };
        let Some(guard) = cluster.breakers.acquire(self.key.priority, Resource::Pending) else {
            cluster.stats.upstream_rq_pending_overflow.inc();
            return Err(PoolError::Overflow);
        };
        let (give, take) = oneshot::channel();
        {
            let mut state = self.state.borrow_mut();
            state.drop_cancelled();
            state.pending.push_back(give);
        }
        cluster.stats.upstream_rq_pending_total.inc();
        self.connect_if_needed(&cluster);
        Ok(Acquired::Pending(Waiting { take, _counted: Counted::new(&cluster.stats), _guard: guard }))
    }

    /// A connection that may take a request now.
    fn take_idle(&self) -> Option<Lease> {
        let max_age = self.cluster.upgrade()?.state.config.max_connection_duration;
        loop {
            // The borrow ends before a dead connection is dropped: its end comes back to this pool.
            let Some(idle) = self.state.borrow_mut().idle.pop() else { break };
            let Idle { mut connection, home, .. } = idle;
            if max_age.is_some_and(|max| connection.age() >= max) {
                continue;
            }
            if connection.is_alive() {
                let stream = ClientStream::H1(connection.start());
                return Some(Lease { stream, protocol: Protocol::Http11, local_address: home.local_address });
            }
            home.closed(CloseReason::Remote, 0);
        }
        self.take_shared()
    }

    fn take_shared(&self) -> Option<Lease> {
        let mut state = self.state.borrow_mut();
        state.shared.retain(|shared| !shared.connection.is_draining());
        for shared in &mut state.shared {
            let limit = shared.connection.max_concurrent().min(STREAMS_PER_CONNECTION);
            if shared.connection.active() < limit
                && let Ok(stream) = shared.connection.open()
            {
                shared.since = Instant::now();
                let stream = ClientStream::H2(stream);
                return Some(Lease { stream, protocol: Protocol::Http2, local_address: shared.local_address });
            }
        }
        None
    }

    /// Makes connections for those that wait, as far as the breakers allow.
    fn connect_if_needed(self: &Rc<Self>, cluster: &Rc<WorkerCluster>) {
        loop {
            let alone = {
                let mut state = self.state.borrow_mut();
                state.drop_cancelled();
                let wanted = match self.key.protocol {
                    PoolProtocol::Http1 => state.pending.len(),
                    // One connection takes them all; whether it can is known when it is there.
                    PoolProtocol::Http2 | PoolProtocol::Alpn => state.pending.len().min(1),
                };
                if state.connecting >= wanted {
                    return;
                }
                state.open == 0
            };
            let to_host = self.host.stats().cx_active.load(Ordering::Relaxed);
            let guard = match cluster.breakers.acquire_connection(self.key.priority, to_host, alone) {
                ConnectionPermit::Granted(guard) => guard,
                ConnectionPermit::Forced(guard) => {
                    cluster.stats.upstream_cx_overflow.inc();
                    guard
                }
                ConnectionPermit::Refused => {
                    cluster.stats.upstream_cx_overflow.inc();
                    return;
                }
            };
            {
                let mut state = self.state.borrow_mut();
                state.connecting += 1;
                state.open += 1;
            }
            cluster.stats.upstream_cx_total.inc();
            cluster.stats.upstream_cx_active.inc();
            match self.key.protocol {
                PoolProtocol::Http1 => count_protocol(cluster, false),
                PoolProtocol::Http2 => count_protocol(cluster, true),
                // The handshake will say.
                PoolProtocol::Alpn => {}
            }
            let host = self.host.stats();
            host.cx_total.fetch_add(1, Ordering::Relaxed);
            host.cx_active.fetch_add(1, Ordering::Relaxed);
            spawn_local(self.clone().connect(cluster.clone(), guard));
        }
    }

    async fn connect(self: Rc<Self>, cluster: Rc<WorkerCluster>, guard: Guard) {
        let started = Instant::now();
        let result =
            connect(&cluster.state.config, &self.host, cluster.tls.as_ref(), self.key.server_name.as_ref()).await;
        self.state.borrow_mut().connecting -= 1;
        let connected = match result {
            Ok(connected) => connected,
            Err(error) => {
                drop(guard);
                self.connect_failed(&cluster, error);
                return;
            }
        };
        cluster.stats.upstream_cx_connect_ms.record(started.elapsed().as_micros() as u64);
        let Connected { io, alpn, local_address } = connected;
        let http2 = match self.key.protocol {
            PoolProtocol::Http1 => false,
            PoolProtocol::Http2 => true,
            PoolProtocol::Alpn => alpn.as_deref() == Some(b"h2"),
        };
        if self.key.protocol == PoolProtocol::Alpn {
            count_protocol(&cluster, http2);
        }
        let home = Rc::new_cyclic(|me| Home {
            me: me.clone(),
            pool: self.clone(),
            cluster: cluster.clone(),
            guard: Some(guard),
            started,
            local_address,
            http2,
            reason: Cell::new(CloseReason::Local),
            under_way: Cell::new(0),
        });
        if http2 {
            match h2::ClientConnection::handshake(io, &cluster.h2_settings, home).await {
                Ok(connection) => {
                    let since = Instant::now();
                    self.state.borrow_mut().shared.push(Shared { connection, local_address, started, since });
                    self.serve_pending();
                }
                // Those that wait need another connection, or the error.
                Err(_) => self.fail_pending(&ConnectError { timeout: false, reason: "".into() }),
            }
        } else {
            let owner: OwnerRef = home.clone();
            let connection = h1::ClientConnection::new(io, cluster.h1_settings.clone(), &owner);
            self.give(connection, home);
        }
        self.connect_if_needed(&cluster);
        cluster.sweep();
    }

    fn connect_failed(&self, cluster: &Rc<WorkerCluster>, error: ConnectError) {
        let stats = &cluster.stats;
        stats.upstream_cx_connect_fail.inc();
        if error.timeout {
            stats.upstream_cx_connect_timeout.inc();
        }
        self.host.stats().cx_connect_fail.fetch_add(1, Ordering::Relaxed);
        self.connection_gone(cluster, CloseReason::Local, 0);
        self.fail_pending(&error);
    }

    fn fail_pending(&self, error: &ConnectError) {
        let pending = std::mem::take(&mut self.state.borrow_mut().pending);
        for waiting in pending {
            if let Some(cluster) = self.cluster.upgrade() {
                cluster.stats.upstream_rq_pending_failure_eject.inc();
            }
            // Who no longer waits does not mind.
            _ = waiting.send(Err(PoolError::Connect(error.clone())));
        }
    }

    /// The connection goes to who has waited longest, else it idles.
    fn give(&self, connection: h1::ClientConnection, home: Rc<Home>) {
        let Some(cluster) = self.cluster.upgrade() else { return };
        let config = &cluster.state.config;
        let used_up = config.max_requests_per_connection.is_some_and(|max| connection.requests() >= max);
        if used_up {
            cluster.stats.upstream_cx_max_requests.inc();
        }
        let too_old = config.max_connection_duration.is_some_and(|max| connection.age() >= max);
        if used_up || too_old {
            drop(connection);
            return;
        }
        let next = {
            let mut state = self.state.borrow_mut();
            state.drop_cancelled();
            state.pending.pop_front()
        };
        let Some(waiting) = next else {
            if self.retired.get() {
                drop(connection);
                return;
            }
            self.state.borrow_mut().idle.push(Idle { connection, home, since: Instant::now() });
            return;
        };
        let stream = ClientStream::H1(connection.start());
        let lease = Lease { stream, protocol: Protocol::Http11, local_address: home.local_address };
        // The receiver lives on this thread: it was there a moment ago, and it is there still.
        _ = waiting.send(Ok(Box::new(lease)));
    }

    /// Gives HTTP/2 streams to those that wait.
    fn serve_pending(&self) {
        loop {
            {
                let mut state = self.state.borrow_mut();
                state.drop_cancelled();
                if state.pending.is_empty() {
                    return;
                }
            }
            let Some(lease) = self.take_shared() else { return };
            let Some(waiting) = self.state.borrow_mut().pending.pop_front() else { return };
            _ = waiting.send(Ok(Box::new(lease)));
        }
    }

    fn connection_gone(&self, cluster: &Rc<WorkerCluster>, reason: CloseReason, under_way: usize) {
        let stats = &cluster.stats;
        stats.upstream_cx_active.dec();
        stats.upstream_cx_destroy.inc();
        let local = matches!(reason, CloseReason::Local | CloseReason::Protocol);
        match local {
            true => stats.upstream_cx_destroy_local.inc(),
            false => stats.upstream_cx_destroy_remote.inc(),
        }
        if under_way > 0 {
            stats.upstream_cx_destroy_with_active_rq.inc();
            match local {
                true => stats.upstream_cx_destroy_local_with_active_rq.inc(),
                false => stats.upstream_cx_destroy_remote_with_active_rq.inc(),
            }
        }
        if matches!(reason, CloseReason::Protocol | CloseReason::CutShort) {
            stats.upstream_cx_protocol_error.inc();
        }
        self.host.stats().cx_active.fetch_sub(1, Ordering::Relaxed);
        let empty = {
            let mut state = self.state.borrow_mut();
            state.open -= 1;
            state.open == 0 && state.pending.is_empty()
        };
        if empty {
            cluster.drop_pool(&self.key);
        }
    }

    /// Closes what has nothing to do, now and from now on.
    pub(super) fn retire(&self) {
        self.retired.set(true);
        // What is dropped comes back to this pool, so the borrow ends before.
        let idle = std::mem::take(&mut self.state.borrow_mut().idle);
        let shared = std::mem::take(&mut self.state.borrow_mut().shared);
        drop((idle, shared));
        let empty = self.state.borrow().open == 0;
        if let Some(cluster) = self.cluster.upgrade()
            && empty
        {
            cluster.drop_pool(&self.key);
        }
    }

    /// Closes what has died or idled too long. `false` when there is nothing left to look at.
    pub(super) fn sweep(&self, now: Instant) -> bool {
        let Some(cluster) = self.cluster.upgrade() else { return false };
        let idle_timeout = cluster.state.config.idle_timeout;
        let max_age = cluster.state.config.max_connection_duration;
        let is_stale = |since: Instant| idle_timeout.is_some_and(|timeout| now.duration_since(since) >= timeout);
        let is_old = |age: Duration| max_age.is_some_and(|max| age >= max);
        let idle = std::mem::take(&mut self.state.borrow_mut().idle);
        let mut kept = Vec::with_capacity(idle.len());
        for mut entry in idle {
            if is_old(entry.connection.age()) {
                cluster.stats.upstream_cx_max_duration_reached.inc();
            } else if is_stale(entry.since) {
                cluster.stats.upstream_cx_idle_timeout.inc();
            } else if entry.connection.is_alive() {
                kept.push(entry);
            } else {
                entry.home.closed(CloseReason::Remote, 0);
            }
        }
        let mut state = self.state.borrow_mut();
        // Nothing can have come back meanwhile but through this thread, which is here.
        state.idle.splice(0..0, kept);
        let mut stale = Vec::new();
        state.shared.retain(|shared| {
            let active = shared.connection.active() > 0;
            if !active && (self.retired.get() || is_stale(shared.since)) {
                stale.push(shared.connection.clone());
                return false;
            }
            if is_old(now.duration_since(shared.started)) {
                // It takes no further stream, and ends with the last one that it has.
                cluster.stats.upstream_cx_max_duration_reached.inc();
                stale.push(shared.connection.clone());
                return false;
            }
            !shared.connection.is_draining()
        });
        let more = state.open > 0;
        drop(state);
        drop(stale);
        more
    }
}

fn count_protocol(cluster: &WorkerCluster, http2: bool) {
    match http2 {
        true => cluster.stats.upstream_cx_http2_total.inc(),
        false => cluster.stats.upstream_cx_http1_total.inc(),
    }
}

/// What a connection holds of its pool: it goes with the connection, and settles its accounts.
#[derive(Debug)]
struct Home {
    me: Weak<Home>,
    pool: Rc<HostPool>,
    /// It lives at least as long as its connections, to keep account of them. What idles is closed when the cluster
    /// leaves, so the circle ends.
    cluster: Rc<WorkerCluster>,
    /// Its place among the connections, until it is dropped.
    guard: Option<Guard>,
    started: Instant,
    local_address: Option<std::net::SocketAddr>,
    http2: bool,
    reason: Cell<CloseReason>,
    under_way: Cell<usize>,
}

impl Owner for Home {
    fn idle(&self, connection: h1::ClientConnection) {
        if let Some(home) = self.me.upgrade() {
            self.pool.give(connection, home);
        }
    }

    fn closed(&self, reason: CloseReason, under_way: usize) {
        self.reason.set(reason);
        self.under_way.set(under_way);
        // Envoy's name for streams that go with their connection, whoever ends it.
        if self.http2
            && let Some(cluster) = self.pool.cluster.upgrade()
        {
            for _ in 0..under_way {
                cluster.stats.upstream_rq_pending_failure_eject.inc();
            }
        }
    }

    fn reset(&self, by: ResetBy) {
        if let Some(cluster) = self.pool.cluster.upgrade() {
            match by {
                ResetBy::Us => cluster.stats.upstream_rq_tx_reset.inc(),
                ResetBy::Peer => cluster.stats.upstream_rq_rx_reset.inc(),
            }
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let cluster = &self.cluster;
        cluster.stats.upstream_cx_length_ms.record(self.started.elapsed().as_micros() as u64);
        self.pool.connection_gone(cluster, self.reason.get(), self.under_way.get());
        drop(self.guard.take());
        // A place is free: somebody may wait for it.
        self.pool.connect_if_needed(cluster);
    }
}
