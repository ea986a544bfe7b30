//! Each rule of a correct server.

mod held_back;
mod parts;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_engine::xds::Kind;
use outrigger_proto::envoy::config::cluster::v3::{Cluster, cluster};
use prost::Message;

use super::session::{Answer, Names, PATIENCE, Protocol, Request, Response, Session};
use super::{Resource, View};

use Kind::{Cluster as Clusters, Endpoints, Listener as Listeners, Routes};
use Protocol::{Delta, StateOfTheWorld};

/// A view of resources that are written `name=version`. A cluster's endpoints have its name.
pub(super) fn view(resources: &[(Kind, &[&str])]) -> Arc<View> {
    let mut view = View::new();
    for (kind, entries) in resources {
        for entry in *entries {
            let (name, version) = entry.split_once('=').unwrap();
            view.entry(*kind).or_default().insert(name.into(), resource(*kind, name, version));
        }
    }
    Arc::new(view)
}

pub(super) fn resource(kind: Kind, name: &str, version: &str) -> Arc<Resource> {
    let body = match kind {
        Clusters => Cluster {
            name: name.to_owned(),
            alt_stat_name: version.to_owned(),
            cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds.into())),
            ..Cluster::default()
        }
        .encode_to_vec(),
        _ => format!("{name}={version}").into_bytes(),
    };
    Arc::new(Resource { name: name.into(), version: version.into(), body: body.into() })
}

/// `name=version` of all resources, then `-name` of what is removed.
pub(super) fn shown(response: &Response) -> Vec<String> {
    let resources = response.resources.iter().map(|resource| format!("{}={}", resource.name, resource.version));
    resources.chain(response.removed.iter().map(|name| format!("-{name}"))).collect()
}

/// A session, the clock, and the nonces that were sent.
pub(super) struct Stream {
    pub(super) session: Session,
    protocol: Protocol,
    pub(super) now: Instant,
    nonces: BTreeMap<Kind, String>,
}

impl Stream {
    pub(super) fn new(protocol: Protocol, view: Arc<View>) -> Self {
        Self { session: Session::new(protocol, true, view), protocol, now: Instant::now(), nonces: BTreeMap::new() }
    }

    fn next(&mut self) -> Option<(Kind, Vec<String>)> {
        let response = self.session.next(self.now)?;
        self.nonces.insert(response.kind, response.nonce.to_string());
        Some((response.kind, shown(&response)))
    }

    /// The next response is this one.
    #[track_caller]
    pub(super) fn sends(&mut self, kind: Kind, resources: &[&str]) {
        assert_eq!(self.next(), Some((kind, resources.iter().map(ToString::to_string).collect())));
    }

    #[track_caller]
    pub(super) fn is_silent(&mut self) {
        assert_eq!(self.next(), None);
    }

    fn request(&mut self, kind: Kind, nonce: &str, error: Option<&str>, names: Names) -> Answer {
        self.session.request(kind, Request { nonce: nonce.to_owned(), error: error.map(ToOwned::to_owned), names })
    }

    /// Subscribes to these names more (delta) or to exactly these (state of the world), with the newest nonce.
    pub(super) fn subscribe(&mut self, kind: Kind, names: &[&str]) {
        let names = names.iter().map(ToString::to_string).collect();
        let (nonce, names) = match self.protocol {
            Delta => (String::new(), Names::Delta { subscribe: names, unsubscribe: vec![], versions: BTreeMap::new() }),
            StateOfTheWorld => (self.nonces.get(&kind).cloned().unwrap_or_default(), Names::All(names)),
        };
        self.request(kind, &nonce, None, names);
    }

    fn unsubscribe(&mut self, kind: Kind, names: &[&str]) {
        let unsubscribe = names.iter().map(ToString::to_string).collect();
        self.request(kind, "", None, Names::Delta { subscribe: vec![], unsubscribe, versions: BTreeMap::new() });
    }

    fn reconnect(&mut self, kind: Kind, names: &[&str], versions: &[&str]) {
        let subscribe = names.iter().map(ToString::to_string).collect();
        let versions = versions
            .iter()
            .map(|entry| entry.split_once('=').unwrap())
            .map(|(name, version)| (name.to_owned(), version.to_owned()))
            .collect();
        self.request(kind, "", None, Names::Delta { subscribe, unsubscribe: vec![], versions });
    }

