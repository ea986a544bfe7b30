//! How a command reaches the control plane: TCP, TLS over TCP, or a socket file.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use clap::Args;
use http::Uri;
use hyper_util::rt::TokioIo;
use outrigger_proto::outrigger::control::v1::control_client::ControlClient;
use rustls::{CertificateError, ClientConfig};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint};

use super::{Failure, cause};
use crate::bootstrap::host_of;
use crate::serve::{Address, LARGEST_MESSAGE};
use crate::tls::{self, ClientTlsArgs};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// After so long without a word the control plane is asked whether it is still there, and may take as long as that to
/// answer: a watch waits without a limit, and a machine that disappears says nothing.
const SILENCE: Duration = Duration::from_secs(10);

/// Where the control plane is.
#[derive(Clone, Debug, Args)]
pub struct ServerArgs {
    /// The control plane: HOST:PORT or unix:PATH. Else $OUTRIGGER_SERVER, else 127.0.0.1:15010.
    #[arg(short = 's', long, value_name = "ADDR")]
    pub server: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented by its type")]
    pub tls: ClientTlsArgs,
}

impl ServerArgs {
    /// Connects.
    pub(super) async fn connect(&self) -> Result<ControlClient<Channel>, Failure> {
        let given =
            self.server.clone().or_else(|| std::env::var("OUTRIGGER_SERVER").ok().filter(|text| !text.is_empty()));
        let server = given.unwrap_or_else(|| crate::DEFAULT_SERVER.to_owned());
        let (plain, secure) = (server.starts_with("http://"), server.starts_with("https://"));
        let address: Address = server
            .trim_start_matches("http://")
            .trim_start_matches("https://")
            .trim_end_matches('/')
            .parse()
            .map_err(|reason| Failure(format!("--server {server}: {reason}")))?;
        let args = self.tls.clone().or_environment();
        let config = tls::client(&args)?;
        if secure && config.is_none() {
            return Err(Failure(format!("--server {server}: say by --tls-ca whose certificates it shows")));
        }
        // The environment may speak of another one.
        if matches!(address, Address::Unix(_)) && self.tls.tls_ca.is_some() {
            return Err(Failure(format!(
                "--server {server}: a socket file is called in plaintext: leave out --tls-ca"
            )));
        }
        if plain && config.is_some() {
            let reason =
                "http is plaintext, and --tls-ca (OUTRIGGER_TLS_CA) asks for TLS: write https://, or leave it out";
            return Err(Failure(format!("--server {server}: {reason}")));
        }
        let failed = |error: tonic::transport::Error| unreachable(&address, &error);
        let channel = match (&address, &config) {
            (Address::Unix(_), _) => endpoint(address.to_string()).map_err(failed)?.connect().await,
            (Address::Tcp(host), None) => endpoint(format!("http://{host}")).map_err(failed)?.connect().await,
            (Address::Tcp(host), Some(config)) => {
                let name = args.tls_server_name.unwrap_or_else(|| host_of(host).to_owned());
                let name = ServerName::try_from(name.clone())
                    .map_err(|_| Failure(format!("{name:?} is no name that a certificate can have")))?;
                let connector = Connector { address: host.clone(), name, config: Arc::clone(config) };
                endpoint(format!("https://{host}")).map_err(failed)?.connect_with_connector(connector).await
            }
        };
        let client = ControlClient::new(channel.map_err(failed)?);
        Ok(client.max_decoding_message_size(LARGEST_MESSAGE).max_encoding_message_size(LARGEST_MESSAGE))
    }
}

fn endpoint(uri: String) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(uri)?.connect_timeout(CONNECT);
    Ok(endpoint.http2_keep_alive_interval(SILENCE).keep_alive_timeout(SILENCE))
}

fn unreachable(address: &Address, error: &(dyn std::error::Error + 'static)) -> Failure {
    let cause = cause(error);
    let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    let advice = match inner.and_then(|inner| inner.downcast_ref()) {
        None => "start one by `outrigger serve`, or say where it is by --server or OUTRIGGER_SERVER",
        Some(rustls::Error::InvalidMessage(_)) => {
            "it speaks no TLS there: call it without --tls-ca (OUTRIGGER_TLS_CA), or say by --server where it does"
        }
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => "call it by a name in its certificate, or say by --tls-server-name which name that is",
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            "give the authority that signed its certificate by --tls-ca (OUTRIGGER_TLS_CA)"
        }
        Some(rustls::Error::InvalidCertificate(_)) => {
            "give it a certificate that is right: `outrigger serve --tls-cert`"
        }
        Some(_) => "see its log; if it asks for certificates, show one that it accepts by --tls-cert and --tls-key",
    };
    Failure(format!("no control plane answers at {address} ({cause}): {advice}"))
}

/// Makes TLS connections to one address.
#[derive(Clone)]
struct Connector {
    address: String,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { address, name, config } = self.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            // Only latency suffers where it cannot be set.
            _ = stream.set_nodelay(true);
            TlsConnector::from(config).connect(name, stream).await.map(TokioIo::new)
        })
    }
}

#[cfg(test)]
mod tests {
    use outrigger_proto::outrigger::control::v1::{ListProxiesRequest, WatchRequest};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn one_that_lives_and_answers_nothing_is_not_waited_for_and_told_from_one_that_is_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::runtime::Handle::current().spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            stream.read_exact(&mut [0; 24]).await.unwrap();
            let mut head = [0; 9];
            while stream.read_exact(&mut head).await.is_ok() {
                let mut frame = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
                stream.read_exact(&mut frame).await.unwrap();
                // Acknowledges a PING.
                if head[3] == 6 {
                    stream.write_all(&[&[0, 0, 8, 6, 1, 0, 0, 0, 0], &frame[..]].concat()).await.unwrap();
                }
            }
        });
        let server = ServerArgs { server: Some(address.to_string()), tls: ClientTlsArgs::default() };
        let Ok(mut client) = server.connect().await else { panic!("it listens") };
        tokio::time::pause();
        let status = client.list_proxies(super::super::request(ListProxiesRequest {})).await.unwrap_err();
        let Failure(text) = status.into();
        assert_eq!(text, "the control plane has not answered in 30 s: see its log");
    }

    #[tokio::test]
    async fn a_watch_ends_when_the_control_plane_disappears() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::runtime::Handle::current().spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // An empty SETTINGS frame, and then never again a word.
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            let mut buffer = [0; 1024];
            while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        });
        let server = ServerArgs { server: Some(address.to_string()), tls: ClientTlsArgs::default() };
        let Ok(mut client) = server.connect().await else { panic!("it listens") };
        // From here on the clock runs as fast as nothing happens.
        tokio::time::pause();
        let ended = tokio::time::timeout(Duration::from_secs(600), client.watch(WatchRequest::default())).await;
        assert!(ended.expect("it hangs").is_err());
    }
}
