//! h2spec, the conformance tests of HTTP/2.

use std::collections::BTreeSet;

use outrigger_tests::peers;

use crate::{Proxy, Setup, run};

/// How often the cases are run before a failure counts. Several send a fault behind a request and want to hear of the fault
/// first: where the answer was quicker, they fail. What fails every time is no chance.
const TRIES: usize = 6;

/// This one's fault comes behind a request without a body, in the next write: on a busy machine the answer is complete before, and
/// then there is no stream to be reset. What becomes of the fault is judged by the differential suite, in one write.
const RACE: &str = "Sends a HEADERS frame that contains a pseudo-header field as trailers";

/// Runs all cases; those named in `exceptions` may fail, and no other.
fn conforms(setup: &Setup, exceptions: &[&str]) {
    let Some(program) = peers::find("h2spec", "h2spec") else { return };
    let proxy = Proxy::start(setup);
    let port = proxy.port().to_string();
    let mut arguments = vec!["-p", &port, "-o", "5"];
    if setup.tls {
        arguments.extend(["-t", "-k"]);
    }
    let mut failed: Option<BTreeSet<String>> = None;
    for _ in 0..TRIES {
        let (_, output) = run(program.clone(), &arguments);
        let summary = output.lines().rev().find(|line| line.contains(" tests, ")).unwrap_or_default();
        assert!(summary.starts_with("145 tests"), "{output}");
        let mut now: BTreeSet<String> =
            output.lines().filter_map(|line| line.rsplit_once("× ")).map(|(_, case)| case.to_owned()).collect();
        now.retain(|case| !case.ends_with(RACE) && !exceptions.iter().any(|exception| case.ends_with(exception)));
        let always: BTreeSet<String> = match failed.take() {
            Some(before) => before.intersection(&now).cloned().collect(),
            None => now,
        };
        if always.is_empty() {
            return;
        }
        failed = Some(always);
    }
    panic!("{failed:?}");
}

#[test]
fn on_a_plain_listener() {
    conforms(&Setup { codec: Some("HTTP2"), ..Setup::default() }, &[]);
}

#[test]
fn on_a_tls_listener() {
    conforms(&Setup { tls: true, ..Setup::default() }, &[]);
}

/// On a listener that takes HTTP/1 as well, what does not begin like HTTP/2 is HTTP/1, and is answered as such before the
/// connection closes. RFC 9113, section 3.4: "an invalid preface indicates that the peer is not using HTTP/2".
#[test]
fn on_a_listener_of_both_versions() {
    conforms(&Setup::default(), &["Sends invalid connection preface"]);
}
