//! Scalars, enumerations and durations of protobuf's JSON mapping.

use std::fmt::{self, Display};

use outrigger_proto::prost::encoding::{WireType, encode_key as put_key, encode_varint};

use super::nearest::nearest;
use super::schema::{Kind, Schema};
use super::tree::{Meaning, Node, Scalar, Value};

/// Why a value does not fit its field.
#[derive(Debug)]
pub(crate) struct Fault(String);

impl Fault {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Fault(reason.into())
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A scalar on the wire.
pub(crate) enum Wire<'n> {
    Varint(u64),
    Fixed32([u8; 4]),
    Fixed64([u8; 8]),
    Str(&'n str),
    Bytes(Vec<u8>),
}

impl Wire<'_> {
    /// With its key; a zero only if `zeros`.
    pub(crate) fn write(&self, number: u32, zeros: bool, out: &mut Vec<u8>) {
        let (wire_type, zero) = match self {
            Wire::Varint(value) => (WireType::Varint, *value == 0),
            Wire::Fixed32(bytes) => (WireType::ThirtyTwoBit, *bytes == [0; 4]),
            Wire::Fixed64(bytes) => (WireType::SixtyFourBit, *bytes == [0; 8]),
            Wire::Str(text) => (WireType::LengthDelimited, text.is_empty()),
            Wire::Bytes(bytes) => (WireType::LengthDelimited, bytes.is_empty()),
        };
        if zeros || !zero {
            put_key(number, wire_type, out);
            self.write_bare(out);
        }
    }

    /// Without its key, as in a packed list.
    pub(crate) fn write_bare(&self, out: &mut Vec<u8>) {
        match self {
            Wire::Varint(value) => encode_varint(*value, out),
            Wire::Fixed32(bytes) => out.extend_from_slice(bytes),
            Wire::Fixed64(bytes) => out.extend_from_slice(bytes),
            Wire::Str(text) => {
                encode_varint(text.len() as u64, out);
                out.extend_from_slice(text.as_bytes());
            }
            Wire::Bytes(bytes) => {
                encode_varint(bytes.len() as u64, out);
                out.extend_from_slice(bytes);
            }
        }
    }
}

/// The value of a field of a scalar `kind`.
pub(crate) fn encode<'n>(node: &'n Node<'_>, kind: Kind, schema: &Schema) -> Result<Wire<'n>, Fault> {
    let Value::Scalar(scalar) = node.value() else {
        return Err(Fault::new(format!("must be {}", describe(kind))));
    };
    let meaning = scalar.meaning();
    let wrong = || Fault::new(format!("must be {}", describe(kind)));
    match kind {
        Kind::Bool => match meaning {
            Meaning::Bool(value) => Ok(Wire::Varint(u64::from(value))),
            _ => Err(wrong()),
        },
        Kind::String => match meaning {
            Meaning::Text => Ok(Wire::Str(&scalar.text)),
            // Beyond 32 bits Envoy's YAML reader makes a string of it.
            Meaning::Int(value) if i32::try_from(value).is_err() => Ok(Wire::Str(&scalar.text)),
            _ => Err(Fault::new("must be a string: put it in quotes")),
        },
        Kind::Bytes => match meaning {
            Meaning::Text => Ok(Wire::Bytes(base64(&scalar.text).ok_or_else(wrong)?)),
            _ => Err(wrong()),
        },
        Kind::Enum(name) => {
            let values = schema.enumeration(name).ok_or_else(wrong)?.values;
            let number = values.iter().find_map(|(known, number)| {
                let is_it = match meaning {
                    Meaning::Int(value) => value == i64::from(*number),
                    _ => scalar.text == *known,
                };
                is_it.then_some(*number)
            });
            let Some(number) = number else {
                let hint = nearest(&scalar.text, values.iter().map(|(known, _)| *known));
                let known: Vec<&str> = values.iter().map(|(known, _)| *known).collect();
                let hint = if hint.is_empty() { format!("; it has {}", known.join(", ")) } else { hint };
                return Err(Fault::new(format!("not a value of {name}{hint}")));
            };
            Ok(Wire::Varint(i64::from(number).cast_unsigned()))
        }
        Kind::Float => {
            let value = float(scalar, meaning).ok_or_else(wrong)?;
            #[allow(clippy::cast_possible_truncation, reason = "the field holds no more")]
            let value = value as f32;
            Ok(Wire::Fixed32(value.to_le_bytes()))
        }
        Kind::Double => Ok(Wire::Fixed64(float(scalar, meaning).ok_or_else(wrong)?.to_le_bytes())),
        Kind::Message(_) => Err(wrong()),
        _ => {
            let value = integer(scalar, meaning).ok_or_else(wrong)?;
            integer_wire(value, kind).ok_or_else(wrong)
        }
    }
}

