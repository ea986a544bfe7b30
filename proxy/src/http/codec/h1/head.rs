//! Heads, parsed in place.
//!
//! Names of standard fields are not allocated, values are slices of one copy of the head. Strict where HTTP/1 has been
//! used to smuggle requests: every line ends with CR LF, lengths are digits and agree, `transfer-encoding` is `chunked`
//! and nothing else, and never beside a length unless the listener allows it. What a message is answered with, and the
//! response code details, are Envoy's.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use outrigger_engine::message::{Headers, Protocol, RequestHead, ResponseHead, Scheme};

use super::body::Length;
use super::{ClientSettings, Limits, ServerSettings};
use crate::http::codec::StreamError;

/// Fields that are parsed without an allocation.
const ON_STACK: usize = 128;

/// Why a message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// The status of the answer to a request.
    pub(super) status: u16,
    /// Envoy's response code details.
    pub(super) details: &'static str,
}

const fn bad_request(details: &'static str) -> Fault {
    Fault { status: 400, details }
}

const CODEC_ERROR: Fault = bad_request("http1.codec_error");
const BOTH_LENGTHS: Fault = bad_request("http1.content_length_and_chunked_not_allowed");
const BAD_URL: Fault = bad_request("http1.invalid_url");
const BODY_DISALLOWED: Fault = bad_request("http1.body_disallowed");
const BAD_AUTHORITY: Fault = bad_request("http.invalid_authority");
const NO_HOST: Fault = bad_request("missing_host_header");
const TOO_LARGE: Fault = Fault { status: 431, details: "http1.headers_too_large" };
const TOO_MANY: Fault = Fault { status: 431, details: "http1.too_many_headers" };
const LOW_VERSION: Fault = Fault { status: 426, details: "low_version" };
const BAD_TRANSFER_ENCODING: Fault = Fault { status: 501, details: "http1.invalid_transfer_encoding" };

/// A request and what its head says about the connection.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) head: RequestHead,
    pub(super) length: Length,
    /// Whether the client wants to go on with the connection.
    pub(super) keep_alive: bool,
    /// `upgrade`, or CONNECT: what follows may be something else than HTTP.
    pub(super) upgrade: bool,
    /// Why it is refused, although its head can be read.
    pub(super) fault: Option<Fault>,
}

/// A response and what its head says about the connection.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) head: ResponseHead,
    pub(super) length: Length,
    pub(super) keep_alive: bool,
}

