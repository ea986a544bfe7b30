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
use outrigger_engine::config::hcm::HeaderCase;
use outrigger_engine::message::{Headers, Protocol, RequestHead, ResponseHead, Spelling};

use super::body::Length;
use super::grammar::{Target, parse_length, parse_method, tokens, valid_authority};
use super::{ClientSettings, Limits, ServerSettings};
use crate::http::codec::{StreamError, is_only_of_heads};

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

pub(super) const CODEC_ERROR: Fault = bad_request("http1.codec_error");
const BOTH_LENGTHS: Fault = bad_request("http1.content_length_and_chunked_not_allowed");
const BAD_CHARACTERS: Fault = bad_request("http1.invalid_characters");
pub(super) const BAD_URL: Fault = bad_request("http1.invalid_url");
pub(super) const BAD_SCHEME: Fault = bad_request("http1.invalid_scheme");
const BODY_DISALLOWED: Fault = bad_request("http1.body_disallowed");
const BAD_AUTHORITY: Fault = bad_request("http.invalid_authority");
pub(super) const HTTPS_IN_PLAINTEXT: Fault = Fault { status: 403, details: "http1.https_url_on_plaintext_connection" };
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
    with_room(limits.fields(bytes), |room| {
        let mut parsed = httparse::Request::new(&mut []);
        let outcome = parsed.parse_with_uninit_headers(bytes, room);
        if let Err(httparse::Error::Token | httparse::Error::Version | httparse::Error::NewLine) = outcome
            && let Some((tidy, dropped)) = tidy_request_line(bytes)
        {
            return request(&tidy, settings).map(|done| done.map(|(head, used)| (head, used.saturating_add(dropped))));
        }
        let Some(used) = complete(outcome, bytes, limits)? else { return Ok(None) };
        let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
            return Err(CODEC_ERROR);
        };
        let block = Block::new(bytes, used).ok_or(CODEC_ERROR)?;
        if !block.has_clean_lines(parsed.headers) {
            return Err(CODEC_ERROR);
        }
        let mut fields = Fields::parse(&block, parsed.headers, settings.options.header_case)?;
        let method = parse_method(method, settings.options.allow_custom_methods).ok_or(CODEC_ERROR)?;
        let protocol = protocol(version);
        let connect = method == Method::CONNECT;
        let length = match fields.length(settings.options.allow_chunked_length)? {
            // Whoever speaks 1.0 does not know chunks: somebody between the client and us has not seen them either.
            Length::Chunked if protocol == Protocol::Http10 => {
                return Err(bad_request(BAD_TRANSFER_ENCODING.details));
            }
            Length::Known(0) if connect => {
                fields.headers.remove(&CONTENT_LENGTH);
                Length::None
            }
            Length::Known(_) if connect => return Err(BODY_DISALLOWED),
            Length::Chunked if connect => return Err(BAD_TRANSFER_ENCODING),
            length => length,
        };
        let target = Target::parse(&block, target.as_bytes(), &method, settings)?;
        if protocol == Protocol::Http10 && !settings.options.accept_http_10 {
            return Err(LOW_VERSION);
        }
        let mut authority = target.authority.or(fields.host.take());
        if authority.is_none() && protocol == Protocol::Http10 {
            authority = settings.options.default_host_for_http_10.clone();
        }
        // A missing one is the connection manager's to refuse.
        if fields.hosts > 1 || authority.as_ref().is_some_and(|host| !valid_authority(host.as_bytes())) {
            return Err(BAD_AUTHORITY);
        }
        let upgrade = connect || fields.upgrades();
        let keep_alive = fields.keep_alive(protocol);
        let head = RequestHead {
            method,
            scheme: target.scheme,
            authority,
            path: target.path,
            protocol,
            headers: fields.headers,
        };
        Ok(Some((Request { head, length, keep_alive, upgrade }, used)))
    })
}

