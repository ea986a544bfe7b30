//! The configuration as it changes while the process runs: updates come in from any source, and what is good of them is
//! in force a moment later.
//!
//! One task on the control thread takes updates one after the other and does what needs that thread: names to resolve,
//! resources to ask for, files to watch. What computes goes to another thread and back ([`apply`]), so that the control
//! thread always answers. What the bootstrap configures goes the same way first.

mod apply;
pub mod channel;
mod file;
mod graveyard;
pub mod record;
pub(crate) mod resource;
mod sockets;
mod watch;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_engine::balance::ClusterState;
use outrigger_engine::config::cluster::Cluster;
use outrigger_engine::config::config_source::{FileSource, Origin};
use outrigger_engine::config::dynamic_resources::DynamicResources;
use outrigger_engine::config::listener::Listener;
use outrigger_engine::xds::{Interest, Kind};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{spawn_blocking, spawn_local};
use tokio::time::sleep_until;

use self::apply::{Applier, Wanted};
use self::channel::{Content, Feed, Push};
use self::file::Files;
pub use self::sockets::{Addresses, BindError};
use crate::cluster::dns::DnsResolver;
use crate::process::Process;
use crate::server::StartError;

/// Longer than anything waits.
const NEVER: Duration = Duration::from_hours(24 * 365);

/// What happens to the configuration.
enum Event {
    Push(Push),
    /// The names of a cluster have had their first answers.
    Ready(Arc<ClusterState>),
    /// Something has waited long enough.
    Time,
}

/// The configuration of the process, before it runs.
#[derive(Debug)]
pub struct Configuration {
    applier: Applier,
    process: Arc<Process>,
    feed: Feed,
    pushes: mpsc::Receiver<Push>,
    interests: mpsc::UnboundedSender<Interest>,
    /// Kinds whose first update the start waits for.
    awaited: Vec<Kind>,
    /// Files of whole kinds, and how long the start waits for each.
    files: Vec<(Kind, Arc<FileSource>, Option<Duration>)>,
}

impl Configuration {
    /// Takes in what the bootstrap configures: sockets are bound, logs and certificates read. What is asked of management
    /// servers goes to `interests`; files are watched here.
    pub fn new(
        process: Arc<Process>,
        clusters: Vec<Arc<Cluster>>,
        listeners: Vec<Arc<Listener>>,
        dynamic: &DynamicResources,
        interests: mpsc::UnboundedSender<Interest>,
    ) -> Result<Self, StartError> {
        let mut applier = Applier::new(process.clone());
        applier.start(clusters, listeners)?;
        let (feed, pushes) = channel::pushes();
        let sources = [(Kind::Cluster, &dynamic.clusters), (Kind::Listener, &dynamic.listeners)];
        let (mut awaited, mut files) = (Vec::new(), Vec::new());
        for (kind, source) in sources {
            let Some(source) = source else { continue };
            awaited.push(kind);
            if let Origin::Path(path) = &source.origin {
                files.push((kind, path.clone(), source.initial_fetch_timeout));
            }
        }
        Ok(Configuration { applier, process, feed, pushes, interests, awaited, files })
    }

    /// Where sources bring their updates.
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Applies what comes, to the end of the process. Workers accept connections when the clusters and listeners of the
    /// bootstrap, and the first ones of its dynamic sources, are there. `begun` is told when what the bootstrap configures is
    /// in force, as far as it waits for nothing.
    pub async fn run(self, names: Rc<DnsResolver>, begun: oneshot::Sender<()>) {
        let Configuration { mut applier, process, feed, mut pushes, interests, mut awaited, files } = self;
        let dynamic = !awaited.is_empty();
        let watched = Files::new(feed, process.stats.clone());
        for (kind, path, limit) in files {
            watched.watch_all(kind, path, limit);
        }
        let (ready, mut readies) = mpsc::unbounded_channel();
        let mut accepting = false;
        let mut begun = Some(begun);
        let mut event = Event::Time;
        loop {
            let answered = match &event {
                Event::Push(Push { content: Content::Update(update, _), .. }) => Some(update.kind),
                // A failure is no answer.
                Event::Push(_) | Event::Ready(_) | Event::Time => None,
            };
            let step = spawn_blocking(move || {
                let wanted = one_step(&mut applier, event, accepting || dynamic);
                (applier, wanted)
            });
            let wanted;
            (applier, wanted) = match step.await {
                Ok(back) => back,
                Err(error) => {
                    tracing::error!(target: "config", "the configuration does not change any more: {error}");
                    return;
                }
            };
            if let Some(begun) = begun.take() {
                // Who does not wait need not know.
                _ = begun.send(());
            }
            for cluster in wanted.resolve {
                let answers = names.start(std::iter::once(&cluster), &process.stats);
                let ready = ready.clone();
                spawn_local(async move {
                    answers.ready().await;
                    // Fails only while the process ends.
                    _ = ready.send(cluster);
                });
            }
            for interest in wanted.interests {
                if !watched.take(&interest) {
                    // Fails where there is no management server, and while the process ends.
                    _ = interests.send(interest);
                }
            }
            awaited.retain(|kind| Some(*kind) != answered);
            if !accepting && awaited.is_empty() && applier.is_settled() {
                accepting = true;
                applier.accept();
            }
            let deadline = applier.deadline().unwrap_or_else(|| Instant::now() + NEVER);
            event = tokio::select! {
                Some(push) = pushes.recv() => Event::Push(push),
                Some(cluster) = readies.recv() => Event::Ready(cluster),
                () = sleep_until(deadline.into()) => Event::Time,
            };
        }
    }
}

/// Does one step beside the control thread. `later`: what is missing may come later.
fn one_step(applier: &mut Applier, event: Event, later: bool) -> Wanted {
    let mut done = None;
    match event {
        Event::Push(Push { origin, content, outcome }) => {
            let rejections = match content {
                Content::Update(update, unreadable) => applier.apply(&origin, update, unreadable),
                Content::Failure { kind, names, reason } => {
                    applier.fail(kind, &origin, &names, &reason);
                    Vec::new()
                }
            };
            done = Some((rejections, outcome));
        }
        Event::Ready(cluster) => applier.cluster_ready(&cluster),
        Event::Time => {}
    }
    let mut wanted = applier.settle(Instant::now());
    if !later && !applier.has_warming_clusters() {
        // Nobody sends what is still missing.
        let last = applier.settle(Instant::now() + apply::CLUSTER_WAIT);
        wanted.resolve.extend(last.resolve);
        wanted.interests.extend(last.interests);
    }
    if let Some((rejections, outcome)) = done {
        // A source that has gone needs no answer.
        _ = outcome.send(rejections);
    }
    wanted
}
