//! Updates, refusals, reconnects, interests and time in any order: when it is quiet again, what is applied is what the
//! server has, and each response was answered once, on its stream.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use proptest::prelude::{Just, ProptestConfig, Strategy, prop_oneof, proptest};

use super::*;

const WAIT: Option<Duration> = Some(Duration::from_secs(15));

#[derive(Clone, Debug)]
enum Step {
    /// The server has this content; 0 is refused.
    Set(Kind, u8, u8),
    Remove(Kind, u8),
    Want(Kind, u8),
    GiveUp(Kind, u8),
    /// The client's messages leave.
    Send,
    /// The server reads a message.
    Serve,
    /// The client reads a message.
    Read,
    Apply,
    Verdict(Kind),
    Disconnect,
    Connect,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let kind = || proptest::sample::select(Kind::ALL.to_vec());
    let named = || proptest::sample::select(vec![Kind::Endpoints, Kind::Routes]);
    prop_oneof![
        3 => (kind(), 0..4u8, 0..4u8).prop_map(|(kind, name, content)| Step::Set(kind, name, content)),
        1 => (kind(), 0..4u8).prop_map(|(kind, name)| Step::Remove(kind, name)),
        2 => (named(), 0..4u8).prop_map(|(kind, name)| Step::Want(kind, name)),
        1 => (named(), 0..4u8).prop_map(|(kind, name)| Step::GiveUp(kind, name)),
        3 => Just(Step::Send),
        3 => Just(Step::Serve),
        3 => Just(Step::Read),
        3 => Just(Step::Apply),
        4 => kind().prop_map(Step::Verdict),
        1 => Just(Step::Disconnect),
        2 => Just(Step::Connect),
        1 => (0..20_000u64).prop_map(Step::Pass),
    ]
}

fn is_wildcard(kind: Kind) -> bool {
    matches!(kind, Kind::Cluster | Kind::Listener)
}

/// What the server knows of a kind on a stream.
#[derive(Default)]
struct Served {
    names: BTreeSet<String>,
    /// Name and version of what was sent (delta).
    sent: BTreeMap<String, u64>,
    /// The version that was sent last (state of the world).
    version: u64,
    nonce: String,
    open: BTreeSet<String>,
    answered: BTreeSet<String>,
}

/// A server, and the wires to it and from it.
struct Server {
    variant: Variant,
    content: BTreeMap<(Kind, String), (u64, u8)>,
    versions: BTreeMap<Kind, u64>,
    count: u64,
    kinds: BTreeMap<Kind, Served>,
    is_first: bool,
    to_client: VecDeque<Response>,
    to_server: VecDeque<Request>,
}

impl Server {
    fn new(variant: Variant) -> Server {
        Server {
            variant,
            content: BTreeMap::new(),
            versions: BTreeMap::new(),
            count: 0,
            kinds: BTreeMap::new(),
            is_first: true,
            to_client: VecDeque::new(),
            to_server: VecDeque::new(),
        }
    }

    fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    fn reset(&mut self) {
        self.kinds.clear();
        self.is_first = true;
        self.to_client.clear();
        self.to_server.clear();
    }

    fn change(&mut self, kind: Kind, name: u8, content: Option<u8>) {
        let version = self.next();
        self.versions.insert(kind, version);
        match content {
            Some(content) => self.content.insert((kind, name.to_string()), (version, content)),
            None => self.content.remove(&(kind, name.to_string())),
        };
        self.push(kind, false);
    }

    fn wanted(&self, kind: Kind) -> Vec<(String, u64, u8)> {
        let Some(served) = self.kinds.get(&kind) else { return Vec::new() };
        let all = self
            .content
            .iter()
            .filter(|((of, name), _)| *of == kind && (is_wildcard(kind) || served.names.contains(name)));
        all.map(|((_, name), (version, content))| (name.clone(), *version, *content)).collect()
    }

    /// Sends what is new; `force` where there may be nothing.
    fn push(&mut self, kind: Kind, force: bool) {
        let wanted = self.wanted(kind);
        let version = self.versions.get(&kind).copied().unwrap_or_default();
        let nonce = self.next().to_string();
        let Some(served) = self.kinds.get_mut(&kind) else { return };
        let response: Response = match self.variant {
            // Waits for the answer to what it sent before.
            Variant::Sotw if !served.open.is_empty() || (served.version == version && !force) => return,
            Variant::Sotw => {
                served.version = version;
                let resources = wanted.iter().map(|(name, _, content)| any(kind, name, &content.to_string()));
                sotw(kind, &version.to_string(), &nonce, resources.collect()).into()
            }
            Variant::Delta => {
                let is_new = |(name, version, _): &&(String, u64, u8)| served.sent.get(name) != Some(version);
                let new: Vec<_> = wanted.iter().filter(is_new).collect();
                let is_gone = |sent: &&String| !wanted.iter().any(|(name, ..)| name == *sent);
                // Who asks for what is not there is told so.
                let asked = served.names.iter().filter(|_| force);
                let gone: BTreeSet<String> = served.sent.keys().chain(asked).filter(is_gone).cloned().collect();
                if new.is_empty() && gone.is_empty() && !force {
                    return;
                }
                let resources = new
                    .iter()
                    .map(|(name, version, content)| resource(kind, name, &version.to_string(), &content.to_string()))
                    .collect();
                served.sent.extend(new.iter().map(|(name, version, _)| (name.clone(), *version)));
                gone.iter().for_each(|name| _ = served.sent.remove(name));
                delta(kind, &nonce, resources, &gone.iter().map(String::as_str).collect::<Vec<_>>()).into()
            }
        };
        served.nonce.clone_from(&nonce);
        served.open.insert(nonce);
        self.to_client.push_back(response);
    }

