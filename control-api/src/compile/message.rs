//! Small messages that many resources share.

use std::net::SocketAddr;
use std::time::Duration;

use outrigger_proto::envoy::config::core::v3 as core;
use prost::{Message, Name};
use prost_types::Any;

/// An extension's configuration.
pub(crate) fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: message.encode_to_vec() }
}

/// A duration, which came from milliseconds of at most 32 bits.
pub(crate) fn duration(value: Duration) -> Option<prost_types::Duration> {
    let seconds = i64::try_from(value.as_secs()).unwrap_or(i64::MAX);
    Some(prost_types::Duration { seconds, nanos: i32::try_from(value.subsec_nanos()).unwrap_or_default() })
}

/// An address of TCP.
pub(crate) fn address(address: SocketAddr) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(address.port().into())),
            ..Default::default()
        })),
    }
}

/// Resources that come by the stream that all others come by.
pub(crate) fn ads() -> core::ConfigSource {
    core::ConfigSource {
        resource_api_version: core::ApiVersion::V3 as i32,
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {})),
        ..Default::default()
    }
}
