//! TLS by rustls, on both sides.
//!
//! Fail closed: what the configuration asks of a peer is checked whole, an empty trust store or an unreadable
//! certificate is an error at start, and a rule that cannot be applied refuses the handshake.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

pub mod client;
mod info;
pub(crate) mod material;
pub mod server;
mod verify;

use std::fmt::Display;
use std::sync::Arc;

use outrigger_engine::config::tls::{CipherSuite, CommonTls, Curve, TlsVersion};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

/// Where a context says what it asks of peers.
const VALIDATION: &str = "common_tls_context.validation_context";

/// A TLS context that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct TlsError {
    /// The field, from the context on.
    pub field: String,
    /// What is wrong, with the name of the file.
    pub reason: String,
}

impl TlsError {
    fn new(field: &str, reason: impl Display) -> Self {
        TlsError { field: field.to_owned(), reason: reason.to_string() }
    }

    /// The same, of a field of the message `around`.
    fn within(self, around: impl Display) -> Self {
        TlsError { field: format!("{around}.{}", self.field), ..self }
    }
}

/// The cryptography that the context allows. Named in each builder: a process default could be another library's.
fn provider(common: &CommonTls) -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    if !common.cipher_suites.is_empty() {
        let wanted: Vec<SupportedCipherSuite> = common.cipher_suites.iter().map(cipher_suite).collect();
        let tls13 = provider.cipher_suites.iter().filter(|suite| suite.tls13().is_some()).copied();
        provider.cipher_suites = tls13.chain(wanted).collect();
    }
    if !common.curves.is_empty() {
        provider.kx_groups = common.curves.iter().map(curve).collect();
    }
    Arc::new(provider)
}

fn cipher_suite(suite: &CipherSuite) -> SupportedCipherSuite {
    use aws_lc_rs::cipher_suite::*;
    match suite {
        CipherSuite::EcdheEcdsaAes128Gcm => TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheEcdsaAes256Gcm => TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheEcdsaChacha20 => TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::EcdheRsaAes128Gcm => TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheRsaAes256Gcm => TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheRsaChacha20 => TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    }
}

fn curve(curve: &Curve) -> &'static dyn SupportedKxGroup {
    match curve {
        Curve::X25519 => aws_lc_rs::kx_group::X25519,
        Curve::P256 => aws_lc_rs::kx_group::SECP256R1,
        Curve::P384 => aws_lc_rs::kx_group::SECP384R1,
        Curve::X25519MlKem768 => aws_lc_rs::kx_group::X25519MLKEM768,
    }
}

fn versions(common: &CommonTls) -> &'static [&'static SupportedProtocolVersion] {
    use rustls::version::{TLS12, TLS13};
    static V1_2: [&SupportedProtocolVersion; 1] = [&TLS12];
    static V1_3: [&SupportedProtocolVersion; 1] = [&TLS13];
    static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    match (common.min_version, common.max_version) {
        (TlsVersion::V1_2, TlsVersion::V1_2) => &V1_2,
        (TlsVersion::V1_2, TlsVersion::V1_3) => &BOTH,
        (TlsVersion::V1_3, _) => &V1_3,
    }
}
