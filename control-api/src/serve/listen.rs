//! Where gRPC is served: a TCP address or a socket file.

use std::collections::VecDeque;
use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use super::descriptors::BackOff;
use super::idle::{Idle, Requests};
use super::secure::SecureArgs;
use crate::connection::{Cut, Peer, Progress};
use crate::log::BOUNDED;

/// Connections that wait to be accepted, as at the proxy's listeners: a fleet may come back at once.
const BACKLOG: u16 = 4096;
/// How long a client may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at a time; for one more the oldest is ended.
const HANDSHAKES: usize = 256;

/// `HOST:PORT` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A host and a port.
    Tcp(String),
    /// A socket file.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err("unix: needs a path: unix:/run/outrigger.sock".to_owned());
            }
            return Ok(Address::Unix(path.into()));
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            let rest = rest.trim_end_matches('/');
            return Err(format!("must be HOST:PORT or unix:PATH: write {rest}, without {scheme}://"));
        }
        let is_right = text.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok());
        match is_right {
            true => Ok(Address::Tcp(text.to_owned())),
            false => Err("must be HOST:PORT or unix:PATH".to_owned()),
        }
    }
}

/// Whether it is an address, one of IPv6 in brackets, or may be a name.
fn is_host(text: &str) -> bool {
    if let Some(inner) = text.strip_prefix('[') {
        return inner.strip_suffix(']').is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok());
    }
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => f.write_str(address),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// Removes the socket file.
    pub(super) fn clean_up(&self) {
        if let Address::Unix(path) = self {
            // It is gone already.
            _ = std::fs::remove_file(path);
        }
    }
}

/// Listens, and says where: the port is known only now, where 0 was asked for.
pub(super) async fn bind(
    address: &Address,
    secure: &SecureArgs,
    tls: Option<watch::Receiver<Arc<ServerConfig>>>,
) -> Result<(Accepted, Address), String> {
    let advice = |error: std::io::Error| format!("--listen {address}: {error}: choose another address");
    match address {
        Address::Tcp(text) => {
            let listener = tcp(text).await.map_err(advice)?;
            let bound = listener.local_addr().map_err(advice)?;
            secure.permits(bound)?;
            let listener = match tls {
                None => Listener::Tcp(listener, BackOff::default()),
                Some(config) => Listener::Tls(Handshakes::new(listener, config, HANDSHAKES, HANDSHAKE)),
            };
            Ok((Accepted { listener, idle: Idle::bounded() }, Address::Tcp(bound.to_string())))
        }
        Address::Unix(path) => {
            // A process that was killed leaves its socket behind; one that lives answers. Any other file is somebody's.
            let is_socket = path.symlink_metadata().is_ok_and(|file| file.file_type().is_socket());
            if is_socket && StdUnixStream::connect(path).is_err() {
                _ = std::fs::remove_file(path);
            }
            let listener = Listener::Unix(socket_file(path).map_err(advice)?, BackOff::default());
            Ok((Accepted { listener, idle: Idle::bounded() }, address.clone()))
        }
    }
}

/// Listens at the first address of a host that can be listened at.
pub(super) async fn tcp(text: &str) -> std::io::Result<TcpListener> {
    let mut reason = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    for address in tokio::net::lookup_host(text).await? {
        let listen = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // What is left of earlier connections is no reason not to start again.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG.into())
        };
        match listen() {
            Ok(listener) => return Ok(listener),
            Err(error) => reason = error,
        }
    }
    Err(reason)
}

/// A socket file for its owner alone: its mode is set before anybody can connect.
fn socket_file(path: &Path) -> std::io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    socket.listen(BACKLOG.into())?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket.into())
}

/// Connections as they are accepted.
#[derive(Debug)]
pub(crate) struct Accepted {
    listener: Listener,
    idle: Idle,
}

impl Accepted {
    /// Over TCP, in plaintext.
    pub(crate) fn tcp(listener: TcpListener, idle: Idle) -> Self {
        Self { listener: Listener::Tcp(listener, BackOff::default()), idle }
    }
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener, BackOff),
    Tls(Handshakes),
    Unix(UnixListener, BackOff),
}

