//! Small values that many messages share: durations, fractions, header names, data sources.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use outrigger_proto::envoy::config::core::v3 as core;
use outrigger_proto::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};

use crate::config::report::At;
use crate::{harmless, message};

/// A duration as configurations write it: `0.25s`.
#[derive(Debug, Clone, Copy)]
pub struct Seconds(pub Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}s", self.0.as_secs_f64())
    }
}

/// The longest duration, Envoy's too: its nanoseconds fit into 63 bits, and it is about 292 years. A
/// `google.protobuf.Duration` may be longer.
pub const LONGEST: Duration = Duration::from_secs(9_223_372_035);

/// A duration that is not negative and not beyond [`LONGEST`] (`google.protobuf.Duration`). `None` where it is not set
/// or was rejected.
pub fn duration(message: Option<prost_types::Duration>, at: &At<'_>) -> Option<Duration> {
    let message = message?;
    match Duration::try_from(message) {
        Ok(duration) if duration <= LONGEST => Some(duration),
        Ok(duration) => {
            at.reject(Seconds(duration), format_args!("must be at most {}", Seconds(LONGEST)));
            None
        }
        Err(_) => {
            at.reject(format_args!("{}s", message.seconds), "must not be negative");
            None
        }
    }
}

/// Reports a text that goes into a message's head and would end a line there, or could not stand there.
pub fn check_header_text(text: &str, at: &At<'_>) {
    if text.contains(['\0', '\r', '\n']) {
        at.reject(text.escape_debug(), "must not contain a line break or NUL");
    }
}

/// A header name, in any case. `None` where it was rejected.
pub fn header_name(name: &str, at: &At<'_>) -> Option<HeaderName> {
    match message::header_name(name) {
        Some(name) => Some(name),
        None if name.is_empty() => {
            at.reject("", "must not be empty");
            None
        }
        None => {
            at.reject(name, "not a header name");
            None
        }
    }
}

/// `envoy.type.v3.FractionalPercent`: so many of a hundred, ten thousand or a million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fraction {
    numerator: u32,
    denominator: u32,
}

impl Fraction {
    /// Reads the message. `None` where it was rejected.
    pub fn convert(message: FractionalPercent, at: &At<'_>) -> Option<Fraction> {
        let FractionalPercent { numerator, denominator } = message;
        let denominator = match DenominatorType::try_from(denominator) {
            Ok(DenominatorType::Hundred) => 100,
            Ok(DenominatorType::TenThousand) => 10_000,
            Ok(DenominatorType::Million) => 1_000_000,
            Err(_) => {
                at.field("denominator").reject(denominator, "not one of HUNDRED, TEN_THOUSAND, MILLION");
                return None;
            }
        };
        Some(Fraction { numerator, denominator })
    }

    /// Whether `random`, uniform over 64 bits, falls into the fraction.
    pub fn contains(self, random: u64) -> bool {
        random.checked_rem(self.denominator.into()).is_some_and(|point| point < self.numerator.into())
    }
}

/// `RuntimeFractionalPercent`: its default value. No runtime layer is consulted. `None` where it was rejected.
pub fn runtime_fraction(message: core::RuntimeFractionalPercent, at: &At<'_>) -> Option<Fraction> {
    let core::RuntimeFractionalPercent { default_value, runtime_key } = message;
    harmless!(at; runtime_key = "the default value holds: no runtime layer is consulted");
    match default_value {
        Some(value) => Fraction::convert(value, &at.field("default_value")),
        None => {
            at.field("default_value").reject("", "is required");
            None
        }
    }
}

/// `envoy.config.core.v3.DataSource`. The engine reads neither files nor the environment: the loader does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DataSource {
    /// `inline_string`, `inline_bytes`.
    Inline(Bytes),
    /// `filename`.
    File(Arc<str>),
    /// `environment_variable`.
    Environment(Arc<str>),
}

impl DataSource {
    /// Reads the message. `None` where it was rejected.
    pub fn convert(message: core::DataSource, at: &At<'_>) -> Option<DataSource> {
        use core::data_source::Specifier;
        let core::DataSource { watched_directory, specifier } = message;
        harmless!(at; watched_directory = "the file is read once");
        match specifier {
            Some(Specifier::InlineString(text)) => Some(DataSource::Inline(text.into())),
            Some(Specifier::InlineBytes(bytes)) => Some(DataSource::Inline(bytes.into())),
            Some(Specifier::Filename(name)) if !name.is_empty() => Some(DataSource::File(name.into())),
            Some(Specifier::EnvironmentVariable(name)) if !name.is_empty() => {
                Some(DataSource::Environment(name.into()))
            }
            Some(Specifier::Filename(_)) => {
                at.field("filename").reject("", "must not be empty");
                None
            }
            Some(Specifier::EnvironmentVariable(_)) => {
                at.field("environment_variable").reject("", "must not be empty");
                None
            }
            None => {
                at.reject("", "one of filename, inline_string, inline_bytes, environment_variable is required");
                None
            }
        }
    }
}
