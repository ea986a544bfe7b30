//! A program under test as a child process: it dies with its owner, and what it said is shown when something fails.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::admin;

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, its output going to the file `log`.
    ///
    /// # Errors
    /// Where the program cannot be started or the file not be made.
    pub fn start(mut command: Command, log: &Path) -> std::io::Result<Self> {
        let output = File::create(log)?;
        let child = command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).spawn()?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Waits until the admin interface says that the proxy is ready.
    ///
    /// # Errors
    /// What the program wrote, if it ended or `patience` passed before.
    pub fn ready(&mut self, admin: &Path, patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        loop {
            if admin::request(admin, "GET", "/ready").is_some_and(|(status, _)| status == 200) {
                return Ok(());
            }
            if let Some(status) = self.ended() {
                return Err(format!("ended with {status} before it was ready:\n{}", self.output()));
            }
            if Instant::now() > deadline {
                return Err(format!("not ready after {patience:?}:\n{}", self.output()));
            }
            pause();
        }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// What it wrote so far, the last 8 KB.
    pub fn output(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(8192)..]).into_owned()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        if let Ok(id) = i32::try_from(self.child.id()) {
            // SAFETY: kill takes two integers; the child is not reaped before `self` is gone, so the id is its own.
            unsafe { libc::kill(id, libc::SIGTERM) };
        }
    }

    /// Waits for the end, at most `patience`; kills it then and answers `None`.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            pause();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        None
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The step of a bounded poll on something that sends no event: another process.
fn pause() {
    std::thread::park_timeout(Duration::from_millis(5));
}
