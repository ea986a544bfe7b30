//! The thread that computes for the configuration task. It has a lower priority than all others, and does nothing else:
//! what answers an operator must not wait for a machine that is idle.

use std::sync::mpsc;

use tokio::sync::oneshot;

use crate::priority;

type Work = Box<dyn FnOnce() + Send>;

/// See the module. The thread ends when this is dropped and its work is done.
#[derive(Debug)]
pub(super) struct Builder(mpsc::Sender<Work>);

impl Builder {
    /// Starts the thread.
    pub(super) fn start() -> std::io::Result<Self> {
        let (send, receive) = mpsc::channel::<Work>();
        std::thread::Builder::new().name("builder".to_owned()).spawn(move || {
            priority::lower();
            receive.into_iter().for_each(|work| work());
        })?;
        Ok(Builder(send))
    }

    /// Does `work` on the thread. `None` where this or earlier work panicked.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (done, result) = oneshot::channel();
        // Nobody waits for it while the process ends.
        self.0.send(Box::new(move || _ = done.send(work()))).ok()?;
        result.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_in_turn_and_a_panic_is_the_end_of_it() {
        let builder = Builder::start().unwrap();
        assert_eq!(builder.run(|| std::thread::current().name() == Some("builder")).await, Some(true));
        assert_eq!(builder.run(|| panic!("a test's")).await, None::<()>);
        assert_eq!(builder.run(|| 1).await, None);
    }
}
