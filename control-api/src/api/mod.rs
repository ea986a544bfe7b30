//! The gRPC API, `outrigger.control.v1.Control`, over the set in force and the one thread that writes.

mod check;
mod counters;
mod differences;
#[cfg(test)]
mod incremental_tests;
pub(crate) mod left_out;
pub mod objects;
mod paging;
mod programmed;
mod refusal;
mod roster;
#[cfg(test)]
mod tests;
mod waiting;
mod watching;
mod writer;

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use outrigger_proto::outrigger::control::v1::control_server::Control;
use outrigger_proto::outrigger::control::v1::{
    ApplyRequest, ApplyResponse, DeleteRequest, DeleteResponse, GetRequest, GetResponse, ListProxiesRequest,
    ListProxiesResponse, ListRequest, ListResponse, Object, ObjectKey, Proxy, ProxyType, WatchProxiesRequest,
    WatchProxiesResponse, WatchRequest, WatchResponse,
};
use tokio::sync::{Semaphore, mpsc, watch};
use tonic::{Request, Response, Status};

pub use self::check::Compiled;
pub use self::counters::{Counters, Method};
pub use self::programmed::Board;
use self::programmed::Standing;
pub use self::refusal::{Refusal, Violation};
use self::roster::Roster;
pub use self::waiting::{Events, Waiting};
use self::watching::Out;
pub use self::watching::Selection;
pub use self::writer::{ApplyOutcome, DeleteOutcome, Doomed, Held, InForce, Writer};
use crate::connection::Cut;
use crate::model::{DEFAULT_NAMESPACE, Key, Kind, Name};
use crate::serve::Unread;
use crate::store::Log;
use crate::xds::{Protocol, Proxies};

/// Watches at a time; further ones get `RESOURCE_EXHAUSTED`.
const WATCHES: usize = 1000;

/// The service.
#[derive(Clone, Debug)]
pub struct Api {
    /// Who writes.
    pub writer: Writer,
    /// What is in force.
    pub in_force: watch::Receiver<Arc<InForce>>,
    /// What was, and how it became so.
    pub log: Log,
    /// Who is connected.
    pub proxies: Arc<Proxies>,
    /// The same as watches show them.
    roster: watch::Receiver<Arc<Roster>>,
    /// What was asked.
    pub counters: Arc<Counters>,
    /// What was said of the objects.
    pub board: Arc<Board>,
    /// A permit for each watch that may be open: [`WATCHES`].
    pub watches: Arc<Semaphore>,
    /// What is on its way to them.
    pub waiting: Arc<Waiting>,
    /// What was ended because its clients did not read.
    pub unread: Arc<Unread>,
    /// When the process was started, RFC 3339.
    pub started: Arc<str>,
}

impl Api {
    /// The service over what the writer puts in force. To be called within a runtime.
    pub fn new(writer: Writer, in_force: watch::Receiver<Arc<InForce>>, log: Log, proxies: Arc<Proxies>) -> Self {
        let board = Arc::new(Board::default());
        let follow = programmed::follow(Arc::clone(&board), in_force.clone(), Arc::clone(&proxies));
        #[allow(clippy::disallowed_methods, reason = "the control plane has no workers that a request must stay on")]
        tokio::spawn(follow);
        let (publish, roster) = watch::channel(Arc::default());
        let follow = roster::follow(publish, Arc::clone(&proxies));
        #[allow(clippy::disallowed_methods, reason = "the control plane has no workers that a request must stay on")]
        tokio::spawn(follow);
        Self {
            writer,
            in_force,
            log,
            proxies,
            roster,
            counters: Arc::default(),
            board,
            watches: Arc::new(Semaphore::new(WATCHES)),
            waiting: Arc::new(Waiting::new(waiting::MOST)),
            unread: Arc::default(),
            started: objects::rfc3339(writer::now()).into(),
        }
    }

    /// The status of an object, what proxies made of it included.
    fn status(&self, set: &InForce, key: &Key, held: &Held, standing: &Standing) -> Option<crate::model::Status> {
        let mut status = crate::model::Status::clone(set.compiled.statuses.get(key)?);
        self.board.add(key, &held.record, &mut status, standing);
        Some(status)
    }

    /// An object with its status.
    fn shown(&self, set: &InForce, key: &Key, held: &Held, standing: &Standing) -> Object {
        self.with_status(set, key, held, self.status(set, key, held, standing).as_ref())
    }

    /// An object with its status, and what is left out of it.
    fn with_status(&self, set: &InForce, key: &Key, held: &Held, status: Option<&crate::model::Status>) -> Object {
        let mut object = objects::with_status(&held.stored.object, status);
        left_out::mark(&mut object, &set.compiled.mesh, key, &self.started);
        object
    }

    fn current(&self) -> Arc<InForce> {
        Arc::clone(&self.in_force.borrow())
    }

    fn counted<T>(&self, method: Method, result: Result<T, Status>) -> Result<Response<T>, Status> {
        let code = result.as_ref().map_or_else(Status::code, |_| tonic::Code::Ok);
        self.counters.count(method, code);
        result.map(Response::new)
    }

