//! What becomes of every field that a text sets.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::{self, Display};
use std::sync::Arc;

use outrigger_proto::envoy::config::bootstrap::v3::Bootstrap as Message;
use outrigger_proto::prost::Name;

use super::Source;
use super::locate::Locator;
use super::schema::{self, Field, Kind, Schema};
use super::tree::{Map, Node, Value};
use crate::config::bootstrap::Bootstrap;
use crate::config::report::{At, Location, Report};

/// A field and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldVerdict {
    /// Where it stands; `None` for what concerns the text as a whole.
    pub location: Option<Location>,
    /// `static_resources.clusters[0].name`
    pub path: String,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// What becomes of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has its effect.
    Used,
    /// It has no effect, and why nobody misses it.
    Harmless(&'static str),
    /// The bootstrap is refused.
    Rejected {
        /// As it was written; empty where there is no value to show.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Display for FieldVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(f, "{location}: ")?;
        }
        let path = if self.path.is_empty() { "the bootstrap" } else { &self.path };
        match &self.verdict {
            Verdict::Used => write!(f, "used: {path}"),
            Verdict::Harmless(reason) => write!(f, "harmless: {path}: {reason}"),
            Verdict::Rejected { value, reason } if value.is_empty() => write!(f, "rejected: {path}: {reason}"),
            Verdict::Rejected { value, reason } => write!(f, "rejected: {path}: {value}: {reason}"),
        }
    }
}

/// Reads a bootstrap and says what becomes of each field that it sets, in the order of the texts. A message that is
/// rejected or harmless as a whole is one line. `further` looks at a bootstrap that is good so far, as at the files
/// that it names, and rejects what it finds.
pub fn verdicts(sources: &[Source<'_>], further: impl FnOnce(&Bootstrap, &At<'_>)) -> Vec<FieldVerdict> {
    let report = Report::new();
    if let Some(bootstrap) = Bootstrap::read(sources, &report).filter(|_| !report.is_rejected()) {
        further(&bootstrap, &report.root());
    }
    let locator = Locator::new(sources);
    let schema = Schema::new(outrigger_proto::DESCRIPTORS);
    let mut leaves = Leaves { schema: &schema, source: None, elements: HashMap::new(), found: Vec::new() };
    leaves.of(&locator);
    let mut lines = leaves.found;
    let (problems, harmless) = report.into_parts();
    {
        let spoken_of: HashSet<&str> =
            problems.iter().map(|p| p.path.as_str()).chain(harmless.iter().map(|h| h.path.as_str())).collect();
        let sorted: BTreeSet<&str> = spoken_of.iter().copied().collect();
        lines.retain(|line| !is_spoken_of(&line.path, &spoken_of, &sorted));
    }
    for note in harmless {
        let location = locator.location(&note.path);
        lines.push(FieldVerdict { location, path: note.path, verdict: Verdict::Harmless(note.reason) });
    }
    for problem in problems {
        let location = problem.location.or_else(|| locator.location(&problem.path));
        let verdict = Verdict::Rejected { value: problem.value, reason: problem.reason };
        lines.push(FieldVerdict { location, path: problem.path, verdict });
    }
    lines.sort_by_key(|line| line.location.as_ref().map(|at| (locator.rank(&at.source), at.line, at.column)));
    lines
}

/// Whether something was said of the field, of a message around it, or of something inside.
fn is_spoken_of(path: &str, spoken_of: &HashSet<&str>, sorted: &BTreeSet<&str>) -> bool {
    let around = path.match_indices(['.', '[']).filter_map(|(end, _)| path.get(..end));
    if spoken_of.contains(path) || around.into_iter().any(|outer| spoken_of.contains(outer)) {
        return true;
    }
    let first_after = sorted.range(path..).find(|other| **other != path);
    first_after.and_then(|other| other.strip_prefix(path)).is_some_and(|rest| rest.starts_with(['.', '[']))
}

/// Collects the fields that hold no further field.
struct Leaves<'p> {
    schema: &'p Schema,
    source: Option<Arc<str>>,
    /// Elements of each list in the texts so far: lists of several texts stand one behind the other.
    elements: HashMap<String, usize>,
    found: Vec<FieldVerdict>,
}

