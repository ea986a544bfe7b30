//! What a connection's transport, driver and streams know of each other: what the frames that pass say beyond what the
//! `h2` crate tells, and the judgement of it.
//!
//! The transport belongs to the connection's [`Link`], not to the crate: after the crate is done, the connection can
//! still be closed without losing what is in flight, and streams can ask what became of it.

mod interim;
mod outbound;

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::interim::Interim;
use super::block::{Blocks, Finding};
use super::head::{BAD_FIELD, BAD_MESSAGE};
use super::scan::{
    CONTINUATION, DATA, FLAG_END_STREAM, Floods, FrameHead, GOAWAY, HEADERS, PRIORITY, RST_STREAM, SETTINGS, Scanner,
    goaway,
};
use crate::io::Io;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const REFUSED_STREAM: u32 = 7;
const COMPRESSION_ERROR: u32 = 9;
/// Odd heads and trailers of streams that have not been judged yet.
const MAX_FINDINGS: usize = 1000;

/// What a client did that ends its connection, and that only we have seen or judge so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// In Envoy's words.
    details: &'static str,
    /// The code of the GOAWAY that says so. Without one the connection closes without a word, as Envoy's does.
    code: Option<u32>,
}

/// Envoy's words for what its library calls an error.
pub(super) const CODEC_ERROR: &str = "codec_error:The_user_callback_function_failed";

impl Fault {
    /// The first frame is no SETTINGS.
    const BAD_PREFACE: Fault = Fault { details: "http2.bad_preface", code: Some(PROTOCOL_ERROR) };
    /// DATA on a stream that the client has ended.
    const AFTER_THE_END: Fault = Fault { details: CODEC_ERROR, code: Some(STREAM_CLOSED) };
    /// A WINDOW_UPDATE that widens nothing, or a stream's window beyond what a window can be.
    const BAD_WINDOW: Fault = Fault { details: "http2.unknown.nghttp2.error", code: None };

    fn silent(details: &'static str) -> Self {
        Fault { details, code: None }
    }
}

/// What a connection's transport, driver and streams know of each other.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) transport: RefCell<Transport>,
    violation: Cell<Option<&'static str>>,
    /// A violation that counts when the crate has worked off what came before it.
    pub(super) later: Cell<Option<Fault>>,
    /// A malformed message ends its stream only, and is reported here.
    malformed: Cell<Option<&'static str>>,
    goaway: Cell<Option<(u32, u32)>>,
    last_headers_sent: Cell<u32>,
    interim: Interim,
    own_resets: RefCell<Vec<u32>>,
    own_goaway: Cell<bool>,
    accepted: Cell<u32>,
    pub(super) doubtful: Cell<Option<u32>>,
    /// What was found in header blocks of streams, until the crate comes to them.
    findings: RefCell<Vec<(u32, Finding)>>,
    of_stream: Cell<bool>,
    client: bool,
    pub(super) saw_end: Cell<bool>,
    /// The peer has said something of how many streams it takes, and the connection has not heard of it.
    news: Cell<bool>,
    pub(super) written_bytes: Cell<u64>,
    refused: Cell<u64>,
}

#[derive(Debug)]
pub(super) struct Transport {
    pub(super) io: Io,
    pub(super) buffered: Bytes,
    inbound: Scanner,
    outbound: Scanner,
    pub(super) floods: Floods,
    /// A client's header blocks; an upstream is trusted to mean what the crate tells.
    blocks: Option<Box<Blocks>>,
    /// The kind of the last frame read; `None` before the first.
    last_kind: Option<u8>,
    /// The kind of the last frame that carried a message, and its stream.
    last_message: (u8, u32),
    policy: Policy,
    /// Nothing is written any more: the peer sees the transport close.
    pub(super) silent: bool,
    /// The code that says better than the crate's what was wrong with the last frame.
    code: Option<u32>,
    /// The streams that a client has opened, the highest id, and whether it has ended that one.
    opened: u32,
    ended: bool,
}

