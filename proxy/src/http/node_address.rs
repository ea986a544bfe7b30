//! The address that stands for this machine where a client's own says nothing to anybody else: in `x-forwarded-for` of
//! clients on the loopback interface.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

/// The first IPv4 address of this machine that is not a loopback address, as Envoy takes it, or 127.0.0.1. It is looked
/// for once.
pub(super) fn node_address() -> IpAddr {
    static ADDRESS: LazyLock<Ipv4Addr> = LazyLock::new(|| first_address().unwrap_or(Ipv4Addr::LOCALHOST));
    IpAddr::V4(*ADDRESS)
}

fn first_address() -> Option<Ipv4Addr> {
    let mut list = std::ptr::null_mut();
    // SAFETY: `list` is a valid place for the pointer that the call writes.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return None;
    }
    let mut found = None;
    let mut at = list;
    while found.is_none() && !at.is_null() {
        // SAFETY: `at` is an entry of the list, which lives until `freeifaddrs`.
        let entry = unsafe { &*at };
        at = entry.ifa_next;
        if entry.ifa_addr.is_null() {
            continue;
        }
        // SAFETY: an address begins with its family, whatever it is.
        if i32::from(unsafe { (*entry.ifa_addr).sa_family }) == libc::AF_INET {
            // SAFETY: an address of this family is a `sockaddr_in`; it may lie anywhere, so it is copied out.
            let address = unsafe { entry.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned() };
            found = Some(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr))).filter(|ip| !ip.is_loopback());
        }
    }
    // SAFETY: `list` is what `getifaddrs` has given, and nothing points into it any more.
    unsafe { libc::freeifaddrs(list) };
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_an_address_of_this_machine_and_of_no_loopback_interface() {
        let Some(ip) = first_address() else { return };
        assert!(!ip.is_loopback());
        assert!(std::net::UdpSocket::bind((ip, 0)).is_ok(), "{ip} is somebody else's");
    }
}
