use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use outrigger_engine::config::report::Report;
use outrigger_engine::source::{Schema, Source, documents};
use outrigger_engine::xds::Kind;
use outrigger_proto::CONTROL_DESCRIPTORS;
use outrigger_proto::envoy::config::core::v3::Node;
use outrigger_proto::outrigger::control::v1::applied::Outcome;
use outrigger_proto::outrigger::control::v1::control_server::{Control, ControlServer};
use outrigger_proto::outrigger::control::v1::watch_response::Event;
use outrigger_proto::outrigger::control::v1::*;
use prost::Message as _;
use tokio::sync::Semaphore;
use tokio_stream::StreamExt;
use tonic::codegen::Service as _;
use tonic::service::Routes;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use super::{Api, Waiting, Writer, objects, watching};
use crate::serve::{Unread, watch_over};
use crate::store::{Store, StoreError};
use crate::xds::Protocol;

struct Bench {
    api: Api,
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let api = open(directory.path(), 10_000);
        Bench { api, directory }
    }

    /// The process ends, and starts again with the same directory.
    async fn restart(&mut self, log_entries: u64) {
        self.api.writer.stop().await;
        while self.api.in_force.changed().await.is_ok() {}
        let Bench { directory, .. } = self;
        // The database is closed when its last user is gone.
        let placeholder = tempfile::tempdir().unwrap();
        self.api = open(placeholder.path(), log_entries);
        // A watch whose reader has gone reads the log to its end.
        while let Err(StoreError::InUse(_)) = Store::open(directory.path(), log_entries) {
            tokio::task::yield_now().await;
        }
        self.api = open(directory.path(), log_entries);
    }

    async fn apply(&self, yaml: &str) -> Result<ApplyResponse, Status> {
        self.send(yaml, false).await
    }

    async fn send(&self, yaml: &str, dry_run: bool) -> Result<ApplyResponse, Status> {
        let request = ApplyRequest { objects: parse(yaml), dry_run };
        self.api.apply(Request::new(request)).await.map(tonic::Response::into_inner)
    }

    async fn get(&self, kind: &str, name: &str) -> Result<Object, Status> {
        let request = GetRequest { key: Some(key(kind, name)) };
        self.api.get(Request::new(request)).await.map(|response| response.into_inner().object.unwrap())
    }

    async fn delete(&self, keys: Vec<ObjectKey>) -> Result<DeleteResponse, Status> {
        let request = DeleteRequest { keys, dry_run: false };
        self.api.delete(Request::new(request)).await.map(tonic::Response::into_inner)
    }

    async fn watch(&self, after_revision: Option<u64>) -> impl StreamExt<Item = Result<WatchResponse, Status>> + use<> {
        let request = WatchRequest { kind: "Service".to_owned(), after_revision, ..WatchRequest::default() };
        self.api.watch(Request::new(request)).await.unwrap().into_inner()
    }
}

fn open(directory: &std::path::Path, log_entries: u64) -> Api {
    let (store, records) = Store::open(directory, log_entries).unwrap();
    let log = store.log();
    let (writer, in_force, _failure) = Writer::start(store, records).unwrap();
    Api::new(writer, in_force, log, Arc::default())
}

fn parse(yaml: &str) -> Vec<Object> {
    let schema = Schema::new(CONTROL_DESCRIPTORS);
    let object = |document: &outrigger_engine::source::Document<'_>| {
        let (kind, report) = (objects::kind(document.scalar("kind").unwrap()).unwrap(), Report::new());
        let object = objects::decode(kind, &document.encode(&schema, &objects::message_name(kind), &report)).unwrap();
        assert!(!report.is_rejected(), "{:?}", report.into_parts().0);
        object
    };
    documents(&Source::new("test.yaml", yaml)).unwrap().iter().map(object).collect()
}

fn key(kind: &str, name: &str) -> ObjectKey {
    ObjectKey { kind: kind.to_owned(), name: name.to_owned(), ..ObjectKey::default() }
}

fn service(name: &str, port: u16) -> String {
    format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n")
}

fn outcomes(response: &ApplyResponse) -> Vec<Outcome> {
    response.applied.iter().map(Applied::outcome).collect()
}

