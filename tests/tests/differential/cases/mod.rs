//! The scenarios, by subject.

mod connections;
mod grpc;
mod hostile_http1;
mod hostile_http2;
mod http1;
mod http2;
mod manager;
mod rejected;
mod resilience;
mod routing;
mod tcp;
mod tls;
mod transform;

use crate::scenario::Scenario;

/// All scenarios, in the order of the table.
pub(crate) fn all() -> Vec<Scenario> {
    let areas = [
        ("routing", routing::cases()),
        ("rewrites and headers", transform::cases()),
        ("HTTP/1", http1::cases()),
        ("connection manager", manager::cases()),
        ("HTTP/2", http2::cases()),
        ("gRPC", grpc::cases()),
        ("resilience", resilience::cases()),
        ("upstream connections", connections::cases()),
        ("TCP", tcp::cases()),
        ("TLS", tls::cases()),
        ("rejected", rejected::cases()),
        ("hostile HTTP/1", hostile_http1::cases()),
        ("hostile HTTP/2", hostile_http2::cases()),
    ];
    let named = |(area, cases): (&'static str, Vec<Scenario>)| {
        cases.into_iter().map(move |mut case| {
            case.area = area;
            case
        })
    };
    areas.into_iter().flat_map(named).collect()
}

/// `GET path` for the host `a.test` with these further fields.
fn get_from(path: &str, fields: &[&str]) -> String {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    format!("GET {path} HTTP/1.1\r\nhost: a.test\r\n{fields}\r\n")
}
