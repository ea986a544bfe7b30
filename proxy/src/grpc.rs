//! gRPC over our own clusters: one stream with messages in both directions.
//!
//! The services that a configuration names (`envoy_grpc`) are clusters like any other, so a call takes a connection
//! from the cluster's pool, with its TLS, its keep-alive and its counters. Nothing here retries: who calls knows what
//! to do.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use outrigger_engine::balance::PickContext;
use outrigger_engine::config::grpc_service::GrpcService;
use outrigger_engine::message::{Headers, Protocol, RequestHead, Scheme};
use outrigger_engine::resilience::breaker::RoutingPriority;

use crate::cluster::pool::{Acquired, Lease, PoolError};
use crate::http::codec::{Body, ClientStream, Frame, Reply, StreamError};
use crate::worker::Worker;

/// In front of each message: a flag for compression and the length.
const PREFIX: usize = 5;

/// Why there is no call, or no more.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The configuration names a cluster that is not there.
    #[error("there is no cluster {0:?}")]
    NoCluster(Arc<str>),
    /// None of its hosts can be used.
    #[error("the cluster has no healthy host")]
    NoHost,
    /// The connection failed.
    #[error("no connection: {0}")]
    Connect(String),
    /// The stream or its connection broke.
    #[error("the stream broke: {0}")]
    Stream(#[from] StreamError),
    /// Whatever answered does not speak gRPC.
    #[error("the answer is no gRPC: HTTP status {0}")]
    NotGrpc(StatusCode),
    /// The service ended the call.
    #[error("the service ended the stream with status {code}{}{message}", if message.is_empty() { "" } else { ": " })]
    Status {
        /// `grpc-status`; 2 (UNKNOWN) where there was none.
        code: u32,
        /// `grpc-message`
        message: String,
    },
    /// A message above the limit.
    #[error("a message of {length} bytes is longer than max_receive_message_length, {limit}")]
    TooLong {
        /// Its length.
        length: usize,
        /// `max_receive_message_length`
        limit: usize,
    },
    /// A message is not of the type that it should be.
    #[error("a message cannot be decoded: {0}")]
    Malformed(String),
    /// A message is compressed, though no compression was offered.
    #[error("a message is compressed, which was not offered")]
    Compressed,
}

/// An open call. Dropping it resets the stream.
#[derive(Debug)]
pub struct Call {
    stream: ClientStream,
    /// Once the service has answered.
    body: Option<Body>,
    received: BytesMut,
    limit: usize,
}

/// A message with its prefix, as [`Call::send`] takes it.
pub fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX.saturating_add(message.len()));
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.extend_from_slice(message);
    framed.freeze()
}

impl Call {
    /// Calls the method `path` (`/package.Service/Method`). The service has not answered when this returns.
    ///
    /// # Errors
    ///
    /// There is no cluster, no host or no connection.
    pub async fn open(worker: &Rc<Worker>, service: &GrpcService, path: &'static str) -> Result<Call, CallError> {
        let cluster = worker.cluster(&service.cluster).ok_or_else(|| CallError::NoCluster(service.cluster.clone()))?;
        let context = PickContext { random: worker.random(), avoid: &[], max_reselections: 0 };
        let host = cluster.pick(&context).map_err(|_| CallError::NoHost)?;
        let failed = |error| match error {
            PoolError::Overflow => CallError::Connect("too many requests wait for one".to_owned()),
            PoolError::PoolOverflow => CallError::Connect("there are too many connection pools".to_owned()),
            PoolError::Connect(error) => CallError::Connect(error.reason.into_owned()),
        };
        let pool = cluster.pool(&host, Protocol::Http2, None, RoutingPriority::Default).map_err(failed)?;
        let lease = match pool.acquire().map_err(failed)? {
            Acquired::Ready(lease) => lease,
            Acquired::Pending(lease) => lease.await.map_err(failed)?,
        };
        let Lease { mut stream, .. } = *lease;
        let headers = [
            (http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc")),
            (http::header::TE, HeaderValue::from_static("trailers")),
            (http::header::USER_AGENT, HeaderValue::from_static(concat!("outrigger/", env!("CARGO_PKG_VERSION")))),
        ];
        let head = RequestHead {
            method: Method::POST,
            scheme: if cluster.tls().is_some() { Scheme::Https } else { Scheme::Http },
            authority: HeaderValue::from_str(&service.authority).ok(),
            path: HeaderValue::from_static(path),
            protocol: Protocol::Http2,
            headers: headers.into_iter().chain(service.initial_metadata.iter().cloned()).collect::<Headers>(),
        };
        stream.send_head(&head, false)?;
        cluster.stats.upstream_rq_total.inc();
        Ok(Call { stream, body: None, received: BytesMut::new(), limit: service.max_receive })
    }

    /// Ready when a message may be sent.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        self.stream.poll_ready(cx).map_err(CallError::from)
    }

    /// Sends a message that has its prefix (see [`frame`]). Where the call is not ready the message waits in memory.
    ///
    /// # Errors
    ///
    /// The stream is broken.
    pub fn send(&mut self, message: Bytes) -> Result<(), CallError> {
        Ok(self.stream.send_data(message, false)?)
    }

