//! Messages as Envoy prints them: JSON with the names of the fields as in the .proto files, indented by one space,
//! secrets replaced.
//!
//! The descriptors of all messages are some megabytes, so they are decoded for an answer and dropped after it.

use std::collections::BTreeMap;

use outrigger_proto::prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage, SerializeOptions, Value};
use serde::Serialize;

const ANY: &str = "google.protobuf.Any";
const REDACTED: &str = "[redacted]";

/// Fields whose text and bytes nobody may see, by message; those that Envoy's protos mark as sensitive, as far as the
/// messages exist here.
const SENSITIVE: &[(&str, &[&str])] = &[
    (
        "envoy.extensions.transport_sockets.tls.v3.TlsCertificate",
        &["private_key", "private_key_provider", "pkcs12", "password"],
    ),
    ("envoy.extensions.transport_sockets.tls.v3.TlsSessionTicketKeys", &["keys"]),
    ("envoy.extensions.transport_sockets.tls.v3.GenericSecret", &["secret", "secrets"]),
    ("envoy.extensions.transport_sockets.tls.v3.PrivateKeyProvider", &["typed_config"]),
    ("envoy.config.core.v3.GrpcService.GoogleGrpc.SslCredentials", &["private_key"]),
    ("envoy.config.core.v3.GrpcService.GoogleGrpc.CallCredentials", &["access_token", "google_refresh_token"]),
    ("envoy.config.core.v3.GrpcService.GoogleGrpc.CallCredentials.ServiceAccountJWTAccessCredentials", &["json_key"]),
];

