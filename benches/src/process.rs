//! A program under the bench's control: started on its core, measured through `/proc`, killed when it is dropped.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::machine::{Cores, Place};

/// Microseconds in one tick of `/proc/PID/stat`: USER_HZ is 100 on every architecture that we build for.
const TICK_US: u64 = 10_000;

/// CPU time used by a process and its threads since it started, in microseconds.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Cpu {
    pub(crate) user_us: u64,
    pub(crate) system_us: u64,
}

impl Cpu {
    /// Of a process, by its folder's name in `/proc`.
    fn of(process: &str) -> anyhow::Result<Cpu> {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).context("the process has ended")?;
        // The name, in parentheses, may contain spaces: count the fields behind it. utime and stime are 14 and 15.
        let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat without a name")?;
        let mut times = fields.split_ascii_whitespace().skip(11);
        let mut next = || times.next().and_then(|field| field.parse::<u64>().ok()).context("/proc/PID/stat is short");
        Ok(Cpu { user_us: next()? * TICK_US, system_us: next()? * TICK_US })
    }

    /// Of the bench itself.
    pub(crate) fn own() -> anyhow::Result<Cpu> {
        Self::of("self")
    }

    /// What was used after `earlier`.
    pub(crate) fn since(self, earlier: Cpu) -> Cpu {
        Cpu {
            user_us: self.user_us.saturating_sub(earlier.user_us),
            system_us: self.system_us.saturating_sub(earlier.system_us),
        }
    }
}

/// Since a thread started, in microseconds.
#[derive(Clone, Copy)]
pub(crate) struct ThreadTimes {
    pub(crate) cpu_us: u64,
    /// Ready to run while its core did something else.
    pub(crate) waited_us: u64,
}

/// Resident memory of a process, now and at its highest, in KiB.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Memory {
    pub(crate) rss_kb: u64,
    pub(crate) peak_kb: u64,
}

pub(crate) struct Process {
    child: Child,
    pid: u32,
    log: PathBuf,
}

/// A command pinned to the core of `place`.
pub(crate) fn pinned(cores: Cores, place: Place, program: &Path) -> Command {
    let Some(core) = cores.of(place) else { return Command::new(program) };
    let mut command = Command::new("taskset");
    command.arg("-c").arg(core.to_string()).arg(program);
    command
}

impl Process {
    /// Starts a command with its output in `log`.
    pub(crate) fn start(mut command: Command, log: PathBuf) -> anyhow::Result<Self> {
        let out = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stderr(out.try_clone()?)
            .stdout(out)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.as_std()))?;
        let pid = child.id().context("the process has already ended")?;
        Ok(Self { child, pid, log })
    }

    /// Waits until the port takes connections; an error with the end of its output if the process ends first, or if
    /// 30 s are over.
    pub(crate) async fn listening(&mut self, port: u16) -> anyhow::Result<()> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(address).await.is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("ended with {status} before it listened: {}", self.last_words());
            }
            if Instant::now() > deadline {
                bail!("does not listen on {address} after 30 s: {}", self.last_words());
            }
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        if lines.is_empty() { "no output".to_owned() } else { lines.into_iter().rev().collect::<Vec<_>>().join(" | ") }
    }

    pub(crate) fn cpu(&self) -> anyhow::Result<Cpu> {
        Cpu::of(&self.pid.to_string())
    }

    pub(crate) fn memory(&self) -> anyhow::Result<Memory> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).context("the process has ended")?;
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok())
                .with_context(|| format!("no {name} in /proc/PID/status"))
        };
        Ok(Memory { rss_kb: field("VmRSS:")?, peak_kb: field("VmHWM:")? })
    }

    /// What the scheduler says of the thread of this name.
    pub(crate) fn thread_times(&self, name: &str) -> anyhow::Result<ThreadTimes> {
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.pid))? {
            let thread = thread?.path();
            // One that has just ended is not the one.
            let Ok(own) = std::fs::read_to_string(thread.join("comm")) else { continue };
            if own.trim_end() == name {
                let times = std::fs::read_to_string(thread.join("schedstat"))?;
                let mut times = times.split_ascii_whitespace().map_while(|nanoseconds| nanoseconds.parse::<u64>().ok());
                let mut next = || times.next().map(|nanoseconds| nanoseconds / 1000).context("schedstat");
                return Ok(ThreadTimes { cpu_us: next()?, waited_us: next()? });
            }
        }
        bail!("no thread {name}")
    }

    /// Open file descriptors.
    pub(crate) fn descriptors(&self) -> anyhow::Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.pid))?.count())
    }

    /// Ends the process and waits until it is gone.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("cannot kill")
    }
}

/// The body that a local HTTP server answers a GET with.
pub(crate) async fn get(port: u16, path: &str) -> anyhow::Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    timeout(Duration::from_secs(10), exchange).await.with_context(|| format!("no answer to {path}"))?
}
