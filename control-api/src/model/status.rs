//! What became of each object, as conditions with the reasons of the Gateway API.
//!
//! They are made anew whenever an object is read, and without a time: whoever shows them adds since when a condition says
//! what it says. There are no entries of other controllers: a status that comes with an object is not stored. The
//! condition `Programmed` is not made here: it comes from what proxies acknowledged, except where a policy lost a field.

use outrigger_proto::outrigger::control::v1 as pb;

/// The status of one object.
#[derive(Clone, Debug, PartialEq)]
pub enum Status {
    /// Of a route: one entry for each parent that is a Service.
    Route(pb::RouteStatus),
    /// Of a policy: one entry for each target.
    Policy(pb::PolicyStatus),
    /// Of a Service or Workload. There is one only if it has something to say of a reference.
    Object(Vec<pb::Condition>),
}

/// A condition. `generation`: the object's, which it speaks of.
pub(crate) fn condition(
    r#type: &str,
    status: bool,
    reason: &str,
    message: impl Into<String>,
    generation: Option<i64>,
) -> pb::Condition {
    pb::Condition {
        r#type: r#type.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        observed_generation: generation,
        last_transition_time: None,
        reason: reason.to_owned(),
        message: message.into(),
    }
}

/// `ResolvedRefs` of a Service or Workload: False with the reason and what leads nowhere, or True with what is worth a
/// word. Its generation is that of the object when it is shown.
pub(crate) fn resolved_refs(lost: Option<(&str, &[String])>, notes: &[String]) -> Option<pb::Condition> {
    let (status, reason, first) = match lost {
        Some((reason, lost)) => (false, reason, lost),
        None => (true, "ResolvedRefs", [].as_slice()),
    };
    let message = first.iter().chain(notes).map(String::as_str).collect::<Vec<_>>().join("; ");
    (!message.is_empty()).then(|| condition("ResolvedRefs", status, reason, message, None))
}

/// The `generation` of an object.
pub(crate) fn generation(metadata: Option<&pb::ObjectMeta>) -> Option<i64> {
    metadata.and_then(|metadata| metadata.generation)
}
