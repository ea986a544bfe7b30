//! What a worker has formatted and not handed over yet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::file::{self, LogFile};
use super::grpc::GrpcLog;

/// A quiet file is at most so far behind.
const FILE_INTERVAL: Duration = Duration::from_secs(1);

/// Whole lines of a file, or whole entries of a log service.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) lines: u64,
}

/// Who takes batches.
#[derive(Debug)]
pub(super) enum Sink {
    File(Arc<LogFile>),
    Grpc(Arc<GrpcLog>),
}

impl Sink {
    /// How full a buffer may be before it is handed over, in bytes.
    fn limit(&self) -> usize {
        match self {
            Sink::File(_) => file::LIMIT,
            Sink::Grpc(log) => log.limit(),
        }
    }

    fn interval(&self) -> Duration {
        match self {
            Sink::File(_) => FILE_INTERVAL,
            Sink::Grpc(log) => log.interval(),
        }
    }

    fn count_buffered(&self) {
        match self {
            Sink::File(file) => file.stats().write_buffered.add(1),
            Sink::Grpc(log) => log.stats().logs_written.add(1),
        }
    }

    fn count_dropped(&self, lines: u64) {
        match self {
            Sink::File(file) => file.stats().write_dropped.add(lines),
            Sink::Grpc(log) => log.stats().logs_dropped.add(lines),
        }
    }

    /// Gives a batch away, and says whether it was taken.
    fn hand_over(&self, pending: &mut Batch) -> bool {
        // The next buffer starts at half the size of this one: a busy log does not grow it from nothing each time.
        let room = pending.bytes.len() / 2;
        let batch = std::mem::take(pending);
        let sent = match self {
            Sink::File(file) => file.send(batch),
            Sink::Grpc(log) => log.send(batch),
        };
        match sent {
            Ok(()) => pending.bytes.reserve(room),
            Err(batch) => *pending = batch,
        }
        pending.bytes.is_empty()
    }
}

/// What one worker has not handed over yet of one log.
#[derive(Debug)]
pub(super) struct LogBuffer {
    sink: Sink,
    pending: Batch,
    flushed: Option<Instant>,
}

impl LogBuffer {
    pub(super) fn new(sink: Sink) -> Self {
        LogBuffer { sink, pending: Batch::default(), flushed: None }
    }

    /// Adds what `write` appends: a whole line with its line break, or a whole entry. Dropped, and counted, where the
    /// writer has fallen behind by its whole queue; `write` is not called then.
    pub(super) fn line(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let limit = self.sink.limit();
        if self.pending.bytes.len() >= limit.max(1).saturating_mul(2) && !self.sink.hand_over(&mut self.pending) {
            self.sink.count_dropped(1);
            return;
        }
        write(&mut self.pending.bytes);
        self.pending.lines = self.pending.lines.saturating_add(1);
        self.sink.count_buffered();
        if self.pending.bytes.len() >= limit {
            self.sink.hand_over(&mut self.pending);
        }
    }

    /// Hands over what has waited for the log's interval.
    pub(super) fn flush_due(&mut self, now: Instant) {
        if self.flushed.is_none_or(|flushed| now.duration_since(flushed) >= self.sink.interval()) {
            self.flushed = Some(now);
            self.flush();
        }
    }

    /// Whether all has been handed over.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.bytes.is_empty()
    }

    /// Hands over what there is.
    pub(super) fn flush(&mut self) {
        if !self.pending.bytes.is_empty()
            && self.sink.hand_over(&mut self.pending)
            && let Sink::File(file) = &self.sink
        {
            file.stats().flushed_by_timer.add(1);
        }
    }
}

impl Drop for LogBuffer {
    fn drop(&mut self) {
        if !self.pending.bytes.is_empty() && !self.sink.hand_over(&mut self.pending) {
            self.sink.count_dropped(self.pending.lines);
        }
    }
}
