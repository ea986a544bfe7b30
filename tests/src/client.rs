//! Scripted clients: exact bytes out, and a record of everything that came back, the end of the connection included.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::tls::{self, Identity};
use crate::upstream::Record;
use crate::wire::h1::{end_name, read_body, read_head, response_framing};
use crate::wire::h2::{self, Event};
use crate::wire::{Connection, Filled, Message, Transport, text};

/// TLS of a client.
#[derive(Clone, Debug, Default)]
pub struct ClientTls {
    /// Protocols offered by ALPN.
    pub alpn: Vec<&'static str>,
    /// The server name asked for.
    pub name: &'static str,
    /// The certificate shown.
    pub identity: Option<&'static Identity>,
}

/// One thing that a client does.
#[derive(Clone, Debug)]
pub enum Step {
    /// Opens a further connection; the steps that follow are about it.
    Connect,
    /// Writes bytes.
    Send(Vec<u8>),
    /// HTTP/2: writes bytes, unless the other side said GOAWAY or ended the connection: what it then does with them is
    /// chance.
    SendUnlessAway(Vec<u8>),
    /// HTTP/1: reads the next response, with those of 1xx before it; `true`: the request was HEAD.
    Response(bool),
    /// HTTP/1: reads one response of 1xx.
    Informational,
    /// Reads so many bytes that are no HTTP/1 message.
    Bytes(usize),
    /// HTTP/2: waits until the stream is over.
    Stream(u32),
    /// HTTP/2: waits until the other side's SETTINGS came and were acknowledged: an acknowledgement that meets a closed
    /// connection would make a reset of its end, by chance.
    Settings,
    /// HTTP/2: waits until the head of the stream's response came.
    Head(u32),
    /// Waits until so many requests reached the upstreams.
    Upstream(usize),
    /// Does nothing for a while: a slow client.
    Delay(Duration),
    /// Waits until the proxy ends the connection.
    End,
    /// Closes its direction.
    HalfClose,
    /// Resets the connection.
    Reset,
}

/// The script of a client.
#[derive(Clone, Debug)]
pub struct Client {
    h2: bool,
    tls: Option<ClientTls>,
    steps: Vec<Step>,
    reads_nothing: bool,
    settle: Duration,
}

/// How long after the last step the end of a connection is waited for, before it counts as kept.
const SETTLE: Duration = Duration::from_millis(1500);
/// How much longer, where the end was announced: Envoy gives the other side a second to close first.
const ANNOUNCED: Duration = Duration::from_secs(4);
/// How long a step waits for what it wants.
const PATIENCE: Duration = Duration::from_secs(8);

impl Client {
    /// Writes and reads HTTP/1, or bytes without meaning.
    pub fn raw() -> Self {
        Self { h2: false, tls: None, steps: Vec::new(), reads_nothing: false, settle: SETTLE }
    }

    /// Reads HTTP/2, and begins with the preface and empty SETTINGS.
    pub fn h2() -> Self {
        let mut hello = h2::PREFACE.to_vec();
        hello.extend(h2::settings(&[]));
        Self::h2_bare().send(hello).step(Step::Settings)
    }

    /// Reads HTTP/2 and writes only what the script says.
    pub fn h2_bare() -> Self {
        Self { h2: true, ..Self::raw() }
    }

    /// Speaks TLS below.
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Adds a step.
    pub fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Writes bytes.
    pub fn send(self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref().to_vec();
        self.step(Step::Send(bytes))
    }

    /// Goes on over a new connection.
    pub fn fresh(self) -> Self {
        self.step(Step::Connect)
    }

    /// HTTP/1: writes a request and reads its response.
    pub fn request(self, bytes: impl AsRef<[u8]>) -> Self {
        let head = bytes.as_ref().starts_with(b"HEAD ");
        self.send(bytes).step(Step::Response(head))
    }

    /// HTTP/1: `GET path` for the host `a.test`, and its response.
    pub fn get(self, path: &str) -> Self {
        self.request(format!("GET {path} HTTP/1.1\r\nhost: a.test\r\n\r\n"))
    }

