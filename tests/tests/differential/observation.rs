//! What one side did in one scenario, as lines of text that can be compared and read. What may differ between two runs
//! of the same program stands in this file and nowhere else.

use std::collections::BTreeMap;

use outrigger_tests::client::Answered;
use outrigger_tests::upstream::Received;
use outrigger_tests::wire::{Message, text};

use crate::scenario::{Placement, Scenario};

/// Fields whose value is different in every run. Their presence is compared.
const VOLATILE: [&str; 3] = ["date", "x-request-id", "x-envoy-upstream-service-time"];

/// The counters compared, by the prefix that the scenario's own statistics have.
const COUNTERS: [(&str, &[&str]); 4] = [
    (
        "http",
        &[
            "downstream_cx_total",
            "downstream_cx_http1_total",
            "downstream_cx_http2_total",
            "downstream_cx_protocol_error",
            "downstream_cx_drain_close",
            "downstream_cx_idle_timeout",
            "downstream_cx_max_duration_reached",
            "downstream_cx_max_requests_reached",
            "downstream_cx_overload_disable_keepalive",
            "downstream_cx_upgrades_total",
            "downstream_rq_total",
            "downstream_rq_http1_total",
            "downstream_rq_http2_total",
            "downstream_rq_completed",
            "downstream_rq_1xx",
            "downstream_rq_2xx",
            "downstream_rq_3xx",
            "downstream_rq_4xx",
            "downstream_rq_5xx",
            "downstream_rq_rx_reset",
            "downstream_rq_tx_reset",
            "downstream_rq_timeout",
            "downstream_rq_header_timeout",
            "downstream_rq_idle_timeout",
            "downstream_rq_max_duration_reached",
            "downstream_rq_non_relative_path",
            "downstream_rq_response_before_rq_complete",
            "downstream_rq_too_large",
            "downstream_rq_ws_on_non_ws_route",
            "no_route",
            "no_cluster",
            "rq_direct_response",
            "rq_redirect",
            "rq_reset_after_downstream_response_started",
            "rq_total",
        ],
    ),
    (
        "cluster",
        &[
            "upstream_cx_total",
            "upstream_cx_http1_total",
            "upstream_cx_http2_total",
            "upstream_cx_connect_fail",
            "upstream_cx_connect_timeout",
            "upstream_cx_idle_timeout",
            "upstream_cx_max_requests",
            "upstream_cx_none_healthy",
            "upstream_cx_overflow",
            "upstream_cx_pool_overflow",
            "upstream_cx_protocol_error",
            "upstream_cx_destroy_local_with_active_rq",
            "upstream_cx_destroy_remote_with_active_rq",
            "upstream_rq_total",
            "upstream_rq_completed",
            "upstream_rq_1xx",
            "upstream_rq_2xx",
            "upstream_rq_3xx",
            "upstream_rq_4xx",
            "upstream_rq_5xx",
            "upstream_rq_cancelled",
            "upstream_rq_maintenance_mode",
            "upstream_rq_pending_failure_eject",
            "upstream_rq_pending_overflow",
            "upstream_rq_pending_total",
            "upstream_rq_per_try_timeout",
            "upstream_rq_per_try_idle_timeout",
            "upstream_rq_retry",
            "upstream_rq_retry_limit_exceeded",
            "upstream_rq_retry_overflow",
            "upstream_rq_retry_success",
            "retry_or_shadow_abandoned",
            "upstream_rq_rx_reset",
            "upstream_rq_timeout",
            "upstream_rq_max_duration_reached",
            "upstream_rq_tx_reset",
        ],
    ),
    (
        "listener",
        &[
            "downstream_cx_total",
            "no_filter_chain_match",
            "downstream_pre_cx_timeout",
            "ssl.connection_error",
            "ssl.fail_verify_error",
            "ssl.fail_verify_no_cert",
            "ssl.fail_verify_san",
            "ssl.handshake",
        ],
    ),
    ("tcp", &["downstream_cx_total", "downstream_cx_no_route", "idle_timeout", "max_downstream_connection_duration"]),
];

/// The lines of one scenario on one side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observation {
    pub(crate) lines: Vec<String>,
}

/// What was seen of a scenario before it becomes text.
pub(crate) struct Seen {
    pub(crate) answered: Vec<Answered>,
    pub(crate) received: Vec<Received>,
}

impl Observation {
    /// An observation of one line.
    pub(crate) fn line(line: &str) -> Self {
        Self { lines: vec![line.to_owned()] }
    }

    /// Puts everything that is compared into lines.
    pub(crate) fn new(
        scenario: &Scenario,
        at: &Placement,
        seen: &Seen,
        stats: &BTreeMap<&str, u64>,
        access_log: &str,
    ) -> Self {
        let mut lines = Vec::new();
        for (number, answered) in (1..).zip(&seen.answered) {
            let who = format!("client {number}");
            for message in &answered.messages {
                lines.extend(message_lines(&who, message));
            }
            lines.extend(answered.marks.iter().map(|mark| format!("{who}: {mark}")));
            if !answered.rest.is_empty() {
                lines.push(format!("{who}: bytes {}", body(&answered.rest)));
            }
            lines.push(format!("{who}: connection {}", fate(scenario, &answered.fate.to_string())));
        }
        lines.extend(upstream_lines(&seen.received));
        lines.extend(access_log.lines().map(|line| format!("access log: {line}")));
        lines.extend(counter_lines(scenario, stats));
        let lines = lines.into_iter().map(|line| normalise(&line, scenario, at, &seen.received)).collect();
        Self { lines }
    }
}

