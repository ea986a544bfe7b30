//! What one thread owns: pools, pickers, counters, a clock for headers, randomness, spare timers. A request touches
//! nothing but this and its connection.

mod command;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use outrigger_engine::balance::ClusterState;
use outrigger_engine::config::access_log::AccessLog;
use outrigger_engine::format::FormatContext;
use outrigger_engine::message::{Headers, RequestHead, ResponseHead};
use outrigger_engine::stream_info::StreamInfo;

pub use self::command::{Command, SocketId, Workers};
use crate::alarm::Alarm;
use crate::cluster::WorkerCluster;
use crate::cluster::sweep::Sweeper;
use crate::http::transfer::ReplayBudget;
use crate::listener::active::WorkerListeners;
use crate::listener::drain::Drain;
use crate::process::Process;
use crate::telemetry::access_log::WorkerLogs;
use crate::telemetry::stats::WorkerStats;

/// One thread's share of the proxy.
#[derive(Debug)]
pub struct Worker {
    /// What all threads share.
    pub process: Arc<Process>,
    /// 0 for the first worker; the control thread comes after the last.
    pub index: usize,
    /// Its counters.
    pub stats: WorkerStats,
    /// Its access logs.
    pub logs: WorkerLogs,
    listeners: WorkerListeners,
    clusters: RefCell<HashMap<Arc<str>, Rc<WorkerCluster>>>,
    alarms: RefCell<Vec<Alarm>>,
    random: Cell<[u64; 2]>,
    date: RefCell<(u64, HeaderValue)>,
    drain: Rc<LocalEvent>,
    listener_drain: Drain,
    connection_ids: Cell<u64>,
    /// What its requests may keep of their bodies.
    pub replay: ReplayBudget,
    /// Looks at the idle connections of its clusters.
    pub(crate) sweeper: Rc<Sweeper>,
}

/// Bytes of request bodies that the requests of one worker keep for other attempts, all together.
const REPLAY_LIMIT: usize = 32 << 20;

/// Spare alarms kept per thread.
const SPARE_ALARMS: usize = 256;

