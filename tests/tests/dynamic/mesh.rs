//! A proxy whose clusters, endpoints, listeners and routes stand in files, and upstreams that say their name.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use outrigger_tests::process::Process;
use outrigger_tests::{admin, peers};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything may take; nothing here takes a tenth of it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `is_so`, looking again and again.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not after {PATIENCE:?}: {what}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// A server that answers every request with its name; a request for `/hold` only after [`Upstream::release`].
pub(crate) struct Upstream {
    pub(crate) port: u16,
    open: Arc<AtomicUsize>,
    held: Arc<AtomicUsize>,
    gate: Arc<Barrier>,
}

impl Upstream {
    pub(crate) fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (open, held) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let gate = Arc::new(Barrier::new(2));
        let shared = (open.clone(), held.clone(), gate.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(mut stream), (open, held, gate)) = (stream, shared.clone()) else { return };
                open.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || {
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
                    while let Some(head) = read_head(&mut stream) {
                        if head.starts_with(b"GET /hold ") {
                            held.fetch_add(1, Ordering::SeqCst);
                            gate.wait();
                        }
                        if stream.write_all(answer.as_bytes()).is_err() {
                            break;
                        }
                    }
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Upstream { port, open, held, gate }
    }

    /// Waits until a request is held.
    pub(crate) fn holds(&self) {
        eventually("a request is held", || self.held.load(Ordering::SeqCst) > 0);
    }

    /// Has the held request answered.
    pub(crate) fn release(&self) {
        self.held.fetch_sub(1, Ordering::SeqCst);
        self.gate.wait();
    }

    /// Connections that are open.
    pub(crate) fn connections(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

fn read_head(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(head)
}

/// A client's connection.
pub(crate) struct Connection(TcpStream);

impl Connection {
    pub(crate) fn open(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Connection(stream))
    }

    /// Head and body of one answer; `None` where the connection ends before.
    pub(crate) fn get(&mut self, path: &str) -> Option<(String, String)> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: shop\r\n\r\n");
        self.0.write_all(request.as_bytes()).ok()?;
        let head = String::from_utf8(read_head(&mut self.0)?).ok()?.to_ascii_lowercase();
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).ok()?;
        Some((head, String::from_utf8(body).ok()?))
    }

    /// Whether the other side has closed it.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let read = self.0.read(&mut [0]);
        self.0.set_nonblocking(false).unwrap();
        match read {
            Ok(n) => n == 0,
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

/// The answer on a new connection: status and body.
pub(crate) fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let (head, body) = Connection::open(port).ok()?.get(path)?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body))
}

/// The proxy.
pub(crate) struct Mesh {
    directory: TempDir,
    process: Process,
}

impl Mesh {
    /// Starts it with these files, each the resources of a kind.
    pub(crate) fn start(files: &[(&str, Value)]) -> Self {
        Self::start_with(files, &["--drain-time-s", "600", "--drain-strategy", "immediate"])
    }

    /// As [`Mesh::start`], with arguments.
    pub(crate) fn start_with(files: &[(&str, Value)], arguments: &[&str]) -> Self {
        let directory = TempDir::new().unwrap();
        for kind in ["cds", "eds", "lds", "rds"] {
            let resources = files.iter().find(|(name, _)| *name == kind).map(|(_, resources)| resources.clone());
            write(&directory, kind, resources.unwrap_or_else(|| json!([])));
        }
        let bootstrap = json!({
            "node": {"id": "dynamic", "cluster": "dynamic"},
            "admin": {"address": {"pipe": {"path": directory.path().join("admin")}}},
            "dynamic_resources": {
                "cds_config": source(&directory, "cds"),
                "lds_config": source(&directory, "lds"),
            },
        });
        let config = directory.path().join("bootstrap.json");
        std::fs::write(&config, bootstrap.to_string()).unwrap();
        let mut command = peers::proxy(env!("CARGO_BIN_EXE_mesh"));
        command.arg("-c").arg(&config).args(["--concurrency", "2"]).args(arguments);
        let mut process = Process::start(command, &directory.path().join("output")).unwrap();
        if let Err(said) = process.ready(&directory.path().join("admin"), PATIENCE) {
            panic!("{said}");
        }
        Mesh { directory, process }
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        self.process.terminate();
    }

    /// How the process ends.
    pub(crate) fn ends(&mut self) -> ExitStatus {
        let status = self.process.wait(PATIENCE);
        status.unwrap_or_else(|| panic!("it does not end:\n{}", self.process.output()))
    }

    /// Replaces the resources of a kind.
    pub(crate) fn set(&self, kind: &str, resources: Value) {
        write(&self.directory, kind, resources);
    }

    /// Replaces a file by any text.
    pub(crate) fn set_text(&self, kind: &str, text: &str) {
        replace(&self.directory, kind, text);
    }

