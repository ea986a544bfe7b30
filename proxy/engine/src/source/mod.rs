//! Text -> message: bootstrap files and the control plane's objects, in YAML or JSON.
//!
//! Whoever writes a configuration by hand wants every fault at once, each with its place. So the text becomes a tree
//! that knows lines and columns, and one walk beside the descriptors finds every fault of form. Listeners, clusters and
//! secrets are handed over one at a time, so that a large file never stands in memory as tree and messages together.

mod discovery;
mod document;
mod encode;
mod locate;
mod nearest;
mod scalar;
mod schema;
mod tree;
mod verdict;

use std::ops::Range;
use std::sync::Arc;

use outrigger_proto::envoy::config::bootstrap::v3::Bootstrap;
use outrigger_proto::envoy::config::cluster::v3::Cluster;
use outrigger_proto::envoy::config::listener::v3::Listener;
use outrigger_proto::envoy::extensions::transport_sockets::tls::v3::Secret;
use outrigger_proto::prost::{Message, Name};

pub use self::discovery::{DiscoveryFile, read_discovery};
pub use self::document::{Document, documents};
use self::encode::{Encoder, Names};
pub use self::locate::Locator;
pub use self::nearest::nearest;
pub(crate) use self::scalar::base64;
pub use self::schema::Schema;
use self::tree::{Key, Map, Node, Reader, Step, SyntaxError, Value};
pub use self::verdict::{FieldVerdict, Verdict, verdicts};
use crate::config::report::{At, Problem, Report};

/// A text that configures the process. Where there are several, each is merged over those before it as protobuf
/// merges messages: a scalar replaces, a list is appended to.
#[derive(Clone, Debug)]
pub struct Source<'t> {
    /// The file's name as it was given, or the option that held the text.
    pub name: Arc<str>,
    /// YAML or JSON.
    pub text: &'t str,
}

impl<'t> Source<'t> {
    /// A text with its name.
    pub fn new(name: &str, text: &'t str) -> Self {
        Source { name: Arc::from(name), text }
    }

    /// Whether it was written as JSON. Both are read alike, except for what an unquoted fraction is.
    fn is_json(&self) -> bool {
        self.text.trim_start().starts_with('{')
    }
}

/// An element of `static_resources`.
#[derive(Debug)]
pub(crate) enum Element {
    Listener(Box<Listener>),
    Cluster(Box<Cluster>),
    Secret,
}

/// A bootstrap without the lists of its `static_resources`.
pub(crate) struct Rest {
    pub(crate) message: Bootstrap,
    /// Which problems are faults of form in it: see [`Report::drop_consequences`].
    pub(crate) faults: Range<usize>,
}

