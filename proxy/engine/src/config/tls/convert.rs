//! Conversion of TLS contexts.

use std::sync::Arc;

use outrigger_proto::envoy::config::core::v3 as core;
use outrigger_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use pb::common_tls_context::ValidationContextType;
use pb::downstream_tls_context::SessionTicketKeysType;
use pb::tls_parameters::TlsProtocol;

use super::{
    CertificateValidation, CipherSuite, CommonTls, Curve, DownstreamTls, Made, SanType, SubjectAltNameMatcher,
    TlsCertificate, TlsVersion, UpstreamTls, pem,
};
use crate::config::report::At;
use crate::config::value::DataSource;
use crate::matcher::string::StringMatcher;
use crate::source::base64;
use crate::{harmless, unsupported};

impl DownstreamTls {
    /// Reads the message. `None` where it was rejected.
    pub fn convert(message: pb::DownstreamTlsContext, at: &At<'_>) -> Option<DownstreamTls> {
        let pb::DownstreamTlsContext {
            common_tls_context,
            require_client_certificate,
            require_sni,
            disable_stateful_session_resumption,
            session_timeout,
            ocsp_staple_policy,
            full_scan_certs_on_sni_mismatch,
            prefer_client_ciphers,
            session_ticket_keys_type,
        } = message;
        let problems = at.problem_count();
        unsupported!(at; ocsp_staple_policy);
        harmless!(at;
            full_scan_certs_on_sni_mismatch = "all certificates are looked at",
            session_timeout = "a session can be resumed for 12 hours at most",
        );
        if require_sni == Some(true) {
            at.field("require_sni").reject("true", "not in this version: match server_names");
        }
        let stateless_resumption = match session_ticket_keys_type {
            None => true,
            Some(SessionTicketKeysType::DisableStatelessSessionResumption(disable)) => !disable,
            Some(SessionTicketKeysType::SessionTicketKeys(_)) => {
                at.field("session_ticket_keys").reject("", "not in this version: each process makes its own");
                false
            }
            Some(SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(_)) => {
                at.field("session_ticket_keys_sds_secret_config").reject("", NO_SDS);
                false
            }
        };
        let here = at.field("common_tls_context");
        let common = CommonTls::convert(common_tls_context.unwrap_or_default(), &here);
        if common.certificates.is_empty() && at.problem_count() == problems {
            here.field("tls_certificates").reject("", "must not be empty: a server needs a certificate");
        }
        let require_client_certificate = require_client_certificate.unwrap_or(false);
        if require_client_certificate && common.validation.is_none() && at.problem_count() == problems {
            let reason = "needs a validation_context that says which certificates are accepted";
            at.field("require_client_certificate").reject("true", reason);
        }
        let tls = DownstreamTls {
            common,
            require_client_certificate,
            stateful_resumption: !disable_stateful_session_resumption,
            stateless_resumption,
            prefer_client_ciphers,
            made: Made::default(),
        };
        (at.problem_count() == problems).then_some(tls)
    }
}

impl UpstreamTls {
    /// Reads the message. `None` where it was rejected.
    pub fn convert(message: pb::UpstreamTlsContext, at: &At<'_>) -> Option<UpstreamTls> {
        let pb::UpstreamTlsContext {
            common_tls_context,
            sni,
            auto_host_sni,
            auto_sni_san_validation,
            allow_renegotiation,
            max_session_keys,
            enforce_rsa_key_usage,
        } = message;
        let problems = at.problem_count();
        unsupported!(at;
            auto_host_sni, auto_sni_san_validation, allow_renegotiation = "TLS 1.3 has none, and 1.2 is safer without",
        );
        if enforce_rsa_key_usage == Some(true) {
            at.field("enforce_rsa_key_usage").reject("true", "not in this version");
        }
        if sni.len() > 255 {
            at.field("sni").reject(&sni, "must be at most 255 bytes long");
        }
        let here = at.field("common_tls_context");
        let common = CommonTls::convert(common_tls_context.unwrap_or_default(), &here);
        if common.certificates.len() > 1 {
            here.field("tls_certificates").reject("", "a client has at most one certificate");
        }
        let tls = UpstreamTls {
            common,
            sni: Some(sni).filter(|sni| !sni.is_empty()).map(Arc::from),
            max_session_keys: max_session_keys.unwrap_or(1),
            made: Made::default(),
        };
        (at.problem_count() == problems).then_some(tls)
    }
}

const NO_SDS: &str = "not in this version: secrets are inline or files";
const NO_PROVIDER: &str = "not in this version: certificates are inline or files";

