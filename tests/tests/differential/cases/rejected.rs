//! Configurations that are accepted or refused by `--mode validate`, and at start.

use outrigger_tests::upstream::Upstream;

use crate::scenario::{Scenario, scenario};

pub(crate) fn cases() -> Vec<Scenario> {
    let cases = vec![
        scenario("accepted_template").up(Upstream::h1()),
        scenario("rejected_unknown_field").hcm("no_such_field: 1"),
        scenario("rejected_bad_regex").routes("- {match: {safe_regex: {regex: '('}}, direct_response: {status: 200}}"),
        scenario("rejected_missing_cluster").route_config("validate_clusters: true").route("route: {cluster: missing}"),
        scenario("rejected_negative_timeout").up(Upstream::h1()).cluster("up", "connect_timeout: -1s"),
        scenario("rejected_duplicate_domain").route_config(
            "virtual_hosts: [{name: a, domains: [a.test], routes: []}, {name: b, domains: [a.test], routes: []}]",
        ),
        scenario("rejected_status_of_direct_response").route("direct_response: {status: 99}"),
        scenario("rejected_destination_port_zero").filter_chain("filter_chain_match: {destination_port: 0}"),
        scenario("rejected_operation_on_the_host_header").virtual_host(
            "request_headers_to_add: [{header: {key: host, value: b.test}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]",
        ),
        scenario("rejected_listener_without_address").listener("address: null"),
        scenario("rejected_node_of_wrong_type").bootstrap("node: [1]"),
    ];
    cases.into_iter().map(Scenario::validated).collect()
}
