//! Which files may have changed: one inotify instance for all of them, since a user has few (128 by default, for all
//! the pods of a node that run as this user).
//!
//! A path is watched where its names are looked up: in the directory of the file, and in those of each directory and
//! each symbolic link on the way. So any way of replacing it is noticed: written over, renamed into place, its
//! directory renamed, a link exchanged, as Kubernetes does with mounted configuration (`..data`); and so is that it has
//! gone. What is not there is waited for in the last directory that is.
//!
//! To look along a path takes as long as the server that it is on, so this is done where a thread may be kept waiting; the
//! events are read on the control thread.
//!
//! Where a directory cannot be watched, or inotify fails, the file is read once a second; and as often as `poll_interval` says, which is
//! for file systems that tell nothing (NFS).

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outrigger_engine::config::config_source::FileSource;
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::timeout;

/// Between two looks at a file that cannot be watched.
const FALLBACK: Duration = Duration::from_secs(1);

/// Links on the way of one path, at most, as for the kernel.
const MAX_LINKS: usize = 40;

/// What happens to a name in a directory. Not every write: a file that is being written is read when it is closed.
const EVENTS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::ONLYDIR);

/// Tells of changes.
#[derive(Clone, Debug)]
pub(super) struct Watcher(Arc<Inner>);

/// Locked for moments, never while the file system is asked.
#[derive(Debug)]
struct Inner(Mutex<State>);

#[derive(Debug)]
struct State {
    /// `None`: the system has no more instances for us, or ours failed.
    inotify: Option<Arc<AsyncFd<OwnedFd>>>,
    /// Who waits for what, by the number that the kernel gave a directory.
    places: HashMap<i32, Vec<Place>>,
    /// How often numbers were given back.
    ended: u64,
}

/// A name in a directory, or all of them.
#[derive(Debug)]
struct Place {
    name: Option<OsString>,
    changed: Arc<Notify>,
}

/// The watch on one file. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    inner: Arc<Inner>,
    source: FileSource,
    changed: Arc<Notify>,
    /// Every place could be watched.
    is_complete: AtomicBool,
}

impl Watcher {
    /// Nothing is watched yet. To be called in a `LocalSet`.
    pub(super) fn new() -> Self {
        let made = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(std::io::Error::from);
        let made = made.and_then(|descriptor| {
            // SAFETY: an `OwnedFd` is open as long as it is there, and stays in the `AsyncFd`.
            unsafe { AsyncFd::register(descriptor) }.map_err(std::io::Error::from)
        });
        let inotify = made
            .map_err(|error| {
                tracing::warn!(target: "config", "files are read once a second, since inotify does not work: {error}");
            })
            .ok();
        Watcher::of(inotify)
    }

    fn of(inotify: Option<AsyncFd<OwnedFd>>) -> Self {
        let state = State { inotify: inotify.map(Arc::new), places: HashMap::new(), ended: 0 };
        let inner = Arc::new(Inner(Mutex::new(state)));
        let reader = Arc::downgrade(&inner);
        spawn_local(async move {
            // Ends with the last watch and the watcher.
            while let Some(inner) = reader.upgrade() {
                let Some(inotify) = inner.state().inotify.clone() else { return };
                // An instance lives as long as the process, so holding it here keeps nothing from ending.
                if let Err(error) = inner.read(&inotify).await {
                    tracing::error!(target: "config", "files are read once a second from now on: inotify: {error}");
                    inner.give_up();
                }
            }
        });
        Watcher(inner)
    }

    /// Watches a file.
    pub(super) fn watch(&self, source: &FileSource) -> Watch {
        let (inner, changed) = (self.0.clone(), Arc::default());
        Watch { inner, source: source.clone(), changed, is_complete: AtomicBool::new(false) }
    }

    /// Whether no file is watched.
    #[cfg(test)]
    pub(super) fn is_unused(&self) -> bool {
        self.0.state().places.is_empty()
    }
}

impl Watch {
    /// Has changes from now on noticed. To be called before each read: the way to a file may be another than before.
    /// Asks the file system, which may keep the thread waiting.
    pub(super) fn renew(&self) {
        let path = Path::new(&*self.source.path);
        let mut way = places(path);
        for _ in 0..MAX_LINKS {
            self.inner.state().forget(&self.changed);
            let directory = self.source.watched_directory.iter().map(|path| (PathBuf::from(&**path), None));
            let mut is_complete = true;
            for (directory, name) in way.iter().map(|(at, name)| (at.clone(), Some(name.clone()))).chain(directory) {
                is_complete &= self.inner.add(&directory, name, &self.changed);
            }
            self.is_complete.store(is_complete, Ordering::Relaxed);
            // What became another before it was watched tells nobody.
            let now = places(path);
            if now == way {
                break;
            }
            way = now;
        }
        self.inner.state().end_unused();
    }