/// A map's key.
pub(crate) fn encode_key<'n>(text: &'n str, kind: Kind) -> Result<Wire<'n>, Fault> {
    let wrong = || Fault::new(format!("the key must be {}", describe(kind)));
    match kind {
        Kind::String => Ok(Wire::Str(text)),
        Kind::Bool => Ok(Wire::Varint(u64::from(text.parse::<bool>().map_err(|_| wrong())?))),
        _ => integer_wire(text.parse().map_err(|_| wrong())?, kind).ok_or_else(wrong),
    }
}

fn integer_wire<'n>(value: i128, kind: Kind) -> Option<Wire<'n>> {
    Some(match kind {
        Kind::Int32 => Wire::Varint(i64::from(i32::try_from(value).ok()?).cast_unsigned()),
        Kind::Int64 => Wire::Varint(i64::try_from(value).ok()?.cast_unsigned()),
        Kind::Uint32 => Wire::Varint(u64::from(u32::try_from(value).ok()?)),
        Kind::Uint64 => Wire::Varint(u64::try_from(value).ok()?),
        Kind::Sint32 | Kind::Sint64 => {
            if matches!(kind, Kind::Sint32) {
                i32::try_from(value).ok()?;
            }
            let value = i64::try_from(value).ok()?;
            Wire::Varint(((value << 1) ^ (value >> 63)).cast_unsigned())
        }
        Kind::Fixed32 => Wire::Fixed32(u32::try_from(value).ok()?.to_le_bytes()),
        Kind::Sfixed32 => Wire::Fixed32(i32::try_from(value).ok()?.to_le_bytes()),
        Kind::Fixed64 => Wire::Fixed64(u64::try_from(value).ok()?.to_le_bytes()),
        Kind::Sfixed64 => Wire::Fixed64(i64::try_from(value).ok()?.to_le_bytes()),
        _ => return None,
    })
}

fn describe(kind: Kind) -> String {
    match kind {
        Kind::Bool => "true or false".to_owned(),
        Kind::String => "a string".to_owned(),
        Kind::Bytes => "base64".to_owned(),
        Kind::Float | Kind::Double => "a number".to_owned(),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => format!("an integer, {} to {}", i32::MIN, i32::MAX),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => format!("an integer, {} to {}", i64::MIN, i64::MAX),
        Kind::Uint32 | Kind::Fixed32 => format!("an integer, 0 to {}", u32::MAX),
        Kind::Uint64 | Kind::Fixed64 => format!("an integer, 0 to {}", u64::MAX),
        Kind::Enum(name) => format!("a value of {name}"),
        Kind::Message(name) => format!("a mapping: {name}"),
        Kind::Unknown => "of a type that this version knows".to_owned(),
    }
}

/// Integers may be quoted, and may be written `1.0`.
fn integer(scalar: &Scalar<'_>, meaning: Meaning) -> Option<i128> {
    match meaning {
        Meaning::Int(value) => Some(i128::from(value)),
        Meaning::Text => {
            if let Ok(value) = scalar.text.parse::<i128>() {
                return Some(value);
            }
            let value = number(&scalar.text)?;
            #[allow(
                clippy::cast_possible_truncation,
                reason = "a cast from a float saturates, and such a value fits no field"
            )]
            (value.fract() == 0.0).then_some(value as i128)
        }
        _ => None,
    }
}

