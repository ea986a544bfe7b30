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
pub(crate) const ON_PURPOSE: &[Differs] = &[
    Differs {
        title: "Folded fields are refused",
        what: "Envoy joins a header field that goes on in the next line (obs-fold) to one line. We answer 400, as RFC 9112, \
               section 5.2, allows a proxy.",
        better: "whoever runs a server that reads a folded field as two: no field can be hidden in a fold.",
        scenarios: &[
            "hostile_encoding_in_a_folded_field",
            "hostile_encoding_hidden_in_a_fold",
            "hostile_field_that_is_folded",
        ],
    },
    Differs {
        title: "Lines end in CR LF and nothing else",
        what: "Envoy takes a bare LF for the end of a line, and turns a bare CR in a value into something else. We answer 400.",
        better: "whoever runs a server that ends lines otherwise: both sides agree on where a field, and a request, ends.",
        scenarios: &["hostile_lines_end_in_lf", "hostile_field_with_a_bare_lf", "hostile_field_with_a_bare_cr"],
    },
    Differs {
        title: "Two Host fields are refused",
        what: "Envoy joins two Host fields by a comma and routes by the result. We answer 400, as RFC 9112, section 3.2, wants.",
        better: "whoever authorises by host: the server never sees two hosts to choose from.",
        scenarios: &["hostile_two_hosts"],
    },
    Differs {
        title: "HTTP/1.0 has no chunks",
        what: "Envoy forwards a chunked request of HTTP/1.0. We answer 400: RFC 9112, section 6.1, calls its framing faulty.",
        better: "whoever has an old server behind the proxy: a hop that knows only HTTP/1.0 cannot be fooled about the body.",
        scenarios: &["hostile_chunked_in_http_1_0"],
    },
    Differs {
        title: "A chunk ends where its size says",
        what: "Envoy skips bytes between a chunk and the end of its line. We end the request.",
        better: "whoever runs a server that does not skip them: nothing can be hidden there.",
        scenarios: &["hostile_chunk_longer_than_its_size"],
    },
    Differs {
        title: "A response has a status of three digits, and 101 only where an upgrade was asked for",
        what: "Envoy passes a status of two digits on, and a 101 to a client that asked for no upgrade. We answer 502.",
        better: "the client, which would read what follows as something that it is not.",
        scenarios: &["upstream_answers_a_status_of_two_digits", "upstream_answers_101_unasked"],
    },
    Differs {
        title: "Who resets too many streams is told so",
        what: "Envoy ends such a connection with INTERNAL_ERROR. We say ENHANCE_YOUR_CALM.",
        better: "whoever looks for the reason on the client's side.",
        scenarios: &["hostile_h2_rapid_reset"],
    },
];

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
