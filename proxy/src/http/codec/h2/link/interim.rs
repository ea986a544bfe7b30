//! 1xx heads that wait to be written. The crate queues as many as it is given, and no window of the client's holds them
//! back: a host that sends them without end, to a client that reads none, would fill our memory.

use std::cell::RefCell;
use std::task::{Context, Poll, Waker};

/// Heads of one stream that may wait: more than come at a time.
const MAX_WAITING: usize = 8;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Interim(RefCell<Vec<Stream>>);

/// A stream that has heads waiting.
#[derive(Debug)]
struct Stream {
    id: u32,
    waiting: usize,
    waker: Option<Waker>,
}

impl Interim {
    /// The crate has been given one of `stream`.
    pub(super) fn given(&self, stream: u32) {
        let mut streams = self.0.borrow_mut();
        match streams.iter_mut().find(|s| s.id == stream) {
            Some(stream) => stream.waiting = stream.waiting.saturating_add(1),
            None => streams.push(Stream { id: stream, waiting: 1, waker: None }),
        }
    }

    /// Ready when there is room for another one of `stream`.
    pub(super) fn poll_room(&self, stream: u32, cx: &mut Context<'_>) -> Poll<()> {
        match self.0.borrow_mut().iter_mut().find(|s| s.id == stream) {
            Some(full) if full.waiting >= MAX_WAITING => {
                full.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// The transport has taken a head of `stream`: the oldest that waits, and a final one after all of them.
    pub(super) fn written(&self, stream: u32) {
        let mut streams = self.0.borrow_mut();
        let Some(at) = streams.iter().position(|s| s.id == stream) else { return };
        let Some(written) = streams.get_mut(at) else { return };
        written.waiting = written.waiting.saturating_sub(1);
        let waker = written.waker.take();
        if written.waiting == 0 {
            streams.swap_remove(at);
        }
        drop(streams);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// `stream` is over: what waited may never be written.
    pub(super) fn forget(&self, stream: u32) {
        self.0.borrow_mut().retain(|s| s.id != stream);
    }
}
