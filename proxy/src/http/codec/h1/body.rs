//! Bodies as they are read: what delimits them, and the pieces between.

use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use outrigger_engine::message::Headers;

use super::transport::Transport;
use super::{Limits, client, head, server};
use crate::http::codec::{Frame, StreamError};

/// The longest chunk-size line, extensions included.
const CHUNK_LINE: usize = 32 * 1024;
/// Bytes of chunk extensions in one body.
const EXTENSIONS: usize = 64 * 1024;
/// Longest piece handed out at once.
const PIECE: usize = 64 * 1024;

/// A body that comes over an HTTP/1 connection.
#[derive(Debug)]
pub struct Body(pub(super) Side);

/// Whose body it is.
#[derive(Debug)]
pub(super) enum Side {
    Request(server::RequestBody),
    Response(client::ResponseBody),
}

impl Body {
    pub(in crate::http::codec) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, StreamError>>> {
        match &mut self.0 {
            Side::Request(body) => body.poll_frame(cx),
            Side::Response(body) => body.poll_frame(cx),
        }
    }

    pub(in crate::http::codec) fn is_end(&self) -> bool {
        match &self.0 {
            Side::Request(body) => body.is_end(),
            Side::Response(body) => body.is_end(),
        }
    }
}

/// What delimits a message's body, from its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// No body and no framing header.
    None,
    /// `content-length`.
    Known(u64),
    /// `transfer-encoding: chunked`.
    Chunked,
    /// The end of the connection.
    Close,
}

/// Takes the framing off a body.
#[derive(Debug)]
pub(super) struct Decoder {
    state: State,
    /// Bytes of chunk extensions so far.
    extensions: usize,
    limits: Limits,
    enable_trailers: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing more comes.
    End,
    /// So many bytes of the body.
    Length(u64),
    /// All bytes until the connection's end.
    Close,
    /// A chunk-size line.
    Size,
    /// So many bytes of a chunk.
    Chunk(u64),
    /// CR LF after a chunk.
    ChunkEnd,
    /// Trailers, and the empty line.
    Trailers,
}

/// What [`Decoder::decode`] found.
enum Piece {
    Data(Bytes),
    Trailers(Headers),
    End,
    /// More input is needed.
    More,
}

impl Decoder {
    pub(super) fn new(length: Length, limits: Limits, enable_trailers: bool) -> Self {
        let state = match length {
            Length::None | Length::Known(0) => State::End,
            Length::Known(n) => State::Length(n),
            Length::Chunked => State::Size,
            Length::Close => State::Close,
        };
        Decoder { state, extensions: 0, limits, enable_trailers }
    }

    /// Whether all of the body has been taken.
    pub(super) fn is_end(&self) -> bool {
        self.state == State::End
    }

    /// The whole rest of the body, where its length is known and all of it lies in `input`.
    pub(super) fn take_whole(&mut self, input: &mut BytesMut) -> Option<Bytes> {
        match self.state {
            State::Length(n) => {
                let n = usize::try_from(n).ok().filter(|n| *n <= input.len())?;
                self.state = State::End;
                // The buffer as it is, where there is nothing else in it: no second owner to be made and counted.
                let whole = if n == input.len() { std::mem::take(input) } else { input.split_to(n) };
                Some(whole.freeze())
            }
            _ => None,
        }
    }

