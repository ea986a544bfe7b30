//! Files, each with a thread that writes it.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::buffer::Batch;
use crate::telemetry::stats::{FileStats, Stats};

/// A worker hands a buffer over when it is this full, in bytes; Envoy's bound too.
pub(super) const LIMIT: usize = 64 * 1024;
/// Batches that may wait for a writer. Beyond them a worker's buffer fills to twice its size, then lines are dropped: a
/// file that cannot be written costs at most 2 MiB, and 128 KiB a worker.
const QUEUE: usize = 32;

/// The open files of the process, by path.
#[derive(Debug)]
pub struct LogFiles {
    stats: Arc<Stats>,
    open: Mutex<HashMap<String, Weak<LogFile>>>,
    /// Of files that were opened since threads were started last.
    writers: Mutex<Vec<Writer>>,
}

/// One file. Its writer ends when the last holder is gone and everything is written.
#[derive(Debug)]
pub struct LogFile {
    path: String,
    queue: SyncSender<Message>,
    reopen: Arc<AtomicBool>,
    stats: Arc<Stats>,
}

/// What a writer is told.
enum Message {
    Lines(Batch),
    /// To answer when everything before it is written.
    Barrier(SyncSender<()>),
}

impl LogFiles {
    /// No file yet; writes are counted in `stats`.
    pub fn new(stats: Arc<Stats>) -> Self {
        LogFiles { stats, open: Mutex::default(), writers: Mutex::default() }
    }

    /// Opens a file to append to it, or finds it open. `/dev/stdout` and `/dev/stderr` are the process's own, whatever
    /// they are connected to. Keep the result as long as the log is configured. It is written after
    /// [`LogFiles::start_writers`].
    pub fn open(&self, path: &str) -> io::Result<Arc<LogFile>> {
        let mut open = lock(&self.open);
        if let Some(file) = open.get(path).and_then(Weak::upgrade) {
            return Ok(file);
        }
        open.retain(|_, file| file.strong_count() > 0);
        let (queue, receiver) = sync_channel(QUEUE);
        let reopen = Arc::new(AtomicBool::new(false));
        let writer = Writer {
            path: path.to_owned(),
            target: open_path(path)?,
            queue: receiver,
            reopen: Arc::clone(&reopen),
            stats: Arc::clone(&self.stats),
        };
        lock(&self.writers).push(writer);
        let file = Arc::new(LogFile { path: path.to_owned(), queue, reopen, stats: Arc::clone(&self.stats) });
        open.insert(path.to_owned(), Arc::downgrade(&file));
        Ok(file)
    }

    /// Starts the threads of the files that were opened, with the priority of the thread that calls: who opens files
    /// builds a configuration, and gives way to others. Where a thread cannot start, lines are dropped until the file is
    /// opened again.
    pub fn start_writers(&self) {
        self.start_writers_by(|writer| {
            let thread = thread::Builder::new().name("log_writer".into()).stack_size(128 * 1024);
            thread.spawn(|| writer.run()).map(|_| ())
        });
    }

    fn start_writers_by(&self, start: impl Fn(Writer) -> io::Result<()>) {
        let writers = std::mem::take(&mut *lock(&self.writers));
        for writer in writers {
            let (path, reopen) = (writer.path.clone(), Arc::clone(&writer.reopen));
            if let Err(error) = start(writer) {
                // Who opens it next gets another. By now the path may be that of a file opened later.
                let is_other = |file: Arc<LogFile>| !Arc::ptr_eq(&file.reopen, &reopen);
                lock(&self.open).retain(|_, file| file.upgrade().is_some_and(is_other));
                tracing::error!("nothing is written to {path:?}: cannot start a thread for it: {error}");
            }
        }
    }

    /// Opens every file again by its path, after something moved them away.
    pub fn reopen(&self) {
        for file in lock(&self.open).values().filter_map(Weak::upgrade) {
            file.reopen.store(true, Ordering::Release);
            // Only to wake the writer up: one that has a queue is awake.
            let _ = file.queue.try_send(Message::Lines(Batch::default()));
        }
    }

