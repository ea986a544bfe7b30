//! What people write, as traffic: objects are compiled, served by xDS, and each field shows its effect on one request.
//!
//! The real Envoy starts from the file of `outrigger bootstrap`, by delta and by state of the world, and so does our
//! proxy.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a suite reports what went wrong by failing"
)]

mod cases;
mod echo;
mod fields;
mod mesh;
mod probe;
mod restart;
mod services;

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cases::{CASES, OF, SHARES, Share};
use clap::Parser;
use echo::Echo;
use mesh::compile;
use outrigger_control::bootstrap::{BootstrapArgs, bootstrap};
use outrigger_tests::management::Management;
use outrigger_tests::ports::Reserved;
use outrigger_tests::process::Process;
use outrigger_tests::{admin, peers};
use probe::{Running, Scene, ask_often, faults, read, send};

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

fn ask(port: u16, request: &str) -> Option<String> {
    send(port, request).map(read)
}

#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "not after {PATIENCE:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

fn routes_have_their_effect(command: Command, delta: bool) {
    let (one, two) = (Echo::start("one").address, Echo::start("two").address);
    let control = Management::start(0, compile(&cases::objects(one, two)));
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
        let faults = faults(case.answer, &answer);
        wrong.extend((!faults.is_empty()).then(|| format!("{}: {faults}", case.name)));
    }
    for Share { request, some, others, count, .. } in SHARES {
        let answers = ask_often(ports.port(), request, OF);
        let (some, rest): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.contains(some));
        if !count.contains(&some.len()) {
            wrong.push(format!("{request}: {} of {OF}, and {count:?} are due", some.len()));
        }
        wrong.extend(
            rest.into_iter().find(|answer| !answer.contains(others)).map(|answer| format!("{request}: {answer}")),
        );
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), proxy.process.output());
    let through = ask(inbound.port(), "GET /out/../in").unwrap_or_default();
    assert!(through.starts_with("200 ") && through.contains("\none GET /in\n"), "{through}");
    // What a rule is called is told by the logs only.
    let (_, dump) = admin::request(&proxy.admin(), "GET", "/config_dump").unwrap();
    assert!(dump.contains("shop-0/named"), "{dump}");
    proxy.rejects_nothing();

    // The route goes, and the Service's own instances are called.
    control.update(compile(&cases::without_routes(one, two)));
    until("the Service without routes", || {
        ask(ports.port(), "GET /x").is_some_and(|answer| answer.contains("\ntwo GET /x\n"))
    });
    proxy.rejects_nothing();
}

/// A Service for each case, all at once behind one proxy.
fn services_have_their_effect(command: Command, delta: bool) {
    let started: Vec<_> = services::CASES
        .iter()
        .zip(1..)
        .map(|(case, number)| {
            let start = |(index, instance): (usize, &services::Instance)| Running::start(instance.runs, index);
            let running: Vec<_> = case.instances.iter().enumerate().map(start).collect();
            let ports: Vec<_> = case.to.iter().map(|_| Reserved::new().unwrap()).collect();
            (case, format!("case-{number}"), running, ports)
        })
        .collect();
    let mut yaml = Vec::new();
    let mut flags = vec!["--service=caller".to_owned()];
    for (case, name, running, ports) in &started {
        yaml.push(case.objects(name, &running.iter().map(Running::port).collect::<Vec<_>>()));
        for (to, port) in case.to.iter().zip(ports) {
            flags.push(format!("--to={}=127.0.0.1:{}", to.replace("NAME", name), port.port()));
        }
    }
    let control = Management::start(0, compile(&yaml.join("---\n")));
    flags.push(format!("--control={}", control.address));
    let proxy = Proxy::start(command, &flags, delta);
    let scenes: Vec<_> = started
        .into_iter()
        .map(|(case, name, running, ports)| Scene {
            case,
            name,
            running,
            ports,
            admin: proxy.admin(),
            process: proxy.process.id(),
        })
        .collect();
    for scene in &scenes {
        for port in &scene.ports {
            until("its listener", || TcpStream::connect(("127.0.0.1", port.port())).is_ok());
        }
        until("its instances", || scene.has_instances());
    }
    let failed: Vec<_> = std::thread::scope(|threads| {
        let all: Vec<_> = scenes.iter().map(|scene| (scene, threads.spawn(|| (scene.case.probe)(scene)))).collect();
        let failed = all.into_iter().filter_map(|(scene, thread)| thread.join().err().map(|_| scene));
        failed.map(|scene| format!("{} {:?}: {}", scene.name, scene.case.shows, scene.case.policy)).collect()
    });
    assert!(failed.is_empty(), "{}\n{}", failed.join("\n"), proxy.process.output());
    proxy.rejects_nothing();
}

/// Both halves, over both variants of the protocol.
macro_rules! suite {
    ($($name:ident, $effect:ident, $delta:literal;)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn envoy() {
                let Some(program) = peers::find("envoy", stringify!($name)) else { return };
                $effect(super::envoy(&program), $delta);
            }

            #[test]
            fn outrigger() {
                $effect(super::outrigger(), $delta);
            }
        }
    )*};
}

suite! {
    routes_by_delta, routes_have_their_effect, true;
    routes_by_state_of_the_world, routes_have_their_effect, false;
    services_by_delta, services_have_their_effect, true;
    services_by_state_of_the_world, services_have_their_effect, false;
}
