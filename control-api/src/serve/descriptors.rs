//! Every connection is a descriptor of the process. Where the system has none left, `accept` fails at once and the
//! connection stays in the queue, so whoever asks again at once spins.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::time::{Sleep, sleep};

use crate::log::BOUNDED;

/// How long nothing is accepted after it failed.
const PAUSE: Duration = Duration::from_millis(100);

/// Takes as many descriptors as the process may have: systems start programs with 1,024, for those that call `select`.
pub(super) fn raise_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("the limit of file descriptors stays as it is: {error}");
    }
}

/// How many the process may have.
pub(super) fn limit() -> usize {
    getrlimit(Resource::Nofile).current.and_then(|limit| limit.try_into().ok()).unwrap_or(usize::MAX)
}

/// Waits after an `accept` that failed, and says so once until one succeeds.
#[derive(Debug, Default)]
pub(crate) struct BackOff {
    pause: Option<Pin<Box<Sleep>>>,
    warned: bool,
}

impl BackOff {
    /// What `accept` has, once it has something.
    pub(super) fn poll_accept<T>(
        &mut self,
        context: &mut Context<'_>,
        mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<T> {
        loop {
            if let Some(pause) = &mut self.pause {
                std::task::ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            match std::task::ready!(accept(context)) {
                Ok(accepted) => {
                    self.warned = false;
                    return Poll::Ready(accepted);
                }
                // Of the connection, which its client gave up before it was accepted.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
                Err(error) => {
                    if !std::mem::replace(&mut self.warned, true) {
                        tracing::warn!(
                            target: BOUNDED,
                            "no connection can be accepted ({error}); tried again every {PAUSE:?}"
                        );
                    }
                    self.pause = Some(Box::pin(sleep(PAUSE)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;

    use tokio::time::Instant;

    use super::*;

    fn error(number: i32) -> io::Result<u32> {
        Err(io::Error::from_raw_os_error(number))
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_accepted_is_waited_for() {
        let mut queue =
            VecDeque::from([Ok(1), error(libc::EMFILE), error(libc::ECONNABORTED), error(libc::ENFILE), Ok(2)]);
        let (mut back_off, mut accepted) = (BackOff::default(), Vec::new());
        let began = Instant::now();
        while !queue.is_empty() {
            let next = poll_fn(|context| back_off.poll_accept(context, |_| Poll::Ready(queue.pop_front().unwrap())));
            accepted.push(next.await);
        }
        assert_eq!(accepted, [1, 2]);
        assert_eq!(began.elapsed(), 2 * PAUSE);
        assert!(!back_off.warned, "the next time is told again");
    }
}
