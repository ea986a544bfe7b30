//! What is running: server, clusters, listeners, certificates, runtime.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use outrigger_engine::stream_info::Address;
use outrigger_proto::envoy::admin::v3::{
    Certificates, ClusterStatus, Clusters, HostHealthStatus, HostStatus, ListenerStatus, Listeners, Memory, ServerInfo,
    UnreadyTargetsDumps,
};
use outrigger_proto::envoy::config::core::v3::{self as core, HealthStatus, RoutingPriority};
use outrigger_proto::prost::{Message, Name};
use outrigger_proto::prost_types;
use regex::Regex;
use serde_json::json;

use super::json::{JsonError, Printer, pretty};
use super::query::Query;
use super::{AdminState, Parts, Response, TEXT};
use crate::telemetry::memory;

fn message<M: Message + Name>(message: &M, all: bool) -> Response {
    let print = |printer: Printer| printer.print(&printer.dynamic(message)?, all);
    answer(Printer::new().and_then(print))
}

fn answer(printed: Result<Vec<u8>, JsonError>) -> Response {
    match printed {
        Ok(text) => Response::json(text),
        Err(error) => Response::error(500, error.to_string()),
    }
}

/// Whether JSON is wanted; an answer where `format` is something else.
fn wants_json(query: &Query, path: &str) -> Result<bool, Response> {
    match query.get("format") {
        None | Some("" | "text") => Ok(false),
        Some("json") => Ok(true),
        Some(_) => Err(Response::error(400, format!("usage: {path}?format=(json|text)\n\n"))),
    }
}

/// `/server_info`
pub(super) fn server_info(state: &dyn AdminState) -> Response {
    let seconds = i64::try_from(state.uptime().as_secs()).unwrap_or(i64::MAX);
    let uptime = prost_types::Duration { seconds, nanos: 0 };
    let info = ServerInfo {
        version: concat!(env!("CARGO_PKG_VERSION"), "/outrigger").to_owned(),
        state: state.server_state() as i32,
        uptime_current_epoch: Some(uptime),
        uptime_all_epochs: Some(uptime),
        hot_restart_version: "disabled".to_owned(),
        command_line_options: Some(state.command_line()),
        node: Some(state.node()),
        hot_restart_initializing: false,
    };
    message(&info, true)
}

/// `/certs`
pub(super) fn certs(state: &dyn AdminState) -> Response {
    message(&Certificates { certificates: state.certificates() }, true)
}

/// `/init_dump`
pub(super) fn init_dump(state: &dyn AdminState) -> Response {
    message(&UnreadyTargetsDumps { unready_targets_dumps: state.unready_targets() }, false)
}

/// `/memory`
pub(super) fn memory() -> Response {
    let memory = memory::read();
    let memory = Memory {
        allocated: memory.allocated,
        heap_size: memory.heap,
        total_physical_bytes: memory.resident,
        ..Default::default()
    };
    message(&memory, true)
}

/// `/runtime`
pub(super) fn runtime(state: &dyn AdminState) -> Response {
    let runtime = state.runtime();
    let entry = |value: &String| json!({"final_value": value, "layer_values": [value]});
    let entries = runtime.iter().map(|(key, value)| (key, entry(value))).collect::<BTreeMap<_, _>>();
    let layers = if runtime.is_empty() { vec![] } else { vec!["static"] };
    answer(pretty(&json!({"entries": entries, "layers": layers})))
}

/// `/listeners`
pub(super) fn listeners(state: &dyn AdminState, query: &Query) -> Response {
    let listeners = state.listeners();
    match wants_json(query, "/listeners") {
        Err(response) => response,
        Ok(false) => {
            let lines = listeners
                .iter()
                .flat_map(|(name, addresses)| addresses.iter().map(move |address| format!("{name}::{address}\n")));
            Response::text(lines.collect::<String>())
        }
        Ok(true) => {
            let status = |(name, addresses): (String, Vec<Address>)| {
                let mut addresses = addresses.iter().map(core_address);
                ListenerStatus {
                    name,
                    local_address: addresses.next(),
                    additional_local_addresses: addresses.collect(),
                }
            };
            message(&Listeners { listener_statuses: listeners.into_iter().map(status).collect() }, false)
        }
    }
}

/// An address as a message.
pub(crate) fn core_address(address: &Address) -> core::Address {
    let address = match address {
        Address::Ip(ip) => core::address::Address::SocketAddress(core::SocketAddress {
            address: ip.ip().to_string(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(u32::from(ip.port()))),
            ..Default::default()
        }),
        Address::Pipe(path) => {
            core::address::Address::Pipe(core::Pipe { path: path.to_string(), ..Default::default() })
        }
    };
    core::Address { address: Some(address) }
}

