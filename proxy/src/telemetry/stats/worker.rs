//! The shards of one worker, by the names that the configuration has: what a new connection looks up.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use outrigger_engine::config::listener::{Listener, NetworkFilter};

use super::{HttpStats, ListenerHttpStats, Stats, TcpStats};

/// Finds this worker's shards without a lock or an allocation, once they have been used here; they live as long as a
/// listener names them or a connection uses them.
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

    /// Lets go of what none of these listeners names and no connection uses. To be called when listeners have changed.
    pub fn retain<'a>(&self, listeners: impl Iterator<Item = &'a Listener>) {
        let (mut http, mut tcp) = (HashSet::new(), HashSet::new());
        let mut by_listener = HashMap::<&str, HashSet<&str>>::new();
        for listener in listeners {
            for chain in listener.chains() {
                match &chain.filter {
                    NetworkFilter::Http(manager) => {
                        http.insert(&*manager.stat_prefix);
                        by_listener.entry(&listener.stat_prefix).or_default().insert(&manager.stat_prefix);
                    }
                    NetworkFilter::Tcp(proxy) => _ = tcp.insert(&*proxy.stat_prefix),
                }
            }
        }
        retain(&mut self.http.borrow_mut(), Some(&http));
        retain(&mut self.tcp.borrow_mut(), Some(&tcp));
        self.listener_http.borrow_mut().retain(|listener, prefixes| {
            retain(prefixes, by_listener.get(&**listener));
            !prefixes.is_empty()
        });
    }
}

fn retain<T>(known: &mut ByName<T>, named: Option<&HashSet<&str>>) {
    // The scope has it, and so have we; more are connections.
    known.retain(|name, shard| named.is_some_and(|named| named.contains(&**name)) || Arc::strong_count(shard) > 2);
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
    fn what_no_listener_names_and_no_connection_uses_is_forgotten() {
        let stats = Arc::new(Stats::new());
        let worker = WorkerStats::new(Arc::clone(&stats), 0);
        let listener = crate::testing::http_listener("", "x");
        let used = worker.tcp("used");
        used.downstream_cx_total.inc();
        for prefix in ["s", "gone"] {
            worker.http(prefix).downstream_cx_total.inc();
            worker.listener_http(&listener.stat_prefix, prefix).responses.inc(200);
            worker.listener_http("gone", prefix).responses.inc(200);
        }
        worker.tcp("gone");
        worker.retain([&*listener].into_iter());
        assert_eq!(worker.http.borrow().keys().map(|name| &**name).collect::<Vec<_>>(), ["s"]);
        assert_eq!(worker.tcp.borrow().keys().map(|name| &**name).collect::<Vec<_>>(), ["used"]);
        let by_listener = worker.listener_http.borrow();
        assert_eq!(by_listener.keys().map(|name| &**name).collect::<Vec<_>>(), [&*listener.stat_prefix]);
        assert_eq!(by_listener.values().map(HashMap::len).sum::<usize>(), 1);
        drop(used);
        drop(by_listener);
        worker.retain([].into_iter());
        assert!(worker.http.borrow().is_empty() && worker.tcp.borrow().is_empty());
        assert!(worker.listener_http.borrow().is_empty());
    }

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
                seen.push(sample.name.to_string());
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
