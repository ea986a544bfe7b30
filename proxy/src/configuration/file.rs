//! Resources in files: each file holds a `DiscoveryResponse`, as YAML or JSON, and is read when it is replaced
//! ([`watch`]).
//!
//! A file that cannot be read or parsed changes nothing: what came of it before serves on. It is reported as a failure,
//! once, until it can be read again.
//!
//! [`watch`]: super::watch

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hasher};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use outrigger_engine::config::config_source::{FileSource, Origin};
use outrigger_engine::source::{DiscoveryFile, Source, read_discovery};
use outrigger_engine::xds::{Interest, Kind, Update};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_blocking, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use super::builder::Builder;
use super::channel::Feed;
use super::watch::{Watch, Watcher};
use crate::telemetry::stats::Stats;

/// What is wrong with a file is told when it has been so for this long: whoever exchanges it may first take the old one
/// away, or write the new one bit by bit.
const SETTLE: Duration = Duration::from_millis(250);

/// The files that are watched. Belongs to the control thread.
pub(super) struct Files {
    feed: Feed,
    stats: Arc<Stats>,
    watcher: Watcher,
    /// Those that hold resources which are wanted by name.
    named: RefCell<HashMap<(Kind, Arc<FileSource>), Rc<Named>>>,
}

/// A file from which single resources are wanted.
#[derive(Default)]
struct Named {
    wanted: RefCell<BTreeSet<String>>,
    /// Somebody wants another resource of it, or no more.
    other: Notify,
    /// What reading it came to, the first time it was readable or, until then, the last time: why it was not.
    outcome: RefCell<Option<Result<(), String>>>,
}

/// A file and what was seen of it.
#[derive(Debug)]
struct Watched {
    kind: Kind,
    path: Arc<str>,
    watch: Arc<Watch>,
    parser: Builder,
    /// What is being read. A file keeps its reader waiting if it is a pipe, or on a server that is away: it is one at a
    /// time, whoever has stopped waiting for it.
    reading: Option<JoinHandle<Result<Option<(u64, String)>, String>>>,
    /// A hash of the content that was read last.
    content: Option<u64>,
    /// Why it could not be read, as it was told last.
    failure: Option<String>,
    /// Since when it cannot be read.
    faulty: Option<Instant>,
}

impl Files {
    /// Nothing is watched yet.
    pub(super) fn new(feed: Feed, stats: Arc<Stats>) -> Self {
        Files { feed, stats, watcher: Watcher::new(), named: RefCell::default() }
    }

    /// Keeps every resource of a file in force: what is not in it any more is removed. Where there is nothing to be
    /// read after `limit`, the start does not wait any longer.
    pub(super) fn watch_all(&self, kind: Kind, source: Arc<FileSource>, limit: Option<Duration>) {
        let answered = Rc::new(Cell::new(false));
        let origin = Origin::Path(source.clone());
        if let Some(limit) = limit {
            let (feed, stats, answered) = (self.feed.clone(), self.stats.clone(), answered.clone());
            let origin = origin.clone();
            spawn_local(async move {
                sleep(limit).await;
                if !answered.get() {
                    tracing::warn!(target: "config", "{kind:?}: nothing came for {limit:?}: going on without");
                    if let Some(stats) = stats.subscription(kind) {
                        stats.init_fetch_timeout.inc();
                    }
                    _ = feed.apply(origin, Update::empty(kind), Vec::new()).await;
                }
            });
        }
        let (feed, stats) = (self.feed.clone(), self.stats.clone());
        let mut watched = Watched::new(kind, &source, self);
        spawn_local(async move {
            let mut known = BTreeSet::new();
            loop {
                let file = watched.next().await;
                if let Some(stats) = stats.subscription(kind) {
                    stats.update_attempt.inc();
                }
                let DiscoveryFile { version, resources, unreadable } = match file {
                    Ok(file) => file,
                    Err(reason) => {
                        // Nobody knows whose the fault is: it is noted without a name.
                        known.insert(String::new());
                        if feed.fail(origin.clone(), kind, vec![String::new()], reason).await.is_none() {
                            return;
                        }
                        continue;
                    }
                };
                let named = resources.iter().map(|resource| &resource.name);
                let present: BTreeSet<String> =
                    named.chain(unreadable.iter().map(|rejection| &rejection.name)).cloned().collect();
                let removed = known.difference(&present).cloned().collect();
                known = present;
                answered.set(true);
                let update = Update { changed: resources, removed, ..Update::empty(kind) };
                let Some(rejected) = feed.apply(origin.clone(), update, unreadable).await else { return };
                if let Some(stats) = stats.subscription(kind).filter(|_| rejected.is_empty()) {
                    stats.set_version(&version);
                }
            }
        });
    }