    /// HTTP/2: a request without body and with these further fields, and its response.
    pub fn h2_get(self, stream: u32, path: &str, fields: &[(&str, &str)]) -> Self {
        self.send(h2_head(stream, "GET", path, fields, true)).step(Step::Stream(stream))
    }

    /// HTTP/2: a request with a body, and its response.
    pub fn h2_post(self, stream: u32, path: &str, fields: &[(&str, &str)], body: &str) -> Self {
        let mut bytes = h2_head(stream, "POST", path, fields, false);
        bytes.extend(h2::data(stream, body.as_bytes(), true));
        self.send(bytes).step(Step::Stream(stream))
    }

    /// Waits for the end of the connection, and longer than usual.
    pub fn end(self) -> Self {
        self.step(Step::End)
    }

    /// HTTP/2: sends no window updates and no acknowledgements by itself.
    pub fn passive(mut self) -> Self {
        self.reads_nothing = true;
        self
    }

    /// Waits so long at the end before a connection counts as kept.
    pub fn settle(mut self, time: Duration) -> Self {
        self.settle = time;
        self
    }

    /// Plays the script against `address`.
    pub fn play(&self, address: SocketAddr, record: &Record) -> Vec<Answered> {
        let mut sessions = Vec::new();
        let mut steps = self.steps.iter();
        let mut next = Some(&Step::Connect);
        while let Some(step) = next {
            if let Step::Connect = step {
                sessions.push(self.connect(address));
            } else if let Some(session) = sessions.last_mut() {
                session.step(step, record);
            }
            next = steps.next();
        }
        let deadline = Instant::now() + self.settle;
        sessions.into_iter().map(|session| session.finish(deadline)).collect()
    }

    fn connect(&self, address: SocketAddr) -> Session {
        let mut answered = Answered::default();
        let connection = match self.transport(address) {
            Ok(transport) => {
                let connection = Connection::new(transport);
                if let Some(protocol) = connection.alpn() {
                    answered.marks.push(format!("ALPN {}", text(protocol)));
                }
                Some(connection)
            }
            Err(error) => {
                answered.fate = error;
                None
            }
        };
        Session { connection, answered, h2: self.h2.then(H2::default), reads_nothing: self.reads_nothing }
    }

    fn transport(&self, address: SocketAddr) -> Result<Transport, String> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(|_| "connection refused".to_owned())?;
        let _ = stream.set_nodelay(true);
        let _ = stream.set_write_timeout(Some(PATIENCE));
        let Some(tls) = &self.tls else { return Ok(Transport::Plain(stream)) };
        let name = ServerName::try_from(tls.name).map_err(|_| "a bad server name".to_owned())?;
        let session = ClientConnection::new(tls::client_config(&tls.alpn, tls.identity), name)
            .map_err(|_| "a bad configuration".to_owned())?;
        let mut stream = StreamOwned::new(session, stream);
        let _ = stream.sock.set_read_timeout(Some(PATIENCE));
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).map_err(|error| handshake(&error))?;
        }
        Ok(Transport::Client(Box::new(stream)))
    }
}

/// What a failed handshake looked like; not every word of the library's, but the alert.
fn handshake(error: &std::io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(alert)) => format!("TLS alert {alert:?}"),
        Some(_) => "TLS handshake refused by the client".to_owned(),
        None => "TLS handshake cut".to_owned(),
    }
}

/// HEADERS of a request for the authority `a.test`. A field that begins with `:` replaces the one that is there; with
/// an empty value it removes it.
pub fn h2_head(stream: u32, method: &str, path: &str, fields: &[(&str, &str)], end: bool) -> Vec<u8> {
    let mut all = vec![(":method", method), (":scheme", "http"), (":path", path), (":authority", "a.test")];
    for field in fields {
        match all[..4].iter_mut().find(|(name, _)| *name == field.0) {
            Some(slot) => *slot = *field,
            None => all.push(*field),
        }
    }
    all.retain(|(name, value)| !(name.starts_with(':') && value.is_empty()));
    h2::headers(stream, all, end)
}