/// Parses a request head: `None` where it is incomplete, else the head and how many bytes it takes.
pub(super) fn request(bytes: &[u8], settings: &ServerSettings) -> Result<Option<(Request, usize)>, Fault> {
    let limits = Limits { bytes: settings.max_head_bytes, count: settings.max_headers };
    with_room(limits.count, |room| {
        let mut parsed = httparse::Request::new(&mut []);
        let outcome = parsed.parse_with_uninit_headers(bytes, room);
        let Some(used) = complete(outcome, bytes, limits)? else { return Ok(None) };
        let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
            return Err(CODEC_ERROR);
        };
        let block = Block::new(bytes, used, parsed.headers).ok_or(CODEC_ERROR)?;
        let mut fields = Fields::default();
        fields.headers = Headers::with_capacity(parsed.headers.len().saturating_add(SPARE_FIELDS));
        for field in parsed.headers.iter() {
            fields.add(&block, field).ok_or(CODEC_ERROR)?;
        }
        let method = known_method(method).ok_or(CODEC_ERROR)?;
        let protocol = protocol(version);
        let connect = method == Method::CONNECT;
        let mut fault = None;
        let length = match fields.length(settings.options.allow_chunked_length, protocol) {
            Ok(Length::Known(0)) if connect => {
                fields.headers.remove(&CONTENT_LENGTH);
                Length::None
            }
            Ok(Length::Known(_)) if connect => {
                fault = Some(BODY_DISALLOWED);
                Length::None
            }
            Ok(Length::Chunked) if connect => {
                fault = Some(BAD_TRANSFER_ENCODING);
                Length::None
            }
            Ok(length) => length,
            Err(why) => {
                fault = Some(why);
                Length::None
            }
        };
        let target = match Target::parse(&block, target.as_bytes(), &method, settings.options.allow_absolute_url) {
            Ok(target) => target,
            Err(why) => {
                fault = fault.or(Some(why));
                Target { authority: None, scheme: Scheme::Http, path: block.value(target.as_bytes()).ok_or(why)? }
            }
        };
        let mut authority = target.authority.or(fields.host.take());
        if authority.is_none() && protocol == Protocol::Http10 {
            authority = settings.options.default_host_for_http_10.clone();
        }
        if protocol == Protocol::Http10 && !settings.options.accept_http_10 {
            fault = fault.or(Some(LOW_VERSION));
        }
        match &authority {
            None => fault = fault.or(Some(NO_HOST)),
            Some(host) if fields.hosts > 1 || !valid_authority(host.as_bytes()) => {
                fault = fault.or(Some(BAD_AUTHORITY));
            }
            Some(_) => {}
        }
        let upgrade = connect || fields.upgrades();
        let keep_alive = fields.keep_alive(protocol);
        let head = RequestHead {
            method,
            scheme: target.scheme,
            authority,
            path: target.path,
            protocol,
            connect_protocol: None,
            headers: fields.headers,
        };
        Ok(Some((Request { head, length, keep_alive, upgrade, fault }, used)))
    })
}

/// Parses a response head to a request with `method`.
pub(super) fn response(
    bytes: &[u8],
    settings: &ClientSettings,
    method: &Method,
) -> Result<Option<(Response, usize)>, StreamError> {
    let limits = Limits { bytes: settings.max_head_bytes, count: settings.max_headers };
    with_room(limits.count, |room| {
        let mut parsed = httparse::Response::new(&mut []);
        let outcome = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, bytes, room);
        let Some(used) = complete(outcome, bytes, limits)? else { return Ok(None) };
        let (Some(code), Some(version)) = (parsed.code, parsed.version) else { return Err(CODEC_ERROR) };
        let status = StatusCode::from_u16(code).map_err(|_| CODEC_ERROR)?;
        let block = Block::new(bytes, used, parsed.headers).ok_or(CODEC_ERROR)?;
        let mut fields = Fields::default();
        fields.headers = Headers::with_capacity(parsed.headers.len().saturating_add(SPARE_FIELDS));
        for field in parsed.headers.iter() {
            fields.add(&block, field).ok_or(CODEC_ERROR)?;
        }
        if let Some(host) = fields.host.take() {
            fields.headers.append(HOST, host);
        }
        let protocol = protocol(version);
        let length = fields.length(settings.allow_chunked_length, protocol)?;
        let bodiless = status.is_informational() || status == StatusCode::NO_CONTENT;
        let tunnel = method == Method::CONNECT && status.is_success();
        let length = match length {
            Length::Chunked if tunnel => return Err(BAD_TRANSFER_ENCODING),
            Length::Chunked if bodiless => return Err(bad_request("http1.transfer_encoding_not_allowed")),
            Length::Known(0) if bodiless => {
                fields.headers.remove(&CONTENT_LENGTH);
                Length::None
            }
            Length::Known(_) if bodiless => return Err(bad_request("http1.content_length_not_allowed")),
            _ if bodiless || tunnel || status == StatusCode::NOT_MODIFIED || method == Method::HEAD => Length::None,
            Length::None => Length::Close,
            length => length,
        };
        let keep_alive = fields.keep_alive(protocol) && length != Length::Close;
        let head = ResponseHead { status, protocol, headers: fields.headers };
        Ok(Some((Response { head, length, keep_alive }, used)))
    })
    .map_err(|fault: Fault| match fault.status {
        431 => StreamError::TooLarge(fault.details),
        _ => StreamError::Protocol(fault.details),
    })
}

