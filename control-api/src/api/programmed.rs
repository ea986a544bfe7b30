//! The condition `Programmed`: whether the proxies that are connected have what an object became.
//!
//! It comes from what they acknowledged: a proxy has an object if it has everything of the revision that wrote it.
//! Reasons are those of the Gateway API, and of GEP-713 for policies. It is made when an object is read; [`Board`]
//! remembers since when it says what it says, and tells watches when it says something else.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outrigger_proto::outrigger::control::v1::Condition;
use tokio::sync::watch;

use super::objects::rfc3339;
use super::writer::{Held, InForce, now};
use crate::model::status::condition;
use crate::model::{Key, Status};
use crate::store::Record;
use crate::xds::{Proxies, Proxy};

const TYPE: &str = "Programmed";
/// Proxies that a message names.
const NAMED: usize = 3;
/// The least time between two looks at all objects: a mesh acknowledges in thousands of small steps.
const PACE: Duration = Duration::from_millis(100);

/// Where all proxies are at one moment.
#[derive(Debug)]
pub(super) struct Standing {
    /// Counts moments.
    number: u64,
    /// The revision of each, sorted.
    revisions: Vec<u64>,
    /// The revision of each that rejected something, and what.
    rejections: Vec<(u64, String)>,
    /// Whether something else was said of an object by who looked later, before it was said at this moment.
    overtaken: AtomicBool,
}

impl Standing {
    fn of(number: u64, proxies: &[Proxy]) -> Self {
        let mut revisions: Vec<u64> = proxies.iter().map(Proxy::revision).collect();
        revisions.sort_unstable();
        let rejections = proxies.iter().filter_map(|proxy| Some((proxy.revision(), rejection(proxy)?))).collect();
        Self { number, revisions, rejections, overtaken: AtomicBool::new(false) }
    }

    /// Whether something that was made of this is out of date, of which the board does not tell again.
    pub(super) fn is_overtaken(&self) -> bool {
        self.overtaken.load(Ordering::Relaxed)
    }

    /// What this revision or an older one wrote is with every proxy.
    fn settled(&self) -> u64 {
        self.revisions.first().copied().unwrap_or_default()
    }

    /// The condition of an object that this revision wrote. `waiting`: the reason where it is not known yet.
    fn condition(&self, revision: u64, waiting: &str, generation: Option<i64>) -> Condition {
        let all = self.revisions.len();
        let behind = self.revisions.partition_point(|has| *has < revision);
        let rejected = || self.rejections.iter().filter(|(has, _)| *has < revision).map(|(_, what)| what.as_str());
        let unknown = |message: String| Condition {
            status: "Unknown".to_owned(),
            ..condition(TYPE, false, waiting, message, generation)
        };
        let count = rejected().count();
        if all == 0 {
            unknown("no proxy is connected".to_owned())
        } else if count > 0 {
            let named = rejected().take(NAMED).collect::<Vec<_>>().join("; ");
            let more = if count > NAMED { "; ..." } else { "" };
            let message = format!("{count} of {all} proxies rejected a part: {named}{more}");
            condition(TYPE, false, "Invalid", message, generation)
        } else if behind == 0 {
            condition(TYPE, true, "Programmed", format!("all {all} connected proxies have it"), generation)
        } else {
            unknown(format!("{} of {all} connected proxies have it", all - behind))
        }
    }
}

/// What was said last of each object.
#[derive(Debug, Default)]
pub struct Board {
    pad: Mutex<Pad>,
    moments: AtomicU64,
    changes: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Pad {
    said: BTreeMap<Key, Said>,
    /// What was said anew, in its order: for each object the last time.
    order: BTreeMap<u64, Key>,
    /// The number of the newest of these.
    newest: u64,
}

#[derive(Debug)]
struct Said {
    /// Its number in the order; 0 as long as nothing else was said of it.
    number: u64,
    /// The object's first revision: one that is deleted and made again is another.
    created: u64,
    moment: u64,
    status: String,
    reason: String,
    since: String,
}

impl Board {
    /// Is marked when any object's condition has another status or reason.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// The objects whose condition has another status or reason than at `after`, which then is now.
    pub(super) fn changed(&self, after: &mut u64) -> Vec<Key> {
        let pad = self.pad();
        let since = std::mem::replace(after, pad.newest);
        pad.order.range((Bound::Excluded(since), Bound::Unbounded)).map(|(_, key)| key.clone()).collect()
    }

