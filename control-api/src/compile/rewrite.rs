//! What becomes of a path, in the terms of xDS: the Gateway API replaces elements, xDS replaces text.

use outrigger_proto::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher};

use crate::model::{PathMatch, PathModifier};

/// What becomes of a path.
#[derive(Debug, PartialEq)]
pub(super) enum Rewrite {
    /// The text that the route matched is replaced.
    Prefix(String),
    /// What an expression matches is replaced.
    Regex(RegexMatchAndSubstitute),
    /// All of it is replaced.
    Full(String),
}

/// What `modifier` does where `path` matched; `None` if that is nothing.
pub(super) fn rewrite(path: &PathMatch, modifier: &PathModifier) -> Option<Rewrite> {
    let new = match modifier {
        PathModifier::Full(new) => return Some(Rewrite::Full(new.clone())),
        PathModifier::Prefix(new) => new,
    };
    // Only beside a prefix: the model sees to it.
    let PathMatch::Prefix(old) = path else { return None };
    match (old.as_str(), new.as_str()) {
        ("", "") => None,
        // The root matches as `/`, and that is what is replaced.
        ("", new) => Some(Rewrite::Prefix(format!("{new}/"))),
        // Replaced by text, `/a/b` would become `//b` or nothing at all.
        (old, "") => Some(Rewrite::Regex(regex(format!("^{}/*", regex::escape(old)), "/"))),
        (_, new) => Some(Rewrite::Prefix(new.to_owned())),
    }
}

/// The whole path becomes `new`.
pub(super) fn full(new: &str) -> RegexMatchAndSubstitute {
    regex("^/.*$".to_owned(), &new.replace('\\', r"\\"))
}

fn regex(pattern: String, substitution: &str) -> RegexMatchAndSubstitute {
    RegexMatchAndSubstitute {
        pattern: Some(RegexMatcher { regex: pattern, ..Default::default() }),
        substitution: substitution.to_owned(),
    }
}
