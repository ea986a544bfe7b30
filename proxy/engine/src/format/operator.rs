//! The operators: one table of names, one `match` that writes.

use std::borrow::Cow;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::format::time::TimeFormat;
use crate::format::{FormatContext, FormatError, HOSTNAME, Written};
use crate::matcher::{FieldName, Head};
use crate::message::{Headers, RequestHead};
use crate::stream_info::{Address, PeerCertificate, RESPONSE_FLAGS, StreamInfo, TlsInfo};

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

    /// Appends the value; `None` where there is none.
    pub(super) fn write(&self, out: &mut Vec<u8>, ctx: &FormatContext<'_>) -> Option<Kind> {
        let info = ctx.info;
        match self {
            Operator::Field(lookup) => text(out, lookup.find(ctx)?),
            Operator::StartTime(format) => {
                format.write(out, info.start);
                Some(Kind::Text)
            }
            Operator::EmitTime(format) => {
                format.write(out, info.start + ctx.elapsed);
                Some(Kind::Text)
            }
            Operator::CertificateStart(format) => moment(out, format, peer(info)?.not_before),
            Operator::CertificateEnd(format) => moment(out, format, peer(info)?.not_after),
            Operator::Protocol => text(out, info.protocol?.as_str().as_bytes()),
            Operator::UpstreamProtocol => text(out, info.upstream_protocol?.as_str().as_bytes()),
            Operator::ResponseCode => number(out, u64::from(info.response_code.unwrap_or(0))),
            Operator::ResponseCodeDetails(white_space) => {
                let details = info.details.as_deref()?;
                let replace = |byte: u8| if !white_space && byte.is_ascii_whitespace() { b'_' } else { byte };
                out.extend(details.bytes().map(replace));
                Some(Kind::Text)
            }
            Operator::TerminationDetails => text(out, info.termination_details.as_deref()?.as_bytes()),
            Operator::TransportFailure => {
                let reason = info.upstream_transport_failure.as_deref()?;
                out.extend(reason.bytes().map(|byte| if byte.is_ascii_whitespace() { b'_' } else { byte }));
                Some(Kind::Text)
            }
            Operator::Flags => flags(out, info, |(_, short, _)| short),
            Operator::FlagsLong => flags(out, info, |(_, _, long)| long),
            Operator::BytesReceived => number(out, info.bytes_received),
            Operator::BytesSent => number(out, info.bytes_sent),
            Operator::Duration => number(out, millis(info.last_downstream_tx.unwrap_or(ctx.elapsed))),
            Operator::Until(point) => number(out, millis(point.of(info)?)),
            Operator::Between(from, to, unit) => {
                let between = to.of(info)?.checked_sub(from.of(info)?)?;
                number(out, u64::try_from(between.as_nanos() / u128::from(*unit)).unwrap_or(u64::MAX))
            }
            Operator::Address(end, part) => address(out, info, *end, *part),
            Operator::UpstreamCluster => text(out, info.upstream_cluster.as_ref()?.as_bytes()),
            Operator::Attempts => number(out, u64::from(info.attempts)),
            Operator::ServerName => text(out, non_empty(info.connection.requested_server_name.as_deref())?),
            Operator::RouteName => text(out, non_empty(info.route_name.as_deref())?),
            Operator::Hostname => text(out, HOSTNAME.get()?.as_bytes()),
            Operator::ConnectionId => number(out, info.connection.id),
            Operator::StreamId => text(out, ctx.request?.headers.get(&X_REQUEST_ID)?.as_bytes()),
            Operator::Grpc(form) => grpc_status(out, ctx, *form),
            Operator::RequestHeadersBytes => number(out, ctx.request.map_or(0, request_bytes)),
            Operator::ResponseHeadersBytes => {
                // `:status` and its three digits count, as HTTP/2 has them.
                number(out, ctx.response.map_or(0, |head| (head.headers.byte_size() + 10) as u64))
            }
            Operator::TrailersBytes => number(out, ctx.trailers.map_or(0, |trailers| trailers.byte_size() as u64)),
            Operator::LocalReplyBody => text(out, ctx.local_reply_body),
            Operator::AccessLogType => {
                text(out, if info.protocol.is_some() { b"DownstreamEnd" } else { b"TcpConnectionEnd" })
            }
            Operator::TlsVersion => text(out, non_empty(tls(info)?.version)?),
            Operator::TlsCipher => text(out, non_empty(tls(info)?.cipher)?),
            Operator::LocalUriSans => list(out, &tls(info)?.local_uri_sans),
            Operator::LocalSubject => text(out, non_empty(tls(info)?.local_subject.as_deref())?),
            Operator::PeerSubject => text(out, non_empty(Some(&peer(info)?.subject))?),
            Operator::PeerIssuer => text(out, non_empty(Some(&peer(info)?.issuer))?),
            Operator::PeerSerial => text(out, non_empty(Some(&peer(info)?.serial))?),
            Operator::PeerFingerprint => text(out, non_empty(Some(&peer(info)?.sha256))?),
            Operator::PeerUriSans => list(out, &peer(info)?.uri_sans),
            Operator::PeerDnsSans => list(out, &peer(info)?.dns_sans),
            Operator::PeerCertificate => certificate(out, &peer(info)?.der),
            Operator::Environment(value) => text(out, value.as_bytes()),
            Operator::QueryParameter(name, length) => {
                let path = ctx.request?.path.as_bytes();
                let query = path.get(memchr::memchr(b'?', path)? + 1..)?;
                let value = query.split(|byte| *byte == b'&').find_map(|pair| {
                    let value = pair.strip_prefix(name.as_bytes())?;
                    if value.is_empty() { Some(value) } else { value.strip_prefix(b"=") }
                })?;
                text(out, value.get(..*length).unwrap_or(value))
            }
            Operator::Absent => None,
        }
    }
}

