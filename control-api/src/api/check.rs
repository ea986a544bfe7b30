//! What a set of objects means: the model's conditions, and the resources for proxies.
//!
//! Nothing is put in force that was not compiled here before, with the engine's own validation at the end of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use outrigger_proto::outrigger::control::v1::Condition;

use super::left_out;
use super::objects::rfc3339;
use super::refusal::Violation;
use crate::compile::{Mesh, Rejected};
use crate::model::{Changed, Key, Kind, Status, Stored};
use crate::versioned::Map;

/// How many are known that revisions touched. A write touches a few, and watches are a few revisions behind.
const TOUCHED: usize = 10_000;

/// What a set means.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// The set, compiled.
    pub mesh: Arc<Mesh>,
    /// What became of each route and each policy, and of what Services and Workloads refer to.
    pub statuses: Map<Key, Arc<Status>>,
    /// Objects of which there was something to say and is nothing any more without their being written, by the revision
    /// that made it so.
    silent: Map<Key, u64>,
    /// The revision at the process's start: which fell silent before it is not known.
    started: u64,
    /// Objects that a revision wrote, or of which it may have changed what there is to say: the newest [`TOUCHED`].
    touched: Map<(u64, Key), ()>,
    /// The revision after which all are there.
    touched_after: u64,
}

impl Compiled {
    /// Compiles what is stored at this revision, at the time `now` in seconds since 1970. What cannot be compiled was
    /// stored by another version: it is named in the log and left out.
    pub(super) fn stored<'o>(objects: impl IntoIterator<Item = (Key, &'o Stored)>, revision: u64, now: u64) -> Self {
        let keyed = objects.into_iter().map(|(key, stored)| (key, Some(stored)));
        let (compiled, violations) = Self::default().with(keyed, revision, now);
        warn(&compiled.mesh, &violations);
        Self { started: revision, touched: Map::default(), touched_after: revision, ..compiled }
    }

    /// The objects of which there may be something else to say than at an earlier revision, written or not; `None` where
    /// that is too long ago.
    pub(super) fn touched(&self, since: u64) -> Option<impl Iterator<Item = &Key>> {
        let later = move || self.touched.from(move |(revision, _)| *revision <= since).map(|((_, key), ())| key);
        (since >= self.touched_after).then(later)
    }

    /// A revision touched an object.
    fn touch(&mut self, revision: u64, key: Key) {
        self.touched.insert((revision, key), ());
        if self.touched.len() <= TOUCHED {
            return;
        }
        let oldest = self.touched.keys().next().cloned();
        if let Some(oldest) = oldest {
            self.touched.remove(&oldest);
            self.touched_after = oldest.0;
        }
    }

    /// Whether the last conditions of an object may have gone since this revision, the set of which was told in part,
    /// without its being written since.
    pub(super) fn fell_silent(&self, key: &Key, since: u64) -> bool {
        since <= self.started || self.silent.get(key).is_some_and(|revision| *revision >= since)
    }

    /// Whether there is something to say of an object.
    fn says(&self, key: &Key) -> bool {
        self.statuses.get(key).is_some() || left_out::is_any(&self.mesh, key)
    }

    /// Compiles the change of this revision: each key holds what is given for it from now on, or nothing. A condition
    /// keeps the time of its last transition.
    ///
    /// # Errors
    /// What cannot be compiled, unless it was left out already.
    pub(super) fn check<'o>(
        &self,
        changes: impl IntoIterator<Item = (Key, Option<&'o Stored>)>,
        revision: u64,
        now: u64,
    ) -> Result<Self, Vec<Violation>> {
        let (compiled, violations) = self.with(changes, revision, now);
        if violations.is_empty() { Ok(compiled) } else { Err(violations) }
    }

    fn with<'o>(
        &self,
        changes: impl IntoIterator<Item = (Key, Option<&'o Stored>)>,
        revision: u64,
        now: u64,
    ) -> (Self, Vec<Violation>) {
        let mut written = Vec::new();
        let changes = changes.into_iter().inspect(|(key, _)| written.push(key.clone()));
        let (mesh, Changed { services, statuses: changed }) = self.mesh.with(changes);
        let mut violations = Vec::new();
        for service in &services {
            // What was left out before is not the fault of this change.
            let known = self.mesh.rejected(service);
            let new = mesh.rejected(service).iter().filter(|new| !known.iter().any(|known| known.is_like(new)));
            violations.extend(new.flat_map(self::violations));
        }
        let mut next = Self { mesh: Arc::new(mesh), ..self.clone() };
        for key in &changed {
            match next.mesh.statuses().get(key) {
                Some(status) => {
                    let mut status = Status::clone(status);
                    date(&mut status, self.statuses.get(key).map(|before| &**before), &rfc3339(now));
                    next.statuses.insert(key.clone(), Arc::new(status));
                }
                None => _ = next.statuses.remove(key),
            }
        }
        let services = services.into_iter().map(|name| Key { kind: Kind::Service, name });
        for key in changed.into_iter().chain(services) {
            if next.says(&key) {
                next.silent.remove(&key);
            } else if self.says(&key) {
                next.silent.insert(key.clone(), revision);
            }
            next.touch(revision, key);
        }
        // The log has it.
        for key in written {
            next.silent.remove(&key);
            next.touch(revision, key);
        }
        (next, violations)
    }
}

