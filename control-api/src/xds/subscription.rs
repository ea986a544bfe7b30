//! What one stream is subscribed to of one kind, what its client was told, and what it is still to be told.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_engine::xds::Kind;

use super::Resource;

/// A name that stands for all resources of the kind.
const WILDCARD: &str = "*";

/// Resources of one kind by name.
pub(super) type Resources = BTreeMap<Arc<str>, Arc<Resource>>;

/// What the client was told about a resource.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// By which response of the stream, counted from 1, it was told first; 0: it came with it.
    pub(super) since: u64,
    pub(super) last: Last,
}

/// What it was told last.
#[derive(Clone, Debug)]
pub(super) enum Last {
    /// It had this version before this stream.
    Before(Arc<str>),
    /// It was sent on this stream.
    Sent(Arc<Resource>),
}

impl Told {
    pub(super) fn version(&self) -> &str {
        match &self.last {
            Last::Before(version) => version,
            Last::Sent(resource) => &resource.version,
        }
    }
}

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
    pub(super) told: BTreeMap<Arc<str>, Told>,
    /// Subscribed and new or changed since it was told.
    pub(super) changed: BTreeSet<Arc<str>>,
    /// To be told whether it changed or not, or that it does not exist.
    pub(super) owed: BTreeSet<Arc<str>>,
    /// As `changed`, and not in it: what changed while other changes waited for their response already.
    first: BTreeSet<Arc<str>>,
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

fn version_of<'r>(resources: impl Iterator<Item = (&'r Arc<str>, &'r str)>) -> Arc<str> {
    let mut hash = DefaultHasher::new();
    for resource in resources {
        resource.hash(&mut hash);
    }
    format!("{:016x}", hash.finish()).into()
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

    /// The hash of all that the client was told.
    pub(super) fn version(&self) -> Arc<str> {
        version_of(self.told.iter().map(|(name, told)| (name, told.version())))
    }

    /// At the first request: whether the client came with something else than it is to have. `version`: as in
    /// [`Subscription::version`], or empty.
    pub(super) fn came_with_others(&self, version: &str, there: &Resources) -> bool {
        let other = |(name, told): (&Arc<str>, &Told)| {
            there.get(name).is_none_or(|resource| resource.version.as_ref() != told.version())
        };
        let wanted = there.iter().filter(|(name, _)| self.wants(name));
        self.told.iter().any(other)
            || !version.is_empty()
                && *version != *version_of(wanted.map(|(name, resource)| (name, resource.version.as_ref())))
    }

    /// Whether there is something new to say.
    pub(super) fn due(&self) -> bool {
        self.answer || [&self.changed, &self.first, &self.owed].into_iter().any(|due| !due.is_empty())
    }

    /// What the next response tells of, until it has `most` bytes: up to the half of it what goes first.
    pub(super) fn take_due(&mut self, there: &Resources, most: usize) -> Vec<Arc<str>> {
        let (mut taken, mut size) = (Vec::new(), 0);
        for (first, most) in [(true, most / 2), (false, most)] {
            while size < most {
                let Some(name) = self.pop_due(first) else { break };
                size += there.get(&name).map_or(0, |resource| resource.body.len());
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
        for name in refused.into_iter().filter(|name| self.told.contains_key(name)) {
            // What is rejected again leaves in use what was in use after the first time.
            self.refused.entry(name).or_insert(responses);
        }
    }

    /// Compares what the client was told with what there is: both are in order, so that no name is looked up but those
    /// that the client gave.
    pub(super) fn refresh(&mut self, resources: &Resources) {
        let (waited, first) = (std::mem::take(&mut self.changed), std::mem::take(&mut self.first));
        let others_wait = !waited.is_empty() || !first.is_empty();
        let goes_first = |name: &Arc<str>| others_wait && !waited.contains(name);
        self.gone.clear();
        let all = self.wildcard.then(|| resources.values());
        let named = (!self.wildcard).then(|| self.names.iter().filter_map(|name| resources.get(name)));
        let mut told = self.told.iter().peekable();
        for resource in all.into_iter().flatten().chain(named.into_iter().flatten()) {
            while let Some((name, _)) = told.next_if(|(name, _)| **name < resource.name) {
                self.gone.insert(name.clone());
            }
            let last = told.next_if(|(name, _)| **name == resource.name);
            if last.is_none_or(|(_, told)| told.version() != resource.version.as_ref()) {
                let due = if goes_first(&resource.name) { &mut self.first } else { &mut self.changed };
                due.insert(resource.name.clone());
            }
        }
        self.gone.extend(told.map(|(name, _)| name.clone()));
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
        for name in unsubscribe {
            if name == WILDCARD {
                self.wildcard = false;
            } else {
                let name: Arc<str> = name.into();
                self.names.remove(&name);
                // Still there by the wildcard: the client, which dropped the name, waits for an answer.
                if self.wildcard {
                    self.owed.insert(name);
                }
            }
        }
        for name in subscribe {
            if name == WILDCARD {
                self.wildcard = true;
            } else {
                let known = versions.contains_key(&name);
                let name: Arc<str> = name.into();
                self.names.insert(name.clone());
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
        self.forget_unwanted();
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
        self.names = names;
        self.answer |= first && empty_is_all(kind);
        self.forget_unwanted();
        if first || self.wildcard != before {
            self.refresh(resources);
        }
    }

    fn forget_unwanted(&mut self) {
        if self.wildcard {
            return;
        }
        let names = &self.names;
        self.told.retain(|name, _| names.contains(name));
        self.changed.retain(|name| names.contains(name));
        self.owed.retain(|name| names.contains(name));
        self.first.retain(|name| names.contains(name));
        self.gone.retain(|name| names.contains(name));
        self.refused.retain(|name, _| names.contains(name));
    }
}

/// Whether a text names a resource, and not one whose name is longer.
fn mentions(text: &str, name: &str) -> bool {
    let inner = |end: Option<char>| end.is_some_and(|end| end.is_ascii_alphanumeric() || "-_/".contains(end));
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (text.get(..at).unwrap_or_default(), text.get(at + name.len()..).unwrap_or_default());
        !inner(before.chars().next_back()) && !inner(after.chars().next())
    })
}
