//! Frame headers as they pass, in either direction: nine bytes read for each frame, payloads skipped.
//!
//! The `h2` crate parses and answers; what it keeps to itself (which request was malformed, the last id of a GOAWAY,
//! whether a stream's HEADERS were written) and what it allows (floods that Envoy ends) is seen here.

use outrigger_engine::config::hcm::Http2Options;

/// DATA.
pub(super) const DATA: u8 = 0;
/// HEADERS.
pub(super) const HEADERS: u8 = 1;
/// PRIORITY.
pub(super) const PRIORITY: u8 = 2;
/// RST_STREAM.
pub(super) const RST_STREAM: u8 = 3;
/// SETTINGS.
pub(super) const SETTINGS: u8 = 4;
const PING: u8 = 6;
/// GOAWAY.
pub(super) const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
/// CONTINUATION.
pub(super) const CONTINUATION: u8 = 9;

/// Bytes of a frame's header.
const HEAD: usize = 9;

/// END_STREAM, of HEADERS and DATA.
pub(super) const FLAG_END_STREAM: u8 = 1;
const FLAG_ACK: u8 = 1;

/// Envoy's response code details for floods. It does not count them as protocol errors.
const CONTROL_FLOOD: &str = "http2.outbound_control_frames_flood";
const EMPTY_FLOOD: &str = "http2.inbound_empty_frames_flood";
const PRIORITY_FLOOD: &str = "codec_error:Too_many_PRIORITY_frames";
const WINDOW_FLOOD: &str = "codec_error:Too_many_WINDOW_UPDATE_frames";

/// A head that goes on and on has too many fields, in Envoy's words, before it has too many frames.
const TOO_MANY_FIELDS: &str = "http2.too_many_headers";

/// Whether these are the details of a flood, and of no other fault.
pub(in crate::http) fn is_flood(details: &str) -> bool {
    [CONTROL_FLOOD, EMPTY_FLOOD, PRIORITY_FLOOD, WINDOW_FLOOD].contains(&details)
}

/// Control frames that a peer may have answered in one go: Envoy's `max_outbound_control_frames`.
const MAX_CONTROL_BURST: u32 = 1000;
/// Envoy's `max_consecutive_inbound_frames_with_empty_payload`.
const MAX_EMPTY_FRAMES: u32 = 1;
/// CONTINUATION frames in one header block: nghttp2's bound. A limit on heads that is as high as needs more gives more.
const MAX_CONTINUATIONS: usize = 8;
/// What a frame carries at least, if it is one of several (RFC 9113, section 4.2).
const FRAME: usize = 16 << 10;

/// A frame header, and the first bytes of its payload as far as they were asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FrameHead {
    /// Payload length.
    pub(super) length: u32,
    /// Type.
    pub(super) kind: u8,
    /// Flags.
    pub(super) flags: u8,
    /// Stream.
    pub(super) stream: u32,
    /// First eight bytes of the payload (RST_STREAM, WINDOW_UPDATE: four; GOAWAY: eight; others: none).
    pub(super) payload: [u8; 8],
}

impl FrameHead {
    fn parse(head: [u8; HEAD]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = head;
        FrameHead {
            length: u32::from_be_bytes([0, l0, l1, l2]),
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff,
            payload: [0; 8],
        }
    }

    /// The code of RST_STREAM.
    pub(super) fn reset_code(&self) -> u32 {
        let [a, b, c, d, ..] = self.payload;
        u32::from_be_bytes([a, b, c, d])
    }

    /// Whether the frame has a length that frames of its type cannot have.
    pub(super) fn has_bad_length(&self) -> bool {
        match self.kind {
            PRIORITY => self.length != 5,
            RST_STREAM | WINDOW_UPDATE => self.length != 4,
            SETTINGS => !self.length.is_multiple_of(6),
            PING => self.length != 8,
            _ => false,
        }
    }

    /// Last stream id and code of GOAWAY.
    pub(super) fn goaway(&self) -> (u32, u32) {
        let [a, b, c, d, e, f, g, h] = self.payload;
        (u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff, u32::from_be_bytes([e, f, g, h]))
    }

    /// Whether it is a WINDOW_UPDATE that widens nothing.
    pub(super) fn widens_nothing(&self) -> bool {
        let [a, b, c, d, ..] = self.payload;
        self.kind == WINDOW_UPDATE && self.length == 4 && [a & 0x7f, b, c, d] == [0; 4]
    }

