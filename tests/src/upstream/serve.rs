//! The servers that play the scripts, a thread for each connection.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::{ServerConnection, StreamOwned};

use super::{Act, Protocol, Received, Record, Upstream};
use crate::ports::Reserved;
use crate::tls;
use crate::wire::h1::{end_name, read_body, read_head, request_framing};
use crate::wire::h2::{self, Event};
use crate::wire::{Connection, Filled, Message, Transport, text};

/// How long an upstream waits for anything; longer than any scenario.
const PATIENCE: Duration = Duration::from_secs(60);

/// The endpoints of one cluster, serving until dropped.
#[derive(Debug)]
pub struct Serving {
    ports: Vec<u16>,
    record: Arc<Record>,
    _refusing: Vec<Reserved>,
}

/// Replies shared by the endpoints of a cluster.
#[derive(Debug)]
struct Script {
    upstream: Upstream,
    next: Mutex<usize>,
}

impl Script {
    fn next(&self) -> Vec<Act> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let replies = &self.upstream.replies;
        let reply = replies.get((*next).min(replies.len().saturating_sub(1))).cloned().unwrap_or_default();
        *next += 1;
        reply
    }
}

impl Serving {
    /// Starts the endpoints of `cluster`.
    ///
    /// # Errors
    /// Where no port is free.
    pub fn start(cluster: &str, upstream: &Upstream, record: &Arc<Record>) -> std::io::Result<Self> {
        let script = Arc::new(Script { upstream: upstream.clone(), next: Mutex::new(0) });
        let mut serving = Self { ports: Vec::new(), record: Arc::clone(record), _refusing: Vec::new() };
        for endpoint in 0..upstream.endpoints {
            if upstream.protocol == Protocol::Refuses {
                let reserved = Reserved::new()?;
                serving.ports.push(reserved.port());
                serving._refusing.push(reserved);
                continue;
            }
            let listener = TcpListener::bind(("127.0.0.1", 0))?;
            serving.ports.push(listener.local_addr()?.port());
            let (script, record, cluster) = (Arc::clone(&script), Arc::clone(record), cluster.to_owned());
            std::thread::spawn(move || accept(&listener, &script, &record, &cluster, endpoint));
        }
        Ok(serving)
    }

    /// The ports of the endpoints.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.record.stop();
        for port in &self.ports {
            // Wakes the accepting thread, which then sees that it is over.
            let _ = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], *port)), Duration::from_millis(200));
        }
    }
}

fn accept(listener: &TcpListener, script: &Arc<Script>, record: &Arc<Record>, cluster: &str, endpoint: usize) {
    while let Ok((stream, _)) = listener.accept() {
        let Ok(twin) = stream.try_clone() else { return };
        let _ = stream.set_nodelay(true);
        let id = record.change(|state| {
            state.sockets.push(twin);
            state.connections.push(Received { cluster: cluster.to_owned(), endpoint, ..Received::default() });
            state.connections.len() - 1
        });
        let Some(id) = id else { return };
        let (script, record) = (Arc::clone(script), Arc::clone(record));
        std::thread::spawn(move || Server { connection: secure(stream, &script), script, record, id }.serve());
    }
}

fn secure(stream: TcpStream, script: &Script) -> Option<Connection> {
    let transport = match &script.upstream.tls {
        None => Transport::Plain(stream),
        Some(alpn) => {
            let session = ServerConnection::new(tls::server_config(alpn)).expect("our own configuration");
            let mut stream = StreamOwned::new(session, stream);
            let _ = stream.sock.set_read_timeout(Some(PATIENCE));
            while stream.conn.is_handshaking() {
                stream.conn.complete_io(&mut stream.sock).ok()?;
            }
            Transport::Server(Box::new(stream))
        }
    };
    Some(Connection::new(transport))
}

/// One accepted connection.
struct Server {
    connection: Option<Connection>,
    script: Arc<Script>,
    record: Arc<Record>,
    id: usize,
}

