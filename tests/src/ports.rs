//! Ports for programs that must be told theirs in a configuration file.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// A port of 127.0.0.1 that nobody else gets while this value lives.
///
/// The socket is bound and never listens: the kernel hands its port to no other `bind(0)`, refuses connections to it,
/// and lets a child bind it too, because both set `SO_REUSEPORT`, as Envoy's listeners and ours do.
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
        Self::at(0)
    }

    /// Reserves `count` free ports in a row, for programs that are told only the first. They are below those that the
    /// kernel gives to clients, whose connections keep theirs for a minute after their end: a row of those is seldom
    /// free.
    ///
    /// # Errors
    /// What the kernel says when no such row is found.
    pub fn row(count: u16) -> std::io::Result<Vec<Self>> {
        const FIRST: u16 = 10_240;
        const SPAN: u16 = 20_000;
        let mut last = Err(std::io::ErrorKind::AddrInUse.into());
        for attempt in 0..100u8 {
            // Different in each process, so that suites that run at once do not meet.
            let random = RandomState::new().hash_one((std::process::id(), attempt)) % u64::from(SPAN);
            let first = FIRST + u16::try_from(random).unwrap_or_default();
            last = (0..count).map(|n| Self::at(first + n)).collect();
            if last.is_ok() {
                break;
            }
        }
        last
    }

    fn at(port: u16) -> std::io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_port(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
        let port = socket.local_addr()?.as_socket().map_or(0, |address| address.port());
        Ok(Self { port, _socket: socket })
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}