impl Worker {
    /// The worker of this thread.
    pub fn new(process: Arc<Process>, index: usize) -> Rc<Self> {
        let seed = seed(index);
        Rc::new(Worker {
            stats: WorkerStats::new(process.stats.clone(), index),
            logs: WorkerLogs::new(process.access_logs.clone()),
            process,
            index,
            listeners: WorkerListeners::default(),
            clusters: RefCell::default(),
            alarms: RefCell::default(),
            random: Cell::new(seed),
            date: RefCell::new((u64::MAX, HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))),
            drain: Rc::default(),
            listener_drain: Drain::default(),
            connection_ids: Cell::new(0),
            replay: ReplayBudget::new(REPLAY_LIMIT),
            sweeper: Rc::default(),
        })
    }

    /// Whether it is the control thread, which has no listeners and whose requests are the proxy's own.
    pub fn is_control_thread(&self) -> bool {
        self.index == self.process.concurrency
    }

    /// Does what another thread wants; all but [`Command::Stop`], which is for whoever runs the thread.
    pub fn obey(self: &Rc<Self>, command: Command) {
        match command {
            Command::Follow { clusters, listeners } => self.follow(&clusters, listeners),
            Command::Routes => self.listeners.follow_routes(),
            Command::Hosts(states) => self.follow_hosts(&states),
            Command::Accept { id, listener, socket } => self.listeners.accept(self, id, &listener, socket),
            Command::Own { id, listener } => self.listeners.own(self, id, &listener),
            Command::Close(id) => self.listeners.close(id),
            Command::DrainListeners => {
                let args = &self.process.args;
                self.listener_drain.begin(args.drain_strategy, args.drain_time());
                self.listeners.drain(&self.listener_drain);
            }
            Command::Drain => self.drain.set(),
            Command::StopListeners { inbound_only } => self.listeners.stop(inbound_only),
            Command::Stop => {}
        }
    }

    /// Takes over a new snapshot. Requests find what is new by themselves; here goes what is old.
    fn follow(self: &Rc<Self>, clusters: &[Arc<str>], listeners: bool) {
        let snapshot = self.process.snapshot.load();
        for cluster in self.used(clusters.iter()) {
            let name = &cluster.state.config.name;
            if snapshot.clusters.get(name).is_none_or(|state| !Arc::ptr_eq(state, &cluster.state)) {
                self.clusters.borrow_mut().remove(name);
                cluster.retire();
            }
        }
        if listeners {
            self.listeners.follow(self, &snapshot);
            self.stats.retain(snapshot.listeners.values().map(|listener| &**listener));
        }
    }

    /// These clusters have other hosts.
    fn follow_hosts(&self, states: &[Arc<ClusterState>]) {
        for cluster in self.used(states.iter().map(|state| &state.config.name)) {
            cluster.drop_left_hosts();
        }
    }

    /// The clusters of these names that this thread uses. Where those are fewer than the names it is all that it uses:
    /// to look for ten thousand names that nobody uses here would take milliseconds.
    fn used<'a>(&self, names: impl ExactSizeIterator<Item = &'a Arc<str>>) -> Vec<Rc<WorkerCluster>> {
        let clusters = self.clusters.borrow();
        match names.len() < clusters.len() {
            true => names.filter_map(|name| clusters.get(name).cloned()).collect(),
            false => clusters.values().cloned().collect(),
        }
    }

    /// The cluster `name` as this thread uses it, made at its first request here.
    pub fn cluster(self: &Rc<Self>, name: &str) -> Option<Rc<WorkerCluster>> {
        if let Some(cluster) = self.clusters.borrow().get(name) {
            return Some(cluster.clone());
        }
        let snapshot = self.process.snapshot.load();
        let state = snapshot.clusters.get(name)?;
        let cluster = WorkerCluster::new(state.clone(), self)?;
        self.clusters.borrow_mut().insert(state.config.name.clone(), cluster.clone());
        Some(cluster)
    }

    /// A timer that nobody uses.
    pub fn take_alarm(&self) -> Alarm {
        self.alarms.borrow_mut().pop().unwrap_or_default()
    }

    /// Gives a timer back.
    pub fn put_alarm(&self, alarm: Alarm) {
        let mut alarms = self.alarms.borrow_mut();
        if alarms.len() < SPARE_ALARMS {
            alarms.push(alarm);
        }
    }

    /// 64 random bits, good enough for balancing and ids, not for secrets (xoroshiro128+).
    pub fn random(&self) -> u64 {
        let [a, b] = self.random.get();
        let out = a.wrapping_add(b);
        let b = b ^ a;
        self.random.set([a.rotate_left(24) ^ b ^ (b << 16), b.rotate_left(37)]);
        out
    }

    /// The `date` header of now, made once a second.
    pub fn date(&self, now: SystemTime) -> HeaderValue {
        let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let mut date = self.date.borrow_mut();
        if date.0 != seconds {
            *date = (seconds, http_date(seconds));
        }
        date.1.clone()
    }

    /// Begun when listeners are drained while the process stays.
    pub fn listener_drain(&self) -> &Drain {
        &self.listener_drain
    }

    /// Set when the process drains, to end.
    pub fn drain(&self) -> &Rc<LocalEvent> {
        &self.drain
    }

    /// The id of the next connection; ids of different workers do not meet.
    pub fn next_connection_id(&self) -> u64 {
        let n = self.connection_ids.get();
        self.connection_ids.set(n.wrapping_add(1));
        let workers = self.process.concurrency as u64 + 1;
        n.wrapping_mul(workers).wrapping_add(self.index as u64)
    }

    /// Counts a downstream connection of this thread until the guard goes.
    pub fn connection_guard(self: &Rc<Self>) -> ConnectionGuard {
        self.count_connections(1);
        ConnectionGuard(self.clone())
    }

    fn count_connections(&self, change: u64) {
        // One writer: a load and a store are enough.
        if let Some(count) = self.process.connections.get(self.index) {
            count.store(count.load(Ordering::Relaxed).wrapping_add(change), Ordering::Release);
        }
    }

    /// Writes the log lines of a request (or TCP connection) that is over.
    pub fn log(
        &self,
        logs: &[AccessLog],
        request: Option<&RequestHead>,
        response: Option<&ResponseHead>,
        trailers: Option<&Headers>,
        info: &StreamInfo,
    ) {
        let elapsed = info.last_downstream_tx.unwrap_or_default();
        let ctx = FormatContext { request, response, trailers, ..FormatContext::new(info, elapsed) };
        self.logs.log(logs, &ctx, self.random());
    }
}

