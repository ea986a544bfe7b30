//! Tables: which columns a kind has, and how they are laid out.

use serde_json::Value;

use super::{age, one_line};
use crate::model::Kind;

/// Rows under heads, each column as wide as its widest cell.
#[derive(Debug)]
pub(super) struct Table {
    widths: Vec<usize>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(heads: Vec<&str>) -> Self {
        let mut table = Table { widths: vec![0; heads.len()], rows: Vec::new() };
        table.add(heads.into_iter().map(str::to_owned).collect());
        table
    }

    pub(super) fn add(&mut self, row: Vec<String>) {
        let row = self.fit(row);
        self.rows.push(row);
    }

    /// The cells of a row, for which there is room from now on.
    fn fit(&mut self, row: Vec<String>) -> Vec<String> {
        let row: Vec<String> = row.iter().map(|cell| one_line(cell)).collect();
        for (width, cell) in self.widths.iter_mut().zip(&row) {
            *width = (*width).max(cell.chars().count());
        }
        row
    }

    /// Makes room under a head for what is to come.
    pub(super) fn expect(&mut self, head: &str, cell: &str) {
        let heads = self.rows.first().into_iter().flatten();
        for (width, _) in self.widths.iter_mut().zip(heads).filter(|(_, other)| *other == head) {
            *width = (*width).max(cell.chars().count());
        }
    }

    /// A row that comes after the text was shown.
    pub(super) fn later(&mut self, row: Vec<String>) -> String {
        let row = self.fit(row);
        self.line(&row)
    }

    pub(super) fn text(&self) -> String {
        self.rows.iter().map(|row| self.line(row)).collect()
    }

    fn line(&self, row: &[String]) -> String {
        let cells = row.iter().zip(&self.widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned() + "\n"
    }
}

/// The columns of a kind.
#[derive(Debug)]
pub(super) struct Columns {
    kind: Kind,
    namespace: bool,
    wide: bool,
}

impl Columns {
    /// `namespace`: show it. `wide`: show everything.
    pub(super) fn new(kind: Kind, namespace: bool, wide: bool) -> Self {
        Columns { kind, namespace, wide }
    }

    pub(super) fn heads(&self) -> Vec<&'static str> {
        let (own, wide): (&[&str], &[&str]) = match self.kind {
            Kind::Service => (&["TYPE", "CLUSTER-IP", "PORT(S)"], &["SELECTOR"]),
            Kind::Workload => (&["ADDRESSES", "HEALTH", "SERVICES"], &["LABELS", "LOCALITY", "WEIGHT"]),
            Kind::HttpRoute => (&["PARENTS", "RULES", "ACCEPTED", "RESOLVED", "PROGRAMMED"], &["BACKENDS"]),
            Kind::ServicePolicy => (&["TARGETS", "ACCEPTED", "PROGRAMMED"], &["FIELDS"]),
        };
        let mut heads = if self.namespace { vec!["NAMESPACE", "NAME"] } else { vec!["NAME"] };
        heads.extend(own);
        heads.push("AGE");
        if self.wide {
            heads.extend(wide);
        }
        heads
    }

    pub(super) fn row(&self, object: &Value) -> Vec<String> {
        let (metadata, spec) = (&object["metadata"], &object["spec"]);
        let mut row = Vec::new();
        if self.namespace {
            row.push(text(&metadata["namespace"], "default"));
        }
        row.push(text(&metadata["name"], ""));
        let wide = match self.kind {
            Kind::Service => {
                row.push(text(&spec["type"], "ClusterIP"));
                row.push(text(&spec["clusterIP"], "<none>"));
                row.push(join(&spec["ports"], |port| {
                    format!("{}/{}", text(&port["port"], "?"), text(&port["protocol"], "TCP"))
                }));
                vec![pairs(&spec["selector"])]
            }
            Kind::Workload => {
                row.push(join(&spec["addresses"], |address| text(address, "")));
                row.push(text(&object["status"]["health"], "Healthy"));
                row.push(join(&spec["services"], |service| text(&service["name"], "")));
                let place = &spec["locality"];
                let locality = ["region", "zone", "subzone"].map(|part| text(&place[part], ""));
                let locality = locality.join("/").trim_end_matches('/').to_owned();
                let locality = if locality.is_empty() { "<none>".to_owned() } else { locality };
                vec![pairs(&metadata["labels"]), locality, text(&spec["weight"], "1")]
            }
            Kind::HttpRoute => {
                row.push(join(&spec["parentRefs"], reference));
                row.push(spec["rules"].as_array().map_or(1, Vec::len).to_string());
                let parents = &object["status"]["parents"];
                row.push(condition(parents, "Accepted"));
                row.push(condition(parents, "ResolvedRefs"));
                row.push(condition(parents, "Programmed"));
                vec![join(&spec["rules"], |rule| join(&rule["backendRefs"], backend))]
            }
            Kind::ServicePolicy => {
                row.push(join(&spec["targetRefs"], reference));
                let ancestors = &object["status"]["ancestors"];
                row.push(condition(ancestors, "Accepted"));
                row.push(condition(ancestors, "Programmed"));
                let fields = spec.as_object().into_iter().flat_map(|spec| spec.keys());
                vec![fields.filter(|name| *name != "targetRefs").cloned().collect::<Vec<_>>().join(",")]
            }
        };
        let created = age(metadata["creationTimestamp"].as_str().unwrap_or_default());
        row.push(if created.is_empty() { "<unknown>".to_owned() } else { created });
        if self.wide {
            row.extend(wide);
        }
        row
    }
}

