//! What the services know of the connection that a request came over, and a way to end it: a response that the client
//! does not read stays in the transport, where no service reaches it any more.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::serve::Requests;

/// The connection of a request, among its extensions.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// Where it comes from; `None` over a socket file.
    pub(crate) address: Option<SocketAddr>,
    /// Ends it.
    pub(crate) cut: Cut,
    /// What it asks for.
    pub(crate) requests: Arc<Requests>,
    /// How far its responses have got.
    pub(crate) progress: Progress,
}

/// Counts how often the transport asked for more of any response of a connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<AtomicU64>);

impl Progress {
    /// It asked once more: so often by now.
    pub(crate) fn asked(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// How often it has asked.
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Ends a connection, with all that goes on over it; or, among the extensions of a response, that one alone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cut(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    is_cut: bool,
    task: Option<Waker>,
}

impl Cut {
    /// Ends it. `false` where somebody has done so.
    pub(crate) fn cut(&self) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let task = state.task.take();
        let first = !std::mem::replace(&mut state.is_cut, true);
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
        first
    }

    /// Whether it is ended. If not, the task that asks is woken when it is.
    pub(crate) fn poll(&self, context: &Context<'_>) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut state.task {
            Some(task) => task.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        state.is_cut
    }

    /// Waits until it is ended. One task at a time.
    pub(crate) async fn ended(&self) {
        let poll = |context: &mut Context<'_>| if self.poll(context) { Poll::Ready(()) } else { Poll::Pending };
        std::future::poll_fn(poll).await;
    }
}