/// Connections whose handshakes are under way, each by itself, so that a silent client holds up nobody, and neither do
/// many: who is quick is served while others that say nothing come and are ended.
struct Handshakes {
    listener: TcpListener,
    back_off: BackOff,
    /// The newest counts, of each handshake from its start on.
    config: watch::Receiver<Arc<ServerConfig>>,
    /// How many there may be.
    most: usize,
    /// How long each may take.
    longest: Duration,
    under_way: JoinSet<Option<Transport>>,
    /// The oldest first; also some that are done.
    order: VecDeque<AbortHandle>,
}

impl fmt::Debug for Handshakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshakes").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl Handshakes {
    fn new(listener: TcpListener, config: watch::Receiver<Arc<ServerConfig>>, most: usize, longest: Duration) -> Self {
        let back_off = BackOff::default();
        Self { listener, back_off, config, most, longest, under_way: JoinSet::new(), order: VecDeque::new() }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Transport> {
        while let Poll::Ready((stream, peer)) =
            self.back_off.poll_accept(context, |context| self.listener.poll_accept(context))
        {
            self.start(stream, peer);
        }
        // Without any under way there is nothing to wait for here but the next connection.
        while let Poll::Ready(Some(done)) = self.under_way.poll_join_next(context) {
            // One that panicked or was ended has no connection either.
            if let Ok(Some(connection)) = done {
                return Poll::Ready(connection);
            }
        }
        Poll::Pending
    }

    fn start(&mut self, stream: TcpStream, peer: SocketAddr) {
        if self.order.len() >= self.most {
            self.order.retain(|handshake| !handshake.is_finished());
        }
        if self.order.len() >= self.most
            && let Some(oldest) = self.order.pop_front()
        {
            tracing::warn!(target: BOUNDED, "more than {} TLS handshakes are under way: the oldest is ended", self.most);
            oldest.abort();
        }
        // Only latency suffers where it cannot be set.
        _ = stream.set_nodelay(true);
        let handshake = TlsAcceptor::from(Arc::clone(&self.config.borrow())).accept(stream);
        let longest = self.longest;
        self.order.push_back(self.under_way.spawn(async move {
            let reason = match tokio::time::timeout(longest, handshake).await {
                Ok(Ok(stream)) => return Some(Transport::Tls(Box::new(stream))),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("took longer than {longest:?}"),
            };
            tracing::warn!(target: BOUNDED, "the TLS handshake with {peer} failed: {reason}");
            None
        }));
    }
}

impl Stream for Accepted {
    type Item = std::io::Result<Connection>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Accepted { listener, idle } = self.get_mut();
        let accepted = match listener {
            Listener::Tls(handshakes) => handshakes.poll(context),
            Listener::Tcp(listener, back_off) => {
                back_off.poll_accept(context, |context| listener.poll_accept(context)).map(|(stream, _)| {
                    // Only latency suffers where it cannot be set.
                    _ = stream.set_nodelay(true);
                    Transport::Tcp(stream)
                })
            }
            Listener::Unix(listener, back_off) => back_off
                .poll_accept(context, |context| listener.poll_accept(context))
                .map(|(stream, _)| Transport::Unix(stream)),
        };
        accepted.map(|transport| Some(Ok(Connection::new(transport, idle))))
    }
}

/// An accepted connection.
#[derive(Debug)]
pub(crate) struct Connection {
    transport: Transport,
    cut: Cut,
    requests: Arc<Requests>,
    /// Rings where the first request has not come in time.
    first_request: Option<Pin<Box<Sleep>>>,
    progress: Progress,
}

#[derive(Debug)]
enum Transport {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        let address = match &self.transport {
            Transport::Tcp(stream) => stream.peer_addr().ok(),
            Transport::Tls(stream) => stream.get_ref().0.peer_addr().ok(),
            // A socket file's peer has no address.
            Transport::Unix(_) => None,
        };
        let (requests, progress) = (Arc::clone(&self.requests), self.progress.clone());
        Peer { address, cut: self.cut.clone(), requests, progress }
    }
}

