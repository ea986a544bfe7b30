//! The thread that computes for the configuration. It gives way to all others of the process, so it does nothing else, and
//! starts no threads, which would inherit that.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use tokio::sync::oneshot;

use crate::priority;

type Work = Box<dyn FnOnce() + Send>;

/// See the module. Cheap to clone; the thread ends when the last one is dropped and its work is done.
#[derive(Clone, Debug)]
pub(crate) struct Builder {
    work: mpsc::Sender<Work>,
    /// Work that is not begun.
    waiting: Arc<AtomicUsize>,
}

impl Builder {
    /// Starts the thread.
    pub(crate) fn start() -> std::io::Result<Self> {
        let (work, receive) = mpsc::channel::<Work>();
        let waiting = Arc::new(AtomicUsize::new(0));
        let taken = waiting.clone();
        std::thread::Builder::new().name("builder".to_owned()).spawn(move || {
            priority::give_way();
            for work in receive {
                taken.fetch_sub(1, Ordering::Relaxed);
                work();
            }
        })?;
        Ok(Builder { work, waiting })
    }

    /// Does `work` on the thread. `None` where this or earlier work panicked.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (done, result) = oneshot::channel();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // Nobody waits for it while the process ends.
        self.work.send(Box::new(move || _ = done.send(work()))).ok()?;
        result.await.ok()
    }

    /// Whether there is other work to do than what is being done.
    pub(super) fn has_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_in_turn_and_a_panic_is_the_end_of_it() {
        let builder = Builder::start().unwrap();
        assert_eq!(builder.run(|| std::thread::current().name() == Some("builder")).await, Some(true));
        let (begun, end) = (Arc::new(std::sync::Barrier::new(2)), Arc::new(std::sync::Barrier::new(2)));
        let (begins, ends, waits) = (begun.clone(), end.clone(), builder.clone());
        let first = builder.run(move || {
            begins.wait();
            ends.wait();
            waits.has_waiting()
        });
        let second = async {
            begun.wait();
            assert!(!builder.has_waiting());
            let mut second = std::pin::pin!(builder.run(|| ()));
            tokio::select! {
                biased;
                _ = &mut second => panic!("done before its turn"),
                () = std::future::ready(()) => assert!(builder.has_waiting()),
            }
            end.wait();
            second.await
        };
        assert_eq!(tokio::join!(first, second), (Some(true), Some(())));
        assert_eq!(builder.run(|| panic!("a test's")).await, None::<()>);
        assert_eq!(builder.run(|| 1).await, None);
    }
}
