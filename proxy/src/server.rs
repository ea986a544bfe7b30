//! The life of the process: sockets first, then workers, then the control thread's signals, and the drain at the end.

use std::collections::HashMap;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use outrigger_engine::balance::ClusterState;
use outrigger_engine::config::bootstrap::Bootstrap;
use outrigger_engine::config::listener::{Listener, TrafficDirection};
use outrigger_engine::snapshot::{Effect, Warmer};
use tokio::runtime::{Builder, LocalRuntime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::task::spawn_local;
use tokio::time::{interval, sleep_until};

use crate::admin::{self, AdminState as _, DrainListeners, certs, server::AdminSocket};
use crate::args::ServeArgs;
use crate::cluster::dns::DnsResolver;
use crate::listener::accept::{WorkerListener, accept_loop};
use crate::listener::socket::{ListenSocket, listen};
use crate::process::Process;
use crate::telemetry::access_log::{AccessLogs, NewStream, service};
use crate::telemetry::stats::Stats;
use crate::tls::TlsError;
use crate::tls::client::TlsConnector;
use crate::tls::server::Acceptors;
use crate::worker::Worker;

/// `cluster_wait`: how long a change waits for the clusters that it names.
const CLUSTER_WAIT: Duration = Duration::from_secs(1);

/// What the control thread tells a worker.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    /// What the listeners need is there: connections are accepted.
    Start,
    /// Idle connections close, the others after their requests.
    Drain,
    /// No connection is accepted any more, but by listeners that are not `INBOUND` where only those are meant.
    StopListeners {
        /// Only those whose `traffic_direction` is `INBOUND`.
        inbound_only: bool,
    },
    /// The thread ends, whatever it is doing.
    Stop,
}

