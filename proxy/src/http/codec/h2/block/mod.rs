//! The header blocks of a client, read a second time beside the `h2` crate, for what it keeps to itself.
//!
//! The crate hands a request's path out as a URI, which has no fragment, drops the pseudo-headers of trailers, and ends
//! every malformed head alike. The first two would let a client pass something by the routes and rules that we judge
//! by, the third hides what Envoy logs. So this follows HPACK (RFC 7541) as far as that needs: of a field that matters
//! it knows what it says, of any other only how much room it takes in the table. A field that the client has sent
//! before is one byte here.

mod field;
mod hpack;
mod huffman;

use bytes::Bytes;

use self::field::{Message, Path};
use self::hpack::Decoder;
use super::scan::{FLAG_END_STREAM, FrameHead, HEADERS};

const FLAG_END_HEADERS: u8 = 4;
const FLAG_PADDED: u8 = 8;
const FLAG_PRIORITY: u8 = 0x20;

/// Bytes of a header block, still coded, that are followed: more than fit into the CONTINUATION frames that a client
/// may send.
const MAX_BLOCK: usize = 512 << 10;

/// What a complete header block says beyond what the crate tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// A request's path has a fragment: the whole of it, as it was sent.
    Fragment(Bytes),
    /// A request lacks something that each must have, or its path is none, or it ends before its `content-length`.
    Incomplete,
    /// There is a pseudo-header in trailers.
    PseudoTrailers,
}

/// Follows the header blocks that one client sends.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    decoder: Decoder,
    /// The block so far, of frames that are complete and of the one that is not.
    coded: Vec<u8>,
    /// The frame whose payload comes: how much of it is still to come, and its flags.
    left: usize,
    flags: u8,
    /// The stream of the block, and whether its last frame will end the message.
    stream: u32,
    ends: bool,
    /// How many have begun. It may wrap.
    begun: u32,
    /// The highest stream that was opened.
    opened: u32,
    /// This is no HPACK: the crate will end the connection.
    lost: bool,
}

impl Blocks {
    /// Whether a block was none.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Whether the head of a request has begun and was never complete, or was none.
    pub(super) fn is_unfinished(&self) -> bool {
        self.stream % 2 == 1 && self.stream > self.opened
    }

    /// The number of the block that has begun and is not complete. Until it is, nothing else can come.
    pub(super) fn open(&self) -> Option<u32> {
        let open = self.left > 0 || self.flags & FLAG_END_HEADERS == 0;
        (self.begun > 0 && open).then_some(self.begun)
    }

    /// A frame with a part of a header block begins: HEADERS or CONTINUATION.
    pub(super) fn begin(&mut self, frame: &FrameHead) -> Option<(u32, Finding)> {
        if frame.kind == HEADERS {
            self.coded.clear();
            self.begun = self.begun.wrapping_add(1).max(1);
            self.stream = frame.stream;
            self.ends = frame.flags & FLAG_END_STREAM != 0;
            self.flags = frame.flags;
        } else {
            // Neither padding nor priority: only the end is said by a CONTINUATION.
            self.flags = frame.flags & FLAG_END_HEADERS;
        }
        self.left = frame.length as usize;
        if self.left == 0 { self.frame_complete() } else { None }
    }

    /// The next bytes of the frame's payload, or of another frame's, which are passed over.
    pub(super) fn payload(&mut self, bytes: &[u8]) -> Option<(u32, Finding)> {
        let bytes = bytes.get(..self.left.min(bytes.len())).unwrap_or_default();
        if bytes.is_empty() || self.lost {
            return None;
        }
        self.left = self.left.saturating_sub(bytes.len());
        if self.coded.len().saturating_add(bytes.len()) > MAX_BLOCK {
            self.lost = true;
            return None;
        }
        self.coded.extend_from_slice(bytes);
        if self.left == 0 { self.frame_complete() } else { None }
    }

