//! A response's body goes to the crate as the client's window takes it. What the crate has is out of our hands: if that
//! were all of it, the exchange would be over, and with it every limit on how long a client may leave its answer
//! unread.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use outrigger_engine::message::Headers;

use super::Sender;
use crate::http::codec::StreamError;

/// The sending half of a response after its head. Of what it was given it keeps one piece at most, where its user waits
/// until it is ready before the next.
#[derive(Debug)]
pub(super) struct Paced {
    pub(super) sender: Sender,
    /// What the window had no room for.
    rest: Bytes,
    after: After,
}

/// What follows the rest.
#[derive(Debug)]
enum After {
    /// Nothing yet.
    More,
    End,
    Trailers(Headers),
    /// The crate has all of the response.
    Sent,
}

impl Paced {
    pub(super) fn new(sender: Sender) -> Self {
        Paced { sender, rest: Bytes::new(), after: After::More }
    }

    /// Bytes that wait for the window.
    pub(super) fn unsent(&self) -> usize {
        self.rest.len()
    }

    /// Whether the crate has all of the response.
    pub(super) fn is_sent(&self) -> bool {
        matches!(self.after, After::Sent)
    }

    pub(super) fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), StreamError> {
        self.rest = if self.rest.is_empty() { data } else { [self.rest.as_ref(), data.as_ref()].concat().into() };
        if end {
            self.after = After::End;
        }
        self.push().map(drop)
    }

    pub(super) fn send_trailers(&mut self, trailers: Headers) -> Result<(), StreamError> {
        self.after = After::Trailers(trailers);
        self.push().map(drop)
    }

    /// Ready when the crate has all that was sent.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        while !self.push()? {
            ready!(self.sender.poll_capacity(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Gives the crate what the window has room for. Whether nothing is left.
    fn push(&mut self) -> Result<bool, StreamError> {
        if !self.rest.is_empty() {
            self.sender.stream.reserve_capacity(self.rest.len());
            let room = self.sender.stream.capacity();
            if room < self.rest.len() {
                if room > 0 {
                    let piece = self.rest.split_to(room);
                    self.sender.send_data(piece, false)?;
                }
                return Ok(false);
            }
        }
        match std::mem::replace(&mut self.after, After::Sent) {
            After::More => {
                self.after = After::More;
                if !self.rest.is_empty() {
                    self.sender.send_data(std::mem::take(&mut self.rest), false)?;
                }
            }
            After::End => self.sender.send_data(std::mem::take(&mut self.rest), true)?,
            After::Trailers(trailers) => {
                if !self.rest.is_empty() {
                    self.sender.send_data(std::mem::take(&mut self.rest), false)?;
                }
                self.sender.send_trailers(trailers)?;
            }
            After::Sent => {}
        }
        Ok(true)
    }
}
