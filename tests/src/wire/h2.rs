//! HTTP/2 frames (RFC 9113), written as the script says and read one by one.

use std::time::Instant;

use super::{Connection, Filled, hpack};

/// What a client sends first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types.
pub mod kind {
    #![allow(missing_docs, reason = "the names are the RFC's")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// DATA, HEADERS: the last of its stream.
pub const END_STREAM: u8 = 1;
/// SETTINGS, PING: the answer.
pub const ACK: u8 = 1;
/// HEADERS, CONTINUATION: the header block is complete.
pub const END_HEADERS: u8 = 4;

/// One frame as it stands on the wire.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A HEADERS frame with a whole block.
pub fn headers<N: AsRef<[u8]>, V: AsRef<[u8]>>(
    stream: u32,
    fields: impl IntoIterator<Item = (N, V)>,
    end: bool,
) -> Vec<u8> {
    let flags = END_HEADERS | if end { END_STREAM } else { 0 };
    frame(kind::HEADERS, flags, stream, &hpack::encode(fields))
}

/// A DATA frame.
pub fn data(stream: u32, bytes: &[u8], end: bool) -> Vec<u8> {
    frame(kind::DATA, if end { END_STREAM } else { 0 }, stream, bytes)
}

/// A SETTINGS frame.
pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (id, value) in values {
        payload.extend_from_slice(&id.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    frame(kind::SETTINGS, 0, 0, &payload)
}

/// A RST_STREAM frame.
pub fn rst_stream(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// A WINDOW_UPDATE frame.
pub fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

/// A GOAWAY frame.
pub fn goaway(last: u32, code: u32) -> Vec<u8> {
    let mut payload = last.to_be_bytes().to_vec();
    payload.extend_from_slice(&code.to_be_bytes());
    frame(kind::GOAWAY, 0, 0, &payload)
}

/// The name of an error code.
pub fn code_name(code: u32) -> String {
    const NAMES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    usize::try_from(code).ok().and_then(|c| NAMES.get(c)).map_or_else(|| code.to_string(), |n| (*n).to_owned())
}

/// What one frame, or a run of HEADERS and CONTINUATION, says.
#[derive(Debug)]
#[allow(missing_docs, reason = "the fields are the frame's")]
pub enum Event {
    /// A complete header block; `None` where it does not decode.
    Headers { stream: u32, fields: Option<Vec<hpack::Field>>, end: bool },
    /// A DATA frame without its padding.
    Data { stream: u32, bytes: Vec<u8>, end: bool },
    /// RST_STREAM.
    Reset { stream: u32, code: u32 },
    /// GOAWAY.
    GoAway { last: u32, code: u32 },
    /// SETTINGS that want an answer.
    Settings(Vec<(u16, u32)>),
    /// PING that wants an answer.
    Ping(Vec<u8>),
    /// Anything that asks nothing of a scripted peer.
    Other,
}

/// Reads the frames of one direction.
#[derive(Debug, Default)]
pub struct Reader {
    decoder: hpack::Decoder,
    block: Vec<u8>,
    ends_stream: bool,
}

impl Reader {
    /// The next event, or why there is none.
    ///
    /// # Errors
    /// The end of the connection, or that `deadline` passed.
    pub fn next(&mut self, connection: &mut Connection, deadline: Instant) -> Result<Event, Filled> {
        loop {
            if let Some((kind, flags, stream, payload)) = take_frame(&mut connection.buffer) {
                return Ok(self.event(kind, flags, stream, payload));
            }
            match connection.fill(deadline) {
                Filled::Data => {}
                other => return Err(other),
            }
        }
    }

    fn event(&mut self, kind: u8, flags: u8, stream: u32, payload: Vec<u8>) -> Event {
        let end = flags & END_STREAM != 0;
        match kind {
            kind::DATA => Event::Data { stream, bytes: unpad(payload, flags), end },
            kind::HEADERS => {
                let mut block = unpad(payload, flags);
                if flags & 0x20 != 0 {
                    block.drain(..block.len().min(5));
                }
                self.block = block;
                self.ends_stream = end;
                self.block_done(flags, stream)
            }
            kind::CONTINUATION => {
                self.block.extend_from_slice(&payload);
                self.block_done(flags, stream)
            }
            kind::RST_STREAM => Event::Reset { stream, code: number(&payload) },
            kind::GOAWAY => {
                Event::GoAway { last: number(&payload), code: number(payload.get(4..).unwrap_or_default()) }
            }
            kind::SETTINGS if flags & ACK == 0 => Event::Settings(
                payload
                    .chunks_exact(6)
                    .map(|pair| (u16::from_be_bytes([pair[0], pair[1]]), number(&pair[2..])))
                    .collect(),
            ),
            kind::PING if flags & ACK == 0 => Event::Ping(payload),
            _ => Event::Other,
        }
    }

    fn block_done(&mut self, flags: u8, stream: u32) -> Event {
        if flags & END_HEADERS == 0 {
            return Event::Other;
        }
        let block = std::mem::take(&mut self.block);
        Event::Headers { stream, fields: self.decoder.decode(&block), end: self.ends_stream }
    }
}

/// What a correct peer answers to an event by itself: acknowledgements, and window for what it read.
pub fn housekeeping(event: &Event) -> Option<Vec<u8>> {
    match event {
        Event::Settings(_) => Some(frame(kind::SETTINGS, ACK, 0, &[])),
        Event::Ping(payload) => Some(frame(kind::PING, ACK, 0, payload)),
        Event::Data { stream, bytes, end } if !bytes.is_empty() => {
            let length = u32::try_from(bytes.len()).unwrap_or(1);
            let mut updates = window_update(0, length);
            if !end {
                updates.extend(window_update(*stream, length));
            }
            Some(updates)
        }
        _ => None,
    }
}

fn take_frame(buffer: &mut Vec<u8>) -> Option<(u8, u8, u32, Vec<u8>)> {
    let head: [u8; 9] = buffer.get(..9)?.try_into().ok()?;
    let length = usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).ok()?;
    buffer.get(9..9 + length)?;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
    let payload = buffer.drain(..9 + length).skip(9).collect();
    Some((head[3], head[4], stream, payload))
}

fn unpad(mut payload: Vec<u8>, flags: u8) -> Vec<u8> {
    if flags & 8 != 0 && !payload.is_empty() {
        let padding = usize::from(payload.remove(0));
        payload.truncate(payload.len().saturating_sub(padding));
    }
    payload
}

fn number(bytes: &[u8]) -> u32 {
    bytes.get(..4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes)
}
