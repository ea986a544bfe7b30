//! The accept loop of one socket on one worker.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use outrigger_engine::config::listener::Listener;
use outrigger_engine::stream_info::Address;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::connection;
use super::socket::ListenSocket;
use crate::io::Io;
use crate::telemetry::stats::ListenerStats;
use crate::worker::Worker;

/// Wait after a refused accept: descriptors are short, and trying at once would only burn the core.
const BACKOFF: Duration = Duration::from_millis(50);

/// A listener as one worker runs it.
#[derive(Debug)]
pub struct WorkerListener {
    /// Its configuration.
    pub config: Arc<Listener>,
    /// Its counters on this worker.
    pub stats: Arc<ListenerStats>,
    /// The worker.
    pub worker: Rc<Worker>,
}

enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    async fn accept(&self) -> io::Result<(Io, Address, Address)> {
        match self {
            Acceptor::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Fails only for a connection that is already gone, which its first read will tell.
                _ = stream.set_nodelay(true);
                let local = stream.local_addr()?;
                Ok((Io::Tcp(stream), Address::Ip(local), Address::Ip(peer)))
            }
            Acceptor::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let local = stream.local_addr()?;
                let path = local.as_pathname().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
                Ok((Io::Unix(stream), Address::Pipe(path.into()), Address::Pipe("".into())))
            }
        }
    }
}

/// Accepts until the task is dropped.
pub async fn accept_loop(listener: Rc<WorkerListener>, socket: ListenSocket) {
    let acceptor = match socket {
        ListenSocket::Tcp(socket) => TcpListener::from_std(socket).map(Acceptor::Tcp),
        ListenSocket::Unix(socket) => UnixListener::from_std(socket).map(Acceptor::Unix),
    };
    let acceptor = match acceptor {
        Ok(acceptor) => acceptor,
        Err(error) => {
            tracing::error!(target: "main", "listener {}: {error}", listener.config.name);
            return;
        }
    };
    loop {
        match acceptor.accept().await {
            Ok((io, local, remote)) => accepted(&listener, io, local, remote),
            Err(error) if is_connection_error(&error) => {}
            Err(error) => {
                tracing::warn!(target: "connection", "listener {}: accept: {error}", listener.config.name);
                sleep(BACKOFF).await;
            }
        }
    }
}

/// The error is about the one connection, not about us.
fn is_connection_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

fn accepted(listener: &Rc<WorkerListener>, io: Io, local: Address, remote: Address) {
    let process = &listener.worker.process;
    if let Some(limit) = process.max_downstream_connections
        && !listener.config.ignore_global_connection_limit
    {
        let before = process.downstream_connections.fetch_add(1, Ordering::Relaxed);
        if before >= limit {
            process.downstream_connections.fetch_sub(1, Ordering::Relaxed);
            listener.stats.downstream_global_cx_overflow.inc();
            return;
        }
    }
    spawn_local(connection::serve(listener.clone(), io, local, remote));
}
