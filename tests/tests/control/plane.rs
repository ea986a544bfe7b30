//! A control plane in a process and a directory of its own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use outrigger_tests::process::Process;

/// Longer than anything here takes, on a busy machine too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The shop that the tests apply.
pub(crate) const SHOP: &str = "\
apiVersion: v1
kind: Service
metadata: {name: users}
spec: {ports: [{name: http, port: 80, appProtocol: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: users-v2}
spec: {ports: [{name: http, port: 80, appProtocol: http}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: canary}
spec:
  parentRefs: [{group: '', kind: Service, name: users}]
  rules:
  - backendRefs:
    - {name: users, port: 80, weight: 90}
    - {name: users-v2, port: 80, weight: 10}
";

/// The control plane, and where its files are. Dropping it kills it by -9.
#[derive(Debug)]
pub(crate) struct Plane {
    pub(crate) process: Process,
    pub(crate) directory: PathBuf,
}

/// Our program as a control plane or as its command line.
pub(crate) fn control() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mesh"));
    command.arg("control");
    command
}

impl Plane {
    /// Starts one on the directory's files, and waits until it says where it listens.
    pub(crate) fn start(directory: &Path) -> Plane {
        Plane::start_at(directory, &format!("unix:{}", directory.join("control.sock").display()), &[])
    }

    /// As [`Plane::start`], at an address and with more flags. The files that they name are in the directory.
    pub(crate) fn start_at(directory: &Path, listen: &str, flags: &[&str]) -> Plane {
        let mut command = control();
        command.arg("serve").arg("--data").arg(directory.join("data")).args(["--http", "127.0.0.1:0", "--listen"]);
        command.arg(listen).args(flags).current_dir(directory);
        let process = Process::start(command, &directory.join("log")).unwrap();
        let mut plane = Plane { process, directory: directory.to_owned() };
        let deadline = Instant::now() + PATIENCE;
        while !plane
            .process
            .output()
            .split_inclusive('\n')
            .any(|line| line.contains(", HTTP on ") && line.ends_with('\n'))
        {
            assert!(plane.process.ended().is_none(), "{}", plane.process.output());
            assert!(Instant::now() < deadline, "not ready after {PATIENCE:?}: {}", plane.process.output());
            std::thread::park_timeout(Duration::from_millis(2));
        }
        plane
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    /// Where it listens, as `--server` takes it.
    pub(crate) fn address(&self) -> String {
        let log = self.process.output();
        let (before, _) = log.split_once(", HTTP on ").unwrap_or_else(|| panic!("{log}"));
        before.rsplit(" on ").next().unwrap_or_default().to_owned()
    }

    /// A command of the command line, run in the plane's directory.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = control();
        command
            .args(arguments)
            .current_dir(&self.directory)
            .env("OUTRIGGER_SERVER", self.address())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end: standard output, and standard error if it failed.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        match output.status.code() {
            Some(0) => Ok(text(output.stdout)),
            Some(1) if output.stdout.is_empty() => Err(text(output.stderr)),
            _ => panic!("{arguments:?}: {output:?}"),
        }
    }

    /// Writes a file into the directory.
    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.directory.join(name), text).unwrap();
    }

    /// A page of the HTTP port.
    pub(crate) fn page(&self, path: &str) -> String {
        let log = self.process.output();
        let (_, after) = log.split_once("HTTP on ").unwrap_or_else(|| panic!("{log}"));
        let address = after.split(';').next().unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}
