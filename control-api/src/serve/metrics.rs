//! `/metrics`, in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use crate::api::Api;
use crate::model::Kind;

/// One family of samples.
struct Family<'t> {
    text: &'t mut String,
    name: &'static str,
}

impl<'t> Family<'t> {
    fn new(text: &'t mut String, name: &'static str, kind: &str, help: &str) -> Self {
        // Writing to a String cannot fail.
        _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        Family { text, name }
    }

    /// Label values are names of ours: nothing in them needs escaping.
    fn sample(&mut self, labels: &str, value: u64) {
        let name = self.name;
        _ = if labels.is_empty() {
            writeln!(self.text, "{name} {value}")
        } else {
            writeln!(self.text, "{name}{{{labels}}} {value}")
        };
    }
}

pub(super) fn text(api: &Api) -> String {
    let mut text = String::new();
    let set = api.in_force.borrow().clone();
    let help = "The revision in force: counts the sets that were written.";
    Family::new(&mut text, "outrigger_control_revision", "gauge", help).sample("", set.revision);

    let mut objects = Family::new(&mut text, "outrigger_control_objects", "gauge", "Objects in force, by kind.");
    let mut counts: BTreeMap<Kind, u64> = Kind::ALL.into_iter().map(|kind| (kind, 0)).collect();
    for key in set.objects.keys() {
        *counts.entry(key.kind).or_default() += 1;
    }
    for (kind, count) in counts {
        objects.sample(&format!("kind=\"{}\"", kind.as_str()), count);
    }

    let help = "Objects that an earlier version took and this one refuses, by kind: all or a part of them is left out.";
    let mut left_out = Family::new(&mut text, "outrigger_control_objects_left_out", "gauge", help);
    for (kind, count) in crate::api::left_out::count(&set.compiled.mesh, set.objects.keys()) {
        left_out.sample(&format!("kind=\"{}\"", kind.as_str()), count);
    }

    let help = "Requests to the control API, by method and gRPC code.";
    let mut requests = Family::new(&mut text, "outrigger_control_requests_total", "counter", help);
    for (method, code, count) in api.counters.requests() {
        requests.sample(&format!("method=\"{}\",code=\"{code:?}\"", method.as_str()), count);
    }

    let proxies = api.proxies.list();
    let help = "Proxies that are connected.";
    Family::new(&mut text, "outrigger_control_proxies", "gauge", help).sample("", proxies.len() as u64);
    let help = "Proxies whose last response of some type was not accepted, or not yet.";
    let behind = proxies.iter().filter(|proxy| !proxy.kinds.values().all(crate::xds::Status::synced)).count();
    Family::new(&mut text, "outrigger_control_proxies_behind", "gauge", help).sample("", behind as u64);
    let help = "xDS streams that are open.";
    Family::new(&mut text, "outrigger_control_xds_streams", "gauge", help).sample("", api.proxies.streams() as u64);

    let help = "Streams that were reset because the client read nothing of the response for a minute.";
    let unread = api.unread.responses.load(Ordering::Relaxed);
    Family::new(&mut text, "outrigger_control_unread_responses_total", "counter", help).sample("", unread);
    let help = "Connections that were ended because the client read nothing of any response for a minute.";
    let unread = api.unread.connections.load(Ordering::Relaxed);
    Family::new(&mut text, "outrigger_control_unread_connections_total", "counter", help).sample("", unread);

    let counts = api.proxies.counts();
    let mut per_kind = |name, help, value: fn(&crate::xds::Counts) -> u64| {
        let mut family = Family::new(&mut text, name, "counter", help);
        for (kind, counts) in &counts {
            family.sample(&format!("type=\"{}\"", type_name(kind.type_url())), value(counts));
        }
    };
    per_kind("outrigger_control_xds_responses_total", "xDS responses sent, by type.", |counts| counts.responses);
    per_kind("outrigger_control_xds_accepted_total", "xDS responses that were accepted (ACK).", |counts| {
        counts.accepted
    });
    per_kind("outrigger_control_xds_rejected_total", "xDS responses that were rejected (NACK).", |counts| {
        counts.rejected
    });
    text
}

/// `Cluster` of `type.googleapis.com/envoy.config.cluster.v3.Cluster`.
fn type_name(url: &str) -> &str {
    url.rsplit('.').next().unwrap_or(url)
}
