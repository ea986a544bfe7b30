//! Free ports for programs that are told theirs. They are taken below the range from which the kernel gives ports to
//! outgoing connections, so that one which is free for a moment (the control plane is restarted) is not lost to one of
//! those.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;

/// Below Linux' default range (from 32768), and above what services use.
const RANGE: Range<u16> = 20_000..32_000;

/// Gives each free port once.
#[derive(Debug)]
pub(crate) struct Ports {
    next: u16,
    left: u16,
}

impl Ports {
    /// Demos that run at the same time begin at different places.
    pub(crate) fn new() -> Self {
        let size = RANGE.end - RANGE.start;
        let offset = u16::try_from(std::process::id().wrapping_mul(97) % u32::from(size)).unwrap_or(0);
        Self { next: RANGE.start + offset, left: size }
    }

    /// A port of 127.0.0.1 on which nobody listens.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn take(&mut self) -> Result<SocketAddr, String> {
        while self.left > 0 {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.next));
            self.left -= 1;
            self.next = if self.next + 1 < RANGE.end { self.next + 1 } else { RANGE.start };
            if TcpListener::bind(address).is_ok() {
                return Ok(address);
            }
        }
        Err(format!("no free port from {} to {}", RANGE.start, RANGE.end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice_and_none_that_is_taken() {
        let mut ports = Ports::new();
        let first = ports.take().unwrap();
        let taken: Vec<TcpListener> =
            (1..4).filter_map(|n| TcpListener::bind(("127.0.0.1", first.port() + n)).ok()).collect();
        let next = ports.take().unwrap();
        assert_ne!(next, first);
        assert!(taken.iter().all(|listener| listener.local_addr().unwrap() != next));
    }
}
