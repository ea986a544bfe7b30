//! Regular expressions with RE2's syntax, as Envoy reads them: linear time, bounded size.

use std::borrow::Cow;

use ::regex::bytes;
use outrigger_proto::envoy::r#type::matcher::v3 as proto;

use super::re2;
use crate::config::report::At;
use crate::config::value::check_header_text;
use crate::harmless;

/// Bytes that one compiled program may take.
const SIZE_LIMIT: usize = 1 << 20;
/// Bytes of the cache that each thread keeps for one program.
const CACHE_LIMIT: usize = 256 << 10;

/// A regular expression that has to match the whole value.
#[derive(Clone, Debug)]
pub struct Regex(bytes::Regex);

impl Regex {
    /// Reads the message. `None` where it was rejected.
    pub fn convert(message: proto::RegexMatcher, at: &At<'_>) -> Option<Regex> {
        let pattern = pattern(message, at)?;
        Some(Regex(compile(&pattern, true, at)?))
    }

    /// Whether the whole of `value` matches.
    pub fn is_match(&self, value: &[u8]) -> bool {
        self.0.is_match(value)
    }
}

/// `RegexMatchAndSubstitute`: every match in a value is replaced.
#[derive(Clone, Debug)]
pub struct Substitution {
    pattern: bytes::Regex,
    parts: Box<[Part]>,
}

#[derive(Clone, Debug)]
enum Part {
    Literal(Box<[u8]>),
    Group(usize),
}

impl Substitution {
    /// Reads the message. `None` where it was rejected.
    pub fn convert(message: proto::RegexMatchAndSubstitute, at: &At<'_>) -> Option<Substitution> {
        let proto::RegexMatchAndSubstitute { pattern: matcher, substitution } = message;
        let pattern_at = at.field("pattern");
        let Some(matcher) = matcher else {
            pattern_at.reject("", "is required");
            return None;
        };
        let text = pattern(matcher, &pattern_at)?;
        let pattern = compile(&text, false, &pattern_at)?;
        check_header_text(&substitution, &at.field("substitution"));
        match parse(&substitution, pattern.captures_len()) {
            Ok(parts) => Some(Substitution { pattern, parts }),
            Err(reason) => {
                at.field("substitution").reject(&substitution, reason);
                None
            }
        }
    }

    /// `value` with every match replaced; borrowed where nothing matches.
    pub fn replace_all<'v>(&self, value: &'v [u8]) -> Cow<'v, [u8]> {
        self.pattern.replace_all(value, Parts(&self.parts))
    }
}

struct Parts<'a>(&'a [Part]);

impl bytes::Replacer for Parts<'_> {
    fn replace_append(&mut self, captures: &bytes::Captures<'_>, out: &mut Vec<u8>) {
        for part in self.0 {
            match part {
                Part::Literal(text) => out.extend_from_slice(text),
                Part::Group(group) => out.extend_from_slice(captures.get(*group).map_or(&[][..], |m| m.as_bytes())),
            }
        }
    }
}

/// RE2's rewrite syntax: `\0` to `\9` are groups, `\\` is a backslash.
fn parse(substitution: &str, groups: usize) -> Result<Box<[Part]>, String> {
    let mut parts = Vec::new();
    let mut literal = Vec::new();
    let mut bytes = substitution.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            literal.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b'\\') => literal.push(b'\\'),
            Some(digit) if digit.is_ascii_digit() => {
                let group = usize::from(digit & 0xf);
                if group >= groups {
                    return Err(format!(
                        "names group {group}, but the pattern has {} groups",
                        groups.saturating_sub(1)
                    ));
                }
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal).into()));
                }
                parts.push(Part::Group(group));
            }
            _ => return Err("a backslash must be followed by a digit or by another backslash".into()),
        }
    }
    if !literal.is_empty() {
        parts.push(Part::Literal(literal.into()));
    }
    Ok(parts.into())
}

fn pattern(message: proto::RegexMatcher, at: &At<'_>) -> Option<String> {
    let proto::RegexMatcher { regex, engine_type } = message;
    harmless!(at; engine_type = "RE2's syntax is the only one");
    if regex.is_empty() {
        at.field("regex").reject("", "must not be empty");
        return None;
    }
    Some(regex)
}

