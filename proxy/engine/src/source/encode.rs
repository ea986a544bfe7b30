//! One walk of the tree beside the descriptor of its message: every fault of form is found, each with its place, and
//! what is sound is written as protobuf's wire format.
//!
//! Wire format and not a dynamic message, because then merging two texts is putting their bytes one after the other
//! (that is how protobuf defines merging), an `Any` gets its value at once, and the typed message is one decode away.
//! The bytes are the canonical ones that prost writes, so that what differs is an unknown field.

use std::sync::Arc;

use outrigger_proto::prost::encoding::{WireType, encode_key, encode_varint};

use super::scalar::{self, Fault};
use super::schema::{Field, Kind, Message, Schema};
use super::tree::{Key, Map, Meaning, Node, Position, Value};
use crate::config::report::{At, Location};
use crate::source::nearest::nearest;

/// How paths and messages spell the names of fields. A text may spell them either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// As the .proto file: `connect_timeout`.
    Proto,
    /// As JSON: `connectTimeout`.
    Json,
}

/// Walks the values of one text.
pub(crate) struct Encoder<'p> {
    pub(crate) schema: &'p Schema,
    /// The text's name.
    pub(crate) source: &'p Arc<str>,
    /// JSON: an unquoted fraction is a number where the message leaves the type open; in YAML Envoy makes it a string.
    pub(crate) json: bool,
    pub(crate) names: Names,
}

