//! One field of one scenario's bootstrap changed: the suite must see each of them, or it compares too little.

use crate::scenario::Mutation;

const fn field(part: &'static str, pointer: &'static str, value: &'static str) -> Mutation {
    Mutation { part, pointer, value }
}

/// The scenario, and what is changed in it.
pub(crate) const MUTATIONS: &[(&str, Mutation)] = &[
    ("get_is_forwarded", field("hcm", "/server_name", "other")),
    ("get_is_forwarded", field("hcm", "/use_remote_address", "true")),
    ("get_is_forwarded", field("hcm", "/via", "mesh")),
    ("get_is_forwarded", field("hcm", "/generate_request_id", "false")),
    ("get_is_forwarded", field("hcm", "/always_set_request_id_in_response", "true")),
    ("get_is_forwarded", field("hcm", "/route_config/virtual_hosts/0/domains", "[b.test]")),
    ("get_is_forwarded", field("hcm", "/route_config/virtual_hosts/0/routes/0/match", "{prefix: /other}")),
    ("get_is_forwarded", field("hcm", "/route_config/virtual_hosts/0/routes/0/route/prefix_rewrite", "/new")),
    ("get_is_forwarded", field("hcm", "/route_config/virtual_hosts/0/routes/0/route/timeout", "7s")),
    ("get_is_forwarded", field("hcm", "/route_config/virtual_hosts/0/routes/0/name", "named")),
    ("get_is_forwarded", field("hcm", "/common_http_protocol_options", "{max_requests_per_connection: 1}")),
    ("get_is_forwarded", field("cluster", "/circuit_breakers", "{thresholds: [{max_requests: 0}]}")),
    ("get_is_forwarded", field("cluster", "/load_assignment/endpoints", "[]")),
    ("retries_run_out", field("hcm", "/route_config/virtual_hosts/0/routes/0/route/retry_policy/num_retries", "1")),
    ("retries_run_out", field("hcm", "/route_config/virtual_hosts/0/routes/0/route/retry_policy/retry_on", "reset")),
    ("idle_connection_is_closed", field("hcm", "/common_http_protocol_options/idle_timeout", "60s")),
    ("more_than_100_fields_are_431", field("hcm", "/common_http_protocol_options", "{max_headers_count: 130}")),
    ("http_1_0_is_refused", field("hcm", "/http_protocol_options", "{accept_http_10: true}")),
    ("h2_to_h1", field("hcm", "/codec_type", "HTTP1")),
    ("path_is_left_alone", field("hcm", "/merge_slashes", "true")),
    ("redirect_to_https", field("hcm", "/route_config/virtual_hosts/0/routes/0/redirect/response_code", "FOUND")),
    ("tcp_idle_timeout", field("tcp", "/idle_timeout", "60s")),
    ("tcp_connect_attempts_run_out", field("tcp", "/max_connect_attempts", "2")),
    (
        "mtls_without_a_certificate",
        field("listener", "/filter_chains/0/transport_socket/typed_config/require_client_certificate", "false"),
    ),
    ("mtls_with_another_name", field("listener", "/filter_chains/0/filter_chain_match", "{source_ports: [1]}")),
];
