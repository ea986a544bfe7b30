//! The TCP proxy: a connection in, a connection out, and bytes both ways.

mod splice;
pub mod tunnel;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use bytes::Bytes;
use outrigger_engine::balance::{Host, PickContext};
use outrigger_engine::config::tcp_proxy::TcpProxy;
use outrigger_engine::resilience::breaker::{ConnectionPermit, RoutingPriority};
use outrigger_engine::stream_info::{ResponseFlags, StreamInfo};
use tokio::time::Instant;

use crate::alarm::Alarm;
use crate::cluster::WorkerCluster;
use crate::cluster::connect::connect;
use crate::io::Io;
use crate::listener::active::WorkerChain;
use crate::telemetry::stats::{ClusterStats, TcpStats};
use crate::worker::{LocalEvent, Worker};

use self::tunnel::{Cause, Ended, Tunnel};

/// Serves a downstream connection to its end, of which `info` learns.
pub async fn serve(
    worker: &Rc<Worker>,
    proxy: &TcpProxy,
    chain: &WorkerChain,
    info: &mut StreamInfo,
    io: Io,
    buffered: Bytes,
) {
    let stats = worker.stats.tcp(&proxy.stat_prefix);
    stats.downstream_cx_total.inc();
    run(worker, proxy, chain, &stats, info, io, buffered).await;
    if info.flags.intersects(ResponseFlags::NO_CLUSTER_FOUND) {
        stats.downstream_cx_no_route.inc();
    }
}

