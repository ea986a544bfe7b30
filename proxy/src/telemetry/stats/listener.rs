//! `listener.<address>.` and `tcp.<stat_prefix>.`

use super::codes::CodeClasses;
use super::scope::metric_structs;
use super::ssl::SslStats;

metric_structs! {
    /// `listener.<address>.`, the address with its colons as underscores, or the listener's `stat_prefix`.
    ListenerStats (shard ()) {
        counters {
            downstream_cx_total, downstream_cx_destroy, downstream_cx_transport_socket_connect_timeout,
            downstream_global_cx_overflow, downstream_listener_filter_remote_close, downstream_pre_cx_timeout,
            no_filter_chain_match,
        }
        gauges { downstream_cx_active, downstream_pre_cx_active }
        histograms { downstream_cx_length_ms: Milliseconds }
        parts {
            /// `ssl.`, where a filter chain has TLS.
            ssl: SslStats,
        }
    }

    /// `listener.<address>.http.<stat_prefix>.`
    ListenerHttpStats (shard ()) {
        parts {
            /// `downstream_rq_1xx` to `downstream_rq_5xx` and `downstream_rq_completed`.
            responses: CodeClasses,
        }
    }

    /// `tcp.<stat_prefix>.`
    TcpStats (shard ()) {
        counters {
            downstream_cx_total, downstream_cx_drain_close, downstream_cx_no_route, downstream_cx_rx_bytes_total,
            downstream_cx_tx_bytes_total, idle_timeout, max_downstream_connection_duration,
        }
    }
}
