//! What became of each request, as its caller and as the application see it.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use crate::application::Close;

/// See the module.
#[derive(Debug)]
pub(crate) struct Ledger {
    next: AtomicUsize,
    requests: Vec<Request>,
}

#[derive(Debug, Default)]
struct Request {
    /// How often the application did it.
    done: AtomicU8,
    /// How often the application found it on a connection that it had closed.
    late: AtomicU8,
    answered: AtomicU8,
    failed: AtomicU8,
}

/// The method of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Put,
    Post,
}

impl Method {
    pub(crate) fn of(id: usize) -> Self {
        match (id % 2, id % 16) {
            (1, _) => Method::Post,
            (_, 0) => Method::Put,
            _ => Method::Get,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Put => "PUT",
            Method::Post => "POST",
        }
    }
}

impl Ledger {
    pub(crate) fn new(requests: usize) -> Self {
        Self { next: AtomicUsize::new(0), requests: (0..requests).map(|_| Request::default()).collect() }
    }

    /// The id of the next request; `None` when all are given out.
    pub(crate) fn next(&self) -> Option<usize> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        (id < self.requests.len()).then_some(id)
    }

    pub(crate) fn done(&self, id: usize) {
        self.requests[id].done.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn late(&self, id: usize) {
        self.requests[id].late.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn ended(&self, id: usize, answered: bool) {
        let request = &self.requests[id];
        if answered { &request.answered } else { &request.failed }.fetch_add(1, Ordering::Relaxed);
    }

    /// After the last one has ended.
    pub(crate) fn judge(&self, close: Close) -> Verdict {
        let mut verdict = Verdict { requests: self.requests.len(), late: 0, failed: 0, wrong: Vec::new() };
        for (id, request) in self.requests.iter().enumerate() {
            let read = |count: &AtomicU8| count.load(Ordering::Relaxed);
            let (done, late) = (read(&request.done), read(&request.late));
            let (answered, failed) = (read(&request.answered), read(&request.failed));
            verdict.late += usize::from(late > 0);
            verdict.failed += usize::from(failed > 0);
            let unknowable = Method::of(id) == Method::Post && (late > 0 || close == Close::Reset);
            let right = match (answered, failed) {
                (1, 0) => done == 1,
                (0, 1) => done == 0 && unknowable,
                _ => false,
            };
            if !right {
                verdict.wrong.push(format!("{} {id}: {request:?}", Method::of(id).name()));
            }
        }
        verdict
    }
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Verdict {
    requests: usize,
    /// Found by the application on connections that it had closed.
    late: usize,
    failed: usize,
    /// Requests that should have ended otherwise.
    pub(crate) wrong: Vec<String>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { requests, late, failed, wrong } = self;
        write!(f, "of {requests} requests {late} lay there at the end, {failed} failed, {} wrongly", wrong.len())
    }
}
