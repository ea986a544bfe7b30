//! What became of every resource that came from outside: one record, which `/config_dump` and CSDS show.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use bytes::Bytes;
use outrigger_engine::config::config_source::Origin;
use outrigger_engine::config::listener::Listener;
use outrigger_engine::xds::{Kind, Resource};

/// A resource as it came.
#[derive(Clone, Debug)]
pub struct Version {
    /// What the server calls it.
    pub version: String,
    /// The encoded message.
    pub body: Bytes,
    /// When it came.
    pub updated: SystemTime,
}

/// What is wrong with a resource.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What came and was refused; the body is empty where nothing came, or it could not be read at all.
    pub refused: Version,
    /// Every reason, one a line.
    pub details: String,
    /// Whether it is the server that says so, in place of sending the resource.
    pub received: bool,
}

/// Why what was asked for by name is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// Nothing was heard of it yet.
    Requested,
    /// Its source has none, or none any more.
    DoesNotExist,
    /// Nothing was heard of it in time.
    TimedOut,
}

/// Where a resource stands.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// In force.
    pub active: Option<Version>,
    /// Accepted, and not in force yet.
    pub warming: Option<Version>,
    /// Of the last one, if something was wrong with it.
    pub error: Option<Failure>,
    /// Of what its source does not have. An older version may be in force still.
    pub absence: Option<Absence>,
}

/// A listener that is gone while connections of it are open.
#[derive(Clone, Debug)]
pub struct Draining {
    /// Its name.
    pub name: Arc<str>,
    /// What it was.
    pub version: Option<Version>,
    listener: Weak<Listener>,
}

/// See the module. Shared by whoever applies and whoever shows.
#[derive(Debug, Default)]
pub struct Record(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    kinds: BTreeMap<Kind, BTreeMap<String, Vec<Entry>>>,
    draining: Vec<Draining>,
}

/// What one source says under a name.
#[derive(Debug)]
struct Entry {
    /// Of what is taken by name; `None` for clusters and listeners, which have one source.
    origin: Option<Origin>,
    status: Status,
}

impl Record {
    /// Every resource of a kind, by name, and what was asked for by name and did not come; a name that comes from
    /// several sources is there several times.
    pub fn of(&self, kind: Kind) -> Vec<(String, Status)> {
        let inner = self.lock();
        let all = inner.kinds.get(&kind).into_iter().flatten();
        all.flat_map(|(name, entries)| entries.iter().map(|entry| (name.clone(), entry.status.clone()))).collect()
    }

    /// Whether something of this name came, be it good or bad.
    pub fn contains(&self, kind: Kind, name: &str) -> bool {
        self.lock().kinds.get(&kind).is_some_and(|kind| kind.contains_key(name))
    }

    /// The listeners that drain.
    pub fn draining(&self) -> Vec<Draining> {
        let mut inner = self.lock();
        inner.draining.retain(|draining| draining.listener.strong_count() > 0);
        inner.draining.clone()
    }

    /// A resource is asked for by name.
    pub(super) fn requested(&self, kind: Kind, origin: &Origin, name: &str) {
        let mut inner = self.lock();
        let status = inner.entry(kind, Some(origin), name);
        // What came before, from a file that others read too, stands.
        if status.active.is_none() && status.warming.is_none() && status.error.is_none() {
            status.absence = Some(Absence::Requested);
        }
    }

    /// A resource was accepted; it warms.
    pub(super) fn accepted(&self, kind: Kind, origin: Option<&Origin>, resource: &Resource, now: SystemTime) {
        let mut inner = self.lock();
        let status = inner.entry(kind, origin, &resource.name);
        status.error = None;
        status.absence = None;
        status.warming = Some(version(resource, now));
    }

    /// A resource that was removed came back before it was out of force.
    pub(super) fn kept(&self, kind: Kind, resource: &Resource, now: SystemTime) {
        let mut inner = self.lock();
        let status = inner.entry(kind, None, &resource.name);
        if status.active.is_none() && status.warming.is_none() {
            status.active = Some(version(resource, now));
        }
    }

    /// A resource came that was there already, in force or warming. Where it is in force, what warmed is given up.
    pub(super) fn repeated(&self, kind: Kind, origin: Option<&Origin>, resource: &Resource) {
        let mut inner = self.lock();
        if let Some(status) = inner.find(kind, origin, &resource.name) {
            status.error = None;
            status.absence = None;
            status.warming.take_if(|warming| warming.body != resource.body);
            if let Some(latest) = status.warming.as_mut().or(status.active.as_mut()) {
                latest.version.clone_from(&resource.version);
            }
        }
    }

