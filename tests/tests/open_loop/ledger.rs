//! Which requests were sent, and how often each of them reached an instance.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

/// More than any run sends.
const CAPACITY: usize = 1 << 20;

/// See the module.
pub(crate) struct Ledger {
    sent: AtomicUsize,
    seen: Vec<AtomicU8>,
}

/// What was sent and seen.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) sent: usize,
    pub(crate) missing: usize,
    pub(crate) repeated: usize,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Self { sent: AtomicUsize::new(0), seen: (0..CAPACITY).map(|_| AtomicU8::new(0)).collect() }
    }

    /// The id of the next request.
    pub(crate) fn next(&self) -> usize {
        self.sent.fetch_add(1, Ordering::Relaxed)
    }

    /// A request reached an instance.
    pub(crate) fn seen(&self, id: usize) {
        if let Some(count) = self.seen.get(id) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// After all have been answered.
    pub(crate) fn report(&self) -> Report {
        let sent = self.sent.load(Ordering::Relaxed);
        assert!(sent <= CAPACITY, "a run sends {sent} requests at most");
        let count =
            |test: fn(u8) -> bool| self.seen[..sent].iter().filter(|count| test(count.load(Ordering::Relaxed))).count();
        Report { sent, missing: count(|seen| seen == 0), repeated: count(|seen| seen > 1) }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { sent, missing, repeated } = self;
        write!(f, "instances: of {sent} requests {missing} never came, {repeated} came more than once")
    }
}
