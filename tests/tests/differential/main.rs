//! Envoy as the oracle: the same bootstrap, the same scripted upstreams and the same client bytes go to Envoy and to
//! us, and what each did is compared line by line.
//!
//! `SCENARIO=part-of-a-name` runs only those scenarios, `SHOW=1` prints what Envoy did in each, `DIFFERENCES=file`
//! writes every difference there, `KNOWN=file` the list of known ones as it would have to be.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a suite reports what went wrong by failing"
)]

mod cases;
mod mutations;
mod observation;
mod report;
mod run;
mod scenario;
mod side;
mod verdicts;

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use mutations::MUTATIONS;
use observation::Observation;
use report::{Report, diff, say};
use run::{Observations, run};
use scenario::Scenario;
use side::Side;

/// One run at a time: two at once would only slow each other, and timeouts are part of the scenarios.
static TURN: Mutex<()> = Mutex::new(());

/// How often a scenario is run before a difference counts. Chance has a part in whether a connection that is closed
/// with unread bytes ends in FIN or RST, and in what a busy machine does first: what differs every time is no chance.
const TRIES: usize = 4;

/// The scenarios of this run.
fn scenarios() -> Vec<Scenario> {
    let wanted = std::env::var("SCENARIO").unwrap_or_default();
    cases::all().into_iter().filter(|scenario| scenario.name.contains(&wanted)).collect()
}

fn missing<'a>(observations: &'a Observations, name: &str) -> &'a Observation {
    observations.get(name).unwrap_or_else(|| panic!("{name} was not run"))
}

/// What Envoy does in all scenarios of this run: one run for all tests of this process.
fn reference(envoy: &Side) -> &'static Observations {
    static REFERENCE: OnceLock<Observations> = OnceLock::new();
    REFERENCE.get_or_init(|| {
        let observations = run(envoy, &scenarios());
        assert_served(&observations);
        observations
    })
}

/// A scenario whose configuration Envoy refuses would be equal to itself, and prove nothing.
fn assert_served(observations: &Observations) {
    let silent: Vec<String> = observations
        .iter()
        .filter_map(|(name, observation)| observation.lines.first().map(|line| format!("{name}: {line}")))
        .filter(|line| line.contains(": the proxy "))
        .collect();
    assert!(silent.is_empty(), "Envoy did not serve:\n{}", silent.join("\n"));
}

#[test]
fn outrigger_does_what_envoy_does() {
    let Some(envoy) = Side::envoy("outrigger_does_what_envoy_does") else { return };
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let scenarios = scenarios();
    let mut theirs = reference(&envoy).clone();
    let mut ours = run(&Side::Outrigger, &scenarios);
    // Where chance has a part, Envoy does one thing or the other: ours is equal if Envoy was seen to do it.
    let mut seen = vec![theirs.clone()];
    for _ in 1..TRIES {
        let again = scenarios.iter().filter(|scenario| Report::is_wrong(scenario, &theirs, &ours));
        let again: Vec<Scenario> = again.cloned().collect();
        if again.is_empty() {
            break;
        }
        seen.push(run(&envoy, &again));
        ours.extend(run(&Side::Outrigger, &again));
        for scenario in &again {
            let with = |theirs: &&Observations| {
                theirs.contains_key(&scenario.name) && !Report::is_wrong(scenario, theirs, &ours)
            };
            let like = seen.iter().find(with).or(seen.last()).and_then(|theirs| theirs.get(&scenario.name));
            theirs.extend(like.map(|like| (scenario.name.clone(), like.clone())));
        }
    }
    let report = Report::new(&scenarios, &theirs, &ours);
    if let Some(file) = std::env::var_os("DIFFERENCES") {
        std::fs::write(file, report.differences()).expect("a file that can be written");
    }
    if let Some(file) = std::env::var_os("KNOWN") {
        std::fs::write(file, &report.known).expect("a file that can be written");
    }
    say(&report.table());
    if !report.equal_now.is_empty() {
        say(&format!("equal now, and still on the list of known differences: {}\n", report.equal_now.join(", ")));
    }
    assert!(report.wrong.is_empty(), "- is Envoy, + is ours\n{}", report.wrong);
}

