//! What other threads tell a worker. Commands are obeyed between two polls of the worker's tasks, in order.

use std::fmt;
use std::sync::Arc;

use outrigger_engine::balance::ClusterState;
use tokio::sync::mpsc;

use crate::listener::socket::ListenSocket;

/// A listening address of the process, over all its listeners' versions.
pub type SocketId = u64;

/// What a worker is to do.
#[derive(Debug)]
pub enum Command {
    /// There is a new snapshot.
    Follow {
        /// The clusters that another one took the place of, or none.
        clusters: Arc<Vec<Arc<str>>>,
        /// Whether the listeners are not those of before.
        listeners: bool,
    },
    /// Route tables were exchanged.
    Routes,
    /// These clusters have other hosts.
    Hosts(Arc<Vec<Arc<ClusterState>>>),
    /// Accept on this worker's socket of an address, for a listener in force.
    Accept {
        /// The address.
        id: SocketId,
        /// The listener.
        listener: Arc<str>,
        /// The socket.
        socket: ListenSocket,
    },
    /// The address belongs to another listener from now on.
    Own {
        /// The address.
        id: SocketId,
        /// The listener.
        listener: Arc<str>,
    },
    /// Accept what waits, and then no more.
    Close(SocketId),
    /// Connections end as `--drain-strategy` says; the process stays.
    DrainListeners,
    /// The process is to end: idle connections close, the others after their requests.
    Drain,
    /// No connection is accepted any more, but by listeners that are not `INBOUND` where only those are meant.
    StopListeners {
        /// Only those whose `traffic_direction` is `INBOUND`.
        inbound_only: bool,
    },
    /// The thread ends, whatever it is doing.
    Stop,
}

/// All workers, the control thread as the last.
#[derive(Clone, Default)]
pub struct Workers(Arc<[mpsc::UnboundedSender<Command>]>);

impl Workers {
    /// So many workers and the control thread, and where each gets its commands.
    pub fn new(concurrency: usize) -> (Self, Vec<mpsc::UnboundedReceiver<Command>>) {
        let (senders, receivers): (Vec<_>, _) = (0..=concurrency).map(|_| mpsc::unbounded_channel()).unzip();
        (Workers(senders.into()), receivers)
    }

    /// Tells each of them.
    pub fn tell(&self, mut command: impl FnMut() -> Command) {
        // A worker that is gone needs no telling.
        self.0.iter().for_each(|worker| _ = worker.send(command()));
    }

    /// Tells each of those that accept connections, the first ones.
    pub fn tell_each(&self, commands: impl Iterator<Item = Command>) {
        self.0.iter().zip(commands).for_each(|(worker, command)| _ = worker.send(command));
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Workers({})", self.0.len())
    }
}
