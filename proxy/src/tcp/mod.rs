//! The TCP proxy: a connection in, a connection out, and bytes both ways.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use outrigger_engine::balance::PickContext;
use outrigger_engine::config::tcp_proxy::TcpProxy;
use outrigger_engine::resilience::breaker::{ConnectionPermit, RoutingPriority};
use outrigger_engine::stream_info::{ConnectionInfo, ResponseFlags, StreamInfo};
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::time::Instant;

use crate::cluster::connect::connect;
use crate::http::codec::Tunnel;
use crate::io::Io;
use crate::worker::Worker;

/// Bytes that a tunnel has moved.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moved {
    /// From downstream to upstream.
    pub up: u64,
    /// From upstream to downstream.
    pub down: u64,
}

/// Passes bytes both ways until both ends are done.
pub async fn tunnel(mut down: Tunnel, mut up: Tunnel, _idle: Option<Duration>) -> Moved {
    let mut moved = Moved { up: down.buffered.len() as u64, down: up.buffered.len() as u64 };
    if up.io.write_all(&down.buffered).await.is_err() || down.io.write_all(&up.buffered).await.is_err() {
        return moved;
    }
    if let Ok((sent, received)) = copy_bidirectional(&mut down.io, &mut up.io).await {
        moved.up += sent;
        moved.down += received;
    }
    moved
}

/// Serves a downstream connection to its end.
pub async fn serve(worker: &Rc<Worker>, proxy: &TcpProxy, connection: Arc<ConnectionInfo>, io: Io, buffered: Bytes) {
    let stats = worker.process.stats.tcp(&proxy.stat_prefix).shard(worker.index);
    stats.downstream_cx_total.inc();
    let started = Instant::now();
    let mut info = StreamInfo::new(SystemTime::now(), connection, None);
    let moved = run(worker, proxy, &mut info, io, buffered).await;
    info.bytes_received = moved.up;
    info.bytes_sent = moved.down;
    stats.downstream_cx_rx_bytes_total.add(moved.up);
    stats.downstream_cx_tx_bytes_total.add(moved.down);
    if info.flags.intersects(ResponseFlags::NO_CLUSTER_FOUND) {
        stats.downstream_cx_no_route.inc();
    }
    info.last_downstream_tx = Some(started.elapsed());
    if !proxy.access_logs.is_empty() {
        worker.log(&proxy.access_logs, None, None, None, &info);
    }
}

async fn run(worker: &Rc<Worker>, proxy: &TcpProxy, info: &mut StreamInfo, io: Io, buffered: Bytes) -> Moved {
    let total: u64 = proxy.clusters.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let mut ticket = worker.random() % total.max(1);
    let chosen = proxy.clusters.iter().find(|(_, weight)| {
        let taken = ticket < u64::from(*weight);
        ticket = ticket.saturating_sub(u64::from(*weight));
        taken
    });
    let Some(cluster) = chosen.and_then(|(name, _)| worker.cluster(name)) else {
        info.flags.insert(ResponseFlags::NO_CLUSTER_FOUND);
        return Moved::default();
    };
    info.upstream_cluster = Some(cluster.state.config.name.clone());
    let mut tried = smallvec::SmallVec::<[u64; 4]>::new();
    for _ in 0..proxy.max_connect_attempts {
        let context = PickContext { random: worker.random(), avoid: &tried, max_reselections: 1 };
        let Ok(host) = cluster.pick(&context) else {
            cluster.stats.upstream_cx_none_healthy.inc();
            info.flags.insert(ResponseFlags::NO_HEALTHY_UPSTREAM);
            return Moved::default();
        };
        let _guard = match cluster.breakers.acquire_connection(RoutingPriority::Default, 0, false) {
            ConnectionPermit::Granted(guard) | ConnectionPermit::Forced(guard) => guard,
            ConnectionPermit::Refused => {
                cluster.stats.upstream_cx_overflow.inc();
                info.flags.insert(ResponseFlags::UPSTREAM_OVERFLOW);
                return Moved::default();
            }
        };
        tried.push(host.id);
        info.attempts += 1;
        info.upstream_host = Some(host.display.clone());
        let begun = Instant::now();
        cluster.stats.upstream_cx_total.inc();
        host.stats().cx_total.fetch_add(1, Ordering::Relaxed);
        match connect(&cluster.state.config, &host, cluster.tls(), None).await {
            Ok(connected) => {
                cluster.stats.upstream_cx_connect_ms.record(begun.elapsed().as_micros() as u64);
                cluster.stats.upstream_cx_active.inc();
                host.stats().cx_active.fetch_add(1, Ordering::Relaxed);
                info.upstream_local_address = connected.local_address;
                let up = Tunnel { io: connected.io, buffered: Bytes::new() };
                let moved = tunnel(Tunnel { io, buffered }, up, proxy.idle_timeout).await;
                cluster.stats.upstream_cx_active.dec();
                cluster.stats.upstream_cx_destroy.inc();
                cluster.stats.upstream_cx_rx_bytes_total.add(moved.down);
                cluster.stats.upstream_cx_tx_bytes_total.add(moved.up);
                cluster.stats.upstream_cx_length_ms.record(begun.elapsed().as_micros() as u64);
                host.stats().cx_active.fetch_sub(1, Ordering::Relaxed);
                return moved;
            }
            Err(error) => {
                cluster.stats.upstream_cx_connect_fail.inc();
                if error.timeout {
                    cluster.stats.upstream_cx_connect_timeout.inc();
                }
                host.stats().cx_connect_fail.fetch_add(1, Ordering::Relaxed);
                info.upstream_transport_failure = Some(error.reason);
            }
        }
    }
    cluster.stats.upstream_cx_connect_attempts_exceeded.inc();
    info.flags.insert(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
    Moved::default()
}
