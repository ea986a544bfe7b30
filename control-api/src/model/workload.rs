//! `Workload`: one instance of one or more Services.

use std::collections::BTreeMap;
use std::net::IpAddr;

use outrigger_engine::config::report::At;
use outrigger_proto::outrigger::control::v1 as pb;

use super::resolve::Health;
use super::value::{check, dns_label, dns_subdomain, not_yet, port};
use super::{Kind, Name, check_head};

/// A Workload, checked.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Its name.
    pub name: Name,
    /// What selectors look at.
    pub labels: BTreeMap<String, String>,
    /// Where it is.
    pub address: IpAddr,
    /// Its ports by name.
    pub ports: BTreeMap<String, u16>,
    /// The Services that it names (of its namespace), each with its port for it where that is another one.
    pub services: Vec<(String, Option<u16>)>,
    /// Region, zone and subzone; empty where unknown.
    pub locality: [String; 3],
    /// Its share beside others, 1 or more.
    pub weight: u32,
    /// How it is.
    pub health: Health,
}

impl Workload {
    /// Reads the object. `None` where a part of it was rejected.
    pub fn convert(object: &pb::Workload, at: &At<'_>) -> Option<Workload> {
        let problems = at.problem_count();
        let pb::Workload { api_version, kind, metadata, spec, status } = object;
        check_head(Kind::Workload, api_version, kind, metadata.as_ref(), at);
        let health = health(status.as_ref(), &at.field("status"));
        let at = at.field("spec");
        let Some(spec) = spec else {
            at.reject("", "is required");
            return None;
        };
        let pb::WorkloadSpec { addresses, ports, services, locality, weight, identity, service_account, ttl } = spec;
        not_yet(
            &at.field("identity"),
            identity.is_some(),
            identity.as_deref().unwrap_or_default(),
            "identities come with mTLS",
        );
        let account = service_account.as_deref();
        not_yet(
            &at.field("serviceAccount"),
            account.is_some(),
            account.unwrap_or_default(),
            "identities come with mTLS",
        );
        not_yet(&at.field("ttl"), ttl.is_some(), ttl.as_deref().unwrap_or_default(), "self-registration comes later");

        let addresses_at = at.field("addresses");
        if addresses.is_empty() {
            addresses_at.reject("", "is required");
        }
        not_yet(&addresses_at, addresses.len() > 1, "", "one address an instance");
        let mut address = None;
        for (i, text) in addresses.iter().enumerate() {
            let at = addresses_at.index(i);
            match text.parse::<IpAddr>() {
                Ok(ip) if ip.to_canonical().is_unspecified() => {
                    at.reject(text, "must be the address of one instance: it stands for all of a machine's");
                }
                Ok(ip) if ip.to_canonical().is_multicast() => {
                    at.reject(text, "must be the address of one instance, not of multicast");
                }
                Ok(ip) => address = address.or(Some(ip)),
                Err(_) => at.reject(text, "must be an IPv4 or IPv6 address"),
            }
        }
        let ports_at = at.field("ports");
        let mut named = BTreeMap::new();
        for (name, number) in ports {
            let at = ports_at.key(name);
            if check(&at, name, dns_subdomain) {
                named.extend(port(&at, *number).map(|number| (name.clone(), number)));
            }
        }
        let services_at = at.field("services");
        let mut named_services = Vec::new();
        for (i, pb::WorkloadService { name, port: number }) in services.iter().enumerate() {
            let at = services_at.index(i);
            check(&at.field("name"), name, dns_label);
            if named_services.iter().any(|(other, _)| other == name) {
                at.field("name").reject(name, "is named twice");
            }
            named_services.push((name.clone(), number.and_then(|number| port(&at.field("port"), number))));
        }
        let weight = weight.unwrap_or(1);
        if weight < 1 {
            at.field("weight").reject(weight, "must be at least 1");
        }
        let pb::WorkloadLocality { region, zone, subzone } = locality.clone().unwrap_or_default();
        if at.problem_count() != problems {
            return None;
        }
        Some(Workload {
            name: Name::of(metadata.as_ref()),
            labels: metadata.as_ref().map(|metadata| metadata.labels.clone()).unwrap_or_default(),
            address: address?,
            ports: named,
            services: named_services,
            locality: [region, zone, subzone].map(Option::unwrap_or_default),
            weight: u32::try_from(weight).ok()?,
            health: health?,
        })
    }
}

/// `status.health`: what is known of the instance is told here, by whoever registers it.
fn health(status: Option<&pb::WorkloadStatus>, at: &At<'_>) -> Option<Health> {
    match status.and_then(|status| status.health.as_deref()) {
        None | Some("" | "Healthy") => Some(Health::Healthy),
        Some("Unhealthy") => Some(Health::Unhealthy),
        Some("Draining") => Some(Health::Draining),
        Some(other) => {
            at.field("health").reject(other, "must be Healthy, Unhealthy or Draining");
            None
        }
    }
}
