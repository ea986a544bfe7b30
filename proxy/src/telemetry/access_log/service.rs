//! The control thread's part in a gRPC access log: it keeps a stream to the service and sends what workers hand over.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use outrigger_engine::balance::PickContext;
use outrigger_engine::config::access_log::GrpcAccessLog;
use outrigger_engine::message::{Headers, Protocol, RequestHead, Scheme};
use outrigger_engine::resilience::breaker::RoutingPriority;
use tokio::time::sleep;

use super::grpc::METHOD;
use super::logger::NewStream;
use crate::cluster::pool::{Acquired, Lease};
use crate::http::codec::{Body, ClientStream, Frame, Reply, StreamError};
use crate::worker::Worker;

/// Between two attempts to open a stream, doubling from the first to the second.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error("there is no such cluster")]
    NoCluster,
    #[error("it has no healthy host")]
    NoHost,
    #[error("no connection: {0}")]
    Connect(String),
    #[error("the stream ended: {0:?}")]
    Stream(StreamError),
}

/// Sends the entries of a log until it is no longer configured.
pub async fn send(worker: Rc<Worker>, log: NewStream) {
    let NewStream { config, mut stream } = log;
    let mut call = None::<Call>;
    let mut back_off = BACK_OFF.0;
    loop {
        let next = poll_fn(|cx| {
            // A stream that the service ended is noticed while nothing is to be sent, too.
            if call.as_mut().is_some_and(|call| call.poll_end(cx).is_ready()) {
                call = None;
            }
            stream.poll_batch(cx)
        });
        let Some(batch) = next.await else { return };
        // Entries wait here, and behind them in the queue, until the service is back.
        loop {
            let (first, opened) = match call.take() {
                Some(call) => (false, Ok(call)),
                None => (true, Call::open(&worker, &config).await),
            };
            let sent = match opened {
                Ok(mut opened) => opened.send(stream.message(&batch, first)).await.map(|()| opened),
                Err(error) => Err(error),
            };
            match sent {
                Ok(opened) => {
                    call = Some(opened);
                    back_off = BACK_OFF.0;
                    break;
                }
                Err(error) => {
                    tracing::warn!("access log service in cluster {:?}: {error}", config.service.cluster);
                    sleep(back_off).await;
                    back_off = (back_off * 2).min(BACK_OFF.1);
                }
            }
        }
    }
}

/// An open stream.
struct Call {
    stream: ClientStream,
    /// Once the service has answered.
    body: Option<Body>,
}

impl Call {
    async fn open(worker: &Rc<Worker>, config: &GrpcAccessLog) -> Result<Call, OpenError> {
        let cluster = worker.cluster(&config.service.cluster).ok_or(OpenError::NoCluster)?;
        let context = PickContext { random: worker.random(), avoid: &[], max_reselections: 0 };
        let host = cluster.pick(&context).map_err(|_| OpenError::NoHost)?;
        let failed = |error| OpenError::Connect(format!("{error:?}"));
        let pool = cluster.pool(&host, Protocol::Http2, None);
        let lease = match pool.acquire(RoutingPriority::Default).map_err(failed)? {
            Acquired::Ready(lease) => lease,
            Acquired::Pending(lease) => match lease.await {
                Ok(lease) => lease.map_err(failed)?,
                Err(_) => return Err(OpenError::Connect("the pool is gone".to_owned())),
            },
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
            authority: HeaderValue::from_str(&config.service.authority).ok(),
            path: HeaderValue::from_static(METHOD),
            protocol: Protocol::Http2,
            connect_protocol: None,
            headers: headers.into_iter().chain(config.service.initial_metadata.iter().cloned()).collect::<Headers>(),
        };
        stream.send_head(&head, false).map_err(OpenError::Stream)?;
        cluster.stats.upstream_rq_total.inc();
        Ok(Call { stream, body: None })
    }

    async fn send(&mut self, message: bytes::Bytes) -> Result<(), OpenError> {
        poll_fn(|cx| match self.poll_end(cx) {
            Poll::Ready(error) => Poll::Ready(Err(error)),
            Poll::Pending => self.stream.poll_ready(cx),
        })
        .await
        .and_then(|()| self.stream.send_data(message, false))
        .map_err(OpenError::Stream)
    }

    /// Ready when the service, or the connection, has ended the stream.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        loop {
            let Some(body) = &mut self.body else {
                match ready!(self.stream.poll_reply(cx)) {
                    Ok(Reply::Informational(_)) => {}
                    Ok(Reply::Response(head, body)) if is_accepted(&head.headers, head.status) => {
                        self.body = Some(body);
                    }
                    Ok(Reply::Response(..)) => return Poll::Ready(StreamError::Refused),
                    Err(error) => return Poll::Ready(error),
                }
                continue;
            };
            match ready!(body.poll_frame(cx)) {
                Some(Ok(Frame::Data(_))) => {}
                Some(Err(error)) => return Poll::Ready(error),
                Some(Ok(Frame::Trailers(_))) | None => return Poll::Ready(StreamError::ConnectionClosed),
            }
        }
    }
}

/// Whether a response goes on: one that already has a status has ended.
fn is_accepted(headers: &Headers, status: StatusCode) -> bool {
    status == StatusCode::OK && !headers.contains(&HeaderName::from_static("grpc-status"))
}
