//! What a node says of itself: the metadata that `outrigger bootstrap` writes and the compiler reads.
//!
//! Without interception a proxy cannot know from a connection which Service was meant. So its bootstrap lists, for each
//! Service that its application calls, the address where the application calls it, and for each port of its own, where
//! the application listens. Both lists travel in `node.metadata`, under the key `outrigger`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use outrigger_engine::config::report::{At, Report};
use outrigger_engine::source::nearest;
use outrigger_proto::envoy::config::core::v3::Node;
use outrigger_proto::envoy::config::core::v3::node::UserAgentVersionType;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

use crate::log::BOUNDED;
use crate::model::value::{check, dns_label};
use crate::model::{DEFAULT_NAMESPACE, Name};

const KEY: &str = "outrigger";
const NAMESPACE: &str = "namespace";
const INBOUND: &str = "inbound";
const TO: &str = "to";
const FIELDS: [&str; 3] = [NAMESPACE, INBOUND, TO];

/// How long a text that a client has the control plane keep may be, in bytes: what it says of itself, and names of
/// resources.
pub const LONGEST_TEXT: usize = 1024;
/// How many fields our part of the metadata may have, and entries each of its lists.
const MOST_ENTRIES: usize = 1000;
/// How many faults of the metadata are named, and unknown fields.
const NAMED_FAULTS: usize = 3;

/// What is kept of a node while its streams are open: the rest of what it says of itself may be large, and nothing
/// reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// `node.id`
    pub id: String,
    /// What its bootstrap lists; `None` if that was not made by `outrigger bootstrap`.
    pub config: Option<NodeConfig>,
}

impl Caller {
    /// Takes what is used.
    ///
    /// # Errors
    /// The field that is longer than [`LONGEST_TEXT`] or has too many entries, or what of our metadata cannot be read. The
    /// log names the latter, too.
    pub fn of(node: &Node) -> Result<Caller, String> {
        check_size(node)?;
        // A part that is left out would be missed much later: a proxy without the listener that its application calls.
        let config = NodeConfig::of(node)
            .inspect_err(|reason| tracing::warn!(target: BOUNDED, "a stream of {} is refused: {reason}", node.id))?;
        if let Some(unknown) = unknown(node) {
            tracing::warn!(target: BOUNDED, "what {} says beside what this version reads is left out: {unknown}", node.id);
        }
        Ok(Caller { id: node.id.clone(), config })
    }
}

