//! What the traffic saw, by route and version: over the last moment for the live table, over a step, and in all.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::app::Call;

/// A route and the version that answered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// `orders`, or `orders > products`.
    pub(crate) route: String,
    /// `-` where nobody answered.
    pub(crate) version: String,
}

/// What became of the requests of one key.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    /// Microseconds, from 1 to a minute, with an error below 1 %.
    pub(crate) latency: Histogram<u64>,
}

impl Row {
    fn new() -> Self {
        #[expect(clippy::expect_used, reason = "the bounds are constants, and right")]
        let latency = Histogram::new_with_bounds(1, 60_000_000, 2).expect("bounds of a histogram");
        Self { ok: 0, failed: 0, latency }
    }

    fn record(&mut self, ok: bool, micros: u64) {
        *if ok { &mut self.ok } else { &mut self.failed } += 1;
        self.latency.saturating_record(micros.max(1));
    }

    pub(crate) fn all(&self) -> u64 {
        self.ok + self.failed
    }
}

/// What the traffic saw over some time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Period {
    pub(crate) rows: BTreeMap<Key, Row>,
    /// Answers by instance of `products`.
    pub(crate) instances: BTreeMap<String, u64>,
    /// Requests that failed, and should not have.
    pub(crate) failed: u64,
    /// Requests that a limit turned away, as it should.
    pub(crate) shed: u64,
    pub(crate) ok: u64,
    /// Why a request failed, of the first that did.
    pub(crate) first_failure: Option<String>,
}

/// One request to the shop, as its client saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) micros: u64,
    /// Why it failed.
    pub(crate) error: Option<String>,
    pub(crate) calls: Vec<Call>,
}

impl Seen {
    /// Whether it failed because a limit turned one of its calls away, and nothing else went wrong.
    fn shed(&self) -> bool {
        let mut failed = self.calls.iter().filter(|call| !(200..300).contains(&call.status)).peekable();
        self.error.is_some() && failed.peek().is_some() && failed.all(|call| call.shed)
    }
}

impl Period {
    /// `limited`: a limit is in force that may turn requests away.
    pub(crate) fn record(&mut self, seen: &Seen, limited: bool) {
        match &seen.error {
            None => self.ok += 1,
            Some(_) if limited && seen.shed() => self.shed += 1,
            Some(error) => {
                self.failed += 1;
                self.first_failure.get_or_insert_with(|| error.clone());
            }
        }
        self.row("orders", "v1").record(seen.error.is_none(), seen.micros);
        for call in &seen.calls {
            let ok = (200..300).contains(&call.status);
            self.row(&format!("orders > {}", call.service), &call.version).record(ok, call.micros);
            if call.service == "products" && call.instance != "-" {
                *self.instances.entry(call.instance.clone()).or_default() += 1;
            }
        }
    }

    fn row(&mut self, route: &str, version: &str) -> &mut Row {
        let key = Key { route: route.to_owned(), version: version.to_owned() };
        self.rows.entry(key).or_insert_with(Row::new)
    }

    /// All requests.
    pub(crate) fn requests(&self) -> u64 {
        self.ok + self.failed + self.shed
    }

    /// The share of a version among the answers of products, from 0 to 1.
    pub(crate) fn share(&self, version: &str) -> f64 {
        let answers = |version: Option<&str>| -> u64 {
            let rows = self.rows.iter().filter(|(key, _)| key.route == "orders > products");
            rows.filter(|(key, _)| version.is_none_or(|version| key.version == version)).map(|(_, row)| row.all()).sum()
        };
        let all = answers(None);
        if all == 0 { 0.0 } else { float(answers(Some(version))) / float(all) }
    }

    /// The share of an instance among the answers of products, from 0 to 1.
    pub(crate) fn share_of(&self, instance: &str) -> f64 {
        let answers = self.instances.get(instance).copied().unwrap_or(0);
        float(answers) / float(self.instances.values().sum::<u64>().max(1))
    }

