//! Two connections joined: what one side sends, the other gets. TCP proxies and HTTP upgrades end up here.
//!
//! The two directions are independent: a FIN passes when everything before it has passed, and the other direction goes
//! on. A reset passes as a reset. Bytes go through one buffer for each worker, borrowed within a poll; only what a slow
//! reader leaves over is kept by the tunnel, and nothing more is read then. A direction that fills the buffer again and
//! again changes to `splice(2)`, until it has nothing to read.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::splice::{self, Pipe};
use crate::alarm::Alarm;
use crate::io::Io;
use crate::worker::{LocalEvent, Registration};

/// Bytes read at a time.
const BUFFER: usize = 64 << 10;
/// Reads that fill the buffer, one after the other, before a direction changes to `splice(2)`.
const FULL_READS: u32 = 4;
/// Reads before other tasks get their turn.
const READS_PER_POLL: u32 = 16;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

/// The tunnel between two connections, `a` and `b`. A future of how it ended; both are closed when it is dropped.
#[derive(Debug)]
#[must_use = "nothing moves unless it is polled"]
pub struct Tunnel {
    a: Io,
    b: Io,
    a_to_b: Direction,
    b_to_a: Direction,
    a_ended_first: bool,
    idle: Option<Duration>,
    deadline: Option<Instant>,
    active: Instant,
    alarm: Alarm,
    end: Option<Rc<LocalEvent>>,
    registration: Option<Registration>,
}

/// What passed, and why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Bytes read from `a`.
    pub from_a: u64,
    /// Bytes read from `b`.
    pub from_b: u64,
    /// Why.
    pub cause: Cause,
}

/// Why a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Both sides have sent their FIN, `a` the later one.
    FinishedByA,
    /// Both sides have sent their FIN, `b` the later one.
    FinishedByB,
    /// `a` was reset, or broke; so was `b`.
    ResetByA,
    /// `b` was reset, or broke; so was `a`.
    ResetByB,
    /// Nothing moved for the idle timeout.
    Idle,
    /// The deadline has come.
    Deadline,
    /// Its filter chain has drained for long enough.
    Drained,
}

impl Tunnel {
    /// Joins `a` and `b`. The buffered bytes were read from their connection before, and go first.
    pub fn new(a: Io, a_buffered: Bytes, b: Io, b_buffered: Bytes) -> Self {
        Tunnel {
            a_to_b: Direction::new(a_buffered, splice::is_possible(&a, &b)),
            b_to_a: Direction::new(b_buffered, splice::is_possible(&a, &b)),
            a,
            b,
            a_ended_first: false,
            idle: None,
            deadline: None,
            active: Instant::now(),
            alarm: Alarm::default(),
            end: None,
            registration: None,
        }
    }

    /// Ends when neither direction has moved a byte for so long, half-closed or not.
    pub fn idle_timeout(mut self, idle: Option<Duration>) -> Self {
        self.idle = idle;
        self
    }

    /// Ends at this time, whatever moves.
    pub fn deadline(mut self, deadline: Option<Instant>) -> Self {
        self.deadline = deadline;
        self
    }

    /// Bytes read from `a` and from `b` so far.
    pub fn moved(&self) -> (u64, u64) {
        (self.a_to_b.moved, self.b_to_a.moved)
    }

    /// Ends when `end` is set: the filter chain has drained for long enough.
    pub fn drained_by(mut self, end: &Rc<LocalEvent>) -> Self {
        self.end = Some(end.clone());
        self
    }

    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        if let Some(end) = &self.end {
            if end.is_set() {
                return Poll::Ready(Cause::Drained);
            }
            self.registration.get_or_insert_with(|| end.register(cx.waker()));
        }
        let idle_at = self.idle.map(|idle| self.active + idle);
        let next = [idle_at, self.deadline].into_iter().flatten().min();
        ready!(self.alarm.poll(cx, next));
        Poll::Ready(if next == self.deadline { Cause::Deadline } else { Cause::Idle })
    }

    fn ended(&self, cause: Cause) -> Ended {
        match cause {
            Cause::ResetByA => reset_on_close(&self.b),
            Cause::ResetByB => reset_on_close(&self.a),
            Cause::FinishedByA | Cause::FinishedByB | Cause::Idle | Cause::Deadline | Cause::Drained => {}
        }
        Ended { from_a: self.a_to_b.moved, from_b: self.b_to_a.moved, cause }
    }
}

impl Future for Tunnel {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let me = self.get_mut();
        let mut progress = false;
        let up = me.a_to_b.poll(cx, &mut me.a, &mut me.b, &mut progress);
        let down = me.b_to_a.poll(cx, &mut me.b, &mut me.a, &mut progress);
        let cause = match (up, down) {
            (Poll::Ready(Err(Side::From)), _) | (_, Poll::Ready(Err(Side::To))) => Cause::ResetByA,
            (Poll::Ready(Err(Side::To)), _) | (_, Poll::Ready(Err(Side::From))) => Cause::ResetByB,
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) if me.a_ended_first => Cause::FinishedByB,
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Cause::FinishedByA,
            _ => {
                me.a_ended_first = me.a_to_b.has_ended() && (me.a_ended_first || !me.b_to_a.has_ended());
                if progress {
                    me.active = Instant::now();
                }
                ready!(me.poll_alarm(cx))
            }
        };
        Poll::Ready(me.ended(cause))
    }
}

/// The end of a direction that broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    From,
    To,
}

