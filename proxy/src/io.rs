//! The one concrete transport that codecs and tunnels read and write. Nothing is generic over it: a `match` costs less
//! than a second copy of every codec, and one type can be handed from the listener to a pool to a tunnel.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

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
    /// TLS over one of the others.
    Tls(Box<TlsStream<Io>>),
    /// One of the others, from which an inspector has read: what it read comes again first.
    Rewound(Box<Rewound>),
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
    /// How many of the bytes that were written the peer's kernel has acknowledged. `None` where that cannot be told:
    /// it is asked of plain TCP only, as the length of what TLS makes of a request is not known.
    pub(crate) fn bytes_acknowledged(&self) -> Option<u64> {
        match self {
            Io::Tcp(stream) => tcp_info::bytes_acknowledged(stream),
            Io::Rewound(rewound) => rewound.io.bytes_acknowledged(),
            Io::Unix(_) | Io::Pipe(_) | Io::Tls(_) => None,
        }
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

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Io::Unix(io) => Pin::new(io).poll_read(cx, buf),
            Io::Pipe(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buf),
            Io::Rewound(io) => io.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Io::Tcp(io) => Pin::new(io).poll_write(cx, buf),
            Io::Unix(io) => Pin::new(io).poll_write(cx, buf),
            Io::Pipe(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_write(cx, buf),
            Io::Rewound(io) => Pin::new(&mut io.io).poll_write(cx, buf),
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
            Io::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Rewound(io) => Pin::new(&mut io.io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Io::Tcp(_) | Io::Unix(_) => true,
            Io::Pipe(io) => io.is_write_vectored(),
            Io::Tls(io) => io.is_write_vectored(),
            Io::Rewound(io) => io.io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Tcp(io) => Pin::new(io).poll_flush(cx),
            Io::Unix(io) => Pin::new(io).poll_flush(cx),
            Io::Pipe(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
            Io::Rewound(io) => Pin::new(&mut io.io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Io::Unix(io) => Pin::new(io).poll_shutdown(cx),
            Io::Pipe(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
            Io::Rewound(io) => Pin::new(&mut io.io).poll_shutdown(cx),
        }
    }
}
