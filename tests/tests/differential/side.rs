//! The two programs that are compared, and the bootstrap that both are given.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use outrigger_tests::peers;
use outrigger_tests::process::Process;
use serde_json::{Value, json};

use crate::scenario::{Placement, Scenario};

/// A program under test.
#[derive(Clone, Debug)]
pub(crate) enum Side {
    /// Envoy, the oracle.
    Envoy(PathBuf),
    /// Ours.
    Outrigger,
}

impl Side {
    /// Envoy, where it is installed.
    pub(crate) fn envoy(test: &str) -> Option<Self> {
        peers::find("envoy", test).map(Self::Envoy)
    }

    fn command(&self, config: &Path) -> Command {
        let mut command = match self {
            Self::Envoy(program) => {
                let mut command = Command::new(program);
                // Several of them run on one machine, and their shared memory has one name.
                command.arg("--use-dynamic-base-id");
                command
            }
            Self::Outrigger => peers::proxy(env!("CARGO_BIN_EXE_mesh")),
        };
        command.arg("-c").arg(config).args(["--concurrency", "1", "-l", "warning"]);
        command
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// What it wrote, where it refused the configuration.
    pub(crate) fn start(&self, directory: &Path, bootstrap: &Value) -> Result<Process, String> {
        let config = directory.join("bootstrap.json");
        std::fs::write(&config, bootstrap.to_string()).map_err(|error| error.to_string())?;
        let mut process =
            Process::start(self.command(&config), &directory.join("output")).map_err(|error| error.to_string())?;
        process.ready(&admin_socket(directory), Duration::from_secs(30))?;
        Ok(process)
    }

    /// Does `--mode validate` accept the configuration?
    pub(crate) fn validates(&self, directory: &Path, bootstrap: &Value) -> bool {
        let config = directory.join("bootstrap.json");
        std::fs::write(&config, bootstrap.to_string()).expect("a directory of our own");
        let mut command = self.command(&config);
        command.args(["--mode", "validate"]).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }
}

/// Where the admin interface of a process in `directory` listens.
pub(crate) fn admin_socket(directory: &Path) -> PathBuf {
    directory.join("admin")
}

/// The bootstrap of these scenarios.
pub(crate) fn bootstrap(directory: &Path, scenarios: &[(&Scenario, &Placement)]) -> Value {
    let mut listeners = Vec::new();
    let mut clusters = Vec::new();
    let mut bootstrap = json!({
        "node": {"id": "differential", "cluster": "differential"},
        "admin": {"address": {"pipe": {"path": admin_socket(directory)}}},
    });
    for (scenario, placement) in scenarios {
        let (listener, own) = scenario.resources(placement);
        listeners.push(listener);
        clusters.extend(own);
        if let (Value::Object(all), Value::Object(own)) = (&mut bootstrap, scenario.bootstrap_overlay(placement)) {
            all.extend(own);
        }
    }
    bootstrap["static_resources"] = json!({"listeners": listeners, "clusters": clusters});
    bootstrap
}
