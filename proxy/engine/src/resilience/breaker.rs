//! Circuit breakers: how much may be under way in a cluster at a time, exactly, for the whole process.
//!
//! Requests, waiting requests and retries are counted in shared atomics, so a threshold means the same whatever the
//! number of workers. A threshold of 2^32-1 is no threshold and is not counted. Connections are counted by all, but a
//! pool without a connection may always open one (Envoy's rule), so that no worker starves.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::config::cluster::{CircuitBreakers, RetryBudget, Thresholds};

/// `RouteAction.priority`: which thresholds a request counts against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RoutingPriority {
    /// `DEFAULT`.
    #[default]
    Default,
    /// `HIGH`.
    High,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Connections. Overflow counts in `upstream_cx_overflow`.
    Connections,
    /// Requests that wait for a connection. Overflow counts in `upstream_rq_pending_overflow`.
    Pending,
    /// Requests under way. Overflow counts in `upstream_rq_pending_overflow`, as in Envoy.
    Requests,
    /// Retries under way. Overflow counts in `upstream_rq_retry_overflow`.
    Retries,
    /// Connection pools. Overflow counts in `upstream_cx_pool_overflow`.
    ConnectionPools,
}

/// The breakers of a cluster, shared by all workers.
#[derive(Debug)]
pub struct Breakers {
    default: Priority,
    high: Priority,
    /// `per_host_thresholds`; checked against the host's own count of connections.
    pub max_connections_per_host: u32,
}

#[derive(Debug)]
struct Priority {
    connections: Counter,
    pending: Counter,
    requests: Counter,
    retries: Counter,
    connection_pools: Counter,
    retry_budget: Option<RetryBudget>,
    /// Whether the thresholds' `remaining_*` are shown.
    track_remaining: bool,
}

#[derive(Debug)]
struct Counter {
    limit: u32,
    /// Counted even without a limit, because a retry budget depends on it.
    always: bool,
    value: AtomicU32,
}

impl Counter {
    fn new(limit: u32, always: bool) -> Self {
        Counter { limit, always, value: AtomicU32::new(0) }
    }

    fn is_counted(&self) -> bool {
        self.always || self.limit != u32::MAX
    }

    /// One more, if that keeps within `limit`.
    fn acquire(&self, limit: u32) -> bool {
        let more = |value: u32| (value < limit).then(|| value.saturating_add(1));
        self.value.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn value(&self) -> u32 {
        self.value.load(Ordering::Relaxed)
    }
}

impl Priority {
    fn new(thresholds: &Thresholds) -> Self {
        let budget = thresholds.retry_budget.is_some();
        Priority {
            connections: Counter::new(thresholds.max_connections, false),
            pending: Counter::new(thresholds.max_pending_requests, budget),
            requests: Counter::new(thresholds.max_requests, budget),
            retries: Counter::new(if budget { 0 } else { thresholds.max_retries }, budget),
            connection_pools: Counter::new(thresholds.max_connection_pools, false),
            retry_budget: thresholds.retry_budget,
            track_remaining: thresholds.track_remaining,
        }
    }

    fn counter(&self, resource: Resource) -> &Counter {
        match resource {
            Resource::Connections => &self.connections,
            Resource::Pending => &self.pending,
            Resource::Requests => &self.requests,
            Resource::Retries => &self.retries,
            Resource::ConnectionPools => &self.connection_pools,
        }
    }

    /// The threshold of now: with a budget that of retries follows what is under way.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "neither is negative, and what is too much becomes the greatest number"
    )]
    fn limit(&self, resource: Resource) -> u32 {
        match (resource, self.retry_budget) {
            (Resource::Retries, Some(budget)) => {
                let under_way = f64::from(self.requests.value()) + f64::from(self.pending.value());
                ((under_way * budget.percent / 100.0) as u32).max(budget.min_concurrency)
            }
            _ => self.counter(resource).limit,
        }
    }
}

impl Breakers {
    /// Breakers with nothing under way.
    pub fn new(config: &CircuitBreakers) -> Self {
        Breakers {
            default: Priority::new(&config.default),
            high: Priority::new(&config.high),
            max_connections_per_host: config.max_connections_per_host.unwrap_or(u32::MAX),
        }
    }

    fn priority(&self, priority: RoutingPriority) -> &Priority {
        match priority {
            RoutingPriority::Default => &self.default,
            RoutingPriority::High => &self.high,
        }
    }

