//! The scenarios in which we and Envoy are not equal, each with its reason. The lists are checked both ways: a difference
//! that is not listed fails the suite, and so does a listed one that is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// What may differ in a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Aspect {
    /// What client and upstreams saw.
    Traffic,
    /// The lines of the access log.
    AccessLog,
    /// The statistics.
    Counters,
}

impl Aspect {
    /// What a line of an observation, or of a diff, is about.
    pub(crate) fn of(line: &str) -> Self {
        let line = line.trim_start_matches(['-', '+', ' ']);
        if line.starts_with("counter ") {
            Self::Counters
        } else if line.starts_with("access log: ") {
            Self::AccessLog
        } else {
            Self::Traffic
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Traffic => "traffic",
            Self::AccessLog => "access log",
            Self::Counters => "counters",
        }
    }
}

/// A difference on purpose, for good. These make `docs/differences-from-envoy.md`.
#[derive(Debug)]
pub(crate) struct Differs {
    /// In a few words.
    pub(crate) title: &'static str,
    /// What Envoy does and what we do.
    pub(crate) what: &'static str,
    /// The user who is better off.
    pub(crate) better: &'static str,
    /// Where it shows.
    pub(crate) scenarios: &'static [&'static str],
}

/// At most one scenario in ten differs on purpose.
pub(crate) const MOST_ON_PURPOSE: usize = 10;

/// See [`Differs`].
pub(crate) const ON_PURPOSE: &[Differs] = &[];

/// Not yet right, a scenario a line: its name, what differs, and why (`not in this version: ` or `to fix: `), separated by
/// ` | `. `KNOWN=file` writes what the list would have to be now.
const KNOWN: &str = include_str!("known.txt");

/// A line of the list of what is not yet right.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) aspects: BTreeSet<Aspect>,
    pub(crate) why: &'static str,
}

/// The list of what is not yet right, by scenario.
pub(crate) fn known() -> BTreeMap<&'static str, Known> {
    KNOWN
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| {
            let mut parts = line.splitn(3, " | ");
            let name = parts.next().unwrap_or_default();
            let listed = parts.next().unwrap_or_default();
            let aspects = [Aspect::Traffic, Aspect::AccessLog, Aspect::Counters];
            let aspects = aspects.into_iter().filter(|aspect| listed.contains(aspect.name())).collect();
            (name, Known { aspects, why: parts.next().unwrap_or_default() })
        })
        .collect()
}

/// One line of the list.
pub(crate) fn known_line(name: &str, aspects: &BTreeSet<Aspect>, why: &str) -> String {
    let aspects: Vec<&str> = aspects.iter().map(|aspect| aspect.name()).collect();
    format!("{name} | {} | {why}\n", aspects.join(", "))
}

/// The difference on purpose that shows in this scenario.
pub(crate) fn on_purpose(name: &str) -> Option<&'static Differs> {
    ON_PURPOSE.iter().find(|differs| differs.scenarios.contains(&name))
}

/// `docs/differences-from-envoy.md`.
pub(crate) fn page() -> String {
    let mut page = String::from(
        "# Differences from Envoy\n\n\
         Generated from the verdicts of the differential suite (`tests/tests/differential/verdicts.rs` and `known.txt`); do not\n\
         edit.\n\n\
         The suite gives Envoy and Outrigger the same bootstrap, the same upstreams and the same client bytes, and compares\n\
         what each did: traffic, access log, counters. What it covers is equal, but for what stands here.\n\n\
         # On purpose\n\n",
    );
    for Differs { title, what, better, scenarios } in ON_PURPOSE {
        let scenarios: Vec<String> = scenarios.iter().map(|name| format!("`{name}`")).collect();
        let _ = write!(page, "## {title}\n\n{what}\n\nBetter off: {better}\n\nScenarios: {}\n\n", scenarios.join(", "));
    }
    if ON_PURPOSE.is_empty() {
        page.push_str("Nothing.\n\n");
    }
    page.push_str("# Not yet equal\n\n");
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, known) in known() {
        let aspects: Vec<&str> = known.aspects.iter().map(|aspect| aspect.name()).collect();
        reasons.entry(known.why).or_default().push(format!("`{name}` ({})", aspects.join(", ")));
    }
    for (why, scenarios) in &reasons {
        let _ = writeln!(page, "- {why}: {}", scenarios.join(", "));
    }
    if reasons.is_empty() {
        page.push_str("Nothing is known.\n");
    }
    page
}
