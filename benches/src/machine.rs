//! What the bench needs to know of the machine: which cores it may use, and ports that nobody has.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::Context;
use serde::Serialize;

/// Where a process runs.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// The proxy under test, alone.
    Proxy,
    /// Load generators and upstreams.
    Load,
}

/// The two cores of a run; `None` where this process may use only one, and nothing is pinned.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Cores {
    pinned: Option<(usize, usize)>,
}

impl Cores {
    /// The first two cores that this process may use.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let list = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .context("no Cpus_allowed_list in /proc/self/status")?;
        let mut cores = allowed(list.trim());
        Ok(Self { pinned: cores.next().zip(cores.next()) })
    }

    /// The core of a place, if processes are pinned.
    pub(crate) fn of(self, place: Place) -> Option<usize> {
        self.pinned.map(|(proxy, load)| match place {
            Place::Proxy => proxy,
            Place::Load => load,
        })
    }
}

/// The numbers of a list such as `0-3,8`.
fn allowed(list: &str) -> impl Iterator<Item = usize> + '_ {
    let ranges = list.split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=last.parse().ok()?)
    });
    ranges.flatten()
}

/// Ports of 127.0.0.1 that were free a moment ago, all different.
pub(crate) fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    let mut ports = [0; N];
    let mut held = Vec::with_capacity(N);
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_lists() {
        assert_eq!(allowed("0-2,5").collect::<Vec<_>>(), [0, 1, 2, 5]);
        assert_eq!(allowed("7").collect::<Vec<_>>(), [7]);
        assert_eq!(allowed("").count(), 0);
    }
}
