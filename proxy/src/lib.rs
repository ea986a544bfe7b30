//! The sidecar proxy: everything that touches a socket.
//!
//! One pipeline, and its folders are the stations in the order a byte meets them: `listener/` -> `http/` or `tcp/` ->
//! `cluster/` -> the upstream socket.

pub mod admin;
mod admin_state;
pub mod alarm;
pub mod args;
pub mod bootstrap;
pub mod cluster;
pub mod configuration;
pub mod grpc;
pub mod http;
pub mod io;
pub mod listener;
mod priority;
pub mod process;
pub mod server;
pub mod tcp;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod tls;
pub mod validate;
pub mod worker;
pub mod xds;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command, Mode, ServeArgs};
use crate::telemetry::log;

/// Runs the program with its arguments (the first is the program's name) to its end.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // To standard output for --help and --version, else to standard error; nobody reads a failure of that.
            _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1));
        }
    };
    let result = match cli.command {
        Some(Command::Validate(args)) => {
            Ok(validate::validate(args.config_path.as_deref(), args.config_yaml.as_deref()))
        }
        None => serve(cli.serve),
    };
    result.unwrap_or_else(|reason| {
        eprintln!("{reason}");
        ExitCode::FAILURE
    })
}

fn serve(args: ServeArgs) -> Result<ExitCode, String> {
    let level = args.log_level.parse().map_err(|error| format!("--log-level: {error}"))?;
    let components = args.component_log_level.as_deref().unwrap_or_default();
    log::init(level, components, args.log_path.as_deref()).map_err(|error| error.to_string())?;
    if let Ok(name) = std::fs::read_to_string("/proc/sys/kernel/hostname") {
        // Nobody else sets it.
        _ = outrigger_engine::format::HOSTNAME.set(name.trim_end().to_owned());
    }
    let bootstrap = bootstrap::load(&args.config)?;
    if args.mode != Mode::Serve {
        println!("configuration '{}' OK", args.config.config_path.unwrap_or_default().display());
        return Ok(ExitCode::SUCCESS);
    }
    telemetry::memory::trim();
    raise_descriptor_limit();
    server::serve(args, bootstrap).map_err(|error| error.to_string())
}

/// Takes as many file descriptors as the process may have: each connection is one, and systems start programs with
/// 1,024, for those that call `select`.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(target: "main", "the limit of file descriptors stays as it is: {error}");
    }
}