/// See [`Worker::connection_guard`].
#[derive(Debug)]
pub struct ConnectionGuard(Rc<Worker>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.count_connections(u64::MAX);
        if self.0.drain.is_set() {
            self.0.process.drain_progress.notify_one();
        }
    }
}

/// A flag of one thread that tasks can wait for. Waiting costs nothing until it is set: a task leaves its waker once.
#[derive(Debug, Default)]
pub struct LocalEvent {
    set: Cell<bool>,
    wakers: RefCell<slab::Slab<Waker>>,
}

impl LocalEvent {
    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        self.set.get()
    }

    /// Sets it and wakes all who wait.
    pub fn set(&self) {
        self.set.set(true);
        for waker in self.wakers.borrow_mut().drain() {
            waker.wake();
        }
    }

    /// Does `future` until the flag is set: then it is dropped where it is.
    pub async fn cuts_off(self: &Rc<Self>, future: impl Future<Output = ()>) {
        let mut future = pin!(future);
        let mut registration = None;
        poll_fn(|cx| {
            // It is polled once more, so that what can end by itself does.
            if future.as_mut().poll(cx).is_ready() || self.is_set() {
                return Poll::Ready(());
            }
            registration.get_or_insert_with(|| self.register(cx.waker()));
            Poll::Pending
        })
        .await;
    }

    /// Has `waker` woken when the flag is set, as long as the registration lives. Where it is set already, nothing is
    /// kept.
    pub fn register(self: &Rc<Self>, waker: &Waker) -> Registration {
        let key = (!self.set.get()).then(|| self.wakers.borrow_mut().insert(waker.clone()));
        Registration { event: self.clone(), key }
    }
}

/// See [`LocalEvent::register`].
#[derive(Debug)]
pub struct Registration {
    event: Rc<LocalEvent>,
    key: Option<usize>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(key) = self.key
            && !self.event.set.get()
        {
            self.event.wakers.borrow_mut().try_remove(key);
        }
    }
}

fn seed(index: usize) -> [u64; 2] {
    use std::hash::{BuildHasher, RandomState};
    // RandomState's keys come from the operating system.
    let state = RandomState::new();
    [state.hash_one(index) | 1, state.hash_one((index, "second"))]
}

fn http_date(seconds: u64) -> HeaderValue {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let days = seconds / 86_400;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    // Days since 0000-03-01, in 400-year eras (H. Hinnant's algorithm).
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12;
    let year = year_of_era + era * 400 + u64::from(month < 2);
    let name = |list: &[&'static str], at: u64| list.get(at as usize).copied().unwrap_or("");
    let text = format!(
        "{}, {day:02} {} {year} {hour:02}:{minute:02}:{second:02} GMT",
        name(&DAYS, days % 7),
        name(&MONTHS, month)
    );
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_rfc_9110() {
        assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(http_date(1_709_164_800), "Thu, 29 Feb 2024 00:00:00 GMT");
    }
}
