//! What a client was told of one kind, and the version of all of it.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::Resource;

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

    /// Whether it was told of `resource` last.
    pub(super) fn is_of(&self, resource: &Arc<Resource>) -> bool {
        matches!(&self.last, Last::Sent(sent) if Arc::ptr_eq(sent, resource)) || self.version() == &*resource.version
    }
}

/// Everything that it was told of, by name.
#[derive(Clone, Debug, Default)]
pub(super) struct AllTold {
    by_name: BTreeMap<Arc<str>, Told>,
    /// Kept up with each change, because each part of a large response has it.
    version: Version,
}

impl AllTold {
    pub(super) fn get(&self, name: &str) -> Option<&Told> {
        self.by_name.get(name)
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// In the order of names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Told)> {
        self.by_name.iter()
    }

    pub(super) fn insert(&mut self, name: Arc<str>, told: Told) {
        self.version.add(&name, told.version());
        if let Some(before) = self.by_name.insert(name.clone(), told) {
            self.version.subtract(&name, before.version());
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        if let Some(before) = self.by_name.remove(name) {
            self.version.subtract(name, before.version());
        }
    }

    /// Forgets what is not among `names`.
    pub(super) fn retain(&mut self, names: &BTreeSet<Arc<str>>) {
        for (name, told) in self.by_name.extract_if(.., |name, _| !names.contains(name)) {
            self.version.subtract(&name, told.version());
        }
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }
}

/// The version of a set of resources: equal for equal sets, in whatever order they came to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Version(u64);

impl Version {
    pub(super) fn add(&mut self, name: &str, version: &str) {
        self.0 = self.0.wrapping_add(hash(name, version));
    }

    fn subtract(&mut self, name: &str, version: &str) {
        self.0 = self.0.wrapping_sub(hash(name, version));
    }

    /// As clients get to see it.
    pub(super) fn text(self) -> Arc<str> {
        format!("{:016x}", self.0).into()
    }
}

fn hash(name: &str, version: &str) -> u64 {
    let mut hash = DefaultHasher::new();
    (name, version).hash(&mut hash);
    hash.finish()
}
