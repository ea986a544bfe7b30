//! Heads and framing, written.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Method, StatusCode};
use outrigger_engine::config::hcm::HeaderCase;
use outrigger_engine::message::{Headers, RequestHead, ResponseHead, Spelling};

use super::grammar::parse_length;
use super::transport::Output;
use crate::http::codec::StreamError;

/// How the body of the message that is being written is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoder {
    /// The head has not been sent.
    Head,
    /// So many bytes of `content-length` are left.
    Length(u64),
    /// Chunks.
    Chunked,
    /// The end of the connection.
    Close,
    /// No body is written whatever comes: an answer to HEAD, 204, 304.
    None,
    /// Everything has been sent.
    End,
}

impl Encoder {
    /// Appends a piece of body.
    pub(super) fn data(&mut self, out: &mut Output, data: Bytes, end: bool) -> Result<(), StreamError> {
        match self {
            Encoder::Head | Encoder::End => return Err(StreamError::Local),
            Encoder::Length(left) => {
                let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                // More or less than announced would desynchronize the connection.
                *left = left.checked_sub(length).ok_or(StreamError::Local)?;
                if end && *left > 0 {
                    return Err(StreamError::Local);
                }
                out.push(data);
            }
            Encoder::Chunked => {
                if !data.is_empty() {
                    chunk_size(out.tail(), data.len());
                    out.push(data);
                    out.tail().extend_from_slice(b"\r\n");
                }
                if end {
                    out.tail().extend_from_slice(b"0\r\n\r\n");
                }
            }
            Encoder::Close => out.push(data),
            Encoder::None => {}
        }
        if end {
            *self = Encoder::End;
        }
        Ok(())
    }

    /// Appends trailers, or drops them, and ends the body.
    pub(super) fn trailers(
        &mut self,
        out: &mut Output,
        trailers: Option<&Headers>,
        case: HeaderCase,
    ) -> Result<(), StreamError> {
        let Some(trailers) = trailers.filter(|_| *self == Encoder::Chunked) else {
            return self.data(out, Bytes::new(), true);
        };
        let out = out.tail();
        out.extend_from_slice(b"0\r\n");
        let case = Case::new(case, trailers);
        for (name, value) in trailers.iter() {
            field(out, name.as_str(), value.as_bytes(), case);
        }
        out.extend_from_slice(b"\r\n");
        *self = Encoder::End;
        Ok(())
    }

    /// Whether all of the message has been handed over.
    pub(super) fn is_end(&self) -> bool {
        *self == Encoder::End
    }
}

/// What the writing of a response head depends on besides the head.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResponseContext {
    pub(super) case: HeaderCase,
    /// The client speaks HTTP/1.0.
    pub(super) http10: bool,
    /// The request was HEAD.
    pub(super) to_head: bool,
    /// The request was CONNECT.
    pub(super) to_connect: bool,
    /// The connection ends with this response.
    pub(super) close: bool,
}

