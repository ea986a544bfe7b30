//! Path normalisation: RFC 3986 dot segments, doubled and escaped slashes.
//!
//! A route or an authorization rule that sees another path than the application does is a hole, so what cannot be
//! normalised is refused.

use std::borrow::Cow;

use crate::config::hcm::EscapedSlashes;

/// What the path becomes.
#[derive(Debug, PartialEq, Eq)]
pub enum Normalized<'a> {
    /// It goes on as this.
    Path(Cow<'a, str>),
    /// The client is sent to this path (307).
    Redirect(String),
    /// 400, `path_normalization_failed`; the path as far as it got.
    Reject(Cow<'a, str>),
}

/// Normalises the path part of `path`, leaving the query alone. With all options off the path comes back as it is.
pub fn normalize(path: &str, normalize_path: bool, merge_slashes: bool, slashes: EscapedSlashes) -> Normalized<'_> {
    let split = path.find(['?', '#']).unwrap_or(path.len());
    let (mut head, tail) =
        (Cow::Borrowed(path.get(..split).unwrap_or_default()), path.get(split..).unwrap_or_default());

    let unescaped = slashes != EscapedSlashes::KeepUnchanged && has_escaped_slash(&head);
    if unescaped {
        head = Cow::Owned(unescape_slashes(&head));
        if slashes == EscapedSlashes::RejectRequest {
            return Normalized::Reject([&head, tail].concat().into());
        }
    }
    if normalize_path && !is_canonical(&head) {
        match canonical(&head) {
            Some(canonical) => head = Cow::Owned(canonical),
            None => return Normalized::Reject([&head, tail].concat().into()),
        }
    }
    if merge_slashes && head.contains("//") {
        let mut merged = String::with_capacity(head.len());
        for c in head.chars() {
            if !(c == '/' && merged.ends_with('/')) {
                merged.push(c);
            }
        }
        head = Cow::Owned(merged);
    }
    match head {
        Cow::Borrowed(_) => Normalized::Path(Cow::Borrowed(path)),
        Cow::Owned(mut owned) => {
            owned.push_str(tail);
            let redirect = unescaped && slashes == EscapedSlashes::UnescapeAndRedirect;
            if redirect { Normalized::Redirect(owned) } else { Normalized::Path(Cow::Owned(owned)) }
        }
    }
}

fn has_escaped_slash(path: &str) -> bool {
    path.as_bytes().windows(3).any(|w| matches!(w, [b'%', b'2', b'f' | b'F'] | [b'%', b'5', b'c' | b'C']))
}

fn unescape_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let replacement = match escape.as_bytes() {
            [b'%', b'2', b'f' | b'F', ..] => Some('/'),
            [b'%', b'5', b'c' | b'C', ..] => Some('\\'),
            _ => None,
        };
        match replacement {
            Some(c) => {
                out.push(c);
                rest = escape.get(3..).unwrap_or_default();
            }
            None => {
                out.push('%');
                rest = escape.get(1..).unwrap_or_default();
            }
        }
    }
    out.push_str(rest);
    out
}

/// Whether [`canonical`] would leave the path as it is: of almost all that is so, and one look says it.
fn is_canonical(path: &str) -> bool {
    let mut before = 0;
    path.starts_with('/')
        && path.bytes().all(|b| {
            let hidden = before == b'/' && b == b'.';
            before = b;
            b.is_ascii_graphic() && b != b'%' && b != b'\\' && !hidden
        })
}

