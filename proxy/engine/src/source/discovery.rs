//! A `DiscoveryResponse` in a file, as YAML or JSON: the resources of one kind, each read by itself.

use outrigger_proto::prost::{Message, Name};
use prost_types::Any;

use super::encode::{Encoder, Names};
use super::schema::Schema;
use super::tree::{Node, Reader, SyntaxError, Value};
use super::{Source, same_name};
use crate::config::any;
use crate::config::report::Report;
use crate::xds::{self, Kind, Rejection, Resource};

/// What a file holds.
#[derive(Debug, Default)]
pub struct DiscoveryFile {
    /// Its `version_info`.
    pub version: String,
    /// The resources that could be read.
    pub resources: Vec<Resource>,
    /// Those that could not; their names where they have one.
    pub unreadable: Vec<Rejection>,
}

/// Reads the resources of `kind`. An error says why the text is no `DiscoveryResponse`.
pub fn read_discovery(source: &Source<'_>, kind: Kind) -> Result<DiscoveryFile, String> {
    let place = |error: SyntaxError| {
        format!("{}:{}:{}: {}", source.name, error.position.line, error.position.column, error.reason)
    };
    let root = Reader::tree(source.text).map_err(place)?;
    let Value::Map(map) = root.value() else {
        return Err(format!("{}: a DiscoveryResponse is a mapping", source.name));
    };
    let field = |name: &str| map.iter().find(|(key, _)| same_name(&key.text, name)).map(|(_, node)| node);
    let version = field("version_info").map(|node| node.display().to_owned()).unwrap_or_default();
    let resources = match field("resources").map(Node::value) {
        Some(Value::List(nodes)) => nodes.as_slice(),
        None => &[],
        Some(_) => return Err(format!("{}: resources: must be a list", source.name)),
    };
    let schema = Schema::new(outrigger_proto::DESCRIPTORS);
    let encoder = Encoder { schema: &schema, source: &source.name, json: source.is_json(), names: Names::Proto };
    let mut file = DiscoveryFile::default();
    for (index, node) in resources.iter().enumerate() {
        let report = Report::new();
        let root = report.root();
        let list = root.field("resources");
        let at = list.index(index);
        let mut bytes = Vec::new();
        encoder.message_named(node, &Any::full_name(), &at, &mut bytes);
        if !report.is_rejected() {
            match Any::decode(bytes.as_slice()) {
                Ok(message) if kind.type_url().ends_with(any::type_name(&message)) => {
                    let name = xds::name_of(&message.value).unwrap_or_default();
                    file.resources.push(Resource { name, version: version.clone(), body: message.value.into() });
                    continue;
                }
                Ok(message) => at.field("@type").reject(message.type_url, format_args!("must be {}", kind.type_url())),
                Err(error) => at.reject("", error),
            }
        }
        let reasons = report.into_parts().0.iter().map(ToString::to_string).collect();
        file.unreadable.push(Rejection { name: name_of(node), reasons });
    }
    file.version = version;
    Ok(file)
}

/// The name that a resource has in the text.
fn name_of(node: &Node<'_>) -> String {
    let Value::Map(map) = node.value() else { return String::new() };
    let name = map.iter().find(|(key, _)| same_name(&key.text, "name") || same_name(&key.text, "cluster_name"));
    name.map(|(_, node)| node.display().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_that_cannot_be_read_does_not_take_the_others_with_it() {
        let text = r#"
version_info: "7"
resources:
- "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
  name: good
  connect_timeout: 1s
- { "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: bad, connect_timeoutt: 1s }
- { "@type": type.googleapis.com/envoy.config.listener.v3.Listener, name: other }
"#;
        let file = read_discovery(&Source::new("cds.yaml", text), Kind::Cluster).unwrap();
        let [good] = &file.resources[..] else { panic!("{file:?}") };
        assert_eq!((good.name.as_str(), good.version.as_str()), ("good", "7"));
        let [bad, other] = &file.unreadable[..] else { panic!("{file:?}") };
        assert_eq!((bad.name.as_str(), other.name.as_str()), ("bad", "other"));
        assert!(bad.reasons[0].contains("cds.yaml:7") && bad.reasons[0].contains("connect_timeoutt"), "{bad:?}");
        assert!(other.reasons[0].contains("must be"), "{other:?}");
    }

    #[test]
    fn what_is_no_discovery_response_is_an_error() {
        assert!(read_discovery(&Source::new("x", "[1, 2]"), Kind::Cluster).is_err());
        assert!(read_discovery(&Source::new("x", "resources: {"), Kind::Cluster).is_err());
        assert!(read_discovery(&Source::new("x", "{}"), Kind::Cluster).unwrap().resources.is_empty());
    }
}
