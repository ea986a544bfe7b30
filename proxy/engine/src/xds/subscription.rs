//! What is known of one kind of resource: what is wanted, what is here, and what the server knows of that.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::response::{Content, Received, Response};
use super::{Kind, Rejection, Resource, Update, Variant};

/// So many resources that were not asked for by name may be kept as failed: a server names what it likes.
const MAX_UNKNOWN: usize = 1000;

#[derive(Debug)]
pub(super) struct Subscription {
    kind: Kind,
    /// Everything that the server has for us, without naming it.
    pub wildcard: bool,
    /// How long to wait for the first response.
    pub all_timeout: Option<Duration>,
    /// When the wait for the first response is over.
    pub first_wait: Option<Instant>,
    /// Whether the first response was applied, or the wait for it is over.
    pub answered: bool,
    names: BTreeMap<Arc<str>, Wanted>,
    /// Whether the server may not know all of the names: comparing thousands is not free.
    pub changed: bool,
    known: HashMap<Arc<str>, Known>,
    /// What was rejected last, or could not be sent: whoever shows it wants to know when it is gone. The empty name
    /// stands for all without one.
    failed: BTreeSet<Arc<str>>,
    /// Of the last response that was accepted as a whole.
    pub version: String,
    /// `None` until something of this kind was sent on the stream.
    pub on_stream: Option<OnStream>,
    waits: BTreeSet<(Instant, Arc<str>)>,
    expiries: BTreeSet<(Instant, Arc<str>)>,
}

#[derive(Debug)]
struct Wanted {
    /// How long a configuration waits for it; `None`: for ever.
    timeout: Option<Duration>,
    wait: Wait,
}

#[derive(Debug, PartialEq, Eq)]
enum Wait {
    /// The clock does not run.
    Open,
    Until(Instant),
    /// It came, or it does not exist.
    Over,
}

#[derive(Debug)]
struct Known {
    version: String,
    expires: Option<Instant>,
}

/// What the server knows on this stream.
#[derive(Debug, Default)]
pub(super) struct OnStream {
    /// The newest it sent.
    pub nonce: String,
    /// What it thinks we want.
    pub names: BTreeSet<Arc<str>>,
    /// What was given up and is wanted again, of which it has heard neither.
    pub again: BTreeSet<Arc<str>>,
    /// Responses without an answer.
    pub open: usize,
}

/// An update on its way, and what its acceptance means.
#[derive(Debug)]
pub(super) struct Draft {
    pub update: Update,
    /// What is rejected already.
    pub rejected: Vec<Rejection>,
    /// Becomes known where it is accepted.
    pending: HashMap<Arc<str>, Known>,
}

impl Draft {
    pub(super) fn new(kind: Kind) -> Self {
        Draft { update: Update::empty(kind), rejected: Vec::new(), pending: HashMap::new() }
    }

    /// Whoever applies the update has dropped `name` since.
    pub(super) fn forget(&mut self, name: &str) {
        self.pending.remove(name);
    }
}

impl Subscription {
    pub(super) fn new(kind: Kind) -> Self {
        Subscription {
            kind,
            wildcard: false,
            all_timeout: None,
            first_wait: None,
            answered: false,
            names: BTreeMap::new(),
            changed: false,
            known: HashMap::new(),
            failed: BTreeSet::new(),
            version: String::new(),
            on_stream: None,
            waits: BTreeSet::new(),
            expiries: BTreeSet::new(),
        }
    }

    /// Whether there is anything to ask for.
    pub(super) fn is_wanted(&self) -> bool {
        self.wildcard || !self.names.is_empty()
    }

    pub(super) fn known(&self) -> impl Iterator<Item = (&Arc<str>, &str)> {
        self.known.iter().map(|(name, known)| (name, known.version.as_str()))
    }

    /// What a server is told at the start of a stream. Of what was wrong last it is to speak again, whatever it has of
    /// it now, so that is said to be here in a version that nobody has.
    pub(super) fn versions(&self) -> BTreeMap<String, String> {
        let known = self.known().map(|(name, version)| (name.to_string(), version.to_owned()));
        let failed = self.failed.iter().filter(|name| !name.is_empty()).map(|name| (name.to_string(), String::new()));
        known.chain(failed).collect()
    }

    /// `until`: when the wait is over, where the clock runs already.
    pub(super) fn want(&mut self, name: &str, timeout: Option<Duration>, until: Option<Instant>) {
        if let Some(wanted) = self.names.get_mut(name) {
            wanted.timeout = timeout;
            return;
        }
        self.changed = true;
        let name: Arc<str> = name.into();
        if let Some(on_stream) = &mut self.on_stream
            && on_stream.names.contains(&name)
        {
            on_stream.again.insert(name.clone());
        }
        let wait = match until {
            Some(until) => {
                self.waits.insert((until, name.clone()));
                Wait::Until(until)
            }
            None => Wait::Open,
        };
        self.names.insert(name, Wanted { timeout, wait });
    }

