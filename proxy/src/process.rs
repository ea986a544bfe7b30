//! What all threads of the process share.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use outrigger_engine::snapshot::{Snapshot, Waits};
use outrigger_engine::stream_info::Address;
use outrigger_proto::envoy::admin::v3::Certificate;
use outrigger_proto::envoy::config::core::v3::Node;
use tokio::sync::{Notify, mpsc};

use crate::admin::DrainListeners;
use crate::args::ServeArgs;
use crate::telemetry::access_log::{AccessLogs, LogFile};
use crate::telemetry::stats::{ClusterStats, Scope, Stats};
use crate::tls::client::TlsConnector;
use crate::tls::server::Acceptors;

/// Shared, and but for atomics fixed.
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
    /// The listeners that have sockets, with their addresses.
    pub listeners: Vec<(Arc<str>, Vec<Address>)>,
    /// Runtime keys and values.
    pub runtime: BTreeMap<String, String>,
    /// When the process started, for durations.
    pub started: Instant,
    /// When the process started, for people.
    pub started_at: SystemTime,
    /// TLS of the clusters that use it, by name.
    pub connectors: HashMap<Arc<str>, TlsConnector>,
    /// TLS of the filter chains that use it.
    pub acceptors: Acceptors,
    /// The certificates that TLS contexts were made from.
    pub certificates: Vec<Arc<Certificate>>,
    /// Every counter.
    pub stats: Arc<Stats>,
    /// The counters of each cluster, by its name, so that unused clusters show too.
    pub cluster_stats: HashMap<Arc<str>, Arc<Scope<ClusterStats>>>,
    /// Every access log.
    pub access_logs: Arc<AccessLogs>,
    /// Their files, open as long as something logs to them.
    pub log_files: Vec<Arc<LogFile>>,
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
