//! The header blocks of a client, read a second time beside the `h2` crate, for what it keeps to itself.
//!
//! The crate hands a request's path out as a URI, which has no fragment, drops the pseudo-headers of trailers, and ends
//! every malformed head alike. The first two would let a client pass something by the routes and rules that we judge by, the
//! third hides what Envoy logs. So this follows HPACK (RFC 7541) as far as that needs: of a field that matters it knows what
//! it says, of any other only how much room it takes in the table. A field that the client has sent before is one byte here.

use std::collections::VecDeque;

use bytes::Bytes;

use super::scan::{FLAG_END_STREAM, FrameHead, HEADERS};

const FLAG_END_HEADERS: u8 = 4;
const FLAG_PADDED: u8 = 8;
const FLAG_PRIORITY: u8 = 0x20;

/// Bytes of a header block, still coded, that are followed: more than fit into the CONTINUATION frames that a client may
/// send.
const MAX_BLOCK: usize = 512 << 10;
/// The table's size until the peer says otherwise (RFC 9113, section 6.5.2).
const DEFAULT_TABLE: usize = 4096;
/// What an entry costs beside its bytes (RFC 7541, section 4.1).
const ENTRY_OVERHEAD: usize = 32;

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

/// The names that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Method,
    Scheme,
    Path,
    /// `:protocol`, of extended CONNECT.
    Protocol,
    Pseudo,
    Length,
    Other,
}

/// A field, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    Method { options: bool, connect: bool },
    Scheme { http: bool },
    Path(Path),
    Protocol,
    Pseudo,
    Length { zero: bool },
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Path {
    Plain,
    Asterisk,
    Fragment(Bytes),
    Bad,
}

impl Field {
    fn new(name: Name, value: &[u8]) -> Self {
        match name {
            Name::Method => Field::Method { options: value == b"OPTIONS", connect: value == b"CONNECT" },
            Name::Scheme => Field::Scheme { http: value == b"http" || value == b"https" },
            // This is a fault of the field, not of the message.
            Name::Path if value.is_empty() || value.iter().any(|b| *b <= b' ') => Field::Path(Path::Plain),
            Name::Path if !value.starts_with(b"/") => {
                Field::Path(if value == b"*" { Path::Asterisk } else { Path::Bad })
            }
            Name::Path if memchr::memchr(b'#', value).is_some() => {
                Field::Path(Path::Fragment(Bytes::copy_from_slice(value)))
            }
            Name::Path => Field::Path(Path::Plain),
            Name::Protocol => Field::Protocol,
            Name::Pseudo => Field::Pseudo,
            Name::Length => Field::Length { zero: value.iter().all(|b| *b == b'0') },
            Name::Other => Field::Other,
        }
    }

    fn name(&self) -> Name {
        match self {
            Field::Method { .. } => Name::Method,
            Field::Scheme { .. } => Name::Scheme,
            Field::Path(_) => Name::Path,
            Field::Protocol => Name::Protocol,
            Field::Pseudo => Name::Pseudo,
            Field::Length { .. } => Name::Length,
            Field::Other => Name::Other,
        }
    }
}

fn name_of(name: &[u8]) -> Name {
    match name {
        b":method" => Name::Method,
        b":scheme" => Name::Scheme,
        b":path" => Name::Path,
        b":protocol" => Name::Protocol,
        b"content-length" => Name::Length,
        [b':', ..] => Name::Pseudo,
        _ => Name::Other,
    }
}

/// An entry of the dynamic table.
#[derive(Clone, Debug)]
struct Entry {
    field: Field,
    name_length: usize,
    size: usize,
}

/// Follows the header blocks that one client sends.
#[derive(Debug)]
pub(super) struct Blocks {
    table: VecDeque<Entry>,
    size: usize,
    limit: usize,
    /// The block so far, of frames that are complete and of the one that is not.
    coded: Vec<u8>,
    /// The frame whose payload comes: how much of it is still to come, and its flags.
    left: usize,
    flags: u8,
    /// The stream of the block, and whether its last frame will end the message.
    stream: u32,
    ends: bool,
    /// The highest stream that was opened.
    opened: u32,
    /// This is no HPACK: the crate will end the connection.
    lost: bool,
    decoded: Vec<u8>,
}

impl Default for Blocks {
    fn default() -> Self {
        Blocks {
            table: VecDeque::new(),
            size: 0,
            limit: DEFAULT_TABLE,
            coded: Vec::new(),
            left: 0,
            flags: 0,
            stream: 0,
            ends: false,
            opened: 0,
            lost: false,
            decoded: Vec::new(),
        }
    }
}

