//! The transport as the `h2` crate sees it, with our scanners between the two.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::link::Link;

/// The transport, given to the `h2` crate.
#[derive(Debug)]
pub(super) struct Wire(pub(super) Rc<Link>);

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let link = &*self.0;
        let transport = &mut *link.transport.borrow_mut();
        if link.later.get().is_some() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        if transport.buffered.is_empty() {
            match Pin::new(&mut transport.io).poll_read(cx, buf) {
                Poll::Ready(result) => {
                    if result.is_err() || buf.filled().len() == before {
                        link.saw_end.set(true);
                    }
                    result?;
                }
                Poll::Pending => {
                    transport.floods.idle();
                    return Poll::Pending;
                }
            }
        } else {
            let n = transport.buffered.len().min(buf.remaining());
            buf.put_slice(transport.buffered.get(..n).unwrap_or_default());
            transport.buffered.advance(n);
        }
        let all = buf.filled().len().saturating_sub(before);
        let seen = link.inbound(transport, buf.filled().get(before..).unwrap_or_default());
        buf.set_filled(before.saturating_add(seen));
        // Nothing at all would look like the end of the stream.
        if seen == 0 && all > 0 { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let link = &*self.0;
        let transport = &mut *link.transport.borrow_mut();
        if link.doubtful.get().is_some() {
            return Poll::Pending;
        }
        if !transport.silent
            && let Some(first) = bufs.iter().find(|b| !b.is_empty())
        {
            // Control frames begin in the first slice; the others are payload.
            let allowed = link.outbound(transport, first);
            if allowed == 0 && link.doubtful.get().is_some() {
                return Poll::Pending;
            }
            if allowed > 0 {
                let corrected = link.corrected(transport, first.get(..allowed).unwrap_or_default());
                let head = corrected.as_deref().unwrap_or_else(|| first.get(..allowed).unwrap_or_default());
                let cut = [io::IoSlice::new(head)];
                let bufs = if allowed == first.len() && corrected.is_none() { bufs } else { &cut };
                let n = ready!(Pin::new(&mut transport.io).poll_write_vectored(cx, bufs))?;
                link.written_bytes.set(link.written_bytes.get().wrapping_add(n as u64));
                let mut left = n;
                for buf in bufs {
                    let part = left.min(buf.len());
                    link.written(transport, buf.get(..part).unwrap_or_default());
                    left = left.saturating_sub(part);
                }
                return Poll::Ready(Ok(n));
            }
        }
        Poll::Ready(Ok(bufs.iter().map(|b| b.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        self.0.transport.borrow().io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.transport.borrow_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.transport.borrow_mut().io).poll_shutdown(cx)
    }
}
