//! A random series of views, subscriptions, answers, reconnects and time, against a client that only does what it is
//! told: in the end it has what the view says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_engine::xds::Kind;
use proptest::prelude::*;

use super::View;
use super::session::{Names, PATIENCE, Protocol, Request, Response, Session};
use super::session_tests::resource;

/// Whether resources of the kind name clusters.
fn is_user(kind: Kind) -> bool {
    matches!(kind, Kind::Listener | Kind::Routes)
}

const NAMES: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Step {
    /// Of each kind and name: absent (0) or a version.
    View([[u8; 3]; 4]),
    /// Whether EDS or RDS of this name is wanted.
    Want(bool, usize, bool),
    /// Take the oldest response that was not answered of a kind, and accept it or not.
    Answer(usize, bool),
    Reconnect,
    Wait(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prop::array::uniform4(prop::array::uniform3(0..3_u8)).prop_map(Step::View),
        2 => (any::<bool>(), 0..3_usize, any::<bool>()).prop_map(|(eds, name, on)| Step::Want(eds, name, on)),
        6 => (0..4_usize, prop::bool::weighted(0.9)).prop_map(|(kind, accept)| Step::Answer(kind, accept)),
        1 => Just(Step::Reconnect),
        1 => (0..20_u8).prop_map(Step::Wait),
    ]
}

fn view(versions: &[[u8; 3]; 4]) -> Arc<View> {
    let mut view = View::new();
    for (kind, versions) in Kind::ALL.into_iter().zip(versions) {
        for (name, version) in NAMES.iter().zip(versions).filter(|(_, version)| **version > 0) {
            view.entry(kind).or_default().insert((*name).into(), resource(kind, name, &version.to_string()));
        }
    }
    Arc::new(view)
}

/// A client that keeps what it was sent last, by kind and name.
struct Client {
    protocol: Protocol,
    /// Of the session.
    part: usize,
    session: Session,
    view: Arc<View>,
    now: Instant,
    wanted: BTreeMap<Kind, BTreeSet<&'static str>>,
    has: BTreeMap<Kind, BTreeMap<String, String>>,
    unanswered: BTreeMap<Kind, Response>,
    /// When each kind was sent last.
    sent: BTreeMap<Kind, Instant>,
    nonces: BTreeMap<Kind, String>,
    /// What it rejected on this stream, and was not replaced since: in its place it uses what it had, which may name
    /// the clusters that it had then.
    rejected: BTreeMap<Kind, BTreeMap<String, BTreeSet<String>>>,
    /// The version of the clusters that it accepted last.
    accepted: String,
}

impl Client {
    fn new(protocol: Protocol, part: usize) -> Self {
        let view = Arc::new(View::new());
        let mut client = Self {
            protocol,
            part,
            session: Session::new(protocol, true, view.clone()),
            view,
            now: Instant::now(),
            wanted: [(Kind::Endpoints, BTreeSet::new()), (Kind::Routes, BTreeSet::new())].into(),
            has: Kind::ALL.map(|kind| (kind, BTreeMap::new())).into(),
            unanswered: BTreeMap::new(),
            sent: BTreeMap::new(),
            nonces: BTreeMap::new(),
            rejected: BTreeMap::new(),
            accepted: String::new(),
        };
        client.connect();
        client
    }

    fn connect(&mut self) {
        let refused = self.session.refused(Kind::Listener) || self.session.refused(Kind::Routes);
        let past = self.session.past().filter(|past| past.is_of(&self.accepted));
        let world = self.protocol == Protocol::StateOfTheWorld;
        assert!(past.is_some() || !world || !refused || self.accepted.is_empty(), "nobody knows what it uses");
        self.session = Session::new(self.protocol, true, self.view.clone());
        self.session.part = self.part;
        self.unanswered.clear();
        self.nonces.clear();
        if past.is_none() {
            self.rejected.clear();
        }
        if world {
            self.session.resume(&self.accepted, past);
        }
        for kind in Kind::ALL {
            let names = self.names(kind);
            let names = match self.protocol {
                Protocol::Delta => {
                    Names::Delta { subscribe: names, unsubscribe: vec![], versions: self.has[&kind].clone() }
                }
                Protocol::StateOfTheWorld => Names::All(names),
            };
            self.session.request(kind, Request { nonce: String::new(), error: None, names });
        }
    }

