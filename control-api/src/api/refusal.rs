//! Why a request is refused, and what it becomes on the wire: one table.

use std::collections::HashMap;
use std::fmt::Write as _;

use prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::model::Key;
use crate::serve::LARGEST_MESSAGE;
use crate::store::{LogError, StoreError, is_full};

/// The longest answer to a write, in bytes. Unit tests shall not have to write 64 MB.
const LARGEST_ANSWER: usize = if cfg!(test) { 1 << 20 } else { LARGEST_MESSAGE };

/// A field of a request that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its path in the request, as JSON: `objects[2].httpRoute.spec.rules[0].name`.
    pub field: String,
    /// The object that it belongs to, for people: `HTTPRoute default/products: spec.rules[0].name`.
    pub place: String,
    /// As it was written; empty where there is nothing to show.
    pub value: String,
    /// What is wrong with it, and what would be right.
    pub reason: String,
}

impl Violation {
    fn description(&self) -> String {
        if self.value.is_empty() { self.reason.clone() } else { format!("{}: {}", self.value, self.reason) }
    }
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Fields are wrong.
    #[error("{}", describe(.0))]
    Invalid(Vec<Violation>),
    /// Somebody else has written the object meanwhile.
    #[error(
        "{key} has resource version {}, not {given}: get it again, repeat your change on that and apply it",
        current.map_or("none: it does not exist".to_owned(), |current| current.to_string())
    )]
    Conflict {
        /// The object.
        key: Key,
        /// The version that the request wants to replace.
        given: String,
        /// The version in force, if there is one.
        current: Option<u64>,
    },
    /// There are no such objects.
    #[error("not found: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    NotFound(Vec<Key>),
    /// The answer would be too long for a message: it would fail after what it tells of was stored.
    #[error(
        "nothing was {done}: the answer tells of {count} objects in {length} bytes, and a message has {LARGEST_ANSWER} at \
         most: split the set and send it in parts, Services first"
    )]
    TooLong {
        /// What would have been done: `applied`.
        done: &'static str,
        /// How many objects.
        count: usize,
        /// Of the answer, in bytes.
        length: usize,
    },
    /// A watch cannot start or go on where it wants to.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A watch waited too long for its reader.
    #[error("the watch was not read within {0:?}: list again and watch from there")]
    Slow(std::time::Duration),
    /// The store failed: the process ends, and starts anew from what is on the disk.
    #[error("the store failed, nothing is acknowledged that is not on the disk: {0}")]
    Store(StoreError),
    /// The store did not take it, and goes on.
    #[error(transparent)]
    NotStored(StoreError),
    /// The process is about to end.
    #[error("the control plane is stopping: try again")]
    Stopping,
}

impl Refusal {
    /// Refuses a write whose answer would not fit into a message. `done`: what it would have done to the objects.
    pub(super) fn unless_fits<M: Message>(answer: &[M], done: &'static str) -> Result<(), Refusal> {
        /// Around each, in bytes at most: the number of its field, its length.
        const AROUND: usize = 16;
        let length = answer.iter().map(|message| message.encoded_len() + AROUND).sum();
        if length <= LARGEST_ANSWER {
            return Ok(());
        }
        Err(Refusal::TooLong { done, count: answer.len(), length })
    }
}

fn describe(violations: &[Violation]) -> String {
    let mut text = match violations.len() {
        1 => "a field is wrong".to_owned(),
        count => format!("{count} fields are wrong"),
    };
    // A status travels in a header, which has a bound: the details name more of them.
    for violation in violations.iter().take(10) {
        // Writing to a String cannot fail.
        _ = write!(text, "; {}: {}", violation.place, violation.description());
    }
    if violations.len() > 10 {
        text.push_str("; ...");
    }
    text
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotStored { .. } => Refusal::NotStored(error),
            error => Refusal::Store(error),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        let code = match refusal {
            Refusal::Invalid(violations) => {
                // The bound of a header list in common gRPC clients is 8 KB, in base64.
                let mut room = 4_000_usize;
                let mut named = Vec::new();
                let count = violations.len();
                for violation in violations {
                    let named_one = FieldViolation::new(violation.field.as_str(), violation.description());
                    let Some(left) = room.checked_sub(named_one.field.len() + named_one.description.len() + 8) else {
                        break;
                    };
                    room = left;
                    named.push(named_one);
                }
                if named.len() < count {
                    let rest = format!("and {} more, which have no place in one answer", count - named.len());
                    named.push(FieldViolation::new("", rest));
                }
                let mut details = ErrorDetails::new();
                details.set_bad_request(named);
                return Status::with_error_details(Code::InvalidArgument, shortened(message), details);
            }
            Refusal::Conflict { key, given, .. } => {
                let metadata = HashMap::from([("object".to_owned(), key.to_string()), ("given".to_owned(), given)]);
                let mut details = ErrorDetails::new();
                details.set_error_info("CONFLICT", "outrigger.dev", metadata);
                return Status::with_error_details(Code::Aborted, message, details);
            }
            Refusal::NotFound(_) => Code::NotFound,
            Refusal::TooLong { .. } => Code::ResourceExhausted,
            Refusal::Log(LogError::TooOld { .. } | LogError::Future { .. }) | Refusal::Slow(_) => Code::OutOfRange,
            Refusal::NotStored(StoreError::NotStored { error, .. }) if is_full(&error) => Code::ResourceExhausted,
            Refusal::Log(LogError::Database(_)) | Refusal::NotStored(_) => Code::Internal,
            Refusal::Store(_) | Refusal::Stopping => Code::Unavailable,
        };
        Status::new(code, shortened(message))
    }
}

fn shortened(mut message: String) -> String {
    if let Some((cut, _)) = message.char_indices().nth(1_500) {
        message.truncate(cut);
        message.push_str("...");
    }
    message
}
