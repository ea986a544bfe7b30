//! `/certs`: which certificates are in use, until when.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outrigger_engine::config::tls::CommonTls;
use outrigger_engine::config::value::DataSource;
use outrigger_proto::envoy::admin::v3::subject_alternate_name::Name;
use outrigger_proto::envoy::admin::v3::{Certificate, CertificateDetails, SubjectAlternateName};
use outrigger_proto::prost_types::Timestamp;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::tls::material;

const DAY: u64 = 86_400;

/// Describes what TLS contexts were made from, each source once. What cannot be read is left out: it has stopped the
/// start already.
pub(crate) fn describe<'a>(contexts: impl Iterator<Item = &'a CommonTls>) -> Vec<Arc<Certificate>> {
    let mut seen = HashSet::<(Option<&DataSource>, Option<&DataSource>)>::new();
    let mut described = Vec::new();
    for context in contexts {
        let ca = context.validation.as_ref().and_then(|validation| validation.trusted_ca.as_ref());
        let chains = context.certificates.iter().map(|certificate| Some(&certificate.chain));
        // A context without a certificate of its own may have trust anchors.
        let alone = (context.certificates.is_empty() && ca.is_some()).then_some(None);
        for chain in chains.chain(alone) {
            if !seen.insert((ca, chain)) {
                continue;
            }
            let ca_cert = ca.map(details).unwrap_or_default();
            let cert_chain = chain.map(details).unwrap_or_default();
            described.push(Arc::new(Certificate { ca_cert, cert_chain }));
        }
    }
    described
}

fn details(source: &DataSource) -> Vec<CertificateDetails> {
    let path = match source {
        DataSource::Inline(_) => "<inline>",
        DataSource::File(path) => path,
        DataSource::Environment(_) => "<environment>",
    };
    let read = material::Pem { field: "", source }.certificates();
    read.unwrap_or_default().iter().filter_map(|der| certificate(der, path)).collect()
}

fn certificate(der: &CertificateDer<'_>, path: &str) -> Option<CertificateDetails> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => Some(Name::Uri((*uri).to_owned())),
        GeneralName::DNSName(dns) => Some(Name::Dns((*dns).to_owned())),
        GeneralName::IPAddress(bytes) => Some(Name::IpAddress(ip(bytes)?)),
        _ => None,
    };
    let time = |seconds| Some(Timestamp { seconds, nanos: 0 });
    Some(CertificateDetails {
        path: path.to_owned(),
        serial_number: certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        subject_alt_names: names
            .iter()
            .filter_map(name)
            .map(|name| SubjectAlternateName { name: Some(name) })
            .collect(),
        days_until_expiration: 0,
        valid_from: time(certificate.validity().not_before.timestamp()),
        expiration_time: time(certificate.validity().not_after.timestamp()),
        ocsp_details: None,
    })
}

fn ip(bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| std::net::Ipv4Addr::from(bytes).to_string());
    let v6 = || <[u8; 16]>::try_from(bytes).map(|bytes| std::net::Ipv6Addr::from(bytes).to_string());
    v4.or_else(|_| v6()).ok()
}

/// The certificates with the days that are left of each, 0 for those that have expired.
pub(crate) fn with_days(certificates: &[Arc<Certificate>], now: SystemTime) -> Vec<Certificate> {
    let mut certificates = certificates.iter().map(|certificate| Certificate::clone(certificate)).collect::<Vec<_>>();
    for Certificate { ca_cert, cert_chain } in &mut certificates {
        for details in ca_cert.iter_mut().chain(cert_chain) {
            details.days_until_expiration = days_left(details, now);
        }
    }
    certificates
}

/// The days that are left of the certificate that expires first; Envoy's 2^32-1 where there is none.
pub(crate) fn days_until_first_expires(certificates: &[Arc<Certificate>], now: SystemTime) -> u64 {
    let all = certificates.iter().flat_map(|certificate| certificate.ca_cert.iter().chain(&certificate.cert_chain));
    all.map(|details| days_left(details, now)).min().unwrap_or(u64::from(u32::MAX))
}

fn days_left(details: &CertificateDetails, now: SystemTime) -> u64 {
    let end = details.expiration_time.and_then(|time| u64::try_from(time.seconds).ok()).unwrap_or(0);
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::from_secs(end).saturating_sub(now).as_secs() / DAY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_described_by_what_it_says() {
        let mut parameters =
            rcgen::CertificateParams::new(vec!["app.local".to_owned(), "10.0.0.1".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2026, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2026, 1, 31);
        parameters.serial_number = Some(vec![1, 0xab].into());
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = parameters.self_signed(&key).unwrap().pem();
        let described = details(&DataSource::Inline(pem.into()));
        let [details] = &described[..] else { panic!("{described:?}") };
        assert_eq!((details.path.as_str(), details.serial_number.as_str()), ("<inline>", "01ab"));
        let names = details.subject_alt_names.iter().map(|name| name.name.clone().unwrap()).collect::<Vec<_>>();
        assert_eq!(names, [Name::Dns("app.local".into()), Name::IpAddress("10.0.0.1".into())]);
        let certificates = [Arc::new(Certificate { ca_cert: Vec::new(), cert_chain: described.clone() })];
        // 2026-01-21
        let now = UNIX_EPOCH + Duration::from_secs(1_768_953_600);
        assert_eq!(with_days(&certificates, now)[0].cert_chain[0].days_until_expiration, 10);
        assert_eq!(days_until_first_expires(&certificates, now), 10);
        assert_eq!(days_until_first_expires(&certificates, now + Duration::from_secs(20 * DAY)), 0);
        assert_eq!(days_until_first_expires(&[], now), 4_294_967_295);
    }
}
