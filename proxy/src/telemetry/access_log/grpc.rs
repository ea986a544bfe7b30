//! The gRPC access log service (`envoy.service.accesslog.v3.AccessLogService`).
//!
//! A worker encodes each entry once, behind those before it, in the very form in which a message holds them; so a batch
//! becomes a message by putting a few bytes in front. The control thread sends messages over the cluster that the
//! configuration names. While the service is away, batches queue up to a bound, then entries are dropped and counted.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use outrigger_proto::envoy::config::core::v3::Node;
use outrigger_proto::envoy::service::accesslog::v3::stream_access_logs_message::Identifier;
use outrigger_proto::prost::Message;
use outrigger_proto::prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tokio::sync::mpsc;

use super::buffer::Batch;
use crate::telemetry::stats::{GrpcAccessLogStats, Stats};

/// The method that is called, with one stream for each log.
pub(super) const METHOD: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";

/// Batches that may wait for the stream.
const QUEUE: usize = 16;

/// What a log's entries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    /// `HTTPAccessLogEntry`
    Http,
    /// `TCPAccessLogEntry`
    Tcp,
}

impl EntryKind {
    /// The field of `StreamAccessLogsMessage`.
    fn field(self) -> u32 {
        match self {
            EntryKind::Http => 2,
            EntryKind::Tcp => 3,
        }
    }
}

/// The workers' end of a log service; the service's stream ends when the last holder is gone.
#[derive(Debug)]
pub(super) struct GrpcLog {
    batches: mpsc::Sender<Batch>,
    limit: usize,
    interval: Duration,
    stats: Arc<Stats>,
}

/// The control thread's end.
#[derive(Debug)]
pub(super) struct GrpcLogStream {
    batches: mpsc::Receiver<Batch>,
    identifier: Vec<u8>,
    kind: EntryKind,
}

/// Makes both ends of a log: `limit` is `buffer_size_bytes` (Envoy's default is 16384), `interval`
/// `buffer_flush_interval` (1 s; it is kept as exactly as workers flush, about once a second).
pub(super) fn grpc_log(
    stats: Arc<Stats>,
    node: Node,
    log_name: &str,
    kind: EntryKind,
    limit: usize,
    interval: Duration,
) -> (Arc<GrpcLog>, GrpcLogStream) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let identifier = Identifier { node: Some(node), log_name: log_name.to_owned() }.encode_to_vec();
    let log = GrpcLog { batches: sender, limit, interval, stats };
    (Arc::new(log), GrpcLogStream { batches: receiver, identifier, kind })
}

impl GrpcLog {
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    pub(super) fn stats(&self) -> &GrpcAccessLogStats {
        &self.stats.grpc_access_log
    }

    /// Gives a batch to the stream; it comes back where the queue is full or nobody reads it any more.
    pub(super) fn send(&self, batch: Batch) -> Result<(), Batch> {
        self.batches.try_send(batch).map_err(|error| match error {
            mpsc::error::TrySendError::Full(batch) | mpsc::error::TrySendError::Closed(batch) => batch,
        })
    }
}

/// Appends an entry as a message holds it.
pub(super) fn append_entry(out: &mut Vec<u8>, entry: &impl Message) {
    encode_key(1, WireType::LengthDelimited, out);
    encode_varint(entry.encoded_len() as u64, out);
    // A vector grows as needed, so this cannot fail.
    let _ = entry.encode(out);
}

impl GrpcLogStream {
    /// The next entries; `None` when the log is no longer configured.
    pub(super) fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Option<Batch>> {
        self.batches.poll_recv(cx)
    }

