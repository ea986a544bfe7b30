//! Certificates and keys, read from where the configuration says.

use std::fmt::Display;
use std::sync::Arc;

use outrigger_engine::config::tls::TlsCertificate;
use outrigger_engine::config::value::DataSource;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls::{Error, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::TlsError;

/// A field that holds PEM. Errors name the field and the source, never its contents.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pem<'c> {
    pub(crate) field: &'static str,
    pub(crate) source: &'c DataSource,
}

impl Pem<'_> {
    pub(super) fn error(self, reason: impl Display) -> TlsError {
        match self.source {
            DataSource::Inline(_) => TlsError::new(self.field, reason),
            DataSource::File(path) => TlsError::new(self.field, format_args!("{path}: {reason}")),
            DataSource::Environment(name) => {
                TlsError::new(self.field, format_args!("environment variable {name}: {reason}"))
            }
        }
    }

    fn read(self) -> Result<Vec<u8>, TlsError> {
        match self.source {
            DataSource::Inline(bytes) => Ok(bytes.to_vec()),
            DataSource::File(path) => std::fs::read(&**path).map_err(|error| self.error(error)),
            DataSource::Environment(name) => {
                std::env::var(&**name).map(String::into_bytes).map_err(|error| self.error(error))
            }
        }
    }

    /// One certificate at least.
    pub(crate) fn certificates(self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&self.read()?)
            .collect::<Result<_, _>>()
            .map_err(|error| self.error(format_args!("not a PEM certificate: {error}")))?;
        if certificates.is_empty() {
            return Err(self.error("there is no certificate in it"));
        }
        Ok(certificates)
    }
}

/// A certificate with the key that belongs to it.
pub(super) fn certified_key(
    certificate: &TlsCertificate,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = Pem { field: "certificate_chain", source: &certificate.chain };
    let certificates = chain.certificates()?;
    for (number, der) in (1..).zip(&certificates) {
        X509Certificate::from_der(der)
            .map_err(|error| chain.error(format_args!("certificate {number}: not X.509: {error}")))?;
    }
    let key = Pem { field: "private_key", source: &certificate.private_key };
    let der = PrivateKeyDer::from_pem_slice(&key.read()?)
        .map_err(|error| key.error(format_args!("not a PEM private key: {error}")))?;
    let certified = CertifiedKey::from_der(certificates, der, provider).map_err(|error| match error {
        Error::InconsistentKeys(_) => key.error("is not the key of the certificate in certificate_chain"),
        other => key.error(other),
    })?;
    Ok(Arc::new(certified))
}

/// Trust anchors: at least one.
pub(super) fn roots(source: &DataSource) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    let pem = Pem { field: "trusted_ca", source };
    for certificate in pem.certificates()? {
        roots.add(certificate).map_err(|error| pem.error(error))?;
    }
    Ok(Arc::new(roots))
}

pub(super) fn revocation_lists(source: &DataSource) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let pem = Pem { field: "crl", source };
    let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(&pem.read()?)
        .collect::<Result<_, _>>()
        .map_err(|error| pem.error(format_args!("not a PEM revocation list: {error}")))?;
    if lists.is_empty() {
        return Err(pem.error("there is no revocation list in it"));
    }
    Ok(lists)
}
