//! `envoy.config.route.v3.HeaderMatcher`, and the names by which matchers and format strings speak of a head's fields.

use std::borrow::Cow;

use http::HeaderName;
use outrigger_proto::envoy::config::route::v3 as proto;

use crate::config::report::At;
use crate::matcher::regex::Regex;
use crate::matcher::string::{Pattern, StringMatcher};
use crate::message::{self, Headers, RequestHead, ResponseHead};
use crate::singular;

/// The name of a field of a head: a header, or one of the pseudo-headers, which are not among the headers here.
/// `:protocol` is none: an extended CONNECT is an upgrade's GET by the time anything asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldName {
    /// `:method`
    Method,
    /// `:scheme`
    Scheme,
    /// `:authority`, `host`
    Authority,
    /// `:path`
    Path,
    /// `:status`
    Status,
    /// A header.
    Header(HeaderName),
}

impl FieldName {
    /// Reads a name, in any case. `None` if it is no name of a field.
    pub fn parse(name: &str) -> Option<FieldName> {
        if let Some(pseudo) = name.strip_prefix(':') {
            return match pseudo.to_ascii_lowercase().as_str() {
                "method" => Some(FieldName::Method),
                "scheme" => Some(FieldName::Scheme),
                "authority" => Some(FieldName::Authority),
                "path" => Some(FieldName::Path),
                "status" => Some(FieldName::Status),
                _ => None,
            };
        }
        message::header_name(name)
            .map(|name| if name == http::header::HOST { FieldName::Authority } else { FieldName::Header(name) })
    }

    /// The name in lower case.
    pub fn as_str(&self) -> &str {
        match self {
            FieldName::Method => ":method",
            FieldName::Scheme => ":scheme",
            FieldName::Authority => ":authority",
            FieldName::Path => ":path",
            FieldName::Status => ":status",
            FieldName::Header(name) => name.as_str(),
        }
    }
}

/// Where a field is looked for.
#[derive(Clone, Copy, Debug)]
pub enum Head<'a> {
    /// In a request.
    Request(&'a RequestHead),
    /// In a response.
    Response(&'a ResponseHead),
    /// In trailers.
    Trailers(&'a Headers),
}

impl<'a> Head<'a> {
    /// The first value of `name`.
    pub fn first(self, name: &FieldName) -> Option<&'a [u8]> {
        match (name, self) {
            (FieldName::Header(name), head) => head.headers().get(name).map(|value| value.as_bytes()),
            (FieldName::Method, Head::Request(head)) => Some(head.method.as_str().as_bytes()),
            (FieldName::Scheme, Head::Request(head)) => Some(head.scheme.as_str().as_bytes()),
            (FieldName::Authority, Head::Request(head)) => head.authority.as_ref().map(|value| value.as_bytes()),
            (FieldName::Path, Head::Request(head)) => (!head.path.is_empty()).then(|| head.path.as_bytes()),
            (FieldName::Status, Head::Response(head)) => Some(status_text(head)),
            _ => None,
        }
    }

    /// All values of `name`, joined with `,`. Allocates only where there are several.
    pub fn joined(self, name: &FieldName) -> Option<Cow<'a, [u8]>> {
        self.join(name, false)
    }

    /// The value of a header that has one field at most: those of further fields joined, without the empty ones.
    pub(crate) fn as_one(self, name: &FieldName) -> Option<Cow<'a, [u8]>> {
        self.join(name, true)
    }

    fn join(self, name: &FieldName, skip_empty: bool) -> Option<Cow<'a, [u8]>> {
        let FieldName::Header(header) = name else {
            return self.first(name).map(Cow::Borrowed);
        };
        let mut joined: Option<Cow<'a, [u8]>> = None;
        for (field, value) in self.headers().iter() {
            if field == header {
                match &mut joined {
                    Some(_) if skip_empty && value.is_empty() => {}
                    Some(all) if !(skip_empty && all.is_empty()) => {
                        let all = all.to_mut();
                        all.push(b',');
                        all.extend_from_slice(value.as_bytes());
                    }
                    _ => joined = Some(Cow::Borrowed(value.as_bytes())),
                }
            }
        }
        joined
    }

    fn headers(self) -> &'a Headers {
        match self {
            Head::Request(head) => &head.headers,
            Head::Response(head) => &head.headers,
            Head::Trailers(headers) => headers,
        }
    }
}

fn status_text(head: &ResponseHead) -> &[u8] {
    head.status.as_str().as_bytes()
}

