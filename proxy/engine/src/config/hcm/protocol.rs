//! Conversion of the protocol options, which listeners and clusters share.

use std::time::Duration;

use http::HeaderValue;
use outrigger_proto::envoy::config::core::v3 as pb;
use outrigger_proto::envoy::config::core::v3::http1_protocol_options::header_key_format::HeaderFormat;
use outrigger_proto::envoy::extensions::http::header_formatters::preserve_case::v3::PreserveCaseFormatterConfig;
use outrigger_proto::envoy::extensions::http::header_formatters::preserve_case::v3::preserve_case_formatter_config::FormatterTypeOnEnvoyHeaders;

use super::{HeaderCase, Http1Options, Http2Options};
use crate::config::any;
use crate::config::report::At;
use crate::config::value::{Seconds, duration};
use crate::{harmless, unsupported};

impl Http1Options {
    /// Reads the message; defaults where there is none.
    pub fn convert(message: Option<pb::Http1ProtocolOptions>, at: &At<'_>) -> Http1Options {
        let pb::Http1ProtocolOptions {
            allow_absolute_url,
            accept_http_10,
            default_host_for_http_10,
            header_key_format,
            enable_trailers,
            allow_chunked_length,
            override_stream_error_on_invalid_http_message,
            send_fully_qualified_url,
            use_balsa_parser,
            allow_custom_methods,
            ignore_http_11_upgrade,
        } = message.unwrap_or_default();
        unsupported!(at; send_fully_qualified_url, ignore_http_11_upgrade);
        harmless!(at; use_balsa_parser = "there is one parser");
        if override_stream_error_on_invalid_http_message == Some(true) {
            at.field("override_stream_error_on_invalid_http_message")
                .reject("true", "not in this version: a malformed HTTP/1 message ends its connection");
        }
        Http1Options {
            accept_http_10,
            default_host_for_http_10: header_value(&default_host_for_http_10, &at.field("default_host_for_http_10")),
            allow_absolute_url: allow_absolute_url.unwrap_or(true),
            header_case: header_case(header_key_format, &at.field("header_key_format")),
            enable_trailers,
            allow_chunked_length,
            allow_custom_methods,
        }
    }
}

fn header_case(message: Option<pb::http1_protocol_options::HeaderKeyFormat>, at: &At<'_>) -> HeaderCase {
    let Some(message) = message else { return HeaderCase::Lower };
    match message.header_format {
        Some(HeaderFormat::ProperCaseWords(_)) => HeaderCase::ProperCaseWords,
        Some(HeaderFormat::StatefulFormatter(extension)) => preserved(extension, &at.field("stateful_formatter")),
        None => {
            at.reject("", "one of proper_case_words, stateful_formatter is required");
            HeaderCase::Lower
        }
    }
}

fn preserved(extension: pb::TypedExtensionConfig, at: &At<'_>) -> HeaderCase {
    let pb::TypedExtensionConfig { name: _, typed_config } = extension;
    let at = at.field("typed_config");
    let Some(config) = typed_config else {
        at.reject("", "must be set");
        return HeaderCase::Lower;
    };
    if !any::is::<PreserveCaseFormatterConfig>(&config) {
        any::reject_type(&config, &at);
        return HeaderCase::Lower;
    }
    let Some(config) = any::decode(&config, &at) else { return HeaderCase::Lower };
    let PreserveCaseFormatterConfig { forward_reason_phrase, formatter_type_on_envoy_headers: others } = config;
    let others_in_proper_case = match FormatterTypeOnEnvoyHeaders::try_from(others) {
        Ok(others) => others == FormatterTypeOnEnvoyHeaders::ProperCase,
        Err(_) => {
            at.field("formatter_type_on_envoy_headers").reject(others, "no such value");
            false
        }
    };
    HeaderCase::Preserved { reason: forward_reason_phrase, others_in_proper_case }
}

/// A header's value; `None` where it is empty or was rejected.
pub(super) fn header_value(value: &str, at: &At<'_>) -> Option<HeaderValue> {
    if value.is_empty() {
        return None;
    }
    let parsed = HeaderValue::from_str(value);
    parsed.map_err(|_| at.reject(value.escape_debug(), "not a header value")).ok()
}

