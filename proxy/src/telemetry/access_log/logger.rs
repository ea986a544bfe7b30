//! From the configuration's access logs to files and services.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use outrigger_engine::config::access_log::{AccessLog, GrpcAccessLog, Sink as Target};
use outrigger_engine::config::grpc_service::GrpcService;
use outrigger_engine::format::FormatContext;
use outrigger_proto::envoy::config::core::v3::Node;
use tokio::sync::mpsc;

use super::buffer::{LogBuffer, Sink};
use super::entry::{http_entry, tcp_entry};
use super::file::{LogFile, LogFiles};
use super::grpc::{EntryKind, GrpcLog, GrpcLogStream, append_entry, grpc_log};
use crate::telemetry::stats::Stats;

const STDOUT: &str = "/dev/stdout";
const STDERR: &str = "/dev/stderr";

/// The logs of the process.
#[derive(Debug)]
pub struct AccessLogs {
    stats: Arc<Stats>,
    node: Node,
    files: LogFiles,
    services: Mutex<Vec<Service>>,
    new_streams: mpsc::UnboundedSender<NewStream>,
}

/// What tells one stream to a log service from another: logs for which it is the same share one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StreamId {
    pub(super) service: GrpcService,
    pub(super) log_name: Box<str>,
    pub(super) kind: EntryKind,
}

impl StreamId {
    fn new(config: &GrpcAccessLog, kind: EntryKind) -> Self {
        StreamId { service: config.service.clone(), log_name: (*config.log_name).into(), kind }
    }

    fn is_of(&self, config: &GrpcAccessLog, kind: EntryKind) -> bool {
        self.kind == kind && *self.log_name == *config.log_name && self.service == config.service
    }
}

/// A log service that is in use.
#[derive(Debug)]
struct Service {
    id: Arc<StreamId>,
    log: Weak<GrpcLog>,
}

/// A log for which the control thread is to keep a stream.
#[derive(Debug)]
pub struct NewStream {
    /// Of whom, and where to.
    pub(super) id: Arc<StreamId>,
    /// Its entries.
    pub(super) stream: GrpcLogStream,
}

/// An access log's file cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the access log {path:?}: {error}")]
pub struct OpenError {
    path: String,
    error: std::io::Error,
}

impl AccessLogs {
    /// No log yet. The receiver gets each log service when it is first used.
    pub fn new(stats: Arc<Stats>, node: Node) -> (Self, mpsc::UnboundedReceiver<NewStream>) {
        let (new_streams, receiver) = mpsc::unbounded_channel();
        let files = LogFiles::new(Arc::clone(&stats));
        (AccessLogs { stats, node, files, services: Mutex::default(), new_streams }, receiver)
    }

    /// Opens the files that `logs` name. Keep the result as long as they are configured, so that a fault shows when the
    /// configuration is applied, and no worker ever waits for a disk.
    pub fn open(&self, logs: &[AccessLog]) -> Result<Vec<Arc<LogFile>>, OpenError> {
        let paths = logs.iter().filter_map(|log| path(&log.sink));
        paths.map(|path| self.file(path)).collect()
    }

    /// Starts the threads that write the files opened so far: [`LogFiles::start_writers`].
    pub fn start_writers(&self) {
        self.files.start_writers();
    }

    fn file(&self, path: &str) -> Result<Arc<LogFile>, OpenError> {
        self.files.open(path).map_err(|error| OpenError { path: path.to_owned(), error })
    }

    fn service(&self, config: &GrpcAccessLog, kind: EntryKind) -> (Arc<StreamId>, Arc<GrpcLog>) {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        services.retain(|service| service.log.strong_count() > 0);
        if let Some(service) = services.iter().find(|service| service.id.is_of(config, kind))
            && let Some(log) = service.log.upgrade()
        {
            return (Arc::clone(&service.id), log);
        }
        let id = Arc::new(StreamId::new(config, kind));
        let (log, stream) = grpc_log(
            Arc::clone(&self.stats),
            self.node.clone(),
            &config.log_name,
            kind,
            config.buffer_size,
            config.flush_interval,
        );
        services.push(Service { id: Arc::clone(&id), log: Arc::downgrade(&log) });
        // Fails only while the process ends.
        let _ = self.new_streams.send(NewStream { id: Arc::clone(&id), stream });
        (id, log)
    }