impl Blocks {
    /// Whether a block was none.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// A frame with a part of a header block begins: HEADERS or CONTINUATION.
    pub(super) fn begin(&mut self, frame: &FrameHead) -> Option<(u32, Finding)> {
        if frame.kind == HEADERS {
            self.coded.clear();
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
        self.left -= bytes.len();
        if self.coded.len() + bytes.len() > MAX_BLOCK {
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
                None => self.lost = true,
            }
        }
        let mut found = None;
        if self.flags & FLAG_END_HEADERS != 0 && !self.lost {
            match self.read(&block) {
                Some(message) => found = self.judge(&message).map(|finding| (self.stream, finding)),
                None => self.lost = true,
            }
            self.opened = self.opened.max(self.stream);
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

    /// Reads a whole block. `None` where it is none.
    fn read(&mut self, mut block: &[u8]) -> Option<Message> {
        let mut message = Message::default();
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                let index = integer(&mut block, 7)?;
                match static_field(index) {
                    Some(field) => message.add(&field),
                    None => message.add(&self.entry(index)?.field),
                }
            } else if first & 0xc0 == 0x40 {
                let (field, name_length, value_length) = self.literal(&mut block, 6, true)?;
                message.add(&field);
                let size = name_length + value_length + ENTRY_OVERHEAD;
                self.size += size;
                self.table.push_front(Entry { field, name_length, size });
                self.evict();
            } else if first & 0xe0 == 0x20 {
                self.limit = integer(&mut block, 5)?;
                self.evict();
            } else {
                let (field, ..) = self.literal(&mut block, 4, false)?;
                message.add(&field);
            }
        }
        Some(message)
    }

    /// A field with a value of its own, and the lengths of its name and its value; the latter only where they are
    /// `wanted`, as the table does, or where the value matters.
    fn literal(&mut self, block: &mut &[u8], bits: u32, wanted: bool) -> Option<(Field, usize, usize)> {
        let (name, name_length) = match integer(block, bits)? {
            0 => {
                let (coded, huffman) = string(block)?;
                let name = self.decode(coded, huffman)?;
                (name_of(name), name.len())
            }
            index => match static_field(index) {
                Some(field) => (field.name(), STATIC_NAME_LENGTHS.get(index - 1).copied()?.into()),
                None => self.entry(index).map(|entry| (entry.field.name(), entry.name_length))?,
            },
        };
        let (coded, huffman) = string(block)?;
        if name == Name::Other && !(wanted && huffman) {
            return Some((Field::Other, name_length, coded.len()));
        }
        let value = self.decode(coded, huffman)?;
        Some((Field::new(name, value), name_length, value.len()))
    }

    fn decode<'a>(&'a mut self, coded: &'a [u8], huffman: bool) -> Option<&'a [u8]> {
        if !huffman {
            return Some(coded);
        }
        self.decoded.clear();
        huffman_decode(coded, &mut self.decoded)?;
        Some(&self.decoded)
    }

    fn entry(&self, index: usize) -> Option<&Entry> {
        self.table.get(index.checked_sub(STATIC_NAME_LENGTHS.len() + 1)?)
    }

    fn evict(&mut self) {
        while self.size > self.limit {
            let Some(entry) = self.table.pop_back() else { return };
            self.size -= entry.size;
        }
    }
}

/// What there is in a block.
#[derive(Debug, Default)]
struct Message {
    method: bool,
    options: bool,
    connect: bool,
    protocol: bool,
    pseudo: bool,
    /// Whether the scheme is one of HTTP's.
    scheme: Option<bool>,
    path: Option<Path>,
    /// A `content-length` other than 0.
    length: bool,
}

