//! What a case sees of its Service through the proxy, and the bursts that show limits.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_tests::admin;
use outrigger_tests::client::Client;
use outrigger_tests::ports::Reserved;
use outrigger_tests::upstream::{Act, Record, Serving, Upstream};
use outrigger_tests::wire::text;
use socket2::{Domain, Socket, Type};

use crate::echo::Echo;
use crate::services::{Case, Runs};
use crate::{PATIENCE, until};

/// What runs at an instance, as long as this lives.
pub(crate) enum Running {
    Echo(Arc<Echo>),
    Scripted(Serving),
    Nothing(Reserved),
    Full { port: u16, _listener: Socket, _waiting: Vec<TcpStream> },
}

impl Running {
    pub(crate) fn start(runs: Runs, index: usize) -> Self {
        let h2 = |upstream: Upstream| {
            Running::Scripted(Serving::start("app", &upstream, &Arc::new(Record::default())).unwrap())
        };
        match runs {
            Runs::Echo => Running::Echo(Echo::start(["one", "two", "three"][index])),
            Runs::Http2 => h2(Upstream::h2().ok("by HTTP/2")),
            // REFUSED_STREAM
            Runs::Http2RefusingOnce => h2(Upstream::h2().acts([Act::Reset(7)]).ok("by HTTP/2")),
            Runs::Bytes => h2(Upstream::tcp().acts([Act::Echo])),
            Runs::Nothing => Running::Nothing(Reserved::new().unwrap()),
            Runs::Full => full(),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        match self {
            Running::Echo(echo) => echo.address.port(),
            Running::Scripted(serving) => serving.ports()[0],
            Running::Nothing(reserved) => reserved.port(),
            Running::Full { port, .. } => *port,
        }
    }
}

/// A listener whose queue is full: the kernel drops what tries to connect.
fn full() -> Running {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        waiting.push(stream);
    }
    Running::Full { port: address.port(), _listener: listener, _waiting: waiting }
}

/// A case while it is shown.
pub(crate) struct Scene<'c> {
    pub(crate) case: &'c Case,
    pub(crate) name: String,
    pub(crate) running: Vec<Running>,
    /// The proxy's listeners, in the order of [`Case::to`].
    pub(crate) ports: Vec<Reserved>,
    pub(crate) admin: PathBuf,
    /// The proxy's process.
    pub(crate) process: u32,
}

impl Scene<'_> {
    pub(crate) fn echo(&self, index: usize) -> &Echo {
        match &self.running[index] {
            Running::Echo(echo) => echo,
            _ => panic!("instance {index} is no echo"),
        }
    }

    /// The answer at the first listener.
    #[track_caller]
    pub(crate) fn ask(&self, request: &str) -> String {
        read(self.send(request))
    }

    /// Sends a request; the answer is still to be read.
    #[track_caller]
    pub(crate) fn send(&self, request: &str) -> TcpStream {
        send(self.ports[0].port(), request).unwrap()
    }

    #[track_caller]
    pub(crate) fn expect(&self, request: &str, parts: &[&str]) {
        self.expect_at(0, request, parts);
    }

    /// The answer at a listener holds all `parts`, and none with `!` in front.
    #[track_caller]
    pub(crate) fn expect_at(&self, listener: usize, request: &str, parts: &[&str]) {
        let answer = read(send(self.ports[listener].port(), request).unwrap());
        assert_eq!(faults(parts, &answer), "", "{request:?}");
    }

    /// Which instances answer so many requests, in their order.
    #[track_caller]
    pub(crate) fn names(&self, count: usize) -> Vec<String> {
        let name = |answer: String| {
            let body = answer.split("\n\n").nth(1).unwrap_or_default();
            body.split(' ').next().unwrap_or_default().to_owned()
        };
        (0..count).map(|_| name(self.ask("GET /"))).collect()
    }

    /// All instances that answer so many requests.
    #[track_caller]
    pub(crate) fn distinct(&self, count: usize) -> Vec<String> {
        let mut names = self.names(count);
        names.sort();
        names.dedup();
        names
    }

    /// The answer to a caller that speaks HTTP/2.
    pub(crate) fn ask_by_http2(&self, path: &str) -> String {
        let client = Client::h2().h2_get(1, path, &[]).settle(Duration::ZERO);
        let answers = client.play(SocketAddr::from(([127, 0, 0, 1], self.ports[0].port())), &Record::default());
        answers.iter().flat_map(|answer| &answer.messages).map(|message| text(&message.body)).collect()
    }

    /// Whether the proxy knows the instances: all of a Service come at once.
    pub(crate) fn has_instances(&self) -> bool {
        let (_, text) = admin::request(&self.admin, "GET", "/clusters").unwrap_or_default();
        self.running.iter().any(|running| text.contains(&format!("::127.0.0.1:{}::", running.port())))
    }

    /// A statistic of the Service's cluster.
    pub(crate) fn statistic(&self, name: &str) -> u64 {
        let name = format!("cluster.default/{}/80.{name}", self.name);
        let (_, text) = admin::request(&self.admin, "GET", &format!("/stats?filter={name}")).unwrap_or_default();
        let value = text.lines().find_map(|line| line.strip_prefix(&name)?.strip_prefix(": "));
        value.map_or(0, |value| value.parse().unwrap())
    }
}