fn name(event: &WatchResponse) -> String {
    objects::metadata(event.object.as_ref().unwrap()).unwrap().name.clone()
}

/// Generous: only a test that fails waits so long.
async fn next(
    events: &mut (impl StreamExt<Item = Result<WatchResponse, Status>> + Unpin),
) -> Result<WatchResponse, Status> {
    tokio::time::timeout(Duration::from_secs(60), events.next()).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_set_is_created_changed_and_left_alone() {
    let bench = Bench::new();
    let both = service("a", 80) + &service("b", 80);
    let created = bench.apply(&both).await.unwrap();
    assert_eq!((created.revision, outcomes(&created)), (1, vec![Outcome::Created, Outcome::Created]));
    let again = bench.apply(&both).await.unwrap();
    assert_eq!((again.revision, outcomes(&again)), (1, vec![Outcome::Unchanged, Outcome::Unchanged]));
    let changed = bench.apply(&(service("a", 81) + &service("b", 80))).await.unwrap();
    assert_eq!((changed.revision, outcomes(&changed)), (2, vec![Outcome::Configured, Outcome::Unchanged]));
    let a = bench.get("Service", "a").await.unwrap();
    let metadata = objects::metadata(&a).unwrap();
    assert_eq!((metadata.resource_version.as_deref(), metadata.generation), (Some("2"), Some(2)));
    // What was read can be applied as it is.
    let request = ApplyRequest { objects: vec![a], dry_run: false };
    let same = bench.api.apply(Request::new(request)).await.unwrap().into_inner();
    assert_eq!(outcomes(&same), [Outcome::Unchanged]);
}

#[tokio::test]
async fn a_set_with_one_fault_changes_nothing_and_says_where_it_is() {
    let bench = Bench::new();
    let refused = bench.apply(&(service("a", 80) + &service("b", 0))).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("Service default/b: spec.ports[0].port: 0: "), "{}", refused.message());
    let details = refused.get_details_bad_request().unwrap();
    assert_eq!(details.field_violations[0].field, "objects[1].service.spec.ports[0].port");
    assert_eq!(bench.get("Service", "a").await.unwrap_err().code(), Code::NotFound);
    let twice = bench.apply(&(service("a", 80) + &service("a", 81))).await.unwrap_err();
    assert!(twice.message().contains("is in this set twice"), "{}", twice.message());
}

#[tokio::test]
async fn a_dry_run_says_what_would_differ_and_stores_nothing() {
    let bench = Bench::new();
    bench.apply(&service("a", 80)).await.unwrap();
    let dry = bench.send(&(service("a", 81) + &service("b", 80)), true).await.unwrap();
    assert_eq!((dry.revision, outcomes(&dry)), (1, vec![Outcome::Configured, Outcome::Created]));
    let differences = &dry.applied[0].differences;
    assert_eq!(
        differences,
        &[Difference { path: "spec.ports[0].port".to_owned(), before: "80".to_owned(), after: "81".to_owned() }]
    );
    assert_eq!(bench.get("Service", "b").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(bench.api.in_force.borrow().revision, 1);
}

#[tokio::test]
async fn nobody_overwrites_what_they_have_not_seen() {
    let bench = Bench::new();
    bench.apply(&service("a", 80)).await.unwrap();
    let versioned = |version: u64, port: u16| {
        service("a", port).replace("{name: a}", &format!("{{name: a, resourceVersion: '{version}'}}"))
    };
    bench.apply(&versioned(1, 81)).await.unwrap();
    let refused = bench.apply(&versioned(1, 82)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted);
    assert!(
        refused.message().starts_with("Service default/a has resource version 2, not 1: "),
        "{}",
        refused.message()
    );
    let mut doomed = key("Service", "a");
    doomed.resource_version = "1".to_owned();
    assert_eq!(bench.delete(vec![doomed.clone()]).await.unwrap_err().code(), Code::Aborted);
    doomed.resource_version = "2".to_owned();
    assert_eq!(bench.delete(vec![doomed]).await.unwrap().revision, 3);
    let refused = bench.apply(&versioned(2, 82)).await.unwrap_err();
    assert!(refused.message().contains("has resource version none: it does not exist"), "{}", refused.message());
}

#[tokio::test]
async fn objects_are_deleted_together_or_not_at_all() {
    let bench = Bench::new();
    bench.apply(&(service("a", 80) + &service("b", 80))).await.unwrap();
    let refused = bench.delete(vec![key("Service", "a"), key("Service", "c")]).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::NotFound, "not found: Service default/c"));
    let twice = bench.delete(vec![key("Service", "a"), key("Service", "a")]).await.unwrap_err();
    assert_eq!(twice.code(), Code::InvalidArgument);
    assert!(twice.message().contains("Service default/a: is in this set twice"), "{}", twice.message());
    assert_eq!(twice.get_details_bad_request().unwrap().field_violations[0].field, "keys[1]");
    let deleted = bench.delete(vec![key("Service", "a"), key("Service", "b")]).await.unwrap();
    assert_eq!((deleted.revision, deleted.deleted.len()), (2, 2));
    let near = bench.delete(vec![key("Servce", "a")]).await.unwrap_err();
    assert_eq!(near.message(), r#""Servce": no such kind; did you mean "Service"?"#);
}

