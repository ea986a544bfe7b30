//! What was applied, in one file, durable before it is acknowledged.
//!
//! The store knows keys and bytes, not objects: whoever writes has checked them. One revision counts every set that was
//! applied; all changes of a set are in force together or not at all, also after a crash. Beside what is in force there
//! is a log of how it became so, by revision: watches read it, and it is bounded by dropping its oldest revisions.
//!
//! The database has one writer, so [`Store`] writes by `&mut self` and is owned by one thread (its calls block);
//! readers of the log have a [`Log`] each. After an error of the disk the database takes and gives nothing any more until
//! it is opened again, and only then it is known what the disk has: a reader that meets the error waits for that.

#![expect(clippy::disallowed_types, reason = "only opening again excludes readers, who read from a disk")]

mod error;
#[cfg(test)]
mod error_tests;
mod log;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};

pub use self::error::StoreError;
pub(crate) use self::error::is_full;
pub(crate) use self::log::PIECE;
use self::log::Recent;
pub use self::log::{Entry, Log, LogError, Piece, Position, after};

/// key -> (revision, created, generation, created at, object)
const CURRENT: TableDefinition<'_, &str, (u64, u64, u64, u64, &[u8])> = TableDefinition::new("current");

/// (revision, place in its set) -> (is it a removal, key, created, generation, created at, object)
const LOG: TableDefinition<'_, (u64, u32), (bool, &str, u64, u64, u64, &[u8])> = TableDefinition::new("log");

/// Numbers about the database itself.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// [`META`]: the layout of the tables.
const FORMAT: &str = "format";
/// The layout that this version reads and writes.
const FORMAT_NUMBER: u64 = 1;
/// [`META`]: the newest revision.
const REVISION: &str = "revision";
/// [`META`]: the newest revision that is no longer in the log.
const COMPACTED: &str = "compacted";

/// How many changes the log holds, if nothing else is asked for.
pub const LOG_ENTRIES: u64 = 10_000;

/// How many bytes its changes have together at most: as much as one message may bring. Each start reads the file.
const LOG_BYTES: u64 = 64 << 20;

/// What the database keeps of its file in memory. The objects are there anyway, and so are the last sets: this is for the
/// pages on the way to those that a write changes.
const CACHE: usize = 16 << 20;

/// What is stored under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The revision that wrote it.
    pub revision: u64,
    /// The revision that first wrote its key; kept over updates, new after a removal.
    pub created: u64,
    /// Counts the changes of what it asks for, from 1.
    pub generation: u64,
    /// When its key was first written, in seconds since 1970.
    pub created_at: u64,
    /// The object as it was written.
    pub bytes: Bytes,
}

/// All that is in force, by key.
pub type Records = BTreeMap<Arc<str>, Arc<Record>>;

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key holds this from now on.
    Put(Arc<str>, Arc<Record>),
    /// The key is gone; the record is what it held.
    Remove(Arc<str>, Arc<Record>),
}

/// The open file.
#[derive(Debug)]
struct Shared {
    /// `None` only while it is opened again, and where that failed. Reading and writing share it.
    database: RwLock<Option<Database>>,
    /// Held over a write, with what has to be done after its error.
    writing: Mutex<()>,
    recent: Mutex<Recent>,
}

impl Shared {
    fn opened(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What opens a file: checked as a whole, because the database takes what it reads for what it wrote, and panics where it is
/// not, or gives something else without a word.
fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE).set_check_integrity_on_open(true).set_repair_callback(|repair| {
        // After the first of its three passes it asks only where the last write is damaged and its header says nothing of two
        // phases, and would go on with the write before that; each was acknowledged.
        if repair.progress() > 0.0 && repair.progress() < 0.5 {
            repair.abort();
        }
    });
    builder
}

fn open_file(path: &Path) -> Result<Database, StoreError> {
    builder().create(path).map_err(|error| StoreError::of_file(path, error.into()))
}

