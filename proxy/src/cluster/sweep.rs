//! The look-out over idle connections: those that the peer closed, and those that were idle for too long or are too
//! old, go. A worker has one timer for all its clusters, which runs as long as one of them has a connection: a proxy of
//! two thousand quiet clusters wakes twice a second, not four thousand times.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::task::{spawn_local, unconstrained, yield_now};
use tokio::time::sleep;

use super::WorkerCluster;

/// How often.
const INTERVAL: Duration = Duration::from_millis(500);

/// After so many clusters it is the turn of requests.
const AT_A_STRETCH: usize = 32;

/// See the module. One for each worker.
#[derive(Debug, Default)]
pub(crate) struct Sweeper {
    clusters: RefCell<Vec<Weak<WorkerCluster>>>,
    running: Cell<bool>,
}

impl Sweeper {
    /// Looks at `cluster` from now on, until it has no connection.
    pub(super) fn watch(self: &Rc<Self>, cluster: &Rc<WorkerCluster>) {
        self.clusters.borrow_mut().push(Rc::downgrade(cluster));
        if !self.running.replace(true) {
            // To look at a connection spends of what tokio grants a task, and one that was not looked at would pass for
            // alive.
            spawn_local(unconstrained(self.clone().run()));
        }
    }

    async fn run(self: Rc<Self>) {
        while !self.clusters.borrow().is_empty() {
            sleep(INTERVAL).await;
            let clusters = self.clusters.take();
            let mut kept = Vec::with_capacity(clusters.len());
            for (index, cluster) in clusters.into_iter().enumerate() {
                if cluster.upgrade().is_some_and(|cluster| cluster.sweep()) {
                    kept.push(cluster);
                }
                if index % AT_A_STRETCH == AT_A_STRETCH - 1 {
                    yield_now().await;
                }
            }
            // With those that came meanwhile.
            self.clusters.borrow_mut().append(&mut kept);
        }
        self.running.set(false);
    }
}
