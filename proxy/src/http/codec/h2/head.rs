//! Heads between the `http` crate's form, which the `h2` crate speaks, and ours, with the checks of Envoy that the
//! crate leaves out. Names and values change hands without a copy; pseudo-headers are small and are copied.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, DATE, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery, Uri};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, request, response};
use outrigger_engine::message::{Headers, Protocol, RequestHead, ResponseHead, Scheme, is_token};

use crate::http::codec::is_only_of_heads;

/// A field above this ends the connection: nghttp2's bound, hence Envoy's.
const MAX_FIELD_BYTES: usize = 64 << 10;

/// Bounds on a head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes of names and values.
    pub(super) bytes: usize,
    /// Fields, pseudo-headers included.
    pub(super) count: usize,
}

impl Limits {
    /// The bound that the crate gets, which counts 32 bytes more for each field and answers otherwise than Envoy: high
    /// enough that ours comes first, low enough that a head does not become a burden.
    pub(super) fn of_the_crate(self) -> u32 {
        u32::try_from(self.bytes.saturating_mul(4)).unwrap_or(u32::MAX).max(1 << 20)
    }
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It breaks RFC 9113 section 8, as Envoy reads it.
    Malformed(&'static str),
    /// It is beyond the limits: the stream is reset, the connection goes on.
    TooLarge(&'static str),
    /// A single field that no implementation takes: COMPRESSION_ERROR.
    FieldTooLarge,
}

/// A rule on messages as a whole was broken.
pub(super) const BAD_MESSAGE: &str = "http2.violation.of.messaging.rule";
/// A field is not what it has to be.
pub(super) const BAD_FIELD: &str = "http2.invalid.header.field";

const MESSAGING: Refused = Refused::Malformed(BAD_MESSAGE);
const FIELD: Refused = Refused::Malformed(BAD_FIELD);

/// Whether `details` speak of one message.
pub(super) fn is_malformed(details: &str) -> bool {
    details == BAD_MESSAGE || details == BAD_FIELD
}

/// A request as the `h2` crate has parsed it, and `:protocol` of an extended CONNECT.
pub(super) fn request(parts: request::Parts, limits: Limits) -> Result<(RequestHead, Option<HeaderValue>), Refused> {
    let request::Parts { method, uri, headers: map, extensions, .. } = parts;
    let connect_protocol = match extensions.get::<h2::ext::Protocol>() {
        Some(protocol) => Some(HeaderValue::from_str(protocol.as_str()).map_err(|_| FIELD)?),
        None => None,
    };
    let plain_connect = method == Method::CONNECT && connect_protocol.is_none();
    let path = match uri.path_and_query() {
        _ if plain_connect => HeaderValue::from_static(""),
        Some(path) if path.as_str().starts_with('/') || (path.as_str() == "*" && method == Method::OPTIONS) => {
            HeaderValue::from_str(path.as_str()).map_err(|_| FIELD)?
        }
        _ => return Err(MESSAGING),
    };
    let pseudo = match uri.authority() {
        Some(authority) if valid_authority(authority) => {
            Some(HeaderValue::from_str(authority.as_str()).map_err(|_| FIELD)?)
        }
        Some(_) => return Err(FIELD),
        None => None,
    };
    let pseudo_bytes = path.len().saturating_add(pseudo.as_ref().map_or(0, HeaderValue::len));
    let (mut headers, host) = fields(map, limits, 4, pseudo_bytes)?;
    let authority = match (pseudo, host) {
        (Some(authority), _) => authority,
        (None, Some(host)) if Authority::try_from(host.as_bytes()).is_ok_and(|a| valid_authority(&a)) => host,
        (None, Some(_)) => return Err(FIELD),
        (None, None) => return Err(MESSAGING),
    };
    if headers.get_all(&CONTENT_LENGTH).count() > 1 || headers.get(&CONTENT_LENGTH).is_some_and(|v| v.is_empty()) {
        return Err(FIELD);
    }
    join_cookies(&mut headers);
    let scheme = if uri.scheme_str() == Some("https") { Scheme::Https } else { Scheme::Http };
    let head = RequestHead { method, scheme, authority: Some(authority), path, protocol: Protocol::Http2, headers };
    Ok((head, connect_protocol))
}

/// The whole of a path that the `h2` crate has cut at `#`.
pub(super) fn path_with_fragment(path: Bytes) -> Result<HeaderValue, Refused> {
    if path.iter().any(|b| *b <= b' ') {
        return Err(FIELD);
    }
    HeaderValue::from_maybe_shared(path).map_err(|_| FIELD)
}

/// A response as the `h2` crate has parsed it.
pub(super) fn response(parts: response::Parts, limits: Limits) -> Result<ResponseHead, Refused> {
    let (headers, _) = fields(parts.headers, limits, 1, 3)?;
    if headers.get_all(&CONTENT_LENGTH).count() > 1 {
        return Err(FIELD);
    }
    Ok(ResponseHead { status: parts.status, protocol: Protocol::Http2, headers })
}

/// Trailers of either direction.
pub(super) fn trailers(map: HeaderMap, limits: Limits) -> Result<Headers, Refused> {
    let (mut headers, _) = fields(map, limits, 0, 0)?;
    headers.retain(|name, _| !is_only_of_heads(name));
    Ok(headers)
}

fn valid_authority(authority: &Authority) -> bool {
    let authority = authority.as_str();
    !authority.is_empty() && !authority.contains('@')
}

/// The list, without `host`, which comes back by itself.
fn fields(
    map: HeaderMap,
    limits: Limits,
    pseudo_count: usize,
    pseudo_bytes: usize,
) -> Result<(Headers, Option<HeaderValue>), Refused> {
    let mut headers = Headers::with_capacity(map.len());
    let mut host = None;
    let mut bytes = pseudo_bytes;
    let mut count = pseudo_count;
    if bytes > limits.bytes {
        return Err(Refused::TooLarge("http2.header_list_size_too_large"));
    }
    let mut last: Option<HeaderName> = None;
    for (name, value) in map {
        // The map names a field once; further values of it follow without.
        let Some(name) = name.or_else(|| last.clone()) else { continue };
        if value.len() > MAX_FIELD_BYTES || name.as_str().len() > MAX_FIELD_BYTES {
            return Err(Refused::FieldTooLarge);
        }
        if !is_token(&name) {
            return Err(FIELD);
        }
        bytes = bytes.saturating_add(name.as_str().len()).saturating_add(value.len());
        count = count.saturating_add(1);
        if bytes > limits.bytes {
            return Err(Refused::TooLarge("http2.header_list_size_too_large"));
        }
        if count > limits.count {
            return Err(Refused::TooLarge("http2.too_many_headers"));
        }
        if name == HOST {
            if host.replace(value).is_some() {
                return Err(FIELD);
            }
        } else {
            headers.append(name.clone(), value);
        }
        last = Some(name);
    }
    Ok((headers, host))
}

/// RFC 9113 section 8.2.3: crumbs become one field before they go on.
fn join_cookies(headers: &mut Headers) {
    let crumbs = headers.get_all(&COOKIE).count();
    if crumbs < 2 {
        return;
    }
    let mut joined = Vec::with_capacity(headers.get_all(&COOKIE).map(|v| v.len().saturating_add(2)).sum());
    for crumb in headers.get_all(&COOKIE) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_maybe_shared(Bytes::from(joined)) {
        headers.set(COOKIE, joined);
    }
}

/// Whether a field belongs to one HTTP/1 hop and must not be sent on HTTP/2.
fn is_hop_by_hop(name: &HeaderName, value: &HeaderValue) -> bool {
    *name == CONNECTION
        || *name == TRANSFER_ENCODING
        || *name == UPGRADE
        || *name == HOST
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
        || (*name == TE && value != "trailers")
}

/// Whether a field has another value in each message, or soon has another one for good. In the table of HPACK it would
/// only be in the way: the crate compares a value with all those of its name that are in the table, some fifty, before
/// it puts it there. The crate leaves out what is sensitive.
fn is_never_repeated(name: &HeaderName) -> bool {
    *name == DATE || matches!(name.as_str(), "x-request-id" | "traceparent" | "x-b3-traceid" | "x-b3-spanid")
}

/// The list as the `h2` crate takes it. Fields of an HTTP/1 hop are left out.
pub(super) fn map(headers: Headers) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(headers.len());
    for (name, mut value) in headers {
        if !is_hop_by_hop(&name, &value) {
            if is_never_repeated(&name) {
                value.set_sensitive(true);
            }
            map.append(name, value);
        }
    }
    map
}

/// A response to send.
pub(super) fn to_response(head: ResponseHead) -> http::Response<()> {
    let mut response = http::Response::new(());
    *response.status_mut() = head.status;
    *response.headers_mut() = map(head.headers);
    response
}

/// A request to send, with `:protocol` if it is an extended CONNECT. `None` where the path (or a method of CONNECT
/// without a host) cannot be sent at all.
pub(super) fn to_request(head: RequestHead, connect_protocol: Option<&HeaderValue>) -> Option<http::Request<()>> {
    let RequestHead { method, scheme, authority, path, headers, .. } = head;
    let plain_connect = method == Method::CONNECT && connect_protocol.is_none();
    let shared = |value: &HeaderValue| Bytes::copy_from_slice(value.as_bytes());
    let parsed = authority.as_ref().and_then(|value| Authority::from_maybe_shared(shared(value)).ok());
    let mut parts = http::uri::Parts::default();
    let mut map = map(headers);
    let mut version = Version::HTTP_2;
    if !plain_connect {
        parts.path_and_query = Some(PathAndQuery::from_maybe_shared(shared(&path)).ok()?);
    }
    match (parsed, authority) {
        (Some(parsed), _) => {
            parts.authority = Some(parsed);
            if !plain_connect {
                parts.scheme = Some(match scheme {
                    Scheme::Http => http::uri::Scheme::HTTP,
                    Scheme::Https => http::uri::Scheme::HTTPS,
                });
            }
        }
        // Without an authority (HTTP/1.0), or with one that a URI cannot hold, the crate sends what HTTP/1.1 has.
        (None, authority) => {
            version = Version::HTTP_11;
            if let Some(host) = authority {
                map.append(HOST, host);
            }
        }
    }
    let mut request = http::Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from_parts(parts).ok()?;
    *request.version_mut() = version;
    *request.headers_mut() = map;
    if let Some(protocol) = connect_protocol {
        request.extensions_mut().insert(h2::ext::Protocol::from(protocol.to_str().ok()?));
    }
    Some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { bytes: 60 << 10, count: 100 };

    fn parse(method: &str, uri: &str, headers: &[(&'static str, &'static str)]) -> Result<RequestHead, Refused> {
        let mut request = http::Request::builder().method(method).uri(uri).body(()).unwrap();
        for (name, value) in headers {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        super::request(request.into_parts().0, LIMITS).map(|(head, _)| head)
    }

    #[test]
    fn cookie_crumbs_become_one_field() {
        let head = parse("GET", "http://a/b?c", &[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")]).unwrap();
        assert_eq!(head.headers.get_all(&COOKIE).collect::<Vec<_>>(), ["a=1; b=2"]);
        assert_eq!(head.headers.len(), 2);
        assert_eq!(
            (head.path, head.authority),
            (HeaderValue::from_static("/b?c"), Some(HeaderValue::from_static("a")))
        );
    }

    #[test]
    fn host_stands_in_for_a_missing_authority_and_only_then() {
        let head = parse("GET", "/", &[("host", "h.x:80")]).unwrap();
        assert_eq!(head.authority.unwrap(), "h.x:80");
        let head = parse("GET", "http://a/", &[("host", "h.x")]).unwrap();
        assert_eq!(head.authority.unwrap(), "a");
        assert!(head.headers.is_empty());
        for bad in ["", "a b", "u@h", "h/x"] {
            assert!(parse("GET", "/", &[("host", bad)]).is_err(), "{bad:?}");
        }
        assert!(parse("GET", "/", &[]).is_err());
        assert!(parse("GET", "/", &[("host", "a"), ("host", "b")]).is_err());
    }

    #[test]
    fn limits_are_envoys() {
        let many: Vec<_> = std::iter::repeat_n(("x", "y"), 97).collect();
        assert_eq!(parse("GET", "http://a/", &many).unwrap_err(), Refused::TooLarge("http2.too_many_headers"));
        assert!(parse("GET", "http://a/", many.get(1..).unwrap()).is_ok());
    }

    #[test]
    fn a_request_survives_both_conversions() {
        for (method, uri) in [("GET", "https://h:8080/p?q=1"), ("OPTIONS", "*"), ("CONNECT", "h:443")] {
            let head = parse(method, uri, &[("host", "h"), ("te", "trailers"), ("x", "1"), ("x", "2")]).unwrap();
            let authority = head.authority.clone();
            let sent = to_request(head, None).unwrap();
            assert_eq!(sent.method(), method);
            assert_eq!(sent.headers().get_all("x").iter().collect::<Vec<_>>(), ["1", "2"]);
            assert_eq!(sent.uri().authority().map(|a| a.as_str()), authority.as_ref().and_then(|a| a.to_str().ok()));
        }
    }

    #[test]
    fn only_what_may_come_again_goes_into_the_table() {
        let sent = map(["date", "x-request-id", "x-a"]
            .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1")))
            .into_iter()
            .collect());
        assert_eq!(sent.values().map(HeaderValue::is_sensitive).collect::<Vec<_>>(), [true, true, false]);
    }

    #[test]
    fn trailers_say_nothing_of_framing_or_routing() {
        let map = ["content-length", "host", "transfer-encoding", "connection", "upgrade", "grpc-status", "x-a"]
            .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1")));
        let kept = trailers(map.into_iter().collect(), LIMITS).unwrap();
        assert_eq!(kept.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["grpc-status", "x-a"]);
    }

    #[test]
    fn fields_of_an_http1_hop_are_not_sent() {
        let headers =
            [("connection", "x"), ("keep-alive", "1"), ("te", "gzip"), ("transfer-encoding", "chunked"), ("a", "b")];
        let headers =
            headers.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect::<Headers>();
        let sent = map(headers);
        assert_eq!(sent.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["a"]);
    }
}
