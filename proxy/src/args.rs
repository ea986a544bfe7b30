//! The command line: those of Envoy's flags that have an effect here, and those that may be without one. A flag that
//! asks for what is not done here is refused, so that nobody believes in it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A service-mesh sidecar that speaks Envoy's xDS v3.
#[derive(Debug, Parser)]
#[command(name = "outrigger-proxy", version, disable_version_flag = true, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; serves when there is none.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Flags of the server.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// Print the version and exit.
    #[arg(long, action = clap::ArgAction::Version)]
    version: Option<bool>,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say for every field of a bootstrap whether it is used, harmless or rejected; exit with 1 if one is rejected.
    Validate(ConfigArgs),
}

/// Where the bootstrap comes from.
#[derive(Clone, Debug, Args)]
pub struct ConfigArgs {
    /// The bootstrap file, YAML or JSON.
    #[arg(short = 'c', long, value_name = "FILE")]
    pub config_path: Option<PathBuf>,
    /// A bootstrap on the command line, merged over the file's.
    #[arg(long, value_name = "YAML")]
    pub config_yaml: Option<String>,
}

/// Flags of the server.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// The bootstrap.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Worker threads; by default the smallest of the CPU affinity, the cgroup quota rounded up and 4, or 2 without a
    /// quota.
    #[arg(long, value_name = "N")]
    pub concurrency: Option<usize>,
    /// `serve`, or `validate` to check the bootstrap and exit.
    #[arg(long, value_enum, default_value = "serve")]
    pub mode: Mode,
    /// Overrides `node.id`.
    #[arg(long, value_name = "ID")]
    pub service_node: Option<String>,
    /// Overrides `node.cluster`.
    #[arg(long, value_name = "NAME")]
    pub service_cluster: Option<String>,
    /// Overrides `node.locality.zone`.
    #[arg(long, value_name = "ZONE")]
    pub service_zone: Option<String>,
    /// trace, debug, info, warning, error, critical or off.
    #[arg(short = 'l', long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
    /// Levels of single components: `upstream:debug,router:trace`.
    #[arg(long, value_name = "LIST")]
    pub component_log_level: Option<String>,
    /// Log to this file instead of standard error.
    #[arg(long, value_name = "FILE")]
    pub log_path: Option<PathBuf>,
    /// How long a drain may take, seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub drain_time_s: u32,
    /// How connections of what is drained (filter chains that go, `/drain_listeners?graceful`) are told to end. SIGTERM
    /// tells all at once.
    #[arg(long, value_enum, default_value = "gradual")]
    pub drain_strategy: DrainStrategy,
    /// No effect: nothing is shared between processes here.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub base_id: u32,
    /// No effect: there is no hot restart, and nothing else looks at it.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub restart_epoch: u32,
    /// No effect: there is no hot restart.
    #[arg(long)]
    pub disable_hot_restart: bool,
    /// No effect: nothing is shared between processes here.
    #[arg(long)]
    pub use_dynamic_base_id: bool,
    /// No effect: there is no hot restart, and so no parent.
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    pub parent_shutdown_time_s: u32,
}

impl ServeArgs {
    /// `--drain-time-s`.
    pub fn drain_time(&self) -> Duration {
        Duration::from_secs(self.drain_time_s.into())
    }
}

/// `--mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Serve traffic.
    Serve,
    /// Check the bootstrap and exit.
    Validate,
    /// As `validate`.
    InitOnly,
}

/// `--drain-strategy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DrainStrategy {
    /// Ever more of them as the drain time passes.
    Gradual,
    /// All at once.
    Immediate,
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn flags_of_hot_restart_have_no_effect_and_those_of_what_is_not_done_are_refused() {
        let start = "--restart-epoch 1 --disable-hot-restart --use-dynamic-base-id --parent-shutdown-time-s 60 --service-zone a";
        let parse = |flags: &str| Cli::try_parse_from(["outrigger-proxy"].into_iter().chain(flags.split(' ')));
        assert_eq!(parse(start).unwrap().serve.service_zone.as_deref(), Some("a"));
        for refused in ["--allow-unknown-static-fields", "--log-format %v", "--restart-epoch x"] {
            assert_eq!(parse(refused).unwrap_err().exit_code(), 2, "{refused}");
        }
    }

    #[test]
    fn every_drain_time_can_be_added_to_a_time() {
        let parse = |seconds: &str| Cli::try_parse_from(["outrigger-proxy", "--drain-time-s", seconds]);
        let longest = parse("4294967295").unwrap().serve.drain_time();
        assert!(Instant::now().checked_add(longest).is_some());
        assert!(parse("18446744073709551615").is_err());
    }
}
