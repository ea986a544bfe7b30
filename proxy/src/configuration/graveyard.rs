//! What has been replaced and may still be in use by a worker: a route table by a request, a cluster by a pool. To free
//! ten thousand clusters takes milliseconds, and a worker that happens to be the last one to let go shall not spend
//! them. So the configuration keeps each of them until nobody else does, and frees it beside the control thread: route
//! tables, each of which may be large, where large ones are made.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_engine::route::RouteTable;

use super::after;
use super::builder::Builder;

/// How long after a look the next one is. Workers let go when they hear of an exchange; a request may take longer.
const AGAIN: Duration = Duration::from_secs(1);

/// How long a part of the work takes, about.
const PART: Duration = Duration::from_millis(5);

/// See the module.
#[derive(Debug)]
pub(super) struct Graveyard {
    pieces: Builder,
    /// Not looked at yet.
    unseen: Vec<Arc<dyn Any + Send + Sync>>,
    /// In use when they were looked at.
    used: Vec<Arc<dyn Any + Send + Sync>>,
    /// When to look at those again; `None` where there are none.
    next: Option<Instant>,
}

impl Graveyard {
    /// Nothing is kept. `pieces` frees route tables.
    pub(super) fn new(pieces: Builder) -> Self {
        Graveyard { pieces, unseen: Vec::new(), used: Vec::new(), next: None }
    }

    /// Keeps `old`, of which nobody makes new references any more.
    pub(super) fn bury(&mut self, old: Arc<dyn Any + Send + Sync>) {
        self.unseen.push(old);
    }

    /// Whether there is something to look at.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        !self.unseen.is_empty() || self.next.is_some_and(|next| next <= now)
    }

    /// Frees what nobody uses, as much of it as a few milliseconds are enough for.
    pub(super) fn clear(&mut self, now: Instant) {
        if self.next.take_if(|next| *next <= now).is_some() {
            self.used.reverse();
            self.used.append(&mut self.unseen);
            self.unseen = std::mem::take(&mut self.used);
        }
        // What went last was in what went before it: a snapshot holds its clusters.
        while let Some(last) = self.unseen.pop() {
            match Arc::strong_count(&last) {
                1 if last.is::<RouteTable>() => self.pieces.begin(move || drop(last)),
                1 => drop(last),
                _ => self.used.push(last),
            }
            if now.elapsed() >= PART {
                break;
            }
        }
        if !self.used.is_empty() {
            self.next.get_or_insert(after(now, AGAIN));
        }
    }

    /// When there is something to look at again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::super::builder::Builders;
    use super::*;

    fn empty() -> Graveyard {
        Graveyard::new(Builders::start().unwrap().pieces)
    }

    /// Each part, however little it does on a busy machine.
    fn clear(old: &mut Graveyard, now: Instant) {
        while old.is_due(now) {
            old.clear(now);
        }
    }

    #[test]
    fn what_is_used_is_kept_until_it_is_not() {
        let (mut old, now) = (empty(), Instant::now());
        let (used, unused) = (Arc::new(1), Arc::new(2));
        let (weak_used, weak_unused) = (Arc::downgrade(&used), Arc::downgrade(&unused));
        old.bury(used.clone());
        old.bury(unused);
        clear(&mut old, now);
        assert!(weak_unused.upgrade().is_none() && weak_used.upgrade().is_some());
        assert_eq!(old.deadline(), Some(now + AGAIN));
        assert!(old.is_due(now + AGAIN));
        drop(used);
        clear(&mut old, now + AGAIN);
        assert!(weak_used.upgrade().is_none());
        assert_eq!(old.deadline(), None);
    }

    #[test]
    fn what_takes_long_to_free_leaves_the_rest_for_the_next_part() {
        struct Long;
        impl Drop for Long {
            fn drop(&mut self) {
                let begun = Instant::now();
                while begun.elapsed() < PART {
                    std::thread::yield_now();
                }
            }
        }
        let (mut old, rest) = (empty(), Arc::new(1));
        let weak = Arc::downgrade(&rest);
        old.bury(rest);
        old.bury(Arc::new(Long));
        let now = Instant::now();
        old.clear(now);
        assert!(weak.upgrade().is_some() && old.is_due(now));
        old.clear(Instant::now());
        assert!(weak.upgrade().is_none() && !old.is_due(now));
    }
}