    /// The next piece, reading as needed.
    pub(super) fn poll_frame(
        &mut self,
        transport: &mut Transport,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, StreamError>>> {
        loop {
            match self.decode(&mut transport.input) {
                Ok(Piece::Data(data)) => {
                    transport.consumed();
                    return Poll::Ready(Some(Ok(Frame::Data(data))));
                }
                Ok(Piece::Trailers(trailers)) => {
                    transport.consumed();
                    return Poll::Ready(Some(Ok(Frame::Trailers(trailers))));
                }
                Ok(Piece::End) => {
                    transport.consumed();
                    return Poll::Ready(None);
                }
                Err(error) => return Poll::Ready(Some(Err(error))),
                Ok(Piece::More) => {}
            }
            let expected = match self.state {
                State::Length(n) => n,
                State::Chunk(n) => n.saturating_add(1024),
                State::Close => u64::MAX,
                _ => 0,
            };
            match ready!(transport.poll_fill(cx, expected)) {
                Ok(true) => {}
                Ok(false) if self.state == State::Close => {
                    self.state = State::End;
                    return Poll::Ready(None);
                }
                Ok(false) | Err(_) => return Poll::Ready(Some(Err(StreamError::ConnectionClosed))),
            }
        }
    }

    /// The next piece that lies in `input`.
    fn decode(&mut self, input: &mut BytesMut) -> Result<Piece, StreamError> {
        loop {
            match self.state {
                State::End => return Ok(Piece::End),
                _ if input.is_empty() => return Ok(Piece::More),
                State::Length(n) => {
                    let data = take(input, n);
                    let rest = n.saturating_sub(length(&data));
                    self.state = if rest == 0 { State::End } else { State::Length(rest) };
                    return Ok(Piece::Data(data));
                }
                State::Close => return Ok(Piece::Data(take(input, u64::MAX))),
                State::Chunk(n) => {
                    let data = take(input, n);
                    let rest = n.saturating_sub(length(&data));
                    self.state = if rest == 0 { State::ChunkEnd } else { State::Chunk(rest) };
                    // The line end goes with the piece, so that the end of the body is known with its last piece.
                    if rest == 0 && input.starts_with(b"\r\n0\r\n\r\n") {
                        input.advance(7);
                        self.state = State::End;
                    }
                    return Ok(Piece::Data(data));
                }
                State::ChunkEnd => match (input.first(), input.get(1)) {
                    (Some(b'\r'), Some(b'\n')) => {
                        input.advance(2);
                        self.state = State::Size;
                    }
                    (Some(b'\r'), None) => return Ok(Piece::More),
                    _ => return Err(BAD_CHUNK),
                },
                State::Size => {
                    let window = input.get(..input.len().min(CHUNK_LINE)).unwrap_or_default();
                    let Some(end) = memchr::memchr(b'\n', window) else {
                        // A line without its end may be refused for what is there.
                        return if window.len() < CHUNK_LINE { Ok(Piece::More) } else { Err(BAD_CHUNK) };
                    };
                    let (size, extension) = size_line(window.get(..end).unwrap_or_default()).ok_or(BAD_CHUNK)?;
                    self.extensions = self.extensions.saturating_add(extension);
                    if self.extensions > EXTENSIONS {
                        return Err(BAD_CHUNK);
                    }
                    input.advance(end.saturating_add(1));
                    self.state = if size == 0 { State::Trailers } else { State::Chunk(size) };
                }
                State::Trailers => {
                    let Some((trailers, used)) = head::trailers(input, self.limits)? else { return Ok(Piece::More) };
                    input.advance(used);
                    self.state = State::End;
                    if self.enable_trailers && !trailers.is_empty() {
                        return Ok(Piece::Trailers(trailers));
                    }
                }
            }
        }
    }
}

const BAD_CHUNK: StreamError = StreamError::Protocol("http1.codec_error");

/// At most `n` bytes from the front, and not more than one piece.
fn take(input: &mut BytesMut, n: u64) -> Bytes {
    let n = usize::try_from(n).unwrap_or(usize::MAX).min(input.len()).min(PIECE);
    input.split_to(n).freeze()
}

fn length(data: &Bytes) -> u64 {
    u64::try_from(data.len()).unwrap_or(u64::MAX)
}

/// A chunk-size line up to its LF: the size and the length of its extensions. Hexadecimal digits, then nothing or
/// spaces, or `;` and extensions, then CR.
fn size_line(line: &[u8]) -> Option<(u64, usize)> {
    let line = line.strip_suffix(b"\r")?;
    let digits = line.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, extension) = line.split_at_checked(digits)?;
    if digits.is_empty() {
        return None;
    }
    let mut size: u64 = 0;
    for digit in digits {
        let value = char::from(*digit).to_digit(16)?;
        size = size.checked_mul(16)?.checked_add(u64::from(value))?;
    }
    let visible = |b: &u8| matches!(b, b'\t' | b' '..=b'~' | 0x80..);
    match extension.trim_ascii_start().first() {
        None | Some(b';') if extension.iter().all(visible) => Some((size, extension.len())),
        _ => None,
    }
}