#[tokio::test]
async fn a_watch_shows_what_is_and_what_becomes() {
    let bench = Bench::new();
    bench.apply(&service("a", 80)).await.unwrap();
    let mut events = bench.watch(None).await;
    let first = next(&mut events).await.unwrap();
    assert_eq!((first.event(), name(&first), first.revision), (Event::Initial, "a".to_owned(), 1));
    assert_eq!(next(&mut events).await.unwrap().event(), Event::Synced);
    bench.apply(&service("b", 80)).await.unwrap();
    bench.delete(vec![key("Service", "a")]).await.unwrap();
    let event = next(&mut events).await.unwrap();
    assert_eq!((event.event(), name(&event), event.revision), (Event::Applied, "b".to_owned(), 2));
    let event = next(&mut events).await.unwrap();
    assert_eq!((event.event(), name(&event), event.revision), (Event::Deleted, "a".to_owned(), 3));
    bench.api.writer.stop().await;
    assert_eq!(next(&mut events).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_watch_shows_an_object_with_the_status_that_get_shows() {
    let bench = Bench::new();
    let request = WatchRequest { kind: "HTTPRoute".to_owned(), after_revision: Some(0), ..WatchRequest::default() };
    let mut events = bench.api.watch(Request::new(request)).await.unwrap().into_inner();
    let route = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\n\
                 spec: {parentRefs: [{group: '', kind: Service, name: nowhere}]}\n";
    bench.apply(route).await.unwrap();
    let shown = events.next().await.unwrap().unwrap().object.unwrap();
    assert_eq!(shown, bench.get("HTTPRoute", "r").await.unwrap());
    assert!(format!("{shown:?}").contains("NoMatchingParent"), "{shown:?}");
}

#[tokio::test]
async fn a_watch_goes_on_after_a_restart_as_long_as_the_log_reaches_back() {
    let mut bench = Bench::new();
    for port in 80..84 {
        bench.apply(&service("a", port)).await.unwrap();
    }
    bench.restart(2).await;
    let mut events = bench.watch(Some(2)).await;
    assert_eq!(next(&mut events).await.unwrap().revision, 3);
    assert_eq!(next(&mut events).await.unwrap().revision, 4);
    bench.apply(&service("a", 84)).await.unwrap();
    assert_eq!(next(&mut events).await.unwrap().revision, 5);
    let mut late = bench.watch(Some(2)).await;
    let refused = next(&mut late).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    assert!(refused.message().ends_with("list again and watch from there"), "{}", refused.message());
    let mut early = bench.watch(Some(9)).await;
    assert_eq!(next(&mut early).await.unwrap_err().code(), Code::OutOfRange);
}

#[tokio::test]
async fn a_watch_that_goes_on_shows_conditions_that_changed_during_the_break() {
    let mut bench = Bench::new();
    let route = |name: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\n\
             spec: {{parentRefs: [{{group: '', kind: Service, name: a}}], rules: [{{backendRefs: [{{name: b, port: 80}}]}}]}}\n"
        )
    };
    bench.apply(&(service("a", 80) + &route("r"))).await.unwrap();
    let request = |after_revision| WatchRequest {
        kind: "HTTPRoute".to_owned(),
        name: "r".to_owned(),
        after_revision,
        ..WatchRequest::default()
    };
    let mut events = bench.api.watch(Request::new(request(None))).await.unwrap().into_inner();
    assert_eq!(condition(&next(&mut events).await.unwrap().object.unwrap(), "ResolvedRefs").0, "False BackendNotFound");
    assert_eq!(next(&mut events).await.unwrap().event(), Event::Synced);
    drop(events);
    // Nobody writes the route, and so the log says nothing of it.
    bench.apply(&(service("b", 80) + &route("other"))).await.unwrap();
    bench.restart(10).await;
    let mut events = bench.api.watch(Request::new(request(Some(1)))).await.unwrap().into_inner();
    let event = next(&mut events).await.unwrap();
    assert_eq!((event.event(), name(&event), event.revision), (Event::Applied, "r".to_owned(), 2));
    assert_eq!(condition(&event.object.unwrap(), "ResolvedRefs").0, "True ResolvedRefs");
}

