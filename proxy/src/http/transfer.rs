//! The two directions of an exchange: request body up, response body down. Both are polled by the one task that owns
//! the exchange, so a byte goes from socket to socket without a queue or a wake-up between tasks.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use outrigger_engine::message::Headers;
use smallvec::SmallVec;

use super::codec::{Body, ClientStream, Frame, Responder, StreamError};

/// Which side ended a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferError {
    /// The client.
    Downstream(StreamError),
    /// The host.
    Upstream(StreamError),
}

/// Bytes of a piece of a body that is copied rather than kept with the buffer that it lies in.
const SHORT: usize = 4 << 10;

/// Bytes of a request body that are read before there is somebody to send them to.
const READ_AHEAD: usize = 64 << 10;

/// How much one worker may keep for other attempts, all its requests together. A request that finds nothing left goes
/// on, and cannot be made again.
#[derive(Clone, Debug)]
pub struct ReplayBudget(Rc<Cell<usize>>);

impl ReplayBudget {
    /// A budget of so many bytes.
    pub fn new(bytes: usize) -> Self {
        ReplayBudget(Rc::new(Cell::new(bytes)))
    }
}

/// What one request has taken from the budget, given back when it is dropped.
#[derive(Debug)]
struct Share {
    budget: ReplayBudget,
    bytes: usize,
}

impl Share {
    /// So many bytes more; `false` if they are not there.
    fn take(&mut self, bytes: usize) -> bool {
        let Some(left) = self.budget.0.get().checked_sub(bytes) else { return false };
        self.budget.0.set(left);
        self.bytes += bytes;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.set(self.budget.0.get() + self.bytes);
    }
}

/// The request body on its way up. What was sent is kept for another attempt, up to a limit.
#[derive(Debug)]
pub struct Upload {
    body: Body,
    /// What came so far, while it may be needed again.
    kept: SmallVec<[Bytes; 1]>,
    kept_bytes: usize,
    /// As long as all that came is kept.
    share: Option<Share>,
    limit: usize,
    trailers: Option<Headers>,
    /// Pieces of `kept` that the current attempt has sent.
    next: usize,
    /// The downstream has sent everything.
    complete: bool,
    /// The current attempt has sent everything.
    sent: bool,
    /// Body bytes received.
    pub bytes: u64,
}

impl Upload {
    /// `limit`: bytes kept for another attempt, as far as they fit in `budget`; 0 keeps nothing.
    pub fn new(body: Body, limit: usize, budget: &ReplayBudget) -> Self {
        let complete = body.is_end();
        let share = (limit > 0 && !complete).then(|| Share { budget: budget.clone(), bytes: 0 });
        Upload {
            body,
            kept: SmallVec::new(),
            kept_bytes: 0,
            share,
            limit,
            trailers: None,
            next: 0,
            complete,
            sent: false,
            bytes: 0,
        }
    }

    /// Whether the downstream's request is complete.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether there is no body at all, so that the head ends the request.
    pub fn is_empty(&self) -> bool {
        self.complete && self.kept.is_empty() && self.trailers.is_none()
    }

    /// Whether this attempt has sent the whole request.
    pub fn is_sent(&self) -> bool {
        self.sent
    }

    /// Whether another attempt could send the same body again.
    pub fn can_replay(&self) -> bool {
        self.share.is_some() || self.bytes == 0
    }

    /// Whether what comes is being kept.
    pub fn is_kept(&self) -> bool {
        self.share.is_some()
    }

    /// No other attempt will follow: nothing more is kept.
    pub fn release(&mut self) {
        self.share = None;
        if self.next >= self.kept.len() {
            self.kept = SmallVec::new();
            self.next = 0;
        }
    }

    /// The attempt that begins is the last: what it has sent is not kept.
    pub fn keep_no_more(&mut self) {
        self.share = None;
    }

    /// Another attempt begins. `head_ends`: its head said that no body follows.
    pub fn restart(&mut self, head_ends: bool) {
        self.next = 0;
        self.sent = head_ends;
    }

