//! How long to wait before a retry.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderName;

use crate::message::Headers;

/// Fully jittered exponential back-off: before retry N any time below `(2^N - 1) * base`, and below `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// At least 1 ms (25 ms).
    pub base: Duration,
    /// At least `base` (10 times `base`).
    pub max: Duration,
}

impl Default for BackOff {
    fn default() -> Self {
        BackOff { base: Duration::from_millis(25), max: Duration::from_millis(250) }
    }
}

impl BackOff {
    /// The time before retry `retry`, counted from 1; `random` is 64 random bits.
    pub fn delay(&self, retry: u32, random: u64) -> Duration {
        let factor = 1u32.checked_shl(retry).map_or(u32::MAX, |power| power.saturating_sub(1));
        share(self.base.saturating_mul(factor).min(self.max), random)
    }
}

/// `rate_limited_retry_back_off`: the response says when to come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitedBackOff {
    /// The headers to look at, in order, and how to read them.
    pub reset_headers: Box<[(HeaderName, ResetFormat)]>,
    /// Longer waits are not believed (300 s): the ordinary back-off holds.
    pub max_interval: Duration,
}

/// `ResetHeaderFormat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetFormat {
    /// Seconds from now.
    Seconds,
    /// Seconds since the epoch.
    UnixTimestamp,
}

impl RateLimitedBackOff {
    /// What the response asks for, plus up to a half, so that not all come back at once; `None` if it asks for nothing
    /// that can be believed.
    pub fn delay(&self, response: &Headers, now: SystemTime, random: u64) -> Option<Duration> {
        let interval = self.reset_headers.iter().find_map(|(name, format)| {
            let value: u64 = response.get(name)?.to_str().ok()?.trim().parse().ok()?;
            let interval = match format {
                ResetFormat::Seconds => Duration::from_secs(value),
                ResetFormat::UnixTimestamp => {
                    Duration::from_secs(value).checked_sub(now.duration_since(UNIX_EPOCH).ok()?)?
                }
            };
            (interval <= self.max_interval).then_some(interval)
        })?;
        Some(interval.saturating_add(share(interval.checked_div(2)?, random)))
    }
}

/// A random part of `whole`.
fn share(whole: Duration, random: u64) -> Duration {
    // Two numbers of 64 bits: their product fits.
    let nanos = u64::try_from(whole.as_nanos()).unwrap_or(u64::MAX);
    let part = u128::from(nanos).saturating_mul(random.into()) >> 64;
    Duration::from_nanos(u64::try_from(part).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    use crate::config::value::LONGEST;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn delays_stay_below_the_documented_bounds() {
        let back_off = BackOff::default();
        for (retry, bound) in [(1, 25), (2, 75), (3, 175), (4, 250), (40, 250)] {
            let longest = back_off.delay(retry, u64::MAX);
            assert!(longest < bound * MILLI && longest > (bound - 1) * MILLI, "retry {retry}: {longest:?}");
            assert_eq!(back_off.delay(retry, 0), Duration::ZERO);
        }
    }

    #[test]
    fn the_longest_that_can_be_configured_is_no_fault() {
        let back_off = BackOff { base: LONGEST, max: LONGEST };
        assert!(back_off.delay(1, u64::MAX) <= LONGEST);
        assert!(back_off.delay(u32::MAX, u64::MAX) > Duration::from_secs(290 * 365 * 86_400));
    }

    #[test]
    fn a_rate_limited_response_says_when() {
        let name = HeaderName::from_static("retry-after");
        let reset = HeaderName::from_static("x-reset");
        let back_off = RateLimitedBackOff {
            reset_headers: [(reset.clone(), ResetFormat::UnixTimestamp), (name.clone(), ResetFormat::Seconds)].into(),
            max_interval: Duration::from_secs(300),
        };
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let delay = |name: &HeaderName, value: &'static str| {
            let mut headers = Headers::new();
            headers.append(name.clone(), HeaderValue::from_static(value));
            back_off.delay(&headers, now, 0)
        };
        assert_eq!(delay(&name, "3"), Some(Duration::from_secs(3)));
        assert_eq!(delay(&reset, "1004"), Some(Duration::from_secs(4)));
        assert_eq!(delay(&reset, "900"), None, "that is over");
        assert_eq!(delay(&name, "301"), None, "too long to be believed");
        assert_eq!(delay(&name, "soon"), None);
    }
}
