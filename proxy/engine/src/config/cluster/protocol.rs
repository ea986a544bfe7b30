//! `envoy.extensions.upstreams.http.v3.HttpProtocolOptions`, and the deprecated fields that it replaces.

use std::collections::BTreeMap;
use std::time::Duration;

use http::HeaderName;
use outrigger_proto::envoy::config::cluster::v3::cluster::ClusterProtocolSelection;
use outrigger_proto::envoy::config::core::v3 as core;
use outrigger_proto::envoy::extensions::upstreams::http::v3 as pb;
use outrigger_proto::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig, explicit_http_config,
};
use prost_types::Any;

use super::HttpProtocol;
use crate::config::hcm::{Http1Options, Http2Options};
use crate::config::report::{At, IsSet};
use crate::config::value::header_name;
use crate::config::{any, time};
use crate::{harmless, unsupported};

/// What the options say about a cluster.
pub(super) struct ProtocolOptions {
    pub(super) protocol: HttpProtocol,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) max_requests_per_connection: Option<u32>,
    pub(super) max_connection_duration: Option<Duration>,
    pub(super) max_stream_duration: Option<Duration>,
    pub(super) max_response_headers_bytes: usize,
    pub(super) max_response_headers_count: usize,
    pub(super) auto_sni: bool,
    pub(super) auto_san_validation: bool,
    pub(super) override_auto_sni_header: Option<HeaderName>,
}

/// The fields of the cluster that say the same, where there is no extension.
pub(super) struct Deprecated {
    pub(super) common: Option<core::HttpProtocolOptions>,
    pub(super) upstream: Option<core::UpstreamHttpProtocolOptions>,
    pub(super) http1: Option<core::Http1ProtocolOptions>,
    pub(super) http2: Option<core::Http2ProtocolOptions>,
    pub(super) selection: i32,
    pub(super) max_requests_per_connection: Option<u32>,
}

/// The only key of `typed_extension_protocol_options`: Envoy finds the extension by it, not by the type.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

impl ProtocolOptions {
    /// `at` is the cluster.
    pub(super) fn convert(extensions: BTreeMap<String, Any>, deprecated: Deprecated, at: &At<'_>) -> Option<Self> {
        let map = at.field("typed_extension_protocol_options");
        let mut typed = None;
        for (name, extension) in &extensions {
            let at = map.key(name);
            if name != HTTP_OPTIONS {
                at.reject(name, format_args!("not in this version: only {HTTP_OPTIONS} has options"));
                return None;
            }
            if any::is::<pb::HttpProtocolOptions>(extension) {
                typed = Some((name, any::decode::<pb::HttpProtocolOptions>(extension, &at)?));
            } else {
                any::reject_type(extension, &at);
            }
        }
        let requests = deprecated.max_requests_per_connection;
        let mut options = match typed {
            Some((name, message)) => {
                deprecated.note_unused(at);
                Self::typed(message, &map.key(name))?
            }
            None => deprecated.convert(at)?,
        };
        options.max_requests_per_connection = options.max_requests_per_connection.or(requests).filter(|n| *n > 0);
        Some(options)
    }