/// Parses a response head to a request with `method`.
pub(super) fn response(
    bytes: &[u8],
    settings: &ClientSettings,
    method: &Method,
) -> Result<Option<(Response, usize)>, StreamError> {
    let limits = Limits { bytes: settings.max_head_bytes, count: settings.max_headers };
    with_room(limits.fields(bytes), |room| {
        if let Some(b'\r' | b'\n') = bytes.first() {
            return Err(CODEC_ERROR);
        }
        let mut parsed = httparse::Response::new(&mut []);
        let outcome = httparse::ParserConfig::default()
            .allow_obsolete_multiline_headers_in_responses(true)
            .parse_response_with_uninit_headers(&mut parsed, bytes, room);
        let Some(used) = complete(outcome, bytes, limits)? else { return Ok(None) };
        let (Some(code), Some(version)) = (parsed.code, parsed.version) else { return Err(CODEC_ERROR) };
        let status = StatusCode::from_u16(code).map_err(|_| CODEC_ERROR)?;
        let block = Block::new(bytes, used).ok_or(CODEC_ERROR)?;
        let mut fields = Fields::parse(&block, parsed.headers, settings.header_case)?;
        if let HeaderCase::Preserved { reason: true, .. } = settings.header_case {
            let phrase = parsed.reason.unwrap_or_default().as_bytes();
            fields.headers.set_reason(block.slice(phrase).ok_or(CODEC_ERROR)?);
        }
        if let Some(host) = fields.host.take() {
            fields.headers.append(HOST, host);
        }
        let protocol = protocol(version);
        let length = fields.length(settings.allow_chunked_length)?;
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
        // The framing of a 1.0 response in chunks is not to be trusted further than to its end.
        let odd = protocol == Protocol::Http10 && length == Length::Chunked;
        let keep_alive = fields.keep_alive(protocol) && length != Length::Close && !odd;
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
    let lines = bytes.get(..=limits.bytes).or_else(|| bytes.get(..end)).unwrap_or_default();
    let mut room = vec![httparse::EMPTY_HEADER; limits.fields(lines)];
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
    let block = Block::new(lines, used).filter(|block| block.has_clean_lines(parsed)).ok_or(bad)?;
    let mut trailers = Headers::with_capacity(parsed.len());
    for field in parsed {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| bad)?;
        let value = block.value(field.value).ok_or(bad)?;
        if !is_only_of_heads(&name) {
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
        Err(httparse::Error::HeaderValue) => Err(BAD_CHARACTERS),
        Err(httparse::Error::Version | httparse::Error::Token) => Err(first_line_fault(bytes)),
        Err(_) => Err(CODEC_ERROR),
    }
}

/// The head again with one space between the words of its first line and none behind them, as the parser wants it, and
/// the number of bytes dropped for it. Only spaces and tabs between three words are anybody's idea of a request line.
fn tidy_request_line(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let head = without_empty_lines(bytes);
    let end = memchr::memchr(b'\n', head)?;
    let (line, rest) = (head.get(..end)?.strip_suffix(b"\r")?, head.get(end.checked_sub(1)?..)?);
    let is_space = |b: &u8| matches!(b, b' ' | b'\t');
    let words: Vec<&[u8]> = line.split(is_space).filter(|word| !word.is_empty()).collect();
    if words.len() != 3 || line.first().is_none_or(is_space) {
        return None;
    }
    let mut tidy = words.join(&b' ');
    let dropped = line.len().checked_sub(tidy.len()).filter(|_| tidy != line)?;
    tidy.extend_from_slice(rest);
    Some((tidy, dropped.checked_add(bytes.len().checked_sub(head.len())?)?))
}

/// What begins with the first line, as the parser takes it: empty ones before it are nothing.
fn without_empty_lines(mut bytes: &[u8]) -> &[u8] {
    while let Some(rest) = bytes.strip_prefix(b"\r\n").or_else(|| bytes.strip_prefix(b"\n")) {
        bytes = rest;
    }
    bytes
}

/// What is wrong with a request line that the parser did not like: mostly codec errors, but an old or unknown version
/// is told to upgrade.
fn first_line_fault(bytes: &[u8]) -> Fault {
    let line = without_empty_lines(bytes).split(|b| *b == b'\n').next().unwrap_or_default().trim_ascii_end();
    if line.first().is_none_or(|b| !b.is_ascii_graphic()) {
        return CODEC_ERROR;
    }
    if line.iter().any(|b| b.is_ascii_control() && *b != b'\t') {
        return BAD_CHARACTERS;
    }
    let mut words = line.split(|b| *b == b' ' || *b == b'\t').filter(|word| !word.is_empty());
    let (method, target, version) = (words.next(), words.next(), words.next());
    if method.and_then(|name| parse_method(std::str::from_utf8(name).ok()?, false)).is_none() {
        return CODEC_ERROR;
    }
    match (target, version) {
        (Some(_), None) => LOW_VERSION,
        (Some(_), Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]))
            if major.is_ascii_digit() && minor.is_ascii_digit() && (*major, *minor) != (b'1', b'1') =>
        {
            LOW_VERSION
        }
        _ => CODEC_ERROR,
    }
}

