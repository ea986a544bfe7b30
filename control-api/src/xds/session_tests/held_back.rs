//! Clusters that a client does not name any more stay with it while it rejects what would do without them.

use super::*;

/// Streams of each protocol whose client has the clusters `a` and `b` and, by listeners or by routes, what uses them; and the
/// names that it asks for those by.
fn with_users_of_clusters() -> impl Iterator<Item = (Stream, Protocol, Kind, &'static [&'static str])> {
    let both = |user: Kind| [Delta, StateOfTheWorld].map(|protocol| (protocol, user));
    [Listeners, Routes].into_iter().flat_map(both).map(|(protocol, user)| {
        let names: &[&str] = if user == Routes { &["x"] } else { &[] };
        let mut stream = Stream::new(protocol, view(&[(Clusters, &["a=1", "b=1"]), (user, &["x=1"])]));
        stream.subscribe(Clusters, &[]);
        stream.sends(Clusters, &["a=1", "b=1"]);
        stream.accept(Clusters, &[]);
        stream.subscribe(user, names);
        stream.sends(user, &["x=1"]);
        stream.accept(user, names);
        (stream, protocol, user, names)
    })
}

#[test]
fn a_cluster_stays_while_what_replaces_its_users_is_rejected() {
    for (mut stream, protocol, user, names) in with_users_of_clusters() {
        // The new version no longer names b, but the client does not take it: what it keeps does name b.
        stream.session.update(view(&[(Clusters, &["a=1"]), (user, &["x=2"])]));
        // By state of the world nothing of the clusters is new.
        stream.sends(user, &["x=2"]);
        stream.answer(user, Some("x: no"), names);
        stream.now += PATIENCE;
        stream.is_silent();

        stream.session.update(view(&[(Clusters, &["a=1"]), (user, &["x=3"])]));
        stream.sends(user, &["x=3"]);
        stream.accept(user, names);
        stream.sends(Clusters, if protocol == Delta { &["-b"] } else { &["a=1"] });
    }
}

#[test]
fn what_stays_rejected_keeps_the_clusters_of_then_and_no_later_one() {
    for (mut stream, protocol, user, names) in with_users_of_clusters() {
        // Push after push is rejected. Each time another cluster came, which nothing in use can name.
        stream.session.update(view(&[(Clusters, &["a=1"]), (user, &["x=2"])]));
        stream.sends(user, &["x=2"]);
        stream.answer(user, Some("x: no"), names);
        stream.is_silent();
        for version in 3..9 {
            let (cluster, table) = (format!("new-{version}=1"), format!("x={version}"));
            stream.session.update(view(&[(Clusters, &["a=1", &cluster]), (user, &[&table])]));
            let all = ["a=1", "b=1", &cluster];
            stream.sends(Clusters, if protocol == Delta { &all[2..] } else { &all });
            stream.accept(Clusters, &[]);
            stream.sends(user, &[&table]);
            stream.answer(user, Some("x: no"), names);
            stream.is_silent();
            stream.session.update(view(&[(Clusters, &["a=1"]), (user, &[&table])]));
            let gone = format!("-new-{version}");
            let gone = [gone.as_str()];
            stream.sends(Clusters, if protocol == Delta { &gone } else { &["a=1", "b=1"] });
            stream.accept(Clusters, &[]);
            stream.is_silent();
            assert_eq!(stream.session.told(Clusters), 2);
        }
        stream.session.update(view(&[(Clusters, &["a=1"]), (user, &["x=9"])]));
        stream.sends(user, &["x=9"]);
        stream.accept(user, names);
        stream.sends(Clusters, if protocol == Delta { &["-b"] } else { &["a=1"] });
    }
}

#[test]
fn what_is_held_back_shortens_no_wait() {
    // A cluster that stays because of a rejection has been gone for long; one that goes now waits its own time.
    let all = [(Clusters, &["a=1", "b=1"][..]), (Listeners, &["l=1"]), (Routes, &["r=1"])];
    let mut stream = Stream::new(Delta, view(&all));
    stream.subscribe(Clusters, &[]);
    stream.sends(Clusters, &["a=1", "b=1"]);
    stream.accept(Clusters, &[]);
    stream.subscribe(Listeners, &[]);
    stream.subscribe(Routes, &["r"]);
    stream.sends(Listeners, &["l=1"]);
    stream.sends(Routes, &["r=1"]);
    stream.accept(Routes, &[]);
    stream.answer(Listeners, Some("l: no"), &[]);
    stream.session.update(view(&[(Clusters, &["a=1", "c=1"]), (Listeners, &["l=1"]), (Routes, &["r=1"])]));
    stream.sends(Clusters, &["c=1"]);
    stream.accept(Clusters, &[]);
    stream.is_silent();
    stream.now += PATIENCE;
    assert_eq!(stream.session.deadline(stream.now), None, "time alone takes nothing away");
    // The table that takes the place of r is not asked for yet.
    stream.session.update(view(&[(Clusters, &["a=1"]), (Listeners, &["l=1"]), (Routes, &["r=1", "s=1"])]));
    stream.is_silent();
    stream.subscribe(Routes, &["s"]);
    stream.sends(Routes, &["s=1"]);
    stream.accept(Routes, &[]);
    stream.sends(Clusters, &["-c"]);
}