    fn typed(message: pb::HttpProtocolOptions, at: &At<'_>) -> Option<Self> {
        let pb::HttpProtocolOptions {
            common_http_protocol_options,
            upstream_http_protocol_options,
            http_filters,
            header_validation_config,
            outlier_detection,
            request_mirror_policies,
            hash_policy,
            retry_policy,
            upstream_protocol_options,
        } = message;
        unsupported!(at;
            http_filters = "there are no upstream HTTP filters",
            header_validation_config,
            outlier_detection = "outlier detection comes later",
            request_mirror_policies = "mirroring comes later",
            hash_policy = "hashing comes later",
            retry_policy = "retries are configured on routes and virtual hosts",
        );
        let protocol = match upstream_protocol_options {
            Some(UpstreamProtocolOptions::ExplicitHttpConfig(config)) => {
                explicit(config, &at.field("explicit_http_config"))
            }
            Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(config)) => {
                let at = at.field("use_downstream_protocol_config");
                let UseDownstreamHttpConfig { http_protocol_options, http2_protocol_options, http3_protocol_options } =
                    config;
                unsupported!(at; http3_protocol_options = "there is no HTTP/3");
                let (http1, http2) = both(http_protocol_options, http2_protocol_options, &at);
                Some(HttpProtocol::UseDownstream { http1, http2 })
            }
            Some(UpstreamProtocolOptions::AutoConfig(config)) => {
                let at = at.field("auto_config");
                let AutoHttpConfig {
                    http_protocol_options,
                    http2_protocol_options,
                    http3_protocol_options,
                    alternate_protocols_cache_options,
                } = config;
                unsupported!(at;
                    http3_protocol_options = "there is no HTTP/3",
                    alternate_protocols_cache_options = "there is no HTTP/3",
                );
                let (http1, http2) = both(http_protocol_options, http2_protocol_options, &at);
                Some(HttpProtocol::Auto { http1, http2 })
            }
            None => {
                at.reject("", "one of explicit_http_config, use_downstream_protocol_config, auto_config is required");
                None
            }
        };
        Self::new(protocol?, common_http_protocol_options, upstream_http_protocol_options, at)
    }

    fn new(
        protocol: HttpProtocol,
        common: Option<core::HttpProtocolOptions>,
        upstream: Option<core::UpstreamHttpProtocolOptions>,
        at: &At<'_>,
    ) -> Option<Self> {
        let core::HttpProtocolOptions {
            idle_timeout,
            max_connection_duration,
            max_connection_duration_jitter,
            max_headers_count,
            max_response_headers_kb,
            max_stream_duration,
            headers_with_underscores_action,
            max_requests_per_connection,
        } = common.unwrap_or_default();
        let common_at = at.field("common_http_protocol_options");
        harmless!(common_at; headers_with_underscores_action = "it speaks of requests from downstream");
        unsupported!(common_at; max_connection_duration_jitter);
        if max_headers_count == Some(0) {
            common_at.field("max_headers_count").reject(0, "must be at least 1");
        }
        if let Some(kb @ (0 | 8193..)) = max_response_headers_kb {
            common_at.field("max_response_headers_kb").reject(kb, "must be 1 to 8192");
        }
        let core::UpstreamHttpProtocolOptions { auto_sni, auto_san_validation, override_auto_sni_header } =
            upstream.unwrap_or_default();
        let upstream_at = at.field("upstream_http_protocol_options");
        let override_auto_sni_header = match &*override_auto_sni_header {
            "" => None,
            // The authority itself is what is taken anyway.
            ":authority" => None,
            name => header_name(name, &upstream_at.field("override_auto_sni_header")),
        };
        Some(ProtocolOptions {
            protocol,
            idle_timeout: time::timeout(idle_timeout, Duration::from_secs(3600), &common_at.field("idle_timeout")),
            max_requests_per_connection,
            max_connection_duration: time::optional_timeout(
                max_connection_duration,
                &common_at.field("max_connection_duration"),
            ),
            max_stream_duration: time::optional_timeout(max_stream_duration, &common_at.field("max_stream_duration")),
            max_response_headers_bytes: (max_response_headers_kb.unwrap_or(60) as usize).saturating_mul(1024),
            max_response_headers_count: max_headers_count.unwrap_or(100) as usize,
            auto_sni,
            auto_san_validation,
            override_auto_sni_header,
        })
    }
}

impl Deprecated {
    /// The extension is there: it alone counts.
    fn note_unused(self, at: &At<'_>) {
        let Deprecated {
            common: common_http_protocol_options,
            upstream: upstream_http_protocol_options,
            http1: http_protocol_options,
            http2: http2_protocol_options,
            selection: protocol_selection,
            max_requests_per_connection: _,
        } = self;
        harmless!(at;
            common_http_protocol_options = "typed_extension_protocol_options replaces it",
            upstream_http_protocol_options = "typed_extension_protocol_options replaces it",
            http_protocol_options = "typed_extension_protocol_options replaces it",
            http2_protocol_options = "typed_extension_protocol_options replaces it",
            protocol_selection = "typed_extension_protocol_options replaces it",
        );
    }

