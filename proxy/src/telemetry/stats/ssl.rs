//! `ssl.` of a listener or of a cluster.

use std::sync::OnceLock;

use super::metric::Counter;
use super::scope::{Merge, Value};

macro_rules! ssl_stats {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What happened in TLS handshakes.
        #[derive(Debug, Default)]
        pub struct SslCounters {
            $($(#[$doc])* pub $name: Counter,)*
        }

        impl SslStats {
            pub(super) fn merge<'a>(shards: impl Iterator<Item = &'a SslStats>, out: &mut Merge<'_>) {
                let shards = shards.filter_map(|SslStats(shard)| shard.get()).collect::<Vec<_>>();
                if shards.is_empty() {
                    return;
                }
                $(out.sample(
                    concat!("ssl.", stringify!($name)).into(),
                    Value::Counter(shards.iter().fold(0u64, |sum, shard| sum.wrapping_add(shard.$name.get()))),
                );)*
            }
        }
    };
}

/// Made at the first handshake: most clusters and listeners of a mesh's edge have none.
#[derive(Debug, Default)]
pub struct SslStats(OnceLock<Box<SslCounters>>);

impl std::ops::Deref for SslStats {
    type Target = SslCounters;

    fn deref(&self) -> &SslCounters {
        self.0.get_or_init(Box::default)
    }
}

ssl_stats! {
    /// Handshakes that failed for any reason but verification.
    connection_error,
    /// Handshakes that succeeded.
    handshake,
    /// Handshakes that resumed a session.
    session_reused,
    /// Handshakes in which the client presented no certificate.
    no_certificate,
    /// Handshakes that failed because a certificate was required and none presented.
    fail_verify_no_cert,
    /// Handshakes that failed because the certificate did not verify.
    fail_verify_error,
    /// Handshakes that failed because no SAN matched.
    fail_verify_san,
    /// Handshakes that failed because the pinned certificate was another.
    fail_verify_cert_hash,
}