impl CommonTls {
    fn convert(message: pb::CommonTlsContext, at: &At<'_>) -> CommonTls {
        let pb::CommonTlsContext {
            tls_params,
            tls_certificates,
            tls_certificate_sds_secret_configs,
            tls_certificate_provider_instance,
            custom_tls_certificate_selector,
            tls_certificate_certificate_provider,
            tls_certificate_certificate_provider_instance,
            alpn_protocols,
            custom_handshaker,
            key_log,
            validation_context_type,
        } = message;
        unsupported!(at;
            tls_certificate_sds_secret_configs = "secrets are inline or files",
            tls_certificate_provider_instance = "certificates are inline or files",
            custom_tls_certificate_selector,
            tls_certificate_certificate_provider = "certificates are inline or files",
            tls_certificate_certificate_provider_instance = "certificates are inline or files",
            custom_handshaker,
            key_log = "keys are never written down",
        );
        let params = Parameters::convert(tls_params.unwrap_or_default(), &at.field("tls_params"));
        let list = at.field("tls_certificates");
        let certificate = |(index, message)| TlsCertificate::convert(message, &list.index(index));
        CommonTls {
            min_version: params.min_version,
            max_version: params.max_version,
            cipher_suites: params.cipher_suites,
            curves: params.curves,
            alpn: alpn(&alpn_protocols, &at.field("alpn_protocols")),
            certificates: tls_certificates.into_iter().enumerate().filter_map(certificate).collect(),
            validation: validation(validation_context_type, at),
        }
    }
}

/// Envoy writes the list into the handshake joined by commas, so that an element may hold several.
fn alpn(messages: &[String], at: &At<'_>) -> Vec<Arc<[u8]>> {
    let mut protocols = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        for protocol in message.split(',') {
            if protocol.is_empty() || protocol.len() > 255 {
                at.index(index).reject(message, "a protocol's name has 1 to 255 bytes");
            }
            protocols.push(Arc::from(protocol.as_bytes()));
        }
    }
    protocols
}

/// `tls_params`.
struct Parameters {
    min_version: TlsVersion,
    max_version: TlsVersion,
    cipher_suites: Vec<CipherSuite>,
    curves: Vec<Curve>,
}

impl Parameters {
    fn convert(message: pb::TlsParameters, at: &At<'_>) -> Parameters {
        let pb::TlsParameters {
            tls_minimum_protocol_version,
            tls_maximum_protocol_version,
            cipher_suites,
            ecdh_curves,
            signature_algorithms,
            compliance_policies,
        } = message;
        unsupported!(at; signature_algorithms, compliance_policies);
        let version = |value, name, default| match TlsProtocol::try_from(value) {
            Ok(TlsProtocol::TlsAuto) => default,
            Ok(TlsProtocol::TlSv12) => TlsVersion::V1_2,
            Ok(TlsProtocol::TlSv13) => TlsVersion::V1_3,
            Ok(old @ (TlsProtocol::TlSv10 | TlsProtocol::TlSv11)) => {
                at.field(name).reject(old.as_str_name(), "not in this version: the lowest version is TLSv1_2");
                default
            }
            Err(_) => {
                at.field(name).reject(value, "not a value of TlsParameters.TlsProtocol");
                default
            }
        };
        let min_version = version(tls_minimum_protocol_version, "tls_minimum_protocol_version", TlsVersion::V1_2);
        let max_version = version(tls_maximum_protocol_version, "tls_maximum_protocol_version", TlsVersion::V1_3);
        if min_version > max_version {
            at.field("tls_minimum_protocol_version").reject("", "is above tls_maximum_protocol_version");
        }
        Parameters {
            min_version,
            max_version,
            cipher_suites: suites(&cipher_suites, &at.field("cipher_suites")),
            curves: curves(&ecdh_curves, &at.field("ecdh_curves")),
        }
    }
}