impl Server {
    fn serve(mut self) {
        let Some(connection) = &self.connection else {
            self.record.connection(self.id, |received| received.end = Some("TLS handshake failed"));
            return;
        };
        if self.script.upstream.tls.is_some() {
            let mark = format!(
                "TLS name {:?}, protocol {:?}",
                connection.server_name().unwrap_or_default(),
                connection.alpn().map(text).unwrap_or_default()
            );
            self.record.connection(self.id, |received| received.marks.push(mark));
        }
        let on_accept = self.script.upstream.on_accept.clone();
        if self.perform(on_accept, Place::Connection) {
            match self.script.upstream.protocol {
                Protocol::Http1 => self.http1(),
                Protocol::Http2 => self.http2(),
                Protocol::Tcp => self.tcp(),
                Protocol::Refuses => {}
            }
        }
        if let Some(end) = self.connection.as_ref().and_then(Connection::end) {
            self.record.connection(self.id, |received| received.end = Some(end_name(end)));
        }
    }

    fn http1(&mut self) {
        while let Some(connection) = &mut self.connection {
            let Some(mut head) = read_head(connection, Instant::now() + PATIENCE) else { return };
            if head.start.starts_with("\\x16\\x03") {
                // Different in every run, and of no interest.
                head = Message { start: "a TLS handshake".to_owned(), ..Message::default() };
            }
            let framing = request_framing(&head);
            let place = self.record.request(self.id, head.clone());
            let mut acts = self.script.next();
            if !acts.iter().any(|act| matches!(act, Act::Body)) {
                acts.insert(0, Act::Body);
            }
            if !self.perform(acts, Place::Http1 { place, head, framing }) {
                return;
            }
        }
    }

    fn tcp(&mut self) {
        let place = self.record.request(self.id, Message { start: "bytes".to_owned(), ..Message::default() });
        let acts = self.script.next();
        if self.perform(acts, Place::Tcp { place }) {
            self.hang(Some(place));
        }
    }

    /// Does what the script says; `false` ends the connection's service.
    fn perform(&mut self, acts: Vec<Act>, mut place: Place) -> bool {
        for act in acts {
            let deadline = Instant::now() + PATIENCE;
            let Some(connection) = &mut self.connection else { return false };
            let stream = if let Place::Http2 { stream, .. } = place { stream } else { 0 };
            match act {
                Act::Send(bytes) => connection.send(&bytes),
                Act::Headers(fields, end) => connection.send(&h2::headers(stream, fields, end)),
                Act::Data(bytes, end) if !(bytes.is_empty() && end) => connection.send(&h2::data(stream, &bytes, end)),
                Act::Data(..) => {}
                Act::Reset(code) => connection.send(&h2::rst_stream(stream, code)),
                Act::GoAway(code, this) => connection.send(&h2::goaway(if this { stream } else { 0 }, code)),
                Act::Body => {
                    if let Place::Http1 { place, head, framing } = &mut place {
                        let whole = read_body(connection, head, *framing, deadline);
                        self.record.update(self.id, *place, |message| *message = head.clone());
                        if !whole {
                            return false;
                        }
                    }
                }
                Act::Delay(time) => {
                    let until = Instant::now() + time;
                    while connection.fill(until) == Filled::Data {}
                }
                Act::Expect(length) => {
                    while connection.buffer.len() < length && connection.fill(deadline) == Filled::Data {}
                    self.received(place.number());
                }
                Act::Fin => connection.half_close(),
                Act::Close => {
                    let _ = connection.socket().shutdown(Shutdown::Both);
                    self.connection = None;
                    self.record.connection(self.id, |received| received.end = Some("closed by the script"));
                    return false;
                }
                Act::Rst => {
                    self.forget();
                    return false;
                }
                // HTTP/2 goes on reading frames: silence on one stream is no silence on the connection.
                Act::Hang if matches!(place, Place::Http2 { .. }) => {}
                Act::Hang => {
                    self.hang(place.number());
                    return false;
                }
                Act::Echo => {
                    self.echo(place.number());
                    return false;
                }
            }
        }
        true
    }

    /// Resets: no descriptor of the socket may survive, or close would not be the last.
    fn forget(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        let local = connection.socket().peer_addr().ok();
        self.record.change(|state| state.sockets.retain(|socket| socket.peer_addr().ok() != local));
        connection.reset();
        self.record.connection(self.id, |received| received.end = Some("reset by the script"));
    }

