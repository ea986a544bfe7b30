//! `Service`: a name and ports, and how its instances are found.

use std::collections::{BTreeMap, BTreeSet};

use outrigger_engine::config::report::At;
use outrigger_proto::outrigger::control::v1 as pb;
use prost_types::value::Kind as Json;

use super::value::{at_most, check, dns_label, dns_subdomain, not_yet, port};
use super::{Kind, Name, check_head};

/// A Service, checked.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: Name,
    /// Its ports in the order written.
    pub ports: Vec<ServicePort>,
    /// Which Workloads are its instances, by their labels; empty: those that name it.
    pub selector: BTreeMap<String, String>,
    /// How it is called.
    pub reach: Reach,
    /// Instances that are not ready count as ready.
    pub publish_not_ready: bool,
}

/// How a Service is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// By its name or address: routes and policies apply.
    Virtual,
    /// `clusterIP: None`: its instances are called one by one, so it is no parent of a route.
    Headless,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty where it has none.
    pub name: String,
    /// Its number.
    pub number: u16,
    /// The port of the instances.
    pub target: Target,
    /// What is spoken.
    pub protocol: Protocol,
}

/// `targetPort`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The same at every instance.
    Number(u16),
    /// Each instance says which.
    Name(String),
}

/// What is spoken on a port: `protocol` and `appProtocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP, in the version that the caller speaks.
    Http,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Bytes.
    Tcp,
    /// UDP, SCTP: not carried by the mesh.
    NotCarried,
}

impl Protocol {
    /// Whether routes of HTTP apply.
    pub fn is_http(self) -> bool {
        matches!(self, Protocol::Http | Protocol::Http1 | Protocol::Http2)
    }
}

impl Service {
    /// Reads the object. `None` where a part of it was rejected.
    pub fn convert(object: &pb::Service, at: &At<'_>) -> Option<Service> {
        let problems = at.problem_count();
        // `status` is ours to write.
        let pb::Service { api_version, kind, metadata, spec, status: _ } = object;
        check_head(Kind::Service, api_version, kind, metadata.as_ref(), at);
        let at = at.field("spec");
        let Some(spec) = spec else {
            at.reject("", "is required");
            return None;
        };
        let pb::ServiceSpec {
            ports,
            selector,
            cluster_ip,
            cluster_ips,
            r#type,
            external_name,
            ip_families: _,
            ip_family_policy: _,
            session_affinity,
            session_affinity_config,
            publish_not_ready_addresses,
            traffic_distribution,
            internal_traffic_policy,
            // Of what comes from outside the mesh, which it does not carry.
            external_ips: _,
            external_traffic_policy: _,
            health_check_node_port: _,
            load_balancer_ip: _,
            load_balancer_class: _,
            load_balancer_source_ranges: _,
            allocate_load_balancer_node_ports: _,
        } = spec;
        match r#type.as_deref() {
            None | Some("" | "ClusterIP" | "NodePort" | "LoadBalancer") => {}
            Some("ExternalName") => {
                not_yet(&at.field("type"), true, "ExternalName", "Services outside the mesh come later")
            }
            Some(other) => at.field("type").reject(other, "must be ClusterIP, NodePort, LoadBalancer or ExternalName"),
        }
        not_yet(&at.field("externalName"), external_name.is_some(), "", "Services outside the mesh come later");
        let affinity = session_affinity.as_deref().unwrap_or("None");
        not_yet(&at.field("sessionAffinity"), affinity != "None", affinity, "balancing by a key comes later");
        not_yet(
            &at.field("sessionAffinityConfig"),
            session_affinity_config.is_some(),
            "",
            "balancing by a key comes later",
        );
        let distribution = traffic_distribution.as_deref();
        let why = "balancing by locality comes later";
        not_yet(&at.field("trafficDistribution"), distribution.is_some(), distribution.unwrap_or_default(), why);
        let internal = internal_traffic_policy.as_deref().unwrap_or("Cluster");
        not_yet(&at.field("internalTrafficPolicy"), internal != "Cluster", internal, why);