    /// Takes up an interest in a resource of a file. `false`: it comes from elsewhere.
    pub(super) fn take(&self, interest: &Interest) -> bool {
        let Interest { kind, name, source, wanted } = interest;
        let Origin::Path(file_source) = &source.origin else { return false };
        let key = (*kind, file_source.clone());
        let mut named = self.named.borrow_mut();
        if !*wanted {
            if let Some(file) = named.get(&key) {
                file.wanted.borrow_mut().remove(name);
                file.other.notify_one();
                if file.wanted.borrow().is_empty() {
                    named.remove(&key);
                }
            }
            return true;
        }
        let file = named.entry(key).or_insert_with(|| {
            let file = Rc::new(Named::default());
            let watched = Watched::new(*kind, file_source, self);
            spawn_local(watch_named(Rc::downgrade(&file), watched, source.origin.clone(), self.feed.clone()));
            file
        });
        file.wanted.borrow_mut().insert(name.clone());
        file.other.notify_one();
        if let Some(limit) = source.initial_fetch_timeout {
            let (feed, file) = (self.feed.clone(), Rc::downgrade(file));
            let (kind, name, origin) = (*kind, name.clone(), source.origin.clone());
            spawn_local(async move {
                sleep(limit).await;
                let Some(file) = file.upgrade() else { return };
                let outcome = file.outcome.borrow().clone();
                // A file that was read has said what it has, and what is wrong with that.
                if outcome == Some(Ok(())) || !file.wanted.borrow().contains(&name) {
                    return;
                }
                drop(file);
                let names = vec![name.clone()];
                let update = Update { removed: names.clone(), timed_out: names, ..Update::empty(kind) };
                _ = feed.apply(origin.clone(), update, Vec::new()).await;
                // Nobody waits for it any longer; what is wrong with the file is so still.
                if let Some(Err(reason)) = outcome {
                    _ = feed.fail(origin, kind, vec![name], reason).await;
                }
            });
        }
        true
    }
}

/// Brings what is wanted of a file, as long as something is.
async fn watch_named(named: Weak<Named>, mut watched: Watched, origin: Origin, feed: Feed) {
    let kind = watched.kind;
    let mut last = None;
    loop {
        let Some(file) = named.upgrade() else { return };
        let news = tokio::select! {
            file = watched.next() => Some(file),
            // What was read before has it, or has not.
            () = file.other.notified() => None,
        };
        let wanted = file.wanted.borrow().clone();
        match &news {
            Some(Ok(_)) => *file.outcome.borrow_mut() = Some(Ok(())),
            Some(Err(reason)) if *file.outcome.borrow() != Some(Ok(())) => {
                *file.outcome.borrow_mut() = Some(Err(reason.clone()));
            }
            _ => {}
        }
        drop(file);
        if wanted.is_empty() {
            continue;
        }
        let outcome = match news {
            Some(Err(reason)) => {
                last = None;
                feed.fail(origin.clone(), kind, wanted.into_iter().collect(), reason).await
            }
            Some(Ok(file)) => apply_wanted(&feed, &origin, kind, &*last.insert(file), &wanted).await,
            None => match &last {
                Some(file) => apply_wanted(&feed, &origin, kind, file, &wanted).await,
                // Once more from the start: the fault of the file is that of the new name as well.
                None => {
                    watched.failure = None;
                    Some(())
                }
            },
        };
        if outcome.is_none() {
            return;
        }
    }
}

/// Has what is wanted of a file applied; what is not in it does not exist. `None` while the process ends.
async fn apply_wanted(
    feed: &Feed,
    origin: &Origin,
    kind: Kind,
    file: &DiscoveryFile,
    wanted: &BTreeSet<String>,
) -> Option<()> {
    let resources = file.resources.iter().filter(|resource| wanted.contains(&resource.name));
    let changed: BTreeMap<_, _> = resources.map(|resource| (resource.name.clone(), resource.clone())).collect();
    let faulty = file.unreadable.iter().filter(|rejection| wanted.contains(&rejection.name));
    let faulty: Vec<_> = faulty.cloned().collect();
    let is_there = |name: &String| changed.contains_key(name) || faulty.iter().any(|fault| fault.name == *name);
    let removed = wanted.iter().filter(|name| !is_there(name)).cloned().collect();
    let update = Update { changed: changed.into_values().collect(), removed, ..Update::empty(kind) };
    feed.apply(origin.clone(), update, faulty).await.map(|_| ())
}

impl Watched {
    fn new(kind: Kind, source: &FileSource, files: &Files) -> Self {
        Watched {
            kind,
            path: source.path.clone(),
            watch: Arc::new(files.watcher.watch(source)),
            parser: files.feed.builders().pieces.clone(),
            reading: None,
            content: None,
            failure: None,
            faulty: None,
        }
    }

