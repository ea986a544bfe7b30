//! Certificates for one run: made when needed, never in the tree, so that none expires.

use std::sync::{Arc, OnceLock};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// A certificate and its key in PEM.
#[derive(Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

/// An authority with a server's and a client's identity.
#[derive(Debug)]
pub struct Material {
    /// The authority's certificate in PEM.
    pub authority: String,
    /// The certificate in PEM of an authority that issued only `stranger`.
    pub stranger_authority: String,
    /// For `server.test`, `*.wildcard.test` and 127.0.0.1.
    pub server: Identity,
    /// For `spiffe://cluster.test/ns/demo/sa/client`.
    pub client: Identity,
    /// By an authority that nobody trusts.
    pub stranger: Identity,
}

/// The material of this process.
///
/// # Panics
/// Where no certificate can be made.
pub fn material() -> &'static Material {
    static MATERIAL: OnceLock<Material> = OnceLock::new();
    MATERIAL.get_or_init(|| {
        let (authority, issuer) = authority("outrigger tests");
        let (stranger_authority, other) = self::authority("nobody");
        let spiffe = SanType::URI("spiffe://cluster.test/ns/demo/sa/client".try_into().expect("an ASCII URI"));
        Material {
            authority,
            stranger_authority,
            server: issue(
                &issuer,
                vec![
                    SanType::DnsName("server.test".try_into().expect("an ASCII name")),
                    SanType::DnsName("*.wildcard.test".try_into().expect("an ASCII name")),
                    SanType::IpAddress([127, 0, 0, 1].into()),
                ],
            ),
            client: issue(&issuer, vec![spiffe.clone()]),
            stranger: issue(&other, vec![spiffe]),
        }
    })
}

fn authority(name: &str) -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).expect("a certificate").pem();
    (certificate, Issuer::new(params, key))
}

fn issue(issuer: &Issuer<'_, KeyPair>, names: Vec<SanType>) -> Identity {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.subject_alt_names = names;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, issuer).expect("a certificate");
    Identity { certificate: certificate.pem(), key: key.serialize_pem() }
}

fn roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(certificates(&material().authority).remove(0)).expect("our own authority");
    roots
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(|c| c.expect("PEM that we made")).collect()
}

fn key(identity: &Identity) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("PEM that we made")
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A client that trusts our authority, offers `alpn` and shows `identity`.
///
/// # Panics
/// Where rustls refuses material that we made.
pub fn client_config(alpn: &[&str], identity: Option<&Identity>) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions of the provider")
        .with_root_certificates(roots());
    let mut config = match identity {
        Some(identity) => builder
            .with_client_auth_cert(certificates(&identity.certificate), key(identity))
            .expect("an identity that we made"),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// A server that shows `server.test`, takes `alpn` and asks for no client certificate.
///
/// # Panics
/// Where rustls refuses material that we made.
pub fn server_config(alpn: &[&str]) -> Arc<ServerConfig> {
    let server = &material().server;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions of the provider")
        .with_no_client_auth()
        .with_single_cert(certificates(&server.certificate), key(server))
        .expect("an identity that we made");
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    Arc::new(config)
}
