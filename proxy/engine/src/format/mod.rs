//! Envoy's command operators (`%REQ(:PATH)%`): the language of header values, access logs and local replies.
//!
//! A format is parsed once, when its configuration is read, into segments; writing it appends to a buffer and
//! allocates nothing of its own. Operators that exist in Envoy but that we could only answer with a lie are refused by
//! name.

pub mod json;
mod operator;
mod time;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use crate::format::operator::Operator;
use crate::message::{Headers, RequestHead, ResponseHead};
use crate::stream_info::StreamInfo;

pub use crate::format::json::JsonFormat;
pub(crate) use crate::format::operator::grpc_code;

/// The name of this machine, for `%HOSTNAME%`: the program sets it when it starts. `-` until then.
pub static HOSTNAME: OnceLock<String> = OnceLock::new();

/// Envoy's line of an access log that configures none.
pub const DEFAULT_LINE: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
    %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
    \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// What operators speak of.
#[derive(Clone, Copy, Debug)]
pub struct FormatContext<'a> {
    /// The request, for HTTP.
    pub request: Option<&'a RequestHead>,
    /// The response, once there is one.
    pub response: Option<&'a ResponseHead>,
    /// The response's trailers, once they are there.
    pub trailers: Option<&'a Headers>,
    /// The rest.
    pub info: &'a StreamInfo,
    /// Time since `info.start`; what `%DURATION%` says while the request is not over.
    pub elapsed: Duration,
    /// The body that a local reply has before it is formatted.
    pub local_reply_body: &'a [u8],
}

impl<'a> FormatContext<'a> {
    /// A context of `info` alone; set the other fields as far as they are known.
    pub fn new(info: &'a StreamInfo, elapsed: Duration) -> Self {
        FormatContext { request: None, response: None, trailers: None, info, elapsed, local_reply_body: b"" }
    }
}

/// A text with operators.
#[derive(Clone, Debug)]
pub struct Format {
    segments: Box<[Segment]>,
}

#[derive(Clone, Debug)]
enum Segment {
    Literal(Box<[u8]>),
    Operator(Operator),
}

/// What a format's author got wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatError {
    /// The operator as it was written.
    pub operator: String,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.operator, self.reason)
    }
}

impl Format {
    /// Parses `text`: literal text, `%%` for `%`, and `%OPERATOR%`, `%OPERATOR(ARGUMENT)%`,
    /// `%OPERATOR(ARGUMENT):LENGTH%`.
    pub fn parse(text: &str) -> Result<Format, FormatError> {
        let mut segments = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find('%') {
            let (before, from) = rest.split_at(start);
            literal.extend_from_slice(before.as_bytes());
            if let Some(after) = from.strip_prefix("%%") {
                literal.push(b'%');
                rest = after;
                continue;
            }
            let (written, after) = Written::read(from)?;
            if !literal.is_empty() {
                segments.push(Segment::Literal(std::mem::take(&mut literal).into()));
            }
            segments.push(Segment::Operator(Operator::parse(&written)?));
            rest = after;
        }
        literal.extend_from_slice(rest.as_bytes());
        if !literal.is_empty() {
            segments.push(Segment::Literal(literal.into()));
        }
        Ok(Format { segments: segments.into() })
    }

    /// Appends the text, with `-` for each operator that has no value.
    pub fn write(&self, out: &mut Vec<u8>, ctx: &FormatContext<'_>) {
        self.write_or(out, ctx, b"-");
    }

    /// Appends the text, with nothing for each operator that has no value: `omit_empty_values`, and header values.
    pub fn write_omitting_empty(&self, out: &mut Vec<u8>, ctx: &FormatContext<'_>) {
        self.write_or(out, ctx, b"");
    }

    fn write_or(&self, out: &mut Vec<u8>, ctx: &FormatContext<'_>, absent: &[u8]) {
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => out.extend_from_slice(text),
                Segment::Operator(operator) => {
                    if operator.write(out, ctx).is_none() {
                        out.extend_from_slice(absent);
                    }
                }
            }
        }
    }

    /// The text, if there is no operator in it.
    pub fn as_literal(&self) -> Option<&[u8]> {
        match &*self.segments {
            [] => Some(b""),
            [Segment::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The operator, if the format is one operator and nothing else.
    fn as_operator(&self) -> Option<&Operator> {
        match &*self.segments {
            [Segment::Operator(operator)] => Some(operator),
            _ => None,
        }
    }
}

/// An operator as it is written, not understood yet.
struct Written<'a> {
    /// With its percent signs.
    text: &'a str,
    name: &'a str,
    argument: Option<&'a str>,
    length: Option<usize>,
}

impl<'a> Written<'a> {
    /// Reads the operator at the start of `text`, which is a `%`; the text behind it comes back too.
    fn read(text: &'a str) -> Result<(Written<'a>, &'a str), FormatError> {
        let bad = |reason: &str| FormatError { operator: text.chars().take(60).collect(), reason: reason.to_owned() };
        let body = text.get(1..).unwrap_or_default();
        let name_end = body
            .find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
            .ok_or_else(|| bad("no closing %: write %% for a percent sign"))?;
        let (name, tail) = body.split_at(name_end);
        if name.is_empty() {
            return Err(bad("not an operator: write %% for a percent sign"));
        }
        if let Some((length, after)) = end(tail) {
            return Ok((Written { text: consumed(text, after), name, argument: None, length }, after));
        }
        let Some(inner) = tail.strip_prefix('(') else {
            return Err(bad("an operator is %NAME%, %NAME(ARGUMENT)% or %NAME(ARGUMENT):LENGTH%"));
        };
        // The argument ends at the first `)` that ends the operator: those of times hold percent signs themselves.
        for (at, _) in inner.match_indices(')') {
            let (argument, closing) = inner.split_at(at);
            if let Some((length, after)) = closing.strip_prefix(')').and_then(end) {
                return Ok((Written { text: consumed(text, after), name, argument: Some(argument), length }, after));
            }
        }
        Err(bad("no closing )%"))
    }

    fn error(&self, reason: impl Into<String>) -> FormatError {
        FormatError { operator: self.text.to_owned(), reason: reason.into() }
    }
}

fn consumed<'a>(text: &'a str, after: &str) -> &'a str {
    text.get(..text.len().saturating_sub(after.len())).unwrap_or(text)
}

/// `%` or `:LENGTH%` at the start of `text`: the length and what follows.
fn end(text: &str) -> Option<(Option<usize>, &str)> {
    if let Some(after) = text.strip_prefix('%') {
        return Some((None, after));
    }
    let (digits, after) = text.strip_prefix(':')?.split_once('%')?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((Some(digits.parse().ok()?), after))
}
