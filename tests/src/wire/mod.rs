//! What the scripted peers read and write: bytes as they are, without a library that would correct them. An ordinary
//! client or server refuses to send what a smuggler sends, and hides what a proxy really answered.

pub mod h1;
pub mod h2;
pub mod hpack;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use rustls::{ClientConnection, ServerConnection, StreamOwned};

/// How a connection ended, as seen by the side that reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The peer closed its direction in order.
    Fin,
    /// The peer reset the connection.
    Rst,
    /// TLS failed: a fatal alert, or bytes that are not TLS.
    Tls,
}

/// What a wait for bytes brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// There is more in the buffer than before.
    Data,
    /// The connection is over; the buffer holds what came before.
    Ended(End),
    /// Nothing came before the deadline.
    TimedOut,
}

/// The transport below a connection.
#[derive(Debug)]
pub enum Transport {
    /// Plain TCP.
    Plain(TcpStream),
    /// TLS as a client.
    Client(Box<StreamOwned<ClientConnection, TcpStream>>),
    /// TLS as a server.
    Server(Box<StreamOwned<ServerConnection, TcpStream>>),
}

/// A connection with what was read from it and not yet taken.
#[derive(Debug)]
pub struct Connection {
    transport: Transport,
    /// Bytes read and not yet taken.
    pub buffer: Vec<u8>,
    end: Option<End>,
}

impl Connection {
    /// Takes over a connected transport.
    pub fn new(transport: Transport) -> Self {
        Self { transport, buffer: Vec::new(), end: None }
    }

    /// The TCP socket at the bottom.
    pub fn socket(&self) -> &TcpStream {
        match &self.transport {
            Transport::Plain(stream) => stream,
            Transport::Client(stream) => &stream.sock,
            Transport::Server(stream) => &stream.sock,
        }
    }

    /// How the peer ended the connection, if it was noticed already.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Waits until bytes arrive, the connection ends or `deadline` passes.
    pub fn fill(&mut self, deadline: Instant) -> Filled {
        if let Some(end) = self.end {
            return Filled::Ended(end);
        }
        let mut chunk = [0; 16 * 1024];
        loop {
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return Filled::TimedOut;
            };
            if self.socket().set_read_timeout(Some(left)).is_err() {
                return self.ended(End::Rst);
            }
            let read = match &mut self.transport {
                Transport::Plain(stream) => stream.read(&mut chunk),
                Transport::Client(stream) => stream.read(&mut chunk),
                Transport::Server(stream) => stream.read(&mut chunk),
            };
            match read {
                Ok(0) => return self.ended(End::Fin),
                Ok(length) => {
                    self.buffer.extend_from_slice(&chunk[..length]);
                    return Filled::Data;
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                    // rustls: TCP was closed without a close_notify.
                    ErrorKind::UnexpectedEof => return self.ended(End::Fin),
                    ErrorKind::InvalidData => return self.ended(End::Tls),
                    _ => return self.ended(End::Rst),
                },
            }
        }
    }

    fn ended(&mut self, end: End) -> Filled {
        self.end = Some(end);
        Filled::Ended(end)
    }

    /// Writes everything. A failure is not reported: the read side shows how the connection ended.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = match &mut self.transport {
            Transport::Plain(stream) => stream.write_all(bytes),
            Transport::Client(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
            Transport::Server(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        };
    }

    /// Closes our direction in order.
    pub fn half_close(&mut self) {
        match &mut self.transport {
            Transport::Plain(_) => {}
            Transport::Client(stream) => {
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
            Transport::Server(stream) => {
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        }
        let _ = self.socket().shutdown(Shutdown::Write);
    }

    /// Resets the connection: the peer sees RST, not FIN.
    pub fn reset(self) {
        let _ = socket2::SockRef::from(self.socket()).set_linger(Some(std::time::Duration::ZERO));
    }

    /// The protocol that ALPN chose, if this is TLS and one was chosen.
    pub fn alpn(&self) -> Option<&[u8]> {
        match &self.transport {
            Transport::Plain(_) => None,
            Transport::Client(stream) => stream.conn.alpn_protocol(),
            Transport::Server(stream) => stream.conn.alpn_protocol(),
        }
    }

    /// The server name that a TLS client asked for.
    pub fn server_name(&self) -> Option<&str> {
        match &self.transport {
            Transport::Server(stream) => stream.conn.server_name(),
            Transport::Plain(_) | Transport::Client(_) => None,
        }
    }
}

/// A request or response as it was received, whatever the protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The first line, or the stream of HTTP/2.
    pub start: String,
    /// Fields in the order received, pseudo-headers included; other than printable ASCII is escaped.
    pub headers: Vec<(String, String)>,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// Trailers in the order received.
    pub trailers: Vec<(String, String)>,
    /// What else happened to it: an early end, a reset with its code.
    pub marks: Vec<String>,
}

impl Message {
    /// The value of the first field of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Bytes as text: printable ASCII as it is, the rest as escapes.
pub fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().replace("\\\"", "\"").replace("\\'", "'")
}