fn protocol(minor: u8) -> Protocol {
    if minor == 0 { Protocol::Http10 } else { Protocol::Http11 }
}

/// One copy of a head's bytes, of which values are slices.
pub(super) struct Block {
    start: usize,
    bytes: Bytes,
}

impl Block {
    fn new(bytes: &[u8], used: usize) -> Option<Block> {
        Some(Block { start: bytes.as_ptr().addr(), bytes: Bytes::copy_from_slice(bytes.get(..used)?) })
    }

    /// Whether every line ends with CR LF. The parser takes a bare LF; somebody between the client and us may have seen
    /// another end there.
    fn has_clean_lines(&self, fields: &[httparse::Header<'_>]) -> bool {
        let ends = |end: &[u8], at: Option<usize>| {
            // Trailers begin with a field.
            at == Some(0)
                || at.and_then(|at| self.bytes.get(at.checked_sub(end.len())?..at)).is_some_and(|found| found == end)
        };
        let last: &[u8] = if fields.is_empty() { b"\r\n" } else { b"\r\n\r\n" };
        fields.iter().all(|field| ends(b"\r\n", field.name.as_ptr().addr().checked_sub(self.start)))
            && ends(last, Some(self.bytes.len()))
    }

    /// `part`, which lies in the head.
    pub(super) fn value(&self, part: &[u8]) -> Option<HeaderValue> {
        HeaderValue::from_maybe_shared(self.slice(part)?).ok().or_else(|| unfold(part))
    }

    /// The bytes of `part`, which lies in the head.
    fn slice(&self, part: &[u8]) -> Option<Bytes> {
        if part.is_empty() {
            return Some(Bytes::new());
        }
        let from = part.as_ptr().addr().checked_sub(self.start)?;
        let to = from.checked_add(part.len()).filter(|to| *to <= self.bytes.len())?;
        Some(self.bytes.slice(from..to))
    }
}

/// A value that was folded over several lines, which the parser lets pass in responses only, on one line.
fn unfold(value: &[u8]) -> Option<HeaderValue> {
    let lines = value.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    let joined = lines.collect::<Vec<_>>().join(&b' ');
    HeaderValue::from_maybe_shared(Bytes::from(joined)).ok()
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
    h2c: bool,
}

impl Fields {
    fn parse(block: &Block, parsed: &[httparse::Header<'_>], case: HeaderCase) -> Result<Fields, Fault> {
        let headers = Headers::with_capacity(parsed.len().saturating_add(SPARE_FIELDS));
        let mut fields = Fields { headers, ..Fields::default() };
        for field in parsed {
            fields.add(block, field).ok_or(CODEC_ERROR)?;
        }
        if let HeaderCase::Preserved { others_in_proper_case, .. } = case {
            let names: Option<_> = parsed.iter().map(|field| block.slice(field.name.as_bytes())).collect();
            let names = names.ok_or(CODEC_ERROR)?;
            fields.headers.set_spelling(Spelling { names, others_in_proper_case, reason: None });
        }
        Ok(fields)
    }

    fn add(&mut self, block: &Block, field: &httparse::Header<'_>) -> Option<()> {
        let name = header_name(field.name)?;
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
                if self.content_length.replace(length).is_some() {
                    return None;
                }
            }
            CONNECTION => {
                for token in tokens(field.value) {
                    self.close |= token.eq_ignore_ascii_case(b"close");
                    self.keep |= token.eq_ignore_ascii_case(b"keep-alive");
                    self.connection_upgrade |= token.eq_ignore_ascii_case(b"upgrade");
                }
            }
            UPGRADE => {
                self.upgrade = true;
                self.h2c = field.value.eq_ignore_ascii_case(b"h2c");
            }
            _ if name.as_str() == "proxy-connection" => {
                self.close |= tokens(field.value).any(|token| token.eq_ignore_ascii_case(b"close"));
            }
            _ => {}
        }
        self.headers.append(name, value);
        Some(())
    }

