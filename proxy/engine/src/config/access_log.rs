//! `envoy.config.accesslog.v3.AccessLog`: where a line goes, which requests get one, what it says.

mod filter;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use outrigger_proto::envoy::config::accesslog::v3 as proto;
use outrigger_proto::envoy::config::core::v3 as core;
use outrigger_proto::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
use outrigger_proto::envoy::extensions::access_loggers::grpc::v3 as grpc;
use outrigger_proto::envoy::extensions::access_loggers::stream::v3 as stream;

use crate::config::any;
use crate::config::grpc_service::GrpcService;
use crate::config::report::At;
use crate::config::value::{DataSource, duration, header_name};
use crate::format::{DEFAULT_LINE, Format, FormatContext, JsonFormat};
use crate::{harmless, unsupported};

pub use crate::config::access_log::filter::AccessLogFilter;

/// One access log.
#[derive(Clone, Debug)]
pub struct AccessLog {
    /// Which requests get a line; `None`: all.
    pub filter: Option<AccessLogFilter>,
    /// Where it goes.
    pub sink: Sink,
}

/// Where lines go.
#[derive(Clone, Debug)]
pub enum Sink {
    /// Appended to the file at a path (`/dev/stdout` is one).
    File(Arc<str>, LineFormat),
    /// To standard output.
    Stdout(LineFormat),
    /// To standard error.
    Stderr(LineFormat),
    /// Batches of entries to an access log service.
    Grpc(Arc<GrpcAccessLog>),
}

/// What a line says.
#[derive(Clone, Debug)]
pub enum LineFormat {
    /// A text; its line break is its own.
    Text(Format),
    /// A text in which operators without a value leave nothing.
    TextOmittingEmpty(Format),
    /// A JSON object a line.
    Json(JsonFormat),
}

impl LineFormat {
    /// Appends the line with its line break.
    pub fn write(&self, out: &mut Vec<u8>, ctx: &FormatContext<'_>) {
        match self {
            LineFormat::Text(format) => format.write(out, ctx),
            LineFormat::TextOmittingEmpty(format) => format.write_omitting_empty(out, ctx),
            LineFormat::Json(format) => {
                format.write(out, ctx);
                out.push(b'\n');
            }
        }
    }
}

/// `HttpGrpcAccessLogConfig`.
#[derive(Clone, Debug)]
pub struct GrpcAccessLog {
    /// Names the log to the service.
    pub log_name: Arc<str>,
    /// The service.
    pub service: GrpcService,
    /// Entries wait at most so long (1 s).
    pub flush_interval: Duration,
    /// Entries wait until they have so many bytes (16 KiB); 0 sends each at once.
    pub buffer_size: usize,
    /// Request headers that entries carry.
    pub request_headers: Box<[HeaderName]>,
    /// Response headers that entries carry.
    pub response_headers: Box<[HeaderName]>,
    /// Response trailers that entries carry.
    pub response_trailers: Box<[HeaderName]>,
}

impl AccessLog {
    /// Reads the message. `None` where it was rejected.
    pub fn convert(message: proto::AccessLog, at: &At<'_>) -> Option<AccessLog> {
        // The name chose the extension once; the type of the configuration does.
        let proto::AccessLog { name: _, filter, config_type } = message;
        let filter = filter.map(|filter| AccessLogFilter::convert(filter, &at.field("filter")));
        let config_at = at.field("typed_config");
        let Some(proto::access_log::ConfigType::TypedConfig(config)) = config_type else {
            config_at.reject("", "is required");
            return None;
        };
        let sink = if any::is::<FileAccessLog>(&config) {
            file(any::decode(&config, &config_at)?, &config_at)
        } else if any::is::<stream::StdoutAccessLog>(&config) {
            let stream::StdoutAccessLog { access_log_format } = any::decode(&config, &config_at)?;
            let format = access_log_format.map(|stream::stdout_access_log::AccessLogFormat::LogFormat(format)| format);
            stream_format(format, &config_at).map(Sink::Stdout)
        } else if any::is::<stream::StderrAccessLog>(&config) {
            let stream::StderrAccessLog { access_log_format } = any::decode(&config, &config_at)?;
            let format = access_log_format.map(|stream::stderr_access_log::AccessLogFormat::LogFormat(format)| format);
            stream_format(format, &config_at).map(Sink::Stderr)
        } else if any::is::<grpc::HttpGrpcAccessLogConfig>(&config) {
            GrpcAccessLog::convert(any::decode(&config, &config_at)?, &config_at).map(|log| Sink::Grpc(Arc::new(log)))
        } else {
            any::reject_type(&config, &config_at);
            None
        };
        let filter = match filter {
            Some(filter) => Some(filter?),
            None => None,
        };
        Some(AccessLog { filter, sink: sink? })
    }

    /// Whether the request gets a line. `random`: uniform over 64 bits.
    pub fn wants(&self, ctx: &FormatContext<'_>, random: u64) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.matches(ctx, random))
    }
}

