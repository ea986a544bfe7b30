//! Conversion of the HttpConnectionManager and its router.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::HeaderValue;
use outrigger_proto::envoy::config::core::v3::HttpProtocolOptions;
use outrigger_proto::envoy::extensions::filters::http::router::v3::Router;
use outrigger_proto::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use outrigger_proto::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
use pb::http_connection_manager as nested;

use super::protocol::header_value;
use super::{
    ClientCertDetails, CodecType, EscapedSlashes, ForwardClientCert, Http1Options, Http2Options, HttpConnectionManager,
    InternalAddresses, LocalReplyConfig, Rds, RouteSource, ServerHeaderTransformation, StripHostPort,
    UnderscoresAction,
};
use crate::config::any;
use crate::config::config_source::{ConfigSource, plain_name};
use crate::config::listener::{Cidr, access_logs};
use crate::config::report::At;
use crate::config::time::{optional_timeout, timeout};
use crate::config::value::duration;
use crate::resilience::strict::StrictHeader;
use crate::route::RouteTable;
use crate::{harmless, message, unsupported};

/// `request_headers_timeout` where it is not set. Envoy has none, and leaves a head that does not come to its end to
/// the stream's idle timeout of 5 minutes.
const HEADERS_TIMEOUT: Duration = Duration::from_mins(1);