    /// What the framing fields say; drops `content-length` beside `chunked` where that is allowed.
    fn length(&mut self, allow_both: bool) -> Result<Length, Fault> {
        match (self.transfer_encodings, self.content_length) {
            (0, None) => Ok(Length::None),
            (0, Some(n)) => Ok(Length::Known(n)),
            (_, Some(_)) if !(allow_both && self.chunked) => Err(BOTH_LENGTHS),
            (1, both) if self.chunked => {
                if both.is_some() {
                    self.headers.remove(&CONTENT_LENGTH);
                }
                Ok(Length::Chunked)
            }
            _ => Err(BAD_TRANSFER_ENCODING),
        }
    }

    fn keep_alive(&self, protocol: Protocol) -> bool {
        !self.close && (protocol != Protocol::Http10 || self.keep)
    }

    /// Whether the message asks for an upgrade. That to cleartext HTTP/2 is ignored, and what asks for it removed:
    /// further fields that `connection` names are still for this hop only.
    fn upgrades(&mut self) -> bool {
        if self.h2c && self.connection_upgrade {
            self.headers.retain(|name, _| *name != UPGRADE && *name != "http2-settings");
            let connection = self.headers.fold(&CONNECTION).map(|value| {
                let of_upgrade = |token: &&[u8]| {
                    token.is_empty()
                        || token.eq_ignore_ascii_case(b"upgrade")
                        || token.eq_ignore_ascii_case(b"http2-settings")
                };
                let others: Vec<&[u8]> = tokens(value.as_bytes()).filter(|token| !of_upgrade(token)).collect();
                others.join(&b',')
            });
            match connection.map(|others| HeaderValue::from_maybe_shared(Bytes::from(others))) {
                // What is allowed in the whole is allowed in a part.
                Some(Ok(others)) if !others.is_empty() => self.headers.set(CONNECTION, others),
                _ => _ = self.headers.remove(&CONNECTION),
            }
            return false;
        }
        self.upgrade && self.connection_upgrade
    }
}

/// The name, without an allocation where it is a standard one or one that every hop of a mesh sends.
fn header_name(name: &str) -> Option<HeaderName> {
    let known = match name {
        "b3" => "b3",
        "grpc-accept-encoding" => "grpc-accept-encoding",
        "grpc-timeout" => "grpc-timeout",
        "keep-alive" => "keep-alive",
        "traceparent" => "traceparent",
        "tracestate" => "tracestate",
        "x-b3-parentspanid" => "x-b3-parentspanid",
        "x-b3-sampled" => "x-b3-sampled",
        "x-b3-spanid" => "x-b3-spanid",
        "x-b3-traceid" => "x-b3-traceid",
        "x-envoy-attempt-count" => "x-envoy-attempt-count",
        "x-envoy-expected-rq-timeout-ms" => "x-envoy-expected-rq-timeout-ms",
        "x-envoy-upstream-service-time" => "x-envoy-upstream-service-time",
        "x-forwarded-client-cert" => "x-forwarded-client-cert",
        "x-forwarded-for" => "x-forwarded-for",
        "x-forwarded-host" => "x-forwarded-host",
        "x-forwarded-proto" => "x-forwarded-proto",
        "x-request-id" => "x-request-id",
        _ => return HeaderName::from_bytes(name.as_bytes()).ok(),
    };
    Some(HeaderName::from_static(known))
}
