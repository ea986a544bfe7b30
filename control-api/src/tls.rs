//! TLS by files: what the server shows and whom it asks for a certificate, and what a client trusts and shows.
//!
//! Whoever reaches the control API may write policy for the whole mesh, so nothing here opens when something is
//! missing: an empty or unreadable file is an error at the start, and a caller without a certificate of the authority
//! ends in the handshake.
//!
//! The server's files are read again while it runs, because certificates are short-lived. They are compared by their
//! bytes, once in [`ServerFiles::PACE`]: three small files, so that it matters to nobody how they are replaced (in
//! place, by a rename, by a symbolic link some directories up), and a certificate that is ahead of its key is only
//! early.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;

/// What gRPC speaks inside TLS.
const ALPN: &[u8] = b"h2";

/// Flags of whoever calls the control plane by TLS.
#[derive(Clone, Debug, Default, Args)]
pub struct ClientTlsArgs {
    /// PEM file with the authorities that sign the control plane's certificate: call it by TLS. Else $OUTRIGGER_TLS_CA.
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// PEM file with the certificate to show to the control plane. Else $OUTRIGGER_TLS_CERT.
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the key of --tls-cert. Else $OUTRIGGER_TLS_KEY.
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// The name in the control plane's certificate, where it is not the host that is called. Else
    /// $OUTRIGGER_TLS_SERVER_NAME.
    #[arg(long, value_name = "NAME")]
    pub tls_server_name: Option<String>,
}

impl ClientTlsArgs {
    /// Takes what was not given by a flag from the environment.
    pub(crate) fn or_environment(self) -> Self {
        let variable = |name| std::env::var(name).ok().filter(|text: &String| !text.is_empty());
        let file = |given: Option<PathBuf>, name| given.or_else(|| variable(name).map(PathBuf::from));
        Self {
            tls_ca: file(self.tls_ca, "OUTRIGGER_TLS_CA"),
            tls_cert: file(self.tls_cert, "OUTRIGGER_TLS_CERT"),
            tls_key: file(self.tls_key, "OUTRIGGER_TLS_KEY"),
            tls_server_name: self.tls_server_name.or_else(|| variable("OUTRIGGER_TLS_SERVER_NAME")),
        }
    }

    /// What is wrong with the flags together.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Self { tls_ca, tls_cert, tls_key, tls_server_name } = self;
        if tls_cert.is_some() != tls_key.is_some() {
            return Err("--tls-cert and --tls-key go together: give both, or none".to_owned());
        }
        if tls_ca.is_none() && (tls_cert.is_some() || tls_server_name.is_some()) {
            return Err("say by --tls-ca whose certificates the control plane shows".to_owned());
        }
        Ok(())
    }
}

/// The files of a server, and what was made of them.
#[derive(Debug)]
pub(crate) struct ServerFiles {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    /// Of each file, when they were last taken or refused; `None` where it could not be read.
    seen: Vec<Option<Vec<u8>>>,
    newest: watch::Sender<Arc<ServerConfig>>,
}

impl ServerFiles {
    /// How often they are looked at.
    const PACE: Duration = Duration::from_secs(1);

    /// Reads them for the first time.
    ///
    /// # Errors
    /// Which of them is wrong, and why.
    pub(crate) fn read(cert: PathBuf, key: PathBuf, client_ca: Option<PathBuf>) -> Result<Self, String> {
        let seen = contents(&cert, &key, client_ca.as_deref());
        let first = server(&cert, &key, client_ca.as_deref())?;
        Ok(Self { cert, key, client_ca, seen, newest: watch::Sender::new(first) })
    }

    /// What to serve with from now on: the last that was right.
    pub(crate) fn config(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.newest.subscribe()
    }

    /// Follows the files for ever.
    pub(crate) async fn follow(mut self) {
        loop {
            tokio::time::sleep(Self::PACE).await;
            match self.read_again() {
                Ok(false) => {}
                Ok(true) => tracing::info!("TLS: {} and what belongs to it was read again", self.cert.display()),
                Err(reason) => tracing::error!("TLS: {reason}; what was read before stays in force"),
            }
        }
    }

