//! `google.protobuf.Any`: extensions are told apart by their type, never by their name.

use outrigger_proto::prost::{Message, Name};
use prost_types::Any;

use crate::config::report::At;

/// The full name of the message inside, `envoy.extensions…`.
pub fn type_name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

/// Whether an `M` is inside.
pub fn is<M: Name>(any: &Any) -> bool {
    type_name(any) == M::full_name()
}

/// Decodes the `M` inside. `None`, and a problem, if the bytes are not one. Fields that `M` does not have (of a newer
/// xDS) are no problem: they are noted.
pub fn decode<M: Message + Name + Default>(any: &Any, at: &At<'_>) -> Option<M> {
    match M::decode(any.value.as_slice()) {
        Ok(message) => {
            note_unknown_fields(&message, any.value.len(), at);
            Some(message)
        }
        Err(error) => {
            at.reject("", format_args!("cannot be decoded as {}: {error}", M::full_name()));
            None
        }
    }
}

/// Notes that `message`, which was decoded from `received` bytes, does not have all that was sent.
pub fn note_unknown_fields<M: Message>(message: &M, received: usize, at: &At<'_>) {
    if message.encoded_len() < received {
        at.harmless("has fields that this version does not know (newer xDS); they are ignored");
    }
}

/// Rejects an extension of a type that cannot stand here.
pub fn reject_type(any: &Any, at: &At<'_>) {
    at.field("@type").reject(&any.type_url, "not an extension that can stand here in this version");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::report::Report;
    use outrigger_proto::envoy::config::core::v3::Pipe;

    #[test]
    fn unknown_fields_are_noted_and_bad_bytes_rejected() {
        let message = Pipe { path: "/x".to_owned(), mode: 0 };
        let mut any = Any { type_url: format!("type.googleapis.com/{}", Pipe::full_name()), value: Vec::new() };
        any.value = message.encode_to_vec();
        let report = Report::new();
        assert!(is::<Pipe>(&any));
        assert_eq!(decode::<Pipe>(&any, &report.root()), Some(message));
        assert!(report.into_parts().1.is_empty());

        any.value.extend([0xf8, 0x3f, 1]);
        let report = Report::new();
        assert!(decode::<Pipe>(&any, &report.root()).is_some());
        assert_eq!(report.into_parts().1.len(), 1);

        any.value = vec![0xff];
        let report = Report::new();
        assert!(decode::<Pipe>(&any, &report.root()).is_none());
        assert!(report.is_rejected());
    }
}
