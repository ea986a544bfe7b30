//! Make before break: a listener that names a route table that names a cluster, all three changing at random, against a
//! client that answers and asks when it likes. Traffic always finds the cluster of the table of the listener in force.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use outrigger_engine::xds::Kind;
use proptest::prelude::*;

use super::View;
use super::session::{Names, Protocol, Request, Session};
use super::session_tests::resource;

use Kind::{Cluster, Listener, Routes};

const TABLES: [&str; 3] = ["r0", "r1", "r2"];
const CLUSTERS: [&str; 3] = ["c0", "c1", "c2"];

#[derive(Clone, Debug)]
enum Step {
    /// The listener names this table, and the table this cluster. There is nothing else.
    View(usize, usize),
    /// The client sends the oldest of what it has to say about a kind.
    Say(usize),
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..3_usize, 0..3_usize).prop_map(|(table, cluster)| Step::View(table, cluster)),
        8 => (0..3_usize).prop_map(Step::Say),
        1 => Just(Step::Reconnect),
    ]
}

/// The version of the listener is the name of its table, that of a table the name of its cluster.
fn view(table: &str, cluster: &str) -> Arc<View> {
    let one = |kind, name: &str, version| (kind, BTreeMap::from([(name.into(), resource(kind, name, version))]));
    Arc::new(View::from([one(Cluster, cluster, "1"), one(Listener, "l", table), one(Routes, table, cluster)]))
}

struct Client {
    protocol: Protocol,
    /// Of the session.
    part: usize,
    session: Session,
    view: Arc<View>,
    now: Instant,
    has: BTreeMap<Kind, BTreeMap<String, String>>,
    /// The table of the listener in force, which has it.
    in_force: Option<String>,
    /// Of each kind: the nonce of a response to accept, or empty for a change of the subscription.
    to_say: BTreeMap<Kind, VecDeque<Option<String>>>,
    /// The tables that the server was told of.
    subscribed: Vec<String>,
    newest: BTreeMap<Kind, String>,
    /// Kinds whose first request was not sent yet.
    silent: Vec<Kind>,
}

impl Client {
    fn new(protocol: Protocol, part: usize) -> Self {
        let view = view(TABLES[0], CLUSTERS[0]);
        let mut client = Self {
            protocol,
            part,
            session: Session::new(protocol, true, view.clone()),
            view,
            now: Instant::now(),
            has: [Cluster, Listener, Routes].map(|kind| (kind, BTreeMap::new())).into(),
            in_force: None,
            to_say: BTreeMap::new(),
            subscribed: Vec::new(),
            newest: BTreeMap::new(),
            silent: Vec::new(),
        };
        client.connect();
        client
    }

    fn connect(&mut self) {
        self.session = Session::new(self.protocol, true, self.view.clone());
        self.session.part = self.part;
        self.subscribed.clear();
        self.newest.clear();
        self.silent = vec![Cluster, Listener, Routes];
        self.to_say = [Cluster, Listener, Routes].map(|kind| (kind, VecDeque::from([None]))).into();
    }

    /// The tables that its listeners name: that in force, and the one that warms.
    fn tables(&self) -> Vec<String> {
        let warming = self.has[&Listener].get("l").cloned();
        let mut tables: Vec<_> = self.in_force.clone().into_iter().chain(warming).collect();
        tables.sort();
        tables.dedup();
        tables
    }