    pub(super) fn give_up(&mut self, name: &str) {
        let Some((name, wanted)) = self.names.remove_entry(name) else { return };
        self.changed = true;
        if let Wait::Until(until) = wanted.wait {
            self.waits.remove(&(until, name.clone()));
        }
        if let Some(on_stream) = &mut self.on_stream {
            on_stream.again.remove(&name);
        }
        self.failed.remove(&name);
        self.forget(&name);
    }

    fn forget(&mut self, name: &Arc<str>) {
        if let Some(Known { expires: Some(at), .. }) = self.known.remove(name) {
            self.expiries.remove(&(at, name.clone()));
        }
    }

    /// What we have is kept.
    pub(super) fn disconnected(&mut self) {
        self.on_stream = None;
    }

    /// The clocks stop, since nobody can answer; they start again when their names are asked for.
    pub(super) fn stop_waits(&mut self) {
        self.waits.clear();
        for wanted in self.names.values_mut() {
            if matches!(wanted.wait, Wait::Until(_)) {
                wanted.wait = Wait::Open;
            }
        }
    }

    /// Something was sent: the clocks of all that it asked for run from now on.
    pub(super) fn start_waits(&mut self, now: Instant) {
        for (name, wanted) in &mut self.names {
            let is_asked = self.on_stream.as_ref().is_some_and(|on_stream| on_stream.names.contains(name));
            if wanted.wait == Wait::Open
                && is_asked
                && let Some(until) = wanted.timeout.and_then(|timeout| now.checked_add(timeout))
            {
                self.waits.insert((until, name.clone()));
                wanted.wait = Wait::Until(until);
            }
        }
    }

    fn arrived(&mut self, name: &Arc<str>) {
        if let Some(wanted) = self.names.get_mut(name)
            && let Wait::Until(until) = std::mem::replace(&mut wanted.wait, Wait::Over)
        {
            self.waits.remove(&(until, name.clone()));
        }
    }

    /// The names to ask for, in order; those that are to be asked for anew come later.
    pub(super) fn names_to_send(&self) -> BTreeSet<Arc<str>> {
        let again = self.on_stream.as_ref().map(|on_stream| &on_stream.again);
        let is_again = |name: &Arc<str>| again.is_some_and(|again| again.contains(name));
        self.names.keys().filter(|name| !is_again(name)).cloned().collect()
    }

