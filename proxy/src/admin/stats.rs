//! `/stats` and `/stats/prometheus`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use regex::Regex;
use serde_json::json;

use super::query::Query;
use super::{AdminState, Response, TEXT};
use crate::telemetry::stats::{Sample, Snapshot, Unit, Value};

/// The quantiles that Envoy shows.
const QUANTILES: [(f64, &str); 10] = [
    (0.0, "P0"),
    (0.25, "P25"),
    (0.5, "P50"),
    (0.75, "P75"),
    (0.9, "P90"),
    (0.95, "P95"),
    (0.99, "P99"),
    (0.995, "P99.5"),
    (0.999, "P99.9"),
    (1.0, "P100"),
];

/// Envoy's bounds of a Prometheus histogram, in what the histogram shows (milliseconds).
const BUCKETS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// Which samples are wanted.
struct Wanted {
    filter: Option<Regex>,
    used_only: bool,
    counters: bool,
    gauges: bool,
    histograms: bool,
}

impl Wanted {
    fn parse(query: &Query) -> Result<Self, Response> {
        let filter = match query.get("filter") {
            None | Some("") => None,
            Some(text) => match Regex::new(text) {
                Ok(regex) => Some(regex),
                Err(error) => return Err(Response::error(400, format!("Invalid regex: {error}"))),
            },
        };
        let (counters, gauges, histograms) = match query.get("type") {
            None | Some("All") => (true, true, true),
            Some("Counters") => (true, false, false),
            Some("Gauges") => (false, true, false),
            Some("Histograms") => (false, false, true),
            Some("TextReadouts") => (false, false, false),
            Some(_) => {
                return Err(Response::error(
                    400,
                    "usage: /stats?type=(All|Counters|Histograms|Gauges|TextReadouts)\n\n",
                ));
            }
        };
        Ok(Wanted { filter, used_only: query.has("usedonly"), counters, gauges, histograms })
    }

    /// A gauge counts as used always: 0 is what a probe waits for in `server.state`.
    fn wants(&self, sample: &Sample) -> bool {
        let of_type = match &sample.value {
            Value::Counter(n) => self.counters && !(self.used_only && *n == 0),
            Value::Gauge(_) => self.gauges,
            Value::Histogram(_, snapshot) => self.histograms && !(self.used_only && snapshot.count() == 0),
        };
        of_type && self.filter.as_ref().is_none_or(|filter| filter.is_match(&sample.full_name()))
    }
}

/// A histogram's value as it is shown.
fn shown(unit: Unit, value: f64) -> f64 {
    match unit {
        Unit::Milliseconds => value / 1000.0,
        Unit::Count => value,
    }
}

/// `/stats`
pub(super) fn stats(state: &dyn AdminState, query: &Query) -> Response {
    let render = match query.get("format") {
        None | Some("" | "text") => text,
        Some("json") => json,
        Some("prometheus") => return prometheus(state, query),
        Some(_) => return Response::error(400, "usage: /stats?format=(json|prometheus|text)\n\n"),
    };
    let wanted = match Wanted::parse(query) {
        Ok(wanted) => wanted,
        Err(response) => return response,
    };
    let (mut numbers, mut histograms) = (Vec::new(), Vec::new());
    state.refresh();
    state.stats().visit(&mut |sample| {
        if wanted.wants(&sample) {
            let name = sample.full_name();
            match sample.value {
                Value::Counter(n) | Value::Gauge(n) => numbers.push((name, n)),
                Value::Histogram(unit, snapshot) => histograms.push((name, unit, snapshot)),
            }
        }
    });
    numbers.sort_unstable();
    histograms.sort_unstable_by(|(a, ..), (b, ..)| a.cmp(b));
    render(&numbers, &histograms)
}

type Histograms = [(String, Unit, Snapshot)];

/// Envoy's lines. A pair in a histogram's line is the value of the last interval and that since the start; no interval is
/// kept here, which is what `nan` says.
fn text(numbers: &[(String, u64)], histograms: &Histograms) -> Response {
    let mut text = String::with_capacity(numbers.len() * 64);
    for (name, number) in numbers {
        let _ = writeln!(text, "{name}: {number}");
    }
    for (name, unit, snapshot) in histograms {
        text.push_str(name);
        text.push(':');
        if snapshot.count() == 0 {
            text.push_str(" No recorded values");
        } else {
            for (quantile, label) in QUANTILES {
                let value = snapshot.quantile(quantile).map_or(f64::NAN, |value| shown(*unit, value));
                let _ = write!(text, " {label}(nan,{value})");
            }
        }
        text.push('\n');
    }
    Response::text(text)
}

fn json(numbers: &[(String, u64)], histograms: &Histograms) -> Response {
    let mut stats = numbers.iter().map(|(name, value)| json!({"name": name, "value": value})).collect::<Vec<_>>();
    if !histograms.is_empty() {
        let computed = histograms.iter().map(|(name, unit, snapshot)| {
            let values = QUANTILES.map(|(quantile, _)| {
                let value = snapshot.quantile(quantile).map(|value| shown(*unit, value));
                json!({"interval": null, "cumulative": value})
            });
            json!({"name": name, "values": values})
        });
        stats.push(json!({"histograms": {
            "supported_quantiles": QUANTILES.map(|(quantile, _)| quantile * 100.0),
            "computed_quantiles": computed.collect::<Vec<_>>(),
        }}));
    }
    Response::json(json!({"stats": stats}).to_string())
}

