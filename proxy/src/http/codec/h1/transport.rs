//! A connection's bytes, in and out.
//!
//! An idle connection owns no buffer. Heads are read into one scratch buffer per thread and only what must outlive
//! the read is copied out, so a head's memory is exactly as long as the head, and a value that is kept pins nothing
//! else. Long bodies are read straight into buffers that are handed on without a copy. What is to be written is
//! collected until somebody polls, so that head and first piece of body leave in one system call.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite, ReadBuf};

use crate::http::codec::{StreamError, Tunnel};
use crate::io::Io;

/// Bytes read at once into the scratch buffer.
const SCRATCH: usize = 16 * 1024;
/// Bytes of body read at once into a buffer that is handed on.
const BODY: usize = 32 * 1024;
/// Above this much unwritten output, no more body is taken.
const HIGH_WATER: usize = 64 * 1024;
/// A piece of body at least so long is written from where it lies; a shorter one is copied behind the head.
const COPY_BELOW: usize = 4 * 1024;
/// Write buffers that a thread keeps for reuse, and the longest of them.
const SPARE_BUFFERS: usize = 64;
const SPARE_CAPACITY: usize = 16 * 1024;

thread_local! {
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// The byte stream with its two buffers.
#[derive(Debug)]
pub(super) struct Transport {
    io: Option<Io>,
    /// Read and not yet consumed.
    pub(super) input: BytesMut,
    /// How much of `input` [`Transport::poll_head`] has looked at in vain.
    looked: usize,
    /// The peer has ended its side.
    pub(super) eof: bool,
    pub(super) output: Output,
    /// What left `output` may lie in the TLS session, which takes a piece that the socket does not.
    unflushed: bool,
    /// A write has failed; the reason why reading goes on is that an answer may already lie in the socket.
    write_failed: bool,
}

impl Transport {
    pub(super) fn new(io: Io, buffered: Bytes) -> Self {
        Transport {
            io: Some(io),
            input: BytesMut::from(buffered),
            looked: 0,
            eof: false,
            output: Output::default(),
            unflushed: false,
            write_failed: false,
        }
    }

    /// Parses the next head, reading as needed. `parse` sees whole lines only, and again whenever another line is
    /// complete: its verdict does not depend on how the bytes were cut, and the work is bounded by lines × size.
    /// `Ok(None)` is the end of the stream.
    ///
    /// It sees `limit` bytes and one where there are so many, complete line or not, to find them too long.
    pub(super) fn poll_head<T, E>(
        &mut self,
        cx: &mut Context<'_>,
        limit: usize,
        mut parse: impl FnMut(&[u8]) -> Result<Option<(T, usize)>, E>,
    ) -> Poll<io::Result<Option<Result<T, E>>>> {
        loop {
            if self.input.len() > self.looked {
                let new = self.input.get(self.looked..).unwrap_or_default();
                let end = memchr::memrchr(b'\n', new).map(|at| at.saturating_add(self.looked).saturating_add(1));
                self.looked = self.input.len();
                if let Some(lines) = visible(&self.input, end, limit) {
                    match parse(lines) {
                        Ok(None) => {}
                        Ok(Some((head, used))) => {
                            self.input.advance(used.min(self.input.len()));
                            self.consumed();
                            return Poll::Ready(Ok(Some(Ok(head))));
                        }
                        Err(fault) => return Poll::Ready(Ok(Some(Err(fault)))),
                    }
                }
            }
            if self.eof {
                return Poll::Ready(Ok(None));
            }
            let Some(io) = self.io.as_mut() else { return Poll::Ready(Ok(None)) };
            let fresh = self.input.is_empty();
            let outcome = READ.with_borrow_mut(|scratch| {
                let mut buf = ReadBuf::new(scratch);
                ready!(tokio::io::AsyncRead::poll_read(Pin::new(io), cx, &mut buf))?;
                let read = buf.filled();
                if read.is_empty() {
                    self.eof = true;
                    return Poll::Ready(Ok(None));
                }
                if fresh {
                    let end = memchr::memrchr(b'\n', read).map(|at| at.saturating_add(1));
                    if let Some(lines) = visible(read, end, limit) {
                        match parse(lines) {
                            Ok(None) => {}
                            Ok(Some((head, used))) => {
                                let rest = read.get(used..).unwrap_or_default();
                                if !rest.is_empty() {
                                    self.input.extend_from_slice(rest);
                                }
                                return Poll::Ready(Ok(Some(Ok(head))));
                            }
                            Err(fault) => return Poll::Ready(Ok(Some(Err(fault)))),
                        }
                    }
                    self.looked = read.len();
                }
                self.input.extend_from_slice(read);
                Poll::Ready(Ok(None))
            });
            if let Some(parsed) = ready!(outcome as Poll<io::Result<Option<Result<T, E>>>>)? {
                return Poll::Ready(Ok(Some(parsed)));
            }
        }
    }

    /// Reads more into `input`; `expected` is how many bytes of body are known to come. Ready with `false` at the end
    /// of the stream.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, expected: u64) -> Poll<io::Result<bool>> {
        if self.eof {
            return Poll::Ready(Ok(false));
        }
        let Some(io) = self.io.as_mut() else { return Poll::Ready(Ok(false)) };
        let expected = usize::try_from(expected).unwrap_or(usize::MAX);
        let read = if expected <= COPY_BELOW {
            READ.with_borrow_mut(|scratch| {
                let mut buf = ReadBuf::new(scratch);
                ready!(tokio::io::AsyncRead::poll_read(Pin::new(io), cx, &mut buf))?;
                self.input.extend_from_slice(buf.filled());
                Poll::Ready(Ok(buf.filled().len()))
            })
        } else {
            if self.input.capacity().saturating_sub(self.input.len()) < COPY_BELOW {
                self.input.reserve(BODY.min(expected));
            }
            let read = pin!(io.read_buf(&mut self.input)).poll(cx);
            if read.is_pending() && self.input.is_empty() {
                self.input = BytesMut::new();
            }
            read
        };
        self.eof = ready!(read)? == 0;
        Poll::Ready(Ok(!self.eof))
    }

    /// Looks for the end of the stream while no message is expected: what comes is kept, up to a bound.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.input.len() < SCRATCH {
            match self.poll_fill(cx, 0) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Pending
    }

    /// Writes everything out.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let Some(io) = self.io.as_mut() else { return Poll::Ready(Err(StreamError::Local)) };
        if self.write_failed {
            return Poll::Ready(Err(StreamError::ConnectionClosed));
        }
        if !self.output.is_empty() {
            if ready!(self.output.poll_write(Pin::new(io), cx)).is_err() {
                return self.fail_write();
            }
            // Plain sockets have nothing to flush; TLS and pipes may.
            self.unflushed = io.is_buffering();
        }
        if self.unflushed {
            if ready!(Pin::new(io).poll_flush(cx)).is_err() {
                return self.fail_write();
            }
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the kernel has all that was to be written.
    pub(super) fn is_flushed(&self) -> bool {
        self.output.is_empty() && !self.unflushed
    }

    fn fail_write(&mut self) -> Poll<Result<(), StreamError>> {
        self.write_failed = true;
        self.output = Output::default();
        self.unflushed = false;
        Poll::Ready(Err(StreamError::ConnectionClosed))
    }

    /// Ready when more body may be added to the output. Writes only above the bound: what is less waits for the next
    /// piece or for a flush.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        if self.write_failed {
            return Poll::Ready(Err(StreamError::ConnectionClosed));
        }
        if self.output.len() < HIGH_WATER && self.output.big.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.poll_flush(cx)
    }

    /// Ends our side of the stream.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.io.as_mut() {
            Some(io) => Pin::new(io).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Input has been taken: the next head is looked at from its start, and an empty buffer goes.
    pub(super) fn consumed(&mut self) {
        self.looked = 0;
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
    }

    /// Whether the transport is still here and writable as far as we know.
    pub(super) fn is_open(&self) -> bool {
        self.io.is_some() && !self.write_failed
    }

    /// Bytes that have left us; see [`Io::bytes_sent`].
    pub(super) fn sent(&self) -> Option<u64> {
        self.io.as_ref().and_then(Io::bytes_sent)
    }

    /// Whether the peer's kernel is known to have had none of what was sent after the first `bytes`.
    pub(super) fn has_acknowledged_only(&self, bytes: u64) -> bool {
        self.io.as_ref().and_then(Io::bytes_acknowledged).is_some_and(|acknowledged| acknowledged <= bytes)
    }

    /// Closes the transport now.
    pub(super) fn close(&mut self) {
        self.io = None;
        self.input = BytesMut::new();
        self.output = Output::default();
        self.unflushed = false;
    }

    /// Gives the transport away with what has been read from it.
    pub(super) fn take(&mut self) -> Option<Tunnel> {
        let io = self.io.take()?;
        Some(Tunnel { io, buffered: std::mem::take(&mut self.input).freeze() })
    }
}