impl Http2Options {
    /// Reads the message; Envoy's defaults where there is none.
    pub fn convert(message: Option<pb::Http2ProtocolOptions>, at: &At<'_>) -> Http2Options {
        let pb::Http2ProtocolOptions {
            hpack_table_size,
            max_concurrent_streams,
            initial_stream_window_size,
            initial_connection_window_size,
            allow_connect,
            allow_metadata,
            max_outbound_frames,
            max_outbound_control_frames,
            max_consecutive_inbound_frames_with_empty_payload,
            max_inbound_priority_frames_per_stream,
            max_inbound_window_update_frames_per_data_frame_sent,
            stream_error_on_invalid_http_messaging,
            override_stream_error_on_invalid_http_message,
            custom_settings_parameters,
            connection_keepalive,
            use_oghttp2_codec,
            max_metadata_size,
            enable_huffman_encoding,
            max_header_field_size_kb,
            disallow_obs_text,
            stream_reset_burst,
            stream_reset_rate,
        } = message.unwrap_or_default();
        unsupported!(at; allow_metadata, custom_settings_parameters, max_header_field_size_kb,
            stream_error_on_invalid_http_messaging = "override_stream_error_on_invalid_http_message replaces it");
        harmless!(at;
            max_outbound_frames = "the codec bounds what it queues",
            max_outbound_control_frames = "the codec bounds what it queues",
            max_consecutive_inbound_frames_with_empty_payload = "the codec has a bound of its own",
            use_oghttp2_codec = "there is one codec",
            max_metadata_size = "METADATA frames are not accepted",
            enable_huffman_encoding = "headers are Huffman-coded where that is shorter",
            stream_reset_burst = "the codec has a bound of its own",
            stream_reset_rate = "the codec has a bound of its own",
        );
        if disallow_obs_text == Some(true) {
            at.field("disallow_obs_text").reject("true", "not in this version");
        }
        if max_inbound_window_update_frames_per_data_frame_sent == Some(0) {
            at.field("max_inbound_window_update_frames_per_data_frame_sent").reject(0, "must be at least 1");
        }
        let defaults = Http2Options::default();
        let within = |name, value: Option<u32>, least: u32, default: u32| match value {
            Some(value) if value < least || value > i32::MAX.unsigned_abs() => {
                at.field(name).reject(value, format_args!("must be {least} to {}", i32::MAX));
                default
            }
            value => value.unwrap_or(default),
        };
        Http2Options {
            max_concurrent_streams: within(
                "max_concurrent_streams",
                max_concurrent_streams,
                1,
                defaults.max_concurrent_streams,
            ),
            initial_stream_window_size: within(
                "initial_stream_window_size",
                initial_stream_window_size,
                65535,
                defaults.initial_stream_window_size,
            ),
            initial_connection_window_size: within(
                "initial_connection_window_size",
                initial_connection_window_size,
                65535,
                defaults.initial_connection_window_size,
            ),
            hpack_table_size: hpack_table_size.unwrap_or(defaults.hpack_table_size),
            allow_connect,
            keepalive: keepalive(connection_keepalive, &at.field("connection_keepalive")),
            max_inbound_priority_frames_per_stream: max_inbound_priority_frames_per_stream
                .unwrap_or(defaults.max_inbound_priority_frames_per_stream),
            max_inbound_window_update_frames_per_data_frame_sent: max_inbound_window_update_frames_per_data_frame_sent
                .unwrap_or(defaults.max_inbound_window_update_frames_per_data_frame_sent),
            override_stream_error_on_invalid_http_message,
        }
    }
}

fn keepalive(message: Option<pb::KeepaliveSettings>, at: &At<'_>) -> Option<(Duration, Duration)> {
    let pb::KeepaliveSettings { interval, timeout, interval_jitter, connection_idle_interval } = message?;
    unsupported!(at; connection_idle_interval = "write interval");
    harmless!(at; interval_jitter = "connections are opened at different times anyway");
    let at_least_1ms = |name, message: Option<prost_types::Duration>| {
        let here = at.field(name);
        if message.is_none() {
            here.reject("", "is required");
        }
        let value = duration(message, &here)?;
        if value < Duration::from_millis(1) {
            here.reject(Seconds(value), "must be at least 0.001s");
        }
        Some(value)
    };
    let (interval, timeout) = (at_least_1ms("interval", interval), at_least_1ms("timeout", timeout));
    Some((interval?, timeout?))
}