impl Leaves<'_> {
    fn of(&mut self, locator: &Locator<'_>) {
        let Some(desc) = self.schema.message(&Message::full_name()) else { return };
        for (source, root) in locator.roots() {
            self.source = Some(Arc::clone(source));
            self.message(root, &desc, &mut String::new());
        }
    }

    fn message(&mut self, node: &Node<'_>, desc: &schema::Message, path: &mut String) {
        let Value::Map(map) = node.value() else { return self.leaf(node, path) };
        if desc.name == "google.protobuf.Any" {
            let url = map.iter().find(|(key, _)| key.text == "@type").map(|(_, node)| node.display());
            let inner = url.and_then(|url| self.schema.message(url.rsplit('/').next()?));
            let Some(inner) = inner else { return self.leaf(node, path) };
            return self.fields(node, map, &inner, path);
        }
        if desc.name.starts_with("google.protobuf.") {
            return self.leaf(node, path);
        }
        self.fields(node, map, desc, path);
    }

    fn fields(&mut self, whole: &Node<'_>, map: &Map<'_>, desc: &schema::Message, path: &mut String) {
        if map.iter().all(|(key, _)| key.text == "@type") {
            return self.leaf(whole, path);
        }
        for (key, node) in map {
            let Some(field) = desc.field(&key.text) else { continue };
            let length = path.len();
            if length > 0 {
                path.push('.');
            }
            path.push_str(field.name);
            self.field(node, field, path);
            path.truncate(length);
        }
    }

    fn field(&mut self, node: &Node<'_>, field: &Field, path: &mut String) {
        let length = path.len();
        let Kind::Message(name) = field.kind else { return self.leaf(node, path) };
        let entry = self.schema.map_entry(field);
        match (node.value(), entry) {
            (Value::Map(map), Some(entry)) => {
                let Some(Kind::Message(name)) = entry.field_by_number(2).map(|value| value.kind) else {
                    return self.leaf(node, path);
                };
                for (key, value) in map {
                    path.push_str(&format!("[{:?}]", key.text));
                    self.message_named(value, name, path);
                    path.truncate(length);
                }
            }
            (Value::List(list), None) if field.is_repeated => {
                let before = self.elements.get(path.as_str()).copied().unwrap_or(0);
                self.elements.insert(path.clone(), before.saturating_add(list.len()));
                for (index, element) in (before..).zip(list) {
                    path.push_str(&format!("[{index}]"));
                    self.message_named(element, name, path);
                    path.truncate(length);
                }
            }
            (_, None) if !field.is_repeated => self.message_named(node, name, path),
            _ => self.leaf(node, path),
        }
    }

    fn message_named(&mut self, node: &Node<'_>, name: &str, path: &mut String) {
        match self.schema.message(name) {
            Some(desc) => self.message(node, &desc, path),
            None => self.leaf(node, path),
        }
    }

    fn leaf(&mut self, node: &Node<'_>, path: &str) {
        let Some(source) = &self.source else { return };
        if node.is_null() || path.is_empty() {
            return;
        }
        let position = node.position;
        let location = Location { source: Arc::clone(source), line: position.line, column: position.column };
        self.found.push(FieldVerdict { location: Some(location), path: path.to_owned(), verdict: Verdict::Used });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_that_is_set_has_one_line() {
        let text = "\
admin:
  access_log_path: /dev/null
  allow_paths: [{exact: /ready}]
  address: {socket_address: {address: 127.0.0.1, port_value: 99999}}
node:
  id: x
  metadata: {a: {b: c}}
  locality: {region: here}
  clientFeatures: [a, b]
watchdog: {miss_timeout: 1s, kill_timeout: 2s}
nod: {}
";
        let more =
            "watchdog: {miss_timeout: 3s}\nadmin: {allow_paths: [{exact: /stats}]}\nnode: {client_features: [c]}\n";
        let lines = verdicts(&[Source::new("b.yaml", text), Source::new("more", more)], |_, _| {});
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "b.yaml:2:20: harmless: admin.access_log_path: requests to the admin listener are not logged",
                "b.yaml:4:39: used: admin.address.socket_address.address",
                "b.yaml:4:62: rejected: admin.address.socket_address.port_value: 99999: must be at most 65535",
                "b.yaml:6:7: used: node.id",
                "b.yaml:7:13: used: node.metadata",
                "b.yaml:8:22: used: node.locality.region",
                "b.yaml:9:19: used: node.client_features",
                "b.yaml:11:1: rejected: nod: envoy.config.bootstrap.v3.Bootstrap has no such field; did you mean \"node\"?",
                "more:1:11: harmless: watchdog: there is no watchdog",
                "more:2:22: rejected: admin.allow_paths: not in this version",
                "more:3:25: used: node.client_features",
            ]
        );
    }
}