    /// Whether the next one would be refused: `circuit_breakers.<priority>.<resource>_open`.
    pub fn is_open(&self, priority: RoutingPriority, resource: Resource) -> bool {
        let priority = self.priority(priority);
        priority.counter(resource).value() >= priority.limit(resource)
    }

    /// How many more fit, where the configuration asks for it: `circuit_breakers.<priority>.remaining_*`.
    pub fn remaining(&self, priority: RoutingPriority, resource: Resource) -> Option<u32> {
        let priority = self.priority(priority);
        let left = || priority.limit(resource).saturating_sub(priority.counter(resource).value());
        priority.track_remaining.then(left)
    }

    /// How many are under way; 0 for what is not counted.
    pub fn under_way(&self, priority: RoutingPriority, resource: Resource) -> u32 {
        self.priority(priority).counter(resource).value()
    }
}

/// A worker's handle on a cluster's breakers. Cloning it and holding guards writes nothing that another core reads.
#[derive(Clone, Debug)]
pub struct WorkerBreakers(Rc<Handle>);

/// One count for all workers, held once by each; its guards count among themselves.
#[derive(Debug)]
struct Handle(Arc<Breakers>);

impl WorkerBreakers {
    /// A handle for the worker of this thread.
    pub fn new(breakers: Arc<Breakers>) -> Self {
        WorkerBreakers(Rc::new(Handle(breakers)))
    }

    /// The shared breakers.
    pub fn shared(&self) -> &Breakers {
        &self.0.0
    }

    /// Room for one request, waiting request, retry or connection pool; `None` if the breaker is open.
    pub fn acquire(&self, priority: RoutingPriority, resource: Resource) -> Option<Guard> {
        let breakers = self.shared().priority(priority);
        let counter = breakers.counter(resource);
        if !counter.is_counted() {
            return Some(Guard(None));
        }
        counter.acquire(breakers.limit(resource)).then(|| self.guard(priority, resource))
    }

    /// Room for a connection to a host that has `host_connections` now, for a pool that has none of them
    /// (`pool_is_empty`) or some.
    pub fn acquire_connection(
        &self,
        priority: RoutingPriority,
        host_connections: u32,
        pool_is_empty: bool,
    ) -> ConnectionPermit {
        let counter = &self.shared().priority(priority).connections;
        let host_has_room = host_connections < self.shared().max_connections_per_host;
        if !counter.is_counted() {
            return match (host_has_room, pool_is_empty) {
                (true, _) => ConnectionPermit::Granted(Guard(None)),
                (false, true) => ConnectionPermit::Forced(Guard(None)),
                (false, false) => ConnectionPermit::Refused,
            };
        }
        if host_has_room && counter.acquire(counter.limit) {
            ConnectionPermit::Granted(self.guard(priority, Resource::Connections))
        } else if pool_is_empty {
            counter.value.fetch_add(1, Ordering::Relaxed);
            ConnectionPermit::Forced(self.guard(priority, Resource::Connections))
        } else {
            ConnectionPermit::Refused
        }
    }

    fn guard(&self, priority: RoutingPriority, resource: Resource) -> Guard {
        Guard(Some((Rc::clone(&self.0), priority, resource)))
    }
}

/// Whether a connection may be opened.
#[derive(Debug)]
#[must_use]
pub enum ConnectionPermit {
    /// Yes.
    Granted(Guard),
    /// Yes, though the breaker is open: the pool had none. Count `upstream_cx_overflow`.
    Forced(Guard),
    /// No. Count `upstream_cx_overflow`.
    Refused,
}