#[tokio::test]
async fn a_watch_tells_that_a_reference_of_a_service_or_workload_leads_nowhere_and_that_it_does_not() {
    let bench = Bench::new();
    let workload = |port: &str| {
        format!(
            "---\napiVersion: outrigger.dev/v1alpha1\nkind: Workload\nmetadata: {{name: w, labels: {{app: a}}}}\n\
             spec: {{addresses: [10.0.0.1], ports: {{{port}: 8080}}, services: [{{name: b}}]}}\n"
        )
    };
    let a = "---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\n\
             spec: {selector: {app: a}, ports: [{port: 80, targetPort: http}]}\n";
    let applied = bench.apply(&(a.to_owned() + &workload("htpp"))).await.unwrap().applied;
    let applied = |index: usize| condition(applied[index].object.as_ref().unwrap(), "ResolvedRefs").0;
    assert_eq!([applied(0), applied(1)], ["False PortNotFound", "False ServiceNotFound"]);
    let mut events = bench.watch(None).await;
    let first = next(&mut events).await.unwrap().object.unwrap();
    assert_eq!(condition(&first, "ResolvedRefs").0, "False PortNotFound");
    assert_eq!(objects::json(&first)["status"]["conditions"][0]["observedGeneration"], 1);
    assert_eq!(next(&mut events).await.unwrap().event(), Event::Synced);
    // Nobody writes the Service.
    bench.apply(&workload("http")).await.unwrap();
    let event = next(&mut events).await.unwrap();
    assert_eq!((event.event(), name(&event), event.revision), (Event::Applied, "a".to_owned(), 2));
    assert_eq!(objects::json(&event.object.unwrap())["status"], serde_json::Value::Null);
    // The Service that the Workload names comes.
    bench.apply(&service("b", 80)).await.unwrap();
    assert_eq!(objects::json(&bench.get("Workload", "w").await.unwrap())["status"], serde_json::Value::Null);
}