    /// Accepts the newest response; `names` is the list that a state-of-the-world request repeats.
    pub(super) fn accept(&mut self, kind: Kind, names: &[&str]) -> Answer {
        self.answer(kind, None, names)
    }

    pub(super) fn answer(&mut self, kind: Kind, error: Option<&str>, names: &[&str]) -> Answer {
        let nonce = self.nonces[&kind].clone();
        let names = match self.protocol {
            Delta => Names::Delta { subscribe: vec![], unsubscribe: vec![], versions: BTreeMap::new() },
            StateOfTheWorld => Names::All(names.iter().map(ToString::to_string).collect()),
        };
        self.request(kind, &nonce, error, names)
    }
}

#[test]
fn an_empty_first_list_is_everything_for_cds_and_lds_only() {
    for protocol in [Delta, StateOfTheWorld] {
        let all = view(&[(Clusters, &["a=1"]), (Endpoints, &["a=1"]), (Listeners, &["l=1"]), (Routes, &["r=1"])]);
        let mut stream = Stream::new(protocol, all);
        stream.subscribe(Clusters, &[]);
        stream.sends(Clusters, &["a=1"]);
        stream.accept(Clusters, &[]);
        stream.subscribe(Endpoints, &[]);
        stream.subscribe(Routes, &[]);
        stream.is_silent();
        stream.subscribe(Listeners, &[]);
        stream.sends(Listeners, &["l=1"]);
    }
}

#[test]
fn a_star_is_everything_of_any_kind() {
    for protocol in [Delta, StateOfTheWorld] {
        let mut stream = Stream::new(protocol, view(&[(Routes, &["r=1", "s=1"])]));
        stream.subscribe(Routes, &["*"]);
        stream.sends(Routes, &["r=1", "s=1"]);
    }
}

#[test]
fn after_a_name_an_empty_list_is_nothing() {
    let mut stream = Stream::new(StateOfTheWorld, view(&[(Clusters, &["a=1", "b=1"])]));
    stream.subscribe(Clusters, &["a"]);
    stream.sends(Clusters, &["a=1"]);
    stream.accept(Clusters, &[]);
    stream.session.update(view(&[(Clusters, &["a=2", "b=2"])]));
    stream.is_silent();
}

#[test]
fn who_starts_is_told_that_there_is_nothing() {
    for protocol in [Delta, StateOfTheWorld] {
        let mut stream = Stream::new(protocol, view(&[]));
        stream.subscribe(Listeners, &[]);
        stream.sends(Listeners, &[]);
        stream.accept(Listeners, &[]);
        stream.is_silent();
    }
}

#[test]
fn delta_names_what_changed_and_what_went() {
    let mut stream = Stream::new(Delta, view(&[(Clusters, &["a=1", "b=1", "c=1"])]));
    stream.subscribe(Clusters, &["*"]);
    stream.sends(Clusters, &["a=1", "b=1", "c=1"]);
    stream.accept(Clusters, &[]);
    stream.session.update(view(&[(Clusters, &["a=1", "b=2", "d=1"])]));
    stream.sends(Clusters, &["b=2", "d=1", "-c"]);
    stream.accept(Clusters, &[]);
    stream.is_silent();
}

#[test]
fn state_of_the_world_repeats_cds_and_sends_of_eds_only_what_changed() {
    let mut stream = Stream::new(StateOfTheWorld, view(&[(Clusters, &["a=1", "b=1"]), (Endpoints, &["a=1", "b=1"])]));
    stream.subscribe(Clusters, &[]);
    stream.sends(Clusters, &["a=1", "b=1"]);
    stream.accept(Clusters, &[]);
    stream.subscribe(Endpoints, &["a", "b"]);
    stream.sends(Endpoints, &["a=1", "b=1"]);
    stream.accept(Endpoints, &["a", "b"]);
    stream.session.update(view(&[(Clusters, &["a=1", "b=1", "c=1"]), (Endpoints, &["a=2", "b=1"])]));
    stream.sends(Clusters, &["a=1", "b=1", "c=1"]);
    stream.sends(Endpoints, &["a=2"]);
    stream.accept(Clusters, &[]);
    stream.accept(Endpoints, &["a", "b"]);
    stream.is_silent();
}