async fn run(
    worker: &Rc<Worker>,
    proxy: &TcpProxy,
    chain: &WorkerChain,
    stats: &TcpStats,
    info: &mut StreamInfo,
    io: Io,
    buffered: Bytes,
) {
    let deadline = proxy.max_downstream_connection_duration.map(|max| Instant::now() + max);
    let total: u64 = proxy.clusters.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let mut ticket = worker.random() % total.max(1);
    let chosen = proxy.clusters.iter().find(|(_, weight)| {
        let taken = ticket < u64::from(*weight);
        ticket = ticket.saturating_sub(u64::from(*weight));
        taken
    });
    let Some(cluster) = chosen.and_then(|(name, _)| worker.cluster(name)) else {
        info.flags.insert(ResponseFlags::NO_CLUSTER_FOUND);
        return;
    };
    info.upstream_cluster = Some(cluster.state.config.name.clone());
    let mut tried = smallvec::SmallVec::<[u64; 4]>::new();
    for _ in 0..proxy.max_connect_attempts {
        let context = PickContext { random: worker.random(), avoid: &tried, max_reselections: 1 };
        let Ok(host) = cluster.pick(&context) else {
            cluster.stats.upstream_cx_none_healthy.inc();
            info.flags.insert(ResponseFlags::NO_HEALTHY_UPSTREAM);
            return;
        };
        let to_host = host.stats().cx_active.load(Ordering::Relaxed);
        let _guard = match cluster.breakers.acquire_connection(RoutingPriority::Default, to_host, false) {
            ConnectionPermit::Granted(guard) | ConnectionPermit::Forced(guard) => guard,
            ConnectionPermit::Refused => {
                cluster.stats.upstream_cx_overflow.inc();
                info.flags.insert(ResponseFlags::UPSTREAM_OVERFLOW);
                return;
            }
        };
        tried.push(host.id);
        info.attempts += 1;
        let begun = Instant::now();
        cluster.stats.upstream_cx_total.inc();
        host.stats().cx_total.fetch_add(1, Ordering::Relaxed);
        cluster.stats.upstream_rq_pending_total.inc();
        let _active = Active::new(&cluster, &host);
        let connecting = connect(&cluster.state.config, &host, cluster.tls(), None);
        let outcome = match while_in_front(connecting, deadline, &chain.end).await {
            Ok(outcome) => outcome,
            Err(cause) => {
                cluster.stats.upstream_rq_cancelled.inc();
                ended(cause, stats, info);
                return;
            }
        };
        info.upstream_host = Some(host.display.clone());
        match outcome {
            Ok(connected) => {
                cluster.stats.upstream_cx_connect_ms.record(begun.elapsed().as_micros() as u64);
                info.upstream_local_address = connected.local_address;
                let _connection = Connection::new(&cluster, &host, begun);
                let tunnel = Tunnel::new(io, buffered, connected.io, Bytes::new())
                    .idle_timeout(proxy.idle_timeout)
                    .deadline(deadline)
                    .drained_by(&chain.end);
                let cause = pass(tunnel, info, stats, &cluster.stats).await.cause;
                ended(cause, stats, info);
                if matches!(cause, Cause::FinishedByB | Cause::ResetByB) {
                    cluster.stats.upstream_cx_destroy_remote.inc();
                    cluster.stats.upstream_cx_destroy_remote_with_active_rq.inc();
                } else {
                    cluster.stats.upstream_cx_destroy_local.inc();
                    cluster.stats.upstream_cx_destroy_local_with_active_rq.inc();
                }
                return;
            }
            Err(error) => {
                cluster.stats.upstream_cx_connect_fail.inc();
                if error.timeout {
                    cluster.stats.upstream_cx_connect_timeout.inc();
                }
                cluster.stats.upstream_rq_pending_failure_eject.inc();
                host.stats().cx_connect_fail.fetch_add(1, Ordering::Relaxed);
                info.upstream_transport_failure = Some(error.reason);
            }
        }
    }
    cluster.stats.upstream_cx_connect_attempts_exceeded.inc();
    info.flags.insert(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
    info.flags.insert(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
}

/// Waits for a connection to be made, as long as the one in front of it may go on; else why that ends.
async fn while_in_front<T>(
    connecting: impl Future<Output = T>,
    deadline: Option<Instant>,
    end: &Rc<LocalEvent>,
) -> Result<T, Cause> {
    let mut connecting = pin!(connecting);
    let mut alarm = Alarm::default();
    let mut registration = None;
    poll_fn(|cx| {
        if let Poll::Ready(done) = connecting.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        if end.is_set() {
            return Poll::Ready(Err(Cause::Drained));
        }
        registration.get_or_insert_with(|| end.register(cx.waker()));
        alarm.poll(cx, deadline).map(|()| Err(Cause::Deadline))
    })
    .await
}

/// Counts why a connection ended.
fn ended(cause: Cause, stats: &TcpStats, info: &mut StreamInfo) {
    match cause {
        Cause::Idle => stats.idle_timeout.inc(),
        Cause::Deadline => {
            stats.max_downstream_connection_duration.inc();
            info.flags.insert(ResponseFlags::DURATION_TIMEOUT);
        }
        Cause::Drained => stats.downstream_cx_drain_close.inc(),
        Cause::ResetByB => info.flags.insert(ResponseFlags::UPSTREAM_REMOTE_RESET),
        Cause::FinishedByA | Cause::FinishedByB | Cause::ResetByA => {}
    }
}

/// Runs the tunnel. It may last for days: what it moves is counted as it moves.
async fn pass(mut tunnel: Tunnel, info: &mut StreamInfo, downstream: &TcpStats, upstream: &ClusterStats) -> Ended {
    let mut counted = (0, 0);
    poll_fn(|cx| {
        let ended = Pin::new(&mut tunnel).poll(cx);
        let (up, down) = tunnel.moved();
        downstream.downstream_cx_rx_bytes_total.add(up - counted.0);
        downstream.downstream_cx_tx_bytes_total.add(down - counted.1);
        upstream.upstream_cx_tx_bytes_total.add(up - counted.0);
        upstream.upstream_cx_rx_bytes_total.add(down - counted.1);
        counted = (up, down);
        (info.bytes_received, info.bytes_sent) = counted;
        ended
    })
    .await
}

/// A connection to a host from the moment that it is begun: breakers count one that is being made like any other.
struct Active<'a>(&'a WorkerCluster, &'a Host);

impl<'a> Active<'a> {
    fn new(cluster: &'a WorkerCluster, host: &'a Host) -> Self {
        cluster.stats.upstream_cx_active.inc();
        host.stats().cx_active.fetch_add(1, Ordering::Relaxed);
        Active(cluster, host)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.stats.upstream_cx_active.dec();
        self.1.stats().cx_active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection to a host once it is made. To the balancers and to Envoy's counters it is one request.
struct Connection<'a> {
    cluster: &'a WorkerCluster,
    host: &'a Host,
    begun: Instant,
}

impl<'a> Connection<'a> {
    fn new(cluster: &'a WorkerCluster, host: &'a Host, begun: Instant) -> Self {
        cluster.stats.upstream_rq_total.inc();
        cluster.stats.upstream_rq_active.inc();
        let stats = host.stats();
        stats.rq_active.fetch_add(1, Ordering::Relaxed);
        stats.rq_total.fetch_add(1, Ordering::Relaxed);
        Connection { cluster, host, begun }
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        let stats = &self.cluster.stats;
        stats.upstream_rq_active.dec();
        stats.upstream_cx_destroy.inc();
        stats.upstream_cx_destroy_with_active_rq.inc();
        stats.upstream_cx_length_ms.record(self.begun.elapsed().as_micros() as u64);
        self.host.stats().rq_active.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_ends_does_not_wait_for_the_one_that_is_being_made() {
        let end = Rc::<LocalEvent>::default();
        let at = Some(Instant::now() + Duration::from_secs(1));
        assert_eq!(while_in_front(async { 1 }, at, &end).await, Ok(1));
        assert_eq!(while_in_front(pending::<()>(), at, &end).await, Err(Cause::Deadline));
        assert_eq!(Some(Instant::now()), at);
        let (ended, ()) = tokio::join!(while_in_front(pending::<()>(), None, &end), async { end.set() });
        assert_eq!(ended, Err(Cause::Drained));
    }
}
