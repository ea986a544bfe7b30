//! `/stats` and `/stats/prometheus`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use regex::Regex;
use serde_json::json;

use super::query::Query;
use super::{AdminState, JSON, Parts, Response, TEXT};
use crate::telemetry::stats::{Sample, SampleName, Snapshot, Unit, Value};

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

/// `histogram_buckets` of what is shown as text and as JSON: quantiles.
pub(super) const SUMMARY: &str = "summary";

/// `histogram_buckets` of what is shown to Prometheus.
pub(super) const CUMULATIVE: &str = "cumulative";

/// So many refused resources are named, the others are counted only: names are the server's.
const REFUSED: usize = 100;

/// A reason is at most so long in a metric, in bytes.
const REASON: usize = 256;

/// Which samples are wanted.
struct Wanted {
    filter: Option<Regex>,
    used_only: bool,
    counters: bool,
    gauges: bool,
    histograms: bool,
    texts: bool,
}

impl Wanted {
    /// `buckets`: the one way in which histograms are shown.
    fn parse(query: &Query, buckets: &str) -> Result<Self, Response> {
        match query.get("histogram_buckets") {
            None | Some("") => {}
            Some(asked) if asked == buckets => {}
            Some(_) => {
                let usage =
                    format!("usage: histogram_buckets={buckets}: histograms are shown in no other way here\n\n");
                return Err(Response::error(400, usage));
            }
        }
        let filter = match query.get("filter") {
            None | Some("") => None,
            Some(text) => match Regex::new(text) {
                Ok(regex) => Some(regex),
                Err(error) => return Err(Response::error(400, format!("Invalid regex: {error}"))),
            },
        };
        let (counters, gauges, histograms, texts) = match query.get("type") {
            None | Some("All") => (true, true, true, true),
            Some("Counters") => (true, false, false, false),
            Some("Gauges") => (false, true, false, false),
            Some("Histograms") => (false, false, true, false),
            Some("TextReadouts") => (false, false, false, true),
            Some(_) => {
                return Err(Response::error(
                    400,
                    "usage: /stats?type=(All|Counters|Histograms|Gauges|TextReadouts)\n\n",
                ));
            }
        };
        Ok(Wanted { filter, used_only: query.has("usedonly"), counters, gauges, histograms, texts })
    }