/// The only writer of the file.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    shared: Arc<Shared>,
    revision: u64,
    /// The changes that the log may hold.
    log_entries: u64,
    /// The bytes of these.
    log_bytes: u64,
    /// The bytes of those that it holds.
    logged: u64,
    /// Opens the file again.
    open: fn(&Path) -> Result<Database, redb::DatabaseError>,
}

impl Store {
    /// Opens the file `outrigger.redb` of the directory, both made if they are missing. The log is to hold
    /// `log_entries` changes, and always the last set.
    ///
    /// # Errors
    /// Where the file cannot be opened, is in use or of another layout.
    pub fn open(directory: &Path, log_entries: u64) -> Result<(Self, Records), StoreError> {
        let io = |error| StoreError::Io { path: directory.to_owned(), error };
        std::fs::create_dir_all(directory).map_err(io)?;
        // Of two first starts at once one makes the file, and the other then finds it in use.
        let starting = File::open(directory).map_err(io)?;
        starting.lock().map_err(io)?;
        let path = directory.join("outrigger.redb");
        // A file that is not whole has another name: killed while it makes its file, a process makes it anew.
        let draft = directory.join("outrigger.redb.new");
        let is_new = !path.exists();
        // The database would take it for a new one.
        if std::fs::metadata(&path).is_ok_and(|found| found.len() == 0) {
            return Err(StoreError::Empty(path));
        }
        if let Ok(found) = std::fs::metadata(&path) {
            tracing::info!("{}: checking and reading {} KB", path.display(), found.len() >> 10);
        }
        let database = match open_file(if is_new { &draft } else { &path }) {
            // Why it cannot be made is the reason to name, not why there is nothing to take away.
            Err(first @ (StoreError::Database { .. } | StoreError::Damaged { .. })) if is_new => {
                match std::fs::remove_file(&draft) {
                    Ok(()) => open_file(&draft)?,
                    Err(_) => return Err(first),
                }
            }
            opened => opened?,
        };
        let format = prepare(&database).map_err(|error| StoreError::of_file(&path, error))?;
        if format != FORMAT_NUMBER {
            return Err(StoreError::Format { path, found: format });
        }
        if is_new {
            std::fs::rename(&draft, &path)
                .and_then(|()| starting.sync_all())
                .map_err(|error| StoreError::Io { path: path.clone(), error })?;
        }
        let (revision, records) = load(&database).map_err(|error| StoreError::of_file(&path, error))?;
        let logged = logged(&database).map_err(|error| StoreError::of_file(&path, error))?;
        let shared = Arc::new(Shared {
            database: RwLock::new(Some(database)),
            writing: Mutex::default(),
            recent: Mutex::new(Recent::new(revision)),
        });
        let log_bytes = LOG_BYTES;
        Ok((
            Self { path, shared, revision, log_entries, log_bytes, logged, open: |path| builder().open(path) },
            records,
        ))
    }