    /// Opens every file again, after something moved them away.
    pub fn reopen(&self) {
        self.files.reopen();
    }

    /// Waits until the files have everything that workers handed over, for `timeout` at most; says whether they do.
    pub fn flush(&self, timeout: Duration) -> bool {
        self.files.flush(timeout)
    }
}

fn path(target: &Target) -> Option<&str> {
    match target {
        Target::File(path, _) => Some(path),
        Target::Stdout(_) => Some(STDOUT),
        Target::Stderr(_) => Some(STDERR),
        Target::Grpc(_) => None,
    }
}

/// The logs of one worker.
#[derive(Debug)]
pub struct WorkerLogs {
    logs: Arc<AccessLogs>,
    buffers: RefCell<Vec<Entry>>,
}

/// What a worker has of one log, as long as a configuration that names it is in use: in force, or of a connection that
/// is still open.
#[derive(Debug)]
struct Entry {
    key: Key,
    /// `None`: the log cannot be opened.
    buffer: Option<LogBuffer>,
}

/// What a buffer is found by, and a configuration that names the log.
#[derive(Debug)]
enum Key {
    Standard(&'static str),
    Path(Box<str>, Weak<str>),
    Service(Arc<StreamId>, Weak<GrpcAccessLog>),
}

impl Key {
    /// Whether the configuration by which the log was last found is gone.
    fn is_stale(&self) -> bool {
        match self {
            Key::Standard(_) => false,
            Key::Path(_, config) => config.strong_count() == 0,
            Key::Service(_, config) => config.strong_count() == 0,
        }
    }
}

impl WorkerLogs {
    /// No buffer yet.
    pub fn new(logs: Arc<AccessLogs>) -> Self {
        WorkerLogs { logs, buffers: RefCell::default() }
    }

    /// Logs a request or connection that is over to those of `configured` that want it. `random`: uniform over 64 bits.
    pub fn log(&self, configured: &[AccessLog], ctx: &FormatContext<'_>, random: u64) {
        for log in configured.iter().filter(|log| log.wants(ctx, random)) {
            match &log.sink {
                Target::File(path, format) => self.with_file(path, |out| format.write(out, ctx)),
                Target::Stdout(format) => self.with_standard(STDOUT, |out| format.write(out, ctx)),
                Target::Stderr(format) => self.with_standard(STDERR, |out| format.write(out, ctx)),
                Target::Grpc(service) if ctx.info.protocol.is_some() => {
                    self.with_service(service, EntryKind::Http, |out| append_entry(out, &http_entry(ctx, service)));
                }
                Target::Grpc(service) => {
                    self.with_service(service, EntryKind::Tcp, |out| append_entry(out, &tcp_entry(ctx)));
                }
            }
        }
    }

    fn with_standard(&self, path: &'static str, write: impl FnOnce(&mut Vec<u8>)) {
        let found = |key: &Key| matches!(key, Key::Standard(known) if *known == path);
        self.with_buffer(found, write, |_| {}, || (Key::Standard(path), self.file(path)));
    }

    fn with_file(&self, path: &Arc<str>, write: impl FnOnce(&mut Vec<u8>)) {
        let found = |key: &Key| matches!(key, Key::Path(known, _) if **known == **path);
        let renew = |key: &mut Key| {
            if let Key::Path(_, config) = key {
                *config = Arc::downgrade(path);
            }
        };
        let make = || (Key::Path((**path).into(), Arc::downgrade(path)), self.file(path));
        self.with_buffer(found, write, renew, make);
    }

    fn file(&self, path: &str) -> Option<LogBuffer> {
        let file = self.logs.file(path).map_err(|error| tracing::error!("{error}")).ok()?;
        // As a rule it was open, and has its writer.
        self.logs.start_writers();
        Some(LogBuffer::new(Sink::File(file)))
    }

    fn with_service(&self, service: &Arc<GrpcAccessLog>, kind: EntryKind, write: impl FnOnce(&mut Vec<u8>)) {
        let found = |key: &Key| match key {
            // A weak reference keeps the address its own.
            Key::Service(id, config) => {
                id.kind == kind && (config.as_ptr() == Arc::as_ptr(service) || id.is_of(service, kind))
            }
            Key::Standard(_) | Key::Path(..) => false,
        };
        let renew = |key: &mut Key| {
            if let Key::Service(_, config) = key {
                *config = Arc::downgrade(service);
            }
        };
        self.with_buffer(found, write, renew, || {
            let (id, log) = self.logs.service(service, kind);
            (Key::Service(id, Arc::downgrade(service)), Some(LogBuffer::new(Sink::Grpc(log))))
        });
    }

