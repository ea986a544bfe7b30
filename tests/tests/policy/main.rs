//! What people write, as traffic: objects are compiled, served by xDS, and each field shows its effect on one request.
//!
//! The real Envoy starts from the file of `outrigger bootstrap`, by delta and by state of the world, and so does our proxy.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a suite reports what went wrong by failing"
)]

mod cases;
mod echo;
mod mesh;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cases::{CASES, Case};
use clap::Parser;
use mesh::{Control, compile};
use outrigger_control::bootstrap::{BootstrapArgs, bootstrap};
use outrigger_tests::ports::Reserved;
use outrigger_tests::process::Process;
use outrigger_tests::{admin, peers};

/// Longer than anything here takes, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    args: BootstrapArgs,
}

/// A proxy that started from the file of `outrigger bootstrap`.
struct Proxy {
    process: Process,
    directory: tempfile::TempDir,
}

impl Proxy {
    /// `delta`: which variant of the protocol.
    fn start(mut command: Command, flags: &[String], delta: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let flags = Flags::parse_from(["bootstrap"].into_iter().chain(flags.iter().map(String::as_str)));
        let yaml = bootstrap(flags.args).unwrap();
        // A socket file, so that the port is nobody else's.
        let admin = format!("pipe: {{ path: {:?} }}", directory.path().join("admin"));
        let tcp = r#"socket_address: { address: "127.0.0.1", port_value: 15000 }"#;
        assert!(yaml.contains(tcp) && yaml.contains("DELTA_GRPC"), "{yaml}");
        let yaml = yaml.replace(tcp, &admin);
        let yaml = if delta { yaml } else { yaml.replace("DELTA_GRPC", "GRPC") };
        let config = directory.path().join("bootstrap.yaml");
        std::fs::write(&config, yaml).unwrap();
        command.arg("-c").arg(config);
        let mut process = Process::start(command, &directory.path().join("output")).unwrap();
        process.ready(&directory.path().join("admin"), PATIENCE).unwrap();
        Self { process, directory }
    }

    fn admin(&self) -> PathBuf {
        self.directory.path().join("admin")
    }

    #[track_caller]
    fn rejects_nothing(&self) {
        let (_, text) = admin::request(&self.admin(), "GET", "/stats?filter=update_rejected").unwrap();
        let counters: Vec<_> = text.lines().filter_map(|line| line.split_once(": ")).collect();
        assert!(!counters.is_empty());
        assert!(counters.iter().all(|(_, value)| *value == "0"), "{counters:?}\n{}", self.process.output());
    }
}

fn outrigger() -> Command {
    let mut command = peers::proxy(env!("CARGO_BIN_EXE_mesh"));
    command.args(["--concurrency", "1", "-l", "warning"]);
    command
}

fn envoy(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["--use-dynamic-base-id", "--concurrency", "1", "-l", "warning"]);
    command
}

/// The answer to one request: status, a line for each header, an empty line, the body.
fn ask(port: u16, request: &str) -> Option<String> {
    let mut lines = request.split('\n');
    let mut head = format!("{} HTTP/1.1\r\nconnection: close\r\n", lines.next()?);
    let mut has_host = false;
    for line in lines {
        has_host |= line.starts_with("host:");
        head += &format!("{line}\r\n");
    }
    if !has_host {
        head += "host: shop.test\r\n";
    }
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let answer = answer.strip_prefix("HTTP/1.1 ")?.replace("\r\n", "\n");
    Some(answer)
}

#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "not after {PATIENCE:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// What is wrong with the answer.
fn faults(case: &Case, answer: &str) -> Vec<String> {
    let wrong = |expected: &&&str| match expected.strip_prefix('!') {
        Some(unexpected) => answer.contains(unexpected),
        None => !answer.contains(**expected),
    };
    case.answer
        .iter()
        .filter(wrong)
        .map(|expected| format!("{}: {expected:?} is wrong in\n{answer}", case.name))
        .collect()
}

fn every_field_has_its_effect(command: Command, delta: bool) {
    let (one, two) = (echo::start("one"), echo::start("two"));
    let control = Control::start(compile(&cases::objects(one, two)));
    let ports = Reserved::new().unwrap();
    let inbound = Reserved::new().unwrap();
    let flags: Vec<String> = [
        "--service".to_owned(),
        "caller".to_owned(),
        format!("--control={}", control.address),
        format!("--to=shop=127.0.0.1:{}", ports.port()),
        format!("--inbound=127.0.0.1:{}={one}", inbound.port()),
    ]
    .into();
    let proxy = Proxy::start(command, &flags, delta);
    until("both listeners", || {
        [&ports, &inbound].iter().all(|at| TcpStream::connect(("127.0.0.1", at.port())).is_ok())
    });
    // A route may be there before the instances of its cluster are.
    let reaches = |request, name| ask(ports.port(), request).is_some_and(|answer| answer.contains(name));
    until("instances of both", || reaches("GET /exact", "\none ") && reaches("PUT /q", "\ntwo "));
    let mut wrong = Vec::new();
    for case in CASES {
        let answer = ask(ports.port(), case.request).unwrap_or_default();
        wrong.extend(faults(case, &answer));
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), proxy.process.output());
    let through = ask(inbound.port(), "GET /in").unwrap_or_default();
    assert!(through.starts_with("200 ") && through.contains("\none GET /in\n"), "{through}");
    proxy.rejects_nothing();

    // The route goes, and the Service's own instances are called.
    control.update(compile(&cases::without_routes(one, two)));
    until("the Service without routes", || {
        ask(ports.port(), "GET /x").is_some_and(|answer| answer.contains("\ntwo GET /x\n"))
    });
    proxy.rejects_nothing();
}

#[test]
fn envoy_by_delta() {
    let Some(program) = peers::find("envoy", "envoy_by_delta") else { return };
    every_field_has_its_effect(envoy(&program), true);
}

#[test]
fn envoy_by_state_of_the_world() {
    let Some(program) = peers::find("envoy", "envoy_by_state_of_the_world") else { return };
    every_field_has_its_effect(envoy(&program), false);
}

#[test]
fn outrigger_by_delta() {
    every_field_has_its_effect(outrigger(), true);
}

#[test]
fn outrigger_by_state_of_the_world() {
    every_field_has_its_effect(outrigger(), false);
}