/// The process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket.
    #[error(transparent)]
    Listen(#[from] crate::listener::socket::ListenError),
    /// TLS of a listener or a cluster.
    #[error("{kind} {name}: transport_socket: {source}")]
    Tls {
        /// `listener` or `cluster`.
        kind: &'static str,
        /// Its name.
        name: Arc<str>,
        /// What is wrong.
        source: TlsError,
    },
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

/// How long the end waits for files that take access logs slowly.
const LOG_FLUSH: Duration = Duration::from_secs(2);

/// The sockets of one worker, each with its listener.
type Sockets = Vec<(Arc<Listener>, ListenSocket)>;

/// Runs until a signal or the admin listener ends it.
pub fn serve(args: ServeArgs, bootstrap: Bootstrap) -> Result<ExitCode, StartError> {
    let system = |what| move |source| StartError::System { what, source };
    let concurrency = args.concurrency.unwrap_or_else(default_concurrency).max(1);
    let admin = match &bootstrap.admin {
        Some(admin) => Some(admin::server::bind(&admin.address).map_err(system("admin address"))?),
        None => None,
    };
    let mut sockets: Vec<Sockets> = (0..concurrency).map(|_| Vec::new()).collect();
    let mut listeners = Vec::new();
    for listener in bootstrap.listeners.iter().filter(|listener| listener.bind_to_port) {
        let mut addresses = Vec::with_capacity(listener.addresses.len());
        for address in &listener.addresses {
            let bound = listen(listener, address, concurrency)?;
            addresses.extend(bound.first().and_then(|socket| socket.local_address().ok()));
            for (worker, socket) in sockets.iter_mut().zip(bound) {
                worker.push((listener.clone(), socket));
            }
        }
        listeners.push((listener.name.clone(), addresses));
    }
    let stats = Arc::new(Stats::new());
    let mut acceptors = Acceptors::default();
    for listener in &bootstrap.listeners {
        for chain in listener.filter_chains.iter().chain(&listener.default_filter_chain) {
            acceptors.add(chain).map_err(|source| StartError::Tls {
                kind: "listener",
                name: listener.name.clone(),
                source,
            })?;
        }
    }
    let chains = bootstrap.listeners.iter().flat_map(|l| l.filter_chains.iter().chain(&l.default_filter_chain));
    let downstream = chains.filter_map(|chain| Some(&chain.tls.as_deref()?.common));
    let upstream = bootstrap.clusters.iter().filter_map(|cluster| Some(&cluster.tls.as_deref()?.common));
    let certificates = certs::describe(downstream.chain(upstream));
    let mut cluster_stats = HashMap::new();
    let mut connectors = HashMap::new();
    let mut warmer = Warmer::new(CLUSTER_WAIT);
    for cluster in bootstrap.clusters {
        if let Some(tls) = &cluster.tls {
            let connector = TlsConnector::new(tls, cluster.auto_san_validation, &cluster.protocol)
                .map_err(|source| StartError::Tls { kind: "cluster", name: cluster.name.clone(), source })?;
            connectors.insert(cluster.name.clone(), connector);
        }
        cluster_stats.insert(cluster.name.clone(), stats.cluster(cluster.stat_name()));
        warmer.set_cluster(&cluster.name, 0, || cluster.clone());
    }
    for listener in &bootstrap.listeners {
        warmer.set_listener(&listener.name, 0, Instant::now(), || listener.clone());
    }
    let mut node = bootstrap.node;
    if let Some(id) = &args.service_node {
        node.id.clone_from(id);
    }
    if let Some(cluster) = &args.service_cluster {
        node.cluster.clone_from(cluster);
    }
    let (access_logs, log_services) = AccessLogs::new(stats.clone(), node.clone());
    let mut log_files = Vec::new();
    for logs in bootstrap.listeners.iter().flat_map(|listener| listener.all_access_logs()) {
        log_files.extend(access_logs.open(logs)?);
    }
    let (drain_requests, drains) = mpsc::unbounded_channel();
    let process = Arc::new(Process {
        args,
        concurrency,
        snapshot: ArcSwap::default(),
        waits: ArcSwap::default(),
        node,
        listeners,
        runtime: bootstrap.runtime,
        started: Instant::now(),
        started_at: SystemTime::now(),
        connectors,
        acceptors,
        certificates,
        stats,
        cluster_stats,
        access_logs: Arc::new(access_logs),
        log_files,
        downstream_connections: AtomicU64::new(0),
        max_downstream_connections: bootstrap.max_downstream_connections,
        health_failed: AtomicBool::new(false),
        draining: AtomicBool::new(false),
        connections: (0..concurrency).map(|_| AtomicU64::new(0)).collect(),
        drain_progress: Notify::new(),
        drain_requests,
        quit: Notify::new(),
    });

    let mut workers = Vec::with_capacity(concurrency);
    for (index, sockets) in sockets.into_iter().enumerate() {
        let (send, receive) = mpsc::unbounded_channel();
        let process = process.clone();
        let thread = thread::Builder::new()
            .name(format!("worker:{index}"))
            .spawn(move || worker_thread(process, index, sockets, receive))
            .map_err(system("worker thread"))?;
        workers.push((send, thread));
    }
    let runtime = local_runtime().map_err(system("runtime"))?;
    let senders: Vec<_> = workers.iter().map(|(send, _)| send.clone()).collect();
    let code = runtime
        .block_on(control(process.clone(), warmer, admin, log_services, drains, senders))
        .map_err(system("signals"))?;
    for (send, _) in &workers {
        // A worker that is gone needs no telling.
        _ = send.send(Command::Stop);
    }
    for (_, thread) in workers {
        _ = thread.join();
    }
    if !process.access_logs.flush(LOG_FLUSH) {
        tracing::warn!(target: "main", "the access logs could not be written to their end");
    }
    Ok(code)
}

fn local_runtime() -> std::io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_all().build_local(Default::default())
}

fn worker_thread(
    process: Arc<Process>,
    index: usize,
    sockets: Sockets,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let runtime = match local_runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(target: "main", "worker {index}: {error}");
            return;
        }
    };
    runtime.block_on(async move {
        let worker = Worker::new(process.clone(), index);
        let mut sockets = sockets;
        let mut accepting = Vec::new();
        let mut tick = interval(FLUSH_INTERVAL);
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Start) => {
                        for (config, socket) in sockets.drain(..) {
                            let stats = process.stats.listener(&config.stat_prefix).shard(index);
                            let listener = Rc::new(WorkerListener { config, stats, worker: worker.clone() });
                            let direction = listener.config.direction;
                            accepting.push((direction, spawn_local(accept_loop(listener, socket))));
                        }
                    }
                    Some(Command::Drain) => worker.start_drain(),
                    Some(Command::StopListeners { inbound_only }) => accepting.retain(|(direction, task)| {
                        let stays = inbound_only && *direction != TrafficDirection::Inbound;
                        if !stays {
                            task.abort();
                        }
                        stays
                    }),
                    Some(Command::Stop) | None => break,
                },
                now = tick.tick() => worker.logs.flush_due(now.into_std()),
            }
        }
        worker.logs.flush();
    });
    // Whatever is still open here is closed with the thread.
    runtime.shutdown_background();
}

