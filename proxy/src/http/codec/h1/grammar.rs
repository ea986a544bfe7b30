//! The grammar of what a head says: methods, request targets, authorities, lengths, lists.

use std::net::Ipv6Addr;

use bytes::Bytes;
use http::{HeaderValue, Method};
use outrigger_engine::message::Scheme;

use super::ServerSettings;
use super::head::{BAD_SCHEME, BAD_URL, Block, CODEC_ERROR, Fault, HTTPS_IN_PLAINTEXT};

/// A method; one that Envoy does not know is refused unless `custom` ones are allowed.
pub(super) fn parse_method(name: &str, custom: bool) -> Option<Method> {
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
            | "QUERY"
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
    if known || custom { Method::from_bytes(name.as_bytes()).ok() } else { None }
}

/// The members of a comma-separated list.
pub(super) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii)
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
pub(super) fn valid_authority(host: &[u8]) -> bool {
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

/// Whether what follows a host's last colon is a port, where there is one.
fn valid_port(authority: &[u8]) -> bool {
    let host_end = authority.iter().rposition(|b| *b == b']').unwrap_or(0);
    let Some(host) = authority.get(host_end..) else { return false };
    match host.iter().rposition(|b| *b == b':').and_then(|at| host.get(at.saturating_add(1)..)) {
        None => true,
        Some(port) => parse_length(port).is_some_and(|port| port <= 65535),
    }
}

/// A request target, taken apart.
pub(super) struct Target {
    pub(super) authority: Option<HeaderValue>,
    pub(super) scheme: Scheme,
    pub(super) path: HeaderValue,
}

impl Target {
    pub(super) fn parse(
        block: &Block,
        target: &[u8],
        method: &Method,
        settings: &ServerSettings,
    ) -> Result<Target, Fault> {
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
            let has_port = target.iter().rposition(|b| *b == b':').is_some_and(|at| at > 0);
            if !has_port || !valid_port(target) || !valid_authority(target) {
                return Err(BAD_URL);
            }
            let path = HeaderValue::from_static("");
            return Ok(Target { authority: Some(value(target)?), scheme: Scheme::Http, path });
        }
        let (scheme, rest) = match () {
            () if starts_with_ignore_case(target, b"http://") => (Scheme::Http, target.get(7..)),
            () if starts_with_ignore_case(target, b"https://") => (Scheme::Https, target.get(8..)),
            () => return Err(if has_scheme(target) { BAD_SCHEME } else { CODEC_ERROR }),
        };
        let rest = rest.unwrap_or_default();
        if !settings.options.allow_absolute_url {
            return Err(BAD_URL);
        }
        let end = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end).ok_or(BAD_URL)?;
        let authority = without_user_information(authority)?;
        if scheme == Scheme::Https && settings.refuse_https {
            return Err(HTTPS_IN_PLAINTEXT);
        }
        let path = match path.first() {
            Some(b'#') => return Err(CODEC_ERROR),
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

/// The host and the port of an absolute URL's authority. Whoever reads a URL differently from us takes another part of
/// it for the host, so there is one `@` at most and nothing around it that has no place there.
fn without_user_information(authority: &[u8]) -> Result<&[u8], Fault> {
    if !valid_authority(authority) || authority.windows(2).any(|pair| pair == b"@@") {
        return Err(CODEC_ERROR);
    }
    let host = match memchr::memchr(b'@', authority).and_then(|at| authority.split_at_checked(at)) {
        Some((user, _)) if user.iter().any(|b| matches!(b, b'[' | b']')) => return Err(BAD_URL),
        Some((_, host)) => host.get(1..).unwrap_or_default(),
        None => authority,
    };
    if valid_host(host) && valid_port(host) { Ok(host) } else { Err(BAD_URL) }
}

/// Whether what precedes the port is a name, an IPv4 address, or an IPv6 address in brackets, which has no zone here.
fn valid_host(host: &[u8]) -> bool {
    let Some(bracketed) = host.strip_prefix(b"[") else {
        let mut parts = host.splitn(2, |b| *b == b':');
        let is_name = parts.next().is_some_and(|name| {
            !name.is_empty() && name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
        });
        return is_name && parts.next().is_none_or(|port| !port.contains(&b':'));
    };
    let mut parts = bracketed.splitn(2, |b| *b == b']');
    let address = parts.next().and_then(|address| std::str::from_utf8(address).ok());
    address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
        && parts.next().is_some_and(|port| matches!(port.first(), None | Some(b':')))
}

/// `letters://`
fn has_scheme(target: &[u8]) -> bool {
    let letters = target.iter().position(|b| !b.is_ascii_alphabetic()).unwrap_or(target.len());
    letters > 0 && target.get(letters..).is_some_and(|rest| rest.starts_with(b"://"))
}

fn starts_with_ignore_case(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}