/// `/clusters`
pub(super) fn clusters(state: &dyn AdminState, query: &Query) -> Response {
    let json = match wants_json(query, "/clusters") {
        Ok(json) => json,
        Err(response) => return response,
    };
    let filter = match query.get("filter").filter(|text| !text.is_empty()).map(Regex::new).transpose() {
        Ok(filter) => filter,
        Err(error) => return Response::error(400, format!("Invalid regex: {error}")),
    };
    let wanted = move |cluster: &ClusterStatus| filter.as_ref().is_none_or(|filter| filter.is_match(&cluster.name));
    if !json {
        return Response::parts(TEXT, move |state, out| {
            state.clusters(&mut |cluster, hosts| {
                if !wanted(&cluster) {
                    return Ok(());
                }
                cluster_text(out, &cluster)?;
                for host in hosts {
                    host_text(out, &cluster.name, &host)?;
                }
                Ok(())
            })
        });
    }
    let mut clusters = Clusters::default();
    // It fails where a visit does.
    _ = state.clusters(&mut |mut cluster, hosts| {
        if wanted(&cluster) {
            cluster.host_statuses = hosts.collect();
            clusters.cluster_statuses.push(cluster);
        }
        Ok(())
    });
    message(&clusters, false)
}

/// Envoy's lines of a cluster, without its hosts'.
fn cluster_text(text: &mut Parts<'_>, cluster: &ClusterStatus) -> std::fmt::Result {
    let name = &cluster.name;
    let shown = if cluster.observability_name.is_empty() { name } else { &cluster.observability_name };
    writeln!(text, "{name}::observability_name::{shown}")?;
    let thresholds = cluster.circuit_breakers.as_ref().map_or(&[][..], |breakers| &breakers.thresholds);
    for (priority, label) in [(RoutingPriority::Default, "default"), (RoutingPriority::High, "high")] {
        let threshold = thresholds.iter().find(|threshold| threshold.priority == priority as i32);
        for (limit, value) in threshold.into_iter().flat_map(|threshold| {
            [
                ("max_connections", threshold.max_connections),
                ("max_pending_requests", threshold.max_pending_requests),
                ("max_requests", threshold.max_requests),
                ("max_retries", threshold.max_retries),
            ]
        }) {
            if let Some(value) = value {
                writeln!(text, "{name}::{label}_priority::{limit}::{value}")?;
            }
        }
    }
    writeln!(text, "{name}::added_via_api::{}", cluster.added_via_api)?;
    if !cluster.eds_service_name.is_empty() {
        writeln!(text, "{name}::eds_service_name::{}", cluster.eds_service_name)?;
    }
    Ok(())
}

fn host_text(text: &mut Parts<'_>, cluster: &str, host: &HostStatus) -> std::fmt::Result {
    let address = match host.address.as_ref().and_then(|address| address.address.as_ref()) {
        Some(core::address::Address::SocketAddress(socket)) => {
            let port = match &socket.port_specifier {
                Some(core::socket_address::PortSpecifier::PortValue(port)) => *port,
                _ => 0,
            };
            if socket.address.contains(':') {
                format!("[{}]:{port}", socket.address)
            } else {
                format!("{}:{port}", socket.address)
            }
        }
        Some(core::address::Address::Pipe(pipe)) => pipe.path.clone(),
        _ => String::new(),
    };
    let prefix = format!("{cluster}::{address}");
    let mut stats = host.stats.iter().collect::<Vec<_>>();
    stats.sort_by(|a, b| a.name.cmp(&b.name));
    for stat in stats {
        writeln!(text, "{prefix}::{}::{}", stat.name, stat.value)?;
    }
    let locality = host.locality.clone().unwrap_or_default();
    writeln!(text, "{prefix}::hostname::{}", host.hostname)?;
    writeln!(text, "{prefix}::health_flags::{}", health_flags(host.health_status.as_ref()))?;
    writeln!(text, "{prefix}::weight::{}", host.weight)?;
    writeln!(text, "{prefix}::region::{}", locality.region)?;
    writeln!(text, "{prefix}::zone::{}", locality.zone)?;
    writeln!(text, "{prefix}::sub_zone::{}", locality.sub_zone)?;
    writeln!(text, "{prefix}::canary::false")?;
    writeln!(text, "{prefix}::priority::{}", host.priority)?;
    writeln!(text, "{prefix}::success_rate::{}", host.success_rate.as_ref().map_or(-1.0, |rate| rate.value))?;
    let local = host.local_origin_success_rate.as_ref().map_or(-1.0, |rate| rate.value);
    writeln!(text, "{prefix}::local_origin_success_rate::{local}")
}

/// `healthy`, or why not.
fn health_flags(status: Option<&HostHealthStatus>) -> String {
    let Some(status) = status else { return "healthy".to_owned() };
    let eds = HealthStatus::try_from(status.eds_health_status).unwrap_or(HealthStatus::Unknown);
    let flags = [
        (status.failed_active_health_check, "/failed_active_hc"),
        (status.failed_outlier_check, "/failed_outlier_check"),
        (matches!(eds, HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout), "/failed_eds_health"),
        (status.failed_active_degraded_check, "/degraded_active_hc"),
        (eds == HealthStatus::Degraded, "/degraded_eds_health"),
        (status.pending_dynamic_removal, "/pending_dynamic_removal"),
        (status.pending_active_hc, "/pending_active_hc"),
        (status.active_hc_timeout, "/active_hc_timeout"),
    ];
    let text = flags.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect::<String>();
    if text.is_empty() { "healthy".to_owned() } else { text }
}
