//! HTTP load by h2load (of nghttp2), which speaks HTTP/1 and HTTP/2 and sends an exact number of requests, so that the
//! counters of a proxy can be compared with it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::machine::{Cores, Place};
use crate::process::pinned;

/// What a client speaks to the proxy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// How requests are paced.
#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// Each connection sends its next request when it has the answer.
    Closed,
    /// So many requests a second on all connections together, whatever the answers do.
    Open(u32),
}

/// One run of a load generator.
#[derive(Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Requests (TCP: exchanges) that were sent.
    pub(crate) sent: u64,
    /// Of these, those without a good answer.
    pub(crate) failed: u64,
    pub(crate) seconds: f64,
    /// Only of an open loop: what was measured under saturation is the length of a queue.
    pub(crate) latency: Option<Latency>,
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
}

impl Latency {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        Self {
            p50: histogram.value_at_quantile(0.5),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
        }
    }
}

/// Sends `requests` to the port on `connections` connections with one request at a time each. `targets` is a file of
/// URLs that each connection asks for in turn; without it, all ask for `/`.
pub(crate) async fn run(
    cores: Cores,
    protocol: Protocol,
    port: u16,
    (requests, connections): (u64, u64),
    pace: Pace,
    targets: Option<&Path>,
) -> anyhow::Result<Outcome> {
    let log = tempfile::NamedTempFile::new()?;
    let mut command = pinned(cores, Place::Load, Path::new("h2load"));
    command.arg(format!("--requests={requests}")).arg(format!("--clients={connections}"));
    command.args(["--threads=1", "--max-concurrent-streams=1"]).arg(format!("--connect-to=127.0.0.1:{port}"));
    if protocol == Protocol::Http1 {
        command.arg("--h1");
    }
    if let Pace::Open(rate) = pace {
        // Connections start one after the other during their first interval, else all would send at the same moment.
        let a_millisecond = (rate / 1000).max(1);
        command.arg(format!("--rps={}", f64::from(rate) / connections as f64));
        command.arg(format!("--rate={a_millisecond}")).arg("--rate-period=1ms");
        command.arg("--log-file").arg(log.path());
    }
    match targets {
        Some(file) => command.arg("--input-file").arg(file),
        None => command.arg("http://bench.test/"),
    };
    let output = command.output().await.context("cannot run h2load (package nghttp2-client)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("h2load: {text}{}", String::from_utf8_lossy(&output.stderr));
    }
    let mut outcome = parse(&text).with_context(|| format!("cannot read h2load's report: {text}"))?;
    if let Pace::Open(rate) = pace {
        let interval = Duration::from_secs_f64(connections as f64 / f64::from(rate));
        outcome.latency = Some(latency(&std::fs::read_to_string(log.path())?, interval)?);
    }
    Ok(outcome)
}

fn parse(report: &str) -> Option<Outcome> {
    let line = |start: &str| report.lines().find_map(|line| line.strip_prefix(start));
    let (time, _) = line("finished in ")?.split_once(',')?;
    let requests = line("requests: ")?;
    let count = |what: &str| requests.split(", ").find_map(|part| part.strip_suffix(what)?.trim().parse::<u64>().ok());
    let sent = count(" started")?;
    let good = line("status codes: ")?.split_once(" 2xx")?.0.trim().parse::<u64>().ok()?;
    Some(Outcome { sent, failed: sent.saturating_sub(good), seconds: seconds(time)?, latency: None })
}

/// A time as h2load prints it: `850.12ms`, `4.10s`.
fn seconds(text: &str) -> Option<f64> {
    let unit = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(unit);
    let scale = match unit {
        "s" => 1.0,
        "ms" => 1e-3,
        "us" => 1e-6,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * scale)
}

/// Percentiles over h2load's log (start, status, microseconds). A connection sends nothing while it waits for a late
/// answer; the requests it should have sent by then are added with the latency that they would have had.
fn latency(log: &str, interval: Duration) -> anyhow::Result<Latency> {
    let mut histogram = Histogram::<u64>::new(3)?;
    let interval = u64::try_from(interval.as_micros())?;
    for line in log.lines() {
        let value = line.split('\t').nth(2).and_then(|field| field.parse().ok());
        histogram.record_correct(value.with_context(|| format!("h2load's log: {line:?}"))?, interval)?;
    }
    Ok(Latency::of(&histogram))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report() {
        let outcome = parse(
            "finished in 850.12ms, 1.0 req/s, 0B/s\n\
             requests: 100 total, 100 started, 99 done, 97 succeeded, 3 failed, 1 errored, 0 timeout\n\
             status codes: 97 2xx, 0 3xx, 0 4xx, 2 5xx\n",
        )
        .unwrap();
        assert_eq!((outcome.sent, outcome.failed), (100, 3));
        assert!((outcome.seconds - 0.850_12).abs() < 1e-9);
    }

    #[test]
    fn a_stall_counts_for_the_requests_that_it_kept_back() {
        let log: String = (0..400).map(|_| "1\t200\t100\n").chain(["1\t200\t100000\n"]).collect();
        let latency = latency(&log, Duration::from_millis(1)).unwrap();
        assert_eq!(latency.p50, 100);
        assert!(latency.p99 > 90_000, "{}", latency.p99);
    }
}
