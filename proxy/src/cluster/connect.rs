//! One connection to one host: socket options, connect, TLS, within the cluster's `connect_timeout`.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_engine::balance::Host;
use outrigger_engine::config::cluster::Cluster;
use outrigger_engine::stream_info::Address;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, UnixStream};
use tokio::time::timeout;

use crate::io::{Io, Meter};
use crate::tls::client::TlsConnector;

/// A connection that is ready for its protocol.
#[derive(Debug)]
pub struct Connected {
    /// The transport.
    pub io: Io,
    /// What ALPN chose, where TLS did.
    pub alpn: Option<Vec<u8>>,
    /// Our end.
    pub local_address: Option<SocketAddr>,
}

/// Why there is no connection.
#[derive(Clone, Debug)]
pub struct ConnectError {
    /// Whether time ran out.
    pub timeout: bool,
    /// Envoy's words for it: `delayed connect error: Connection refused`, `TLS error: ...`.
    pub reason: Cow<'static, str>,
}

impl ConnectError {
    fn io(error: &io::Error) -> Self {
        let text = match error.raw_os_error() {
            Some(code) => os_message(code),
            None => error.to_string(),
        };
        ConnectError { timeout: false, reason: format!("delayed connect error: {text}").into() }
    }
}

/// `strerror`, without the "(os error N)" that std adds.
fn os_message(code: i32) -> String {
    let text = io::Error::from_raw_os_error(code).to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Connects to `host`. `server_name`: SNI of this connection, where the request decides it.
pub async fn connect(
    cluster: &Cluster,
    host: &Host,
    tls: Option<&Rc<TlsConnector>>,
    server_name: Option<&Arc<str>>,
) -> Result<Connected, ConnectError> {
    let attempt = async {
        let (io, local_address) = match &host.address {
            Address::Ip(address) => {
                let stream = tcp(cluster, *address).await.map_err(|e| ConnectError::io(&e))?;
                let local = stream.local_addr().ok();
                (Io::Tcp(stream), local)
            }
            Address::Pipe(path) => {
                let stream = UnixStream::connect(&**path).await.map_err(|e| ConnectError::io(&e))?;
                (Io::Unix(stream), None)
            }
        };
        let Some(tls) = tls else { return Ok(Connected { io, alpn: None, local_address }) };
        let (io, alpn) = tls
            .connect(io.metered(Meter::Silent), server_name)
            .await
            .map_err(|error| ConnectError { timeout: false, reason: format!("TLS error: {error}").into() })?;
        Ok(Connected { io, alpn, local_address })
    };
    match timeout(cluster.connect_timeout, attempt).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError { timeout: true, reason: Cow::Borrowed("") }),
    }
}

async fn tcp(cluster: &Cluster, address: SocketAddr) -> io::Result<tokio::net::TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    if let Some(keepalive) = &cluster.tcp_keepalive {
        let mut options = TcpKeepalive::new();
        if let Some(time) = keepalive.time {
            options = options.with_time(time);
        }
        if let Some(interval) = keepalive.interval {
            options = options.with_interval(interval);
        }
        if let Some(probes) = keepalive.probes {
            options = options.with_retries(probes);
        }
        SockRef::from(&socket).set_tcp_keepalive(&options)?;
    }
    if let Some(bind) = &cluster.bind
        && let Some(source) = bind.source_for(&address)
    {
        if bind.freebind && source.is_ipv4() {
            SockRef::from(&socket).set_freebind_v4(true)?;
        } else if bind.freebind {
            SockRef::from(&socket).set_freebind_v6(true)?;
        }
        socket.bind(source)?;
    }
    socket.connect(address).await
}
