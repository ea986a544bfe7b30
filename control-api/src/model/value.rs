//! The scalars of Kubernetes and of the Gateway API: what a name, a host, a duration, a path may look like.
//!
//! The messages keep them as strings; here each has its one check. A check says what would be right.

use std::fmt::Display;
use std::net::IpAddr;
use std::time::Duration;

use outrigger_engine::config::report::{At, NOT_IN_THIS_VERSION};

/// Rejects `value` where `check` finds something wrong with it.
pub(crate) fn check(at: &At<'_>, value: &str, check: fn(&str) -> Result<(), &'static str>) -> bool {
    match check(value) {
        Ok(()) => true,
        Err(reason) => {
            at.reject(value, reason);
            false
        }
    }
}

/// Rejects a field that is asked for by its name and is not here yet.
pub(crate) fn not_yet(at: &At<'_>, is_set: bool, value: impl Display, why: &str) {
    if is_set && why.is_empty() {
        at.reject(value, NOT_IN_THIS_VERSION);
    } else if is_set {
        at.reject(value, format_args!("{NOT_IN_THIS_VERSION}: {why}"));
    }
}

/// Rejects a list with more than `most` elements.
pub(crate) fn at_most<T>(at: &At<'_>, list: &[T], most: usize) {
    if list.len() > most {
        at.reject(list.len(), format_args!("has {} elements, and at most {most} are allowed", list.len()));
    }
}

/// A port, 1 to 65535.
pub(crate) fn port(at: &At<'_>, value: i32) -> Option<u16> {
    let port = u16::try_from(value).ok().filter(|port| *port > 0);
    if port.is_none() {
        at.reject(value, "must be 1 to 65535");
    }
    port
}

/// A duration of GEP-2257: a sum like `1h30m`. `None` where it was rejected.
pub(crate) fn duration(at: &At<'_>, text: &str) -> Option<Duration> {
    match parse_duration(text) {
        Some(duration) => Some(duration),
        None => {
            at.reject(
                text,
                "not a duration: up to four of numbers (at most five digits) with h, m, s or ms, as in 1m30s",
            );
            None
        }
    }
}

/// `^([0-9]{1,5}(h|m|s|ms)){1,4}$`, summed.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at_checked(digits)?;
        if !(1..=5).contains(&digits) {
            return None;
        }
        let number: u64 = number.parse().ok()?;
        let (part, after) = if let Some(after) = after.strip_prefix("ms") {
            (Duration::from_millis(number), after)
        } else if let Some(after) = after.strip_prefix('h') {
            (Duration::from_secs(number * 3600), after)
        } else if let Some(after) = after.strip_prefix('m') {
            (Duration::from_secs(number * 60), after)
        } else if let Some(after) = after.strip_prefix('s') {
            (Duration::from_secs(number), after)
        } else {
            return None;
        };
        sum += part;
        if after.is_empty() {
            return Some(sum);
        }
        rest = after;
    }
    None
}

fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// A namespace, a Service's name: 1 to 63 of `[-a-z0-9]`.
pub(crate) fn dns_label(text: &str) -> Result<(), &'static str> {
    let right = is_label(text) && text.len() <= 63;
    right.then_some(()).ok_or("must be 1 to 63 lower case letters, digits and -, and begin and end with none of -")
}

/// Most names: labels with dots between them, 253 bytes at most.
pub(crate) fn dns_subdomain(text: &str) -> Result<(), &'static str> {
    let right = text.split('.').all(is_label) && text.len() <= 253;
    right.then_some(()).ok_or(
        "must be 1 to 253 lower case letters, digits, - and ., and each part begin and end with a letter or digit",
    )
}

/// A host of a route: a name, with `*.` in front at most; no address.
pub(crate) fn hostname(text: &str) -> Result<(), &'static str> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    precise_hostname(name)
}

/// A host without `*`.
pub(crate) fn precise_hostname(text: &str) -> Result<(), &'static str> {
    if text.parse::<IpAddr>().is_ok() {
        return Err("must be a name, not an address");
    }
    let right = text.split('.').all(is_label) && text.len() <= 253;
    right.then_some(()).ok_or("must be a host name in lower case, without a port")
}

/// A header's name: a token (RFC 9110) of at most 256 bytes.
pub(crate) fn header_name(text: &str) -> Result<(), &'static str> {
    let right = text.len() <= 256 && outrigger_engine::message::header_name(text).is_some();
    right.then_some(()).ok_or("must be a header's name: 1 to 256 letters, digits and !#$%&'*+-.^_`|~")
}

