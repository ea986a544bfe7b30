//! Foreign header fields, from an HTTP/1 head and from an HTTP/2 block, through the connection manager, the timeouts and the
//! retries, and out again: no panic, nothing of one hop or of somebody else's authority passes, and what leaves over
//! HTTP/1 reads as the one request that it was.

#![no_main]

use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::OnceLock;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TE};
use http::{HeaderName, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;
use outrigger_engine::config::bootstrap::Bootstrap;
use outrigger_engine::config::hcm::{HeaderCase, Http1Options, HttpConnectionManager};
use outrigger_engine::config::listener::NetworkFilter;
use outrigger_engine::connection_manager::{RequestContext, prepare_request};
use outrigger_engine::message::{Headers, Protocol, RequestHead, Scheme};
use outrigger_engine::reply::is_grpc;
use outrigger_engine::resilience::retry::RetryState;
use outrigger_engine::resilience::timeout::{RouteTimeouts, Timeouts, grpc_timeout};
use outrigger_engine::source::Source;
use outrigger_engine::stream_info::{Address, ConnectionInfo};
use outrigger_proxy::http::codec::{ClientStream, CloseReason, Owner, OwnerRef, ResetBy, h1, h2};
use outrigger_proxy::io::Io;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

const MAX_HEAD: usize = 4096;
const MAX_HEADERS: usize = 40;

type Fields<'a> = Vec<(&'a [u8], &'a [u8])>;

fuzz_target!(|fields: Fields| {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        for head in [over_http1(&fields).await, over_http2(&fields).await].into_iter().flatten() {
            for manager in managers() {
                through(head.clone(), manager).await;
            }
        }
    });
});

/// What a connection manager may be told about headers: an edge, a sidecar, and one with everything else that reads them.
fn managers() -> &'static [HttpConnectionManager] {
    static MANAGERS: OnceLock<Vec<HttpConnectionManager>> = OnceLock::new();
    MANAGERS.get_or_init(|| {
        let settings = [
            "use_remote_address: true",
            "use_remote_address: false",
            "use_remote_address: true, xff_num_trusted_hops: 1, via: fuzz, append_x_forwarded_port: true, \
             preserve_external_request_id: true, forward_client_cert_details: ALWAYS_FORWARD_ONLY, \
             strip_any_host_port: true, normalize_path: true, \
             common_http_protocol_options: {headers_with_underscores_action: DROP_HEADER}",
        ];
        settings.into_iter().map(manager).collect()
    })
}