/// One direction.
#[derive(Debug)]
struct Direction {
    /// Read, and not yet written.
    pending: Bytes,
    moved: u64,
    state: State,
    /// Reads in a row that filled the buffer.
    full_reads: u32,
    can_splice: bool,
    pipe: Option<Pipe>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Bytes move.
    Open,
    /// Bytes were written that may wait in a TLS session.
    Unflushed,
    /// FIN was read; it passes when `pending` has.
    Closing,
    /// FIN was written.
    Closed,
}

impl Direction {
    fn new(buffered: Bytes, can_splice: bool) -> Self {
        let moved = buffered.len() as u64;
        Direction { pending: buffered, moved, state: State::Open, full_reads: 0, can_splice, pipe: None }
    }

    /// Whether FIN was read.
    fn has_ended(&self) -> bool {
        matches!(self.state, State::Closing | State::Closed)
    }

    /// Moves what can be moved. Ready when the FIN has passed, or with the side that broke.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Io,
        to: &mut Io,
        progress: &mut bool,
    ) -> Poll<Result<(), Side>> {
        for _ in 0..READS_PER_POLL {
            while !self.pending.is_empty() {
                match ready!(Pin::new(&mut *to).poll_write(cx, &self.pending)) {
                    Ok(n @ 1..) => {
                        *progress = true;
                        self.pending.advance(n);
                    }
                    _ => return Poll::Ready(Err(Side::To)),
                }
                self.state = if self.state == State::Closing { State::Closing } else { State::Unflushed };
            }
            match self.state {
                State::Closed => return Poll::Ready(Ok(())),
                State::Closing => {
                    // It fails where the peer has gone meanwhile: then its own direction says so.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    *progress = true;
                    self.state = State::Closed;
                    return Poll::Ready(Ok(()));
                }
                State::Open | State::Unflushed => {}
            }
            if self.pipe.is_none() && self.full_reads >= FULL_READS && self.can_splice {
                self.pipe = Pipe::new().ok();
                self.can_splice = self.pipe.is_some();
            }
            let moved = if self.pipe.is_some() {
                self.poll_splice(cx, from, to, progress)
            } else {
                self.poll_copy(cx, from, to, progress)
            };
            match moved {
                Poll::Ready(Ok(true)) => self.state = State::Closing,
                Poll::Ready(Ok(false)) => {}
                Poll::Ready(Err(side)) => return Poll::Ready(Err(side)),
                Poll::Pending => {
                    if self.state == State::Unflushed && self.pending.is_empty() {
                        match ready!(Pin::new(&mut *to).poll_flush(cx)) {
                            Ok(()) => self.state = State::Open,
                            Err(_) => return Poll::Ready(Err(Side::To)),
                        }
                    }
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads once into the worker's buffer and writes from there. `true` at the end of the stream.
    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Io,
        to: &mut Io,
        progress: &mut bool,
    ) -> Poll<Result<bool, Side>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buf = ReadBuf::new(scratch);
            match ready!(Pin::new(from).poll_read(cx, &mut buf)) {
                Ok(()) => {}
                // TLS without close_notify: the transport has ended all the same.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Poll::Ready(Ok(true)),
                Err(_) => return Poll::Ready(Err(Side::From)),
            }
            let mut read: &[u8] = buf.filled();
            if read.is_empty() {
                return Poll::Ready(Ok(true));
            }
            *progress = true;
            self.moved = self.moved.saturating_add(read.len() as u64);
            self.full_reads = if read.len() == BUFFER { self.full_reads + 1 } else { 0 };
            self.state = State::Unflushed;
            while !read.is_empty() {
                match Pin::new(&mut *to).poll_write(cx, read) {
                    Poll::Ready(Ok(n @ 1..)) => read = read.get(n..).unwrap_or_default(),
                    Poll::Ready(_) => return Poll::Ready(Err(Side::To)),
                    Poll::Pending => {
                        self.pending = Bytes::copy_from_slice(read);
                        return Poll::Pending;
                    }
                }
            }
            Poll::Ready(Ok(false))
        })
    }

    /// The same, inside the kernel. The pipe goes when there is nothing to read.
    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        from: &Io,
        to: &Io,
        progress: &mut bool,
    ) -> Poll<Result<bool, Side>> {
        let Some(pipe) = &mut self.pipe else { return Poll::Ready(Ok(false)) };
        if pipe.is_empty() {
            match pipe.poll_fill(cx, from) {
                Poll::Ready(Ok(0)) => {
                    self.pipe = None;
                    return Poll::Ready(Ok(true));
                }
                Poll::Ready(Ok(n)) => self.moved = self.moved.saturating_add(n as u64),
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => {
                    // A kind of socket that cannot.
                    self.can_splice = false;
                    self.pipe = None;
                    return Poll::Ready(Ok(false));
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Side::From)),
                Poll::Pending => {
                    self.full_reads = 0;
                    self.pipe = None;
                    return Poll::Pending;
                }
            }
            *progress = true;
        }
        while !pipe.is_empty() {
            match ready!(pipe.poll_drain(cx, to)) {
                Ok(1..) => *progress = true,
                _ => return Poll::Ready(Err(Side::To)),
            }
        }
        Poll::Ready(Ok(false))
    }
}

/// Closing this connection shall tell its peer that the stream broke.
fn reset_on_close(io: &Io) {
    match io {
        Io::Tcp(socket) => {
            let _ = socket.set_zero_linger();
        }
        Io::Tls(tls) => reset_on_close(tls.get_ref().0),
        Io::Rewound(rewound) => reset_on_close(rewound.inner()),
        Io::Metered(metered) => reset_on_close(metered.inner()),
        Io::Unix(_) | Io::Pipe(_) | Io::Pumped(_) => {}
    }
}

#[cfg(test)]
#[path = "tunnel_tests.rs"]
mod tests;