/// `whole`: it has to match all of a value.
fn compile(pattern: &str, whole: bool, at: &At<'_>) -> Option<bytes::Regex> {
    // RE2's `.` is a character, which matters beside characters and classes that are not ASCII.
    let unicode = !pattern.is_ascii() || pattern.contains(r"\p") || pattern.contains(r"\P") || pattern.contains(r"\x{");
    let built = re2::translate(pattern, unicode).and_then(|translated| {
        let source = if whole { format!("^(?:{translated})$") } else { translated };
        let mut builder = bytes::RegexBuilder::new(&source);
        let built = builder.unicode(unicode).size_limit(SIZE_LIMIT).dfa_size_limit(CACHE_LIMIT).build();
        // The last line of a syntax error says what is wrong; those before draw a picture.
        built.map_err(|error| error.to_string().lines().last().unwrap_or("not a regular expression").to_owned())
    });
    match built {
        Ok(regex) => Some(regex),
        Err(reason) => {
            at.field("regex").reject(pattern, reason);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::report::Report;

    fn regex(pattern: &str) -> Option<Regex> {
        Regex::convert(proto::RegexMatcher { regex: pattern.into(), engine_type: None }, &Report::new().root())
    }

    fn substitution(pattern: &str, substitution: &str) -> Option<Substitution> {
        let pattern = Some(proto::RegexMatcher { regex: pattern.into(), engine_type: None });
        let message = proto::RegexMatchAndSubstitute { pattern, substitution: substitution.into() };
        Substitution::convert(message, &Report::new().root())
    }

    #[test]
    fn matches_the_whole_value() {
        let r = regex("/a|/b+").unwrap();
        assert!(r.is_match(b"/a") && r.is_match(b"/bbb"));
        assert!(!r.is_match(b"/a/") && !r.is_match(b"x/a"));
        assert!(regex(r"\d+").unwrap().is_match(b"42"));
        assert!(!regex(r"\d+").unwrap().is_match("٤٢".as_bytes()));
        assert!(!regex(r"é\d+").unwrap().is_match("é٤٢".as_bytes()));
        assert!(regex("é.").unwrap().is_match("éß".as_bytes()));
    }

    #[test]
    fn refuses_what_is_no_expression_or_too_big() {
        for bad in ["", "a)|(b", "(", "a{1000}{1000}{10}", "(?=look)", "[a&&b]"] {
            assert!(regex(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn what_would_take_long_to_compile_or_much_memory_is_refused_with_the_reason_before_it_does() {
        for (pattern, expected) in [
            (r"(\w{1000}){1000}".to_owned(), "RE2 repeats 1000 times at most"),
            (r"\w{1000}".repeat(1250), "Compiled regex exceeds size limit"),
            ("(a?){1000}".repeat(1000), "Compiled regex exceeds size limit"),
            ("a|".repeat(40_000), "is longer than 65536 bytes"),
            // Seconds, while nothing of it has a size yet.
            (format!("(?i){}", r"\pL".repeat(3333)), "has more than 100 classes"),
            (format!("(?i)é{}", "[^a]".repeat(2500)), "has more than 100 classes"),
            (format!("(?i){}", r"[\pL\PN]".repeat(1250)), "has more than 100 classes"),
        ] {
            let report = Report::new();
            let matcher = proto::RegexMatcher { regex: pattern.clone(), engine_type: None };
            assert!(Regex::convert(matcher, &report.root()).is_none(), "{expected}");
            let [problem] = report.into_parts().0.try_into().unwrap();
            assert_eq!((&*problem.path, problem.value.get(..10)), ("regex", pattern.get(..10)));
            assert!(problem.reason.starts_with(expected), "{problem}");
        }
        assert!(regex(&format!("é{}", "[a-z]".repeat(100))).is_some());
    }

    #[test]
    fn replaces_every_match_with_groups() {
        let s = substitution("/(v[0-9])/([a-z]+)", r"/\2/\1\\").unwrap();
        assert_eq!(&*s.replace_all(b"/v1/abc/v2/def"), br"/abc/v1\/def/v2\");
        assert_eq!(&*s.replace_all(b"/none"), b"/none");
        assert!(substitution("a", r"\1").is_none());
        assert!(substitution("a", r"\x").is_none());
        assert!(substitution("a", r"tail\").is_none());
    }
}
