//! The hosts of a cluster at one moment: priorities, localities in them, hosts in those. Immutable.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use super::host::{Health, Host};
use crate::config::endpoint::{EndpointAddress, HealthStatus, LoadAssignment, Locality};
use crate::stream_info::Address;

/// The hosts of a cluster. An update makes a new one; a host that is in both is the same object in both.
#[derive(Debug)]
pub struct HostSet {
    /// By priority; never empty, though priority 0 may have no host.
    pub priorities: Box<[PriorityHosts]>,
    /// In percent (140).
    pub overprovisioning_factor: u32,
    /// Health of a priority counts weights instead of hosts.
    pub weighted_priority_health: bool,
}

/// The hosts of one priority.
#[derive(Debug, Default)]
pub struct PriorityHosts {
    /// The localities, in configuration order. The lists below have one range for each.
    pub localities: Box<[LocalityInfo]>,
    /// All hosts, whatever their health.
    pub all: Arc<HostList>,
    /// The healthy ones; the same object as `all` where all are.
    pub healthy: Arc<HostList>,
    /// The degraded ones.
    pub degraded: Arc<HostList>,
}

/// A locality within a priority.
#[derive(Clone, Debug)]
pub struct LocalityInfo {
    /// Where it is.
    pub locality: Arc<Locality>,
    /// Its share; `None` gets nothing where localities are weighted.
    pub weight: Option<u32>,
}

/// Hosts ordered by locality.
#[derive(Debug, Default)]
pub struct HostList {
    /// The hosts.
    pub members: Box<[Member]>,
    /// Where in `members` each locality's hosts are.
    pub localities: Box<[Range<u32>]>,
}

/// A host's place in a host set.
#[derive(Clone, Debug)]
pub struct Member {
    /// The host.
    pub host: Arc<Host>,
    /// Its share, at least 1.
    pub weight: u32,
}

impl HostList {
    /// The hosts of locality `index`; none if there is no such locality.
    pub fn locality(&self, index: usize) -> &[Member] {
        let range = self.localities.get(index).cloned().unwrap_or_default();
        self.members.get(range.start as usize..range.end as usize).unwrap_or_default()
    }

    fn new(localities: impl Iterator<Item = Vec<Member>>) -> Self {
        let position = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        let mut members = Vec::new();
        let localities = localities
            .map(|locality| {
                let start = position(members.len());
                members.extend(locality);
                start..position(members.len())
            })
            .collect();
        HostList { members: members.into(), localities }
    }

    fn filtered(&self, health: Health) -> Self {
        let with = |index| self.locality(index).iter().filter(|m| m.host.health() == health).cloned().collect();
        HostList::new((0..self.localities.len()).map(with))
    }
}

impl Default for HostSet {
    fn default() -> Self {
        HostSetBuilder::new(&LoadAssignment::default(), None).build()
    }
}

impl HostSet {
    /// The hosts of an assignment whose addresses are all known; names in it are left out. `previous` is what the
    /// cluster had: hosts that stay are taken over.
    pub fn from_assignment(assignment: &LoadAssignment, previous: Option<&HostSet>) -> Self {
        let mut builder = HostSetBuilder::new(assignment, previous);
        for (index, group) in assignment.localities.iter().enumerate() {
            for endpoint in &group.endpoints {
                let address = match &endpoint.address {
                    EndpointAddress::Ip(address) => Address::Ip(*address),
                    EndpointAddress::Pipe(path) => Address::Pipe(Arc::clone(path)),
                    EndpointAddress::Name { .. } => continue,
                };
                builder.add(index, address, endpoint.hostname.clone(), endpoint.weight, endpoint.health);
            }
        }
        builder.build()
    }

    /// Every host, by priority and locality.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.priorities.iter().flat_map(|priority| &priority.all.members)
    }

    /// The number of hosts.
    pub fn len(&self) -> usize {
        self.priorities.iter().map(|priority| priority.all.members.len()).sum()
    }

    /// Whether there is no host.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many hosts have `health`.
    pub fn count(&self, health: Health) -> usize {
        self.members().filter(|member| member.host.health() == health).count()
    }
}

/// Gathers hosts, whose localities, priorities and weights an assignment gives, into a [`HostSet`].
#[derive(Debug)]
pub struct HostSetBuilder<'a> {
    assignment: &'a LoadAssignment,
    previous: HashMap<Arc<str>, Arc<Host>>,
    added: HashSet<Arc<str>>,
    groups: Vec<Vec<Member>>,
}

impl<'a> HostSetBuilder<'a> {
    /// An empty one; hosts of `previous` are taken over where they are added again.
    pub fn new(assignment: &'a LoadAssignment, previous: Option<&HostSet>) -> Self {
        let previous = previous.into_iter().flat_map(HostSet::members);
        HostSetBuilder {
            assignment,
            previous: previous.map(|m| (Arc::clone(&m.host.display), Arc::clone(&m.host))).collect(),
            added: HashSet::new(),
            groups: assignment.localities.iter().map(|_| Vec::new()).collect(),
        }
    }

