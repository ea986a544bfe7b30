//! What became of a policy at its targets.

use outrigger_engine::source::nearest;
use outrigger_proto::outrigger::control::v1 as pb;

use super::super::index::Dated;
use super::super::policy::{Policy, TargetRef};
use super::super::status::{Status, condition};
use super::Model;
use crate::model::{CONTROLLER, CORE, CORE_IS_TAKEN};

impl Model {
    pub(super) fn policy_status(&self, policy: &Dated<Policy>) -> Status {
        let targets = policy.object.targets.iter().enumerate();
        let ancestors = targets.map(|(place, target)| self.target_status(policy, place, target));
        Status::Policy(pb::PolicyStatus { ancestors: ancestors.collect() })
    }

    fn target_status(&self, policy: &Dated<Policy>, place: usize, target: &TargetRef) -> pb::PolicyAncestorStatus {
        let Dated { object: policy, generation, .. } = policy;
        let service = self.service(&target.service);
        let missing = match service {
            None => Some(format!("there is no Service {}{}", target.service, self.near(&target.service))),
            Some(service) => target.section.as_ref().and_then(|section| {
                let names = || service.ports.iter().map(|port| port.port.name.as_str());
                let found = names().any(|name| name == section);
                (!found).then(|| {
                    format!("Service {} has no port named {section:?}{}", target.service, nearest(section, names()))
                })
            }),
        };
        let mut conditions = Vec::new();
        match missing {
            Some(message) => conditions.push(condition("Accepted", false, "TargetNotFound", message, *generation)),
            None => {
                let is_core = target.written.group.as_deref() == Some(CORE);
                let note = if is_core { format!("{CORE_IS_TAKEN} in spec.targetRefs[{place}]") } else { String::new() };
                conditions.push(condition("Accepted", true, "Accepted", note, *generation));
            }
        }
        let lost = service.map(|service| service.lost(&policy.name, place)).unwrap_or_default();
        if !lost.is_empty() {
            let all = lost.len() == policy.values.count();
            let reason = if all { "Overridden" } else { "PartiallyProgrammed" };
            let message = format!("an older policy of this target sets {}", lost.join(", "));
            conditions.push(condition("Programmed", false, reason, message, *generation));
        }
        let pb::PolicyTargetReference { group, kind, name, namespace, section_name } = target.written.clone();
        pb::PolicyAncestorStatus {
            ancestor_ref: Some(pb::ParentReference {
                group: Some(group.unwrap_or_default()),
                kind: Some(kind),
                namespace,
                name,
                section_name,
                port: None,
            }),
            controller_name: CONTROLLER.to_owned(),
            conditions,
        }
    }
}