    fn serve(&mut self) -> bool {
        let Some(request) = self.to_server.pop_front() else { return false };
        let (node, url, nonce) = match &request {
            Request::Sotw(request) => (&request.node, &request.type_url, &request.response_nonce),
            Request::Delta(request) => (&request.node, &request.type_url, &request.response_nonce),
        };
        assert_eq!(node.is_some(), std::mem::take(&mut self.is_first), "the node is in the first message only");
        let kind = Kind::from_type_url(url).unwrap();
        let is_first = !self.kinds.contains_key(&kind);
        let served = self.kinds.entry(kind).or_default();
        assert!(!is_first || nonce.is_empty(), "a nonce of another stream");
        let is_current = *nonce == served.nonce;
        if !nonce.is_empty() {
            let answers = served.open.remove(nonce);
            // A change of names in the state of the world carries a nonce too, and may cross a response.
            assert!(
                answers || (self.variant == Variant::Sotw && served.answered.contains(nonce)),
                "an answer to nothing"
            );
            served.answered.insert(nonce.clone());
        }
        match request {
            Request::Sotw(request) => {
                if !is_current {
                    return true;
                }
                assert!(!is_first || is_wildcard(kind) || !request.resource_names.is_empty(), "a wildcard by mistake");
                let names: BTreeSet<String> = request.resource_names.into_iter().collect();
                let grown = !names.is_subset(&served.names);
                served.names = names;
                if is_first && is_wildcard(kind) {
                    served.version = request.version_info.parse().unwrap_or_default();
                }
                let version = served.version;
                self.push(kind, grown || (is_first && version == 0));
            }
            Request::Delta(request) => {
                assert!(is_first || request.initial_resource_versions.is_empty(), "versions again");
                assert!(is_first || is_nonce_or_names(&request), "a message that says nothing");
                for (name, version) in request.initial_resource_versions {
                    // No version is that of nothing.
                    served.sent.insert(name, version.parse().unwrap_or_default());
                }
                let mut missing = false;
                for name in request.resource_names_subscribe {
                    if !is_first {
                        served.sent.remove(&name);
                    }
                    missing |= !self.content.contains_key(&(kind, name.clone()));
                    served.names.insert(name);
                }
                for name in request.resource_names_unsubscribe {
                    assert!(served.names.remove(&name), "gives up what it never wanted");
                    served.sent.remove(&name);
                }
                self.push(kind, is_first || missing);
            }
        }
        true
    }
}

/// Either an answer or a change of names.
fn is_nonce_or_names(request: &pb::DeltaDiscoveryRequest) -> bool {
    let changes = request.resource_names_subscribe.len() + request.resource_names_unsubscribe.len();
    request.response_nonce.is_empty() == (changes > 0)
}

/// The client, what is applied of its updates, and the server.
struct World {
    client: Client,
    server: Server,
    now: Instant,
    is_up: bool,
    wanted: BTreeSet<(Kind, String)>,
    in_hand: BTreeMap<Kind, Update>,
    applied: BTreeMap<(Kind, String), String>,
    /// What is shown as rejected.
    refused: BTreeSet<(Kind, String)>,
}

