//! `x-forwarded-client-cert`: what the next hop learns of the client's certificate.

use http::HeaderValue;

use super::names::X_FORWARDED_CLIENT_CERT;
use crate::config::hcm::{ClientCertDetails, ForwardClientCert};
use crate::message::Headers;
use crate::stream_info::TlsInfo;

pub(super) fn apply(headers: &mut Headers, tls: Option<&TlsInfo>, mode: ForwardClientCert, details: ClientCertDetails) {
    let peer = tls.and_then(|tls| tls.peer.as_ref());
    let (tls, peer) = match (mode, tls, peer) {
        (ForwardClientCert::AlwaysForwardOnly, ..) => return,
        (ForwardClientCert::Sanitize, ..) | (_, None, _) | (_, _, None) => {
            headers.remove(&X_FORWARDED_CLIENT_CERT);
            return;
        }
        (ForwardClientCert::ForwardOnly, ..) => return,
        (_, Some(tls), Some(peer)) => (tls, peer),
    };
    let mut parts: Vec<String> = tls.local_uri_sans.iter().map(|uri| format!("By={uri}")).collect();
    parts.push(format!("Hash={}", peer.sha256));
    if details.cert {
        parts.push(format!("Cert=\"{}\"", url_encoded_pem(&[&peer.der])));
    }
    if details.chain {
        let chain: Vec<&[u8]> = std::iter::once(&peer.der).chain(&peer.chain).map(Vec::as_slice).collect();
        parts.push(format!("Chain=\"{}\"", url_encoded_pem(&chain)));
    }
    if details.subject {
        parts.push(format!("Subject=\"{}\"", peer.subject.replace('\\', "\\\\").replace('"', "\\\"")));
    }
    if details.uri {
        if peer.uri_sans.is_empty() {
            parts.push("URI=".into());
        }
        parts.extend(peer.uri_sans.iter().map(|uri| format!("URI={uri}")));
    }
    if details.dns {
        parts.extend(peer.dns_sans.iter().map(|dns| format!("DNS={dns}")));
    }
    // A name in a certificate may hold bytes that no header may: then nothing is forwarded rather than a part.
    match HeaderValue::from_str(&parts.join(";")) {
        Ok(value) if mode == ForwardClientCert::AppendForward => headers.join(X_FORWARDED_CLIENT_CERT, ",", value),
        Ok(value) => headers.set(X_FORWARDED_CLIENT_CERT, value),
        Err(_) => _ = headers.remove(&X_FORWARDED_CLIENT_CERT),
    }
}

fn url_encoded_pem(certificates: &[&[u8]]) -> String {
    let mut out = String::new();
    for der in certificates {
        out.push_str("-----BEGIN%20CERTIFICATE-----%0A");
        for line in base64(der).as_bytes().chunks(64) {
            for &b in line {
                match b {
                    b'+' => out.push_str("%2B"),
                    b'/' => out.push_str("%2F"),
                    b'=' => out.push_str("%3D"),
                    b => out.push(char::from(b)),
                }
            }
            out.push_str("%0A");
        }
        out.push_str("-----END%20CERTIFICATE-----%0A");
    }
    out
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