impl Encoder<'_> {
    /// Writes `node` as the fields of a message `desc`.
    pub(crate) fn message(&self, node: &Node<'_>, desc: &Message, at: &At<'_>, out: &mut Vec<u8>) {
        let written = match desc.name.as_str() {
            "google.protobuf.Any" => return self.any(node, at, out),
            "google.protobuf.Struct" => return self.structure(node, at, out),
            "google.protobuf.Value" => return self.value(node, at, out),
            "google.protobuf.ListValue" => return self.list_value(node, at, out),
            "google.protobuf.Duration" => scalar::duration(node).map(|(seconds, nanos)| {
                put_varint(1, seconds.cast_unsigned(), out);
                put_varint(2, i64::from(nanos).cast_unsigned(), out);
            }),
            "google.protobuf.Timestamp" => Err(Fault::new("timestamps are not in this version")),
            "google.protobuf.BoolValue"
            | "google.protobuf.Int32Value"
            | "google.protobuf.Int64Value"
            | "google.protobuf.UInt32Value"
            | "google.protobuf.UInt64Value"
            | "google.protobuf.FloatValue"
            | "google.protobuf.DoubleValue"
            | "google.protobuf.StringValue"
            | "google.protobuf.BytesValue" => {
                if let Some(field) = desc.field_by_number(1) {
                    self.single(node, field, at, out);
                }
                return;
            }
            _ => match node.value() {
                Value::Map(map) => {
                    self.fields(map, desc, false, at, out);
                    Ok(())
                }
                _ => Err(Fault::new(format!("must be a mapping: {}", self.title(desc)))),
            },
        };
        if let Err(fault) = written {
            self.reject(node, at, &fault);
        }
    }

    /// As [`Encoder::message`], by the message's full name.
    pub(crate) fn message_named(&self, node: &Node<'_>, name: &str, at: &At<'_>, out: &mut Vec<u8>) {
        match self.schema.message(name) {
            Some(desc) => self.message(node, &desc, at, out),
            None => at.reject("", format_args!("the built-in descriptors lack {name}")),
        }
    }

    fn fields(&self, map: &Map<'_>, desc: &Message, in_any: bool, at: &At<'_>, out: &mut Vec<u8>) {
        let mut seen: Vec<u32> = Vec::with_capacity(map.len());
        let mut oneofs: Vec<(usize, &str)> = Vec::new();
        for (key, node) in map {
            if in_any && key.text == "@type" {
                continue;
            }
            let Some(field) = desc.field(&key.text) else {
                self.unknown_field(key, desc, at);
                continue;
            };
            let here = at.field(self.spelled(field));
            if seen.contains(&field.number) {
                here.reject_at(self.location(key.position), "", "is there twice");
                continue;
            }
            seen.push(field.number);
            let may_be_null = field.kind == Kind::Message("google.protobuf.Value") && !field.is_repeated;
            if node.is_null() && !may_be_null {
                continue;
            }
            if let Some(oneof) = field.oneof {
                if let Some((_, other)) = oneofs.iter().find(|(index, _)| *index == oneof) {
                    let oneof = desc.oneofs.get(oneof).copied().unwrap_or_default();
                    let reason = format!("cannot be set beside {other:?}: only one of {oneof:?}");
                    here.reject_at(self.location(key.position), "", reason);
                    continue;
                }
                oneofs.push((oneof, self.spelled(field)));
            }
            self.field(node, field, &here, out);
        }
    }

    fn spelled(&self, field: &Field) -> &'static str {
        match self.names {
            Names::Json if !field.json_name.is_empty() => field.json_name,
            _ => field.name,
        }
    }

    /// The message's name: whoever writes JSON names does not know its package.
    fn title<'m>(&self, desc: &'m Message) -> &'m str {
        match self.names {
            Names::Proto => &desc.name,
            Names::Json => desc.name.rsplit('.').next().unwrap_or_default(),
        }
    }

    fn unknown_field(&self, key: &Key<'_>, desc: &Message, at: &At<'_>) {
        let mut reason = format!("{} has no such field", self.title(desc));
        reason.push_str(&nearest(&key.text, desc.fields.iter().map(|field| self.spelled(field))));
        at.field(&key.text).reject_at(self.location(key.position), "", reason);
    }

    fn field(&self, node: &Node<'_>, field: &Field, at: &At<'_>, out: &mut Vec<u8>) {
        if let Some(entry) = self.schema.map_entry(field) {
            self.map(node, field.number, &entry, at, out);
        } else if field.is_repeated {
            let Value::List(list) = node.value() else {
                self.reject(node, at, &Fault::new("must be a list"));
                return;
            };
            let mut packed = Vec::new();
            for (index, element) in list.iter().enumerate() {
                let here = at.index(index);
                if field.is_packed() {
                    match scalar::encode(element, field.kind, self.schema) {
                        Ok(value) => value.write_bare(&mut packed),
                        Err(fault) => self.reject(element, &here, &fault),
                    }
                } else {
                    self.one(element, field, true, &here, out);
                }
            }
            if !packed.is_empty() {
                put_bytes(field.number, &packed, out);
            }
        } else {
            self.single(node, field, at, out);
        }
    }

    fn single(&self, node: &Node<'_>, field: &Field, at: &At<'_>, out: &mut Vec<u8>) {
        self.one(node, field, field.has_presence(), at, out);
    }

    /// One value with its key. A zero is written only where its presence says something.
    fn one(&self, node: &Node<'_>, field: &Field, presence: bool, at: &At<'_>, out: &mut Vec<u8>) {
        if let Kind::Message(name) = field.kind {
            let mut body = Vec::new();
            self.message_named(node, name, at, &mut body);
            put_bytes(field.number, &body, out);
            return;
        }
        match scalar::encode(node, field.kind, self.schema) {
            Ok(value) => value.write(field.number, presence, out),
            Err(fault) => self.reject(node, at, &fault),
        }
    }

    fn map(&self, node: &Node<'_>, number: u32, entry: &Message, at: &At<'_>, out: &mut Vec<u8>) {
        let Value::Map(map) = node.value() else {
            self.reject(node, at, &Fault::new("must be a mapping"));
            return;
        };
        let (Some(key_field), Some(value_field)) = (entry.field_by_number(1), entry.field_by_number(2)) else { return };
        for (index, (key, value)) in map.iter().enumerate() {
            let here = at.key(&key.text);
            if self.is_duplicate(map, index, key, &here) {
                continue;
            }
            let mut body = Vec::new();
            match scalar::encode_key(&key.text, key_field.kind) {
                Ok(key) => key.write(1, false, &mut body),
                Err(fault) => here.reject_at(self.location(key.position), &key.text, &fault),
            }
            if let Kind::Message(name) = value_field.kind {
                let mut message = Vec::new();
                self.message_named(value, name, &here, &mut message);
                if !message.is_empty() {
                    put_bytes(2, &message, &mut body);
                }
            } else {
                self.one(value, value_field, false, &here, &mut body);
            }
            put_bytes(number, &body, out);
        }
    }

    fn is_duplicate(&self, map: &Map<'_>, index: usize, key: &Key<'_>, at: &At<'_>) -> bool {
        let duplicate = map.iter().take(index).any(|(earlier, _)| earlier.text == key.text);
        if duplicate {
            at.reject_at(self.location(key.position), "", "is there twice");
        }
        duplicate
    }

    fn any(&self, node: &Node<'_>, at: &At<'_>, out: &mut Vec<u8>) {
        let Value::Map(map) = node.value() else {
            self.reject(node, at, &Fault::new("must be a mapping with an \"@type\""));
            return;
        };
        let Some((_, type_node)) = map.iter().find(|(key, _)| key.text == "@type") else {
            self.reject(node, &at.field("@type"), &Fault::new("is missing: it names the type of this extension"));
            return;
        };
        let type_url = match type_node.value() {
            Value::Scalar(url) if !url.text.is_empty() => url.text.as_ref(),
            _ => return self.reject(type_node, &at.field("@type"), &Fault::new("must be the name of a type")),
        };
        let name = type_url.rsplit('/').next().unwrap_or(type_url);
        let Some(desc) = self.schema.message(name) else {
            let mut reason = "unknown, or not in this version".to_owned();
            let extensions = self.schema.message_names().filter(|name| name.starts_with("envoy.extensions."));
            reason.push_str(&nearest(name, extensions));
            return self.reject(type_node, &at.field("@type"), &Fault::new(reason));
        };
        let mut body = Vec::new();
        if name.starts_with("google.protobuf.") && name != "google.protobuf.Empty" {
            // A type with a JSON form of its own stands under "value".
            match map.iter().find(|(key, _)| key.text == "value") {
                Some((_, value)) => self.message(value, &desc, &at.field("value"), &mut body),
                None => self.reject(node, &at.field("value"), &Fault::new("is missing")),
            }
        } else {
            self.fields(map, &desc, true, at, &mut body);
        }
        if type_url.contains('/') {
            put_bytes(1, type_url.as_bytes(), out);
        } else {
            self.reject(type_node, &at.field("@type"), &Fault::new(format!("must be type.googleapis.com/{type_url}")));
        }
        if !body.is_empty() {
            put_bytes(2, &body, out);
        }
    }

    fn structure(&self, node: &Node<'_>, at: &At<'_>, out: &mut Vec<u8>) {
        let Value::Map(map) = node.value() else {
            self.reject(node, at, &Fault::new("must be a mapping"));
            return;
        };
        for (index, (key, value)) in map.iter().enumerate() {
            let here = at.key(&key.text);
            if self.is_duplicate(map, index, key, &here) {
                continue;
            }
            let (mut entry, mut body) = (Vec::new(), Vec::new());
            if !key.text.is_empty() {
                put_bytes(1, key.text.as_bytes(), &mut entry);
            }
            self.value(value, &here, &mut body);
            put_bytes(2, &body, &mut entry);
            put_bytes(1, &entry, out);
        }
    }

    fn list_value(&self, node: &Node<'_>, at: &At<'_>, out: &mut Vec<u8>) {
        let Value::List(list) = node.value() else {
            self.reject(node, at, &Fault::new("must be a list"));
            return;
        };
        for (index, element) in list.iter().enumerate() {
            let mut body = Vec::new();
            self.value(element, &at.index(index), &mut body);
            put_bytes(1, &body, out);
        }
    }

    /// `google.protobuf.Value`.
    fn value(&self, node: &Node<'_>, at: &At<'_>, out: &mut Vec<u8>) {
        let mut body = Vec::new();
        match node.value() {
            Value::Map(_) | Value::Shared(_) => {
                self.structure(node, at, &mut body);
                put_bytes(5, &body, out);
            }
            Value::List(_) => {
                self.list_value(node, at, &mut body);
                put_bytes(6, &body, out);
            }
            Value::Scalar(scalar) => match scalar.meaning() {
                Meaning::Null => put_varint_always(1, 0, out),
                Meaning::Bool(value) => put_varint_always(4, u64::from(value), out),
                Meaning::Int(value) => match i32::try_from(value) {
                    Ok(value) => put_double(2, f64::from(value), out),
                    // A double would lose digits.
                    Err(_) => put_bytes(3, value.to_string().as_bytes(), out),
                },
                Meaning::Text => match scalar.text.parse() {
                    Ok(value) if self.json && scalar.is_plain() => put_double(2, value, out),
                    _ => put_bytes(3, scalar.text.as_bytes(), out),
                },
            },
        }
    }

    fn reject(&self, node: &Node<'_>, at: &At<'_>, fault: &Fault) {
        at.reject_at(self.location(node.position), node.display(), fault);
    }

    pub(crate) fn location(&self, position: Position) -> Option<Location> {
        Some(Location { source: Arc::clone(self.source), line: position.line, column: position.column })
    }
}

/// A length-delimited field.
pub(crate) fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn put_varint(number: u32, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        put_varint_always(number, value, out);
    }
}

fn put_varint_always(number: u32, value: u64, out: &mut Vec<u8>) {
    encode_key(number, WireType::Varint, out);
    encode_varint(value, out);
}

fn put_double(number: u32, value: f64, out: &mut Vec<u8>) {
    encode_key(number, WireType::SixtyFourBit, out);
    out.extend_from_slice(&value.to_le_bytes());
}
