//! Reading what happened since a revision. The last sets are read from memory, which all readers share: with a thousand
//! watches, a copy for each of what was just written would be all the memory there is. The disk is for who comes back.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use redb::ReadableDatabase;

use super::{COMPACTED, Change, LOG, META, REVISION, Record, Shared};

/// How many changes are read at once, so that a watcher far behind costs little memory. A set is never cut.
const CHUNK: usize = 256;

/// How much of the last sets is kept in memory, in bytes of their objects, if not the last one alone has more.
const RECENT: usize = 8 << 20;

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

/// The last sets.
#[derive(Debug)]
pub(super) struct Recent {
    /// The revision before the first of them.
    after: u64,
    newest: u64,
    sets: VecDeque<Arc<[Entry]>>,
    bytes: usize,
}

impl Recent {
    /// Nothing was written since `revision`.
    pub(super) fn new(revision: u64) -> Self {
        Recent { after: revision, newest: revision, sets: VecDeque::new(), bytes: 0 }
    }

    /// A set was written, and the log holds what came after the revision `compacted`.
    pub(super) fn push(&mut self, revision: u64, changes: &[Change], compacted: u64) {
        let set: Arc<[Entry]> = changes.iter().map(|change| Entry { revision, change: change.clone() }).collect();
        self.newest = revision;
        self.bytes = self.bytes.saturating_add(size(&set));
        self.sets.push_back(set);
        while self.sets.len() > 1 && (self.bytes > RECENT || self.after < compacted) {
            let Some(oldest) = self.sets.pop_front() else { break };
            self.bytes = self.bytes.saturating_sub(size(&oldest));
            self.after = oldest.first().map_or(self.after, |entry| entry.revision);
        }
    }

    /// The first changes after `revision`, by whole sets, if they are here.
    fn after(&self, revision: u64) -> Option<Vec<Entry>> {
        if !(self.after..=self.newest).contains(&revision) {
            return None;
        }
        let mut entries = Vec::new();
        let is_later = |set: &&Arc<[Entry]>| set.first().is_some_and(|entry| entry.revision > revision);
        for set in self.sets.iter().filter(is_later) {
            if entries.len() >= CHUNK {
                break;
            }
            entries.extend_from_slice(set);
        }
        Some(entries)
    }
}

/// The bytes of its objects.
fn size(set: &[Entry]) -> usize {
    let bytes = |entry: &Entry| match &entry.change {
        Change::Put(_, record) | Change::Remove(_, record) => record.bytes.len(),
    };
    set.iter().map(bytes).sum()
}

/// A reader of the log; its calls block for as long as the disk takes.
#[derive(Clone, Debug)]
pub struct Log {
    pub(super) shared: Arc<Shared>,
}

impl Log {
    /// As [`Log::after`], and does not block: `None` where only the disk has them, or says why not.
    pub fn recent(&self, revision: u64) -> Option<Vec<Entry>> {
        self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner).after(revision)
    }

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

    #[test]
    fn the_last_sets_are_those_of_the_disk_and_shared() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(directory.path(), 3).unwrap();
        let log = store.log();
        let set = |revision, bytes: usize| {
            let bytes = Bytes::from(vec![b'x'; bytes]);
            let record = Arc::new(Record { revision, created: 1, generation: 1, created_at: 7, bytes });
            [Change::Put("a".into(), Arc::clone(&record)), Change::Remove("b".into(), record)]
        };
        for revision in 1..=3 {
            store.commit(&set(revision, 10)).unwrap();
            // The log has three changes, so one set, or the last one and a half.
            assert_eq!(log.recent(revision - 1).unwrap(), log.after(revision - 1).unwrap());
            assert!(log.recent(revision).unwrap().is_empty() && log.recent(revision + 1).is_none());
        }
        assert!(log.recent(1).is_none() && matches!(log.after(1), Err(LogError::TooOld { oldest: 2 })));
        let record = |entries: &[Entry]| match &entries[0].change {
            Change::Put(_, record) | Change::Remove(_, record) => Arc::clone(record),
        };
        assert!(Arc::ptr_eq(&record(&log.recent(2).unwrap()), &record(&log.recent(2).unwrap())));

        drop((store, log));
        let (mut store, _) = Store::open(directory.path(), 10_000).unwrap();
        let log = store.log();
        assert!(log.recent(2).is_none() && log.after(2).unwrap().len() == 2, "the disk has it");
        for revision in 4..=6 {
            store.commit(&set(revision, RECENT / 4)).unwrap();
        }
        assert!(log.recent(3).is_none() && log.recent(4).unwrap().len() == 4);
        assert_eq!(log.after(3).unwrap().len(), 6);
        store.commit(&set(7, RECENT)).unwrap();
        assert!(log.recent(5).is_none() && log.recent(6).unwrap().len() == 2, "the last one, however large");
    }
}