    /// Waits until everything that was handed over is written, for `timeout` at most; says whether it is.
    pub fn flush(&self, timeout: Duration) -> bool {
        let start = Instant::now();
        let left = || timeout.saturating_sub(start.elapsed());
        let files = lock(&self.open).values().filter_map(Weak::upgrade).collect::<Vec<_>>();
        let barriers = files.iter().map(|file| file.barrier(left)).collect::<Vec<_>>();
        barriers.into_iter().all(|barrier| barrier.is_some_and(|barrier| barrier.recv_timeout(left()).is_ok()))
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

    /// Gives a batch to the writer; it comes back where the queue is full.
    pub(super) fn send(&self, batch: Batch) -> Result<(), Batch> {
        match self.queue.try_send(Message::Lines(batch)) {
            Err(TrySendError::Full(Message::Lines(batch)) | TrySendError::Disconnected(Message::Lines(batch))) => {
                Err(batch)
            }
            _ => Ok(()),
        }
    }

    /// Receives when everything before it is written; `None` where the queue stays full until no time is `left`.
    fn barrier(&self, left: impl Fn() -> Duration) -> Option<Receiver<()>> {
        let (done, receiver) = sync_channel(1);
        while let Err(TrySendError::Full(_)) = self.queue.try_send(Message::Barrier(done.clone())) {
            if left().is_zero() {
                return None;
            }
            thread::park_timeout(Duration::from_millis(1));
        }
        Some(receiver)
    }

    pub(super) fn stats(&self) -> &FileStats {
        &self.stats.filesystem
    }
}

/// The thread of one file.
#[derive(Debug)]
struct Writer {
    path: String,
    target: File,
    queue: Receiver<Message>,
    reopen: Arc<AtomicBool>,
    stats: Arc<Stats>,
}

impl Writer {
    fn run(mut self) {
        while let Ok(message) = self.queue.recv() {
            let bytes = match message {
                Message::Lines(Batch { bytes, .. }) => bytes,
                Message::Barrier(done) => {
                    // Who asked may have stopped waiting.
                    let _ = done.send(());
                    continue;
                }
            };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::access_log::buffer::{LogBuffer, Sink};

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
        files.start_writers();
        let workers = (0..3).map(|worker| {
            let file = Arc::clone(&file);
            thread::spawn(move || {
                let mut buffer = LogBuffer::new(Sink::File(file));
                for n in 0..5000 {
                    buffer.line(|out| writeln!(out, "worker {worker} says {n:08}").unwrap());
                    // A worker that outruns the disk would drop lines; this one is to lose none.
                    if n % 1000 == 0 {
                        buffer.flush();
                    }
                }
            })
        });
        workers.collect::<Vec<_>>().into_iter().for_each(|worker| worker.join().unwrap());
        assert!(files.flush(LONG));
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
    }

    #[test]
    fn a_file_whose_thread_does_not_start_is_opened_anew() {
        let (_directory, path, stats, files) = logs();
        let dead = files.open(&path).unwrap();
        files.start_writers_by(|_| {
            assert!(files.writers.try_lock().is_ok(), "who opens a file waits for threads that start");
            Err(io::ErrorKind::WouldBlock.into())
        });
        // Who opened it keeps it.
        let mut buffer = LogBuffer::new(Sink::File(Arc::clone(&dead)));
        buffer.line(|out| out.extend_from_slice(b"lost\n"));
        drop(buffer);
        assert_eq!(stats.filesystem.write_dropped.get(), 1);
        let mut buffer = LogBuffer::new(Sink::File(files.open(&path).unwrap()));
        files.start_writers();
        buffer.line(|out| out.extend_from_slice(b"kept\n"));
        buffer.flush();
        assert!(files.flush(LONG));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "kept\n");
    }

    #[test]
    fn after_a_rotation_lines_go_to_the_new_file() {
        let (directory, path, _, files) = logs();
        let file = files.open(&path).unwrap();
        files.start_writers();
        let mut buffer = LogBuffer::new(Sink::File(file));
        buffer.line(|out| out.extend_from_slice(b"old\n"));
        buffer.flush();
        assert!(files.flush(LONG));
        let moved = directory.path().join("access.log.1");
        std::fs::rename(&path, &moved).unwrap();
        files.reopen();
        buffer.line(|out| out.extend_from_slice(b"new\n"));
        buffer.flush();
        assert!(files.flush(LONG));
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
        files.start_writers();
        let mut buffer = LogBuffer::new(Sink::File(file));
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
        assert!(!files.flush(Duration::from_millis(1)), "the writer is stuck in the pipe");
        drop(reader);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error() {
        let (directory, ..) = logs();
        let files = LogFiles::new(Arc::new(Stats::new()));
        let path = directory.path().join("missing/access.log");
        assert_eq!(files.open(path.to_str().unwrap()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
