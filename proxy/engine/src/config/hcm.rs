//! `envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::HeaderValue;

use crate::config::access_log::AccessLog;
use crate::config::config_source::ConfigSource;
use crate::config::listener::Cidr;
use crate::resilience::strict::StrictHeader;
use crate::route::RouteTable;
use crate::snapshot::Routes;

mod convert;
mod local_reply;
mod protocol;

pub use local_reply::LocalReplyConfig;

/// How a connection's HTTP is read, cleaned, routed and logged.
#[derive(Clone, Debug)]
pub struct HttpConnectionManager {
    /// `http.<stat_prefix>`.
    pub stat_prefix: Arc<str>,
    /// Which codec.
    pub codec: CodecType,
    /// The routes: inline, or by name from elsewhere.
    pub routes: RouteSource,
    /// HTTP/1 settings.
    pub http1: Http1Options,
    /// HTTP/2 settings.
    pub http2: Http2Options,
    /// Bytes of a request head, 1..=8192 KiB (60 KiB by default).
    pub max_request_headers_bytes: usize,
    /// Fields of a request head (100 by default).
    pub max_headers_count: usize,
    /// Connection idle time (1 h by default, `None` for never).
    pub idle_timeout: Option<Duration>,
    /// Longest life of a connection; then it drains.
    pub max_connection_duration: Option<Duration>,
    /// Requests on one connection; then it drains.
    pub max_requests_per_connection: Option<u32>,
    /// Longest life of a stream.
    pub max_stream_duration: Option<Duration>,
    /// No byte in either direction for so long ends a stream (5 min by default).
    pub stream_idle_timeout: Option<Duration>,
    /// For the whole request to arrive.
    pub request_timeout: Option<Duration>,
    /// For the request head to arrive, from its first byte (1 min by default; `None` for `stream_idle_timeout`).
    pub request_headers_timeout: Option<Duration>,
    /// What a draining connection gets beside its streams (5 s by default): HTTP/2 for its last acknowledgement, a new
    /// one for its first request.
    pub drain_timeout: Duration,
    /// After our close until the socket goes (1 s by default); `None` closes at once.
    pub delayed_close_timeout: Option<Duration>,
    /// What to do with names that hold `_`.
    pub underscores: UnderscoresAction,
    /// Whether the peer's address is the client's (edge), or XFF is believed (sidecar).
    pub use_remote_address: bool,
    /// Trusted proxies in front of us.
    pub xff_num_trusted_hops: u32,
    /// Do not append to `x-forwarded-for`.
    pub skip_xff_append: bool,
    /// Add `x-forwarded-port`.
    pub append_x_forwarded_port: bool,
    /// Who is one of us: the last address that counts may say what only the mesh says. Nobody, unless it is configured.
    pub internal_addresses: InternalAddresses,
    /// Value of the `server` header.
    pub server_name: HeaderValue,
    /// What happens to the upstream's `server` header.
    pub server_header: ServerHeaderTransformation,
    /// `via`, where it is set.
    pub via: Option<HeaderValue>,
    /// Make an `x-request-id`.
    pub generate_request_id: bool,
    /// Keep the one of an external request.
    pub preserve_external_request_id: bool,
    /// Send it back in each response.
    pub always_set_request_id_in_response: bool,
    /// `x-forwarded-client-cert`.
    pub forward_client_cert: ForwardClientCert,
    /// Which parts of the client certificate XFCC gets.
    pub client_cert_details: ClientCertDetails,
    /// Path normalisation, RFC 3986.
    pub normalize_path: bool,
    /// `//` becomes `/`.
    pub merge_slashes: bool,
    /// What happens to `%2F` and `%5C` in a path.
    pub escaped_slashes: EscapedSlashes,
    /// What is taken off the port of a host.
    pub strip_host_port: StripHostPort,
    /// `example.com.` becomes `example.com`.
    pub strip_trailing_host_dot: bool,
    /// Pass `100 Continue` of the upstream instead of answering it here.
    pub proxy_100_continue: bool,
    /// A malformed message resets its stream only, where the codec allows it.
    pub stream_error_on_invalid_http_message: bool,
    /// Upgrades that pass, lower case (`websocket`).
    pub upgrades: Vec<Arc<str>>,
    /// How our own answers look, where it is configured.
    pub local_replies: Option<Arc<LocalReplyConfig>>,
    /// Access logs.
    pub access_logs: Vec<AccessLog>,
    /// `suppress_envoy_headers` of the router filter.
    pub suppress_envoy_headers: bool,
    /// `respect_expected_rq_timeout` of the router filter.
    pub respect_expected_rq_timeout: bool,
    /// `strict_check_headers` of the router filter, in their order.
    pub strict_check_headers: Box<[StrictHeader]>,
}

/// `internal_address_config`.
#[derive(Clone, Debug, Default)]
pub struct InternalAddresses {
    /// Peers on Unix sockets.
    pub unix_sockets: bool,
    /// Peers from these ranges.
    pub ranges: Box<[Cidr]>,
}

/// `codec_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CodecType {
    /// ALPN, else the connection's first bytes.
    #[default]
    Auto,
    /// HTTP/1 only.
    Http1,
    /// HTTP/2 only.
    Http2,
}

