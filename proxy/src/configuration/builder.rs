//! Threads that compute for the configuration. They give way to all others of the process, so they do nothing else, and
//! start no threads, which would inherit that.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use tokio::sync::oneshot;

use crate::priority;

type Work = Box<dyn FnOnce() + Send>;

/// One such thread. Cheap to clone; the thread ends when the last one is dropped and its work is done.
#[derive(Clone, Debug)]
pub(crate) struct Builder {
    work: mpsc::Sender<Work>,
    /// Work that is not begun.
    waiting: Arc<AtomicUsize>,
}

impl Builder {
    /// Starts a thread of this name.
    pub(crate) fn start(name: &str) -> std::io::Result<Self> {
        let (work, receive) = mpsc::channel::<Work>();
        let waiting = Arc::new(AtomicUsize::new(0));
        let taken = waiting.clone();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            priority::give_way();
            for work in receive {
                taken.fetch_sub(1, Ordering::Relaxed);
                // What it was to change is lost with it, and who waits for it hears of that.
                _ = catch_unwind(AssertUnwindSafe(work));
            }
        })?;
        Ok(Builder { work, waiting })
    }

    /// Does `work` on the thread, unless nobody waits for it any more when its turn comes. `None` where it panicked.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (done, result) = oneshot::channel();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let work = move || {
            if !done.is_closed() {
                _ = done.send(work());
            }
        };
        self.work.send(Box::new(work)).ok()?;
        result.await.ok()
    }

    /// Whether there is other work to do than what is being done.
    pub(super) fn has_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[tokio::test]
    async fn work_is_done_in_turn_and_only_where_somebody_waits_for_it() {
        let builder = Builder::start("turns").unwrap();
        assert_eq!(builder.run(|| std::thread::current().name() == Some("turns")).await, Some(true));
        let (begun, end) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
        let (begins, ends, waits) = (begun.clone(), end.clone(), builder.clone());
        let first = builder.run(move || {
            begins.wait();
            ends.wait();
            waits.has_waiting()
        });
        let forgotten = Arc::new(AtomicBool::new(false));
        let does = forgotten.clone();
        let second = async {
            begun.wait();
            assert!(!builder.has_waiting());
            let mut dropped = Box::pin(builder.run(move || does.store(true, Ordering::Relaxed)));
            let mut second = Box::pin(builder.run(|| ()));
            tokio::select! {
                biased;
                _ = &mut dropped => panic!("done before its turn"),
                _ = &mut second => panic!("done before its turn"),
                () = std::future::ready(()) => assert!(builder.has_waiting()),
            }
            drop(dropped);
            end.wait();
            second.await
        };
        assert_eq!(tokio::join!(first, second), (Some(true), Some(())));
        assert!(!forgotten.load(Ordering::Relaxed), "nobody waited for it");
        assert!(!builder.has_waiting());
    }

    #[tokio::test]
    async fn a_panic_is_the_end_of_that_work_and_of_no_other() {
        let builder = Builder::start("panics").unwrap();
        assert_eq!(builder.run(|| panic!("a test's")).await, None::<()>);
        assert_eq!(builder.run(|| 1).await, Some(1));
    }
}
