//! What a set of objects means: the model's conditions, and the resources for proxies.
//!
//! Nothing is put in force that was not compiled here before, with the engine's own validation at the end of it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use outrigger_proto::outrigger::control::v1::Condition;

use super::objects::rfc3339;
use super::refusal::Violation;
use super::writer::Held;
use crate::model::{Key, Model, Status};
use crate::xds::Views;

/// What a set means.
pub struct Compiled {
    /// What proxies are to have.
    pub views: Arc<dyn Views>,
    /// What became of each route and each policy.
    pub statuses: BTreeMap<Key, Status>,
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiled").field("statuses", &self.statuses).finish_non_exhaustive()
    }
}

/// Compiles the whole set. `before` is what was in force, `now` the time in seconds since 1970: a condition keeps the time of
/// its last transition.
///
/// # Errors
/// What cannot be compiled. The field of a violation is its path in the object.
pub(super) fn check(
    objects: &BTreeMap<Key, Held>,
    before: Option<&Compiled>,
    now: u64,
) -> Result<Compiled, Vec<Violation>> {
    let mut model = Model::build(objects.values().map(|held| &held.stored));
    let mut statuses = std::mem::take(&mut model.statuses);
    for (key, status) in &mut statuses {
        date(status, before.and_then(|before| before.statuses.get(key)), &rfc3339(now));
    }
    Ok(Compiled { views: Arc::new(Nothing), statuses })
}

/// Every condition of a status, with the name of the parent that it speaks of.
fn conditions(status: &Status) -> impl Iterator<Item = (String, &Condition)> {
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

/// Until there is a compiler: nobody gets anything.
struct Nothing;

impl Views for Nothing {
    fn view(&self, _node: &outrigger_proto::envoy::config::core::v3::Node) -> Arc<crate::xds::View> {
        Arc::default()
    }
}