/// Parses trailers and the empty line that ends them.
pub(super) fn trailers(bytes: &[u8], limits: Limits) -> Result<Option<(Headers, usize)>, StreamError> {
    match (bytes.first(), bytes.get(1)) {
        (Some(b'\r'), Some(b'\n')) => return Ok(Some((Headers::new(), 2))),
        (Some(b'\r'), None) | (None, _) => return Ok(None),
        _ => {}
    }
    let end = memchr::memrchr(b'\n', bytes).map_or(0, |at| at.saturating_add(1));
    let lines = if bytes.len() > limits.bytes { bytes } else { bytes.get(..end).unwrap_or_default() };
    let mut room = vec![httparse::EMPTY_HEADER; limits.count];
    let parsed = httparse::parse_headers(lines, &mut room);
    let outcome = match &parsed {
        Ok(httparse::Status::Complete((used, _))) => Ok(httparse::Status::Complete(*used)),
        Ok(httparse::Status::Partial) => Ok(httparse::Status::Partial),
        Err(error) => Err(*error),
    };
    let used = match complete(outcome, lines, limits) {
        Ok(Some(used)) => used,
        Ok(None) => return Ok(None),
        Err(fault) if fault.status == 431 => return Err(StreamError::TooLarge(fault.details)),
        Err(fault) => return Err(StreamError::Protocol(fault.details)),
    };
    let bad = StreamError::Protocol(CODEC_ERROR.details);
    let Ok(httparse::Status::Complete((_, parsed))) = parsed else { return Err(bad) };
    let block = Block::new(lines, used, parsed).ok_or(bad)?;
    let mut trailers = Headers::with_capacity(parsed.len());
    for field in parsed {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| bad)?;
        let value = block.value(field.value).ok_or(bad)?;
        // Framing and routing are the head's; nobody behind us shall see them here.
        if !matches!(name, CONTENT_LENGTH | TRANSFER_ENCODING | HOST | CONNECTION | UPGRADE) {
            trailers.append(name, value);
        }
    }
    Ok(Some((trailers, used)))
}

/// Room for fields that filters add, so that the list does not grow for them.
const SPARE_FIELDS: usize = 6;

/// Calls `parse` with room for `count` fields.
fn with_room<'b, R>(count: usize, parse: impl FnOnce(&mut [MaybeUninit<httparse::Header<'b>>]) -> R) -> R {
    if count <= ON_STACK {
        let mut room = [const { MaybeUninit::uninit() }; ON_STACK];
        parse(room.get_mut(..count).unwrap_or_default())
    } else {
        let mut room = Vec::new();
        room.resize_with(count, MaybeUninit::uninit);
        parse(&mut room)
    }
}

/// The length of a complete head within the limits; `None` for an incomplete one.
fn complete(outcome: httparse::Result<usize>, bytes: &[u8], limits: Limits) -> Result<Option<usize>, Fault> {
    match outcome {
        Ok(httparse::Status::Complete(used)) if used <= limits.bytes => Ok(Some(used)),
        Ok(httparse::Status::Partial) if bytes.len() <= limits.bytes => Ok(None),
        Ok(_) => Err(TOO_LARGE),
        Err(httparse::Error::TooManyHeaders) => Err(TOO_MANY),
        Err(_) => Err(CODEC_ERROR),
    }
}

fn protocol(minor: u8) -> Protocol {
    if minor == 0 { Protocol::Http10 } else { Protocol::Http11 }
}

