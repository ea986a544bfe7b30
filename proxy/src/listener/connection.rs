//! One accepted connection, up to its filter chain: inspection, matching, TLS, and then HTTP or TCP.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use outrigger_engine::config::listener::NetworkFilter;
use outrigger_engine::filter_chain::{ConnectionFacts, find_filter_chain};
use outrigger_engine::stream_info::{Address, ConnectionInfo};
use tokio::time::Instant;

use super::accept::WorkerListener;
use crate::http::connection;
use crate::io::Io;

/// Serves one connection to its end.
pub async fn serve(listener: Rc<WorkerListener>, io: Io, local: Address, remote: Address) {
    let worker = &listener.worker;
    let started = Instant::now();
    let _guard = worker.connection_guard();
    listener.stats.downstream_cx_total.inc();
    listener.stats.downstream_cx_active.inc();
    run(&listener, io, local, remote).await;
    listener.stats.downstream_cx_active.dec();
    listener.stats.downstream_cx_destroy.inc();
    listener.stats.downstream_cx_length_ms.record(started.elapsed().as_micros() as u64);
    let process = &worker.process;
    if process.max_downstream_connections.is_some() && !listener.config.ignore_global_connection_limit {
        process.downstream_connections.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn run(listener: &Rc<WorkerListener>, io: Io, local: Address, remote: Address) {
    let buffered = Bytes::new();
    let ip = |address: &Address| match address {
        Address::Ip(address) => Some(*address),
        Address::Pipe(_) => None,
    };
    let facts = ConnectionFacts {
        destination: ip(&local),
        source: ip(&remote),
        direct_source: ip(&remote),
        server_name: None,
        transport_protocol: "raw_buffer",
        application_protocols: &[],
    };
    let Some(chain) = find_filter_chain(&listener.config, &facts).cloned() else {
        listener.stats.no_filter_chain_match.inc();
        return;
    };
    let info = Arc::new(ConnectionInfo {
        id: listener.worker.next_connection_id(),
        local_address: local,
        direct_remote_address: remote,
        requested_server_name: None,
        alpn: None,
        tls: None,
    });
    match &chain.filter {
        NetworkFilter::Http(hcm) => {
            let worker = listener.worker.clone();
            connection::serve(worker, hcm.clone(), &listener.config.stat_prefix, info, io, buffered).await;
        }
        NetworkFilter::Tcp(tcp) => crate::tcp::serve(&listener.worker, tcp, info, io, buffered).await,
    }
}
