//! Reading what happened since a revision. The last sets are read from memory, which all readers share: with a thousand
//! watches, a copy for each of what was just written would be all the memory there is. The disk is for who comes back, and
//! gives a piece at a time: a set may be as large as a message.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use redb::ReadableDatabase;

use super::{COMPACTED, Change, LOG, META, REVISION, Record, Shared};

/// How much is read at once, in bytes of objects, if not the first change alone has more.
pub(crate) const PIECE: usize = 64 << 10;
/// And how many changes.
const CHANGES: usize = 256;

/// A change of the log: the revision of its set, and its place in that.
pub type Position = (u64, u32);

/// Where what comes after a revision begins.
pub fn after(revision: u64) -> Position {
    (revision.saturating_add(1), 0)
}

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

impl Entry {
    /// The bytes of its object.
    pub fn size(&self) -> usize {
        match &self.change {
            Change::Put(_, record) | Change::Remove(_, record) => record.bytes.len(),
        }
    }
}

/// Changes one behind the other.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// None if there are none yet.
    pub entries: Vec<Entry>,
    /// Where what comes after them begins.
    pub next: Position,
    bytes: usize,
}

impl Piece {
    fn new(position: Position) -> Self {
        Piece { entries: Vec::new(), next: position, bytes: 0 }
    }

    /// Adds the change of a position, unless it is full. Then it ends there.
    fn add(&mut self, position: Position, size: usize, entry: impl FnOnce() -> Entry) -> bool {
        let bytes = self.bytes.saturating_add(size);
        if !self.entries.is_empty() && (self.entries.len() >= CHANGES || bytes > PIECE) {
            self.next = position;
            return false;
        }
        self.bytes = bytes;
        self.entries.push(entry());
        // As long as nothing else of the set comes.
        self.next = after(position.0);
        true
    }
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

    /// The first changes from a position on, if they are here.
    fn from(&self, position: Position) -> Option<Piece> {
        if !(self.after..=self.newest).contains(&position.0.saturating_sub(1)) {
            return None;
        }
        let mut piece = Piece::new(position);
        // Every watch comes here after each write, which waits for the lock: none walks what it has had.
        let begins = self.sets.partition_point(|set| set.last().is_some_and(|entry| entry.revision < position.0));
        let places = self.sets.range(begins..).flat_map(|set| {
            let within = set.first().is_some_and(|entry| entry.revision == position.0);
            let first = if within { position.1 } else { 0 };
            (first..).zip(set.iter().skip(first as usize))
        });
        for (place, entry) in places {
            if !piece.add((entry.revision, place), entry.size(), || entry.clone()) {
                break;
            }
        }
        Some(piece)
    }
}

/// The bytes of its objects.
fn size(set: &[Entry]) -> usize {
    set.iter().map(Entry::size).sum()
}

/// A reader of the log; its calls block for as long as the disk takes.
#[derive(Clone, Debug)]
pub struct Log {
    pub(super) shared: Arc<Shared>,
}