    /// Opens a watch, which `run` sends into until it ends.
    fn open_watch<T, F: Future<Output = ()> + Send + 'static>(
        &self,
        method: Method,
        run: impl FnOnce(Out<T>, Cut) -> F,
    ) -> Result<Response<Events<T>>, Status> {
        let Ok(permit) = Arc::clone(&self.watches).try_acquire_owned() else {
            let status = Status::resource_exhausted(format!("{WATCHES} watches are open, and no more are allowed"));
            return self.counted(method, Err(status));
        };
        let (out, pieces) = mpsc::channel(1);
        let cut = Cut::default();
        let watch = run(out, cut.clone());
        let run = async move {
            watch.await;
            drop(permit);
        };
        #[allow(clippy::disallowed_methods, reason = "the control plane has no workers that a request must stay on")]
        tokio::spawn(run);
        let mut response = self.counted(method, Ok(Events::new(pieces)))?;
        response.extensions_mut().insert(cut);
        Ok(response)
    }

    fn get_object(&self, request: GetRequest) -> Result<GetResponse, Status> {
        let key = key(request.key)?;
        let set = self.current();
        let held = set.objects.get(&key).ok_or_else(|| Status::from(Refusal::NotFound(vec![key.clone()])))?;
        Ok(GetResponse { object: Some(self.shown(&set, &key, held, &self.board.standing(&self.proxies))) })
    }

    fn list_objects(&self, request: &ListRequest) -> Result<ListResponse, Status> {
        let selection = Selection::new(&request.kind, &request.namespace, "")?;
        let most = match usize::try_from(request.page_size) {
            Ok(0) => usize::MAX,
            Ok(most) => most,
            Err(_) => {
                let reason =
                    format!("page_size {}: must be a number, 0 (as many as have place) or more", request.page_size);
                return Err(Status::invalid_argument(reason));
            }
        };
        let set = self.current();
        let (revision, last) = match request.page_token.as_str() {
            "" => (set.revision, None),
            token => paging::read(token, &selection, set.revision).map(|(revision, last)| (revision, Some(last)))?,
        };
        let standing = self.board.standing(&self.proxies);
        let mut page = paging::Page::new(most);
        let after = set.objects.from(|key| last.as_ref().is_some_and(|last| key <= last));
        for (key, held) in after.filter(|(key, _)| selection.holds(key)) {
            if !page.add(key, self.shown(&set, key, held, &standing)) {
                break;
            }
        }
        Ok(page.response(revision))
    }

    async fn apply_objects(&self, request: ApplyRequest) -> Result<ApplyResponse, Status> {
        let ApplyOutcome { revision, applied } = self.writer.apply(request.objects, request.dry_run).await?;
        Ok(ApplyResponse { revision, applied })
    }

    async fn delete_objects(&self, request: DeleteRequest) -> Result<DeleteResponse, Status> {
        let doomed = request.keys.into_iter().map(|wanted| {
            let resource_version = wanted.resource_version.clone();
            Ok(Doomed { key: key(Some(wanted))?, resource_version })
        });
        let doomed = doomed.collect::<Result<_, Status>>()?;
        let DeleteOutcome { revision, deleted } = self.writer.delete(doomed, request.dry_run).await?;
        Ok(DeleteResponse { revision, deleted })
    }
}

#[tonic::async_trait]
impl Control for Api {
    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyResponse>, Status> {
        let result = self.apply_objects(request.into_inner()).await;
        self.counted(Method::Apply, result)
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        self.counted(Method::Get, self.get_object(request.into_inner()))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        self.counted(Method::List, self.list_objects(request.get_ref()))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let result = self.delete_objects(request.into_inner()).await;
        self.counted(Method::Delete, result)
    }

    type WatchStream = Events<WatchResponse>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.open_watch(Method::Watch, |out, cut| watching::run(request.into_inner(), self.clone(), out, cut))
    }

    async fn list_proxies(
        &self,
        _request: Request<ListProxiesRequest>,
    ) -> Result<Response<ListProxiesResponse>, Status> {
        let proxies = self.proxies.list().into_iter().map(proxy).collect();
        self.counted(Method::ListProxies, Ok(ListProxiesResponse { proxies }))
    }

    type WatchProxiesStream = Events<WatchProxiesResponse>;

    async fn watch_proxies(
        &self,
        _request: Request<WatchProxiesRequest>,
    ) -> Result<Response<Self::WatchProxiesStream>, Status> {
        self.open_watch(Method::WatchProxies, |out, cut| roster::run(self.clone(), out, cut))
    }
}

fn proxy(proxy: crate::xds::Proxy) -> Proxy {
    let protocol = match proxy.protocol {
        Protocol::Delta => "delta",
        Protocol::StateOfTheWorld => "state-of-the-world",
    };
    let since = proxy.connected.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let types = proxy.kinds.into_iter().map(|(kind, status)| ProxyType {
        type_url: kind.type_url().to_owned(),
        resources: status.resources as u64,
        sent_version: status.sent,
        accepted_version: status.accepted,
        rejected: status.rejected,
    });
    Proxy {
        id: proxy.node,
        cluster: proxy.cluster,
        agent: proxy.agent,
        protocol: protocol.to_owned(),
        connected_since: objects::rfc3339(since),
        address: proxy.address.map(|address| address.to_string()).unwrap_or_default(),
        types: types.collect(),
    }
}

fn key(key: Option<ObjectKey>) -> Result<Key, Status> {
    let key = key.unwrap_or_default();
    if key.name.is_empty() {
        return Err(Status::invalid_argument("the key has no name"));
    }
    let namespace = if key.namespace.is_empty() { DEFAULT_NAMESPACE } else { &key.namespace };
    Ok(Key { kind: kind_named(&key.kind)?, name: Name::new(namespace, &key.name) })
}

fn kind_named(name: &str) -> Result<Kind, Status> {
    objects::kind(name).ok_or_else(|| {
        let reason = Kind::why_not(name, Kind::ALL.into_iter().map(Kind::as_str));
        Status::invalid_argument(format!("{name:?}: {reason}"))
    })
}
