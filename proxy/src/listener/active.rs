//! Listeners and filter chains as one worker runs them, from one version of the configuration to the next.
//!
//! A socket belongs to an address and looks at the listener of now for every connection. A connection belongs to its
//! filter chain: as long as that is in force nothing happens to it, whatever else changes; when it goes, the connection
//! ends with an answer (`connection: close`) or GOAWAY as `--drain-strategy` says, and at the latest after the drain
//! time. One that idles is not closed before: its next request may be on its way.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::Cache;
use outrigger_engine::config::hcm::RouteSource;
use outrigger_engine::config::listener::{FilterChain, Listener, NetworkFilter, TrafficDirection};
use outrigger_engine::route::RouteTable;
use outrigger_engine::snapshot::{Routes, Snapshot};
use tokio::task::spawn_local;
use tokio::time::sleep;

use super::accept::accept_loop;
use super::drain::Drain;
use super::socket::ListenSocket;
use crate::args::ServeArgs;
use crate::telemetry::stats::ListenerStats;
use crate::worker::{LocalEvent, SocketId, Worker};

/// A listener as one worker runs it.
#[derive(Debug)]
pub struct WorkerListener {
    /// Its configuration.
    pub config: Arc<Listener>,
    /// Its counters on this worker.
    pub stats: Arc<ListenerStats>,
    /// The worker.
    pub worker: Rc<Worker>,
    /// Those that had a connection here, by the address of their configuration, which they keep alive.
    chains: RefCell<HashMap<usize, Rc<WorkerChain>>>,
    /// What has taken its place: nothing, or another one. Connections that are not at their chain yet come still.
    gone: RefCell<Option<Option<Rc<WorkerListener>>>>,
}

impl WorkerListener {
    pub(crate) fn new(config: Arc<Listener>, worker: &Rc<Worker>) -> Self {
        let stats = worker.process.stats.listener(&config.stat_prefix).shard(worker.index);
        let (chains, gone) = Default::default();
        WorkerListener { config, stats, worker: worker.clone(), chains, gone }
    }

    /// What the connections of `chain` share, made at the first one.
    pub fn chain(&self, chain: &Arc<FilterChain>) -> Rc<WorkerChain> {
        if let Some(Some(next)) = &*self.gone.borrow()
            && next.has(chain)
        {
            return next.chain(chain);
        }
        let key = Arc::as_ptr(chain).addr();
        let make = || {
            let chain = WorkerChain::new(chain.clone(), &self.worker);
            if self.gone.borrow().is_some() {
                chain.retire(&self.worker.process.args);
            }
            chain
        };
        self.chains.borrow_mut().entry(key).or_insert_with(make).clone()
    }

    /// Whether `chain` is in force by it.
    fn has(&self, chain: &Arc<FilterChain>) -> bool {
        self.config.chains().any(|kept| Arc::ptr_eq(kept, chain))
    }

    /// The chains that `next` has too go over to it; the connections of the others are to end.
    fn hand_over(&self, next: Option<&Rc<WorkerListener>>) {
        self.gone.replace(Some(next.cloned()));
        for (key, chain) in self.chains.borrow_mut().drain() {
            match next {
                Some(next) if next.has(&chain.config) => {
                    next.chains.borrow_mut().insert(key, chain);
                }
                _ => chain.retire(&self.worker.process.args),
            }
        }
    }
}

/// A filter chain as one worker runs it.
#[derive(Debug)]
pub struct WorkerChain {
    /// Its configuration.
    pub config: Arc<FilterChain>,
    /// Begins when its connections are to end, each with an answer or a GOAWAY.
    pub drain: Drain,
    /// Set when those that are left are to end now.
    pub end: Rc<LocalEvent>,
    routes: LocalRoutes,
}

impl WorkerChain {
    fn new(config: Arc<FilterChain>, worker: &Worker) -> Rc<Self> {
        let routes = match &config.filter {
            NetworkFilter::Http(manager) => LocalRoutes::new(&manager.routes),
            NetworkFilter::Tcp(_) => LocalRoutes::None,
        };
        let chain = WorkerChain { config, drain: Drain::default(), end: Rc::default(), routes };
        chain.drain.join(worker.listener_drain());
        Rc::new(chain)
    }

