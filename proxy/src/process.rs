//! What all threads of the process share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use outrigger_engine::snapshot::{Snapshot, Waits};
use outrigger_proto::envoy::admin::v3::Certificate;
use outrigger_proto::envoy::config::core::v3::Node;
use tokio::sync::{Notify, mpsc};

use crate::admin::DrainListeners;
use crate::args::ServeArgs;
use crate::configuration::Addresses;
use crate::configuration::record::Record;
use crate::telemetry::access_log::AccessLogs;
use crate::telemetry::stats::Stats;
use crate::worker::Workers;

/// Shared. What changes is atomic, or behind an atomic pointer.
#[derive(Debug)]
pub struct Process {
    /// The command line.
    pub args: ServeArgs,
    /// Worker threads.
    pub concurrency: usize,
    /// What is in force.
    pub snapshot: ArcSwap<Snapshot>,
    /// What is not in force yet, and why.
    pub waits: ArcSwap<Vec<Waits>>,
    /// Who we are, as control planes see it.
    pub node: Node,
    /// The listeners in force that have sockets, with their addresses.
    pub addresses: ArcSwap<Addresses>,
    /// What became of each resource that came from outside.
    pub record: Record,
    /// To tell the worker threads something, and the control thread.
    pub workers: Workers,
    /// Runtime keys and values.
    pub runtime: BTreeMap<String, String>,
    /// When the process started, for durations.
    pub started: Instant,
    /// When the process started, for people.
    pub started_at: SystemTime,
    /// The certificates that TLS contexts were made from.
    pub certificates: ArcSwap<Vec<Arc<Certificate>>>,
    /// Every counter.
    pub stats: Arc<Stats>,
    /// Every access log.
    pub access_logs: Arc<AccessLogs>,
    /// Downstream connections of all workers, where a limit is set.
    pub downstream_connections: AtomicU64,
    /// The limit.
    pub max_downstream_connections: Option<u64>,
    /// `/healthcheck/fail`.
    pub health_failed: AtomicBool,
    /// A drain is on: new connections are served, idle ones close.
    pub draining: AtomicBool,
    /// Downstream connections of each worker.
    pub connections: Box<[AtomicU64]>,
    /// A draining worker has one connection less.
    pub drain_progress: Notify,
    /// `/drain_listeners`.
    pub drain_requests: mpsc::UnboundedSender<DrainListeners>,
    /// `/quitquitquit`.
    pub quit: Notify,
}
