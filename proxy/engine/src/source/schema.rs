//! The descriptors of every message that exists here, looked at where they lie in the program.
//!
//! A text needs a fraction of them, once. A descriptor pool would cost milliseconds and megabytes at every start; this
//! finds the messages by name and decodes those that are asked for.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use outrigger_proto::prost::encoding::{WireType, decode_key, decode_varint};

/// All messages and enumerations of a descriptor set, by full name.
#[derive(Debug)]
pub struct Schema {
    messages: HashMap<String, &'static [u8]>,
    enums: HashMap<String, &'static [u8]>,
    decoded: RefCell<HashMap<String, Rc<Message>>>,
}

/// `google.protobuf.DescriptorProto`
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) fields: Vec<Field>,
    pub(crate) oneofs: Vec<&'static str>,
    is_map_entry: bool,
}

/// `google.protobuf.FieldDescriptorProto`
#[derive(Clone, Debug, Default)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    /// As JSON spells it; empty where the descriptor does not say.
    pub(crate) json_name: &'static str,
    pub(crate) number: u32,
    pub(crate) kind: Kind,
    pub(crate) is_repeated: bool,
    /// The index of the oneof that it belongs to.
    pub(crate) oneof: Option<usize>,
    /// Marked `optional`: not set and zero are two things.
    is_optional: bool,
}

/// The type of a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    Double,
    Float,
    Int64,
    Uint64,
    Int32,
    Fixed64,
    Fixed32,
    Bool,
    String,
    Bytes,
    Uint32,
    Sfixed32,
    Sfixed64,
    Sint32,
    Sint64,
    /// The enumeration's full name.
    Enum(&'static str),
    /// The message's full name.
    Message(&'static str),
    #[default]
    Unknown,
}

/// `google.protobuf.EnumDescriptorProto`
#[derive(Debug)]
pub(crate) struct Enum {
    pub(crate) values: Vec<(&'static str, i32)>,
}

impl Schema {
    /// Looks through an encoded `google.protobuf.FileDescriptorSet`.
    pub fn new(descriptors: &'static [u8]) -> Self {
        let mut schema =
            Schema { messages: HashMap::new(), enums: HashMap::new(), decoded: RefCell::new(HashMap::new()) };
        for file in parts(descriptors, 1) {
            let package = text(file, 2);
            parts(file, 4).for_each(|message| schema.index(package, message));
            parts(file, 5).for_each(|one| schema.index_enum(package, one));
        }
        schema
    }

    fn index(&mut self, scope: &str, message: &'static [u8]) {
        let name = format!("{scope}.{}", text(message, 1));
        parts(message, 3).for_each(|nested| self.index(&name, nested));
        parts(message, 4).for_each(|one| self.index_enum(&name, one));
        self.messages.insert(name, message);
    }

    fn index_enum(&mut self, scope: &str, one: &'static [u8]) {
        self.enums.insert(format!("{scope}.{}", text(one, 1)), one);
    }

    /// The message of this full name.
    pub(crate) fn message(&self, name: &str) -> Option<Rc<Message>> {
        if let Some(message) = self.decoded.borrow().get(name) {
            return Some(Rc::clone(message));
        }
        let message = Rc::new(Message::decode(name, self.messages.get(name)?));
        self.decoded.borrow_mut().insert(name.to_owned(), Rc::clone(&message));
        Some(message)
    }

    /// The enumeration of this full name.
    pub(crate) fn enumeration(&self, name: &str) -> Option<Enum> {
        let number = |value| i32::try_from(varint(value, 2).cast_signed()).unwrap_or_default();
        let values = parts(self.enums.get(name)?, 2).map(|value| (text(value, 1), number(value)));
        Some(Enum { values: values.collect() })
    }

    /// The full names of all messages.
    pub(crate) fn message_names(&self) -> impl Iterator<Item = &str> {
        self.messages.keys().map(String::as_str)
    }

    /// The entry's message, if the field is a map.
    pub(crate) fn map_entry(&self, field: &Field) -> Option<Rc<Message>> {
        match field.kind {
            Kind::Message(name) if field.is_repeated => self.message(name).filter(|message| message.is_map_entry),
            _ => None,
        }
    }
}

impl Message {
    fn decode(name: &str, bytes: &'static [u8]) -> Self {
        Message {
            name: name.to_owned(),
            fields: parts(bytes, 2).map(Field::decode).collect(),
            oneofs: parts(bytes, 8).map(|oneof| text(oneof, 1)).collect(),
            is_map_entry: parts(bytes, 7).any(|options| varint(options, 7) == 1),
        }
    }

    /// The field of this name, as the .proto file spells it or as JSON does.
    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| super::same_name(name, field.name) || field.json_name == name)
    }

    /// The field of this number.
    pub(crate) fn field_by_number(&self, number: u32) -> Option<&Field> {
        self.fields.iter().find(|field| field.number == number)
    }
}

impl Field {
    fn decode(bytes: &'static [u8]) -> Self {
        let mut field = Field { name: text(bytes, 1), json_name: text(bytes, 10), ..Field::default() };
        let type_name = text(bytes, 6).trim_start_matches('.');
        for (number, value) in entries(bytes) {
            let Value::Varint(value) = value else { continue };
            match number {
                3 => field.number = u32::try_from(value).unwrap_or_default(),
                4 => field.is_repeated = value == 3,
                5 => field.kind = Kind::decode(value, type_name),
                9 => field.oneof = usize::try_from(value).ok(),
                17 => field.is_optional = value == 1,
                _ => {}
            }
        }
        // `optional` is written as a oneof of one.
        if field.is_optional {
            field.oneof = None;
        }
        field
    }