static X_REQUEST_ID: http::HeaderName = http::HeaderName::from_static("x-request-id");
static GRPC_STATUS: http::HeaderName = http::HeaderName::from_static("grpc-status");

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

impl Lookup {
    fn find<'a>(&self, ctx: &FormatContext<'a>) -> Option<&'a [u8]> {
        let head = match self.source {
            Source::Request => Head::Request(ctx.request?),
            Source::Response => Head::Response(ctx.response?),
            Source::Trailers => Head::Trailers(ctx.trailers?),
        };
        let mut value = head.first(&self.name).or_else(|| head.first(self.alternative.as_ref()?))?;
        if self.without_query
            && let Some(query) = memchr::memchr(b'?', value)
        {
            value = value.get(..query).unwrap_or(value);
        }
        Some(value.get(..self.length).unwrap_or(value))
    }
}

impl Point {
    fn of(self, info: &StreamInfo) -> Option<Duration> {
        match self {
            Point::Start => Some(Duration::ZERO),
            Point::LastDownstreamRx => info.last_downstream_rx,
            Point::FirstUpstreamTx => info.first_upstream_tx,
            Point::LastUpstreamTx => info.last_upstream_tx,
            Point::FirstUpstreamRx => info.first_upstream_rx,
            Point::LastUpstreamRx => info.last_upstream_rx,
            Point::FirstDownstreamTx => info.first_downstream_tx,
            Point::LastDownstreamTx => info.last_downstream_tx,
        }
    }
}

fn text(out: &mut Vec<u8>, value: &[u8]) -> Option<Kind> {
    out.extend_from_slice(value);
    Some(Kind::Text)
}

fn number(out: &mut Vec<u8>, value: u64) -> Option<Kind> {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    Some(Kind::Number)
}

fn moment(out: &mut Vec<u8>, format: &TimeFormat, seconds: i64) -> Option<Kind> {
    let time: SystemTime = UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?);
    format.write(out, time);
    Some(Kind::Text)
}

fn list(out: &mut Vec<u8>, values: &[String]) -> Option<Kind> {
    let (first, rest) = values.split_first()?;
    out.extend_from_slice(first.as_bytes());
    for value in rest {
        out.push(b',');
        out.extend_from_slice(value.as_bytes());
    }
    Some(Kind::Text)
}