    /// Replaces a file by a pipe, which keeps its reader waiting as long as what comes back is there.
    pub(crate) fn set_pipe(&self, kind: &str) -> File {
        let beside = path(&self.directory, "pipe.new");
        mknodat(CWD, &beside, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let pipe = path(&self.directory, kind);
        std::fs::rename(beside, &pipe).unwrap();
        let mut writer = None;
        eventually("it is read", || {
            // Without a reader this fails.
            writer = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&pipe).ok();
            writer.is_some()
        });
        writer.unwrap()
    }

    /// A file in its directory.
    pub(crate) fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(name)).unwrap()
    }

    /// What the admin interface says.
    pub(crate) fn admin(&self, target: &str) -> String {
        let answer = admin::request(&self.directory.path().join("admin"), "GET", target);
        let (status, body) = answer.unwrap_or_else(|| panic!("no answer:\n{}", self.process.output()));
        assert_eq!(status, 200, "{target}: {body}");
        body
    }

    /// The JSON that the admin interface says.
    pub(crate) fn admin_json(&self, target: &str) -> Value {
        serde_json::from_str(&self.admin(target)).unwrap()
    }

    /// A number of `/stats`; 0 where there is none of this name.
    pub(crate) fn stat(&self, name: &str) -> u64 {
        let stats = self.admin(&format!("/stats?filter=^{name}$"));
        let line = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.map_or(0, |value| value.parse().unwrap())
    }

    /// What the process has in memory now.
    pub(crate) fn rss_kb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// The port that a listener on port 0 has.
    pub(crate) fn port(&self, listener: &str) -> Option<u16> {
        let listeners = self.admin("/listeners");
        let address = listeners.lines().find_map(|line| line.strip_prefix(listener)?.strip_prefix("::"))?;
        address.rsplit(':').next()?.parse().ok()
    }
}

fn source(directory: &TempDir, kind: &str) -> Value {
    json!({"path_config_source": {"path": path(directory, kind)}})
}

fn path(directory: &TempDir, kind: &str) -> PathBuf {
    directory.path().join(kind)
}

/// Writes a file beside, and renames it into place.
fn replace(directory: &TempDir, kind: &str, text: &str) {
    let beside = directory.path().join(format!("{kind}.new"));
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, path(directory, kind)).unwrap();
}

/// Replaces the file of a kind by one with these resources.
fn write(directory: &TempDir, kind: &str, mut resources: Value) {
    let type_url = match kind {
        "cds" => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "eds" => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "lds" => "type.googleapis.com/envoy.config.listener.v3.Listener",
        _ => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
    };
    for resource in resources.as_array_mut().unwrap() {
        resource["@type"] = json!(type_url);
        // Sources of resources that other files hold.
        let text = resource.to_string();
        let here = directory.path().to_str().unwrap();
        *resource = serde_json::from_str(&text.replace("DIRECTORY", here)).unwrap();
    }
    replace(directory, kind, &json!({"version_info": "v", "resources": resources}).to_string());
}

/// A cluster with one endpoint.
pub(crate) fn cluster(name: &str, port: u16) -> Value {
    json!({"name": name, "connect_timeout": "5s", "type": "STATIC", "load_assignment": assignment(name, &[port])})
}

/// A cluster whose endpoints stand in the file of EDS.
pub(crate) fn eds_cluster(name: &str) -> Value {
    let source = json!({"path_config_source": {"path": "DIRECTORY/eds"}});
    json!({"name": name, "connect_timeout": "5s", "type": "EDS", "eds_cluster_config": {"eds_config": source}})
}

/// Endpoints on these ports.
pub(crate) fn assignment(name: &str, ports: &[u16]) -> Value {
    let endpoint = |port: &u16| {
        let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
        json!({"endpoint": {"address": address}})
    };
    json!({"cluster_name": name, "endpoints": [{"lb_endpoints": ports.iter().map(endpoint).collect::<Vec<_>>()}]})
}

/// Routes that send everything to one cluster.
pub(crate) fn routes(name: &str, cluster: &str) -> Value {
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": cluster}});
    json!({"name": name, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]})
}

/// A listener on a port of 127.0.0.1 with these fields of its connection manager.
pub(crate) fn listener(name: &str, port: u16, manager: Value) -> Value {
    let mut config = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "http_filters": [{
            "name": "router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
        }],
    });
    if let (Value::Object(all), Value::Object(own)) = (&mut config, manager) {
        all.extend(own);
    }
    json!({
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": config}]}],
    })
}

/// A listener with routes of its own, which send everything to one cluster.
pub(crate) fn inline_listener(name: &str, port: u16, cluster: &str) -> Value {
    listener(name, port, json!({"route_config": routes("own", cluster)}))
}

/// A listener whose routes `name` stand in the file of RDS.
pub(crate) fn rds_listener(name: &str, port: u16, routes: &str) -> Value {
    let source = json!({"path_config_source": {"path": "DIRECTORY/rds"}});
    listener(name, port, json!({"rds": {"route_config_name": routes, "config_source": source}}))
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the proxy said:\n{}", self.process.output());
        }
    }
}
