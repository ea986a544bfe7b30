//! Resources in files: each file holds a `DiscoveryResponse`, as YAML or JSON.
//!
//! A file is looked at a few times a second: whatever way it is replaced (written over, renamed into place, a symbolic
//! link exchanged, as Kubernetes does with mounted configuration), its metadata differ then.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::fs::MetadataExt as _;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_engine::config::config_source::Origin;
use outrigger_engine::source::{DiscoveryFile, Source, read_discovery};
use outrigger_engine::xds::{Interest, Kind, Update};
use tokio::sync::Notify;
use tokio::task::{spawn_blocking, spawn_local};
use tokio::time::{sleep, timeout};

use super::channel::Feed;
use crate::process::Process;
use crate::telemetry::stats::SubscriptionStats;

/// Between two looks at a file.
const INTERVAL: Duration = Duration::from_millis(200);

/// The files that are watched. Belongs to the control thread.
pub(super) struct Files {
    feed: Feed,
    process: Arc<Process>,
    /// Those that hold resources which are wanted by name.
    named: RefCell<HashMap<(Kind, Arc<str>), Rc<Named>>>,
}

/// A file from which single resources are wanted.
#[derive(Default)]
struct Named {
    wanted: RefCell<BTreeSet<String>>,
    /// Somebody wants another resource of it.
    more: Notify,
}

/// What tells one content of a path from the next.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: SystemTime,
}

/// What was seen of a file.
#[derive(Debug, Default)]
struct Watched {
    stamp: Option<Stamp>,
    /// It was written just before it was read.
    fresh: bool,
    /// A hash of the content.
    content: Option<u64>,
}

/// No file system's clock ticks more slowly.
const CLOCK_TICK: Duration = Duration::from_secs(2);

impl Files {
    pub(super) fn new(feed: Feed, process: Arc<Process>) -> Self {
        Files { feed, process, named: RefCell::default() }
    }

    /// Keeps every resource of a file in force: what is not in it any more is removed. Where there is nothing to be read
    /// after `limit`, the start does not wait any longer.
    pub(super) fn watch_all(&self, kind: Kind, path: Arc<str>, limit: Option<Duration>) {
        let answered = Rc::new(Cell::new(false));
        if let Some(limit) = limit {
            let (feed, process, answered) = (self.feed.clone(), self.process.clone(), answered.clone());
            let origin = Origin::Path(path.clone());
            spawn_local(async move {
                sleep(limit).await;
                if !answered.get() {
                    tracing::warn!(target: "config", "{kind:?}: nothing came for {limit:?}: going on without");
                    if let Some(stats) = subscription(&process, kind) {
                        stats.init_fetch_timeout.inc();
                    }
                    let update = Update { kind, changed: Vec::new(), removed: Vec::new() };
                    _ = feed.apply(origin, update, Vec::new()).await;
                }
            });
        }
        let (feed, process) = (self.feed.clone(), self.process.clone());
        spawn_local(async move {
            let mut known = BTreeSet::new();
            let mut watched = Watched::default();
            loop {
                if let Some(file) = watched.changed(kind, &path, subscription(&process, kind)).await {
                    let DiscoveryFile { resources, unreadable } = file;
                    let named = resources.iter().map(|resource| &resource.name);
                    let present: BTreeSet<String> =
                        named.chain(unreadable.iter().map(|rejection| &rejection.name)).cloned().collect();
                    let removed = known.difference(&present).cloned().collect();
                    known = present;
                    answered.set(true);
                    if feed
                        .apply(Origin::Path(path.clone()), Update { kind, changed: resources, removed }, unreadable)
                        .await
                        .is_none()
                    {
                        return;
                    }
                }
                sleep(INTERVAL).await;
            }
        });
    }

    /// Takes up an interest in a resource of a file. `false`: it comes from elsewhere.
    pub(super) fn take(&self, interest: &Interest) -> bool {
        let Interest { kind, name, source, wanted } = interest;
        let Origin::Path(path) = &source.origin else { return false };
        let key = (*kind, path.clone());
        let mut named = self.named.borrow_mut();
        if !*wanted {
            if let Some(file) = named.get(&key) {
                file.wanted.borrow_mut().remove(name);
                if file.wanted.borrow().is_empty() {
                    named.remove(&key);
                }
            }
            return true;
        }
        let file = named.entry(key).or_insert_with(|| {
            let file = Rc::new(Named::default());
            spawn_local(watch_named(
                Rc::downgrade(&file),
                *kind,
                path.clone(),
                self.feed.clone(),
                self.process.clone(),
            ));
            file
        });
        file.wanted.borrow_mut().insert(name.clone());
        file.more.notify_one();
        if let Some(limit) = source.initial_fetch_timeout {
            let (feed, file) = (self.feed.clone(), Rc::downgrade(file));
            let (kind, name, origin) = (*kind, name.clone(), source.origin.clone());
            spawn_local(async move {
                sleep(limit).await;
                let is_wanted = file.upgrade().is_some_and(|file| file.wanted.borrow().contains(&name));
                if is_wanted {
                    // If it came meanwhile, this changes nothing.
                    let update = Update { kind, changed: Vec::new(), removed: vec![name] };
                    _ = feed.apply(origin, update, Vec::new()).await;
                }
            });
        }
        true
    }
}

