//! The condition `Programmed`: whether the proxies that are connected have what an object became.
//!
//! It is made when the object is read, from what they acknowledged: a proxy has an object if it has everything of the
//! revision that wrote it. Reasons are those of the Gateway API, and of GEP-713 for policies.

use outrigger_engine::xds::Kind;
use outrigger_proto::outrigger::control::v1::object::Kind as Inner;
use outrigger_proto::outrigger::control::v1::{Condition, Object};

use crate::model::status::condition;
use crate::xds::Proxy;

const TYPE: &str = "Programmed";
/// Proxies that a message names.
const NAMED: usize = 3;

/// Adds the condition wherever the object was accepted. `revision`: the one that wrote it.
pub(super) fn add(object: &mut Object, revision: u64, proxies: &[Proxy]) {
    let (lists, waiting): (Vec<&mut Vec<Condition>>, _) = match &mut object.kind {
        Some(Inner::HttpRoute(route)) => {
            let parents = route.status.iter_mut().flat_map(|status| &mut status.parents);
            (parents.map(|parent| &mut parent.conditions).collect(), "Pending")
        }
        Some(Inner::ServicePolicy(policy)) => {
            let ancestors = policy.status.iter_mut().flat_map(|status| &mut status.ancestors);
            (ancestors.map(|ancestor| &mut ancestor.conditions).collect(), "Reconciling")
        }
        _ => return,
    };
    for conditions in lists {
        let accepted = conditions.iter().find(|found| found.r#type == "Accepted" && found.status == "True");
        // What a policy lost to an older one is said already.
        let said = conditions.iter().any(|found| found.r#type == TYPE);
        if let Some(generation) = accepted.filter(|_| !said).map(|accepted| accepted.observed_generation) {
            conditions.push(programmed(revision, proxies, waiting, generation));
        }
    }
}

fn programmed(revision: u64, proxies: &[Proxy], waiting: &str, generation: Option<i64>) -> Condition {
    let behind: Vec<&Proxy> = proxies.iter().filter(|proxy| proxy.revision() < revision).collect();
    let rejected: Vec<String> = behind.iter().filter_map(|proxy| rejection(proxy)).collect();
    let all = proxies.len();
    let unknown = |message: String| Condition {
        status: "Unknown".to_owned(),
        ..condition(TYPE, false, waiting, message, generation)
    };
    if all == 0 {
        unknown("no proxy is connected".to_owned())
    } else if !rejected.is_empty() {
        let named = rejected.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
        let more = if rejected.len() > NAMED { "; ..." } else { "" };
        let message = format!("{} of {all} proxies rejected a part: {named}{more}", rejected.len());
        condition(TYPE, false, "Invalid", message, generation)
    } else if behind.is_empty() {
        condition(TYPE, true, "Programmed", format!("all {all} connected proxies have it"), generation)
    } else {
        unknown(format!("{} of {all} connected proxies have it", all - behind.len()))
    }
}

/// `orders-1: Cluster: reason`
fn rejection(proxy: &Proxy) -> Option<String> {
    let (kind, status) = proxy.kinds.iter().find(|(_, status)| status.rejected.is_some())?;
    let kind = match kind {
        Kind::Cluster => "CDS",
        Kind::Endpoints => "EDS",
        Kind::Listener => "LDS",
        Kind::Routes => "RDS",
    };
    Some(format!("{}: {kind}: {}", proxy.node, status.rejected.as_deref().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::xds::{Protocol, Status};

    fn proxy(node: &str, revision: u64, rejected: Option<&str>) -> Proxy {
        let status = Status { rejected: rejected.map(str::to_owned), revision, ..Status::default() };
        Proxy {
            node: node.to_owned(),
            cluster: String::new(),
            agent: String::new(),
            address: None,
            connected: SystemTime::UNIX_EPOCH,
            protocol: Protocol::Delta,
            kinds: [(Kind::Routes, status)].into(),
            needs: [Kind::Routes].into(),
        }
    }

    #[test]
    fn it_is_true_once_every_proxy_has_it() {
        let of = |proxies: &[Proxy]| {
            let found = programmed(5, proxies, "Pending", Some(1));
            (found.status, found.reason, found.message)
        };
        let expected =
            |status: &str, reason: &str, message: &str| (status.to_owned(), reason.to_owned(), message.to_owned());
        assert_eq!(of(&[]), expected("Unknown", "Pending", "no proxy is connected"));
        let (old, new, newer) = (proxy("a", 4, None), proxy("b", 5, None), proxy("c", 6, None));
        assert_eq!(of(&[old.clone(), new.clone()]), expected("Unknown", "Pending", "1 of 2 connected proxies have it"));
        assert_eq!(of(&[new.clone(), newer]), expected("True", "Programmed", "all 2 connected proxies have it"));
        let bad = proxy("d", 4, Some("r: no"));
        assert_eq!(
            of(&[bad, new.clone()]),
            expected("False", "Invalid", "1 of 2 proxies rejected a part: d: RDS: r: no")
        );
        // It has not asked for a kind yet.
        let mut starting = new.clone();
        starting.needs.insert(Kind::Listener);
        assert_eq!(of(&[starting]), expected("Unknown", "Pending", "0 of 1 connected proxies have it"));
        // What it rejected came later than the object.
        assert_eq!(of(&[proxy("d", 5, Some("no"))]).0, "True");
    }
}
