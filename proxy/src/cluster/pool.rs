//! The connections of one worker to one host.
//!
//! An HTTP/1 connection that is idle is taken last in, first out, so that the others age and go. A request that finds
//! none waits in a queue while a connection is made; whichever connection is ready first, new or returned, takes the
//! request that has waited longest. A failed connect fails all that wait, as in Envoy: their own attempts and retries
//! decide what happens next.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use outrigger_engine::balance::Host;
use outrigger_engine::message::Protocol;
use outrigger_engine::resilience::breaker::{ConnectionPermit, Guard, Resource, RoutingPriority};
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::WorkerCluster;
use super::connect::{ConnectError, Connected, connect};
use super::home::Home;
pub use super::waiting::Waiting;
use super::waiting::{Queue, Ticket};
use crate::http::codec::{ClientStream, CloseReason, Owner as _, OwnerRef, h1, h2};
use crate::io::Meter;

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
    /// There are too many pools (`max_connection_pools`), and none of the host's can be done without.
    PoolOverflow,
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
    /// What it counts as against `max_connection_pools`, until it makes room for another one.
    place: RefCell<Option<Guard>>,
    /// It is in the cluster's table: whoever has a connection or somebody who waits for one is.
    listed: Cell<bool>,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Idle>,
    shared: Vec<Shared>,
    /// Nobody waits while a connection has room.
    waiting: Queue,
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
    /// Requests that it has taken.
    requests: u32,
}

/// Streams at a time on one HTTP/2 connection, if the peer allows more.
const STREAMS_PER_CONNECTION: usize = 1024;

impl HostPool {
    /// A pool that the caller puts into the cluster's table.
    pub(super) fn new(
        cluster: &Rc<WorkerCluster>,
        host: Arc<Host>,
        key: PoolKey,
        retired: bool,
        place: Guard,
    ) -> Rc<Self> {
        Rc::new(HostPool {
            cluster: Rc::downgrade(cluster),
            host,
            key,
            state: RefCell::default(),
            retired: Cell::new(retired),
            place: RefCell::new(Some(place)),
            listed: Cell::new(true),
        })
    }

    /// A stream for one request. To be called as soon as the pool was looked up: an empty one may leave its table.
    pub fn acquire(self: &Rc<Self>) -> Result<Acquired, PoolError> {
        let nobody_waits = self.state.borrow().waiting.is_empty();
        if nobody_waits && let Some(lease) = self.take() {
            return Ok(Acquired::Ready(Box::new(lease)));
        }
        let Some(cluster) = self.cluster.upgrade() else { return Err(PoolError::Overflow) };
        let Some(guard) = cluster.breakers.acquire(self.key.priority, Resource::Pending) else {
            cluster.stats.upstream_rq_pending_overflow.inc();
            self.leave_if_empty(&cluster);
            return Err(PoolError::Overflow);
        };
        let ticket = self.state.borrow_mut().waiting.push(guard, &cluster.stats);
        // With its last connection, dead as it was, the pool has left.
        if !self.listed.replace(true) {
            cluster.list(&self.key, self);
        }
        cluster.stats.upstream_rq_pending_total.inc();
        if !nobody_waits {
            self.serve_waiting();
        }
        self.connect_if_needed(&cluster);
        Ok(Acquired::Pending(Waiting::new(ticket, self.clone())))
    }

    /// A stream on a connection that may take a request now.
    fn take(&self) -> Option<Lease> {
        let cluster = self.cluster.upgrade()?;
        let max_age = cluster.state.config.max_connection_duration;
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
        self.take_shared(&cluster)
    }

    fn take_shared(&self, cluster: &WorkerCluster) -> Option<Lease> {
        let mut state = self.state.borrow_mut();
        state.shared.retain(|shared| !shared.connection.is_draining());
        for (at, shared) in state.shared.iter_mut().enumerate() {
            let limit = shared.connection.max_concurrent().min(STREAMS_PER_CONNECTION);
            if shared.connection.active() < limit
                && let Ok(stream) = shared.connection.open()
            {
                shared.since = Instant::now();
                shared.requests = shared.requests.saturating_add(1);
                let stream = ClientStream::H2(stream);
                let lease = Lease { stream, protocol: Protocol::Http2, local_address: shared.local_address };
                if cluster.state.config.max_requests_per_connection.is_some_and(|max| shared.requests >= max) {
                    // It takes no further stream, and ends with the last one that it has.
                    cluster.stats.upstream_cx_max_requests.inc();
                    state.shared.remove(at);
                }
                return Some(lease);
            }
        }
        None
    }

