//! Who may reach gRPC: whoever does may write policy for the whole mesh, and read all of it.
//!
//! So it fails closed. An address that others than this machine reach is served only if callers show a certificate;
//! less than that has to be asked for by a flag that says what it does.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::Address;
use crate::tls::ServerFiles;

/// Flags of the server about TLS.
#[derive(Clone, Debug, Default, Args)]
pub struct SecureArgs {
    /// PEM file with the certificate that gRPC shows: serve TLS.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the key of --tls-cert.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// PEM file with the authorities that sign for callers: who shows no certificate of theirs is refused.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
    /// Serve TLS on an address that is not loopback to callers without a certificate: whoever reaches it may write.
    #[arg(long)]
    pub allow_anonymous: bool,
    /// Serve plaintext on an address that is not loopback: whoever reaches it may write, and whoever listens may read.
    #[arg(long)]
    pub allow_plaintext: bool,
}

impl SecureArgs {
    /// What the flags say about TLS; `None` for plaintext.
    pub(super) fn files(&self, listen: &Address) -> Result<Option<ServerFiles>, String> {
        let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) else { return Ok(None) };
        if let Address::Unix(path) = listen {
            return Err(format!(
                "--listen unix:{}: TLS is for TCP; a socket file is for its owner alone: leave out --tls-cert",
                path.display()
            ));
        }
        ServerFiles::read(cert.clone(), key.clone(), self.tls_client_ca.clone()).map(Some)
    }

    /// Whether an address may be served so.
    pub(super) fn permits(&self, address: SocketAddr) -> Result<(), String> {
        if address.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        match (&self.tls_cert, &self.tls_client_ca) {
            (Some(_), Some(_)) => Ok(()),
            (Some(_), None) if self.allow_anonymous => Ok(()),
            (None, _) if self.allow_plaintext => Ok(()),
            (Some(_), None) => Err(format!(
                "--listen {address}: callers from other machines would need no certificate, and whoever reaches the \
                 control plane may write policy: name by --tls-client-ca who signs for them, or say --allow-anonymous"
            )),
            (None, _) => Err(format!(
                "--listen {address}: other machines would call it in plaintext, and whoever reaches the control plane may \
                 write policy: give --tls-cert, --tls-key and --tls-client-ca, listen on 127.0.0.1 or unix:PATH, or say \
                 --allow-plaintext"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_reach_needs_certificates_or_a_flag() {
        let file = || Some(PathBuf::from("file"));
        let plain = SecureArgs::default();
        let tls = SecureArgs { tls_cert: file(), tls_key: file(), ..SecureArgs::default() };
        let mutual = SecureArgs { tls_client_ca: file(), ..tls.clone() };
        for address in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(plain.permits(address.parse().unwrap()), Ok(()), "{address}");
        }
        for address in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1"] {
            let address: SocketAddr = address.parse().unwrap();
            assert!(plain.permits(address).unwrap_err().contains("--allow-plaintext"), "{address}");
            assert!(tls.permits(address).unwrap_err().contains("--tls-client-ca"), "{address}");
            assert_eq!(mutual.permits(address), Ok(()));
            // Each flag opens what it says, and no more.
            let anonymous = |args: &SecureArgs| SecureArgs { allow_anonymous: true, ..args.clone() };
            let plaintext = |args: &SecureArgs| SecureArgs { allow_plaintext: true, ..args.clone() };
            assert_eq!(anonymous(&tls).permits(address), Ok(()));
            assert!(anonymous(&plain).permits(address).is_err());
            assert_eq!(plaintext(&plain).permits(address), Ok(()));
            assert!(plaintext(&tls).permits(address).is_err());
        }
    }
}
