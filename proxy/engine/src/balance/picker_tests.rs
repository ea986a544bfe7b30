use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::balance::host_set::tests::{Group, assignment};
use crate::config::cluster::{LoadBalancing, tests::cluster};
use crate::config::endpoint::HealthStatus::{self, Degraded, Draining, Healthy, Unhealthy};

fn state(load_balancing: LoadBalancing, groups: &[Group<'_>]) -> ClusterState {
    let hosts = HostSet::from_assignment(&assignment(groups), None);
    ClusterState::new(Arc::new(Cluster { load_balancing, ..cluster(hosts) }))
}

fn policy(policy: LbPolicy) -> LoadBalancing {
    LoadBalancing { policy, ..Default::default() }
}

fn least_request() -> LoadBalancing {
    policy(LbPolicy::LeastRequest { choices: 2, active_request_bias: 1.0, full_scan: false })
}

/// The addresses of `n` picks, as `<group>.<index>`.
fn picks(picker: &mut Picker, n: u64) -> Vec<String> {
    let pick = |random| {
        let host = picker.pick(&PickContext { random: random * 7919, ..Default::default() }).unwrap();
        host.display.strip_prefix("10.0.").and_then(|rest| rest.strip_suffix(":80")).unwrap().to_owned()
    };
    (0..n).map(pick).collect()
}

fn counts(picker: &mut Picker, n: u64) -> HashMap<String, u64> {
    let mut counts = HashMap::new();
    picks(picker, n).into_iter().for_each(|host| *counts.entry(host).or_default() += 1);
    counts
}

#[test]
fn round_robin_rotates_from_where_the_seed_says() {
    let state = state(LoadBalancing::default(), &[(0, None, &[(1, Healthy), (1, Healthy), (1, Healthy)])]);
    assert_eq!(picks(&mut Picker::new(&state, 0), 5), ["0.0", "0.1", "0.2", "0.0", "0.1"]);
    assert_eq!(picks(&mut Picker::new(&state, 4), 3), ["0.1", "0.2", "0.0"]);
}

#[test]
fn no_host_is_an_answer() {
    assert_eq!(Picker::new(&state(LoadBalancing::default(), &[]), 0).pick(&PickContext::default()).err(), Some(NoHost));
    let sick: &[Group<'_>] = &[(0, None, &[(1, Unhealthy)])];
    let without_panic = LoadBalancing { panic_threshold: 0, ..Default::default() };
    assert_eq!(Picker::new(&state(without_panic, sick), 0).pick(&PickContext::default()).err(), Some(NoHost));
    let failing = LoadBalancing { fail_traffic_on_panic: true, ..Default::default() };
    assert_eq!(Picker::new(&state(failing, sick), 0).pick(&PickContext::default()).err(), Some(NoHost));
    assert_eq!(picks(&mut Picker::new(&state(LoadBalancing::default(), sick), 0), 1), ["0.0"], "panic uses all");
}

#[test]
fn draining_and_unhealthy_hosts_get_nothing_and_degraded_ones_the_rest() {
    let hosts: &[Group<'_>] = &[(0, None, &[(1, Healthy), (1, Healthy), (1, Draining), (1, Unhealthy), (1, Degraded)])];
    let counts = counts(&mut Picker::new(&state(LoadBalancing::default(), hosts), 0), 10_000);
    // 2 of 5 healthy: 56 %; 1 of 5 degraded: 28 %; together 84, so 66 + 1 for rounding, and 33.
    assert_eq!(counts.keys().len(), 3);
    let degraded = counts["0.4"] as f64 / 10_000.0;
    assert!((0.30..0.36).contains(&degraded), "{degraded}");
}

#[test]
fn localities_share_by_weight_and_by_what_is_left_of_them() {
    let weighted = LoadBalancing { locality_weighted: true, ..Default::default() };
    let groups: &[Group<'_>] = &[
        (0, Some(2), &[(1, Healthy), (1, Healthy)]),
        (0, Some(1), &[(1, Healthy), (1, Unhealthy)]),
        (0, None, &[(1, Healthy)]),
    ];
    let counts = counts(&mut Picker::new(&state(weighted, groups), 0), 2700);
    let share = |group: &str| counts.iter().filter(|(h, _)| h.starts_with(group)).map(|(_, n)| n).sum::<u64>();
    // The second has half its hosts: its weight becomes 0.7. The third has no weight: nothing.
    assert_eq!((share("2"), counts.get("1.1")), (0, None));
    assert!((1998..=2002).contains(&share("0")), "{}", share("0"));
}

#[test]
fn least_request_takes_the_host_with_less_to_do() {
    let state = state(least_request(), &[(0, None, &[(1, Healthy), (1, Healthy)])]);
    let busy = &state.hosts.load_full().priorities[0].all.members[0].host.clone();
    busy.stats().rq_active.store(10, std::sync::atomic::Ordering::Relaxed);
    let counts = counts(&mut Picker::new(&state, 0), 4000);
    // The busy one is taken only if both choices fall on it.
    assert!((850..1150).contains(&counts["0.0"]), "{counts:?}");
}

#[test]
fn least_request_by_full_scan_always_finds_the_idle_host() {
    let full_scan = LbPolicy::LeastRequest { choices: 2, active_request_bias: 1.0, full_scan: true };
    let state = state(policy(full_scan), &[(0, None, &[(1, Healthy), (1, Healthy), (1, Healthy)])]);
    for member in &state.hosts.load().priorities[0].all.members[..2] {
        member.host.stats().rq_active.store(1, std::sync::atomic::Ordering::Relaxed);
    }
    assert_eq!(counts(&mut Picker::new(&state, 0), 50).into_iter().collect::<Vec<_>>(), [("0.2".to_owned(), 50)]);
}

#[test]
fn a_retry_takes_another_host_if_one_comes_up() {
    let state = state(LoadBalancing::default(), &[(0, None, &[(1, Healthy), (1, Healthy), (1, Healthy)])]);
    let mut picker = Picker::new(&state, 0);
    let ids: Vec<u64> = state.hosts.load().members().map(|m| m.host.id).collect();
    let context = PickContext { random: 0, avoid: &ids[..2], max_reselections: 5 };
    for _ in 0..5 {
        assert_eq!(picker.pick(&context).unwrap().id, ids[2]);
    }
    let all = PickContext { random: 0, avoid: &ids, max_reselections: 5 };
    assert!(picker.pick(&all).is_ok(), "one that was tried is better than none");
}

#[test]
fn one_reselection_is_one() {
    let state = state(LoadBalancing::default(), &[(0, None, &[(1, Healthy), (1, Healthy)])]);
    let mut picker = Picker::new(&state, 0);
    let ids: Vec<u64> = state.hosts.load().members().map(|m| m.host.id).collect();
    let context = PickContext { random: 0, avoid: &ids[..1], max_reselections: 1 };
    assert_eq!(picker.pick(&context).unwrap().id, ids[1]);
}

#[test]
fn weighted_hosts_with_requests_under_way_get_less() {
    let state = state(least_request(), &[(0, None, &[(2, Healthy), (1, Healthy)])]);
    let busy = &state.hosts.load_full().priorities[0].all.members[0].host.clone();
    busy.stats().rq_active.store(3, std::sync::atomic::Ordering::Relaxed);
    let counts = counts(&mut Picker::new(&state, 0), 3000);
    // 2 / (3 + 1) beside 1 / (0 + 1).
    assert!((990..=1010).contains(&counts["0.0"]), "{counts:?}");
}

#[test]
fn a_priority_without_hosts_does_not_keep_others_from_panic() {
    let groups: &[Group<'_>] = &[(0, None, &[]), (1, None, &[(1, Unhealthy)])];
    assert_eq!(picks(&mut Picker::new(&state(LoadBalancing::default(), groups), 0), 3), ["1.0"; 3]);
}

#[test]
fn counts_of_billions_end_with_the_members() {
    let everything = LbPolicy::LeastRequest { choices: u32::MAX, active_request_bias: 1.0, full_scan: false };
    let state = state(policy(everything), &[(0, None, &[(1, Healthy), (1, Healthy), (1, Healthy)])]);
    let members: Vec<_> = state.hosts.load().members().map(|m| Arc::clone(&m.host)).collect();
    members[0].stats().rq_active.store(1, std::sync::atomic::Ordering::Relaxed);
    let ids: Vec<u64> = members.iter().map(|host| host.id).collect();
    let mut picker = Picker::new(&state, 0);
    let context = PickContext { random: 0, avoid: &ids, max_reselections: u32::MAX };
    // 10 picks with 2^32 choices for each of 2^32 hosts to avoid.
    for _ in 0..10 {
        assert_ne!(picker.pick(&context).unwrap().id, ids[0]);
    }
}

#[test]
fn a_picker_that_follows_keeps_nothing_of_the_hosts_of_before() {
    let state = state(LoadBalancing::default(), &[]);
    let put = |hosts: &[(u32, HealthStatus)]| {
        state.hosts.store(Arc::new(HostSet::from_assignment(&assignment(&[(0, None, hosts)]), None)));
    };
    put(&[(1, Healthy)]);
    let mut picker = Picker::new(&state, 0);
    let before = Arc::downgrade(&state.hosts.load_full());
    put(&[(1, Healthy), (1, Healthy)]);
    assert!(before.upgrade().is_some());
    picker.follow();
    assert!(before.upgrade().is_none());
    assert_eq!(picks(&mut picker, 2).len(), 2);
}

#[test]
fn a_new_host_set_is_seen_by_the_next_pick() {
    let state = state(LoadBalancing::default(), &[(0, None, &[(1, Healthy), (1, Healthy)])]);
    let mut picker = Picker::new(&state, 0);
    assert_eq!(picks(&mut picker, 1), ["0.0"]);
    let kept = HostSet::from_assignment(&assignment(&[(0, None, &[(1, Healthy)])]), Some(&state.hosts.load()));
    state.hosts.store(Arc::new(kept));
    assert_eq!(picks(&mut picker, 3), ["0.0", "0.0", "0.0"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Over a whole number of turns each host gets its weight, to one pick or so: nobody starves, nobody gets bursts.
    #[test]
    fn round_robin_keeps_weights(weights in prop::collection::vec(1u32..20, 1..12), seed in any::<u64>()) {
        let hosts: Vec<_> = weights.iter().map(|w| (*w, Healthy)).collect();
        let state = state(LoadBalancing::default(), &[(0, None, &hosts)]);
        let mut picker = Picker::new(&state, seed);
        let turn: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        let counts = counts(&mut picker, turn * 10);
        for (i, weight) in weights.iter().enumerate() {
            let count = counts.get(&format!("0.{i}")).copied().unwrap_or(0);
            let expected = u64::from(*weight) * 10;
            prop_assert!(count.abs_diff(expected) <= 2, "host {i} of weight {weight}: {count} of {}", turn * 10);
        }
    }

    /// Random and least request come within five standard deviations.
    #[test]
    fn random_choices_are_even(n in 2usize..10, use_random in any::<bool>()) {
        let lb = if use_random { policy(LbPolicy::Random) } else { least_request() };
        let hosts = vec![(1, Healthy); n];
        let state = state(lb, &[(0, None, &hosts)]);
        let total = 4000.0;
        let counts = counts(&mut Picker::new(&state, 0), total as u64);
        let p = 1.0 / n as f64;
        let bound = 5.0 * (total * p * (1.0 - p)).sqrt();
        for i in 0..n {
            let count = counts.get(&format!("0.{i}")).copied().unwrap_or(0) as f64;
            prop_assert!((count - total * p).abs() < bound, "host {i}: {count}");
        }
    }

    /// Whatever is removed is never picked again, whatever stays is picked.
    #[test]
    fn removal_never_picks_the_removed(
        weights in prop::collection::vec(1u32..5, 2..10),
        keep in prop::collection::vec(any::<bool>(), 10),
        lb in prop_oneof![Just(LoadBalancing::default()), Just(least_request()), Just(policy(LbPolicy::Random))],
    ) {
        let hosts: Vec<_> = weights.iter().map(|w| (*w, Healthy)).collect();
        let full = assignment(&[(0, None, &hosts)]);
        let set = HostSet::from_assignment(&full, None);
        let state = ClusterState::new(Arc::new(Cluster { load_balancing: lb, ..cluster(set) }));
        let mut picker = Picker::new(&state, 1);
        picks(&mut picker, 5);
        let mut less = full.clone();
        let kept = full.localities[0].endpoints.iter().zip(&keep).filter(|(_, keep)| **keep).map(|(e, _)| e.clone());
        less.localities[0].endpoints = kept.collect();
        state.hosts.store(Arc::new(HostSet::from_assignment(&less, Some(&state.hosts.load()))));
        if less.localities[0].endpoints.is_empty() {
            prop_assert_eq!(picker.pick(&PickContext::default()).err(), Some(NoHost));
        } else {
            let seen = counts(&mut picker, 600);
            for (i, keep) in keep.iter().enumerate().take(weights.len()) {
                prop_assert_eq!(seen.contains_key(&format!("0.{i}")), *keep, "host {}", i);
            }
        }
    }
}