impl HttpConnectionManager {
    /// Reads the message. `None` where it was rejected.
    pub fn convert(message: pb::HttpConnectionManager, at: &At<'_>) -> Option<HttpConnectionManager> {
        let pb::HttpConnectionManager {
            codec_type,
            stat_prefix,
            http_filters,
            add_user_agent,
            tracing,
            common_http_protocol_options,
            http1_safe_max_connection_duration,
            http_protocol_options,
            http2_protocol_options,
            http3_protocol_options,
            server_name,
            server_header_transformation,
            scheme_header_transformation,
            max_request_headers_kb,
            stream_idle_timeout,
            stream_flush_timeout,
            request_timeout,
            request_headers_timeout,
            drain_timeout,
            drain_timeout_jitter,
            delayed_close_timeout,
            access_log,
            access_log_flush_interval,
            flush_access_log_on_new_request,
            access_log_options,
            use_remote_address,
            xff_num_trusted_hops,
            original_ip_detection_extensions,
            early_header_mutation_extensions,
            internal_address_config,
            skip_xff_append,
            via,
            generate_request_id,
            preserve_external_request_id,
            always_set_request_id_in_response,
            forward_client_cert_details,
            set_current_client_cert_details,
            forward_client_cert_matcher,
            proxy_100_continue,
            represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
            upgrade_configs,
            normalize_path,
            merge_slashes,
            path_with_escaped_slashes_action,
            request_id_extension,
            local_reply_config,
            strip_matching_host_port,
            stream_error_on_invalid_http_message,
            path_normalization_options,
            strip_trailing_host_dot,
            proxy_status_config,
            typed_header_validation_config,
            append_x_forwarded_port,
            append_local_overload,
            add_proxy_protocol_connection_state,
            forward_proto_config,
            route_specifier,
            strip_port_mode,
        } = message;
        let problems = at.problem_count();
        unsupported!(at;
            tracing = "comes with telemetry",
            http1_safe_max_connection_duration, http3_protocol_options = "HTTP/3 is not spoken",
            scheme_header_transformation, stream_flush_timeout, drain_timeout_jitter,
            access_log_flush_interval, flush_access_log_on_new_request, access_log_options,
            original_ip_detection_extensions, early_header_mutation_extensions,
            forward_client_cert_matcher, represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
            path_normalization_options, proxy_status_config, typed_header_validation_config,
            append_local_overload, forward_proto_config,
        );
        harmless!(at; add_proxy_protocol_connection_state = "there is no PROXY protocol");
        if add_user_agent == Some(true) {
            at.field("add_user_agent").reject("true", "not in this version");
        }
        if stat_prefix.is_empty() {
            at.field("stat_prefix").reject("", "must not be empty");
        }
        request_id_config(request_id_extension, &at.field("request_id_extension"));
        let common = Common::convert(common_http_protocol_options, &at.field("common_http_protocol_options"));
        let (router, strict_check_headers) = router(http_filters, &at.field("http_filters"));
        let strip_any = matches!(strip_port_mode, Some(nested::StripPortMode::StripAnyHostPort(true)));
        let timeout = |name, message, default| timeout(message, default, &at.field(name));
        let manager = HttpConnectionManager {
            codec: codec(codec_type, &at.field("codec_type")),
            routes: routes(route_specifier, at)?,
            http1: Http1Options::convert(http_protocol_options, &at.field("http_protocol_options")),
            http2: Http2Options::convert(http2_protocol_options, &at.field("http2_protocol_options")),
            max_request_headers_bytes: max_head(max_request_headers_kb, &at.field("max_request_headers_kb")),
            max_headers_count: common.max_headers_count,
            idle_timeout: common.idle_timeout,
            max_connection_duration: common.max_connection_duration,
            max_requests_per_connection: common.max_requests_per_connection,
            max_stream_duration: common.max_stream_duration,
            stream_idle_timeout: timeout("stream_idle_timeout", stream_idle_timeout, Duration::from_mins(5)),
            request_timeout: optional_timeout(request_timeout, &at.field("request_timeout")),
            request_headers_timeout: timeout("request_headers_timeout", request_headers_timeout, HEADERS_TIMEOUT),
            drain_timeout: duration(drain_timeout, &at.field("drain_timeout")).unwrap_or(Duration::from_secs(5)),
            delayed_close_timeout: timeout("delayed_close_timeout", delayed_close_timeout, Duration::from_secs(1)),
            underscores: common.underscores,
            use_remote_address: use_remote_address.unwrap_or(false),
            xff_num_trusted_hops,
            skip_xff_append,
            append_x_forwarded_port,
            internal_addresses: internal_addresses(
                internal_address_config.unwrap_or_default(),
                &at.field("internal_address_config"),
            ),
            server_name: header_value(&server_name, &at.field("server_name"))
                .unwrap_or(HeaderValue::from_static("envoy")),
            server_header: server_header(server_header_transformation, at),
            via: header_value(&via, &at.field("via")),
            generate_request_id: generate_request_id.unwrap_or(true),
            preserve_external_request_id,
            always_set_request_id_in_response,
            forward_client_cert: forward_client_cert(forward_client_cert_details, at),
            client_cert_details: client_cert_details(
                set_current_client_cert_details,
                &at.field("set_current_client_cert_details"),
            ),
            normalize_path: normalize_path.unwrap_or(false),
            merge_slashes,
            escaped_slashes: escaped_slashes(path_with_escaped_slashes_action, at),
            strip_host_port: match (strip_any, strip_matching_host_port) {
                (true, _) => StripHostPort::Any,
                (false, true) => StripHostPort::Matching,
                (false, false) => StripHostPort::Keep,
            },
            strip_trailing_host_dot,
            proxy_100_continue,
            stream_error_on_invalid_http_message: stream_error_on_invalid_http_message.unwrap_or(false),
            upgrades: upgrades(upgrade_configs, &at.field("upgrade_configs")),
            local_replies: local_reply_config
                .and_then(|message| LocalReplyConfig::convert(message, &at.field("local_reply_config")))
                .map(Arc::new),
            access_logs: access_logs(access_log, at),
            suppress_envoy_headers: router.suppress_envoy_headers,
            respect_expected_rq_timeout: router.respect_expected_rq_timeout,
            strict_check_headers,
            stat_prefix: stat_prefix.into(),
        };
        if strip_any && strip_matching_host_port {
            at.field("strip_matching_host_port").reject("true", "cannot be set beside \"strip_any_host_port\"");
        }
        (at.problem_count() == problems).then_some(manager)
    }
}

