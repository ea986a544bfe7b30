//! Texts with several documents, of which each says what it is: objects of the control plane as people write them.

use std::sync::Arc;

use super::encode::{Encoder, Names};
use super::tree::{Node, Reader, SyntaxError, Value};
use super::{Locator, Schema, Source};
use crate::config::report::{Location, Problem, Report};

/// One document of a text.
#[derive(Clone, Debug)]
pub struct Document<'t> {
    source: Arc<str>,
    json: bool,
    root: Node<'t>,
}

/// The documents of a text, without the empty ones.
///
/// # Errors
/// Where the text is not YAML.
pub fn documents<'t>(source: &Source<'t>) -> Result<Vec<Document<'t>>, Problem> {
    match Reader::trees(source.text) {
        Ok(roots) => {
            let json = source.is_json();
            let document = |root| Document { source: Arc::clone(&source.name), json, root };
            Ok(roots.into_iter().filter(|root| !root.is_null()).map(document).collect())
        }
        Err(SyntaxError { position, reason }) => {
            let location = Location { source: Arc::clone(&source.name), line: position.line, column: position.column };
            let reason = format!("this is not YAML: {reason}");
            Err(Problem { path: String::new(), value: String::new(), reason, location: Some(location) })
        }
    }
}

impl<'t> Document<'t> {
    /// The text of the scalar `key`, if the document is a mapping that has one.
    pub fn scalar(&self, key: &str) -> Option<&str> {
        match self.value(key)?.value() {
            Value::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }

    /// The elements of the list `key` as documents of their own, if there is one.
    pub fn elements(&self, key: &str) -> Option<Vec<Document<'t>>> {
        let Value::List(list) = self.value(key)?.value() else { return None };
        let document =
            |root: &Node<'t>| Document { source: Arc::clone(&self.source), json: self.json, root: root.clone() };
        Some(list.iter().map(document).collect())
    }

    fn value(&self, key: &str) -> Option<&Node<'t>> {
        let Value::Map(map) = self.root.value() else { return None };
        map.iter().find(|(name, _)| name.text == key).map(|(_, node)| node)
    }

    /// Where the value at `path` stands, or, if it is missing, the nearest value around it.
    pub fn location(&self, path: &str) -> Option<Location> {
        Locator::of(Arc::clone(&self.source), self.root.clone()).location(path)
    }

    /// Writes the document as a `message` (its full name) of `schema` on the wire. Faults of form go to `report`, with
    /// their places, and with names as JSON spells them.
    pub fn encode(&self, schema: &Schema, message: &str, report: &Report) -> Vec<u8> {
        let encoder = Encoder { schema, source: &self.source, json: self.json, names: Names::Json };
        let mut bytes = Vec::new();
        encoder.message_named(&self.root, message, &report.root(), &mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::outrigger::control::v1::{HttpRoute, Service};
    use outrigger_proto::prost::{Message, Name};

    use super::*;

    #[test]
    fn each_document_is_read_as_what_it_says_it_is() {
        let text = "\
# nothing
---
apiVersion: v1
kind: Service
spec: {clusterIP: 10.0.0.1, ports: [{port: 80, targetPort: http}]}
---
kind: List
items: [{kind: HTTPRoute, spec: {rules: [{backendRefs: [{name: a, weight: 0}]}]}}]
...
---
";
        let documents = documents(&Source::new("shop.yaml", text)).unwrap();
        assert_eq!(
            documents.iter().map(|document| document.scalar("kind")).collect::<Vec<_>>(),
            [Some("Service"), Some("List")]
        );
        let (schema, report) = (Schema::new(outrigger_proto::CONTROL_DESCRIPTORS), Report::new());
        let service = documents[0].encode(&schema, &Service::full_name(), &report);
        let service = Service::decode(service.as_slice()).unwrap().spec.unwrap();
        assert_eq!((service.cluster_ip.as_deref(), service.ports[0].port), (Some("10.0.0.1"), Some(80)));
        let route = documents[1].elements("items").unwrap()[0].encode(&schema, &HttpRoute::full_name(), &report);
        let route = HttpRoute::decode(route.as_slice()).unwrap();
        assert_eq!(route.spec.unwrap().rules[0].backend_refs[0].weight, Some(0));
        assert!(!report.is_rejected());
    }

    #[test]
    fn faults_have_lines_and_names_of_json() {
        let text =
            "kind: HTTPRoute\nspec:\n  rules:\n  - backendRef: []\n    backendRefs: [{port: http}]\n    matches: x\n";
        let (schema, report) = (Schema::new(outrigger_proto::CONTROL_DESCRIPTORS), Report::new());
        let documents = documents(&Source::new("r.yaml", text)).unwrap();
        documents[0].encode(&schema, &HttpRoute::full_name(), &report);
        let problems: Vec<String> = report.into_parts().0.iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "r.yaml:4:5: spec.rules[0].backendRef: HTTPRouteRule has no such field; did you mean \"backendRefs\"?",
                "r.yaml:5:26: spec.rules[0].backendRefs[0].port: http: must be an integer, -2147483648 to 2147483647",
                "r.yaml:6:14: spec.rules[0].matches: x: must be a list",
            ]
        );
        assert_eq!(documents[0].location("spec.rules[0].backendRefs[0]").unwrap().to_string(), "r.yaml:5:19");
        assert!(super::documents(&Source::new("r.yaml", "a: [")).unwrap_err().to_string().starts_with("r.yaml:"));
    }
}
