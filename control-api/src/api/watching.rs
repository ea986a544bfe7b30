//! A watch: what is in force, then every change after it, read from the log, and objects whose conditions have changed.
//!
//! The log and not a queue for each watcher: one that comes back after a break goes on where it stopped, as long as the
//! log reaches back that far. What is sent comes from one set in force, which a watch holds while its reader takes it;
//! so a reader that takes nothing for [`SLOW`] has to begin anew.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::outrigger::control::v1::watch_response::Event;
use outrigger_proto::outrigger::control::v1::{Object, WatchRequest, WatchResponse};
use tokio::sync::mpsc;
use tonic::Status;

use super::check::conditions;
use super::refusal::Refusal;
use super::{Api, Held, InForce, Standing, left_out, objects};
use crate::model::{self, DEFAULT_NAMESPACE, Key, Kind};
use crate::store::{Change, Entry, Log, LogError};

/// How long a reader may take nothing.
pub(super) const SLOW: Duration = Duration::from_secs(60);

type Out = mpsc::Sender<Result<WatchResponse, Status>>;

/// Which objects are asked for. `None`: all.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Of which kind.
    pub kind: Option<Kind>,
    /// In which namespace.
    pub namespace: Option<String>,
    /// Of which name.
    pub name: Option<String>,
}

impl Selection {
    /// Reads the fields of a request.
    ///
    /// # Errors
    /// The kind, if there is none of that name.
    pub fn new(kind: &str, namespace: &str, name: &str) -> Result<Self, Status> {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let kind = if kind.is_empty() { None } else { Some(super::kind_named(kind)?) };
        Ok(Self { kind, namespace: some(namespace), name: some(name) })
    }

    /// Whether the object is asked for.
    pub fn holds(&self, key: &Key) -> bool {
        self.kind.is_none_or(|kind| kind == key.kind)
            && self.namespace.as_deref().is_none_or(|namespace| *key.name.namespace == *namespace)
            && self.name.as_deref().is_none_or(|name| *key.name.name == *name)
    }
}

/// Sends events into `out` until its reader is gone or slow, the process stops, or the log does not reach back.
pub(super) async fn run(request: WatchRequest, api: Api, out: Out) {
    let Err(status) = follow(request, api, &out).await;
    // Nothing is held any more while this waits. Where the reader is gone, nobody is left to tell.
    _ = out.send(Err(status)).await;
}

async fn send(out: &Out, event: WatchResponse) -> Result<(), Status> {
    match tokio::time::timeout(SLOW, out.send(Ok(event))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(gone()),
        Err(_) => Err(Refusal::Slow(SLOW).into()),
    }
}

fn gone() -> Status {
    Status::cancelled("the reader is gone")
}