    /// The route table of now. A request keeps it to its end.
    pub fn routes(&self) -> Rc<HeldTable> {
        match &self.routes {
            LocalRoutes::None => Rc::new(HeldTable(Arc::new(RouteTable::empty("".into())))),
            LocalRoutes::Inline(table) => table.clone(),
            LocalRoutes::Rds(following) => {
                let (newest, table) = &mut *following.borrow_mut();
                let newest = newest.load();
                if !Arc::ptr_eq(newest, &table.0) {
                    *table = Rc::new(HeldTable(Arc::clone(newest)));
                }
                table.clone()
            }
        }
    }

    fn retire(self: &Rc<Self>, args: &ServeArgs) {
        let drain_time = args.drain_time();
        self.drain.begin(args.drain_strategy, drain_time);
        let chain = Rc::downgrade(self);
        spawn_local(async move {
            sleep(drain_time).await;
            if let Some(chain) = chain.upgrade() {
                chain.end.set();
            }
        });
    }
}

/// A route table as one worker holds it: requests count their references on this worker.
#[derive(Debug)]
pub struct HeldTable(Arc<RouteTable>);

impl Deref for HeldTable {
    type Target = RouteTable;

    fn deref(&self) -> &RouteTable {
        &self.0
    }
}

/// Where a chain's requests find their route table.
#[derive(Debug)]
enum LocalRoutes {
    /// It speaks no HTTP.
    None,
    /// The chain's own.
    Inline(Rc<HeldTable>),
    /// One that is exchanged, and what it was at the last look.
    Rds(RefCell<(Cache<Arc<Routes>, Arc<RouteTable>>, Rc<HeldTable>)>),
}

impl LocalRoutes {
    fn new(source: &RouteSource) -> Self {
        match source {
            RouteSource::Inline(table) => LocalRoutes::Inline(Rc::new(HeldTable(table.clone()))),
            RouteSource::Rds(rds) => match rds.table.get() {
                Some(routes) => {
                    let table = Rc::new(HeldTable(routes.load_full()));
                    LocalRoutes::Rds(RefCell::new((Cache::new(routes.clone()), table)))
                }
                None => LocalRoutes::None,
            },
        }
    }
}

/// A socket that is accepted on.
#[derive(Debug)]
pub struct Accepting {
    /// Who gets the connections.
    pub listener: RefCell<Rc<WorkerListener>>,
    /// Set when what waits is to be accepted, and then no more.
    pub closing: Rc<LocalEvent>,
}

/// The listeners of one worker.
#[derive(Debug, Default)]
pub struct WorkerListeners {
    by_name: RefCell<HashMap<Arc<str>, Rc<WorkerListener>>>,
    sockets: RefCell<HashMap<SocketId, Rc<Accepting>>>,
    /// Sockets whose listener had gone again when they came: they listen, and the next word about them says whose they
    /// are.
    unowned: RefCell<HashMap<SocketId, ListenSocket>>,
}

impl WorkerListeners {
    /// Accepts on a socket from now on.
    pub fn accept(&self, worker: &Rc<Worker>, id: SocketId, name: &Arc<str>, socket: ListenSocket) {
        match self.named(worker, name) {
            Some(listener) => self.accept_for(listener, id, socket),
            None => _ = self.unowned.borrow_mut().insert(id, socket),
        }
    }

    fn accept_for(&self, listener: Rc<WorkerListener>, id: SocketId, socket: ListenSocket) {
        let accepting = Rc::new(Accepting { listener: RefCell::new(listener), closing: Rc::default() });
        spawn_local(accept_loop(accepting.clone(), socket));
        self.sockets.borrow_mut().insert(id, accepting);
    }