#[tokio::test]
async fn a_watch_that_goes_on_tells_whose_last_condition_went_during_the_break_and_after_a_restart_of_all() {
    let mut bench = Bench::new();
    let workload = |port: &str| {
        format!(
            "---\napiVersion: outrigger.dev/v1alpha1\nkind: Workload\nmetadata: {{name: w, labels: {{app: b}}}}\n\
             spec: {{addresses: [10.0.0.1], ports: {{{port}: 8080}}}}\n"
        )
    };
    let b = "---\napiVersion: v1\nkind: Service\nmetadata: {name: b}\n\
             spec: {selector: {app: b}, ports: [{port: 80, targetPort: http}]}\n";
    let applied = bench.apply(&(service("a", 80) + b + &workload("htpp"))).await.unwrap().applied;
    assert_eq!(condition(applied[1].object.as_ref().unwrap(), "ResolvedRefs").0, "False PortNotFound");
    // Nobody writes the Service: the port that it asks for comes, and then something else.
    bench.apply(&workload("http")).await.unwrap();
    bench.apply(&service("c", 80)).await.unwrap();
    let mut watches = Vec::new();
    // Who has the set of a revision may have it in part.
    for (after, expected) in [(1, &["c 3", "b 3"][..]), (2, &["c 3", "b 3"]), (3, &[])] {
        let mut events = bench.watch(Some(after)).await;
        for expected in expected {
            let event = next(&mut events).await.unwrap();
            assert_eq!(objects::json(event.object.as_ref().unwrap())["status"], serde_json::Value::Null);
            assert_eq!(format!("{} {}", name(&event), event.revision), *expected, "after {after}");
        }
        watches.push(events);
    }
    // Nothing else was told.
    bench.apply(&service("d", 80)).await.unwrap();
    for events in &mut watches {
        assert_eq!(name(&next(events).await.unwrap()), "d");
    }
    drop(watches);
    bench.restart(10).await;
    let mut events = bench.watch(Some(3)).await;
    for expected in ["d", "a", "b", "c"] {
        assert_eq!(name(&next(&mut events).await.unwrap()), expected);
    }
}

#[tokio::test]
async fn a_route_shows_what_became_of_it() {
    let bench = Bench::new();
    let route = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: a}]
  rules: [{backendRefs: [{name: b, port: 80}]}]
";
    let resolved = async |expected: &str| {
        let json = objects::json(&bench.get("HTTPRoute", "r").await.unwrap());
        let conditions = json["status"]["parents"][0]["conditions"].as_array().unwrap();
        let found = conditions.iter().find(|condition| condition["type"] == "ResolvedRefs").unwrap();
        assert_eq!(found["status"], expected, "{found}");
        assert!(found["lastTransitionTime"].as_str().unwrap().ends_with('Z'));
    };
    bench.apply(&(service("a", 80) + route)).await.unwrap();
    resolved("False").await;
    bench.apply(&service("b", 80)).await.unwrap();
    resolved("True").await;
}

/// `status reason` of a condition of a route's first parent, and the time of its last transition.
fn condition(route: &Object, wanted: &str) -> (String, String) {
    let json = objects::json(route);
    let status = &json["status"];
    let conditions = status["parents"][0]["conditions"].as_array().or(status["conditions"].as_array()).unwrap();
    let found = conditions.iter().find(|condition| condition["type"] == wanted).unwrap();
    let text = |field: &str| found[field].as_str().unwrap().to_owned();
    (format!("{} {}", text("status"), text("reason")), text("lastTransitionTime"))
}

#[tokio::test]
async fn a_watch_shows_what_becomes_of_an_object_that_nobody_writes() {
    let bench = Bench::new();
    let route = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{group: '', kind: Service, name: a}]
  rules: [{backendRefs: [{name: b, port: 80}]}]
";
    bench.apply(&(service("a", 80) + route)).await.unwrap();
    let request = WatchRequest { kind: "HTTPRoute".to_owned(), ..WatchRequest::default() };
    let mut events = bench.api.watch(Request::new(request)).await.unwrap().into_inner();
    let mut shown = next(&mut events).await.unwrap().object.unwrap();
    assert_eq!(condition(&shown, "ResolvedRefs").0, "False BackendNotFound");
    assert_eq!(next(&mut events).await.unwrap().event(), Event::Synced);
    // The object that it names comes.
    bench.apply(&service("b", 80)).await.unwrap();
    let event = next(&mut events).await.unwrap();
    assert_eq!((event.event(), event.revision), (Event::Applied, 2));
    shown = event.object.unwrap();
    assert_eq!(condition(&shown, "ResolvedRefs").0, "True ResolvedRefs");
    // A proxy comes, has all of it, and goes.
    assert_eq!(condition(&shown, "Programmed").0, "Unknown Pending");
    let node = Node { id: "orders-1".to_owned(), ..Node::default() };
    let needs = [Kind::Routes].into();
    let proxy = Arc::clone(&bench.api.proxies).open(&node, None, Protocol::Delta, needs);
    proxy.complete(Kind::Routes, 1);
    shown = next(&mut events).await.unwrap().object.unwrap();
    let (programmed, since) = condition(&shown, "Programmed");
    assert_eq!(programmed, "True Programmed");
    assert_eq!(condition(&bench.get("HTTPRoute", "r").await.unwrap(), "Programmed"), (programmed, since));
    drop(proxy);
    shown = next(&mut events).await.unwrap().object.unwrap();
    assert_eq!(condition(&shown, "Programmed").0, "Unknown Pending");
}