/// A proxy that has had enough of a client which goes on sending closes with bytes unread: whether those are there
/// already, and the kernel makes a RST of the FIN, is chance.
fn fate(scenario: &Scenario, fate: &str) -> String {
    match fate {
        "FIN" | "RST" if scenario.area == "hostile HTTP/2" => "closed".to_owned(),
        fate => fate.to_owned(),
    }
}

fn upstream_lines(connections: &[Received]) -> Vec<String> {
    let mut lines = Vec::new();
    for (number, received) in (1..).zip(connections) {
        let who = format!("upstream connection {number} to {}", endpoint_name(connections, received));
        lines.extend(received.marks.iter().map(|mark| format!("{who}: {mark}")));
        for (order, message) in &received.requests {
            lines.extend(message_lines(&format!("{who}, request {order}"), message));
        }
        lines.push(format!("{who}: {}", received.end.unwrap_or("open")));
    }
    lines
}

/// Endpoints are numbered by first use: with which one a balancer begins is chance.
fn endpoint_name(connections: &[Received], this: &Received) -> String {
    let mut seen: Vec<usize> = Vec::new();
    for connection in connections.iter().filter(|c| c.cluster == this.cluster) {
        if !seen.contains(&connection.endpoint) {
            seen.push(connection.endpoint);
        }
    }
    let number = seen.iter().position(|endpoint| *endpoint == this.endpoint).unwrap_or(0) + 1;
    format!("{}.{number}", this.cluster)
}

fn message_lines(who: &str, message: &Message) -> Vec<String> {
    let mut lines = vec![format!("{who}: {}", message.start)];
    lines.extend(fields(who, "field", &message.headers));
    if !message.body.is_empty() {
        lines.push(format!("{who}: body {}", body(&message.body)));
    }
    lines.extend(fields(who, "trailer", &message.trailers));
    lines.extend(message.marks.iter().map(|mark| format!("{who}: {mark}")));
    lines
}

/// Sorted by name; fields of one name stay in their order.
fn fields(who: &str, what: &str, fields: &[(String, String)]) -> Vec<String> {
    let mut sorted: Vec<_> = fields.iter().collect();
    sorted.sort_by_key(|(name, _)| name.to_ascii_lowercase());
    let volatile = |name: &str| VOLATILE.iter().any(|v| v.eq_ignore_ascii_case(name));
    sorted
        .into_iter()
        .map(|(name, value)| {
            let value = match name.to_ascii_lowercase().as_str() {
                name if volatile(name) && !value.starts_with("mine") => "(volatile)".to_owned(),
                "x-envoy-expected-rq-timeout-ms" => left_of_timeout(value),
                _ => value.clone(),
            };
            format!("{who}: {what} {name}: {value}")
        })
        .collect()
}

/// What is left of a timeout at the second attempt depends on the milliseconds that the first one took: rounded up to a
/// tenth of a second, or to seconds.
fn left_of_timeout(value: &str) -> String {
    match value.parse::<u64>() {
        Ok(left) if left > 1000 => (left.div_ceil(1000) * 1000).to_string(),
        Ok(left) => (left.div_ceil(100) * 100).to_string(),
        Err(_) => value.to_owned(),
    }
}

/// A body of more than 200 bytes is shown by its length, its begin and a sum.
fn body(bytes: &[u8]) -> String {
    if bytes.len() <= 200 {
        return format!("{:?}", text(bytes));
    }
    let sum = bytes.iter().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    format!("{} bytes, sum {sum:016x}, begins {:?}", bytes.len(), text(&bytes[..40]))
}

fn counter_lines(scenario: &Scenario, stats: &BTreeMap<&str, u64>) -> Vec<String> {
    let mut prefixes = vec![];
    for (root, names) in &COUNTERS {
        if *root == "cluster" {
            for (upstream, _) in &scenario.upstreams {
                prefixes.push((
                    format!("{root}.{}", scenario.cluster_name(upstream)),
                    format!("cluster.{upstream}"),
                    names,
                ));
            }
        } else {
            prefixes.push((format!("{root}.{}", scenario.name), (*root).to_owned(), names));
        }
    }
    let mut lines = Vec::new();
    for (prefix, shown, names) in prefixes {
        for name in *names {
            if let Some(value @ 1..) = stats.get(format!("{prefix}.{name}").as_str()) {
                lines.push(format!("counter {shown}.{name}: {value}"));
            }
        }
    }
    lines
}

/// Replaces what the harness chose: names and ports of this scenario.
fn normalise(line: &str, scenario: &Scenario, at: &Placement, connections: &[Received]) -> String {
    let mut line = line.replace(&format!("{}_", scenario.name), "");
    for ((name, _), ports) in scenario.upstreams.iter().zip(&at.upstreams) {
        for (endpoint, port) in ports.iter().enumerate() {
            let this = Received { cluster: (*name).to_owned(), endpoint, ..Received::default() };
            line = line.replace(&format!("127.0.0.1:{port}"), &endpoint_name(connections, &this));
        }
    }
    let line = line.replace(&format!("127.0.0.1:{}", at.listener), "(listener)");
    match line.strip_suffix(&format!("port: {}", at.listener)) {
        Some(field) => format!("{field}port: (listener's)"),
        None => line,
    }
}

/// `/stats` as a map.
pub(crate) fn parse_stats(stats: &str) -> BTreeMap<&str, u64> {
    stats.lines().filter_map(|line| line.split_once(": ")).filter_map(|(n, v)| Some((n, v.parse().ok()?))).collect()
}
