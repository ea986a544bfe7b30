//! `json_format`: a structure whose strings are formats. An operator that stands alone keeps its type: numbers are
//! numbers, and what has no value is `null`.

use prost_types::value::Kind as ValueKind;
use prost_types::{ListValue, Struct, Value};

use crate::config::report::At;
use crate::format::operator::Kind;
use crate::format::{Format, FormatContext};

/// A parsed `json_format`.
#[derive(Clone, Debug)]
pub struct JsonFormat {
    root: Node,
    omit_empty: bool,
}

#[derive(Clone, Debug)]
enum Node {
    /// JSON as it is.
    Literal(Box<str>),
    Format(Format),
    /// Keys are JSON strings already, sorted.
    Object(Box<[(Box<str>, Node)]>),
    List(Box<[Node]>),
}

impl JsonFormat {
    /// Reads the structure. `omit_empty`: keys without a value are left out. `None` where it was rejected.
    pub fn convert(message: Struct, omit_empty: bool, at: &At<'_>) -> Option<JsonFormat> {
        Some(JsonFormat { root: object(message, at)?, omit_empty })
    }

    /// Appends the object, without a line break.
    pub fn write(&self, out: &mut Vec<u8>, ctx: &FormatContext<'_>) {
        let start = out.len();
        if !self.node(&self.root, out, ctx) {
            out.truncate(start);
            out.extend_from_slice(b"{}");
        }
    }

    /// Whether something was written.
    fn node(&self, node: &Node, out: &mut Vec<u8>, ctx: &FormatContext<'_>) -> bool {
        match node {
            Node::Literal(text) => out.extend_from_slice(text.as_bytes()),
            Node::Format(format) => return self.format(format, out, ctx),
            Node::Object(fields) => {
                out.push(b'{');
                let mut written = false;
                for (key, node) in fields {
                    let before = out.len();
                    if written {
                        out.push(b',');
                    }
                    out.extend_from_slice(key.as_bytes());
                    out.push(b':');
                    if self.node(node, out, ctx) { written = true } else { out.truncate(before) }
                }
                if self.omit_empty && !written {
                    return false;
                }
                out.push(b'}');
            }
            Node::List(nodes) => {
                out.push(b'[');
                let mut written = false;
                for node in nodes {
                    let before = out.len();
                    if written {
                        out.push(b',');
                    }
                    if self.node(node, out, ctx) { written = true } else { out.truncate(before) }
                }
                out.push(b']');
            }
        }
        true
    }

    fn format(&self, format: &Format, out: &mut Vec<u8>, ctx: &FormatContext<'_>) -> bool {
        let start = out.len();
        if let Some(operator) = format.as_operator() {
            match operator.write(out, ctx) {
                Some(Kind::Number) => return true,
                Some(Kind::Text) => {}
                None if self.omit_empty => return false,
                None => {
                    out.extend_from_slice(b"null");
                    return true;
                }
            }
        } else if self.omit_empty {
            format.write_omitting_empty(out, ctx);
        } else {
            format.write(out, ctx);
        }
        quote_from(out, start);
        true
    }
}

/// Makes what stands in `out` from `start` on a JSON string. Text that is not UTF-8 is read as Latin-1, as Envoy does.
fn quote_from(out: &mut Vec<u8>, start: usize) {
    let tail = out.get(start..).unwrap_or_default();
    let plain = |byte: &u8| matches!(byte, 0x20..=0x7e) && !matches!(byte, b'"' | b'\\');
    if tail.iter().all(plain) {
        out.insert(start, b'"');
        out.push(b'"');
        return;
    }
    let quoted = match std::str::from_utf8(tail) {
        Ok(text) => json_string(text),
        Err(_) => json_string(&tail.iter().copied().map(char::from).collect::<String>()),
    };
    out.truncate(start);
    out.extend_from_slice(quoted.as_bytes());
}

fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn object(message: Struct, at: &At<'_>) -> Option<Node> {
    let fields: Vec<_> = message
        .fields
        .into_iter()
        .map(|(key, value)| Some((json_string(&key).into_boxed_str(), node(value, &at.key(&key))?)))
        .collect();
    fields.into_iter().collect::<Option<Box<[_]>>>().map(Node::Object)
}

fn node(value: Value, at: &At<'_>) -> Option<Node> {
    match value.kind {
        Some(ValueKind::StringValue(text)) => match Format::parse(&text) {
            Ok(format) => match format.as_literal() {
                Some(literal) => Some(Node::Literal(json_string(&String::from_utf8_lossy(literal)).into())),
                None => Some(Node::Format(format)),
            },
            Err(error) => {
                at.reject(&error.operator, &error.reason);
                None
            }
        },
        Some(ValueKind::StructValue(message)) => object(message, at),
        Some(ValueKind::ListValue(ListValue { values })) => {
            let nodes: Vec<_> = values.into_iter().enumerate().map(|(i, value)| node(value, &at.index(i))).collect();
            nodes.into_iter().collect::<Option<Box<[_]>>>().map(Node::List)
        }
        Some(ValueKind::NumberValue(number)) => {
            let text = if number.fract() == 0.0 && number.abs() < 1e15 {
                format!("{number:.0}")
            } else {
                serde_json::Value::from(number).to_string()
            };
            Some(Node::Literal(text.into()))
        }
        Some(ValueKind::BoolValue(value)) => Some(Node::Literal(if value { "true" } else { "false" }.into())),
        Some(ValueKind::NullValue(_)) | None => Some(Node::Literal("null".into())),
    }
}
