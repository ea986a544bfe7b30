//! Moving bytes between two sockets inside the kernel, through a pipe, for directions that keep our buffer full.

use std::cell::RefCell;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;

use crate::io::Io;

/// Bytes that a pipe holds. Larger than the kernel's 64 KiB, within what an unprivileged process may ask for.
const PIPE_BYTES: usize = 256 << 10;
/// Empty pipes that a worker keeps.
const CACHED_PIPES: usize = 16;

thread_local! {
    static CACHE: RefCell<Vec<(OwnedFd, OwnedFd)>> = const { RefCell::new(Vec::new()) };
}

/// A pipe, from this worker's cache, to which it returns if it is empty.
#[derive(Debug)]
pub(super) struct Pipe {
    ends: ManuallyDrop<(OwnedFd, OwnedFd)>,
    filled: usize,
}

impl Pipe {
    /// # Errors
    ///
    /// Descriptors have run out.
    pub(super) fn new() -> io::Result<Self> {
        let cached = CACHE.with_borrow_mut(Vec::pop);
        let ends = match cached {
            Some(ends) => ends,
            None => {
                let ends = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
                // The user's pages may have run out: 64 KiB are good enough.
                let _ = fcntl_setpipe_size(&ends.1, PIPE_BYTES);
                ends
            }
        };
        Ok(Pipe { ends: ManuallyDrop::new(ends), filled: 0 })
    }

    /// Whether all that came in has gone out.
    pub(super) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Takes what `from` has; to be called with an empty pipe. 0 at the end of the stream.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, from: &Io) -> Poll<io::Result<usize>> {
        let n = ready!(poll_io(cx, from, Interest::READABLE, |socket| {
            splice(socket, None, &self.ends.1, None, PIPE_BYTES, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)
        }))?;
        from.count_read(n);
        self.filled += n;
        Poll::Ready(Ok(n))
    }

    /// Gives `to` what is in the pipe, as much as it takes.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>, to: &Io) -> Poll<io::Result<usize>> {
        let n = ready!(poll_io(cx, to, Interest::WRITABLE, |socket| {
            splice(&self.ends.0, None, socket, None, self.filled, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)
        }))?;
        to.count_written(n);
        self.filled = self.filled.saturating_sub(n);
        Poll::Ready(Ok(n))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // SAFETY: `ends` is taken here only, and `self` is not used again.
        let ends = unsafe { ManuallyDrop::take(&mut self.ends) };
        if self.filled == 0 {
            // At the end of the thread the cache may be gone already.
            let _ = CACHE.try_with(|cache| {
                let mut cache = cache.borrow_mut();
                if cache.len() < CACHED_PIPES {
                    cache.push(ends);
                }
            });
        }
    }
}

/// Whether both are plain sockets, metered or not.
pub(super) fn is_possible(a: &Io, b: &Io) -> bool {
    let plain = |io: &Io| matches!(io.beneath(), Io::Tcp(_) | Io::Unix(_));
    plain(a) && plain(b)
}

fn poll_io(
    cx: &mut Context<'_>,
    io: &Io,
    interest: Interest,
    mut call: impl FnMut(BorrowedFd<'_>) -> rustix::io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        let result = match io.beneath() {
            Io::Tcp(socket) => {
                ready!(if interest.is_readable() { socket.poll_read_ready(cx) } else { socket.poll_write_ready(cx) })?;
                socket.try_io(interest, || Ok(call(socket.as_fd())?))
            }
            Io::Unix(socket) => {
                ready!(if interest.is_readable() { socket.poll_read_ready(cx) } else { socket.poll_write_ready(cx) })?;
                socket.try_io(interest, || Ok(call(socket.as_fd())?))
            }
            Io::Pipe(_) | Io::Pumped(_) | Io::Tls(_) | Io::Rewound(_) | Io::Metered(_) => {
                Err(io::ErrorKind::Unsupported.into())
            }
        };
        match result {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            result => return Poll::Ready(result),
        }
    }
}
