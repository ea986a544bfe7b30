//! What one stream is subscribed to of one kind, what its client was told, and what it is still to be told.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_engine::xds::Kind;

use super::Resource;
use super::told::{AllTold, Last, Told, Version};

/// A name that stands for all resources of the kind.
const WILDCARD: &str = "*";

/// Resources of one kind by name.
pub(super) type Resources = BTreeMap<Arc<str>, Arc<Resource>>;

/// A response that the client has not answered yet.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    pub(super) nonce: Arc<str>,
    pub(super) version: Arc<str>,
    pub(super) since: Instant,
    /// The resources in it.
    pub(super) names: Vec<Arc<str>>,
    /// Whether it tells of something that the client waits for, and not of changes alone.
    pub(super) owed: bool,
}

/// The subscription of one stream to one kind.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    /// Whether a request for the kind came on this stream.
    pub(super) opened: bool,
    /// Whether the client named resources on this stream (`*` too): an empty list means none from then on.
    named: bool,
    wildcard: bool,
    names: BTreeSet<Arc<str>>,
    /// By name; only names that are subscribed.
    pub(super) told: AllTold,
    /// Subscribed and new or changed since it was told.
    pub(super) changed: BTreeSet<Arc<str>>,
    /// To be told whether it changed or not, or that it does not exist.
    pub(super) owed: BTreeSet<Arc<str>>,
    /// As `changed`, and not in it: what changed while others waited for their response already.
    first: BTreeSet<Arc<str>>,
    /// Of clusters that were sent, and not asked for yet: a client that acknowledges a cluster asks for its endpoints,
    /// and what names the cluster comes after them.
    pub(super) expected: BTreeSet<Arc<str>>,
    /// Since when the last of them is.
    pub(super) expected_since: Option<Instant>,
    /// Told, and not there any more.
    pub(super) gone: BTreeSet<Arc<str>>,
    /// Since when some are gone.
    pub(super) gone_since: Option<Instant>,
    /// Told, and rejected: what the client uses in their place, if anything, is older than so many responses of the
    /// stream.
    pub(super) refused: BTreeMap<Arc<str>, u64>,
    /// A first answer is owed even if there is nothing to say in it: a client that starts waits for it.
    pub(super) answer: bool,
    pub(super) in_flight: Option<InFlight>,
}

/// What a resource of so many bytes weighs in a response, by the time that it takes a proxy: small ones take longer than
/// their bytes do. Ours makes a cluster of 30 bytes in 5 µs.
pub(super) fn weight(bytes: usize) -> usize {
    bytes.saturating_add(128)
}

/// Whether an empty list in the first request means everything.
fn empty_is_all(kind: Kind) -> bool {
    matches!(kind, Kind::Cluster | Kind::Listener)
}

impl Subscription {
    /// Whether the client is to have the resource.
    pub(super) fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// How many resources the client made the server remember: what it is subscribed to by name, and names that it is
    /// owed an answer for.
    pub(super) fn named_resources(&self) -> usize {
        self.names.len().max(self.owed.len())
    }

    /// At the first request: whether the client came with something else than it is to have. `version`: of all that it
    /// has, or empty.
    pub(super) fn came_with_others(&self, version: &str, there: &Resources) -> bool {
        let other = |(name, told): (&Arc<str>, &Told)| there.get(name).is_none_or(|resource| !told.is_of(resource));
        let wanted = || {
            let mut version = Version::default();
            for resource in there.values().filter(|resource| self.wants(&resource.name)) {
                version.add(&resource.name, &resource.version);
            }
            version.text()
        };
        self.told.iter().any(other) || !version.is_empty() && *version != *wanted()
    }

    /// Whether there is something new to say.
    pub(super) fn due(&self) -> bool {
        self.answer || [&self.changed, &self.first, &self.owed].into_iter().any(|due| !due.is_empty())
    }

    /// What the next response tells of, until it weighs `most`: up to the half of it what goes first.
    pub(super) fn take_due(&mut self, there: &Resources, most: usize) -> Vec<Arc<str>> {
        let (mut taken, mut full) = (Vec::new(), 0);
        for (first, most) in [(true, most / 2), (false, most)] {
            while full < most {
                let Some(name) = self.pop_due(first) else { break };
                full += weight(there.get(&name).map_or(0, |resource| resource.body.len()));
                taken.push(name);
            }
        }
        taken
    }

    fn pop_due(&mut self, first: bool) -> Option<Arc<str>> {
        let rest = [&self.changed, &self.owed].into_iter().filter_map(BTreeSet::first).min().filter(|_| !first);
        let name = rest.or_else(|| self.first.first())?.clone();
        for due in [&mut self.changed, &mut self.first, &mut self.owed] {
            due.remove(&name);
        }
        Some(name)
    }