impl Log {
    /// As [`Log::from`], and does not block: `None` where only the disk has them, or says why not.
    pub fn recent(&self, position: Position) -> Option<Piece> {
        self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner).from(position)
    }

    /// The first changes from a position on, oldest first; none if there is none yet.
    ///
    /// # Errors
    /// Where the log does not reach back to the position, or its revision lies in the future.
    pub fn from(&self, position: Position) -> Result<Piece, LogError> {
        let revision = position.0.saturating_sub(1);
        let read = self.read(position).or_else(|_| {
            // Of a write, perhaps, after which it is opened again.
            let _written = self.shared.writing.lock().unwrap_or_else(PoisonError::into_inner);
            self.read(position)
        });
        let (compacted, newest, piece) = read.map_err(|error| LogError::Database(Box::new(error)))?;
        if revision < compacted {
            return Err(LogError::TooOld { oldest: compacted });
        }
        if revision > newest {
            return Err(LogError::Future { newest });
        }
        Ok(piece)
    }

    fn read(&self, position: Position) -> Result<(u64, u64, Piece), redb::Error> {
        let open = self.shared.opened();
        let transaction = open.as_ref().ok_or(redb::Error::DatabaseClosed)?.begin_read()?;
        let meta = transaction.open_table(META)?;
        let number = |name| meta.get(name).map(|found| found.map_or(0, |number| number.value()));
        let (compacted, newest) = (number(COMPACTED)?, number(REVISION)?);
        let mut piece = Piece::new(position);
        for row in transaction.open_table(LOG)?.range(position..)? {
            let (at, value) = row?;
            let (revision, _) = at.value();
            let (removed, key, created, generation, created_at, bytes) = value.value();
            let entry = || {
                let key = Arc::from(key);
                let bytes = Bytes::copy_from_slice(bytes);
                let record = Arc::new(Record { revision, created, generation, created_at, bytes });
                let change = if removed { Change::Remove(key, record) } else { Change::Put(key, record) };
                Entry { revision, change }
            };
            if !piece.add(at.value(), bytes.len(), entry) {
                break;
            }
        }
        Ok((compacted, newest, piece))
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
        assert!(log.from(after(0)).unwrap().entries.is_empty());
        assert!(matches!(log.from(after(1)), Err(LogError::Future { newest: 0 })));
        let record = |revision| {
            Arc::new(Record { revision, created: 1, generation: revision, created_at: 7, bytes: Bytes::from("x") })
        };
        let first = Change::Put("a".into(), record(1));
        let second = Change::Remove("a".into(), record(2));
        store.commit(std::slice::from_ref(&first)).unwrap();
        store.commit(std::slice::from_ref(&second)).unwrap();
        let (first, second) = (Entry { revision: 1, change: first }, Entry { revision: 2, change: second });
        assert_eq!(log.from(after(0)).unwrap().entries, [first, second.clone()]);
        assert_eq!(log.from(after(1)).unwrap().entries, [second]);
        assert!(log.from(after(2)).unwrap().entries.is_empty());
    }

    #[test]
    fn a_reader_far_behind_gets_a_piece_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(directory.path(), 10_000).unwrap();
        let bytes = Bytes::from("x".repeat(PIECE / 10));
        let record = |revision, bytes| Arc::new(Record { revision, created: 1, generation: 1, created_at: 7, bytes });
        for revision in 1..=3 {
            let put = |name: u32| Change::Put(name.to_string().into(), record(revision, bytes.clone()));
            store.commit(&(0..12).map(put).collect::<Vec<_>>()).unwrap();
        }
        // One alone that is larger, and many small ones.
        store.commit(&[Change::Put("large".into(), record(4, "x".repeat(PIECE + 1).into()))]).unwrap();
        let put = |name: usize| Change::Put(name.to_string().into(), record(5, Bytes::new()));
        store.commit(&(0..=CHANGES).map(put).collect::<Vec<_>>()).unwrap();
        let pieces = |read: &dyn Fn(Position) -> Piece| {
            let (mut position, mut pieces, mut all) = (after(0), Vec::new(), Vec::new());
            loop {
                let Piece { entries, next, .. } = read(position);
                if entries.is_empty() {
                    return (pieces, all);
                }
                position = next;
                pieces.push((entries.len(), next));
                all.extend(entries);
            }
        };
        let log = store.log();
        let (read, all) = pieces(&|position| log.from(position).unwrap());
        // A piece may begin and end within a set; one that ends with it does not need it any more.
        let changes = CHANGES as u32;
        let expected =
            [(10, (1, 10)), (10, (2, 8)), (10, (3, 6)), (6, (4, 0)), (1, (5, 0)), (CHANGES, (5, changes)), (1, (6, 0))];
        assert_eq!(read, expected);
        assert_eq!(all.len(), 36 + 1 + CHANGES + 1);
        assert_eq!(pieces(&|position| log.recent(position).unwrap()), (read, all));
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
            assert_eq!(log.recent(after(revision - 1)).unwrap(), log.from(after(revision - 1)).unwrap());
            assert!(
                log.recent(after(revision)).unwrap().entries.is_empty() && log.recent(after(revision + 1)).is_none()
            );
        }
        assert!(log.recent(after(1)).is_none() && matches!(log.from(after(1)), Err(LogError::TooOld { oldest: 2 })));
        let record = |piece: Piece| match &piece.entries[0].change {
            Change::Put(_, record) | Change::Remove(_, record) => Arc::clone(record),
        };
        assert!(Arc::ptr_eq(&record(log.recent(after(2)).unwrap()), &record(log.recent(after(2)).unwrap())));

        drop((store, log));
        let (mut store, _) = Store::open(directory.path(), 10_000).unwrap();
        let log = store.log();
        assert!(log.recent(after(2)).is_none() && log.from(after(2)).unwrap().entries.len() == 2, "the disk has it");
        for revision in 4..=6 {
            store.commit(&set(revision, RECENT / 4)).unwrap();
        }
        assert!(log.recent(after(3)).is_none() && log.recent(after(4)).is_some());
        assert_eq!(log.from(after(3)).unwrap().entries[0].revision, 4);
        store.commit(&set(7, RECENT)).unwrap();
        assert!(log.recent(after(5)).is_none() && log.recent(after(6)).is_some(), "the last one, however large");
    }
}