fn manager(settings: &str) -> HttpConnectionManager {
    let text = format!(
        r#"
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: 1 }} }}
    filter_chains:
    - filters:
      - name: http
        typed_config: {{
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
          stat_prefix: fuzz, {settings}, route_config: {{ virtual_hosts: [] }},
          http_filters: [{{ name: router, typed_config: {{
            "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }}] }}
"#
    );
    let bootstrap = Bootstrap::load(&[Source::new("fuzz.yaml", &text)]).unwrap_or_else(|faults| panic!("{faults:?}"));
    match &bootstrap.listeners[0].filter_chains[0].filter {
        NetworkFilter::Http(manager) => HttpConnectionManager::clone(manager),
        other => panic!("{other:?}"),
    }
}

/// The request that `GET /` with these fields is, if it is one and all of it.
async fn over_http1(fields: &Fields<'_>) -> Option<RequestHead> {
    let mut bytes = b"GET / HTTP/1.1\r\nhost: fuzz.test\r\n".to_vec();
    for (name, value) in fields {
        bytes.extend_from_slice(&[name, &b": "[..], value, b"\r\n"].concat());
    }
    bytes.extend_from_slice(b"\r\n");
    read_http1(&bytes, 1).await
}

async fn read_http1(bytes: &[u8], room: usize) -> Option<RequestHead> {
    let (mut peer, io) = duplex(1 << 16);
    peer.write_all(bytes).await.ok()?;
    drop(peer);
    let settings = h1::ServerSettings {
        max_head_bytes: room * MAX_HEAD,
        max_headers: room * MAX_HEADERS,
        refuse_https: false,
        options: Http1Options::default(),
    };
    let mut connection = h1::ServerConnection::new(Io::Pipe(io), Bytes::new(), Rc::new(settings));
    match poll_fn(|cx| connection.poll_incoming(cx)).await {
        h1::Incoming::Request(exchange) => Some(exchange.head),
        h1::Incoming::Malformed { .. } | h1::Incoming::End(_) => None,
    }
}

/// The same as one HEADERS frame of literals.
async fn over_http2(fields: &Fields<'_>) -> Option<RequestHead> {
    let mut block = vec![0x82, 0x86, 0x84];
    literal(&mut block, b":authority", b"fuzz.test");
    for (name, value) in fields {
        literal(&mut block, name, value);
    }
    if block.len() > 16 << 10 {
        return None;
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    bytes.extend_from_slice(&u32::try_from(block.len()).ok()?.to_be_bytes()[1..]);
    bytes.extend_from_slice(b"\x01\x05\0\0\0\x01");
    bytes.extend_from_slice(&block);
    let (mut peer, io) = duplex(1 << 16);
    peer.write_all(&bytes).await.ok()?;
    let settings = h2::ServerSettings {
        http2: Default::default(),
        max_headers_bytes: MAX_HEAD,
        max_headers_count: MAX_HEADERS,
        stream_error_on_invalid_http_message: false,
    };
    let mut connection = h2::ServerConnection::handshake(Io::Pipe(io), Bytes::new(), &settings).await.ok()?;
    // All of it is there: what is not a request by now is none.
    poll_fn(|cx| match connection.poll_incoming(cx) {
        Poll::Ready(h2::Incoming::Request(exchange)) => Poll::Ready(Some(exchange.head)),
        _ => Poll::Ready(None),
    })
    .await
}

/// A literal field without indexing (RFC 7541, section 6.2.2).
fn literal(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    block.push(0);
    for text in [name, value] {
        let mut rest = text.len();
        if rest < 0x7f {
            block.push(rest as u8);
        } else {
            block.push(0x7f);
            rest -= 0x7f;
            while rest >= 0x80 {
                block.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            block.push(rest as u8);
        }
        block.extend_from_slice(text);
    }
}

const HOP_BY_HOP: [&str; 5] = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];
/// What `connection` may name and is there all the same: options that are no fields, and what we set ourselves.
const KEPT: [&str; 9] = [
    "te",
    "close",
    "keep-alive",
    "upgrade",
    "http2-settings",
    "via",
    "x-request-id",
    "x-forwarded-port",
    "x-envoy-external-address",
];
/// What a client from outside may not say.
const INTERNAL: [&str; 8] = [
    "x-envoy-internal",
    "x-envoy-retry-on",
    "x-envoy-max-retries",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-original-url",
];

async fn through(mut head: RequestHead, hcm: &HttpConnectionManager) {
    let came = head.clone();
    let connection = ConnectionInfo {
        id: 1,
        local_address: Address::Ip("10.0.0.1:80".parse().unwrap()),
        direct_remote_address: Address::Ip("203.0.113.7:4711".parse().unwrap()),
        requested_server_name: None,
        alpn: None,
        tls: None,
    };
    let node_address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    let context = RequestContext { hcm, connection: &connection, upgrade: false, node_address, random: 7 };
    if prepare_request(&mut head, &context).is_err() {
        return;
    }
    let headers = &head.headers;
    for name in HOP_BY_HOP.iter().chain(&INTERNAL) {
        assert!(!headers.iter().any(|(n, _)| n == name), "{name} has passed: {came:?} became {head:?}");
    }
    assert!(headers.get_all(&TE).all(|value| value == "trailers"), "{head:?}");
    for value in came.headers.get_all(&CONNECTION) {
        for token in value.as_bytes().split(|b| *b == b',').map(|token| token.trim_ascii().to_ascii_lowercase()) {
            let Ok(name) = HeaderName::from_bytes(&token) else { continue };
            let gone = KEPT.contains(&name.as_str()) || !headers.contains(&name);
            assert!(gone, "{name} is of one hop: {came:?} became {head:?}");
        }
    }
    if hcm.use_remote_address {
        let forwarded = HeaderName::from_static("x-forwarded-for");
        let values: Vec<_> = headers.get_all(&forwarded).map(HeaderValue::as_bytes).collect();
        assert!(values.iter().any(|value| value.ends_with(b"203.0.113.7")), "{came:?} became {head:?}");
        for value in came.headers.get_all(&forwarded).map(HeaderValue::as_bytes) {
            let kept = value.is_empty() || values.iter().any(|v| v.windows(value.len()).any(|part| part == value));
            assert!(kept, "{value:?} is lost: {came:?} became {head:?}");
        }
    }
    assert!(headers.contains(&HeaderName::from_static("x-request-id")));

    let route = RouteTimeouts::default();
    let grpc = is_grpc(&head);
    for respect in [false, true] {
        let timeouts = Timeouts::new(&route, None, &came, grpc, respect);
        let mut headers = came.headers.clone();
        timeouts.write_headers(&mut headers, &route, Duration::from_millis(3), grpc, true, respect);
    }
    let _ = (route.stream_duration(&came.headers, None), grpc_timeout(&came.headers));
    if let Some(state) = RetryState::new(None, &came) {
        assert!(state.retries_done() == 0);
    }
    RetryState::remove_headers(&mut head.headers);

    // There is no body here.
    head.headers.remove(&CONTENT_LENGTH);
    let sent = over_the_upstream(head.clone()).await;
    let read = read_http1(&sent, 4).await;
    let Some(read) = read else { panic!("what we sent is no request: {:?} of {head:?}", Bytes::from(sent)) };
    assert_eq!((&read.method, &read.path, &read.authority), (&head.method, &head.path, &head.authority));
    assert_eq!(fields_of(&read.headers), fields_of(&head.headers), "from {came:?}");
}

/// Names with their values, without blanks around these.
fn fields_of(headers: &Headers) -> Vec<(HeaderName, Vec<u8>)> {
    let field = |(name, value): (&HeaderName, &HeaderValue)| (name.clone(), value.as_bytes().trim_ascii().to_vec());
    headers.iter().map(field).collect()
}

#[derive(Debug)]
struct Nobody;

impl Owner for Nobody {
    fn idle(&self, _: h1::ClientConnection) {}
    fn closed(&self, _: CloseReason, _: usize) {}
    fn room(&self) {}
    fn draining(&self) {}
    fn reset(&self, _: ResetBy) {}
}

/// The bytes of `head` on an HTTP/1 connection to an upstream.
async fn over_the_upstream(head: RequestHead) -> Vec<u8> {
    let (mut peer, io) = duplex(1 << 16);
    let settings = h1::ClientSettings {
        max_head_bytes: MAX_HEAD,
        max_headers: MAX_HEADERS,
        header_case: HeaderCase::Lower,
        enable_trailers: true,
        allow_chunked_length: false,
    };
    let owner: OwnerRef = Rc::new(Nobody);
    let connection = h1::ClientConnection::new(Io::Pipe(io), Rc::new(settings), &owner);
    let mut stream = ClientStream::H1(connection.start());
    let head = RequestHead { protocol: Protocol::Http11, scheme: Scheme::Http, method: Method::GET, ..head };
    if let Err(error) = stream.send_head(&head, true) {
        panic!("{error}");
    }
    poll_fn(|cx| {
        let _ = stream.poll_reply(cx);
        Poll::Ready(())
    })
    .await;
    drop(stream);
    let mut sent = Vec::new();
    let _ = peer.read_to_end(&mut sent).await;
    sent
}
