mod clusters;
mod routes;
mod rules;
mod times;
mod versions;
mod views;

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderName, HeaderValue, Method};
use outrigger_engine::config::endpoint::LoadAssignment;
use outrigger_engine::config::report::{At, Report};
use outrigger_engine::message::{Protocol, RequestHead, ResponseHead, Scheme};
use outrigger_engine::route::{Action, Lookup, RouteTable};
use outrigger_engine::stream_info::{Address, ConnectionInfo, StreamInfo};
use outrigger_engine::xds::Kind;
use outrigger_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use outrigger_proto::envoy::config::route::v3::RouteConfiguration;
use prost::Message;

use super::{Mesh, Rejected};
use crate::testing::objects;
use crate::xds::View;

/// Two Services with an instance each, one without any, and a parent on the port 8080.
const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {ports: [{port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {selector: {app: a}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: b}
spec: {selector: {app: b}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec: {ports: [{port: 80}]}
---
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {name: a-1, labels: {app: a}}
spec: {addresses: [10.0.0.1]}
---
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {name: b-1, labels: {app: b}}
spec: {addresses: [10.0.0.2]}
---
";

fn build(yaml: &str) -> Mesh {
    let mesh = Mesh::build(&objects(yaml));
    assert!(mesh.faults().is_empty(), "{:?}", mesh.faults());
    assert!(rejected(&mesh).is_empty(), "{mesh:?}");
    mesh
}

fn rejected(mesh: &Mesh) -> Vec<Rejected> {
    mesh.services.keys().flat_map(|name| mesh.rejected(name)).cloned().collect()
}

/// The shop with more objects.
fn shop(more: &str) -> Mesh {
    build(&format!("{SHOP}{more}"))
}

/// A route `name` of the Service `shop`; `rules` is the list's inside.
fn route(name: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\n\
         spec: {{parentRefs: [{{group: '', kind: Service, name: shop}}], rules: [{rules}]}}\n---\n"
    )
}

/// A policy of the Service `shop`.
fn policy(spec: &str) -> String {
    format!(
        "apiVersion: outrigger.dev/v1alpha1\nkind: ServicePolicy\nmetadata: {{name: p}}\n\
         spec: {{targetRefs: [{{kind: Service, name: shop}}], {spec}}}\n---\n"
    )
}

fn converted<M: Message + Default, T>(
    view: &View,
    kind: Kind,
    name: &str,
    convert: impl Fn(M, &At<'_>) -> Option<T>,
) -> Option<T> {
    let resource = view.get(&kind)?.get(name)?;
    let report = Report::new();
    let converted = convert(M::decode(resource.body.clone()).unwrap(), &report.root());
    let problems = report.into_parts().0;
    assert!(problems.is_empty(), "{problems:?}");
    converted
}

fn table(mesh: &Mesh, name: &str) -> RouteTable {
    converted(mesh.everything(), Kind::Routes, name, |message: RouteConfiguration, at| RouteTable::convert(message, at))
        .unwrap()
}

fn stream_info() -> StreamInfo {
    let ip = |text: &str| Address::Ip(text.parse().unwrap());
    let connection = ConnectionInfo {
        id: 1,
        local_address: ip("127.0.0.1:9101"),
        direct_remote_address: ip("127.0.0.1:4711"),
        requested_server_name: None,
        alpn: None,
        tls: None,
    };
    StreamInfo::new(UNIX_EPOCH, Arc::new(connection), Some(Protocol::Http11))
}

/// `GET path`, `POST path` and so on to `shop.test`, with headers.
fn request(line: &str, headers: &[(&str, &str)]) -> RequestHead {
    let (method, path) = line.split_once(' ').unwrap_or(("GET", line));
    RequestHead {
        method: Method::from_bytes(method.as_bytes()).unwrap(),
        scheme: Scheme::Http,
        authority: Some(HeaderValue::from_static("shop.test")),
        path: HeaderValue::from_str(path).unwrap(),
        protocol: Protocol::Http11,
        headers: headers
            .iter()
            .map(|(name, value)| {
                (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
            })
            .collect(),
    }
}

/// What a request becomes: `cluster path` as the instance sees it, `status location` of a redirect, or a status.
fn outcome_in(mesh: &Mesh, table_name: &str, mut head: RequestHead, random: u64) -> String {
    let table = table(mesh, table_name);
    let lookup_head = head.clone();
    let found = match table.find(&lookup_head, random) {
        Lookup::Found(found) => found,
        Lookup::NoRoute(_) => return "404".to_owned(),
        other => panic!("{other:?}"),
    };
    match &found.route.action {
        Action::Respond(response) => response.status.as_str().to_owned(),
        Action::Redirect(redirect) => {
            let (status, location) = found.redirect(redirect, &mut head, &stream_info(), Duration::ZERO, true);
            format!("{} {}", status.as_str(), location.to_str().unwrap())
        }
        Action::Forward(forward) => {
            let choice = forward.choose(&lookup_head, random);
            let assignment = |message: ClusterLoadAssignment, at: &At<'_>| LoadAssignment::convert(message, at);
            match converted(mesh.everything(), Kind::Endpoints, choice.name(), assignment) {
                None => forward.cluster_not_found.as_str().to_owned(),
                Some(assignment) if assignment.localities.is_empty() => "503".to_owned(),
                Some(_) => {
                    found.apply_request(&choice, &mut head, &stream_info(), Duration::ZERO, false);
                    format!("{} {}", choice.name(), head.path.to_str().unwrap())
                }
            }
        }
        Action::NonForwarding => panic!("no such action is made"),
    }
}

fn outcome(mesh: &Mesh, head: RequestHead) -> String {
    outcome_in(mesh, "default/shop/8080", head, 0)
}

/// The request as the instance sees it, and the response as the caller sees it.
fn passed(mesh: &Mesh, mut head: RequestHead, mut response: ResponseHead, random: u64) -> (RequestHead, ResponseHead) {
    let table = table(mesh, "default/shop/8080");
    let asked = head.clone();
    let Lookup::Found(found) = table.find(&asked, random) else { panic!("no route") };
    let choice = found.route.forward().unwrap().choose(&asked, random);
    found.apply_request(&choice, &mut head, &stream_info(), Duration::ZERO, false);
    found.apply_response(Some(&choice), &mut response, &head, &stream_info(), Duration::ZERO);
    (head, response)
}
