//! `cluster.<name>.`

use super::codes::{Codes, Origin};
use super::histogram::{Histogram, Snapshot};
use super::scope::{Merge, Unit, Value, metric_structs};
use super::ssl::SslStats;

metric_structs! {
    /// `cluster.<name>.`, what workers count.
    ClusterStats (shard ClusterShared) {
        counters {
            upstream_cx_total, upstream_cx_http1_total, upstream_cx_http2_total, upstream_cx_connect_fail,
            upstream_cx_connect_timeout, upstream_cx_connect_attempts_exceeded, upstream_cx_overflow,
            upstream_cx_destroy, upstream_cx_destroy_local, upstream_cx_destroy_remote,
            upstream_cx_destroy_with_active_rq, upstream_cx_destroy_local_with_active_rq,
            upstream_cx_destroy_remote_with_active_rq, upstream_cx_idle_timeout, upstream_cx_max_requests,
            upstream_cx_max_duration_reached, upstream_cx_none_healthy, upstream_cx_pool_overflow, upstream_cx_protocol_error,
            upstream_cx_rx_bytes_total, upstream_cx_tx_bytes_total, upstream_rq_total, upstream_rq_active_overflow,
            upstream_rq_cancelled, upstream_rq_max_duration_reached, upstream_rq_pending_failure_eject,
            upstream_rq_pending_overflow, upstream_rq_pending_total, upstream_rq_per_try_idle_timeout,
            upstream_rq_per_try_timeout, upstream_rq_retry, upstream_rq_retry_backoff_exponential,
            upstream_rq_retry_backoff_ratelimited, upstream_rq_retry_limit_exceeded, upstream_rq_retry_overflow,
            upstream_rq_retry_success, retry_or_shadow_abandoned, upstream_rq_rx_reset, upstream_rq_timeout, upstream_rq_tx_reset,
            lb_healthy_panic,
        }
        gauges { upstream_cx_active, upstream_rq_active, upstream_rq_pending_active }
        histograms { upstream_cx_connect_ms: Milliseconds, upstream_cx_length_ms: Milliseconds }
        parts {
            /// `upstream_rq_<code>`, `upstream_rq_<n>xx`, `upstream_rq_completed`; see
            /// [`ClusterStats::charge_response`].
            codes: Codes,
            /// `upstream_rq_time`; see [`ClusterStats::charge_time`].
            times: Times,
            /// `ssl.`, where the cluster has TLS.
            ssl: SslStats,
        }
    }

    /// `cluster.<name>.`, what the control thread sets.
    ClusterShared (single) {
        counters {
            membership_change, update_attempt, update_empty, update_failure, update_no_rebuild, update_rejected,
            update_success,
        }
        gauges { membership_degraded, membership_healthy, membership_total, version }
        parts {
            /// `circuit_breakers.default.`
            default_breakers: Breakers<false>,
            /// `circuit_breakers.high.`
            high_breakers: Breakers<true>,
        }
    }
}

impl ClusterStats {
    /// Counts the answer of an attempt (or a local reply in its stead): by code, by class and in total, and once more
    /// under its origin.
    #[inline]
    pub fn charge_response(&self, code: u16, origin: Origin) {
        self.codes.inc(code, origin);
    }

    /// Records the microseconds from the end of the request to the end of its answer in `upstream_rq_time` and in that
    /// of its origin; [`Origin::Retry`] has none.
    #[inline]
    pub fn charge_time(&self, micros: u64, origin: Origin) {
        match origin {
            Origin::External => self.times.external.record(micros),
            Origin::Internal => self.times.internal.record(micros),
            Origin::Retry => {}
        }
    }
}

/// `upstream_rq_time` by origin; the sum of both is the one without a prefix.
#[derive(Debug, Default)]
pub struct Times {
    external: Histogram,
    internal: Histogram,
}

impl Times {
    fn merge<'a>(shards: impl Iterator<Item = &'a Times>, out: &mut Merge<'_>) {
        let (mut external, mut internal) = (Snapshot::default(), Snapshot::default());
        for shard in shards {
            shard.external.merge_into(&mut external);
            shard.internal.merge_into(&mut internal);
        }
        let mut total = external.clone();
        total.add(&internal);
        let parts = [("external.upstream_rq_time", external), ("internal.upstream_rq_time", internal)];
        for (name, snapshot) in parts.into_iter().filter(|(_, snapshot)| snapshot.count() > 0) {
            out.sample(name.into(), Value::Histogram(Unit::Milliseconds, snapshot));
        }
        out.sample("upstream_rq_time".into(), Value::Histogram(Unit::Milliseconds, total));
    }
}

