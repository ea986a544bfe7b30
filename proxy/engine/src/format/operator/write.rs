//! What each operator writes.

use std::borrow::Cow;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, UNIX_EPOCH};

use http::StatusCode;

use super::{End, GrpcStatus, Kind, Lookup, Operator, Part, Point, Source};
use crate::format::time::TimeFormat;
use crate::format::{FormatContext, HOSTNAME};
use crate::matcher::Head;
use crate::message::{Headers, RequestHead};
use crate::reply;
use crate::stream_info::{Address, PeerCertificate, StreamInfo, TlsInfo};

impl Operator {
    /// Appends the value; `None` where there is none.
    pub(in crate::format) fn write(&self, out: &mut Vec<u8>, ctx: &FormatContext<'_>) -> Option<Kind> {
        let info = ctx.info;
        match self {
            Operator::Field(lookup) => text(out, lookup.find(ctx)?),
            Operator::StartTime(format) => {
                format.write(out, info.start);
                Some(Kind::Text)
            }
            Operator::EmitTime(format) => {
                format.write(out, info.start.checked_add(ctx.elapsed)?);
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
            Operator::Flags => flags(out, info, |(short, _)| short),
            Operator::FlagsLong => flags(out, info, |(_, long)| long),
            Operator::BytesReceived => number(out, info.bytes_received),
            Operator::BytesSent => number(out, info.bytes_sent),
            Operator::Duration => number(out, millis(info.last_downstream_tx.unwrap_or(ctx.elapsed))),
            Operator::Until(point) => number(out, millis(point.of(info)?)),
            Operator::Between(from, to, unit) => {
                let between = to.of(info)?.checked_sub(from.of(info)?)?;
                number(out, between.as_nanos().checked_div((*unit).into())?.try_into().unwrap_or(u64::MAX))
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
                number(out, ctx.response.map_or(0, |head| head.headers.byte_size().saturating_add(10) as u64))
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
                let query = path.get(memchr::memchr(b'?', path)?..)?.get(1..)?;
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
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))?;
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
    name: impl Fn((&'static str, &'static str)) -> &'static str,
) -> Option<Kind> {
    if info.flags.is_empty() {
        return text(out, b"-");
    }
    let mut separator: &[u8] = b"";
    for flag in info.flags.names() {
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
    ];
    pseudo.iter().fold(head.headers.byte_size(), |sum, (name, value)| sum.saturating_add(*name).saturating_add(*value))
        as u64
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
            for (at, shift) in [18, 12, 6, 0].into_iter().enumerate() {
                let digit = ALPHABET.get((bits >> shift) as usize & 63).copied().unwrap_or(b'=');
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
    if !reply::is_grpc(ctx.request?) {
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

/// The status of a gRPC call: of its trailers, else of its headers, else what the HTTP status means.
pub(crate) fn grpc_code(ctx: &FormatContext<'_>) -> Option<u64> {
    let from = |headers: &Headers| {
        let value = headers.get(&GRPC_STATUS)?;
        value.to_str().ok()?.trim().parse::<u64>().ok()
    };
    ctx.trailers
        .and_then(from)
        .or_else(|| ctx.response.and_then(|head| from(&head.headers)))
        .or_else(|| Some(u64::from(reply::grpc_status(StatusCode::from_u16(ctx.info.response_code?).ok()?))))
}