#[test]
fn what_does_not_exist_is_said_to_be_removed_and_sent_when_it_comes() {
    let mut stream = Stream::new(Delta, view(&[]));
    stream.subscribe(Routes, &["r"]);
    stream.sends(Routes, &["-r"]);
    stream.accept(Routes, &[]);
    stream.is_silent();
    stream.session.update(view(&[(Routes, &["r=1"])]));
    stream.sends(Routes, &["r=1"]);
}

#[test]
fn each_endpoints_subscription_is_answered_even_if_nothing_changed() {
    let mut stream = Stream::new(Delta, view(&[(Endpoints, &["a=1"])]));
    for _ in 0..2 {
        stream.subscribe(Endpoints, &["a"]);
        stream.sends(Endpoints, &["a=1"]);
        stream.accept(Endpoints, &[]);
    }
    stream.unsubscribe(Endpoints, &["a"]);
    stream.subscribe(Endpoints, &["a"]);
    stream.sends(Endpoints, &["a=1"]);

    let mut stream = Stream::new(StateOfTheWorld, view(&[(Endpoints, &["a=1", "b=1"])]));
    stream.subscribe(Endpoints, &["a"]);
    stream.sends(Endpoints, &["a=1"]);
    stream.accept(Endpoints, &[]);
    stream.subscribe(Endpoints, &["a", "b"]);
    stream.sends(Endpoints, &["a=1", "b=1"]);
}

#[test]
fn a_changed_cluster_has_its_endpoints_sent_again() {
    for protocol in [Delta, StateOfTheWorld] {
        let mut stream = Stream::new(protocol, view(&[(Clusters, &["a=1", "b=1"]), (Endpoints, &["a=1", "b=1"])]));
        stream.subscribe(Clusters, &[]);
        stream.sends(Clusters, &["a=1", "b=1"]);
        stream.accept(Clusters, &[]);
        stream.subscribe(Endpoints, &["a", "b"]);
        stream.sends(Endpoints, &["a=1", "b=1"]);
        stream.accept(Endpoints, &["a", "b"]);
        stream.session.update(view(&[(Clusters, &["a=2", "b=1"]), (Endpoints, &["a=1", "b=1"])]));
        assert_eq!(stream.next().unwrap().0, Clusters);
        // Before the acknowledgement of the clusters: Envoy gives that when they are warm.
        stream.sends(Endpoints, &["a=1"]);
    }
}

#[test]
fn routes_wait_until_the_endpoints_of_a_new_cluster_are_asked_for_and_there() {
    for protocol in [Delta, StateOfTheWorld] {
        let with = |b: bool| match b {
            false => view(&[(Clusters, &["a=1"]), (Endpoints, &["a=1"]), (Routes, &["r=1"])]),
            true => view(&[(Clusters, &["a=1", "b=1"]), (Endpoints, &["a=1", "b=1"]), (Routes, &["r=2"])]),
        };
        let start = || {
            let mut stream = Stream::new(protocol, with(false));
            for (kind, name) in [(Clusters, "a"), (Endpoints, "a"), (Routes, "r")] {
                let names = [name];
                let names: &[&str] = if kind == Clusters { &[] } else { &names };
                stream.subscribe(kind, names);
                stream.sends(kind, &[&format!("{name}=1")]);
                stream.accept(kind, names);
            }
            stream.session.update(with(true));
            stream.sends(Clusters, if protocol == Delta { &["b=1"] } else { &["a=1", "b=1"] });
            stream
        };
        // Its acknowledgement comes first. Were the view to change now, b would be without endpoints for ever.
        let mut stream = start();
        stream.accept(Clusters, &[]);
        stream.is_silent();
        stream.subscribe(Endpoints, &["a", "b"]);
        assert_eq!(stream.next().unwrap().0, Endpoints);
        stream.is_silent();
        stream.accept(Endpoints, &["a", "b"]);
        stream.sends(Routes, &["r=2"]);
        // Who rejects it does not ask, and is not waited for.
        let mut stream = start();
        stream.answer(Clusters, Some("b: no"), &[]);
        stream.sends(Routes, &["r=2"]);
        // Nor is for ever who could ask.
        let mut stream = start();
        stream.accept(Clusters, &[]);
        assert_eq!(stream.session.deadline(stream.now), Some(stream.now + PATIENCE));
        stream.now += PATIENCE;
        stream.sends(Routes, &["r=2"]);
    }
}

