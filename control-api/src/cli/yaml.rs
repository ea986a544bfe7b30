//! Values as YAML, in the style of kubectl: two spaces, lists not indented, strings quoted only where they have to be.

use std::net::Ipv4Addr;

use serde_json::Value;

/// The value as a document.
pub(super) fn text(value: &Value) -> String {
    let mut out = String::new();
    write(value, 0, &mut out);
    out
}

/// Writes the lines of a value, each indented by `depth` levels, and ends the last.
pub(super) fn write(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                out.push_str(&indent);
                out.push_str(&scalar(key));
                out.push(':');
                match value {
                    // A list's dashes stand below its key.
                    Value::Array(list) if !list.is_empty() => {
                        out.push('\n');
                        write(value, depth, out);
                    }
                    Value::Object(map) if !map.is_empty() => {
                        out.push('\n');
                        write(value, depth + 1, out);
                    }
                    _ => {
                        out.push(' ');
                        write(value, 0, out);
                    }
                }
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for element in list {
                let mut lines = String::new();
                write(element, depth + 1, &mut lines);
                out.push_str(&indent);
                out.push_str("- ");
                out.push_str(lines.trim_start_matches(' '));
            }
        }
        Value::Object(_) => out.push_str("{}\n"),
        Value::Array(_) => out.push_str("[]\n"),
        Value::String(text) => {
            out.push_str(&indent);
            out.push_str(&scalar(text));
            out.push('\n');
        }
        other => {
            out.push_str(&indent);
            out.push_str(&other.to_string());
            out.push('\n');
        }
    }
}

/// A string so that every reader of YAML, 1.1 or 1.2, reads it as that string.
fn scalar(text: &str) -> String {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=+@%,~()$^;<> *".contains(&byte);
    let plain = text.bytes().all(inner)
        && text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'/' || byte == b'_')
        && !text.ends_with([' ', ':'])
        && !text.contains(": ")
        && !text.contains(" #");
    // Words that YAML 1.1 takes for something else.
    let words = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    let address = text.parse::<Ipv4Addr>().is_ok();
    if address || plain && !words.contains(&text.to_ascii_lowercase().as_str()) {
        text.to_owned()
    } else {
        // A string of JSON is one of YAML.
        Value::from(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_read_back_as_the_same() {
        let value = json!({
            "kind": "X",
            "empty": [{}, [], "", null],
            "list": [{"a": 1, "b": [true, "yes", "1.5", "0x1", "10s", "a: b", "a #b", "- a", "*", "line\nline", "ü"]}, [[2]]],
            "map": {"a/b.c": "d:", "on": "x y", "12": "http://h/p?q"},
        });
        let text = text(&value);
        let back: Value = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(back, value, "{text}");
    }

    #[test]
    fn it_looks_as_kubectl_writes_it() {
        let value =
            json!({"kind": "Service", "spec": {"ports": [{"name": "http", "port": 80}], "clusterIP": "10.0.0.1"}});
        assert_eq!(
            text(&value),
            "kind: Service\nspec:\n  clusterIP: 10.0.0.1\n  ports:\n  - name: http\n    port: 80\n"
        );
    }
}