impl Message {
    fn add(&mut self, field: &Field) {
        self.pseudo |= !matches!(field, Field::Length { .. } | Field::Other);
        match field {
            Field::Method { options, connect } => {
                self.method = true;
                self.options |= options;
                self.connect |= connect;
            }
            Field::Scheme { http } => self.scheme = Some(*http),
            Field::Path(path) => self.path = Some(path.clone()),
            Field::Protocol => self.protocol = true,
            Field::Length { zero } => self.length |= !zero,
            Field::Pseudo | Field::Other => {}
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

/// An integer with a prefix of `bits` bits (RFC 7541, section 5.1).
fn integer(block: &mut &[u8], bits: u32) -> Option<usize> {
    let full = (1usize << bits) - 1;
    let (first, mut rest) = block.split_first()?;
    let mut value = usize::from(*first) & full;
    if value == full {
        let mut shift = 0;
        loop {
            let (byte, tail) = rest.split_first()?;
            rest = tail;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            if shift > 21 {
                return None;
            }
        }
    }
    *block = rest;
    Some(value)
}

/// A string as it is coded, and whether by Huffman's code.
fn string<'a>(block: &mut &'a [u8]) -> Option<(&'a [u8], bool)> {
    let huffman = block.first()? & 0x80 != 0;
    let length = integer(block, 7)?;
    let (string, rest) = block.split_at_checked(length)?;
    *block = rest;
    Some((string, huffman))
}

/// The lengths of the names of RFC 7541, appendix A.
const STATIC_NAME_LENGTHS: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13, 12, 6, 4,
    4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3, 16,
];

/// An entry of RFC 7541, appendix A.
fn static_field(index: usize) -> Option<Field> {
    Some(match index {
        2 | 3 => Field::Method { options: false, connect: false },
        4 | 5 => Field::Path(Path::Plain),
        6 | 7 => Field::Scheme { http: true },
        1 | 8..=14 => Field::Pseudo,
        28 => Field::Length { zero: true },
        15..=61 => Field::Other,
        _ => return None,
    })
}

/// RFC 7541, appendix B: the code's length per symbol, `A` for 5 bits. The code is canonical, so lengths are enough.
const CODE_LENGTHS: &[u8; 256] = b"ISXXXXXXXTZXXZXXXXXXXXZXXXXXXXXXBFFHIBDGFFDGDBBBAAABBBBBBBCDKBHFIBCCCCCC\
CCCCCCCCCCCCCCCCDCDIOIJBKABABABBBACCBBBABCBAABCCCCCKGJIXPRPPRRRSRSSSSSTSTTRSTSSSSQRSRSSTRQPRRSSQSRRTQRSSQQRQSRSSPRRRSR\
RSVVPORSRUVVVWWVTUOQVWWVWTQQVVXWWWPTPQRQQSRRUUTTVSVWVVWWWWWXWWWWWV";

/// The shortest and the longest code, in bits.
const SHORTEST: usize = 5;
const LONGEST: usize = 30;

/// Codes of one length: the first of them, how many there are, and where their symbols begin in [`Code::symbols`].
#[derive(Clone, Copy, Debug)]
struct Codes {
    first: u32,
    count: u32,
    at: usize,
}

#[derive(Debug)]
struct Code {
    by_length: [Codes; LONGEST - SHORTEST + 1],
    /// In the order of their codes.
    symbols: [u8; 256],
}

static HUFFMAN: Code = code();

#[allow(clippy::indexing_slicing, reason = "the compiler evaluates it, and refuses what is out of bounds")]
const fn code() -> Code {
    let mut code = Code { by_length: [Codes { first: 0, count: 0, at: 0 }; LONGEST - SHORTEST + 1], symbols: [0; 256] };
    let (mut next, mut at, mut length) = (0, 0, 0);
    while length < code.by_length.len() {
        let codes = &mut code.by_length[length];
        *codes = Codes { first: next, count: 0, at };
        let mut symbol = 0;
        while symbol < CODE_LENGTHS.len() {
            if (CODE_LENGTHS[symbol] - b'A') as usize == length {
                code.symbols[at] = symbol as u8;
                at += 1;
                codes.count += 1;
            }
            symbol += 1;
        }
        next = (next + codes.count) << 1;
        length += 1;
    }
    code
}

/// Appends what `coded` stands for. `None` where it stands for nothing.
fn huffman_decode(coded: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (mut bits, mut count) = (0u64, 0usize);
    let mut bytes = coded.iter();
    loop {
        while count <= 56 {
            let Some(byte) = bytes.next() else { break };
            bits = bits << 8 | u64::from(*byte);
            count += 8;
        }
        let Some((symbol, length)) = symbol(bits, count) else {
            // What is left is padding: less than a byte of ones.
            return (count < 8 && bits & ((1 << count) - 1) == (1 << count) - 1).then_some(());
        };
        out.push(symbol);
        count -= length;
    }
}

/// The first symbol of the lowest `count` bits, and how many bits it takes.
fn symbol(bits: u64, count: usize) -> Option<(u8, usize)> {
    for (length, codes) in (SHORTEST..).zip(&HUFFMAN.by_length) {
        let candidate = (bits >> count.checked_sub(length)?) & ((1 << length) - 1);
        let nth = u32::try_from(candidate).ok()?.wrapping_sub(codes.first);
        if nth < codes.count {
            return Some((*HUFFMAN.symbols.get(codes.at + nth as usize)?, length));
        }
    }
    None
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
        assert_eq!(blocks.table.len(), 1);
        assert_eq!(headers(&mut blocks, 0, 7, &[0x20, 0x82, 0x86, 0xbe]), None);
        assert!(blocks.lost && blocks.table.is_empty());
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

    #[test]
    fn every_symbol_is_decoded() {
        // RFC 7541, C.4.1 and C.6.1.
        let mut out = Vec::new();
        let coded = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert!(huffman_decode(&coded, &mut out).is_some());
        assert_eq!(out, b"www.example.com");
        out.clear();
        let coded = b"\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8\x20\x05\x95\x04\x0b\x81\x66\xe0\x82\xa6\x2d\x1b\xff";
        assert!(huffman_decode(coded, &mut out).is_some());
        assert_eq!(out, b"Mon, 21 Oct 2013 20:13:21 GMT");
        // Every code is complete: together they leave room for the end of the string alone.
        let room: u64 = HUFFMAN.by_length.iter().zip(SHORTEST..).map(|(c, n)| u64::from(c.count) << (30 - n)).sum();
        assert_eq!(room, (1 << 30) - 1);
        assert!(huffman_decode(&[0xff; 4], &mut out).is_none(), "the end of the string stands in no string");
    }
}