fn suites(names: &[String], at: &At<'_>) -> Vec<CipherSuite> {
    let mut suites = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        // [A|B]: of equal rank.
        for one in name.trim_matches(['[', ']']).split('|') {
            suites.extend(match one {
                "ECDHE-ECDSA-AES128-GCM-SHA256" => Some(CipherSuite::EcdheEcdsaAes128Gcm),
                "ECDHE-ECDSA-AES256-GCM-SHA384" => Some(CipherSuite::EcdheEcdsaAes256Gcm),
                "ECDHE-ECDSA-CHACHA20-POLY1305" => Some(CipherSuite::EcdheEcdsaChacha20),
                "ECDHE-RSA-AES128-GCM-SHA256" => Some(CipherSuite::EcdheRsaAes128Gcm),
                "ECDHE-RSA-AES256-GCM-SHA384" => Some(CipherSuite::EcdheRsaAes256Gcm),
                "ECDHE-RSA-CHACHA20-POLY1305" => Some(CipherSuite::EcdheRsaChacha20),
                _ => {
                    at.index(index).reject(
                        one,
                        "not in this version: the suites are ECDHE-{ECDSA,RSA}-{AES128-GCM-SHA256,AES256-GCM-SHA384,CHACHA20-POLY1305}",
                    );
                    None
                }
            });
        }
    }
    suites
}

fn curves(names: &[String], at: &At<'_>) -> Vec<Curve> {
    let convert = |(index, name): (usize, &String)| match name.as_str() {
        "X25519" => Some(Curve::X25519),
        "P-256" => Some(Curve::P256),
        "P-384" => Some(Curve::P384),
        "X25519MLKEM768" => Some(Curve::X25519MlKem768),
        _ => {
            at.index(index).reject(name, "not in this version: the curves are X25519, P-256, P-384, X25519MLKEM768");
            None
        }
    };
    names.iter().enumerate().filter_map(convert).collect()
}

impl TlsCertificate {
    fn convert(message: pb::TlsCertificate, at: &At<'_>) -> Option<TlsCertificate> {
        let pb::TlsCertificate {
            certificate_chain,
            private_key,
            pkcs12,
            watched_directory,
            private_key_provider,
            password,
            ocsp_staple,
            signed_certificate_timestamp,
            tls_params,
        } = message;
        unsupported!(at;
            pkcs12 = "write certificate_chain and private_key", private_key_provider, password,
            ocsp_staple, signed_certificate_timestamp, tls_params,
        );
        harmless!(at; watched_directory = "files are read at start");
        let chain = pem_source(certificate_chain, "CERTIFICATE", &at.field("certificate_chain"));
        let private_key = pem_source(private_key, "PRIVATE KEY", &at.field("private_key"));
        Some(TlsCertificate { chain: chain?, private_key: private_key? })
    }
}

/// PEM that is required; inline, it is looked at.
fn pem_source(message: Option<core::DataSource>, label: &str, at: &At<'_>) -> Option<DataSource> {
    let Some(message) = message else {
        at.reject("", "is required");
        return None;
    };
    let source = DataSource::convert(message, at)?;
    if let DataSource::Inline(text) = &source
        && let Err(reason) = pem::check(text, label)
    {
        at.reject("", reason);
        return None;
    }
    Some(source)
}

fn validation(message: Option<ValidationContextType>, at: &At<'_>) -> Option<CertificateValidation> {
    match message? {
        ValidationContextType::ValidationContext(message) => {
            CertificateValidation::convert(message, &at.field("validation_context"))
        }
        ValidationContextType::ValidationContextSdsSecretConfig(_) => {
            at.field("validation_context_sds_secret_config").reject("", NO_SDS);
            None
        }
        ValidationContextType::CombinedValidationContext(_) => {
            at.field("combined_validation_context").reject("", NO_SDS);
            None
        }
        ValidationContextType::ValidationContextCertificateProvider(_) => {
            at.field("validation_context_certificate_provider").reject("", NO_PROVIDER);
            None
        }
        ValidationContextType::ValidationContextCertificateProviderInstance(_) => {
            at.field("validation_context_certificate_provider_instance").reject("", NO_PROVIDER);
            None
        }
    }
}

