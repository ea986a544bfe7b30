//! A watch: what is in force, then every change after it, read from the log.
//!
//! The log and not a queue for each watcher: one that is slow costs nothing, and one that comes back after a break goes on
//! where it stopped, as long as the log reaches back that far.

use std::sync::Arc;

use outrigger_proto::outrigger::control::v1::watch_response::Event;
use outrigger_proto::outrigger::control::v1::{Object, WatchRequest, WatchResponse};
use tokio::sync::mpsc;
use tonic::Status;

use super::refusal::Refusal;
use super::{Api, InForce, objects, shown};
use crate::model::{DEFAULT_NAMESPACE, Key, Kind};
use crate::store::{Change, Entry, Log, LogError};

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

/// Sends events into `out` until its reader is gone, the process stops, or the log does not reach back.
pub(super) async fn run(request: WatchRequest, api: Api, out: mpsc::Sender<Result<WatchResponse, Status>>) {
    // The reader is gone: nobody is left to tell.
    let Err(status) = follow(request, api, &out).await else { return };
    _ = out.send(Err(status)).await;
}

async fn follow(
    request: WatchRequest,
    api: Api,
    out: &mpsc::Sender<Result<WatchResponse, Status>>,
) -> Result<(), Status> {
    let Api { mut in_force, log, proxies, .. } = api;
    let namespace = match (request.namespace.as_str(), request.name.as_str()) {
        // A name alone means the object in the default namespace, as in Get.
        ("", name) if !name.is_empty() => DEFAULT_NAMESPACE,
        (namespace, _) => namespace,
    };
    let selection = Selection::new(&request.kind, namespace, &request.name)?;
    let mut revision = match request.after_revision {
        Some(revision) => revision,
        None => {
            let set = Arc::clone(&in_force.borrow_and_update());
            let proxies = proxies.list();
            for (key, held) in set.objects.iter().filter(|(key, _)| selection.holds(key)) {
                let object = Some(shown(&set, key, held, &proxies));
                let event = event(Event::Initial, held.record.revision, object);
                if out.send(Ok(event)).await.is_err() {
                    return Ok(());
                }
            }
            if out.send(Ok(event(Event::Synced, set.revision, None))).await.is_err() {
                return Ok(());
            }
            set.revision
        }
    };
    loop {
        // Seen before the log is read: what comes meanwhile wakes this once more. The log may be ahead; what is not in
        // force yet has no status to show.
        let set = Arc::clone(&in_force.borrow_and_update());
        loop {
            let mut entries = read(&log, revision).await.map_err(Refusal::Log)?;
            entries.retain(|entry| entry.revision <= set.revision);
            let Some(last) = entries.last() else { break };
            revision = last.revision;
            for entry in entries {
                let Some(event) = of_entry(&entry, &set, &selection)? else { continue };
                if out.send(Ok(event)).await.is_err() {
                    return Ok(());
                }
            }
        }
        tokio::select! {
            changed = in_force.changed() => if changed.is_err() {
                return Err(Refusal::Stopping.into());
            },
            () = out.closed() => return Ok(()),
        }
    }
}

async fn read(log: &Log, revision: u64) -> Result<Vec<Entry>, LogError> {
    let log = log.clone();
    let read = tokio::task::spawn_blocking(move || log.after(revision)).await;
    // It was not run: the runtime is going down.
    read.unwrap_or_else(|_| Ok(Vec::new()))
}

fn of_entry(entry: &Entry, set: &InForce, selection: &Selection) -> Result<Option<WatchResponse>, Status> {
    let (kind, record) = match &entry.change {
        Change::Put(_, record) => (Event::Applied, record),
        Change::Remove(_, record) => (Event::Deleted, record),
    };
    let object = objects::of_record(record).map_err(|error| Status::internal(format!("a damaged record: {error}")))?;
    let Some(key) = Key::of(&object).filter(|key| selection.holds(key)) else { return Ok(None) };
    // With its status, unless it has changed again since.
    let held = set.objects.get(&key).filter(|held| held.record.revision == entry.revision);
    let object = held.map_or(object, |held| set.show(&key, held));
    Ok(Some(event(kind, entry.revision, Some(object))))
}

fn event(event: Event, revision: u64, object: Option<Object>) -> WatchResponse {
    WatchResponse { event: event.into(), revision, object }
}
