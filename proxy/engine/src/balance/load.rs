//! How much of the load each priority gets, by its health: Envoy's arithmetic, in whole percent.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "parts of a hundred and counts of hosts in memory: none is taken off more than there is"
)]

use super::host_set::{HostSet, Member, PriorityHosts};
use crate::config::endpoint::HealthStatus;

/// The load of every priority; healthy and degraded together are 100.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PriorityLoad {
    /// Percent for each priority's healthy hosts (for all of its hosts where it is in panic).
    pub(super) healthy: Box<[u32]>,
    /// Percent for each priority's degraded hosts.
    pub(super) degraded: Box<[u32]>,
    /// Priorities with so few available hosts that all are used.
    pub(super) panic: Box<[bool]>,
}

impl PriorityLoad {
    /// The load by the health of now.
    pub(super) fn new(hosts: &HostSet, panic_threshold: u32) -> Self {
        let count = hosts.priorities.len();
        let health = |list: fn(&PriorityHosts) -> &[Member]| -> Box<[u32]> {
            hosts.priorities.iter().map(|p| availability(hosts, &p.all.members, list(p))).collect()
        };
        let healthy = health(|p| &p.healthy.members);
        let degraded = health(|p| &p.degraded.members);
        let total = healthy.iter().chain(&degraded).sum::<u32>().min(100);

        let in_panic = |p: &PriorityHosts| {
            let all = counted(&p.all.members).count();
            let available = p.healthy.members.len() + p.degraded.members.len();
            100 * (available as u64) < u64::from(panic_threshold) * (all as u64) || (all == 0 && panic_threshold > 0)
        };
        let panic: Box<[bool]> = hosts.priorities.iter().map(|p| total < 100 && in_panic(p)).collect();
        if panic.iter().all(|panic| *panic) {
            return Self::total_panic(hosts, panic);
        }
        if total == 0 {
            // Panic is off and no host is available: the first priority answers that.
            return PriorityLoad { healthy: first_takes_all(count), degraded: vec![0; count].into(), panic };
        }

        let mut left = 100;
        let mut take = |availability: &[u32]| -> Box<[u32]> {
            let share = availability.iter().map(|a| {
                let load = left.min(a * 100 / total);
                left -= load;
                load
            });
            share.collect()
        };
        let mut load = PriorityLoad { healthy: take(&healthy), degraded: take(&degraded), panic };
        // What rounding left over goes to the first that is available.
        let first = |availability: &[u32]| availability.iter().position(|a| *a > 0);
        match (first(&healthy), first(&degraded)) {
            (Some(i), _) => load.healthy.iter_mut().skip(i).take(1).for_each(|l| *l += left),
            (None, Some(i)) => load.degraded.iter_mut().skip(i).take(1).for_each(|l| *l += left),
            (None, None) => {}
        }
        load
    }

    /// Every priority is in panic: load goes by the number of hosts.
    fn total_panic(hosts: &HostSet, panic: Box<[bool]>) -> Self {
        let count = hosts.priorities.len();
        let total = hosts.len();
        let healthy = if total == 0 {
            first_takes_all(count)
        } else {
            let sizes = || hosts.priorities.iter().map(|p| p.all.members.len());
            let mut load: Box<[u32]> = sizes().map(|n| (100 * n / total) as u32).collect();
            let left = 100 - load.iter().sum::<u32>();
            if let Some(first) = sizes().position(|n| n > 0) {
                load.iter_mut().skip(first).take(1).for_each(|l| *l += left);
            }
            load
        };
        PriorityLoad { healthy, degraded: vec![0; count].into(), panic }
    }

    /// The priority for a random number, and whether its degraded hosts are meant.
    pub(super) fn choose(&self, random: u64) -> (usize, bool) {
        let point = (random % 100) as u32;
        let mut sum = 0;
        let loads = self.healthy.iter().map(|l| (l, false)).chain(self.degraded.iter().map(|l| (l, true)));
        for (i, (load, degraded)) in loads.enumerate() {
            sum += load;
            if point < sum {
                return (if degraded { i - self.healthy.len() } else { i }, degraded);
            }
        }
        (0, false)
    }
}

fn first_takes_all(count: usize) -> Box<[u32]> {
    (0..count).map(|i| if i == 0 { 100 } else { 0 }).collect()
}

/// The hosts that make the whole of which others are healthy: those that are told to drain are about to go, and do not
/// make the rest fewer than they should be.
fn counted(all: &[Member]) -> impl Iterator<Item = &Member> {
    all.iter().filter(|member| member.host.status() != HealthStatus::Draining)
}

