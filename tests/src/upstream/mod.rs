//! Scripted upstreams: servers that answer the n-th request with the n-th reply of a script, byte for byte, and write
//! down what reached them, on which connection, and how the connection ended.

mod record;
mod serve;

use std::time::Duration;

pub use record::{Received, Record};
pub use serve::Serving;

/// One thing that an upstream does.
#[derive(Clone, Debug)]
pub enum Act {
    /// Writes bytes.
    Send(Vec<u8>),
    /// HTTP/1: reads the request's body here. Without it the body is read before the first act.
    Body,
    /// Takes so long: a slow server.
    Delay(Duration),
    /// Closes its direction and waits for the other side.
    Fin,
    /// Closes both directions.
    Close,
    /// Resets the connection.
    Rst,
    /// Does nothing until the other side ends the connection.
    Hang,
    /// Sends back what comes, until the other side closes its direction, then closes too.
    Echo,
    /// TCP: waits for so many bytes.
    Expect(usize),
    /// HTTP/2: HEADERS on the request's stream; `true` ends the stream.
    Headers(Vec<(String, String)>, bool),
    /// HTTP/2: DATA on the request's stream.
    Data(Vec<u8>, bool),
    /// HTTP/2: RST_STREAM with this code.
    Reset(u32),
    /// HTTP/2: GOAWAY with this code; the last stream is the request's where `true`, else 0.
    GoAway(u32, bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
    Tcp,
    Refuses,
}

/// What an upstream speaks and says.
#[derive(Clone, Debug)]
pub struct Upstream {
    protocol: Protocol,
    on_accept: Vec<Act>,
    replies: Vec<Vec<Act>>,
    endpoints: usize,
    tls: Option<Vec<&'static str>>,
    at_headers: bool,
    settings: Vec<(u16, u32)>,
}

impl Upstream {
    fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            on_accept: Vec::new(),
            replies: Vec::new(),
            endpoints: 1,
            tls: None,
            at_headers: false,
            settings: Vec::new(),
        }
    }

    /// Speaks HTTP/1.
    pub fn h1() -> Self {
        Self::new(Protocol::Http1)
    }

    /// Speaks HTTP/2 with prior knowledge.
    pub fn h2() -> Self {
        Self::new(Protocol::Http2)
    }

    /// Speaks nothing that it knows of: each reply is the script of one connection.
    pub fn tcp() -> Self {
        Self::new(Protocol::Tcp)
    }

    /// Refuses every connection.
    pub fn refuses() -> Self {
        Self::new(Protocol::Refuses)
    }

    /// Has so many endpoints, which share the script.
    pub fn endpoints(mut self, count: usize) -> Self {
        self.endpoints = count;
        self
    }

    /// Speaks TLS below, as `server.test`, with these ALPN protocols.
    pub fn tls(mut self, alpn: &[&'static str]) -> Self {
        self.tls = Some(alpn.to_vec());
        self
    }

    /// Acts so on each accepted connection before it reads.
    pub fn on_accept(mut self, acts: impl IntoIterator<Item = Act>) -> Self {
        self.on_accept.extend(acts);
        self
    }

    /// HTTP/2: replies when HEADERS came, not when the request ended.
    pub fn at_headers(mut self) -> Self {
        self.at_headers = true;
        self
    }

    /// HTTP/2: announces these settings.
    pub fn settings(mut self, settings: &[(u16, u32)]) -> Self {
        self.settings = settings.to_vec();
        self
    }

    /// The next request is answered so. The last reply answers every further request.
    pub fn acts(mut self, acts: impl IntoIterator<Item = Act>) -> Self {
        self.replies.push(acts.into_iter().collect());
        self
    }

    /// The next request is answered by these bytes.
    pub fn reply(self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref().to_vec();
        self.acts([Act::Send(bytes)])
    }

    /// The next request is answered by 200 with this body.
    pub fn ok(self, body: &str) -> Self {
        self.status(200, body)
    }

    /// The next request is answered by this status and body.
    pub fn status(self, status: u16, body: &str) -> Self {
        match self.protocol {
            Protocol::Http2 => {
                let fields = [(":status", status.to_string()), ("content-length", body.len().to_string())];
                let fields = fields.map(|(n, v)| (n.to_owned(), v)).to_vec();
                self.acts([Act::Headers(fields, body.is_empty()), Act::Data(body.into(), true)])
            }
            _ => self.reply(format!("HTTP/1.1 {status} Status\r\ncontent-length: {}\r\n\r\n{body}", body.len())),
        }
    }

    /// Does it speak HTTP/2?
    pub fn is_h2(&self) -> bool {
        self.protocol == Protocol::Http2
    }

    /// Does it speak TLS?
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }
}