/// Removes dot segments (also spelled `%2e`), turns `\` into `/`, decodes escapes of unreserved characters. Other
/// escapes stay as they are, broken ones too, unless what is decoded behind them would mend them. `None` where one
/// decodes to NUL.
fn canonical(path: &str) -> Option<String> {
    if !path.starts_with('/') {
        return None;
    }
    let mut decoded = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    // Where a percent sign stands that begins no escape.
    let mut loose = None;
    while let Some(b) = bytes.next() {
        match b {
            b'\\' => decoded.push('/'),
            b'%' => match escaped(bytes.clone()) {
                Some(0) => return None,
                Some(value @ (b'.' | b'-' | b'_' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z')) => {
                    // What is decoded must not make an escape of it that nobody has looked at (`%%32e`).
                    if let Some(percent) = loose
                        && decoded.len().saturating_sub(percent) <= 2
                    {
                        decoded.insert_str(percent.saturating_add(1), "25");
                        loose = None;
                    }
                    decoded.push(char::from(value));
                    bytes.nth(1);
                }
                Some(_) => decoded.push('%'),
                None => {
                    loose = Some(decoded.len());
                    decoded.push('%');
                }
            },
            b if b.is_ascii_graphic() => decoded.push(char::from(b)),
            _ => return None,
        }
    }
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_in_slash = false;
    for segment in decoded.split('/').skip(1) {
        ends_in_slash = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => _ = segments.pop(),
            segment => segments.push(segment),
        }
    }
    let mut out = String::with_capacity(decoded.len());
    for segment in &segments {
        out.push('/');
        out.push_str(segment);
    }
    if ends_in_slash || out.is_empty() {
        out.push('/');
    }
    Some(out)
}

/// The byte that stands behind a `%`.
fn escaped(mut digits: std::str::Bytes<'_>) -> Option<u8> {
    let mut digit = || char::from(digits.next()?).to_digit(16);
    u8::try_from(digit()? << 4 | digit()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(input: &str, merge: bool, slashes: EscapedSlashes) -> String {
        match normalize(input, true, merge, slashes) {
            Normalized::Path(path) => path.into_owned(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn dot_segments_go_whatever_their_spelling() {
        let keep = EscapedSlashes::KeepUnchanged;
        assert_eq!(path("/a/../b?x=/../y", false, keep), "/b?x=/../y");
        assert_eq!(path("/a/%2e%2E/b/.", false, keep), "/b/");
        assert_eq!(path("/../../etc", false, keep), "/etc");
        assert_eq!(path("/a\\..\\b", false, keep), "/b");
        assert_eq!(path("/a//b", false, keep), "/a//b");
        assert_eq!(path("/a///b", true, keep), "/a/b");
        assert_eq!(path("/%zz/%", false, keep), "/%zz/%");
        assert_eq!(path("/%%32e%%32e/x", false, keep), "/%252e%252e/x");
        assert_eq!(path("/%2%65/%2%35", false, keep), "/%252e/%2525");
        assert_eq!(path("/a%00b", false, keep), "Reject(\"/a%00b\")");
    }

    #[test]
    fn what_is_canonical_already_is_not_copied() {
        for clean in ["/", "/a", "/a/b/", "/a//b", "/a.b/c..", "/a?x=%2e/../", "/~a-b_c!$&'()*+,;=:@"] {
            assert!(matches!(
                normalize(clean, true, true, EscapedSlashes::KeepUnchanged),
                Normalized::Path(path) if matches!(path, Cow::Borrowed(_)) == !clean.contains("//")
            ));
        }
    }

    proptest::proptest! {
        #[test]
        fn what_one_look_takes_for_canonical_is(path in "[/.a%2e5c\\\\ \u{0}é]{0,12}") {
            if is_canonical(&path) {
                proptest::prop_assert_eq!(canonical(&path), Some(path));
            }
        }
    }

    #[test]
    fn escaped_slashes_follow_their_action() {
        assert_eq!(path("/a%5cb?c", false, EscapedSlashes::RejectRequest), "Reject(\"/a\\\\b?c\")");
        assert_eq!(path("/a%2fb", false, EscapedSlashes::UnescapeAndForward), "/a/b");
        assert_eq!(path("/a%5cb", false, EscapedSlashes::UnescapeAndRedirect), "Redirect(\"/a/b\")");
        assert_eq!(path("/a%2fb", false, EscapedSlashes::KeepUnchanged), "/a%2fb");
    }
}
