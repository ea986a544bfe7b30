//! `envoy.type.matcher.v3.StringMatcher`.

use memchr::memmem;
use outrigger_proto::envoy::r#type::matcher::v3 as proto;

use crate::config::report::At;
use crate::matcher::regex::Regex;

/// What a string has to look like.
#[derive(Clone, Debug)]
pub enum StringMatcher {
    /// The string itself.
    Exact(Pattern),
    /// Its start.
    Prefix(Pattern),
    /// Its end.
    Suffix(Pattern),
    /// A part of it.
    Contains(Pattern),
    /// All of it.
    Regex(Regex),
}

/// The text of a matcher, and whether the case of ASCII letters counts.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: Box<[u8]>,
    ignore_case: bool,
}

impl Pattern {
    /// A pattern of `text`.
    pub fn new(text: &str, ignore_case: bool) -> Pattern {
        Pattern { text: text.as_bytes().into(), ignore_case }
    }

    fn equals(&self, value: &[u8]) -> bool {
        if self.ignore_case { value.eq_ignore_ascii_case(&self.text) } else { *value == *self.text }
    }

    fn is_in(&self, value: &[u8]) -> bool {
        if !self.ignore_case {
            return memmem::find(value, &self.text).is_some();
        }
        self.text.is_empty() || value.windows(self.text.len()).any(|part| part.eq_ignore_ascii_case(&self.text))
    }
}

impl StringMatcher {
    /// Reads the message. `None` where it was rejected.
    pub fn convert(message: proto::StringMatcher, at: &At<'_>) -> Option<StringMatcher> {
        use proto::string_matcher::MatchPattern;
        let proto::StringMatcher { ignore_case, match_pattern } = message;
        let pattern = |field: &'static str, text: String| {
            if text.is_empty() {
                at.field(field).reject("", "must not be empty");
                return None;
            }
            Some(Pattern::new(&text, ignore_case))
        };
        match match_pattern {
            Some(MatchPattern::Exact(text)) => Some(StringMatcher::Exact(Pattern::new(&text, ignore_case))),
            Some(MatchPattern::Prefix(text)) => pattern("prefix", text).map(StringMatcher::Prefix),
            Some(MatchPattern::Suffix(text)) => pattern("suffix", text).map(StringMatcher::Suffix),
            Some(MatchPattern::Contains(text)) => pattern("contains", text).map(StringMatcher::Contains),
            Some(MatchPattern::SafeRegex(regex)) => {
                if ignore_case {
                    at.field("ignore_case").reject(true, "has no effect on safe_regex: write (?i) in the expression");
                    return None;
                }
                Regex::convert(regex, &at.field("safe_regex")).map(StringMatcher::Regex)
            }
            Some(MatchPattern::Custom(_)) => {
                at.field("custom").reject("", "not in this version");
                None
            }
            None => {
                at.reject("", "one of exact, prefix, suffix, contains, safe_regex is required");
                None
            }
        }
    }

    /// The string itself, where the matcher asks for one.
    pub fn exact(&self) -> Option<&[u8]> {
        match self {
            StringMatcher::Exact(pattern) => Some(&pattern.text),
            _ => None,
        }
    }

    /// Whether `value` looks like that.
    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            StringMatcher::Exact(pattern) => pattern.equals(value),
            StringMatcher::Prefix(pattern) => {
                value.get(..pattern.text.len()).is_some_and(|start| pattern.equals(start))
            }
            StringMatcher::Suffix(pattern) => value
                .len()
                .checked_sub(pattern.text.len())
                .and_then(|from| value.get(from..))
                .is_some_and(|end| pattern.equals(end)),
            StringMatcher::Contains(pattern) => pattern.is_in(value),
            StringMatcher::Regex(regex) => regex.is_match(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_with_and_without_case() {
        let p = |text| Pattern::new(text, false);
        let i = |text| Pattern::new(text, true);
        assert!(StringMatcher::Exact(p("ab")).matches(b"ab") && !StringMatcher::Exact(p("ab")).matches(b"AB"));
        assert!(StringMatcher::Exact(i("ab")).matches(b"AB"));
        assert!(StringMatcher::Prefix(p("ab")).matches(b"abc") && !StringMatcher::Prefix(p("ab")).matches(b"a"));
        assert!(StringMatcher::Prefix(i("ab")).matches(b"ABc"));
        assert!(StringMatcher::Suffix(p("bc")).matches(b"abc") && !StringMatcher::Suffix(p("bc")).matches(b"c"));
        assert!(StringMatcher::Suffix(i("BC")).matches(b"abc"));
        assert!(StringMatcher::Contains(p("b")).matches(b"abc") && !StringMatcher::Contains(p("B")).matches(b"abc"));
        assert!(StringMatcher::Contains(i("BC")).matches(b"abcd") && !StringMatcher::Contains(i("x")).matches(b""));
    }
}
