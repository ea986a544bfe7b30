//! The shards of one worker, by the names that the configuration has: what a new connection looks up.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use super::{HttpStats, ListenerHttpStats, Stats, TcpStats};

/// Finds this worker's shards without a lock or an allocation, once they have been used here; they live as long as the
/// worker does, connections or none.
#[derive(Debug)]
pub struct WorkerStats {
    stats: Arc<Stats>,
    worker: usize,
    http: RefCell<ByName<HttpStats>>,
    /// By listener, then by prefix.
    listener_http: RefCell<HashMap<Box<str>, ByName<ListenerHttpStats>>>,
    tcp: RefCell<ByName<TcpStats>>,
}

type ByName<T> = HashMap<Box<str>, Arc<T>>;

impl WorkerStats {
    /// The shards of worker number `worker`.
    pub fn new(stats: Arc<Stats>, worker: usize) -> Self {
        let (http, listener_http, tcp) = Default::default();
        WorkerStats { stats, worker, http, listener_http, tcp }
    }

    /// See [`Stats::http`].
    pub fn http(&self, stat_prefix: &str) -> Arc<HttpStats> {
        found(&mut self.http.borrow_mut(), stat_prefix, || self.stats.http(stat_prefix).shard(self.worker))
    }

    /// See [`Stats::listener_http`].
    pub fn listener_http(&self, listener: &str, stat_prefix: &str) -> Arc<ListenerHttpStats> {
        let mut listeners = self.listener_http.borrow_mut();
        let make = || self.stats.listener_http(listener, stat_prefix).shard(self.worker);
        match listeners.get_mut(listener) {
            Some(prefixes) => found(prefixes, stat_prefix, make),
            None => found(listeners.entry(listener.into()).or_default(), stat_prefix, make),
        }
    }

    /// See [`Stats::tcp`].
    pub fn tcp(&self, stat_prefix: &str) -> Arc<TcpStats> {
        found(&mut self.tcp.borrow_mut(), stat_prefix, || self.stats.tcp(stat_prefix).shard(self.worker))
    }
}

fn found<T>(known: &mut ByName<T>, name: &str, make: impl FnOnce() -> Arc<T>) -> Arc<T> {
    match known.get(name) {
        Some(shard) => Arc::clone(shard),
        None => Arc::clone(known.entry(name.into()).or_insert_with(make)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_outlive_connections() {
        let stats = Arc::new(Stats::new());
        let worker = WorkerStats::new(Arc::clone(&stats), 1);
        for _ in 0..3 {
            worker.http("ingress").downstream_cx_total.inc();
            worker.tcp("db").downstream_cx_total.inc();
            worker.listener_http("0.0.0.0:80", "ingress").responses.inc(200);
        }
        let mut seen = Vec::new();
        stats.visit(&mut |sample| {
            if let crate::telemetry::stats::Value::Counter(3) = sample.value {
                seen.push(sample.full_name());
            }
        });
        let names = [
            "http.ingress.downstream_cx_total",
            "listener.0.0.0.0_80.http.ingress.downstream_rq_2xx",
            "listener.0.0.0.0_80.http.ingress.downstream_rq_completed",
            "tcp.db.downstream_cx_total",
        ];
        assert_eq!(seen, names);
    }
}