impl Transport {
    /// Says it if the socket takes it at once, and nothing stands half written.
    fn say_goaway(&mut self, cx: &mut Context<'_>, last: u32, code: u32) {
        if !self.silent && self.outbound.boundary() == Some(0) {
            let _ = Pin::new(&mut self.io).poll_write(cx, &goaway(last, code));
            let _ = Pin::new(&mut self.io).poll_flush(cx);
        }
    }
}

/// What happens when the peer sends a malformed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    /// The connection ends, without a frame: Envoy's default for a downstream.
    EndConnection,
    /// The stream ends: `stream_error_on_invalid_http_message`, and upstreams.
    EndStream,
}

impl Link {
    /// `preface` bytes come before the first frame in (server) or out (client) direction.
    pub(super) fn new(io: Io, buffered: Bytes, policy: Policy, floods: Floods, server: bool) -> Rc<Self> {
        let (inbound, outbound) = if server { (24, 0) } else { (0, 24) };
        Rc::new(Link {
            transport: RefCell::new(Transport {
                io,
                buffered,
                inbound: Scanner::new(inbound),
                outbound: Scanner::new(outbound),
                floods,
                blocks: server.then(Box::default),
                last_kind: None,
                last_message: (DATA, 0),
                policy,
                silent: false,
                code: None,
                opened: 0,
                ended: false,
            }),
            violation: Cell::new(None),
            later: Cell::new(None),
            malformed: Cell::new(None),
            goaway: Cell::new(None),
            last_headers_sent: Cell::new(0),
            interim: Interim::default(),
            own_resets: RefCell::new(Vec::new()),
            own_goaway: Cell::new(false),
            // Answers to our own requests are not accepted, they are expected.
            accepted: Cell::new(if server { 0 } else { u32::MAX }),
            doubtful: Cell::new(None),
            findings: RefCell::default(),
            of_stream: Cell::new(false),
            client: !server,
            saw_end: Cell::new(false),
            news: Cell::new(false),
            written_bytes: Cell::new(0),
            refused: Cell::new(0),
        })
    }

    /// Whether SETTINGS or GOAWAY have come, once.
    pub(super) fn take_news(&self) -> bool {
        self.news.take()
    }

    /// Whether we are the client.
    pub(super) fn is_client(&self) -> bool {
        self.client
    }

    /// Whether the peer has closed or reset the transport.
    pub(super) fn saw_end(&self) -> bool {
        self.saw_end.get()
    }

    /// Streams of the peer's that were refused: it had opened more than it may.
    pub(super) fn refused(&self) -> u64 {
        self.refused.get()
    }

    /// Bytes that the transport has taken.
    pub(super) fn written_bytes(&self) -> u64 {
        self.written_bytes.get()
    }

