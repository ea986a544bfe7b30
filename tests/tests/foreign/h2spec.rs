//! h2spec, the conformance tests of HTTP/2.

use std::collections::BTreeSet;

use outrigger_tests::peers;

use crate::{Proxy, Setup, run};

/// How often the cases are run before a failure counts. Several send a fault behind a request and want to hear of the fault
/// first: where the answer was quicker, they fail. What fails every time is no chance.
const TRIES: usize = 6;

/// Runs all cases; those named in `exceptions` may fail, and of the others no more than `late` in every run: those whose
/// fault came after our answer. What becomes of such faults the differential suite says, in one write.
fn conforms(setup: &Setup, exceptions: &[&str], late: usize) {
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
        now.retain(|case| !exceptions.iter().any(|exception| case.ends_with(exception)));
        let always: BTreeSet<String> = match failed.take() {
            Some(before) => before.intersection(&now).cloned().collect(),
            None => now,
        };
        if always.len() <= late {
            return;
        }
        failed = Some(always);
    }
    panic!("{failed:?}");
}

#[test]
fn on_a_plain_listener() {
    conforms(&Setup { codec: Some("HTTP2"), ..Setup::default() }, &[], 0);
}

/// A request and the fault behind it are two TLS records, so that the answer to the first is often quicker than the second.
const LATE_BY_TLS: usize = 3;

#[test]
fn on_a_tls_listener() {
    conforms(&Setup { tls: true, ..Setup::default() }, &[], LATE_BY_TLS);
}

/// On a listener that takes HTTP/1 as well, what does not begin like HTTP/2 is HTTP/1, and is answered as such before the
/// connection closes. RFC 9113, section 3.4: "an invalid preface indicates that the peer is not using HTTP/2".
#[test]
fn on_a_listener_of_both_versions() {
    conforms(&Setup::default(), &["Sends invalid connection preface"], 0);
}
