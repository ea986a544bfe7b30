//! The streams of one session: frames in and out. A response is made when the transport asks for one, so a client that
//! reads slowly makes nothing pile up here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use outrigger_engine::xds::Kind;
use outrigger_proto::envoy::config::core::v3::{ControlPlane, Node};
use outrigger_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource as Named,
};
use outrigger_proto::google::rpc;
use outrigger_proto::prost_types::Any;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, Sleep};
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;
use tonic::{Status, Streaming};

use super::proxies::{self, Proxies};
use super::session::{Answer, Names, Protocol, Request, Response, Session};
use super::{Resource, Views};
use crate::connection::Peer;
use crate::log::BOUNDED;
use crate::node::{Caller, LONGEST_TEXT};

/// `control_plane.identifier`: Envoy shows it in its statistics.
const IDENTIFIER: &str = concat!("outrigger/", env!("CARGO_PKG_VERSION"));

/// How much of the reason of a rejection is kept, in bytes: as much as our proxy says.
const LONGEST_REASON: usize = 4096;
/// How long a stream may be without its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(10);

/// The messages of a protocol.
pub(super) trait Messages {
    type Request: Send + 'static;
    type Response;
    const PROTOCOL: Protocol;

    /// The version that the client says to have of the kind, where it says so for all of it at once.
    fn version(request: &Self::Request) -> &str;
    /// Node, type URL and the rest.
    fn read(request: Self::Request) -> (Option<Node>, String, Request);
    fn write(response: Response) -> Self::Response;
}

/// [`Protocol::Delta`].
#[derive(Debug)]
pub(super) struct Delta;

impl Messages for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;
    const PROTOCOL: Protocol = Protocol::Delta;

    fn version(_: &Self::Request) -> &str {
        ""
    }

    fn read(request: Self::Request) -> (Option<Node>, String, Request) {
        let names = Names::Delta {
            subscribe: request.resource_names_subscribe,
            unsubscribe: request.resource_names_unsubscribe,
            versions: request.initial_resource_versions,
        };
        let error = request.error_detail.map(reason);
        (request.node, request.type_url, Request { nonce: request.response_nonce, error, names })
    }

    fn write(response: Response) -> Self::Response {
        let named = |resource: Arc<Resource>| Named {
            name: resource.name.to_string(),
            version: resource.version.to_string(),
            resource: Some(any(response.kind, &resource)),
            ..Named::default()
        };
        DeltaDiscoveryResponse {
            system_version_info: response.version.to_string(),
            resources: response.resources.into_iter().map(named).collect(),
            type_url: response.kind.type_url().to_owned(),
            removed_resources: response.removed.iter().map(ToString::to_string).collect(),
            nonce: response.nonce.to_string(),
            control_plane: Some(ControlPlane { identifier: IDENTIFIER.to_owned() }),
            ..DeltaDiscoveryResponse::default()
        }
    }
}

/// [`Protocol::StateOfTheWorld`].
#[derive(Debug)]
pub(super) struct StateOfTheWorld;

impl Messages for StateOfTheWorld {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;
    const PROTOCOL: Protocol = Protocol::StateOfTheWorld;

    fn version(request: &Self::Request) -> &str {
        &request.version_info
    }

    fn read(request: Self::Request) -> (Option<Node>, String, Request) {
        let error = request.error_detail.map(reason);
        let names = Names::All(request.resource_names);
        (request.node, request.type_url, Request { nonce: request.response_nonce, error, names })
    }

    fn write(response: Response) -> Self::Response {
        DiscoveryResponse {
            version_info: response.version.to_string(),
            resources: response.resources.iter().map(|resource| any(response.kind, resource)).collect(),
            type_url: response.kind.type_url().to_owned(),
            nonce: response.nonce.to_string(),
            control_plane: Some(ControlPlane { identifier: IDENTIFIER.to_owned() }),
            ..DiscoveryResponse::default()
        }
    }
}

/// Why a response is rejected.
fn reason(status: rpc::Status) -> String {
    let text = status.message;
    match text.get(..text.floor_char_boundary(LONGEST_REASON)) {
        Some(start) if start.len() < text.len() => start.to_owned(),
        _ => text,
    }
}

fn any(kind: Kind, resource: &Resource) -> Any {
    Any { type_url: kind.type_url().to_owned(), value: resource.body.to_vec() }
}

/// One stream, as the responses that go out on it.
pub(super) struct Serve<M: Messages> {
    address: Option<SocketAddr>,
    requests: Streaming<M::Request>,
    views: Arc<dyn Views>,
    changes: WatchStream<Arc<dyn Views>>,
    proxies: Arc<Proxies>,
    /// The kind of a service that carries one kind only.
    only: Option<Kind>,
    /// From the first request on.
    open: Option<Open>,
    /// Until the first request the end of [`FIRST_REQUEST`], then the session's deadline.
    timer: Option<Pin<Box<Sleep>>>,
    places: Places,
}

