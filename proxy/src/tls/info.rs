//! What logs and headers say about certificates.

use outrigger_engine::stream_info::{PeerCertificate, TlsInfo};
use rustls::sign::CertifiedKey;
use rustls::{ProtocolVersion, SupportedCipherSuite};
use rustls_pki_types::{CertificateDer, ServerName};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

use super::verify::sha256;

/// Of our own certificate.
pub(super) fn of_own(key: &CertifiedKey) -> TlsInfo {
    let mut info = TlsInfo::default();
    if let Ok(leaf) = key.end_entity_cert()
        && let Ok((_, parsed)) = X509Certificate::from_der(leaf)
    {
        info.local_uri_sans = names(&parsed, |name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        info.local_subject = Some(rfc2253(parsed.subject()));
    }
    info
}

/// Of a peer's verified chain.
pub(super) fn of_peer(chain: &[CertificateDer<'static>]) -> Option<PeerCertificate> {
    let (leaf, rest) = chain.split_first()?;
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    Some(PeerCertificate {
        subject: rfc2253(parsed.subject()),
        issuer: rfc2253(parsed.issuer()),
        serial: hex(parsed.raw_serial()).trim_start_matches("00").to_owned(),
        sha256: hex(&sha256(leaf)),
        uri_sans: names(&parsed, |name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        }),
        dns_sans: names(&parsed, |name| match name {
            GeneralName::DNSName(dns) => Some(*dns),
            _ => None,
        }),
        der: leaf.to_vec(),
        chain: rest.iter().map(|certificate| certificate.to_vec()).collect(),
        not_before: parsed.validity().not_before.timestamp(),
        not_after: parsed.validity().not_after.timestamp(),
    })
}

/// Whether a certificate names `host`.
pub(super) fn is_for(leaf: &CertificateDer<'_>, host: &str) -> bool {
    let Ok(name) = ServerName::try_from(host) else { return false };
    webpki::EndEntityCert::try_from(leaf).is_ok_and(|leaf| leaf.verify_is_valid_for_subject_name(&name).is_ok())
}

fn names<'a>(certificate: &X509Certificate<'a>, select: impl Fn(&GeneralName<'a>) -> Option<&'a str>) -> Vec<String> {
    match certificate.subject_alternative_name() {
        Ok(Some(extension)) => extension.value.general_names.iter().filter_map(select).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// A name as RFC 2253 writes it: the last part first.
fn rfc2253(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter()
        .map(|rdn| {
            let attributes = rdn.iter().map(|attribute| {
                let oid = attribute.attr_type();
                let key = match x509_parser::objects::oid2abbrev(oid, x509_parser::objects::oid_registry()) {
                    Ok(abbreviation) => abbreviation.to_owned(),
                    Err(_) => oid.to_id_string(),
                };
                format!("{key}={}", escaped(attribute.as_str().unwrap_or_default()))
            });
            attributes.collect::<Vec<_>>().join("+")
        })
        .collect();
    parts.reverse();
    parts.join(",")
}

fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (at, c) in value.char_indices() {
        let special = matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';');
        let edge = at == 0 && (c == '#' || c == ' ') || at == last && c == ' ';
        if special || edge {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

pub(super) fn version(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        _ => "TLSv1.3",
    }
}

/// OpenSSL's name.
pub(super) fn cipher(suite: SupportedCipherSuite) -> &'static str {
    use rustls::CipherSuite;
    match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => "unknown",
    }
}