    /// A message with its gRPC prefix, ready to be a DATA frame; the first of a stream says who we are.
    pub(super) fn message(&self, batch: &Batch, first: bool) -> Bytes {
        let size = self.identifier.len().saturating_add(batch.bytes.len()).saturating_add(32);
        let mut body = BytesMut::with_capacity(size);
        let identifier = if first { self.identifier.as_slice() } else { &[] };
        let fields = [(1, identifier), (self.kind.field(), &batch.bytes)];
        let fields = fields.into_iter().filter(|(_, bytes)| !bytes.is_empty());
        let length = |(field, bytes): (u32, &[u8])| {
            key_len(field).saturating_add(encoded_len_varint(bytes.len() as u64)).saturating_add(bytes.len())
        };
        body.put_u8(0);
        body.put_u32(u32::try_from(fields.clone().map(length).sum::<usize>()).unwrap_or(u32::MAX));
        for (field, bytes) in fields {
            encode_key(field, WireType::LengthDelimited, &mut body);
            encode_varint(bytes.len() as u64, &mut body);
            body.extend_from_slice(bytes);
        }
        body.freeze()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use outrigger_proto::envoy::data::accesslog::v3::{HttpAccessLogEntry, HttpRequestProperties};
    use outrigger_proto::envoy::service::accesslog::v3::StreamAccessLogsMessage;
    use outrigger_proto::envoy::service::accesslog::v3::stream_access_logs_message::LogEntries;

    use super::*;
    use crate::telemetry::access_log::buffer::{LogBuffer, Sink};

    fn entry(path: &str) -> HttpAccessLogEntry {
        let request = HttpRequestProperties { path: path.into(), ..Default::default() };
        HttpAccessLogEntry { request: Some(request), ..Default::default() }
    }

    fn decode(frame: &[u8]) -> (Option<Identifier>, Vec<String>) {
        assert_eq!(frame[0], 0);
        assert_eq!(u32::from_be_bytes(frame[1..5].try_into().unwrap()) as usize, frame.len() - 5);
        let message = StreamAccessLogsMessage::decode(&frame[5..]).unwrap();
        let Some(LogEntries::HttpLogs(logs)) = message.log_entries else { panic!("no entries") };
        (message.identifier, logs.log_entry.into_iter().map(|entry| entry.request.unwrap().path).collect())
    }

    #[tokio::test]
    async fn entries_arrive_in_batches_and_the_first_says_who_we_are() {
        let stats = Arc::new(Stats::new());
        let node = Node { id: "sidecar~1".into(), ..Default::default() };
        let (log, mut stream) =
            grpc_log(Arc::clone(&stats), node, "mesh", EntryKind::Http, 16_384, Duration::from_secs(1));
        let mut buffer = LogBuffer::new(Sink::Grpc(log));
        for path in ["/a", "/b"] {
            buffer.line(|out| append_entry(out, &entry(path)));
        }
        buffer.flush();
        let batch = poll_fn(|cx| stream.poll_batch(cx)).await.unwrap();
        let (identifier, paths) = decode(&stream.message(&batch, true));
        let identifier = identifier.unwrap();
        assert_eq!((identifier.node.unwrap().id.as_str(), identifier.log_name.as_str()), ("sidecar~1", "mesh"));
        assert_eq!(paths, ["/a", "/b"]);
        buffer.line(|out| append_entry(out, &entry("/c")));
        drop(buffer);
        let batch = poll_fn(|cx| stream.poll_batch(cx)).await.unwrap();
        assert_eq!(decode(&stream.message(&batch, false)), (None, vec!["/c".to_owned()]));
        assert!(poll_fn(|cx| stream.poll_batch(cx)).await.is_none());
        assert_eq!(stats.grpc_access_log.logs_written.get(), 3);
    }

    #[test]
    fn a_service_that_is_away_costs_entries_and_bounded_memory() {
        let stats = Arc::new(Stats::new());
        let (log, _stream) =
            grpc_log(Arc::clone(&stats), Node::default(), "mesh", EntryKind::Http, 1000, Duration::from_secs(1));
        let mut buffer = LogBuffer::new(Sink::Grpc(log));
        let path = "/".repeat(100);
        for _ in 0..10_000 {
            buffer.line(|out| append_entry(out, &entry(&path)));
        }
        let written = stats.grpc_access_log.logs_written.get();
        assert_eq!(written + stats.grpc_access_log.logs_dropped.get(), 10_000);
        assert!((100..300).contains(&written), "{written}");
    }
}