    /// A gauge counts as used always: 0 is what a probe waits for in `server.state`.
    fn wants(&self, sample: &Sample) -> bool {
        let of_type = match &sample.value {
            Value::Counter(n) => self.counters && !(self.used_only && *n == 0),
            Value::Gauge(_) => self.gauges,
            Value::Histogram(_, snapshot) => self.histograms && !(self.used_only && snapshot.count() == 0),
            Value::Text(text) => self.texts && !(self.used_only && text.is_empty()),
        };
        of_type && self.filter.as_ref().is_none_or(|filter| filter.is_match(&sample.name.to_string()))
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
pub(super) fn stats(query: &Query) -> Response {
    let as_json = match query.get("format") {
        None | Some("" | "text") => false,
        Some("json") => true,
        Some("prometheus") => return prometheus(query),
        Some(_) => return Response::error(400, "usage: /stats?format=(json|prometheus|text)\n\n"),
    };
    let wanted = match Wanted::parse(query, SUMMARY) {
        Ok(wanted) => wanted,
        Err(response) => return response,
    };
    Response::parts(if as_json { JSON } else { TEXT }, move |state, out| {
        let all = All::collect(state, &wanted);
        if as_json { all.json(out) } else { all.text(out) }
    })
}

/// Samples in the order in which they are shown. Names share their scopes: each written out would be far longer.
#[derive(Default)]
struct All {
    texts: Vec<(SampleName, Arc<str>)>,
    numbers: Vec<(SampleName, u64)>,
    histograms: Vec<(SampleName, Unit, Snapshot)>,
}

impl All {
    fn collect(state: &dyn AdminState, wanted: &Wanted) -> Self {
        let mut all = All::default();
        visit(state, &mut |sample| {
            if wanted.wants(&sample) {
                match sample.value {
                    Value::Counter(n) | Value::Gauge(n) => all.numbers.push((sample.name, n)),
                    Value::Histogram(unit, snapshot) => all.histograms.push((sample.name, unit, snapshot)),
                    Value::Text(text) => all.texts.push((sample.name, text)),
                }
            }
        });
        all.texts.sort_unstable();
        all.numbers.sort_unstable();
        all.histograms.sort_unstable_by(|(a, ..), (b, ..)| a.cmp(b));
        all
    }

    /// Envoy's lines. A pair in a histogram's line is the value of the last interval and that since the start; no interval
    /// is kept here, which is what `nan` says.
    fn text(&self, out: &mut Parts<'_>) -> fmt::Result {
        for (name, word) in &self.texts {
            writeln!(out, "{name}: \"{word}\"")?;
        }
        for (name, number) in &self.numbers {
            writeln!(out, "{name}: {number}")?;
        }
        for (name, unit, snapshot) in &self.histograms {
            write!(out, "{name}:")?;
            if snapshot.count() == 0 {
                out.write_str(" No recorded values")?;
            } else {
                for (quantile, label) in QUANTILES {
                    let value = snapshot.quantile(quantile).map_or(f64::NAN, |value| shown(*unit, value));
                    write!(out, " {label}(nan,{value})")?;
                }
            }
            out.write_char('\n')?;
        }
        Ok(())
    }

    fn json(&self, out: &mut Parts<'_>) -> fmt::Result {
        let texts = self.texts.iter().map(|(name, value)| json!({"name": name.to_string(), "value": &**value}));
        let numbers = self.numbers.iter().map(|(name, value)| json!({"name": name.to_string(), "value": value}));
        let quantiles = json!({"supported_quantiles": QUANTILES.map(|(quantile, _)| quantile * 100.0)});
        let computed = self.histograms.iter().map(|(name, unit, snapshot)| {
            let values = QUANTILES.map(|(quantile, _)| {
                let value = snapshot.quantile(quantile).map(|value| shown(*unit, value));
                json!({"interval": null, "cumulative": value})
            });
            json!({"name": name.to_string(), "values": values})
        });
        out.write_str("{\"stats\":[")?;
        list(out, texts.chain(numbers))?;
        if !self.histograms.is_empty() {
            let comma = if self.texts.is_empty() && self.numbers.is_empty() { "" } else { "," };
            let quantiles = quantiles.to_string();
            let open = quantiles.strip_suffix('}').unwrap_or_default();
            write!(out, "{comma}{{\"histograms\":{open},\"computed_quantiles\":[")?;
            list(out, computed)?;
            out.write_str("]}}")?;
        }
        out.write_str("]}")
    }
}

/// Elements of a list in JSON.
fn list(out: &mut Parts<'_>, elements: impl Iterator<Item = serde_json::Value>) -> fmt::Result {
    for (place, element) in elements.enumerate() {
        write!(out, "{}{element}", if place == 0 { "" } else { "," })?;
    }
    Ok(())
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

/// Hands out all that is counted, and what is refused by name.
fn visit(state: &dyn AdminState, visit: &mut dyn FnMut(Sample)) {
    state.refresh();
    state.stats().visit(visit);
    let (counts, refused) = state.record().refused(REFUSED);
    for (kind, count) in counts {
        let (scope, value) = (Some(kind.service().into()), Value::Gauge(count));
        visit(Sample { name: SampleName { family: "xds", scope, metric: Cow::Borrowed("rejected_resources") }, value });
    }
    for (kind, name, details) in refused {
        let scope = Some(format!("{}.{name}", kind.service()).into());
        let mut reason = details.replace('\n', "; ");
        reason.truncate(reason.floor_char_boundary(REASON));
        let value = Value::Text(reason.into());
        visit(Sample { name: SampleName { family: "xds", scope, metric: Cow::Borrowed("resource_rejected") }, value });
    }
}

/// `/stats/prometheus`: Envoy's metric names, with its default tags as labels. A word is a label of a gauge: those of
/// Envoy where they are asked for (`text_readouts`), and always why a resource is refused.
pub(super) fn prometheus(query: &Query) -> Response {
    let wanted = match Wanted::parse(query, CUMULATIVE) {
        Ok(wanted) => wanted,
        Err(response) => return response,
    };
    let texts = query.has("text_readouts");
    Response::parts(TEXT, move |state, out| {
        metrics(state, &wanted, texts).iter().try_for_each(|metric| metric.print(out))
    })
}

/// In the order in which they are shown.
fn metrics(state: &dyn AdminState, wanted: &Wanted, texts: bool) -> Vec<Metric> {
    let mut metrics = Vec::<Metric>::new();
    let mut names = HashMap::new();
    // Samples of one scope come together, and share their labels.
    let mut labels = Labels::default();
    visit(state, &mut |mut sample| {
        if !wanted.wants(&sample) {
            return;
        }
        let (metric, mut own) = tagged(sample.name.metric.clone());
        if let Value::Text(text) = &sample.value {
            let is_state = sample.name.family == "xds";
            if !is_state && !texts {
                return;
            }
            own = Some(label(if is_state { "reason" } else { "text_value" }, text));
            sample.value = Value::Gauge(is_state.into());
        }
        let label = labels.of(&sample, own);
        let index = *names.entry((sample.name.family, labels.part, metric)).or_insert_with_key(|(.., metric)| {
            let kind = match sample.value {
                Value::Counter(_) => Kind::Counter,
                Value::Gauge(_) | Value::Text(_) => Kind::Gauge,
                Value::Histogram(..) => Kind::Histogram,
            };
            let name = sanitized(&format!("envoy_{}{}_{metric}", sample.name.family, labels.part));
            let index = metrics.len();
            metrics.push(Metric { name, kind, series: Vec::new() });
            index
        });
        if let Some(metric) = metrics.get_mut(index) {
            metric.series.push((label, sample.value));
        }
    });
    metrics.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    metrics
}

impl Metric {
    fn print(&self, text: &mut Parts<'_>) -> fmt::Result {
        let Metric { name, kind, series } = self;
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        writeln!(text, "# TYPE {name} {kind}")?;
        for (labels, value) in series {
            match value {
                Value::Counter(n) | Value::Gauge(n) => writeln!(text, "{name}{{{labels}}} {n}")?,
                Value::Histogram(unit, snapshot) => {
                    let comma = if labels.is_empty() { "" } else { "," };
                    for bound in BUCKETS {
                        let raw = bound / shown(*unit, 1.0);
                        let count = snapshot.at_most(raw);
                        writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}")?;
                    }
                    let (count, sum) = (snapshot.count(), shown(*unit, snapshot.sum()));
                    writeln!(text, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}")?;
                    writeln!(text, "{name}_sum{{{labels}}} {sum}")?;
                    writeln!(text, "{name}_count{{{labels}}} {count}")?;
                }
                // It has become a label.
                Value::Text(_) => {}
            }
        }
        Ok(())
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
    /// `own`: the label of the metric itself.
    fn of(&mut self, sample: &Sample, own: Option<String>) -> Arc<str> {
        if (self.family, &self.scope) != (sample.name.family, &sample.name.scope) {
            let scope = sample.name.scope.as_deref();
            let (separator, part) = match sample.name.family {
                "listener" => (".http.", "_http"),
                "http" => (".rds.", "_rds"),
                _ => ("\n", ""),
            };
            let parts = scope.and_then(|scope| scope.split_once(separator));
            let prefix = |prefix| label("envoy_http_conn_manager_prefix", prefix);
            self.labels = match (sample.name.family, scope, parts) {
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
                ("xds", Some(kind), _) => match kind.split_once('.') {
                    Some((kind, name)) => format!("{},{}", label("type", kind), label("name", name)),
                    None => label("type", kind),
                },
                _ => String::new(),
            }
            .into();
            self.part = if parts.is_some() { part } else { "" };
            self.family = sample.name.family;
            self.scope.clone_from(&sample.name.scope);
        }
        match own {
            None => Arc::clone(&self.labels),
            Some(own) if self.labels.is_empty() => own.into(),
            Some(own) => format!("{own},{}", self.labels).into(),
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
