//! Two hundred bootstraps with one fault each: every one is refused, with the field's path, value, reason and line.

mod clusters;
mod form;
mod listeners;

use outrigger_engine::config::bootstrap::Bootstrap;
use outrigger_engine::source::Source;

use crate::FULL;

/// A fault: what is replaced (it occurs once), by what, the end of the field's path, and a part of the reason.
type Fault = (&'static str, &'static str, &'static str, &'static str);

#[test]
fn every_fault_is_refused_with_path_value_reason_and_line() {
    let faults: Vec<&Fault> = [form::FAULTS, listeners::FAULTS, clusters::FAULTS].into_iter().flatten().collect();
    assert!(faults.len() >= 200, "{} faults", faults.len());
    let mut wrong = String::new();
    for fault in faults {
        if let Err(complaint) = check(fault) {
            wrong += &format!("{:?} -> {:?}\n    {complaint}\n", fault.0, fault.1);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn check(&(find, replace, path, reason): &Fault) -> Result<(), String> {
    let (before, after) = FULL.split_once(find).ok_or("is not in the bootstrap")?;
    if after.contains(find) {
        return Err("is in the bootstrap more than once".to_owned());
    }
    let text = format!("{before}{replace}{after}");
    let first_line = before.matches('\n').count() + 1;
    let last_line = first_line + replace.matches('\n').count();
    let problems = match Bootstrap::load(&[Source::new("full.yaml", &text)]) {
        Ok(_) => return Err("is accepted".to_owned()),
        Err(problems) => problems,
    };
    let [problem] = problems.as_slice() else {
        let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
        return Err(format!("{} problems:\n        {}", all.len(), all.join("\n        ")));
    };
    if !problem.path.ends_with(path) || !problem.reason.contains(reason) {
        return Err(format!("expected {path}: {reason}, got: {problem}"));
    }
    // What is shown was written there, an address or a type URL perhaps in pieces; a whole message is called what it
    // is.
    let shown = problem.value.trim_matches('"').trim_start_matches("type.googleapis.com/");
    if !["a list", "a mapping"].contains(&shown)
        && !text.contains(shown)
        && !shown.split(':').all(|piece| text.contains(piece))
    {
        return Err(format!("the value is not what was written: {problem}"));
    }
    let location = problem.location.as_ref().ok_or("has no place")?;
    let line = location.line as usize;
    // What is missing is reported where the message around it starts.
    let earliest = if problem.value.is_empty() { 1 } else { first_line };
    // A parser may notice only later that the text is not YAML.
    if line < earliest || (line > last_line && !problem.path.is_empty()) {
        return Err(format!("expected line {first_line} to {last_line}, got: {problem}"));
    }
    Ok(())
}
