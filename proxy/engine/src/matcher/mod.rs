//! `envoy.type.matcher.v3` and the matchers of routes: what a header, a query parameter or a path has to look like.
//!
//! Matchers work on bytes: header values need not be UTF-8, and a proxy does not get to be picky.

pub mod header;
pub mod query;
mod re2;
pub mod regex;
pub mod string;

pub use header::{FieldName, Head, HeaderMatcher};
pub use query::{CookieMatcher, QueryParameterMatcher};
pub use regex::{Regex, Substitution};
pub use string::StringMatcher;