#[test]
fn unsubscribing_a_name_that_the_wildcard_covers_is_answered() {
    let mut stream = Stream::new(Delta, view(&[(Clusters, &["a=1"])]));
    stream.subscribe(Clusters, &["*", "a", "b"]);
    stream.sends(Clusters, &["a=1", "-b"]);
    stream.accept(Clusters, &[]);
    stream.unsubscribe(Clusters, &["a", "b"]);
    stream.sends(Clusters, &["a=1", "-b"]);
}

#[test]
fn unsubscribing_the_wildcard_leaves_the_names() {
    let mut stream = Stream::new(Delta, view(&[(Clusters, &["a=1", "b=1"])]));
    stream.subscribe(Clusters, &["*", "a"]);
    stream.sends(Clusters, &["a=1", "b=1"]);
    stream.accept(Clusters, &[]);
    stream.unsubscribe(Clusters, &["*"]);
    stream.session.update(view(&[(Clusters, &["a=2"])]));
    stream.sends(Clusters, &["a=2"]);
}

#[test]
fn a_delta_stream_that_comes_back_is_told_what_differs() {
    let mut stream = Stream::new(Delta, view(&[(Clusters, &["a=1", "b=2", "d=1"]), (Endpoints, &["a=1", "d=1"])]));
    stream.reconnect(Clusters, &["*"], &["a=1", "b=1", "c=1"]);
    stream.sends(Clusters, &["b=2", "d=1", "-c"]);
    stream.reconnect(Endpoints, &["a", "c", "d"], &["a=1", "c=1"]);
    stream.sends(Endpoints, &["d=1"]);
    stream.accept(Endpoints, &[]);
    stream.accept(Clusters, &[]);
    stream.sends(Endpoints, &["-c"]);
}

#[test]
fn a_delta_stream_that_comes_back_gets_the_endpoints_of_clusters_that_changed() {
    let mut stream = Stream::new(Delta, view(&[(Clusters, &["a=1", "b=2"]), (Endpoints, &["a=1", "b=1"])]));
    stream.reconnect(Clusters, &["*"], &["a=1", "b=1"]);
    stream.sends(Clusters, &["b=2"]);
    // It warms the new b until they come, though they are the same.
    stream.reconnect(Endpoints, &["a", "b"], &["a=1", "b=1"]);
    stream.sends(Endpoints, &["b=1"]);
}

#[test]
fn a_delta_stream_that_comes_back_to_the_same_is_told_nothing() {
    let mut stream = Stream::new(Delta, view(&[(Clusters, &["a=1"]), (Endpoints, &["a=1"]), (Routes, &["r=1"])]));
    stream.reconnect(Clusters, &[], &["a=1"]);
    stream.reconnect(Endpoints, &["a"], &["a=1"]);
    stream.reconnect(Routes, &["r"], &["r=1"]);
    stream.is_silent();
}

#[test]
fn one_response_of_a_kind_is_in_flight() {
    let mut stream = Stream::new(Delta, view(&[(Clusters, &["a=1"])]));
    stream.subscribe(Clusters, &[]);
    stream.sends(Clusters, &["a=1"]);
    stream.session.update(view(&[(Clusters, &["a=2"])]));
    stream.session.update(view(&[(Clusters, &["a=3"])]));
    stream.is_silent();
    assert!(matches!(stream.accept(Clusters, &[]), Answer::Accepted(_)));
    stream.sends(Clusters, &["a=3"]);
}

#[test]
fn routes_do_not_wait_for_endpoints_that_change_ever_again() {
    let with = |endpoints: u8, routes: u8| {
        let (a, r) = (format!("a={endpoints}"), format!("r={routes}"));
        view(&[(Clusters, &["a=1"]), (Endpoints, &[a.as_str()]), (Routes, &[r.as_str()])])
    };
    let mut stream = Stream::new(Delta, with(1, 1));
    stream.subscribe(Clusters, &[]);
    stream.sends(Clusters, &["a=1"]);
    stream.accept(Clusters, &[]);
    stream.subscribe(Endpoints, &["a"]);
    stream.subscribe(Routes, &["r"]);
    // The client waits for the first ones.
    stream.sends(Endpoints, &["a=1"]);
    stream.is_silent();
    stream.accept(Endpoints, &[]);
    stream.sends(Routes, &["r=1"]);
    stream.accept(Routes, &[]);
    stream.session.update(with(2, 1));
    stream.sends(Endpoints, &["a=2"]);
    stream.session.update(with(3, 2));
    stream.sends(Routes, &["r=2"]);
}