/// What one connection of a client received.
#[derive(Debug, Default)]
pub struct Answered {
    /// Responses, 1xx included; HTTP/2 in the order of streams.
    pub messages: Vec<Message>,
    /// Bytes that belong to no response.
    pub rest: Vec<u8>,
    /// GOAWAY, ALPN and waits in vain.
    pub marks: Vec<String>,
    /// How the proxy left the connection.
    pub fate: String,
    /// Kept open until the observation is made: closing it would be one more thing for the proxy to react to.
    connection: Option<Connection>,
}

impl Answered {
    /// Closes the connection, if it is still open.
    pub fn close(&mut self) {
        self.connection = None;
    }
}

#[derive(Debug, Default)]
struct H2 {
    reader: h2::Reader,
    streams: BTreeMap<u32, Vec<Message>>,
    over: BTreeSet<u32>,
    settings: bool,
}

#[derive(Debug)]
struct Session {
    connection: Option<Connection>,
    answered: Answered,
    h2: Option<H2>,
    reads_nothing: bool,
}

impl Session {
    fn step(&mut self, step: &Step, record: &Record) {
        let deadline = Instant::now() + PATIENCE;
        let Some(connection) = &mut self.connection else { return };
        match step {
            Step::Connect => {}
            Step::Send(bytes) => connection.send(bytes),
            Step::SendUnlessAway(bytes) => {
                let away = self.answered.marks.iter().any(|mark| mark.starts_with("GOAWAY"));
                if !away && connection.end().is_none() {
                    connection.send(bytes);
                }
            }
            Step::Response(head) => {
                while let Some(message) = self.response(*head, deadline) {
                    let status = message.start.split(' ').nth(1).unwrap_or_default().to_owned();
                    self.answered.messages.push(message);
                    if !status.starts_with('1') || status == "101" {
                        break;
                    }
                }
            }
            Step::Informational => {
                if let Some(message) = self.response(false, deadline) {
                    self.answered.messages.push(message);
                }
            }
            Step::Bytes(length) => {
                while connection.buffer.len() < *length && connection.fill(deadline) == Filled::Data {}
                let here = connection.buffer.len().min(*length);
                self.answered.rest.extend(connection.buffer.drain(..here));
            }
            Step::Stream(stream) => self.h2_until(deadline, |h2| h2.over.contains(stream)),
            Step::Settings => self.h2_until(deadline, |h2| h2.settings),
            Step::Head(stream) => self.h2_until(deadline, |h2| h2.streams.contains_key(stream)),
            Step::Upstream(count) => {
                if !record.await_requests(*count, deadline) {
                    self.answered.marks.push(format!("the upstreams never saw request {count}"));
                }
            }
            Step::Delay(time) => {
                let until = Instant::now() + *time;
                if self.h2.is_some() {
                    self.h2_until(until, |_| false);
                } else {
                    while connection.fill(until) == Filled::Data {}
                }
            }
            Step::End => {
                if self.h2.is_some() {
                    self.h2_until(deadline, |_| false);
                } else {
                    while connection.fill(deadline) == Filled::Data {}
                }
            }
            Step::HalfClose => connection.half_close(),
            Step::Reset => {
                if let Some(connection) = self.connection.take() {
                    connection.reset();
                }
                self.answered.fate = "reset by the client".to_owned();
            }
        }
    }

    fn response(&mut self, head: bool, deadline: Instant) -> Option<Message> {
        let connection = self.connection.as_mut()?;
        let Some(mut message) = read_head(connection, deadline) else {
            let why = connection.end().map_or("silence", end_name);
            self.answered.marks.push(format!("no response: {why}"));
            return None;
        };
        let framing = response_framing(&message, head);
        read_body(connection, &mut message, framing, deadline);
        Some(message)
    }