#[test]
fn verdicts_are_honest() {
    let names: Vec<String> = cases::all().into_iter().map(|scenario| scenario.name).collect();
    let on_purpose: Vec<&str> = verdicts::ON_PURPOSE.iter().flat_map(|differs| differs.scenarios).copied().collect();
    let known = verdicts::known();
    for name in on_purpose.iter().chain(known.keys()) {
        assert!(names.iter().any(|n| n == name), "a verdict on {name}, which is no scenario");
    }
    for (name, known) in &known {
        assert!(
            known.why.starts_with("not in this version: ") || known.why.starts_with("to fix: "),
            "{name}: {}",
            known.why
        );
        assert!(!known.aspects.is_empty() && !on_purpose.contains(name), "{name}: {known:?}");
    }
    let hostile = |name: &&str| verdicts::is_hostile(name);
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let [few_hostile, all_hostile] = [&on_purpose, &all].map(|names| names.iter().copied().filter(hostile).count());
    say(&format!(
        "on purpose: {few_hostile} of {all_hostile} hostile scenarios, {} of {}",
        on_purpose.len(),
        all.len()
    ));
    for (few, of) in [(on_purpose.len(), all.len()), (on_purpose.len() - few_hostile, all.len() - all_hostile)] {
        assert!(few * verdicts::MOST_ON_PURPOSE <= of, "{few} scenarios of {of} differ on purpose");
    }
}

/// `UPDATE=1` writes the page.
#[test]
fn the_page_of_differences_is_current() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/differences-from-envoy.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(file, verdicts::page()).expect("a file that can be written");
    }
    let page = std::fs::read_to_string(file).unwrap_or_default();
    assert!(page == verdicts::page(), "docs/differences-from-envoy.md is old: run this test with UPDATE=1");
}

#[test]
fn names_are_unique() {
    let mut names: Vec<String> = cases::all().into_iter().map(|scenario| scenario.name).collect();
    names.sort();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn envoy_agrees_with_itself_in_three_runs() {
    let Some(envoy) = Side::envoy("envoy_agrees_with_itself_in_three_runs") else { return };
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let scenarios = scenarios();
    let first = reference(&envoy);
    if std::env::var_os("SHOW").is_some() {
        for (name, observation) in first {
            say(&format!("== {name}\n{}", observation.lines.join("\n")));
        }
    }
    // Where chance has a part, a scenario has two ends: one that was seen before is no difference.
    let mut seen: BTreeMap<&str, Vec<Observation>> =
        scenarios.iter().map(|s| (s.name.as_str(), vec![missing(first, &s.name).clone()])).collect();
    let mut failures = String::new();
    for round in 1..=3 {
        let mut left = scenarios.clone();
        let mut lines = String::new();
        for _ in 0..TRIES {
            let again = run(&envoy, &left);
            lines.clear();
            left.retain(|scenario| {
                let now = missing(&again, &scenario.name);
                let seen = seen.get_mut(scenario.name.as_str()).expect("every scenario was seen once");
                if seen.contains(now) {
                    return false;
                }
                let differs = diff(missing(first, &scenario.name), now);
                lines.push_str(&format!("{} in run {round}:\n{}\n", scenario.name, differs.join("\n")));
                seen.push(now.clone());
                true
            });
            if left.is_empty() {
                break;
            }
        }
        failures.push_str(&lines);
    }
    assert!(failures.is_empty(), "Envoy differs from itself:\n{failures}");
}

#[test]
fn one_changed_field_shows() {
    let Some(envoy) = Side::envoy("one_changed_field_shows") else { return };
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let all = cases::all();
    let mut both = Vec::new();
    for (number, (name, mutation)) in MUTATIONS.iter().enumerate() {
        let original =
            all.iter().find(|scenario| scenario.name == *name).unwrap_or_else(|| panic!("no scenario {name}"));
        both.push(original.mutated(number, mutation));
        both.push(original.clone());
    }
    both.sort_by(|a, b| a.name.cmp(&b.name));
    both.dedup_by(|a, b| a.name == b.name);
    let observations = run(&envoy, &both);
    assert_served(&observations);
    let unseen: Vec<String> = MUTATIONS
        .iter()
        .enumerate()
        .filter(|(number, (name, _))| {
            missing(&observations, name) == missing(&observations, &format!("m{number}_{name}"))
        })
        .map(|(_, (name, mutation))| format!("{name} with {} = {}", mutation.pointer, mutation.value))
        .collect();
    assert!(unseen.is_empty(), "no difference was seen for:\n{}", unseen.join("\n"));
}
