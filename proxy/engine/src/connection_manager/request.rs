//! A request head, from the codec to the filters: what a hop adds, takes away and believes.

use std::borrow::Cow;
use std::net::IpAddr;

use http::header::{CONNECTION, TE, UPGRADE, VIA};
use http::{HeaderName, HeaderValue, Method};

use super::names::*;
use super::path::{Normalized, normalize};
use super::xfcc;
use crate::config::hcm::{EscapedSlashes, HttpConnectionManager, InternalAddresses, StripHostPort, UnderscoresAction};
use crate::message::{RequestHead, Scheme};
use crate::reply::is_grpc;
use crate::stream_info::{Address, ConnectionInfo};

/// What the decision needs beside the request.
#[derive(Debug)]
pub struct RequestContext<'a> {
    /// The settings.
    pub hcm: &'a HttpConnectionManager,
    /// The downstream connection.
    pub connection: &'a ConnectionInfo,
    /// Whether this request asks for an upgrade that the route allows.
    pub upgrade: bool,
    /// The address of this machine, for the client's where that is a loopback address.
    pub node_address: IpAddr,
    /// 128 random bits, for the request id.
    pub random: u128,
}

/// Why a request is answered here, before any filter.
#[derive(Debug, PartialEq, Eq)]
pub enum RequestRejected {
    /// Answer with this status and `%RESPONSE_CODE_DETAILS%`.
    Reply(u16, &'static str),
    /// The message itself is at fault, for this reason (`unexpected_underscore`): Envoy's codec would have refused it.
    Malformed(&'static str),
    /// 307 to the path that the head has now: escaped slashes were unescaped.
    Redirect,
}

/// Prepares `head` for the filters and returns the client's address as we believe it.
pub fn prepare_request(head: &mut RequestHead, cx: &RequestContext<'_>) -> Result<Address, RequestRejected> {
    let hcm = cx.hcm;
    underscores(head, hcm.underscores)?;
    nominated(head)?;
    host(head, cx);
    path(head, hcm)?;

    if !cx.upgrade {
        head.headers.remove(&CONNECTION);
        head.headers.remove(&UPGRADE);
    }
    // TE is hop by hop; the one token that speaks of the whole way is trailers.
    if let Some(te) = head.headers.fold(&TE) {
        let trailers = te.as_bytes().split(|b| *b == b',').any(|t| t.trim_ascii().eq_ignore_ascii_case(b"trailers"));
        if trailers {
            head.headers.set(TE, HeaderValue::from_static("trailers"));
        } else {
            head.headers.remove(&TE);
        }
    }
    head.headers.retain(|name, _| {
        !matches!(name.as_str(), "x-envoy-internal" | "keep-alive" | "proxy-connection" | "transfer-encoding")
    });

    let secure = cx.connection.tls.is_some();
    let own_scheme = HeaderValue::from_static(if secure { "https" } else { "http" });
    let direct = &cx.connection.direct_remote_address;
    let direct_ip = ip_of(direct);
    let mut remote = None;
    // Only an address that nobody else has passed on can be that of one of us.
    let single = match head.headers.fold(&X_FORWARDED_FOR) {
        None => hcm.use_remote_address,
        Some(value) => !hcm.use_remote_address && hcm.xff_num_trusted_hops == 0 && !value.as_bytes().contains(&b','),
    };
    if hcm.use_remote_address {
        if hcm.xff_num_trusted_hops > 0 {
            remote = from_xff(head, hcm.xff_num_trusted_hops.saturating_sub(1));
        }
        remote = remote.or_else(|| Some(direct.clone()));
        if !hcm.skip_xff_append
            && let Some(ip) = direct_ip
        {
            let ip = if ip.is_loopback() { cx.node_address } else { ip };
            // An address has no byte that a header has not.
            if let Ok(ip) = HeaderValue::from_str(&ip.to_string()) {
                head.headers.join(X_FORWARDED_FOR, ",", ip);
            }
        }
        if hcm.xff_num_trusted_hops == 0 || !head.headers.contains(&X_FORWARDED_PROTO) {
            head.headers.set(X_FORWARDED_PROTO, own_scheme.clone());
        }
        if hcm.append_x_forwarded_port
            && (hcm.xff_num_trusted_hops == 0 || !head.headers.contains(&X_FORWARDED_PORT))
            && let Address::Ip(local) = &cx.connection.local_address
        {
            head.headers.set(X_FORWARDED_PORT, HeaderValue::from(local.port()));
        }
    } else {
        remote = remote.or_else(|| from_xff(head, hcm.xff_num_trusted_hops));
    }
    if !head.headers.contains(&X_FORWARDED_PROTO) {
        head.headers.append(X_FORWARDED_PROTO, own_scheme);
    }
    // The scheme of HTTP/1 is what the forwarding header says, where it says one that we know.
    match head.headers.fold(&X_FORWARDED_PROTO).map(HeaderValue::as_bytes) {
        Some(proto) if proto.eq_ignore_ascii_case(b"https") => head.scheme = Scheme::Https,
        Some(proto) if proto.eq_ignore_ascii_case(b"http") => head.scheme = Scheme::Http,
        _ => {}
    }

    // What only an internal client may say is taken away from all others.
    let internal = single && remote.as_ref().is_some_and(|remote| is_internal(remote, &hcm.internal_addresses));
    let edge = hcm.use_remote_address && !internal;
    if edge {
        head.headers.retain(|name, _| !is_edge_only(name));
    }
    if internal {
        head.headers.set(X_ENVOY_INTERNAL, HeaderValue::from_static("true"));
    } else {
        head.headers.retain(|name, _| !is_internal_only(name));
    }
    if let Some(via) = &hcm.via {
        head.headers.join(VIA, ", ", via.clone());
    }
    let remote = remote.unwrap_or_else(|| direct.clone());
    if edge
        && let Some(ip) = ip_of(&remote)
        && let Ok(value) = HeaderValue::from_str(&ip.to_string())
    {
        head.headers.set(X_ENVOY_EXTERNAL_ADDRESS, value);
    }
    if hcm.generate_request_id {
        let replace = edge && !hcm.preserve_external_request_id;
        if replace || !head.headers.contains(&X_REQUEST_ID) {
            head.headers.set(X_REQUEST_ID, request_id(cx.random));
        }
    }
    xfcc::apply(&mut head.headers, cx.connection.tls.as_deref(), hcm.forward_client_cert, hcm.client_cert_details);
    Ok(remote)
}

fn is_internal(address: &Address, internal: &InternalAddresses) -> bool {
    match address {
        Address::Ip(address) => internal.ranges.iter().any(|range| range.contains(address.ip())),
        Address::Pipe(_) => internal.unix_sockets,
    }
}

fn is_edge_only(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "x-envoy-decorator-operation"
            | "x-envoy-downstream-service-cluster"
            | "x-envoy-downstream-service-node"
            | "x-envoy-original-path"
    )
}

fn is_internal_only(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "x-envoy-retriable-status-codes"
            | "x-envoy-retriable-header-names"
            | "x-envoy-retry-on"
            | "x-envoy-retry-grpc-on"
            | "x-envoy-max-retries"
            | "x-envoy-upstream-alt-stat-name"
            | "x-envoy-upstream-rq-timeout-ms"
            | "x-envoy-upstream-rq-per-try-timeout-ms"
            | "x-envoy-upstream-rq-timeout-alt-response"
            | "x-envoy-expected-rq-timeout-ms"
            | "x-envoy-force-trace"
            | "x-envoy-ip-tags"
            | "x-envoy-original-url"
            | "x-envoy-hedge-on-per-try-timeout"
    )
}