    /// Takes what of the request comes while no upstream is there to have it, up to a bound. Ready when it fails.
    pub fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        while !self.complete && self.kept_bytes < READ_AHEAD {
            match ready!(self.body.poll_frame(cx)) {
                Some(Ok(Frame::Data(data))) => {
                    self.bytes += data.len() as u64;
                    self.complete = self.body.is_end();
                    self.account(data.len());
                    self.push(&data);
                }
                Some(Ok(Frame::Trailers(trailers))) => {
                    self.complete = true;
                    self.trailers = Some(trailers);
                }
                None => self.complete = true,
                Some(Err(error)) => return Poll::Ready(error),
            }
        }
        Poll::Pending
    }

    /// Moves the body on; ready when this attempt has sent all of it.
    pub fn poll(&mut self, cx: &mut Context<'_>, stream: &mut ClientStream) -> Poll<Result<(), TransferError>> {
        while !self.sent {
            ready!(stream.poll_ready(cx)).map_err(TransferError::Upstream)?;
            if let Some(data) = self.kept.get(self.next).cloned() {
                self.next += 1;
                self.sent = self.complete && self.next == self.kept.len() && self.trailers.is_none();
                if self.share.is_none() && self.next == self.kept.len() {
                    self.kept = SmallVec::new();
                    self.next = 0;
                }
                stream.send_data(data, self.sent).map_err(TransferError::Upstream)?;
                continue;
            }
            if self.complete {
                self.sent = true;
                match self.trailers.clone() {
                    Some(trailers) => stream.send_trailers(trailers),
                    None => stream.send_data(Bytes::new(), true),
                }
                .map_err(TransferError::Upstream)?;
                continue;
            }
            match ready!(self.body.poll_frame(cx)) {
                Some(Ok(Frame::Data(data))) => {
                    self.bytes += data.len() as u64;
                    self.complete = self.body.is_end();
                    self.sent = self.complete;
                    self.keep(&data);
                    stream.send_data(data, self.sent).map_err(TransferError::Upstream)?;
                }
                Some(Ok(Frame::Trailers(trailers))) => {
                    self.complete = true;
                    self.sent = true;
                    if self.share.is_some() {
                        self.trailers = Some(trailers.clone());
                    }
                    stream.send_trailers(trailers).map_err(TransferError::Upstream)?;
                }
                None => self.complete = true,
                Some(Err(error)) => return Poll::Ready(Err(TransferError::Downstream(error))),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn keep(&mut self, data: &Bytes) {
        if self.share.is_none() {
            return;
        }
        self.account(data.len());
        if self.share.is_none() {
            self.kept = SmallVec::new();
            self.next = 0;
        } else {
            self.push(data);
            self.next = self.kept.len();
        }
    }

    /// Keeps a piece. A short one may be a part of a large buffer, all of which it would hold: its bytes are copied, to
    /// those of the piece before where that is short as well.
    fn push(&mut self, data: &Bytes) {
        match self.kept.last_mut() {
            Some(last) if last.len() + data.len() <= SHORT => *last = [last.as_ref(), data.as_ref()].concat().into(),
            _ if data.len() <= SHORT => self.kept.push(Bytes::copy_from_slice(data)),
            _ => self.kept.push(data.clone()),
        }
    }

    /// So many bytes more are to be kept: beyond a limit none are.
    fn account(&mut self, bytes: usize) {
        self.kept_bytes += bytes;
        if let Some(share) = &mut self.share
            && (self.kept_bytes > self.limit || !share.take(bytes))
        {
            self.share = None;
        }
    }
}

/// The response body on its way down.
#[derive(Debug)]
pub struct Download {
    body: Body,
    ended: bool,
    /// Body bytes sent to the downstream.
    pub bytes: u64,
    /// Whether trailers came, and what they say of a gRPC call.
    pub trailers: Option<Headers>,
}

impl Download {
    /// `ended`: the head said that no body follows.
    pub fn new(body: Body, ended: bool) -> Self {
        Download { body, ended, bytes: 0, trailers: None }
    }

    /// Whether the upstream's response is complete.
    pub fn is_complete(&self) -> bool {
        self.ended
    }

    /// Moves the body on; ready when the downstream's kernel has all of it. `keep_trailers`: someone will ask for them.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        responder: &mut Responder,
        keep_trailers: bool,
    ) -> Poll<Result<(), TransferError>> {
        while !self.ended {
            ready!(responder.poll_ready(cx)).map_err(TransferError::Downstream)?;
            match self.body.poll_frame(cx) {
                Poll::Ready(Some(Ok(Frame::Data(data)))) => {
                    self.bytes += data.len() as u64;
                    self.ended = self.body.is_end();
                    responder.send_data(data, self.ended).map_err(TransferError::Downstream)?;
                }
                Poll::Ready(Some(Ok(Frame::Trailers(trailers)))) => {
                    self.ended = true;
                    if keep_trailers {
                        self.trailers = Some(trailers.clone());
                    }
                    responder.send_trailers(trailers).map_err(TransferError::Downstream)?;
                }
                Poll::Ready(None) => {
                    self.ended = true;
                    responder.send_data(Bytes::new(), true).map_err(TransferError::Downstream)?;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(TransferError::Upstream(error))),
                Poll::Pending => {
                    if let Poll::Ready(Err(error)) = responder.poll_flush(cx) {
                        return Poll::Ready(Err(TransferError::Downstream(error)));
                    }
                    return Poll::Pending;
                }
            }
        }
        responder.poll_flush(cx).map_err(TransferError::Downstream)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn upload(bytes: usize, limit: usize, budget: &ReplayBudget) -> Upload {
        let mut upload = Upload::new(Body::Full(vec![0; bytes].into()), limit, budget);
        assert!(upload.poll_ahead(&mut Context::from_waker(Waker::noop())).is_pending());
        assert!(upload.is_complete() && upload.bytes == bytes as u64);
        upload
    }

    #[test]
    fn a_request_above_its_limit_cannot_be_made_again() {
        let budget = ReplayBudget::new(100);
        assert!(upload(10, 10, &budget).can_replay());
        assert!(!upload(11, 10, &budget).can_replay());
        assert!(!upload(1, 0, &budget).can_replay());
        assert!(Upload::new(Body::Empty, 0, &budget).can_replay(), "what has no body is always at hand");
    }

    #[test]
    fn all_requests_of_a_worker_keep_no_more_than_its_budget() {
        let budget = ReplayBudget::new(100);
        let (first, second) = (upload(60, 80, &budget), upload(40, 80, &budget));
        assert!(first.can_replay() && second.can_replay());
        let third = upload(1, 80, &budget);
        assert!(!third.can_replay() && third.kept_bytes == 1, "it goes on, and once only");
        drop(first);
        let mut fourth = upload(60, 80, &budget);
        assert!(fourth.can_replay());
        fourth.release();
        assert!(!fourth.can_replay());
        drop((second, third, fourth));
        assert_eq!(budget.0.get(), 100);
    }

    #[test]
    fn short_pieces_do_not_keep_the_buffers_that_they_lie_in() {
        let mut upload = Upload::new(Body::Full(vec![0].into()), 1 << 20, &ReplayBudget::new(1 << 20));
        let buffer = Bytes::from(vec![7; 32 << 10]);
        (0..10_000).for_each(|at| upload.keep(&buffer.slice(at..at + 1)));
        assert!(upload.can_replay() && upload.kept_bytes == 10_000);
        assert!(buffer.is_unique(), "nothing else holds it");
        assert!(upload.kept.iter().map(Bytes::len).eq([4096, 4096, 1808]));
        upload.keep(&buffer);
        assert!(!buffer.is_unique(), "a long piece is not copied");
    }
}
