//! One worker's way of choosing hosts of one cluster.

use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use super::ClusterState;
use super::edf::Schedule;
use super::host::Host;
use super::host_set::{HostList, HostSet, Member, PriorityHosts};
use super::load::PriorityLoad;
use crate::config::cluster::{Cluster, LbPolicy};

/// The most that [`PickContext::max_reselections`] counts for: a configuration may say billions, and where every host
/// is one to avoid, a worker would look that often.
const MAX_RESELECTIONS: u32 = 1000;

/// Chooses hosts for one worker. Follows the cluster's host set by itself: a change costs the next pick one pass over
/// the priorities, and the first pick from a list of hosts one pass over it. A pick is O(1), with unequal weights
/// O(log n), and allocates nothing.
#[derive(Debug)]
pub struct Picker {
    config: Arc<Cluster>,
    newest: Cache<Arc<ArcSwap<HostSet>>, Arc<HostSet>>,
    hosts: Arc<HostSet>,
    load: PriorityLoad,
    priorities: Vec<PriorityState>,
    /// Where each rotation starts, so that workers and restarts do not all begin with the first host.
    seed: u64,
    panicked: bool,
}

/// What a request says about the pick.
#[derive(Clone, Copy, Debug, Default)]
pub struct PickContext<'a> {
    /// 64 random bits.
    pub random: u64,
    /// Ids of hosts that earlier attempts used and that are to be avoided.
    pub avoid: &'a [u64],
    /// How often another host is looked for when one to avoid comes up, up to 1000; then that one is taken.
    pub max_reselections: u32,
}

/// No host can be used: none is there, or none is healthy and panic is off. Answered by 503 with flag `UH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no healthy upstream")]
pub struct NoHost;

/// The state of a priority: one rotation for each list of hosts that may be asked for.
#[derive(Debug, Default)]
struct PriorityState {
    all: Rotation,
    healthy: Localities,
    degraded: Localities,
}

#[derive(Debug, Default)]
struct Localities {
    whole: Rotation,
    by_locality: Vec<Rotation>,
    /// Chooses the locality, where localities are weighted and one has a weight.
    schedule: Option<(Schedule, Box<[f64]>)>,
}

#[derive(Debug, Default)]
struct Rotation {
    next: u64,
    order: Order,
}

#[derive(Debug, Default)]
enum Order {
    /// Not looked at since the hosts changed.
    #[default]
    Unknown,
    /// All weights are equal.
    Equal,
    /// By weight.
    Weighted(Schedule),
}

impl Picker {
    /// A picker for the cluster's hosts of now and later.
    pub fn new(cluster: &ClusterState, seed: u64) -> Self {
        let mut newest = Cache::new(Arc::clone(&cluster.hosts));
        let hosts = Arc::clone(newest.load());
        let config = Arc::clone(&cluster.config);
        let mut picker = Picker {
            config,
            newest,
            hosts,
            load: PriorityLoad::default(),
            priorities: Vec::new(),
            seed,
            panicked: false,
        };
        picker.rebuild();
        picker
    }

    /// Takes over the cluster's hosts of now. A pick does so by itself; where no request comes, this lets the old ones
    /// go.
    pub fn follow(&mut self) {
        let newest = self.newest.load();
        if !Arc::ptr_eq(newest, &self.hosts) {
            self.hosts = Arc::clone(newest);
            self.rebuild();
        }
    }

    /// The host for one attempt.
    pub fn pick(&mut self, context: &PickContext<'_>) -> Result<&Arc<Host>, NoHost> {
        self.follow();
        self.panicked = false;
        let mut random = Random(context.random);
        let mut reselections = context.max_reselections.min(MAX_RESELECTIONS);
        loop {
            let (priority, source, index) = self.pick_once(&mut random).ok_or(NoHost)?;
            let members = |hosts: &'_ PriorityHosts| source.list(hosts).members.get(index).map(|m| m.host.id);
            let id = self.hosts.priorities.get(priority).and_then(members).ok_or(NoHost)?;
            if reselections == 0 || !context.avoid.contains(&id) {
                let list = self.hosts.priorities.get(priority).map(|hosts| source.list(hosts));
                return list.and_then(|list| list.members.get(index)).map(|m| &m.host).ok_or(NoHost);
            }
            reselections = reselections.saturating_sub(1);
        }
    }

    /// Whether the last pick met a priority in panic, whose hosts are all taken for healthy.
    pub fn panicked(&self) -> bool {
        self.panicked
    }

    /// A priority, which of its lists, and the index in it.
    fn pick_once(&mut self, random: &mut Random) -> Option<(usize, Source, usize)> {
        let (priority, degraded) = self.load.choose(random.next());
        let hosts = self.hosts.priorities.get(priority)?;
        let state = self.priorities.get_mut(priority)?;
        let policy = self.config.load_balancing.policy;
        if self.load.panic.get(priority).copied().unwrap_or(false) {
            self.panicked = true;
            if self.config.load_balancing.fail_traffic_on_panic {
                return None;
            }
            let index = state.all.pick(policy, &hosts.all.members, random)?;
            return Some((priority, Source::All, index));
        }
        let source = if degraded { Source::Degraded } else { Source::Healthy };
        let list = source.list(hosts);
        let state = if degraded { &mut state.degraded } else { &mut state.healthy };
        let index = match &mut state.schedule {
            Some((schedule, weights)) => {
                let locality = schedule.pick(|i| weights.get(i).copied().unwrap_or(0.0))?;
                let start = list.localities.get(locality)?.start as usize;
                let index = state.by_locality.get_mut(locality)?.pick(policy, list.locality(locality), random)?;
                start.checked_add(index)?
            }
            None => state.whole.pick(policy, &list.members, random)?,
        };
        Some((priority, source, index))
    }

