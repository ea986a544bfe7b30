//! The one concrete transport that codecs and tunnels read and write. Nothing is generic over it: a `match` costs less
//! than a second copy of every codec, and one type can be handed from the listener to a pool to a tunnel.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

use crate::telemetry::stats::{ClusterStats, HttpStats};

mod tcp_info;

/// A byte stream to a peer.
#[derive(Debug)]
pub enum Io {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// An in-process pipe: internal listeners, and tests.
    Pipe(DuplexStream),
    /// A stream of a multiplexed connection, by a pipe and a pump at its other end.
    Pumped(Box<Pumped>),
    /// TLS over one of the others.
    Tls(Box<TlsStream<Io>>),
    /// One of the others, from which an inspector has read: what it read comes again first.
    Rewound(Box<Rewound>),
    /// One of the others, whose bytes count.
    Metered(Box<Metered>),
}

/// See [`Io::Rewound`].
#[derive(Debug)]
pub struct Rewound {
    read: Bytes,
    io: Io,
}

impl Io {
    /// Gives `read` back, so that whoever reads next reads it first.
    pub fn rewind(self, read: Bytes) -> Io {
        if read.is_empty() { self } else { Io::Rewound(Box::new(Rewound { read, io: self })) }
    }
}

impl Io {
    /// How many of [`Io::bytes_sent`] the peer's kernel has acknowledged. `None` where that cannot be told.
    pub(crate) fn bytes_acknowledged(&self) -> Option<u64> {
        match self {
            Io::Tcp(stream) => tcp_info::bytes_acknowledged(stream),
            Io::Rewound(rewound) => rewound.io.bytes_acknowledged(),
            Io::Metered(metered) => metered.io.bytes_acknowledged(),
            Io::Tls(tls) => tls.get_ref().0.bytes_acknowledged(),
            Io::Unix(_) | Io::Pipe(_) | Io::Pumped(_) => None,
        }
    }

    /// How many bytes our kernel has taken, those that TLS adds included. It counts what is metered: TLS over a
    /// transport that is not, and a transport alone, cannot tell.
    pub(crate) fn bytes_sent(&self) -> Option<u64> {
        match self {
            Io::Metered(metered) => match &metered.io {
                Io::Tls(tls) => tls.get_ref().0.bytes_sent(),
                _ => Some(metered.written.get()),
            },
            Io::Tls(tls) => tls.get_ref().0.bytes_sent(),
            Io::Rewound(rewound) => rewound.io.bytes_sent(),
            Io::Tcp(_) | Io::Unix(_) | Io::Pipe(_) | Io::Pumped(_) => None,
        }
    }

    /// The transport that moves the bytes, beneath meters and what was read again: for who moves them past this type,
    /// and then tells [`Io::count_read`] and [`Io::count_written`].
    pub fn beneath(&self) -> &Io {
        match self {
            Io::Metered(metered) => metered.io.beneath(),
            Io::Rewound(rewound) if rewound.read.is_empty() => rewound.io.beneath(),
            io => io,
        }
    }

    /// Counts bytes that were read from [`Io::beneath`].
    pub fn count_read(&self, bytes: usize) {
        match self {
            Io::Metered(metered) => {
                metered.meter.read(bytes);
                metered.io.count_read(bytes);
            }
            Io::Rewound(rewound) => rewound.io.count_read(bytes),
            _ => {}
        }
    }

    /// Counts bytes that were written to [`Io::beneath`].
    pub fn count_written(&self, bytes: usize) {
        match self {
            Io::Metered(metered) => {
                _ = metered.count(Poll::Ready(Ok(bytes)));
                metered.io.count_written(bytes);
            }
            Io::Rewound(rewound) => rewound.io.count_written(bytes),
            _ => {}
        }
    }

    /// Counts what is read and written from now on.
    pub fn metered(self, meter: Meter) -> Io {
        Io::Metered(Box::new(Metered { io: self, meter, written: Cell::new(0) }))
    }