    /// Whether a zero that is set differs from none.
    pub(crate) fn has_presence(&self) -> bool {
        self.is_optional || self.oneof.is_some() || matches!(self.kind, Kind::Message(_))
    }

    /// Whether a list of it is written packed.
    pub(crate) fn is_packed(&self) -> bool {
        self.is_repeated && !matches!(self.kind, Kind::String | Kind::Bytes | Kind::Message(_) | Kind::Unknown)
    }
}

impl Kind {
    fn decode(number: u64, type_name: &'static str) -> Self {
        match number {
            1 => Kind::Double,
            2 => Kind::Float,
            3 => Kind::Int64,
            4 => Kind::Uint64,
            5 => Kind::Int32,
            6 => Kind::Fixed64,
            7 => Kind::Fixed32,
            8 => Kind::Bool,
            9 => Kind::String,
            11 => Kind::Message(type_name),
            12 => Kind::Bytes,
            13 => Kind::Uint32,
            14 => Kind::Enum(type_name),
            15 => Kind::Sfixed32,
            16 => Kind::Sfixed64,
            17 => Kind::Sint32,
            18 => Kind::Sint64,
            _ => Kind::Unknown,
        }
    }
}

enum Value {
    Varint(u64),
    Bytes(&'static [u8]),
}

/// The fields of a message on the wire, up to the first that is not sound.
fn entries(mut bytes: &'static [u8]) -> impl Iterator<Item = (u32, Value)> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let (number, wire_type) = decode_key(&mut bytes).ok()?;
        let value = decode_varint(&mut bytes).ok()?;
        match wire_type {
            WireType::Varint => Some((number, Value::Varint(value))),
            WireType::LengthDelimited => {
                let (part, rest) = bytes.split_at_checked(usize::try_from(value).ok()?)?;
                bytes = rest;
                Some((number, Value::Bytes(part)))
            }
            // Descriptors have neither fixed numbers nor groups.
            _ => None,
        }
    })
}

/// Every length-delimited field `number`.
fn parts(bytes: &'static [u8], number: u32) -> impl Iterator<Item = &'static [u8]> {
    entries(bytes).filter_map(move |(found, value)| match value {
        Value::Bytes(part) if found == number => Some(part),
        _ => None,
    })
}

fn text(bytes: &'static [u8], number: u32) -> &'static str {
    parts(bytes, number).next().and_then(|part| std::str::from_utf8(part).ok()).unwrap_or_default()
}

fn varint(bytes: &'static [u8], number: u32) -> u64 {
    let found = entries(bytes).find_map(|(found, value)| match value {
        Value::Varint(value) if found == number => Some(value),
        _ => None,
    });
    found.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_reflect::{DescriptorPool, Kind as PoolKind};

    /// A descriptor pool, which checks everything, knows the same.
    #[test]
    fn it_says_what_a_descriptor_pool_says() {
        for descriptors in [outrigger_proto::DESCRIPTORS, outrigger_proto::CONTROL_DESCRIPTORS] {
            compare(&DescriptorPool::decode(descriptors).unwrap(), &Schema::new(descriptors));
        }
    }

    fn compare(pool: &DescriptorPool, schema: &Schema) {
        assert_eq!(schema.messages.len(), pool.all_messages().count());
        for expected in pool.all_messages() {
            let message = schema.message(expected.full_name()).unwrap();
            assert_eq!(message.is_map_entry, expected.is_map_entry());
            assert_eq!(message.fields.len(), expected.fields().len(), "{}", message.name);
            for expected in expected.fields() {
                let field = message.field(expected.name()).unwrap();
                assert_eq!(message.field(expected.json_name()).unwrap().name, field.name);
                assert_eq!(field.number, expected.number());
                assert_eq!(field.is_repeated, expected.is_list() || expected.is_map());
                assert_eq!(field.is_packed(), expected.is_packed(), "{}", expected.full_name());
                assert_eq!(field.has_presence() && !field.is_repeated, expected.supports_presence());
                let oneof = expected.containing_oneof().filter(|oneof| !oneof.is_synthetic());
                assert_eq!(field.oneof.map(|index| message.oneofs[index]), oneof.as_ref().map(|oneof| oneof.name()));
                match expected.kind() {
                    PoolKind::Message(other) => assert_eq!(field.kind, Kind::Message(leak(other.full_name()))),
                    PoolKind::Enum(other) => {
                        assert_eq!(field.kind, Kind::Enum(leak(other.full_name())));
                        let mut expected: Vec<_> = other.values().map(|v| (leak(v.name()), v.number())).collect();
                        let mut values = schema.enumeration(other.full_name()).unwrap().values;
                        expected.sort_unstable();
                        values.sort_unstable();
                        assert_eq!(values, expected);
                    }
                    scalar => {
                        assert_eq!(format!("{:?}", field.kind).to_lowercase(), format!("{scalar:?}").to_lowercase())
                    }
                }
            }
        }
    }

    fn leak(text: &str) -> &'static str {
        String::leak(text.to_owned())
    }
}