/// One unit under way; dropping it makes room.
#[derive(Debug)]
#[must_use]
pub struct Guard(Option<(Rc<Handle>, RoutingPriority, Resource)>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some((handle, priority, resource)) = &self.0 {
            handle.0.priority(*priority).counter(*resource).value.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: RoutingPriority = RoutingPriority::Default;

    fn breakers(thresholds: Thresholds) -> Arc<Breakers> {
        Arc::new(Breakers::new(&CircuitBreakers { default: thresholds, ..Default::default() }))
    }

    #[test]
    fn a_threshold_holds_for_all_workers_together_and_a_drop_makes_room() {
        let shared = breakers(Thresholds { max_requests: 2, ..Default::default() });
        let (one, two) = (WorkerBreakers::new(Arc::clone(&shared)), WorkerBreakers::new(Arc::clone(&shared)));
        let first = one.acquire(DEFAULT, Resource::Requests).unwrap();
        let second = two.acquire(DEFAULT, Resource::Requests).unwrap();
        assert!(shared.is_open(DEFAULT, Resource::Requests));
        assert!(one.acquire(DEFAULT, Resource::Requests).is_none());
        assert!(one.acquire(RoutingPriority::High, Resource::Requests).is_some(), "priorities are apart");
        drop(second);
        assert!(one.acquire(DEFAULT, Resource::Requests).is_some());
        drop(first);
        assert_eq!(shared.under_way(DEFAULT, Resource::Requests), 0);
    }

    #[test]
    fn counts_are_exact_under_contention() {
        let shared = breakers(Thresholds { max_requests: 10, ..Default::default() });
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    let worker = WorkerBreakers::new(shared);
                    for _ in 0..2000 {
                        let held: Vec<_> = (0..5).map(|_| worker.acquire(DEFAULT, Resource::Requests)).collect();
                        assert!(worker.shared().under_way(DEFAULT, Resource::Requests) <= 10);
                        drop(held);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(shared.under_way(DEFAULT, Resource::Requests), 0);
    }

    #[test]
    fn one_connection_and_two_workers_starve_nobody() {
        let shared = breakers(Thresholds { max_connections: 1, ..Default::default() });
        let (one, two) = (WorkerBreakers::new(Arc::clone(&shared)), WorkerBreakers::new(Arc::clone(&shared)));
        let ConnectionPermit::Granted(first) = one.acquire_connection(DEFAULT, 0, true) else {
            panic!("the first fits")
        };
        let ConnectionPermit::Forced(second) = two.acquire_connection(DEFAULT, 1, true) else {
            panic!("a worker without a connection gets one")
        };
        assert!(matches!(one.acquire_connection(DEFAULT, 2, false), ConnectionPermit::Refused));
        assert!(matches!(two.acquire_connection(DEFAULT, 2, false), ConnectionPermit::Refused));
        drop((first, second));
        assert_eq!(shared.under_way(DEFAULT, Resource::Connections), 0);
    }

    #[test]
    fn connections_to_one_host_have_their_own_threshold() {
        let config = CircuitBreakers { max_connections_per_host: Some(2), ..Default::default() };
        let worker = WorkerBreakers::new(Arc::new(Breakers::new(&config)));
        assert!(matches!(worker.acquire_connection(DEFAULT, 1, false), ConnectionPermit::Granted(_)));
        assert!(matches!(worker.acquire_connection(DEFAULT, 2, false), ConnectionPermit::Refused));
        assert!(matches!(worker.acquire_connection(DEFAULT, 2, true), ConnectionPermit::Forced(_)));
    }

    #[test]
    fn without_a_threshold_nothing_is_written() {
        let shared = breakers(Thresholds { max_requests: u32::MAX, max_connections: u32::MAX, ..Default::default() });
        let worker = WorkerBreakers::new(Arc::clone(&shared));
        let held = (worker.acquire(DEFAULT, Resource::Requests), worker.acquire_connection(DEFAULT, 0, false));
        assert_eq!(shared.under_way(DEFAULT, Resource::Requests), 0);
        assert_eq!(shared.under_way(DEFAULT, Resource::Connections), 0);
        drop(held);
        assert!(!shared.is_open(DEFAULT, Resource::Requests));
    }

    #[test]
    fn a_retry_budget_follows_what_is_under_way() {
        let budget = RetryBudget { percent: 20.0, min_concurrency: 1 };
        let thresholds = Thresholds { max_requests: u32::MAX, retry_budget: Some(budget), ..Default::default() };
        let worker = WorkerBreakers::new(breakers(thresholds));
        let first = worker.acquire(DEFAULT, Resource::Retries);
        assert!(first.is_some(), "the least is always allowed");
        assert!(worker.acquire(DEFAULT, Resource::Retries).is_none());
        let requests: Vec<_> = (0..10).map(|_| worker.acquire(DEFAULT, Resource::Requests)).collect();
        let second = worker.acquire(DEFAULT, Resource::Retries);
        assert!(second.is_some(), "20 % of 10 requests");
        assert!(worker.acquire(DEFAULT, Resource::Retries).is_none());
        let pending: Vec<_> = (0..5).map(|_| worker.acquire(DEFAULT, Resource::Pending)).collect();
        let third = worker.acquire(DEFAULT, Resource::Retries);
        assert!(third.is_some(), "20 % of 10 requests and 5 that wait");
        drop((requests, pending, first, second, third));
        assert_eq!(worker.shared().under_way(DEFAULT, Resource::Retries), 0);
    }
}
