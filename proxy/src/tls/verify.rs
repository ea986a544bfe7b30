//! What a peer's certificate must be: its chain, its names, its hashes. One set of rules for both sides.

use std::fmt::Display;
use std::sync::Arc;

use outrigger_engine::config::tls::{CertificateValidation, SanType, SubjectAltNameMatcher};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::hash::HashAlgorithm;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::material::Pem;
use super::{TlsError, material};

/// The rules beyond the chain.
#[derive(Debug)]
struct Rules {
    names: Vec<SubjectAltNameMatcher>,
    spki_hashes: Vec<[u8; 32]>,
    certificate_hashes: Vec<[u8; 32]>,
}

impl Rules {
    fn new(validation: &CertificateValidation) -> Self {
        Rules {
            names: validation.subject_alt_names.clone(),
            spki_hashes: validation.spki_hashes.clone(),
            certificate_hashes: validation.certificate_hashes.clone(),
        }
    }

    fn check(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        if self.names.is_empty() && self.spki_hashes.is_empty() && self.certificate_hashes.is_empty() {
            return Ok(());
        }
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| bad(CertificateError::BadEncoding))?;
        if !(self.spki_hashes.is_empty() && self.certificate_hashes.is_empty()) {
            let by_certificate = self.certificate_hashes.contains(&sha256(leaf));
            let by_key = self.spki_hashes.contains(&sha256(parsed.public_key().raw));
            if !by_certificate && !by_key {
                return Err(bad(CertificateError::ApplicationVerificationFailure));
            }
        }
        if self.names.is_empty() {
            return Ok(());
        }
        let extension = parsed.subject_alternative_name().map_err(|_| bad(CertificateError::BadEncoding))?;
        let names = extension.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        let matches = |rule: &SubjectAltNameMatcher| names.iter().any(|name| rule_matches(rule, name));
        if self.names.iter().any(matches) { Ok(()) } else { Err(bad(CertificateError::NotValidForName)) }
    }
}

fn rule_matches(rule: &SubjectAltNameMatcher, name: &GeneralName<'_>) -> bool {
    let is = |san_type| rule.san_type == san_type || rule.san_type == SanType::Any;
    match name {
        GeneralName::DNSName(dns) if is(SanType::Dns) => match rule.matcher.exact() {
            // The certificate's name may have a wildcard, and case never counts in the DNS.
            Some(wanted) => is_dns_name_for(dns.as_bytes(), wanted),
            None => rule.matcher.matches(dns.as_bytes()),
        },
        GeneralName::URI(uri) if is(SanType::Uri) => rule.matcher.matches(uri.as_bytes()),
        GeneralName::RFC822Name(email) if is(SanType::Email) => rule.matcher.matches(email.as_bytes()),
        GeneralName::IPAddress(bytes) if is(SanType::IpAddress) => {
            let ip = match <[u8; 4]>::try_from(*bytes) {
                Ok(v4) => std::net::IpAddr::from(v4),
                Err(_) => match <[u8; 16]>::try_from(*bytes) {
                    Ok(v6) => std::net::IpAddr::from(v6),
                    Err(_) => return false,
                },
            };
            rule.matcher.matches(ip.to_string().as_bytes())
        }
        _ => false,
    }
}

/// Whether a certificate's DNS name, whose first label may have one wildcard, is for `wanted`.
fn is_dns_name_for(name: &[u8], wanted: &[u8]) -> bool {
    if name.eq_ignore_ascii_case(wanted) {
        return true;
    }
    let (name, wanted) = (name.to_ascii_lowercase(), wanted.to_ascii_lowercase());
    fn labels(name: &[u8]) -> Option<(&[u8], &[u8])> {
        name.split_at_checked(name.iter().position(|b| *b == b'.')?)
    }
    let (Some((pattern, parent)), Some((label, wanted_parent))) = (labels(&name), labels(&wanted)) else {
        return false;
    };
    // In an internationalized label the wildcard would stand for a part of its encoding.
    if parent != wanted_parent || parent.contains(&b'*') || pattern.starts_with(b"xn--") {
        return false;
    }
    let mut parts = pattern.split(|b| *b == b'*');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(start), Some(end), None) => label.strip_prefix(start).is_some_and(|rest| rest.ends_with(end)),
        _ => false,
    }
}

/// Trust anchors and revocation lists that are no verifier together.
fn unusable(validation: &CertificateValidation, error: impl Display) -> TlsError {
    let pem = match (&validation.crl, &validation.trusted_ca) {
        (Some(source), _) => Pem { field: "crl", source },
        (None, Some(source)) => Pem { field: "trusted_ca", source },
        (None, None) => return TlsError::new("trusted_ca", error),
    };
    pem.error(error)
}

fn bad(error: CertificateError) -> Error {
    Error::InvalidCertificate(error)
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    let hash = aws_lc_rs::default_provider()
        .cipher_suites
        .iter()
        .filter_map(|suite| suite.tls13())
        .map(|suite| suite.common.hash_provider)
        .find(|provider| provider.algorithm() == HashAlgorithm::SHA256)
        .map(|provider| provider.hash(bytes));
    if let Some(hash) = hash
        && let Ok(bytes) = <[u8; 32]>::try_from(hash.as_ref())
    {
        out = bytes;
    }
    out
}

