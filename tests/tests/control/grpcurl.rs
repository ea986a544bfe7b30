//! Any gRPC client is a client: the real grpcurl knows nothing of us but what reflection tells it.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use outrigger_tests::peers;
use outrigger_tests::plane::Plane;

use crate::shop::MESH;

struct Grpcurl {
    program: PathBuf,
    socket: PathBuf,
}

impl Grpcurl {
    fn command(&self, before: &[&str], after: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["-plaintext", "-unix", "-max-time", "60"]).args(before).arg(&self.socket).args(after);
        command.stdin(Stdio::null());
        command
    }

    /// Standard output, or both outputs if it failed.
    fn run(&self, before: &[&str], after: &[&str]) -> Result<String, String> {
        let output = self.command(before, after).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stdout) + &text(&output.stderr))
        }
    }

    fn call(&self, method: &str, request: &str) -> Result<String, String> {
        self.run(&["-d", request], &[&format!("outrigger.control.v1.Control/{method}")])
    }
}

fn apply(name: &str, port: u16) -> String {
    format!(
        r#"{{"objects": [{{"service": {{"apiVersion": "v1", "kind": "Service", "metadata": {{"name": "{name}"}},
            "spec": {{"ports": [{{"port": {port}}}]}}}}}}]}}"#
    )
}

fn without_space(text: &str) -> String {
    text.split_whitespace().collect()
}

#[test]
fn grpcurl_lists_describes_applies_and_watches() {
    let Some(program) = peers::find("grpcurl", "grpcurl_lists_describes_applies_and_watches") else { return };
    let directory = tempfile::tempdir().unwrap();
    let plane = Plane::start(MESH, directory.path());
    let grpcurl = Grpcurl { program, socket: plane.socket() };

    let services = grpcurl.run(&[], &["list"]).unwrap();
    for service in ["outrigger.control.v1.Control", "grpc.health.v1.Health", "AggregatedDiscoveryService"] {
        assert!(services.contains(service), "{service}: {services}");
    }
    assert!(!services.contains("AccessLogService"), "it is not served here: {services}");
    let described = grpcurl.run(&[], &["describe", "outrigger.control.v1.HTTPRouteRule"]).unwrap();
    assert!(described.contains("repeated .outrigger.control.v1.HTTPBackendRef backend_refs"), "{described}");
    let health =
        grpcurl.run(&["-d", r#"{"service": "outrigger.control.v1.Control"}"#], &["grpc.health.v1.Health/Check"]);
    assert_eq!(without_space(&health.unwrap()), r#"{"status":"SERVING"}"#);

    let refused = grpcurl.call("Apply", &apply("a", 0)).unwrap_err();
    for part in ["InvalidArgument", "objects[0].service.spec.ports[0].port", "0: must be 1 to 65535"] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    let applied = without_space(&grpcurl.call("Apply", &apply("a", 80)).unwrap());
    assert!(applied.starts_with(r#"{"revision":"1","applied":[{"outcome":"CREATED","#), "{applied}");

    let mut watch = grpcurl
        .command(&["-d", r#"{"kind": "Service"}"#], &["outrigger.control.v1.Control/Watch"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut until = |text: &str| assert!(lines.any(|line| line.trim().trim_end_matches(',') == text), "{text}");
    until(r#""event": "INITIAL""#);
    until(r#""event": "SYNCED""#);
    grpcurl.call("Apply", &apply("b", 80)).unwrap();
    until(r#""event": "APPLIED""#);
    until(r#""name": "b""#);
    grpcurl.call("Delete", r#"{"keys": [{"kind": "Service", "name": "a"}]}"#).unwrap();
    until(r#""event": "DELETED""#);
    watch.kill().unwrap();
    watch.wait().unwrap();
}
