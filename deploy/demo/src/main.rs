//! A whole mesh on one machine: a control plane and a shop of three services, each instance with its own sidecar, every
//! one its own process, and a script that shows what the mesh does when things change and fail.
//!
//! The program is all of them: it starts itself again as `proxy`, `control` and `app`.

mod app;
mod client;
mod directory;
mod family;
mod measure;
mod mesh;
mod ports;
mod screen;
mod script;
mod traffic;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

/// Runs a whole mesh on this machine and shows what it does: traffic is shifted, instances fail and slow down, a
/// circuit breaker trips, the control plane is killed. Needs no privileges and no fixed ports.
#[derive(Debug, Parser)]
#[command(
    name = "outrigger-demo",
    after_help = "Ends with 0 if all was as it should, with 1 if a request failed that should not have, and with 130 (143) if \
                  Ctrl-C (SIGTERM) came before the script was over.\n\n\
                  outrigger-demo control ARGUMENTS is the command line of the mesh, outrigger-demo proxy ARGUMENTS its sidecar."
)]
struct Cli {
    /// How long there is something to watch, in all steps together, such as 20s or 2m, before the demo ends with a summary.
    /// Starting the mesh, and waiting in a step until its change shows, comes on top: ten seconds or more. Without it there
    /// is a minute to watch, and the mesh runs on until Ctrl-C.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,
    /// Run on after the script until Ctrl-C, also with --duration.
    #[arg(long)]
    stay: bool,
    /// Requests per second.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// A program to be the sidecars in place of ours, such as Envoy: the control plane drives it as well.
    #[arg(long, value_name = "FILE")]
    sidecar: Option<PathBuf>,
}

fn main() -> ExitCode {
    if let Err(reason) = family::follow_parent() {
        eprintln!("{reason}");
        return ExitCode::FAILURE;
    }
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let rest: Vec<OsString> = arguments.collect();
    match rest.first().and_then(|role| role.to_str()) {
        Some("proxy") => outrigger_proxy::run(rest),
        Some("control") => outrigger_control::run(rest),
        Some("app") => app::run(rest),
        Some(family::EXEC) => family::exec(rest),
        _ => match Cli::try_parse_from(std::iter::once(program).chain(rest)) {
            Ok(cli) => script::run(cli),
            Err(error) => {
                // To standard output for --help, else to standard error; nobody reads a failure of that.
                _ = error.print();
                ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1))
            }
        },
    }
}

/// A time such as `500ms`, `20s` or `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000)];
    let parsed = units.into_iter().find_map(|(unit, millis)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(millis).map(Duration::from_millis)
    });
    parsed.filter(|time| !time.is_zero()).ok_or_else(|| "write it as 500ms, 20s or 2m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "20", "0s", "-1s", "s", "1h", "99999999999999999999s", "18446744073709551615m"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