/// The methods that rustls asks of both verifiers alike, over their `provider`.
macro_rules! signatures_by_provider {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

/// Of a host. Without a trust store any certificate will do, as in Envoy: the configuration does not ask.
#[derive(Debug)]
pub(super) struct HostVerifier {
    chain: Option<Arc<WebPkiServerVerifier>>,
    rules: Rules,
    /// The certificate must also be for the name that the connection asked for (`auto_san_validation`).
    check_name: bool,
    provider: Arc<CryptoProvider>,
}

impl HostVerifier {
    pub(super) fn new(
        validation: Option<&CertificateValidation>,
        check_name: bool,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let empty = CertificateValidation {
            trusted_ca: None,
            crl: None,
            only_verify_leaf_cert_crl: false,
            subject_alt_names: Vec::new(),
            spki_hashes: Vec::new(),
            certificate_hashes: Vec::new(),
            suppress_client_ca_list: false,
        };
        let validation = validation.unwrap_or(&empty);
        let chain = match &validation.trusted_ca {
            Some(source) => {
                let mut builder =
                    WebPkiServerVerifier::builder_with_provider(material::roots(source)?, provider.clone());
                if let Some(crl) = &validation.crl {
                    builder = builder.with_crls(material::revocation_lists(crl)?);
                    if validation.only_verify_leaf_cert_crl {
                        builder = builder.only_check_end_entity_revocation();
                    }
                }
                Some(builder.build().map_err(|error| unusable(validation, error))?)
            }
            None => None,
        };
        Ok(HostVerifier { chain, rules: Rules::new(validation), check_name, provider: provider.clone() })
    }
}

impl ServerCertVerifier for HostVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(chain) = &self.chain {
            match chain.verify_server_cert(leaf, intermediates, name, ocsp, now) {
                Ok(_) => {}
                // The chain is good. Names are checked by the rules, as Envoy does, unless the request's name counts.
                Err(Error::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                )) if !self.check_name => {}
                Err(error) => return Err(error),
            }
        }
        self.rules.check(leaf)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures_by_provider!();
}

/// Of a client.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    /// `None`: no trust store, so that only hashes and names count.
    chain: Option<Arc<dyn ClientCertVerifier>>,
    rules: Rules,
    required: bool,
    hints: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

impl ClientVerifier {
    pub(super) fn new(
        validation: &CertificateValidation,
        required: bool,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let chain = match &validation.trusted_ca {
            Some(source) => {
                let mut builder =
                    WebPkiClientVerifier::builder_with_provider(material::roots(source)?, provider.clone());
                if let Some(crl) = &validation.crl {
                    builder = builder.with_crls(material::revocation_lists(crl)?);
                    if validation.only_verify_leaf_cert_crl {
                        builder = builder.only_check_end_entity_revocation();
                    }
                }
                Some(builder.build().map_err(|error| unusable(validation, error))?)
            }
            None => None,
        };
        let hints = match &chain {
            Some(chain) if !validation.suppress_client_ca_list => chain.root_hint_subjects().to_vec(),
            _ => Vec::new(),
        };
        Ok(ClientVerifier { chain, rules: Rules::new(validation), required, hints, provider: provider.clone() })
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if let Some(chain) = &self.chain {
            chain.verify_client_cert(leaf, intermediates, now)?;
        }
        self.rules.check(leaf)?;
        Ok(ClientCertVerified::assertion())
    }

    signatures_by_provider!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_names_of_certificates_have_wildcards_and_no_case() {
        let matches = |name: &[u8], wanted: &[u8]| is_dns_name_for(name, wanted);
        assert!(matches(b"api.example.com", b"api.example.com") && matches(b"API.Example.com", b"api.example.COM"));
        assert!(matches(b"*.example.com", b"api.example.com") && matches(b"*.EXAMPLE.com", b"API.example.com"));
        assert!(matches(b"a*i.example.com", b"ai.example.com") && matches(b"a*i.example.com", b"a-p-i.example.com"));
        assert!(!matches(b"aa*aa.example.com", b"aaa.example.com"), "its two ends would overlap");
        assert!(!matches(b"*.example.com", b"example.com") && !matches(b"*.example.com", b"a.b.example.com"));
        assert!(!matches(b"api.*.com", b"api.example.com") && !matches(b"*.*.com", b"api.example.com"));
        assert!(!matches(b"a*b*.example.com", b"aabb.example.com") && !matches(b"*", b"api"));
        assert!(!matches(b"xn--*.example.com", b"xn--api.example.com"));
        assert!(!matches(b"api.example.com", b"*.example.com"), "the wildcard is the certificate's");
    }

    #[test]
    fn only_an_exact_matcher_of_dns_names_follows_their_rules() {
        use outrigger_engine::matcher::string::{Pattern, StringMatcher};
        let rule = |san_type, matcher| SubjectAltNameMatcher { san_type, matcher };
        let exact = |text| StringMatcher::Exact(Pattern::new(text, false));
        let wildcard = GeneralName::DNSName("*.example.com");
        assert!(rule_matches(&rule(SanType::Dns, exact("api.example.com")), &wildcard));
        assert!(rule_matches(&rule(SanType::Any, exact("api.example.com")), &wildcard));
        assert!(!rule_matches(&rule(SanType::Uri, exact("api.example.com")), &wildcard));
        let prefix = StringMatcher::Prefix(Pattern::new("api.", false));
        assert!(!rule_matches(&rule(SanType::Dns, prefix), &wildcard));
        let upper = GeneralName::URI("spiffe://EXAMPLE.com");
        assert!(!rule_matches(&rule(SanType::Uri, exact("spiffe://example.com")), &upper));
    }

    #[test]
    fn a_hash_is_sha_256() {
        let hex: String = sha256(b"abc").iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