    /// Reads frames until `done`, the end or the deadline.
    fn h2_until(&mut self, deadline: Instant, done: impl Fn(&H2) -> bool) {
        let (Some(connection), Some(state)) = (&mut self.connection, &mut self.h2) else { return };
        while !done(state) {
            let Ok(event) = state.reader.next(connection, deadline) else { return };
            if let Some(answer) = h2::housekeeping(&event).filter(|_| !self.reads_nothing) {
                connection.send(&answer);
            }
            match event {
                Event::Headers { stream, fields, end } => {
                    let fields = match fields {
                        Some(fields) => fields.iter().map(|(n, v)| (text(n), text(v))).collect(),
                        None => vec![("undecodable".to_owned(), String::new())],
                    };
                    state.headers(stream, fields);
                    if end {
                        state.over.insert(stream);
                    }
                }
                Event::Data { stream, bytes, end } => {
                    state.message(stream).body.extend_from_slice(&bytes);
                    if end {
                        state.over.insert(stream);
                    }
                }
                Event::Reset { stream, code } => {
                    state.message(stream).marks.push(format!("RST_STREAM {}", h2::code_name(code)));
                    state.over.insert(stream);
                }
                Event::GoAway { code, .. } => {
                    self.answered.marks.push(format!("GOAWAY {}", h2::code_name(code)));
                }
                Event::Settings(_) => state.settings = true,
                Event::Ping(_) | Event::Other => {}
            }
        }
    }

    fn finish(mut self, deadline: Instant) -> Answered {
        if self.h2.is_some() {
            self.h2_until(deadline, |_| false);
        }
        if let Some(connection) = &mut self.connection {
            let closing = |message: &Message| message.header("connection") == Some("close");
            let mut announced = self.answered.marks.iter().any(|mark| mark.starts_with("GOAWAY"))
                || self.answered.messages.last().is_some_and(closing);
            let mut deadline = deadline;
            let end = loop {
                announced |= connection.buffer.windows(17).any(|bytes| bytes == b"connection: close");
                match connection.fill(deadline) {
                    Filled::Data => {}
                    Filled::Ended(end) => break end_name(end),
                    Filled::TimedOut if announced => {
                        deadline = Instant::now() + ANNOUNCED;
                        announced = false;
                        if connection.fill(deadline) == Filled::TimedOut {
                            break "kept";
                        }
                    }
                    Filled::TimedOut => break "kept",
                }
            };
            self.answered.fate = end.to_owned();
        }
        // What came while the end was waited for.
        self.h2_until(Instant::now(), |_| false);
        if let Some(connection) = &mut self.connection {
            // A response that no step asked for is still easier to read as one.
            while connection.buffer.starts_with(b"HTTP/1.") {
                let Some(mut message) = read_head(connection, Instant::now()) else { break };
                let framing = response_framing(&message, false);
                read_body(connection, &mut message, framing, Instant::now());
                self.answered.messages.push(message);
            }
            self.answered.rest.append(&mut connection.buffer);
        }
        if let Some(state) = self.h2 {
            self.answered.messages.extend(state.streams.into_values().flatten());
        }
        self.answered.connection = self.connection;
        self.answered
    }
}

impl H2 {
    fn message(&mut self, stream: u32) -> &mut Message {
        let messages = self.streams.entry(stream).or_default();
        if messages.is_empty() {
            messages.push(Message { start: format!("stream {stream}"), ..Message::default() });
        }
        let last = messages.len() - 1;
        &mut messages[last]
    }

    /// A header block: the first head, one after 1xx, or trailers.
    fn headers(&mut self, stream: u32, fields: Vec<(String, String)>) {
        let start = format!("stream {stream}");
        let messages = self.streams.entry(stream).or_default();
        match messages.last_mut() {
            Some(last) if !last.header(":status").is_some_and(|status| status.starts_with('1')) => {
                last.trailers = fields;
            }
            _ => messages.push(Message { start, headers: fields, ..Message::default() }),
        }
    }
}
