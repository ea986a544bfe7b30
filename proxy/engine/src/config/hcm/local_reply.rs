//! `LocalReplyConfig`: how the answers look that the proxy gives itself.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use outrigger_proto::envoy::config::core::v3::{SubstitutionFormatString, substitution_format_string};
use outrigger_proto::envoy::extensions::filters::network::http_connection_manager::v3 as pb;

use super::protocol::header_value;
use crate::config::access_log::{AccessLogFilter, LineFormat, line_format};
use crate::config::report::At;
use crate::config::value::DataSource;
use crate::format::FormatContext;
use crate::message::{Protocol, RequestHead, ResponseHead};
use crate::reply::LocalReply;
use crate::route::headers::{HeaderMutations, LOCAL_REPLY};
use crate::stream_info::StreamInfo;

/// What becomes of a local reply.
#[derive(Clone, Debug)]
pub struct LocalReplyConfig {
    /// The first one whose filter matches.
    mappers: Box<[Mapper]>,
    /// Where the mapper has none of its own.
    format: Option<BodyFormat>,
}

#[derive(Clone, Debug)]
struct Mapper {
    filter: AccessLogFilter,
    status: Option<StatusCode>,
    body: Option<Bytes>,
    format: Option<BodyFormat>,
    headers: Option<Box<HeaderMutations>>,
}

#[derive(Clone, Debug)]
struct BodyFormat {
    format: LineFormat,
    content_type: HeaderValue,
}

impl LocalReplyConfig {
    /// Reads the message. `None` where it was rejected.
    pub(super) fn convert(message: pb::LocalReplyConfig, at: &At<'_>) -> Option<LocalReplyConfig> {
        let pb::LocalReplyConfig { mappers, body_format } = message;
        let list = at.field("mappers");
        let mappers: Vec<_> =
            mappers.into_iter().enumerate().map(|(i, mapper)| Mapper::convert(mapper, &list.index(i))).collect();
        let format = body_format.map(|format| BodyFormat::convert(format, &at.field("body_format")));
        Some(LocalReplyConfig { mappers: mappers.into_iter().collect::<Option<_>>()?, format: required(format)? })
    }

    /// Maps and formats `reply` for the client that sent `request`. `elapsed`: since its start; `random`: uniform over
    /// 64 bits, for a filter that samples.
    pub fn apply(
        &self,
        reply: &mut LocalReply,
        request: Option<&RequestHead>,
        info: &mut StreamInfo,
        elapsed: Duration,
        random: u64,
    ) {
        info.response_code = Some(reply.status.as_u16());
        let protocol = info.protocol.unwrap_or(Protocol::Http11);
        let mut head = ResponseHead { status: reply.status, protocol, headers: std::mem::take(&mut reply.headers) };
        let mut format = self.format.as_ref();
        let matching = self.mappers.iter().find(|mapper| {
            let ctx = FormatContext { request, response: Some(&head), ..FormatContext::new(info, elapsed) };
            mapper.filter.matches(&ctx, random)
        });
        if let Some(mapper) = matching {
            if let Some(body) = &mapper.body {
                reply.body = body.clone();
            }
            if let Some(headers) = &mapper.headers {
                let ctx = FormatContext { request, response: Some(&head), ..FormatContext::new(info, elapsed) };
                let values = headers.evaluate(&ctx);
                HeaderMutations::add(values, &mut head.headers);
            }
            if let Some(status) = mapper.status {
                (reply.status, head.status) = (status, status);
                info.response_code = Some(status.as_u16());
            }
            format = mapper.format.as_ref().or(format);
        }
        if let Some(BodyFormat { format, content_type }) = format {
            let mut body = Vec::new();
            let ctx = FormatContext {
                request,
                response: Some(&head),
                local_reply_body: &reply.body,
                ..FormatContext::new(info, elapsed)
            };
            format.write(&mut body, &ctx);
            reply.body = body.into();
            head.headers.set(CONTENT_TYPE, content_type.clone());
        }
        reply.headers = head.headers;
    }
}

impl Mapper {
    fn convert(message: pb::ResponseMapper, at: &At<'_>) -> Option<Mapper> {
        let pb::ResponseMapper { filter, status_code, body, body_format_override, headers_to_add } = message;
        let filter = match filter {
            Some(filter) => AccessLogFilter::convert(filter, &at.field("filter")),
            None => {
                at.field("filter").reject("", "is required");
                None
            }
        };
        let status = status_code.map(|code| {
            let status = u16::try_from(code).ok().filter(|code| (200..600).contains(code));
            let status = status.and_then(|code| StatusCode::from_u16(code).ok());
            if status.is_none() {
                at.field("status_code").reject(code, "must be 200 to 599");
            }
            status
        });
        let body = body.map(|body| {
            let at = at.field("body");
            match DataSource::convert(body, &at)? {
                DataSource::Inline(bytes) => Some(bytes),
                DataSource::File(name) | DataSource::Environment(name) => {
                    at.reject(name, "not in this version: write the body inline");
                    None
                }
            }
        });
        let format = body_format_override.map(|format| BodyFormat::convert(format, &at.field("body_format_override")));
        let headers = HeaderMutations::convert(headers_to_add, Vec::new(), &LOCAL_REPLY, at);
        let (status, body, format) = (required(status), required(body), required(format));
        Some(Mapper { filter: filter?, status: status?, body: body?, format: format?, headers })
    }
}

impl BodyFormat {
    fn convert(mut message: SubstitutionFormatString, at: &At<'_>) -> Option<BodyFormat> {
        let json = matches!(message.format, Some(substitution_format_string::Format::JsonFormat(_)));
        let default = HeaderValue::from_static(if json { "application/json" } else { "text/plain" });
        let content_type = std::mem::take(&mut message.content_type);
        let content_type = header_value(&content_type, &at.field("content_type")).unwrap_or(default);
        Some(BodyFormat { format: line_format(message, at)?, content_type })
    }
}

/// What is there must have been good.
fn required<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    match value {
        Some(value) => value.map(Some),
        None => Some(None),
    }
}
