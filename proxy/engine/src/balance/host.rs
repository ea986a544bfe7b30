//! One host of a cluster.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::config::endpoint::HealthStatus;
use crate::stream_info::Address;

/// A host. It outlives the host sets that it is in: what is known of it stays while its address does.
#[derive(Debug)]
pub struct Host {
    /// Unique in this process, never used again: the key of a worker's pools.
    pub id: u64,
    /// Where it listens.
    pub address: Address,
    /// `address` as text: `%UPSTREAM_HOST%`, admin, the key between two host sets.
    pub display: Arc<str>,
    /// For `auto_host_rewrite`: the endpoint's host name or the name that was resolved.
    pub hostname: Option<Arc<str>>,
    status: AtomicU8,
    stats: OnceLock<Box<HostStats>>,
}

/// Whether a host may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// First.
    Healthy,
    /// When the healthy ones do not suffice.
    Degraded,
    /// In panic only.
    Unhealthy,
}

/// Counters of a host, made at its first use and exact for the process.
#[derive(Debug, Default)]
pub struct HostStats {
    /// Requests under way; what least request compares.
    pub rq_active: AtomicU32,
    /// Connections open.
    pub cx_active: AtomicU32,
    /// Requests sent.
    pub rq_total: AtomicU64,
    /// Requests answered otherwise than 5xx.
    pub rq_success: AtomicU64,
    /// Requests answered by 5xx, or reset.
    pub rq_error: AtomicU64,
    /// Requests that timed out.
    pub rq_timeout: AtomicU64,
    /// Connections opened.
    pub cx_total: AtomicU64,
    /// Connections that failed before they were open.
    pub cx_connect_fail: AtomicU64,
}

impl Host {
    /// A host that nobody has used yet.
    pub fn new(address: Address, hostname: Option<Arc<str>>, status: HealthStatus) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let display = match &address {
            Address::Ip(address) => address.to_string().into(),
            Address::Pipe(path) => Arc::clone(path),
        };
        let host = Host {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            address,
            display,
            hostname,
            status: AtomicU8::new(0),
            stats: OnceLock::new(),
        };
        host.set_status(status);
        host
    }

    /// What the control plane says of it.
    pub fn status(&self) -> HealthStatus {
        match self.status.load(Ordering::Relaxed) {
            0 => HealthStatus::Healthy,
            1 => HealthStatus::Unhealthy,
            2 => HealthStatus::Draining,
            _ => HealthStatus::Degraded,
        }
    }

    /// Notes what the control plane says of it. It takes effect with the next host set.
    pub(super) fn set_status(&self, status: HealthStatus) {
        let status = match status {
            HealthStatus::Healthy => 0,
            HealthStatus::Unhealthy => 1,
            HealthStatus::Draining => 2,
            HealthStatus::Degraded => 3,
        };
        self.status.store(status, Ordering::Relaxed);
    }

    /// Whether it may be chosen.
    pub fn health(&self) -> Health {
        match self.status() {
            HealthStatus::Healthy => Health::Healthy,
            HealthStatus::Degraded => Health::Degraded,
            HealthStatus::Unhealthy | HealthStatus::Draining => Health::Unhealthy,
        }
    }

    /// Its counters, made now if need be.
    pub fn stats(&self) -> &HostStats {
        self.stats.get_or_init(Box::default)
    }

    /// Its counters, if it was ever used.
    pub fn stats_if_used(&self) -> Option<&HostStats> {
        self.stats.get().map(|stats| &**stats)
    }

    /// Requests under way.
    pub fn active_requests(&self) -> u32 {
        self.stats_if_used().map_or(0, |stats| stats.rq_active.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Member;

    #[test]
    fn an_unused_endpoint_costs_200_bytes_at_most() {
        // The host behind its two counts, its text behind two counts (21 characters: the longest of IPv4), and its
        // entry in the one list that a healthy host set has; each block rounded up as the allocator does.
        let block = |bytes: usize| (bytes + 8).next_multiple_of(16);
        let bytes = block(16 + size_of::<Host>()) + block(16 + 21) + size_of::<Member>();
        assert!(bytes <= 200, "{bytes} bytes");
    }
}