/// Percent of a priority that `some` of its hosts make, overprovisioning included.
fn availability(hosts: &HostSet, all: &[Member], some: &[Member]) -> u32 {
    let size = |member: &Member| if hosts.weighted_priority_health { u64::from(member.weight) } else { 1 };
    let (some, all): (u64, u64) = (some.iter().map(size).sum(), counted(all).map(size).sum());
    (u64::from(hosts.overprovisioning_factor).saturating_mul(some)).checked_div(all).map_or(0, |p| p.min(100) as u32)
}

#[cfg(test)]
mod tests {
    use super::super::host_set::tests::assignment;
    use super::*;
    use crate::config::endpoint::HealthStatus::{Degraded, Draining, Healthy, Unhealthy};

    /// Load of priorities of 100 hosts each, of which so many are healthy and degraded.
    fn load(priorities: &[(usize, usize)], panic_threshold: u32) -> PriorityLoad {
        let hosts: Vec<Vec<(u32, HealthStatus)>> = priorities
            .iter()
            .map(|(healthy, degraded)| {
                (0..100)
                    .map(|i| match i {
                        i if i < *healthy => (1, Healthy),
                        i if i < healthy + degraded => (1, Degraded),
                        _ => (1, Unhealthy),
                    })
                    .collect()
            })
            .collect();
        let groups: Vec<_> = hosts.iter().enumerate().map(|(p, hosts)| (p as u32, None, &hosts[..])).collect();
        PriorityLoad::new(&HostSet::from_assignment(&assignment(&groups), None), panic_threshold)
    }

    #[test]
    fn two_priorities_share_as_envoy_documents() {
        for (p0, p1, load0, load1) in [
            (100, 100, 100, 0),
            (72, 100, 100, 0),
            (71, 100, 99, 1),
            (50, 100, 70, 30),
            (25, 100, 35, 65),
            (0, 100, 0, 100),
            (72, 72, 100, 0),
            (71, 0, 100, 0),
            (5, 5, 50, 50),
        ] {
            // Panic off: the table is about priorities alone.
            assert_eq!(load(&[(p0, 0), (p1, 0)], 0).healthy[..], [load0, load1], "{p0}% and {p1}%");
        }
    }

    #[test]
    fn degraded_hosts_share_as_envoy_documents() {
        for (p0, p1, healthy, degraded) in [
            ((100, 0), (100, 0), [100, 0], [0, 0]),
            ((71, 0), (0, 29), [99, 0], [0, 1]),
            ((50, 0), (0, 50), [70, 0], [0, 30]),
        ] {
            let load = load(&[p0, p1], 0);
            assert_eq!((&load.healthy[..], &load.degraded[..]), (&healthy[..], &degraded[..]), "{p0:?} {p1:?}");
        }
    }

    #[test]
    fn panic_is_for_priorities_without_enough_hosts_when_all_together_do_not_suffice() {
        assert_eq!(load(&[(40, 0)], 50).panic[..], [true]);
        // 60 % × 1.4 < 100 %, but more than the threshold.
        assert_eq!(load(&[(60, 0)], 50).panic[..], [false]);
        // The second priority makes up for the first.
        assert_eq!(load(&[(30, 0), (100, 0)], 50).panic[..], [false, false]);
        let both = load(&[(30, 0), (20, 0)], 50);
        assert_eq!((&both.panic[..], &both.healthy[..]), (&[true, true][..], &[50, 50][..]));
        let first = load(&[(20, 0), (55, 0)], 50);
        assert_eq!(first.panic[..], [false, false]);
        assert_eq!(load(&[(0, 0)], 0).panic[..], [false]);
    }

    #[test]
    fn hosts_that_drain_do_not_count() {
        let of = |statuses: &[&[HealthStatus]], threshold| {
            let groups: Vec<Vec<_>> =
                statuses.iter().map(|group| group.iter().map(|status| (1, *status)).collect()).collect();
            let groups: Vec<_> = groups.iter().enumerate().map(|(p, hosts)| (p as u32, None, &hosts[..])).collect();
            PriorityLoad::new(&HostSet::from_assignment(&assignment(&groups), None), threshold)
        };
        // Neither is there panic nor does the next priority get a share, for want of those that are about to go.
        let most = of(&[&[Healthy, Draining, Draining], &[Healthy]], 50);
        assert_eq!((&most.panic[..], &most.healthy[..]), (&[false, false][..], &[100, 0][..]));
        // Where nobody else is left they are called, unless panic is off.
        assert_eq!(of(&[&[Draining, Draining]], 1).panic[..], [true]);
        assert_eq!(of(&[&[Draining, Draining]], 0).panic[..], [false]);
        assert_eq!(of(&[&[Healthy, Unhealthy, Unhealthy, Draining]], 50).panic[..], [true]);
    }
}
