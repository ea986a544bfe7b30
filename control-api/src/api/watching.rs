//! A watch: what is in force, then every change after it, read from the log, and objects whose conditions have changed.
//!
//! The log and not a queue for each watcher: one that comes back after a break goes on where it stopped, as long as the
//! log reaches back that far. What is sent comes from one set in force, which a watch holds while its reader takes it;
//! so a reader that takes nothing for [`SLOW`], or does not come to the end of a set within [`PASS`], has to begin anew.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use outrigger_proto::outrigger::control::v1::watch_response::Event;
use outrigger_proto::outrigger::control::v1::{Object, WatchRequest, WatchResponse};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::Status;

use super::check::conditions;
use super::refusal::Refusal;
use super::waiting::{self, Taken};
use super::{Api, Held, InForce, Standing, left_out, objects};
use crate::connection::Cut;
use crate::model::{self, DEFAULT_NAMESPACE, Key, Kind};
use crate::store::{Change, Entry, PIECE, Piece, Position, after};

/// How long a reader may take nothing.
pub(super) const SLOW: Duration = Duration::from_secs(60);

/// How long a reader may take for all that is in force, or for what has changed since it was last at its end.
const PASS: Duration = Duration::from_secs(600);
/// What an object takes beside its bytes, its conditions for instance.
pub(super) const AROUND: usize = 512;

pub(super) type Out<T> = mpsc::Sender<Result<waiting::Piece<T>, Status>>;

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

/// Sends events into `out` until its reader is gone or slow, the process stops, or the log does not reach back. `cut` drops
/// what is on its way.
pub(super) async fn run(request: WatchRequest, api: Api, out: Out<WatchResponse>, cut: Cut) {
    let Err(status) = follow(request, &api, &Reader { api: &api, out: &out, cut }).await;
    // Nothing is held any more while this waits. Where the reader is gone, nobody is left to tell.
    _ = out.send(Err(status)).await;
}

/// Who reads the events.
pub(super) struct Reader<'a, T> {
    pub(super) api: &'a Api,
    pub(super) out: &'a Out<T>,
    pub(super) cut: Cut,
}

impl<T> Reader<'_, T> {
    /// Waits for room for so many bytes.
    pub(super) async fn room(&self, bytes: usize) -> Result<Taken, Status> {
        tokio::select! {
            taken = self.api.waiting.take(bytes, &self.cut) => Ok(taken),
            () = self.out.closed() => Err(gone()),
        }
    }

    pub(super) async fn send(&self, events: Vec<T>, room: Taken) -> Result<(), Status> {
        if events.is_empty() {
            return Ok(());
        }
        match tokio::time::timeout(SLOW, self.out.send(Ok((events, room)))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(Refusal::Slow(SLOW).into()),
        }
    }
}

impl Reader<'_, WatchResponse> {
    /// Sends an event for each of the objects, piece by piece: none is made before there is room for it.
    async fn send_each<'s, T>(
        &self,
        objects: Box<dyn Iterator<Item = (&'s Key, &'s Held, T)> + Send + '_>,
        mut event: Box<dyn FnMut(&'s Key, &'s Held, T) -> WatchResponse + Send + '_>,
    ) -> Result<(), Status> {
        let mut objects = objects.peekable();
        while objects.peek().is_some() {
            let (mut piece, mut bytes) = (Vec::new(), 0);
            let size = |held: &Held| held.record.bytes.len().saturating_add(AROUND);
            while let Some(object) =
                objects.next_if(|(_, held, _)| piece.is_empty() || size(held).saturating_add(bytes) <= PIECE)
            {
                bytes = size(object.1).saturating_add(bytes);
                piece.push(object);
            }
            let room = self.room(bytes).await?;
            let events = piece.into_iter().map(|(key, held, more)| event(key, held, more)).collect();
            self.send(events, room).await?;
        }
        Ok(())
    }
}

/// What a reader may take so long for.
pub(super) async fn pass<T>(pass: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    tokio::time::timeout(PASS, pass).await.unwrap_or_else(|_| Err(Refusal::Slow(PASS).into()))
}

pub(super) fn gone() -> Status {
    Status::cancelled("the reader is gone")
}