    /// Waits until the file may be another than at the last [`Watch::renew`].
    pub(super) async fn changed(&self) {
        let poll = if self.is_complete.load(Ordering::Relaxed) { self.source.poll_interval } else { Some(FALLBACK) };
        match poll {
            // The end of the time is a reason to look, too.
            Some(interval) => _ = timeout(interval, self.changed.notified()).await,
            None => self.changed.notified().await,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        state.forget(&self.changed);
        state.end_unused();
    }
}

impl Inner {
    /// It is whole after every step, so a panic elsewhere spoils nothing.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is watched any more: each file is to be looked at without.
    fn give_up(&self) {
        let mut state = self.state();
        state.inotify = None;
        for place in std::mem::take(&mut state.places).into_values().flatten() {
            place.changed.notify_one();
        }
    }

    /// Watches a directory; says whether that is possible.
    fn add(&self, directory: &Path, name: Option<OsString>, changed: &Arc<Notify>) -> bool {
        loop {
            let (inotify, ended) = {
                let state = self.state();
                (state.inotify.clone(), state.ended)
            };
            let Some(inotify) = inotify else { return false };
            let number = match inotify::add_watch(&*inotify, directory, EVENTS) {
                Ok(number) => number,
                Err(error) => {
                    tracing::debug!(target: "config", "{} cannot be watched: {error}", directory.display());
                    return false;
                }
            };
            let mut state = self.state();
            if state.inotify.is_none() {
                return false;
            }
            let is_valid = state.ended == ended;
            let places = state.places.entry(number).or_default();
            // Otherwise it may be this number that was given back since.
            if is_valid {
                places.push(Place { name, changed: changed.clone() });
                return true;
            }
        }
    }

    /// Tells of the events that are there, or that come next.
    async fn read(&self, inotify: &AsyncFd<OwnedFd>) -> std::io::Result<()> {
        let mut ready = inotify.readable().await?;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(inotify, &mut buffer);
        loop {
            match events.next() {
                Ok(event) => self.tell(event.wd(), event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()))),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear_ready();
        Ok(())
    }

    /// Something happened to a name in a directory; without a name, to the directory, or more than the kernel can say.
    fn tell(&self, number: i32, name: Option<&OsStr>) {
        let state = self.state();
        let concerned: Vec<&Place> = match state.places.get(&number) {
            Some(places) => places.iter().collect(),
            None if number < 0 => state.places.values().flatten().collect(),
            None => Vec::new(),
        };
        for place in concerned {
            if name.is_none() || place.name.is_none() || place.name.as_deref() == name {
                place.changed.notify_one();
            }
        }
    }
}

impl State {
    fn forget(&mut self, changed: &Arc<Notify>) {
        for places in self.places.values_mut() {
            places.retain(|place| !Arc::ptr_eq(&place.changed, changed));
        }
    }

