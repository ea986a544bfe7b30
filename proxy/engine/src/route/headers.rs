//! `request_headers_to_add`, `response_headers_to_remove` and their like: what a route does to headers.

use http::{HeaderName, HeaderValue};
use outrigger_proto::envoy::config::core::v3 as core;
use outrigger_proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use smallvec::SmallVec;

use crate::config::report::At;
use crate::config::value::header_name;
use crate::format::{Format, FormatContext};
use crate::message::Headers;
use crate::singular;

/// Headers to remove and then to add, of one place in the configuration.
#[derive(Clone, Debug)]
pub(crate) struct HeaderMutations {
    remove: Box<[HeaderName]>,
    add: Box<[Addition]>,
}

#[derive(Clone, Debug)]
struct Addition {
    name: HeaderName,
    value: Value,
    action: HeaderAppendAction,
    keep_empty: bool,
    /// Envoy keeps one field of this name, and appends to its value.
    joins: bool,
}

#[derive(Clone, Debug)]
enum Value {
    Fixed(HeaderValue),
    Format(Format),
}

/// One side of the messages: the fields' names as the .proto files have them, and the headers of which Envoy has at
/// most one field, so that what is appended joins its value, after a comma.
pub(crate) struct Side {
    add: &'static str,
    remove: &'static str,
    single: &'static [&'static str],
}

/// Requests.
pub(crate) const REQUEST: Side =
    Side { add: "request_headers_to_add", remove: "request_headers_to_remove", single: singular::OF_REQUESTS };

/// Responses.
pub(crate) const RESPONSE: Side =
    Side { add: "response_headers_to_add", remove: "response_headers_to_remove", single: singular::OF_RESPONSES };

/// Replies of the proxy's own.
pub(crate) const LOCAL_REPLY: Side = Side { add: "headers_to_add", remove: "", single: RESPONSE.single };

/// Headers that a list may add.
const MAX_ADDITIONS: usize = 1000;
/// Bytes of a header's name, and of its value as it is configured.
const MAX_HEADER_BYTES: usize = 16 << 10;

impl HeaderMutations {
    /// Reads both lists; `None` where there is nothing to do. What is wrong is reported, and left out.
    pub(crate) fn convert(
        add: Vec<core::HeaderValueOption>,
        remove: Vec<String>,
        side: &Side,
        at: &At<'_>,
    ) -> Option<Box<HeaderMutations>> {
        if add.is_empty() && remove.is_empty() {
            return None;
        }
        let add_at = at.field(side.add);
        if add.len() > MAX_ADDITIONS {
            add_at.reject(add.len(), format_args!("must be at most {MAX_ADDITIONS} headers"));
            return None;
        }
        let add: Box<[_]> = add
            .into_iter()
            .enumerate()
            .filter_map(|(i, option)| Addition::convert(option, side, &add_at.index(i)))
            .collect();
        let remove_at = at.field(side.remove);
        let remove: Box<[_]> =
            remove.iter().enumerate().filter_map(|(i, name)| modifiable(name, &remove_at.index(i))).collect();
        Some(Box::new(HeaderMutations { remove, add }))
    }

    /// The first half: what goes.
    pub(crate) fn remove(&self, headers: &mut Headers) {
        for name in &self.remove {
            headers.remove(name);
        }
    }

