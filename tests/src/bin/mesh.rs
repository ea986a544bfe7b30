//! Our programs for the suites: cargo builds no other package's binaries for a test, so this one is all of them.
//! `mesh proxy ARGUMENTS` is the sidecar, `mesh control ARGUMENTS` the control plane and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).peekable();
    match arguments.peek().and_then(|program| program.to_str()) {
        Some("proxy") => outrigger_proxy::run(arguments),
        Some("control") => outrigger_control::run(arguments),
        _ => {
            eprintln!("usage: mesh proxy ARGUMENTS | mesh control ARGUMENTS");
            ExitCode::from(2)
        }
    }
}