    fn end_unused(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        for (number, _) in self.places.extract_if(|_, places| places.is_empty()) {
            // Fails where the directory is gone.
            _ = inotify::remove_watch(&**inotify, number);
            self.ended = self.ended.wrapping_add(1);
        }
    }
}

/// Where a path is looked up: each name on the way, those of symbolic links included, and the directory that it is in.
/// Ends at the first name that is missing.
fn places(path: &Path) -> Vec<(PathBuf, OsString)> {
    let reversed = |path: &Path| -> Vec<OsString> {
        path.components().rev().map(|component| component.as_os_str().to_owned()).collect()
    };
    let mut rest = reversed(path);
    let (mut at, mut found, mut links) = (PathBuf::from("."), Vec::new(), 0usize);
    while let Some(name) = rest.pop() {
        match Path::new(&name).components().next() {
            Some(Component::Normal(_)) => {}
            // The root takes the place of all before it.
            _ => {
                at.push(name);
                continue;
            }
        }
        let next = at.join(&name);
        match std::fs::symlink_metadata(&next) {
            Err(_) => {
                found.push((at, name));
                break;
            }
            Ok(metadata) if metadata.is_symlink() => {
                found.push((at.clone(), name));
                links = links.saturating_add(1);
                let Ok(target) = std::fs::read_link(&next) else { break };
                if links > MAX_LINKS {
                    break;
                }
                rest.extend(reversed(&target));
            }
            Ok(_) => {
                found.push((at, name));
                at = next;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::{UnixListener, UnixStream};

    use tokio::task::LocalSet;

    use super::*;
    use crate::testing::on_paused_time;

    /// Longer than anything here takes.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn source(path: &Path) -> FileSource {
        FileSource { path: path.to_str().unwrap().into(), watched_directory: None, poll_interval: None }
    }

    #[test]
    fn a_path_is_looked_up_link_by_link() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("v1")).unwrap();
        std::fs::write(at("v1/cds"), "x").unwrap();
        symlink("v1", at("..data")).unwrap();
        symlink("..data/cds", at("cds")).unwrap();
        let last = |path: &Path| path.file_name().unwrap().to_owned();
        let names = |path: &Path| -> Vec<(OsString, OsString)> {
            let found = places(path);
            let known = directory.path();
            let inside = found.into_iter().filter(|(at, _)| at.starts_with(known));
            inside.map(|(at, name)| (last(&at), name)).collect()
        };
        let here = last(directory.path());
        let expected = [(&here, "cds"), (&here, "..data"), (&here, "v1"), (&OsString::from("v1"), "cds")];
        assert_eq!(names(&at("cds")), expected.map(|(at, name)| (at.clone(), name.into())));
        assert_eq!(names(&at("not/there")), [(here.clone(), "not".into())]);
        symlink("round", at("round")).unwrap();
        assert_eq!(names(&at("round")).len(), MAX_LINKS + 1);
    }

    /// Runs `change`, and waits until a watch tells of it.
    async fn notices(watcher: &Watcher, source: &FileSource, what: &str, change: impl FnOnce()) {
        let watch = watcher.watch(source);
        watch.renew();
        change();
        assert!(timeout(PATIENCE, watch.changed()).await.is_ok(), "{what}");
    }

    #[tokio::test]
    async fn every_way_of_replacing_a_file_is_noticed() {
        let run = async {
            let directory = tempfile::tempdir().unwrap();
            let at = |name: &str| directory.path().join(name);
            let write = |name: &str| std::fs::write(at(name), "x").unwrap();
            let rename = |from: &str, to: &str| std::fs::rename(at(from), at(to)).unwrap();
            let (watcher, cds) = (Watcher::new(), source(&at("conf/cds")));
            notices(&watcher, &cds, "its directory comes", || std::fs::create_dir(at("conf")).unwrap()).await;
            notices(&watcher, &cds, "it comes", || write("conf/cds")).await;
            notices(&watcher, &cds, "it is written over", || write("conf/cds")).await;
            write("new");
            notices(&watcher, &cds, "another is moved there", || rename("new", "conf/cds")).await;
            notices(&watcher, &cds, "it is moved away", || rename("conf/cds", "new")).await;
            notices(&watcher, &cds, "it comes back", || rename("new", "conf/cds")).await;
            notices(&watcher, &cds, "its directory is moved away", || rename("conf", "away")).await;
            rename("away", "conf");
            notices(&watcher, &cds, "it is removed", || std::fs::remove_file(at("conf/cds")).unwrap()).await;
            write("conf/cds");
            std::fs::create_dir(at("conf.new")).unwrap();
            write("conf.new/cds");
            let exchange = || {
                rename("conf", "conf.old");
                rename("conf.new", "conf");
            };
            notices(&watcher, &cds, "another directory takes the place of its own", exchange).await;
            for version in ["v1", "v2"] {
                std::fs::create_dir(at(version)).unwrap();
                write(&format!("{version}/cds"));
            }
            symlink("../..data/cds", at("conf/link")).unwrap();
            symlink("v1", at("..data")).unwrap();
            notices(&watcher, &cds, "it becomes a link", || rename("conf/link", "conf/cds")).await;
            symlink("v2", at("..next")).unwrap();
            notices(&watcher, &cds, "a link on the way is exchanged", || rename("..next", "..data")).await;
            notices(&watcher, &cds, "what the links lead to is written over", || write("v2/cds")).await;

            std::fs::create_dir(at("other")).unwrap();
            write("new");
            let watched_directory = Some(at("other").to_str().unwrap().into());
            let by_directory = FileSource { watched_directory, ..cds.clone() };
            let what = "something moves into the watched directory";
            notices(&watcher, &by_directory, what, || rename("new", "other/any")).await;
            let polled = FileSource { poll_interval: Some(Duration::from_millis(1)), ..cds };
            notices(&watcher, &polled, "it is looked at from time to time", || {}).await;
            assert!(watcher.is_unused(), "nothing is watched any more");
        };
        LocalSet::new().run_until(run).await;
    }

    #[test]
    fn where_inotify_fails_files_are_looked_at_once_a_second() {
        on_paused_time(async {
            let directory = tempfile::tempdir().unwrap();
            // No instance of inotify can be made to fail. Of this one, there is something to read, and it cannot be.
            let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
            let _connection = UnixStream::connect(directory.path().join("socket")).unwrap();
            // SAFETY: as above.
            let failing = unsafe { AsyncFd::register(OwnedFd::from(listener)) }.unwrap();
            let watcher = Watcher::of(Some(failing));
            let watch = watcher.watch(&source(&directory.path().join("cds")));
            watch.is_complete.store(true, Ordering::Relaxed);
            let place = Place { name: None, changed: watch.changed.clone() };
            watcher.0.state().places.insert(1, vec![place]);
            for what in ["at once", "a second later"] {
                assert!(timeout(PATIENCE, watch.changed()).await.is_ok(), "{what}");
                watch.renew();
            }
        });
    }
}