    /// Whether the client has not answered, and may still be waited for.
    pub(super) fn unanswered(&self, now: Instant, patience: Duration) -> bool {
        self.in_flight.as_ref().is_some_and(|sent| now < sent.since + patience)
    }

    /// Whether something that the client waits for is still to be sent or answered, and it may still be waited for.
    pub(super) fn owes(&self, now: Instant, patience: Duration) -> bool {
        let is_expected = !self.expected.is_empty() && self.expected_since.is_some_and(|since| now < since + patience);
        if is_expected {
            return true;
        }
        let Some(sent) = &self.in_flight else { return !self.owed.is_empty() };
        now < sent.since + patience && (sent.owed || !self.owed.is_empty())
    }

    /// Whether the client has everything and said so.
    pub(super) fn settled(&self, now: Instant, patience: Duration) -> bool {
        !self.due() && self.gone.is_empty() && !self.unanswered(now, patience)
    }

    /// Whether the client has everything, said so, and rejected nothing.
    pub(super) fn complete(&self) -> bool {
        self.in_flight.is_none() && !self.due() && self.gone.is_empty() && self.refused.is_empty()
    }

    /// The client has answered `sent`, when there had been `responses` on the stream. What it does not name in its
    /// error it has taken; if it names nothing, none of it.
    pub(super) fn answered(&mut self, sent: InFlight, error: Option<&str>, responses: u64) {
        let (mut refused, taken): (Vec<_>, Vec<_>) =
            sent.names.into_iter().partition(|name| error.is_some_and(|error| mentions(error, name)));
        let taken = if error.is_some() && refused.is_empty() {
            refused = taken;
            Vec::new()
        } else {
            taken
        };
        for name in &taken {
            self.refused.remove(name);
        }
        // A client that unsubscribed meanwhile dropped what it was sent, and uses nothing in its place.
        for name in refused.into_iter().filter(|name| self.told.contains(name)) {
            // What is rejected again leaves in use what was in use after the first time.
            self.refused.entry(name).or_insert(responses);
        }
    }

    /// Compares what the client was told with what there is: both are in order, so that no name is looked up but those
    /// that the client gave.
    pub(super) fn refresh(&mut self, resources: &Resources) {
        for of in [&mut self.changed, &mut self.first, &mut self.gone] {
            of.clear();
        }
        let all = self.wildcard.then(|| resources.values());
        let named = (!self.wildcard).then(|| self.names.iter().filter_map(|name| resources.get(name)));
        let mut told = self.told.iter().peekable();
        for resource in all.into_iter().flatten().chain(named.into_iter().flatten()) {
            let mut last = None;
            while let Some((name, before)) = told.next_if(|(name, _)| **name <= resource.name) {
                if *name == resource.name {
                    last = Some(before);
                    break;
                }
                self.gone.insert(name.clone());
            }
            if last.is_none_or(|told| !told.is_of(resource)) {
                self.changed.insert(resource.name.clone());
            }
        }
        self.gone.extend(told.map(|(name, _)| name.clone()));
    }

    /// There is `now` in place of `before`. As [`Subscription::refresh`], and looks only at what differs.
    pub(super) fn follow(&mut self, before: &Resources, now: &Resources) {
        let others_wait = [&self.changed, &self.first, &self.owed].into_iter().any(|due| !due.is_empty());
        for (name, resource) in differences(before, now).filter(|(name, _)| self.wants(name)).collect::<Vec<_>>() {
            let told = self.told.get(name);
            let is_due = resource.is_some_and(|resource| told.is_none_or(|told| !told.is_of(resource)));
            let is_gone = resource.is_none() && told.is_some();
            match is_gone {
                true => _ = self.gone.insert(name.clone()),
                false => _ = self.gone.remove(name),
            }
            if !is_due {
                self.changed.remove(name);
                self.first.remove(name);
            } else if !self.changed.contains(name) {
                let due = if others_wait { &mut self.first } else { &mut self.changed };
                due.insert(name.clone());
            }
        }
    }

    /// Whether comparing everything would find what [`Subscription::follow`] did.
    #[cfg(test)]
    pub(super) fn is_consistent(&self, there: &Resources) -> bool {
        let wanted = there.values().filter(|resource| self.wants(&resource.name));
        let differ = |resource: &&Arc<Resource>| self.told.get(&resource.name).is_none_or(|told| !told.is_of(resource));
        let differing: BTreeSet<_> = wanted.filter(differ).map(|resource| &resource.name).collect();
        let due: BTreeSet<_> = self.changed.union(&self.first).collect();
        let gone = self.told.iter().map(|(name, _)| name).filter(|name| !there.contains_key(*name));
        due.is_subset(&differing)
            && differing.iter().all(|name| due.contains(name) || self.owed.contains(*name))
            && gone.eq(&self.gone)
    }

