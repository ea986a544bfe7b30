//! Long answers in parts, so that what they take is a part and not the whole of it: statistics repeat the name of a cluster
//! in each of its hundred lines, and a cluster may have a hundred thousand hosts.

use std::fmt;

use bytes::{Bytes, BytesMut};

/// Bytes of a part. What fits into one is sent with its length.
pub(super) const PART: usize = 64 << 10;

/// Takes text, and hands it on in parts as large as [`PART`].
pub struct Parts<'s> {
    part: BytesMut,
    /// `false`: nobody wants more.
    send: &'s mut dyn FnMut(Bytes) -> bool,
}

impl<'s> Parts<'s> {
    pub(super) fn new(send: &'s mut dyn FnMut(Bytes) -> bool) -> Self {
        Self { part: BytesMut::new(), send }
    }

    /// Hands on what is left.
    pub(super) fn finish(self) -> fmt::Result {
        if self.part.is_empty() || (self.send)(self.part.freeze()) { Ok(()) } else { Err(fmt::Error) }
    }
}

impl fmt::Write for Parts<'_> {
    /// Fails where nobody reads any more.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text.as_bytes();
        while let Some((now, later)) = rest.split_at_checked(PART.saturating_sub(self.part.len()).min(rest.len())) {
            self.part.extend_from_slice(now);
            rest = later;
            if self.part.len() < PART {
                return Ok(());
            }
            if !(self.send)(self.part.split().freeze()) {
                return Err(fmt::Error);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn no_part_is_longer_than_its_bound_and_nothing_is_lost() {
        let text = "0123456789".repeat(PART / 8);
        let mut sent = Vec::new();
        let mut send = |part| {
            sent.push(part);
            true
        };
        let mut parts = Parts::new(&mut send);
        for piece in [&text[..7], &text[7..], ""] {
            parts.write_str(piece).unwrap();
        }
        parts.finish().unwrap();
        assert_eq!(sent.iter().map(Bytes::len).collect::<Vec<_>>(), [PART, text.len() - PART]);
        assert_eq!(sent.concat(), text.as_bytes());
    }

    #[test]
    fn who_has_gone_is_written_nothing_more() {
        let mut count = 0;
        let mut send = |_| {
            count += 1;
            false
        };
        let mut parts = Parts::new(&mut send);
        assert!(parts.write_str(&"x".repeat(10 * PART)).is_err());
        assert_eq!(count, 1);
    }
}
