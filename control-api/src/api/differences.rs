//! What differs between two versions of an object, value by value.

use outrigger_proto::outrigger::control::v1::{Difference, Object};
use serde_json::Value;

use super::objects::json;

/// One entry for each value that is different, with its path: `spec.rules[0].backendRefs[1].weight`.
pub(super) fn differences(before: Option<&Object>, after: Option<&Object>) -> Vec<Difference> {
    let mut found = Vec::new();
    let (before, after) = (before.map(json), after.map(json));
    walk("", before.as_ref(), after.as_ref(), &mut found);
    found
}

fn walk(path: &str, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<Difference>) {
    match (before, after) {
        (Some(before), Some(after)) if before == after => {}
        (Some(Value::Object(before)), Some(Value::Object(after))) => {
            let keys = before.keys().chain(after.keys().filter(|key| !before.contains_key(*key)));
            for key in keys {
                walk(&member(path, key), before.get(key), after.get(key), found);
            }
        }
        (Some(Value::Array(before)), Some(Value::Array(after))) => {
            for index in 0..before.len().max(after.len()) {
                walk(&format!("{path}[{index}]"), before.get(index), after.get(index), found);
            }
        }
        _ => {
            let text = |value: Option<&Value>| value.map(ToString::to_string).unwrap_or_default();
            found.push(Difference { path: path.to_owned(), before: text(before), after: text(after) });
        }
    }
}

/// As paths are written everywhere: keys that are no names of fields stand in brackets.
fn member(path: &str, key: &str) -> String {
    let is_name = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match (path.is_empty(), is_name) {
        (true, true) => key.to_owned(),
        (false, true) => format!("{path}.{key}"),
        (_, false) => format!("{path}[{key:?}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(before: Value, after: Value) -> Vec<String> {
        let mut found = Vec::new();
        walk("", Some(&before), Some(&after), &mut found);
        found.into_iter().map(|Difference { path, before, after }| format!("{path}: {before} -> {after}")).collect()
    }

    #[test]
    fn each_value_that_differs_has_its_path() {
        use serde_json::json;
        let before = json!({"spec": {"rules": [{"weight": 90}, {"weight": 10}]}, "labels": {"a/b": "x"}, "same": 1});
        let after = json!({"spec": {"rules": [{"weight": 0}], "hostnames": ["h"]}, "labels": {"a/b": "y"}, "same": 1});
        assert_eq!(
            found(before, after),
            [
                r#"labels["a/b"]: "x" -> "y""#,
                "spec.rules[0].weight: 90 -> 0",
                r#"spec.rules[1]: {"weight":10} -> "#,
                r#"spec.hostnames:  -> ["h"]"#,
            ]
        );
    }
}
