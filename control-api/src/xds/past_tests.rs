//! Who comes back by state of the world with something rejected.

use std::sync::Arc;

use outrigger_engine::xds::Kind;

use super::session::{Answer, Past, Protocol};
use super::session_tests::{Stream, shown, view};

use Kind::{Cluster as Clusters, Listener as Listeners};
use Protocol::StateOfTheWorld;

/// A stream whose client uses listener l=1 and cluster a=1, and had l=2 rejected, for which it was sent b=1; and the version
/// of the clusters that it accepted last.
fn with_a_rejected_listener() -> (Stream, Arc<str>) {
    let mut stream = Stream::new(StateOfTheWorld, view(&[(Clusters, &["a=1"]), (Listeners, &["l=1"])]));
    stream.subscribe(Clusters, &[]);
    stream.sends(Clusters, &["a=1"]);
    stream.accept(Clusters, &[]);
    stream.subscribe(Listeners, &[]);
    stream.sends(Listeners, &["l=1"]);
    stream.accept(Listeners, &[]);
    assert!(stream.session.past().is_none(), "all is as it was sent");
    stream.session.update(view(&[(Clusters, &["b=1"]), (Listeners, &["l=2"])]));
    stream.sends(Clusters, &["a=1", "b=1"]);
    let Answer::Accepted(version) = stream.accept(Clusters, &[]) else { panic!("it was accepted") };
    stream.sends(Listeners, &["l=2"]);
    stream.answer(Listeners, Some("l: no"), &[]);
    stream.is_silent();
    (stream, version)
}

/// What is remembered of it, and that version.
pub(super) fn past() -> (Past, Arc<str>) {
    let (mut stream, version) = with_a_rejected_listener();
    (stream.session.past().unwrap(), version)
}

/// What is remembered of one that has so many clusters.
pub(super) fn past_of(clusters: usize) -> Past {
    let names: Vec<String> = (0..clusters).map(|number| format!("c{number:06}=1")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut stream = Stream::new(StateOfTheWorld, view(&[(Clusters, &names), (Listeners, &["l=1"])]));
    stream.subscribe(Clusters, &[]);
    stream.sends(Clusters, &names);
    stream.accept(Clusters, &[]);
    stream.subscribe(Listeners, &[]);
    stream.sends(Listeners, &["l=1"]);
    stream.answer(Listeners, Some("l: no"), &[]);
    stream.session.past().unwrap()
}

#[test]
fn it_is_known_by_the_clusters_that_it_accepted_last_and_by_those_that_it_may_have_accepted() {
    let (mut stream, first) = with_a_rejected_listener();
    stream.session.update(view(&[(Clusters, &["b=2"]), (Listeners, &["l=2"])]));
    stream.sends(Clusters, &["a=1", "b=2"]);
    stream.answer(Clusters, Some("b: no"), &[]);
    stream.session.update(view(&[(Clusters, &["b=3"]), (Listeners, &["l=2"])]));
    let unanswered = stream.session.next(stream.now).unwrap();
    assert_eq!(shown(&unanswered), ["a=1", "b=3"]);
    let past = stream.session.past().unwrap();
    assert!(past.is_of(&first) && past.is_of(&unanswered.version) && !past.is_of(""));

    let mut again = Stream::new(StateOfTheWorld, view(&[(Clusters, &["b=3"]), (Listeners, &["l=2"])]));
    again.session.resume(&first, Some(past));
    again.subscribe(Clusters, &[]);
    again.sends(Clusters, &["a=1", "b=3"]);
    // Once more before it said anything.
    assert!(again.session.past().unwrap().is_of(&first));
}

#[test]
fn who_comes_back_with_a_rejected_listener_keeps_what_the_one_in_use_names() {
    let after = view(&[(Clusters, &["b=1"]), (Listeners, &["l=2"])]);
    let (past, version) = past();

    let mut again = Stream::new(StateOfTheWorld, after.clone());
    again.session.resume(&version, Some(past.clone()));
    again.subscribe(Clusters, &[]);
    again.sends(Clusters, &["a=1", "b=1"]);
    again.accept(Clusters, &[]);
    again.subscribe(Listeners, &[]);
    again.sends(Listeners, &["l=2"]);
    again.answer(Listeners, Some("l: no"), &[]);
    again.is_silent();
    again.session.update(view(&[(Clusters, &["b=1"]), (Listeners, &["l=3"])]));
    again.sends(Listeners, &["l=3"]);
    again.accept(Listeners, &[]);
    again.sends(Clusters, &["b=1"]);

    // The listener is gone: nothing in its place is in use.
    let mut gone = Stream::new(StateOfTheWorld, view(&[(Clusters, &["b=1"]), (Listeners, &["m=1"])]));
    gone.session.resume(&version, Some(past.clone()));
    gone.subscribe(Clusters, &[]);
    gone.sends(Clusters, &["a=1", "b=1"]);
    gone.accept(Clusters, &[]);
    gone.subscribe(Listeners, &[]);
    gone.sends(Listeners, &["m=1"]);
    gone.accept(Listeners, &[]);
    gone.sends(Clusters, &["b=1"]);

    // Who comes with something else is sent what there is.
    let mut other = Stream::new(StateOfTheWorld, after);
    other.session.resume("other", None);
    other.subscribe(Clusters, &[]);
    other.sends(Clusters, &["b=1"]);
}
