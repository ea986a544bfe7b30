//! TLS to a cluster's hosts.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use outrigger_engine::config::cluster::HttpProtocol;
use outrigger_engine::config::tls::UpstreamTls;
use rustls::client::{ClientSessionMemoryCache, Resumption};
use rustls::{ClientConfig, sign::SingleCertAndKey};
use rustls_pki_types::ServerName;
use tokio_rustls::TlsStream;

use super::verify::HostVerifier;
use super::{TlsError, VALIDATION, material, provider, versions};
use crate::io::Io;

/// Makes TLS connections for one cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TlsConnector {
    config: Arc<ClientConfig>,
    sni: Option<ServerName<'static>>,
    /// Without a name in the hello there is still one to hand to the library.
    no_sni: Arc<ClientConfig>,
}

impl TlsConnector {
    /// Reads certificates and trust, for a cluster that is spoken to by `protocol`. `check_name`: hosts must have a
    /// certificate for the name that is asked for.
    pub fn new(tls: &UpstreamTls, check_name: bool, protocol: &HttpProtocol) -> Result<Self, TlsError> {
        let common = &tls.common;
        let provider = provider(common);
        let verifier = HostVerifier::new(common.validation.as_ref(), check_name, &provider)
            .map_err(|error| error.within(VALIDATION))?;
        let verifier = Arc::new(verifier);
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions(common))
            .map_err(|error| TlsError::new("common_tls_context.tls_params", error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match common.certificates.first() {
            Some(certificate) => {
                let key = material::certified_key(certificate, &provider)
                    .map_err(|error| error.within("common_tls_context.tls_certificates[0]"))?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = common.alpn.iter().map(|protocol| protocol.to_vec()).collect();
        if config.alpn_protocols.is_empty() {
            config.alpn_protocols = match protocol {
                HttpProtocol::Http2(_) => vec![b"h2".to_vec()],
                HttpProtocol::Auto { .. } => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
                HttpProtocol::Http1(_) => vec![b"http/1.1".to_vec()],
                HttpProtocol::UseDownstream { .. } => Vec::new(),
            };
        }
        // A resumed session is not verified again, so none outlives this trust store and identity.
        config.resumption = match usize::try_from(tls.max_session_keys) {
            Ok(0) | Err(_) => Resumption::disabled(),
            Ok(keys) => Resumption::store(Arc::new(ClientSessionMemoryCache::new(keys))),
        };
        let sni = match &tls.sni {
            Some(name) => Some(
                ServerName::try_from(name.to_string())
                    .map_err(|error| TlsError::new("sni", format_args!("{name}: {error}")))?,
            ),
            None => None,
        };
        let mut no_sni = config.clone();
        no_sni.enable_sni = false;
        Ok(TlsConnector { config: Arc::new(config), sni, no_sni: Arc::new(no_sni) })
    }

    /// The handshake: the transport, and what ALPN chose. `server_name` takes the place of the configured one.
    pub async fn connect(&self, io: Io, server_name: Option<&Arc<str>>) -> io::Result<(Io, Option<Vec<u8>>)> {
        let asked = server_name.and_then(|name| ServerName::try_from(name.to_string()).ok());
        let (config, name) = match asked.or_else(|| self.sni.clone()) {
            Some(name) => (&self.config, name),
            None => (&self.no_sni, ServerName::from(IpAddr::from(Ipv4Addr::UNSPECIFIED))),
        };
        let stream = tokio_rustls::TlsConnector::from(config.clone()).connect(name, io).await?;
        let alpn = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        Ok((Io::Tls(Box::new(TlsStream::Client(stream))), alpn))
    }
}
