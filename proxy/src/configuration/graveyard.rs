//! What has been replaced and may still be in use by a worker: a route table by a request, a cluster by a pool. To free
//! ten thousand clusters takes milliseconds, and a worker that happens to be the last one to let go shall not spend
//! them. So the configuration keeps each of them until nobody else does, and frees it beside the control thread.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long after a look the next one is. Workers let go when they hear of an exchange; a request may take longer.
const AGAIN: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Graveyard {
    kept: Vec<Arc<dyn Any + Send + Sync>>,
    /// When to look again; `None` where nothing is kept.
    next: Option<Instant>,
}

impl Graveyard {
    /// Keeps `old`, of which nobody makes new references any more.
    pub(super) fn bury(&mut self, old: Arc<dyn Any + Send + Sync>) {
        self.kept.push(old);
    }

    /// Frees what nobody uses.
    pub(super) fn clear(&mut self, now: Instant) {
        if self.kept.is_empty() {
            return;
        }
        // What went last was in what went before it: a snapshot holds its clusters.
        while let Some(last) = self.kept.pop_if(|last| Arc::strong_count(last) == 1) {
            drop(last);
        }
        self.kept.retain(|old| Arc::strong_count(old) > 1);
        self.next = (!self.kept.is_empty()).then(|| now + AGAIN);
    }

    /// When there is something to look at again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_kept_until_it_is_not() {
        let (mut old, now) = (Graveyard::default(), Instant::now());
        let (used, unused) = (Arc::new(1), Arc::new(2));
        let (weak_used, weak_unused) = (Arc::downgrade(&used), Arc::downgrade(&unused));
        old.bury(used.clone());
        old.bury(unused);
        old.clear(now);
        assert!(weak_unused.upgrade().is_none() && weak_used.upgrade().is_some());
        assert_eq!(old.deadline(), Some(now + AGAIN));
        drop(used);
        old.clear(now + AGAIN);
        assert!(weak_used.upgrade().is_none());
        assert_eq!(old.deadline(), None);
    }
}
