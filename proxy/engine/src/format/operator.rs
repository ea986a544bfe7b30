//! The operators, and the one table of their names.

mod write;

use crate::format::time::TimeFormat;
use crate::format::{FormatError, Written};
use crate::matcher::FieldName;

pub(crate) use self::write::grpc_code;

/// What an operator wrote: a number stays one in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
}

/// Where a header is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    Request,
    Response,
    Trailers,
}

/// `REQ(NAME?ALTERNATIVE):LENGTH`.
#[derive(Clone, Debug)]
pub(super) struct Lookup {
    source: Source,
    name: FieldName,
    alternative: Option<FieldName>,
    length: usize,
    without_query: bool,
}

/// Which part of an address.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    Whole,
    WithoutPort,
    Port,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    DownstreamRemote,
    DownstreamDirectRemote,
    DownstreamLocal,
    UpstreamLocal,
    UpstreamRemote,
}

/// A point in the life of a request, as an offset from its start.
#[derive(Clone, Copy, Debug)]
pub(super) enum Point {
    Start,
    LastDownstreamRx,
    FirstUpstreamTx,
    LastUpstreamTx,
    FirstUpstreamRx,
    LastUpstreamRx,
    FirstDownstreamTx,
    LastDownstreamTx,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum GrpcStatus {
    Camel,
    Snake,
    Number,
}

#[derive(Clone, Debug)]
pub(super) enum Operator {
    Field(Box<Lookup>),
    StartTime(TimeFormat),
    EmitTime(TimeFormat),
    CertificateStart(TimeFormat),
    CertificateEnd(TimeFormat),
    Protocol,
    UpstreamProtocol,
    ResponseCode,
    /// With white space as it is, or as `_`.
    ResponseCodeDetails(bool),
    TerminationDetails,
    TransportFailure,
    Flags,
    FlagsLong,
    BytesReceived,
    BytesSent,
    Duration,
    Until(Point),
    /// From, to, nanoseconds in one unit.
    Between(Point, Point, u32),
    Address(End, Part),
    UpstreamCluster,
    Attempts,
    ServerName,
    RouteName,
    Hostname,
    ConnectionId,
    StreamId,
    Grpc(GrpcStatus),
    RequestHeadersBytes,
    ResponseHeadersBytes,
    TrailersBytes,
    LocalReplyBody,
    AccessLogType,
    TlsVersion,
    TlsCipher,
    LocalUriSans,
    LocalSubject,
    PeerSubject,
    PeerIssuer,
    PeerSerial,
    PeerFingerprint,
    PeerUriSans,
    PeerDnsSans,
    PeerCertificate,
    /// The value that the environment had when the format was parsed.
    Environment(Box<str>),
    QueryParameter(Box<str>, usize),
    /// What we keep nothing of, so that there never is a value: metadata, filter state, virtual clusters, traces.
    Absent,
}

impl Operator {
    pub(super) fn parse(written: &Written<'_>) -> Result<Operator, FormatError> {
        let argument = written.argument;
        let none = |operator: Operator| match (argument, written.length) {
            (None, None) => Ok(operator),
            (Some(_), _) => Err(written.error("takes no argument")),
            (None, Some(_)) => Err(written.error("takes no length")),
        };
        let required = || argument.filter(|a| !a.is_empty()).ok_or_else(|| written.error("needs an argument"));
        let time = || match (argument, written.length) {
            (_, Some(_)) => Err(written.error("takes no length")),
            (None | Some(""), None) => Ok(TimeFormat::default_format()),
            (Some(text), None) => TimeFormat::parse(text).map_err(|reason| written.error(reason)),
        };
        let length = written.length.unwrap_or(usize::MAX);
        match written.name {
            "REQ" => lookup(written, Source::Request, false),
            "REQ_WITHOUT_QUERY" => lookup(written, Source::Request, true),
            "RESP" => lookup(written, Source::Response, false),
            "TRAILER" => lookup(written, Source::Trailers, false),
            "START_TIME" => time().map(Operator::StartTime),
            "EMIT_TIME" => time().map(Operator::EmitTime),
            "DOWNSTREAM_PEER_CERT_V_START" => time().map(Operator::CertificateStart),
            "DOWNSTREAM_PEER_CERT_V_END" => time().map(Operator::CertificateEnd),
            "PROTOCOL" => none(Operator::Protocol),
            "UPSTREAM_PROTOCOL" => none(Operator::UpstreamProtocol),
            "RESPONSE_CODE" => none(Operator::ResponseCode),
            "RESPONSE_CODE_DETAILS" => match argument {
                None | Some("") => Ok(Operator::ResponseCodeDetails(false)),
                Some("ALLOW_WHITESPACES") => Ok(Operator::ResponseCodeDetails(true)),
                Some(_) => Err(written.error("takes no argument but ALLOW_WHITESPACES")),
            },
            "CONNECTION_TERMINATION_DETAILS" => none(Operator::TerminationDetails),
            "UPSTREAM_TRANSPORT_FAILURE_REASON" => none(Operator::TransportFailure),
            "RESPONSE_FLAGS" => none(Operator::Flags),
            "RESPONSE_FLAGS_LONG" => none(Operator::FlagsLong),
            "BYTES_RECEIVED" => none(Operator::BytesReceived),
            "BYTES_SENT" => none(Operator::BytesSent),
            "DURATION" => none(Operator::Duration),
            "REQUEST_DURATION" => none(Operator::Until(Point::LastDownstreamRx)),
            "REQUEST_TX_DURATION" => none(Operator::Until(Point::LastUpstreamTx)),
            "RESPONSE_DURATION" => none(Operator::Until(Point::FirstUpstreamRx)),
            "RESPONSE_TX_DURATION" => {
                none(Operator::Between(Point::FirstUpstreamRx, Point::LastDownstreamTx, 1_000_000))
            }
            "COMMON_DURATION" => common_duration(written, required()?),
            "DOWNSTREAM_REMOTE_ADDRESS" => none(Operator::Address(End::DownstreamRemote, Part::Whole)),
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => {
                none(Operator::Address(End::DownstreamRemote, Part::WithoutPort))
            }
            "DOWNSTREAM_REMOTE_PORT" => none(Operator::Address(End::DownstreamRemote, Part::Port)),
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => none(Operator::Address(End::DownstreamDirectRemote, Part::Whole)),
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => {
                none(Operator::Address(End::DownstreamDirectRemote, Part::WithoutPort))
            }
            "DOWNSTREAM_DIRECT_REMOTE_PORT" => none(Operator::Address(End::DownstreamDirectRemote, Part::Port)),
            "DOWNSTREAM_LOCAL_ADDRESS" => none(Operator::Address(End::DownstreamLocal, Part::Whole)),
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => none(Operator::Address(End::DownstreamLocal, Part::WithoutPort)),
            "DOWNSTREAM_LOCAL_PORT" => none(Operator::Address(End::DownstreamLocal, Part::Port)),
            "UPSTREAM_LOCAL_ADDRESS" => none(Operator::Address(End::UpstreamLocal, Part::Whole)),
            "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => none(Operator::Address(End::UpstreamLocal, Part::WithoutPort)),
            "UPSTREAM_LOCAL_PORT" => none(Operator::Address(End::UpstreamLocal, Part::Port)),
            "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => none(Operator::Address(End::UpstreamRemote, Part::Whole)),
            "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => none(Operator::Address(End::UpstreamRemote, Part::WithoutPort)),
            "UPSTREAM_REMOTE_PORT" => none(Operator::Address(End::UpstreamRemote, Part::Port)),
            "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => none(Operator::UpstreamCluster),
            "UPSTREAM_REQUEST_ATTEMPT_COUNT" => none(Operator::Attempts),
            "REQUESTED_SERVER_NAME" => none(Operator::ServerName),
            "ROUTE_NAME" => none(Operator::RouteName),
            "HOSTNAME" => none(Operator::Hostname),
            "CONNECTION_ID" => none(Operator::ConnectionId),
            "STREAM_ID" => none(Operator::StreamId),
            "GRPC_STATUS_NUMBER" => none(Operator::Grpc(GrpcStatus::Number)),
            "GRPC_STATUS" => match argument {
                None | Some("" | "CAMEL_STRING") => Ok(Operator::Grpc(GrpcStatus::Camel)),
                Some("SNAKE_STRING") => Ok(Operator::Grpc(GrpcStatus::Snake)),
                Some("NUMBER") => Ok(Operator::Grpc(GrpcStatus::Number)),
                Some(_) => Err(written.error("takes CAMEL_STRING, SNAKE_STRING or NUMBER")),
            },
            "REQUEST_HEADERS_BYTES" => none(Operator::RequestHeadersBytes),
            "RESPONSE_HEADERS_BYTES" => none(Operator::ResponseHeadersBytes),
            "RESPONSE_TRAILERS_BYTES" => none(Operator::TrailersBytes),
            "LOCAL_REPLY_BODY" => none(Operator::LocalReplyBody),
            "ACCESS_LOG_TYPE" => none(Operator::AccessLogType),
            "DOWNSTREAM_TLS_VERSION" => none(Operator::TlsVersion),
            "DOWNSTREAM_TLS_CIPHER" => none(Operator::TlsCipher),
            "DOWNSTREAM_LOCAL_URI_SAN" => none(Operator::LocalUriSans),
            "DOWNSTREAM_LOCAL_SUBJECT" => none(Operator::LocalSubject),
            "DOWNSTREAM_PEER_SUBJECT" => none(Operator::PeerSubject),
            "DOWNSTREAM_PEER_ISSUER" => none(Operator::PeerIssuer),
            "DOWNSTREAM_PEER_SERIAL" => none(Operator::PeerSerial),
            "DOWNSTREAM_PEER_FINGERPRINT_256" => none(Operator::PeerFingerprint),
            "DOWNSTREAM_PEER_URI_SAN" => none(Operator::PeerUriSans),
            "DOWNSTREAM_PEER_DNS_SAN" => none(Operator::PeerDnsSans),
            "DOWNSTREAM_PEER_CERT" => none(Operator::PeerCertificate),
            "QUERY_PARAM" => Ok(Operator::QueryParameter(required()?.into(), length)),
            "ENVIRONMENT" => {
                let name = required()?;
                let value = std::env::var(name).unwrap_or_else(|_| "-".to_owned());
                let end = value.char_indices().map(|(at, _)| at).find(|at| *at >= length).unwrap_or(value.len());
                Ok(Operator::Environment(value.get(..end).unwrap_or(&value).into()))
            }
            "METADATA"
            | "DYNAMIC_METADATA"
            | "CLUSTER_METADATA"
            | "UPSTREAM_METADATA"
            | "FILTER_STATE"
            | "UPSTREAM_FILTER_STATE" => required().map(|_| Operator::Absent),
            "VIRTUAL_CLUSTER_NAME" | "TRACE_ID" | "DOWNSTREAM_TRANSPORT_FAILURE_REASON" => none(Operator::Absent),
            _ => Err(written.error("no such operator in this version")),
        }
    }
}

fn lookup(written: &Written<'_>, source: Source, without_query: bool) -> Result<Operator, FormatError> {
    let argument = written.argument.ok_or_else(|| written.error("needs the name of a header"))?;
    let mut names = argument.split('?');
    let mut name = || match names.next() {
        Some(name) => match FieldName::parse(name) {
            Some(name) => Ok(Some(name)),
            None => Err(written.error(format!("{name:?} is not the name of a header"))),
        },
        None => Ok(None),
    };
    let main = name()?.ok_or_else(|| written.error("needs the name of a header"))?;
    let alternative = name()?;
    if names.next().is_some() {
        return Err(written.error("takes one alternative only"));
    }
    let length = written.length.unwrap_or(usize::MAX);
    Ok(Operator::Field(Box::new(Lookup { source, name: main, alternative, length, without_query })))
}

fn common_duration(written: &Written<'_>, argument: &str) -> Result<Operator, FormatError> {
    let mut parts = argument.split(':');
    let mut point = || match parts.next().unwrap_or_default() {
        "DS_RX_BEG" => Ok(Point::Start),
        "DS_RX_END" => Ok(Point::LastDownstreamRx),
        "US_TX_BEG" => Ok(Point::FirstUpstreamTx),
        "US_TX_END" => Ok(Point::LastUpstreamTx),
        "US_RX_BEG" => Ok(Point::FirstUpstreamRx),
        "US_RX_END" => Ok(Point::LastUpstreamRx),
        "DS_TX_BEG" => Ok(Point::FirstDownstreamTx),
        "DS_TX_END" => Ok(Point::LastDownstreamTx),
        other => Err(written.error(format!("{other:?} is no point in time of this version"))),
    };
    let (from, to) = (point()?, point()?);
    let unit = match parts.next() {
        None | Some("ms") => 1_000_000,
        Some("us") => 1_000,
        Some("ns") => 1,
        Some(other) => return Err(written.error(format!("{other:?} is not one of ms, us, ns"))),
    };
    if parts.next().is_some() {
        return Err(written.error("takes START:END or START:END:PRECISION"));
    }
    Ok(Operator::Between(from, to, unit))
}