    /// Whether bytes that were written may wait for a flush.
    pub fn is_buffering(&self) -> bool {
        match self {
            Io::Tls(_) => true,
            Io::Metered(metered) => metered.io.is_buffering(),
            Io::Rewound(rewound) => rewound.io.is_buffering(),
            Io::Tcp(_) | Io::Unix(_) | Io::Pipe(_) | Io::Pumped(_) => false,
        }
    }
}

/// See [`Io::Metered`].
#[derive(Debug)]
pub struct Metered {
    io: Io,
    meter: Meter,
    /// Bytes that `io` has taken.
    written: Cell<u64>,
}

/// Where bytes are counted: the counters of this thread.
#[derive(Debug)]
pub enum Meter {
    /// `http.<stat_prefix>.downstream_cx_rx_bytes_total` and `..tx..`.
    Downstream(Arc<HttpStats>),
    /// The same, and those of one connection.
    Logged(Arc<HttpStats>, Rc<Tally>),
    /// `cluster.<name>.upstream_cx_rx_bytes_total` and `..tx..`.
    Upstream(Arc<ClusterStats>),
    /// Nowhere: what TLS is laid over, to know how much of it has left us.
    Silent,
}

/// The bytes of one connection.
#[derive(Debug, Default)]
pub struct Tally {
    /// Bytes from the peer.
    pub read: Cell<u64>,
    /// Bytes to the peer.
    pub written: Cell<u64>,
}

impl Meter {
    /// Counts bytes from the peer.
    pub fn read(&self, bytes: usize) {
        match self {
            Meter::Downstream(stats) => stats.downstream_cx_rx_bytes_total.add(bytes as u64),
            Meter::Logged(stats, tally) => {
                stats.downstream_cx_rx_bytes_total.add(bytes as u64);
                tally.read.set(tally.read.get().saturating_add(bytes as u64));
            }
            Meter::Upstream(stats) => stats.upstream_cx_rx_bytes_total.add(bytes as u64),
            Meter::Silent => {}
        }
    }

    fn written(&self, bytes: usize) {
        match self {
            Meter::Downstream(stats) => stats.downstream_cx_tx_bytes_total.add(bytes as u64),
            Meter::Logged(stats, tally) => {
                stats.downstream_cx_tx_bytes_total.add(bytes as u64);
                tally.written.set(tally.written.get().saturating_add(bytes as u64));
            }
            Meter::Upstream(stats) => stats.upstream_cx_tx_bytes_total.add(bytes as u64),
            Meter::Silent => {}
        }
    }
}

impl Metered {
    /// The transport beneath.
    pub fn inner(&self) -> &Io {
        &self.io
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        self.meter.read(buf.filled().len().saturating_sub(before));
        result
    }

    fn count(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = result {
            self.written.set(self.written.get().saturating_add(bytes as u64));
            self.meter.written(bytes);
        }
        result
    }
}

impl Rewound {
    /// The transport beneath.
    pub fn inner(&self) -> &Io {
        &self.io
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let part = self.read.split_to(self.read.len().min(buf.remaining()));
        buf.put_slice(&part);
        Poll::Ready(Ok(()))
    }
}

/// See [`Io::Pumped`]. A pipe alone cannot tell its other end whether it was shut down or given up, nor be told that a
/// stream was reset.
#[derive(Debug)]
pub struct Pumped {
    pipe: DuplexStream,
    pump: Rc<PumpState>,
}

/// What the two ends of an [`Io::Pumped`] tell each other.
#[derive(Debug, Default)]
pub struct PumpState {
    /// The near end is gone.
    given_up: Cell<bool>,
    /// What went into the near end is out, its end included.
    sent: Cell<bool>,
    /// The stream broke.
    broken: Cell<bool>,
    near: RefCell<Option<Waker>>,
    far: RefCell<Option<Waker>>,
}

