//! Scripted upstreams: servers that answer the n-th request with the n-th reply of a script, byte for byte, and write
//! down what reached them, on which connection, and how the connection ended.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::{ServerConnection, StreamOwned};

use crate::ports::Reserved;
use crate::tls;
use crate::wire::h1::{end_name, read_body, read_head, request_framing};
use crate::wire::h2::{self, Event};
use crate::wire::{Connection, Filled, Message, Transport, text};

/// How long an upstream waits for anything; longer than any scenario.
const PATIENCE: Duration = Duration::from_secs(60);

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

/// What reached one connection of an upstream.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// The cluster.
    pub cluster: String,
    /// Which endpoint of the cluster.
    pub endpoint: usize,
    /// Requests with their place in the order of all requests of the scenario.
    pub requests: Vec<(usize, Message)>,
    /// TLS name and protocol, GOAWAY and such.
    pub marks: Vec<String>,
    /// How the proxy ended the connection.
    pub end: Option<&'static str>,
}

#[derive(Debug, Default)]
struct State {
    connections: Vec<Received>,
    requests: usize,
    changes: u64,
    stopped: bool,
    sockets: Vec<TcpStream>,
}

/// What reached the upstreams of one scenario.
#[derive(Debug, Default)]
pub struct Record {
    state: Mutex<State>,
    changed: Condvar,
}

impl Record {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> Option<T> {
        let mut state = self.lock();
        if state.stopped {
            return None;
        }
        state.changes += 1;
        let result = change(&mut state);
        self.changed.notify_all();
        Some(result)
    }

    fn connection(&self, id: usize, change: impl FnOnce(&mut Received)) {
        self.change(|state| state.connections.get_mut(id).map(change));
    }

    /// Adds a request; answers its place on the connection.
    fn request(&self, id: usize, message: Message) -> usize {
        self.change(|state| {
            state.requests += 1;
            let number = state.requests;
            let requests = &mut state.connections[id].requests;
            requests.push((number, message));
            requests.len() - 1
        })
        .unwrap_or(0)
    }

    fn update(&self, id: usize, place: usize, change: impl FnOnce(&mut Message)) {
        self.connection(id, |received| {
            if let Some((_, message)) = received.requests.get_mut(place) {
                change(message);
            }
        });
    }

    /// Waits until so many requests came; answers whether they did before `deadline`.
    pub fn await_requests(&self, count: usize, deadline: Instant) -> bool {
        let mut state = self.lock();
        while state.requests < count {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Waits until nothing came for `quiet`, then answers what came.
    pub fn settle(&self, quiet: Duration) -> Vec<Received> {
        let mut state = self.lock();
        loop {
            let before = state.changes;
            let deadline = Instant::now() + quiet;
            while let Some(left) = deadline.checked_duration_since(Instant::now()) {
                state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            if state.changes == before {
                return state.connections.clone();
            }
        }
    }

    /// Closes every connection; what happens from now on is not recorded.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        for socket in state.sockets.drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

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