/// Whether what is kept of a node is as small as it is to be.
fn check_size(node: &Node) -> Result<(), String> {
    let version = match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(version)) => version,
        _ => "",
    };
    check_text("id", &node.id)?;
    check_text("cluster", &node.cluster)?;
    check_text("user_agent_name", &node.user_agent_name)?;
    check_text("user_agent_version", version)?;
    let own = own(node).and_then(|own| match own {
        Kind::StructValue(own) => Some(&own.fields),
        _ => None,
    });
    if let Some(own) = own
        && own.len() > MOST_ENTRIES
    {
        let count = own.len();
        return Err(format!("node.metadata.{KEY} has {count} fields, and no more than {MOST_ENTRIES} are allowed"));
    }
    for (name, value) in own.into_iter().flatten() {
        check_text(&format!("metadata.{KEY}"), name)?;
        if !FIELDS.contains(&name.as_str()) {
            continue;
        }
        let field = format!("metadata.{KEY}.{name}");
        match &value.kind {
            Some(Kind::StringValue(text)) => check_text(&field, text)?,
            Some(Kind::ListValue(list)) if list.values.len() > MOST_ENTRIES => {
                let count = list.values.len();
                return Err(format!("node.{field} has {count} entries, and no more than {MOST_ENTRIES} are allowed"));
            }
            Some(Kind::ListValue(list)) => {
                for value in &list.values {
                    if let Some(Kind::StringValue(text)) = &value.kind {
                        check_text(&field, text)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_text(field: &str, text: &str) -> Result<(), String> {
    if text.len() <= LONGEST_TEXT {
        return Ok(());
    }
    Err(format!("node.{field} has a text of {} bytes, and no more than {LONGEST_TEXT} are allowed", text.len()))
}

/// Our part of the metadata.
fn own(node: &Node) -> Option<&Kind> {
    field(node.metadata.as_ref()?, KEY)
}

/// The fields of our part that this version does not read: those of a newer `outrigger bootstrap`, which is to find an
/// older control plane that serves it, and those that a hand misspelt.
fn unknown(node: &Node) -> Option<String> {
    let Some(Kind::StructValue(own)) = own(node) else { return None };
    let is_unknown = |name: &&String| !FIELDS.contains(&name.as_str()) && field(own, name).is_some();
    let unknown: Vec<&String> = own.fields.keys().filter(is_unknown).collect();
    let fault = |name: &&String| {
        let near = nearest(name, FIELDS.into_iter());
        let hint = if near.is_empty() { format!("; there are {}", FIELDS.join(", ")) } else { near };
        format!("node.metadata.{KEY}[{name:?}]: no such field{hint}")
    };
    let named = unknown.iter().take(NAMED_FAULTS).map(fault).collect();
    (!unknown.is_empty()).then(|| first_of(named, unknown.len()))
}

/// The first of so many.
fn first_of(named: Vec<String>, all: usize) -> String {
    match all.saturating_sub(named.len()) {
        0 => named.join("; "),
        more => format!("{}; and {more} more", named.join("; ")),
    }
}

/// The workload behind a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeConfig {
    /// The Service that it is an instance of: `node.cluster`.
    pub service: Name,
    /// Its own ports.
    pub inbound: Vec<Inbound>,
    /// The Services that it calls.
    pub to: Vec<To>,
}

/// `8080=127.0.0.1:9080`: where the proxy listens for callers, and where the application does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Inbound {
    /// The proxy's; on every address of IPv4 where only a port was given.
    pub listen: SocketAddr,
    /// The application's.
    pub application: SocketAddr,
}

/// `[namespace/]service[:port]=127.0.0.1:9101`: a Service, and where the application calls it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct To {
    /// Its namespace, where it is another one.
    pub namespace: Option<String>,
    /// Its name.
    pub service: String,
    /// Its port, by number or name; the first one if absent.
    pub port: Option<String>,
    /// Where the proxy listens for the application.
    pub listen: SocketAddr,
}

impl FromStr for Inbound {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (listen, application) =
            text.split_once('=').ok_or("write PORT=ADDRESS:PORT, as in 8080=127.0.0.1:9080".to_owned())?;
        let listen = match listen.parse::<u16>() {
            Ok(port) => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
            Err(_) => address(listen)?,
        };
        Ok(Inbound { listen, application: address(application)? })
    }
}

impl fmt::Display for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.listen, self.application)
    }
}

impl FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (target, listen) =
            text.split_once('=').ok_or("write SERVICE=ADDRESS:PORT, as in users=127.0.0.1:9101".to_owned())?;
        let (namespace, target) = match target.split_once('/') {
            Some((namespace, target)) => (Some(namespace.to_owned()), target),
            None => (None, target),
        };
        let (service, port) = match target.split_once(':') {
            Some((service, port)) => (service, Some(port.to_owned())),
            None => (target, None),
        };
        let is_empty = |part: Option<&str>| part.is_some_and(str::is_empty);
        if service.is_empty() || is_empty(namespace.as_deref()) || is_empty(port.as_deref()) {
            return Err(format!("{target:?} names no Service: write [NAMESPACE/]SERVICE[:PORT]"));
        }
        Ok(To { namespace, service: service.to_owned(), port, listen: address(listen)? })
    }
}

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.service)?;
        if let Some(port) = &self.port {
            write!(f, ":{port}")?;
        }
        write!(f, "={}", self.listen)
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an address and a port, as in 127.0.0.1:9080"))
}

/// An entry that cannot stand with the others, by its place in its list, and why.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Clash {
    /// Of those of its own ports.
    Inbound(usize, String),
    /// Of those of the Services that it calls.
    To(usize, String),
}