    /// Where all proxies are now.
    pub(super) fn standing(&self, proxies: &Proxies) -> Standing {
        Standing::of(self.moments.fetch_add(1, Ordering::Relaxed), &proxies.list())
    }

    /// Adds the condition to the status of an object, wherever it was accepted.
    pub(super) fn add(&self, key: &Key, record: &Record, status: &mut Status, standing: &Standing) {
        let (lists, waiting): (Vec<&mut Vec<Condition>>, _) = match status {
            Status::Route(route) => {
                (route.parents.iter_mut().map(|parent| &mut parent.conditions).collect(), "Pending")
            }
            Status::Policy(policy) => {
                (policy.ancestors.iter_mut().map(|ancestor| &mut ancestor.conditions).collect(), "Reconciling")
            }
            Status::Object(_) => return,
        };
        for conditions in lists {
            let accepted = conditions.iter().find(|found| found.r#type == "Accepted" && found.status == "True");
            // What a policy lost to an older one is said already.
            let said = conditions.iter().any(|found| found.r#type == TYPE);
            if let Some(generation) = accepted.filter(|_| !said).map(|accepted| accepted.observed_generation) {
                let mut new = standing.condition(record.revision, waiting, generation);
                new.last_transition_time = Some(self.since(key, record.created, standing, &new));
                conditions.push(new);
            }
        }
    }

    /// Since when the condition has its status.
    fn since(&self, key: &Key, created: u64, standing: &Standing, new: &Condition) -> String {
        let moment = standing.number;
        let mut pad = self.pad();
        let Pad { said: all, order, newest } = &mut *pad;
        let Some(said) = all.get_mut(key).filter(|said| said.created == created) else {
            let since = rfc3339(now());
            let (status, reason) = (new.status.clone(), new.reason.clone());
            let said = Said { number: 0, created, moment, status, reason, since: since.clone() };
            if let Some(other) = all.insert(key.clone(), said) {
                order.remove(&other.number);
            }
            return since;
        };
        // Who looked earlier and comes later has nothing new to say.
        let transition = said.status != new.status;
        let changed = transition || said.reason != new.reason;
        if moment < said.moment {
            standing.overtaken.fetch_or(changed, Ordering::Relaxed);
            return said.since.clone();
        }
        said.moment = moment;
        if transition {
            said.since = rfc3339(now());
        }
        if changed {
            said.status.clone_from(&new.status);
            said.reason.clone_from(&new.reason);
            order.remove(&said.number);
            *newest += 1;
            said.number = *newest;
            order.insert(*newest, key.clone());
        }
        let since = said.since.clone();
        drop(pad);
        if changed {
            self.changes.send_replace(());
        }
        since
    }

    /// Looks at all objects, also those that nobody reads.
    fn look(&self, set: &InForce, proxies: &Proxies) {
        let standing = self.standing(proxies);
        let settled = standing.settled();
        for (key, status) in set.compiled.statuses.iter() {
            let Some(Held { record, .. }) = set.objects.get(key) else { continue };
            // Most of a mesh is with every proxy, and was before.
            if record.revision > settled || !self.stands(key, record.created, standing.number) {
                self.add(key, record, &mut Status::clone(status), &standing);
            }
        }
        let mut pad = self.pad();
        let Pad { said, order, .. } = &mut *pad;
        said.retain(|key, _| set.objects.contains_key(key));
        order.retain(|_, key| set.objects.contains_key(key));
    }

    /// Says of an object once more that it is with every proxy. `false`: something else was said of it, or nothing.
    fn stands(&self, key: &Key, created: u64, moment: u64) -> bool {
        let mut pad = self.pad();
        let said = pad.said.get_mut(key).filter(|said| said.created == created && said.status == "True");
        said.map(|said| said.moment = said.moment.max(moment)).is_some()
    }

    fn pad(&self) -> MutexGuard<'_, Pad> {
        self.pad.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks whenever the set or the proxies have changed, until nothing writes any more.
pub(super) async fn follow(board: Arc<Board>, mut in_force: watch::Receiver<Arc<InForce>>, proxies: Arc<Proxies>) {
    let mut changes = proxies.changes();
    loop {
        changes.borrow_and_update();
        let set = Arc::clone(&in_force.borrow_and_update());
        board.look(&set, &proxies);
        drop(set);
        let ended = tokio::select! {
            changed = in_force.changed() => changed.is_err(),
            changed = changes.changed() => changed.is_err(),
        };
        if ended {
            return;
        }
        tokio::time::sleep(PACE).await;
    }
}

/// `orders-1: CDS: reason`
fn rejection(proxy: &Proxy) -> Option<String> {
    let (kind, status) = proxy.kinds.iter().find(|(_, status)| status.rejected.is_some())?;
    Some(format!("{}: {}: {}", proxy.node, kind.abbreviation(), status.rejected.as_deref().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use outrigger_engine::xds::Kind;

    use super::*;
    use crate::model;
    use crate::xds::{self, Protocol};

    fn proxy(node: &str, revision: u64, rejected: Option<&str>) -> Proxy {
        let status = xds::Status { rejected: rejected.map(str::to_owned), revision, ..xds::Status::default() };
        Proxy {
            node: node.to_owned(),
            cluster: String::new(),
            agent: String::new(),
            address: None,
            connected: SystemTime::UNIX_EPOCH,
            protocol: Protocol::Delta,
            kinds: [(Kind::Routes, status)].into(),
            needs: [Kind::Routes].into(),
        }
    }

    #[test]
    fn what_was_said_anew_is_told_once_and_by_its_object() {
        let board = Board::default();
        let key = |name: &str| Key { kind: model::Kind::HttpRoute, name: model::Name::new("default", name) };
        let say = |moment: u64, name: &str, proxies: &[Proxy]| {
            let standing = Standing::of(moment, proxies);
            board.since(&key(name), 1, &standing, &standing.condition(5, "Pending", None));
            standing.is_overtaken()
        };
        let (old, new) = (proxy("a", 4, None), proxy("a", 5, None));
        let mut after = 0;
        for name in ["r", "s"] {
            say(1, name, std::slice::from_ref(&old));
        }
        assert_eq!(board.changed(&mut after), [], "it was the first that was said of them");
        say(2, "s", std::slice::from_ref(&new));
        assert_eq!(board.changed(&mut after), [key("s")]);
        assert_eq!(board.changed(&mut after), []);
        for (moment, has) in [(3, &old), (4, &new), (5, &old)] {
            say(moment, "s", std::slice::from_ref(has));
        }
        say(6, "r", std::slice::from_ref(&new));
        assert!(say(5, "r", std::slice::from_ref(&old)), "who looked before shows what is not so any more");
        assert_eq!(board.changed(&mut after), [key("s"), key("r")], "each once, however often");
        assert_eq!(board.changed(&mut 0), [key("s"), key("r")], "who comes later hears of all");
        // It is with every proxy once more; who looked before that has nothing new to say.
        assert!(board.stands(&key("r"), 1, 9) && !board.stands(&key("r"), 2, 9) && !board.stands(&key("s"), 1, 9));
        assert!(say(8, "r", std::slice::from_ref(&old)) && !say(8, "r", std::slice::from_ref(&new)));
        assert_eq!(board.changed(&mut after), []);
    }

    #[test]
    fn it_is_true_once_every_proxy_has_it() {
        let of = |proxies: &[Proxy]| {
            let found = Standing::of(0, proxies).condition(5, "Pending", Some(1));
            (found.status, found.reason, found.message)
        };
        let expected =
            |status: &str, reason: &str, message: &str| (status.to_owned(), reason.to_owned(), message.to_owned());
        assert_eq!(of(&[]), expected("Unknown", "Pending", "no proxy is connected"));
        let (old, new, newer) = (proxy("a", 4, None), proxy("b", 5, None), proxy("c", 6, None));
        assert_eq!(of(&[old.clone(), new.clone()]), expected("Unknown", "Pending", "1 of 2 connected proxies have it"));
        assert_eq!(of(&[new.clone(), newer]), expected("True", "Programmed", "all 2 connected proxies have it"));
        let bad = proxy("d", 4, Some("r: no"));
        assert_eq!(
            of(&[bad, new.clone()]),
            expected("False", "Invalid", "1 of 2 proxies rejected a part: d: RDS: r: no")
        );
        // It has not asked for a kind yet.
        let mut starting = new.clone();
        starting.needs.insert(Kind::Listener);
        assert_eq!(of(&[starting]), expected("Unknown", "Pending", "0 of 1 connected proxies have it"));
        // What it rejected came later than the object.
        assert_eq!(of(&[proxy("d", 5, Some("no"))]).0, "True");
    }
}
