//! A control plane in a process and a directory of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::peers;
use crate::process::Process;

/// Longer than a control plane takes to start, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);

/// The control plane, and where its files are. Dropping it kills it by -9.
#[derive(Debug)]
pub struct Plane {
    /// The process.
    pub process: Process,
    mesh: &'static str,
    directory: PathBuf,
    address: String,
    pages: SocketAddr,
}

impl Plane {
    /// Starts one on the directory's files, and waits until it says where it listens. `mesh`: the suites' own program.
    pub fn start(mesh: &'static str, directory: &Path) -> Plane {
        Plane::start_at(mesh, directory, &in_directory(directory), &[])
    }

    /// The process of [`Plane::start`], of which nobody waits that it is ready.
    pub fn spawn(mesh: &'static str, directory: &Path) -> Process {
        spawn(mesh, directory, &in_directory(directory), &[])
    }

    /// As [`Plane::start`], at an address and with more flags. The files that they name are in the directory.
    pub fn start_at(mesh: &'static str, directory: &Path, listen: &str, flags: &[&str]) -> Plane {
        let mut process = spawn(mesh, directory, listen, flags);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some((address, pages)) = listens(&process.output()) {
                return Plane { process, mesh, directory: directory.to_owned(), address, pages };
            }
            assert!(process.ended().is_none(), "{}", process.output());
            assert!(Instant::now() < deadline, "not ready after {PATIENCE:?}: {}", process.output());
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// The socket file, unless it listens elsewhere.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    /// Where it listens, as `--server` takes it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A command of the command line, run in the plane's directory.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = peers::control(self.mesh);
        command
            .args(arguments)
            .current_dir(&self.directory)
            .env("OUTRIGGER_SERVER", &self.address)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end: standard output.
    ///
    /// # Errors
    /// Standard error, where it failed.
    pub fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        match output.status.code() {
            Some(0) => Ok(text(output.stdout)),
            Some(1) if output.stdout.is_empty() => Err(text(output.stderr)),
            _ => panic!("{arguments:?}: {output:?}"),
        }
    }

    /// Where the store is.
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Writes a file into the directory.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.directory.join(name), text).unwrap();
    }

    /// A page of the HTTP port, with its head.
    pub fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.pages).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.pages).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

fn in_directory(directory: &Path) -> String {
    format!("unix:{}", directory.join("control.sock").display())
}

fn spawn(mesh: &'static str, directory: &Path, listen: &str, flags: &[&str]) -> Process {
    let mut command = peers::control(mesh);
    command.arg("serve").arg("--data").arg(directory.join("data")).args(["--http", "127.0.0.1:0", "--listen"]);
    command.arg(listen).args(flags).current_dir(directory);
    Process::start(command, &directory.join("log")).unwrap()
}

/// Where a plane says that it listens: it is ready.
/// `gRPC on ADDRESS, HTTP on PAGES; ...`
pub fn listens(log: &str) -> Option<(String, SocketAddr)> {
    let (before, after) = log.split_once(", HTTP on ")?;
    Some((before.rsplit_once(" on ")?.1.to_owned(), after.split_once(';')?.0.parse().ok()?))
}
