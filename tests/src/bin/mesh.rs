//! Our programs for the suites: cargo builds no other package's binaries for a test, so this one is all of them.

use std::process::ExitCode;

fn main() -> ExitCode {
    let program = std::env::args_os().nth(1).unwrap_or_default();
    eprintln!("mesh: no such program: {}", program.display());
    ExitCode::from(2)
}
