//! The fields of a request that matter here, and what they say together.

use bytes::Bytes;

/// The names that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
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
pub(super) enum Field {
    Method { options: bool, connect: bool },
    Scheme { http: bool },
    Path(Path),
    Protocol,
    Pseudo,
    Length { zero: bool },
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Path {
    Plain,
    Asterisk,
    Fragment(Bytes),
    Bad,
}

impl Field {
    pub(super) fn new(name: Name, value: &[u8]) -> Self {
        match name {
            Name::Method => Field::Method { options: value == b"OPTIONS", connect: value == b"CONNECT" },
            Name::Scheme => Field::Scheme { http: value == b"http" || value == b"https" },
            // The crate cuts it, and sees nothing of what stands behind `#`.
            Name::Path if value.starts_with(b"/") && memchr::memchr(b'#', value).is_some() => {
                Field::Path(Path::Fragment(Bytes::copy_from_slice(value)))
            }
            // This is a fault of the field, not of the message.
            Name::Path if value.is_empty() || value.iter().any(|b| *b <= b' ') => Field::Path(Path::Plain),
            Name::Path if !value.starts_with(b"/") => {
                Field::Path(if value == b"*" { Path::Asterisk } else { Path::Bad })
            }
            Name::Path => Field::Path(Path::Plain),
            Name::Protocol => Field::Protocol,
            Name::Pseudo => Field::Pseudo,
            Name::Length => Field::Length { zero: value.iter().all(|b| *b == b'0') },
            Name::Other => Field::Other,
        }
    }

    pub(super) fn name(&self) -> Name {
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

pub(super) fn name_of(name: &[u8]) -> Name {
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

/// An entry of RFC 7541, appendix A.
pub(super) fn static_field(index: usize) -> Option<Field> {
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

/// What there is in a block.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub(super) method: bool,
    pub(super) options: bool,
    pub(super) connect: bool,
    pub(super) protocol: bool,
    pub(super) pseudo: bool,
    /// Whether the scheme is one of HTTP's.
    pub(super) scheme: Option<bool>,
    pub(super) path: Option<Path>,
    /// A `content-length` other than 0.
    pub(super) length: bool,
}

impl Message {
    pub(super) fn add(&mut self, field: &Field) {
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