    fn frame_complete(&mut self) -> Option<(u32, Finding)> {
        if self.lost {
            return None;
        }
        let mut block = std::mem::take(&mut self.coded);
        if self.flags & (FLAG_PADDED | FLAG_PRIORITY) != 0 {
            match fragment(&block, self.flags) {
                Some(kept) => block = kept.to_vec(),
                // The frame is broken before a head begins.
                None => (self.lost, self.opened) = (true, self.opened.max(self.stream)),
            }
        }
        let mut found = None;
        if self.flags & FLAG_END_HEADERS != 0 && !self.lost {
            match self.decoder.read(&block) {
                Some(message) => {
                    found = self.judge(&message).map(|finding| (self.stream, finding));
                    self.opened = self.opened.max(self.stream);
                }
                None => self.lost = true,
            }
            block.clear();
            // A connection that waits holds no buffer of the longest head that came over it.
            if block.capacity() > 1024 {
                block = Vec::new();
            }
        }
        self.coded = block;
        found
    }

    fn judge(&self, message: &Message) -> Option<Finding> {
        if self.stream <= self.opened {
            return message.pseudo.then_some(Finding::PseudoTrailers);
        }
        if message.connect && !message.protocol {
            return None;
        }
        let early_end = self.ends && message.length;
        let path = match &message.path {
            None => false,
            Some(Path::Plain | Path::Fragment(_)) => true,
            Some(Path::Asterisk) => message.options,
            Some(Path::Bad) => message.scheme == Some(false),
        };
        if !message.method || message.scheme.is_none() || !path || early_end {
            return Some(Finding::Incomplete);
        }
        match &message.path {
            Some(Path::Fragment(path)) => Some(Finding::Fragment(path.clone())),
            _ => None,
        }
    }
}

/// The payload of a HEADERS frame without padding and priority.
fn fragment(payload: &[u8], flags: u8) -> Option<&[u8]> {
    let mut payload = payload;
    if flags & FLAG_PADDED != 0 {
        let (padding, rest) = payload.split_first()?;
        payload = rest.get(..rest.len().checked_sub(usize::from(*padding))?)?;
    }
    if flags & FLAG_PRIORITY != 0 {
        payload = payload.get(5..)?;
    }
    Some(payload)
}

#[cfg(test)]
mod tests {
    use super::super::scan::{CONTINUATION, DATA};
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> FrameHead {
        FrameHead { kind, flags, stream, length: payload.len() as u32, ..FrameHead::default() }
    }

    fn headers(blocks: &mut Blocks, flags: u8, stream: u32, payload: &[u8]) -> Option<Finding> {
        let found = blocks.begin(&frame(HEADERS, flags | FLAG_END_HEADERS, stream, payload));
        found.or_else(|| blocks.payload(payload)).map(|(at, finding)| {
            assert_eq!(at, stream);
            finding
        })
    }

    /// A literal, `first` its first byte, without an index.
    fn literal(first: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
        [&[first, name.len() as u8], name, &[value.len() as u8], value].concat()
    }