    /// There are a few logs in a process, so that a scan finds one fastest. `renew` notes another configuration of the
    /// same log, where the one of before is gone.
    fn with_buffer(
        &self,
        found: impl Fn(&Key) -> bool,
        write: impl FnOnce(&mut Vec<u8>),
        renew: impl FnOnce(&mut Key),
        make: impl FnOnce() -> (Key, Option<LogBuffer>),
    ) {
        let mut buffers = self.buffers.borrow_mut();
        let index = buffers.iter().position(|entry| found(&entry.key)).unwrap_or_else(|| {
            let (key, buffer) = make();
            let index = buffers.len();
            buffers.push(Entry { key, buffer });
            index
        });
        let Some(Entry { key, buffer }) = buffers.get_mut(index) else { return };
        if key.is_stale() {
            renew(key);
        }
        if let Some(buffer) = buffer {
            buffer.line(write);
        }
    }

    /// Hands over what has waited for its log's interval (a second for files), and lets go of logs that no
    /// configuration names any more. To be called about once a second.
    pub fn flush_due(&self, now: Instant) {
        let mut buffers = self.buffers.borrow_mut();
        // What is dropped hands over the rest.
        buffers.retain(|entry| !entry.key.is_stale());
        buffers.iter_mut().filter_map(|entry| entry.buffer.as_mut()).for_each(|buffer| buffer.flush_due(now));
    }