    /// The content of the file when it is another than before, or why it cannot be read when that is news. Nothing is
    /// lost where this is dropped and called again.
    async fn next(&mut self) -> Result<DiscoveryFile, String> {
        loop {
            match self.read().await {
                Ok(news) => {
                    self.faulty = None;
                    if let Some((content, file)) = news {
                        (self.content, self.failure) = (Some(content), None);
                        return Ok(file);
                    }
                }
                Err(reason) if self.failure.as_ref() != Some(&reason) => {
                    let left = SETTLE.saturating_sub(self.faulty.get_or_insert_with(Instant::now).elapsed());
                    if left.is_zero() {
                        // What was good before is news when it comes back.
                        (self.content, self.failure) = (None, Some(reason.clone()));
                        return Err(reason);
                    }
                    // The end of the time is a reason to look, too.
                    _ = timeout(left, self.watch.changed()).await;
                    continue;
                }
                Err(_) => {}
            }
            self.watch.changed().await;
        }
    }

    /// A hash of the content and what it says; `None` where it is what it was, or nothing yet.
    async fn read(&mut self) -> Result<Option<(u64, DiscoveryFile)>, String> {
        let (kind, path) = (self.kind, self.path.clone());
        let reading = self.reading.get_or_insert_with(|| {
            let (watch, path, before) = (self.watch.clone(), path.clone(), self.content);
            spawn_blocking(move || {
                // First, so that nothing is missed.
                watch.renew();
                read(&path, before)
            })
        });
        let read = reading.await;
        self.reading = None;
        let Some((content, text)) = read.unwrap_or_else(|error| Err(error.to_string()))? else { return Ok(None) };
        let file = self.parser.run(move || read_discovery(&Source::new(&path, &text), kind)).await?;
        Ok(Some((content, file)))
    }
}

