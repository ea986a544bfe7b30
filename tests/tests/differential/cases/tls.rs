//! TLS on either side: ALPN, names, client certificates.

use outrigger_tests::client::{Client, ClientTls, Step};
use outrigger_tests::tls::{Identity, material};
use outrigger_tests::upstream::{Act, Upstream};

use super::get_from;
use crate::scenario::{Scenario, scenario};

/// A client's TLS for `server.test`.
fn offering(alpn: &[&'static str], identity: Option<&'static Identity>) -> ClientTls {
    ClientTls { alpn: alpn.to_vec(), name: "server.test", identity }
}

/// A listener's TLS with these further fields of the DownstreamTlsContext.
fn server(more: &str, common: &str) -> String {
    format!(
        "transport_socket: {{name: tls, typed_config: {{'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, {more} \
         common_tls_context: {{alpn_protocols: [h2, http/1.1], tls_certificates: [{{certificate_chain: {{inline_string: $server_cert}}, private_key: {{inline_string: $server_key}}}}], {common}}}}}}}"
    )
}

const INSPECTOR: &str = "listener_filters: [{name: tls, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}]";
const TRUST: &str = "validation_context: {trusted_ca: {inline_string: $authority}}";
const TRUST_SAN: &str = "validation_context: {trusted_ca: {inline_string: $authority}, match_typed_subject_alt_names: [{san_type: URI, matcher: {exact: 'spiffe://cluster.test/ns/demo/sa/other'}}]}";
const REQUIRE: &str = "require_client_certificate: true,";

pub(crate) fn cases() -> Vec<Scenario> {
    let mut cases = downstream();
    cases.extend(upstream());
    cases
}

fn downstream() -> Vec<Scenario> {
    let ok = |name: &str| scenario(name).up(Upstream::h1().ok("ok"));
    let chain = |name: &str| format!("filter_chain_match: {{server_names: [{name}]}}, {}", server("", ""));
    vec![
        ok("tls_http_1")
            .filter_chain(&server("", ""))
            .client(Client::raw().tls(offering(&["http/1.1"], None)).get("/")),
        ok("tls_http_2_by_alpn")
            .filter_chain(&server("", ""))
            .client(Client::h2().tls(offering(&["h2", "http/1.1"], None)).h2_get(1, "/", &[(":scheme", "https")])),
        ok("tls_without_alpn").filter_chain(&server("", "")).client(Client::raw().tls(offering(&[], None)).get("/")),
        ok("tls_alpn_without_overlap").filter_chain(&server("", "")).client(Client::raw().tls(offering(&["spdy"], None)).get("/")),
        ok("tls_client_closes_in_order")
            .filter_chain(&server("", ""))
            .client(Client::raw().tls(offering(&[], None)).request(get_from("/", &["connection: close"]))),
        ok("tls_plain_bytes_on_a_tls_listener").filter_chain(&server("", "")).client(Client::raw().send(get_from("/", &[])).end()),
        ok("mtls_with_a_certificate")
            .filter_chain(&server(REQUIRE, TRUST))
            .hcm("{forward_client_cert_details: SANITIZE_SET, set_current_client_cert_details: {uri: true, subject: true}}")
            .client(Client::raw().tls(offering(&["http/1.1"], Some(&material().client))).request(get_from("/", &["x-forwarded-client-cert: told"]))),
        ok("mtls_without_a_certificate")
            .filter_chain(&server(REQUIRE, TRUST))
            .client(Client::raw().tls(offering(&["http/1.1"], None)).send(get_from("/", &[])).end()),
        ok("mtls_with_a_strangers_certificate")
            .filter_chain(&server(REQUIRE, TRUST))
            .client(Client::raw().tls(offering(&["http/1.1"], Some(&material().stranger))).send(get_from("/", &[])).end()),
        ok("mtls_with_another_name")
            .filter_chain(&server(REQUIRE, TRUST_SAN))
            .client(Client::raw().tls(offering(&["http/1.1"], Some(&material().client))).send(get_from("/", &[])).end()),
        ok("client_certificate_is_forwarded_and_appended")
            .filter_chain(&server(REQUIRE, TRUST))
            .hcm("{forward_client_cert_details: APPEND_FORWARD, set_current_client_cert_details: {uri: true}}")
            .client(
                Client::raw()
                    .tls(offering(&["http/1.1"], Some(&material().client)))
                    .request(get_from("/", &["x-forwarded-client-cert: By=spiffe://told"])),
            ),
        scenario("tls_chain_by_server_name")
            .listener(INSPECTOR)
            .filter_chain(&format!("{{{}}}", chain("server.test")))
            .client(Client::raw().tls(offering(&[], None)).get("/")),
        scenario("tls_no_chain_for_the_server_name")
            .listener(INSPECTOR)
            .filter_chain(&format!("{{{}}}", chain("other.test")))
            .client(Client::raw().tls(offering(&[], None)).send(get_from("/", &[])).end()),
        scenario("tls_tcp_proxy")
            .up(Upstream::tcp().acts([Act::Echo]))
            .tcp("{}")
            .filter_chain(&server("", ""))
            .client(Client::raw().tls(offering(&[], None)).send("hello").step(Step::Bytes(5)).step(Step::HalfClose)),
    ]
}

fn upstream() -> Vec<Scenario> {
    let tls = |name: &str, context: &str| {
        scenario(name)
            .up(Upstream::h1().tls(&["http/1.1"]).ok("secret"))
            .cluster("up", &format!("transport_socket: {{typed_config: {{{context}}}}}"))
    };
    vec![
        scenario("tls_to_the_upstream").up(Upstream::h1().tls(&["http/1.1"]).ok("secret")).client(Client::raw().get("/")),
        scenario("tls_to_an_h2_upstream").up(Upstream::h2().tls(&["h2"]).ok("secret")).client(Client::raw().get("/")),
        tls("tls_upstream_is_not_trusted", "common_tls_context: {validation_context: {trusted_ca: {inline_string: $stranger}}}")
            .client(Client::raw().get("/")),
        tls(
            "tls_upstream_has_another_name",
            "common_tls_context: {validation_context: {match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: other.test}}]}}",
        )
        .client(Client::raw().get("/")),
        tls(
            "tls_upstream_has_the_name_in_another_case",
            "common_tls_context: {validation_context: {match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: Server.TEST}}]}}",
        )
        .client(Client::raw().get("/")),
        tls(
            "tls_upstream_has_the_name_by_a_wildcard",
            "common_tls_context: {validation_context: {match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: api.wildcard.test}}]}}",
        )
        .client(Client::raw().get("/")),
        scenario("tls_upstream_speaks_plain")
            .up(Upstream::h1().ok("plain"))
            .cluster(
                "up",
                "transport_socket: {name: tls, typed_config: {'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, sni: server.test}}",
            )
            .client(Client::raw().get("/")),
        scenario("tls_server_name_from_the_host")
            .up(Upstream::h1().tls(&["http/1.1"]).ok("secret"))
            .cluster(
                "up",
                "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {'@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, upstream_http_protocol_options: {auto_sni: true}, explicit_http_config: {http_protocol_options: {}}}}",
            )
            .client(Client::raw().get("/")),
        // Where the first name's connection idles, Envoy 1.40 dies of making room (it frees what is in use): that has
        // unit tests.
        scenario("tls_names_beyond_the_pools")
            .up(Upstream::h1().tls(&["http/1.1"]).acts([Act::Hang]))
            .cluster(
                "up",
                "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {'@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, upstream_http_protocol_options: {auto_sni: true}, explicit_http_config: {http_protocol_options: {}}}}\n\
                 circuit_breakers: {thresholds: [{max_connection_pools: 1}]}",
            )
            .client(
                Client::raw()
                    .send("GET / HTTP/1.1\r\nhost: one.test\r\n\r\n")
                    .step(Step::Upstream(1))
                    .fresh()
                    .request("GET / HTTP/1.1\r\nhost: two.test\r\n\r\n"),
            ),
        tls("tls_upstream_protocol_is_negotiated", "common_tls_context: {alpn_protocols: [http/1.1]}").client(Client::raw().get("/")),
    ]
}
