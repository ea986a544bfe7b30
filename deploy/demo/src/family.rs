//! The processes of the mesh: started from this program, each with its log, and none of them outlives it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};

/// Holds the id of the parent in the environment of its children.
const PARENT: &str = "OUTRIGGER_DEMO_PARENT";

/// In a child: dies with the parent, however that ends. Before anything else, and in other processes without effect.
///
/// # Errors
/// Where the parent is gone already.
pub(crate) fn follow_parent() -> Result<(), String> {
    let Some(parent) = std::env::var(PARENT).ok().and_then(|id| id.parse().ok()) else { return Ok(()) };
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| error.to_string())?;
    if rustix::process::getppid().map(Pid::as_raw_pid) == Some(parent) {
        Ok(())
    } else {
        Err("the demo that started this process has ended".to_owned())
    }
}

/// The role of a child that becomes another program, and still dies with the parent.
pub(crate) const EXEC: &str = "exec";

/// Becomes another program: after the role, its path and arguments.
pub(crate) fn exec(arguments: Vec<OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter().skip(1);
    let program = arguments.next().unwrap_or_default();
    let error = std::process::Command::new(&program).args(arguments).exec();
    eprintln!("{}: {error}", Path::new(&program).display());
    ExitCode::FAILURE
}

/// All children. They are killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Family {
    logs: PathBuf,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    name: String,
    child: Child,
}

impl Family {
    /// Writes the output of each child to a file in `logs`.
    pub(crate) fn new(logs: PathBuf) -> Self {
        Self { logs, members: Vec::new() }
    }

    /// Starts this program again. Only to be called on the main thread: children die with the thread that started them.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn start<A: AsRef<OsStr>>(
        &mut self,
        name: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{name} cannot be started: {error}");
        let log = File::options().create(true).append(true).open(self.log(name)).map_err(failed)?;
        let mut command = this_program(arguments).map_err(failed)?;
        command.stdout(log.try_clone().map_err(failed)?).stderr(log);
        let child = command.spawn().map_err(failed)?;
        self.members.push(Member { name: name.to_owned(), child });
        Ok(())
    }

    /// Runs this program to its end, with `input` as standard input, and returns what it printed.
    ///
    /// # Errors
    /// What it printed on standard error, where it failed.
    pub(crate) async fn run<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        input: &str,
    ) -> Result<String, String> {
        use tokio::io::AsyncWriteExt;
        let mut command = this_program(arguments).map_err(|error| error.to_string())?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read it says why on standard error.
            _ = stdin.write_all(input.as_bytes()).await;
        }
        let output = child.wait_with_output().await.map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
    }

    /// SIGKILL to one of them; returns when it is gone.
    pub(crate) async fn kill(&mut self, name: &str) {
        while let Some(at) = self.members.iter().position(|member| member.name == name) {
            let mut member = self.members.swap_remove(at);
            // Only fails where it has ended by itself.
            _ = member.child.kill().await;
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether all of them run.
    ///
    /// # Errors
    /// Which one does not, and the end of its log.
    pub(crate) fn check(&mut self) -> Result<(), String> {
        for member in &mut self.members {
            if let Ok(Some(status)) = member.child.try_wait() {
                let log = std::fs::read(self.logs.join(format!("{}.log", member.name))).unwrap_or_default();
                let tail = String::from_utf8_lossy(&log[log.len().saturating_sub(2048)..]).into_owned();
                return Err(format!("{} ended with {status}:\n{tail}", member.name));
            }
        }
        Ok(())
    }

    /// Kills all of them; returns when they are gone.
    pub(crate) async fn end(&mut self) {
        for member in &mut self.members {
            _ = member.child.start_kill();
        }
        for mut member in self.members.drain(..) {
            _ = member.child.wait().await;
        }
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }
}

fn this_program<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> std::io::Result<Command> {
    // The file itself, also if another was put in its place meanwhile.
    let mut command = std::process::Command::new(Path::new("/proc/self/exe"));
    // A group of its own: Ctrl-C is for the demo, which ends the others in order.
    command
        .arg0("outrigger-demo")
        .args(arguments)
        .env(PARENT, std::process::id().to_string())
        .stdin(Stdio::null())
        .process_group(0);
    let mut command = Command::from(command);
    command.kill_on_drop(true);
    Ok(command)
}