    /// The names that the server wrongly believes to be wanted, and those that it has not heard of.
    pub(super) fn difference(&self) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        let Some(on_stream) = &self.on_stream else { return (Vec::new(), Vec::new()) };
        let is_gone = |name: &&Arc<str>| !self.names.contains_key(*name) || on_stream.again.contains(*name);
        let gone = on_stream.names.iter().filter(is_gone).cloned().collect();
        let new = self.names.keys().filter(|name| !on_stream.names.contains(*name)).cloned().collect();
        (gone, new)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let first = |set: &BTreeSet<(Instant, Arc<str>)>| set.first().map(|(at, _)| *at);
        [self.first_wait, first(&self.waits), first(&self.expiries)].into_iter().flatten().min()
    }

    /// What time has done: waits that are over, resources whose time to live is.
    pub(super) fn due(&mut self, now: Instant) -> Option<Draft> {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return None;
        }
        let mut draft = Draft::new(self.kind);
        self.first_wait = self.first_wait.filter(|at| *at > now);
        while let Some((at, _)) = self.waits.first()
            && *at <= now
        {
            let Some((_, name)) = self.waits.pop_first() else { break };
            if let Some(wanted) = self.names.get_mut(&name) {
                wanted.wait = Wait::Over;
            }
            draft.update.removed.push(name.to_string());
            draft.update.timed_out.push(name.to_string());
        }
        while let Some((at, _)) = self.expiries.first()
            && *at <= now
        {
            let Some((_, name)) = self.expiries.pop_first() else { break };
            self.known.remove(&name);
            draft.update.removed.push(name.to_string());
        }
        Some(draft)
    }

    /// Makes an update of a response.
    pub(super) fn take_in(&mut self, response: Response, variant: Variant, now: Instant) -> Draft {
        let Response { resources, removed, errors, .. } = response;
        let mut draft = Draft::new(self.kind);
        let mut counts: HashMap<String, usize> = HashMap::new();
        for resource in &resources {
            let count = counts.entry(resource.name.clone()).or_default();
            *count = count.saturating_add(1);
        }
        let unnamed = counts.remove("").unwrap_or_default();
        let is_alive = |resource: &Received| matches!(resource.content, Content::Heartbeat);
        let heartbeats = !resources.is_empty() && resources.iter().all(is_alive);
        for resource in resources {
            self.take_resource(resource, &mut counts, &mut draft, now);
        }
        // A state of the world without a cluster or listener means that it is gone, unless it may be the one without a
        // name, or the server says that it cannot send it, or the response only prolongs lives. Of endpoints and routes
        // a server may send a part.
        if variant == Variant::Sotw && self.wildcard && unnamed == 0 && !heartbeats {
            let all = self.known.keys().chain(&self.failed);
            let unavailable: HashSet<&str> = errors.iter().map(|(name, _)| &**name).collect();
            let is_gone = |name: &&Arc<str>| !counts.contains_key(&***name) && !unavailable.contains(&***name);
            let gone: BTreeSet<Arc<str>> = all.filter(is_gone).cloned().collect();
            for name in gone {
                self.forget(&name);
                self.failed.remove(&name);
                draft.update.removed.push(name.to_string());
            }
        }
        if unnamed == 0 && self.failed.remove("") {
            draft.update.removed.push(String::new());
        }
        for name in removed {
            if !counts.contains_key(&name) {
                self.take_removal(name, &mut draft);
            }
        }
        for (name, reason) in errors.into_iter().filter(|(name, _)| !counts.contains_key(name)) {
            let shared: Arc<str> = name.as_str().into();
            // Without it there is nothing to wait for; with an older one, that one serves.
            let is_here = self.known.contains_key(&shared);
            if !is_here && self.names.contains_key(&shared) {
                self.arrived(&shared);
                draft.update.removed.push(name.clone());
            }
            let is_new = self.wildcard && self.failed.len() < MAX_UNKNOWN;
            if is_here || is_new || self.names.contains_key(&shared) {
                self.failed.insert(shared);
                draft.update.errors.push((name, reason));
            }
        }
        draft
    }

    fn take_resource(
        &mut self,
        resource: Received,
        counts: &mut HashMap<String, usize>,
        draft: &mut Draft,
        now: Instant,
    ) {
        let Received { name, aliases, version, ttl, content } = resource;
        let mut reject = |name: &str, reason: String| {
            draft.rejected.push(Rejection { name: name.to_owned(), reasons: vec![reason] });
        };
        if name.is_empty() {
            let reason = match content {
                Content::Faulty(reason) => reason,
                Content::Body(_) | Content::Heartbeat => "a resource must have a name".to_owned(),
            };
            self.failed.insert("".into());
            return reject("", reason);
        }
        // What nobody asked for is no fault: servers send more than they have to.
        let is_wanted = |name: &str| self.wildcard || self.names.contains_key(name);
        let by_alias = || aliases.into_iter().find(|alias| is_wanted(alias) && !counts.contains_key(alias));
        let Some(name) = Some(name).filter(|name| is_wanted(name)).or_else(by_alias) else { return };
        let count = counts.entry(name.clone()).or_insert(1);
        let shared: Arc<str> = name.as_str().into();
        let expires = ttl.and_then(|ttl| now.checked_add(ttl));
        let mut fail = |reason: String, failed: &mut BTreeSet<Arc<str>>| {
            failed.insert(shared.clone());
            reject(&name, reason);
        };
        match std::mem::replace(count, 0) {
            1 => {}
            // That was said when the first of them was met.
            0 => return,
            _ => {
                fail("is there more than once in one response".to_owned(), &mut self.failed);
                return self.arrived(&shared);
            }
        }
        match content {
            Content::Faulty(reason) => {
                fail(reason, &mut self.failed);
                self.arrived(&shared);
            }
            Content::Heartbeat => match self.known.get_mut(&shared) {
                Some(known) if known.version == version => {
                    let before = std::mem::replace(&mut known.expires, expires);
                    self.reschedule(&shared, before, expires);
                }
                _ => fail("a heartbeat of a version that is not here".to_owned(), &mut self.failed),
            },
            Content::Body(body) => {
                self.arrived(&shared);
                draft.pending.insert(shared, Known { version: version.clone(), expires });
                draft.update.changed.push(Resource { name, version, body });
            }
        }
    }

    fn take_removal(&mut self, name: String, draft: &mut Draft) {
        let shared: Arc<str> = name.as_str().into();
        let was_known = self.known.contains_key(&shared);
        self.forget(&shared);
        let has_failed = self.failed.remove(&shared);
        // One that never came does not exist, which whoever waits for it wants to know.
        if was_known || has_failed || self.names.contains_key(&shared) {
            self.arrived(&shared);
            draft.update.removed.push(name);
        }
    }

    fn reschedule(&mut self, name: &Arc<str>, before: Option<Instant>, after: Option<Instant>) {
        if let Some(at) = before {
            self.expiries.remove(&(at, name.clone()));
        }
        if let Some(at) = after {
            self.expiries.insert((at, name.clone()));
        }
    }

    /// What became of an update.
    pub(super) fn settle(&mut self, draft: Draft, rejected: &[Rejection]) {
        let rejected: HashSet<&str> = rejected.iter().map(|rejection| &*rejection.name).collect();
        for (name, known) in draft.pending {
            if rejected.contains(&*name) {
                self.failed.insert(name);
                continue;
            }
            self.failed.remove(&name);
            let after = known.expires;
            let before = self.known.insert(name.clone(), known).and_then(|known| known.expires);
            self.reschedule(&name, before, after);
        }
    }
}