    /// The names of a delta request. `versions` is what the client already has; it counts in the first request only.
    pub(super) fn change(
        &mut self,
        kind: Kind,
        subscribe: Vec<String>,
        unsubscribe: Vec<String>,
        versions: BTreeMap<String, String>,
        resources: &Resources,
    ) {
        let first = !std::mem::replace(&mut self.opened, true);
        if !first && subscribe.is_empty() && unsubscribe.is_empty() {
            return;
        }
        let versions = if first { versions } else { BTreeMap::new() };
        let before = self.wildcard;
        if first && subscribe.is_empty() && empty_is_all(kind) {
            self.wildcard = true;
        }
        let mut dropped = Vec::new();
        for name in unsubscribe {
            if name == WILDCARD {
                self.wildcard = false;
            } else {
                let name: Arc<str> = name.into();
                self.names.remove(&name);
                // Still there by the wildcard: the client, which dropped the name, waits for an answer.
                if self.wildcard {
                    self.owed.insert(name.clone());
                }
                dropped.push(name);
            }
        }
        for name in subscribe {
            if name == WILDCARD {
                self.wildcard = true;
            } else {
                let known = versions.contains_key(&name);
                let name: Arc<str> = name.into();
                self.names.insert(name.clone());
                self.expected.remove(&name);
                if !known {
                    self.owed.insert(name);
                }
            }
        }
        self.answer |= first && self.wildcard && versions.is_empty();
        for (name, version) in versions {
            if self.wants(&name) {
                self.told.insert(name.into(), Told { since: 0, last: Last::Before(version.into()) });
            }
        }
        if before && !self.wildcard {
            self.forget_unwanted();
        }
        for name in dropped {
            if !self.wants(&name) {
                self.forget(&name);
            }
        }
        if first || self.wildcard != before {
            self.refresh(resources);
        }
    }

    /// The names of a state-of-the-world request, which are all that the client wants.
    pub(super) fn replace(&mut self, kind: Kind, names: Vec<String>, resources: &Resources) {
        let first = !std::mem::replace(&mut self.opened, true);
        let before = self.wildcard;
        self.wildcard =
            names.iter().any(|name| name == WILDCARD) || names.is_empty() && !self.named && empty_is_all(kind);
        self.named |= !names.is_empty();
        let names: BTreeSet<Arc<str>> =
            names.into_iter().filter(|name| name != WILDCARD).map(|name| name.into()).collect();
        self.owed.extend(names.difference(&self.names).cloned());
        self.expected.retain(|name| !names.contains(name));
        self.names = names;
        self.answer |= first && empty_is_all(kind);
        self.forget_unwanted();
        if first || self.wildcard != before {
            self.refresh(resources);
        }
    }

    fn forget(&mut self, name: &str) {
        self.told.remove(name);
        for of in [&mut self.changed, &mut self.owed, &mut self.first, &mut self.gone] {
            of.remove(name);
        }
        self.refused.remove(name);
    }

    /// After this only what the client wants is left.
    fn forget_unwanted(&mut self) {
        if self.wildcard {
            return;
        }
        let names = &self.names;
        self.told.retain(names);
        self.changed.retain(|name| names.contains(name));
        self.owed.retain(|name| names.contains(name));
        self.first.retain(|name| names.contains(name));
        self.gone.retain(|name| names.contains(name));
        self.refused.retain(|name, _| names.contains(name));
    }
}

/// What is other in `now` than `before`, or not there. Both are in order, and most of both are the same objects, which
/// is seen without following a pointer.
fn differences<'r>(
    before: &'r Resources,
    now: &'r Resources,
) -> impl Iterator<Item = (&'r Arc<str>, Option<&'r Arc<Resource>>)> {
    let (mut before, mut now) = (before.iter().peekable(), now.iter().peekable());
    std::iter::from_fn(move || {
        loop {
            let (old, new) = (before.peek(), now.peek());
            let order = match (old, new) {
                (Some((old, _)), Some((new, _))) if Arc::ptr_eq(old, new) => Ordering::Equal,
                (Some((old, _)), Some((new, _))) => old.cmp(new),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return None,
            };
            let old = before.next_if(|_| order.is_le());
            let new = now.next_if(|_| order.is_ge());
            match (old, new) {
                (Some((_, old)), Some((_, new))) if Arc::ptr_eq(old, new) => {}
                (_, Some((name, new))) => return Some((name, Some(new))),
                (Some((name, _)), None) => return Some((name, None)),
                (None, None) => return None,
            }
        }
    })
}

/// Whether a text names a resource, and not one whose name is longer.
fn mentions(text: &str, name: &str) -> bool {
    let inner = |end: Option<char>| end.is_some_and(|end| end.is_ascii_alphanumeric() || "-_/".contains(end));
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (text.get(..at).unwrap_or_default(), text.get(at + name.len()..).unwrap_or_default());
        !inner(before.chars().next_back()) && !inner(after.chars().next())
    })
}
