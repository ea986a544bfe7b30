//! Names become hosts: `STRICT_DNS` and `LOGICAL_DNS`.
//!
//! Every name of a cluster is a task on the control thread, which asks, publishes the hosts, and sleeps until the
//! answer is stale. What a server *says* counts, also that there is no such name; that a server says nothing (or that
//! it failed) changes nothing: the hosts stay as they were, those of one family if the server failed only for that one.
//! All clusters that ask the same servers share one resolver, and only so many queries are under way at a time.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use outrigger_engine::balance::{ClusterState, HostSet, HostSetBuilder};
use outrigger_engine::config::cluster::{Discovery, Dns, DnsFamily};
use outrigger_engine::config::endpoint::EndpointAddress;
use outrigger_engine::stream_info::Address;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::spawn_local;
use tokio::time::sleep;

use crate::telemetry::stats::{ClusterStats, Scope, Stats};
use crate::worker::{Command, Workers};

/// Look-ups under way at a time.
const CONCURRENCY: usize = 64;

/// Resolves the names of clusters. Belongs to one thread.
#[derive(Debug)]
pub struct DnsResolver {
    /// By the servers that are asked (none for the system's) and whether by TCP.
    resolvers: RefCell<HashMap<(Box<[SocketAddr]>, bool), Rc<TokioResolver>>>,
    /// `/etc/hosts`.
    hosts: Hosts,
    slots: Semaphore,
    random: Cell<u64>,
    workers: Workers,
}

/// What a name stands for now.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    /// In the order of the answer; empty if there is no such name, or no address of the family.
    addresses: Vec<IpAddr>,
    /// The shortest of the records'.
    ttl: Option<Duration>,
}

/// Resolves when every name has had its first answer, or failed.
#[derive(Debug)]
pub struct FirstAnswers(mpsc::Receiver<()>);

impl FirstAnswers {
    /// Waits for them.
    pub async fn ready(mut self) {
        // Nothing is ever sent: the channel closes when the last task has let go of its end.
        _ = self.0.recv().await;
    }
}

impl DnsResolver {
    /// A resolver that has asked nobody yet. `seed` makes the jitter of processes differ; `workers` hear of hosts that
    /// left.
    pub fn new(seed: u64, workers: Workers) -> Rc<Self> {
        Rc::new(DnsResolver {
            resolvers: RefCell::default(),
            hosts: Hosts::from_system().unwrap_or_default(),
            slots: Semaphore::new(CONCURRENCY),
            random: Cell::new(seed),
            workers,
        })
    }