    fn say(&mut self, kind: Kind) {
        // Clients ask for clusters first.
        if kind != Cluster && self.silent.contains(&Cluster) {
            return;
        }
        let Some(nonce) = self.to_say.get_mut(&kind).and_then(VecDeque::pop_front) else { return };
        let wanted = if kind == Routes { self.tables() } else { vec![] };
        let first = self.silent.contains(&kind);
        if first && kind == Routes && wanted.is_empty() {
            return;
        }
        self.silent.retain(|silent| *silent != kind);
        let names = match self.protocol {
            Protocol::StateOfTheWorld => Names::All(wanted.clone()),
            Protocol::Delta => Names::Delta {
                subscribe: wanted.iter().filter(|name| !self.subscribed.contains(name)).cloned().collect(),
                unsubscribe: self
                    .subscribed
                    .iter()
                    .filter(|name| kind == Routes && !wanted.contains(name))
                    .cloned()
                    .collect(),
                versions: if first { self.has[&kind].clone() } else { BTreeMap::new() },
            },
        };
        if kind == Routes {
            self.has.get_mut(&Routes).unwrap().retain(|name, _| wanted.contains(name));
            self.subscribed = wanted;
        }
        // A change of the subscription does not answer: delta says so, the other protocol by the newest nonce that it
        // had.
        let nonce = match (nonce, self.protocol) {
            (Some(nonce), _) => nonce,
            (None, Protocol::Delta) => String::new(),
            (None, Protocol::StateOfTheWorld) => self.newest.get(&kind).cloned().unwrap_or_default(),
        };
        self.newest.insert(kind, nonce.clone());
        self.session.request(kind, Request { nonce, error: None, names });
    }

    fn read(&mut self) -> Result<(), TestCaseError> {
        while let Some(response) = self.session.next(self.now) {
            let kind = response.kind;
            let has = self.has.get_mut(&kind).unwrap();
            if self.protocol == Protocol::StateOfTheWorld && kind != Routes {
                has.clear();
            }
            has.extend(response.resources.iter().map(|new| (new.name.to_string(), new.version.to_string())));
            // Of a table that is removed and still in use the last version stays.
            for name in response.removed.iter().filter(|_| kind != Routes) {
                has.remove(name.as_ref());
            }
            let before = self.tables();
            self.to_say.entry(kind).or_default().push_back(Some(response.nonce.to_string()));
            if let Some(table) = self.has[&Listener].get("l").filter(|table| self.has[&Routes].contains_key(*table)) {
                self.in_force = Some(table.clone());
            }
            if kind == Listener || self.tables() != before {
                self.to_say.entry(Routes).or_default().push_back(None);
            }
            self.check()?;
        }
        Ok(())
    }

    /// Traffic has a cluster.
    fn check(&self) -> Result<(), TestCaseError> {
        let Some(table) = &self.in_force else { return Ok(()) };
        let cluster = &self.has[&Routes][table];
        prop_assert!(self.has[&Cluster].contains_key(cluster), "{table} names {cluster}, and there is {:?}", self.has);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1024) })]

    #[test]
    fn a_listener_in_force_never_lacks_its_cluster(
        world in any::<bool>(),
        part in 1..1000_usize,
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let mut client = Client::new(if world { Protocol::StateOfTheWorld } else { Protocol::Delta }, part);
        for step in steps {
            match step {
                Step::View(table, cluster) => {
                    client.view = view(TABLES[table], CLUSTERS[cluster]);
                    client.session.update(client.view.clone());
                }
                Step::Say(kind) => client.say([Cluster, Listener, Routes][kind]),
                // By the state of the world a client cannot say what it has: the first response replaces all of it.
                Step::Reconnect if world => {}
                Step::Reconnect => client.connect(),
            }
            client.read()?;
        }
        // All is said, nobody waits for a time to pass, and nothing is left over.
        for _ in 0..12 {
            for kind in [Cluster, Listener, Routes] {
                while client.to_say.get(&kind).is_some_and(|waiting| !waiting.is_empty()) {
                    client.say(kind);
                    client.read()?;
                }
            }
        }
        let there: Vec<_> = client.view[&Cluster].keys().map(ToString::to_string).collect();
        prop_assert_eq!(client.has[&Cluster].keys().cloned().collect::<Vec<_>>(), there);
        let table = client.in_force.as_ref().unwrap();
        prop_assert_eq!(&client.has[&Listener]["l"], table);
        prop_assert!(client.view[&Routes].contains_key(table.as_str()));
    }
}
