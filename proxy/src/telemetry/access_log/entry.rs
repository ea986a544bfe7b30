//! What a log service is told of a request.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderName;
use outrigger_engine::config::access_log::GrpcAccessLog;
use outrigger_engine::format::FormatContext;
use outrigger_engine::message::{Headers, Protocol, RequestHead};
use outrigger_engine::stream_info::{Address, ResponseFlags as Flags, StreamInfo, TlsInfo};
use outrigger_proto::envoy::config::core::v3::{self as core, RequestMethod};
use outrigger_proto::envoy::data::accesslog::v3::tls_properties::certificate_properties::{
    SubjectAltName, subject_alt_name::San,
};
use outrigger_proto::envoy::data::accesslog::v3::tls_properties::{CertificateProperties, TlsVersion};
use outrigger_proto::envoy::data::accesslog::v3::{
    AccessLogCommon, AccessLogType, ConnectionProperties, HttpAccessLogEntry, HttpRequestProperties,
    HttpResponseProperties, ResponseFlags, TcpAccessLogEntry, TlsProperties, http_access_log_entry::HttpVersion,
};
use outrigger_proto::prost_types;

use crate::admin::status::core_address;

/// The entry of a request that is over, with the headers that `service` wants beyond the usual ones.
pub(super) fn http_entry(ctx: &FormatContext<'_>, service: &GrpcAccessLog) -> HttpAccessLogEntry {
    let version = match ctx.info.protocol {
        None => HttpVersion::ProtocolUnspecified,
        Some(Protocol::Http10) => HttpVersion::Http10,
        Some(Protocol::Http11) => HttpVersion::Http11,
        Some(Protocol::Http2) => HttpVersion::Http2,
    };
    let mut common = common(ctx.info, ctx.elapsed, AccessLogType::DownstreamEnd);
    if let Some(request) = ctx.request {
        common.stream_id = text(&request.headers, "x-request-id");
    }
    let response = HttpResponseProperties {
        response_code: ctx.info.response_code.map(u32::from),
        response_headers_bytes: ctx.response.map_or(0, |response| response.headers.byte_size() as u64),
        response_body_bytes: ctx.info.bytes_sent,
        response_headers: ctx
            .response
            .map(|response| chosen(&response.headers, &service.response_headers))
            .unwrap_or_default(),
        response_trailers: ctx
            .trailers
            .map(|trailers| chosen(trailers, &service.response_trailers))
            .unwrap_or_default(),
        response_code_details: owned(ctx.info.details.as_ref()),
        ..Default::default()
    };
    HttpAccessLogEntry {
        common_properties: Some(common),
        protocol_version: version as i32,
        request: Some(ctx.request.map(|request| request_properties(request, ctx.info, service)).unwrap_or_default()),
        response: Some(response),
    }
}

/// The entry of a TCP connection that is over.
pub(super) fn tcp_entry(ctx: &FormatContext<'_>) -> TcpAccessLogEntry {
    let bytes = ConnectionProperties { received_bytes: ctx.info.bytes_received, sent_bytes: ctx.info.bytes_sent };
    TcpAccessLogEntry {
        common_properties: Some(common(ctx.info, ctx.elapsed, AccessLogType::TcpConnectionEnd)),
        connection_properties: Some(bytes),
    }
}

fn request_properties(request: &RequestHead, info: &StreamInfo, service: &GrpcAccessLog) -> HttpRequestProperties {
    HttpRequestProperties {
        request_method: RequestMethod::from_str_name(request.method.as_str()).unwrap_or_default() as i32,
        scheme: request.scheme.as_str().to_owned(),
        authority: request.authority.as_ref().map(|value| lossy(value.as_bytes())).unwrap_or_default(),
        path: lossy(request.path.as_bytes()),
        user_agent: text(&request.headers, "user-agent"),
        referer: text(&request.headers, "referer"),
        forwarded_for: text(&request.headers, "x-forwarded-for"),
        request_id: text(&request.headers, "x-request-id"),
        original_path: text(&request.headers, "x-envoy-original-path"),
        request_headers_bytes: request.headers.byte_size() as u64,
        request_body_bytes: info.bytes_received,
        request_headers: chosen(&request.headers, &service.request_headers),
        ..Default::default()
    }
}