fn underscores(head: &mut RequestHead, action: UnderscoresAction) -> Result<(), RequestRejected> {
    match action {
        UnderscoresAction::Allow => {}
        UnderscoresAction::DropHeader => head.headers.retain(|name, _| !name.as_str().contains('_')),
        UnderscoresAction::RejectRequest => {
            if head.headers.iter().any(|(name, _)| name.as_str().contains('_')) {
                return Err(RequestRejected::Malformed("unexpected_underscore"));
            }
        }
    }
    Ok(())
}

/// So many names in `connection` are too many, and so many bytes of a `te` that it names: Envoy's bounds. Each
/// name costs a pass over the headers.
const MAX_NOMINATED: usize = 10;
const MAX_TE_BYTES: usize = 256;

/// Removes the headers that `connection` names: they are meant for this hop only (RFC 9110, section 7.6.1). What we
/// forward on our own account may not be named.
fn nominated(head: &mut RequestHead) -> Result<(), RequestRejected> {
    let Some(value) = head.headers.fold(&CONNECTION) else { return Ok(()) };
    let value = value.clone();
    if value.as_bytes().split(|b| *b == b',').filter(|token| !token.is_empty()).nth(MAX_NOMINATED - 1).is_some() {
        return Err(RequestRejected::Malformed("connection_header_rejected"));
    }
    for token in value.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii) {
        let lower = token.to_ascii_lowercase();
        match lower.as_slice() {
            b"te" if head.headers.get(&TE).is_some_and(|te| te.len() >= MAX_TE_BYTES) => {
                return Err(RequestRejected::Malformed("connection_header_rejected"));
            }
            b"" | b"close" | b"keep-alive" | b"upgrade" | b"te" | b"http2-settings" => {}
            b"x-forwarded-for" | b"x-forwarded-host" | b"x-forwarded-proto" => {
                return Err(RequestRejected::Malformed("connection_header_rejected"));
            }
            name if name.starts_with(b":") => {
                return Err(RequestRejected::Malformed("connection_header_rejected"));
            }
            name => {
                if let Ok(name) = HeaderName::from_bytes(name) {
                    head.headers.remove(&name);
                }
            }
        }
    }
    Ok(())
}

