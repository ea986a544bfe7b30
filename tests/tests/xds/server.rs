//! A management server that does what a test tells it, message by message. It speaks both variants of the protocol.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{LazyLock, mpsc};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use outrigger_engine::xds::Kind;
use outrigger_proto::envoy::config::core::v3::ControlPlane;
use outrigger_proto::envoy::service::discovery::v3 as pb;
use outrigger_proto::prost_types::Any;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc as channel;

use crate::PATIENCE;

/// A server on a socket. Dropping it closes all connections at once.
pub(crate) struct Server {
    streams: mpsc::Receiver<Stream>,
    runtime: Option<Runtime>,
}

/// A stream that the proxy opened.
pub(crate) struct Stream {
    /// The method.
    pub(crate) path: String,
    /// The request's headers.
    pub(crate) headers: http::HeaderMap,
    requests: mpsc::Receiver<Bytes>,
    responses: channel::UnboundedSender<Bytes>,
    /// Requests that nobody asked for yet.
    unread: Vec<Request>,
    nonce: u32,
}

/// A request of either variant.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) node: Option<String>,
    pub(crate) kind: Option<Kind>,
    /// All names, or those that are new.
    pub(crate) names: Vec<String>,
    pub(crate) unsubscribed: Vec<String>,
    pub(crate) nonce: String,
    /// The version of the last state that was accepted.
    pub(crate) version: String,
    /// What is there at the start of a delta stream.
    pub(crate) versions: BTreeMap<String, String>,
    /// Why it is a NACK.
    pub(crate) error: Option<String>,
}

impl Server {
    pub(crate) fn start(socket: &Path) -> Server {
        let _ = std::fs::remove_file(socket);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(async { UnixListener::bind(socket) }).unwrap();
        let (send, streams) = mpsc::channel();
        let tasks = runtime.handle().clone();
        runtime.spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                let (send, more) = (send.clone(), tasks.clone());
                tasks.spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(io).await else { return };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        let (parts, body) = request.into_parts();
                        let (to_test, requests) = mpsc::channel();
                        let (responses, from_test) = channel::unbounded_channel();
                        let path = parts.uri.path().to_owned();
                        let stream =
                            Stream { path, headers: parts.headers, requests, responses, unread: Vec::new(), nonce: 0 };
                        more.spawn(read(body, to_test));
                        more.spawn(write(respond, from_test));
                        let _ = send.send(stream);
                    }
                });
            }
        });
        Server { streams, runtime: Some(runtime) }
    }

    /// The next stream that the proxy opens.
    pub(crate) fn stream(&self) -> Stream {
        self.streams.recv_timeout(PATIENCE).expect("the proxy opens a stream")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn read(mut body: h2::RecvStream, requests: mpsc::Sender<Bytes>) {
    let mut received = BytesMut::new();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        received.extend_from_slice(&data);
        while let Some(prefix) = received.first_chunk::<5>() {
            let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
            if received.len() < 5 + length {
                break;
            }
            received.advance(5);
            let _ = requests.send(received.split_to(length).freeze());
        }
    }
}

async fn write(mut respond: SendResponse<Bytes>, mut messages: channel::UnboundedReceiver<Bytes>) {
    let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let Ok(mut body) = respond.send_response(head, false) else { return };
    while let Some(message) = messages.recv().await {
        let mut framed = BytesMut::with_capacity(message.len() + 5);
        framed.put_u8(0);
        framed.put_u32(message.len() as u32);
        framed.extend_from_slice(&message);
        if body.send_data(framed.freeze(), false).is_err() {
            return;
        }
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("14"));
    trailers.insert("grpc-message", http::HeaderValue::from_static("going%20away"));
    let _ = body.send_trailers(trailers);
}

impl Stream {
    fn is_delta(&self) -> bool {
        self.path.contains("/Delta")
    }

    /// The next request that `is_it`; others wait to be asked for.
    #[track_caller]
    pub(crate) fn request(&mut self, what: &str, is_it: impl Fn(&Request) -> bool) -> Request {
        if let Some(index) = self.unread.iter().position(&is_it) {
            return self.unread.remove(index);
        }
        loop {
            let Ok(message) = self.requests.recv_timeout(PATIENCE) else {
                panic!("{what} does not come; what came: {:#?}", self.unread);
            };
            let request = if self.is_delta() { delta(&message) } else { state_of_the_world(&message) };
            if is_it(&request) {
                return request;
            }
            self.unread.push(request);
        }
    }

    /// The first request of a kind, or the next change of its names.
    #[track_caller]
    pub(crate) fn subscription(&mut self, kind: Kind) -> Request {
        self.request(&format!("a subscription to {kind:?}"), |request| {
            request.kind == Some(kind) && (request.nonce.is_empty() || !request.names.is_empty())
        })
    }

