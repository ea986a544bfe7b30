//! The accept loop of one socket on one worker.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use outrigger_engine::stream_info::Address;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::active::{Accepting, WorkerListener};
use super::connection;
use super::socket::ListenSocket;
use crate::io::Io;

/// Wait after a refused accept: descriptors are short, and trying at once would only burn the core.
const BACKOFF: Duration = Duration::from_millis(50);

enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        match self {
            Acceptor::Tcp(listener) => {
                listener.poll_accept(cx).map(|result| result.and_then(|(stream, peer)| tcp(stream, peer)))
            }
            Acceptor::Unix(listener) => {
                listener.poll_accept(cx).map(|result| result.and_then(|(stream, _)| unix(stream)))
            }
        }
    }

    /// A connection that waits, whether the runtime knows of it or not.
    fn accept_now(&self) -> io::Result<Accepted> {
        match self {
            Acceptor::Tcp(listener) => {
                let (socket, peer) = SockRef::from(listener).accept()?;
                socket.set_nonblocking(true)?;
                let peer = peer.as_socket().ok_or(io::ErrorKind::InvalidData)?;
                tcp(TcpStream::from_std(socket.into())?, peer)
            }
            Acceptor::Unix(listener) => {
                let (socket, _) = SockRef::from(listener).accept()?;
                socket.set_nonblocking(true)?;
                unix(UnixStream::from_std(socket.into())?)
            }
        }
    }
}

/// A connection, our address and the peer's.
type Accepted = (Io, Address, Address);

fn tcp(stream: TcpStream, peer: SocketAddr) -> io::Result<Accepted> {
    // Fails only for a connection that is already gone, which its first read will tell.
    _ = stream.set_nodelay(true);
    let local = stream.local_addr()?;
    Ok((Io::Tcp(stream), Address::Ip(local), Address::Ip(peer)))
}

fn unix(stream: UnixStream) -> io::Result<Accepted> {
    let local = stream.local_addr()?;
    let path = local.as_pathname().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    Ok((Io::Unix(stream), Address::Pipe(path.into()), Address::Pipe("".into())))
}

/// Accepts until the socket is to be closed, and then what waits.
pub async fn accept_loop(accepting: Rc<Accepting>, socket: ListenSocket) {
    let acceptor = match socket {
        ListenSocket::Tcp(socket) => TcpListener::from_std(socket).map(Acceptor::Tcp),
        ListenSocket::Unix(socket) => UnixListener::from_std(socket).map(Acceptor::Unix),
    };
    let name = || accepting.listener.borrow().config.name.clone();
    let acceptor = match acceptor {
        Ok(acceptor) => acceptor,
        Err(error) => {
            tracing::error!(target: "main", "listener {}: {error}", name());
            return;
        }
    };
    let mut registration = None;
    loop {
        let next = poll_fn(|cx| {
            if let Poll::Ready(result) = acceptor.poll_accept(cx) {
                return Poll::Ready(Some(result));
            }
            if accepting.closing.is_set() {
                return Poll::Ready(None);
            }
            registration.get_or_insert_with(|| accepting.closing.register(cx.waker()));
            Poll::Pending
        });
        match next.await {
            Some(Ok(accepted)) => serve(&accepting, accepted),
            Some(Err(error)) if is_connection_error(&error) => {}
            Some(Err(error)) => {
                tracing::warn!(target: "connection", "listener {}: accept: {error}", name());
                sleep(BACKOFF).await;
            }
            None => break,
        }
    }
    loop {
        match acceptor.accept_now() {
            Ok(accepted) => serve(&accepting, accepted),
            Err(error) if is_connection_error(&error) => {}
            Err(_) => return,
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

fn serve(accepting: &Accepting, (io, local, remote): Accepted) {
    let listener: Rc<WorkerListener> = accepting.listener.borrow().clone();
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
    spawn_local(connection::serve(listener, io, local, remote));
}