#[test]
fn stale_nonces_acknowledge_nothing() {
    let mut stream = Stream::new(Delta, view(&[(Clusters, &["a=1"]), (Routes, &["r=1", "s=1"])]));
    stream.subscribe(Clusters, &[]);
    stream.sends(Clusters, &["a=1"]);
    let names = || Names::Delta { subscribe: vec![], unsubscribe: vec![], versions: BTreeMap::new() };
    assert_eq!(stream.request(Clusters, "77", None, names()), Answer::None);
    stream.session.update(view(&[(Clusters, &["a=2"])]));
    stream.is_silent();
}

#[test]
fn delta_subscriptions_count_with_a_stale_nonce_too() {
    let mut stream = Stream::new(Delta, view(&[(Routes, &["r=1", "s=1"])]));
    stream.subscribe(Routes, &["r"]);
    stream.sends(Routes, &["r=1"]);
    let names = Names::Delta { subscribe: vec!["s".to_owned()], unsubscribe: vec![], versions: BTreeMap::new() };
    stream.request(Routes, "77", None, names);
    stream.accept(Routes, &[]);
    stream.sends(Routes, &["s=1"]);
}

#[test]
fn state_of_the_world_subscriptions_with_a_stale_nonce_wait_for_the_answer() {
    let mut stream = Stream::new(StateOfTheWorld, view(&[(Routes, &["r=1", "s=1"])]));
    stream.subscribe(Routes, &["r"]);
    stream.sends(Routes, &["r=1"]);
    stream.accept(Routes, &["r"]);
    stream.session.update(view(&[(Routes, &["r=2", "s=1"])]));
    // Crosses the response.
    let crossing = stream.nonces[&Routes].clone();
    stream.sends(Routes, &["r=2"]);
    stream.request(Routes, &crossing, None, Names::All(vec!["r".to_owned(), "s".to_owned()]));
    stream.is_silent();
    stream.accept(Routes, &["r", "s"]);
    stream.sends(Routes, &["s=1"]);
}

#[test]
fn what_was_rejected_is_not_sent_again_until_it_changes() {
    for protocol in [Delta, StateOfTheWorld] {
        let mut stream = Stream::new(protocol, view(&[(Listeners, &["l=1"])]));
        stream.subscribe(Listeners, &["*"]);
        stream.sends(Listeners, &["l=1"]);
        assert_eq!(stream.answer(Listeners, Some("l: bad"), &["*"]), Answer::Rejected("l: bad".to_owned()));
        stream.session.update(view(&[(Listeners, &["l=1"]), (Routes, &["r=1"])]));
        stream.is_silent();
        stream.session.update(view(&[(Listeners, &["l=2"])]));
        stream.sends(Listeners, &["l=2"]);
    }
}

#[test]
fn additions_go_down_and_removals_come_last() {
    for protocol in [Delta, StateOfTheWorld] {
        let names = ["old"];
        let mut stream = Stream::new(
            protocol,
            view(&[(Clusters, &["old=1"]), (Endpoints, &["old=1"]), (Listeners, &["l=1"]), (Routes, &["r=1"])]),
        );
        stream.subscribe(Clusters, &[]);
        stream.sends(Clusters, &["old=1"]);
        stream.subscribe(Endpoints, &names);
        stream.sends(Endpoints, &["old=1"]);
        stream.accept(Clusters, &[]);
        stream.accept(Endpoints, &names);
        stream.subscribe(Listeners, &[]);
        stream.subscribe(Routes, &["r"]);
        stream.sends(Listeners, &["l=1"]);
        stream.sends(Routes, &["r=1"]);
        stream.accept(Listeners, &[]);
        stream.accept(Routes, &["r"]);

        stream.session.update(view(&[
            (Clusters, &["new=1"]),
            (Endpoints, &["new=1"]),
            (Listeners, &["l=2"]),
            (Routes, &["r=2"]),
        ]));
        // The new cluster comes, and the old one stays.
        stream.sends(Clusters, if protocol == Delta { &["new=1"] } else { &["new=1", "old=1"] });
        stream.is_silent();
        match protocol {
            Delta => stream.subscribe(Endpoints, &["new"]),
            StateOfTheWorld => stream.subscribe(Endpoints, &["old", "new"]),
        }
        stream.sends(Endpoints, &["new=1"]);
        stream.accept(Endpoints, &["old", "new"]);
        stream.is_silent();
        stream.accept(Clusters, &[]);
        // Then what names it.
        stream.sends(Listeners, &["l=2"]);
        stream.sends(Routes, &["r=2"]);
        stream.accept(Listeners, &[]);
        stream.is_silent();
        stream.accept(Routes, &["r"]);
        // Then the old one goes.
        stream.sends(Clusters, if protocol == Delta { &["-old"] } else { &["new=1"] });
        stream.accept(Clusters, &[]);
        if protocol == Delta {
            stream.sends(Endpoints, &["-old"]);
            stream.accept(Endpoints, &[]);
        }
        stream.is_silent();
    }
}

