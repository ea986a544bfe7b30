//! The changes of the mesh, by its API: a route moves to a Service that comes in the same set, and with it the cluster
//! of the old one goes from the proxy, which calls nothing but the shop; an instance joins; an instance leaves. Whoever
//! leaves stops 1 s after the proxy has taken that in.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use outrigger_proto::outrigger::control::v1::control_client::ControlClient;
use outrigger_proto::outrigger::control::v1::{ApplyRequest, DeleteRequest, Object, ObjectKey};
use outrigger_tests::admin;
use outrigger_tests::plane::Plane;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::instance::{Instance, Served};
use crate::ledger::Ledger;
use crate::objects::{key, route, service, workload};
use crate::{PATIENCE, eventually};

/// From the proxy's acknowledgement to the stop of who left.
const GRACE: Duration = Duration::from_secs(1);

/// Instances of a Service, at most.
const MOST: usize = 4;

/// A route and where it leads.
struct Route {
    number: usize,
    version: u64,
    newest: Arc<AtomicU64>,
    instances: Vec<(String, Instance)>,
    /// What it led to before, if it has moved. It is there until the next move: that the proxy's cluster goes is the
    /// route's doing, in the very update that brings the new one.
    before: Vec<ObjectKey>,
}

impl Route {
    fn service(&self) -> String {
        format!("r{}-v{}", self.number, self.version)
    }
}

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    moves: usize,
    joins: usize,
    leaves: usize,
    /// Instances that have stopped.
    pub(crate) stopped: usize,
    /// Instances that had to.
    pub(crate) left: usize,
    /// From the answer of the API until the proxy knew an instance that joined.
    known_after: Vec<Duration>,
    /// From the first update's time to the last one's.
    pub(crate) took: Duration,
}

impl Changes {
    /// How many updates were made.
    pub(crate) fn updates(&self) -> usize {
        self.moves + self.joins + self.leaves
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Changes { moves, joins, leaves, stopped, left: _, known_after, took } = self;
        let mut known_after = known_after.clone();
        known_after.sort_unstable();
        let at = |share: f64| known_after.get((known_after.len() as f64 * share) as usize).copied().unwrap_or_default();
        let updates = self.updates();
        write!(
            f,
            "{updates} updates in {:.1} s: {moves} routes moved, {joins} instances joined, {leaves} left; {stopped} instances \
             stopped; a new instance is known to the proxy after {:?} (p50), {:?} (p90)",
            took.as_secs_f64(),
            at(0.5),
            at(0.9)
        )
    }
}

/// See the module.
pub(crate) struct Updater {
    runtime: Runtime,
    client: ControlClient<Channel>,
    ledger: Arc<Ledger>,
    routes: Vec<Route>,
    /// The proxy's.
    admin: PathBuf,
    /// The ports of the hosts that the proxy has.
    hosts: watch::Receiver<HashSet<u16>>,
    leaving: JoinSet<()>,
    joining: JoinSet<Option<Duration>>,
    names: u64,
    updates: usize,
    changes: Changes,
}

impl Updater {
    /// Applies the shop: each route leads to two instances.
    pub(crate) fn start(plane: &Plane, admin: &Path, ledger: &Arc<Ledger>, routes: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let channel = Endpoint::from_shared(plane.address().to_owned()).unwrap();
        let client = ControlClient::new(runtime.block_on(async { channel.connect_lazy() }));
        let (publish, hosts) = watch::channel(HashSet::new());
        let looked_at = admin.to_owned();
        thread::spawn(move || look(&looked_at, &publish));
        let mut updater = Self {
            runtime,
            client,
            ledger: ledger.clone(),
            routes: Vec::new(),
            admin: admin.to_owned(),
            hosts,
            leaving: JoinSet::new(),
            joining: JoinSet::new(),
            names: 0,
            updates: 0,
            changes: Changes::default(),
        };
        let mut objects = vec![service("shop")];
        for number in 0..routes {
            let mut route =
                Route { number, version: 0, newest: Arc::default(), instances: Vec::new(), before: Vec::new() };
            objects.extend(updater.next_version(&mut route));
            updater.routes.push(route);
        }
        updater.apply(objects);
        updater
    }