/// The series of one metric.
struct Metric {
    name: String,
    kind: Kind,
    /// Labels, ready to print, and value.
    series: Vec<(Arc<str>, Value)>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// `/stats/prometheus`: Envoy's metric names, with its default tags as labels.
pub(super) fn prometheus(state: &dyn AdminState, query: &Query) -> Response {
    let wanted = match Wanted::parse(query) {
        Ok(wanted) => wanted,
        Err(response) => return response,
    };
    let mut metrics = Vec::<Metric>::new();
    let mut names = HashMap::new();
    // Samples of one scope come together, and share their labels.
    let mut labels = Labels::default();
    state.refresh();
    state.stats().visit(&mut |sample| {
        if !wanted.wants(&sample) {
            return;
        }
        let (metric, code) = tagged(sample.metric.clone());
        let label = labels.of(&sample, code);
        let index = *names.entry((sample.family, labels.part, metric)).or_insert_with_key(|(.., metric)| {
            let kind = match sample.value {
                Value::Counter(_) => Kind::Counter,
                Value::Gauge(_) => Kind::Gauge,
                Value::Histogram(..) => Kind::Histogram,
            };
            let name = sanitized(&format!("envoy_{}{}_{metric}", sample.family, labels.part));
            metrics.push(Metric { name, kind, series: Vec::new() });
            metrics.len() - 1
        });
        if let Some(metric) = metrics.get_mut(index) {
            metric.series.push((label, sample.value));
        }
    });
    metrics.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    let mut text = String::with_capacity(metrics.iter().map(|metric| metric.series.len()).sum::<usize>() * 96);
    for metric in &metrics {
        metric.print(&mut text);
    }
    Response { status: 200, content_type: TEXT, body: text.into() }
}

impl Metric {
    fn print(&self, text: &mut String) {
        let Metric { name, kind, series } = self;
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# TYPE {name} {kind}");
        for (labels, value) in series {
            let _ = match value {
                Value::Counter(n) | Value::Gauge(n) => writeln!(text, "{name}{{{labels}}} {n}"),
                Value::Histogram(unit, snapshot) => {
                    let comma = if labels.is_empty() { "" } else { "," };
                    for bound in BUCKETS {
                        let raw = bound / shown(*unit, 1.0);
                        let count = snapshot.at_most(raw);
                        let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}");
                    }
                    let (count, sum) = (snapshot.count(), shown(*unit, snapshot.sum()));
                    let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
                    let _ = writeln!(text, "{name}_sum{{{labels}}} {sum}");
                    writeln!(text, "{name}_count{{{labels}}} {count}")
                }
            };
        }
    }
}

/// What a metric's own name says in Envoy's tags: `upstream_rq_503` is `upstream_rq` with `envoy_response_code="503"`,
/// `downstream_rq_5xx` is `downstream_rq_xx` with `envoy_response_code_class="5"`.
fn tagged(metric: Cow<'static, str>) -> (Cow<'static, str>, Option<String>) {
    if let Some((stem, last)) = metric.rsplit_once('_')
        && stem.ends_with("_rq")
        && let [class @ b'1'..=b'5', code @ ..] = last.as_bytes()
        && last.len() == 3
    {
        if code == b"xx" {
            let label = format!("envoy_response_code_class=\"{}\"", char::from(*class));
            return (format!("{stem}_xx").into(), Some(label));
        }
        if code.iter().all(u8::is_ascii_digit) {
            return (stem.to_owned().into(), Some(format!("envoy_response_code=\"{last}\"")));
        }
    }
    (metric, None)
}

/// The labels of a scope.
#[derive(Default)]
struct Labels {
    family: &'static str,
    scope: Option<Arc<str>>,
    labels: Arc<str>,
    /// What of the scope's name stays in the metric's: of a connection manager on a listener, or of its routes.
    part: &'static str,
}

impl Labels {
    fn of(&mut self, sample: &Sample, code: Option<String>) -> Arc<str> {
        if (self.family, &self.scope) != (sample.family, &sample.scope) {
            let scope = sample.scope.as_deref();
            let (separator, part) = match sample.family {
                "listener" => (".http.", "_http"),
                "http" => (".rds.", "_rds"),
                _ => ("\n", ""),
            };
            let parts = scope.and_then(|scope| scope.split_once(separator));
            let prefix = |prefix| label("envoy_http_conn_manager_prefix", prefix);
            self.labels = match (sample.family, scope, parts) {
                ("listener", _, Some((address, manager))) => {
                    format!("{},{}", prefix(manager), label("envoy_listener_address", address))
                }
                ("http", _, Some((manager, routes))) => {
                    format!("{},{}", prefix(manager), label("envoy_rds_route_config", routes))
                }
                ("http", Some(manager), None) => prefix(manager),
                ("listener", Some(address), None) => label("envoy_listener_address", address),
                ("cluster", Some(name), _) => label("envoy_cluster_name", name),
                ("tcp", Some(prefix), _) => label("envoy_tcp_prefix", prefix),
                _ => String::new(),
            }
            .into();
            self.part = if parts.is_some() { part } else { "" };
            self.family = sample.family;
            self.scope.clone_from(&sample.scope);
        }
        match code {
            None => Arc::clone(&self.labels),
            Some(code) if self.labels.is_empty() => code.into(),
            Some(code) => format!("{code},{}", self.labels).into(),
        }
    }
}

fn label(name: &str, value: &str) -> String {
    format!("{name}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

/// A name with everything that Prometheus does not allow in it replaced.
fn sanitized(name: &str) -> String {
    name.replace(|c: char| !(c.is_ascii_alphanumeric() || c == '_'), "_")
}
