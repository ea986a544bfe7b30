//! The proxies that are compared: where their programs lie, and how each is started with one worker.

use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Serialize, Serializer};
use tokio::process::Command;

use crate::machine::{Cores, Place};
use crate::process::{Process, pinned};
use crate::template::{Values, render};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Nginx,
    Haproxy,
    Envoy,
    Outrigger,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Envoy => "Envoy",
            Self::Outrigger => "Outrigger",
        })
    }
}

impl Serialize for Peer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where Debian keeps nginx's dynamic modules.
const NGINX_MODULES: &str = "/usr/lib/nginx/modules";

impl Peer {
    pub(crate) const ALL: [Self; 4] = [Self::Nginx, Self::Haproxy, Self::Envoy, Self::Outrigger];

    /// Whether it takes Envoy's bootstrap and has Envoy's admin interface.
    pub(crate) fn has_admin(self) -> bool {
        matches!(self, Self::Envoy | Self::Outrigger)
    }

    /// Its program, or why there is none.
    pub(crate) async fn program(self) -> anyhow::Result<PathBuf> {
        match self {
            Self::Nginx => in_path("nginx"),
            Self::Haproxy => in_path("haproxy"),
            Self::Envoy => envoy(),
            Self::Outrigger => outrigger().await,
        }
    }

    /// What it says of its version.
    pub(crate) async fn version(self, program: &Path) -> String {
        let flag = if matches!(self, Self::Nginx | Self::Haproxy) { "-v" } else { "--version" };
        let Ok(output) = Command::new(program).arg(flag).output().await else { return "unknown".to_owned() };
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("unknown").to_owned()
    }

    /// Writes its configuration for the row with `further` virtual hosts and clusters, and starts it on its core.
    pub(crate) fn start(
        self,
        program: &Path,
        cores: Cores,
        directory: &Path,
        values: &Values,
        further: usize,
    ) -> anyhow::Result<Process> {
        let mut values = values.clone();
        values.insert("directory", directory.display().to_string());
        let (template, file) = match self {
            Self::Nginx => {
                values.insert("nginx_modules", NGINX_MODULES.to_owned());
                (include_str!("../peers/nginx.conf"), "nginx.conf")
            }
            Self::Haproxy => {
                std::fs::write(directory.join("haproxy.map"), haproxy_map(further))?;
                (include_str!("../peers/haproxy.cfg"), "haproxy.cfg")
            }
            Self::Envoy | Self::Outrigger => (include_str!("../peers/envoy.yaml"), "bootstrap.yaml"),
        };
        let (hosts, clusters) = self.further(further, &values)?;
        values.insert("further_virtual_hosts", hosts);
        values.insert("further_clusters", clusters);
        let file = directory.join(file);
        std::fs::write(&file, render(template, &values)?)?;
        self.launch(program, cores, &file, directory)
    }

    /// Starts it with a configuration that stands in a file.
    pub(crate) fn launch(self, program: &Path, cores: Cores, file: &Path, directory: &Path) -> anyhow::Result<Process> {
        let mut command = pinned(cores, Place::Proxy, program);
        match self {
            Self::Nginx => command.arg("-e").arg("stderr").arg("-c").arg(file),
            Self::Haproxy => command.arg("-db").arg("-f").arg(file),
            Self::Envoy => command.arg("-c").arg(file).args([
                "--concurrency",
                "1",
                "--disable-hot-restart",
                "--log-level",
                "warning",
            ]),
            Self::Outrigger => command.arg("-c").arg(file).args(["--concurrency", "1"]),
        };
        Process::start(command, directory.join(format!("{self}.log")))
    }

    /// Virtual hosts and clusters that no request of the bench uses, in the peer's own language.
    fn further(self, count: usize, values: &Values) -> anyhow::Result<(String, String)> {
        let listen = values.get("http1").context("no port for http1")?;
        let upstream = values.get("upstream_http1").context("no upstream port")?;
        let (mut hosts, mut clusters) = (String::new(), String::new());
        for number in 1..=count {
            let name = format!("further-{number:04}");
            match self {
                Self::Nginx => {
                    writeln!(
                        hosts,
                        "upstream {name} {{ server 127.0.0.1:{upstream}; keepalive 256; }}\n\
                         server {{ listen 127.0.0.1:{listen}; server_name {name}.test; \
                         location / {{ proxy_pass http://{name}; }} }}"
                    )?;
                }
                Self::Haproxy => {
                    writeln!(clusters, "backend {name}\n  server upstream 127.0.0.1:{upstream} maxconn 4096")?
                }
                Self::Envoy | Self::Outrigger => {
                    writeln!(
                        hosts,
                        "- {{name: {name}, domains: [{name}.test], routes: [{{match: {{prefix: /}}, route: \
                         {{cluster: {name}, timeout: 15s, retry_policy: \
                         {{retry_on: \"connect-failure,refused-stream,reset\", num_retries: 2}}}}}}]}}"
                    )?;
                    writeln!(
                        clusters,
                        "- {{name: {name}, type: STATIC, connect_timeout: 1s, circuit_breakers: *breakers, \
                         load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: \
                         {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream}}}}}}}}}]}}]}}}}"
                    )?;
                }
            }
        }
        Ok((hosts.trim_end().to_owned(), clusters.trim_end().to_owned()))
    }
}

/// HAProxy's look-up of a backend by host.
fn haproxy_map(further: usize) -> String {
    let hosts = (1..=further).map(|number| format!("further-{number:04}.test further-{number:04}\n"));
    std::iter::once("bench.test http1\n".to_owned()).chain(hosts).collect()
}

/// Finds a program as a shell does, and in the sbin directories, where Debian keeps servers.
fn in_path(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
        .with_context(|| format!("{name} is not installed"))
}

/// The Envoy that `tests/peers/install` fetched, else one in the path.
fn envoy() -> anyhow::Result<PathBuf> {
    let peers = std::env::var_os("OUTRIGGER_PEERS_DIR").map_or_else(|| target().join("peers"), PathBuf::from);
    ["envoy", "bin/envoy", "venv/bin/envoy"]
        .into_iter()
        .map(|file| peers.join(file))
        .find(|file| file.is_file())
        .map_or_else(|| in_path("envoy").context("run tests/peers/install"), Ok)
}

/// The release binary: of OUTRIGGER_BIN_DIR, else built now.
async fn outrigger() -> anyhow::Result<PathBuf> {
    let directory = match std::env::var_os("OUTRIGGER_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let built = Command::new(cargo)
                .args(["build", "--release", "--package", "outrigger-proxy", "--bin", "outrigger-proxy"])
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .status()
                .await?;
            if !built.success() {
                bail!("outrigger-proxy does not build");
            }
            target().join("release")
        }
    };
    let program = directory.join("outrigger-proxy");
    if !program.is_file() {
        bail!("{} does not exist", program.display());
    }
    Ok(program)
}

/// Cargo's target directory.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target"), PathBuf::from)
}