impl Connection {
    fn new(transport: Transport, idle: &Idle) -> Self {
        let cut = Cut::default();
        let requests = idle.accepted(&cut);
        let first_request = Some(Box::pin(tokio::time::sleep(idle.first_request)));
        Self { transport, cut, requests, first_request, progress: Progress::default() }
    }

    /// What carries it, unless it is ended. Writes are told too: where the client takes nothing from its socket, HTTP/2
    /// waits to write, and does not read.
    fn transport(&mut self, context: &mut Context<'_>) -> std::io::Result<&mut Transport> {
        if self.cut.poll(context) {
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        if let Some(limit) = &mut self.first_request {
            if self.requests.asked() {
                self.first_request = None;
            } else if limit.as_mut().poll(context).is_ready() {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
        }
        Ok(&mut self.transport)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut().transport(context)? {
            Transport::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Transport::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
            Transport::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut().transport(context)? {
            Transport::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
            Transport::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut().transport(context)? {
            Transport::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(context),
            Transport::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            Transport::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::server::ResolvesServerCertUsingSni;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn the_oldest_of_too_many_silent_handshakes_makes_room() {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let nothing = Arc::new(ResolvesServerCertUsingSni::new());
        let (_sender, config) = watch::channel(Arc::new(builder.with_no_client_auth().with_cert_resolver(nothing)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut handshakes = Handshakes::new(listener, config, 2, Duration::from_secs(3600));
        let serving = tokio::runtime::Handle::current()
            .spawn(async move { std::future::poll_fn(|context| handshakes.poll(context)).await });
        let mut silent = Vec::new();
        for _ in 0..4 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        // By nobody's time limit: the first two are ended for the last two, in their order.
        for ended in &mut silent[..2] {
            assert_eq!(ended.read(&mut [0]).await.unwrap(), 0);
        }
        for waiting in &silent[2..] {
            assert_eq!(waiting.try_read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        }
        serving.abort();
    }

    #[tokio::test]
    async fn a_connection_that_is_cut_is_neither_read_nor_written() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = Connection::new(Transport::Tcp(stream), &Idle::new(1, Duration::from_secs(3600)));
        connection.write_all(b"a").await.unwrap();
        let cut = connection.cut.clone();
        // Whoever waits for the client hears of it.
        let (read, first) = tokio::join!(connection.read_u8(), async { cut.cut() });
        let aborted = |result: std::io::Result<()>| result.unwrap_err().kind() == std::io::ErrorKind::ConnectionAborted;
        assert!(aborted(read.map(drop)) && first && !cut.cut());
        assert!(aborted(connection.write_all(b"b").await) && aborted(connection.flush().await));
    }

    #[tokio::test]
    async fn a_fleet_that_comes_at_once_is_connected() {
        let listener = tcp("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut fleet = Vec::new();
        // More than the standard library's backlog; nobody accepts them.
        for _ in 0..300 {
            let connected = tokio::time::timeout(Duration::from_secs(10), TcpStream::connect(address)).await;
            fleet.push(connected.expect("the backlog is full").unwrap());
        }
    }

    #[test]
    fn addresses_are_tcp_or_socket_files() {
        for text in ["127.0.0.1:0", "[::1]:15010", "localhost:15010", "unix:/run/o.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("unix:///run/o.sock".parse(), "unix:/run/o.sock".parse::<Address>());
        for text in
            ["", "15010", ":15010", "host", "host:99999", "unix:", "a b\"c:1", "::1:15010", "[::1:15010", "[a]:1"]
        {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        // As --server takes it.
        let refused = "http://127.0.0.1:15010/".parse::<Address>().unwrap_err();
        assert_eq!(refused, "must be HOST:PORT or unix:PATH: write 127.0.0.1:15010, without http://");
    }
}
