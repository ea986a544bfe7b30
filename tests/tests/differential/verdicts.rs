//! The scenarios in which we and Envoy are not equal, each with its reason. The lists are checked both ways: a
//! difference that is not listed fails the suite, and so does a listed one that is gone.

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

/// At most one scenario in ten differs on purpose, and one in ten of those in which nobody is hostile: of the hostile
/// ones more do, as we are stricter.
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
            "hostile_field_that_begins_with_a_space",
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
        title: "An HTTP/2 connection that ends for the client's fault says so",
        what: "Envoy closes the connection after some faults without a word. We send GOAWAY with the code first, as RFC 9113, \
               section 5.4.1, wants, or RST_STREAM where it is a stream's window that overflows (section 6.9.1). Who resets too \
               many streams hears ENHANCE_YOUR_CALM, from Envoy INTERNAL_ERROR, and what was reset before we came to it costs \
               us no route, no answer and no line in the log.",
        better: "whoever maintains the client: its log says what it did wrong, where Envoy's would say that the connection was lost.",
        scenarios: &[
            "hostile_h2_rapid_reset",
            "hostile_h2_headers_on_an_even_stream",
            "hostile_h2_headers_on_stream_zero",
            "hostile_h2_reset_of_an_idle_stream",
            "hostile_h2_settings_on_a_stream",
            "hostile_h2_settings_with_a_huge_window",
            "hostile_h2_settings_with_a_tiny_frame",
            "hostile_h2_window_that_overflows",
            "hostile_h2_window_of_a_stream_that_overflows",
            "hostile_h2_push_promise_from_a_client",
            "hostile_h2_goaway_on_a_stream",
        ],
    },
    Differs {
        title: "A header block has few pieces",
        what: "Envoy refuses the stream where a header block has too many fields, and ends the connection only after hundreds of \
               CONTINUATION frames. We end it at the ninth, or where a head of the size that is allowed could have ended.",
        better: "whoever pays for the processor: what decodes to nothing that is served costs a few frames.",
        scenarios: &["hostile_h2_continuation_flood_that_stops"],
    },
    Differs {
        title: "Stream ids only go up, and no stream depends on itself",
        what: "Envoy overlooks a request on an id below the last one, and a priority on itself. To us the first is the \
               connection's fault (RFC 9113, section 5.1.1), the second the stream's (RFC 7540, section 5.3.1).",
        better: "whoever reads what two proxies made of the same frames: there is one reading.",
        scenarios: &["hostile_h2_stream_ids_that_go_back", "hostile_h2_priority_on_itself"],
    },
    Differs {
        title: "One stream too many ends alone",
        what: "Envoy closes a connection on which the client opens more streams than it may. We refuse the stream \
               (REFUSED_STREAM), as RFC 9113, section 5.1.2, wants, and close the connection where it goes on: a refused stream \
               counts like one that the client has reset. An upstream's answer without a status ends its stream only, too, as \
               section 8.1.1 has it.",
        better: "the other requests on the connection.",
        scenarios: &["h2_too_many_streams", "h2_upstream_answers_without_a_status"],
    },
    Differs {
        title: "An answer that the client does not take is not logged as taken",
        what: "Envoy's request is over when the answer lies in its buffer. Ours is over when the client's window took it, or the \
               time for that is up: `SI`, `stream_idle_timeout`.",
        better: "whoever looks for the reason why clients miss answers.",
        scenarios: &["hostile_h2_zero_window", "hostile_h2_window_of_one"],
    },
    Differs {
        title: "An HTTP/2 connection without a future is closed",
        what: "Envoy keeps a connection that will take no more requests, after the client's GOAWAY or for its own limit on \
               requests, until time closes it. We close it after the last answer.",
        better: "whoever counts connections, or waits for them to drain.",
        scenarios: &["h2_connection_for_two_requests", "h2_client_goes_away"],
    },
    Differs {
        title: "HEAD over HTTP/2 on both sides",
        what: "Envoy takes the `content-length` of the answer to HEAD for a fault, and resets the stream after the answer.",
        better: "the client that asks for a length.",
        scenarios: &["h2_to_h2_head_and_204"],
    },
    Differs {
        title: "Who asks for an upgrade is answered",
        what: "Envoy replaces a 200 to an upgrade by one without a body, and closes both connections; and of a request with a \
               body that asks for an upgrade it keeps the body, for which the server waits. We pass the 200 on (RFC 9110, \
               section 7.8: a server may ignore Upgrade), and answer such a request with 400 ourselves.",
        better: "the client, which sees what the server said, and does not wait for what never comes.",
        scenarios: &["upgrade_is_declined_by_the_upstream", "hostile_upgrade_with_a_body"],
    },
    Differs {
        title: "A request that no host has acted on goes to another connection",
        what: "Without a retry policy Envoy answers 503 where an upstream's GOAWAY says that it did not process the stream, or \
               where a kept connection ends just as a request is sent on it. We send the request once more, on another \
               connection: what GOAWAY excludes (RFC 9113, section 8.7) and what has not left or not arrived, whatever the \
               method; what may have arrived only if the method is idempotent (RFC 9110, section 9.2.2).",
        better: "the client of a server that restarts, drains, or closes idle connections.",
        scenarios: &[
            "reset_of_a_reused_connection",
            "h2_upstream_goes_away_without_a_retry_policy",
            "h2_upstream_goes_away_twice",
        ],
    },
    Differs {
        title: "A request head that never ends, ends its connection",
        what: "A client begins an HTTP/2 header block and does not end it within `request_headers_timeout` or \
`stream_idle_timeout`. Envoy answers its stream with 408 and keeps the connection, on which nothing but the rest of the block \
may come, until a frame breaks that rule or the connection idles. We end it with GOAWAY, and log the request with the same \
details and no code.",
        better: "who has other clients: the connection's place and memory are free.",
        scenarios: &["hostile_h2_head_without_end", "hostile_h2_head_without_end_is_idle"],
    },
    Differs {
        title: "A connection that has served its requests is no protocol error",
        what: "Envoy counts `upstream_cx_protocol_error` for each HTTP/2 connection to a host that it closes itself after \
`max_requests_per_connection`. We count `upstream_cx_max_requests` alone.",
        better: "who watches for hosts that break the protocol.",
        scenarios: &["h2_upstream_connections_for_two_requests"],
    },
    Differs {
        title: "TLS failures in our TLS library's words",
        what: "Where Envoy logs BoringSSL's error with its numbers, we log rustls's (`invalid peer certificate: UnknownIssuer`).",
        better: "whoever reads it.",
        scenarios: &["tls_upstream_is_not_trusted", "tls_upstream_has_another_name"],
    },
    Differs {
        title: "A TLS client that cannot be served gets an alert",
        what: "Envoy closes without a word what is no TLS, and serves a client that offers only protocols (ALPN) that the \
               listener does not speak. We send an alert: decode_error, no_application_protocol (RFC 7301, section 3.2).",
        better: "whoever fears that bytes meant for another protocol reach a server.",
        scenarios: &["tls_plain_bytes_on_a_tls_listener", "tls_alpn_without_overlap"],
    },
];

/// Not yet right, a scenario a line: its name, what differs, and why (`not in this version: ` or `to fix: `), separated
/// by ` | `. `KNOWN=file` writes what the list would have to be now.
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

/// Whether a peer in this scenario sends what nobody should.
pub(crate) fn is_hostile(name: &str) -> bool {
    name.starts_with("hostile_")
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
    let names = || ON_PURPOSE.iter().flat_map(|differs| differs.scenarios);
    let hostile = names().filter(|name| is_hostile(name)).count();
    let _ = write!(
        page,
        "{} scenarios, {hostile} of them hostile: somebody sends there what nobody should. In none of these does an upstream get a\n\
         part of a request that it would not get from Envoy; the suite fails otherwise.\n\n",
        names().count()
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