fn routes(message: Option<nested::RouteSpecifier>, at: &At<'_>) -> Option<RouteSource> {
    match message {
        Some(nested::RouteSpecifier::RouteConfig(message)) => {
            let table = RouteTable::convert(message, &at.field("route_config"))?;
            Some(RouteSource::Inline(Arc::new(table)))
        }
        Some(nested::RouteSpecifier::Rds(pb::Rds { config_source, route_config_name })) => {
            let at = at.field("rds");
            let source_at = at.field("config_source");
            let name_at = at.field("route_config_name");
            if route_config_name.is_empty() {
                name_at.reject("", "must not be empty");
            }
            plain_name(&route_config_name, &name_at);
            if config_source.is_none() {
                source_at.reject("", "must be set");
            }
            let source = ConfigSource::convert(config_source?, &source_at)?;
            Some(RouteSource::Rds(Rds {
                name: route_config_name.into(),
                source: Arc::new(source),
                table: OnceLock::new(),
            }))
        }
        Some(nested::RouteSpecifier::ScopedRoutes(_)) => {
            at.field("scoped_routes").reject("", "not in this version");
            None
        }
        None => {
            at.reject("", "one of route_config, rds is required");
            None
        }
    }
}

/// `common_http_protocol_options`.
struct Common {
    idle_timeout: Option<Duration>,
    max_connection_duration: Option<Duration>,
    max_headers_count: usize,
    max_stream_duration: Option<Duration>,
    underscores: UnderscoresAction,
    max_requests_per_connection: Option<u32>,
}

impl Common {
    fn convert(message: Option<HttpProtocolOptions>, at: &At<'_>) -> Common {
        use outrigger_proto::envoy::config::core::v3::http_protocol_options::HeadersWithUnderscoresAction as Pb;
        let HttpProtocolOptions {
            idle_timeout,
            max_connection_duration,
            max_connection_duration_jitter,
            max_headers_count,
            max_response_headers_kb,
            max_stream_duration,
            headers_with_underscores_action,
            max_requests_per_connection,
        } = message.unwrap_or_default();
        unsupported!(at; max_connection_duration_jitter);
        harmless!(at; max_response_headers_kb = "responses come from a cluster: it has that limit");
        if max_headers_count == Some(0) {
            at.field("max_headers_count").reject(0, "must be at least 1");
        }
        Common {
            idle_timeout: timeout(idle_timeout, Duration::from_hours(1), &at.field("idle_timeout")),
            max_connection_duration: duration(max_connection_duration, &at.field("max_connection_duration")),
            max_headers_count: max_headers_count.map_or(100, |n| usize::try_from(n).unwrap_or(usize::MAX)),
            max_stream_duration: optional_timeout(max_stream_duration, &at.field("max_stream_duration")),
            underscores: match Pb::try_from(headers_with_underscores_action) {
                Ok(Pb::Allow) => UnderscoresAction::Allow,
                Ok(Pb::RejectRequest) => UnderscoresAction::RejectRequest,
                Ok(Pb::DropHeader) => UnderscoresAction::DropHeader,
                Err(_) => unknown_value(headers_with_underscores_action, &at.field("headers_with_underscores_action")),
            },
            max_requests_per_connection: max_requests_per_connection.filter(|n| *n > 0),
        }
    }
}

