//! Addresses and address ranges.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use outrigger_proto::envoy::config::core::v3 as core;

use crate::config::listener::Cidr;
use crate::config::report::At;
use crate::stream_info::Address;
use crate::{harmless, unsupported};

/// An address to listen on. `None` where it is missing or was rejected.
pub fn listening_address(message: Option<core::Address>, at: &At<'_>) -> Option<Address> {
    use core::address::Address as Kind;
    match message.and_then(|message| message.address) {
        Some(Kind::SocketAddress(address)) => socket_address(address, &at.field("socket_address")),
        Some(Kind::Pipe(pipe)) => {
            let at = at.field("pipe");
            let mode = pipe.mode;
            harmless!(at; mode = "the socket file has the mode that the process's umask leaves");
            pipe_path(pipe, &at).map(Address::Pipe)
        }
        Some(Kind::EnvoyInternalAddress(_)) => {
            at.field("envoy_internal_address").reject("", "not in this version: there are no internal listeners");
            None
        }
        None => {
            at.reject("", "one of socket_address, pipe is required");
            None
        }
    }
}

/// Bytes of the longest path of a Unix socket: the kernel keeps 108, with the NUL behind it.
const MAX_PIPE_PATH: usize = 107;

/// The path of a Unix socket. `None` where it was rejected.
pub(crate) fn pipe_path(message: core::Pipe, at: &At<'_>) -> Option<Arc<str>> {
    let core::Pipe { path, mode } = message;
    if mode > 0o777 {
        at.field("mode").reject(mode, "must be at most 511 (0777)");
        return None;
    }
    let at = at.field("path");
    match path {
        path if path.is_empty() => at.reject("", "must not be empty"),
        path if path.len() > MAX_PIPE_PATH => {
            at.reject(path, format_args!("the path of a Unix socket has at most {MAX_PIPE_PATH} bytes"));
        }
        path if path.contains('\0') => at.reject(path.escape_debug(), "must not contain NUL"),
        path => return Some(path.into()),
    }
    None
}

/// `ipv4_compat`: whether a socket on this IPv6 address takes IPv4 connections too.
pub fn takes_ipv4(message: &core::Address) -> bool {
    matches!(&message.address, Some(core::address::Address::SocketAddress(address)) if address.ipv4_compat)
}

fn socket_address(message: core::SocketAddress, at: &At<'_>) -> Option<Address> {
    use core::socket_address::{PortSpecifier, Protocol};
    let core::SocketAddress {
        protocol,
        address,
        resolver_name,
        // Of the socket, not of the address: `takes_ipv4`.
        ipv4_compat: _,
        network_namespace_filepath,
        port_specifier,
    } = message;
    unsupported!(at;
        resolver_name = "addresses to listen on are not resolved",
        network_namespace_filepath,
    );
    if protocol != Protocol::Tcp as i32 {
        at.field("protocol").reject("UDP", "not in this version: only TCP is spoken");
        return None;
    }
    let ip = match address.parse::<IpAddr>() {
        Ok(ip) => Some(ip),
        Err(_) => {
            at.field("address").reject(&address, "must be an IP address");
            None
        }
    };
    let port = match port_specifier {
        Some(PortSpecifier::PortValue(port)) => match u16::try_from(port) {
            Ok(port) => Some(port),
            Err(_) => {
                at.field("port_value").reject(port, "must be at most 65535");
                None
            }
        },
        Some(PortSpecifier::NamedPort(name)) => {
            at.field("named_port").reject(name, "not in this version: write port_value");
            None
        }
        None => {
            at.field("port_value").reject("", "is required");
            None
        }
    };
    Some(Address::Ip(SocketAddr::new(ip?, port?)))
}

impl Cidr {
    /// Reads the message; host bits are cleared. `None` where it was rejected.
    pub fn convert(message: core::CidrRange, at: &At<'_>) -> Option<Cidr> {
        let core::CidrRange { address_prefix, prefix_len } = message;
        let Ok(address) = address_prefix.parse::<IpAddr>() else {
            at.field("address_prefix").reject(&address_prefix, "must be an IP address");
            return None;
        };
        let prefix_len = prefix_len.unwrap_or(0);
        if prefix_len > 128 {
            at.field("prefix_len").reject(prefix_len, "must be at most 128");
            return None;
        }
        let prefix_len = u8::try_from(prefix_len).ok()?;
        Some(match address {
            IpAddr::V4(ip) => {
                let prefix_len = prefix_len.min(32);
                let mask = u32::MAX.checked_shl(32u32.saturating_sub(prefix_len.into())).unwrap_or(0);
                Cidr { address: IpAddr::V4((ip.to_bits() & mask).into()), prefix_len }
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128u32.saturating_sub(prefix_len.into())).unwrap_or(0);
                Cidr { address: IpAddr::V6((ip.to_bits() & mask).into()), prefix_len }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::report::Report;

    #[test]
    fn host_bits_are_cleared_and_long_prefixes_of_v4_cut() {
        let report = Report::new();
        let convert = |prefix: &str, len| {
            let message = core::CidrRange { address_prefix: prefix.to_owned(), prefix_len: len };
            Cidr::convert(message, &report.root()).map(|c| format!("{}/{}", c.address, c.prefix_len))
        };
        assert_eq!(convert("10.1.2.3", Some(8)).as_deref(), Some("10.0.0.0/8"));
        assert_eq!(convert("10.1.2.3", Some(64)).as_deref(), Some("10.1.2.3/32"));
        assert_eq!(convert("10.1.2.3", None).as_deref(), Some("0.0.0.0/0"));
        assert_eq!(convert("fd00::1", Some(16)).as_deref(), Some("fd00::/16"));
        assert_eq!(convert("fd00::1", Some(129)), None);
        assert_eq!(convert("x", Some(1)), None);
    }
}
