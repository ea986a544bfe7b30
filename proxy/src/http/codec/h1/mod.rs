//! HTTP/1.1 and 1.0, server and client, on httparse.
//!
//! A codec of our own because hyper decides some things otherwise than Envoy (it drops `content-length` beside
//! `transfer-encoding`, answers parse errors itself, forwards no 1xx), and because this is the hottest code of the
//! proxy: a request costs one read, one write and hardly an allocation. A connection's state is one `Rc<RefCell<…>>`
//! that the connection task, the body and the responder of its one current request share; whoever is polled does the
//! I/O. There is no task, no channel and no boxed future.
//!
//! Where a byte goes: [`transport`] reads it into a buffer that exists only while something is in it, [`head`] parses
//! heads in place (by [`grammar`]), [`body`] takes framing off, [`encode`] puts it on, [`server`] and [`client`] hold
//! the state of the exchange.

mod body;
mod client;
mod encode;
mod grammar;
mod head;
mod server;
#[cfg(test)]
mod tests;
mod transport;

use outrigger_engine::config::hcm::{HeaderCase, Http1Options};

pub use body::Body;
pub use client::{ClientConnection, ClientStream, Lease};
pub use server::{Ended, Finish, Incoming, Responder, ServerConnection};

/// What a downstream connection may do.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Bytes of a request head, request line included; and of the trailers.
    pub max_head_bytes: usize,
    /// Fields of a request head; and of the trailers.
    pub max_headers: usize,
    /// Refuse `https://` in a request line: it comes in the clear, and from the client itself.
    pub refuse_https: bool,
    /// The listener's options.
    pub options: Http1Options,
}

/// What an upstream connection may do.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Bytes of a response head, status line included; and of the trailers. Envoy takes 80 KiB.
    pub max_head_bytes: usize,
    /// Fields of a response head; and of the trailers.
    pub max_headers: usize,
    /// Spelling of header names.
    pub header_case: HeaderCase,
    /// Pass trailers.
    pub enable_trailers: bool,
    /// Accept `transfer-encoding: chunked` beside `content-length` (dropping the latter).
    pub allow_chunked_length: bool,
}

/// Limits of a head or of trailers.
#[derive(Clone, Copy, Debug)]
struct Limits {
    bytes: usize,
    count: usize,
}

impl Limits {
    /// How many fields to keep room for while `bytes` are parsed: no more than fit into them, for a configuration may
    /// allow billions. The shortest line, and one that is refused later, is `a:` and LF.
    fn fields(self, bytes: &[u8]) -> usize {
        self.count.min((bytes.len() / 3).saturating_add(1))
    }
}
