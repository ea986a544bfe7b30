//! What a set of objects means: the model's conditions, and the resources for proxies.
//!
//! Nothing is put in force that was not compiled here before, with the engine's own validation at the end of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use outrigger_proto::outrigger::control::v1::Condition;

use super::objects::rfc3339;
use super::refusal::Violation;
use super::writer::Held;
use crate::compile::{Mesh, Rejected};
use crate::model::{Key, Status};

/// What a set means.
#[derive(Debug)]
pub struct Compiled {
    /// The set, compiled.
    pub mesh: Arc<Mesh>,
    /// What became of each route and each policy.
    pub statuses: BTreeMap<Key, Status>,
}

/// Compiles the whole set. `before` is what was in force, `now` the time in seconds since 1970: a condition keeps the
/// time of its last transition.
///
/// # Errors
/// What cannot be compiled. What was stored by another version, and is compiled at the start, is no error: it is left
/// out.
pub(super) fn check(
    objects: &BTreeMap<Key, Held>,
    before: Option<&Compiled>,
    now: u64,
) -> Result<Compiled, Vec<Violation>> {
    let mesh = Mesh::build(objects.values().map(|held| &held.stored), before.map(|before| &*before.mesh));
    // What was left out at the start already is not the fault of this change.
    let known = |rejected: &&Rejected| before.is_some_and(|before| before.mesh.rejected().contains(rejected));
    let violations: Vec<Violation> =
        mesh.rejected().iter().filter(|rejected| !known(rejected)).flat_map(violations).collect();
    match before {
        Some(_) if !violations.is_empty() => return Err(violations),
        Some(_) => {}
        None => warn(&mesh, &violations),
    }
    let mut statuses = mesh.statuses().clone();
    for (key, status) in &mut statuses {
        date(status, before.and_then(|before| before.statuses.get(key)), &rfc3339(now));
    }
    Ok(Compiled { mesh: Arc::new(mesh), statuses })
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
    for (key, problems) in mesh.faults() {
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
    let (routes, policies) = match status {
        Status::Route(status) => (Some(&status.parents), None),
        Status::Policy(status) => (None, Some(&status.ancestors)),
    };
    let routes = routes.into_iter().flatten().map(|parent| (format!("{:?}", parent.parent_ref), &parent.conditions));
    let policies =
        policies.into_iter().flatten().map(|ancestor| (format!("{:?}", ancestor.ancestor_ref), &ancestor.conditions));
    routes.chain(policies).flat_map(|(name, conditions)| {
        conditions.iter().map(move |condition| (format!("{name} {}", condition.r#type), condition))
    })
}

/// Gives each condition its time: that of before, if it says the same.
fn date(status: &mut Status, before: Option<&Status>, now: &str) {
    let earlier: BTreeMap<String, Condition> = before
        .map(|before| conditions(before).map(|(name, found)| (name, found.clone())).collect())
        .unwrap_or_default();
    let names: Vec<String> = conditions(status).map(|(name, _)| name).collect();
    let lists: Vec<&mut Condition> = match status {
        Status::Route(status) => status.parents.iter_mut().flat_map(|parent| &mut parent.conditions).collect(),
        Status::Policy(status) => status.ancestors.iter_mut().flat_map(|ancestor| &mut ancestor.conditions).collect(),
    };
    for (name, condition) in names.iter().zip(lists) {
        let same = earlier.get(name).filter(|earlier| earlier.status == condition.status);
        let since = same.and_then(|earlier| earlier.last_transition_time.clone());
        condition.last_transition_time = Some(since.unwrap_or_else(|| now.to_owned()));
    }
}