    /// Hands over everything and lets go of all logs, when nothing will be logged any more. Where a log's queue is full
    /// this thread waits for it, for `patience` at most.
    pub fn end(&self, patience: Duration) {
        let start = Instant::now();
        let buffers = std::mem::take(&mut *self.buffers.borrow_mut());
        let mut waiting = buffers.into_iter().filter_map(|entry| entry.buffer).collect::<Vec<_>>();
        loop {
            waiting.iter_mut().for_each(LogBuffer::flush);
            waiting.retain(|buffer| !buffer.is_empty());
            // What is dropped is counted.
            if waiting.is_empty() || start.elapsed() >= patience {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use outrigger_engine::config::access_log::LineFormat;
    use outrigger_engine::format::Format;
    use outrigger_engine::message::Protocol;
    use outrigger_engine::stream_info::{Address, ConnectionInfo, StreamInfo};

    use outrigger_engine::config::grpc_service::BackOff;

    use super::*;

    fn info(code: u16) -> StreamInfo {
        let address = Address::Ip("127.0.0.1:80".parse().unwrap());
        let connection = ConnectionInfo {
            id: 0,
            local_address: address.clone(),
            direct_remote_address: address,
            requested_server_name: None,
            alpn: None,
            tls: None,
        };
        let mut info = StreamInfo::new(SystemTime::now(), Arc::new(connection), Some(Protocol::Http11));
        info.response_code = Some(code);
        info
    }

    fn file_log(path: &str, format: &str) -> AccessLog {
        let format = LineFormat::Text(Format::parse(format).unwrap());
        AccessLog { filter: None, sink: Target::File(path.into(), format) }
    }

    #[test]
    fn a_request_goes_to_every_log_in_its_format() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let stats = Arc::new(Stats::new());
        let (logs, _streams) = AccessLogs::new(Arc::clone(&stats), Node::default());
        let configured = [file_log(&path("a"), "%RESPONSE_CODE%\n"), file_log(&path("b"), "b %RESPONSE_CODE%\n")];
        let opened = logs.open(&configured).unwrap();
        logs.start_writers();
        let worker = WorkerLogs::new(Arc::new(logs));
        let start = Instant::now();
        worker.log(&configured, &FormatContext::new(&info(200), Duration::ZERO), 0);
        worker.flush_due(start);
        assert_eq!(stats.filesystem.flushed_by_timer.get(), 2);
        worker.log(&configured, &FormatContext::new(&info(503), Duration::ZERO), 0);
        worker.flush_due(start + Duration::from_millis(900));
        assert_eq!(stats.filesystem.flushed_by_timer.get(), 2, "a second is not over");
        worker.flush_due(start + Duration::from_secs(1));
        assert!(worker.logs.flush(Duration::from_secs(20)));
        assert_eq!(std::fs::read_to_string(path("a")).unwrap(), "200\n503\n");
        assert_eq!(std::fs::read_to_string(path("b")).unwrap(), "b 200\nb 503\n");
        drop(opened);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing/log").to_str().unwrap().to_owned();
        let (logs, _streams) = AccessLogs::new(Arc::new(Stats::new()), Node::default());
        let error = logs.open(&[file_log(&path, "x\n")]).unwrap_err();
        assert!(error.to_string().contains("missing/log"), "{error}");
    }

    #[test]
    fn a_file_is_closed_when_no_configuration_names_it_any_more() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log").to_str().unwrap().to_owned();
        let (logs, _streams) = AccessLogs::new(Arc::new(Stats::new()), Node::default());
        let worker = WorkerLogs::new(Arc::new(logs));
        let log = |configured: &[AccessLog]| worker.log(configured, &FormatContext::new(&info(200), Duration::ZERO), 0);
        let is_open = || worker.buffers.borrow().len() == 1;
        let start = Instant::now();
        let first = [file_log(&path, "first\n")];
        log(&first);
        // Another configuration of the same file keeps it open.
        let second = [file_log(&path, "second\n")];
        drop(first);
        log(&second);
        worker.flush_due(start);
        assert!(is_open());
        log(&second);
        drop(second);
        worker.flush_due(start + Duration::from_secs(1));
        assert!(!is_open());
        // Its writer ends with what it was given.
        let lines = || std::fs::read_to_string(&path).unwrap();
        let deadline = start + Duration::from_secs(60);
        while lines() != "first\nsecond\nsecond\n" {
            assert!(Instant::now() < deadline, "{}", lines());
            std::thread::yield_now();
        }
    }

    fn service(headers: &[&'static str]) -> AccessLog {
        let service = GrpcAccessLog {
            log_name: "mesh".into(),
            service: GrpcService {
                cluster: "als".into(),
                authority: "als".into(),
                initial_metadata: Vec::new(),
                max_receive: 0,
                back_off: BackOff::default(),
            },
            flush_interval: Duration::from_secs(1),
            buffer_size: 0,
            request_headers: headers.iter().map(|name| http::HeaderName::from_static(name)).collect(),
            response_headers: Box::default(),
            response_trailers: Box::default(),
        };
        AccessLog { filter: None, sink: Target::Grpc(Arc::new(service)) }
    }

    #[tokio::test]
    async fn a_configuration_that_names_the_same_service_goes_on_with_its_stream_and_the_last_one_ends_it() {
        let (logs, mut streams) = AccessLogs::new(Arc::new(Stats::new()), Node::default());
        let worker = WorkerLogs::new(Arc::new(logs));
        let log = |configured: &[AccessLog]| worker.log(configured, &FormatContext::new(&info(200), Duration::ZERO), 0);
        let start = Instant::now();
        for _ in 0..3 {
            let configured = [service(&[])];
            log(&configured);
            assert_eq!(worker.buffers.borrow().len(), 1);
        }
        let NewStream { mut stream, .. } = streams.recv().await.unwrap();
        worker.flush_due(start);
        assert_eq!(worker.buffers.borrow().len(), 0);
        for _ in 0..3 {
            assert!(std::future::poll_fn(|cx| stream.poll_batch(cx)).await.is_some());
        }
        assert!(std::future::poll_fn(|cx| stream.poll_batch(cx)).await.is_none(), "the stream is over");
        assert!(streams.try_recv().is_err(), "there was one stream only");
        log(&[service(&[])]);
        assert!(streams.try_recv().is_ok(), "it is opened again where it is wanted again");
    }

    #[tokio::test]
    async fn logs_of_one_service_share_a_stream() {
        let (logs, mut streams) = AccessLogs::new(Arc::new(Stats::new()), Node::default());
        let configured = [service(&[]), service(&["x-team"])];
        let worker = WorkerLogs::new(Arc::new(logs));
        worker.log(&configured, &FormatContext::new(&info(200), Duration::ZERO), 0);
        let NewStream { id, mut stream } = streams.recv().await.unwrap();
        assert_eq!(&*id.service.cluster, "als");
        for _ in 0..2 {
            assert!(std::future::poll_fn(|cx| stream.poll_batch(cx)).await.is_some());
        }
        assert!(streams.try_recv().is_err());
    }
}
