//! Large responses come in parts, and nothing waits for the last one that need not.

use super::super::subscription::weight;
use super::*;

#[test]
fn a_large_change_comes_in_parts_and_a_small_one_does_not_wait_for_all_of_it() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let with = |versions: [u8; 6]| {
        let entries: Vec<_> = names.iter().zip(versions).map(|(name, version)| format!("{name}={version}")).collect();
        view(&[(Endpoints, &entries.iter().map(String::as_str).collect::<Vec<_>>())])
    };
    let mut stream = Stream::new(Delta, with([1; 6]));
    stream.subscribe(Endpoints, &names);
    stream.sends(Endpoints, &["a=1", "b=1", "c=1", "d=1", "e=1", "f=1"]);
    stream.accept(Endpoints, &[]);
    stream.session.part = 2 * weight("a=2".len());
    stream.session.update(with([2, 2, 2, 2, 2, 1]));
    stream.sends(Endpoints, &["a=2", "b=2"]);
    stream.is_silent();
    // It came last, and by name it would go last.
    stream.session.update(with([2, 2, 2, 2, 2, 3]));
    stream.accept(Endpoints, &[]);
    stream.sends(Endpoints, &["f=3", "c=2"]);
    // What is nothing new any more is left out, and what goes first leaves room for what waits.
    stream.session.update(with([4, 4, 4, 1, 2, 3]));
    stream.accept(Endpoints, &[]);
    stream.sends(Endpoints, &["a=4", "e=2"]);
    stream.accept(Endpoints, &[]);
    stream.sends(Endpoints, &["b=4", "c=4"]);
    stream.accept(Endpoints, &[]);
    stream.is_silent();
}

#[test]
fn what_waits_comes_also_where_something_else_changes_ever_again() {
    let with = |version: u8| view(&[(Endpoints, &[format!("a={version}").as_str(), "b=2", "c=2"])]);
    let mut stream = Stream::new(Delta, view(&[(Endpoints, &["a=1", "b=1", "c=1"])]));
    stream.subscribe(Endpoints, &["a", "b", "c"]);
    stream.sends(Endpoints, &["a=1", "b=1", "c=1"]);
    stream.accept(Endpoints, &[]);
    stream.session.part = 2 * weight("a=2".len());
    stream.session.update(with(1));
    stream.session.update(with(2));
    stream.sends(Endpoints, &["a=2", "b=2"]);
    stream.session.update(with(3));
    stream.accept(Endpoints, &[]);
    stream.sends(Endpoints, &["a=3", "c=2"]);
}

#[test]
fn listeners_wait_for_the_last_part_of_the_clusters_and_come_whole() {
    let all: &[(Kind, &[&str])] = &[(Clusters, &["a=1", "b=1"]), (Listeners, &["l=1", "m=1"])];
    for (protocol, parts) in [(Delta, &[&["a=1"][..], &["b=1"]][..]), (StateOfTheWorld, &[&["a=1", "b=1"][..]])] {
        let mut stream = Stream::new(protocol, view(all));
        stream.session.part = 1;
        stream.subscribe(Clusters, &[]);
        stream.subscribe(Listeners, &[]);
        for part in parts {
            stream.sends(Clusters, part);
            stream.is_silent();
            stream.accept(Clusters, &[]);
        }
        stream.sends(Listeners, &["l=1", "m=1"]);
    }
}

#[test]
fn who_does_not_answer_a_part_of_the_clusters_gets_all_of_them_before_the_listeners() {
    let mut stream = Stream::new(Delta, view(&[(Clusters, &["a=1", "b=1", "c=1"]), (Listeners, &["l=1"])]));
    stream.session.part = 1;
    stream.subscribe(Clusters, &[]);
    stream.subscribe(Listeners, &[]);
    stream.sends(Clusters, &["a=1"]);
    stream.is_silent();
    stream.now += PATIENCE;
    stream.sends(Clusters, &["b=1", "c=1"]);
    stream.is_silent();
    stream.now += PATIENCE;
    stream.sends(Listeners, &["l=1"]);
}

#[test]
fn clusters_on_a_stream_of_their_own_come_whole() {
    // Listeners and routes come by other streams, and could not wait for the last part.
    let mut stream = Stream::new(Delta, view(&[(Clusters, &["a=1", "b=1"])]));
    stream.session = Session::new(Delta, false, view(&[(Clusters, &["a=1", "b=1"])]));
    stream.session.part = 1;
    stream.subscribe(Clusters, &[]);
    stream.sends(Clusters, &["a=1", "b=1"]);
}

#[test]
fn what_changes_goes_before_what_is_the_same_and_only_sent_again() {
    let names = ["a", "b", "c"];
    let with = |clusters: [&str; 3], c: &str| view(&[(Clusters, &clusters), (Endpoints, &["a=1", "b=1", c])]);
    let mut stream = Stream::new(Delta, with(["a=1", "b=1", "c=1"], "c=1"));
    stream.subscribe(Clusters, &[]);
    stream.sends(Clusters, &["a=1", "b=1", "c=1"]);
    stream.accept(Clusters, &[]);
    stream.subscribe(Endpoints, &names);
    stream.sends(Endpoints, &["a=1", "b=1", "c=1"]);
    stream.session.update(with(["a=2", "b=2", "c=1"], "c=1"));
    stream.sends(Clusters, &["a=2", "b=2"]);
    stream.session.update(with(["a=2", "b=2", "c=1"], "c=2"));
    stream.session.part = 2 * weight("c=2".len());
    stream.accept(Endpoints, &[]);
    stream.sends(Endpoints, &["c=2", "a=1"]);
    stream.accept(Endpoints, &[]);
    stream.sends(Endpoints, &["b=1"]);
}
