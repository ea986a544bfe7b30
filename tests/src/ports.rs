//! Ports for programs that must be told theirs in a configuration file.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// A port of 127.0.0.1 that nobody else gets while this value lives.
///
/// The socket is bound and never listens: the kernel hands its port to no other `bind(0)`, refuses connections to it, and
/// lets a child bind it too, because both set `SO_REUSEPORT`, as Envoy's listeners and ours do.
#[derive(Debug)]
pub struct Reserved {
    port: u16,
    _socket: Socket,
}

impl Reserved {
    /// Reserves a free port.
    ///
    /// # Errors
    /// What the kernel says, such as that no port is left.
    pub fn new() -> std::io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_port(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let port = socket.local_addr()?.as_socket().map_or(0, |address| address.port());
        Ok(Self { port, _socket: socket })
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}
