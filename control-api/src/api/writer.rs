//! The one thread that writes: it takes a set of changes, checks what would come of it, stores it and puts it in force.
//!
//! One after the other on one thread, because each write is checked against all that is in force, and because the
//! database has one writer anyway. Everybody else reads [`InForce`], which is exchanged whole.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use outrigger_proto::outrigger::control::v1::applied::Outcome;
use outrigger_proto::outrigger::control::v1::{Applied, Object};
use tokio::sync::{mpsc, oneshot, watch};

use super::check::Compiled;
use super::differences::differences;
use super::objects;
use super::refusal::{Refusal, Violation};
use crate::log::BOUNDED;
use crate::model::{self, Key, Stored};
use crate::node::Caller;
use crate::store::{Change, Record, Records, Store, StoreError};
use crate::versioned::Map;
use crate::xds::{View, Views};

/// How many writes wait without their callers: who goes away while it waits takes its set along.
const QUEUE: usize = 1;

/// An object in force.
#[derive(Clone, Debug)]
pub struct Held {
    /// As the store has it.
    pub record: Arc<Record>,
    /// As the model takes it, with what the store knows in its metadata.
    pub stored: Stored,
}

/// All that is in force.
#[derive(Clone, Debug)]
pub struct InForce {
    /// The revision that made it so.
    pub revision: u64,
    /// The objects.
    pub objects: Map<Key, Held>,
    /// What they mean.
    pub compiled: Compiled,
}

impl InForce {
    /// The object with its status.
    pub fn shown(&self, key: &Key) -> Option<Object> {
        self.objects.get(key).map(|held| self.show(key, held))
    }

    /// As [`InForce::shown`], of an object at hand.
    pub fn show(&self, key: &Key, held: &Held) -> Object {
        let status = self.compiled.statuses.get(key);
        objects::with_status(&held.stored.object, status.map(|status| &**status))
    }
}

impl Views for InForce {
    fn view(&self, caller: &Caller) -> Arc<View> {
        self.compiled.mesh.view(caller)
    }

    fn is_new(&self) -> bool {
        self.revision == 0
    }

    fn revision(&self) -> u64 {
        self.revision
    }
}

/// What became of an `Apply`.
#[derive(Debug)]
pub struct ApplyOutcome {
    /// The revision in force after it.
    pub revision: u64,
    /// What became of each object.
    pub applied: Vec<Applied>,
}

/// What became of a `Delete`.
#[derive(Debug)]
pub struct DeleteOutcome {
    /// The revision in force after it.
    pub revision: u64,
    /// What was deleted.
    pub deleted: Vec<Object>,
}

/// A key to delete, and the version that it must have.
#[derive(Clone, Debug)]
pub struct Doomed {
    /// Which object.
    pub key: Key,
    /// Empty: any version.
    pub resource_version: String,
}

enum Command {
    Apply { objects: Vec<Object>, dry_run: bool, reply: oneshot::Sender<Result<ApplyOutcome, Refusal>> },
    Delete { doomed: Vec<Doomed>, dry_run: bool, reply: oneshot::Sender<Result<DeleteOutcome, Refusal>> },
    Stop,
}

/// Hands writes to the thread.
#[derive(Clone, Debug)]
pub struct Writer {
    commands: mpsc::Sender<Command>,
}

impl Writer {
    /// Starts the thread on what the store held when it was opened. The last value gets the store's error, if it fails:
    /// then nothing can be written any more.
    ///
    /// # Errors
    /// Where a record is no object, or the kernel makes no thread.
    pub fn start(
        store: Store,
        records: Records,
    ) -> Result<(Self, watch::Receiver<Arc<InForce>>, oneshot::Receiver<StoreError>), String> {
        let mut held = Map::default();
        for (name, record) in records {
            let (key, object) =
                hold(&record).map_err(|reason| store.damaged(format!("{name}: {reason}")).to_string())?;
            held.insert(key, object);
        }
        let (revision, objects) = (store.revision(), held.iter().map(|(key, held)| (key.clone(), &held.stored)));
        let compiled = Compiled::stored(objects, revision, now());
        let in_force = InForce { revision, objects: held, compiled };
        let (publish, published) = watch::channel(Arc::new(in_force));
        let (commands, queue) = mpsc::channel(QUEUE);
        let (failed, failure) = oneshot::channel();
        let body = move || {
            let mut thread = Thread { store, publish };
            if let Err(error) = thread.run(queue) {
                // Nobody waits for it if the process is ending.
                _ = failed.send(error);
            }
        };
        std::thread::Builder::new()
            .name("writer".to_owned())
            .spawn(body)
            .map_err(|error| format!("no thread for writing: {error}"))?;
        Ok((Self { commands }, published, failure))
    }

