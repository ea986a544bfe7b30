//! The demo as a stranger runs it: it shows every step, nothing fails, the commands that it prints work, and it leaves
//! nothing behind, however it ends.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a suite reports what went wrong by failing"
)]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Far longer than anything here takes, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(120);

/// One demo at a time: thirteen processes are enough for a small machine.
static TURN: Mutex<()> = Mutex::new(());

/// A demo that runs.
struct Demo {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    seen: String,
    temporary: tempfile::TempDir,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), arguments)
    }

    fn start_in(temporary: tempfile::TempDir, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_outrigger-demo"))
            .args(arguments)
            .env("TMPDIR", temporary.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, seen: String::new(), temporary }
    }

    /// Reads on to a line with this text.
    fn until(&mut self, text: &str) {
        while let Some(Ok(line)) = self.lines.next() {
            self.seen += &line;
            self.seen.push('\n');
            if line.contains(text) {
                return;
            }
        }
        let (status, error) = self.end();
        panic!("it ended with {status} without {text:?}:\n{}{error}", self.seen);
    }

    /// Reads on to its end.
    fn end(&mut self) -> (ExitStatus, String) {
        for line in self.lines.by_ref().map_while(Result::ok) {
            self.seen += &line;
            self.seen.push('\n');
        }
        let mut error = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        (self.child.wait().unwrap(), error)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Processes that it started and that run.
    fn children(&self) -> Vec<PathBuf> {
        let mark = format!("OUTRIGGER_DEMO_PARENT={}", self.child.id());
        let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        let marked = |process: &PathBuf| {
            let environment = std::fs::read(process.join("environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        };
        processes.filter(marked).collect()
    }

    fn leaves_nothing(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.children().is_empty() {
            assert!(Instant::now() < deadline, "still there: {:?}", self.children());
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}

#[test]
fn every_step_is_shown_and_no_request_fails() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut demo = Demo::start(&["--duration", "10s"]);
    demo.until("Try in another terminal");
    demo.until("get httproute");
    let commands: Vec<String> =
        demo.seen.lines().filter_map(|line| line.trim().strip_prefix("$ ")).map(ToOwned::to_owned).collect();
    let [.., curl, proxies, route] = commands.as_slice() else { panic!("{}", demo.seen) };
    for (command, expected) in [(curl, "\"product\""), (proxies, "products-v2-2"), (route, "backendRefs")] {
        // The control plane is killed in the last step only, and curl may be missing here.
        if command.starts_with("curl") && Command::new("curl").arg("--version").output().is_err() {
            continue;
        }
        // Another terminal is anywhere.
        let output = Command::new("sh").args(["-c", command]).current_dir("/").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains(expected), "{command}: {output:?}");
    }
    let (status, error) = demo.end();
    assert!(status.success(), "{status}:\n{}{error}", demo.seen);
    for step in 1..=7 {
        assert!(demo.seen.contains(&format!("\n{step}. ")), "step {step} is missing:\n{}", demo.seen);
    }
    assert!(demo.seen.contains("turned away by the limit"), "{}", demo.seen);
    assert!(demo.seen.contains(" requests, 0 failed"), "{}", demo.seen);
    demo.leaves_nothing();
    assert_eq!(files(demo.temporary.path()), Vec::<PathBuf>::new());
}

#[test]
fn an_interrupt_leaves_no_process_and_no_file() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut demo = Demo::start(&[]);
    demo.until("processes after");
    assert_eq!(demo.children().len(), 13);
    demo.signal(Signal::INT);
    let (status, error) = demo.end();
    assert!(demo.seen.contains("In all"), "{}{error}", demo.seen);
    assert_eq!(status.code(), Some(130), "the script is not over");
    demo.leaves_nothing();
    assert_eq!(files(demo.temporary.path()), Vec::<PathBuf>::new());
}

#[test]
fn without_a_terminal_lines_go_on_after_the_script() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut demo = Demo::start(&["--duration", "5s", "--stay"]);
    demo.until("The script is over");
    for _ in 0..2 {
        demo.until(" s more: ");
        let line = demo.seen.lines().last().unwrap();
        assert!(line.contains(" requests, 0 failed") && !line.contains(" 0 requests"), "{line}");
    }
    demo.signal(Signal::INT);
    let (status, error) = demo.end();
    assert!(status.success(), "{status}:\n{}{error}", demo.seen);
    demo.leaves_nothing();
}

#[test]
fn a_crash_leaves_no_process_and_the_next_run_removes_its_files() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut demo = Demo::start(&[]);
    demo.until("sidecar of orders-1");
    assert_eq!(demo.children().len(), 13);
    demo.signal(Signal::KILL);
    demo.end();
    demo.leaves_nothing();
    let left = files(demo.temporary.path());
    assert_eq!(left.len(), 1);
    let mut demo = Demo::start_in(demo.temporary, &[]);
    demo.until("Starting a control plane");
    let there = files(demo.temporary.path());
    assert!(there.len() == 1 && there != left, "{there:?}");
    demo.signal(Signal::TERM);
    assert_eq!(demo.end().0.code(), Some(143));
}

fn files(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path()).collect()
}
