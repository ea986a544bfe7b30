//! CSDS (`envoy.service.status.v3.ClientStatusDiscoveryService`): what became of each resource that came by discovery,
//! for tools such as `grpcdebug`. Both methods answer each request with the state as it is then.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, StatusCode};
use outrigger_engine::message::{Headers, Protocol, ResponseHead};
use outrigger_engine::xds::Kind;
use outrigger_proto::envoy::service::status::v3::client_config::GenericXdsConfig;
use outrigger_proto::envoy::service::status::v3::{ClientConfig, ClientStatusRequest, ClientStatusResponse};
use outrigger_proto::prost::Message as _;
use prost_reflect::DynamicMessage;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::config_dump::Shown;
use super::json::{JsonError, Printer};
use super::query::Query;
use super::server::{ANSWER, IDLE, in_time};
use super::{AdminState, Response};
use crate::grpc::{CallError, frame, take_message};
use crate::http::codec::{Body, Frame, Responder, StreamError};

/// Its methods; the second one is a stream in both directions.
const METHODS: [&[u8]; 2] = [
    b"/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus",
    b"/envoy.service.status.v3.ClientStatusDiscoveryService/StreamClientStatus",
];

/// A request may be so long, in bytes.
const MAX_REQUEST: usize = 64 << 10;

/// Whether a path is one of the service's.
pub(super) fn is_method(path: &[u8]) -> bool {
    METHODS.contains(&path)
}

/// The answer as JSON.
pub(super) fn client_status(state: &dyn AdminState, query: &Query) -> Response {
    let printed = Printer::new().and_then(|printer| {
        let message = status(state, query.has("exclude_resource_contents"), &printer)?;
        printer.print(&message, false)
    });
    match printed {
        Ok(text) => Response::json(text),
        Err(error) => Response::error(500, error.to_string()),
    }
}

/// What is configured by discovery, without secrets.
fn status(state: &dyn AdminState, without_contents: bool, printer: &Printer) -> Result<DynamicMessage, JsonError> {
    let mut configs = Vec::new();
    for kind in Kind::ALL {
        for (name, status) in state.record().of(kind) {
            let Shown { version_info, config, last_updated, mut error_state, client_status } =
                Shown::new(kind, &name, &status);
            if without_contents && let Some(error) = &mut error_state {
                error.failed_configuration = None;
            }
            configs.push(GenericXdsConfig {
                type_url: kind.type_url().to_owned(),
                name,
                version_info,
                xds_config: config.filter(|_| !without_contents),
                last_updated,
                client_status: client_status as i32,
                error_state,
                ..Default::default()
            });
        }
    }
    let config = ClientConfig { node: Some(state.node()), generic_xds_configs: configs, ..Default::default() };
    let mut message = printer.dynamic(&ClientStatusResponse { config: vec![config] })?;
    printer.clean(&mut message)?;
    Ok(message)
}

/// Serves a call: an answer for each request that comes.
pub(super) async fn serve(
    mut body: Body,
    responder: &mut Responder,
    state: &Arc<dyn AdminState>,
) -> Result<(), StreamError> {
    let head = ResponseHead {
        status: StatusCode::OK,
        protocol: Protocol::Http2,
        headers: [(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))].into_iter().collect(),
    };
    responder.send_head(head, false)?;
    let mut received = BytesMut::new();
    let end = loop {
        let next = timeout(IDLE, poll_fn(|task| poll_request(task, &mut body, &mut received)));
        let request = match next.await.unwrap_or(Err(CallError::Stream(StreamError::Local))) {
            Ok(Some(request)) => ClientStatusRequest::decode(request).map_err(|error| (3, error.to_string())),
            Ok(None) => break (0, String::new()),
            Err(CallError::Stream(error)) => return Err(error),
            Err(error) => Err((8, error.to_string())),
        };
        let answer = match request {
            Ok(request) => answer(state.clone(), request.exclude_resource_contents).await,
            Err(fault) => Err(fault),
        };
        match answer {
            Ok(answer) => {
                in_time(ANSWER, poll_fn(|task| responder.poll_ready(task))).await?;
                responder.send_data(answer, false)?;
            }
            Err(fault) => break fault,
        }
    };
    let (code, reason) = end;
    let mut trailers = Headers::with_capacity(2);
    trailers.append(HeaderName::from_static("grpc-status"), HeaderValue::from(code));
    if let Ok(reason) = HeaderValue::try_from(reason)
        && !reason.is_empty()
    {
        trailers.append(HeaderName::from_static("grpc-message"), reason);
    }
    responder.send_trailers(trailers)?;
    in_time(ANSWER, poll_fn(|task| responder.poll_flush(task))).await
}

async fn answer(state: Arc<dyn AdminState>, without_contents: bool) -> Result<Bytes, (u16, String)> {
    let made = spawn_blocking(move || {
        Printer::new().and_then(|printer| Ok(status(&*state, without_contents, &printer)?.encode_to_vec()))
    });
    match made.await {
        Ok(Ok(message)) => Ok(frame(&message)),
        Ok(Err(error)) => Err((13, error.to_string())),
        Err(_) => Err((13, "the answer could not be made".to_owned())),
    }
}

/// The next request; `None` after the last.
fn poll_request(
    task: &mut Context<'_>,
    body: &mut Body,
    received: &mut BytesMut,
) -> Poll<Result<Option<Bytes>, CallError>> {
    loop {
        if let Some(message) = take_message(received, MAX_REQUEST)? {
            return Poll::Ready(Ok(Some(message)));
        }
        match ready!(body.poll_frame(task)) {
            Some(Ok(Frame::Data(data))) => received.extend_from_slice(&data),
            Some(Ok(Frame::Trailers(_))) => {}
            Some(Err(error)) => return Poll::Ready(Err(error.into())),
            None => return Poll::Ready(Ok(None)),
        }
    }
}