    /// Moves what was read to the record.
    fn received(&mut self, place: Option<usize>) {
        let Some(connection) = &mut self.connection else { return };
        let bytes = std::mem::take(&mut connection.buffer);
        if let Some(place) = place.filter(|_| !bytes.is_empty()) {
            self.record.update(self.id, place, |message| message.body.extend_from_slice(&bytes));
        }
    }

    fn hang(&mut self, place: Option<usize>) {
        loop {
            self.received(place);
            match self.connection.as_mut().map(|connection| connection.fill(Instant::now() + PATIENCE)) {
                Some(Filled::Data) => {}
                _ => return,
            }
        }
    }

    fn echo(&mut self, place: Option<usize>) {
        while let Some(connection) = &mut self.connection {
            let bytes = connection.buffer.clone();
            if !bytes.is_empty() {
                connection.send(&bytes);
            }
            self.received(place);
            let Some(connection) = &mut self.connection else { return };
            if connection.fill(Instant::now() + PATIENCE) != Filled::Data {
                connection.half_close();
                return;
            }
        }
    }

    fn http2(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let Some(connection) = &mut self.connection else { return };
        while connection.buffer.len() < h2::PREFACE.len() {
            if connection.fill(deadline) != Filled::Data {
                return;
            }
        }
        let preface: Vec<u8> = connection.buffer.drain(..h2::PREFACE.len()).collect();
        if preface != h2::PREFACE {
            self.record.connection(self.id, |received| received.marks.push(format!("preface {}", text(&preface))));
            return;
        }
        connection.send(&h2::settings(&self.script.upstream.settings));
        let mut reader = h2::Reader::default();
        let mut places: BTreeMap<u32, usize> = BTreeMap::new();
        let mut trailers = BTreeSet::new();
        while let Some(connection) = &mut self.connection {
            let Ok(event) = reader.next(connection, Instant::now() + PATIENCE) else { return };
            if let Some(answer) = h2::housekeeping(&event) {
                connection.send(&answer);
            }
            let (stream, end, is_head) = match event {
                Event::Headers { stream, fields, end } => {
                    let fields: Vec<(String, String)> =
                        fields.unwrap_or_default().iter().map(|(n, v)| (text(n), text(v))).collect();
                    if let Some(&place) = places.get(&stream) {
                        trailers.insert(stream);
                        self.record.update(self.id, place, |message| message.trailers = fields);
                        (stream, end, false)
                    } else {
                        let start = format!("stream {stream}");
                        let message = Message { start, headers: fields, ..Message::default() };
                        places.insert(stream, self.record.request(self.id, message));
                        (stream, end, true)
                    }
                }
                Event::Data { stream, bytes, end } => {
                    if let Some(&place) = places.get(&stream) {
                        self.record.update(self.id, place, |message| message.body.extend_from_slice(&bytes));
                    }
                    (stream, end, false)
                }
                Event::Reset { stream, code } => {
                    let mark = format!("RST_STREAM {}", h2::code_name(code));
                    if let Some(&place) = places.get(&stream) {
                        self.record.update(self.id, place, |message| message.marks.push(mark));
                    }
                    continue;
                }
                Event::GoAway { code, .. } => {
                    let mark = format!("GOAWAY {}", h2::code_name(code));
                    self.record.connection(self.id, |received| received.marks.push(mark));
                    continue;
                }
                Event::Settings(_) | Event::Ping(_) | Event::Other => continue,
            };
            let due = if self.script.upstream.at_headers { is_head } else { end };
            if let Some(&place) = places.get(&stream).filter(|_| due) {
                let acts = self.script.next();
                if !self.perform(acts, Place::Http2 { stream, place }) && self.connection.is_none() {
                    return;
                }
            }
        }
    }
}

/// Where in the conversation an act happens.
enum Place {
    Connection,
    Http1 { place: usize, head: Message, framing: crate::wire::h1::Framing },
    Http2 { stream: u32, place: usize },
    Tcp { place: usize },
}

impl Place {
    /// The place of the request in the record, where bytes without framing belong.
    fn number(&self) -> Option<usize> {
        match self {
            Self::Connection => None,
            Self::Http1 { place, .. } | Self::Tcp { place } | Self::Http2 { place, .. } => Some(*place),
        }
    }
}