fn host(head: &mut RequestHead, cx: &RequestContext<'_>) {
    let hcm = cx.hcm;
    if hcm.strip_host_port == StripHostPort::Keep && !hcm.strip_trailing_host_dot {
        return;
    }
    let Some(text) = head.authority.as_ref().and_then(|a| a.to_str().ok()) else { return };
    let (mut name, mut port) = split_port(text);
    if head.method != Method::CONNECT {
        let strip = match hcm.strip_host_port {
            StripHostPort::Keep => false,
            StripHostPort::Any => true,
            StripHostPort::Matching => match &cx.connection.local_address {
                Address::Ip(local) => port.and_then(|p| p.parse().ok()) == Some(local.port()),
                Address::Pipe(_) => false,
            },
        };
        if strip {
            port = None;
        }
    }
    if hcm.strip_trailing_host_dot {
        name = name.strip_suffix('.').unwrap_or(name);
    }
    let new = match port {
        Some(port) => format!("{name}:{port}"),
        None => name.to_owned(),
    };
    if new != text
        && let Ok(value) = HeaderValue::from_str(&new)
    {
        head.authority = Some(value);
    }
}

/// `[::1]:80` -> (`[::1]`, `80`).
fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            if name.contains(':') && !name.ends_with(']') { (host, None) } else { (name, Some(port)) }
        }
        _ => (host, None),
    }
}

fn path(head: &mut RequestHead, hcm: &HttpConnectionManager) -> Result<(), RequestRejected> {
    if !hcm.normalize_path && !hcm.merge_slashes && hcm.escaped_slashes == EscapedSlashes::KeepUnchanged {
        return Ok(());
    }
    if head.method == Method::CONNECT || head.path.as_bytes() == b"*" {
        return Ok(());
    }
    const FAILED: RequestRejected = RequestRejected::Reply(400, "path_normalization_failed");
    let (new, verdict) = match normalize(
        head.path.to_str().map_err(|_| FAILED)?,
        hcm.normalize_path,
        hcm.merge_slashes,
        hcm.escaped_slashes,
    ) {
        Normalized::Path(Cow::Borrowed(_)) => return Ok(()),
        Normalized::Path(Cow::Owned(path)) => (path, Ok(())),
        // A gRPC client follows no redirects.
        Normalized::Redirect(path) if is_grpc(head) => (path, Err(FAILED)),
        Normalized::Redirect(path) => (path, Err(RequestRejected::Redirect)),
        Normalized::Reject(path) => (path.into_owned(), Err(FAILED)),
    };
    head.path = HeaderValue::from_str(&new).map_err(|_| FAILED)?;
    verdict
}

fn ip_of(address: &Address) -> Option<IpAddr> {
    match address {
        Address::Ip(address) => Some(address.ip()),
        Address::Pipe(_) => None,
    }
}

/// The address that stands `skip` places from the right in `x-forwarded-for`.
fn from_xff(head: &RequestHead, skip: u32) -> Option<Address> {
    let value = head.headers.get(&X_FORWARDED_FOR)?.as_bytes();
    let place = value.rsplit(|byte| *byte == b',').nth(usize::try_from(skip).ok()?)?;
    let ip: IpAddr = str::from_utf8(place).ok()?.trim().parse().ok()?;
    Some(Address::Ip((ip, 0).into()))
}

/// A version 4 UUID.
fn request_id(random: u128) -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bits = random & !(0xf << 76) | 0x4 << 76;
    let bits = bits & !(0x3 << 62) | 0x2 << 62;
    let mut text = [b'-'; 36];
    let mut shift = 128u32;
    for (at, slot) in text.iter_mut().enumerate() {
        if !matches!(at, 8 | 13 | 18 | 23) {
            shift = shift.saturating_sub(4);
            let digit = usize::try_from(bits >> shift & 0xf).unwrap_or_default();
            *slot = HEX.get(digit).copied().unwrap_or(b'0');
        }
    }
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_a_version_4_uuid() {
        let id = request_id(u128::MAX);
        assert_eq!(id.to_str().ok(), Some("ffffffff-ffff-4fff-bfff-ffffffffffff"));
        assert_eq!(request_id(0).to_str().ok(), Some("00000000-0000-4000-8000-000000000000"));
    }

    #[test]
    fn names_in_connection_are_bounded() {
        let nominate = |connection: &str, te: usize| {
            let mut head = crate::testing::request("h", "/", &[("connection", connection), ("te", &"a".repeat(te))]);
            nominated(&mut head)
        };
        let names = |count: usize| vec!["x"; count].join(",");
        let refused = Err(RequestRejected::Malformed("connection_header_rejected"));
        assert_eq!(nominate(&names(9), 1), Ok(()));
        assert_eq!(nominate(&names(10), 1), refused);
        assert_eq!(nominate(&format!("{}x", ",".repeat(50)), 1), Ok(()), "empty ones are none");
        assert_eq!(nominate("te", 255), Ok(()));
        assert_eq!(nominate("te", 256), refused);
        assert_eq!(nominate("x", 256), Ok(()));
    }

    #[test]
    fn a_port_is_told_from_an_address() {
        assert_eq!(split_port("a.b:80"), ("a.b", Some("80")));
        assert_eq!(split_port("[::1]:80"), ("[::1]", Some("80")));
        assert_eq!(split_port("[::1]"), ("[::1]", None));
        assert_eq!(split_port("::1"), ("::1", None));
        assert_eq!(split_port("a.b"), ("a.b", None));
    }
}
