//! Files: the writer of each, and the buffer that each worker has for it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use crate::telemetry::stats::Stats;

/// A worker hands a buffer over when it is this full, in bytes; Envoy's bound too.
const BATCH: usize = 64 * 1024;
/// Batches that may wait for a writer. Beyond them a worker's buffer fills to twice its size, then lines are dropped: a
/// file that cannot be written costs at most 2 MiB, and 128 KiB a worker.
const QUEUE: usize = 32;

/// The open files of the process, by path.
#[derive(Debug)]
pub struct LogFiles {
    stats: Arc<Stats>,
    open: Mutex<HashMap<String, Weak<LogFile>>>,
    /// Each writer holds a clone of the sender; when all are gone, everything is written.
    writing: Mutex<Option<SyncSender<()>>>,
    written: Mutex<Receiver<()>>,
}

/// One file. Its writer ends when the last holder is gone and everything is written.
#[derive(Debug)]
pub struct LogFile {
    path: String,
    batches: SyncSender<Batch>,
    reopen: Arc<AtomicBool>,
    stats: Arc<Stats>,
}

/// Whole lines.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    lines: u64,
}

impl LogFiles {
    /// No file yet; writes are counted in `stats`.
    pub fn new(stats: Arc<Stats>) -> Self {
        let (writing, written) = sync_channel(0);
        LogFiles { stats, open: Mutex::default(), writing: Mutex::new(Some(writing)), written: Mutex::new(written) }
    }

    /// Opens a file to append to it, or finds it open. `/dev/stdout` and `/dev/stderr` are the process's own, whatever
    /// they are connected to. Keep the result as long as the log is configured.
    pub fn open(&self, path: &str) -> io::Result<Arc<LogFile>> {
        let mut open = lock(&self.open);
        if let Some(file) = open.get(path).and_then(Weak::upgrade) {
            return Ok(file);
        }
        open.retain(|_, file| file.strong_count() > 0);
        let (batches, receiver) = sync_channel(QUEUE);
        let reopen = Arc::new(AtomicBool::new(false));
        let writer = Writer {
            path: path.to_owned(),
            target: open_path(path)?,
            reopen: Arc::clone(&reopen),
            stats: Arc::clone(&self.stats),
            _writing: lock(&self.writing).clone(),
        };
        thread::Builder::new().name("log_writer".into()).stack_size(128 * 1024).spawn(|| writer.run(receiver))?;
        let file = Arc::new(LogFile { path: path.to_owned(), batches, reopen, stats: Arc::clone(&self.stats) });
        open.insert(path.to_owned(), Arc::downgrade(&file));
        Ok(file)
    }

    /// Opens every file again by its path, after something moved them away.
    pub fn reopen(&self) {
        for file in lock(&self.open).values().filter_map(Weak::upgrade) {
            file.reopen.store(true, Ordering::Release);
            // Only to wake the writer up: one that has a queue is awake.
            let _ = file.batches.try_send(Batch::default());
        }
    }