/// The control thread: waits for the end.
async fn control(
    process: Arc<Process>,
    warmer: Warmer,
    admin: Option<AdminSocket>,
    mut log_services: mpsc::UnboundedReceiver<NewStream>,
    mut drains: mpsc::UnboundedReceiver<DrainListeners>,
    workers: Vec<mpsc::UnboundedSender<Command>>,
) -> std::io::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    if let Some(socket) = admin {
        spawn_local(admin::server::serve(socket, process.clone()));
    }
    let worker = Worker::new(process.clone(), process.concurrency);
    // The sockets listen already; connections wait in their queues until every name had its first answer.
    spawn_local(start_workers(warmer, DnsResolver::new(worker.random()), process.clone(), workers.clone()));
    spawn_local(async move {
        while let Some(log) = log_services.recv().await {
            spawn_local(service::send(worker.clone(), log));
        }
    });
    let mut user1 = signal(SignalKind::user_defined1())?;
    let reopen = process.clone();
    spawn_local(async move {
        while user1.recv().await.is_some() {
            reopen.reopen_logs();
        }
    });
    let tell = |command| workers.iter().for_each(|worker| _ = worker.send(command));
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
                    tell(Command::StopListeners { inbound_only });
                }
            }
            Some(drain) = drains.recv() => {
                let DrainListeners { inbound_only, graceful, skip_exit } = drain;
                tracing::info!(target: "main", "draining listeners: {drain:?}");
                if !graceful {
                    tell(Command::StopListeners { inbound_only });
                } else {
                    tell(Command::Drain);
                    if !skip_exit && stop.is_none() {
                        stop = Some((tokio::time::Instant::now() + process.args.drain_time(), inbound_only));
                    }
                }
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = process.quit.notified() => return Ok(ExitCode::SUCCESS),
        }
    }
    tracing::info!(target: "main", "draining: a second signal ends at once");
    process.draining.store(true, Ordering::Relaxed);
    for worker in &workers {
        _ = worker.send(Command::Drain);
    }
    let drained = async {
        loop {
            let progress = process.drain_progress.notified();
            if process.connections.iter().all(|count| count.load(Ordering::Acquire) == 0) {
                return;
            }
            // Connections that were accepted, but not yet counted, show up here a moment later.
            _ = tokio::time::timeout(Duration::from_millis(100), progress).await;
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
    Ok(ExitCode::SUCCESS)
}

/// Has the first snapshot made, and then the listeners accept.
async fn start_workers(
    mut warmer: Warmer,
    names: Rc<DnsResolver>,
    process: Arc<Process>,
    workers: Vec<mpsc::UnboundedSender<Command>>,
) {
    let warming = settle(&mut warmer, &process, Instant::now());
    names.start(warming.iter(), &process.stats).ready().await;
    warming.iter().for_each(|cluster| warmer.cluster_ready(cluster));
    // Nobody sends what is still missing.
    settle(&mut warmer, &process, Instant::now() + CLUSTER_WAIT);
    for worker in &workers {
        _ = worker.send(Command::Start);
    }
    process.stats.listener_manager.workers_started.set(1);
    process.stats.server.initialization_time_ms.record(process.started.elapsed().as_micros() as u64);
}

/// Puts in force what can be, and returns the clusters whose names are to be resolved.
fn settle(warmer: &mut Warmer, process: &Process, now: Instant) -> Vec<Arc<ClusterState>> {
    let mut resolve = Vec::new();
    for effect in warmer.settle(now) {
        match effect {
            Effect::Publish(snapshot) => process.snapshot.store(snapshot),
            Effect::Resolve(cluster) => resolve.push(cluster),
        }
    }
    process.waits.store(Arc::new(warmer.waits()));
    resolve
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
