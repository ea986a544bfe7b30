//! Where gRPC is served: a TCP address or a socket file.

use std::fmt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_stream::Stream;
use tonic::transport::server::{Connected, TcpConnectInfo};

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
        let port = text.rsplit_once(':').and_then(|(host, port)| port.parse::<u16>().ok().filter(|_| !host.is_empty()));
        match port {
            Some(_) => Ok(Address::Tcp(text.to_owned())),
            None => Err("must be HOST:PORT or unix:PATH".to_owned()),
        }
    }
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
pub(super) async fn bind(address: &Address) -> Result<(Accepted, Address), String> {
    let advice = |error: std::io::Error| format!("--listen {address}: {error}: choose another address");
    match address {
        Address::Tcp(text) => {
            let listener = TcpListener::bind(text).await.map_err(advice)?;
            let bound = listener.local_addr().map_or_else(|_| text.clone(), |address| address.to_string());
            Ok((Accepted::Tcp(listener), Address::Tcp(bound)))
        }
        Address::Unix(path) => {
            // A process that was killed leaves its socket behind; one that lives answers. Any other file is somebody's.
            let is_socket = path.symlink_metadata().is_ok_and(|file| file.file_type().is_socket());
            if is_socket && StdUnixStream::connect(path).is_err() {
                _ = std::fs::remove_file(path);
            }
            let listener = UnixListener::bind(path).map_err(advice)?;
            Ok((Accepted::Unix(listener), address.clone()))
        }
    }
}

/// Connections as they are accepted.
#[derive(Debug)]
pub(super) enum Accepted {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Stream for Accepted {
    type Item = std::io::Result<Connection>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &*self {
            Accepted::Tcp(listener) => listener.poll_accept(context).map(|accepted| {
                Some(accepted.map(|(stream, _)| {
                    // Only latency suffers where it cannot be set.
                    _ = stream.set_nodelay(true);
                    Connection::Tcp(stream)
                }))
            }),
            Accepted::Unix(listener) => {
                listener.poll_accept(context).map(|accepted| Some(accepted.map(|(stream, _)| Connection::Unix(stream))))
            }
        }
    }
}

/// An accepted connection.
#[derive(Debug)]
pub(super) enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        match self {
            Connection::Tcp(stream) => stream.connect_info(),
            // A socket file's peer has no address.
            Connection::Unix(_) => TcpConnectInfo { local_addr: None, remote_addr: None },
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Connection::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Connection::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Connection::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Connection::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Connection::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Connection::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Connection::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Connection::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_tcp_or_socket_files() {
        for text in ["127.0.0.1:0", "[::1]:15010", "localhost:15010", "unix:/run/o.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("unix:///run/o.sock".parse(), "unix:/run/o.sock".parse::<Address>());
        for text in ["", "15010", ":15010", "host", "host:99999", "unix:"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
