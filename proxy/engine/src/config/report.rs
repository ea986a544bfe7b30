//! Where conversions say what they did with each field: nothing of a configuration is dropped in silence.
//!
//! A conversion gets an [`At`], which knows the path to the message at hand, and makes one for each field that it
//! enters. What is wrong is *rejected* with path, value and reason, and the conversion goes on, so that one look at a
//! configuration names every fault. What has no effect here is noted as *harmless*. Every other field that is set
//! counts as used.

use std::cell::RefCell;
use std::fmt::{self, Display, Write as _};
use std::ops::Range;
use std::sync::Arc;

/// A place in a text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// The file's name as it was given, or the option (`--config-yaml`).
    pub source: Arc<str>,
    /// Counted from 1.
    pub line: u32,
    /// In characters, counted from 1.
    pub column: u32,
}

impl Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.source, self.line, self.column)
    }
}

/// A fault: the resource is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `static_resources.clusters[3].connect_timeout`; empty for the message as a whole.
    pub path: String,
    /// The offending value as it was written, shortened to 120 characters; empty where there is none.
    pub value: String,
    /// What is wrong with it, and what would be right.
    pub reason: String,
    /// Where it stands, if it came from a text.
    pub location: Option<Location>,
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(f, "{location}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        if !self.value.is_empty() {
            write!(f, "{}: ", self.value)?;
        }
        f.write_str(&self.reason)
    }
}

/// A field that is set and has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Harmless {
    /// The path to the field.
    pub path: String,
    /// Why nobody misses its effect.
    pub reason: &'static str,
}

/// All that conversions have said.
#[derive(Debug, Default)]
pub struct Report {
    problems: RefCell<Vec<Problem>>,
    harmless: RefCell<Vec<Harmless>>,
}

impl Report {
    /// An empty report.
    pub fn new() -> Self {
        Self::default()
    }

    /// The place that stands for the whole message.
    pub fn root(&self) -> At<'_> {
        At { report: self, parent: None, segment: Segment::Root }
    }

    /// Whether something was rejected.
    pub fn is_rejected(&self) -> bool {
        !self.problems.borrow().is_empty()
    }

    /// The problems so far, in the order in which they were found.
    pub fn into_parts(self) -> (Vec<Problem>, Vec<Harmless>) {
        (self.problems.into_inner(), self.harmless.into_inner())
    }

    /// How many problems there are.
    pub fn problem_count(&self) -> usize {
        self.problems.borrow().len()
    }

    /// Drops, of the problems after `faults`, those that faults of form in the same part of the bootstrap may have
    /// caused: a field that could not be read looks as if it were missing. That a field is not in this version is true
    /// in any case.
    pub(crate) fn drop_consequences(&self, faults: Range<usize>) {
        let mut problems = self.problems.borrow_mut();
        let end = faults.end.min(problems.len());
        let after = problems.split_off(end);
        let part = |problem: &Problem| problem.path.split(['.', '[']).next().unwrap_or_default().to_owned();
        let faulty: Vec<String> = problems.get(faults).unwrap_or_default().iter().map(part).collect();
        let is_own =
            |problem: &Problem| !faulty.contains(&part(problem)) || problem.reason.starts_with(NOT_IN_THIS_VERSION);
        problems.extend(after.into_iter().filter(is_own));
    }
}

/// How the reason starts where a field or a value of Envoy's is not here yet.
pub const NOT_IN_THIS_VERSION: &str = "not in this version";

#[derive(Clone, Copy, Debug)]
enum Segment<'a> {
    Root,
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

/// A place in the configuration. Cheap: the path is written out only when something is said.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    report: &'a Report,
    parent: Option<&'a At<'a>>,
    segment: Segment<'a>,
}

impl<'a> At<'a> {
    /// The field `name` (as the .proto file spells it) of the message here.
    pub fn field<'b>(&'b self, name: &'b str) -> At<'b> {
        At { report: self.report, parent: Some(self), segment: Segment::Field(name) }
    }

