//! HPACK (RFC 7541) as far as the fields that matter need it: of any other only how much room it takes in the table.

use std::collections::VecDeque;

use super::field::{Field, Message, Name, name_of, static_field};
use super::huffman;

/// The table's size until the peer says otherwise (RFC 9113, section 6.5.2).
const DEFAULT_TABLE: usize = 4096;
/// What an entry costs beside its bytes (RFC 7541, section 4.1).
const ENTRY_OVERHEAD: usize = 32;

/// An entry of the dynamic table.
#[derive(Clone, Debug)]
struct Entry {
    field: Field,
    name_length: usize,
    size: usize,
}

/// The state of one direction of a connection.
#[derive(Debug)]
pub(super) struct Decoder {
    table: VecDeque<Entry>,
    size: usize,
    limit: usize,
    decoded: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder { table: VecDeque::new(), size: 0, limit: DEFAULT_TABLE, decoded: Vec::new() }
    }
}

impl Decoder {
    /// Reads a whole block. `None` where it is none.
    pub(super) fn read(&mut self, mut block: &[u8]) -> Option<Message> {
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
                let size = name_length.saturating_add(value_length).saturating_add(ENTRY_OVERHEAD);
                self.size = self.size.saturating_add(size);
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
                Some(field) => (field.name(), STATIC_NAME_LENGTHS.get(index.checked_sub(1)?).copied()?.into()),
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
        huffman::decode(coded, &mut self.decoded)?;
        Some(&self.decoded)
    }

    /// Entries of the table.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.table.len()
    }

    fn entry(&self, index: usize) -> Option<&Entry> {
        self.table.get(index.checked_sub(STATIC_NAME_LENGTHS.len())?.checked_sub(1)?)
    }

    fn evict(&mut self) {
        while self.size > self.limit {
            let Some(entry) = self.table.pop_back() else { return };
            self.size = self.size.saturating_sub(entry.size);
        }
    }
}

/// An integer with a prefix of `bits` bits (RFC 7541, section 5.1).
fn integer(block: &mut &[u8], bits: u32) -> Option<usize> {
    let full = 1usize.checked_shl(bits)?.checked_sub(1)?;
    let (first, mut rest) = block.split_first()?;
    let mut value = usize::from(*first) & full;
    if value == full {
        let mut shift = 0u32;
        loop {
            let (byte, tail) = rest.split_first()?;
            rest = tail;
            value = value.checked_add(usize::from(byte & 0x7f).checked_shl(shift)?)?;
            if byte & 0x80 == 0 {
                break;
            }
            shift = shift.checked_add(7)?;
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
