//! Listening sockets. There is one per worker and address (`SO_REUSEPORT`, so the kernel spreads connections), and they
//! belong to the address, not to a version of a listener. Those of the bootstrap are made before any worker runs.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use outrigger_engine::config::listener::Listener;
use outrigger_engine::stream_info::Address;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// A bound and listening socket, not yet in a runtime.
#[derive(Debug)]
pub enum ListenSocket {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

impl ListenSocket {
    /// The same socket under a second descriptor: Unix sockets have no `SO_REUSEPORT`, so workers share one.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            ListenSocket::Tcp(socket) => socket.try_clone().map(ListenSocket::Tcp),
            ListenSocket::Unix(socket) => socket.try_clone().map(ListenSocket::Unix),
        }
    }

    /// Begins to listen, where `listener` was bound without. Connections come from now on.
    pub fn listen(&self, settings: SocketSettings) -> io::Result<()> {
        match self {
            ListenSocket::Tcp(socket) => SockRef::from(socket).listen(settings.queue()),
            ListenSocket::Unix(_) => Ok(()),
        }
    }

    /// Where it listens; the port is the one that the kernel chose for port 0.
    pub fn local_address(&self) -> io::Result<Address> {
        match self {
            ListenSocket::Tcp(socket) => socket.local_addr().map(Address::Ip),
            ListenSocket::Unix(socket) => {
                let address = socket.local_addr()?;
                Ok(Address::Pipe(Arc::from(address.as_pathname().map(|p| p.to_string_lossy()).unwrap_or_default())))
            }
        }
    }
}

/// What a listener wants of its TCP sockets. Who wants something else needs other sockets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketSettings {
    /// `tcp_backlog_size`: connections that wait, if the kernel allows so many.
    pub backlog: Option<u32>,
    /// `transparent`
    pub transparent: bool,
    /// `freebind`
    pub freebind: bool,
    /// `ipv4_compat`
    pub ipv4_compat: bool,
}

impl SocketSettings {
    /// Those of `listener` on `address`; Unix sockets have none.
    pub fn new(listener: &Listener, address: &Address) -> Self {
        match address {
            Address::Ip(_) => SocketSettings {
                backlog: listener.backlog,
                transparent: listener.transparent,
                freebind: listener.freebind,
                ipv4_compat: listener.ipv4_compat.contains(address),
            },
            Address::Pipe(_) => SocketSettings::default(),
        }
    }

    fn queue(self) -> i32 {
        self.backlog.map_or(i32::MAX, |b| i32::try_from(b).unwrap_or(i32::MAX))
    }
}

/// An address could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("listener {listener}: cannot listen on {address}: {source}")]
pub struct ListenError {
    listener: Arc<str>,
    address: Address,
    source: io::Error,
}

/// One socket per worker for `address` of `listener`, listening.
pub fn listen(listener: &Listener, address: &Address, workers: usize) -> Result<Vec<ListenSocket>, ListenError> {
    let settings = SocketSettings::new(listener, address);
    let sockets = bind(listener, address, workers)?;
    for socket in &sockets {
        let fail = |source| ListenError { listener: listener.name.clone(), address: address.clone(), source };
        socket.listen(settings).map_err(fail)?;
    }
    Ok(sockets)
}

/// One socket per worker for `address` of `listener`. No connection comes to those of TCP before they listen; until
/// then others may have the address too.
pub fn bind(listener: &Listener, address: &Address, workers: usize) -> Result<Vec<ListenSocket>, ListenError> {
    let fail = |source| ListenError { listener: listener.name.clone(), address: address.clone(), source };
    let settings = SocketSettings::new(listener, address);
    let mut sockets = Vec::with_capacity(workers);
    match address {
        Address::Ip(wanted) => {
            let mut wanted = *wanted;
            for _ in 0..workers {
                let socket = tcp(&wanted, settings).map_err(fail)?;
                // The first one may have been given a port by the kernel; the others join it.
                wanted = socket.local_addr().map_err(fail)?;
                sockets.push(ListenSocket::Tcp(socket));
            }
        }
        Address::Pipe(path) => {
            let first = ListenSocket::Unix(unix(path).map_err(fail)?);
            for _ in 1..workers {
                sockets.push(first.try_clone().map_err(fail)?);
            }
            sockets.push(first);
        }
    }
    Ok(sockets)
}

fn tcp(address: &SocketAddr, settings: SocketSettings) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!settings.ipv4_compat)?;
    }
    // A socket of both families needs both.
    if settings.transparent {
        if address.is_ipv6() {
            socket.set_ip_transparent_v6(true)?;
        }
        if address.is_ipv4() || settings.ipv4_compat {
            socket.set_ip_transparent_v4(true)?;
        }
    }
    if settings.freebind {
        if address.is_ipv6() {
            socket.set_freebind_v6(true)?;
        } else {
            socket.set_freebind_v4(true)?;
        }
    }
    socket.bind(&(*address).into())?;
    Ok(socket.into())
}

/// A path may still hold the socket of a process that died: it is removed if nobody answers on it.
pub(crate) fn unix(path: &str) -> io::Result<UnixListener> {
    use std::os::linux::net::SocketAddrExt;
    let listener = if let Some(name) = path.strip_prefix('@') {
        UnixListener::bind_addr(&std::os::unix::net::SocketAddr::from_abstract_name(name)?)?
    } else {
        match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if std::os::unix::net::UnixStream::connect(path).is_ok() {
                    return Err(error);
                }
                std::fs::remove_file(path)?;
                UnixListener::bind(path)?
            }
            other => other?,
        }
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_for_ipv6_takes_ipv4_where_it_is_to() {
        let any = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0));
        for ipv4_compat in [true, false] {
            let settings = SocketSettings { freebind: true, ipv4_compat, ..SocketSettings::default() };
            // There are machines without IPv6.
            let Ok(socket) = tcp(&any, settings) else { return };
            let options = SockRef::from(&socket);
            assert_eq!(options.only_v6().unwrap(), !ipv4_compat);
            assert!(options.freebind_v6().unwrap());
            if ipv4_compat {
                options.listen(1).unwrap();
                let port = socket.local_addr().unwrap().port();
                assert!(std::net::TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, port)).is_ok());
            }
        }
    }
}
