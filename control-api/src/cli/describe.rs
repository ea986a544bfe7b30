//! `outrigger describe`.

use std::fmt::Write as _;

use clap::Args;
use outrigger_proto::outrigger::control::v1::{GetRequest, ObjectKey};
use serde_json::Value;

use super::table::Table;
use super::{Failure, NamespaceArgs, ServerArgs, age, kind_and_names, one_line, print, request, yaml};
use crate::api::objects;

/// Flags of `describe`.
#[derive(Clone, Debug, Args)]
pub struct DescribeArgs {
    /// KIND NAME..., or KIND/NAME...
    #[arg(value_name = "KIND NAME", required = true)]
    pub objects: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented by its type")]
    pub namespace: NamespaceArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented by its type")]
    pub server: ServerArgs,
}

pub(super) async fn describe(args: DescribeArgs) -> Result<(), Failure> {
    let (kind, names) = kind_and_names(&args.objects)?;
    if names.is_empty() {
        return Err(Failure(format!("say which: outrigger describe {} NAME", kind.as_str())));
    }
    let mut client = args.server.connect().await?;
    for (index, name) in names.into_iter().enumerate() {
        let key = ObjectKey {
            kind: kind.as_str().to_owned(),
            namespace: args.namespace.name().to_owned(),
            name,
            resource_version: String::new(),
        };
        let found = client.get(request(GetRequest { key: Some(key) })).await?.into_inner().object;
        let text = found.map(|object| describe_object(&objects::json(&object))).unwrap_or_default();
        print(&if index > 0 { format!("\n\n{text}") } else { text })?;
    }
    Ok(())
}

fn describe_object(object: &Value) -> String {
    let metadata = &object["metadata"];
    let word = |value: &Value, absent: &str| match value {
        Value::Null => absent.to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut out = String::new();
    line("Name", &word(&metadata["name"], ""), &mut out);
    line("Namespace", &word(&metadata["namespace"], "default"), &mut out);
    for (title, key) in [("Labels", "labels"), ("Annotations", "annotations")] {
        let pairs = metadata[key].as_object().into_iter().flatten();
        let pairs: Vec<String> = pairs.map(|(key, value)| format!("{key}={}", word(value, ""))).collect();
        line(title, pairs.first().map_or("<none>", String::as_str), &mut out);
        for pair in pairs.iter().skip(1) {
            _ = writeln!(out, "{:18}{pair}", "");
        }
    }
    line("API Version", &word(&object["apiVersion"], ""), &mut out);
    line("Kind", &word(&object["kind"], ""), &mut out);
    let created = word(&metadata["creationTimestamp"], "");
    line("Created", &format!("{created} ({} ago)", age(&created)), &mut out);
    line("Generation", &word(&metadata["generation"], ""), &mut out);
    line("Resource Version", &word(&metadata["resourceVersion"], ""), &mut out);
    out.push_str("Spec:\n");
    yaml::write(&object["spec"], 1, &mut out);
    if let Some(health) = object["status"]["health"].as_str() {
        line("Health", health, &mut out);
    }
    conditions(&object["status"], &mut out);
    out
}

fn line(name: &str, text: &str, out: &mut String) {
    // Writing to a String cannot fail.
    _ = writeln!(out, "{:<18}{}", format!("{name}:"), one_line(text));
}

/// The conditions of an object, at each parent of a route, each target of a policy.
fn conditions(status: &Value, out: &mut String) {
    if status["conditions"].as_array().is_some_and(|all| !all.is_empty()) {
        out.push_str("Conditions:\n");
        out.push_str(&table(&status["conditions"]));
    }
    for (list, reference) in [("parents", "parentRef"), ("ancestors", "ancestorRef")] {
        for parent in status[list].as_array().into_iter().flatten() {
            let target = &parent[reference];
            let kind = target["kind"].as_str().unwrap_or("Gateway");
            let mut name = target["name"].as_str().unwrap_or_default().to_owned();
            if let Some(namespace) = target["namespace"].as_str() {
                name = format!("{namespace}/{name}");
            }
            for part in ["port", "sectionName"] {
                match &target[part] {
                    Value::Null => {}
                    Value::String(text) => name = format!("{name}, {part} {text}"),
                    other => name = format!("{name}, {part} {other}"),
                }
            }
            _ = writeln!(out, "Conditions at {kind} {name}:");
            out.push_str(&table(&parent["conditions"]));
        }
    }
}

fn table(conditions: &Value) -> String {
    let mut table = Table::new(vec!["  TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"]);
    for condition in conditions.as_array().into_iter().flatten() {
        let text = |name: &str| condition[name].as_str().unwrap_or_default().to_owned();
        let since = age(&text("lastTransitionTime"));
        table.add(vec![format!("  {}", text("type")), text("status"), text("reason"), since, text("message")]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_are_shown_wherever_an_object_has_them() {
        let left_out = json!([{"type": "Accepted", "status": "False", "reason": "Invalid", "message": "spec: no"}]);
        let service = describe_object(&json!({"kind": "Service", "status": {"conditions": left_out}}));
        assert!(service.contains("Conditions:\n  TYPE") && service.contains("spec: no"), "{service}");
        let parent = json!({"parentRef": {"kind": "Service", "name": "a"}, "conditions": left_out});
        let route = describe_object(&json!({"kind": "HTTPRoute", "status": {"parents": [parent]}}));
        assert!(route.contains("Conditions at Service a:\n  TYPE") && route.contains("spec: no"), "{route}");
    }
}
