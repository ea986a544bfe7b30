//! Threads that compute for the configuration. They give way to all others of the process, so they do nothing else, and
//! start no threads, which would inherit that. A panic on one is the end of the process, in debug builds as it is in
//! release builds anywhere: the configuration that it had in hand is half changed.

use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use tokio::sync::oneshot;

use crate::priority;

type Work = Box<dyn FnOnce() + Send>;

/// The threads. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Builders {
    /// Does a few milliseconds at a time, so that nothing waits for long.
    pub(crate) steps: Builder,
    /// Does what is one piece, however long it takes: reads a whole file, makes a route table of ten thousand routes.
    /// Gives way to the other.
    pub(crate) pieces: Builder,
}

impl Builders {
    pub(crate) fn start() -> std::io::Result<Self> {
        let steps = Builder::start("builder", priority::NICER)?;
        Ok(Builders { steps, pieces: Builder::start("builder:pieces", priority::NICER + 5)? })
    }
}

/// One such thread. Cheap to clone; the thread ends when the last one is dropped and its work is done.
#[derive(Clone, Debug)]
pub(crate) struct Builder {
    work: mpsc::Sender<Work>,
    /// Work that is not begun.
    waiting: Arc<AtomicUsize>,
}

impl Builder {
    /// Starts a thread of this name.
    fn start(name: &str, nicer: libc::c_int) -> std::io::Result<Self> {
        let (work, receive) = mpsc::channel::<Work>();
        let waiting = Arc::new(AtomicUsize::new(0));
        let taken = waiting.clone();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            priority::give_way(nicer);
            for work in receive {
                taken.fetch_sub(1, Ordering::Relaxed);
                if catch_unwind(AssertUnwindSafe(work)).is_err() {
                    std::process::abort();
                }
            }
        })?;
        Ok(Builder { work, waiting })
    }

    /// Does `work` on the thread, unless nobody waits for it any more when its turn comes.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = oneshot::channel();
        self.begin(move || {
            if !done.is_closed() {
                _ = done.send(work());
            }
        });
        match result.await {
            Ok(result) => result,
            // The process ends.
            Err(_) => pending().await,
        }
    }

    /// Has `work` done on the thread.
    pub(super) fn begin(&self, work: impl FnOnce() + Send + 'static) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // Fails only while the process ends.
        _ = self.work.send(Box::new(work));
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
        let builder = Builder::start("turns", 1).unwrap();
        assert!(builder.run(|| std::thread::current().name() == Some("turns")).await);
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
        assert_eq!(tokio::join!(first, second), (true, ()));
        assert!(!forgotten.load(Ordering::Relaxed), "nobody waited for it");
        assert!(!builder.has_waiting());
    }
}