fn text(value: &Value, absent: &str) -> String {
    match value {
        Value::Null => absent.to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn join(list: &Value, of: impl Fn(&Value) -> String) -> String {
    let parts: Vec<String> = list.as_array().into_iter().flatten().map(of).collect();
    if parts.is_empty() { "<none>".to_owned() } else { parts.join(",") }
}

fn pairs(map: &Value) -> String {
    let pairs: Vec<String> =
        map.as_object().into_iter().flatten().map(|(key, value)| format!("{key}={}", text(value, ""))).collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

/// `users:8080`, `shop/users`
fn reference(reference: &Value) -> String {
    let mut name = text(&reference["name"], "");
    if let Some(namespace) = reference["namespace"].as_str() {
        name = format!("{namespace}/{name}");
    }
    for part in ["port", "sectionName"] {
        if !reference[part].is_null() {
            name = format!("{name}:{}", text(&reference[part], ""));
        }
    }
    name
}

/// `users:8080*90`
fn backend(backend: &Value) -> String {
    let weight = &backend["weight"];
    if weight.is_null() { reference(backend) } else { format!("{}*{weight}", reference(backend)) }
}

/// What a condition says at all parents: `True` only if at every one.
fn condition(parents: &Value, name: &str) -> String {
    let conditions =
        parents.as_array().into_iter().flatten().flat_map(|parent| parent["conditions"].as_array()).flatten();
    let found: Vec<&str> =
        conditions.filter(|one| one["type"] == name).filter_map(|one| one["status"].as_str()).collect();
    match found.as_slice() {
        [] => "<none>".to_owned(),
        [first, rest @ ..] if rest.iter().all(|other| other == first) => (*first).to_owned(),
        _ if found.contains(&"False") => "Partly".to_owned(),
        _ => "Unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_line_up_and_say_what_kubectl_says() {
        let mut table = Table::new(Columns::new(Kind::Service, true, false).heads());
        let columns = Columns::new(Kind::Service, true, false);
        table.add(columns.row(&json!({"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}, {"port": 443}]}})));
        let other = json!({"metadata": {"name": "products", "namespace": "s"}, "spec": {"clusterIP": "None"}});
        table.add(columns.row(&other));
        let text = "\
NAMESPACE   NAME       TYPE        CLUSTER-IP   PORT(S)          AGE
default     a          ClusterIP   <none>       80/TCP,443/TCP   <unknown>
s           products   ClusterIP   None         <none>           <unknown>
";
        assert_eq!(table.text(), text);
    }

    #[test]
    fn rows_that_come_later_stand_under_their_heads() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let mut table = Table::new(vec!["EVENT", "NAME", "HEALTH"]);
        table.expect("EVENT", "applied");
        table.add(row(["", "a", "Healthy"]));
        assert_eq!(table.text(), "EVENT     NAME   HEALTH\n          a      Healthy\n");
        assert_eq!(table.later(row(["applied", "a", "Draining"])), "applied   a      Draining\n");
        assert_eq!(table.later(row(["applied", "longer", "Healthy"])), "applied   longer   Healthy\n");
        assert_eq!(table.later(row(["deleted", "a", "Healthy"])), "deleted   a        Healthy\n", "as the row above");
    }

    #[test]
    fn a_route_shows_its_parents_backends_and_conditions() {
        let condition = |status: &str| json!({"conditions": [{"type": "Accepted", "status": status}]});
        let route = json!({
            "metadata": {"name": "r"},
            "spec": {
                "parentRefs": [{"name": "a", "port": 80}, {"name": "b", "namespace": "n"}],
                "rules": [{"backendRefs": [{"name": "v1", "port": 80, "weight": 90}, {"name": "v2", "port": 80}]}],
            },
            "status": {"parents": [condition("True"), condition("False")]},
        });
        let row = Columns::new(Kind::HttpRoute, false, true).row(&route);
        assert_eq!(row, ["r", "a:80,n/b", "1", "Partly", "<none>", "<none>", "<unknown>", "v1:80*90,v2:80"]);
    }
}
