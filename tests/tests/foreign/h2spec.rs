//! h2spec, the conformance tests of HTTP/2.
//!
//! Several cases send a fault behind the head of a request that is not complete. Who answers such a request resets its
//! stream, and a fault that comes later must be ignored (RFC 9113, section 5.1: "An endpoint MUST minimally process and
//! then discard any frames it receives in this state"). So the server behind the proxy reads a request to its end
//! before it answers: a fault meets its stream in the state that h2spec means. Where the request is complete, our
//! answer may come before the fault or after it; either is judged alike.

use std::collections::BTreeSet;
use std::sync::Arc;

use outrigger_tests::peers;
use outrigger_tests::upstream::{Record, Serving, Upstream};

use crate::{Proxy, Setup, run};

/// Runs all cases; those named in `exceptions` may fail.
fn conforms(setup: Setup, exceptions: &[&str]) {
    let Some(program) = peers::find("h2spec", "h2spec") else { return };
    let record = Arc::new(Record::default());
    let serving = Serving::start("upstream", &Upstream::h1().ok("hello there"), &record).unwrap();
    let setup = Setup { upstream: serving.ports()[0], ..setup };
    let proxy = Proxy::start(&setup);
    let port = proxy.port().to_string();
    let mut arguments = vec!["-p", &port, "-o", "10"];
    if setup.tls {
        arguments.extend(["-t", "-k"]);
    }
    let (_, output) = run(program, &arguments);
    let summary = output.lines().rev().find(|line| line.contains(" tests, ")).unwrap_or_default();
    assert!(summary.starts_with("145 tests"), "{output}");
    let mut failed: BTreeSet<&str> =
        output.lines().filter_map(|line| line.rsplit_once("× ")).map(|(_, case)| case).collect();
    failed.retain(|case| !exceptions.iter().any(|exception| case.ends_with(exception)));
    assert!(failed.is_empty(), "{failed:?}\n{output}");
    record.stop();
}

#[test]
fn on_a_plain_listener() {
    conforms(Setup { codec: Some("HTTP2"), ..Setup::default() }, &[]);
}

#[test]
fn on_a_tls_listener() {
    conforms(Setup { tls: true, ..Setup::default() }, &[]);
}

/// On a listener that takes HTTP/1 as well, what does not begin like HTTP/2 is HTTP/1, and is answered as such before
/// the connection closes. RFC 9113, section 3.4: "an invalid preface indicates that the peer is not using HTTP/2".
#[test]
fn on_a_listener_of_both_versions() {
    conforms(Setup::default(), &["Sends invalid connection preface"]);
}