fn common(info: &StreamInfo, elapsed: Duration, log_type: AccessLogType) -> AccessLogCommon {
    let since = |at: Option<Duration>| at.map(duration);
    AccessLogCommon {
        downstream_remote_address: Some(core_address(&info.remote_address)),
        downstream_local_address: Some(core_address(&info.connection.local_address)),
        downstream_direct_remote_address: Some(core_address(&info.connection.direct_remote_address)),
        tls_properties: info
            .connection
            .tls
            .as_ref()
            .map(|tls| tls_properties(tls, info.connection.requested_server_name.as_deref())),
        start_time: Some(info.start.into()),
        time_to_last_rx_byte: since(info.last_downstream_rx),
        time_to_first_upstream_tx_byte: since(info.first_upstream_tx),
        time_to_last_upstream_tx_byte: since(info.last_upstream_tx),
        time_to_first_upstream_rx_byte: since(info.first_upstream_rx),
        time_to_last_upstream_rx_byte: since(info.last_upstream_rx),
        time_to_first_downstream_tx_byte: since(info.first_downstream_tx),
        time_to_last_downstream_tx_byte: since(info.last_downstream_tx),
        upstream_remote_address: info.upstream_host.as_deref().map(host_address),
        upstream_local_address: info.upstream_local_address.map(|address| core_address(&Address::Ip(address))),
        upstream_cluster: info.upstream_cluster.as_deref().unwrap_or_default().to_owned(),
        response_flags: (!info.flags.is_empty()).then(|| response_flags(info.flags)),
        upstream_transport_failure_reason: owned(info.upstream_transport_failure.as_ref()),
        route_name: info.route_name.as_deref().unwrap_or_default().to_owned(),
        duration: Some(duration(info.last_downstream_tx.unwrap_or(elapsed))),
        upstream_request_attempt_count: info.attempts,
        connection_termination_details: owned(info.termination_details.as_ref()),
        access_log_type: log_type as i32,
        ..Default::default()
    }
}

fn tls_properties(tls: &TlsInfo, sni: Option<&str>) -> TlsProperties {
    let version = match tls.version {
        Some("TLSv1.2") => TlsVersion::TlSv12,
        Some("TLSv1.3") => TlsVersion::TlSv13,
        _ => TlsVersion::VersionUnspecified,
    };
    let sans = |uris: &[String], names: &[String]| {
        let uris = uris.iter().cloned().map(San::Uri);
        let sans = uris.chain(names.iter().cloned().map(San::Dns));
        sans.map(|san| SubjectAltName { san: Some(san) }).collect()
    };
    let local = CertificateProperties {
        subject_alt_name: sans(&tls.local_uri_sans, &[]),
        subject: tls.local_subject.clone().unwrap_or_default(),
        ..Default::default()
    };
    let peer = tls.peer.as_ref().map(|peer| CertificateProperties {
        subject_alt_name: sans(&peer.uri_sans, &peer.dns_sans),
        subject: peer.subject.clone(),
        issuer: peer.issuer.clone(),
    });
    TlsProperties {
        tls_version: version as i32,
        tls_sni_hostname: sni.unwrap_or_default().to_owned(),
        local_certificate_properties: Some(local),
        peer_certificate_properties: peer,
        ..Default::default()
    }
}

fn response_flags(flags: Flags) -> ResponseFlags {
    ResponseFlags {
        failed_local_healthcheck: flags.intersects(Flags::FAILED_LOCAL_HEALTH_CHECK),
        no_healthy_upstream: flags.intersects(Flags::NO_HEALTHY_UPSTREAM),
        upstream_request_timeout: flags.intersects(Flags::UPSTREAM_REQUEST_TIMEOUT),
        local_reset: flags.intersects(Flags::LOCAL_RESET),
        upstream_remote_reset: flags.intersects(Flags::UPSTREAM_REMOTE_RESET),
        upstream_connection_failure: flags.intersects(Flags::UPSTREAM_CONNECTION_FAILURE),
        upstream_connection_termination: flags.intersects(Flags::UPSTREAM_CONNECTION_TERMINATION),
        upstream_overflow: flags.intersects(Flags::UPSTREAM_OVERFLOW),
        no_route_found: flags.intersects(Flags::NO_ROUTE_FOUND),
        downstream_connection_termination: flags.intersects(Flags::DOWNSTREAM_CONNECTION_TERMINATION),
        upstream_retry_limit_exceeded: flags.intersects(Flags::UPSTREAM_RETRY_LIMIT_EXCEEDED),
        stream_idle_timeout: flags.intersects(Flags::STREAM_IDLE_TIMEOUT),
        downstream_protocol_error: flags.intersects(Flags::DOWNSTREAM_PROTOCOL_ERROR),
        upstream_max_stream_duration_reached: flags.intersects(Flags::UPSTREAM_MAX_STREAM_DURATION_REACHED),
        duration_timeout: flags.intersects(Flags::DURATION_TIMEOUT),
        upstream_protocol_error: flags.intersects(Flags::UPSTREAM_PROTOCOL_ERROR),
        no_cluster_found: flags.intersects(Flags::NO_CLUSTER_FOUND),
        overload_manager: flags.intersects(Flags::OVERLOAD_MANAGER),
        dns_resolution_failure: flags.intersects(Flags::DNS_RESOLUTION_FAILED),
        downstream_remote_reset: flags.intersects(Flags::DOWNSTREAM_REMOTE_RESET),
        ..Default::default()
    }
}

/// A host's address as the stream knows it: `10.0.0.1:80`, or the path of a socket.
fn host_address(text: &str) -> core::Address {
    match text.parse::<SocketAddr>() {
        Ok(address) => core_address(&Address::Ip(address)),
        Err(_) => core_address(&Address::Pipe(text.into())),
    }
}