/// The first entry whose address is no address of its own: each listener has one, beside the `admin`'s, and none is what
/// it forwards to.
pub(crate) fn clash(inbound: &[Inbound], to: &[To], admin: Option<SocketAddr>) -> Option<Clash> {
    // By port, since there may be a thousand of each.
    let mut seen: BTreeMap<u16, Vec<SocketAddr>> = BTreeMap::new();
    seen.extend(admin.map(|admin| (admin.port(), vec![admin])));
    let mut listen = |address: SocketAddr| {
        let there = seen.entry(address.port()).or_default();
        if address.port() == 0 {
            return Some("a port must be 1 to 65535".to_owned());
        }
        let reason = there.iter().find(|other| overlap(**other, address)).map(|other| {
            let both = if *other == address { String::new() } else { format!(", by {other} too") };
            format!("{address} is listened on twice{both}: each listener, the admin's too, needs an address of its own")
        });
        there.push(address);
        reason
    };
    for (place, inbound) in inbound.iter().enumerate() {
        if let Some(reason) = listen(inbound.listen) {
            return Some(Clash::Inbound(place, reason));
        }
    }
    for (place, to) in to.iter().enumerate() {
        if let Some(reason) = listen(to.listen) {
            return Some(Clash::To(place, reason));
        }
    }
    inbound.iter().enumerate().find_map(|(place, inbound)| {
        let application = inbound.application;
        if application.port() == 0 {
            return Some(Clash::Inbound(place, "a port must be 1 to 65535".to_owned()));
        }
        let own = seen.get(&application.port())?.iter().find(|own| overlap(**own, application))?;
        let reason = format!(
            "the proxy itself listens on {own}, so requests to {application} would come back to it: let the application \
             listen on another port"
        );
        Some(Clash::Inbound(place, reason))
    })
}

/// Whether one of two addresses of one port takes what is for the other.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let every = |address: SocketAddr| address.ip().is_unspecified();
    one.is_ipv4() == other.is_ipv4() && (one.ip() == other.ip() || every(one) || every(other))
}

impl NodeConfig {
    /// Reads what a node says; `None` if it says nothing, as other xDS clients do.
    ///
    /// # Errors
    /// What cannot be read, with the path of each field.
    pub fn of(node: &Node) -> Result<Option<NodeConfig>, String> {
        let Some(own) = own(node) else { return Ok(None) };
        let report = Report::new();
        let root = report.root();
        let at = root.field("node");
        let config = Self::read(&node.cluster, own, &at.field("metadata").field(KEY));
        let faults = report.into_parts().0;
        if faults.is_empty() {
            return Ok(Some(config));
        }
        Err(first_of(faults.iter().take(NAMED_FAULTS).map(ToString::to_string).collect(), faults.len()))
    }

    fn read(service: &str, own: &Kind, at: &At<'_>) -> NodeConfig {
        let none = Struct::default();
        let own = match own {
            Kind::StructValue(own) => own,
            _ => {
                at.reject("", "must be a map, as `outrigger bootstrap` writes it");
                &none
            }
        };
        let namespace = match field(own, NAMESPACE) {
            None => DEFAULT_NAMESPACE,
            Some(Kind::StringValue(namespace)) => {
                check(&at.field(NAMESPACE), namespace, dns_label);
                namespace
            }
            Some(_) => {
                at.field(NAMESPACE).reject("", "must be a string");
                DEFAULT_NAMESPACE
            }
        };
        let service = Name::new(namespace, service);
        let (inbound, to) = (list::<Inbound>(own, INBOUND, at), list::<To>(own, TO, at));
        // Where all could be read, so that places are those in the lists.
        if at.problem_count() == 0 {
            match clash(&inbound, &to, None) {
                Some(Clash::Inbound(place, reason)) => at.field(INBOUND).index(place).reject("", reason),
                Some(Clash::To(place, reason)) => at.field(TO).index(place).reject("", reason),
                None => {}
            }
        }
        NodeConfig { service, inbound, to }
    }

    /// What goes into `node.metadata`.
    pub fn metadata(&self) -> Struct {
        let text = |text: String| Value { kind: Some(Kind::StringValue(text)) };
        let list = |values: Vec<String>| Value {
            kind: Some(Kind::ListValue(ListValue { values: values.into_iter().map(text).collect() })),
        };
        let own = Struct {
            fields: [
                (NAMESPACE.to_owned(), text(self.service.namespace.to_string())),
                (INBOUND.to_owned(), list(self.inbound.iter().map(Inbound::to_string).collect())),
                (TO.to_owned(), list(self.to.iter().map(To::to_string).collect())),
            ]
            .into(),
        };
        Struct { fields: [(KEY.to_owned(), Value { kind: Some(Kind::StructValue(own)) })].into() }
    }
}

/// A field, unless it is absent or null.
fn field<'s>(own: &'s Struct, name: &str) -> Option<&'s Kind> {
    own.fields.get(name)?.kind.as_ref().filter(|kind| !matches!(kind, Kind::NullValue(_)))
}