fn flags(
    out: &mut Vec<u8>,
    info: &StreamInfo,
    name: impl Fn((crate::stream_info::ResponseFlags, &'static str, &'static str)) -> &'static str,
) -> Option<Kind> {
    if info.flags.is_empty() {
        return text(out, b"-");
    }
    let mut separator: &[u8] = b"";
    for flag in RESPONSE_FLAGS.iter().copied().filter(|(flag, ..)| info.flags.intersects(*flag)) {
        out.extend_from_slice(separator);
        out.extend_from_slice(name(flag).as_bytes());
        separator = b",";
    }
    Some(Kind::Text)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn tls(info: &StreamInfo) -> Option<&TlsInfo> {
    info.connection.tls.as_deref()
}

fn peer(info: &StreamInfo) -> Option<&PeerCertificate> {
    tls(info)?.peer.as_ref()
}

fn non_empty(value: Option<&str>) -> Option<&[u8]> {
    value.filter(|value| !value.is_empty()).map(str::as_bytes)
}

fn address(out: &mut Vec<u8>, info: &StreamInfo, end: End, part: Part) -> Option<Kind> {
    let address = match end {
        End::DownstreamRemote => Cow::Borrowed(&info.remote_address),
        End::DownstreamDirectRemote => Cow::Borrowed(&info.connection.direct_remote_address),
        End::DownstreamLocal => Cow::Borrowed(&info.connection.local_address),
        End::UpstreamLocal => Cow::Owned(Address::Ip(info.upstream_local_address?)),
        End::UpstreamRemote => {
            let host = info.upstream_host.as_ref()?;
            if matches!(part, Part::Whole) {
                return text(out, host.as_bytes());
            }
            match host.parse::<SocketAddr>() {
                Ok(address) => Cow::Owned(Address::Ip(address)),
                Err(_) => Cow::Owned(Address::Pipe(host.clone())),
            }
        }
    };
    match (&*address, part) {
        (Address::Ip(address), Part::Whole) => _ = write!(out, "{address}"),
        (Address::Ip(address), Part::WithoutPort) => _ = write!(out, "{}", address.ip()),
        (Address::Ip(address), Part::Port) => return number(out, u64::from(address.port())),
        (Address::Pipe(path), Part::Whole | Part::WithoutPort) => return text(out, path.as_bytes()),
        (Address::Pipe(_), Part::Port) => return None,
    }
    Some(Kind::Text)
}

/// What the head takes as HTTP/2 has it: names and values, pseudo-headers too.
fn request_bytes(head: &RequestHead) -> u64 {
    let pseudo = [
        (7, head.method.as_str().len()),
        (7, head.scheme.as_str().len()),
        (5, head.path.len()),
        head.authority.as_ref().map_or((0, 0), |authority| (10, authority.len())),
        head.connect_protocol.as_ref().map_or((0, 0), |protocol| (9, protocol.len())),
    ];
    (head.headers.byte_size() + pseudo.iter().map(|(name, value)| name + value).sum::<usize>()) as u64
}

/// PEM, URL-encoded.
fn certificate(out: &mut Vec<u8>, der: &[u8]) -> Option<Kind> {
    if der.is_empty() {
        return None;
    }
    out.extend_from_slice(b"-----BEGIN%20CERTIFICATE-----%0A");
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
            for at in 0..4usize {
                let digit = ALPHABET.get((bits >> (18 - 6 * at)) as usize & 63).copied().unwrap_or(b'=');
                match if at > group.len() { b'=' } else { digit } {
                    b'+' => out.extend_from_slice(b"%2B"),
                    b'/' => out.extend_from_slice(b"%2F"),
                    b'=' => out.extend_from_slice(b"%3D"),
                    plain => out.push(plain),
                }
            }
        }
        out.extend_from_slice(b"%0A");
    }
    text(out, b"-----END%20CERTIFICATE-----%0A")
}

/// Codes in order: Envoy's spelling, and absl's.
const GRPC_NAMES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

fn grpc_status(out: &mut Vec<u8>, ctx: &FormatContext<'_>, form: GrpcStatus) -> Option<Kind> {
    if !is_grpc(&ctx.request?.headers) {
        return None;
    }
    let code = grpc_code(ctx)?;
    let names = usize::try_from(code).ok().and_then(|code| GRPC_NAMES.get(code));
    match (form, names) {
        (GrpcStatus::Camel, Some((camel, _))) => text(out, camel.as_bytes()),
        (GrpcStatus::Snake, Some((_, snake))) => text(out, snake.as_bytes()),
        (GrpcStatus::Number, _) => number(out, code),
        (_, None) => {
            number(out, code);
            Some(Kind::Text)
        }
    }
}

/// Whether headers are those of a gRPC message: `application/grpc`, or `application/grpc+...`.
pub(crate) fn is_grpc(headers: &Headers) -> bool {
    headers
        .get(&http::header::CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
}

/// The status of a gRPC call: of its trailers, else of its headers, else what the HTTP status means.
pub(crate) fn grpc_code(ctx: &FormatContext<'_>) -> Option<u64> {
    let from = |headers: &Headers| {
        let value = headers.get(&GRPC_STATUS)?;
        value.to_str().ok()?.trim().parse::<u64>().ok()
    };
    ctx.trailers
        .and_then(from)
        .or_else(|| ctx.response.and_then(|head| from(&head.headers)))
        .or_else(|| ctx.info.response_code.map(of_http))
}

/// The gRPC status for an HTTP status (gRPC's "HTTP to gRPC Status Code Mapping").
fn of_http(status: u16) -> u64 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}