/// Where the routes come from.
#[derive(Clone, Debug)]
pub enum RouteSource {
    /// `route_config`.
    Inline(Arc<RouteTable>),
    /// `rds`
    Rds(Rds),
}

/// `rds`
#[derive(Clone, Debug)]
pub struct Rds {
    /// `route_config_name`
    pub name: Arc<str>,
    /// Where it comes from.
    pub source: Arc<ConfigSource>,
    /// The table itself, which is exchanged while it is used; there from when the listener is on its way into force. A
    /// connection of a listener that has gone meanwhile finds it here too.
    pub table: OnceLock<Arc<Routes>>,
}

/// `http_protocol_options`, of a downstream or an upstream.
#[derive(Clone, Debug, Default)]
pub struct Http1Options {
    /// HTTP/1.0 (and 0.9's absence of a version is still refused).
    pub accept_http_10: bool,
    /// `Host` for HTTP/1.0 requests without one.
    pub default_host_for_http_10: Option<HeaderValue>,
    /// `GET http://host/path` (true by default).
    pub allow_absolute_url: bool,
    /// How names are spelled on the wire.
    pub header_case: HeaderCase,
    /// Pass trailers.
    pub enable_trailers: bool,
    /// Accept `Transfer-Encoding: chunked` beside `Content-Length` (dropping the latter).
    pub allow_chunked_length: bool,
    /// Accept requests with methods that are not registered; HTTP/2 takes them always.
    pub allow_custom_methods: bool,
}

/// Spelling of header names on an HTTP/1 wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderCase {
    /// As HTTP/2 has them.
    #[default]
    Lower,
    /// `Content-Type`.
    ProperCaseWords,
    /// As the peer spelled them that sent the message: `PreserveCaseFormatterConfig`. Messages that are written are
    /// lower case where the other hop does not keep this.
    Preserved {
        /// `forward_reason_phrase`
        reason: bool,
        /// `formatter_type_on_envoy_headers: PROPER_CASE`: names that the peer did not send are `Like-This`.
        others_in_proper_case: bool,
    },
}

/// `http2_protocol_options`, with Envoy's defaults.
#[derive(Clone, Debug)]
pub struct Http2Options {
    /// Streams at a time (1024).
    pub max_concurrent_streams: u32,
    /// Stream window, bytes (16 MiB).
    pub initial_stream_window_size: u32,
    /// Connection window, bytes (24 MiB).
    pub initial_connection_window_size: u32,
    /// HPACK table, bytes (4096).
    pub hpack_table_size: u32,
    /// `CONNECT` with `:protocol`.
    pub allow_connect: bool,
    /// PING after so long, and the time for its answer.
    pub keepalive: Option<(Duration, Duration)>,
    /// PRIORITY frames that a peer may send for each of its streams (100); one more ends the connection.
    pub max_inbound_priority_frames_per_stream: u32,
    /// WINDOW_UPDATE frames that a peer may send for each DATA frame that it got (10); one more ends the connection.
    pub max_inbound_window_update_frames_per_data_frame_sent: u32,
    /// Of a listener: whether a malformed request ends its stream only, whatever the connection manager says.
    pub override_stream_error_on_invalid_http_message: Option<bool>,
}

impl Default for Http2Options {
    fn default() -> Self {
        Http2Options {
            max_concurrent_streams: 1024,
            initial_stream_window_size: 16 << 20,
            initial_connection_window_size: 24 << 20,
            hpack_table_size: 4096,
            allow_connect: false,
            keepalive: None,
            max_inbound_priority_frames_per_stream: 100,
            max_inbound_window_update_frames_per_data_frame_sent: 10,
            override_stream_error_on_invalid_http_message: None,
        }
    }
}

/// `headers_with_underscores_action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnderscoresAction {
    /// They pass.
    #[default]
    Allow,
    /// The request is refused with 400.
    RejectRequest,
    /// The header goes.
    DropHeader,
}

/// `server_header_transformation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerHeaderTransformation {
    /// Ours.
    #[default]
    Overwrite,
    /// Ours where the upstream has none.
    AppendIfAbsent,
    /// The upstream's, or none.
    PassThrough,
}

/// `forward_client_cert_details`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardClientCert {
    /// XFCC goes.
    #[default]
    Sanitize,
    /// Forwarded on mTLS, else it goes.
    ForwardOnly,
    /// Ours is appended on mTLS.
    AppendForward,
    /// Ours replaces it on mTLS.
    SanitizeSet,
    /// Forwarded whatever the connection.
    AlwaysForwardOnly,
}

/// `set_current_client_cert_details`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientCertDetails {
    /// `Subject=`
    pub subject: bool,
    /// `Cert=`
    pub cert: bool,
    /// `Chain=`
    pub chain: bool,
    /// `DNS=`
    pub dns: bool,
    /// `URI=`
    pub uri: bool,
}

/// `path_with_escaped_slashes_action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// They stay.
    #[default]
    KeepUnchanged,
    /// 400.
    RejectRequest,
    /// 307 to the unescaped path.
    UnescapeAndRedirect,
    /// Unescaped in place.
    UnescapeAndForward,
}

/// `strip_matching_host_port`, `strip_any_host_port`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StripHostPort {
    /// The port stays.
    #[default]
    Keep,
    /// A port equal to the listener's goes.
    Matching,
    /// Any port goes.
    Any,
}