async fn follow(request: WatchRequest, api: Api, out: &Out) -> Result<Infallible, Status> {
    let mut in_force = api.in_force.clone();
    let mut statuses = api.board.changes();
    let namespace = match (request.namespace.as_str(), request.name.as_str()) {
        // A name alone means the object in the default namespace, as in Get.
        ("", name) if !name.is_empty() => DEFAULT_NAMESPACE,
        (namespace, _) => namespace,
    };
    let selection = Selection::new(&request.kind, namespace, &request.name)?;
    let mut seen = Seen::default();
    // The set whose objects were all looked at, and what had been said of them before.
    let (mut looked_at, mut said) = (None, 0);
    let mut goes_on = request.after_revision;
    let mut revision = match request.after_revision {
        Some(revision) => revision,
        None => {
            let set = Arc::clone(&in_force.borrow_and_update());
            let standing = api.board.standing(&api.proxies);
            for (key, held) in set.objects.iter().filter(|(key, _)| selection.holds(key)) {
                let status = api.status(&set, key, held, &standing);
                seen.changes(key, status.as_ref(), &set);
                let object = api.with_status(&set, key, held, status.as_ref());
                send(out, event(Event::Initial, held.record.revision, Some(object))).await?;
            }
            send(out, event(Event::Synced, set.revision, None)).await?;
            set.revision
        }
    };
    loop {
        // Seen before the log is read: what comes meanwhile wakes this once more. The log may be ahead; what is not in
        // force yet has no status to show.
        statuses.borrow_and_update();
        let set = Arc::clone(&in_force.borrow_and_update());
        let changed = api.board.changed(&mut said);
        let standing = api.board.standing(&api.proxies);
        loop {
            let mut entries = read(&api.log, revision).await.map_err(Refusal::Log)?;
            entries.retain(|entry| entry.revision <= set.revision);
            let Some(last) = entries.last() else { break };
            revision = last.revision;
            for entry in entries {
                let Some(event) = of_entry(&api, &entry, &set, &standing, &selection, &mut seen)? else { continue };
                send(out, event).await?;
            }
        }
        // Proxies change what was said of a few; a new set may change anything.
        let is_new = looked_at.replace(set.revision) != Some(set.revision);
        let some = changed.iter().filter_map(|key| set.objects.get_key_value(key));
        let all = set.objects.iter().filter(|_| is_new);
        // What has no conditions any more is told to who may know them; where it was written since, the log has told it.
        let goes_on = goes_on.take();
        let went = |key: &Key, held: &Held| {
            goes_on.is_some_and(|after| held.record.revision <= after && set.compiled.fell_silent(key, after))
        };
        for (key, held) in some.filter(|_| !is_new).chain(all).filter(|(key, _)| selection.holds(key)) {
            let status = api.status(&set, key, held, &standing);
            if seen.changes(key, status.as_ref(), &set) || went(key, held) {
                let object = api.with_status(&set, key, held, status.as_ref());
                send(out, event(Event::Applied, revision, Some(object))).await?;
            }
        }
        if is_new {
            seen.0.retain(|key, _| set.objects.contains_key(key));
        }
        drop(set);
        tokio::select! {
            changed = in_force.changed() => if changed.is_err() {
                return Err(Refusal::Stopping.into());
            },
            // Its sender is the board, which `api` holds.
            _ = statuses.changed() => {}
            () = out.closed() => return Err(gone()),
        }
    }
}

/// What the reader was told of the conditions of each object: hashes of types, statuses and reasons, and of what is left
/// out of it. Messages count proxies, and nobody watches for each of them.
#[derive(Default)]
struct Seen(BTreeMap<Key, u64>);

impl Seen {
    /// Whether the conditions are others than those that were told before. Where none were, they are: a watch that goes
    /// on after a break does not know which of them its reader has seen, and the log does not hold them.
    fn changes(&mut self, key: &Key, status: Option<&model::Status>, set: &InForce) -> bool {
        let left_out = left_out::reasons(&set.compiled.mesh, key);
        // The conditions of a Service or Workload are there while they have something to say.
        if status.is_none() && left_out.is_empty() {
            return self.0.remove(key).is_some();
        }
        let mut hash = DefaultHasher::new();
        for (name, condition) in status.into_iter().flat_map(conditions) {
            (name, &condition.status, &condition.reason).hash(&mut hash);
        }
        left_out.hash(&mut hash);
        let hash = hash.finish();
        self.0.insert(key.clone(), hash) != Some(hash)
    }
}

async fn read(log: &Log, revision: u64) -> Result<Vec<Entry>, LogError> {
    if let Some(entries) = log.recent(revision) {
        return Ok(entries);
    }
    let log = log.clone();
    let read = tokio::task::spawn_blocking(move || log.after(revision)).await;
    // It was not run: the runtime is going down.
    read.unwrap_or_else(|_| Ok(Vec::new()))
}

fn of_entry(
    api: &Api,
    entry: &Entry,
    set: &InForce,
    standing: &Standing,
    selection: &Selection,
    seen: &mut Seen,
) -> Result<Option<WatchResponse>, Status> {
    let (kind, record) = match &entry.change {
        Change::Put(_, record) => (Event::Applied, record),
        Change::Remove(_, record) => (Event::Deleted, record),
    };
    let object = objects::of_record(record).map_err(|error| Status::internal(format!("a damaged record: {error}")))?;
    let Some(key) = Key::of(&object).filter(|key| selection.holds(key)) else { return Ok(None) };
    // With its status, unless it has changed again since.
    let held = set.objects.get(&key).filter(|held| held.record.revision == entry.revision);
    let object = held.map_or(object, |held| {
        let status = api.status(set, &key, held, standing);
        seen.changes(&key, status.as_ref(), set);
        api.with_status(set, &key, held, status.as_ref())
    });
    Ok(Some(event(kind, entry.revision, Some(object))))
}

fn event(event: Event, revision: u64, object: Option<Object>) -> WatchResponse {
    WatchResponse { event: event.into(), revision, object }
}