        let selector_at = at.field("selector");
        super::labels(&selector_at, selector);
        let addresses = || cluster_ip.iter().chain(cluster_ips).filter(|address| !address.is_empty());
        for address in addresses().filter(|address| *address != "None") {
            if address.parse::<std::net::IpAddr>().is_err() {
                at.field("clusterIP").reject(address, "must be an address or None");
            }
        }
        let headless = addresses().any(|address| address == "None");
        let ports = convert_ports(ports, &at.field("ports"));
        (at.problem_count() == problems).then(|| Service {
            name: Name::of(metadata.as_ref()),
            ports,
            selector: selector.clone(),
            reach: if headless { Reach::Headless } else { Reach::Virtual },
            publish_not_ready: publish_not_ready_addresses.unwrap_or(false),
        })
    }
}

fn convert_ports(messages: &[pb::ServicePort], list: &At<'_>) -> Vec<ServicePort> {
    at_most(list, messages, 100);
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    let mut ports = Vec::new();
    for (i, message) in messages.iter().enumerate() {
        let at = list.index(i);
        // `nodePort` is for the outside.
        let pb::ServicePort { name, port: number, target_port, protocol, app_protocol, node_port: _ } = message;
        let name = name.clone().unwrap_or_default();
        let name_at = at.field("name");
        if name.is_empty() && messages.len() > 1 {
            name_at.reject("", "is required where there are several ports");
        } else if !name.is_empty() && check(&name_at, &name, dns_label) && !names.insert(name.clone()) {
            name_at.reject(&name, "another port has this name");
        }
        let number_at = at.field("port");
        let number = match number {
            Some(number) => port(&number_at, *number),
            None => {
                number_at.reject("", "is required");
                None
            }
        };
        let transport = protocol.as_deref().unwrap_or("TCP");
        if !["TCP", "UDP", "SCTP"].contains(&transport) {
            at.field("protocol").reject(transport, "must be TCP, UDP or SCTP");
        }
        let Some(number) = number else { continue };
        if !numbers.insert((number, transport)) {
            number_at.reject(number, "another port has this number");
        }
        let target = match target(target_port.as_ref(), number, &at.field("targetPort")) {
            Some(target) => target,
            None => continue,
        };
        let protocol = if transport == "TCP" { protocol_of(app_protocol.as_deref()) } else { Protocol::NotCarried };
        ports.push(ServicePort { name, number, target, protocol });
    }
    ports
}

/// `appProtocol`. One that is not known does not disable anything: it is HTTP if the caller speaks it.
fn protocol_of(app_protocol: Option<&str>) -> Protocol {
    match app_protocol.unwrap_or_default() {
        "http" | "kubernetes.io/ws" => Protocol::Http1,
        "http2" | "grpc" | "kubernetes.io/h2c" => Protocol::Http2,
        "tcp" | "tls" | "https" | "kubernetes.io/wss" => Protocol::Tcp,
        _ => Protocol::Http,
    }
}

fn target(value: Option<&prost_types::Value>, number: u16, at: &At<'_>) -> Option<Target> {
    match value.and_then(|value| value.kind.as_ref()) {
        None | Some(Json::NullValue(_)) => Some(Target::Number(number)),
        Some(Json::NumberValue(target)) => {
            let whole = (target.fract() == 0.0 && (1.0..=65535.0).contains(target)).then_some(*target as u16);
            if whole.is_none() {
                at.reject(target, "must be 1 to 65535, or the name of a port");
            }
            whole.map(Target::Number)
        }
        Some(Json::StringValue(name))
            if name.parse::<f64>().is_ok() && !name.bytes().any(|byte| byte.is_ascii_alphabetic()) =>
        {
            at.reject(name, "the name of a port holds a letter, and a number is whole and without quotes");
            None
        }
        Some(Json::StringValue(name)) => check(at, name, dns_subdomain).then(|| Target::Name(name.clone())),
        Some(_) => {
            at.reject("", "must be a number or the name of a port");
            None
        }
    }
}