impl CertificateValidation {
    /// `None` where it was rejected, and where it has no rule.
    fn convert(message: pb::CertificateValidationContext, at: &At<'_>) -> Option<CertificateValidation> {
        let pb::CertificateValidationContext {
            trusted_ca,
            ca_certificate_provider_instance,
            system_root_certs,
            watched_directory,
            verify_certificate_spki,
            verify_certificate_hash,
            match_typed_subject_alt_names,
            match_subject_alt_names,
            require_signed_certificate_timestamp,
            crl,
            allow_expired_certificate,
            trust_chain_verification,
            custom_validator_config,
            only_verify_leaf_cert_crl,
            max_verify_depth,
            suppress_client_ca_list,
        } = message;
        unsupported!(at;
            ca_certificate_provider_instance = "certificates are inline or files",
            system_root_certs = "name a file in trusted_ca",
            allow_expired_certificate, trust_chain_verification, custom_validator_config, max_verify_depth,
        );
        harmless!(at; watched_directory = "files are read at start");
        if require_signed_certificate_timestamp == Some(true) {
            at.field("require_signed_certificate_timestamp").reject("true", "Envoy has not implemented it");
        }
        let has_trusted_ca = trusted_ca.is_some();
        let trusted_ca =
            trusted_ca.and_then(|message| pem_source(Some(message), "CERTIFICATE", &at.field("trusted_ca")));
        let crl = crl.and_then(|message| pem_source(Some(message), "X509 CRL", &at.field("crl")));
        if crl.is_some() && !has_trusted_ca {
            at.field("crl").reject("", "needs a trusted_ca");
        }
        let subject_alt_names = subject_alt_names(match_typed_subject_alt_names, match_subject_alt_names, at);
        if !subject_alt_names.is_empty() && !has_trusted_ca {
            at.field("match_typed_subject_alt_names")
                .reject("", "needs a trusted_ca: a name that nobody vouches for says nothing");
        }
        let validation = CertificateValidation {
            trusted_ca,
            crl,
            only_verify_leaf_cert_crl,
            subject_alt_names,
            spki_hashes: hashes(&verify_certificate_spki, &at.field("verify_certificate_spki"), |text| {
                base64(text).ok_or("must be base64 of a SHA-256: 44 characters")
            }),
            certificate_hashes: hashes(&verify_certificate_hash, &at.field("verify_certificate_hash"), |text| {
                hex(text).ok_or("must be a SHA-256 in hexadecimal: 64 digits, or 32 pairs with colons")
            }),
            suppress_client_ca_list,
        };
        let has_a_rule = validation.trusted_ca.is_some()
            || !validation.spki_hashes.is_empty()
            || !validation.certificate_hashes.is_empty();
        has_a_rule.then_some(validation)
    }
}

fn hashes(texts: &[String], at: &At<'_>, parse: impl Fn(&str) -> Result<Vec<u8>, &'static str>) -> Vec<[u8; 32]> {
    let mut hashes = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let bytes = parse(text).and_then(|bytes| bytes.try_into().map_err(|_| "must be a SHA-256: 32 bytes"));
        match bytes {
            Ok(hash) => hashes.push(hash),
            Err(reason) => at.index(index).reject(text, reason),
        }
    }
    hashes
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: String = if text.contains(':') { text.split(':').collect() } else { text.to_owned() };
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) || !digits.len().is_multiple_of(2) {
        return None;
    }
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.as_bytes().chunks(2).map(pair).collect()
}

fn subject_alt_names(
    typed: Vec<pb::SubjectAltNameMatcher>,
    untyped: Vec<outrigger_proto::envoy::r#type::matcher::v3::StringMatcher>,
    at: &At<'_>,
) -> Vec<SubjectAltNameMatcher> {
    use pb::subject_alt_name_matcher::SanType as Pb;
    let mut matchers = Vec::with_capacity(typed.len().saturating_add(untyped.len()));
    let list = at.field("match_typed_subject_alt_names");
    for (index, pb::SubjectAltNameMatcher { san_type, matcher, oid }) in typed.into_iter().enumerate() {
        let at = list.index(index);
        unsupported!(at; oid = "it is for OTHER_NAME");
        let san_type = match Pb::try_from(san_type) {
            Ok(Pb::Email) => Some(SanType::Email),
            Ok(Pb::Dns) => Some(SanType::Dns),
            Ok(Pb::Uri) => Some(SanType::Uri),
            Ok(Pb::IpAddress) => Some(SanType::IpAddress),
            Ok(Pb::OtherName) => {
                at.field("san_type").reject("OTHER_NAME", "not in this version");
                None
            }
            Ok(Pb::Unspecified) | Err(_) => {
                at.field("san_type").reject("", "one of EMAIL, DNS, URI, IP_ADDRESS is required");
                None
            }
        };
        let here = at.field("matcher");
        let matcher = match matcher {
            Some(message) => StringMatcher::convert(message, &here),
            None => {
                here.reject("", "is required");
                None
            }
        };
        if let (Some(san_type), Some(matcher)) = (san_type, matcher) {
            matchers.push(SubjectAltNameMatcher { san_type, matcher });
        }
    }
    let list = at.field("match_subject_alt_names");
    for (index, message) in untyped.into_iter().enumerate() {
        let matcher = StringMatcher::convert(message, &list.index(index));
        matchers.extend(matcher.map(|matcher| SubjectAltNameMatcher { san_type: SanType::Any, matcher }));
    }
    matchers
}