    /// Takes up a new host set. Rotations go on where they were.
    fn rebuild(&mut self) {
        self.load = PriorityLoad::new(&self.hosts, self.config.load_balancing.panic_threshold);
        let locality_weighted = self.config.load_balancing.locality_weighted;
        let seed = self.seed;
        let count = self.hosts.priorities.len();
        self.priorities.resize_with(count, || PriorityState {
            all: Rotation::new(seed),
            healthy: Localities { whole: Rotation::new(seed), ..Default::default() },
            degraded: Localities { whole: Rotation::new(seed), ..Default::default() },
        });
        for (state, hosts) in self.priorities.iter_mut().zip(&self.hosts.priorities) {
            let factor = self.hosts.overprovisioning_factor;
            state.all.order = Order::Unknown;
            state.healthy.rebuild(hosts, &hosts.healthy, locality_weighted.then_some(factor), seed);
            state.degraded.rebuild(hosts, &hosts.degraded, locality_weighted.then_some(factor), seed);
        }
    }
}

/// Which list of a priority's hosts.
#[derive(Clone, Copy)]
enum Source {
    All,
    Healthy,
    Degraded,
}

impl Source {
    fn list(self, hosts: &PriorityHosts) -> &HostList {
        match self {
            Source::All => &hosts.all,
            Source::Healthy => &hosts.healthy,
            Source::Degraded => &hosts.degraded,
        }
    }
}

impl Localities {
    /// `overprovisioning_factor` is there if localities are weighted.
    fn rebuild(
        &mut self,
        hosts: &PriorityHosts,
        available: &HostList,
        overprovisioning_factor: Option<u32>,
        seed: u64,
    ) {
        self.whole.order = Order::Unknown;
        self.schedule = None;
        let Some(factor) = overprovisioning_factor else { return };
        let weights: Box<[f64]> = (0..hosts.localities.len())
            .map(|i| {
                let weight = hosts.localities.get(i).and_then(|l| l.weight).unwrap_or(0);
                let all = hosts.all.locality(i).len();
                let ratio = if all == 0 { 0.0 } else { available.locality(i).len() as f64 / all as f64 };
                f64::from(weight) * (f64::from(factor) / 100.0 * ratio).min(1.0)
            })
            .collect();
        if weights.iter().any(|weight| *weight > 0.0) {
            self.schedule = Some((Schedule::new(weights.iter().copied()), weights));
            self.by_locality.resize_with(hosts.localities.len(), || Rotation::new(seed));
            self.by_locality.iter_mut().for_each(|rotation| rotation.order = Order::Unknown);
        }
    }
}

impl Rotation {
    fn new(seed: u64) -> Self {
        Rotation { next: seed, order: Order::Unknown }
    }

    /// An index into `members`, which is the list that this rotation belongs to.
    fn pick(&mut self, policy: LbPolicy, members: &[Member], random: &mut Random) -> Option<usize> {
        if members.is_empty() {
            return None;
        }
        if matches!(policy, LbPolicy::Random) {
            return Some(random.below(members.len()));
        }
        if matches!(self.order, Order::Unknown) {
            self.order = Order::new(policy, members, self.next);
        }
        match (&mut self.order, policy) {
            (Order::Weighted(schedule), _) => {
                schedule.pick(|i| members.get(i).map_or(0.0, |member| effective_weight(policy, member)))
            }
            // More choices than members would look at some of them twice: one look at each costs less and finds the
            // same.
            (_, LbPolicy::LeastRequest { full_scan, choices, .. }) if full_scan || choices as usize > members.len() => {
                // Ties are broken by chance: start anywhere.
                let start = random.below(members.len());
                (start..members.len()).chain(0..start).min_by_key(|i| active(members, *i))
            }
            (_, LbPolicy::LeastRequest { choices, .. }) => {
                (0..choices).map(|_| random.below(members.len())).min_by_key(|i| active(members, *i))
            }
            _ => {
                let index = self.next.checked_rem(members.len() as u64)?;
                self.next = self.next.wrapping_add(1);
                usize::try_from(index).ok()
            }
        }
    }
}

impl Order {
    fn new(policy: LbPolicy, members: &[Member], start: u64) -> Self {
        let first = members.first().map(|member| member.weight);
        if members.iter().all(|member| Some(member.weight) == first) {
            return Order::Equal;
        }
        let mut schedule = Schedule::new(members.iter().map(|member| effective_weight(policy, member)));
        for _ in 0..start.checked_rem(members.len() as u64).unwrap_or(0) {
            schedule.pick(|i| members.get(i).map_or(0.0, |member| effective_weight(policy, member)));
        }
        Order::Weighted(schedule)
    }
}

fn active(members: &[Member], index: usize) -> u32 {
    members.get(index).map_or(u32::MAX, |member| member.host.active_requests())
}

/// With unequal weights, least request divides a weight by the requests under way.
fn effective_weight(policy: LbPolicy, member: &Member) -> f64 {
    let weight = f64::from(member.weight);
    match policy {
        LbPolicy::LeastRequest { active_request_bias: bias, .. } => {
            let active = f64::from(member.host.active_requests()) + 1.0;
            weight / if bias == 1.0 { active } else { active.powf(bias) }
        }
        LbPolicy::RoundRobin | LbPolicy::Random => weight,
    }
}

/// A stream of random numbers from 64 random bits (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the upper half of 128 bits")]
    fn below(&mut self, n: usize) -> usize {
        // The upper half of the product: no division, and no bias that n hosts could show.
        (u128::from(self.next()).wrapping_mul(n as u128) >> 64) as usize
    }
}

#[cfg(test)]
#[path = "picker_tests.rs"]
mod tests;
