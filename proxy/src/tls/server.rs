//! TLS from clients.

use std::io;
use std::sync::Arc;

use outrigger_engine::config::tls::DownstreamTls;
use outrigger_engine::stream_info::TlsInfo;
use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerSessionMemoryCache};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsStream;

use super::verify::ClientVerifier;
use super::{TlsError, VALIDATION, info, material, provider, versions};
use crate::io::Io;

/// Takes TLS connections for one filter chain. Cheap to clone; all workers share it, so that a ticket of one is good
/// for all.
#[derive(Clone, Debug)]
pub struct TlsAcceptor {
    config: Arc<ServerConfig>,
    local: Arc<TlsInfo>,
}

/// A TLS connection that has been accepted.
#[derive(Debug)]
pub struct Accepted {
    /// The transport.
    pub io: Io,
    /// What is known of it.
    pub info: TlsInfo,
    /// What ALPN chose.
    pub alpn: Option<Arc<[u8]>>,
    /// SNI.
    pub server_name: Option<Arc<str>>,
}

/// Sessions kept for resumption by id (TLS 1.2).
const SESSIONS: usize = 1024;

impl TlsAcceptor {
    /// Reads certificates and trust.
    pub fn new(tls: &DownstreamTls) -> Result<Self, TlsError> {
        let common = &tls.common;
        let provider = provider(common);
        let keys = common
            .certificates
            .iter()
            .enumerate()
            .map(|(index, certificate)| {
                let list = "common_tls_context.tls_certificates";
                material::certified_key(certificate, &provider)
                    .map_err(|error| error.within(format_args!("{list}[{index}]")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let Some(first) = keys.first().cloned() else {
            return Err(TlsError::new("common_tls_context.tls_certificates", "at least one is required"));
        };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions(common))
            .map_err(|error| TlsError::new("common_tls_context.tls_params", error))?;
        let builder = match &common.validation {
            Some(validation) => {
                let verifier = ClientVerifier::new(validation, tls.require_client_certificate, &provider)
                    .map_err(|error| error.within(VALIDATION))?;
                builder.with_client_cert_verifier(Arc::new(verifier))
            }
            None if tls.require_client_certificate => {
                return Err(TlsError::new(
                    "require_client_certificate",
                    "nothing says which certificates are good: set a validation context",
                ));
            }
            None => builder.with_no_client_auth(),
        };
        let local = info::of_own(&first);
        let mut config = builder.with_cert_resolver(Arc::new(Certificates(keys)));
        config.alpn_protocols = common.alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config.ignore_client_order = !tls.prefer_client_ciphers;
        config.session_storage = if tls.stateful_resumption {
            ServerSessionMemoryCache::new(SESSIONS)
        } else {
            Arc::new(NoServerSessionStorage {})
        };
        // A resumed session is not verified again. Where clients are verified, each handshake is a whole one.
        if tls.stateless_resumption && common.validation.is_none() {
            config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()
                .map_err(|error| TlsError::new("session_ticket_keys", error))?;
        } else {
            config.send_tls13_tickets = 0;
        }
        Ok(TlsAcceptor { config: Arc::new(config), local: Arc::new(local) })
    }

    /// The handshake.
    pub async fn accept(&self, io: Io) -> io::Result<Accepted> {
        let stream = tokio_rustls::TlsAcceptor::from(self.config.clone()).accept(io).await?;
        let (_, connection) = stream.get_ref();
        let mut tls = TlsInfo::clone(&self.local);
        tls.version = connection.protocol_version().map(info::version);
        tls.cipher = connection.negotiated_cipher_suite().map(info::cipher);
        tls.peer = connection.peer_certificates().and_then(info::of_peer);
        let alpn = connection.alpn_protocol().map(Arc::from);
        let server_name = connection.server_name().map(Arc::from);
        Ok(Accepted { io: Io::Tls(Box::new(TlsStream::Server(stream))), info: tls, alpn, server_name })
    }
}

/// The first certificate that fits the name and the algorithms of a client; else the first.
#[derive(Debug)]
struct Certificates(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let usable = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let named = hello.server_name().and_then(|name| {
            self.0.iter().filter(usable).find(|key| key.end_entity_cert().is_ok_and(|leaf| info::is_for(leaf, name)))
        });
        named.or_else(|| self.0.iter().find(usable)).or(self.0.first()).cloned()
    }
}
