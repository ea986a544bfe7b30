//! The requests that wait for a connection of a pool, in the order in which they came.
//!
//! A request's place in the breaker of pending requests is the request's own, not the queue's: it goes at once when the
//! request is served or gives up, so that the breaker never counts somebody who no longer waits.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use outrigger_engine::resilience::breaker::Guard;

use super::pool::{HostPool, Lease, PoolError};
use crate::telemetry::stats::ClusterStats;

type Outcome = Result<Box<Lease>, PoolError>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    tickets: VecDeque<Rc<Ticket>>,
    /// Tickets whose holders still wait.
    live: usize,
}

impl Queue {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.live
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// One more, behind all others.
    pub(super) fn push(&mut self, guard: Guard, stats: &Arc<ClusterStats>) -> Rc<Ticket> {
        let counted = Counted::new(stats);
        let ticket = Rc::new(Ticket(RefCell::new(Place::Waits { _counted: counted, _guard: guard, waker: None })));
        self.tickets.push_back(ticket.clone());
        self.live += 1;
        ticket
    }

    /// The one that has waited longest, to be served.
    pub(super) fn pop(&mut self) -> Option<Rc<Ticket>> {
        while let Some(ticket) = self.tickets.pop_front() {
            if ticket.waits() {
                self.live -= 1;
                return Some(ticket);
            }
        }
        None
    }

    /// One has given up. Its ticket goes when it comes to the front, or when most are such.
    fn left(&mut self) {
        self.live -= 1;
        if self.tickets.len() > 2 * self.live + 8 {
            self.tickets.retain(|ticket| ticket.waits());
        }
    }
}

/// A place in the queue.
#[derive(Debug)]
pub(super) struct Ticket(RefCell<Place>);

#[derive(Debug)]
enum Place {
    Waits { _counted: Counted, _guard: Guard, waker: Option<Waker> },
    Served(Outcome),
    Left,
}

/// One of `upstream_rq_pending_active`.
#[derive(Debug)]
struct Counted(Arc<ClusterStats>);

impl Counted {
    fn new(stats: &Arc<ClusterStats>) -> Self {
        stats.upstream_rq_pending_active.inc();
        Counted(stats.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.upstream_rq_pending_active.dec();
    }
}

impl Ticket {
    fn waits(&self) -> bool {
        matches!(*self.0.borrow(), Place::Waits { .. })
    }

    /// Hands out what was waited for.
    pub(super) fn serve(&self, outcome: Outcome) {
        if let Place::Waits { waker: Some(waker), .. } = self.0.replace(Place::Served(outcome)) {
            waker.wake();
        }
    }
}

/// A request that waits: ready with its stream, or with why there is none. Dropping it leaves the queue.
#[derive(Debug)]
#[must_use]
pub struct Waiting {
    ticket: Rc<Ticket>,
    pool: Rc<HostPool>,
}

impl Waiting {
    pub(super) fn new(ticket: Rc<Ticket>, pool: Rc<HostPool>) -> Self {
        Waiting { ticket, pool }
    }
}

impl Future for Waiting {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut place = self.ticket.0.borrow_mut();
        match &mut *place {
            Place::Waits { waker, .. } => {
                if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                return Poll::Pending;
            }
            // Polled again after its end.
            Place::Left => return Poll::Pending,
            Place::Served(_) => {}
        }
        match std::mem::replace(&mut *place, Place::Left) {
            Place::Served(outcome) => Poll::Ready(outcome),
            Place::Waits { .. } | Place::Left => Poll::Pending,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // A stream that nobody took goes back to its pool, which may ask for the ticket: it is not borrowed then.
        let place = self.ticket.0.replace(Place::Left);
        if matches!(place, Place::Waits { .. }) {
            drop(place);
            self.pool.waiter_left(Queue::left);
        }
    }
}
