//! The control plane, killed by -9 and started again on its file: what it reads and compiles is, byte for byte, what
//! the proxies have, so it sends them nothing until something changes.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use outrigger_tests::ports::Reserved;
use outrigger_tests::process::Process;
use outrigger_tests::{admin, peers};
use serde_json::Value;

use crate::echo::Echo;
use crate::{Proxy, ask, cases, envoy, outrigger, until};

/// `outrigger serve`. Dropping it kills it by -9.
struct Plane {
    process: Process,
    directory: PathBuf,
    /// Where `/metrics` is.
    pages: SocketAddr,
}

fn control() -> Command {
    match peers::shipped("outrigger") {
        Some(program) => Command::new(program),
        None => {
            let mut command = Command::new(env!("CARGO_BIN_EXE_mesh"));
            command.arg("control");
            command
        }
    }
}

impl Plane {
    fn start(directory: &Path) -> Self {
        let mut command = control();
        command.args(["serve", "--http", "127.0.0.1:0", "--listen", &address(directory), "--data"]);
        command.arg(directory.join("data"));
        let mut process = Process::start(command, &directory.join("log")).unwrap();
        let pages = |log: &str| log.split_once(", HTTP on ")?.1.split_once(';')?.0.parse().ok();
        until("the control plane listens", || {
            assert!(process.ended().is_none(), "{}", process.output());
            pages(&process.output()).is_some()
        });
        let pages = pages(&process.output()).unwrap();
        Self { process, directory: directory.to_owned(), pages }
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        let mut command = control();
        command.args(arguments).current_dir(&self.directory).env("OUTRIGGER_SERVER", address(&self.directory));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}\n{}", self.process.output());
        String::from_utf8(output.stdout).unwrap()
    }

    fn apply(&self, yaml: &str) {
        std::fs::write(self.directory.join("objects.yaml"), yaml).unwrap();
        self.run(&["apply", "-f", "objects.yaml"]);
    }

    /// Whether these proxies have said of all four kinds what they have, and have all of it.
    fn has_synced(&self, ids: &[&str]) -> bool {
        let proxies: Value = serde_json::from_str(&self.run(&["proxies", "-o", "json"])).unwrap();
        let proxies = proxies.as_array().unwrap();
        let is_synced = |of: &Value| of["sentVersion"] != "" && of["sentVersion"] == of["acceptedVersion"];
        let has_all = |proxy: &Value| {
            let types = proxy["types"].as_array().unwrap();
            types.len() == 4 && types.iter().all(is_synced)
        };
        ids.iter().all(|id| proxies.iter().any(|proxy| proxy["id"] == *id && has_all(proxy)))
    }

    /// A counter of `/metrics`, by type of resource; those that are not 0.
    fn counts(&self, name: &str) -> BTreeMap<String, u64> {
        let mut stream = TcpStream::connect(self.pages).unwrap();
        let host = self.pages;
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let samples =
            text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix("{type=\"")?.split_once("\"} "));
        let samples = samples.map(|(of, value)| (of.to_owned(), value.trim().parse().unwrap()));
        samples.filter(|(_, value)| *value != 0).collect()
    }

    fn sent(&self) -> BTreeMap<String, u64> {
        self.counts("outrigger_control_xds_responses_total")
    }
}

fn address(directory: &Path) -> String {
    format!("unix:{}", directory.join("control.sock").display())
}

#[test]
fn after_a_restart_nothing_is_sent_that_is_unchanged() {
    let (one, two, three) = (Echo::start("one").address, Echo::start("two").address, Echo::start("three").address);
    let directory = tempfile::tempdir().unwrap();
    let plane = Plane::start(directory.path());
    // One at a time: the order of the store is not that in which they came.
    plane.apply(&cases::without_routes(one, two));
    for route in cases::routes().iter().rev() {
        plane.apply(route);
    }
    let programs =
        [("outrigger", Some(outrigger())), ("envoy", peers::find("envoy", "restart").map(|program| envoy(&program)))];
    let running: Vec<_> = programs
        .into_iter()
        .filter_map(|(id, command)| {
            let [port, inbound] = [(); 2].map(|()| Reserved::new().unwrap());
            let flags = [
                "--service=caller".to_owned(),
                format!("--id={id}"),
                format!("--control={}", address(directory.path())),
                format!("--to=shop=127.0.0.1:{}", port.port()),
                format!("--inbound=127.0.0.1:{}={one}", inbound.port()),
            ];
            Some((id, Proxy::start(command?, &flags, true), port, inbound))
        })
        .collect();
    let ids: Vec<_> = running.iter().map(|(id, ..)| *id).collect();
    let reaches = |request: &str, name: &str| {
        running.iter().all(|(_, _, port, _)| ask(port.port(), request).is_some_and(|answer| answer.contains(name)))
    };
    until("instances of both", || reaches("GET /exact", "\none ") && reaches("PUT /q", "\ntwo "));
    // Nothing is on its way any more: each cluster has its endpoints, each listener its routes.
    let is_warm = |proxy: &Proxy| {
        let none = |name: &str| {
            let (_, text) = admin::request(&proxy.admin(), "GET", &format!("/stats?filter={name}")).unwrap();
            text.trim() == format!("{name}: 0")
        };
        none("cluster_manager.warming_clusters") && none("listener_manager.total_listeners_warming")
    };
    until("all is in force", || running.iter().all(|(_, proxy, ..)| is_warm(proxy)));
    until("all is acknowledged", || {
        plane.has_synced(&ids) && plane.sent() == plane.counts("outrigger_control_xds_accepted_total")
    });

    drop(plane);
    let plane = Plane::start(directory.path());
    until("they are back", || plane.has_synced(&ids));
    assert_eq!(plane.sent(), BTreeMap::new());

    // What changes is all that is sent.
    let moved = cases::without_routes(three, two);
    let moved = moved.split("\n---\n").find(|object| object.contains("{name: one, labels")).unwrap();
    plane.apply(moved);
    until("the instance that moved", || reaches("GET /exact", "\nthree "));
    let count = u64::try_from(ids.len()).unwrap();
    assert_eq!(plane.sent(), [("ClusterLoadAssignment".to_owned(), count)].into());
    running.iter().for_each(|(_, proxy, ..)| proxy.rejects_nothing());
}
