//! Huffman's code for the strings of header blocks (RFC 7541, section 5.2 and appendix B), one way.

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

#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "the compiler evaluates it, and refuses what is out of bounds"
)]
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
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (mut bits, mut count) = (0u64, 0usize);
    let mut bytes = coded.iter();
    loop {
        while count <= 56 {
            let Some(byte) = bytes.next() else { break };
            bits = bits << 8 | u64::from(*byte);
            count = count.saturating_add(8);
        }
        let Some((symbol, length)) = symbol(bits, count) else {
            // What is left is padding: less than a byte of ones.
            let ones = 0xffu64.checked_shr(8u32.checked_sub(u32::try_from(count).ok()?)?)?;
            return (count < 8 && bits & ones == ones).then_some(());
        };
        out.push(symbol);
        count = count.saturating_sub(length);
    }
}

/// The first symbol of the lowest `count` bits, and how many bits it takes.
fn symbol(bits: u64, count: usize) -> Option<(u8, usize)> {
    for (length, codes) in (SHORTEST..).zip(&HUFFMAN.by_length) {
        let above = u64::MAX.checked_shl(u32::try_from(length).ok()?)?;
        let candidate = bits.checked_shr(u32::try_from(count.checked_sub(length)?).ok()?)? & !above;
        let nth = u32::try_from(candidate).ok()?.wrapping_sub(codes.first);
        if nth < codes.count {
            return Some((*HUFFMAN.symbols.get(codes.at.checked_add(nth as usize)?)?, length));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_symbol_is_decoded() {
        // RFC 7541, C.4.1 and C.6.1.
        let mut out = Vec::new();
        let coded = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert!(decode(&coded, &mut out).is_some());
        assert_eq!(out, b"www.example.com");
        out.clear();
        let coded = b"\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8\x20\x05\x95\x04\x0b\x81\x66\xe0\x82\xa6\x2d\x1b\xff";
        assert!(decode(coded, &mut out).is_some());
        assert_eq!(out, b"Mon, 21 Oct 2013 20:13:21 GMT");
        // Every code is complete: together they leave room for the end of the string alone.
        let room: u64 = HUFFMAN.by_length.iter().zip(SHORTEST..).map(|(c, n)| u64::from(c.count) << (30 - n)).sum();
        assert_eq!(room, (1 << 30) - 1);
        assert!(decode(&[0xff; 4], &mut out).is_none(), "the end of the string stands in no string");
    }
}
