//! Certificates and keys, read from where the configuration says.

use std::sync::Arc;

use outrigger_engine::config::tls::TlsCertificate;
use outrigger_engine::config::value::DataSource;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::TlsError;

/// The bytes of a data source. Errors name the source, never its contents.
pub(crate) fn read(source: &DataSource, field: &'static str) -> Result<Vec<u8>, TlsError> {
    match source {
        DataSource::Inline(bytes) => Ok(bytes.to_vec()),
        DataSource::File(path) => {
            std::fs::read(&**path).map_err(|error| TlsError::new(field, format_args!("{path}: {error}")))
        }
        DataSource::Environment(name) => std::env::var(&**name)
            .map(String::into_bytes)
            .map_err(|error| TlsError::new(field, format_args!("environment variable {name}: {error}"))),
    }
}

pub(crate) fn certificates(pem: &[u8], field: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::new(field, format_args!("not a PEM certificate: {error}")))?;
    if certificates.is_empty() {
        return Err(TlsError::new(field, "there is no certificate in it"));
    }
    Ok(certificates)
}

/// A certificate with the key that belongs to it.
pub(super) fn certified_key(
    certificate: &TlsCertificate,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = certificates(&read(&certificate.chain, "certificate_chain")?, "certificate_chain")?;
    let key = PrivateKeyDer::from_pem_slice(&read(&certificate.private_key, "private_key")?)
        .map_err(|error| TlsError::new("private_key", format_args!("not a PEM private key: {error}")))?;
    let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| TlsError::new("private_key", error))?;
    Ok(Arc::new(key))
}

/// Trust anchors: at least one.
pub(super) fn roots(source: &DataSource) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&read(source, "trusted_ca")?, "trusted_ca")? {
        roots.add(certificate).map_err(|error| TlsError::new("trusted_ca", error))?;
    }
    Ok(Arc::new(roots))
}

pub(super) fn revocation_lists(source: &DataSource) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(&read(source, "crl")?)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::new("crl", format_args!("not a PEM revocation list: {error}")))?;
    if lists.is_empty() {
        return Err(TlsError::new("crl", "there is no revocation list in it"));
    }
    Ok(lists)
}