    /// A resource was refused. Says whether that is news: a server may repeat what it was told is bad.
    pub(crate) fn rejected(
        &self,
        kind: Kind,
        origin: Option<&Origin>,
        resource: &Resource,
        details: String,
        now: SystemTime,
    ) -> bool {
        let mut inner = self.lock();
        let status = inner.entry(kind, origin, &resource.name);
        let failure = Failure { refused: version(resource, now), details, received: false };
        let before = status.error.replace(failure);
        let (Some(before), Some(failure)) = (before.filter(|before| !before.received), &status.error) else {
            return true;
        };
        before.refused.body != failure.refused.body || before.details != failure.details
    }

    /// The server says why it cannot send a resource. Of clusters and listeners nobody said before which there are.
    pub(super) fn unavailable(
        &self,
        kind: Kind,
        origin: Option<&Origin>,
        name: String,
        details: String,
        now: SystemTime,
    ) {
        let nothing = Version { version: String::new(), body: Bytes::new(), updated: now };
        let mut inner = self.lock();
        let status = match origin {
            Some(_) => inner.find(kind, origin, &name),
            None => Some(inner.entry(kind, None, &name)),
        };
        if let Some(status) = status {
            status.error = Some(Failure { refused: nothing, details, received: true });
        }
    }

    /// The resources that are refused now, by kind: how many, and the first `limit` of all, with their reasons.
    pub fn refused(&self, limit: usize) -> (BTreeMap<Kind, u64>, Vec<(Kind, String, String)>) {
        let inner = self.lock();
        let (mut counts, mut first) = (BTreeMap::new(), Vec::new());
        for (kind, statuses) in &inner.kinds {
            let count: &mut u64 = counts.entry(*kind).or_default();
            let entries = statuses.iter().flat_map(|(name, entries)| entries.iter().map(move |entry| (name, entry)));
            let refused = entries.filter_map(|(name, entry)| Some((name, entry.status.error.as_ref()?)));
            for (name, failure) in refused.filter(|(_, failure)| !failure.received) {
                *count = count.saturating_add(1);
                if first.len() < limit {
                    first.push((*kind, name.clone(), failure.details.clone()));
                }
            }
        }
        (counts, first)
    }

    /// What warmed is in force.
    pub(super) fn in_force(&self, kind: Kind, origin: Option<&Origin>, name: &str) {
        let mut inner = self.lock();
        if let Some(status) = inner.find(kind, origin, name)
            && let Some(version) = status.warming.take()
        {
            status.active = Some(version);
        }
    }

    /// There is no such resource any more.
    pub(super) fn removed(&self, kind: Kind, origin: Option<&Origin>, name: &str) {
        let mut inner = self.lock();
        let Some(statuses) = inner.kinds.get_mut(&kind) else { return };
        if let Some(entries) = statuses.get_mut(name) {
            entries.retain(|entry| entry.origin.as_ref() != origin);
            if entries.is_empty() {
                statuses.remove(name);
            }
        }
    }

    /// Its source has no such resource, or none any more: nothing is wrong with it then. What is in force stays.
    pub(super) fn absent(&self, kind: Kind, origin: &Origin, name: &str) {
        // Those without a name were never asked for: they are only forgotten.
        if name.is_empty() {
            return self.removed(kind, Some(origin), name);
        }
        if let Some(status) = self.lock().find(kind, Some(origin), name) {
            status.error = None;
            status.absence = Some(Absence::DoesNotExist);
        }
    }

    /// Of what is absent nothing was heard in time.
    pub(super) fn timed_out(&self, kind: Kind, origin: &Origin, name: &str) {
        if let Some(status) = self.lock().find(kind, Some(origin), name) {
            status.absence = Some(Absence::TimedOut);
        }
    }

    /// A listener is not in force any more; its connections may be open still. To be called before its successor or
    /// its removal is noted.
    pub(super) fn drains(&self, listener: &Arc<Listener>) {
        let mut inner = self.lock();
        let status = inner.find(Kind::Listener, None, &listener.name);
        let version = status.and_then(|status| status.active.clone());
        inner.draining.retain(|draining| draining.listener.strong_count() > 0);
        let (name, listener) = (listener.name.clone(), Arc::downgrade(listener));
        inner.draining.push(Draining { name, version, listener });
    }

