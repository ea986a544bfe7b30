//! Why the store cannot be opened or go on: each names the file, the reason and what to do.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::FORMAT_NUMBER;

/// The store cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the file open.
    #[error("{}: another process has it open: stop that one, or give this one a directory of its own", .0.display())]
    InUse(PathBuf),
    /// The file was written by a newer version.
    #[error("{}: its layout has number {found}, this version reads {FORMAT_NUMBER}: run the version that wrote it", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The number found.
        found: u64,
    },
    /// The file has no bytes: this process makes none such, and all that was applied is gone from it.
    #[error(
        "{}: the file is empty, and what was applied is gone from it: put back a copy of it, or remove it to begin with \
         nothing and apply the whole mesh anew",
        .0.display()
    )]
    Empty(PathBuf),
    /// The directory or the file cannot be made.
    #[error("{}: {error}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// The file has other bytes than were written to it.
    #[error(
        "{}: the file is damaged ({reason}), and what it holds was left as it is: put back a copy of it, or move it away to \
         begin with nothing and apply the whole mesh anew",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file cannot be read or written.
    #[error("{}: {error}: {}, then start again", path.display(), if is_full(error) { "make room on its disk" } else { "see to its disk and to whose file it is" })]
    Database {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: Box<redb::Error>,
    },
    /// A write failed, and all is as it was before it.
    #[error("nothing was stored: {}: {error}: {}, then send it again", path.display(), if is_full(error) { "make room on its disk" } else { "see to its disk" })]
    NotStored {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: Box<redb::Error>,
    },
}

impl StoreError {
    /// What an error of the database says of its file.
    pub(super) fn of_file(path: &Path, error: redb::Error) -> Self {
        let path = path.to_owned();
        let reason = match error {
            redb::Error::DatabaseAlreadyOpen => return Self::InUse(path),
            redb::Error::Corrupted(reason) => reason,
            redb::Error::RepairAborted => "its last write cannot be read".to_owned(),
            // Its first bytes are others, or it ends too early.
            redb::Error::Io(error) if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
                error.to_string()
            }
            // Layouts that this process never writes.
            redb::Error::UpgradeRequired(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TableDoesNotExist(_) => error.to_string(),
            _ => return Self::Database { path, error: Box::new(error) },
        };
        Self::Damaged { path, reason }
    }
}

/// Whether an error says that there is no room, on the disk or for a file of this user or process.
pub(crate) fn is_full(error: &redb::Error) -> bool {
    let full = |kind| matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge);
    matches!(error, redb::Error::Io(error) if full(error.kind()))
}
