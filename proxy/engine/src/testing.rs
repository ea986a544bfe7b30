//! What unit tests share: messages from YAML, heads in one line.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderName, HeaderValue, Method, StatusCode};
use outrigger_proto::prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage};

use crate::config::report::{At, Report};
use crate::message::{Headers, Protocol, RequestHead, ResponseHead, Scheme};
use crate::stream_info::{Address, ConnectionInfo, StreamInfo};

/// The message that `yaml` writes.
pub(crate) fn message<M: Message + Name + Default>(yaml: &str) -> M {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    let pool = POOL.get_or_init(|| DescriptorPool::decode(outrigger_proto::DESCRIPTORS).unwrap());
    let json: serde_json::Value = serde_saphyr::from_str(yaml).unwrap();
    let descriptor = pool.get_message_by_name(&M::full_name()).unwrap();
    M::decode(DynamicMessage::deserialize(descriptor, json).unwrap().encode_to_vec().as_slice()).unwrap()
}

/// What `convert` makes of the message, or all that it finds wrong.
pub(crate) fn convert<M: Message + Name + Default, T>(
    yaml: &str,
    convert: impl Fn(M, &At<'_>) -> Option<T>,
) -> Result<T, Vec<String>> {
    let report = Report::new();
    let converted = convert(message(yaml), &report.root());
    let problems: Vec<_> = report.into_parts().0.iter().map(ToString::to_string).collect();
    match converted {
        Some(converted) if problems.is_empty() => Ok(converted),
        _ => Err(problems),
    }
}

/// `GET path` to `authority`.
pub(crate) fn request(authority: &str, path: &str, headers: &[(&str, &str)]) -> RequestHead {
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: Some(HeaderValue::from_str(authority).unwrap()),
        path: HeaderValue::from_str(path).unwrap(),
        protocol: Protocol::Http11,
        headers: fields(headers),
    }
}

/// A response with `status`.
pub(crate) fn response(status: u16, headers: &[(&str, &str)]) -> ResponseHead {
    let status = StatusCode::from_u16(status).unwrap();
    ResponseHead { status, protocol: Protocol::Http11, headers: fields(headers) }
}

/// A list of fields.
pub(crate) fn fields(fields: &[(&str, &str)]) -> Headers {
    let field = |(name, value): &(&str, &str)| {
        (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
    };
    fields.iter().map(field).collect()
}

/// The fields as lines of `name: value`.
pub(crate) fn lines(headers: &Headers) -> Vec<String> {
    headers.iter().map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))).collect()
}

/// A request that began at 2018-03-28T23:35:58.500Z on connection 7 from 10.0.0.9:4711 to 10.0.0.1:80.
pub(crate) fn stream_info() -> StreamInfo {
    let ip = |text: &str| Address::Ip(text.parse::<SocketAddr>().unwrap());
    let connection = ConnectionInfo {
        id: 7,
        local_address: ip("10.0.0.1:80"),
        direct_remote_address: ip("10.0.0.9:4711"),
        requested_server_name: None,
        alpn: None,
        tls: None,
    };
    let start = UNIX_EPOCH + Duration::from_millis(1_522_280_158_500);
    StreamInfo::new(start, Arc::new(connection), Some(Protocol::Http11))
}
