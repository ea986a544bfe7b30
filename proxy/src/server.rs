//! The life of the process: sockets first, then workers, then the control thread's signals, and the drain at the end.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use outrigger_engine::config::bootstrap::Bootstrap;
use outrigger_engine::config::dynamic_resources::DynamicResources;
use outrigger_engine::xds::Interest;
use tokio::runtime::{Builder, LocalRuntime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{spawn_blocking, spawn_local};
use tokio::time::{interval, sleep_until, timeout};

use crate::admin::{self, AdminState as _, DrainListeners, server::AdminSocket};
use crate::args::ServeArgs;
use crate::cluster::dns::DnsResolver;
use crate::configuration::channel::interests;
use crate::configuration::record::Record;
use crate::configuration::{BindError, Configuration};
use crate::priority;
use crate::process::Process;
use crate::telemetry::access_log::{AccessLogs, NewStream, service};
use crate::telemetry::memory;
use crate::telemetry::stats::Stats;
use crate::worker::{Command, Worker, Workers};
use crate::xds;

/// The process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// An access log.
    #[error(transparent)]
    AccessLog(#[from] crate::telemetry::access_log::OpenError),
    /// The operating system.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// How it failed.
        source: std::io::Error,
    },
}

/// How often workers hand over access logs that wait.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// How long each step of the end waits for files and services that take access logs slowly.
const LOG_FLUSH: Duration = Duration::from_secs(2);

/// Runs until a signal or the admin listener ends it.
pub fn serve(args: ServeArgs, bootstrap: Bootstrap) -> Result<ExitCode, StartError> {
    let system = |what| move |source| StartError::System { what, source };
    let concurrency = args.concurrency.unwrap_or_else(default_concurrency).max(1);
    if concurrency == 1 {
        memory::use_one_heap();
    }
    let runtime = local_runtime().map_err(system("runtime"))?;
    // Before any socket is open: who sees that a port answers may send a signal at once, and without a handler it
    // kills.
    let signals = Signals::install(&runtime).map_err(system("signals"))?;
    let admin = match &bootstrap.admin {
        Some(admin) => Some(admin::server::bind(&admin.address).map_err(system("admin address"))?),
        None => None,
    };
    let stats = Arc::new(Stats::new());
    let mut node = bootstrap.node;
    if let Some(id) = &args.service_node {
        node.id.clone_from(id);
    }
    if let Some(cluster) = &args.service_cluster {
        node.cluster.clone_from(cluster);
    }
    if let Some(zone) = &args.service_zone {
        node.locality.get_or_insert_default().zone.clone_from(zone);
    }
    let (access_logs, log_services) = AccessLogs::new(stats.clone(), node.clone());
    let (tell, commands) = Workers::new(concurrency);
    let (drain_requests, drains) = mpsc::unbounded_channel();
    let process = Arc::new(Process {
        args,
        concurrency,
        snapshot: ArcSwap::default(),
        waits: ArcSwap::default(),
        node,
        addresses: ArcSwap::default(),
        record: Record::default(),
        workers: tell,
        runtime: bootstrap.runtime,
        started: Instant::now(),
        started_at: SystemTime::now(),
        certificates: ArcSwap::default(),
        stats,
        access_logs: Arc::new(access_logs),
        downstream_connections: AtomicU64::new(0),
        max_downstream_connections: bootstrap.max_downstream_connections,
        health_failed: AtomicBool::new(false),
        draining: AtomicBool::new(false),
        connections: (0..concurrency).map(|_| AtomicU64::new(0)).collect(),
        drain_progress: Notify::new(),
        drain_requests,
        quit: Notify::new(),
    });

    let (interests, wanted) = interests();
    let Bootstrap { clusters, listeners, dynamic, .. } = bootstrap;
    let configuration = Configuration::new(process.clone(), clusters, listeners, &dynamic, interests)?;
    let mut commands = commands.into_iter();
    let mut workers = Vec::with_capacity(concurrency);
    for (index, commands) in commands.by_ref().take(concurrency).enumerate() {
        let process = process.clone();
        let thread = thread::Builder::new()
            .name(format!("worker:{index}"))
            .spawn(move || worker_thread(process, index, commands))
            .map_err(system("worker thread"))?;
        workers.push(thread);
    }
    let commands = commands.next();
    let interests = wanted;
    let control = Control {
        process: process.clone(),
        signals,
        commands,
        workers,
        admin,
        log_services,
        drains,
        dynamic,
        interests,
    };
    let code = runtime.block_on(control.run(configuration));
    if !process.access_logs.flush(LOG_FLUSH) {
        tracing::warn!(target: "main", "the access logs could not be written to their end");
    }
    // A file that keeps its reader waiting would keep the process, too.
    runtime.shutdown_background();
    Ok(code)
}

fn local_runtime() -> std::io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_all().build_local(Default::default())
}

fn worker_thread(process: Arc<Process>, index: usize, mut commands: mpsc::UnboundedReceiver<Command>) {
    let runtime = match local_runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(target: "main", "worker {index}: {error}");
            return;
        }
    };
    priority::wake_soon();
    let worker = Worker::new(process, index);
    runtime.block_on(async {
        let mut tick = interval(FLUSH_INTERVAL);
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Stop) | None => break,
                    Some(command) => worker.obey(command),
                },
                now = tick.tick() => worker.logs.flush_due(now.into_std()),
            }
        }
    });
    // Whatever is still open here is closed with the runtime, and logged then.
    runtime.shutdown_background();
    worker.logs.end(LOG_FLUSH);
}

/// What the process is told by signals; they wait here until the control thread runs.
struct Signals {
    /// SIGTERM
    terminate: Signal,
    /// SIGINT
    interrupt: Signal,
    /// SIGUSR1
    user1: Signal,
}