    /// The next message.
    ///
    /// # Errors
    ///
    /// The call is over, in whatever way; [`CallError::Status`] with code 0 is the regular one.
    pub fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, CallError>> {
        loop {
            if let Some(message) = take_message(&mut self.received, self.limit)? {
                return Poll::Ready(Ok(message));
            }
            match ready!(self.poll_body(cx))? {
                Frame::Data(data) if self.received.is_empty() => self.received = BytesMut::from(data),
                Frame::Data(data) => self.received.extend_from_slice(&data),
                Frame::Trailers(trailers) => return Poll::Ready(Err(status(&trailers))),
            }
        }
    }

    /// Ready when the service, or the connection, has ended the call. Messages that come until then are dropped.
    pub fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<CallError> {
        loop {
            if let Err(error) = ready!(self.poll_message(cx)) {
                return Poll::Ready(error);
            }
        }
    }

    /// Sends a message as soon as that is possible, if the call is not over before. Messages that come are dropped.
    ///
    /// # Errors
    ///
    /// The call is over.
    pub async fn send_only(&mut self, message: Bytes) -> Result<(), CallError> {
        poll_fn(|cx| match self.poll_end(cx) {
            Poll::Ready(error) => Poll::Ready(Err(error)),
            Poll::Pending => self.poll_ready(cx),
        })
        .await?;
        self.send(message)
    }

    /// Says that no message follows, and waits until the service has ended the call. Messages that come are dropped.
    pub async fn finish(&mut self) -> CallError {
        match self.stream.send_data(Bytes::new(), true) {
            Ok(()) => poll_fn(|cx| self.poll_end(cx)).await,
            Err(error) => error.into(),
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, CallError>> {
        loop {
            if let Some(body) = &mut self.body {
                return Poll::Ready(match ready!(body.poll_frame(cx)) {
                    Some(frame) => frame.map_err(CallError::from),
                    None => Err(CallError::Status { code: 2, message: "no grpc-status".to_owned() }),
                });
            }
            match ready!(self.stream.poll_reply(cx))? {
                Reply::Informational(_) => {}
                Reply::Response(head, _) if head.headers.contains(&GRPC_STATUS) => {
                    return Poll::Ready(Err(status(&head.headers)));
                }
                Reply::Response(head, _) if head.status != StatusCode::OK => {
                    return Poll::Ready(Err(CallError::NotGrpc(head.status)));
                }
                Reply::Response(_, body) => self.body = Some(body),
            }
        }
    }
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The status that headers or trailers carry.
fn status(headers: &Headers) -> CallError {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let code = text(&GRPC_STATUS).parse().unwrap_or(2);
    CallError::Status { code, message: percent_decoded(text(&GRPC_MESSAGE)) }
}

/// `grpc-message` is percent-encoded UTF-8. What is not is shown as it is.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).filter(|_| first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match hex.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Takes the first message, if all of it is there.
pub(crate) fn take_message(received: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, CallError> {
    let Some(&[flag, a, b, c, d]) = received.first_chunk::<PREFIX>() else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if flag != 0 {
        return Err(CallError::Compressed);
    }
    if length > limit {
        return Err(CallError::TooLong { length, limit });
    }
    if received.len() < PREFIX.saturating_add(length) {
        return Ok(None);
    }
    received.advance(PREFIX);
    Ok(Some(received.split_to(length).freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_by_their_lengths() {
        let mut received = BytesMut::new();
        let both = [frame(b"one"), frame(b"")].concat();
        for (index, byte) in both.iter().enumerate() {
            received.put_u8(*byte);
            let message = take_message(&mut received, 3).unwrap();
            let expected = match index {
                7 => Some(Bytes::from_static(b"one")),
                12 => Some(Bytes::new()),
                _ => None,
            };
            assert_eq!(message, expected, "{index}");
        }
        assert!(received.is_empty());
    }

    #[test]
    fn long_and_compressed_messages_are_errors() {
        let mut received = BytesMut::from(&frame(b"four")[..PREFIX]);
        let error = take_message(&mut received, 3).unwrap_err();
        assert_eq!(error.to_string(), "a message of 4 bytes is longer than max_receive_message_length, 3");
        let mut received = BytesMut::from(&[1, 0, 0, 0, 0][..]);
        assert!(matches!(take_message(&mut received, 3), Err(CallError::Compressed)));
    }

    #[test]
    fn a_status_is_read_from_headers() {
        let headers: Headers = [
            (GRPC_STATUS, HeaderValue::from_static("14")),
            (GRPC_MESSAGE, HeaderValue::from_static("no 100%25 caf%C3%A9 %zz")),
        ]
        .into_iter()
        .collect();
        let expected = "the service ended the stream with status 14: no 100% café %zz";
        assert_eq!(status(&headers).to_string(), expected);
        let nothing: [(HeaderName, HeaderValue); 0] = [];
        assert!(matches!(status(&nothing.into_iter().collect()), CallError::Status { code: 2, .. }));
    }
}
