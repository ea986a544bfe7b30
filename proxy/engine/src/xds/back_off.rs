//! When a stream that ended is opened again, and with which server.

use std::time::Duration;

use crate::config::grpc_service::BackOff;

/// How the attempts to have a stream went.
#[derive(Debug)]
pub struct Reconnect {
    policy: BackOff,
    services: usize,
    failures: u32,
    service: usize,
}

impl Reconnect {
    /// For servers in the order of preference, of which there are `services`.
    pub fn new(policy: BackOff, services: usize) -> Self {
        Reconnect { policy, services: services.max(1), failures: 0, service: 0 }
    }

    /// The server for the next attempt, counted from 0.
    pub fn service(&self) -> usize {
        self.service
    }

    /// The stream ended; how long to wait before the next attempt. `lived`: how long it was open; zero where it never
    /// was. `responded`: a response came by it. A stream that served is opened again at once: one with a response that was
    /// open for the shortest wait at least, and one without that was for the longest, since a server has nothing to say
    /// where nothing has changed. Where streams are refused, or end each time as soon as they have begun, the waits grow.
    /// The preferred server is asked next wherever one responded, else the one after the last. `random` is uniform over
    /// 64 bits.
    pub fn ended(&mut self, lived: Duration, responded: bool, random: u64) -> Duration {
        let served = lived >= if responded { self.policy.base } else { self.policy.max };
        self.service = match responded {
            true => 0,
            false => self.service.saturating_add(1).checked_rem(self.services).unwrap_or(0),
        };
        if served {
            self.failures = 0;
            return Duration::ZERO;
        }
        let longest = self.policy.base.saturating_mul(1 << self.failures.min(16)).min(self.policy.max);
        self.failures = self.failures.saturating_add(1);
        let millis = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(random.checked_rem(millis).unwrap_or(0))
    }
}