    /// The second half: what is put there, as [`HeaderMutations::evaluate`] has found it.
    pub(crate) fn add(values: Evaluated<'_>, headers: &mut Headers) {
        // First what replaces, then what is added: as Envoy does, whatever the order of the list.
        let mut appended: SmallVec<[(&Addition, HeaderValue); 4]> = SmallVec::new();
        for (addition, value) in values.0 {
            match addition.action {
                HeaderAppendAction::AppendIfExistsOrAdd => appended.push((addition, value)),
                HeaderAppendAction::AddIfAbsent => {
                    if !headers.contains(&addition.name) {
                        appended.push((addition, value));
                    }
                }
                HeaderAppendAction::OverwriteIfExists => {
                    if headers.remove(&addition.name).is_some() {
                        headers.append(addition.name.clone(), value);
                    }
                }
                HeaderAppendAction::OverwriteIfExistsOrAdd => {
                    headers.remove(&addition.name);
                    headers.append(addition.name.clone(), value);
                }
            }
        }
        for (addition, value) in appended {
            if addition.joins
                && let Some(existing) = headers.get(&addition.name)
            {
                let joined = [existing.as_bytes(), b",", value.as_bytes()].concat();
                if let Ok(joined) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
                    headers.set(addition.name.clone(), joined);
                }
            } else {
                headers.append(addition.name.clone(), value);
            }
        }
    }

    /// The values to add, from the message as it is between the halves: none sees another. Those that cannot stand in a
    /// header are left out, as are empty ones where the configuration does not keep them.
    pub(crate) fn evaluate(&self, ctx: &FormatContext<'_>) -> Evaluated<'_> {
        let mut values = SmallVec::new();
        for addition in &self.add {
            let value = match &addition.value {
                Value::Fixed(value) => value.clone(),
                Value::Format(format) => {
                    let mut text = Vec::new();
                    format.write_omitting_empty(&mut text, ctx);
                    match HeaderValue::from_maybe_shared(bytes::Bytes::from(text)) {
                        Ok(value) => value,
                        Err(_) => continue,
                    }
                }
            };
            if !value.is_empty() || addition.keep_empty {
                values.push((addition, value));
            }
        }
        Evaluated(values)
    }
}

/// Values to add that wait for the borrow of the message to end.
pub(crate) struct Evaluated<'a>(SmallVec<[(&'a Addition, HeaderValue); 4]>);

impl Addition {
    fn convert(message: core::HeaderValueOption, side: &Side, at: &At<'_>) -> Option<Addition> {
        let core::HeaderValueOption { header, append, append_action, keep_empty_value } = message;
        let Some(core::HeaderValue { key, value, raw_value }) = header else {
            at.field("header").reject("", "is required");
            return None;
        };
        let action = match HeaderAppendAction::try_from(append_action) {
            Ok(action) => Some(action),
            Err(_) => {
                at.field("append_action").reject(append_action, "no such action");
                None
            }
        };
        // The deprecated boolean: false overwrites.
        let action = match (append, action) {
            (None, action) => action,
            (Some(true), Some(HeaderAppendAction::AppendIfExistsOrAdd)) => {
                Some(HeaderAppendAction::AppendIfExistsOrAdd)
            }
            (Some(false), Some(HeaderAppendAction::AppendIfExistsOrAdd)) => {
                Some(HeaderAppendAction::OverwriteIfExistsOrAdd)
            }
            (Some(append), _) => {
                at.field("append").reject(append, "append and append_action exclude each other");
                None
            }
        };
        let header_at = at.field("header");
        for (field, length) in [("key", key.len()), ("value", value.len()), ("raw_value", raw_value.len())] {
            if length > MAX_HEADER_BYTES {
                let reason = format_args!("must be at most {MAX_HEADER_BYTES} bytes");
                header_at.field(field).reject(format_args!("{length} bytes"), reason);
                return None;
            }
        }
        let name = modifiable(&key, &header_at.field("key"));
        let value = if raw_value.is_empty() {
            parse_value(&value, &header_at.field("value"))
        } else if !value.is_empty() {
            header_at.reject("", "value and raw_value exclude each other");
            None
        } else {
            let value_at = header_at.field("raw_value");
            match std::str::from_utf8(&raw_value) {
                Ok(text) => parse_value(text, &value_at),
                Err(_) => {
                    value_at.reject(raw_value.escape_ascii(), "must be UTF-8");
                    None
                }
            }
        };
        let name = name?;
        let joins = side.single.contains(&name.as_str());
        Some(Addition { name, value: value?, action: action?, keep_empty: keep_empty_value, joins })
    }
}

fn parse_value(text: &str, at: &At<'_>) -> Option<Value> {
    let format = match Format::parse(text) {
        Ok(format) => format,
        Err(error) => {
            at.reject(&error.operator, &error.reason);
            return None;
        }
    };
    let Some(literal) = format.as_literal() else {
        return Some(Value::Format(format));
    };
    match HeaderValue::from_bytes(literal) {
        Ok(value) => Some(Value::Fixed(value)),
        Err(_) => {
            at.reject(text.escape_default(), "not the value of a header");
            None
        }
    }
}

fn modifiable(name: &str, at: &At<'_>) -> Option<HeaderName> {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        at.reject(name, "pseudo-headers and host must not be modified here: a route has rewrites for them");
        return None;
    }
    header_name(name, at)
}