/// What the stream may have the server keep.
pub(super) struct Places {
    /// Resources that it may name.
    pub(super) names: usize,
    /// Whether it was said that clients have resources of another store.
    pub(super) warned: Arc<AtomicBool>,
    /// Its own place among all streams.
    pub(super) _stream: OwnedSemaphorePermit,
}

impl Places {
    /// The client has resources, and the store has had none ever: it would lose all that it works with.
    fn foreign(&self, node: &str) -> Status {
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{node} comes with resources, but nothing was ever applied to this store: is --data another directory than \
                 before, or its volume not mounted? Such proxies are refused and keep what they have, until something is \
                 applied: the whole mesh at once, for what is missing then is taken from them"
            );
        }
        Status::failed_precondition(
            "the client has resources, but nothing was ever applied to this control plane: see its log",
        )
    }
}

struct Open {
    caller: Caller,
    session: Session,
    /// The revision of which the proxy was seen to have everything, by kind.
    complete: BTreeMap<Kind, u64>,
    /// The kinds that it asked for.
    knows: BTreeSet<Kind>,
    /// Whether it asked for a type that is not served, which the log has then.
    asked_for_other: bool,
    entry: proxies::Stream,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(past) = self.session.past() {
            self.entry.remember(past);
        }
    }
}

impl<M: Messages> Serve<M> {
    pub(super) fn new(
        requests: tonic::Request<Streaming<M::Request>>,
        mut views: watch::Receiver<Arc<dyn Views>>,
        proxies: Arc<Proxies>,
        only: Option<Kind>,
        places: Places,
    ) -> Self {
        let current = views.borrow_and_update().clone();
        let changes = WatchStream::from_changes(views);
        let address = requests.extensions().get::<Peer>().and_then(|peer| peer.address);
        let requests = requests.into_inner();
        let timer = Some(Box::pin(tokio::time::sleep(FIRST_REQUEST)));
        Self { address, requests, views: current, changes, proxies, only, open: None, timer, places }
    }

    fn request(&mut self, request: M::Request) -> Result<(), Status> {
        let version = M::version(&request).to_owned();
        let (node, type_url, request) = M::read(request);
        let texts = [("type_url", &type_url), ("version_info", &version)];
        let longer = texts.into_iter().find(|(_, text)| text.len() > LONGEST_TEXT).map(|(field, _)| field);
        let longer = longer.or_else(|| request.names.longer_than(LONGEST_TEXT));
        if let Some(field) = longer {
            return Err(Status::invalid_argument(format!("{field} has a text of more than {LONGEST_TEXT} bytes")));
        }
        let kind = self.kind(&type_url)?;
        if self.open.is_none() {
            let node = node.unwrap_or_default();
            if node.id.is_empty() {
                return Err(Status::invalid_argument("the first request of a stream has to hold node.id"));
            }
            let caller = Caller::of(&node).map_err(Status::invalid_argument)?;
            let session = Session::new(M::PROTOCOL, self.only.is_none(), self.views.view(&caller));
            let entry = self.proxies.clone().open(&node, self.address, M::PROTOCOL, session.needs());
            self.open = Some(Open {
                caller,
                session,
                complete: BTreeMap::new(),
                knows: BTreeSet::new(),
                asked_for_other: false,
                entry,
            });
        }
        if let Some(open) = &mut self.open {
            let Some(kind) = kind else {
                if !std::mem::replace(&mut open.asked_for_other, true) {
                    tracing::warn!(
                        target: BOUNDED,
                        "{} asks for {type_url:?}: this server has none, and leaves it unanswered",
                        open.caller.id
                    );
                }
                return Ok(());
            };
            let most = self.places.names;
            let before = request.names.count();
            let sent = open.session.unanswered(kind);
            if kind == Kind::Cluster && !open.knows.contains(&kind) {
                open.session.resume(&version, open.entry.past(&version));
            }
            let answer = open.session.request(kind, request);
            if let Answer::Rejected(reason) = &answer {
                let (node, kind, version) = (&open.caller.id, kind.service(), sent.unwrap_or_default());
                tracing::warn!(target: BOUNDED, "{node} rejects version {version} of {kind}: {reason}");
            }
            // Both: one request may repeat a name, and many requests may name few each.
            let named = before.max(open.session.names());
            if named > most {
                return Err(Status::resource_exhausted(format!(
                    "the stream names {named} resources, and no more than {most} are allowed (--xds-max-names)"
                )));
            }
            if self.views.is_new() && !open.knows.contains(&kind) && open.session.came_with_others(kind, &version) {
                return Err(self.places.foreign(&open.caller.id));
            }
            if matches!(answer, Answer::Rejected(_)) {
                open.complete.remove(&kind);
            }
            open.entry.answered(kind, answer, open.session.told(kind), open.session.refused(kind));
            if let Some(version) = open.session.held(kind).filter(|_| !open.knows.contains(&kind)) {
                open.entry.held(kind, &version);
            }
            open.knows.insert(kind);
        }
        Ok(())
    }