async fn follow(request: WatchRequest, api: &Api, reader: &Reader<'_, WatchResponse>) -> Result<Infallible, Status> {
    let mut in_force = api.in_force.clone();
    let mut statuses = api.board.changes();
    let namespace = match (request.namespace.as_str(), request.name.as_str()) {
        // A name alone means the object in the default namespace, as in Get.
        ("", name) if !name.is_empty() => DEFAULT_NAMESPACE,
        (namespace, _) => namespace,
    };
    let selection = Selection::new(&request.kind, namespace, &request.name)?;
    let mut seen = Seen::default();
    // The set of which all objects were looked at, and what had been said of them before.
    let (mut looked_at, mut said) = (None, 0);
    let mut goes_on = request.after_revision;
    let mut revision = match request.after_revision {
        Some(revision) => revision,
        None => {
            let set = Arc::clone(&in_force.borrow_and_update());
            let standing = api.board.standing(&api.proxies);
            let chosen = set.objects.iter().filter(|(key, _)| selection.holds(key));
            let chosen = Box::new(chosen.map(|(key, held)| (key, held, ())));
            let initial = Box::new(|key: &Key, held: &Held, ()| {
                let status = api.status(&set, key, held, &standing);
                seen.changes(key, status.as_ref(), &set);
                let object = api.with_status(&set, key, held, status.as_ref());
                event(Event::Initial, held.record.revision, Some(object))
            });
            pass(reader.send_each(chosen, initial)).await?;
            reader.send(vec![event(Event::Synced, set.revision, None)], reader.room(AROUND).await?).await?;
            set.revision
        }
    };
    let mut position = after(revision);
    loop {
        // Seen before the log is read: what comes meanwhile wakes this once more. The log may be ahead; what is not in
        // force yet has no status to show.
        statuses.borrow_and_update();
        let set = Arc::clone(&in_force.borrow_and_update());
        let changed = api.board.changed(&mut said);
        let standing = api.board.standing(&api.proxies);
        // Where it is not known what has changed, that may be anything.
        let touched: Option<Vec<&Key>> =
            looked_at.replace(set.revision).and_then(|before| Some(set.compiled.touched(before)?.collect()));
        let is_all = touched.is_none();
        // What has no conditions any more is told to who may know them; where it was written since, the log has told it.
        let goes_on = goes_on.take();
        let went = |key: &Key, held: &Held| {
            goes_on.is_some_and(|after| held.record.revision <= after && set.compiled.fell_silent(key, after))
        };
        pass(async {
            while let Some(sent) = changes(api, reader, position, &set, &standing, &selection, &mut seen).await? {
                (revision, position) = sent;
            }
            let few = changed.iter().chain(touched.iter().flatten().copied()).filter(|_| !is_all);
            let few = few.filter_map(|key| set.objects.get_key_value(key));
            let all = is_all.then(|| set.objects.iter()).into_iter().flatten();
            let chosen = few.chain(all).filter(|(key, _)| selection.holds(key)).filter_map(|(key, held)| {
                let status = api.status(&set, key, held, &standing);
                let tell = seen.changes(key, status.as_ref(), &set) || went(key, held);
                tell.then_some((key, held, status))
            });
            let applied = Box::new(|key: &Key, held: &Held, status: Option<model::Status>| {
                event(Event::Applied, revision, Some(api.with_status(&set, key, held, status.as_ref())))
            });
            reader.send_each(Box::new(chosen), applied).await
        })
        .await?;
        match touched {
            None => seen.0.retain(|key, _| set.objects.contains_key(key)),
            Some(touched) => {
                for key in touched.into_iter().filter(|key| !set.objects.contains_key(key)) {
                    seen.0.remove(key);
                }
            }
        }
        drop(set);
        // While the reader took its time, the board has said something else of an object than was told here.
        if standing.is_overtaken() {
            looked_at = None;
            continue;
        }
        tokio::select! {
            changed = in_force.changed() => if changed.is_err() {
                return Err(Refusal::Stopping.into());
            },
            // Its sender is the board, which `api` holds.
            _ = statuses.changed() => {}
            () = reader.out.closed() => return Err(gone()),
        }
    }
}

/// Sends the next changes that are in force. The revision of the last of them, and where those after them begin.
async fn changes(
    api: &Api,
    reader: &Reader<'_, WatchResponse>,
    position: Position,
    set: &InForce,
    standing: &Standing,
    selection: &Selection,
    seen: &mut Seen,
) -> Result<Option<(u64, Position)>, Status> {
    let (piece, copying) = read(api, position).await?;
    let in_force: Vec<Entry> = piece.entries.into_iter().take_while(|entry| entry.revision <= set.revision).collect();
    let Some(last) = in_force.last() else { return Ok(None) };
    let sent = (last.revision, piece.next.min(after(set.revision)));
    let room = reader.room(in_force.iter().map(|entry| entry.size().saturating_add(AROUND)).sum()).await?;
    drop(copying);
    let events = in_force.iter().filter_map(|entry| of_entry(api, entry, set, standing, selection, seen).transpose());
    reader.send(events.collect::<Result<_, _>>()?, room).await?;
    Ok(Some(sent))
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

/// Reads the log. The permit is to be kept until there is room for what was copied from the disk.
async fn read(api: &Api, position: Position) -> Result<(Piece, Option<OwnedSemaphorePermit>), Status> {
    if let Some(piece) = api.log.recent(position) {
        return Ok((piece, None));
    }
    let copying = Arc::clone(&api.waiting.copying).acquire_owned().await.ok();
    let log = api.log.clone();
    match tokio::task::spawn_blocking(move || log.from(position)).await {
        Ok(read) => Ok((read.map_err(Refusal::Log)?, copying)),
        // It was not run: the runtime is going down.
        Err(_) => Err(Refusal::Stopping.into()),
    }
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