    /// The newest revision; 0 if nothing was ever written.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// A record is not what was written.
    pub fn damaged(&self, reason: String) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), reason }
    }

    /// A reader of the log.
    pub fn log(&self) -> Log {
        Log { shared: Arc::clone(&self.shared) }
    }

    /// Writes a set as the revision after the newest. When this returns, it is on the disk.
    ///
    /// # Errors
    /// [`StoreError::NotStored`] where nothing of it is on the disk; a later write may be. Any other error says that the
    /// store cannot go on.
    pub fn commit(&mut self, changes: &[Change]) -> Result<u64, StoreError> {
        let revision = self.revision.saturating_add(1);
        let _writing = self.shared.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match self.shared.opened().as_ref() {
            Some(database) => self.write(database, revision, changes),
            None => Err(redb::Error::DatabaseClosed),
        };
        let (compacted, logged) = match written {
            Ok(left) => left,
            Err(error) => self.reopen(revision, error)?,
        };
        self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner).push(revision, changes, compacted);
        (self.revision, self.logged) = (revision, logged);
        Ok(revision)
    }

    /// After the error of a write: as [`Store::write`], if the disk has the write all the same.
    fn reopen(&self, revision: u64, error: redb::Error) -> Result<(u64, u64), StoreError> {
        let mut open = self.shared.database.write().unwrap_or_else(PoisonError::into_inner);
        // Closed before it is opened: the file has a lock.
        *open = None;
        // What is found then is on the disk: opening writes the header anew, and syncs it.
        let database = (self.open)(&self.path).map_err(|error| StoreError::of_file(&self.path, error.into()))?;
        let failed = |error| StoreError::of_file(&self.path, error);
        let stored = number(&database, REVISION).map_err(failed)?;
        let left = (number(&database, COMPACTED).map_err(failed)?, logged(&database).map_err(failed)?);
        *open = Some(database);
        if stored != revision {
            return Err(StoreError::NotStored { path: self.path.clone(), error: Box::new(error) });
        }
        Ok(left)
    }

    /// Writes a set. What the log no longer holds then, the changes up to which revision, and the bytes of those that it holds.
    fn write(&self, database: &Database, revision: u64, changes: &[Change]) -> Result<(u64, u64), redb::Error> {
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        // Else a start would take the write before this one where it finds this one damaged.
        transaction.set_two_phase_commit(true);
        let mut logged = self.logged;
        let compacted = {
            let mut current = transaction.open_table(CURRENT)?;
            let mut log = transaction.open_table(LOG)?;
            let mut meta = transaction.open_table(META)?;
            for (place, change) in (0_u32..).zip(changes) {
                let (removed, key, record) = match change {
                    Change::Put(key, record) => {
                        current.insert(
                            key.as_ref(),
                            (revision, record.created, record.generation, record.created_at, record.bytes.as_ref()),
                        )?;
                        (false, key, record)
                    }
                    Change::Remove(key, record) => {
                        current.remove(key.as_ref())?;
                        (true, key, record)
                    }
                };
                let Record { created, generation, created_at, ref bytes, .. } = **record;
                log.insert(
                    (revision, place),
                    (removed, key.as_ref(), created, generation, created_at, bytes.as_ref()),
                )?;
                logged = logged.saturating_add(size(key, bytes));
            }
            meta.insert(REVISION, revision)?;
            while log.len()? > self.log_entries || logged > self.log_bytes {
                let Some(oldest) = log.first()?.map(|(place, _)| place.value().0) else { break };
                if oldest == revision {
                    break;
                }
                log.retain_in((oldest, 0)..=(oldest, u32::MAX), |_, (_, key, .., bytes)| {
                    logged = logged.saturating_sub(size(key, bytes));
                    false
                })?;
                meta.insert(COMPACTED, oldest)?;
            }
            meta.get(COMPACTED)?.map_or(0, |compacted| compacted.value())
        };
        transaction.commit()?;
        Ok((compacted, logged))
    }
}

/// Makes the tables of a new file; says the number of the layout.
fn prepare(database: &Database) -> Result<u64, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    let format = {
        let mut meta = transaction.open_table(META)?;
        let found = meta.get(FORMAT)?.map(|number| number.value());
        match found {
            Some(found) => found,
            None => {
                meta.insert(FORMAT, FORMAT_NUMBER)?;
                FORMAT_NUMBER
            }
        }
    };
    if format == FORMAT_NUMBER {
        transaction.open_table(CURRENT)?;
        transaction.open_table(LOG)?;
        transaction.commit()?;
    }
    Ok(format)
}

/// A number about the database; 0 where it is not there.
fn number(database: &Database, name: &str) -> Result<u64, redb::Error> {
    let meta = database.begin_read()?.open_table(META)?;
    Ok(meta.get(name)?.map_or(0, |number| number.value()))
}

/// What a change takes of the bytes that the log may have.
fn size(key: &str, object: &[u8]) -> u64 {
    (key.len() as u64).saturating_add(object.len() as u64)
}

/// The bytes of all changes in the log.
fn logged(database: &Database) -> Result<u64, redb::Error> {
    let mut bytes = 0_u64;
    for entry in database.begin_read()?.open_table(LOG)?.iter()? {
        let (_, value) = entry?;
        let (_, key, .., object) = value.value();
        bytes = bytes.saturating_add(size(key, object));
    }
    Ok(bytes)
}

