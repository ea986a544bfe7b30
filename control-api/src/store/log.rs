//! Reading what happened since a revision.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use redb::ReadableDatabase;

use super::{COMPACTED, Change, LOG, META, REVISION, Record, Shared};

/// How many changes are read at once, so that a watcher far behind costs little memory. A set is never cut.
const CHUNK: usize = 256;

/// A change with the revision that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The revision of its set.
    pub revision: u64,
    /// What became of which key.
    pub change: Change,
}

/// Why the log cannot be read from there.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Changes after the revision are no longer in the log.
    #[error("the log no longer goes back that far, only to revision {oldest}: list again and watch from there")]
    TooOld {
        /// The oldest revision after which everything is there.
        oldest: u64,
    },
    /// The revision was never written.
    #[error("the newest revision is {newest}: list again and watch from there")]
    Future {
        /// The newest revision.
        newest: u64,
    },
    /// What the database says.
    #[error("the log cannot be read: {0}")]
    Database(Box<redb::Error>),
}

/// A reader of the log; its calls block for as long as the disk takes.
#[derive(Clone, Debug)]
pub struct Log {
    pub(super) shared: Arc<Shared>,
}

impl Log {
    /// The first changes after `revision`, oldest first, by whole sets; none if it is the newest.
    ///
    /// # Errors
    /// Where the log does not reach back to the revision, or the revision lies in the future.
    pub fn after(&self, revision: u64) -> Result<Vec<Entry>, LogError> {
        let read = self.read(revision).or_else(|_| {
            // Of a write, perhaps, after which it is opened again.
            let _written = self.shared.writing.lock().unwrap_or_else(PoisonError::into_inner);
            self.read(revision)
        });
        let (compacted, newest, entries) = read.map_err(|error| LogError::Database(Box::new(error)))?;
        if revision < compacted {
            return Err(LogError::TooOld { oldest: compacted });
        }
        if revision > newest {
            return Err(LogError::Future { newest });
        }
        Ok(entries)
    }

    fn read(&self, revision: u64) -> Result<(u64, u64, Vec<Entry>), redb::Error> {
        let open = self.shared.opened();
        let transaction = open.as_ref().ok_or(redb::Error::DatabaseClosed)?.begin_read()?;
        let meta = transaction.open_table(META)?;
        let number = |name| meta.get(name).map(|found| found.map_or(0, |number| number.value()));
        let (compacted, newest) = (number(COMPACTED)?, number(REVISION)?);
        let mut entries: Vec<Entry> = Vec::new();
        for row in transaction.open_table(LOG)?.range((revision.saturating_add(1), 0)..)? {
            let (place, value) = row?;
            let (revision, _) = place.value();
            if entries.len() >= CHUNK && entries.last().is_some_and(|last| last.revision != revision) {
                break;
            }
            let (removed, key, created, generation, created_at, bytes) = value.value();
            let key = Arc::from(key);
            let bytes = Bytes::copy_from_slice(bytes);
            let record = Arc::new(Record { revision, created, generation, created_at, bytes });
            let change = if removed { Change::Remove(key, record) } else { Change::Put(key, record) };
            entries.push(Entry { revision, change });
        }
        Ok((compacted, newest, entries))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::*;

    #[test]
    fn changes_are_read_from_a_revision_onwards() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(directory.path(), 10_000).unwrap();
        let log = store.log();
        assert!(log.after(0).unwrap().is_empty());
        assert!(matches!(log.after(1), Err(LogError::Future { newest: 0 })));
        let record = |revision| {
            Arc::new(Record { revision, created: 1, generation: revision, created_at: 7, bytes: Bytes::from("x") })
        };
        let first = Change::Put("a".into(), record(1));
        let second = Change::Remove("a".into(), record(2));
        store.commit(std::slice::from_ref(&first)).unwrap();
        store.commit(std::slice::from_ref(&second)).unwrap();
        let (first, second) = (Entry { revision: 1, change: first }, Entry { revision: 2, change: second });
        assert_eq!(log.after(0).unwrap(), [first, second.clone()]);
        assert_eq!(log.after(1).unwrap(), [second]);
        assert!(log.after(2).unwrap().is_empty());
    }

    #[test]
    fn a_reader_far_behind_gets_whole_sets_piece_by_piece() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(directory.path(), 10_000).unwrap();
        let (log, bytes) = (store.log(), Bytes::from("x"));
        for revision in 1..=3 {
            let record = Arc::new(Record { revision, created: 1, generation: 1, created_at: 7, bytes: bytes.clone() });
            let set: Vec<Change> =
                (0..200).map(|name| Change::Put(name.to_string().into(), Arc::clone(&record))).collect();
            store.commit(&set).unwrap();
        }
        let (mut revision, mut lengths) = (0, Vec::new());
        while let Some(last) = log.after(revision).unwrap().last() {
            lengths.push(log.after(revision).unwrap().len());
            revision = last.revision;
        }
        assert_eq!(lengths, [400, 200]);
    }
}