/// Brings what is wanted of a file, as long as something is.
async fn watch_named(named: Weak<Named>, kind: Kind, path: Arc<str>, feed: Feed, process: Arc<Process>) {
    let mut watched = Watched::default();
    let mut last = BTreeMap::new();
    let mut unreadable = Vec::new();
    loop {
        let file = watched.changed(kind, &path, subscription(&process, kind)).await;
        let Some(named) = named.upgrade() else { return };
        if let Some(file) = file {
            unreadable = file.unreadable;
            last = file.resources.into_iter().map(|resource| (resource.name.clone(), resource)).collect();
        }
        let (resources, faulty) = {
            let wanted = named.wanted.borrow();
            let resources: Vec<_> = last.values().filter(|resource| wanted.contains(&resource.name)).cloned().collect();
            let faulty = unreadable.iter().filter(|rejection| wanted.contains(&rejection.name)).cloned().collect();
            (resources, faulty)
        };
        if feed
            .apply(Origin::Path(path.clone()), Update { kind, changed: resources, removed: Vec::new() }, faulty)
            .await
            .is_none()
        {
            return;
        }
        loop {
            // An expired interval and a new name are both a reason to look again.
            let more = timeout(INTERVAL, named.more.notified()).await.is_ok();
            if more || watched.may_have_changed(&path) {
                break;
            }
            if Rc::strong_count(&named) == 1 {
                return;
            }
        }
    }
}

fn subscription(process: &Process, kind: Kind) -> Option<&SubscriptionStats> {
    match kind {
        Kind::Cluster => Some(&process.stats.cds),
        Kind::Listener => Some(&process.stats.lds),
        Kind::Endpoints | Kind::Routes => None,
    }
}

fn look(path: &str) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        size: metadata.len(),
        modified: metadata.modified().ok()?,
    })
}

impl Watched {
    /// Whether the file may have another content than at the last look.
    fn may_have_changed(&self, path: &str) -> bool {
        let now = look(path);
        // Clocks of file systems tick slowly: what was just written may be written again under the same time.
        now.is_some() && (now != self.stamp || self.fresh)
    }

    /// The content of the file, if it is another than at the last look, and can be read.
    async fn changed(
        &mut self,
        kind: Kind,
        path: &Arc<str>,
        stats: Option<&SubscriptionStats>,
    ) -> Option<DiscoveryFile> {
        if !self.may_have_changed(path) {
            return None;
        }
        self.stamp = look(path);
        let modified = self.stamp.as_ref().and_then(|stamp| stamp.modified.elapsed().ok());
        self.fresh = modified.is_none_or(|age| age < CLOCK_TICK);
        let (reading, before) = (path.clone(), self.content);
        let read = spawn_blocking(move || {
            let text = std::fs::read_to_string(&*reading).map_err(|error| format!("{reading}: {error}"))?;
            let mut hasher = DefaultHasher::new();
            hasher.write(text.as_bytes());
            let content = Some(hasher.finish());
            if content == before {
                return Ok(None);
            }
            let file = read_discovery(&Source::new(&reading, &text), kind);
            Ok::<_, String>(Some((content, file)))
        });
        let read = read.await.unwrap_or_else(|error| Err(format!("{path}: {error}")));
        let file = match read {
            Ok(None) => return None,
            Ok(Some((content, file))) => {
                self.content = content;
                file
            }
            Err(reason) => Err(reason),
        };
        if let Some(stats) = stats {
            stats.update_attempt.inc();
            stats.update_failure.add(file.is_err().into());
        }
        file.map_err(|reason| tracing::warn!(target: "config", "{reason}")).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn write(path: &Path, cluster: &str) {
        let type_url = Kind::Cluster.type_url();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("resources: [{{ '@type': {type_url}, name: {cluster} }}]")).unwrap();
    }

    async fn seen(watched: &mut Watched, path: &Arc<str>) -> Option<String> {
        let file = watched.changed(Kind::Cluster, path, None).await?;
        file.resources.first().map(|resource| resource.name.clone())
    }

    /// As Kubernetes does: the file is a link through a directory that is a link, and that one is exchanged.
    #[tokio::test]
    async fn a_file_behind_a_link_that_is_exchanged_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        write(&at("v1/cds"), "one");
        write(&at("v2/cds"), "two");
        symlink("v1", at("data")).unwrap();
        symlink("data/cds", at("cds")).unwrap();
        let path: Arc<str> = at("cds").to_str().unwrap().into();
        let mut watched = Watched::default();
        assert_eq!(seen(&mut watched, &path).await.as_deref(), Some("one"));
        assert_eq!(seen(&mut watched, &path).await, None, "the same content is no news");
        symlink("v2", at("next")).unwrap();
        std::fs::rename(at("next"), at("data")).unwrap();
        assert_eq!(seen(&mut watched, &path).await.as_deref(), Some("two"));
        // Written over at the same moment and of the same length.
        write(&at("v2/cds"), "six");
        assert_eq!(seen(&mut watched, &path).await.as_deref(), Some("six"));
        std::fs::write(at("v2/cds"), "resources: [").unwrap();
        assert_eq!(seen(&mut watched, &path).await, None, "what cannot be read changes nothing");
    }
}
