//! Timeouts, where zero means "none".

use std::time::Duration;

use crate::config::report::At;
use crate::config::value::duration;

/// `default` where it is not set, `None` where it is zero.
pub fn timeout(message: Option<prost_types::Duration>, default: Duration, at: &At<'_>) -> Option<Duration> {
    let Some(message) = message else { return Some(default) };
    duration(Some(message), at).filter(|timeout| !timeout.is_zero())
}

/// `None` where it is not set or zero.
pub fn optional_timeout(message: Option<prost_types::Duration>, at: &At<'_>) -> Option<Duration> {
    duration(message, at).filter(|timeout| !timeout.is_zero())
}