    /// Element `index` of the list here.
    pub fn index(&self, index: usize) -> At<'_> {
        At { report: self.report, parent: Some(self), segment: Segment::Index(index) }
    }

    /// Entry `key` of the map here.
    pub fn key<'b>(&'b self, key: &'b str) -> At<'b> {
        At { report: self.report, parent: Some(self), segment: Segment::Key(key) }
    }

    /// The value here is wrong: `value` as it was written (it may be empty), and the reason.
    pub fn reject(&self, value: impl Display, reason: impl Display) {
        self.reject_at(None, value, reason);
    }

    /// As [`At::reject`], where the place in the text is known.
    pub fn reject_at(&self, location: Option<Location>, value: impl Display, reason: impl Display) {
        let mut value = value.to_string();
        if let Some((cut, _)) = value.char_indices().nth(120) {
            value.truncate(cut);
            value.push('…');
        }
        let problem = Problem { path: self.path(), value, reason: reason.to_string(), location };
        self.report.problems.borrow_mut().push(problem);
    }

    /// The field here is set and has no effect.
    pub fn harmless(&self, reason: &'static str) {
        self.report.harmless.borrow_mut().push(Harmless { path: self.path(), reason });
    }

    /// How many problems there are by now: a conversion that must not go on with a faulty part compares two counts.
    pub fn problem_count(&self) -> usize {
        self.report.problem_count()
    }

    /// `static_resources.clusters[3].name`, `metadata.filter_metadata["x"]`.
    pub fn path(&self) -> String {
        let mut path = String::new();
        self.write_path(&mut path);
        path
    }

    fn write_path(&self, path: &mut String) {
        if let Some(parent) = self.parent {
            parent.write_path(path);
        }
        match self.segment {
            Segment::Root => {}
            Segment::Field(name) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(name);
            }
            // Writing to a String cannot fail.
            Segment::Index(index) => _ = write!(path, "[{index}]"),
            Segment::Key(key) => _ = write!(path, "[{key:?}]"),
        }
    }
}

/// A value that may stand for "not set": what protobuf's defaults are.
pub trait IsSet {
    /// Whether the field is there.
    fn is_set(&self) -> bool;
}

impl<T> IsSet for Option<T> {
    fn is_set(&self) -> bool {
        self.is_some()
    }
}

impl<T> IsSet for Vec<T> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl<K, V> IsSet for std::collections::BTreeMap<K, V> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl IsSet for String {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl IsSet for bool {
    fn is_set(&self) -> bool {
        *self
    }
}

impl IsSet for u32 {
    fn is_set(&self) -> bool {
        *self != 0
    }
}

impl IsSet for i32 {
    fn is_set(&self) -> bool {
        *self != 0
    }
}

impl IsSet for u64 {
    fn is_set(&self) -> bool {
        *self != 0
    }
}

impl IsSet for f64 {
    fn is_set(&self) -> bool {
        *self != 0.0
    }
}

/// `unsupported!(at; hedge_policy, metadata_match = "why")`: each field is rejected if it is set.
#[macro_export]
macro_rules! unsupported {
    ($at:expr; $($field:ident $(= $reason:literal)?),+ $(,)?) => {$(
        if $crate::config::report::IsSet::is_set(&$field) {
            #[allow(unused_mut, unused_assignments, reason = "the reason is optional")]
            let mut reason = "not in this version";
            $(reason = concat!("not in this version: ", $reason);)?
            $at.field(stringify!($field).trim_start_matches("r#")).reject("", reason);
        }
    )+};
}

/// `harmless!(at; stat_prefix = "why")`: each field is noted as without effect if it is set.
#[macro_export]
macro_rules! harmless {
    ($at:expr; $($field:ident = $reason:literal),+ $(,)?) => {$(
        if $crate::config::report::IsSet::is_set(&$field) {
            $at.field(stringify!($field).trim_start_matches("r#")).harmless($reason);
        }
    )+};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_path_value_and_reason() {
        let report = Report::new();
        let root = report.root();
        let resources = root.field("static_resources");
        let clusters = resources.field("clusters");
        clusters.index(3).field("connect_timeout").reject("0s", "must be greater than 0s");
        let retry = Some(1);
        let name = String::new();
        unsupported!(clusters.index(0); retry = "comes with hedging", name);
        harmless!(root; retry = "no effect");
        let (problems, harmless) = report.into_parts();
        assert_eq!(
            problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "static_resources.clusters[3].connect_timeout: 0s: must be greater than 0s",
                "static_resources.clusters[0].retry: not in this version: comes with hedging",
            ]
        );
        assert_eq!(harmless[0].path, "retry");
    }
}
