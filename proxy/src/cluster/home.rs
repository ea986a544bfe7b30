//! What a connection holds of its pool: it goes with the connection, and settles its accounts.

use std::cell::Cell;
use std::rc::{Rc, Weak};

use outrigger_engine::resilience::breaker::Guard;
use tokio::time::Instant;

use super::WorkerCluster;
use super::pool::HostPool;
use crate::http::codec::{CloseReason, Owner, ResetBy, h1};

/// See the module.
#[derive(Debug)]
pub(super) struct Home {
    me: Weak<Home>,
    pool: Rc<HostPool>,
    /// It lives at least as long as its connections, to keep account of them. What idles is closed when the cluster
    /// leaves, so the circle ends.
    cluster: Rc<WorkerCluster>,
    /// Its place among the connections, until it is dropped.
    guard: Option<Guard>,
    started: Instant,
    /// Our end.
    pub(super) local_address: Option<std::net::SocketAddr>,
    http2: bool,
    reason: Cell<CloseReason>,
    under_way: Cell<usize>,
}

impl Home {
    /// The home of a connection that was begun at `started` and is there now.
    pub(super) fn new(
        pool: Rc<HostPool>,
        cluster: Rc<WorkerCluster>,
        guard: Guard,
        started: Instant,
        local_address: Option<std::net::SocketAddr>,
        http2: bool,
    ) -> Rc<Self> {
        Rc::new_cyclic(|me| Home {
            me: me.clone(),
            pool,
            cluster,
            guard: Some(guard),
            started,
            local_address,
            http2,
            reason: Cell::new(CloseReason::Local),
            under_way: Cell::new(0),
        })
    }
}

impl Owner for Home {
    fn idle(&self, connection: h1::ClientConnection) {
        if let Some(home) = self.me.upgrade() {
            self.pool.give(connection, home);
        }
    }

    fn room(&self) {
        self.pool.serve_waiting();
    }

    fn draining(&self) {
        self.pool.serve_waiting();
        self.pool.connect_if_needed(&self.cluster);
    }

    fn closed(&self, reason: CloseReason, under_way: usize) {
        self.reason.set(reason);
        self.under_way.set(under_way);
        // Envoy's name for streams that go with their connection, whoever ends it.
        if self.http2 {
            for _ in 0..under_way {
                self.cluster.stats.upstream_rq_pending_failure_eject.inc();
            }
        }
    }

    fn reset(&self, by: ResetBy) {
        match by {
            ResetBy::Us => self.cluster.stats.upstream_rq_tx_reset.inc(),
            ResetBy::Peer => self.cluster.stats.upstream_rq_rx_reset.inc(),
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