    /// Resolves the names of `clusters` from now on, each as long as its cluster lives. Addresses among them are hosts
    /// at once.
    pub fn start<'c>(
        self: &Rc<Self>,
        clusters: impl Iterator<Item = &'c Arc<ClusterState>>,
        stats: &Stats,
    ) -> FirstAnswers {
        let (first, answers) = mpsc::channel(1);
        for cluster in clusters {
            if let Some(names) = Names::new(cluster, stats, &self.workers) {
                names.publish();
                let waits = cluster.config.wait_for_warm_on_init.then(|| first.clone());
                for index in 0..names.targets.len() {
                    spawn_local(self.clone().keep_resolved(names.clone(), index, waits.clone()));
                }
            }
        }
        FirstAnswers(answers)
    }

    async fn keep_resolved(self: Rc<Self>, names: Rc<Names>, index: usize, mut first: Option<mpsc::Sender<()>>) {
        let mut failures = 0;
        loop {
            let delay = {
                let Some(cluster) = names.cluster.upgrade() else { return };
                let (Some(dns), Some(target)) = (dns_of(&cluster), names.targets.get(index)) else { return };
                names.stats.shared.update_attempt.inc();
                // Boxed, because a task spends its life asleep: a look-up's state is large.
                let outcome = Box::pin(self.look_up(dns, target)).await;
                match outcome {
                    Ok(answer) => {
                        failures = 0;
                        names.stats.shared.update_success.inc();
                        let ttl = answer.ttl;
                        names.set(index, answer.addresses);
                        self.after_success(dns, ttl)
                    }
                    Err(error) => {
                        tracing::debug!(target: "dns", cluster = &*cluster.config.name, "{}: {error}", target.host);
                        names.stats.shared.update_failure.inc();
                        failures += 1;
                        self.after_failure(dns, failures)
                    }
                }
            };
            drop(first.take());
            sleep(delay).await;
        }
    }

    /// Asks for the addresses of `target`. An error says that nobody knows.
    async fn look_up(&self, dns: &Dns, target: &Target) -> Result<Answer, NetError> {
        let name = Name::from_utf8(&target.host).map_err(|_| NetError::Message("not a domain name"))?;
        let local = |kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind));
        let (v4, v6) = (local(RecordType::A), local(RecordType::AAAA));
        if v4.is_some() || v6.is_some() {
            let addresses = |lookup: Option<hickory_resolver::lookup::Lookup>| {
                lookup.iter().flat_map(|l| l.answers().iter().filter_map(|r| r.data.ip_addr())).collect()
            };
            let answer = |lookup| Ok(Answer { addresses: addresses(lookup), ttl: None });
            return merge(dns.family, answer(v4), answer(v6), &[]);
        }
        // A semaphore that nobody closes always gives a permit.
        let _slot = self.slots.acquire().await;
        let resolver = self.resolver(dns)?;
        let (v4, v6) = tokio::join!(
            ask(&resolver, &name, RecordType::A, dns.family != DnsFamily::V6Only),
            ask(&resolver, &name, RecordType::AAAA, dns.family != DnsFamily::V4Only),
        );
        merge(dns.family, v4, v6, &target.addresses.borrow())
    }

    fn resolver(&self, dns: &Dns) -> Result<Rc<TokioResolver>, NetError> {
        let key = (dns.resolvers.clone(), dns.use_tcp);
        if let Some(resolver) = self.resolvers.borrow().get(&key) {
            return Ok(resolver.clone());
        }
        let provider = TokioRuntimeProvider::default();
        let mut builder = if dns.resolvers.is_empty() {
            TokioResolver::builder(provider.clone()).unwrap_or_else(|error| {
                // As libc does: without a configuration a server on this machine is asked.
                tracing::warn!(target: "dns", "no system configuration, asking 127.0.0.1: {error}");
                let local = server(SocketAddr::from(([127, 0, 0, 1], 53)), dns.use_tcp);
                TokioResolver::builder_with_config(ResolverConfig::from_name_servers(vec![local]), provider)
            })
        } else {
            let servers = dns.resolvers.iter().map(|address| server(*address, dns.use_tcp)).collect();
            TokioResolver::builder_with_config(ResolverConfig::from_name_servers(servers), provider)
        };
        let options = builder.options_mut();
        // How long an answer holds is decided here, and /etc/hosts has been looked at.
        options.cache_size = 0;
        // Both families of every look-up under way may share one TCP connection.
        options.max_active_requests = 2 * CONCURRENCY;
        options.use_hosts_file = ResolveHosts::Never;
        let resolver = Rc::new(builder.build()?);
        self.resolvers.borrow_mut().insert(key, resolver.clone());
        Ok(resolver)
    }

    fn after_success(&self, dns: &Dns, ttl: Option<Duration>) -> Duration {
        // A TTL of zero means "do not keep it", not "ask without end".
        let ttl = ttl.filter(|ttl| dns.respect_ttl && !ttl.is_zero());
        ttl.map_or(dns.refresh_rate, |ttl| ttl.max(dns.min_refresh_rate)) + self.share(dns.jitter)
    }

    fn after_failure(&self, dns: &Dns, failures: u32) -> Duration {
        match dns.failure_refresh_rate {
            None => dns.refresh_rate + self.share(dns.jitter),
            Some((base, max)) => {
                let doubled = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
                let upper = base.saturating_mul(doubled).min(max);
                // Jittered, but never without a pause.
                upper / 2 + self.share(upper / 2)
            }
        }
    }

    /// A random part of `whole`.
    fn share(&self, whole: Duration) -> Duration {
        // xorshift64*: nothing here needs more than spreading.
        let mut x = self.random.get() | 1;
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        let random = x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        whole.mul_f64(random as f64 / (1u64 << 53) as f64)
    }
}