    /// What was written is whole after every step, so a panic elsewhere spoils nothing.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn find(&mut self, kind: Kind, origin: Option<&Origin>, name: &str) -> Option<&mut Status> {
        let entries = self.kinds.get_mut(&kind)?.get_mut(name)?;
        entries.iter_mut().find(|entry| entry.origin.as_ref() == origin).map(|entry| &mut entry.status)
    }

    /// What is noted of a resource, made if nothing is.
    #[allow(clippy::indexing_slicing, reason = "at the index is what was found, or what was pushed")]
    fn entry(&mut self, kind: Kind, origin: Option<&Origin>, name: &str) -> &mut Status {
        let entries = self.kinds.entry(kind).or_default().entry(name.to_owned()).or_default();
        let index = entries.iter().position(|entry| entry.origin.as_ref() == origin).unwrap_or(entries.len());
        if index == entries.len() {
            entries.reserve_exact(1);
            entries.push(Entry { origin: origin.cloned(), status: Status::default() });
        }
        &mut entries[index].status
    }
}

/// The body is copied: a resource would keep the whole response that it came in.
fn version(resource: &Resource, updated: SystemTime) -> Version {
    let body = Bytes::copy_from_slice(&resource.body);
    Version { version: resource.version.clone(), body, updated }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn resource(name: &str, version: &str, body: &'static str) -> Resource {
        Resource { name: name.to_owned(), version: version.to_owned(), body: Bytes::from_static(body.as_bytes()) }
    }

    #[test]
    fn what_is_refused_once_more_is_no_news() {
        let (record, now) = (Record::default(), SystemTime::now());
        let refuse = |version, body, details: &str| {
            record.rejected(Kind::Cluster, None, &resource("a", version, body), details.to_owned(), now)
        };
        assert!(refuse("1", "x", "bad"));
        assert!(!refuse("2", "x", "bad"), "the server only calls it otherwise");
        assert!(refuse("3", "y", "bad") && refuse("3", "y", "worse"));
        record.accepted(Kind::Cluster, None, &resource("a", "4", "z"), now);
        assert!(refuse("5", "y", "worse"));
    }

    #[test]
    fn what_comes_back_before_it_is_out_of_force_is_shown_in_force() {
        let (record, now) = (Record::default(), SystemTime::now());
        let version = || record.of(Kind::Cluster).pop().map(|(_, status)| status.active.unwrap().version);
        record.accepted(Kind::Cluster, None, &resource("a", "1", "x"), now);
        record.in_force(Kind::Cluster, None, "a");
        record.removed(Kind::Cluster, None, "a");
        assert_eq!(version(), None);
        record.repeated(Kind::Cluster, None, &resource("a", "2", "x"));
        record.kept(Kind::Cluster, &resource("a", "2", "x"), now);
        assert_eq!(version().as_deref(), Some("2"));
        // It is what repetitions and changes find.
        record.repeated(Kind::Cluster, None, &resource("a", "3", "x"));
        record.kept(Kind::Cluster, &resource("a", "3", "x"), now);
        assert_eq!(version().as_deref(), Some("3"));
    }

    #[test]
    fn what_warms_is_given_up_for_what_was_in_force() {
        let (record, now) = (Record::default(), SystemTime::now());
        let again = |version, body| {
            record.repeated(Kind::Cluster, None, &resource("a", version, body));
            record.kept(Kind::Cluster, &resource("a", version, body), now);
        };
        let version = |version: Option<Version>| version.map(|version| version.version);
        let versions = || record.of(Kind::Cluster).pop().map(|(_, s)| (version(s.active), version(s.warming))).unwrap();
        let is = |version: &str| Some(version.to_owned());
        record.accepted(Kind::Cluster, None, &resource("a", "1", "x"), now);
        record.in_force(Kind::Cluster, None, "a");
        record.accepted(Kind::Cluster, None, &resource("a", "2", "y"), now);
        again("3", "y");
        assert_eq!(versions(), (is("1"), is("3")));
        again("4", "x");
        assert_eq!(versions(), (is("4"), None));
        // In force still, though it was removed.
        record.removed(Kind::Cluster, None, "a");
        record.accepted(Kind::Cluster, None, &resource("a", "5", "y"), now);
        again("6", "x");
        assert_eq!(versions(), (is("6"), None));
    }

    #[test]
    fn one_name_from_two_sources_is_two_resources() {
        let (record, now) = (Record::default(), SystemTime::now());
        let (ads, file) = (Origin::Ads, Origin::file("/f"));
        for origin in [&ads, &file] {
            record.accepted(Kind::Routes, Some(origin), &resource("r", "1", "x"), now);
        }
        record.in_force(Kind::Routes, Some(&file), "r");
        assert_eq!(record.of(Kind::Routes).iter().filter(|(_, status)| status.active.is_some()).count(), 1);
        record.removed(Kind::Routes, Some(&ads), "r");
        let left = record.of(Kind::Routes);
        assert!(left.len() == 1 && left[0].1.active.is_some(), "{left:?}");
        record.removed(Kind::Routes, Some(&file), "r");
        assert!(!record.contains(Kind::Routes, "r"));
    }
}