fn list<T: FromStr<Err = String>>(own: &Struct, name: &str, at: &At<'_>) -> Vec<T> {
    let at = at.field(name);
    let list = match field(own, name) {
        None => return Vec::new(),
        Some(Kind::ListValue(list)) => list,
        Some(_) => {
            at.reject("", "must be a list of strings");
            return Vec::new();
        }
    };
    let mut found = Vec::new();
    for (place, value) in list.values.iter().enumerate() {
        let text = match &value.kind {
            Some(Kind::StringValue(text)) => text,
            _ => {
                at.index(place).reject("", "must be a string");
                continue;
            }
        };
        match text.parse() {
            Ok(value) => found.push(value),
            Err(reason) => at.index(place).reject(text, reason),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::Heard;

    #[test]
    fn both_lists_are_read_as_they_were_written() {
        for (text, canonical) in
            [("8080=127.0.0.1:9080", "0.0.0.0:8080=127.0.0.1:9080"), ("[::1]:80=[::1]:90", "[::1]:80=[::1]:90")]
        {
            assert_eq!(text.parse::<Inbound>().unwrap().to_string(), canonical);
        }
        for text in ["users=127.0.0.1:9101", "shop/users:http=127.0.0.1:9101", "users:80=[::1]:9101"] {
            assert_eq!(text.parse::<To>().unwrap().to_string(), text);
        }
        for text in ["", "8080", "8080=9080", "x=127.0.0.1:1", "8080=localhost:1"] {
            assert!(text.parse::<Inbound>().is_err(), "{text}");
        }
        for text in ["", "users", "users=9101", "=127.0.0.1:1", "/users=127.0.0.1:1", "users:=127.0.0.1:1"] {
            assert!(text.parse::<To>().is_err(), "{text}");
        }
    }

    #[test]
    fn metadata_holds_all_of_it() {
        let config = NodeConfig {
            service: Name::new("shop", "orders"),
            inbound: vec!["8080=127.0.0.1:9080".parse().unwrap()],
            to: vec!["users=127.0.0.1:9101".parse().unwrap()],
        };
        let node = Node { cluster: "orders".to_owned(), metadata: Some(config.metadata()), ..Default::default() };
        assert_eq!(NodeConfig::of(&node), Ok(Some(config)));
        assert_eq!(NodeConfig::of(&Node::default()), Ok(None));
    }

    #[test]
    fn a_node_is_kept_only_if_it_is_small() {
        let config = NodeConfig {
            service: Name::new("shop", "orders"),
            inbound: (1..=MOST_ENTRIES).map(|port| format!("{port}=127.0.0.1:9080").parse().unwrap()).collect(),
            to: Vec::new(),
        };
        let node = |config: &NodeConfig| Node { metadata: Some(config.metadata()), ..Node::default() };
        assert_eq!(Caller::of(&node(&config)).unwrap().config.unwrap().inbound.len(), MOST_ENTRIES);

        let long = || "x".repeat(LONGEST_TEXT + 1);
        let mut many = config.clone();
        many.inbound.push("8080=127.0.0.1:9080".parse().unwrap());
        let to = format!("{}=127.0.0.1:1", long()).parse().unwrap();
        let version = Some(UserAgentVersionType::UserAgentVersion(long()));
        for (node, field) in [
            (Node { id: long(), ..Node::default() }, "node.id "),
            (Node { cluster: long(), ..Node::default() }, "node.cluster "),
            (Node { user_agent_name: long(), ..Node::default() }, "node.user_agent_name "),
            (Node { user_agent_version_type: version, ..Node::default() }, "node.user_agent_version "),
            (node(&many), "node.metadata.outrigger.inbound has 1001 entries"),
            (node(&NodeConfig { to: vec![to], ..config.clone() }), "node.metadata.outrigger.to "),
            (
                node(&NodeConfig { service: Name::new(&long(), "orders"), ..config }),
                "node.metadata.outrigger.namespace ",
            ),
        ] {
            let refused = Caller::of(&node).unwrap_err();
            assert!(refused.starts_with(field), "{refused}");
        }
    }

    /// A node with this in its metadata, in JSON.
    fn with_metadata(own: serde_json::Value) -> Node {
        fn value(json: serde_json::Value) -> Value {
            let kind = match json {
                serde_json::Value::Null => Kind::NullValue(0),
                serde_json::Value::String(text) => Kind::StringValue(text),
                serde_json::Value::Array(values) => {
                    Kind::ListValue(ListValue { values: values.into_iter().map(value).collect() })
                }
                serde_json::Value::Object(fields) => Kind::StructValue(Struct {
                    fields: fields.into_iter().map(|(name, json)| (name, value(json))).collect(),
                }),
                other => Kind::NumberValue(other.as_f64().unwrap()),
            };
            Value { kind: Some(kind) }
        }
        let metadata = Some(Struct { fields: [(KEY.to_owned(), value(own))].into() });
        Node { id: "orders-1".to_owned(), cluster: "orders".to_owned(), metadata, ..Node::default() }
    }

    #[test]
    fn what_a_hand_wrote_is_read_or_refused_by_the_name_of_its_field() {
        let read = NodeConfig::of(&with_metadata(json!({"inbound": null, "to": ["users=127.0.0.1:9101"]})));
        let config = read.unwrap().unwrap();
        assert_eq!((config.service.to_string(), config.to.len()), ("default/orders".to_owned(), 1));
        assert_eq!(NodeConfig::of(&with_metadata(json!(null))), Ok(None));
        for (own, expected) in [
            (json!(["users=127.0.0.1:9101"]), ": must be a map, as `outrigger bootstrap` writes it"),
            (json!({"to": "users=127.0.0.1:9101"}), ".to: must be a list of strings"),
            (json!({"inbound": ["8080=127.0.0.1:9080", 8080]}), ".inbound[1]: must be a string"),
            (json!({"to": ["users"]}), ".to[0]: users: write SERVICE=ADDRESS:PORT, as in users=127.0.0.1:9101"),
            (json!({"namespace": 5}), ".namespace: must be a string"),
            (
                json!({"to": ["users:99=127.0.0.1:9101", "users=127.0.0.1:9101"]}),
                ".to[1]: 127.0.0.1:9101 is listened on twice: each listener, the admin's too, needs an address of its own",
            ),
            (json!({"to": ["users=127.0.0.1:0"]}), ".to[0]: a port must be 1 to 65535"),
        ] {
            let refused = NodeConfig::of(&with_metadata(own)).unwrap_err();
            assert_eq!(refused, format!("node.metadata.outrigger{expected}"));
        }
        let refused = NodeConfig::of(&with_metadata(json!({"namespace": "Shop"}))).unwrap_err();
        assert!(refused.starts_with("node.metadata.outrigger.namespace: Shop: must be "), "{refused}");
    }

    #[test]
    fn a_field_is_refused_before_it_is_compared_with_what_there_is_if_there_are_too_many_or_it_is_too_long() {
        let many: serde_json::Map<_, _> = (0..=MOST_ENTRIES).map(|number| (format!("f{number}"), json!([]))).collect();
        let refused = Caller::of(&with_metadata(many.into())).unwrap_err();
        assert_eq!(refused, "node.metadata.outrigger has 1001 fields, and no more than 1000 are allowed");
        let refused = Caller::of(&with_metadata(json!({"x".repeat(LONGEST_TEXT + 1): []}))).unwrap_err();
        assert!(refused.starts_with("node.metadata.outrigger has a text of 1025 bytes"), "{refused}");
    }

    #[test]
    fn a_field_of_a_newer_version_is_left_out_and_the_log_names_it() {
        let listed = vec!["x".repeat(LONGEST_TEXT + 1); MOST_ENTRIES + 1];
        let own =
            json!({"to": ["users=127.0.0.1:9101"], "inbounds": [], "locality": listed, "a": 1, "b": null, "zone": 1});
        let heard = Heard::default();
        let read = tracing::subscriber::with_default(heard.clone(), || Caller::of(&with_metadata(own)));
        assert_eq!(read.unwrap().config.unwrap().to.len(), 1);
        let [line] = heard.lines().try_into().unwrap();
        for part in [
            "orders-1",
            "node.metadata.outrigger[\"a\"]: no such field; there are namespace, inbound, to",
            "node.metadata.outrigger[\"inbounds\"]: no such field; did you mean \"inbound\"?",
            "; and 1 more",
        ] {
            assert!(line.contains(part), "{line}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_one_line_of_the_log() {
        let list = vec!["what\nis it".repeat(50); MOST_ENTRIES];
        let node = with_metadata(json!({"inbound": list, "to": list}));
        let heard = Heard::default();
        let refused = tracing::subscriber::with_default(heard.clone(), || Caller::of(&node)).unwrap_err();
        assert!(refused.ends_with("; and 1997 more") && refused.len() < 1000, "{refused}");
        let [line] = heard.lines().try_into().unwrap();
        assert!(line.contains("orders-1") && line.contains("; and 1997 more") && line.len() < 1200, "{line}");
    }
}