fn float(scalar: &Scalar<'_>, meaning: Meaning) -> Option<f64> {
    match meaning {
        Meaning::Int(_) | Meaning::Text => match scalar.text.as_ref() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            text => number(text),
        },
        _ => None,
    }
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|value: &f64| value.is_finite())
}

/// Seconds and nanoseconds of `1.5s`, as protobuf's JSON has them.
pub(crate) fn duration(node: &Node<'_>) -> Result<(i64, i32), Fault> {
    const MAX_SECONDS: i64 = 315_576_000_000;
    let parse = || {
        let Value::Scalar(scalar) = node.value() else { return None };
        let text = scalar.text.strip_suffix('s')?;
        let (negative, text) = match text.strip_prefix('-') {
            Some(text) => (true, text),
            None => (false, text),
        };
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
            return None;
        }
        let seconds = whole.parse::<i64>().ok().filter(|seconds| *seconds <= MAX_SECONDS)?;
        let nanos = format!("{fraction:0<9}").parse::<i32>().ok()?;
        Some(if negative { (seconds.saturating_neg(), nanos.saturating_neg()) } else { (seconds, nanos) })
    };
    parse().ok_or_else(|| Fault::new("must be a duration in seconds, like 5s or 0.25s"))
}

/// Both alphabets, with or without padding.
pub(crate) fn base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(text.len().div_ceil(4).saturating_mul(3));
    let (mut buffer, mut bits) = (0u32, 0u32);
    for c in text.bytes() {
        let value = match c {
            b'A'..=b'Z' => c.wrapping_sub(b'A'),
            b'a'..=b'z' => c.wrapping_sub(b'a' - 26),
            b'0'..=b'9' => c.wrapping_add(52 - b'0'),
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        buffer = (buffer << 6) | u32::from(value);
        bits = bits.saturating_add(6);
        if let Some(rest) = bits.checked_sub(8) {
            bits = rest;
            bytes.push(u8::try_from((buffer >> bits) & 0xff).ok()?);
        }
    }
    (text.len() % 4 != 1).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tree::Reader;

    #[test]
    fn durations_are_seconds_with_up_to_nine_digits() {
        let of = |text: &str| duration(&Reader::tree(text).unwrap()).ok();
        assert_eq!(of("1s"), Some((1, 0)));
        assert_eq!(of("0.25s"), Some((0, 250_000_000)));
        assert_eq!(of("-1.000000001s"), Some((-1, -1)));
        for bad in ["1", "1m", "1ms", "s", "1.s", ".5s", "1.0000000001s", "+1s", "1e3s", "[1s]", "400000000000s"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn base64_has_two_alphabets_and_no_need_of_padding() {
        assert_eq!(base64("aGVsbG8=").unwrap(), b"hello");
        assert_eq!(base64("aGVsbG8").unwrap(), b"hello");
        assert_eq!(base64("_-8").unwrap(), base64("/+8=").unwrap());
        assert_eq!(base64("a"), None);
        assert_eq!(base64("a b="), None);
    }

    #[test]
    fn integers_may_be_quoted_or_whole_fractions() {
        let of = |text: &str| {
            let node = Reader::tree(text).unwrap();
            match encode(&node, Kind::Uint32, &Schema::new(outrigger_proto::DESCRIPTORS)) {
                Ok(Wire::Varint(value)) => Some(value),
                _ => None,
            }
        };
        assert_eq!(of("80"), Some(80));
        assert_eq!(of("'80'"), Some(80));
        assert_eq!(of("8e1"), Some(80));
        for bad in ["-1", "4294967296", "1.5", "true", "x", "1e300", "[1]"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