    fn names(&self, kind: Kind) -> Vec<String> {
        self.wanted.get(&kind).into_iter().flatten().map(ToString::to_string).collect()
    }

    fn wants(&self, kind: Kind, name: &str) -> bool {
        self.wanted.get(&kind).is_none_or(|names| names.contains(name))
    }

    /// Reads all that the session has to say.
    fn read(&mut self) -> Result<(), TestCaseError> {
        while let Some(response) = self.session.next(self.now) {
            let kind = response.kind;
            let since = self.sent.insert(kind, self.now);
            let waited = kind == Kind::Cluster && since.is_some_and(|since| self.now >= since + PATIENCE);
            prop_assert!(waited || !self.unanswered.contains_key(&kind), "two responses of {kind:?} in flight");
            let whole = self.protocol == Protocol::StateOfTheWorld && matches!(kind, Kind::Cluster | Kind::Listener);
            let wanted: Vec<_> =
                response.resources.iter().filter(|resource| self.wants(kind, &resource.name)).collect();
            let before = self.has[&kind].clone();
            let has = self.has.get_mut(&kind).unwrap();
            if whole {
                has.clear();
            }
            has.extend(wanted.iter().map(|resource| (resource.name.to_string(), resource.version.to_string())));
            for name in &response.removed {
                has.remove(name.as_ref());
            }
            if kind == Kind::Cluster && before.keys().any(|name| !has.contains_key(name)) {
                // That a route table is gone the state of the world does not say.
                let there =
                    |kind: Kind, name: &String| self.view.get(&kind).is_some_and(|v| v.contains_key(name.as_str()));
                let in_use = self.rejected.iter().flat_map(|(kind, all)| all.iter().map(move |entry| (*kind, entry)));
                let in_use = in_use.filter(|(kind, (name, _))| is_user(*kind) && there(*kind, name));
                for (_, (_, clusters)) in in_use {
                    let gone = clusters.iter().find(|name| before.contains_key(*name) && !has.contains_key(*name));
                    prop_assert_eq!(gone, None, "a cluster is removed that what was rejected may name");
                }
            }
            let has = &self.has[&kind];
            let rejected = self.rejected.entry(kind).or_default();
            rejected.retain(|name, _| has.contains_key(name));
            self.unanswered.insert(kind, response);
        }
        Ok(())
    }

    fn answer(&mut self, kind: Kind, accept: bool) {
        let Some(response) = self.unanswered.remove(&kind) else { return };
        let names = match self.protocol {
            Protocol::Delta => Names::Delta { subscribe: vec![], unsubscribe: vec![], versions: BTreeMap::new() },
            Protocol::StateOfTheWorld => Names::All(self.names(kind)),
        };
        self.nonces.insert(kind, response.nonce.to_string());
        let clusters: BTreeSet<String> = self.has[&Kind::Cluster].keys().cloned().collect();
        let rejected = self.rejected.entry(kind).or_default();
        for resource in &response.resources {
            let name = resource.name.to_string();
            // What it dropped meanwhile it does not use.
            if accept || !self.has[&kind].contains_key(&name) {
                rejected.remove(&name);
            } else {
                rejected.entry(name).or_insert_with(|| clusters.clone());
            }
        }
        if accept && kind == Kind::Cluster {
            self.accepted = response.version.to_string();
        }
        let error = (!accept).then(|| "no".to_owned());
        self.session.request(kind, Request { nonce: response.nonce.to_string(), error, names });
    }

    /// The clusters that stay though they are gone.
    fn kept_clusters(&self) -> BTreeSet<&String> {
        let users = self.rejected.iter().filter(|(kind, _)| is_user(**kind));
        users.flat_map(|(_, rejected)| rejected.values().flatten()).collect()
    }

