//! One accepted connection, up to its filter chain: inspection, matching, TLS, and then HTTP or TCP.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;
use outrigger_engine::config::listener::{FilterChain, NetworkFilter};
use outrigger_engine::filter_chain::{ConnectionFacts, find_filter_chain};
use outrigger_engine::stream_info::{Address, ConnectionInfo};
use smallvec::SmallVec;
use tokio::time::{Instant, timeout};

use super::active::WorkerListener;
use super::connection_log::ConnectionLog;
use super::inspect::{Inspected, inspect};
use crate::http::connection::{self, Connection};
use crate::io::Io;
use crate::telemetry::stats::{ListenerStats, SslCounters};
use crate::tls::server::{Accepted, TlsAcceptor};

/// Serves one connection to its end.
pub async fn serve(listener: Rc<WorkerListener>, io: Io, local: Address, remote: Address) {
    let worker = listener.worker.clone();
    let _guard = worker.connection_guard();
    let process = &worker.process;
    let counts = process.max_downstream_connections.is_some() && !listener.config.ignore_global_connection_limit;
    run(listener, io, local, remote).await;
    if counts {
        process.downstream_connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that has a filter chain, in the listener's statistics.
struct Counted(Arc<ListenerStats>, Instant);

impl Counted {
    fn new(stats: &Arc<ListenerStats>, accepted: Instant) -> Self {
        stats.downstream_cx_total.inc();
        stats.downstream_cx_active.inc();
        Counted(stats.clone(), accepted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let stats = &self.0;
        stats.downstream_cx_active.dec();
        stats.downstream_cx_destroy.inc();
        stats.downstream_cx_length_ms.record(self.1.elapsed().as_micros().try_into().unwrap_or(u64::MAX));
    }
}

async fn run(listener: Rc<WorkerListener>, mut io: Io, local: Address, remote: Address) {
    let accepted = Instant::now();
    let worker = listener.worker.clone();
    let mut info = ConnectionInfo {
        id: 0,
        local_address: local,
        direct_remote_address: remote,
        requested_server_name: None,
        alpn: None,
        tls: None,
    };
    // Most listeners have no log of their own, and connections of HTTP none but that.
    let mut log = (!listener.config.access_logs.is_empty())
        .then(|| Box::new(ConnectionLog::new(&worker, &listener.config, accepted, Arc::new(info.clone()))));
    let Some(seen) = inspected(&listener, &mut io).await else { return };
    let ip = |address: &Address| match address {
        Address::Ip(address) => Some(*address),
        Address::Pipe(_) => None,
    };
    let application_protocols: SmallVec<[&str; 4]> = seen.application_protocols.iter().map(String::as_str).collect();
    let facts = ConnectionFacts {
        destination: ip(&info.local_address),
        source: ip(&info.direct_remote_address),
        direct_source: ip(&info.direct_remote_address),
        server_name: seen.server_name.as_deref(),
        transport_protocol: if seen.tls { "tls" } else { "raw_buffer" },
        application_protocols: &application_protocols,
    };
    let chain = find_filter_chain(&listener.config, &facts).cloned();
    info.requested_server_name = seen.server_name.map(Arc::from);
    let Some(chain) = chain else {
        listener.stats.no_filter_chain_match.inc();
        if let Some(mut log) = log {
            log.no_chain(info);
        }
        return;
    };
    let _counted = Counted::new(&listener.stats, accepted);
    info.id = worker.next_connection_id();
    let mut buffered = seen.read;
    if let Some(tls) = &chain.tls {
        // It was made before the chain came into force; without it nobody gets in.
        let Some(acceptor) = tls.made.get::<TlsAcceptor>() else { return };
        let Some(accepted) = handshake(&listener, acceptor, io.rewind(std::mem::take(&mut buffered)), &chain).await
        else {
            if let NetworkFilter::Http(hcm) = &chain.filter {
                connection::count_failed(&worker, hcm);
            }
            if let Some(log) = &mut log {
                log.info.connection = Arc::new(info);
            }
            return;
        };
        io = accepted.io;
        info.alpn = accepted.alpn;
        info.requested_server_name = accepted.server_name.or(info.requested_server_name);
        info.tls = Some(Arc::new(accepted.info));
    }
    let info = Arc::new(info);
    if let Some(log) = &mut log {
        log.info.connection = info.clone();
    }
    let active = listener.chain(&chain);
    // A connection keeps its own listener's configuration, which drains as long as it lives, and nothing of what has
    // come since.
    let config = listener.config.clone();
    drop(listener);
    match &chain.filter {
        NetworkFilter::Http(hcm) => {
            let end = active.end.clone();
            let connection = Connection { info, log, io, buffered };
            let serving = connection::serve(worker, hcm.clone(), active, &config.stat_prefix, connection);
            end.cuts_off(serving).await;
        }
        NetworkFilter::Tcp(tcp) => {
            let mut log = log.unwrap_or_else(|| Box::new(ConnectionLog::new(&worker, &config, accepted, info)));
            log.chain = Some(chain.clone());
            crate::tcp::serve(&worker, tcp, &active, &mut log.info, io, buffered).await;
        }
    }
}

/// What the listener filters see; `None` where the connection ended, or broke the time limit that ends it.
async fn inspected(listener: &Rc<WorkerListener>, io: &mut Io) -> Option<Inspected> {
    let config = &listener.config;
    if !config.tls_inspector && !config.http_inspector {
        return Some(Inspected::default());
    }
    let mut read = BytesMut::new();
    let looking = inspect(io, config, &mut read);
    listener.stats.downstream_pre_cx_active.inc();
    let result = match config.listener_filters_timeout {
        Some(limit) => timeout(limit, looking).await,
        None => Ok(looking.await),
    };
    listener.stats.downstream_pre_cx_active.dec();
    let mut seen = match result {
        Ok(Ok(seen)) => seen,
        Ok(Err(_)) => {
            listener.stats.downstream_listener_filter_remote_close.inc();
            return None;
        }
        Err(_) => {
            listener.stats.downstream_pre_cx_timeout.inc();
            if !config.continue_on_listener_filters_timeout {
                return None;
            }
            Inspected::default()
        }
    };
    seen.read = read.freeze();
    Some(seen)
}

/// Counts why a handshake failed.
fn count_failure(stats: &SslCounters, error: &io::Error) {
    use rustls::{CertificateError, Error};
    let counter = match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        Some(Error::NoCertificatesPresented) => &stats.fail_verify_no_cert,
        Some(Error::InvalidCertificate(CertificateError::NotValidForName)) => &stats.fail_verify_san,
        Some(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)) => {
            &stats.fail_verify_cert_hash
        }
        Some(Error::InvalidCertificate(_)) => &stats.fail_verify_error,
        _ => &stats.connection_error,
    };
    counter.inc();
}

/// The TLS handshake within its time.
async fn handshake(listener: &WorkerListener, acceptor: &TlsAcceptor, io: Io, chain: &FilterChain) -> Option<Accepted> {
    let accepting = acceptor.accept(io);
    let result = match chain.transport_socket_connect_timeout {
        Some(limit) => match timeout(limit, accepting).await {
            Ok(result) => result,
            Err(_) => {
                listener.stats.downstream_cx_transport_socket_connect_timeout.inc();
                return None;
            }
        },
        None => accepting.await,
    };
    match result {
        Ok(accepted) => {
            listener.stats.ssl.handshake.inc();
            Some(accepted)
        }
        Err(error) => {
            count_failure(&listener.stats.ssl, &error);
            tracing::debug!(target: "connection", "listener {}: TLS: {error}", listener.config.name);
            None
        }
    }
}