    /// So many updates, at their times or as soon after as they can be.
    pub(crate) fn update(&mut self, count: usize, per_second: u32) {
        let (began, pause) = (Instant::now(), Duration::from_secs(1) / per_second);
        let mut due = began;
        for _ in 0..count {
            // What a control plane that was away kept from being done is not made up for in one burst.
            due = Instant::now().checked_sub(Duration::from_secs(1)).map_or(due, |earliest| due.max(earliest)) + pause;
            thread::park_timeout(due.saturating_duration_since(Instant::now()));
            let route = (self.updates / 3) % self.routes.len();
            let is_full = self.routes[route].instances.len() >= MOST;
            // Who may not leave yet, because the proxy has no other, makes room for another change: none is left out.
            match self.updates % 3 {
                0 => self.move_route(route),
                1 if !is_full => self.join(route),
                _ if self.leave(route) => {}
                _ if !is_full => self.join(route),
                _ => self.move_route(route),
            }
            self.updates += 1;
        }
        self.changes.took += began.elapsed();
    }

    /// Waits until all who left have stopped and all who are there have served, and until the proxy has no cluster any
    /// more of what a route has left, which the control plane still has.
    pub(crate) fn finish(&mut self) -> Changes {
        let (joining, leaving) = (std::mem::take(&mut self.joining), std::mem::take(&mut self.leaving));
        self.changes.known_after = self.runtime.block_on(joining.join_all()).into_iter().flatten().collect();
        self.changes.stopped = self.runtime.block_on(leaving.join_all()).len();
        for (name, instance) in self.routes.iter().flat_map(|route| &route.instances) {
            eventually(&format!("{name} serves"), || instance.served.count.load(Ordering::Relaxed) > 0);
        }
        for service in self.routes.iter().flat_map(|route| &route.before).filter(|key| key.kind == "Service") {
            let host = format!("/{}/80::", service.name);
            let has_gone =
                || admin::request(&self.admin, "GET", "/clusters").is_some_and(|(_, text)| !text.contains(&host));
            eventually(&format!("the cluster of {} goes", service.name), has_gone);
        }
        std::mem::take(&mut self.changes)
    }

    /// A route's next Service with two instances, and the route to it.
    fn next_version(&mut self, of: &mut Route) -> Vec<Object> {
        of.version += 1;
        let name = of.service();
        let mut objects = vec![service(&name), route(of.number, &name)];
        objects.extend([self.instance(of), self.instance(of)]);
        objects
    }

    fn instance(&mut self, of: &mut Route) -> Object {
        self.names += 1;
        let (version, newest) = (of.version, of.newest.clone());
        let served = Served { ledger: self.ledger.clone(), count: AtomicU64::new(0), version, newest };
        let instance = Instance::start(self.runtime.handle(), served);
        let name = format!("{}-{}", of.service(), self.names);
        let object = workload(&name, &of.service(), instance.port);
        of.instances.push((name, instance));
        object
    }

    fn move_route(&mut self, index: usize) {
        let mut route = self.routes.swap_remove(index);
        let old = std::mem::take(&mut route.instances);
        let mut before = vec![key("Service", &route.service())];
        before.extend(old.iter().map(|(name, _)| key("Workload", name)));
        let objects = self.next_version(&mut route);
        self.apply(objects);
        let gone = std::mem::replace(&mut route.before, before);
        if !gone.is_empty() {
            self.delete(gone);
        }
        self.changes.left += old.len();
        for (_, instance) in old {
            let (version, newest) = (route.version, route.newest.clone());
            self.leaving.spawn_on(
                async move {
                    // The table that leads to the new Service is in force from its first request on.
                    until("the proxy uses a route that moved", || newest.load(Ordering::Relaxed) >= version).await;
                    sleep(GRACE).await;
                    instance.stop().await;
                },
                self.runtime.handle(),
            );
        }
        self.changes.moves += 1;
        self.put_back(index, route);
    }