#[tokio::test]
async fn a_watch_that_is_not_read_lets_go_and_says_to_begin_anew() {
    let bench = Bench::new();
    let many: String = (0..100).map(|number| service(&format!("s{number}"), 80)).collect();
    bench.apply(&many).await.unwrap();
    let in_force = Arc::downgrade(&bench.api.in_force.borrow().clone());
    tokio::time::pause();
    let mut events = bench.watch(None).await;
    tokio::time::sleep(watching::SLOW * 2).await;
    tokio::time::resume();
    bench.apply(&service("one-more", 80)).await.unwrap();
    while in_force.upgrade().is_some() {
        tokio::task::yield_now().await;
    }
    let refused = loop {
        match next(&mut events).await {
            Ok(event) => assert_eq!(event.event(), Event::Initial),
            Err(status) => break status,
        }
    };
    assert_eq!(refused.code(), Code::OutOfRange);
    assert!(refused.message().ends_with("list again and watch from there"), "{}", refused.message());
}

#[tokio::test]
async fn a_watch_beyond_the_limit_is_refused_until_another_ends() {
    let mut bench = Bench::new();
    bench.api.watches = Arc::new(Semaphore::new(2));
    let (first, _second) = (bench.watch(None).await, bench.watch(None).await);
    let request = || Request::new(WatchRequest::default());
    let refused = bench.api.watch(request()).await.err().unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    drop(first);
    // Its end is seen before its place is free.
    while bench.api.watch(request()).await.is_err() {
        tokio::task::yield_now().await;
    }
}

/// A Service of 200 KiB.
fn large(name: &str) -> String {
    let text = "x".repeat(200 << 10);
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, annotations: {{text: {text}}}}}\nspec: {{ports: [{{port: 80}}]}}\n"
    )
}

#[tokio::test]
async fn watches_have_a_bounded_room_and_who_does_not_read_gives_way() {
    let mut bench = Bench::new();
    for number in 0..10 {
        bench.apply(&large(&format!("s{number}"))).await.unwrap();
    }
    // From memory, from the log in memory, from the log on the disk.
    for (after, restart) in [(None, false), (Some(0), false), (Some(0), true)] {
        if restart {
            bench.restart(10_000).await;
        }
        tokio::time::pause();
        // Room for five of these objects.
        bench.api.waiting = Arc::new(Waiting::new(1 << 20));
        let unread = Arc::<Unread>::default();
        let mut router =
            watch_over(Routes::new(ControlServer::new(bench.api.clone())), Arc::clone(&unread)).into_axum_router();
        let message = WatchRequest { after_revision: after, ..WatchRequest::default() };
        // Before a message: whether it is compressed, and its length.
        let length = u32::try_from(message.encoded_len()).unwrap().to_be_bytes();
        let body = [&[0], length.as_slice(), &message.encode_to_vec()].concat();
        let mut stalled = Vec::new();
        for _ in 0..20 {
            let request =
                http::Request::post("/outrigger.control.v1.Control/Watch").header("content-type", "application/grpc");
            let response = router.call(request.body(Body::from(body.clone())).unwrap()).await.unwrap();
            let mut body = response.into_body().into_data_stream();
            if stalled.is_empty() {
                // The transport has taken a part of the first message and takes no more.
                body.next().await.unwrap().unwrap();
            }
            stalled.push(body);
        }
        let mut events = bench.watch(after).await;
        for number in 0..10 {
            assert_eq!(name(&next(&mut events).await.unwrap()), format!("s{number}"));
        }
        drop(events);
        assert!(unread.responses.load(Ordering::Relaxed) > 0, "{after:?}: nobody gave way");
        // The first was in the way for longest: it is reset.
        let end = loop {
            match stalled[0].next().await {
                Some(Ok(_)) => {}
                end => break end,
            }
        };
        assert!(matches!(end, Some(Err(_))), "{end:?}");
        tokio::time::resume();
    }
}