    /// Gives the connections of an address to another listener.
    pub fn own(&self, worker: &Rc<Worker>, id: SocketId, name: &Arc<str>) {
        let Some(listener) = self.named(worker, name) else { return };
        if let Some(accepting) = self.sockets.borrow().get(&id) {
            accepting.listener.replace(listener);
            return;
        }
        let unowned = self.unowned.borrow_mut().remove(&id);
        if let Some(socket) = unowned {
            self.accept_for(listener, id, socket);
        }
    }

    /// Closes a socket when its queue is empty.
    pub fn close(&self, id: SocketId) {
        // Nobody is there to serve what waits in it.
        self.unowned.borrow_mut().remove(&id);
        if let Some(accepting) = self.sockets.borrow_mut().remove(&id) {
            accepting.closing.set();
        }
    }

    /// Closes all sockets, or those of listeners that are `INBOUND`.
    pub fn stop(&self, inbound_only: bool) {
        self.sockets.borrow_mut().retain(|_, accepting| {
            let stays = inbound_only && accepting.listener.borrow().config.direction != TrafficDirection::Inbound;
            if !stays {
                accepting.closing.set();
            }
            stays
        });
    }

    /// Takes over the listeners of a new snapshot.
    pub fn follow(&self, worker: &Rc<Worker>, snapshot: &Snapshot) {
        self.by_name.borrow_mut().retain(|name, listener| {
            match snapshot.listeners.get(name) {
                Some(config) if Arc::ptr_eq(config, &listener.config) => return true,
                Some(config) => {
                    let next = Rc::new(WorkerListener::new(config.clone(), worker));
                    listener.hand_over(Some(&next));
                    *listener = next;
                }
                None => listener.hand_over(None),
            }
            for accepting in self.sockets.borrow().values() {
                let mut current = accepting.listener.borrow_mut();
                if current.config.name == *name {
                    *current = listener.clone();
                }
            }
            snapshot.listeners.contains_key(name)
        });
    }

    /// Takes over the route tables of now. A request does so by itself; where none comes, this lets the old ones go.
    pub fn follow_routes(&self) {
        for listener in self.by_name.borrow().values() {
            listener.chains.borrow().values().for_each(|chain| drop(chain.routes()));
        }
    }

    /// The connections of all listeners are to end as `drain` says.
    pub fn drain(&self, drain: &Drain) {
        for listener in self.by_name.borrow().values() {
            listener.chains.borrow().values().for_each(|chain| chain.drain.join(drain));
        }
    }

    fn named(&self, worker: &Rc<Worker>, name: &Arc<str>) -> Option<Rc<WorkerListener>> {
        if let Some(listener) = self.by_name.borrow().get(name) {
            return Some(listener.clone());
        }
        let config = worker.process.snapshot.load().listeners.get(name)?.clone();
        let listener = Rc::new(WorkerListener::new(config, worker));
        self.by_name.borrow_mut().insert(name.clone(), listener.clone());
        Some(listener)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{http_listener, on_paused_time, worker};

    #[test]
    fn a_connection_that_is_late_at_its_chain_finds_it_where_it_went() {
        on_paused_time(async {
            let worker = worker();
            let stays = http_listener("", "x");
            let goes = http_listener("", "y").filter_chains.first().cloned().unwrap();
            let mut with_both = Listener::clone(&stays);
            with_both.filter_chains.push(goes.clone());
            let kept = stays.filter_chains.first().unwrap();
            let versions = [Arc::new(with_both), stays.clone(), Arc::new(Listener::clone(&stays))];
            let versions = versions.map(|config| Rc::new(WorkerListener::new(config, &worker)));
            let [first, second, third] = &versions;
            first.hand_over(Some(second));
            second.hand_over(Some(third));
            let late = first.chain(kept);
            assert!(Rc::ptr_eq(&late, &third.chain(kept)));
            assert!(late.drain.moment(0).is_none());
            assert!(first.chain(&goes).drain.moment(0).is_some());
            third.hand_over(None);
            assert!(late.drain.moment(0).is_some());
        });
    }
}