    fn convert(self, at: &At<'_>) -> Option<ProtocolOptions> {
        let protocol = match ClusterProtocolSelection::try_from(self.selection) {
            Ok(ClusterProtocolSelection::UseDownstreamProtocol) => {
                let (http1, http2) = both(self.http1, self.http2, at);
                HttpProtocol::UseDownstream { http1, http2 }
            }
            Ok(ClusterProtocolSelection::UseConfiguredProtocol) => {
                if self.http1.is_set() && self.http2.is_set() {
                    at.field("http2_protocol_options")
                        .reject("", "only one of http_protocol_options, http2_protocol_options may be set");
                }
                match self.http2 {
                    Some(_) => HttpProtocol::Http2(http2_options(self.http2, &at.field("http2_protocol_options"))),
                    None => HttpProtocol::Http1(http1_options(self.http1, &at.field("http_protocol_options"))),
                }
            }
            Err(_) => {
                at.field("protocol_selection").reject(self.selection, "unknown value");
                return None;
            }
        };
        ProtocolOptions::new(protocol, self.common, self.upstream, at)
    }
}

fn explicit(message: ExplicitHttpConfig, at: &At<'_>) -> Option<HttpProtocol> {
    use explicit_http_config::ProtocolConfig;
    match message.protocol_config {
        Some(ProtocolConfig::HttpProtocolOptions(options)) => {
            Some(HttpProtocol::Http1(http1_options(Some(options), &at.field("http_protocol_options"))))
        }
        Some(ProtocolConfig::Http2ProtocolOptions(options)) => {
            Some(HttpProtocol::Http2(http2_options(Some(options), &at.field("http2_protocol_options"))))
        }
        Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
            at.field("http3_protocol_options").reject("", "not in this version: there is no HTTP/3");
            None
        }
        None => {
            at.reject("", "one of http_protocol_options, http2_protocol_options is required");
            None
        }
    }
}

fn both(
    http1: Option<core::Http1ProtocolOptions>,
    http2: Option<core::Http2ProtocolOptions>,
    at: &At<'_>,
) -> (Http1Options, Http2Options) {
    (
        http1_options(http1, &at.field("http_protocol_options")),
        http2_options(http2, &at.field("http2_protocol_options")),
    )
}

/// Those of a cluster: what they say of requests from downstream cannot be meant.
fn http1_options(message: Option<core::Http1ProtocolOptions>, at: &At<'_>) -> Http1Options {
    let core::Http1ProtocolOptions {
        allow_absolute_url,
        accept_http_10,
        default_host_for_http_10,
        allow_custom_methods,
        ..
    } = message.clone().unwrap_or_default();
    harmless!(at;
        allow_absolute_url = "it speaks of requests from downstream",
        accept_http_10 = "it speaks of requests from downstream",
        default_host_for_http_10 = "it speaks of requests from downstream",
        allow_custom_methods = "it speaks of requests from downstream",
    );
    Http1Options::convert(message, at)
}

/// As for HTTP/1. Hosts are trusted to ask for no more than they need.
fn http2_options(message: Option<core::Http2ProtocolOptions>, at: &At<'_>) -> Http2Options {
    let core::Http2ProtocolOptions {
        max_inbound_priority_frames_per_stream,
        max_inbound_window_update_frames_per_data_frame_sent,
        ..
    } = message.clone().unwrap_or_default();
    harmless!(at;
        max_inbound_priority_frames_per_stream = "hosts are not suspected of floods",
        max_inbound_window_update_frames_per_data_frame_sent = "hosts are not suspected of floods",
    );
    let options = Http2Options::convert(message, at);
    if options.override_stream_error_on_invalid_http_message == Some(true) {
        at.field("override_stream_error_on_invalid_http_message")
            .reject(true, "not in this version: a malformed response ends its connection");
    }
    options
}