#[tokio::test]
async fn a_list_comes_page_by_page() {
    let bench = Bench::new();
    // 24 of 200 KiB, and two kinds of others.
    for number in (0..24).step_by(2) {
        bench.apply(&(large(&format!("s{number:02}")) + &large(&format!("s{:02}", number + 1)))).await.unwrap();
    }
    let workload =
        "---\napiVersion: outrigger.dev/v1alpha1\nkind: Workload\nmetadata: {name: w}\nspec: {addresses: [10.0.0.1]}\n";
    let began = bench.apply(workload).await.unwrap().revision;
    let list_of = async |kind: &str, page_size, page_token: &str| {
        let (kind, page_token) = (kind.to_owned(), page_token.to_owned());
        let request = ListRequest { kind, page_size, page_token, ..ListRequest::default() };
        bench.api.list(Request::new(request)).await.map(tonic::Response::into_inner)
    };
    let list = async |page_size, page_token: &str| list_of("", page_size, page_token).await;
    let mut pages = Vec::new();
    let (mut token, mut names) = (String::new(), Vec::new());
    loop {
        let page = list(0, &token).await.unwrap();
        assert!(page.encoded_len() < 4 << 20, "what clients take");
        assert_eq!(page.revision, began, "where a watch is to begin");
        pages.push(page.objects.len());
        names.extend(page.objects.iter().map(|object| objects::metadata(object).unwrap().name.clone()));
        // What goes and comes meanwhile takes nothing else from the list.
        if pages.len() == 1 {
            bench.delete(vec![key("Service", names.last().unwrap())]).await.unwrap();
        }
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let expected: Vec<_> = (0..24).map(|number| format!("s{number:02}")).chain(["w".to_owned()]).collect();
    assert_eq!((pages, names), (vec![10, 10, 5], expected));

    let page = list(3, "").await.unwrap();
    assert_eq!((page.objects.len(), page.next_page_token.is_empty()), (3, false));
    assert_eq!(list(3, &page.next_page_token).await.unwrap().objects.len(), 3);
    for (kind, size, token, named) in [
        ("", -1, "", "page_size -1"),
        ("", 0, "7/Nothing/a/b", "page_token \"7/Nothing/a/b\""),
        ("", 0, "x", "page_token \"x\""),
        ("", 0, "99/Service/default/s00", "page_token \"99/Service/default/s00\""),
        ("Workload", 0, "1/Service/default/s00", "page_token \"1/Service/default/s00\""),
    ] {
        let refused = list_of(kind, size, token).await.unwrap_err();
        assert!(refused.code() == Code::InvalidArgument && refused.message().starts_with(named), "{refused}");
    }
}

#[tokio::test]
async fn nothing_is_written_whose_answer_is_too_long_for_a_message() {
    let bench = Bench::new();
    // 400 KiB of two Services.
    let with = |letter: char, names: [&str; 2]| {
        let text = letter.to_string().repeat(200 << 10);
        let service = |name| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, annotations: {{text: {text}}}}}\nspec: {{ports: [{{port: 80}}]}}"
            )
        };
        let objects = parse(&names.map(service).join("\n---\n"));
        Request::new(ApplyRequest { objects, dry_run: false })
    };
    // The answer has what was there, what is there, and the object.
    let revision = bench.api.apply(with('a', ["a", "b"])).await.unwrap().into_inner().revision;
    let refused = bench.api.apply(with('b', ["a", "b"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let text = refused.message();
    assert!(
        text.starts_with("nothing was applied: the answer tells of 2 objects in 1") && text.contains("split"),
        "{text}"
    );
    assert_eq!(bench.api.current().revision, revision);
    let found = bench.get("Service", "a").await.unwrap();
    assert!(objects::metadata(&found).unwrap().annotations["text"].starts_with('a'));
    // Who deletes gets what there was.
    let more = [["b0", "b1"], ["b2", "b3"], ["b4", "b5"]];
    for names in more {
        bench.api.apply(with('c', names)).await.unwrap();
    }
    let before = bench.api.current().revision;
    let refused = bench.delete(more.iter().flatten().map(|name| key("Service", name)).collect()).await.unwrap_err();
    assert!(refused.message().starts_with("nothing was deleted: the answer tells of 6 objects"), "{refused}");
    assert_eq!(bench.api.current().revision, before);
}

#[tokio::test]
async fn what_an_earlier_version_took_and_this_one_refuses_says_so_in_its_status() {
    let texts = [
        "apiVersion: v1\nkind: Service\nmetadata: {name: good}\nspec: {ports: [{port: 80}]}",
        "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {ports: [{port: 70000}]}",
        "apiVersion: outrigger.dev/v1alpha1\nkind: Workload\nmetadata: {name: w}\nspec: {addresses: [nowhere]}",
        "apiVersion: outrigger.dev/v1alpha1\nkind: ServicePolicy\nmetadata: {name: p}\nspec: {targetRefs: [{kind: Service, \
         name: good}], balancing: {algorithm: Fastest}}",
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec: {parentRefs: [{group: '', kind: \
         Service, name: good}], rules: [{matches: [{path: {value: x}}]}]}",
    ];
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(directory.path(), 10).unwrap();
    let changes = texts.iter().map(|text| {
        let object = parse(text).remove(0);
        let bytes = objects::bytes(&object);
        let record = crate::store::Record { revision: 1, created: 1, generation: 1, created_at: 1, bytes };
        crate::store::Change::Put(objects::store_key(&crate::model::Key::of(&object).unwrap()), Arc::new(record))
    });
    store.commit(&changes.collect::<Vec<_>>()).unwrap();
    drop(store);
    let api = open(directory.path(), 10);
    let get = async |kind: &str, name: &str| {
        let request = GetRequest { key: Some(key(kind, name)) };
        objects::json(&api.get(Request::new(request)).await.unwrap().into_inner().object.unwrap())["status"].take()
    };
    let is_left_out = |condition: &serde_json::Value, reason: &str, what: &str| {
        let text = |name: &str| condition[name].as_str().unwrap_or_default();
        assert_eq!((text("type"), text("status"), text("reason")), ("Accepted", "False", reason), "{condition}");
        assert!(text("message").contains(what) && !text("lastTransitionTime").is_empty(), "{condition}");
    };
    is_left_out(&get("Service", "bad").await["conditions"][0], "Invalid", "spec.ports[0].port: 70000: ");
    is_left_out(&get("Workload", "w").await["conditions"][0], "Invalid", "spec.addresses[0]: nowhere: ");
    let policy = get("ServicePolicy", "p").await;
    is_left_out(&policy["ancestors"][0]["conditions"][0], "Invalid", "spec.balancing.algorithm: Fastest: ");
    assert_eq!(policy["ancestors"][0]["ancestorRef"]["name"], "good");
    let route = get("HTTPRoute", "r").await;
    is_left_out(&route["parents"][0]["conditions"][0], "UnsupportedValue", "spec.rules[0].matches[0].path.value: x: ");
    assert!(get("Service", "good").await["conditions"].is_null());
    // A watch that goes on tells it too.
    let request = WatchRequest { kind: "Service".to_owned(), after_revision: Some(1), ..WatchRequest::default() };
    let mut events = api.watch(Request::new(request)).await.unwrap().into_inner();
    let told = objects::json(&next(&mut events).await.unwrap().object.unwrap());
    assert_eq!(told["metadata"]["name"], "bad");
    is_left_out(&told["status"]["conditions"][0], "Invalid", "spec.ports[0].port: 70000: ");
    let counts = || {
        let set = api.current();
        super::left_out::count(&set.compiled.mesh, set.objects.keys()).into_values().collect::<Vec<_>>()
    };
    assert_eq!(counts(), [1, 1, 1, 1]);
    // Applied in a form that is taken, it is as any other.
    let objects = parse("apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {ports: [{port: 80}]}");
    api.apply(Request::new(ApplyRequest { objects, dry_run: false })).await.unwrap();
    assert!(get("Service", "bad").await["conditions"].is_null());
    assert_eq!(counts(), [0, 1, 1, 1]);
}