/// Sends a request to a port of the proxy: lines, and a body after an empty one.
pub(crate) fn send(port: u16, request: &str) -> Option<TcpStream> {
    let (head, body) = request.split_once("\n\n").unwrap_or((request, ""));
    let (line, fields) = head.split_once('\n').unwrap_or((head, ""));
    let mut text = format!("{line} HTTP/1.1\r\nconnection: close\r\n");
    for field in fields.lines() {
        text += &format!("{field}\r\n");
    }
    if !fields.lines().any(|field| field.starts_with("host:")) {
        text += "host: shop.test\r\n";
    }
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(format!("{text}\r\n{body}").as_bytes()).ok()?;
    Some(stream)
}

/// The answer: status, a line for each header, an empty line, the body. Empty where there is none.
pub(crate) fn read(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    // What came before a reset counts.
    _ = stream.read_to_string(&mut answer);
    answer.strip_prefix("HTTP/1.1 ").unwrap_or_default().replace("\r\n", "\n")
}

/// The answers to a request that is asked so often on one connection.
///
/// # Panics
/// Where the connection ends before, or an answer does not say how long it is.
pub(crate) fn ask_often(port: u16, request: &str, count: usize) -> Vec<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut answer = || {
        stream.write_all(format!("{request} HTTP/1.1\r\nhost: shop.test\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        while !answer.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut answer).unwrap(), 0, "{answer:?}");
        }
        let length = answer.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length = length.unwrap_or_else(|| panic!("{answer:?}")).parse().unwrap();
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let answer = answer + &String::from_utf8_lossy(&body);
        answer.strip_prefix("HTTP/1.1 ").unwrap_or_default().replace("\r\n", "\n")
    };
    (0..count).map(|_| answer()).collect()
}

/// What is wrong with an answer; a part with `!` in front is not to be there.
pub(crate) fn faults(parts: &[&str], answer: &str) -> String {
    let wrong = |part: &&&str| match part.strip_prefix('!') {
        Some(unexpected) => answer.contains(unexpected),
        None => !answer.contains(**part),
    };
    parts.iter().filter(wrong).map(|part| format!("{part:?} is wrong in\n{answer}\n")).collect()
}

/// Bytes that are no HTTP reach the instance and come back.
pub(crate) fn bytes_pass(scene: &Scene<'_>) {
    let mut stream = TcpStream::connect(("127.0.0.1", scene.ports[0].port())).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"\0no HTTP").unwrap();
    let mut back = [0; 8];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"\0no HTTP");
}

pub(crate) fn the_idle_instance_is_chosen(scene: &Scene<'_>) {
    let _held = scene.send("GET /hang\nx-hang: 1");
    until("an instance is busy", || (0..2).any(|index| scene.echo(index).waiting() == 1));
    let idle = (0..2).map(|index| scene.echo(index)).find(|echo| echo.waiting() == 0).unwrap();
    assert_eq!(scene.names(20), [idle.name; 20]);
}

/// There is one connection, and who comes second waits for it.
pub(crate) fn the_second_waits(scene: &Scene<'_>) {
    let first = scene.send("GET /first\nx-hold: 1");
    assert!(scene.echo(0).waits_with(1));
    let second = scene.send("GET /second");
    until("a request waits", || scene.statistic("upstream_rq_pending_active") == 1);
    scene.echo(0).release();
    assert!(read(first).starts_with("200 "));
    assert!(read(second).starts_with("200 "));
    assert_eq!(scene.echo(0).connections(), 1);
}