/// What a header has to look like, or whether it has to be there.
#[derive(Clone, Debug)]
pub struct HeaderMatcher {
    name: FieldName,
    rule: Rule,
    invert: bool,
    missing_is_empty: bool,
    /// Several fields of a request count as one.
    joins_in_request: bool,
    /// Several fields of a response, or of trailers, count as one.
    joins_in_response: bool,
}

#[derive(Clone, Debug)]
enum Rule {
    /// There (`true`), or not.
    Present(bool),
    String(StringMatcher),
    /// A decimal number, start inclusive, end exclusive.
    Range(i64, i64),
}

impl HeaderMatcher {
    /// Reads the message. `None` where it was rejected.
    pub fn convert(message: proto::HeaderMatcher, at: &At<'_>) -> Option<HeaderMatcher> {
        use proto::header_matcher::HeaderMatchSpecifier as Specifier;
        let proto::HeaderMatcher { name, invert_match, treat_missing_header_as_empty, header_match_specifier } =
            message;
        let name = match FieldName::parse(&name) {
            Some(name) => Some(name),
            None => {
                at.field("name").reject(&name, "not a header name");
                None
            }
        };
        let pattern = |field: &'static str, text: String| {
            if text.is_empty() {
                at.field(field).reject("", "must not be empty");
                return None;
            }
            Some(Pattern::new(&text, false))
        };
        let rule = match header_match_specifier {
            None | Some(Specifier::PresentMatch(true)) => Some(Rule::Present(true)),
            Some(Specifier::PresentMatch(false)) => Some(Rule::Present(false)),
            Some(Specifier::StringMatch(matcher)) => {
                StringMatcher::convert(matcher, &at.field("string_match")).map(Rule::String)
            }
            Some(Specifier::RangeMatch(range)) => Some(Rule::Range(range.start, range.end)),
            // The empty text of the deprecated field asks for presence only.
            Some(Specifier::ExactMatch(text)) if text.is_empty() => {
                Some(Rule::String(StringMatcher::Contains(Pattern::new("", false))))
            }
            Some(Specifier::ExactMatch(text)) => Some(Rule::String(StringMatcher::Exact(Pattern::new(&text, false)))),
            Some(Specifier::PrefixMatch(text)) => {
                pattern("prefix_match", text).map(|p| Rule::String(StringMatcher::Prefix(p)))
            }
            Some(Specifier::SuffixMatch(text)) => {
                pattern("suffix_match", text).map(|p| Rule::String(StringMatcher::Suffix(p)))
            }
            Some(Specifier::ContainsMatch(text)) => {
                pattern("contains_match", text).map(|p| Rule::String(StringMatcher::Contains(p)))
            }
            Some(Specifier::SafeRegexMatch(regex)) => Regex::convert(regex, &at.field("safe_regex_match"))
                .map(|regex| Rule::String(StringMatcher::Regex(regex))),
        };
        let name = name?;
        Some(HeaderMatcher {
            joins_in_request: singular::OF_REQUESTS.binary_search(&name.as_str()).is_ok(),
            joins_in_response: singular::OF_RESPONSES.binary_search(&name.as_str()).is_ok(),
            name,
            rule: rule?,
            invert: invert_match,
            missing_is_empty: treat_missing_header_as_empty,
        })
    }

    /// Whether the head looks like that: one of its fields of this name, or, of those headers that have one field at
    /// most, their values joined with `,`. A missing header matches nothing but an absence rule, inverted or not.
    pub fn matches(&self, head: Head<'_>) -> bool {
        let matched = match (&self.name, head) {
            (FieldName::Header(name), head) if !self.joins(head) => {
                let mut missing = true;
                let mut fields = head.headers().iter().filter(|(field, _)| *field == name);
                let one = fields.any(|(_, value)| {
                    missing = false;
                    self.accepts(value.as_bytes())
                });
                (one || !missing).then_some(one)
            }
            (name, head) => head.as_one(name).map(|value| self.accepts(&value)),
        };
        match matched {
            Some(matched) => matched != self.invert,
            None if self.missing_is_empty => self.accepts(b"") != self.invert,
            None => matches!(self.rule, Rule::Present(present) if present == self.invert),
        }
    }

    fn joins(&self, head: Head<'_>) -> bool {
        match head {
            Head::Request(_) => self.joins_in_request,
            Head::Response(_) | Head::Trailers(_) => self.joins_in_response,
        }
    }

    fn accepts(&self, value: &[u8]) -> bool {
        match &self.rule {
            Rule::Present(present) => *present,
            Rule::String(matcher) => matcher.matches(value),
            Rule::Range(start, end) => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.trim().parse::<i64>().ok())
                .is_some_and(|number| (*start..*end).contains(&number)),
        }
    }
}