/// The newest revision, and all that is in force.
fn load(database: &Database) -> Result<(u64, Records), redb::Error> {
    let transaction = database.begin_read()?;
    let mut records = Records::new();
    for entry in transaction.open_table(CURRENT)?.iter()? {
        let (key, value) = entry?;
        let (revision, created, generation, created_at, bytes) = value.value();
        let bytes = Bytes::copy_from_slice(bytes);
        let record = Record { revision, created, generation, created_at, bytes };
        records.insert(Arc::from(key.value()), Arc::new(record));
    }
    Ok((number(database, REVISION)?, records))
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeSet;
    use std::io;
    use std::os::unix::fs::FileExt;
    use std::time::Duration;

    use super::*;

    fn key(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    fn record(revision: u64, created: u64, text: &str) -> Arc<Record> {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        Arc::new(Record { revision, created, generation: 1, created_at: 1_800_000_000, bytes })
    }

    #[test]
    fn what_was_written_is_there_after_it_is_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, records) = Store::open(directory.path(), LOG_ENTRIES).unwrap();
        assert_eq!((store.revision(), records.len()), (0, 0));
        let set = [Change::Put(key("a"), record(1, 1, "one")), Change::Put(key("b"), record(1, 1, "two"))];
        assert_eq!(store.commit(&set).unwrap(), 1);
        assert_eq!(store.commit(&[Change::Remove(key("a"), record(1, 1, "one"))]).unwrap(), 2);
        assert_eq!(store.commit(&[Change::Put(key("b"), record(3, 1, "three"))]).unwrap(), 3);
        drop(store);

        let (store, records) = Store::open(directory.path(), LOG_ENTRIES).unwrap();
        assert_eq!(store.revision(), 3);
        assert_eq!(records, Records::from([(key("b"), record(3, 1, "three"))]));
    }

    #[test]
    fn a_file_that_was_never_finished_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        // What redb leaves between the first two writes of a new file.
        std::fs::write(directory.path().join("outrigger.redb.new"), [0; 4096]).unwrap();
        let (store, _) = Store::open(directory.path(), LOG_ENTRIES).unwrap();
        drop(store);
        let names = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.collect::<Vec<_>>(), ["outrigger.redb"]);
    }

    #[test]
    fn a_file_that_lost_its_bytes_is_not_taken_for_a_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("outrigger.redb");
        let (mut store, _) = Store::open(directory.path(), LOG_ENTRIES).unwrap();
        store.commit(&[Change::Put(key("a"), record(1, 1, "one"))]).unwrap();
        drop(store);
        let copy = std::fs::read(&path).unwrap();
        std::fs::write(&path, []).unwrap();
        let refused = Store::open(directory.path(), LOG_ENTRIES).unwrap_err().to_string();
        assert!(refused.starts_with(&format!("{}: the file is empty", path.display())), "{refused}");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0, "it was left as it was");
        // What a full disk or a broken copy leaves of it.
        for length in [1, 100, copy.len() / 2] {
            std::fs::write(&path, &copy[..length]).unwrap();
            let refused = Store::open(directory.path(), LOG_ENTRIES).unwrap_err();
            assert!(matches!(refused, StoreError::Damaged { .. }), "{length}: {refused}");
        }
        std::fs::write(&path, copy).unwrap();
        assert_eq!(Store::open(directory.path(), LOG_ENTRIES).unwrap().1.len(), 1);
    }

    const PAGE: usize = 4096;

    thread_local! {
        /// How many syncs of [`Cached`] succeed before one fails.
        static SYNCS: Cell<u32> = const { Cell::new(u32::MAX) };
        /// Who reads while the next one is under way.
        static READER: RefCell<Option<Log>> = const { RefCell::new(None) };
        /// The pages that are not on the disk.
        static DIRTY: RefCell<BTreeSet<usize>> = const { RefCell::new(BTreeSet::new()) };
    }

    /// A file as Linux has it in memory, and beside it what is on the disk: pages whose sync failed count as clean, so the
    /// next sync succeeds without them.
    #[derive(Debug)]
    struct Cached {
        memory: File,
        disk: File,
    }

    impl Cached {
        fn open(path: &Path) -> Result<Database, redb::DatabaseError> {
            let open = |path| File::options().read(true).write(true).open(path);
            let (memory, disk) = (open(path.to_owned())?, open(path.with_extension("disk"))?);
            Database::builder().create_with_backend(Cached { memory, disk })
        }
    }

    impl redb::StorageBackend for Cached {
        fn len(&self) -> io::Result<u64> {
            Ok(self.memory.metadata()?.len())
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.memory.read_exact_at(out, offset)
        }

        fn set_len(&self, length: u64) -> io::Result<()> {
            self.memory.set_len(length)?;
            self.disk.set_len(length)
        }

        fn sync_data(&self) -> io::Result<()> {
            if let Some(log) = READER.take() {
                let (sender, read) = std::sync::mpsc::channel();
                std::thread::spawn(move || sender.send(log.from(after(0)).unwrap().entries.len()));
                assert_eq!(read.recv_timeout(Duration::from_secs(20)), Ok(0), "it does not wait for the write");
            }
            let dirty = DIRTY.take();
            let left = SYNCS.get();
            SYNCS.set(left.wrapping_sub(1));
            if left == 0 {
                return Err(io::Error::other("no answer"));
            }
            for page in dirty {
                let (mut bytes, offset) = ([0; PAGE], (page * PAGE) as u64);
                self.memory.read_exact_at(&mut bytes, offset)?;
                self.disk.write_all_at(&bytes, offset)?;
            }
            Ok(())
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            let start = usize::try_from(offset).unwrap();
            DIRTY.with_borrow_mut(|dirty| dirty.extend(start / PAGE..(start + data.len()).div_ceil(PAGE)));
            self.memory.write_all_at(data, offset)
        }
    }

    /// A store over [`Cached`], and the file that stands for its disk.
    fn cached(directory: &Path) -> (Store, PathBuf) {
        let (mut store, _) = Store::open(directory, LOG_ENTRIES).unwrap();
        let disk = store.path.with_extension("disk");
        store.open = Cached::open;
        *store.shared.database.write().unwrap() = None;
        std::fs::copy(&store.path, &disk).unwrap();
        *store.shared.database.write().unwrap() = Some(Cached::open(&store.path).unwrap());
        (store, disk)
    }

    #[test]
    fn who_reads_does_not_wait_for_a_write() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = cached(directory.path());
        READER.set(Some(store.log()));
        store.commit(&[Change::Put(key("a"), record(1, 1, "one"))]).unwrap();
        assert!(READER.take().is_none(), "it read");
    }

    #[test]
    fn what_is_acknowledged_is_on_the_disk_also_where_a_sync_failed() {
        let mut acknowledged = Vec::new();
        for syncs in 0..4 {
            let directory = tempfile::tempdir().unwrap();
            let (mut store, disk) = cached(directory.path());
            SYNCS.set(syncs);
            let written = store.commit(&[Change::Put(key("a"), record(1, 1, "one"))]);
            // The power fails now.
            let newest = number(&Database::open(&disk).unwrap(), REVISION).unwrap();
            SYNCS.set(u32::MAX);
            match written {
                Ok(revision) => {
                    assert_eq!(newest, revision, "after {syncs} syncs");
                    acknowledged.push(syncs);
                }
                Err(error) => assert!(matches!(error, StoreError::NotStored { .. }), "{error}"),
            }
        }
        assert_eq!(acknowledged, [1, 2, 3], "the second sync is that of the header");
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named_with_the_reason() {
        // Nobody makes files there, root neither.
        let refused = Store::open(Path::new("/sys"), LOG_ENTRIES).unwrap_err().to_string();
        assert!(refused.starts_with("/sys/outrigger.redb.new: "), "{refused}");
        assert!(!refused.contains("No such file"), "{refused}");
    }

    #[test]
    fn of_many_first_starts_one_has_the_file_and_the_others_say_so() {
        for _ in 0..20 {
            let directory = tempfile::tempdir().unwrap();
            let barrier = std::sync::Barrier::new(4);
            let start = || {
                barrier.wait();
                Store::open(directory.path(), LOG_ENTRIES).map(|(store, _)| store)
            };
            let opened: Vec<_> = std::thread::scope(|scope| {
                let starts: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
                starts.into_iter().map(|start| start.join().unwrap()).collect()
            });
            let (mut winners, losers): (Vec<_>, Vec<_>) = opened.into_iter().partition(Result::is_ok);
            assert!(losers.iter().all(|lost| matches!(lost, Err(StoreError::InUse(_)))), "{losers:?}");
            let mut store = winners.pop().unwrap().unwrap();
            assert!(winners.is_empty());
            // Its writes go to the file that the next start finds.
            store.commit(&[Change::Put(key("a"), record(1, 1, "one"))]).unwrap();
            drop(store);
            assert_eq!(Store::open(directory.path(), LOG_ENTRIES).unwrap().1.len(), 1);
        }
    }

    #[test]
    fn a_file_in_use_or_of_another_layout_is_refused_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(directory.path(), LOG_ENTRIES).unwrap();
        let refused = Store::open(directory.path(), LOG_ENTRIES).unwrap_err().to_string();
        assert!(refused.ends_with("stop that one, or give this one a directory of its own"), "{refused}");
        let open = store.shared.opened();
        let transaction = open.as_ref().unwrap().begin_write().unwrap();
        transaction.open_table(META).unwrap().insert(FORMAT, 2).unwrap();
        transaction.commit().unwrap();
        drop(open);
        drop(store);
        let refused = Store::open(directory.path(), LOG_ENTRIES).unwrap_err().to_string();
        assert!(refused.ends_with("this version reads 1: run the version that wrote it"), "{refused}");
    }

    #[test]
    fn the_log_is_bounded_by_whole_sets() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(directory.path(), 3).unwrap();
        for revision in 1..=3 {
            let set = ["a", "b"].map(|name| Change::Put(key(name), record(revision, 1, "x")));
            store.commit(&set).unwrap();
        }
        // A set of its own is never cut, even if it alone is longer.
        let log = store.log();
        assert_eq!(log.from(after(2)).unwrap().entries.len(), 2);
        assert!(matches!(log.from(after(1)), Err(LogError::TooOld { oldest: 2 })));
        let set = ["a", "b", "c", "d"].map(|name| Change::Put(key(name), record(4, 1, "x")));
        store.commit(&set).unwrap();
        assert_eq!(log.from(after(3)).unwrap().entries.len(), 4);
        assert!(matches!(log.from(after(2)), Err(LogError::TooOld { oldest: 3 })));
    }

    #[test]
    fn the_log_is_bounded_by_its_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(directory.path(), LOG_ENTRIES).unwrap();
        store.log_bytes = 1_000;
        let write = |store: &mut Store, bytes: usize| {
            let revision = store.revision() + 1;
            store.commit(&[Change::Put(key("a"), record(revision, 1, &"x".repeat(bytes)))]).unwrap()
        };
        for _ in 1..=9 {
            write(&mut store, 299);
        }
        assert!(matches!(store.log().from(after(5)), Err(LogError::TooOld { oldest: 6 })));
        assert_eq!(store.log().from(after(6)).unwrap().entries.len(), 3);
        // Also what was written before a restart counts, and a set is kept however long it is.
        drop(store);
        let (mut store, _) = Store::open(directory.path(), LOG_ENTRIES).unwrap();
        store.log_bytes = 1_000;
        write(&mut store, 399);
        assert!(matches!(store.log().from(after(6)), Err(LogError::TooOld { oldest: 7 })));
        write(&mut store, 5_000);
        assert!(matches!(store.log().from(after(9)), Err(LogError::TooOld { oldest: 10 })));
        assert_eq!(store.log().from(after(10)).unwrap().entries.len(), 1);
        write(&mut store, 299);
        assert_eq!(store.logged, 300);
    }
}
