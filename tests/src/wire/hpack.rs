//! HPACK (RFC 7541), as much as a scripted peer needs: a decoder that shows what the other side really sent, and an
//! encoder that writes every field as a literal, so that a script may send what no correct encoder would.

use std::collections::VecDeque;

/// A header field: name and value as they stood on the wire.
pub type Field = (Vec<u8>, Vec<u8>);

/// RFC 7541, appendix A.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// RFC 7541, appendix B: the code's length per symbol, `A` for 5 bits. The code is canonical, so lengths are enough.
const HUFFMAN_LENGTHS: &[u8; 257] = b"ISXXXXXXXTZXXZXXXXXXXXZXXXXXXXXXBFFHIBDGFFDGDBBBAAABBBBBBBCDKBHFIBCCCCCC\
CCCCCCCCCCCCCCCCDCDIOIJBKABABABBBACCBBBABCBAABCCCCCKGJIXPRPPRRRSRSSSSSTSTTRSTSSSSQRSRSSTRQPRRSSQSRRTQRSSQQRQSRSSPRRRSR\
RSVVPORSRUVVVWWVTUOQVWWVWTQQVVXWWWPTPQRQQSRRUUTTVSVWVVWWWWWXWWWWWVZ";

/// Keeps the dynamic table of one direction of a connection.
#[derive(Debug)]
pub struct Decoder {
    dynamic: VecDeque<Field>,
    size: usize,
    limit: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { dynamic: VecDeque::new(), size: 0, limit: 4096 }
    }
}

impl Decoder {
    /// Decodes one header block. `None`: the block is not HPACK.
    pub fn decode(&mut self, mut block: &[u8]) -> Option<Vec<Field>> {
        let mut fields = Vec::new();
        while let Some(&first) = block.first() {
            if first & 0x80 != 0 {
                let index = integer(&mut block, 7)?;
                fields.push(self.entry(index)?);
            } else if first & 0xc0 == 0x40 {
                let field = self.literal(&mut block, 6)?;
                self.insert(field.clone());
                fields.push(field);
            } else if first & 0xe0 == 0x20 {
                self.limit = integer(&mut block, 5)?;
                self.evict();
            } else {
                fields.push(self.literal(&mut block, 4)?);
            }
        }
        Some(fields)
    }

    fn literal(&self, block: &mut &[u8], bits: u32) -> Option<Field> {
        let name = match integer(block, bits)? {
            0 => string(block)?,
            index => self.entry(index)?.0,
        };
        Some((name, string(block)?))
    }

    fn entry(&self, index: usize) -> Option<Field> {
        match STATIC.get(index.checked_sub(1)?) {
            Some((name, value)) => Some((name.as_bytes().to_vec(), value.as_bytes().to_vec())),
            None => self.dynamic.get(index - 1 - STATIC.len()).cloned(),
        }
    }

    fn insert(&mut self, field: Field) {
        self.size += field.0.len() + field.1.len() + 32;
        self.dynamic.push_front(field);
        self.evict();
    }

    fn evict(&mut self) {
        while self.size > self.limit {
            let Some((name, value)) = self.dynamic.pop_back() else { return };
            self.size -= name.len() + value.len() + 32;
        }
    }
}

/// Encodes fields as literals that no table remembers.
pub fn encode<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: impl IntoIterator<Item = (N, V)>) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        put_string(&mut block, name.as_ref());
        put_string(&mut block, value.as_ref());
    }
    block
}

/// Appends an integer with a prefix of `bits` bits; `pattern` holds the bits above it.
pub fn put_integer(block: &mut Vec<u8>, pattern: u8, bits: u32, value: usize) {
    let full = (1usize << bits) - 1;
    if value < full {
        block.push(pattern | value as u8);
        return;
    }
    block.push(pattern | full as u8);
    let mut rest = value - full;
    while rest >= 128 {
        block.push((rest % 128) as u8 | 0x80);
        rest /= 128;
    }
    block.push(rest as u8);
}

/// Appends a string without Huffman coding.
pub fn put_string(block: &mut Vec<u8>, string: &[u8]) {
    put_integer(block, 0, 7, string.len());
    block.extend_from_slice(string);
}

fn integer(block: &mut &[u8], bits: u32) -> Option<usize> {
    let full = (1usize << bits) - 1;
    let (&first, mut rest) = block.split_first()?;
    let mut value = usize::from(first) & full;
    if value == full {
        let mut shift = 0;
        loop {
            let (&byte, tail) = rest.split_first()?;
            rest = tail;
            value += usize::from(byte & 0x7f).checked_shl(shift)?;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift > 28 {
                return None;
            }
        }
    }
    *block = rest;
    Some(value)
}

fn string(block: &mut &[u8]) -> Option<Vec<u8>> {
    let coded = block.first()? & 0x80 != 0;
    let length = integer(block, 7)?;
    let bytes = block.get(..length)?;
    *block = block.get(length..)?;
    if coded { huffman(bytes) } else { Some(bytes.to_vec()) }
}

fn huffman(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut symbols: Vec<(u8, usize)> = HUFFMAN_LENGTHS.iter().map(|l| l - b'A' + 5).zip(0..).collect();
    symbols.sort_unstable();
    let mut out = Vec::new();
    let (mut code, mut length) = (0u32, 0u8);
    for bit in bytes.iter().flat_map(|byte| (0..8).rev().map(move |shift| byte >> shift & 1)) {
        code = code << 1 | u32::from(bit);
        length += 1;
        if length > 30 {
            return None;
        }
        if let Some(symbol) = lookup(&symbols, code, length) {
            out.push(u8::try_from(symbol).ok()?);
            (code, length) = (0, 0);
        }
    }
    Some(out)
}

/// The symbol whose canonical code is `code`, `length` bits long.
fn lookup(symbols: &[(u8, usize)], code: u32, length: u8) -> Option<usize> {
    let (mut next, mut previous) = (0u32, 0u8);
    for &(bits, symbol) in symbols {
        if bits > length {
            return None;
        }
        next <<= bits - previous;
        previous = bits;
        if bits == length && next == code {
            return Some(symbol);
        }
        next += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_the_examples_of_the_rfc() {
        // RFC 7541, C.4.1 and C.4.2: Huffman coding and the dynamic table.
        let mut decoder = Decoder::default();
        let first =
            [0x82, 0x86, 0x84, 0x41, 0x8c, 0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        let fields = decoder.decode(&first).unwrap();
        assert_eq!(fields[3], (b":authority".to_vec(), b"www.example.com".to_vec()));
        let second = [0x82, 0x86, 0x84, 0xbe, 0x58, 0x86, 0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf];
        let fields = decoder.decode(&second).unwrap();
        assert_eq!(fields[3].1, b"www.example.com");
        assert_eq!(fields[4], (b"cache-control".to_vec(), b"no-cache".to_vec()));
    }

    #[test]
    fn reads_back_what_it_encodes() {
        let long = "v".repeat(300);
        let block = encode([("x-a", "1"), ("x-long", long.as_str())]);
        let fields = Decoder::default().decode(&block).unwrap();
        assert_eq!(fields[0], (b"x-a".to_vec(), b"1".to_vec()));
        assert_eq!(fields[1].1, long.as_bytes());
    }
}
