//! What a node says of itself: the metadata that `outrigger bootstrap` writes and the compiler reads.
//!
//! Without interception a proxy cannot know from a connection which Service was meant. So its bootstrap lists, for each
//! Service that its application calls, the address where the application calls it, and for each port of its own, where
//! the application listens. Both lists travel in `node.metadata`, under the key `outrigger`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use outrigger_proto::envoy::config::core::v3::Node;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};

use crate::model::{DEFAULT_NAMESPACE, Name};

const KEY: &str = "outrigger";

/// What is kept of a node while its streams are open: the rest of what it says of itself may be large, and nothing reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// `node.id`
    pub id: String,
    /// What its bootstrap lists; `None` if that was not made by `outrigger bootstrap`.
    pub config: Option<NodeConfig>,
}

impl Caller {
    /// Takes what is used. Parts of the metadata that cannot be read are named in the log.
    pub fn of(node: &Node) -> Caller {
        let config = NodeConfig::of(node).map(|(config, wrong)| {
            for reason in wrong {
                tracing::warn!(node = node.id, reason, "a part of the node's metadata cannot be read");
            }
            config
        });
        Caller { id: node.id.clone(), config }
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
    /// The proxy's; on every address where only a port was given.
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

impl NodeConfig {
    /// Reads what a node says; `None` if it was not made by `outrigger bootstrap`. What cannot be read of the lists is
    /// left out, and named by the second part.
    pub fn of(node: &Node) -> Option<(NodeConfig, Vec<String>)> {
        let Some(Kind::StructValue(own)) = node.metadata.as_ref()?.fields.get(KEY)?.kind.as_ref() else {
            return None;
        };
        let namespace = match own.fields.get("namespace").and_then(|value| value.kind.as_ref()) {
            Some(Kind::StringValue(namespace)) => namespace,
            _ => DEFAULT_NAMESPACE,
        };
        let mut wrong = Vec::new();
        let config = NodeConfig {
            service: Name::new(namespace, &node.cluster),
            inbound: list(own, "inbound", &mut wrong),
            to: list(own, "to", &mut wrong),
        };
        Some((config, wrong))
    }

    /// What goes into `node.metadata`.
    pub fn metadata(&self) -> Struct {
        let text = |text: String| Value { kind: Some(Kind::StringValue(text)) };
        let list = |values: Vec<String>| Value {
            kind: Some(Kind::ListValue(ListValue { values: values.into_iter().map(text).collect() })),
        };
        let own = Struct {
            fields: [
                ("namespace".to_owned(), text(self.service.namespace.to_string())),
                ("inbound".to_owned(), list(self.inbound.iter().map(Inbound::to_string).collect())),
                ("to".to_owned(), list(self.to.iter().map(To::to_string).collect())),
            ]
            .into(),
        };
        Struct { fields: [(KEY.to_owned(), Value { kind: Some(Kind::StructValue(own)) })].into() }
    }
}

fn list<T: FromStr<Err = String>>(own: &Struct, field: &str, wrong: &mut Vec<String>) -> Vec<T> {
    let Some(Kind::ListValue(list)) = own.fields.get(field).and_then(|value| value.kind.as_ref()) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for value in &list.values {
        let text = match &value.kind {
            Some(Kind::StringValue(text)) => text.as_str(),
            _ => "",
        };
        match text.parse() {
            Ok(value) => found.push(value),
            Err(reason) => wrong.push(format!("{field}: {text:?}: {reason}")),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(NodeConfig::of(&node), Some((config, Vec::new())));
        assert_eq!(NodeConfig::of(&Node::default()), None);
    }
}