    fn wanted(&self) -> u32 {
        match self.kind {
            RST_STREAM | WINDOW_UPDATE => 4.min(self.length),
            GOAWAY => 8.min(self.length),
            _ => 0,
        }
    }
}

/// A GOAWAY frame.
pub(super) fn goaway(last: u32, code: u32) -> [u8; 17] {
    let ([a, b, c, d], [e, f, g, h]) = (last.to_be_bytes(), code.to_be_bytes());
    [0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, a, b, c, d, e, f, g, h]
}

/// Where in a stream of frames the next byte is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scanner {
    /// Bytes to skip: the preface, or the rest of a payload.
    skip: u32,
    head: [u8; HEAD],
    /// Bytes of `head`, then of the wanted payload, that are there.
    have: usize,
    frame: FrameHead,
}

impl Scanner {
    /// Starts after `skip` bytes, the preface of 24.
    pub(super) fn new(skip: u32) -> Self {
        Scanner { skip, head: [0; HEAD], have: 0, frame: FrameHead::default() }
    }

    /// How many bytes come before the next frame begins; `None` within a frame header.
    pub(super) fn boundary(&self) -> Option<usize> {
        (self.have == 0).then_some(self.skip as usize)
    }

    /// Walks over `bytes` up to the end of the next frame header (and wanted payload). Returns how many bytes were
    /// taken, and the frame if there is one.
    pub(super) fn next(&mut self, bytes: &[u8]) -> (usize, Option<FrameHead>) {
        let mut taken = (self.skip as usize).min(bytes.len());
        self.skip = self.skip.saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX));
        if self.have < HEAD {
            let n = fill(self.head.get_mut(self.have..).unwrap_or_default(), bytes.get(taken..).unwrap_or_default());
            self.have = self.have.saturating_add(n);
            taken = taken.saturating_add(n);
            if self.have < HEAD {
                return (taken, None);
            }
            self.frame = FrameHead::parse(self.head);
        }
        let wanted = self.frame.wanted();
        let place = self.frame.payload.get_mut(self.have.saturating_sub(HEAD)..wanted as usize).unwrap_or_default();
        let missing = place.len();
        let n = fill(place, bytes.get(taken..).unwrap_or_default());
        self.have = self.have.saturating_add(n);
        taken = taken.saturating_add(n);
        if n < missing {
            return (taken, None);
        }
        self.skip = self.frame.length.saturating_sub(wanted);
        self.have = 0;
        (taken, Some(self.frame))
    }
}

/// Copies as much of `bytes` as `place` has room for.
fn fill(place: &mut [u8], bytes: &[u8]) -> usize {
    let n = place.len().min(bytes.len());
    if let (Some(place), Some(bytes)) = (place.get_mut(..n), bytes.get(..n)) {
        place.copy_from_slice(bytes);
    }
    n
}

/// Counts of what a peer sent, against Envoy's limits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Floods {
    control: u32,
    empty: u32,
    continuations: usize,
    priority: u64,
    window_updates: u64,
    streams: u64,
    /// DATA frames that we sent.
    pub(super) data_sent: u64,
    max_continuations: usize,
    max_priority_per_stream: u64,
    max_window_updates_per_data: u64,
}

impl Floods {
    /// Nothing counted yet, with the limits that are configured; a head has at most `max_head` bytes.
    pub(super) fn new(options: &Http2Options, max_head: usize) -> Self {
        Floods {
            control: 0,
            empty: 0,
            continuations: 0,
            priority: 0,
            window_updates: 0,
            streams: 0,
            data_sent: 0,
            max_continuations: MAX_CONTINUATIONS.max(max_head.div_ceil(FRAME)),
            max_priority_per_stream: options.max_inbound_priority_frames_per_stream.into(),
            max_window_updates_per_data: options.max_inbound_window_update_frames_per_data_frame_sent.into(),
        }
    }

    /// Nothing more to read for now: what was asked has been answered.
    pub(super) fn idle(&mut self) {
        self.control = 0;
    }