fn file(message: FileAccessLog, at: &At<'_>) -> Option<Sink> {
    use file_access_log::AccessLogFormat;
    let FileAccessLog { path, access_log_format } = message;
    if path.is_empty() {
        at.field("path").reject("", "must not be empty");
    }
    let format = match access_log_format {
        None => text(DEFAULT_LINE, false, at),
        Some(AccessLogFormat::Format(format)) if format.is_empty() => text(DEFAULT_LINE, false, at),
        Some(AccessLogFormat::Format(format)) => text(&format, false, &at.field("format")),
        Some(AccessLogFormat::JsonFormat(format)) => {
            JsonFormat::convert(format, false, &at.field("json_format")).map(LineFormat::Json)
        }
        Some(AccessLogFormat::TypedJsonFormat(format)) => {
            JsonFormat::convert(format, false, &at.field("typed_json_format")).map(LineFormat::Json)
        }
        Some(AccessLogFormat::LogFormat(format)) => line_format(format, &at.field("log_format")),
    };
    Some(Sink::File(path.into(), format?))
}

fn stream_format(format: Option<core::SubstitutionFormatString>, at: &At<'_>) -> Option<LineFormat> {
    match format {
        None => text(DEFAULT_LINE, false, at),
        Some(format) => line_format(format, &at.field("log_format")),
    }
}

/// Reads a format; its content type is the caller's.
pub(crate) fn line_format(message: core::SubstitutionFormatString, at: &At<'_>) -> Option<LineFormat> {
    use core::substitution_format_string::Format as Message;
    let core::SubstitutionFormatString { omit_empty_values, content_type, formatters, json_format_options, format } =
        message;
    harmless!(at;
        content_type = "a log has none",
        json_format_options = "keys are sorted always");
    let formatters_at = at.field("formatters");
    for (i, formatter) in formatters.into_iter().enumerate() {
        let at = formatters_at.index(i);
        match formatter.typed_config.as_ref().map(any::type_name) {
            Some(
                "envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery"
                | "envoy.extensions.formatter.metadata.v3.Metadata",
            ) => at.harmless("its operators are there always"),
            other => at.field("typed_config").reject(other.unwrap_or_default(), "no such formatter in this version"),
        }
    }
    match format {
        Some(Message::TextFormat(format)) => text(&format, omit_empty_values, &at.field("text_format")),
        Some(Message::JsonFormat(format)) => {
            JsonFormat::convert(format, omit_empty_values, &at.field("json_format")).map(LineFormat::Json)
        }
        Some(Message::TextFormatSource(source)) => {
            let at = at.field("text_format_source");
            match DataSource::convert(source, &at)? {
                DataSource::Inline(bytes) => match std::str::from_utf8(&bytes) {
                    Ok(format) => text(format, omit_empty_values, &at),
                    Err(_) => {
                        at.reject("", "must be UTF-8");
                        None
                    }
                },
                DataSource::File(name) | DataSource::Environment(name) => {
                    at.reject(name, "not in this version: write the format inline");
                    None
                }
            }
        }
        None => {
            at.reject("", "one of text_format, text_format_source, json_format is required");
            None
        }
    }
}

fn text(format: &str, omit_empty: bool, at: &At<'_>) -> Option<LineFormat> {
    match Format::parse(format) {
        Ok(format) if omit_empty => Some(LineFormat::TextOmittingEmpty(format)),
        Ok(format) => Some(LineFormat::Text(format)),
        Err(error) => {
            at.reject(&error.operator, &error.reason);
            None
        }
    }
}

impl GrpcAccessLog {
    fn convert(message: grpc::HttpGrpcAccessLogConfig, at: &At<'_>) -> Option<GrpcAccessLog> {
        let grpc::HttpGrpcAccessLogConfig {
            common_config,
            additional_request_headers_to_log,
            additional_response_headers_to_log,
            additional_response_trailers_to_log,
        } = message;
        let names = |names: Vec<String>, field: &'static str| -> Box<[HeaderName]> {
            let at = at.field(field);
            names.iter().enumerate().filter_map(|(i, name)| header_name(name, &at.index(i))).collect()
        };
        let request_headers = names(additional_request_headers_to_log, "additional_request_headers_to_log");
        let response_headers = names(additional_response_headers_to_log, "additional_response_headers_to_log");
        let response_trailers = names(additional_response_trailers_to_log, "additional_response_trailers_to_log");
        let at = at.field("common_config");
        let Some(common) = common_config else {
            at.reject("", "is required");
            return None;
        };
        let grpc::CommonGrpcAccessLogConfig {
            log_name,
            grpc_service,
            transport_api_version,
            buffer_flush_interval,
            buffer_size_bytes,
            filter_state_objects_to_log,
            grpc_stream_retry_policy,
            custom_tags,
        } = common;
        unsupported!(at; custom_tags, grpc_stream_retry_policy);
        harmless!(at; filter_state_objects_to_log = "there is no filter state");
        if log_name.is_empty() {
            at.field("log_name").reject("", "must not be empty");
        }
        if transport_api_version != core::ApiVersion::V3 as i32 {
            at.field("transport_api_version").reject(transport_api_version, "must be V3");
        }
        let flush_at = at.field("buffer_flush_interval");
        let flush_interval = match buffer_flush_interval {
            None => Duration::from_secs(1),
            Some(interval) => {
                let interval = duration(Some(interval), &flush_at)?;
                if interval.is_zero() {
                    flush_at.reject("0s", "must be greater than 0s");
                }
                interval
            }
        };
        let service = GrpcService::convert(grpc_service, &at.field("grpc_service"))?;
        Some(GrpcAccessLog {
            log_name: log_name.into(),
            service,
            flush_interval,
            buffer_size: buffer_size_bytes.unwrap_or(16384) as usize,
            request_headers,
            response_headers,
            response_trailers,
        })
    }
}