/// Writes a response head; `end` where no body follows.
pub(super) fn response(out: &mut Output, head: &ResponseHead, end: bool, context: ResponseContext) -> Encoder {
    let ResponseContext { case, http10, to_head, to_connect, close } = context;
    let out = out.tail();
    out.reserve(head.headers.byte_size().saturating_add(head.headers.len().saturating_mul(4)).saturating_add(128));
    let status = head.status;
    let case = Case::new(case, &head.headers);
    match (status, http10, case.reason()) {
        (StatusCode::OK, false, None) => out.extend_from_slice(b"HTTP/1.1 200 OK\r\n"),
        (_, http10, phrase) => {
            out.extend_from_slice(if http10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
            out.extend_from_slice(status.as_str().as_bytes());
            out.push(b' ');
            out.extend_from_slice(phrase.unwrap_or_else(|| reason(status).as_bytes()));
            out.extend_from_slice(b"\r\n");
        }
    }
    let upgrade = status == StatusCode::SWITCHING_PROTOCOLS;
    let close = close && !status.is_informational();
    let length = fields(out, &head.headers, case, close || http10);
    if close {
        field(out, "connection", b"close", case);
    } else if http10 {
        field(out, "connection", b"keep-alive", case);
    }
    let tunnel = upgrade || (to_connect && status.is_success());
    let bodiless = status.is_informational() || status == StatusCode::NO_CONTENT;
    let encoder = if tunnel || bodiless {
        Encoder::None
    } else if let Some(length) = length {
        if to_head || status == StatusCode::NOT_MODIFIED { Encoder::None } else { Encoder::Length(length) }
    } else if status == StatusCode::NOT_MODIFIED {
        Encoder::None
    } else if end && !to_head {
        field(out, "content-length", b"0", case);
        Encoder::None
    } else if http10 {
        if to_head { Encoder::None } else { Encoder::Close }
    } else {
        // To HEAD it only says what GET would have brought.
        field(out, "transfer-encoding", b"chunked", case);
        if to_head { Encoder::None } else { Encoder::Chunked }
    };
    out.extend_from_slice(b"\r\n");
    encoder
}

/// Writes a request head; `end` where no body follows.
pub(super) fn request(out: &mut Output, head: &RequestHead, end: bool, case: HeaderCase) -> Encoder {
    let out = out.tail();
    let connect = head.method == Method::CONNECT;
    let host = head.authority.as_ref().map_or(&b""[..], |host| host.as_bytes());
    let size = head.headers.byte_size().saturating_add(head.headers.len().saturating_mul(4));
    out.reserve(size.saturating_add(head.path.len()).saturating_add(host.len()).saturating_add(128));
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(if connect { host } else { head.path.as_bytes() });
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let case = Case::new(case, &head.headers);
    field(out, "host", host, case);
    let length = fields(out, &head.headers, case, false);
    let encoder = if connect {
        Encoder::None
    } else if let Some(length) = length {
        Encoder::Length(length)
    } else if !end {
        field(out, "transfer-encoding", b"chunked", case);
        Encoder::Chunked
    } else {
        if !matches!(head.method, Method::GET | Method::HEAD | Method::DELETE | Method::TRACE) {
            field(out, "content-length", b"0", case);
        }
        Encoder::None
    };
    out.extend_from_slice(b"\r\n");
    encoder
}

/// Writes fields but those of framing, which come from the encoder; `content-length` is written and comes back.
fn fields(out: &mut Vec<u8>, headers: &Headers, case: Case<'_>, drop_connection: bool) -> Option<u64> {
    let mut length = None;
    for (name, value) in headers.iter() {
        match *name {
            TRANSFER_ENCODING => continue,
            CONNECTION if drop_connection => continue,
            CONTENT_LENGTH => {
                // A second one, or one that is not a number, must not reach a peer.
                let parsed = parse_length(value.as_bytes());
                if length.is_some() || parsed.is_none() {
                    continue;
                }
                length = parsed;
            }
            _ => {}
        }
        field(out, name.as_str(), value.as_bytes(), case);
    }
    length
}

/// How the names of one message are written.
#[derive(Clone, Copy, Debug)]
enum Case<'a> {
    Lower,
    ProperCaseWords,
    As(&'a Spelling),
}

impl<'a> Case<'a> {
    /// What the sender's spelling says, where it was kept, comes before what the receiver's side is configured to have.
    fn new(configured: HeaderCase, headers: &'a Headers) -> Self {
        match (headers.spelling(), configured) {
            (Some(spelling), _) => Case::As(spelling),
            (None, HeaderCase::ProperCaseWords) => Case::ProperCaseWords,
            (None, HeaderCase::Lower | HeaderCase::Preserved { .. }) => Case::Lower,
        }
    }

    fn reason(self) -> Option<&'a [u8]> {
        match self {
            Case::As(spelling) => spelling.reason.as_deref(),
            Case::Lower | Case::ProperCaseWords => None,
        }
    }
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8], case: Case<'_>) {
    match case {
        Case::Lower => out.extend_from_slice(name.as_bytes()),
        Case::ProperCaseWords => in_proper_case(out, name),
        Case::As(spelling) => match spelling.of(name) {
            Some(kept) => out.extend_from_slice(kept),
            None if spelling.others_in_proper_case => in_proper_case(out, name),
            None => out.extend_from_slice(name.as_bytes()),
        },
    }
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Upper case at the start and after whatever is neither a letter nor a digit.
fn in_proper_case(out: &mut Vec<u8>, name: &str) {
    let mut upper = true;
    out.extend(name.bytes().map(|b| {
        let b = if upper { b.to_ascii_uppercase() } else { b };
        upper = !b.is_ascii_alphanumeric();
        b
    }));
}

/// `n` in hexadecimal, and CR LF.
fn chunk_size(out: &mut Vec<u8>, n: usize) {
    let bits = usize::BITS.saturating_sub(n.leading_zeros());
    let digits = bits.div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        let nibble = (n >> digit.saturating_mul(4)) & 0xf;
        out.push(b"0123456789abcdef".get(nibble).copied().unwrap_or(b'0'));
    }
    out.extend_from_slice(b"\r\n");
}

/// Reason phrases as Envoy has them.
fn reason(status: StatusCode) -> &'static str {
    match status.as_u16() {
        203 => "Non-Authoritative Information",
        413 => "Payload Too Large",
        422 => "Unprocessable Entity",
        418 | 451 => "Unknown",
        599 => "Last Unassigned Server Error Code",
        _ => status.canonical_reason().unwrap_or("Unknown"),
    }
}
