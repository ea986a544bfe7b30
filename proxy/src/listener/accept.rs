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
use tokio::time::{Instant, sleep};

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
    let warn = |error: &io::Error| {
        tracing::warn!(target: "connection", "listener {}: closing: accept: {error}", name());
    };
    let patience = accepting.listener.borrow().worker.process.args.drain_time();
    take_rest(|| acceptor.accept_now(), |accepted| serve(&accepting, accepted), warn, patience).await;
}

/// Takes what waits in the queue of a socket that is to be closed: with it, they would be reset. Where descriptors are
/// short it waits for some, for `patience` at most.
async fn take_rest<T>(
    mut accept: impl FnMut() -> io::Result<T>,
    mut serve: impl FnMut(T),
    mut warn: impl FnMut(&io::Error),
    patience: Duration,
) {
    let start = Instant::now();
    loop {
        match accept() {
            Ok(accepted) => serve(accepted),
            Err(error) if is_connection_error(&error) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock || start.elapsed() >= patience => return,
            Err(error) => {
                warn(&error);
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    fn error(number: i32) -> io::Result<u32> {
        Err(io::Error::from_raw_os_error(number))
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_served_even_if_descriptors_are_short_for_a_while() {
        let mut queue = VecDeque::from([
            Ok(1),
            error(libc::EMFILE),
            error(libc::ECONNABORTED),
            error(libc::ENFILE),
            Ok(2),
            error(libc::EAGAIN),
            Ok(3),
        ]);
        let (mut served, mut warned) = (Vec::new(), 0);
        let began = Instant::now();
        let accept = || queue.pop_front().unwrap();
        take_rest(accept, |connection| served.push(connection), |_| warned += 1, Duration::from_secs(600)).await;
        assert_eq!((served, warned), (vec![1, 2], 2));
        assert_eq!(began.elapsed(), 2 * BACKOFF, "it waits, and does not spin");
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_never_recovers_is_given_up_after_the_drain_time() {
        let began = Instant::now();
        take_rest(|| error(libc::EMFILE), |_| panic!("there is none"), |_| {}, Duration::from_secs(10)).await;
        assert_eq!(began.elapsed(), Duration::from_secs(10));
    }
}