/// What the router filter says; it must be the last of the filters.
fn router(messages: Vec<pb::HttpFilter>, list: &At<'_>) -> (Router, Box<[StrictHeader]>) {
    let Some(last) = messages.len().checked_sub(1) else {
        list.reject("", "must not be empty: it must end with the router");
        return Default::default();
    };
    let (mut router, mut strict) = (Router::default(), Box::default());
    for (index, pb::HttpFilter { name, is_optional, disabled, config_type }) in messages.into_iter().enumerate() {
        let at = list.index(index);
        if name.is_empty() {
            at.field("name").reject("", "must not be empty");
        }
        let config = match config_type {
            Some(pb::http_filter::ConfigType::TypedConfig(config)) => config,
            Some(pb::http_filter::ConfigType::ConfigDiscovery(_)) => {
                at.field("config_discovery").reject("", "not in this version: write typed_config");
                continue;
            }
            None => {
                at.field("typed_config").reject("", "is required");
                continue;
            }
        };
        let typed = at.field("typed_config");
        if any::is::<Router>(&config) {
            harmless!(at; is_optional = "the router exists");
            if disabled {
                at.field("disabled").reject("true", "the router cannot be disabled");
            }
            if index != last {
                at.reject(&name, "the router must be the last filter");
            }
            router = any::decode(&config, &typed).unwrap_or_default();
            strict = check_router(&router, &typed);
        } else if is_optional {
            at.harmless("is optional, and not in this version");
        } else {
            any::reject_type(&config, &typed);
        }
        if index == last && !any::is::<Router>(&config) {
            at.reject(&name, "the last filter must be the router");
        }
    }
    (router, strict)
}

/// Says what is not supported, and reads what needs more than a copy.
fn check_router(message: &Router, at: &At<'_>) -> Box<[StrictHeader]> {
    let Router {
        dynamic_stats,
        start_child_span,
        upstream_log,
        upstream_log_options,
        suppress_envoy_headers: _,
        strict_check_headers,
        respect_expected_rq_timeout: _,
        suppress_grpc_request_failure_code_stats,
        upstream_http_filters,
        reject_connect_request_early_data,
    } = message.clone();
    unsupported!(at; upstream_log, upstream_log_options, upstream_http_filters);
    harmless!(at;
        dynamic_stats = "statistics are made at a cluster's first request",
        start_child_span = "nothing is traced",
        suppress_grpc_request_failure_code_stats = "there are no such statistics",
        reject_connect_request_early_data = "CONNECT is not in this version",
    );
    StrictHeader::convert(&strict_check_headers, &at.field("strict_check_headers"))
}

fn request_id_config(message: Option<pb::RequestIdExtension>, at: &At<'_>) {
    let Some(pb::RequestIdExtension { typed_config }) = message else { return };
    let at = at.field("typed_config");
    let Some(config) = typed_config else { return at.reject("", "is required") };
    if !any::is::<UuidRequestIdConfig>(&config) {
        return any::reject_type(&config, &at);
    }
    if let Some(message) = any::decode::<UuidRequestIdConfig>(&config, &at) {
        let UuidRequestIdConfig { pack_trace_reason, use_request_id_for_trace_sampling } = message;
        harmless!(at;
            pack_trace_reason = "nothing is traced",
            use_request_id_for_trace_sampling = "nothing is traced",
        );
    }
}

fn upgrades(messages: Vec<nested::UpgradeConfig>, list: &At<'_>) -> Vec<Arc<str>> {
    let mut upgrades: Vec<Arc<str>> = Vec::with_capacity(messages.len());
    for (index, nested::UpgradeConfig { upgrade_type, filters, enabled }) in messages.into_iter().enumerate() {
        let at = list.index(index);
        unsupported!(at; filters = "upgrades pass the same filters as requests");
        let here = at.field("upgrade_type");
        let name = upgrade_type.to_ascii_lowercase();
        if message::header_name(&name).is_none() {
            here.reject(&upgrade_type, "must be a token, like websocket");
        } else if name == "connect" || name == "connect-udp" {
            here.reject(&upgrade_type, "not in this version");
        } else if upgrades.iter().any(|known| **known == *name) {
            here.reject(&upgrade_type, "is there twice");
        } else if enabled.unwrap_or(true) {
            upgrades.push(name.into());
        }
    }
    upgrades
}