fn server(address: SocketAddr, use_tcp: bool) -> NameServerConfig {
    let connection = |protocol| {
        let mut connection = ConnectionConfig::new(protocol);
        connection.port = address.port();
        connection
    };
    let mut connections = vec![connection(ProtocolConfig::Tcp)];
    if !use_tcp {
        // Too long an answer comes by TCP.
        connections.insert(0, connection(ProtocolConfig::Udp));
    }
    NameServerConfig::new(address.ip(), true, connections)
}

/// Asks for one family's addresses; none are there if it is not wanted.
async fn ask(resolver: &TokioResolver, name: &Name, kind: RecordType, wanted: bool) -> Result<Answer, NetError> {
    if !wanted {
        return Ok(Answer { addresses: Vec::new(), ttl: None });
    }
    match resolver.lookup(name.clone(), kind).await {
        Ok(lookup) => {
            let records = || lookup.answers().iter();
            Ok(Answer {
                addresses: records().filter_map(|record| record.data.ip_addr()).collect(),
                ttl: records().map(|record| Duration::from_secs(record.ttl.into())).min(),
            })
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none)))
            if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError) =>
        {
            let ttl = none.negative_ttl.map(|seconds| Duration::from_secs(seconds.into()));
            Ok(Answer { addresses: Vec::new(), ttl })
        }
        Err(error) => Err(error),
    }
}

/// What `family` makes of the two answers, where the addresses were those of `before`. A failure counts only where the
/// other answer does not do.
fn merge(
    family: DnsFamily,
    v4: Result<Answer, NetError>,
    v6: Result<Answer, NetError>,
    before: &[IpAddr],
) -> Result<Answer, NetError> {
    let prefer = |first: Result<Answer, NetError>, second: Result<Answer, NetError>| match first {
        Ok(answer) if !answer.addresses.is_empty() => Ok(answer),
        // Whether the preferred family has addresses is not known: those of the other do for now.
        Err(error) => second.ok().filter(|answer| !answer.addresses.is_empty()).ok_or(error),
        Ok(_) => second,
    };
    match family {
        DnsFamily::V4Only => v4,
        DnsFamily::V6Only => v6,
        DnsFamily::Auto => prefer(v6, v4),
        DnsFamily::V4Preferred => prefer(v4, v6),
        DnsFamily::All => match (v4, v6) {
            (Ok(mut v4), Ok(v6)) => {
                v4.addresses.extend(v6.addresses);
                v4.ttl = [v4.ttl, v6.ttl].into_iter().flatten().min();
                Ok(v4)
            }
            (Ok(v4), Err(error)) => with_kept(v4, before.iter().filter(|ip| ip.is_ipv6()), error),
            (Err(error), Ok(v6)) => with_kept(v6, before.iter().filter(|ip| ip.is_ipv4()), error),
            (Err(error), Err(_)) => Err(error),
        },
    }
}

/// One family's answer with the addresses that are `kept` of the other, for which the server failed.
fn with_kept<'a>(
    mut answer: Answer,
    kept: impl Iterator<Item = &'a IpAddr>,
    error: NetError,
) -> Result<Answer, NetError> {
    answer.addresses.extend(kept);
    if answer.addresses.is_empty() { Err(error) } else { Ok(answer) }
}

fn dns_of(cluster: &ClusterState) -> Option<&Dns> {
    match &cluster.config.discovery {
        Discovery::StrictDns(dns) | Discovery::LogicalDns(dns) => Some(dns),
        Discovery::Static(_) | Discovery::Eds(_) => None,
    }
}

/// The names of one cluster.
#[derive(Debug)]
struct Names {
    cluster: Weak<ClusterState>,
    stats: Arc<Scope<ClusterStats>>,
    targets: Box<[Target]>,
    workers: Workers,
}