    /// Adds a host to group `index` of the assignment. An address that is there already is left out: the first place
    /// counts, as in Envoy.
    pub fn add(
        &mut self,
        index: usize,
        address: Address,
        hostname: Option<Arc<str>>,
        weight: u32,
        status: HealthStatus,
    ) {
        let Some(group) = self.groups.get_mut(index) else { return };
        let fresh = Host::new(address, hostname, status);
        if !self.added.insert(Arc::clone(&fresh.display)) {
            return;
        }
        let host = match self.previous.get(&fresh.display) {
            Some(host) if host.hostname == fresh.hostname => {
                host.set_status(status);
                Arc::clone(host)
            }
            _ => Arc::new(fresh),
        };
        group.push(Member { host, weight });
    }

    /// The host set.
    pub fn build(self) -> HostSet {
        let LoadAssignment { localities, overprovisioning_factor, weighted_priority_health } = self.assignment;
        let count = localities.iter().map(|group| (group.priority as usize).saturating_add(1)).max().unwrap_or(1);
        let mut priorities: Vec<Vec<(LocalityInfo, Vec<Member>)>> = (0..count).map(|_| Vec::new()).collect();
        for (group, members) in localities.iter().zip(self.groups) {
            let Some(priority) = priorities.get_mut(group.priority as usize) else { continue };
            match priority.iter_mut().find(|(info, _)| info.locality == group.locality) {
                Some((_, same)) => same.extend(members),
                None => {
                    let info = LocalityInfo { locality: Arc::clone(&group.locality), weight: group.weight };
                    priority.push((info, members));
                }
            }
        }
        HostSet {
            priorities: priorities.into_iter().map(PriorityHosts::new).collect(),
            overprovisioning_factor: *overprovisioning_factor,
            weighted_priority_health: *weighted_priority_health,
        }
    }
}

impl PriorityHosts {
    fn new(localities: Vec<(LocalityInfo, Vec<Member>)>) -> Self {
        let (localities, members): (Vec<_>, Vec<_>) = localities.into_iter().unzip();
        let all = Arc::new(HostList::new(members.into_iter()));
        let all_healthy = all.members.iter().all(|member| member.host.health() == Health::Healthy);
        let (healthy, degraded) = if all_healthy {
            (Arc::clone(&all), Arc::default())
        } else {
            (Arc::new(all.filtered(Health::Healthy)), Arc::new(all.filtered(Health::Degraded)))
        };
        PriorityHosts { localities: localities.into(), all, healthy, degraded }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::endpoint::{Endpoint, LocalityEndpoints};

    /// Priority, locality weight, and weight and status of each host.
    pub(in crate::balance) type Group<'a> = (u32, Option<u32>, &'a [(u32, HealthStatus)]);

    /// Hosts are 10.0.<group>.<index>:80.
    pub(in crate::balance) fn assignment(groups: &[Group<'_>]) -> LoadAssignment {
        let localities = groups.iter().enumerate().map(|(g, (priority, weight, hosts))| LocalityEndpoints {
            locality: Arc::new(Locality { zone: format!("zone-{g}").into(), ..Default::default() }),
            priority: *priority,
            weight: *weight,
            endpoints: hosts
                .iter()
                .enumerate()
                .map(|(i, (weight, health))| Endpoint {
                    address: EndpointAddress::Ip(([10, 0, g as u8, i as u8], 80).into()),
                    hostname: None,
                    weight: *weight,
                    health: *health,
                })
                .collect(),
        });
        LoadAssignment { localities: localities.collect(), ..Default::default() }
    }

    #[test]
    fn a_host_that_stays_is_the_same_object() {
        use HealthStatus::{Draining, Healthy};
        let first = HostSet::from_assignment(&assignment(&[(0, None, &[(1, Healthy), (1, Healthy)])]), None);
        let hosts: Vec<_> = first.members().map(|m| Arc::clone(&m.host)).collect();
        let second = HostSet::from_assignment(
            &assignment(&[(1, None, &[(5, Draining), (1, Healthy), (1, Healthy)])]),
            Some(&first),
        );
        let moved: Vec<_> = second.members().collect();
        assert!(Arc::ptr_eq(&hosts[0], &moved[0].host) && Arc::ptr_eq(&hosts[1], &moved[1].host));
        assert_eq!((moved[0].weight, moved[0].host.status()), (5, Draining));
        assert!(second.priorities[0].all.members.is_empty());
        assert_eq!(second.priorities[1].healthy.members.len(), 2);
    }

    #[test]
    fn an_address_counts_once_and_its_first_place_holds() {
        use HealthStatus::Healthy;
        let mut twice = assignment(&[(0, None, &[(3, Healthy)]), (1, None, &[(1, Healthy)])]);
        twice.localities[1].endpoints = twice.localities[0].endpoints.clone();
        let set = HostSet::from_assignment(&twice, None);
        assert_eq!(set.len(), 1);
        assert_eq!(set.priorities[0].all.members[0].weight, 3);
    }
}
