//! The scenarios in which we and Envoy are not equal, each with its reason. The list is checked both ways: a difference that
//! is not listed fails the suite, and so does a listed one that is gone.

use std::fmt::Write;

/// Why a scenario may differ.
#[derive(Debug)]
#[allow(dead_code, reason = "the best list of verdicts is an empty one")]
pub(crate) enum Verdict {
    /// On purpose, for good. These make `docs/differences-from-envoy.md`.
    Differs {
        /// What Envoy does and what we do.
        what: &'static str,
        /// The user who is better off.
        better: &'static str,
    },
    /// Not yet right: begins with `not in this version: ` or `to fix: `.
    Known(&'static str),
}

/// At most so many scenarios differ on purpose.
pub(crate) const MOST_ON_PURPOSE: usize = 8;

/// By the name of the scenario.
pub(crate) const VERDICTS: &[(&str, Verdict)] = &[];

/// The verdict on a scenario.
pub(crate) fn of(name: &str) -> Option<&'static Verdict> {
    VERDICTS.iter().find(|(scenario, _)| *scenario == name).map(|(_, verdict)| verdict)
}

/// `docs/differences-from-envoy.md`.
pub(crate) fn page() -> String {
    let mut page = String::from(
        "# Differences from Envoy\n\n\
         Generated from the verdicts of the differential suite (`tests/tests/differential/verdicts.rs`); do not edit.\n\n\
         The suite gives Envoy and Outrigger the same bootstrap, the same upstreams and the same client bytes, and compares\n\
         what each did. Everything that it covers is equal, but for what stands here.\n\n",
    );
    let mut any = false;
    for (name, verdict) in VERDICTS {
        if let Verdict::Differs { what, better } = verdict {
            any = true;
            let _ = write!(page, "## {}\n\n{what}\n\nBetter off: {better}\n\n", name.replace('_', " "));
        }
    }
    if !any {
        page.push_str("Nothing differs on purpose.\n\n");
    }
    page.push_str("## Not yet equal\n\n");
    let mut any = false;
    for (name, verdict) in VERDICTS {
        if let Verdict::Known(why) = verdict {
            any = true;
            let _ = writeln!(page, "- {}: {why}", name.replace('_', " "));
        }
    }
    if !any {
        page.push_str("Nothing is known.\n");
    }
    page
}