    /// Creates and updates objects: all or none.
    ///
    /// # Errors
    /// Why nothing was applied.
    pub async fn apply(&self, objects: Vec<Object>, dry_run: bool) -> Result<ApplyOutcome, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Apply { objects, dry_run, reply }).await.map_err(|_| Refusal::Stopping)?;
        answer.await.map_err(|_| Refusal::Stopping)?
    }

    /// Deletes objects: all or none.
    ///
    /// # Errors
    /// Why nothing was deleted.
    pub async fn delete(&self, doomed: Vec<Doomed>, dry_run: bool) -> Result<DeleteOutcome, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Delete { doomed, dry_run, reply }).await.map_err(|_| Refusal::Stopping)?;
        answer.await.map_err(|_| Refusal::Stopping)?
    }

    /// Ends the thread after the writes that wait by now; whoever follows what is in force sees that its sender is
    /// gone.
    pub async fn stop(&self) {
        // It has ended already.
        _ = self.commands.send(Command::Stop).await;
    }
}

/// What is to be done: changes, and what is in force after them.
struct Plan {
    changes: Vec<Change>,
    next: InForce,
}

struct Thread {
    store: Store,
    publish: watch::Sender<Arc<InForce>>,
}

impl Thread {
    fn run(&mut self, mut queue: mpsc::Receiver<Command>) -> Result<(), StoreError> {
        while let Some(command) = queue.blocking_recv() {
            // A caller that went away is no reason to stop; what was decided is decided.
            match command {
                Command::Apply { objects, dry_run, reply } => match self.apply(objects, dry_run) {
                    Err(Refusal::Store(error)) => return Err(error),
                    result => _ = reply.send(result),
                },
                Command::Delete { doomed, dry_run, reply } => match self.delete(doomed, dry_run) {
                    Err(Refusal::Store(error)) => return Err(error),
                    result => _ = reply.send(result),
                },
                Command::Stop => break,
            }
        }
        Ok(())
    }

    fn in_force(&self) -> Arc<InForce> {
        Arc::clone(&self.publish.borrow())
    }

    fn apply(&mut self, objects: Vec<Object>, dry_run: bool) -> Result<ApplyOutcome, Refusal> {
        let before = self.in_force();
        let mut next = before.objects.clone();
        let (mut changes, mut violations) = (Vec::new(), Vec::new());
        let mut keys: Vec<(Key, Outcome)> = Vec::with_capacity(objects.len());
        let mut seen = BTreeSet::new();
        for (index, mut object) in objects.into_iter().enumerate() {
            let Some(key) = Key::of(&object) else {
                violations.push(Violation {
                    field: format!("objects[{index}]"),
                    place: format!("objects[{index}]"),
                    value: String::new(),
                    reason: "an object has to be of a kind".to_owned(),
                });
                continue;
            };
            violations.extend(model::validate(&object).into_iter().map(|problem| violation(index, &key, problem)));
            if !seen.insert(key.clone()) {
                violations.push(twice(format!("objects[{index}]"), &key));
                continue;
            }
            let existing = before.objects.get(&key);
            let given = objects::metadata(&object).and_then(|metadata| metadata.resource_version.clone());
            conflict(&key, given.unwrap_or_default(), existing)?;
            objects::strip(&mut object);
            let bytes = objects::bytes(&object);
            let outcome = match existing {
                None => Outcome::Created,
                Some(held) if held.record.bytes == bytes => Outcome::Unchanged,
                Some(_) => Outcome::Configured,
            };
            if outcome != Outcome::Unchanged {
                let revision = self.store.revision().saturating_add(1);
                let record = match existing {
                    None => Record { revision, created: revision, generation: 1, created_at: now(), bytes },
                    Some(Held { record, stored }) => {
                        let changed = u64::from(!objects::same_spec(&stored.object, &object));
                        let generation = record.generation.saturating_add(changed);
                        Record { revision, generation, bytes, ..**record }
                    }
                };
                let record = Arc::new(record);
                // It was encoded a moment ago.
                if let Ok((_, held)) = hold(&record) {
                    next.insert(key.clone(), held);
                }
                changes.push(Change::Put(objects::store_key(&key), record));
            }
            keys.push((key, outcome));
        }
        if !violations.is_empty() {
            return Err(Refusal::Invalid(violations));
        }
        let changed = keys.iter().filter(|(_, outcome)| *outcome != Outcome::Unchanged).map(|(key, _)| key);
        let plan = self.plan(&before, changes, changed, next)?;
        let applied = keys.into_iter().map(|(key, outcome)| {
            let object = plan.next.shown(&key);
            let was = before.objects.get(&key).map(|held| held.stored.object.as_ref());
            let is = plan.next.objects.get(&key).map(|held| held.stored.object.as_ref());
            let differences = match outcome {
                Outcome::Configured => differences(was.map(written).as_ref(), is.map(written).as_ref()),
                _ => Vec::new(),
            };
            Applied { outcome: outcome.into(), object, differences }
        });
        let applied: Vec<Applied> = applied.collect();
        Refusal::unless_fits(&applied, "applied")?;
        Ok(ApplyOutcome { revision: self.carry_out(plan, dry_run)?, applied })
    }