    /// Whether they have changed, and are in force now.
    fn read_again(&mut self) -> Result<bool, String> {
        let found = contents(&self.cert, &self.key, self.client_ca.as_deref());
        if found == self.seen {
            return Ok(false);
        }
        self.seen = found;
        self.newest.send_replace(server(&self.cert, &self.key, self.client_ca.as_deref())?);
        Ok(true)
    }
}

fn contents(cert: &Path, key: &Path, client_ca: Option<&Path>) -> Vec<Option<Vec<u8>>> {
    [Some(cert), Some(key), client_ca].into_iter().flatten().map(|file| std::fs::read(file).ok()).collect()
}

/// What the server shows, and which authorities may sign for its callers; without any it asks for no certificate.
fn server(cert: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Arc<ServerConfig>, String> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots("--tls-client-ca", file)?, provider());
            builder.with_client_cert_verifier(
                verifier.build().map_err(|error| format!("--tls-client-ca {}: {error}", file.display()))?,
            )
        }
    };
    let (chain, private) = identity(cert, key)?;
    let mut config = builder
        .with_single_cert(chain, private)
        .map_err(|error| format!("--tls-cert {} with --tls-key {}: {error}", cert.display(), key.display()))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// What a client trusts and shows; `None` where it is to speak in plaintext.
pub(crate) fn client(args: &ClientTlsArgs) -> Result<Option<Arc<ClientConfig>>, String> {
    args.check()?;
    let Some(authorities) = &args.tls_ca else { return Ok(None) };
    let verifier = WebPkiServerVerifier::builder_with_provider(roots("--tls-ca", authorities)?, provider())
        .build()
        .map_err(|error| format!("--tls-ca {}: {error}", authorities.display()))?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_webpki_verifier(verifier);
    let mut config = match (&args.tls_cert, &args.tls_key) {
        (Some(cert), Some(key)) => {
            let (chain, private) = identity(cert, key)?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|error| format!("--tls-cert {} with --tls-key {}: {error}", cert.display(), key.display()))?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Some(Arc::new(config)))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn roots(flag: &str, file: &Path) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(flag, file)? {
        roots.add(certificate).map_err(|error| format!("{flag} {}: {error}", file.display()))?;
    }
    Ok(Arc::new(roots))
}

fn certificates(flag: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |error| format!("{flag} {}: {error}", file.display());
    let found: Vec<_> =
        CertificateDer::pem_file_iter(file).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    if found.is_empty() {
        return Err(format!("{flag} {}: holds no certificate in PEM", file.display()));
    }
    Ok(found)
}

fn identity(cert: &Path, key: &Path) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| format!("--tls-key {}: {error}", key.display()))?;
    Ok((certificates("--tls-cert", cert)?, private))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, generate_simple_self_signed};

    use super::*;

    #[test]
    fn files_that_change_are_taken_and_bad_ones_are_named_once() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let make = || generate_simple_self_signed(["control.test".to_owned()]).unwrap();
        let write = |made: &CertifiedKey<rcgen::KeyPair>, key: &CertifiedKey<rcgen::KeyPair>| {
            std::fs::write(at("cert.pem"), made.cert.pem()).unwrap();
            std::fs::write(at("key.pem"), key.signing_key.serialize_pem()).unwrap();
            std::fs::write(at("ca.pem"), made.cert.pem()).unwrap();
        };
        let (first, second) = (make(), make());
        write(&first, &first);
        let mut files = ServerFiles::read(at("cert.pem"), at("key.pem"), Some(at("ca.pem"))).unwrap();
        let mut config = files.config();
        assert_eq!(files.read_again(), Ok(false));
        // The key of the new certificate is still to come.
        write(&second, &first);
        let reason = files.read_again().unwrap_err();
        assert!(reason.contains("cert.pem with --tls-key"), "{reason}");
        assert_eq!(files.read_again(), Ok(false));
        assert!(!config.has_changed().unwrap());
        write(&second, &second);
        assert_eq!(files.read_again(), Ok(true));
        assert!(config.has_changed().unwrap());
        config.mark_unchanged();
        // Nobody to trust is no reason to trust everybody.
        std::fs::write(at("ca.pem"), "").unwrap();
        assert!(files.read_again().unwrap_err().contains("ca.pem: holds no certificate"));
        std::fs::remove_file(at("ca.pem")).unwrap();
        assert!(files.read_again().unwrap_err().contains("ca.pem: "));
        assert!(!config.has_changed().unwrap());
    }
}