    /// Counts a frame from the peer. `Err` with Envoy's response code detail when it is one too many.
    pub(super) fn inbound(&mut self, frame: &FrameHead) -> Result<(), &'static str> {
        match frame.kind {
            DATA | HEADERS | CONTINUATION => {
                if frame.kind == HEADERS {
                    self.streams = self.streams.saturating_add(1);
                    self.continuations = 0;
                }
                if frame.kind == CONTINUATION {
                    self.continuations = self.continuations.saturating_add(1);
                    if self.continuations > self.max_continuations {
                        return Err(TOO_MANY_FIELDS);
                    }
                }
                if frame.length == 0 && (frame.flags & FLAG_END_STREAM == 0 || frame.kind == CONTINUATION) {
                    self.empty = self.empty.saturating_add(1);
                    if self.empty > MAX_EMPTY_FRAMES {
                        return Err(EMPTY_FLOOD);
                    }
                } else {
                    self.empty = 0;
                }
            }
            PRIORITY => {
                self.priority = self.priority.saturating_add(1);
                if self.priority > self.max_priority_per_stream.saturating_mul(self.streams.saturating_add(1)) {
                    return Err(PRIORITY_FLOOD);
                }
            }
            WINDOW_UPDATE => {
                self.window_updates = self.window_updates.saturating_add(1);
                let data = self.data_sent.saturating_mul(self.max_window_updates_per_data);
                let limit = self.streams.saturating_add(data).saturating_mul(2).saturating_add(5);
                if self.window_updates > limit {
                    return Err(WINDOW_FLOOD);
                }
            }
            SETTINGS | PING if frame.flags & FLAG_ACK == 0 => {
                self.control = self.control.saturating_add(1);
                if self.control > MAX_CONTROL_BURST {
                    return Err(CONTROL_FLOOD);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        out.extend([kind, flags]);
        out.extend(stream.to_be_bytes());
        out.extend(payload);
        out
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let mut wire = vec![b'x'; 24];
        wire.extend(frame(SETTINGS, 0, 0, &[0; 12]));
        wire.extend(frame(RST_STREAM, 0, 5, &8u32.to_be_bytes()));
        wire.extend(frame(GOAWAY, 0, 0, &[0, 0, 0, 7, 0, 0, 0, 11, b'd']));
        wire.extend(frame(PING, 1, 0, &[0; 8]));
        for step in 1..wire.len() {
            let mut scanner = Scanner::new(24);
            let mut seen = Vec::new();
            for mut piece in wire.chunks(step) {
                while !piece.is_empty() {
                    let (taken, found) = scanner.next(piece);
                    piece = &piece[taken..];
                    seen.extend(found);
                }
            }
            let kinds: Vec<u8> = seen.iter().map(|f| f.kind).collect();
            assert_eq!(kinds, [SETTINGS, RST_STREAM, GOAWAY, PING], "cut every {step} bytes");
            assert_eq!((seen[1].stream, seen[1].reset_code()), (5, 8));
            assert_eq!(seen[2].goaway(), (7, 11));
            assert!(step == 1 || scanner.have == 0);
        }
    }

    #[test]
    fn a_window_update_for_each_piece_of_data_is_no_flood() {
        let mut floods = Floods::new(&Http2Options::default(), 0);
        let update = FrameHead { kind: WINDOW_UPDATE, length: 4, ..FrameHead::default() };
        for _ in 0..1000 {
            floods.data_sent += 1;
            for _ in 0..2 {
                floods.inbound(&update).unwrap();
            }
        }
        let mut floods = Floods::new(&Http2Options::default(), 0);
        assert_eq!((0..6).filter(|_| floods.inbound(&update).is_err()).count(), 1);
    }

    #[test]
    fn a_head_may_come_in_as_many_pieces_as_its_limit_needs() {
        let piece = FrameHead { kind: CONTINUATION, length: 1, ..FrameHead::default() };
        for (max_head, frames) in [(0, 8), (60 << 10, 8), (256 << 10, 16)] {
            let mut floods = Floods::new(&Http2Options::default(), max_head);
            assert_eq!((1..1000).find(|_| floods.inbound(&piece).is_err()), Some(frames + 1), "{max_head}");
        }
    }

    #[test]
    fn what_is_configured_counts() {
        let options = Http2Options {
            max_inbound_priority_frames_per_stream: 3,
            max_inbound_window_update_frames_per_data_frame_sent: 1,
            ..Http2Options::default()
        };
        let refused = |kind, data_sent| {
            let mut floods = Floods { data_sent, ..Floods::new(&options, 0) };
            let frame = FrameHead { kind, length: 4, ..FrameHead::default() };
            (1..1000).find(|_| floods.inbound(&frame).is_err())
        };
        assert_eq!(refused(PRIORITY, 0), Some(4));
        // 5, and 2 for each DATA frame.
        assert_eq!(refused(WINDOW_UPDATE, 10), Some(26));
    }
}