impl World {
    fn new(variant: Variant) -> World {
        let now = Instant::now();
        let mut client = Client::new(variant, node(), None);
        client.subscribe_all(Kind::Cluster, WAIT, now);
        client.subscribe_all(Kind::Listener, WAIT, now);
        let server = Server::new(variant);
        let (wanted, applied, refused) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
        World { client, server, now, is_up: false, wanted, in_hand: BTreeMap::new(), applied, refused }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Set(kind, name, content) => self.server.change(kind, name, Some(content)),
            Step::Remove(kind, name) => self.server.change(kind, name, None),
            Step::Want(kind, name) => {
                self.wanted.insert((kind, name.to_string()));
                self.client.interest(kind, &name.to_string(), true, WAIT, self.now);
            }
            Step::GiveUp(kind, name) => {
                self.wanted.remove(&(kind, name.to_string()));
                self.applied.remove(&(kind, name.to_string()));
                self.refused.remove(&(kind, name.to_string()));
                // Whoever applies drops it, also of what is under way.
                if let Some(update) = self.in_hand.get_mut(&kind) {
                    update.changed.retain(|resource| resource.name != name.to_string());
                }
                self.client.interest(kind, &name.to_string(), false, WAIT, self.now);
            }
            Step::Send => _ = self.send(),
            Step::Serve => _ = self.server.serve(),
            Step::Read => _ = self.read(),
            Step::Apply => _ = self.apply(),
            Step::Verdict(kind) => _ = self.verdict(kind),
            Step::Disconnect => {
                self.is_up = false;
                self.client.disconnected();
                self.server.reset();
            }
            Step::Connect if !self.is_up => {
                self.is_up = true;
                self.client.connected();
            }
            Step::Connect => {}
            Step::Pass(millis) => self.now += Duration::from_millis(millis),
        }
    }

    fn send(&mut self) -> bool {
        let requests: Vec<Request> = std::iter::from_fn(|| self.client.poll_request(self.now)).collect();
        assert!(self.is_up || requests.is_empty());
        let some = !requests.is_empty();
        self.server.to_server.extend(requests);
        some
    }

    fn read(&mut self) -> bool {
        let Some(response) = self.server.to_client.pop_front() else { return false };
        assert!(self.client.receive(response).is_some());
        true
    }

    fn apply(&mut self) -> bool {
        let Some((update, _)) = self.client.poll_update(self.now) else { return false };
        let alone = self.in_hand.is_empty() || update.kind == Kind::Endpoints;
        assert!(alone && !self.in_hand.contains_key(&update.kind), "{update:?} beside {:?}", self.in_hand);
        self.in_hand.insert(update.kind, update);
        true
    }

    fn verdict(&mut self, kind: Kind) -> bool {
        let Some(update) = self.in_hand.remove(&kind) else { return false };
        let is_wanted = |name: &String| is_wildcard(update.kind) || self.wanted.contains(&(update.kind, name.clone()));
        let mut rejected = Vec::new();
        for resource in update.changed.iter().filter(|resource| is_wanted(&resource.name)) {
            let key = (update.kind, resource.name.clone());
            match content(&resource.body).as_str() {
                "0" => {
                    self.refused.insert(key);
                    rejected.push(rejection(&resource.name, "bad"));
                }
                content => {
                    self.refused.remove(&key);
                    self.applied.insert(key, content.to_owned());
                }
            }
        }
        for name in &update.removed {
            self.applied.remove(&(update.kind, name.clone()));
            self.refused.remove(&(update.kind, name.clone()));
        }
        self.client.verdict(kind, &rejected, self.now);
        true
    }

    /// Everything that is under way arrives.
    fn settle(&mut self) {
        self.step(Step::Connect);
        for _ in 0..1000 {
            let moved = self.send() | self.server.serve() | self.read() | self.apply();
            let settled = Kind::ALL.map(|kind| self.verdict(kind)).contains(&true);
            if !moved && !settled {
                return;
            }
        }
        panic!("it does not come to an end");
    }

    fn check(&self) {
        for (kind, served) in &self.server.kinds {
            assert!(served.open.is_empty(), "{kind:?}: responses without an answer: {:?}", served.open);
        }
        for ((kind, name), (_, content)) in &self.server.content {
            let key = (*kind, name.clone());
            if *content != 0 && (is_wildcard(*kind) || self.wanted.contains(&key)) {
                assert_eq!(self.applied.get(&key), Some(&content.to_string()), "{key:?}");
            }
        }
        for key in self.applied.keys() {
            // The state of the world cannot say that endpoints or routes are gone.
            let may_stay = self.server.variant == Variant::Sotw && !is_wildcard(key.0);
            assert!(may_stay || self.server.content.contains_key(key), "{key:?} is gone");
        }
        for key in &self.refused {
            let may_stay = self.server.variant == Variant::Sotw && !is_wildcard(key.0);
            let is_bad = self.server.content.get(key).is_some_and(|(_, content)| *content == 0);
            assert!(may_stay || is_bad, "{key:?} is shown as rejected, and what the server has is not bad");
        }
        for kind in Kind::ALL {
            let accepted: BTreeSet<String> = self.client.accepted(kind).map(|(name, _)| name.to_string()).collect();
            let applied: BTreeSet<String> =
                self.applied.keys().filter(|(of, _)| *of == kind).map(|(_, name)| name.clone()).collect();
            assert_eq!(accepted, applied, "{kind:?}: what the client says it has");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn when_it_is_quiet_what_is_applied_is_what_the_server_has(
        is_delta in proptest::bool::ANY,
        steps in proptest::collection::vec(step(), 0..120),
    ) {
        let mut world = World::new(if is_delta { Variant::Delta } else { Variant::Sotw });
        for step in steps {
            world.step(step);
        }
        world.settle();
        world.check();
    }
}