    #[test]
    fn a_fragment_is_found_however_it_is_coded() {
        let path = Finding::Fragment("/a#b".into());
        let mut blocks = Blocks::default();
        // GET, http, then the path with its name from the static table, into the dynamic one.
        let plain = [&[0x82, 0x86, 0x44, 4][..], b"/a#b"].concat();
        assert_eq!(headers(&mut blocks, 0, 1, &plain), Some(path.clone()));
        // From the dynamic table.
        assert_eq!(headers(&mut blocks, 0, 3, &[0x82, 0x86, 0xbe]), Some(path.clone()));
        // By Huffman's code: /a#b is 011000 00011 111111111010 100011.
        let coded = [0x82, 0x86, 0x44, 0x84, 0b0110_0000, 0b0111_1111, 0b1111_0101, 0b0001_1111];
        assert_eq!(headers(&mut blocks, 0, 5, &coded), Some(path.clone()));
        // With the name in full, never to be put into a table.
        let full = [&[0x82, 0x86][..], &literal(0x10, b":path", b"/a#b")].concat();
        assert_eq!(headers(&mut blocks, 0, 7, &full), Some(path.clone()));
        // Padded, with a priority, in two frames, byte by byte.
        let first = [&[2, 0, 0, 0, 0, 16, 0x82, 0x86, 0x44][..], &[0, 0]].concat();
        assert_eq!(blocks.begin(&frame(HEADERS, FLAG_PADDED | FLAG_PRIORITY, 9, &first)), None);
        assert!(first.iter().all(|byte| blocks.payload(&[*byte]).is_none()));
        let second = b"\x04/a#b";
        assert_eq!(blocks.begin(&frame(CONTINUATION, FLAG_END_HEADERS, 9, second)), None);
        let found: Vec<_> = second.iter().filter_map(|byte| blocks.payload(&[*byte])).collect();
        assert_eq!(found, [(9, path)]);
        assert_eq!(headers(&mut blocks, 0, 11, &[0x82, 0x86, 0x84]), None);
    }

    #[test]
    fn pseudo_headers_in_trailers_are_found() {
        let mut blocks = Blocks::default();
        assert_eq!(headers(&mut blocks, 0, 1, &[0x82, 0x86, 0x84]), None);
        assert_eq!(headers(&mut blocks, FLAG_END_STREAM, 1, &literal(0, b"grpc-status", b"0")), None);
        let trailers = literal(0, b":evil", b"1");
        assert_eq!(headers(&mut blocks, FLAG_END_STREAM, 1, &trailers), Some(Finding::PseudoTrailers));
    }

    #[test]
    fn a_request_without_its_parts_is_incomplete() {
        let cases: [(&[u8], bool); 6] = [
            (&[0x82, 0x86], false),
            (&[0x82, 0x84], false),
            (&[0x86, 0x84], false),
            (&[0x82, 0x86, 0x44, 1, b'x'], false),
            (&[0x82, 0x86, 0x84, 0x5c, 1, b'3'], false),
            (&[0x82, 0x86, 0x84, 0x5c, 1, b'0'], true),
        ];
        for (block, complete) in cases {
            let found = headers(&mut Blocks::default(), FLAG_END_STREAM, 1, block);
            assert_eq!(found, (!complete).then_some(Finding::Incomplete), "{block:?}");
        }
        let connect = literal(0, b":method", b"CONNECT");
        assert_eq!(headers(&mut Blocks::default(), 0, 1, &connect), None);
    }

    #[test]
    fn the_table_is_followed_through_evictions() {
        let mut blocks = Blocks::default();
        let put = |value: &[u8]| [&[0x82, 0x86, 0x44, value.len() as u8], value].concat();
        assert_eq!(headers(&mut blocks, 0, 1, &put(b"/1")), None);
        assert!(headers(&mut blocks, 0, 3, &put(b"/2#")).is_some());
        // Room for one entry: the older one goes, and with a limit of nothing the other one too.
        assert!(headers(&mut blocks, 0, 5, &[0x3f, 50 - 31, 0x82, 0x86, 0xbe]).is_some());
        assert_eq!(blocks.decoder.entries(), 1);
        assert_eq!(headers(&mut blocks, 0, 7, &[0x20, 0x82, 0x86, 0xbe]), None);
        assert!(blocks.lost && blocks.decoder.entries() == 0);
    }

    #[test]
    fn what_is_no_header_block_is_passed_over() {
        let mut blocks = Blocks::default();
        assert_eq!(headers(&mut blocks, 0, 1, &[0xff; 20]), None);
        assert_eq!(blocks.payload(&[0; 10]), None);
        assert!(blocks.lost);
        let mut blocks = Blocks::default();
        assert_eq!(blocks.payload(&frame(DATA, 0, 1, b"x").payload), None);
        assert_eq!(headers(&mut blocks, FLAG_PADDED, 1, &[200, 1]), None);
        assert!(blocks.lost);
    }
}
