//! `docs/xds-support.md`: what becomes of every field, as the conversions themselves say.
//!
//! Each message is found once in the full bootstrap, its other fields are set there, and the report says what became of
//! them. So the page cannot be wrong; this test says when it is old.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use outrigger_engine::config::bootstrap::Bootstrap;
use outrigger_engine::config::report::{NOT_IN_THIS_VERSION, Report};
use outrigger_engine::source::Source;
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use crate::FULL;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/xds-support.md");

#[test]
fn the_page_of_supported_fields_is_current() {
    let page = page();
    if std::env::var_os("OUTRIGGER_UPDATE_DOCS").is_some() {
        std::fs::write(PAGE, &page).unwrap();
    }
    let current = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(
        current == page,
        "docs/xds-support.md is old: OUTRIGGER_UPDATE_DOCS=1 cargo test -p outrigger-engine --test config"
    );
}

/// A message in the bootstrap: the way to it in the JSON tree, and its path.
struct Occurrence {
    desc: MessageDescriptor,
    pointer: String,
    path: String,
}

fn page() -> String {
    let pool = DescriptorPool::decode(outrigger_proto::DESCRIPTORS).unwrap();
    let tree: Value = serde_saphyr::from_str(FULL).unwrap();
    let root = pool.get_message_by_name("envoy.config.bootstrap.v3.Bootstrap").unwrap();
    let mut found = BTreeMap::new();
    find(&tree, &root, "", "", &mut found);

    let mut page = String::from(
        "# Supported xDS fields\n\n\
         <!-- Generated: OUTRIGGER_UPDATE_DOCS=1 cargo test -p outrigger-engine --test config -->\n\n\
         Every field of every message that is read, as the code that reads it says: *used* has its effect, *harmless*\n\
         is accepted and has none, *rejected* refuses the resource. A value of a used field may still be refused;\n\
         `outrigger-proxy validate -c FILE` says so for a file, with line and column. A message that is not here\n\
         belongs to a field that is rejected or harmless, or is an extension that is not in this version.\n\
         One that listeners and clusters share is shown as in a listener: what speaks of requests from downstream is\n\
         harmless in a cluster, as are the limits of frames that a client may send.\n",
    );
    for (name, occurrence) in &found {
        _ = write!(page, "\n## {name}\n\n| field | verdict | |\n|---|---|---|\n");
        for (field, (verdict, note)) in verdicts(&tree, occurrence) {
            _ = writeln!(page, "| `{field}` | {verdict} | {note} |");
        }
    }
    page
}

/// Finds the first occurrence of each message.
fn find(value: &Value, desc: &MessageDescriptor, pointer: &str, path: &str, found: &mut BTreeMap<String, Occurrence>) {
    let Value::Object(map) = value else { return };
    if desc.full_name() == "google.protobuf.Any" {
        let name = map["@type"].as_str().unwrap().rsplit('/').next().unwrap();
        let inner = desc.parent_pool().get_message_by_name(name).unwrap();
        return find(value, &inner, pointer, path, found);
    }
    if desc.full_name().starts_with("google.protobuf.") {
        return;
    }
    found.entry(desc.full_name().to_owned()).or_insert_with(|| Occurrence {
        desc: desc.clone(),
        pointer: pointer.to_owned(),
        path: path.to_owned(),
    });
    for field in desc.fields() {
        let Some(value) = map.get(field.name()) else { continue };
        let pointer = format!("{pointer}/{}", field.name());
        let path = join(path, field.name());
        let Kind::Message(inner) = field.kind() else { continue };
        match value {
            Value::Object(entries) if field.is_map() => {
                let Kind::Message(inner) = inner.map_entry_value_field().kind() else { continue };
                for (key, value) in entries {
                    find(value, &inner, &format!("{pointer}/{key}"), &format!("{path}[{key:?}]"), found);
                }
            }
            Value::Array(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    find(element, &inner, &format!("{pointer}/{index}"), &format!("{path}[{index}]"), found);
                }
            }
            value => find(value, &inner, &pointer, &path, found),
        }
    }
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

/// What becomes of each field of the message, in the order of the .proto file.
fn verdicts(tree: &Value, occurrence: &Occurrence) -> Vec<(String, (&'static str, String))> {
    let present = tree.pointer(&occurrence.pointer).unwrap().as_object().unwrap();
    let mut open: Vec<FieldDescriptor> = occurrence.desc.fields().filter(|f| !present.contains_key(f.name())).collect();
    let mut verdicts: BTreeMap<u32, (&'static str, String)> = BTreeMap::new();
    // Only one member of a oneof can be set at a time, so there are rounds.
    while !open.is_empty() {
        let mut message: Map<String, Value> = present.clone();
        let mut tried: Vec<FieldDescriptor> = Vec::new();
        for field in &open {
            let rivals: Vec<FieldDescriptor> = match field.containing_oneof() {
                Some(oneof) => oneof.fields().filter(|rival| rival != field).collect(),
                None => Vec::new(),
            };
            if !rivals.iter().any(|rival| tried.contains(rival)) {
                for rival in rivals {
                    message.remove(rival.name());
                }
                message.insert(field.name().to_owned(), example(field));
                tried.push(field.clone());
            }
        }
        open.retain(|field| !tried.contains(field));
        let mut changed = tree.clone();
        *changed.pointer_mut(&occurrence.pointer).unwrap() = Value::Object(message);
        let text = changed.to_string();
        let report = Report::new();
        Bootstrap::read(&[Source::new("full.json", &text)], &report);
        let (problems, harmless) = report.into_parts();
        for field in tried {
            let path = join(&occurrence.path, field.name());
            let is_it = |other: &str| other == path || other == format!("{path}[0]");
            let note = harmless.iter().find(|note| is_it(&note.path)).map(|note| ("harmless", note.reason.to_owned()));
            let problem = problems.iter().find(|problem| is_it(&problem.path));
            let problem = problem.and_then(|problem| problem.reason.strip_prefix(NOT_IN_THIS_VERSION));
            let problem = problem.map(|why| ("rejected", why.trim_start_matches(": ").to_owned()));
            verdicts.insert(field.number(), note.or(problem).unwrap_or(("used", String::new())));
        }
    }
    let used = || ("used", String::new());
    let fields = occurrence.desc.fields();
    fields.map(|field| (field.name().to_owned(), verdicts.remove(&field.number()).unwrap_or_else(used))).collect()
}

/// A value that the field can have.
fn example(field: &FieldDescriptor) -> Value {
    if field.is_map() {
        let Kind::Message(entry) = field.kind() else { unreachable!() };
        return json!({ "1": example(&entry.map_entry_value_field()) });
    }
    let value = match field.kind() {
        Kind::Bool => json!(true),
        Kind::String => json!("x"),
        Kind::Bytes => json!("eA=="),
        Kind::Enum(desc) => desc.values().find(|value| value.number() != 0).map_or(json!(0), |v| json!(v.name())),
        Kind::Message(desc) => match desc.full_name() {
            "google.protobuf.Any" => json!({ "@type": "type.googleapis.com/google.protobuf.Empty" }),
            "google.protobuf.Duration" => json!("1s"),
            "google.protobuf.BoolValue" => json!(true),
            "google.protobuf.StringValue" => json!("x"),
            "google.protobuf.Struct" => json!({ "x": "y" }),
            name if name.starts_with("google.protobuf.") => json!(1),
            _ => json!({}),
        },
        _ => json!(1),
    };
    if field.is_list() { json!([value]) } else { value }
}