    /// Sends resources, and what is removed where that can be said; returns the answer.
    #[track_caller]
    pub(crate) fn push(&mut self, kind: Kind, version: &str, resources: &[Value], removed: &[&str]) -> Request {
        let nonce = self.send(kind, version, resources, removed);
        self.request("an answer", |request| request.nonce == nonce)
    }

    /// As [`Stream::push`], and it must be accepted.
    #[track_caller]
    pub(crate) fn accepted(&mut self, kind: Kind, version: &str, resources: &[Value], removed: &[&str]) {
        let answer = self.push(kind, version, resources, removed);
        assert_eq!(answer.error, None);
    }

    /// Sends resources as they are, on a delta stream; returns the answer.
    #[track_caller]
    pub(crate) fn push_raw(&mut self, kind: Kind, resources: Vec<pb::Resource>, removed: &[&str]) -> Request {
        let removed_resources = removed.iter().map(ToString::to_string).collect();
        self.push_message(kind, pb::DeltaDiscoveryResponse { resources, removed_resources, ..Default::default() })
    }

    /// Sends a message on a delta stream, with its type and a nonce; returns the answer.
    #[track_caller]
    pub(crate) fn push_message(&mut self, kind: Kind, message: pb::DeltaDiscoveryResponse) -> Request {
        self.nonce += 1;
        let nonce = self.nonce.to_string();
        let message =
            pb::DeltaDiscoveryResponse { type_url: kind.type_url().to_owned(), nonce: nonce.clone(), ..message };
        let _ = self.responses.send(message.encode_to_vec().into());
        self.request("an answer", |request| request.nonce == nonce)
    }

    pub(crate) fn send(&mut self, kind: Kind, version: &str, resources: &[Value], removed: &[&str]) -> String {
        self.nonce += 1;
        let nonce = self.nonce.to_string();
        let type_url = kind.type_url().to_owned();
        let message = if self.is_delta() {
            let resources = resources.iter().map(|json| resource(kind, version, json)).collect();
            let removed_resources = removed.iter().map(ToString::to_string).collect();
            pb::DeltaDiscoveryResponse {
                type_url,
                nonce: nonce.clone(),
                control_plane: Some(ControlPlane { identifier: "the server".to_owned() }),
                resources,
                removed_resources,
                ..Default::default()
            }
            .encode_to_vec()
        } else {
            pb::DiscoveryResponse {
                type_url,
                nonce: nonce.clone(),
                control_plane: Some(ControlPlane { identifier: "the server".to_owned() }),
                version_info: version.to_owned(),
                resources: resources.iter().map(|json| any(kind, json)).collect(),
                ..Default::default()
            }
            .encode_to_vec()
        };
        let _ = self.responses.send(message.into());
        nonce
    }
}

/// A resource as delta streams carry it.
pub(crate) fn resource(kind: Kind, version: &str, json: &Value) -> pb::Resource {
    pb::Resource {
        name: name(json).to_owned(),
        version: version.to_owned(),
        resource: Some(any(kind, json)),
        ..Default::default()
    }
}

fn name(json: &Value) -> &str {
    json["name"].as_str().or(json["cluster_name"].as_str()).unwrap_or_default()
}

pub(crate) fn any(kind: Kind, json: &Value) -> Any {
    static POOL: LazyLock<DescriptorPool> =
        LazyLock::new(|| DescriptorPool::decode(outrigger_proto::DESCRIPTORS).unwrap());
    let descriptor = POOL.get_message_by_name(kind.type_url().rsplit_once('/').unwrap().1).unwrap();
    let message = DynamicMessage::deserialize(descriptor, json).unwrap();
    Any { type_url: kind.type_url().to_owned(), value: message.encode_to_vec() }
}

fn state_of_the_world(message: &[u8]) -> Request {
    let message = pb::DiscoveryRequest::decode(message).unwrap();
    Request {
        node: message.node.map(|node| node.id),
        kind: Kind::from_type_url(&message.type_url),
        names: message.resource_names,
        unsubscribed: Vec::new(),
        nonce: message.response_nonce,
        version: message.version_info,
        versions: BTreeMap::new(),
        error: message.error_detail.map(|status| status.message),
    }
}

fn delta(message: &[u8]) -> Request {
    let message = pb::DeltaDiscoveryRequest::decode(message).unwrap();
    Request {
        node: message.node.map(|node| node.id),
        kind: Kind::from_type_url(&message.type_url),
        names: message.resource_names_subscribe,
        unsubscribed: message.resource_names_unsubscribe,
        nonce: message.response_nonce,
        version: String::new(),
        versions: message.initial_resource_versions,
        error: message.error_detail.map(|status| status.message),
    }
}
