//! The configuration as it changes while the process runs: updates come in from any source, and what is good of them is
//! in force a moment later.
//!
//! One task on the control thread takes updates in turn ([`queue`]) and does what needs that thread: names to resolve,
//! resources to ask for, files to watch. What computes ([`apply`]) goes to another thread and back ([`builder`]), so that
//! the control thread always answers. What the bootstrap configures goes the same way first.
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

mod apply;
pub(crate) mod builder;
pub mod channel;
mod file;
mod graveyard;
mod queue;
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
use tokio::task::spawn_local;
use tokio::time::sleep_until;

use self::apply::{Applier, Wanted};
use self::builder::Builders;
use self::channel::{Content, Feed, Push};
use self::file::Files;
use self::queue::{Job, Queue};
pub use self::sockets::{Addresses, BindError};
use crate::cluster::dns::DnsResolver;
use crate::process::Process;
use crate::server::StartError;

/// Longer than anything waits.
const NEVER: Duration = Duration::from_hours(24 * 365);

/// The end of a wait that begins at `now`.
fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or(now)
}

/// What a step came to.
struct Step {
    wanted: Wanted,
    /// The rest of what was being applied.
    left: Option<Job>,
    /// The kind of which an update is applied.
    answered: Option<Kind>,
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
    /// Takes in what the bootstrap configures: sockets are bound, logs and certificates read. What is asked of
    /// management servers goes to `interests`; files are watched here.
    pub fn new(
        process: Arc<Process>,
        clusters: Vec<Arc<Cluster>>,
        listeners: Vec<Arc<Listener>>,
        dynamic: &DynamicResources,
        interests: mpsc::UnboundedSender<Interest>,
    ) -> Result<Self, StartError> {
        let builders = Builders::start().map_err(|source| StartError::System { what: "builder thread", source })?;
        let mut applier = Applier::new(process.clone(), builders.pieces.clone());
        applier.start(clusters, listeners)?;
        let (feed, pushes) = channel::pushes(builders);
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
    /// bootstrap, and the first ones of its dynamic sources, are there. `begun` is told when what the bootstrap
    /// configures is in force, as far as it waits for nothing.
    pub async fn run(self, names: Rc<DnsResolver>, begun: oneshot::Sender<()>) {
        let Configuration { mut applier, process, feed, mut pushes, interests, mut awaited, files } = self;
        let dynamic = !awaited.is_empty();
        let watched = Files::new(feed.clone(), process.stats.clone());
        for (kind, path, limit) in files {
            watched.watch_all(kind, path, limit);
        }
        let (ready, mut readies) = mpsc::unbounded_channel();
        let (made, mut back) = mpsc::unbounded_channel();
        let mut accepting = false;
        let mut begun = Some(begun);
        let (mut queue, mut resolved) = (Queue::default(), Vec::new());
        loop {
            let (job, resolved_now) = (queue.next(), std::mem::take(&mut resolved));
            let (has_more, news) = (!queue.is_empty(), feed.clone());
            let step = feed.builders().steps.run(move || {
                // Every change of threads is at the cost of the workers, where they share a core.
                let gives_way = || has_more || news.has_waiting() || news.builders().steps.has_waiting();
                let step = one_step(&mut applier, job, &resolved_now, accepting || dynamic, gives_way);
                (applier, step)
            });
            let Step { wanted, left, answered };
            (applier, Step { wanted, left, answered }) = step.await;
            process.access_logs.start_writers();
            match left {
                Some(Job::Begun(progress, outcome)) if progress.waits_for_tables() => {
                    queue.wait();
                    let (pieces, made) = (feed.builders().pieces.clone(), made.clone());
                    spawn_local(async move {
                        let progress = pieces.run(move || progress.make_tables()).await;
                        // Fails only while the process ends.
                        _ = made.send(Job::Begun(progress, outcome));
                    });
                }
                Some(job) => queue.put_back(job),
                None => {}
            }
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
            while let Ok(push) = pushes.try_recv() {
                queue.add(push);
            }
            while let Ok(cluster) = readies.try_recv() {
                resolved.push(cluster);
            }
            while let Ok(job) = back.try_recv() {
                queue.put_back(job);
            }
            if !queue.is_empty() || !resolved.is_empty() || applier.is_untidy(Instant::now()) {
                continue;
            }
            let deadline = applier.deadline().unwrap_or_else(|| after(Instant::now(), NEVER));
            tokio::select! {
                Some(push) = pushes.recv() => queue.add(push),
                Some(cluster) = readies.recv() => resolved.push(cluster),
                Some(job) = back.recv() => queue.put_back(job),
                () = sleep_until(deadline.into()) => {}
            }
        }
    }
}

/// Does one step beside the control thread: `job`, or as many slices of it as it takes until it `gives_way`; then a part
/// of what is left to be tidied up, and without a job as many parts as it takes. The names of the clusters `resolved`
/// have had their first answers. `later`: what is missing may come later.
fn one_step(
    applier: &mut Applier,
    job: Option<Job>,
    resolved: &[Arc<ClusterState>],
    later: bool,
    gives_way: impl Fn() -> bool,
) -> Step {
    resolved.iter().for_each(|cluster| applier.cluster_ready(cluster));
    let mut step = Step { wanted: Wanted::default(), left: None, answered: None };
    let (mut done, nothing_new) = (None, job.is_none() && resolved.is_empty());
    let begun = match job {
        Some(Job::Push(Push { origin, content: Content::Update(update, unreadable), outcome })) => {
            Some((applier.begin(origin, update, unreadable), outcome))
        }
        Some(Job::Push(Push { origin, content: Content::Failure { kind, names, reason }, outcome })) => {
            applier.fail(kind, &origin, &names, &reason);
            done = Some((Vec::new(), outcome));
            None
        }
        Some(Job::Begun(progress, outcome)) => Some((progress, outcome)),
        None => None,
    };
    if let Some((mut progress, outcome)) = begun {
        let rejections = loop {
            let rejections = applier.advance(&mut progress);
            if rejections.is_some() || progress.waits_for_tables() || gives_way() {
                break rejections;
            }
        };
        match rejections {
            Some(rejections) => {
                // A failure is no answer.
                step.answered = Some(progress.kind());
                done = Some((rejections, outcome));
            }
            None => step.left = Some(Job::Begun(progress, outcome)),
        }
    }
    if step.left.is_some() || applier.is_in_part() {
        applier.settle_hosts();
    } else {
        step.wanted = applier.settle(Instant::now());
        if !later && !applier.has_warming_clusters() {
            // Nobody sends what is still missing.
            let last = applier.settle(after(Instant::now(), apply::CLUSTER_WAIT));
            step.wanted.resolve.extend(last.resolve);
            step.wanted.interests.extend(last.interests);
        }
    }
    if let Some((rejections, outcome)) = done {
        // A source that has gone needs no answer.
        _ = outcome.send(rejections);
    }
    // What is wanted of the control thread does not wait for it.
    while step.wanted.is_empty() && applier.is_untidy(Instant::now()) {
        applier.tidy(Instant::now(), gives_way());
        if !nothing_new || gives_way() {
            break;
        }
    }
    step
}

#[cfg(test)]
mod tests;