    fn delete(&mut self, doomed: Vec<Doomed>, dry_run: bool) -> Result<DeleteOutcome, Refusal> {
        let before = self.in_force();
        let mut next = before.objects.clone();
        let (mut changes, mut deleted) = (Vec::new(), Vec::new());
        let (mut missing, mut violations) = (Vec::new(), Vec::new());
        for (index, Doomed { key, resource_version }) in doomed.iter().enumerate() {
            let Some(held) = next.remove(key) else {
                match before.objects.contains_key(key) {
                    true => violations.push(twice(format!("keys[{index}]"), key)),
                    false => missing.push(key.clone()),
                }
                continue;
            };
            conflict(key, resource_version.clone(), Some(&held))?;
            deleted.push(before.show(key, &held));
            changes.push(Change::Remove(objects::store_key(key), held.record));
        }
        if !violations.is_empty() {
            return Err(Refusal::Invalid(violations));
        }
        if !missing.is_empty() {
            return Err(Refusal::NotFound(missing));
        }
        Refusal::unless_fits(&deleted, "deleted")?;
        let plan = self.plan(&before, changes, doomed.iter().map(|doomed| &doomed.key), next)?;
        Ok(DeleteOutcome { revision: self.carry_out(plan, dry_run)?, deleted })
    }

    /// Checks what would be in force: `next`, which differs in the objects `changed`.
    fn plan<'k>(
        &self,
        before: &InForce,
        changes: Vec<Change>,
        changed: impl Iterator<Item = &'k Key>,
        next: Map<Key, Held>,
    ) -> Result<Plan, Refusal> {
        if changes.is_empty() {
            return Ok(Plan { changes, next: before.clone() });
        }
        let changed = changed.map(|key| (key.clone(), next.get(key).map(|held| &held.stored)));
        let revision = self.store.revision().saturating_add(1);
        let compiled = before.compiled.check(changed, revision, now()).map_err(Refusal::Invalid)?;
        Ok(Plan { changes, next: InForce { revision, objects: next, compiled } })
    }

    /// Stores the changes and puts them in force, unless it is a dry run or there are none.
    fn carry_out(&mut self, plan: Plan, dry_run: bool) -> Result<u64, Refusal> {
        if dry_run || plan.changes.is_empty() {
            return Ok(self.store.revision());
        }
        let revision =
            self.store.commit(&plan.changes).inspect_err(|error| tracing::error!(target: BOUNDED, "{error}"))?;
        let removed = plan.changes.iter().filter(|change| matches!(change, Change::Remove(..))).count();
        tracing::info!("revision {revision}: {} written, {removed} deleted", plan.changes.len() - removed);
        self.publish.send_replace(Arc::new(plan.next));
        Ok(revision)
    }
}

/// An object as it was written: without what the store adds.
fn written(object: &Object) -> Object {
    let mut object = object.clone();
    objects::strip(&mut object);
    object
}

fn hold(record: &Arc<Record>) -> Result<(Key, Held), String> {
    let object = objects::of_record(record).map_err(|error| error.to_string())?;
    let key = Key::of(&object).ok_or("it has no kind that this version knows")?;
    let stored = Stored { object: Arc::new(object), created: record.created };
    Ok((key, Held { record: Arc::clone(record), stored }))
}

/// Refuses to overwrite what the writer has not seen.
fn conflict(key: &Key, given: String, existing: Option<&Held>) -> Result<(), Refusal> {
    let current = existing.map(|held| held.record.revision);
    if given.is_empty() || current.is_some_and(|current| current.to_string() == given) {
        return Ok(());
    }
    Err(Refusal::Conflict { key: key.clone(), given, current })
}

/// Of a set that names one object twice.
fn twice(field: String, key: &Key) -> Violation {
    Violation { field, place: key.to_string(), value: String::new(), reason: "is in this set twice".to_owned() }
}

fn violation(index: usize, key: &Key, problem: outrigger_engine::config::report::Problem) -> Violation {
    let dot = if problem.path.is_empty() { "" } else { "." };
    Violation {
        field: format!("objects[{index}].{}{dot}{}", objects::field_name(key.kind), problem.path),
        place: format!("{key}: {}", problem.path),
        value: problem.value,
        reason: problem.reason,
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