impl PumpState {
    /// For the pump: whether nobody is at the near end any more. `cx` is woken when that happens.
    pub fn is_given_up(&self, cx: &mut Context<'_>) -> bool {
        if !self.given_up.get() {
            self.far.borrow_mut().get_or_insert_with(|| cx.waker().clone());
        }
        self.given_up.get()
    }

    /// For the pump: all that was written has been passed on.
    pub fn set_sent(&self) {
        self.sent.set(true);
        self.near.take().into_iter().for_each(Waker::wake);
    }

    /// For the pump: the stream broke. The end of the pipe will not be taken for its end.
    pub fn set_broken(&self) {
        self.broken.set(true);
        self.near.take().into_iter().for_each(Waker::wake);
    }
}

impl Pumped {
    /// The near end of `pipe`.
    pub fn new(pipe: DuplexStream, pump: Rc<PumpState>) -> Self {
        Pumped { pipe, pump }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.pipe).poll_read(cx, buf))?;
        let ended = buf.filled().len() == before && buf.remaining() > 0;
        Poll::Ready(if ended && self.pump.broken.get() { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) })
    }

    /// Ready when the pump has passed all of it on: who drops it before that gives it up.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.pipe).poll_shutdown(cx))?;
        if self.pump.broken.get() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.pump.sent.get() {
            return Poll::Ready(Ok(()));
        }
        self.pump.near.replace(Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Pumped {
    fn drop(&mut self) {
        self.pump.given_up.set(true);
        self.pump.far.take().into_iter().for_each(Waker::wake);
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Io::Unix(io) => Pin::new(io).poll_read(cx, buf),
            Io::Pipe(io) => Pin::new(io).poll_read(cx, buf),
            Io::Pumped(io) => io.poll_read(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buf),
            Io::Rewound(io) => io.poll_read(cx, buf),
            Io::Metered(io) => io.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Io::Tcp(io) => Pin::new(io).poll_write(cx, buf),
            Io::Unix(io) => Pin::new(io).poll_write(cx, buf),
            Io::Pipe(io) => Pin::new(io).poll_write(cx, buf),
            Io::Pumped(io) => Pin::new(&mut io.pipe).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_write(cx, buf),
            Io::Rewound(io) => Pin::new(&mut io.io).poll_write(cx, buf),
            Io::Metered(io) => {
                let result = Pin::new(&mut io.io).poll_write(cx, buf);
                io.count(result)
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Io::Tcp(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Unix(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Pipe(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Pumped(io) => Pin::new(&mut io.pipe).poll_write_vectored(cx, bufs),
            Io::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Rewound(io) => Pin::new(&mut io.io).poll_write_vectored(cx, bufs),
            Io::Metered(io) => {
                let result = Pin::new(&mut io.io).poll_write_vectored(cx, bufs);
                io.count(result)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Io::Tcp(_) | Io::Unix(_) => true,
            Io::Pipe(io) => io.is_write_vectored(),
            Io::Pumped(io) => io.pipe.is_write_vectored(),
            Io::Tls(io) => io.is_write_vectored(),
            Io::Rewound(io) => io.io.is_write_vectored(),
            Io::Metered(io) => io.io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Tcp(io) => Pin::new(io).poll_flush(cx),
            Io::Unix(io) => Pin::new(io).poll_flush(cx),
            Io::Pipe(io) => Pin::new(io).poll_flush(cx),
            Io::Pumped(io) => Pin::new(&mut io.pipe).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
            Io::Rewound(io) => Pin::new(&mut io.io).poll_flush(cx),
            Io::Metered(io) => Pin::new(&mut io.io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Io::Unix(io) => Pin::new(io).poll_shutdown(cx),
            Io::Pipe(io) => Pin::new(io).poll_shutdown(cx),
            Io::Pumped(io) => io.poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
            Io::Rewound(io) => Pin::new(&mut io.io).poll_shutdown(cx),
            Io::Metered(io) => Pin::new(&mut io.io).poll_shutdown(cx),
        }
    }
}