    /// The table of a period that took `time`.
    pub(crate) fn table(&self, time: Duration) -> Vec<String> {
        let mut lines = vec![format!(
            "  {:<18} {:<7} {:>9} {:>10} {:>10} {:>10}",
            "route", "version", "requests/s", "success", "p50 ms", "p99 ms"
        )];
        for (Key { route, version }, row) in &self.rows {
            let rate = float(row.all()) / time.as_secs_f64().max(0.001);
            let success = 100.0 * float(row.ok) / float(row.all().max(1));
            let at = |quantile| float(row.latency.value_at_quantile(quantile)) / 1000.0;
            lines.push(format!(
                "  {route:<18} {version:<7} {rate:>9.1} {success:>8.2} % {:>10.1} {:>10.1}",
                at(0.5),
                at(0.99)
            ));
        }
        let instances: Vec<String> = self.instances.iter().map(|(name, count)| format!("{name} {count}")).collect();
        lines.push(format!("  answers by instance: {}", instances.join(", ")));
        lines
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with two decimals")]
fn float(number: u64) -> f64 {
    number as f64
}

/// The periods that are being measured.
#[derive(Debug, Default)]
pub(crate) struct Measures {
    /// The last half second or so.
    pub(crate) moment: Period,
    pub(crate) step: Period,
    pub(crate) all: Period,
    /// From where somebody began to look.
    pub(crate) probe: Period,
    /// Whether a limit is in force that may turn requests away.
    pub(crate) limited: bool,
}

impl Measures {
    pub(crate) fn record(&mut self, seen: &Seen) {
        for period in [&mut self.moment, &mut self.step, &mut self.all, &mut self.probe] {
            period.record(seen, self.limited);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(version: &str, status: u16, shed: bool) -> Call {
        let (service, instance) = ("products".to_owned(), format!("products-{version}-1"));
        Call { service, version: version.to_owned(), instance, status, micros: 2_000, shed }
    }

    fn seen(error: Option<&str>, calls: Vec<Call>) -> Seen {
        Seen { micros: 3_000, error: error.map(ToOwned::to_owned), calls }
    }

    #[test]
    fn requests_are_counted_by_route_and_version() {
        let mut period = Period::default();
        for version in ["v1", "v1", "v1", "v2"] {
            period.record(&seen(None, vec![call(version, 200, false)]), false);
        }
        assert!((period.share("v2") - 0.25).abs() < 1e-9);
        assert_eq!(period.instances["products-v1-1"], 3);
        let shares = ["products-v1-1", "products-v2-1", "products-v2-2"].map(|instance| period.share_of(instance));
        assert!(shares.iter().zip([0.75, 0.25, 0.0]).all(|(share, due)| (share - due).abs() < 1e-9), "{shares:?}");
        assert_eq!((period.ok, period.failed, period.shed), (4, 0, 0));
        let table = period.table(Duration::from_secs(2));
        assert_eq!(table.len(), 5);
        assert!(table[1].contains("orders ") && table[1].contains("2.0") && table[1].contains("100.00 %"), "{table:?}");
        assert!(table[1].contains("3.0"), "{table:?}");
    }

    #[test]
    fn what_a_limit_turns_away_is_no_failure_only_where_there_is_one() {
        let shed = seen(Some("502"), vec![call("-", 503, true)]);
        let mut period = Period::default();
        period.record(&shed, true);
        assert_eq!((period.ok, period.failed, period.shed), (0, 0, 1));
        period.record(&shed, false);
        // Shed and broken at once is broken.
        period.record(&seen(Some("502"), vec![call("-", 503, true), call("v1", 500, false)]), true);
        period.record(&seen(Some("connection refused"), vec![]), true);
        assert_eq!((period.ok, period.failed, period.shed), (0, 3, 1));
        assert_eq!(period.first_failure.as_deref(), Some("502"));
    }

    #[test]
    fn a_period_without_requests_has_a_table() {
        assert_eq!(Period::default().table(Duration::ZERO).len(), 2);
        assert!(Period::default().share("v1").abs() < f64::EPSILON);
    }
}