/// Reads a bootstrap. Each element of `static_resources` goes to `each` with its place; `None` if a text is not YAML.
pub(crate) fn read_bootstrap(
    sources: &[Source<'_>],
    report: &Report,
    each: &mut dyn FnMut(Element, &At<'_>),
) -> Option<Rest> {
    let schema = Schema::new(outrigger_proto::DESCRIPTORS);
    let mut bytes = Vec::new();
    let mut counts = [0; 3];
    let mut faults: Option<Range<usize>> = None;
    for source in sources {
        let encoder = Encoder { schema: &schema, source: &source.name, json: source.is_json(), names: Names::Proto };
        let mut reader = BootstrapReader { encoder, report, each, counts };
        match reader.read(source.text, &mut bytes) {
            Ok(range) => faults = Some(faults.map_or(range.start, |earlier| earlier.start)..range.end),
            Err(SyntaxError { position, reason }) => {
                let location = reader.encoder.location(position);
                report.root().reject_at(location, "", format_args!("this is not YAML: {reason}"));
                return None;
            }
        }
        counts = reader.counts;
    }
    let end = report.problem_count();
    Some(Rest { message: decode(&bytes, &report.root())?, faults: faults.unwrap_or(end..end) })
}

/// The whole bootstrap as one message, for whoever shows it (`/config_dump`): nothing is converted or checked further.
pub fn bootstrap_message(sources: &[Source<'_>]) -> Result<Bootstrap, Vec<Problem>> {
    let report = Report::new();
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    let rest = read_bootstrap(sources, &report, &mut |element, _| match element {
        Element::Listener(listener) => listeners.push(*listener),
        Element::Cluster(cluster) => clusters.push(*cluster),
        Element::Secret => {}
    });
    match rest {
        Some(rest) if !report.is_rejected() => {
            let mut message = rest.message;
            let resources = message.static_resources.get_or_insert_default();
            resources.listeners = listeners;
            resources.clusters = clusters;
            Ok(message)
        }
        _ => Err(report.into_parts().0),
    }
}

fn decode<M: Message + Default>(bytes: &[u8], at: &At<'_>) -> Option<M> {
    M::decode(bytes).map_err(|error| at.reject("", format_args!("cannot be decoded: {error}"))).ok()
}

/// The lists of `static_resources` that are read by the element.
const STREAMED: [&str; 3] = ["listeners", "clusters", "secrets"];

struct BootstrapReader<'a, 'e> {
    encoder: Encoder<'a>,
    report: &'a Report,
    each: &'e mut dyn FnMut(Element, &At<'_>),
    /// Elements so far, of each list.
    counts: [usize; 3],
}

impl BootstrapReader<'_, '_> {
    /// Appends the encoded rest to `bytes`; says which problems are faults of its form.
    fn read(&mut self, text: &str, bytes: &mut Vec<u8>) -> Result<Range<usize>, SyntaxError> {
        let mut reader = Reader::new(text)?;
        let root = match reader.step()? {
            Step::MapStart(position) => {
                let mut map = Map::new();
                while let Some(key) = reader.key()? {
                    let node = if is(&key, "static_resources") {
                        self.static_resources(&mut reader)?
                    } else {
                        reader.node()?
                    };
                    map.push((key, node));
                }
                tree::merge(&mut map);
                Node::new(position, Value::Map(map))
            }
            Step::ListStart(position) => {
                return Err(SyntaxError { position, reason: "a bootstrap is a mapping, not a list".to_owned() });
            }
            Step::Node(node) => node,
        };
        reader.end()?;
        if root.is_null() {
            // Envoy refuses it too: a file that was truncated is not a bootstrap without listeners.
            return Err(SyntaxError { position: root.position, reason: "there is nothing in it".to_owned() });
        }
        let before = self.report.problem_count();
        self.encoder.message_named(&root, &Bootstrap::full_name(), &self.report.root(), bytes);
        Ok(before..self.report.problem_count())
    }

    fn static_resources<'t>(&mut self, reader: &mut Reader<'t>) -> Result<Node<'t>, SyntaxError> {
        match reader.step()? {
            Step::MapStart(position) => {
                let mut map = Map::new();
                while let Some(key) = reader.key()? {
                    let node = match STREAMED.iter().position(|name| key.text == *name) {
                        Some(list) => self.elements(list, reader)?,
                        None => reader.node()?,
                    };
                    map.push((key, node));
                }
                tree::merge(&mut map);
                Ok(Node::new(position, Value::Map(map)))
            }
            Step::ListStart(position) => {
                while reader.element()?.is_some() {}
                Ok(Node::new(position, Value::List(Vec::new())))
            }
            Step::Node(node) => Ok(node),
        }
    }

    /// Hands the elements over; what remains is an empty list.
    fn elements<'t>(&mut self, list: usize, reader: &mut Reader<'t>) -> Result<Node<'t>, SyntaxError> {
        match reader.step()? {
            Step::ListStart(position) => {
                while let Some(node) = reader.element()? {
                    self.element(list, &node);
                }
                Ok(Node::new(position, Value::List(Vec::new())))
            }
            Step::MapStart(position) => {
                while reader.key()?.is_some() {
                    reader.node()?;
                }
                Ok(Node::new(position, Value::Map(Map::new())))
            }
            Step::Node(node) => {
                let Value::List(nodes) = node.value() else { return Ok(node) };
                for node in nodes {
                    self.element(list, node);
                }
                Ok(Node::new(node.position, Value::List(Vec::new())))
            }
        }
    }

    fn element(&mut self, list: usize, node: &Node<'_>) {
        let (Some(name), Some(count)) = (STREAMED.get(list), self.counts.get_mut(list)) else { return };
        let index = *count;
        *count = count.saturating_add(1);
        let root = self.report.root();
        let resources = root.field("static_resources");
        let field = resources.field(name);
        let at = field.index(index);
        let before = self.report.problem_count();
        let element = match list {
            0 => self.message(node, &at).map(|message| Element::Listener(Box::new(message))),
            1 => self.message(node, &at).map(|message| Element::Cluster(Box::new(message))),
            _ => self.message::<Secret>(node, &at).map(|_| Element::Secret),
        };
        let faults = before..self.report.problem_count();
        if let Some(element) = element {
            (self.each)(element, &at);
        }
        self.report.drop_consequences(faults);
    }

    /// What could be read of a message.
    fn message<M: Message + Name + Default>(&self, node: &Node<'_>, at: &At<'_>) -> Option<M> {
        let mut bytes = Vec::new();
        self.encoder.message_named(node, &M::full_name(), at, &mut bytes);
        decode(&bytes, at)
    }
}

fn is(key: &Key<'_>, name: &str) -> bool {
    same_name(&key.text, name)
}

/// Whether `key` is the field `name`, as the .proto file spells it or as JSON does.
fn same_name(key: &str, name: &str) -> bool {
    if key == name {
        return true;
    }
    let mut key = key.chars();
    let mut upper = false;
    for c in name.chars() {
        if c == '_' {
            upper = true;
            continue;
        }
        let expected = if upper { c.to_ascii_uppercase() } else { c };
        upper = false;
        if key.next() != Some(expected) {
            return false;
        }
    }
    key.next().is_none()
}
