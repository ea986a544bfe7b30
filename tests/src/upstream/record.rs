//! What reached the upstreams of one scenario, written down as it happens.

use std::net::{Shutdown, TcpStream};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::wire::Message;

/// What reached one connection of an upstream.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// The cluster.
    pub cluster: String,
    /// Which endpoint of the cluster.
    pub endpoint: usize,
    /// Requests with their place in the order of all requests of the scenario.
    pub requests: Vec<(usize, Message)>,
    /// TLS name and protocol, GOAWAY and such.
    pub marks: Vec<String>,
    /// How the proxy ended the connection.
    pub end: Option<&'static str>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) connections: Vec<Received>,
    requests: usize,
    changes: u64,
    stopped: bool,
    pub(super) sockets: Vec<TcpStream>,
}

/// What reached the upstreams of one scenario.
#[derive(Debug, Default)]
pub struct Record {
    state: Mutex<State>,
    changed: Condvar,
}

impl Record {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> Option<T> {
        let mut state = self.lock();
        if state.stopped {
            return None;
        }
        state.changes += 1;
        let result = change(&mut state);
        self.changed.notify_all();
        Some(result)
    }

    pub(super) fn connection(&self, id: usize, change: impl FnOnce(&mut Received)) {
        self.change(|state| state.connections.get_mut(id).map(change));
    }

    /// Adds a request; answers its place on the connection.
    pub(super) fn request(&self, id: usize, message: Message) -> usize {
        self.change(|state| {
            state.requests += 1;
            let number = state.requests;
            let requests = &mut state.connections[id].requests;
            requests.push((number, message));
            requests.len() - 1
        })
        .unwrap_or(0)
    }

    pub(super) fn update(&self, id: usize, place: usize, change: impl FnOnce(&mut Message)) {
        self.connection(id, |received| {
            if let Some((_, message)) = received.requests.get_mut(place) {
                change(message);
            }
        });
    }

    /// Waits until so many requests came; answers whether they did before `deadline`.
    pub fn await_requests(&self, count: usize, deadline: Instant) -> bool {
        let mut state = self.lock();
        while state.requests < count {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Waits until nothing came for `quiet`, then answers what came.
    pub fn settle(&self, quiet: Duration) -> Vec<Received> {
        let mut state = self.lock();
        loop {
            let before = state.changes;
            let deadline = Instant::now() + quiet;
            while let Some(left) = deadline.checked_duration_since(Instant::now()) {
                state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            if state.changes == before {
                return state.connections.clone();
            }
        }
    }

    /// Closes every connection; what happens from now on is not recorded.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        for socket in state.sockets.drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}