    /// Waits until the writers have written everything, for `timeout` at most. Workers and configuration must have
    /// dropped their files before; nothing can be opened after. Returns whether all was written.
    pub fn close(&self, timeout: Duration) -> bool {
        drop(lock(&self.writing).take());
        matches!(lock(&self.written).recv_timeout(timeout), Err(RecvTimeoutError::Disconnected))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open_path(path: &str) -> io::Result<File> {
    match path {
        // By descriptor, for opening the path fails where it is a socket or another user's.
        "/dev/stdout" => Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
        "/dev/stderr" => Ok(File::from(io::stderr().as_fd().try_clone_to_owned()?)),
        path => OpenOptions::new().create(true).append(true).open(path),
    }
}

impl LogFile {
    /// Where it is.
    pub fn path(&self) -> &str {
        &self.path
    }
}

/// The thread of one file.
struct Writer {
    path: String,
    target: File,
    reopen: Arc<AtomicBool>,
    stats: Arc<Stats>,
    _writing: Option<SyncSender<()>>,
}

impl Writer {
    fn run(mut self, batches: Receiver<Batch>) {
        while let Ok(Batch { bytes, .. }) = batches.recv() {
            if self.reopen.swap(false, Ordering::AcqRel) {
                match open_path(&self.path) {
                    Ok(file) => self.target = file,
                    Err(error) => {
                        self.stats.filesystem.reopen_failed.add(1);
                        tracing::error!("cannot open {:?} again: {error}", self.path);
                    }
                }
            }
            if bytes.is_empty() {
                continue;
            }
            match write_all(&mut self.target, &bytes) {
                Ok(()) => self.stats.filesystem.write_completed.add(1),
                Err(error) => {
                    self.stats.filesystem.write_failed.add(1);
                    tracing::debug!("cannot write to {:?}: {error}", self.path);
                }
            }
        }
    }
}

/// Writes everything, also where somebody made the descriptor non-blocking (a terminal shared with another program).
fn write_all(target: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match target.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::park_timeout(Duration::from_millis(5)),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The buffers of one worker.
#[derive(Debug, Default)]
pub struct WorkerLogs(RefCell<Vec<Rc<LogBuffer>>>);

impl WorkerLogs {
    /// No buffer yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// This worker's buffer for a file; keep it beside the configuration that names the file.
    pub fn buffer(&self, file: &Arc<LogFile>) -> Rc<LogBuffer> {
        let mut buffers = self.0.borrow_mut();
        if let Some(buffer) = buffers.iter().find(|buffer| Arc::ptr_eq(&buffer.file, file)) {
            return Rc::clone(buffer);
        }
        let buffer = Rc::new(LogBuffer { file: Arc::clone(file), pending: RefCell::default() });
        buffers.push(Rc::clone(&buffer));
        buffer
    }

    /// Hands over what there is. To be called once a second, so that a quiet log is never more than that behind.
    pub fn flush(&self) {
        self.0.borrow_mut().retain(|buffer| {
            let mut pending = buffer.pending.borrow_mut();
            if !pending.bytes.is_empty() && buffer.file.hand_over(&mut pending) {
                buffer.file.stats.filesystem.flushed_by_timer.add(1);
            }
            // Nobody else holds it: its configuration is gone.
            Rc::strong_count(buffer) > 1
        });
    }
}

impl LogFile {
    /// Gives a batch to the writer, and says whether it took it.
    fn hand_over(&self, pending: &mut Batch) -> bool {
        // The next buffer starts at half the size of this one: a busy log does not grow it from nothing each time.
        let room = pending.bytes.len() / 2;
        match self.batches.try_send(std::mem::take(pending)) {
            Ok(()) => {
                pending.bytes.reserve(room);
                true
            }
            Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) => {
                *pending = batch;
                false
            }
        }
    }
}

/// What one worker has not handed over yet of one file.
#[derive(Debug)]
pub struct LogBuffer {
    file: Arc<LogFile>,
    pending: RefCell<Batch>,
}

impl LogBuffer {
    /// Adds what `write` appends: whole lines, with their line breaks. Dropped, and counted, where the writer has fallen
    /// behind by its whole queue; `write` is not called then.
    pub fn line(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let stats = &self.file.stats.filesystem;
        let mut pending = self.pending.borrow_mut();
        if pending.bytes.len() >= 2 * BATCH && !self.file.hand_over(&mut pending) {
            stats.write_dropped.add(1);
            return;
        }
        write(&mut pending.bytes);
        pending.lines += 1;
        stats.write_buffered.add(1);
        if pending.bytes.len() >= BATCH {
            self.file.hand_over(&mut pending);
        }
    }
}

impl Drop for LogBuffer {
    fn drop(&mut self) {
        let pending = self.pending.get_mut();
        if !pending.bytes.is_empty() && !self.file.hand_over(pending) {
            self.file.stats.filesystem.write_dropped.add(pending.lines);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn logs() -> (tempfile::TempDir, String, Arc<Stats>, LogFiles) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log").to_str().unwrap().to_owned();
        let stats = Arc::new(Stats::new());
        let files = LogFiles::new(Arc::clone(&stats));
        (directory, path, stats, files)
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn lines_of_all_workers_reach_the_file_whole() {
        let (_directory, path, stats, files) = logs();
        let file = files.open(&path).unwrap();
        let workers = (0..3).map(|worker| {
            let file = Arc::clone(&file);
            thread::spawn(move || {
                let logs = WorkerLogs::new();
                let buffer = logs.buffer(&file);
                for n in 0..5000 {
                    buffer.line(|out| writeln!(out, "worker {worker} says {n:08}").unwrap());
                    // A worker that outruns the disk would drop lines; this one is to lose none.
                    if n % 1000 == 0 {
                        logs.flush();
                    }
                }
            })
        });
        workers.collect::<Vec<_>>().into_iter().for_each(|worker| worker.join().unwrap());
        drop(file);
        assert!(files.close(LONG));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 15_000);
        assert!(text.lines().all(|line| line.len() == "worker 0 says 00000000".len()));
        assert_eq!(stats.filesystem.write_buffered.get(), 15_000);
        assert_eq!(stats.filesystem.write_dropped.get(), 0);
        assert!(stats.filesystem.write_completed.get() >= 3);
    }

    #[test]
    fn one_path_is_one_writer() {
        let (_directory, path, _, files) = logs();
        let (one, two) = (files.open(&path).unwrap(), files.open(&path).unwrap());
        assert!(Arc::ptr_eq(&one, &two));
        let logs = WorkerLogs::new();
        assert!(Rc::ptr_eq(&logs.buffer(&one), &logs.buffer(&two)));
    }

    #[test]
    fn after_a_rotation_lines_go_to_the_new_file() {
        let (directory, path, _, files) = logs();
        let file = files.open(&path).unwrap();
        let logs = WorkerLogs::new();
        let buffer = logs.buffer(&file);
        buffer.line(|out| out.extend_from_slice(b"old\n"));
        logs.flush();
        // The writer has written the first line once a second one of its batches was taken.
        let moved = directory.path().join("access.log.1");
        wait_for(|| std::fs::read_to_string(&path).unwrap() == "old\n");
        std::fs::rename(&path, &moved).unwrap();
        files.reopen();
        buffer.line(|out| out.extend_from_slice(b"new\n"));
        drop((logs, buffer, file));
        assert!(files.close(LONG));
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), "old\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new\n");
    }

    #[test]
    fn a_pipe_that_nobody_reads_costs_lines_and_bounded_memory() {
        let (directory, _, stats, files) = logs();
        let fifo = directory.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        // Opened for both, so that opening does not wait for a reader, and kept, so that writing does not fail.
        let reader = OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
        let file = files.open(fifo.to_str().unwrap()).unwrap();
        let logs = WorkerLogs::new();
        let buffer = logs.buffer(&file);
        let line = [b'x'; 1023];
        for _ in 0..8 * 1024 {
            buffer.line(|out| {
                out.extend_from_slice(&line);
                out.push(b'\n');
            });
        }
        let kept = stats.filesystem.write_buffered.get();
        assert_eq!(kept + stats.filesystem.write_dropped.get(), 8 * 1024);
        assert!(kept <= 3 * 1024, "{kept} KiB were kept");
        drop((logs, buffer, file));
        assert!(!files.close(Duration::from_millis(1)), "the writer is stuck in the pipe");
        drop(reader);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error() {
        let (directory, ..) = logs();
        let files = LogFiles::new(Arc::new(Stats::new()));
        let path = directory.path().join("missing/access.log");
        assert_eq!(files.open(path.to_str().unwrap()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    fn wait_for(done: impl Fn() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < LONG);
            thread::yield_now();
        }
    }
}