    fn want(&mut self, kind: Kind, name: &'static str, on: bool) {
        let wanted = self.wanted.get_mut(&kind).unwrap();
        if if on { !wanted.insert(name) } else { !wanted.remove(name) } {
            return;
        }
        if !on {
            self.has.get_mut(&kind).unwrap().remove(name);
            self.rejected.entry(kind).or_default().remove(name);
        }
        let list = |yes: bool| if yes { vec![name.to_owned()] } else { vec![] };
        let (nonce, names) = match self.protocol {
            Protocol::Delta => {
                (String::new(), Names::Delta { subscribe: list(on), unsubscribe: list(!on), versions: BTreeMap::new() })
            }
            Protocol::StateOfTheWorld => {
                (self.nonces.get(&kind).cloned().unwrap_or_default(), Names::All(self.names(kind)))
            }
        };
        // While a response is not answered, what a state-of-the-world client sends crosses it: its nonce is the one
        // before.
        self.session.request(kind, Request { nonce, error: None, names });
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::View(versions) => {
                self.view = view(versions);
                self.session.update(self.view.clone());
            }
            Step::Want(eds, name, on) => {
                self.want(if *eds { Kind::Endpoints } else { Kind::Routes }, NAMES[*name], *on);
            }
            Step::Answer(kind, accept) => self.answer(Kind::ALL[*kind], *accept),
            Step::Reconnect => self.connect(),
            Step::Wait(seconds) => self.now += Duration::from_secs((*seconds).into()),
        }
    }

    /// What the view says that the client is to have. Without removals on the wire, what went may stay; and clusters
    /// with their endpoints, while what was rejected may name them.
    fn check(&self) -> Result<(), TestCaseError> {
        let kept = self.kept_clusters();
        for kind in Kind::ALL {
            let there = self.view.get(&kind);
            let mut has = self.has[&kind].clone();
            if self.protocol == Protocol::StateOfTheWorld && matches!(kind, Kind::Endpoints | Kind::Routes) {
                has.retain(|name, _| there.is_some_and(|there| there.contains_key(name.as_str())));
            }
            if matches!(kind, Kind::Cluster | Kind::Endpoints) && !kept.is_empty() {
                // Endpoints go when no cluster is to go any more.
                let may_stay = |name: &String| kind == Kind::Endpoints || kept.contains(name);
                has.retain(|name, _| !may_stay(name) || there.is_some_and(|there| there.contains_key(name.as_str())));
            }
            let wanted = there.into_iter().flatten().filter(|(name, _)| self.wants(kind, name));
            let wanted: BTreeMap<_, _> =
                wanted.map(|(name, resource)| (name.to_string(), resource.version.to_string())).collect();
            prop_assert_eq!(&has, &wanted, "{:?}", kind);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn a_client_ends_with_what_the_view_says(
        world in any::<bool>(),
        part in 1..1000_usize,
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut client = Client::new(if world { Protocol::StateOfTheWorld } else { Protocol::Delta }, part);
        for step in &steps {
            client.step(step);
            prop_assert!(client.session.is_consistent(), "{step:?}");
            client.read()?;
            prop_assert!(client.session.is_consistent());
        }
        // All of it is answered, in few rounds. Removals do not wait for ever for routes that nobody asks for.
        for _ in 0..20 {
            client.now += PATIENCE;
            for kind in Kind::ALL {
                client.answer(kind, true);
            }
            client.read()?;
        }
        prop_assert!(client.unanswered.is_empty(), "it goes on without a change: {:?}", client.unanswered);
        client.check()?;

        // To a stream that comes back, delta says nothing.
        if !world {
            let kept = !client.kept_clusters().is_empty();
            client.connect();
            let unknown = Kind::ALL.iter().any(|kind| client.names(*kind).iter().any(|name| !client.has[kind].contains_key(name)));
            let empty = Kind::ALL.iter().any(|kind| client.has[kind].is_empty());
            if !unknown && !empty && !kept {
                prop_assert!(client.session.next(client.now).is_none());
            }
        }
    }
}
