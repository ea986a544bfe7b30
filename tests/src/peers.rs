//! Finds the real programs that `tests/peers/install` put in place. In CI a missing one is a failure: a suite that
//! silently runs without its oracle proves nothing. Elsewhere the test says what it skipped and why.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program `name`, or `None` after a line on stderr that says that `test` was skipped.
///
/// # Panics
/// In CI (`CI=true`), where the peer is missing.
pub fn find(name: &str, test: &str) -> Option<PathBuf> {
    let directory = directory();
    let program = directory.join("bin").join(name);
    if program.exists() {
        return Some(program);
    }
    let missing = format!("{test}: {name} is not in {}; tests/peers/install {name} puts it there", directory.display());
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{missing}");
    // Past the capture of the test runner: a skipped test is to be seen.
    let _ = writeln!(std::io::stderr(), "SKIPPED {missing}");
    None
}

/// Where peers are: `OUTRIGGER_PEERS_DIR`, else `target/peers`.
fn directory() -> PathBuf {
    std::env::var_os("OUTRIGGER_PEERS_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers"), PathBuf::from)
}

/// The release binary `name` in `OUTRIGGER_BIN_DIR`, where that is set (CI, benches).
pub fn shipped(name: &str) -> Option<PathBuf> {
    std::env::var_os("OUTRIGGER_BIN_DIR").map(|directory| PathBuf::from(directory).join(name))
}

/// The sidecar, to be given its arguments: the release binary, or where that is not set `mesh`, the suites' own
/// program.
pub fn proxy(mesh: &str) -> Command {
    ours("outrigger-proxy", mesh, "proxy")
}

/// As [`proxy`], the control plane and its command line.
pub fn control(mesh: &str) -> Command {
    ours("outrigger", mesh, "control")
}

fn ours(name: &str, mesh: &str, role: &str) -> Command {
    match shipped(name) {
        Some(program) => Command::new(program),
        None => {
            let mut command = Command::new(mesh);
            command.arg(role);
            command
        }
    }
}
