//! `http.<stat_prefix>.`: a connection manager and its router.

use super::codes::CodeClasses;
use super::scope::metric_structs;

metric_structs! {
    /// `http.<stat_prefix>.`; the fields without `downstream_` are the router's.
    HttpStats (shard ()) {
        counters {
            downstream_cx_total, downstream_cx_http1_total, downstream_cx_http2_total, downstream_cx_ssl_total,
            downstream_cx_upgrades_total, downstream_cx_destroy, downstream_cx_destroy_local,
            downstream_cx_destroy_remote, downstream_cx_destroy_active_rq, downstream_cx_destroy_local_active_rq,
            downstream_cx_destroy_remote_active_rq, downstream_cx_delayed_close_timeout, downstream_cx_drain_close,
            downstream_cx_idle_timeout, downstream_cx_max_duration_reached, downstream_cx_max_requests_reached,
            downstream_cx_protocol_error, downstream_cx_rx_bytes_total, downstream_cx_tx_bytes_total,
            downstream_rq_total, downstream_rq_http1_total, downstream_rq_http2_total,
            downstream_rq_failed_path_normalization, downstream_rq_header_timeout, downstream_rq_idle_timeout,
            downstream_rq_max_duration_reached, downstream_rq_non_relative_path,
            downstream_rq_redirected_with_normalized_path, downstream_rq_response_before_rq_complete,
            downstream_rq_rx_reset, downstream_rq_timeout, downstream_rq_too_many_premature_resets,
            downstream_rq_tx_reset, downstream_rq_ws_on_non_ws_route, no_cluster, no_route, rq_direct_response,
            rq_total,
        }
        gauges {
            downstream_cx_active, downstream_cx_http1_active, downstream_cx_http2_active, downstream_cx_ssl_active,
            downstream_cx_upgrades_active, downstream_rq_active,
        }
        histograms { downstream_cx_length_ms: Milliseconds, downstream_rq_time: Milliseconds }
        parts {
            /// `downstream_rq_1xx` to `downstream_rq_5xx` and `downstream_rq_completed`.
            responses: CodeClasses,
        }
    }

    /// `http.<stat_prefix>.rds.<route_config_name>.`
    RdsStats (shard RdsShared) {}

    /// `http.<stat_prefix>.rds.<route_config_name>.`, what whoever applies the configuration counts.
    RdsShared (single) {
        counters { config_reload, update_failure, update_rejected, update_success }
    }
}