fn duration(duration: Duration) -> prost_types::Duration {
    duration.try_into().unwrap_or_default()
}

/// The wanted headers that are there, repetitions joined with commas.
fn chosen(headers: &Headers, names: &[HeaderName]) -> std::collections::BTreeMap<String, String> {
    let value = |name: &HeaderName| {
        let values = headers.get_all(name).map(|value| lossy(value.as_bytes())).collect::<Vec<_>>();
        (!values.is_empty()).then(|| (name.as_str().to_owned(), values.join(",")))
    };
    names.iter().filter_map(value).collect()
}

fn text(headers: &Headers, name: &'static str) -> String {
    headers.get(&HeaderName::from_static(name)).map(|value| lossy(value.as_bytes())).unwrap_or_default()
}

/// Protobuf strings are UTF-8; what is not is replaced.
fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn owned(text: Option<&Cow<'static, str>>) -> String {
    text.map(|text| text.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::UNIX_EPOCH;

    use http::HeaderValue;
    use outrigger_engine::message::{ResponseHead, Scheme};
    use outrigger_engine::stream_info::ConnectionInfo;

    use outrigger_engine::config::grpc_service::{BackOff, GrpcService};

    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> Headers {
        let fields = fields.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)));
        fields.collect()
    }

    #[test]
    fn an_entry_says_what_happened() {
        let connection = ConnectionInfo {
            id: 1,
            local_address: Address::Ip("10.0.0.2:15006".parse().unwrap()),
            direct_remote_address: Address::Ip("10.0.0.9:4000".parse().unwrap()),
            requested_server_name: Some("app".into()),
            alpn: None,
            tls: Some(Arc::new(TlsInfo { version: Some("TLSv1.3"), ..Default::default() })),
        };
        let start = UNIX_EPOCH + Duration::from_secs(5);
        let mut info = StreamInfo::new(start, Arc::new(connection), Some(Protocol::Http2));
        info.response_code = Some(503);
        info.details = Some("upstream_reset".into());
        info.flags.insert(Flags::UPSTREAM_CONNECTION_FAILURE);
        info.upstream_host = Some("10.0.0.3:8080".into());
        info.bytes_received = 7;
        info.last_downstream_tx = Some(Duration::from_millis(1500));
        let request = RequestHead {
            method: http::Method::PUT,
            scheme: Scheme::Https,
            authority: Some(HeaderValue::from_static("app")),
            path: HeaderValue::from_static("/x"),
            protocol: Protocol::Http2,
            headers: headers(&[("x-request-id", "r1"), ("x-team", "a"), ("x-team", "b")]),
        };
        let response = ResponseHead {
            status: http::StatusCode::SERVICE_UNAVAILABLE,
            protocol: Protocol::Http2,
            headers: headers(&[("server", "envoy")]),
        };
        let mut ctx = FormatContext::new(&info, Duration::from_secs(9));
        ctx.request = Some(&request);
        ctx.response = Some(&response);
        let wanted = GrpcAccessLog {
            log_name: "mesh".into(),
            service: GrpcService {
                cluster: "als".into(),
                authority: "als".into(),
                initial_metadata: Vec::new(),
                max_receive: 0,
                back_off: BackOff::default(),
            },
            flush_interval: Duration::from_secs(1),
            buffer_size: 0,
            request_headers: [HeaderName::from_static("x-team"), HeaderName::from_static("absent")].into(),
            response_headers: [HeaderName::from_static("server")].into(),
            response_trailers: [].into(),
        };
        let entry = http_entry(&ctx, &wanted);
        assert_eq!(entry.protocol_version, HttpVersion::Http2 as i32);
        let request = entry.request.unwrap();
        assert_eq!((request.request_method, request.path.as_str()), (RequestMethod::Put as i32, "/x"));
        assert_eq!((request.scheme.as_str(), request.request_id.as_str()), ("https", "r1"));
        assert_eq!(request.request_headers, [("x-team".to_owned(), "a,b".to_owned())].into());
        assert_eq!(request.request_body_bytes, 7);
        let response = entry.response.unwrap();
        assert_eq!(response.response_code, Some(503));
        assert_eq!(response.response_code_details, "upstream_reset");
        assert_eq!(response.response_headers["server"], "envoy");
        let common = entry.common_properties.unwrap();
        assert!(common.response_flags.unwrap().upstream_connection_failure);
        assert_eq!(common.stream_id, "r1");
        assert_eq!(common.start_time.unwrap().seconds, 5);
        assert_eq!(common.duration.unwrap(), prost_types::Duration { seconds: 1, nanos: 500_000_000 });
        assert_eq!(common.upstream_remote_address.unwrap(), host_address("10.0.0.3:8080"));
        assert_eq!(common.tls_properties.unwrap().tls_version, TlsVersion::TlSv13 as i32);
    }
}
