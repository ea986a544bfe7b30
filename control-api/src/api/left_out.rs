//! What an earlier version took and this one refuses. It is stored, so it is there after the start, with all or a part of
//! it left out; whoever looks at the object is to see that, and why, until it is applied again in a form that is taken.

use std::collections::{BTreeMap, BTreeSet};

use outrigger_proto::outrigger::control::v1::object::Kind as Inner;
use outrigger_proto::outrigger::control::v1::{
    Condition, Object, ParentReference, PolicyAncestorStatus, RouteParentStatus,
};

use super::objects::metadata;
use crate::compile::{Mesh, Rejected};
use crate::model::status::condition;
use crate::model::{CONTROLLER, Key, Kind};

/// Reasons that a condition names.
const NAMED: usize = 10;

/// What was compiled for the object and no proxy would take.
fn rejected<'m>(mesh: &'m Mesh, key: &Key) -> &'m [Rejected] {
    if key.kind == Kind::Service { mesh.rejected(&key.name) } else { &[] }
}

/// What is wrong with the object: fields, and resources that no proxy would take.
pub(super) fn reasons(mesh: &Mesh, key: &Key) -> Vec<String> {
    let fields = mesh.faults().get(key).into_iter().flatten().map(ToString::to_string);
    let resources = rejected(mesh, key).iter().flat_map(|rejected| {
        let place = format!("{:?} {}", rejected.kind, rejected.name);
        rejected.problems.iter().map(move |problem| format!("{place}: {problem}"))
    });
    fields.chain(resources).collect()
}

/// Whether the object is left out, or a part of it.
pub(super) fn is_any(mesh: &Mesh, key: &Key) -> bool {
    mesh.faults().get(key).is_some() || !rejected(mesh, key).is_empty()
}

/// How many objects of a kind are left out, or a part of them.
pub(crate) fn count<'k>(mesh: &Mesh, keys: impl Iterator<Item = &'k Key>) -> BTreeMap<Kind, u64> {
    let mut counts: BTreeMap<Kind, u64> = Kind::ALL.into_iter().map(|kind| (kind, 0)).collect();
    let faulty: BTreeSet<&Key> = mesh.faults().keys().collect();
    // Mostly there are none.
    let is_it = |key: &&Key| faulty.contains(*key) || !rejected(mesh, key).is_empty();
    for key in keys.filter(is_it) {
        *counts.entry(key.kind).or_default() += 1;
    }
    counts
}

/// Says in the object's status what is left out of it. `since`: the process's start, RFC 3339.
pub(super) fn mark(object: &mut Object, mesh: &Mesh, key: &Key, since: &str) {
    let reasons = reasons(mesh, key);
    if reasons.is_empty() {
        return;
    }
    let mut message = reasons.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join("; ");
    if reasons.len() > NAMED {
        message.push_str("; ...");
    }
    let generation = metadata(object).and_then(|metadata| metadata.generation);
    let reason = if key.kind == Kind::HttpRoute { "UnsupportedValue" } else { "Invalid" };
    for conditions in lists(object) {
        let says_so = |found: &&mut Condition| {
            let bad = if found.r#type == "Accepted" { "False" } else { "True" };
            matches!(found.r#type.as_str(), "Accepted" | "PartiallyInvalid") && found.status == bad
        };
        let accepted = conditions.iter().any(|found| found.r#type == "Accepted" && found.status == "True");
        match conditions.iter_mut().find(says_so) {
            // It says what is left out, and not why.
            Some(found) => found.message = format!("{}: {message}", found.message),
            None => {
                // A part is in force if it was accepted otherwise.
                let name = if accepted { "PartiallyInvalid" } else { "Accepted" };
                let new = condition(name, accepted, reason, message.clone(), generation);
                conditions.push(Condition { last_transition_time: Some(since.to_owned()), ..new });
            }
        }
    }
}

/// The lists of conditions of an object; one for each thing that it refers to, where the model could not say which.
fn lists(object: &mut Object) -> Vec<&mut Vec<Condition>> {
    match &mut object.kind {
        Some(Inner::Service(service)) => vec![&mut service.status.get_or_insert_default().conditions],
        Some(Inner::Workload(workload)) => vec![&mut workload.status.get_or_insert_default().conditions],
        Some(Inner::HttpRoute(route)) => {
            let parents = &mut route.status.get_or_insert_default().parents;
            if parents.is_empty() {
                let written = route.spec.iter().flat_map(|spec| &spec.parent_refs);
                parents.extend(written.map(|parent| RouteParentStatus {
                    parent_ref: Some(parent.clone()),
                    controller_name: CONTROLLER.to_owned(),
                    conditions: Vec::new(),
                }));
            }
            parents.iter_mut().map(|parent| &mut parent.conditions).collect()
        }
        Some(Inner::ServicePolicy(policy)) => {
            let ancestors = &mut policy.status.get_or_insert_default().ancestors;
            if ancestors.is_empty() {
                let written = policy.spec.iter().flat_map(|spec| &spec.target_refs);
                ancestors.extend(written.map(|target| PolicyAncestorStatus {
                    ancestor_ref: Some(ParentReference {
                        group: target.group.clone(),
                        kind: Some(target.kind.clone()),
                        namespace: target.namespace.clone(),
                        name: target.name.clone(),
                        section_name: target.section_name.clone(),
                        port: None,
                    }),
                    controller_name: CONTROLLER.to_owned(),
                    conditions: Vec::new(),
                }));
            }
            ancestors.iter_mut().map(|ancestor| &mut ancestor.conditions).collect()
        }
        None => Vec::new(),
    }
}