    /// Makes connections for those that wait, as far as the breakers allow.
    pub(super) fn connect_if_needed(self: &Rc<Self>, cluster: &Rc<WorkerCluster>) {
        loop {
            let alone = {
                let state = self.state.borrow();
                let wanted = match self.key.protocol {
                    PoolProtocol::Http1 => state.waiting.len(),
                    // One connection takes as many as it may; whether it can is known when it is there.
                    PoolProtocol::Http2 | PoolProtocol::Alpn => {
                        let each =
                            cluster.state.config.max_requests_per_connection.map_or(usize::MAX, |max| max as usize);
                        state.waiting.len().div_ceil(each)
                    }
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
        let connected = match result {
            Ok(connected) => connected,
            Err(error) => {
                self.state.borrow_mut().connecting -= 1;
                drop(guard);
                self.connect_failed(&cluster, error);
                return;
            }
        };
        cluster.stats.upstream_cx_connect_ms.record(started.elapsed().as_micros() as u64);
        let Connected { io, alpn, local_address } = connected;
        let io = io.metered(Meter::Upstream(cluster.stats.clone()));
        let http2 = match self.key.protocol {
            PoolProtocol::Http1 => false,
            PoolProtocol::Http2 => true,
            PoolProtocol::Alpn => alpn.as_deref() == Some(b"h2"),
        };
        if self.key.protocol == PoolProtocol::Alpn {
            count_protocol(&cluster, http2);
        }
        let home = Home::new(self.clone(), cluster.clone(), guard, started, local_address, http2);
        if http2 {
            let result = h2::ClientConnection::handshake(io, &cluster.h2_settings, home.clone()).await;
            self.state.borrow_mut().connecting -= 1;
            match result {
                Ok(connection) => {
                    let since = Instant::now();
                    self.state.borrow_mut().shared.push(Shared {
                        connection,
                        local_address,
                        started,
                        since,
                        requests: 0,
                    });
                    self.serve_waiting();
                }
                // Before its home goes, which would connect again for them.
                Err(_) => self.fail_waiting(&ConnectError { timeout: false, reason: "".into() }),
            }
            drop(home);
        } else {
            self.state.borrow_mut().connecting -= 1;
            let owner: OwnerRef = home.clone();
            let connection = h1::ClientConnection::new(io, cluster.h1_settings.clone(), &owner);
            self.give(connection, home);
        }
        self.connect_if_needed(&cluster);
        cluster.watch();
    }

    fn connect_failed(&self, cluster: &Rc<WorkerCluster>, error: ConnectError) {
        let stats = &cluster.stats;
        stats.upstream_cx_connect_fail.inc();
        if error.timeout {
            stats.upstream_cx_connect_timeout.inc();
        }
        self.host.stats().cx_connect_fail.fetch_add(1, Ordering::Relaxed);
        self.fail_waiting(&error);
        self.connection_gone(cluster, CloseReason::Local, 0);
    }

    fn next_waiting(&self) -> Option<Rc<Ticket>> {
        self.state.borrow_mut().waiting.pop()
    }

    fn fail_waiting(&self, error: &ConnectError) {
        while let Some(ticket) = self.next_waiting() {
            if let Some(cluster) = self.cluster.upgrade() {
                cluster.stats.upstream_rq_pending_failure_eject.inc();
            }
            ticket.serve(Err(PoolError::Connect(error.clone())));
        }
    }

    /// One that waited has given up.
    pub(super) fn waiter_left(&self, leave: impl FnOnce(&mut Queue)) {
        leave(&mut self.state.borrow_mut().waiting);
        if let Some(cluster) = self.cluster.upgrade() {
            self.leave_if_empty(&cluster);
        }
    }

    /// The connection goes to who has waited longest, else it idles.
    pub(super) fn give(&self, connection: h1::ClientConnection, home: Rc<Home>) {
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
        let Some(ticket) = self.next_waiting() else {
            if self.retired.get() {
                drop(connection);
                return;
            }
            self.state.borrow_mut().idle.push(Idle { connection, home, since: Instant::now() });
            return;
        };
        let stream = ClientStream::H1(connection.start());
        let lease = Lease { stream, protocol: Protocol::Http11, local_address: home.local_address };
        ticket.serve(Ok(Box::new(lease)));
    }

    /// Gives streams to those that wait, as far as there is room on the connections at hand.
    pub(super) fn serve_waiting(&self) {
        while !self.state.borrow().waiting.is_empty() {
            let Some(lease) = self.take() else { return };
            // A dead connection that went meanwhile has taken nobody along.
            let Some(ticket) = self.next_waiting() else { return };
            ticket.serve(Ok(Box::new(lease)));
        }
    }

    /// A connection has ended, or was not made.
    pub(super) fn connection_gone(&self, cluster: &Rc<WorkerCluster>, reason: CloseReason, under_way: usize) {
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
        self.state.borrow_mut().open -= 1;
        self.leave_if_empty(cluster);
    }

    /// A pool without connections and without anybody who waits costs memory for nothing.
    fn leave_if_empty(&self, cluster: &WorkerCluster) {
        let empty = {
            let state = self.state.borrow();
            state.open == 0 && state.waiting.is_empty()
        };
        if empty && self.listed.replace(false) {
            cluster.unlist(&self.key);
        }
    }

    /// Closes the idle connections: the host has closed one that had been idle for no longer.
    pub fn close_idle(&self) {
        // What is dropped comes back to this pool, so the borrow ends before.
        let idle = std::mem::take(&mut self.state.borrow_mut().idle);
        drop(idle);
    }

    /// Ends, for another pool of its host to have its place, unless somebody uses it or waits.
    pub(super) fn make_room(&self) -> bool {
        {
            let state = self.state.borrow();
            let used = state.shared.iter().any(|shared| shared.connection.active() > 0);
            let at_rest = state.idle.len() + state.shared.len();
            if used || state.open != at_rest || !state.waiting.is_empty() {
                return false;
            }
        }
        drop(self.place.take());
        self.retire();
        if let Some(cluster) = self.cluster.upgrade()
            && self.listed.replace(false)
        {
            cluster.unlist(&self.key);
        }
        true
    }

    /// Closes what has nothing to do, now and from now on.
    pub(super) fn retire(&self) {
        self.retired.set(true);
        // What is dropped comes back to this pool, so the borrow ends before.
        let idle = std::mem::take(&mut self.state.borrow_mut().idle);
        let shared = std::mem::take(&mut self.state.borrow_mut().shared);
        drop((idle, shared));
        if let Some(cluster) = self.cluster.upgrade() {
            self.leave_if_empty(&cluster);
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

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