    /// Server or client ends the stream, one way or the other. Who hears of it finds the proxy gone.
    fn end<T>(&mut self) -> Poll<Option<T>> {
        self.open = None;
        Poll::Ready(None)
    }

    /// `None`: a type that is not served, on a stream that carries all. Who configures it beside ours (runtime,
    /// secrets) is to have the rest; it waits for that one as it would for a control plane that does not answer.
    fn kind(&self, type_url: &str) -> Result<Option<Kind>, Status> {
        match (self.only, Kind::from_type_url(type_url)) {
            (Some(only), kind) if type_url.is_empty() || kind == Some(only) => Ok(Some(only)),
            (Some(only), _) => Err(Status::invalid_argument(format!(
                "type_url {type_url:?}: this service has resources of the type {}",
                only.type_url()
            ))),
            (None, None) if type_url.is_empty() => Err(Status::invalid_argument(format!(
                "type_url is required: this server has resources of the types {}",
                Kind::ALL.map(Kind::type_url).join(", ")
            ))),
            (None, kind) => Ok(kind),
        }
    }
}

/// Of a request that cannot be decoded the transport says `INTERNAL`, as if the fault were here, in words of prost's that
/// name every message around it, the innermost first: `Value.kind: Struct.fields: Node.metadata: `.
fn unreadable(status: Status) -> Status {
    /// Fields that are named, from the outermost.
    const NAMED: usize = 4;
    let Some(what) = status.message().strip_prefix("failed to decode Protobuf message: ") else { return status };
    let (mut fields, mut reason) = (Vec::new(), what);
    while let Some((field, rest)) = reason.split_once(": ").filter(|(field, _)| !field.contains(' ')) {
        fields.push(field.rsplit('.').next().unwrap_or_default());
        reason = rest;
    }
    let path = fields.into_iter().rev().take(NAMED).collect::<Vec<_>>().join(".");
    let field = if path.is_empty() { "the request" } else { &path };
    Status::invalid_argument(format!("{field} cannot be read: {reason}"))
}

impl<M: Messages> Stream for Serve<M> {
    type Item = Result<M::Response, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            while let Poll::Ready(views) = Pin::new(&mut this.changes).poll_next(context) {
                let Some(views) = views else { return this.end() };
                if let Some(open) = &mut this.open {
                    open.session.update(views.view(&open.caller));
                    open.entry.needs(open.session.needs());
                }
                this.views = views;
            }
            let request = match Pin::new(&mut this.requests).poll_next(context) {
                Poll::Ready(Some(Ok(request))) => Some(request),
                Poll::Ready(Some(Err(status))) => {
                    let status = unreadable(status);
                    let node = this.open.as_ref().map(|open| open.caller.id.as_str()).unwrap_or_default();
                    let address = this.address.map(|address| address.to_string()).unwrap_or_default();
                    tracing::warn!(target: BOUNDED, "an xDS stream of {node} {address} ends: {}", status.message());
                    this.open = None;
                    return Poll::Ready(Some(Err(status)));
                }
                Poll::Ready(None) => return this.end(),
                Poll::Pending => None,
            };
            let idle = request.is_none();
            if let Some(request) = request
                && let Err(status) = this.request(request)
            {
                this.open = None;
                return Poll::Ready(Some(Err(status)));
            }
            let now = Instant::now();
            let Some(open) = &mut this.open else {
                if !idle {
                    continue;
                }
                std::task::ready!(this.timer.as_mut().map_or(Poll::Pending, |timer| timer.as_mut().poll(context)));
                this.timer = None;
                let silent = format!("no request came in the first {FIRST_REQUEST:?} of the stream");
                return Poll::Ready(Some(Err(Status::deadline_exceeded(silent))));
            };
            if let Some(response) = open.session.next(now.into_std()) {
                open.entry.sent(&response, open.session.told(response.kind), this.views.revision());
                return Poll::Ready(Some(Ok(M::write(response))));
            }
            if !idle {
                continue;
            }
            let revision = this.views.revision();
            for kind in open.knows.iter().copied() {
                if open.complete.get(&kind) != Some(&revision) && open.session.complete(kind) {
                    open.complete.insert(kind, revision);
                    open.entry.complete(kind, revision);
                }
            }
            let Some(deadline) = open.session.deadline(now.into_std()).map(Instant::from_std) else {
                return Poll::Pending;
            };
            let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            timer.as_mut().reset(deadline);
            if timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }
}