#[test]
fn a_cluster_stays_until_the_client_has_the_table_that_its_new_listener_names() {
    for protocol in [Delta, StateOfTheWorld] {
        let mut stream =
            Stream::new(protocol, view(&[(Clusters, &["old=1"]), (Listeners, &["l=1"]), (Routes, &["r=1"])]));
        stream.subscribe(Clusters, &[]);
        stream.sends(Clusters, &["old=1"]);
        stream.accept(Clusters, &[]);
        stream.subscribe(Listeners, &[]);
        stream.sends(Listeners, &["l=1"]);
        stream.accept(Listeners, &[]);
        stream.subscribe(Routes, &["r"]);
        stream.sends(Routes, &["r=1"]);
        stream.accept(Routes, &["r"]);

        stream.session.update(view(&[(Clusters, &["new=1"]), (Listeners, &["l=2"]), (Routes, &["s=1"])]));
        stream.sends(Clusters, if protocol == Delta { &["new=1"] } else { &["new=1", "old=1"] });
        stream.accept(Clusters, &[]);
        stream.sends(Listeners, &["l=2"]);
        stream.accept(Listeners, &[]);
        // The listener has no routes yet, and that before it is in force.
        stream.is_silent();
        stream.subscribe(Routes, if protocol == Delta { &["s"] } else { &["r", "s"] });
        stream.sends(Routes, &["s=1"]);
        stream.is_silent();
        if protocol == Delta {
            stream.unsubscribe(Routes, &["r"]);
        }
        stream.accept(Routes, &["s"]);
        stream.sends(Clusters, if protocol == Delta { &["-old"] } else { &["new=1"] });
    }
}

#[test]
fn a_cluster_stays_while_a_client_that_comes_back_has_not_said_what_it_has() {
    let mut stream = Stream::new(Delta, view(&[(Clusters, &["new=1"]), (Listeners, &["l=1"]), (Routes, &["r=2"])]));
    stream.reconnect(Clusters, &["*"], &["new=1", "old=1"]);
    stream.is_silent();
    stream.reconnect(Listeners, &["*"], &["l=1"]);
    stream.is_silent();
    stream.reconnect(Routes, &["r"], &["r=1"]);
    stream.sends(Routes, &["r=2"]);
    stream.is_silent();
    stream.accept(Routes, &[]);
    stream.sends(Clusters, &["-old"]);

    // One that never asks is not waited for for ever.
    let mut stream = Stream::new(Delta, view(&[(Clusters, &["new=1"]), (Listeners, &["l=1"]), (Routes, &["r=2"])]));
    stream.reconnect(Clusters, &["*"], &["new=1", "old=1"]);
    stream.is_silent();
    stream.now = stream.session.deadline(stream.now).unwrap();
    stream.sends(Clusters, &["-old"]);
}

#[test]
fn what_was_rejected_stays_so_until_something_else_in_its_place_is_accepted() {
    let mut stream = Stream::new(Delta, view(&[(Clusters, &["a=1", "a/b=1", "b=1"])]));
    stream.subscribe(Clusters, &[]);
    stream.sends(Clusters, &["a=1", "a/b=1", "b=1"]);
    stream.answer(Clusters, Some("a/b: connect_timeout: 0s"), &[]);
    assert!(stream.session.refused(Clusters));
    // Another one is accepted, and this one is as bad as before.
    stream.session.update(view(&[(Clusters, &["a=1", "a/b=1", "b=2"])]));
    stream.sends(Clusters, &["b=2"]);
    stream.accept(Clusters, &[]);
    assert!(stream.session.refused(Clusters) && !stream.session.complete(Clusters));
    stream.session.update(view(&[(Clusters, &["a=1", "a/b=2", "b=2"])]));
    stream.sends(Clusters, &["a/b=2"]);
    stream.accept(Clusters, &[]);
    assert!(!stream.session.refused(Clusters) && stream.session.complete(Clusters));
    // An error that names nothing rejects all that was sent; what goes is not rejected any more.
    stream.session.update(view(&[(Clusters, &["a=2", "a/b=2", "b=3"])]));
    stream.sends(Clusters, &["a=2", "b=3"]);
    stream.answer(Clusters, Some("no"), &[]);
    stream.session.update(view(&[(Clusters, &["a=3", "a/b=2"])]));
    stream.sends(Clusters, &["a=3", "-b"]);
    stream.accept(Clusters, &[]);
    assert!(!stream.session.refused(Clusters));
}