/// A resource that no proxy would take, as faults of the Service that it was compiled for.
fn violations(rejected: &Rejected) -> impl Iterator<Item = Violation> {
    rejected.problems.iter().map(|problem| {
        // It comes from several objects: no one field of the request is to blame.
        let place = format!("{:?} {}: {}", rejected.kind, rejected.name, problem.path);
        let (value, reason) = (problem.value.clone(), problem.reason.clone());
        Violation { field: place.clone(), place, value, reason }
    })
}

/// Says what is left out of a set that was stored.
fn warn(mesh: &Mesh, violations: &[Violation]) {
    for (key, problems) in mesh.faults().iter() {
        for problem in problems {
            tracing::warn!("{key}: {problem}; this part of it is left out");
        }
    }
    for violation in violations {
        tracing::warn!("{}: {} {}; it is left out", violation.place, violation.value, violation.reason);
    }
}

/// Every condition of a status, with the name of the parent that it speaks of.
pub(super) fn conditions(status: &Status) -> impl Iterator<Item = (String, &Condition)> {
    let (routes, policies, own) = match status {
        Status::Route(status) => (Some(&status.parents), None, None),
        Status::Policy(status) => (None, Some(&status.ancestors), None),
        Status::Object(conditions) => (None, None, Some((String::new(), conditions))),
    };
    let routes = routes.into_iter().flatten().map(|parent| (format!("{:?}", parent.parent_ref), &parent.conditions));
    let policies =
        policies.into_iter().flatten().map(|ancestor| (format!("{:?}", ancestor.ancestor_ref), &ancestor.conditions));
    routes.chain(policies).chain(own).flat_map(|(name, conditions)| {
        conditions.iter().map(move |condition| (format!("{name} {}", condition.r#type), condition))
    })
}

/// Gives each condition its time: that of before, if it says the same.
pub(super) fn date(status: &mut Status, before: Option<&Status>, now: &str) {
    let earlier: BTreeMap<String, Condition> = before
        .map(|before| conditions(before).map(|(name, found)| (name, found.clone())).collect())
        .unwrap_or_default();
    let names: Vec<String> = conditions(status).map(|(name, _)| name).collect();
    let lists: Vec<&mut Condition> = match status {
        Status::Route(status) => status.parents.iter_mut().flat_map(|parent| &mut parent.conditions).collect(),
        Status::Policy(status) => status.ancestors.iter_mut().flat_map(|ancestor| &mut ancestor.conditions).collect(),
        Status::Object(conditions) => conditions.iter_mut().collect(),
    };
    for (name, condition) in names.iter().zip(lists) {
        let same = earlier.get(name).filter(|earlier| earlier.status == condition.status);
        let since = same.and_then(|earlier| earlier.last_transition_time.clone());
        condition.last_transition_time = Some(since.unwrap_or_else(|| now.to_owned()));
    }
}