/// A hash of the content, and the content; `None` where it is what it was `before`, or nothing yet.
fn read(path: &str, before: Option<u64>) -> Result<Option<(u64, String)>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let mut hasher = DefaultHasher::new();
    hasher.write(text.as_bytes());
    let content = hasher.finish();
    // Whoever makes a file fills it a moment later.
    Ok(if text.is_empty() || before == Some(content) { None } else { Some((content, text)) })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::pin::pin;

    use outrigger_engine::config::config_source::ConfigSource;
    use rustix::fs::{FileType, Mode};
    use tokio::sync::mpsc;
    use tokio::task::{LocalSet, yield_now};

    use super::super::builder::Builders;
    use super::super::channel::{Content, Push, pushes};
    use super::*;
    use crate::testing::on_paused_time;

    fn write(path: &Path, names: &[&str]) {
        let type_url = Kind::Endpoints.type_url();
        let resource = |name: &&str| format!("{{ '@type': {type_url}, cluster_name: {name} }}");
        let resources: Vec<String> = names.iter().map(resource).collect();
        std::fs::write(path, format!("version_info: v\nresources: [{}]", resources.join(", "))).unwrap();
    }

    /// What comes next, in short; it is taken as it is.
    async fn next(pushes: &mut mpsc::Receiver<Push>) -> String {
        let Push { content, outcome, .. } = pushes.recv().await.unwrap();
        _ = outcome.send(Vec::new());
        match content {
            Content::Update(Update { changed, removed, .. }, _) => {
                let changed: Vec<String> = changed.into_iter().map(|resource| resource.name).collect();
                format!("{changed:?} {removed:?}")
            }
            Content::Failure { names, reason, .. } => {
                format!("{names:?} {}", reason.rsplit_once('/').unwrap().1)
            }
        }
    }

    #[tokio::test]
    async fn a_file_is_parsed_while_the_builder_is_busy() {
        let run = async {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("eds");
            write(&path, &["a"]);
            let builders = Builders::start().unwrap();
            let (feed, mut pushes) = pushes(builders.clone());
            let files = Files::new(feed, Arc::new(Stats::new()));
            let (done, wait) = std::sync::mpsc::channel::<()>();
            let mut busy = pin!(builders.steps.run(move || wait.recv().is_err()));
            let Origin::Path(source) = Origin::file(path.to_str().unwrap()) else { unreachable!() };
            files.watch_all(Kind::Endpoints, source, None);
            tokio::select! {
                biased;
                _ = &mut busy => unreachable!(),
                update = next(&mut pushes) => assert_eq!(update, "[\"a\"] []"),
                () = sleep(Duration::from_secs(20)) => panic!("the file waits for the builder"),
            }
            drop(done);
            assert!(busy.await);
        };
        LocalSet::new().run_until(run).await;
    }

    #[tokio::test]
    async fn what_a_file_holds_is_applied_and_what_cannot_be_read_is_a_failure() {
        let run = async {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("eds");
            let (feed, mut pushes) = pushes(Builders::start().unwrap());
            let files = Files::new(feed, Arc::new(Stats::new()));
            let source =
                Arc::new(ConfigSource { origin: Origin::file(path.to_str().unwrap()), initial_fetch_timeout: None });
            let want = |name: &str, wanted| {
                let source = source.clone();
                assert!(files.take(&Interest { kind: Kind::Endpoints, name: name.to_owned(), source, wanted }));
            };
            want("a", true);
            assert_eq!(next(&mut pushes).await, "[\"a\"] eds: No such file or directory (os error 2)");
            write(&path, &["a", "b"]);
            assert_eq!(next(&mut pushes).await, "[\"a\"] []");
            want("b", true);
            want("c", true);
            assert_eq!(next(&mut pushes).await, "[\"a\", \"b\"] [\"c\"]", "a file is all there is");
            std::fs::write(&path, "resources: [").unwrap();
            let failure = next(&mut pushes).await;
            assert!(failure.starts_with("[\"a\", \"b\", \"c\"] eds:1:"), "{failure}");
            write(&path, &["a", "b"]);
            assert_eq!(next(&mut pushes).await, "[\"a\", \"b\"] [\"c\"]", "the same as before, and news");
            std::fs::remove_file(&path).unwrap();
            let failure = next(&mut pushes).await;
            assert_eq!(failure, "[\"a\", \"b\", \"c\"] eds: No such file or directory (os error 2)");
            // Nobody wants anything of it any more: it is not watched.
            ["a", "b", "c"].into_iter().for_each(|name| want(name, false));
            assert!(files.named.borrow().is_empty());
        };
        LocalSet::new().run_until(run).await;
    }

    #[test]
    fn a_file_that_is_away_for_a_moment_is_no_failure() {
        on_paused_time(async {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("eds");
            write(&path, &["a"]);
            let (feed, mut pushes) = pushes(Builders::start().unwrap());
            let files = Files::new(feed, Arc::new(Stats::new()));
            let Origin::Path(source) = Origin::file(path.to_str().unwrap()) else { unreachable!() };
            files.watch_all(Kind::Endpoints, source, None);
            assert_eq!(next(&mut pushes).await, "[\"a\"] []");
            std::fs::remove_file(&path).unwrap();
            // Passes when it has been noticed.
            sleep(SETTLE / 2).await;
            write(&path, &["b"]);
            assert_eq!(next(&mut pushes).await, "[\"b\"] [\"a\"]");
            std::fs::remove_file(&path).unwrap();
            assert_eq!(next(&mut pushes).await, "[\"\"] eds: No such file or directory (os error 2)");
        });
    }

    /// Runs `test` where one thread may be kept waiting, and leaves that behind.
    fn with_one_thread(test: impl Future<Output = ()>) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
        LocalSet::new().block_on(&runtime, test);
        runtime.shutdown_background();
    }

    async fn let_others_run() {
        for _ in 0..100 {
            yield_now().await;
        }
    }

    #[test]
    fn the_control_thread_waits_for_no_file_system() {
        with_one_thread(async {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("eds");
            write(&path, &["a"]);
            let (feed, mut pushes) = pushes(Builders::start().unwrap());
            let files = Files::new(feed, Arc::new(Stats::new()));
            let (done, wait) = std::sync::mpsc::channel::<()>();
            let busy = spawn_blocking(move || wait.recv().is_err());
            let Origin::Path(source) = Origin::file(path.to_str().unwrap()) else { unreachable!() };
            files.watch_all(Kind::Endpoints, source, None);
            let_others_run().await;
            assert!(files.watcher.is_unused(), "the only thread for that is busy");
            drop(done);
            assert_eq!(next(&mut pushes).await, "[\"a\"] []");
            assert!(busy.await.unwrap() && !files.watcher.is_unused());
        });
    }

    #[test]
    fn a_file_that_keeps_its_reader_waiting_has_one() {
        with_one_thread(async {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("eds");
            rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
            let (feed, mut pushes) = pushes(Builders::start().unwrap());
            let files = Files::new(feed, Arc::new(Stats::new()));
            let source =
                Arc::new(ConfigSource { origin: Origin::file(path.to_str().unwrap()), initial_fetch_timeout: None });
            for name in ["a", "b"] {
                let (name, source) = (name.to_owned(), source.clone());
                assert!(files.take(&Interest { kind: Kind::Endpoints, name, source, wanted: true }));
                let_others_run().await;
            }
            let writer = std::thread::spawn(move || write(&path, &["a", "b"]));
            assert_eq!(next(&mut pushes).await, "[\"a\", \"b\"] []");
            writer.join().unwrap();
        });
    }
}