/// The methods that Envoy knows; it refuses others.
fn known_method(name: &str) -> Option<Method> {
    let known = matches!(
        name,
        "GET"
            | "POST"
            | "PUT"
            | "DELETE"
            | "HEAD"
            | "OPTIONS"
            | "PATCH"
            | "CONNECT"
            | "TRACE"
            | "ACL"
            | "BIND"
            | "CHECKOUT"
            | "COPY"
            | "LINK"
            | "LOCK"
            | "MERGE"
            | "MKACTIVITY"
            | "MKCALENDAR"
            | "MKCOL"
            | "MOVE"
            | "MSEARCH"
            | "NOTIFY"
            | "PROPFIND"
            | "PROPPATCH"
            | "PURGE"
            | "REBIND"
            | "REPORT"
            | "SEARCH"
            | "SOURCE"
            | "SUBSCRIBE"
            | "UNBIND"
            | "UNLINK"
            | "UNLOCK"
            | "UNSUBSCRIBE"
    );
    if known { Method::from_bytes(name.as_bytes()).ok() } else { None }
}

/// One copy of a head's bytes, of which values are slices.
struct Block {
    start: usize,
    bytes: Bytes,
}

impl Block {
    /// `None` where a line does not end with CR LF: the parser takes a bare LF, others on the way may not.
    fn new(bytes: &[u8], used: usize, fields: &[httparse::Header<'_>]) -> Option<Block> {
        let start = bytes.as_ptr().addr();
        for field in fields {
            let at = field.name.as_ptr().addr().checked_sub(start)?;
            if bytes.get(at.checked_sub(2)?..at)? != b"\r\n" {
                return None;
            }
        }
        let bytes = bytes.get(..used)?;
        if !bytes.ends_with(b"\r\n\r\n") && !(fields.is_empty() && bytes.ends_with(b"\r\n")) {
            return None;
        }
        Some(Block { start, bytes: Bytes::copy_from_slice(bytes) })
    }

    /// `part`, which lies in the head.
    fn value(&self, part: &[u8]) -> Option<HeaderValue> {
        if part.is_empty() {
            return Some(HeaderValue::from_static(""));
        }
        let from = part.as_ptr().addr().checked_sub(self.start)?;
        let to = from.checked_add(part.len()).filter(|to| *to <= self.bytes.len())?;
        HeaderValue::from_maybe_shared(self.bytes.slice(from..to)).ok()
    }
}

/// A head's fields, and those of them that the codec reads.
#[derive(Default)]
struct Fields {
    headers: Headers,
    host: Option<HeaderValue>,
    hosts: u32,
    content_length: Option<u64>,
    transfer_encodings: u32,
    chunked: bool,
    close: bool,
    keep: bool,
    connection_upgrade: bool,
    upgrade: bool,
}

impl Fields {
    fn add(&mut self, block: &Block, field: &httparse::Header<'_>) -> Option<()> {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        let value = block.value(field.value)?;
        match name {
            HOST => {
                self.hosts = self.hosts.saturating_add(1);
                self.host.get_or_insert(value);
                return Some(());
            }
            TRANSFER_ENCODING => {
                self.transfer_encodings = self.transfer_encodings.saturating_add(1);
                self.chunked = field.value.eq_ignore_ascii_case(b"chunked");
                return Some(());
            }
            CONTENT_LENGTH => {
                let length = parse_length(field.value)?;
                match self.content_length {
                    None => self.content_length = Some(length),
                    Some(other) if other == length => return Some(()),
                    Some(_) => return None,
                }
            }
            CONNECTION => {
                for token in field.value.split(|b| *b == b',') {
                    let token = token.trim_ascii();
                    self.close |= token.eq_ignore_ascii_case(b"close");
                    self.keep |= token.eq_ignore_ascii_case(b"keep-alive");
                    self.connection_upgrade |= token.eq_ignore_ascii_case(b"upgrade");
                }
            }
            UPGRADE => self.upgrade = true,
            _ => {}
        }
        self.headers.append(name, value);
        Some(())
    }