/// Headers that say where a message ends, or that are for one connection: the proxy writes them for each side itself.
/// Were another value put in their place, the next hop would see other messages than those that the proxy checked.
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A header that may be changed: not one that says where the request goes or where a message ends.
pub(crate) fn changeable_header(text: &str) -> Result<(), &'static str> {
    if text.starts_with(':') {
        return Err("a pseudo-header cannot be changed: the host and the path are, by urlRewrite");
    }
    header_name(text)?;
    if text.eq_ignore_ascii_case("host") {
        return Err("the host is changed by urlRewrite.hostname");
    }
    if FRAMING.iter().any(|name| text.eq_ignore_ascii_case(name)) {
        return Err(
            "cannot be changed: the proxy sets it itself, for it says where a message ends or is for one connection",
        );
    }
    Ok(())
}

/// A header's value: 1 to 4096 bytes of text.
pub(crate) fn header_value(text: &str) -> Result<(), &'static str> {
    let right = (1..=4096).contains(&text.len()) && http::HeaderValue::from_str(text).is_ok();
    right.then_some(()).ok_or("must be 1 to 4096 bytes of printable text")
}

/// A query parameter's value.
pub(crate) fn query_value(text: &str) -> Result<(), &'static str> {
    (1..=1024).contains(&text.len()).then_some(()).ok_or("must be 1 to 1024 bytes")
}

/// The value of an `Exact` or `PathPrefix` match.
pub(crate) fn path(text: &str) -> Result<(), &'static str> {
    if text.len() > 1024 {
        return Err("must be at most 1024 bytes");
    }
    if !text.starts_with('/') {
        return Err("must begin with /");
    }
    if ["//", "/./", "/../", "%2f", "%2F", "#"].iter().any(|part| text.contains(part)) {
        return Err("must not hold //, /./, /../, %2f or #");
    }
    if text.ends_with("/.") || text.ends_with("/..") {
        return Err("must not end with /. or /..");
    }
    path_characters(text)
}

/// What a path is replaced with.
pub(crate) fn new_path(text: &str) -> Result<(), &'static str> {
    if text.len() > 1024 {
        return Err("must be at most 1024 bytes");
    }
    if !text.is_empty() && !text.starts_with('/') {
        return Err("must begin with /");
    }
    path_characters(text)
}

fn path_characters(text: &str) -> Result<(), &'static str> {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let right = match byte {
            b'%' => (0..2).all(|_| bytes.next().is_some_and(|byte| byte.is_ascii_hexdigit())),
            byte => byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte),
        };
        if !right {
            return Err("holds a character that a path cannot have: letters, digits, /-._~!$&'()*+,;=:@ and %XX can");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_gep_2257() {
        for (text, milliseconds) in [
            ("0h", 0),
            ("0h0m0s", 0),
            ("150m", 9_000_000),
            ("7230s", 7_230_000),
            ("10s30m1h", 5_410_000),
            ("100ms200ms300ms", 600),
            ("99999h", 359_996_400_000),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "1", "1m1", "1d", "1.5h", "-15m", "999999h", "1h30m10s20ms50h", " 1s", "1s ", "s", "1S"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn names_hosts_and_headers() {
        assert!(dns_label("orders-1").is_ok());
        for text in ["", "Orders", "-a", "a-", "a.b", &"a".repeat(64)] {
            assert!(dns_label(text).is_err(), "{text}");
        }
        assert!(dns_subdomain("a.b-c.d1").is_ok());
        for text in ["", ".", "a..b", "a.", "A.b", "a_b"] {
            assert!(dns_subdomain(text).is_err(), "{text}");
        }
        assert!(hostname("*.example.com").is_ok());
        for text in ["*", "*.", "a.*.com", "10.0.0.1", "example.com:80", "Example.com"] {
            assert!(hostname(text).is_err(), "{text}");
        }
        assert!(precise_hostname("*.example.com").is_err());
        assert!(header_name("X-Version").is_ok());
        for text in ["", ":path", "a b", "a:b", &"a".repeat(257)] {
            assert!(header_name(text).is_err(), "{text}");
        }
        assert!(changeable_header("Content-Type").is_ok());
        for text in ["Host", ":authority", "Content-Length", "transfer-encoding", "Upgrade", "TE", "HTTP2-Settings"] {
            assert!(changeable_header(text).is_err(), "{text}");
        }
    }

    #[test]
    fn paths() {
        for text in ["/", "/a/b", "/a/", "/%41", "/a;b=c@d", "/.a", "/..a"] {
            assert!(path(text).is_ok(), "{text}");
        }
        for text in [
            "", "a", "//", "/a//b", "/a/./b", "/a/../b", "/a%2fb", "/a%2Fb", "/a#b", "/a/.", "/a/..", "/a?b", "/ä",
            "/%4", "/a b",
        ] {
            assert!(path(text).is_err(), "{text}");
        }
        assert!(path(&format!("/{}", "a".repeat(1024))).is_err());
    }
}
