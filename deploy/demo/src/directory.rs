//! Where a run keeps the store, configurations and logs of its mesh. Who is killed with -9 removes nothing: the next run
//! does it.
//!
//! A run holds a lock on a file in its directory, which the kernel lets go however the run ends. Its process id would say less: it
//! may be another's by now, or one of another container that has the same `/tmp`.
//! And what has no such file is no run's, whatever its name.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::geteuid;
use tempfile::TempDir;

const PREFIX: &str = "outrigger-demo-";
/// Who has this locked has the directory.
const LOCK: &str = ".outrigger-demo.lock";

/// A directory that goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Directory {
    directory: TempDir,
    _lock: File,
}

impl Directory {
    /// Makes one, and removes those that runs of the same user left behind.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn new() -> io::Result<Self> {
        let temporary = std::env::temp_dir();
        remove_stale(&temporary);
        loop {
            let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&temporary)?;
            let lock = File::create_new(directory.path().join(LOCK))?;
            lock.lock()?;
            // Before this was locked, another run may have taken it for one that was left behind.
            if directory.path().exists() {
                return Ok(Self { directory, _lock: lock });
            }
        }
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Removes the directories that nobody holds. One that cannot be removed stays: it is in nobody's way.
fn remove_stale(temporary: &Path) {
    let user = geteuid().as_raw();
    for entry in fs::read_dir(temporary).into_iter().flatten().flatten() {
        let is_one = entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes());
        // Of the entry itself: a link is no directory.
        let is_ours = || entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == user);
        if is_one
            && is_ours()
            && let Ok(lock) = File::open(entry.path().join(LOCK))
            && lock.try_lock().is_ok()
        {
            _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_nobody_holds_is_removed_and_nothing_else() {
        let temporary = tempfile::tempdir().unwrap();
        let at = |name: &str| temporary.path().join(name);
        for name in ["outrigger-demo-stale", "outrigger-demo-held", "outrigger-demo-mine", "other"] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("file"), "").unwrap();
        }
        for name in ["outrigger-demo-stale", "outrigger-demo-held", "other"] {
            fs::write(at(name).join(LOCK), "").unwrap();
        }
        fs::write(at("outrigger-demo-file"), "").unwrap();
        symlink(at("other"), at("outrigger-demo-link")).unwrap();
        let held = File::open(at("outrigger-demo-held").join(LOCK)).unwrap();
        held.lock().unwrap();
        let left = || {
            remove_stale(temporary.path());
            let entries = fs::read_dir(temporary.path()).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let others = ["other", "outrigger-demo-file", "outrigger-demo-link", "outrigger-demo-mine"];
        assert_eq!(left(), [others[0], others[1], "outrigger-demo-held", others[2], others[3]]);
        assert!(at("other").join("file").exists());
        // Not by closing it: a child that another test starts may have it open still.
        held.unlock().unwrap();
        assert_eq!(left(), others);
    }
}
