//! Local replies: what the proxy itself answers, with Envoy's status, body, flag and details.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};

use crate::connection_manager::names::{GRPC_MESSAGE, GRPC_STATUS};
use crate::message::{Headers, Protocol, RequestHead, ResponseHead};
use crate::stream_info::ResponseFlags;

/// An answer of our own.
#[derive(Clone, Debug)]
pub struct LocalReply {
    /// HTTP status.
    pub status: StatusCode,
    /// Body, plain text; empty for none.
    pub body: Bytes,
    /// `%RESPONSE_FLAGS%` to add.
    pub flags: ResponseFlags,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: Cow<'static, str>,
    /// Headers beside the framing: `location`, `x-envoy-overloaded`, ...
    pub headers: Headers,
    /// The status for a gRPC client, where it is not the one that `status` maps to.
    pub grpc_status: Option<u16>,
}

impl LocalReply {
    /// A reply with nothing special about it.
    pub fn new(status: StatusCode, body: impl Into<Bytes>, details: impl Into<Cow<'static, str>>) -> Self {
        LocalReply {
            status,
            body: body.into(),
            flags: ResponseFlags::NONE,
            details: details.into(),
            headers: Headers::new(),
            grpc_status: None,
        }
    }

    /// With a response flag.
    pub fn flag(mut self, flags: ResponseFlags) -> Self {
        self.flags.insert(flags);
        self
    }

    /// Head and body for the client that sent `request`: a gRPC client gets a trailers-only response with a gRPC
    /// status.
    pub fn into_response(self, request: Option<&RequestHead>, protocol: Protocol) -> (ResponseHead, Bytes) {
        let mut headers = self.headers;
        if request.is_some_and(is_grpc) {
            headers.set(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers
                .append(GRPC_STATUS, HeaderValue::from(self.grpc_status.unwrap_or_else(|| grpc_status(self.status))));
            if !self.body.is_empty()
                && let Ok(message) = HeaderValue::from_str(&percent_encode(&self.body))
            {
                headers.append(GRPC_MESSAGE, message);
            }
            return (ResponseHead { status: StatusCode::OK, protocol, headers }, Bytes::new());
        }
        let mut body = self.body;
        if body.is_empty() {
            headers.remove(&CONTENT_TYPE);
        } else {
            headers.append(CONTENT_LENGTH, HeaderValue::from(body.len()));
            if !headers.contains(&CONTENT_TYPE) {
                headers.append(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            }
        }
        if request.is_some_and(|request| request.method == Method::HEAD) {
            body = Bytes::new();
        }
        (ResponseHead { status: self.status, protocol, headers }, body)
    }
}

/// Whether a request is gRPC: `content-type: application/grpc` or `application/grpc+...`.
pub fn is_grpc(request: &RequestHead) -> bool {
    request.headers.get(&CONTENT_TYPE).is_some_and(|value| {
        value.as_bytes().strip_prefix(b"application/grpc").is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+"))
    })
}

/// The gRPC status of an HTTP status (the mapping of gRPC's `http-grpc-status-mapping`).
pub(crate) fn grpc_status(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

fn percent_encode(message: &[u8]) -> String {
    let mut out = String::with_capacity(message.len());
    for &b in message {
        if (0x20..=0x7e).contains(&b) && b != b'%' {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Scheme;

    fn request(content_type: &'static str) -> RequestHead {
        RequestHead {
            method: Method::POST,
            scheme: Scheme::Http,
            authority: None,
            path: HeaderValue::from_static("/"),
            protocol: Protocol::Http2,
            headers: [(CONTENT_TYPE, HeaderValue::from_static(content_type))].into_iter().collect(),
        }
    }

    #[test]
    fn a_grpc_client_gets_a_grpc_status() {
        let reply = LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "no healthy upstream", "no_healthy_upstream");
        let (head, body) = reply.into_response(Some(&request("application/grpc+proto")), Protocol::Http2);
        assert_eq!(head.status, StatusCode::OK);
        assert_eq!(head.headers.get(&GRPC_STATUS), Some(&HeaderValue::from_static("14")));
        assert_eq!(head.headers.get(&GRPC_MESSAGE), Some(&HeaderValue::from_static("no healthy upstream")));
        assert!(body.is_empty());
    }

    #[test]
    fn others_get_plain_text() {
        let reply = LocalReply::new(StatusCode::NOT_FOUND, "gone", "route_not_found");
        let (head, body) = reply.into_response(Some(&request("text/html")), Protocol::Http11);
        assert_eq!(head.status, StatusCode::NOT_FOUND);
        assert_eq!(head.headers.get(&CONTENT_LENGTH), Some(&HeaderValue::from_static("4")));
        assert_eq!(body, "gone");
    }
}