/// One has the connection, one waits, and the third is turned away.
pub(crate) fn one_may_wait(scene: &Scene<'_>) {
    let first = scene.send("GET /first\nx-hold: 1");
    assert!(scene.echo(0).waits_with(1));
    let second = scene.send("GET /second");
    until("a request waits", || scene.statistic("upstream_rq_pending_active") == 1);
    scene.expect("GET /third", &["503 ", "x-envoy-overloaded: true\n"]);
    scene.echo(0).release();
    assert!(read(first).starts_with("200 "));
    assert!(read(second).starts_with("200 "));
}

/// Each instance has one connection, and who comes third waits.
pub(crate) fn one_connection_for_each(scene: &Scene<'_>) {
    let requests: Vec<_> = (0..2).map(|n| scene.send(&format!("GET /{n}\nx-hold: 1"))).collect();
    assert!(scene.echo(0).waits_with(1) && scene.echo(1).waits_with(1));
    let third = scene.send("GET /third");
    until("a request waits", || scene.statistic("upstream_rq_pending_active") == 1);
    (0..2).for_each(|index| scene.echo(index).release());
    for stream in requests.into_iter().chain([third]) {
        assert!(read(stream).starts_with("200 "));
    }
    assert_eq!([0, 1].map(|index| scene.echo(index).connections()), [1, 1]);
}

pub(crate) fn retries_are_quick(scene: &Scene<'_>) {
    let start = Instant::now();
    scene.expect("GET /\nx-fail: 500 100", &["200 ", "asked 101\n"]);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

/// Twenty requests fail at once; `retried` of them are to be tried again, the others are answered.
pub(crate) fn retried_of_twenty(scene: &Scene<'_>, retried: usize) {
    let streams: Vec<_> = (0..20).map(|n| scene.send(&format!("GET /{n}\nx-hold: 1\nx-fail: 503 1"))).collect();
    assert!(scene.echo(0).waits_with(20));
    scene.echo(0).release();
    let answered = |stream: &&TcpStream| {
        stream.set_nonblocking(true).unwrap();
        stream.peek(&mut [0]).is_ok()
    };
    until("all attempts are over", || {
        scene.statistic("upstream_rq_total") == 20 && scene.statistic("upstream_rq_active") == 0
    });
    until("the others are answered", || streams.iter().filter(answered).count() == 20 - retried);
    assert_eq!(scene.statistic("upstream_rq_retry_overflow"), 20 - u64::try_from(retried).unwrap());
}

/// The options of the proxy's socket to the instance.
pub(crate) fn keepalive_is_set(scene: &Scene<'_>) {
    scene.expect("GET /", &["200 "]);
    let peer = scene.echo(0).address;
    let Some(socket) = socket_to(scene.process, peer) else {
        println!("skipped: the kernel shows the sockets of another process to nobody here");
        return;
    };
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(7));
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(3));
    assert_eq!(socket.tcp_keepalive_retries().unwrap(), 5);
}

/// A copy of the socket of `process` that is connected to `peer`.
///
/// # Panics
/// Where it has none.
fn socket_to(process: u32, peer: SocketAddr) -> Option<Socket> {
    use std::os::fd::{FromRawFd, OwnedFd};
    // SAFETY: the call takes two integers and makes a descriptor.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) };
    if pidfd < 0 {
        return None;
    }
    // SAFETY: the kernel made it just now, for nobody else.
    let pidfd = unsafe { OwnedFd::from_raw_fd(i32::try_from(pidfd).unwrap()) };
    for entry in std::fs::read_dir(format!("/proc/{process}/fd")).ok()?.flatten() {
        let number: i32 = entry.file_name().to_str()?.parse().ok()?;
        use std::os::fd::AsRawFd;
        // SAFETY: the call takes three integers and makes a descriptor.
        let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
        if copy < 0 {
            match std::io::Error::last_os_error().raw_os_error() {
                // Closed meanwhile.
                Some(libc::EBADF) => continue,
                _ => return None,
            }
        }
        // SAFETY: the kernel made it just now, for nobody else.
        let copy = Socket::from(unsafe { OwnedFd::from_raw_fd(i32::try_from(copy).unwrap()) });
        if copy.peer_addr().is_ok_and(|address| address.as_socket() == Some(peer)) {
            return Some(copy);
        }
    }
    panic!("the proxy has no connection to {peer}");
}