/// An endpoint that is a name.
#[derive(Debug)]
struct Target {
    /// Its place in the assignment.
    group: usize,
    endpoint: usize,
    host: Arc<str>,
    addresses: RefCell<Vec<IpAddr>>,
}

impl Names {
    /// `None` for a cluster of another kind.
    fn new(cluster: &Arc<ClusterState>, stats: &Stats, workers: &Workers) -> Option<Rc<Self>> {
        let mut targets = Vec::new();
        for (group, locality) in dns_of(cluster)?.assignment.localities.iter().enumerate() {
            for (index, endpoint) in locality.endpoints.iter().enumerate() {
                if let EndpointAddress::Name { host, .. } = &endpoint.address {
                    let (host, addresses) = (host.clone(), RefCell::default());
                    targets.push(Target { group, endpoint: index, host, addresses });
                }
            }
        }
        let stats = stats.cluster(cluster.config.stat_name());
        Some(Rc::new(Names {
            cluster: Arc::downgrade(cluster),
            stats,
            targets: targets.into(),
            workers: workers.clone(),
        }))
    }

    /// Takes up an answer, and publishes the hosts if it brought anything new.
    fn set(&self, index: usize, mut addresses: Vec<IpAddr>) {
        let (Some(cluster), Some(target)) = (self.cluster.upgrade(), self.targets.get(index)) else { return };
        if let Discovery::LogicalDns(_) = cluster.config.discovery {
            // One address at a time: that of now as long as it is in the answer. No answer is no reason to lose it.
            let now = target.addresses.borrow().first().copied();
            match now.filter(|now| addresses.contains(now)).or(addresses.first().copied()) {
                Some(address) => addresses = vec![address],
                None => {
                    self.stats.shared.update_empty.inc();
                    return;
                }
            }
        } else {
            // Servers rotate their answers; that is no change.
            addresses.sort_unstable();
            addresses.dedup();
        }
        if target.addresses.replace(addresses.clone()) == addresses {
            self.stats.shared.update_no_rebuild.inc();
            return;
        }
        self.publish();
    }

    fn publish(&self) {
        let Some(cluster) = self.cluster.upgrade() else { return };
        let Some(dns) = dns_of(&cluster) else { return };
        let hosts = self.hosts(dns, &cluster.hosts.load());
        tracing::debug!(target: "dns", cluster = &*cluster.config.name, "{} hosts", hosts.len());
        cluster.hosts.store(Arc::new(hosts));
        self.stats.shared.membership_change.inc();
        if let Discovery::StrictDns(_) = cluster.config.discovery {
            let changed = Arc::new(vec![cluster]);
            self.workers.tell(|| Command::Hosts(changed.clone()));
        }
    }

    fn hosts(&self, dns: &Dns, previous: &HostSet) -> HostSet {
        let mut builder = HostSetBuilder::new(&dns.assignment, Some(previous));
        let mut targets = self.targets.iter().peekable();
        for (group, locality) in dns.assignment.localities.iter().enumerate() {
            for (index, endpoint) in locality.endpoints.iter().enumerate() {
                let mut add = |address, hostname| {
                    builder.add(group, address, hostname, endpoint.weight, endpoint.health);
                };
                match &endpoint.address {
                    EndpointAddress::Ip(address) => add(Address::Ip(*address), endpoint.hostname.clone()),
                    EndpointAddress::Name { host, port } => {
                        let hostname = endpoint.hostname.as_ref().unwrap_or(host);
                        let Some(target) = targets.next_if(|t| (t.group, t.endpoint) == (group, index)) else {
                            continue;
                        };
                        for ip in &*target.addresses.borrow() {
                            add(Address::Ip(SocketAddr::new(*ip, *port)), Some(hostname.clone()));
                        }
                    }
                    EndpointAddress::Pipe(_) => {}
                }
            }
        }
        builder.build()
    }
}

#[cfg(test)]
#[path = "dns_tests.rs"]
mod tests;
