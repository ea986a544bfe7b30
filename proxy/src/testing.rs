//! A worker for unit tests: a thread's share of a proxy that listens nowhere.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use clap::Parser;
use outrigger_engine::config::bootstrap::Bootstrap;
use outrigger_engine::config::listener::Listener;
use outrigger_engine::source::Source;
use tokio::runtime::Builder;
use tokio::sync::{Notify, mpsc};

use crate::args::Cli;
use crate::configuration::record::Record;
use crate::process::Process;
use crate::telemetry::access_log::AccessLogs;
use crate::telemetry::stats::Stats;
use crate::worker::{Worker, Workers};

/// Runs `test` on a thread whose time passes only while everybody waits.
pub(crate) fn on_paused_time<F: Future>(test: F) -> F::Output {
    Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build_local(Default::default())
        .unwrap()
        .block_on(test)
}

/// A worker of a process without configuration.
pub(crate) fn worker() -> Rc<Worker> {
    let stats = Arc::new(Stats::new());
    let (access_logs, _) = AccessLogs::new(stats.clone(), Default::default());
    let (drain_requests, _) = mpsc::unbounded_channel();
    let process = Process {
        args: Cli::try_parse_from(["outrigger-proxy"]).unwrap().serve,
        concurrency: 1,
        snapshot: ArcSwap::default(),
        waits: ArcSwap::default(),
        node: Default::default(),
        addresses: ArcSwap::default(),
        record: Record::default(),
        workers: Workers::default(),
        runtime: Default::default(),
        started: Instant::now(),
        started_at: SystemTime::now(),
        certificates: ArcSwap::default(),
        stats,
        access_logs: Arc::new(access_logs),
        downstream_connections: AtomicU64::new(0),
        max_downstream_connections: None,
        health_failed: AtomicBool::new(false),
        draining: AtomicBool::new(false),
        connections: [AtomicU64::new(0)].into(),
        drain_progress: Notify::new(),
        drain_requests,
        quit: Notify::new(),
    };
    Worker::new(Arc::new(process), 0)
}

/// A listener whose only filter is a connection manager with these fields (YAML in braces, without them), which answers
/// every request with `body`.
pub(crate) fn http_listener(fields: &str, body: &str) -> Arc<Listener> {
    let types = "type.googleapis.com/envoy.extensions.filters";
    let yaml = format!(
        "static_resources: {{listeners: [{{name: l, address: {{socket_address: {{address: 127.0.0.1, port_value: 1}}}},
          filter_chains: [{{filters: [{{name: http, typed_config: {{
            '@type': {types}.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: s,
            http_filters: [{{name: router, typed_config: {{'@type': {types}.http.router.v3.Router}}}}],
            route_config: {{virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}},
              direct_response: {{status: 200, body: {{inline_string: '{body}'}}}}}}]}}]}},
            {fields}}}}}]}}]}}]}}"
    );
    let bootstrap = Bootstrap::load(&[Source::new("test", &yaml)]).unwrap_or_else(|problems| panic!("{problems:?}"));
    bootstrap.listeners.into_iter().next().unwrap()
}
