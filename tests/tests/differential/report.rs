//! Two observations side by side, and the table at the end of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write;

use crate::observation::Observation;
use crate::run::Observations;
use crate::scenario::Scenario;
use crate::verdicts::{self, Aspect};

/// The lines in which two observations differ, `-` the left side's and `+` the right side's; empty if they are equal.
pub(crate) fn diff(left: &Observation, right: &Observation) -> Vec<String> {
    let (a, b) = (&left.lines, &right.lines);
    // The longest common subsequence, from the end.
    let mut common = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] = if a[i] == b[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::new();
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            (i, j) = (i + 1, j + 1);
        } else if i < a.len() && (j == b.len() || common[i + 1][j] >= common[i][j + 1]) {
            lines.push(format!("  - {}", a[i]));
            i += 1;
        } else {
            lines.push(format!("  + {}", b[j]));
            j += 1;
        }
    }
    lines
}

/// Whether this line of a diff is a part of a request that only the right side has sent to an upstream.
fn is_of_a_request_upstream(line: &str) -> bool {
    line.trim_start().strip_prefix("+ upstream connection ").is_some_and(|rest| rest.contains(", request "))
}

/// Says in a few words what differs, for a list that somebody will read: the field that we refuse, the first line, or
/// the counters.
fn reason(lines: &[String]) -> String {
    let refused = lines.iter().find_map(|line| line.split_once("did not start: ").map(|(_, why)| why));
    if let Some(why) = refused {
        let field = why.split_once(".json:").map_or(why, |(_, rest)| rest);
        let field = field.trim_start_matches(|c: char| c.is_ascii_digit() || c == ':' || c == ' ');
        return format!("not in this version: {}", field.split(": ").next().unwrap_or_default());
    }
    let first = |aspect| lines.iter().find(|line| Aspect::of(line) == aspect);
    if let Some(line) = first(Aspect::Traffic).or_else(|| first(Aspect::AccessLog)) {
        return format!("to fix: first `{}`", line.trim());
    }
    let mut names: Vec<&str> = lines
        .iter()
        .filter_map(|line| {
            line.split_once("counter ").and_then(|(_, rest)| rest.split_once(": ")).map(|(name, _)| name)
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    format!("to fix: {}", names.join(", "))
}

/// What comes of comparing all scenarios.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Per area: scenarios, equal, differing on purpose, known, wrong.
    areas: BTreeMap<&'static str, [usize; 5]>,
    /// What makes the suite fail.
    pub(crate) wrong: String,
    /// Scenarios that are listed and were equal in this run: they may come off the list.
    pub(crate) equal_now: Vec<String>,
    /// What the list of known differences would have to be now.
    pub(crate) known: String,
    /// Every difference in traffic, listed or not, with its lines.
    traffic: String,
    /// Every difference in access logs.
    access_log: String,
    /// Counters that differ, with the scenarios.
    counters: BTreeMap<String, Vec<String>>,
}

impl Report {
    /// Compares `left`, the oracle's, with `right`, by the verdicts.
    pub(crate) fn new(scenarios: &[Scenario], left: &Observations, right: &Observations) -> Self {
        let mut report = Self::default();
        let known = verdicts::known();
        for scenario in scenarios {
            let name = scenario.name.as_str();
            let nothing = Observation::default();
            let lines = diff(left.get(name).unwrap_or(&nothing), right.get(name).unwrap_or(&nothing));
            let aspects: BTreeSet<Aspect> = lines.iter().map(|line| Aspect::of(line)).collect();
            let listed = known.get(name).map(|known| known.aspects.clone()).unwrap_or_default();
            let on_purpose = verdicts::on_purpose(name);
            // Whoever is hostile gets no more past us than past Envoy, whatever the reason for a difference.
            let laxer = verdicts::is_hostile(name) && lines.iter().any(|line| is_of_a_request_upstream(line));
            let column = match (aspects.is_empty(), on_purpose) {
                (_, Some(_)) if laxer => 4,
                (true, None) if listed.is_empty() => 1,
                (_, Some(_)) => 2,
                (_, None) if !listed.is_empty() && aspects.is_subset(&listed) => 3,
                _ => 4,
            };
            if column == 4 {
                let _ = match listed.is_empty() {
                    true => writeln!(report.wrong, "{name} differs:\n{}", lines.join("\n")),
                    false => writeln!(
                        report.wrong,
                        "{name} differs in more than what is listed ({listed:?}, now {aspects:?}):\n{}",
                        lines.join("\n")
                    ),
                };
            }
            if column == 3 && lines.is_empty() {
                report.equal_now.push(name.to_owned());
            }
            if !lines.is_empty() {
                let why = known.get(name).filter(|known| known.aspects == aspects).map(|known| known.why.to_owned());
                let why = why.unwrap_or_else(|| reason(&lines));
                if on_purpose.is_none() {
                    report.known.push_str(&verdicts::known_line(name, &aspects, &why));
                }
                let note = if on_purpose.is_some() { "on purpose" } else { &why };
                report.sort_in(&format!("{} / {name} ({note})", scenario.area), name, &lines);
            }
            let row = report.areas.entry(scenario.area).or_default();
            row[0] += 1;
            row[column] += 1;
        }
        report
    }

    /// Whether `scenario` shows a difference that no list explains.
    pub(crate) fn is_wrong(scenario: &Scenario, left: &Observations, right: &Observations) -> bool {
        !Report::new(std::slice::from_ref(scenario), left, right).wrong.is_empty()
    }

    /// Files the lines by what they are about: a counter that is missing everywhere is one thing, not three hundred.
    fn sort_in(&mut self, title: &str, name: &str, lines: &[String]) {
        for (section, aspect) in [(&mut self.traffic, Aspect::Traffic), (&mut self.access_log, Aspect::AccessLog)] {
            let lines: Vec<&str> = lines.iter().map(String::as_str).filter(|line| Aspect::of(line) == aspect).collect();
            if !lines.is_empty() {
                let _ = writeln!(section, "### {title}\n{}\n", lines.join("\n"));
            }
        }
        for line in lines.iter().filter(|line| Aspect::of(line) == Aspect::Counters) {
            let words = line.trim().split_once(" counter ").map_or("", |(_, counter)| counter);
            let counter = words.split(": ").next().unwrap_or_default();
            let family = match counter.strip_prefix("cluster.").and_then(|rest| rest.split_once('.')) {
                Some((_, name)) => format!("cluster.*.{name}"),
                None => counter.to_owned(),
            };
            let seen = self.counters.entry(family).or_default();
            let (side, value) =
                (line.trim().split(' ').next().unwrap_or_default(), words.rsplit(": ").next().unwrap_or_default());
            seen.push(format!("{name} {side}{value}"));
        }
    }

    /// All differences, for whoever is to remove them.
    pub(crate) fn differences(&self) -> String {
        let mut text = format!("{}\n`-` is Envoy, `+` is ours.\n\n# Traffic\n\n{}", self.table(), self.traffic);
        let _ = write!(text, "# Access log\n\n{}# Counters\n\n", self.access_log);
        let mut counters: Vec<_> = self.counters.iter().collect();
        counters.sort_by_key(|(_, scenarios)| std::cmp::Reverse(scenarios.len()));
        for (counter, scenarios) in counters {
            let shown = scenarios.iter().take(12).cloned().collect::<Vec<_>>().join(", ");
            let _ = writeln!(text, "- {counter}: {} lines, such as {shown}", scenarios.len());
        }
        text
    }

    /// The table.
    pub(crate) fn table(&self) -> String {
        let mut table = format!(
            "{:<22}{:>10}{:>8}{:>12}{:>8}{:>8}\n",
            "area", "scenarios", "equal", "on purpose", "known", "wrong"
        );
        let mut sum = [0; 5];
        let mut row = |name: &str, row: &[usize; 5]| {
            let _ = writeln!(table, "{name:<22}{:>10}{:>8}{:>12}{:>8}{:>8}", row[0], row[1], row[2], row[3], row[4]);
        };
        for (area, counts) in &self.areas {
            row(area, counts);
            sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        row("all", &sum);
        table
    }
}

/// Writes past the capture of the test runner: the table belongs to the log of a good run too.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