/// The part of `bytes` that a parser may see: whole lines, or one byte too many where there are too many, or everything
/// where the first byte shows that this is no HTTP (TLS, mostly).
fn visible(bytes: &[u8], lines: Option<usize>, limit: usize) -> Option<&[u8]> {
    let text = bytes.first().is_some_and(|b| b.is_ascii_graphic() || matches!(b, b'\r' | b'\n' | b' '));
    match bytes.get(..=limit) {
        Some(too_much) => Some(too_much),
        None if text => bytes.get(..lines?),
        None => Some(bytes),
    }
}

/// What is to be written: bytes copied together, then at most one long piece written from where it lies, then what was
/// added behind it.
#[derive(Debug, Default)]
pub(super) struct Output {
    first: Vec<u8>,
    written: usize,
    big: Bytes,
    last: Vec<u8>,
}

impl Output {
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_empty() && self.big.is_empty()
    }

    fn len(&self) -> usize {
        self.first.len().saturating_sub(self.written).saturating_add(self.big.len()).saturating_add(self.last.len())
    }

    /// Where the next bytes are to be appended.
    pub(super) fn tail(&mut self) -> &mut Vec<u8> {
        let tail = if self.big.is_empty() { &mut self.first } else { &mut self.last };
        if tail.capacity() == 0 {
            *tail = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        tail
    }

    /// Appends a piece of body.
    pub(super) fn push(&mut self, data: Bytes) {
        if self.big.is_empty() && data.len() >= COPY_BELOW {
            self.big = data;
        } else {
            self.tail().extend_from_slice(&data);
        }
    }

    fn poll_write(&mut self, mut io: Pin<&mut Io>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let first = self.first.get(self.written..).unwrap_or_default();
            let n = if self.big.is_empty() {
                ready!(io.as_mut().poll_write(cx, first))?
            } else {
                let pieces = [IoSlice::new(first), IoSlice::new(&self.big), IoSlice::new(&self.last)];
                ready!(io.as_mut().poll_write_vectored(cx, &pieces))?
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(n);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, n: usize) {
        let of_first = n.min(self.first.len().saturating_sub(self.written));
        self.written = self.written.saturating_add(of_first);
        let n = n.saturating_sub(of_first);
        let of_big = n.min(self.big.len());
        self.big.advance(of_big);
        if self.written < self.first.len() || !self.big.is_empty() {
            return;
        }
        self.big = Bytes::new();
        recycle(std::mem::replace(&mut self.first, std::mem::take(&mut self.last)));
        self.written = n.saturating_sub(of_big);
        if self.written >= self.first.len() {
            recycle(std::mem::take(&mut self.first));
            self.written = 0;
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        recycle(std::mem::take(&mut self.first));
        recycle(std::mem::take(&mut self.last));
    }
}

fn recycle(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > SPARE_CAPACITY {
        return;
    }
    buffer.clear();
    // A connection may be dropped while its thread ends.
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < SPARE_BUFFERS {
            spare.push(buffer);
        }
    });
}