#[test]
fn what_is_rejected_after_it_was_dropped_keeps_no_cluster() {
    let mut stream = Stream::new(Delta, view(&[(Clusters, &["a=1"]), (Routes, &["r=1"])]));
    stream.subscribe(Clusters, &[]);
    stream.subscribe(Routes, &["r"]);
    stream.sends(Clusters, &["a=1"]);
    stream.accept(Clusters, &[]);
    stream.sends(Routes, &["r=1"]);
    stream.unsubscribe(Routes, &["r"]);
    stream.answer(Routes, Some("r: no"), &[]);
    assert!(!stream.session.refused(Routes));
    stream.session.update(view(&[]));
    stream.sends(Clusters, &["-a"]);
}

#[test]
fn a_kind_is_complete_when_all_that_the_client_is_to_have_was_asked_for() {
    let all = [(Clusters, &["a=1"][..]), (Listeners, &["l=1"]), (Routes, &["r=1", "s=1"])];
    let mut stream = Stream::new(Delta, view(&all));
    assert!(!stream.session.complete(Routes));
    stream.subscribe(Routes, &["r"]);
    stream.sends(Routes, &["r=1"]);
    assert!(!stream.session.complete(Routes));
    stream.accept(Routes, &[]);
    assert!(!stream.session.complete(Routes));
    stream.subscribe(Routes, &["s"]);
    stream.sends(Routes, &["s=1"]);
    stream.accept(Routes, &[]);
    assert!(stream.session.complete(Routes));
    // Who brings its listeners takes what it likes.
    let mut stream = Stream::new(Delta, view(&[(Routes, &["r=1", "s=1"])]));
    assert!(!stream.session.complete(Routes));
    stream.subscribe(Routes, &["r"]);
    stream.sends(Routes, &["r=1"]);
    stream.accept(Routes, &[]);
    assert!(stream.session.complete(Routes));
}

#[test]
fn who_does_not_answer_is_not_waited_for_for_ever() {
    let mut stream = Stream::new(Delta, view(&[(Clusters, &["a=1"]), (Listeners, &["l=1"])]));
    stream.subscribe(Clusters, &[]);
    stream.subscribe(Listeners, &[]);
    stream.sends(Clusters, &["a=1"]);
    stream.is_silent();
    let deadline = stream.session.deadline(stream.now).unwrap();
    assert_eq!(deadline, stream.now + PATIENCE);
    stream.now = deadline - Duration::from_nanos(1);
    stream.is_silent();
    stream.now = deadline;
    stream.sends(Listeners, &["l=1"]);
    assert_eq!(stream.session.deadline(stream.now), None);
}

#[test]
fn a_resource_that_comes_back_before_it_was_removed_is_no_change() {
    let mut stream = Stream::new(Delta, view(&[(Clusters, &["a=1"]), (Routes, &["r=1"])]));
    stream.subscribe(Clusters, &[]);
    stream.sends(Clusters, &["a=1"]);
    stream.session.update(view(&[(Routes, &["r=1"])]));
    stream.session.update(view(&[(Clusters, &["a=1"]), (Routes, &["r=1"])]));
    stream.accept(Clusters, &[]);
    stream.is_silent();
}

#[test]
fn nonces_are_unique_on_a_stream() {
    let mut stream = Stream::new(Delta, view(&[(Clusters, &["a=1"]), (Endpoints, &["a=1"])]));
    stream.subscribe(Clusters, &[]);
    stream.subscribe(Endpoints, &["a"]);
    assert!(stream.next().is_some() && stream.next().is_some());
    assert_ne!(stream.nonces[&Clusters], stream.nonces[&Endpoints]);
}