    fn join(&mut self, index: usize) {
        let mut route = self.routes.swap_remove(index);
        let object = self.instance(&mut route);
        let port = route.instances.last().map_or(0, |(_, instance)| instance.port);
        let (version, newest) = (route.version, route.newest.clone());
        self.put_back(index, route);
        self.apply(vec![object]);
        let (applied, hosts) = (Instant::now(), self.hosts.clone());
        self.joining.spawn_on(
            async move {
                // The proxy may never hear of one whose route moves on.
                let is_known = || hosts.borrow().contains(&port);
                until("the proxy knows who joined", || is_known() || newest.load(Ordering::Relaxed) > version).await;
                is_known().then(|| applied.elapsed())
            },
            self.runtime.handle(),
        );
        self.changes.joins += 1;
    }

    /// The oldest instance leaves, of two that the proxy has. `false`: it does not have two.
    fn leave(&mut self, index: usize) -> bool {
        let known = self.hosts.borrow().clone();
        let instances = &mut self.routes[index].instances;
        let there = instances.iter().filter(|(_, instance)| known.contains(&instance.port)).count();
        let oldest = instances.iter().position(|(_, instance)| known.contains(&instance.port));
        let Some(oldest) = oldest.filter(|_| there > 1) else { return false };
        let (name, instance) = instances.remove(oldest);
        self.delete(vec![key("Workload", &name)]);
        let hosts = self.hosts.clone();
        self.leaving.spawn_on(
            async move {
                // It was there, and does not come back.
                until("the proxy drops who left", || !hosts.borrow().contains(&instance.port)).await;
                sleep(GRACE).await;
                instance.stop().await;
            },
            self.runtime.handle(),
        );
        self.changes.leaves += 1;
        self.changes.left += 1;
        true
    }

    fn put_back(&mut self, index: usize, route: Route) {
        self.routes.push(route);
        let last = self.routes.len() - 1;
        self.routes.swap(index, last);
    }

    /// A control plane that is away is asked again until it is back.
    fn apply(&self, objects: Vec<Object>) {
        self.runtime.block_on(async {
            patient(|| {
                let (mut client, objects) = (self.client.clone(), objects.clone());
                async move { client.apply(ApplyRequest { objects, dry_run: false }).await.map(drop) }
            })
            .await;
        });
    }

    fn delete(&self, keys: Vec<ObjectKey>) {
        self.runtime.block_on(async {
            patient(|| {
                let (mut client, keys) = (self.client.clone(), keys.clone());
                async move {
                    match client.delete(DeleteRequest { keys, dry_run: false }).await {
                        // Its answer was lost when the control plane died.
                        Err(status) if status.code() == Code::NotFound => Ok(()),
                        result => result.map(drop),
                    }
                }
            })
            .await;
        });
    }
}

async fn patient<F: Future<Output = Result<(), Status>>>(mut call: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(status) = call().await {
        let is_away = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled);
        assert!(is_away && Instant::now() < deadline, "{status:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not after {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Looks at the proxy's hosts as long as somebody wants to know.
fn look(admin: &Path, publish: &watch::Sender<HashSet<u16>>) {
    while !publish.is_closed() {
        // It may not have started yet.
        if let Some((200, text)) = admin::request(admin, "GET", "/clusters") {
            let port = |line: &str| line.split("::127.0.0.1:").nth(1)?.split("::").next()?.parse().ok();
            publish.send_replace(text.lines().filter_map(port).collect());
        }
        thread::park_timeout(Duration::from_millis(10));
    }
}
