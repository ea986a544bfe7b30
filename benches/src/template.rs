//! Configurations of the peers stand in `benches/peers/` as the peers read them, with `{{name}}` where only the run
//! knows the value: ports, directories, and the further clusters and virtual hosts of the larger rows.

use std::collections::BTreeMap;

use anyhow::{Context, bail};

/// Values by the name that stands between the braces.
pub(crate) type Values = BTreeMap<&'static str, String>;

/// Puts each value in its place; a place without a value is an error. Lines after the first one of a value get the
/// indentation of their place.
pub(crate) fn render(template: &str, values: &Values) -> anyhow::Result<String> {
    let mut out = String::with_capacity(template.len());
    for line in template.lines() {
        let indent = line.len() - line.trim_start().len();
        let separator = format!("\n{}", " ".repeat(indent));
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("{{") {
            let (name, tail) = after.split_once("}}").with_context(|| format!("no closing braces in {line:?}"))?;
            let Some(value) = values.get(name) else { bail!("no value for {name:?}") };
            out.push_str(before);
            out.push_str(&value.replace('\n', &separator));
            rest = tail;
        }
        out.push_str(rest);
        out.push('\n');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_take_the_indentation_of_their_place() {
        let values = Values::from([("port", "80".to_owned()), ("list", "- a\n- b".to_owned())]);
        let text = render("listen: {{port}}\nall:\n  {{list}}\n", &values).unwrap();
        assert_eq!(text, "listen: 80\nall:\n  - a\n  - b\n");
    }

    #[test]
    fn a_place_without_a_value_is_an_error() {
        assert!(render("{{nothing}}", &Values::new()).is_err());
    }
}