    /// What the framing fields say; drops `content-length` beside `chunked` where that is allowed.
    fn length(&mut self, allow_both: bool, protocol: Protocol) -> Result<Length, Fault> {
        match (self.transfer_encodings, self.content_length) {
            (0, None) => Ok(Length::None),
            (0, Some(n)) => Ok(Length::Known(n)),
            // Whoever speaks 1.0 does not know chunks: one of us would misread the other.
            _ if protocol == Protocol::Http10 => Err(bad_request(BAD_TRANSFER_ENCODING.details)),
            (1, both) if self.chunked => match both {
                None => Ok(Length::Chunked),
                Some(_) if allow_both => {
                    self.headers.remove(&CONTENT_LENGTH);
                    Ok(Length::Chunked)
                }
                Some(_) => Err(BOTH_LENGTHS),
            },
            _ => Err(BAD_TRANSFER_ENCODING),
        }
    }

    fn keep_alive(&self, protocol: Protocol) -> bool {
        !self.close && (protocol != Protocol::Http10 || self.keep)
    }

    fn upgrades(&self) -> bool {
        self.upgrade && self.connection_upgrade
    }
}

/// Digits only.
pub(super) fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |n, b| {
        let digit = b.checked_sub(b'0').filter(|d| *d <= 9)?;
        n.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Characters of RFC 3986's authority.
fn valid_authority(host: &[u8]) -> bool {
    host.iter().all(|b| {
        b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'-' | b'.'
                    | b'_'
                    | b'~'
                    | b':'
                    | b'['
                    | b']'
                    | b'@'
                    | b'%'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b','
                    | b';'
                    | b'='
            )
    })
}

/// A request target, taken apart.
struct Target {
    authority: Option<HeaderValue>,
    scheme: Scheme,
    path: HeaderValue,
}

impl Target {
    fn parse(block: &Block, target: &[u8], method: &Method, allow_absolute: bool) -> Result<Target, Fault> {
        if !target.iter().fold(true, |ok, b| ok & matches!(b, b'!'..=b'~')) {
            return Err(CODEC_ERROR);
        }
        let value = |part: &[u8]| block.value(part).ok_or(CODEC_ERROR);
        let connect = *method == Method::CONNECT;
        match target.first() {
            Some(b'/') if !connect => {
                return Ok(Target { authority: None, scheme: Scheme::Http, path: value(target)? });
            }
            Some(b'*') if target.len() == 1 && *method == Method::OPTIONS => {
                return Ok(Target { authority: None, scheme: Scheme::Http, path: value(target)? });
            }
            Some(b'/' | b'*') | None => return Err(BAD_URL),
            Some(_) => {}
        }
        if connect {
            // authority-form: a host and a port, nothing else.
            let port = target.iter().rposition(|b| *b == b':').and_then(|at| target.get(at.saturating_add(1)..));
            let valid = port.is_some_and(|port| !port.is_empty() && port.iter().all(u8::is_ascii_digit));
            if !valid || !valid_authority(target) || target.first() == Some(&b':') {
                return Err(BAD_URL);
            }
            let path = HeaderValue::from_static("");
            return Ok(Target { authority: Some(value(target)?), scheme: Scheme::Http, path });
        }
        let (scheme, rest) = match () {
            () if starts_with_ignore_case(target, b"http://") => (Scheme::Http, target.get(7..)),
            () if starts_with_ignore_case(target, b"https://") => (Scheme::Https, target.get(8..)),
            _ => return Err(CODEC_ERROR),
        };
        let rest = rest.unwrap_or_default();
        if !allow_absolute {
            return Err(BAD_URL);
        }
        let end = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end).ok_or(BAD_URL)?;
        if authority.is_empty() || !valid_authority(authority) {
            return Err(BAD_URL);
        }
        let path = match path.first() {
            None => HeaderValue::from_static("/"),
            Some(b'/') => value(path)?,
            Some(_) => {
                let rooted: Vec<u8> = std::iter::once(b'/').chain(path.iter().copied()).collect();
                HeaderValue::from_maybe_shared(Bytes::from(rooted)).map_err(|_| BAD_URL)?
            }
        };
        Ok(Target { authority: Some(value(authority)?), scheme, path })
    }
}

fn starts_with_ignore_case(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}