/// Why a message cannot be shown.
#[derive(Debug, thiserror::Error)]
pub(super) enum JsonError {
    #[error("the built-in descriptors cannot be read: {0}")]
    Descriptors(#[from] prost_reflect::DescriptorError),
    #[error("no descriptor of {0}")]
    Unknown(String),
    #[error("{0}")]
    Decode(#[from] outrigger_proto::prost::DecodeError),
    #[error("{0}")]
    Serialize(#[from] serde_json::Error),
}

/// Prints messages.
pub(super) struct Printer {
    pool: DescriptorPool,
}

impl Printer {
    pub(super) fn new() -> Result<Self, JsonError> {
        Ok(Printer { pool: DescriptorPool::decode(outrigger_proto::DESCRIPTORS)? })
    }

    /// A message with its descriptor.
    pub(super) fn dynamic<M: Message + Name>(&self, message: &M) -> Result<DynamicMessage, JsonError> {
        self.decode(&M::full_name(), &message.encode_to_vec())
    }

    fn decode(&self, name: &str, bytes: &[u8]) -> Result<DynamicMessage, JsonError> {
        let descriptor = self.pool.get_message_by_name(name).ok_or_else(|| JsonError::Unknown(name.to_owned()))?;
        Ok(DynamicMessage::decode(descriptor, bytes)?)
    }

    /// The message that an `Any` holds, if its type exists here.
    fn unpack(&self, any: &DynamicMessage) -> Option<DynamicMessage> {
        let (url, value) = (any.get_field_by_name("type_url")?, any.get_field_by_name("value")?);
        let name = url.as_str()?.rsplit('/').next()?;
        self.decode(name, value.as_bytes()?).ok()
    }

    /// An `Any` of `message`.
    pub(super) fn pack(&self, message: &DynamicMessage) -> Result<DynamicMessage, JsonError> {
        let name = message.descriptor().full_name().to_owned();
        let mut any = self.decode(ANY, &[])?;
        any.set_field_by_name("type_url", Value::String(format!("type.googleapis.com/{name}")));
        any.set_field_by_name("value", Value::Bytes(message.encode_to_vec().into()));
        Ok(any)
    }

    /// Makes a message fit to be seen: secrets are replaced, and what an `Any` of an unknown type holds becomes a
    /// struct with the type and the bytes in base64, for JSON has no other way to show it.
    pub(super) fn clean(&self, message: &mut DynamicMessage) -> Result<(), JsonError> {
        let descriptor = message.descriptor();
        if descriptor.full_name() == ANY {
            if let Some(mut inner) = self.unpack(message) {
                self.clean(&mut inner)?;
                let bytes = inner.encode_to_vec();
                message.set_field_by_name("value", Value::Bytes(bytes.into()));
            } else if message.fields().next().is_some() {
                let text = |name| message.get_field_by_name(name).map(|value| Value::clone(&value));
                let url = text("type_url").and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default();
                let bytes = text("value").and_then(|value| value.as_bytes().cloned()).unwrap_or_default();
                *message = self.pack(&self.opaque(&url, &bytes)?)?;
            }
            return Ok(());
        }
        let sensitive = SENSITIVE.iter().find(|(name, _)| *name == descriptor.full_name()).map_or(&[][..], |(_, f)| f);
        for (field, value) in message.fields_mut() {
            if sensitive.contains(&field.name()) {
                redact(value);
            } else {
                self.clean_value(value)?;
            }
        }
        Ok(())
    }

    fn clean_value(&self, value: &mut Value) -> Result<(), JsonError> {
        match value {
            Value::Message(message) => self.clean(message),
            Value::List(values) => values.iter_mut().try_for_each(|value| self.clean_value(value)),
            Value::Map(values) => values.values_mut().try_for_each(|value| self.clean_value(value)),
            _ => Ok(()),
        }
    }

    fn opaque(&self, url: &str, bytes: &[u8]) -> Result<DynamicMessage, JsonError> {
        use outrigger_proto::prost_types::{Struct, value::Kind};
        let text = |text: String| prost_types::Value { kind: Some(Kind::StringValue(text)) };
        let fields = [("type_url", text(url.to_owned())), ("value", text(base64(bytes)))];
        let fields = fields.map(|(name, value)| (name.to_owned(), value)).into();
        self.decode("google.protobuf.Struct", &Struct { fields }.encode_to_vec())
    }

    /// Cuts a message down to the fields of a mask; within an `Any`, the mask goes on in the message that it holds.
    /// `false`: the mask does not fit this message.
    pub(super) fn trim(&self, message: &mut DynamicMessage, mask: &Mask) -> Result<bool, JsonError> {
        if mask.0.is_empty() {
            return Ok(true);
        }
        if message.descriptor().full_name() == ANY {
            let Some(mut inner) = self.unpack(message) else { return Ok(false) };
            let fits = self.trim(&mut inner, mask)?;
            *message = self.pack(&inner)?;
            return Ok(fits);
        }
        let descriptor = message.descriptor();
        if mask.0.keys().any(|name| descriptor.get_field_by_name(name).is_none()) {
            return Ok(false);
        }
        for field in descriptor.fields() {
            let Some(mask) = mask.0.get(field.name()) else {
                message.clear_field(&field);
                continue;
            };
            if mask.0.is_empty() {
                continue;
            }
            if field.is_list() || field.is_map() || field.kind().as_message().is_none() {
                return Ok(false);
            }
            if message.has_field(&field)
                && let Value::Message(inner) = message.get_field_mut(&field)
                && !self.trim(inner, mask)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Envoy's JSON of a message; with `all`, fields at their defaults are printed too.
    pub(super) fn print(&self, message: &DynamicMessage, all: bool) -> Result<Vec<u8>, JsonError> {
        let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(!all);
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
        let mut serializer = serde_json::Serializer::with_formatter(Vec::new(), formatter);
        let is_empty = message.fields().next().is_none() && !all;
        if is_empty {
            return Ok(b"{}\n".to_vec());
        }
        message.serialize_with_options(&mut serializer, &options)?;
        let mut text = serializer.into_inner();
        text.push(b'\n');
        Ok(text)
    }
}

/// Replaces every text and byte string, as Envoy does, and zeroes the rest.
fn redact(value: &mut Value) {
    match value {
        Value::String(text) => REDACTED.clone_into(text),
        Value::Bytes(bytes) => *bytes = REDACTED.as_bytes().into(),
        Value::List(values) => values.iter_mut().for_each(redact),
        Value::Map(values) => values.values_mut().for_each(redact),
        Value::Message(message) if message.descriptor().full_name() == ANY => message.clear_field_by_name("value"),
        Value::Message(message) => message.fields_mut().for_each(|(_, value)| redact(value)),
        Value::Bool(_) | Value::EnumNumber(_) => {}
        Value::I32(n) => *n = 0,
        Value::I64(n) => *n = 0,
        Value::U32(n) => *n = 0,
        Value::U64(n) => *n = 0,
        Value::F32(n) => *n = 0.0,
        Value::F64(n) => *n = 0.0,
    }
}

/// A field mask: `bootstrap.node.id,last_updated` as a tree. No children: the whole field.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Mask(BTreeMap<String, Mask>);

impl Mask {
    pub(super) fn parse(text: &str) -> Self {
        let mut mask = Mask::default();
        for path in text.split(',').filter(|path| !path.is_empty()) {
            path.split('.').fold(&mut mask, |mask, name| mask.0.entry(name.to_owned()).or_default());
        }
        mask
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Prints any serializable value as messages are printed.
pub(super) fn pretty(value: &impl Serialize) -> Result<Vec<u8>, JsonError> {
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
    let mut serializer = serde_json::Serializer::with_formatter(Vec::new(), formatter);
    value.serialize(&mut serializer)?;
    let mut text = serializer.into_inner();
    text.push(b'\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sensitive_field_exists() {
        let pool = DescriptorPool::decode(outrigger_proto::DESCRIPTORS).unwrap();
        for (name, fields) in SENSITIVE {
            let message = pool.get_message_by_name(name).unwrap_or_else(|| panic!("{name}"));
            for field in *fields {
                assert!(message.get_field_by_name(field).is_some(), "{name}.{field}");
            }
        }
    }

    #[test]
    fn a_mask_is_a_tree() {
        let mask = Mask::parse("a.b,a.c,d");
        assert_eq!(mask.0.keys().collect::<Vec<_>>(), ["a", "d"]);
        assert_eq!(mask.0["a"].0.keys().collect::<Vec<_>>(), ["b", "c"]);
    }
}
