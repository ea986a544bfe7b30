//! `QueryParameterMatcher` and `CookieMatcher` of `envoy.config.route.v3`.

use outrigger_proto::envoy::config::route::v3 as proto;

use crate::config::report::At;
use crate::matcher::string::StringMatcher;
use crate::message::RequestHead;

/// What a parameter of the query has to look like. Names and values are compared as they are on the wire, not decoded;
/// of several values the first counts.
#[derive(Clone, Debug)]
pub struct QueryParameterMatcher {
    name: Box<str>,
    rule: Rule,
}

#[derive(Clone, Debug)]
enum Rule {
    /// There (`true`), or not.
    Present(bool),
    Value(StringMatcher),
}

impl QueryParameterMatcher {
    /// Reads the message. `None` where it was rejected.
    pub fn convert(message: proto::QueryParameterMatcher, at: &At<'_>) -> Option<QueryParameterMatcher> {
        use proto::query_parameter_matcher::QueryParameterMatchSpecifier as Specifier;
        let proto::QueryParameterMatcher { name, query_parameter_match_specifier } = message;
        if name.is_empty() || name.len() > 1024 {
            at.field("name").reject(&name, "must have 1 to 1024 bytes");
            return None;
        }
        let rule = match query_parameter_match_specifier {
            Some(Specifier::StringMatch(matcher)) => {
                Rule::Value(StringMatcher::convert(matcher, &at.field("string_match"))?)
            }
            Some(Specifier::PresentMatch(present)) => Rule::Present(present),
            None => Rule::Present(true),
        };
        Some(QueryParameterMatcher { name: name.into(), rule })
    }

    /// Whether `query`, what follows `?`, looks like that.
    pub fn matches(&self, query: &[u8]) -> bool {
        let mut pairs = query.split(|byte| *byte == b'&').map(split_pair);
        let value = pairs.find(|(name, _)| *name == self.name.as_bytes()).map(|(_, value)| value);
        match &self.rule {
            Rule::Present(present) => value.is_some() == *present,
            Rule::Value(matcher) => value.is_some_and(|value| matcher.matches(value)),
        }
    }
}

/// What a cookie has to look like.
#[derive(Clone, Debug)]
pub struct CookieMatcher {
    name: Box<str>,
    value: StringMatcher,
    invert: bool,
}

impl CookieMatcher {
    /// Reads the message. `None` where it was rejected.
    pub fn convert(message: proto::CookieMatcher, at: &At<'_>) -> Option<CookieMatcher> {
        let proto::CookieMatcher { name, string_match, invert_match } = message;
        if name.is_empty() || name.len() > 1024 {
            at.field("name").reject(&name, "must have 1 to 1024 bytes");
            return None;
        }
        let Some(matcher) = string_match else {
            at.field("string_match").reject("", "is required");
            return None;
        };
        let value = StringMatcher::convert(matcher, &at.field("string_match"))?;
        Some(CookieMatcher { name: name.into(), value, invert: invert_match })
    }

    /// Whether the request has such a cookie.
    pub fn matches(&self, request: &RequestHead) -> bool {
        let matched = request
            .headers
            .get_all(&http::header::COOKIE)
            .flat_map(|header| header.as_bytes().split(|byte| *byte == b';'))
            .map(|pair| split_pair(pair.trim_ascii()))
            .find(|(name, _)| *name == self.name.as_bytes())
            .is_some_and(|(_, value)| {
                let unquoted = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value);
                self.value.matches(unquoted)
            });
        matched != self.invert
    }
}

fn split_pair(pair: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b'=', pair) {
        Some(at) => (pair.get(..at).unwrap_or_default(), pair.get(at.saturating_add(1)..).unwrap_or_default()),
        None => (pair, &[]),
    }
}
