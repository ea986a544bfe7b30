//! `envoy.extensions.transport_sockets.tls.v3`: contexts of both sides, certificates inline or from files.
//!
//! Fail closed: a rule about the peer that is not implemented rejects the configuration, it is never left out.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::config::value::DataSource;
use crate::matcher::string::StringMatcher;

mod convert;
mod pem;

/// `DownstreamTlsContext`.
#[derive(Clone, Debug)]
pub struct DownstreamTls {
    /// What both sides have.
    pub common: CommonTls,
    /// A client without a certificate is refused. Then there are rules in `common.validation`.
    pub require_client_certificate: bool,
    /// Whether sessions are kept in memory for resumption (TLS 1.2).
    pub stateful_resumption: bool,
    /// Whether clients get session tickets.
    pub stateless_resumption: bool,
    /// The client's order of cipher suites counts, not ours.
    pub prefer_client_ciphers: bool,
    /// What accepts connections by it.
    pub made: Made,
}

/// `UpstreamTlsContext`.
#[derive(Clone, Debug)]
pub struct UpstreamTls {
    /// What both sides have. Without `common.validation` any certificate is accepted, as the configuration says.
    pub common: CommonTls,
    /// The name in the client hello; none where it is not set.
    pub sni: Option<Arc<str>>,
    /// Sessions kept for resumption, per cluster: 1 by default, 0 for none.
    pub max_session_keys: u32,
    /// What makes connections by it.
    pub made: Made,
}

/// What a transport makes of a context, once: it lives exactly as long as the context does. This crate does no TLS
/// itself, so it does not know what it is.
#[derive(Clone, Default)]
pub struct Made(OnceLock<Arc<dyn Any + Send + Sync>>);

impl Made {
    /// Keeps `value`, unless there is something already.
    pub fn keep<T: Any + Send + Sync>(&self, value: T) {
        // The first stays: connections may use it.
        _ = self.0.set(Arc::new(value));
    }

    /// What was kept.
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.get()?.downcast_ref()
    }
}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.get().is_some() { "Made" } else { "-" })
    }
}

/// `CommonTlsContext`.
#[derive(Clone, Debug)]
pub struct CommonTls {
    /// The lowest version.
    pub min_version: TlsVersion,
    /// The highest version, not below `min_version`.
    pub max_version: TlsVersion,
    /// Suites of TLS 1.2 in order; the library's where it is empty.
    pub cipher_suites: Vec<CipherSuite>,
    /// Key exchange groups in order; the library's where it is empty.
    pub curves: Vec<Curve>,
    /// Protocols in order, each 1 to 255 bytes.
    pub alpn: Vec<Arc<[u8]>>,
    /// Our certificates: at least one downstream, at most one upstream.
    pub certificates: Vec<TlsCertificate>,
    /// What a peer's certificate must be.
    pub validation: Option<CertificateValidation>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2
    V1_2,
    /// TLS 1.3
    V1_3,
}

/// A cipher suite of TLS 1.2, by OpenSSL's name. (Those of TLS 1.3 are not configurable, in Envoy neither.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CipherSuite {
    /// `ECDHE-ECDSA-AES128-GCM-SHA256`
    EcdheEcdsaAes128Gcm,
    /// `ECDHE-ECDSA-AES256-GCM-SHA384`
    EcdheEcdsaAes256Gcm,
    /// `ECDHE-ECDSA-CHACHA20-POLY1305`
    EcdheEcdsaChacha20,
    /// `ECDHE-RSA-AES128-GCM-SHA256`
    EcdheRsaAes128Gcm,
    /// `ECDHE-RSA-AES256-GCM-SHA384`
    EcdheRsaAes256Gcm,
    /// `ECDHE-RSA-CHACHA20-POLY1305`
    EcdheRsaChacha20,
}

/// A key exchange group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// `X25519`
    X25519,
    /// `P-256`
    P256,
    /// `P-384`
    P384,
    /// `X25519MLKEM768`
    X25519MlKem768,
}

/// A certificate chain and its key, both PEM.
#[derive(Clone, Debug)]
pub struct TlsCertificate {
    /// Leaf first.
    pub chain: DataSource,
    /// PKCS #8, PKCS #1 or SEC 1, not encrypted.
    pub private_key: DataSource,
}

/// `CertificateValidationContext`.
#[derive(Clone, Debug)]
pub struct CertificateValidation {
    /// PEM certificates; a chain must end in one of them. Empty contents are an error, not "trust nobody".
    pub trusted_ca: Option<DataSource>,
    /// PEM revocation lists; only with `trusted_ca`.
    pub crl: Option<DataSource>,
    /// Only the leaf is looked up in them.
    pub only_verify_leaf_cert_crl: bool,
    /// One of these must match a subject alternative name, where there are any; only with `trusted_ca`.
    pub subject_alt_names: Vec<SubjectAltNameMatcher>,
    /// SHA-256 of the leaf's public key info. Where there are any, one of these or of `certificate_hashes` must match.
    pub spki_hashes: Vec<[u8; 32]>,
    /// SHA-256 of the leaf certificate.
    pub certificate_hashes: Vec<[u8; 32]>,
    /// Do not tell clients which CAs are trusted.
    pub suppress_client_ca_list: bool,
}

/// A rule about subject alternative names.
#[derive(Clone, Debug)]
pub struct SubjectAltNameMatcher {
    /// Which names it looks at.
    pub san_type: SanType,
    /// What one must look like.
    pub matcher: StringMatcher,
}

/// The type of a subject alternative name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SanType {
    /// Every type below: what the older `match_subject_alt_names` looks at.
    Any,
    /// An e-mail address.
    Email,
    /// A DNS name.
    Dns,
    /// A URI, as SPIFFE's.
    Uri,
    /// An IP address, as text.
    IpAddress,
}