    /// Why the connection must end, in Envoy's words, where the peer broke the protocol.
    pub(super) fn violation(&self) -> Option<&'static str> {
        self.violation.get()
    }

    /// The peer broke the protocol, in a way that only we have seen.
    pub(super) fn set_violation(&self, details: &'static str) {
        self.violation.set(Some(self.violation.get().unwrap_or(details)));
        self.transport.borrow_mut().silent = true;
    }

    /// Whether a violation waits that counts now: the crate has taken in all that came before it, and written all that
    /// it had to say.
    pub(super) fn settle_later(&self, cx: &mut Context<'_>) -> bool {
        let Some(Fault { details, code }) = self.later.take() else { return false };
        if let Some(code) = code {
            self.transport.borrow_mut().say_goaway(cx, self.accepted.get(), code);
        }
        self.set_violation(details);
        true
    }

    /// A malformed message that ended its stream only, once.
    pub(super) fn take_malformed(&self) -> Option<&'static str> {
        self.malformed.take()
    }

    /// Reports it later after all.
    pub(super) fn put_malformed(&self, details: &'static str) {
        self.malformed.set(Some(details));
    }

    /// What happens to malformed messages.
    pub(super) fn policy(&self) -> Policy {
        self.transport.borrow().policy
    }

    /// The last stream id of the peer's GOAWAY.
    pub(super) fn goaway(&self) -> Option<u32> {
        self.goaway.get().map(|(id, _)| id)
    }

    /// The request of `stream` has been taken from the crate.
    pub(super) fn set_accepted(&self, stream: u32) {
        self.accepted.set(stream);
    }

    /// The number of the client's header block that has begun and is not complete.
    pub(super) fn open_block(&self) -> Option<u32> {
        self.transport.borrow().blocks.as_ref().and_then(|blocks| blocks.open())
    }

    /// Whether the connection ended within the head of a request.
    pub(super) fn is_within_a_head(&self) -> bool {
        self.transport.borrow().blocks.as_ref().is_some_and(|blocks| blocks.is_unfinished())
    }

    /// The path of a request that has a fragment, once.
    pub(super) fn take_path(&self, stream: u32) -> Option<Bytes> {
        let mut findings = self.findings.borrow_mut();
        let at = findings.iter().position(|(id, found)| *id == stream && matches!(found, Finding::Fragment(_)))?;
        match findings.swap_remove(at) {
            (_, Finding::Fragment(path)) => Some(path),
            _ => None,
        }
    }

    /// Whether the trailers of `stream` may pass. If not, the connection may end with them.
    pub(super) fn check_trailers(&self, stream: u32) -> Result<(), &'static str> {
        if !self.findings.borrow().contains(&(stream, Finding::PseudoTrailers)) {
            return Ok(());
        }
        if self.policy() == Policy::EndConnection {
            self.of_stream.set(true);
            self.set_violation(BAD_FIELD);
        }
        Err(BAD_FIELD)
    }

    /// Whether the violation is one of a request that has been handed out, and has its log line.
    pub(super) fn is_of_stream(&self) -> bool {
        self.of_stream.get()
    }

    /// `stream` is over.
    pub(super) fn forget(&self, stream: u32) {
        let mut findings = self.findings.borrow_mut();
        if !findings.is_empty() {
            findings.retain(|(id, _)| *id != stream);
        }
        self.interim.forget(stream);
    }

    /// The crate has been given a 1xx head of `stream`.
    pub(super) fn set_interim_given(&self, stream: u32) {
        self.interim.given(stream);
    }

    /// Ready when enough of the 1xx heads of `stream` are written for another one.
    pub(super) fn poll_interim_room(&self, stream: u32, cx: &mut Context<'_>) -> Poll<()> {
        self.interim.poll_room(stream, cx)
    }

    /// What is wrong with a head for which the crate has ended `stream`.
    fn fault(&self, stream: u32) -> &'static str {
        let incomplete = self.findings.borrow().contains(&(stream, Finding::Incomplete));
        if incomplete { BAD_MESSAGE } else { BAD_FIELD }
    }

    /// Keeps what was found. `Err` where it is too much.
    fn found(&self, found: Option<(u32, Finding)>) -> Result<(), Fault> {
        let mut findings = self.findings.borrow_mut();
        findings.extend(found);
        if findings.len() > MAX_FINDINGS { Err(Fault::silent(BAD_MESSAGE)) } else { Ok(()) }
    }

    /// Whether writing has stopped before a reset of which only the next requests tell what it is for. To be asked when
    /// the crate has no more requests: if that of the reset stream was among them, its body broke the rules, and
    /// writing goes on; if not, its head did, and the connection is in violation.
    pub(super) fn settle_doubt(&self) -> bool {
        let Some(stream) = self.doubtful.take() else { return false };
        if stream > self.accepted.get() {
            self.set_violation(self.fault(stream));
        }
        true
    }

    /// Whether the HEADERS of this stream of ours have been written.
    pub(super) fn was_sent(&self, stream: u32) -> bool {
        stream <= self.last_headers_sent.get()
    }

    /// We are about to end `stream` with PROTOCOL_ERROR for reasons of our own.
    pub(super) fn expect_reset(&self, stream: u32) {
        self.own_resets.borrow_mut().push(stream);
    }

    /// We are about to end the connection for reasons of our own.
    pub(super) fn expect_goaway(&self) {
        self.own_goaway.set(true);
    }

    /// Ends our direction and throws away what the peer still sends. Ready when the peer has closed too: only then can
    /// the socket go without a reset that would overtake what we have sent.
    pub(super) fn poll_close(&self, cx: &mut Context<'_>) -> Poll<()> {
        let transport = &mut *self.transport.borrow_mut();
        if Pin::new(&mut transport.io).poll_shutdown(cx).is_pending() {
            return Poll::Pending;
        }
        let mut scratch = [0; 4096];
        loop {
            let mut buf = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut transport.io).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
    }

    /// Looks at what has come. Returns how much of it the crate may see: all but what breaks our rules, and what
    /// follows.
    pub(super) fn inbound(&self, transport: &mut Transport, mut bytes: &[u8]) -> usize {
        let total = bytes.len();
        while !bytes.is_empty() {
            let at = total.saturating_sub(bytes.len());
            if let (Some(blocks), Some(payload)) = (&mut transport.blocks, transport.inbound.boundary()) {
                let found = blocks.payload(bytes.get(..payload.min(bytes.len())).unwrap_or_default());
                if let Err(fault) = self.found(found) {
                    self.later.set(Some(fault));
                    return at;
                }
            }
            let begin = at.saturating_add(transport.inbound.boundary().unwrap_or_default());
            let (taken, frame) = transport.inbound.next(bytes);
            bytes = bytes.get(taken..).unwrap_or_default();
            let Some(frame) = frame else { continue };
            let after_the_end = frame.kind == DATA && frame.stream == transport.opened && transport.ended;
            self.note(transport, &frame);
            if matches!(frame.kind, DATA | HEADERS) {
                transport.last_message = (frame.kind, frame.stream);
            }
            if frame.kind == GOAWAY {
                self.goaway.set(Some(frame.goaway()));
            }
            if matches!(frame.kind, GOAWAY | SETTINGS) {
                self.news.set(true);
            }
            let first = transport.last_kind.replace(frame.kind).is_none();
            // An upstream is trusted to ask for no more than it needs; a downstream is not.
            let allowed = match frame.kind {
                _ if self.client => Ok(()),
                kind if first && kind != SETTINGS => Err(Fault::BAD_PREFACE),
                _ if after_the_end => Err(Fault::AFTER_THE_END),
                _ if frame.widens_nothing() => Err(Fault::BAD_WINDOW),
                _ => transport.floods.inbound(&frame).map_err(Fault::silent),
            };
            let begun = match &mut transport.blocks {
                Some(blocks) if allowed.is_ok() && matches!(frame.kind, HEADERS | CONTINUATION) => blocks.begin(&frame),
                _ => None,
            };
            if let Err(fault) = allowed.and_then(|()| self.found(begun)) {
                self.later.set(Some(fault));
                return begin;
            }
        }
        total
    }

    /// Notes what a frame of a client's does to its streams, and what is wrong with it that the crate would call
    /// something else.
    fn note(&self, transport: &mut Transport, frame: &FrameHead) {
        if self.client {
            return;
        }
        transport.code = frame.has_bad_length().then_some(FRAME_SIZE_ERROR);
        if frame.kind == HEADERS && frame.stream > transport.opened {
            transport.opened = frame.stream;
            transport.ended = false;
        }
        if frame.stream == transport.opened && matches!(frame.kind, HEADERS | DATA) {
            transport.ended |= frame.flags & FLAG_END_STREAM != 0;
        }
    }
}