fn internal_addresses(message: nested::InternalAddressConfig, at: &At<'_>) -> InternalAddresses {
    let nested::InternalAddressConfig { unix_sockets, cidr_ranges } = message;
    let list = at.field("cidr_ranges");
    let ranges = cidr_ranges.into_iter().enumerate().filter_map(|(i, range)| Cidr::convert(range, &list.index(i)));
    InternalAddresses { unix_sockets, ranges: ranges.collect() }
}

fn max_head(kib: Option<u32>, at: &At<'_>) -> usize {
    let kib = kib.unwrap_or(60);
    if !(1..=8192).contains(&kib) {
        at.reject(kib, "must be 1 to 8192");
    }
    usize::try_from(kib).unwrap_or(usize::MAX).saturating_mul(1024)
}

/// Rejects an enumeration's number that no name stands for.
fn unknown_value<T: Default>(value: i32, at: &At<'_>) -> T {
    at.reject(value, "not a value of this enumeration");
    T::default()
}

fn codec(value: i32, at: &At<'_>) -> CodecType {
    match nested::CodecType::try_from(value) {
        Ok(nested::CodecType::Auto) => CodecType::Auto,
        Ok(nested::CodecType::Http1) => CodecType::Http1,
        Ok(nested::CodecType::Http2) => CodecType::Http2,
        Ok(nested::CodecType::Http3) => {
            at.reject("HTTP3", "not in this version: HTTP/3 is not spoken");
            CodecType::Auto
        }
        Err(_) => unknown_value(value, at),
    }
}

fn server_header(value: i32, at: &At<'_>) -> ServerHeaderTransformation {
    use nested::ServerHeaderTransformation as Pb;
    match Pb::try_from(value) {
        Ok(Pb::Overwrite) => ServerHeaderTransformation::Overwrite,
        Ok(Pb::AppendIfAbsent) => ServerHeaderTransformation::AppendIfAbsent,
        Ok(Pb::PassThrough) => ServerHeaderTransformation::PassThrough,
        Err(_) => unknown_value(value, &at.field("server_header_transformation")),
    }
}

fn forward_client_cert(value: i32, at: &At<'_>) -> ForwardClientCert {
    use nested::ForwardClientCertDetails as Pb;
    match Pb::try_from(value) {
        Ok(Pb::Sanitize) => ForwardClientCert::Sanitize,
        Ok(Pb::ForwardOnly) => ForwardClientCert::ForwardOnly,
        Ok(Pb::AppendForward) => ForwardClientCert::AppendForward,
        Ok(Pb::SanitizeSet) => ForwardClientCert::SanitizeSet,
        Ok(Pb::AlwaysForwardOnly) => ForwardClientCert::AlwaysForwardOnly,
        Err(_) => unknown_value(value, &at.field("forward_client_cert_details")),
    }
}

fn client_cert_details(message: Option<nested::SetCurrentClientCertDetails>, at: &At<'_>) -> ClientCertDetails {
    let nested::SetCurrentClientCertDetails { subject, cert, chain, dns, uri, issuer, format } =
        message.unwrap_or_default();
    unsupported!(at; issuer, format = "x-forwarded-client-cert is text");
    ClientCertDetails { subject: subject.unwrap_or(false), cert, chain, dns, uri }
}

fn escaped_slashes(value: i32, at: &At<'_>) -> EscapedSlashes {
    use nested::PathWithEscapedSlashesAction as Pb;
    match Pb::try_from(value) {
        Ok(Pb::ImplementationSpecificDefault | Pb::KeepUnchanged) => EscapedSlashes::KeepUnchanged,
        Ok(Pb::RejectRequest) => EscapedSlashes::RejectRequest,
        Ok(Pb::UnescapeAndRedirect) => EscapedSlashes::UnescapeAndRedirect,
        Ok(Pb::UnescapeAndForward) => EscapedSlashes::UnescapeAndForward,
        Err(_) => unknown_value(value, &at.field("path_with_escaped_slashes_action")),
    }
}
