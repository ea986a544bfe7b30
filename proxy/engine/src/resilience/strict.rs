//! `strict_check_headers` of the router: a request whose `x-envoy-*` header says nothing that can be obeyed is refused,
//! instead of being treated as if the header were not there.

use http::StatusCode;
use http::header::HeaderName;

use super::retry::RetryOn;
use crate::config::report::At;
use crate::connection_manager::names::{
    X_ENVOY_MAX_RETRIES, X_ENVOY_RETRY_GRPC_ON, X_ENVOY_RETRY_ON, X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS,
    X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS,
};
use crate::matcher::{FieldName, Head};
use crate::message::RequestHead;
use crate::reply::LocalReply;
use crate::stream_info::ResponseFlags;

/// A header that is checked, and how.
#[derive(Clone, Debug)]
pub struct StrictHeader {
    name: FieldName,
    rule: Rule,
}

#[derive(Clone, Copy, Debug)]
enum Rule {
    /// A number that is not negative.
    Number,
    /// Conditions of `retry_on`.
    RetryOn,
    /// Conditions of `retry_on` that are of gRPC.
    RetryGrpcOn,
}

const RULES: [(HeaderName, Rule); 5] = [
    (X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS, Rule::Number),
    (X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS, Rule::Number),
    (X_ENVOY_MAX_RETRIES, Rule::Number),
    (X_ENVOY_RETRY_GRPC_ON, Rule::RetryGrpcOn),
    (X_ENVOY_RETRY_ON, Rule::RetryOn),
];

impl StrictHeader {
    /// Reads the list. Names that Envoy does not know there are rejected.
    pub(crate) fn convert(names: &[String], at: &At<'_>) -> Box<[StrictHeader]> {
        let convert =
            |(index, name): (usize, &String)| match RULES.into_iter().find(|(header, _)| header.as_str() == name) {
                Some((header, rule)) => Some(StrictHeader { name: FieldName::Header(header), rule }),
                None => {
                    let known = RULES.map(|(header, _)| header.to_string()).join(", ");
                    at.index(index).reject(name, format_args!("must be one of {known}"));
                    None
                }
            };
        names.iter().enumerate().filter_map(convert).collect()
    }

    /// The answer to a request whose header is there and says nothing that is understood.
    pub fn refuses(&self, request: &RequestHead) -> Option<LocalReply> {
        let value = Head::Request(request).as_one(&self.name)?;
        let text = std::str::from_utf8(&value).unwrap_or_default();
        let good = match self.rule {
            Rule::Number => text.trim().parse::<u64>().is_ok(),
            Rule::RetryOn => RetryOn::parse_http(text).1,
            Rule::RetryGrpcOn => RetryOn::parse_grpc(text).1,
        };
        if good {
            return None;
        }
        let name = self.name.as_str();
        let mut body = format!("invalid header '{name}' with value '").into_bytes();
        body.extend_from_slice(&value);
        body.push(b'\'');
        let details = format!("request_headers_failed_strict_check{{{name}}}");
        let reply = LocalReply::new(StatusCode::BAD_REQUEST, body, details);
        Some(reply.flag(ResponseFlags::INVALID_ENVOY_REQUEST_HEADERS))
    }
}