/// Whether the circuit breakers of a priority are at their thresholds (1) or not (0), as of the last scrape.
#[derive(Debug, Default)]
pub struct Breakers<const HIGH: bool> {
    /// `max_connections` is reached.
    pub cx_open: super::Gauge,
    /// `max_connection_pools` is reached.
    pub cx_pool_open: super::Gauge,
    /// `max_requests` is reached.
    pub rq_open: super::Gauge,
    /// `max_pending_requests` is reached.
    pub rq_pending_open: super::Gauge,
    /// `max_retries` or the retry budget is reached.
    pub rq_retry_open: super::Gauge,
    /// 1 for `track_remaining`; without it the others are not shown.
    pub track_remaining: super::Gauge,
    /// Connections until `max_connections`.
    pub remaining_cx: super::Gauge,
    /// Connection pools until `max_connection_pools`.
    pub remaining_cx_pools: super::Gauge,
    /// Requests until `max_requests`.
    pub remaining_rq: super::Gauge,
    /// Requests until `max_pending_requests`.
    pub remaining_pending: super::Gauge,
    /// Retries until `max_retries`, or what the budget allows.
    pub remaining_retries: super::Gauge,
}

impl<const HIGH: bool> Breakers<HIGH> {
    fn merge<'a>(mut shards: impl Iterator<Item = &'a Self>, out: &mut Merge<'_>) {
        let Some(breakers) = shards.next() else { return };
        macro_rules! sample {
            ($($gauge:ident),*) => {$({
                let name = match HIGH {
                    true => concat!("circuit_breakers.high.", stringify!($gauge)),
                    false => concat!("circuit_breakers.default.", stringify!($gauge)),
                };
                out.sample(name.into(), Value::Gauge(breakers.$gauge.get()));
            })*};
        }
        sample!(cx_open, cx_pool_open, rq_open, rq_pending_open, rq_retry_open);
        if breakers.track_remaining.get() > 0 {
            sample!(remaining_cx, remaining_cx_pools, remaining_rq, remaining_pending, remaining_retries);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::telemetry::stats::Stats;

    #[test]
    fn an_answer_counts_by_code_class_total_and_origin() {
        let stats = Stats::new();
        let scope = stats.cluster("a");
        for code in [200, 200, 201, 204, 404, 503] {
            scope.shard(0).charge_response(code, Origin::External);
        }
        scope.shard(1).charge_response(200, Origin::Internal);
        scope.shard(1).charge_response(502, Origin::Retry);
        let mut counters = BTreeMap::new();
        scope.visit("cluster", &mut |sample| {
            if let Value::Counter(n) = sample.value
                && n > 0
            {
                counters.insert(sample.name.metric.into_owned(), n);
            }
        });
        let expected = [
            ("external.upstream_rq_200", 2),
            ("external.upstream_rq_201", 1),
            ("external.upstream_rq_204", 1),
            ("external.upstream_rq_2xx", 4),
            ("external.upstream_rq_404", 1),
            ("external.upstream_rq_4xx", 1),
            ("external.upstream_rq_503", 1),
            ("external.upstream_rq_5xx", 1),
            ("external.upstream_rq_completed", 6),
            ("internal.upstream_rq_200", 1),
            ("internal.upstream_rq_2xx", 1),
            ("internal.upstream_rq_completed", 1),
            ("retry.upstream_rq_502", 1),
            ("retry.upstream_rq_5xx", 1),
            ("retry.upstream_rq_completed", 1),
            ("upstream_rq_200", 3),
            ("upstream_rq_201", 1),
            ("upstream_rq_204", 1),
            ("upstream_rq_2xx", 5),
            ("upstream_rq_404", 1),
            ("upstream_rq_4xx", 1),
            ("upstream_rq_503", 1),
            ("upstream_rq_5xx", 1),
            ("upstream_rq_completed", 7),
        ];
        assert_eq!(counters, expected.map(|(name, n)| (name.to_owned(), n)).into());
    }

    #[test]
    fn a_cluster_that_is_not_used_shows_what_the_control_thread_knows_of_it() {
        let stats = Stats::new();
        let scope = stats.cluster("a");
        scope.shared.membership_total.set(3);
        let mut names = Vec::new();
        scope.visit("cluster", &mut |sample| names.push(sample.name.metric.into_owned()));
        assert!(names.iter().any(|name| name == "membership_total"));
        assert!(names.iter().any(|name| name == "circuit_breakers.high.rq_open"));
        assert!(!names.iter().any(|name| name == "upstream_rq_total"));
    }

    #[test]
    fn a_shard_is_small() {
        assert!(size_of::<ClusterStats>() <= 600, "{}", size_of::<ClusterStats>());
    }
}
