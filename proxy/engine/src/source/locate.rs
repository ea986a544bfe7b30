//! From a path back to its place in the text.
//!
//! Conversions know paths, not lines: most of the time nothing is wrong, and a table of all places would cost more than
//! the configuration. When something is wrong, the text is read once more.

use std::sync::Arc;

use super::tree::{Key, Node, Position, Reader, Value};
use super::{Source, same_name};
use crate::config::report::{Location, Problem};

/// The texts as trees.
#[derive(Debug)]
pub struct Locator<'t> {
    roots: Vec<(Arc<str>, Node<'t>)>,
}

impl<'t> Locator<'t> {
    /// Reads the texts; one that is not YAML is left out.
    pub fn new(sources: &[Source<'t>]) -> Self {
        let tree = |source: &Source<'t>| Some((Arc::clone(&source.name), Reader::tree(source.text).ok()?));
        Locator { roots: sources.iter().filter_map(tree).collect() }
    }

    /// One tree of a text.
    pub(super) fn of(source: Arc<str>, root: Node<'t>) -> Self {
        Locator { roots: vec![(source, root)] }
    }

    /// Gives each problem its place, and sorts them by it.
    pub fn locate(&self, problems: &mut [Problem]) {
        for problem in problems.iter_mut().filter(|problem| problem.location.is_none()) {
            problem.location = self.location(&problem.path);
        }
        problems.sort_by_key(|problem| problem.location.as_ref().map(|at| (self.rank(&at.source), at.line, at.column)));
    }

    /// The place of a text among all.
    pub(super) fn rank(&self, source: &str) -> Option<usize> {
        self.roots.iter().position(|(name, _)| **name == *source)
    }

    /// Each text that is YAML, with its name.
    pub(super) fn roots(&self) -> &[(Arc<str>, Node<'t>)] {
        &self.roots
    }

    /// Where the value at `path` stands (its key, if the value starts on a later line), or, if it is missing, the
    /// nearest value around it.
    pub fn location(&self, path: &str) -> Option<Location> {
        let mut here: Vec<Place<'_, 't>> = Vec::with_capacity(self.roots.len());
        here.extend(self.roots.iter().map(|(source, node)| Place { source, node, position: node.position }));
        let mut rest = path;
        while !rest.is_empty() {
            let next = step(&mut rest, &here);
            if next.is_empty() {
                break;
            }
            here = next;
        }
        // A later text wins.
        let Place { source, position, .. } = here.last()?;
        Some(Location { source: Arc::clone(source), line: position.line, column: position.column })
    }
}

#[derive(Clone, Copy)]
struct Place<'a, 't> {
    source: &'a Arc<str>,
    node: &'a Node<'t>,
    position: Position,
}

impl<'a, 't> Place<'a, 't> {
    fn value_of(self, key: &Key<'t>, node: &'a Node<'t>) -> Self {
        let position = if node.position.line > key.position.line { key.position } else { node.position };
        Place { source: self.source, node, position }
    }
}

/// Takes one segment off `rest` and goes there from every node of `here`.
fn step<'a, 't>(rest: &mut &str, here: &[Place<'a, 't>]) -> Vec<Place<'a, 't>> {
    let mut found = Vec::new();
    if let Some(bracket) = rest.strip_prefix('[') {
        if let Some((index, after)) = bracket.split_once(']').filter(|_| !bracket.starts_with('"')) {
            *rest = after;
            // Lists of several texts stand one behind the other.
            let mut index: usize = index.parse().unwrap_or(usize::MAX);
            for place in here {
                let Value::List(list) = place.node.value() else { continue };
                match list.get(index) {
                    Some(node) => {
                        found.push(Place { source: place.source, node, position: node.position });
                        break;
                    }
                    None => index = index.saturating_sub(list.len()),
                }
            }
            return found;
        }
        let mut after = "";
        for place in here {
            let Value::Map(map) = place.node.value() else { continue };
            for (key, value) in map {
                if let Some(tail) = rest.strip_prefix(format!("[{:?}]", key.text).as_str()) {
                    after = tail;
                    found.push(place.value_of(key, value));
                }
            }
        }
        *rest = after;
        return found;
    }
    let path = rest.strip_prefix('.').unwrap_or(rest);
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (name, after) = path.split_at(end);
    *rest = after;
    for place in here {
        let Value::Map(map) = place.node.value() else { continue };
        if let Some((key, value)) = map.iter().find(|(key, _)| same_name(&key.text, name)) {
            found.push(place.value_of(key, value));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_to_its_line_or_to_what_is_around_it() {
        let first =
            Source::new("a.yaml", "admin:\n  accessLogPath: x\nnode:\n  metadata: {a.b: 1}\nlist:\n  - {x: 1}\n");
        let second = Source::new("--config-yaml", "list: [{x: 2}]\n");
        let locator = Locator::new(&[first, second]);
        let at = |path: &str| locator.location(path).map(|location| location.to_string()).unwrap();
        assert_eq!(at("admin.access_log_path"), "a.yaml:2:18");
        assert_eq!(at("admin.address.pipe"), "a.yaml:1:1");
        assert_eq!(at("node.metadata[\"a.b\"]"), "a.yaml:4:19");
        assert_eq!(at("list[0].x"), "a.yaml:6:9");
        assert_eq!(at("list[1].x"), "--config-yaml:1:12");
        assert_eq!(at("list[2].x"), "--config-yaml:1:7");
    }
}
