//! The line of a connection in the logs that have one of each: the listener's own, and its TCP proxy's. It is written
//! when the connection goes, so that one which finds no filter chain, or is cut off with the process, has its line too.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use outrigger_engine::config::access_log::AccessLog;
use outrigger_engine::config::listener::{FilterChain, Listener, NetworkFilter};
use outrigger_engine::stream_info::{ConnectionInfo, ResponseFlags, StreamInfo};
use tokio::time::Instant;

use crate::io::Tally;
use crate::worker::Worker;

/// A connection that has its lines when it is over.
#[derive(Debug)]
pub struct ConnectionLog {
    /// What they say.
    pub info: StreamInfo,
    /// Its filter chain, once it has one.
    pub chain: Option<Arc<FilterChain>>,
    /// The bytes of a connection of HTTP, whose requests have their own counts.
    pub tally: Rc<Tally>,
    worker: Rc<Worker>,
    listener: Arc<Listener>,
    accepted: Instant,
}

impl ConnectionLog {
    /// Begins with what is known when a connection has been accepted.
    pub fn new(
        worker: &Rc<Worker>,
        listener: &Arc<Listener>,
        accepted: Instant,
        connection: Arc<ConnectionInfo>,
    ) -> Self {
        let info = StreamInfo::new(SystemTime::now(), connection, None);
        ConnectionLog {
            info,
            chain: None,
            tally: Rc::default(),
            worker: worker.clone(),
            listener: listener.clone(),
            accepted,
        }
    }

    /// No filter chain takes the connection, of which this is known.
    pub fn no_chain(&mut self, connection: ConnectionInfo) {
        self.info.connection = Arc::new(connection);
        self.info.flags.insert(ResponseFlags::NO_ROUTE_FOUND);
        self.info.details = Some("filter_chain_not_found".into());
    }
}

impl Drop for ConnectionLog {
    fn drop(&mut self) {
        self.info.last_downstream_tx = Some(self.accepted.elapsed());
        self.info.bytes_received = self.info.bytes_received.saturating_add(self.tally.read.get());
        self.info.bytes_sent = self.info.bytes_sent.saturating_add(self.tally.written.get());
        let tcp: &[AccessLog] = match self.chain.as_ref().map(|chain| &chain.filter) {
            Some(NetworkFilter::Tcp(proxy)) => &proxy.access_logs,
            // Its lines are those of its requests.
            Some(NetworkFilter::Http(_)) | None => &[],
        };
        for logs in [&*self.listener.access_logs, tcp] {
            if !logs.is_empty() {
                self.worker.log(logs, None, None, None, &self.info);
            }
        }
    }
}