impl Signals {
    /// Installs the handlers.
    fn install(runtime: &LocalRuntime) -> std::io::Result<Signals> {
        let _inside = runtime.enter();
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            user1: signal(SignalKind::user_defined1())?,
        })
    }
}

/// What the control thread takes care of.
struct Control {
    process: Arc<Process>,
    signals: Signals,
    /// For it as a worker without listeners.
    commands: Option<mpsc::UnboundedReceiver<Command>>,
    /// The workers' threads.
    workers: Vec<thread::JoinHandle<()>>,
    admin: Option<AdminSocket>,
    log_services: mpsc::UnboundedReceiver<NewStream>,
    drains: mpsc::UnboundedReceiver<DrainListeners>,
    dynamic: DynamicResources,
    /// What is asked of management servers.
    interests: mpsc::UnboundedReceiver<Interest>,
}

impl Control {
    /// Works until the process is to end.
    async fn run(self, configuration: Configuration) -> ExitCode {
        let Control { process, signals, commands, workers, admin, log_services, drains, dynamic, interests } = self;
        let Signals { terminate, interrupt, mut user1 } = signals;
        if let Some(socket) = admin {
            spawn_local(admin::server::serve(socket, process.clone()));
        }
        let worker = Worker::new(process.clone(), process.concurrency);
        if let Some(mut commands) = commands {
            let worker = worker.clone();
            spawn_local(async move {
                while let Some(command) = commands.recv().await {
                    worker.obey(command);
                }
            });
        }
        // The sockets listen already; connections wait in their queues until what they need is there.
        let names = DnsResolver::new(worker.random(), process.workers.clone());
        let (begun, in_force) = oneshot::channel();
        let discovery = xds::run(worker.clone(), dynamic, configuration.feed().clone(), interests);
        spawn_local(configuration.run(names, begun));
        spawn_local(async move {
            // The clusters of the management servers are the bootstrap's.
            _ = in_force.await;
            discovery.await;
        });
        let (workers_ended, ended) = oneshot::channel();
        let logs = spawn_local(service::run(worker, log_services, ended));
        let reopen = process.clone();
        spawn_local(async move {
            while user1.recv().await.is_some() {
                reopen.reopen_logs();
            }
        });
        drain(&process, terminate, interrupt, drains).await;
        process.workers.tell(|| Command::Stop);
        // With their last entries they need this thread once more.
        _ = spawn_blocking(move || workers.into_iter().for_each(|worker| _ = worker.join())).await;
        _ = workers_ended.send(());
        if timeout(LOG_FLUSH, logs).await.is_err() {
            tracing::warn!(target: "main", "the access log services have not taken all entries");
        }
        ExitCode::SUCCESS
    }
}

/// Waits for what ends the process, and then for its connections.
async fn drain(
    process: &Process,
    mut terminate: Signal,
    mut interrupt: Signal,
    mut drains: mpsc::UnboundedReceiver<DrainListeners>,
) {
    let stop_listeners = |inbound_only| process.workers.tell(|| Command::StopListeners { inbound_only });
    // When a graceful drain stops which listeners.
    let mut stop = None;
    loop {
        let stopping = async {
            match stop {
                Some((at, _)) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stopping => {
                if let Some((_, inbound_only)) = stop.take() {
                    stop_listeners(inbound_only);
                }
            }
            Some(drain) = drains.recv() => {
                let DrainListeners { inbound_only, graceful, skip_exit } = drain;
                tracing::info!(target: "main", "draining listeners: {drain:?}");
                if !graceful {
                    stop_listeners(inbound_only);
                } else {
                    process.workers.tell(|| Command::DrainListeners);
                    if !skip_exit && stop.is_none() {
                        stop = Some((tokio::time::Instant::now() + process.args.drain_time(), inbound_only));
                    }
                }
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = process.quit.notified() => return,
        }
    }
    tracing::info!(target: "main", "draining: a second signal ends at once");
    process.draining.store(true, Ordering::Relaxed);
    process.workers.tell(|| Command::Drain);
    let drained = async {
        loop {
            let progress = process.drain_progress.notified();
            if process.connections.iter().all(|count| count.load(Ordering::Acquire) == 0) {
                return;
            }
            // Connections that were accepted, but not yet counted, show up here a moment later.
            _ = timeout(Duration::from_millis(100), progress).await;
        }
    };
    tokio::select! {
        () = drained => {}
        () = tokio::time::sleep(process.args.drain_time()) => {
            tracing::warn!(target: "main", "drain time is over: closing what is still open");
        }
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = process.quit.notified() => {}
    }
}

/// The smallest of affinity, cgroup quota (rounded up) and 4; without a quota 2 at most.
fn default_concurrency() -> usize {
    let affinity = thread::available_parallelism().map_or(1, usize::from);
    match cgroup_quota() {
        Some(quota) => affinity.min(quota).min(4),
        None => affinity.min(2),
    }
}

/// CPUs that the cgroup grants, rounded up; `None` for no limit.
fn cgroup_quota() -> Option<usize> {
    let (quota, period) = match std::fs::read_to_string("/sys/fs/cgroup/cpu.max") {
        Ok(text) => {
            let (quota, period) = text.trim().split_once(' ')?;
            (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?)
        }
        Err(_) => {
            let read = |name| std::fs::read_to_string(format!("/sys/fs/cgroup/cpu/{name}")).ok();
            let quota = read("cpu.cfs_quota_us")?.trim().parse::<i64>().ok()?;
            (u64::try_from(quota).ok()?, read("cpu.cfs_period_us")?.trim().parse().ok()?)
        }
    };
    usize::try_from(quota.div_ceil(period.max(1)).max(1)).ok()
}
