use std::io::{BufRead, BufReader};
use std::process::Stdio;

use outrigger_engine::xds::Kind;
use outrigger_proto::envoy::config::core::v3::Node;
use outrigger_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use outrigger_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use outrigger_proto::google::rpc;
use outrigger_tests::peers;
use outrigger_tests::plane::Plane;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

use crate::shop::{MESH, PATIENCE, SHOP};

fn plane() -> (Plane, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let plane = Plane::start(MESH, directory.path());
    plane.write("shop.yaml", SHOP);
    (plane, directory)
}

#[test]
fn objects_are_applied_shown_and_deleted() {
    let (plane, _directory) = plane();
    let applied = plane.run(&["apply", "-f", "shop.yaml"]).unwrap();
    let route = "httproute.gateway.networking.k8s.io/canary";
    assert_eq!(applied, format!("service/users created\nservice/users-v2 created\n{route} created\n"));

    plane.write("canary.yaml", &SHOP.replace("weight: 90", "weight: 50"));
    let dry = plane.run(&["apply", "-f", "canary.yaml", "--dry-run"]).unwrap();
    let difference = "spec.rules[0].backendRefs[0].weight: 90 -> 50";
    assert!(dry.ends_with(&format!("{route} configured (dry run)\n  {difference}\n")), "{dry}");
    let applied = plane.run(&["apply", "-f", "canary.yaml"]).unwrap();
    assert_eq!(applied, format!("service/users unchanged\nservice/users-v2 unchanged\n{route} configured\n"));

    let table = plane.run(&["get", "httproutes", "-o", "wide"]).unwrap();
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "PARENTS", "RULES", "ACCEPTED", "RESOLVED", "PROGRAMMED", "AGE", "BACKENDS"]);
    assert_eq!(lines[1][..6], ["canary", "users", "1", "True", "True", "Unknown"]);
    assert_eq!(lines[1][7], "users:80*50,users-v2:80*10");
    let described = plane.run(&["describe", "httproute", "canary"]).unwrap();
    for part in
        ["Name:             canary", "Generation:       2", "    - name: users\n", "Conditions at Service users:"]
    {
        assert!(described.contains(part), "{part}: {described}");
    }
    // What is shown can be applied.
    plane.write("shown.yaml", &plane.run(&["get", "svc", "-o", "yaml"]).unwrap());
    let applied = plane.run(&["apply", "-f", "shown.yaml"]).unwrap();
    assert_eq!(applied, "service/users unchanged\nservice/users-v2 unchanged\n");
    assert_eq!(plane.run(&["get", "svc", "-A", "-o", "name"]).unwrap(), "service/users\nservice/users-v2\n");
    assert_eq!(plane.run(&["get", "svc", "-n", "other"]).unwrap(), "");

    assert_eq!(plane.run(&["delete", "svc/users-v2"]).unwrap(), "service/users-v2 deleted\n");
    let table = plane.run(&["get", "httproute"]).unwrap();
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[3..5], ["True", "False"], "a backend is gone: {table}");
    let refused = plane.run(&["delete", "-f", "shop.yaml"]).unwrap_err();
    assert_eq!(refused, "error: not found: Service default/users-v2\n");
    plane.run(&["delete", "httproute", "canary"]).unwrap();
    let missing = plane.run(&["get", "httproute", "canary"]).unwrap_err();
    assert_eq!(missing, "error: not found: HTTPRoute default/canary\n");
}

#[test]
fn what_is_wrong_is_shown_with_its_line_and_nothing_is_applied() {
    let (plane, _directory) = plane();
    plane.write("form.yaml", &SHOP.replace("backendRefs", "backendRef"));
    assert_eq!(
        plane.run(&["apply", "-f", "form.yaml"]).unwrap_err(),
        "error: form.yaml:17:5: HTTPRoute: spec.rules[0].backendRef: HTTPRouteRule has no such field; did you mean \
         \"backendRefs\"?\nnothing was applied\n"
    );
    plane.write("meaning.yaml", &SHOP.replace("port: 80, weight: 10", "port: 80000, weight: 10"));
    assert_eq!(
        plane.run(&["apply", "-f", "meaning.yaml"]).unwrap_err(),
        "error: meaning.yaml:19:30: HTTPRoute default/canary: spec.rules[0].backendRefs[1].port: 80000: must be 1 to \
         65535\nnothing was applied\n"
    );
    let refused = plane.run(&["delete", "-f", "form.yaml"]).unwrap_err();
    assert!(refused.ends_with("\nnothing was deleted\n"), "{refused}");
    assert_eq!(plane.run(&["get", "svc", "-o", "name"]).unwrap(), "");
    let near = plane.run(&["get", "httprout"]).unwrap_err();
    assert_eq!(near, "error: \"httprout\": no such kind; did you mean \"httproute\" or \"httproutes\"?\n");
}

#[test]
fn what_is_taken_and_does_not_do_what_it_says_is_warned_of() {
    let (plane, _directory) = plane();
    let warned = |shop: &str| {
        plane.write("shop.yaml", shop);
        let output = plane.command(&["apply", "-f", "shop.yaml"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(warned(SHOP), "");
    let suspicious = warned(&SHOP.replace("{name: users-v2, port: 80", "{name: users-v3, port: 80"));
    let route = "warning: httproute.gateway.networking.k8s.io/canary: ";
    assert!(suspicious.starts_with(&format!("{route}ResolvedRefs: BackendNotFound: ")), "{suspicious}");
    assert!(suspicious.contains("users-v3") && suspicious.lines().count() == 1, "{suspicious}");
    let typo = SHOP.replacen("port: 80,", "port: 80, targetPort: htpp,", 1);
    let instance = "---\napiVersion: outrigger.dev/v1alpha1\nkind: Workload\nmetadata: {name: users-1}\n\
                    spec: {addresses: [10.0.0.1], ports: {http: 80}, services: [{name: users}, {name: user}]}\n";
    let suspicious = warned(&(typo + instance));
    let lines: Vec<&str> = suspicious.lines().collect();
    assert!(
        matches!(lines.as_slice(), [port, service]
            if port.starts_with("warning: service/users: ResolvedRefs: PortNotFound: spec.ports[0].targetPort: ")
            && service.starts_with("warning: workload.outrigger.dev/users-1: ResolvedRefs: ServiceNotFound: ")),
        "{suspicious}"
    );
    assert_eq!(plane.run(&["delete", "workload", "users-1"]).unwrap(), "workload.outrigger.dev/users-1 deleted\n");
    let attached_to = |parents: &str| {
        let parent = "parentRefs: [{group: '', kind: Service, name: users}]";
        assert!(SHOP.contains(parent), "{SHOP}");
        warned(&SHOP.replace(parent, parents))
    };
    let of_gateway = attached_to("parentRefs: [{name: users}]");
    assert!(of_gateway.starts_with(&format!("{route}Accepted: NoMatchingParent: ")), "{of_gateway}");
    assert_eq!(attached_to(""), format!("{route}spec.parentRefs is empty: the route is attached to nothing\n"));
    let twice = "  - backendRefs: [{name: users, port: 80}]\n";
    let suspicious = warned(&SHOP.replace("  rules:\n", &format!("  hostnames: [shop.example]\n  rules:\n{twice}")));
    let lines: Vec<_> = suspicious.lines().filter_map(|line| line.strip_prefix(route)).collect();
    assert!(
        matches!(lines.as_slice(), [hosts, shadowed] if hosts.contains("hostnames") && shadowed.starts_with("Shadowed: ")),
        "{suspicious}"
    );
}

#[test]
fn what_is_found_is_shown_before_what_is_missing() {
    let (plane, _directory) = plane();
    plane.run(&["apply", "-f", "shop.yaml"]).unwrap();
    let output = plane.command(&["get", "svc", "users", "nobody", "users-v2", "-o", "name"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "service/users\nservice/users-v2\n");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && error.contains("nobody"), "{error}");
}

#[test]
fn a_watch_follows_what_others_do() {
    let (plane, _directory) = plane();
    plane.run(&["apply", "-f", "shop.yaml"]).unwrap();
    let mut watch = plane.command(&["get", "svc", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut next = || lines.next().unwrap().split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(next(), ["EVENT", "NAME"]);
    assert_eq!(next(), ["users", "ClusterIP"]);
    assert_eq!(next(), ["users-v2", "ClusterIP"]);
    plane.run(&["delete", "svc", "users-v2"]).unwrap();
    assert_eq!(next(), ["deleted", "users-v2"]);
    plane.run(&["apply", "-f", "shop.yaml"]).unwrap();
    assert_eq!(next(), ["applied", "users-v2"]);
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn a_watch_goes_on_when_the_control_plane_comes_back() {
    let (plane, directory) = plane();
    plane.run(&["apply", "-f", "shop.yaml"]).unwrap();
    let mut watch = plane.command(&["get", "svc", "--watch"]);
    let mut watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut said = BufReader::new(watch.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut next = || lines.next().unwrap().split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>();
    for expected in [["EVENT", "NAME"], ["users", "ClusterIP"], ["users-v2", "ClusterIP"]] {
        assert_eq!(next(), expected);
    }
    plane.run(&["delete", "svc", "users-v2"]).unwrap();
    assert_eq!(next(), ["deleted", "users-v2"]);
    // Killed.
    drop(plane);
    let broke = said.next().unwrap();
    assert!(broke.ends_with("connecting again, to go on after revision 1"), "{broke}");
    let plane = Plane::start(MESH, directory.path());
    assert_eq!(said.next().unwrap(), "connected again");
    // What was shown before does not come again.
    plane.run(&["apply", "-f", "shop.yaml"]).unwrap();
    assert_eq!(next(), ["applied", "users-v2"]);
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn a_watch_goes_on_where_the_log_does_not_reach_back() {
    let (plane, directory) = plane();
    plane.run(&["apply", "-f", "shop.yaml"]).unwrap();
    let mut watch = plane.command(&["get", "svc", "--watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut next = || lines.next().unwrap().split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>();
    for expected in [["EVENT", "NAME"], ["users", "ClusterIP"], ["users-v2", "ClusterIP"]] {
        assert_eq!(next(), expected);
    }
    // Its store has no such revision any more.
    let store = plane.data().join("outrigger.redb");
    drop(plane);
    std::fs::remove_file(store).unwrap();
    let plane = Plane::start(MESH, directory.path());
    for expected in [["deleted", "users"], ["deleted", "users-v2"]] {
        assert_eq!(next(), expected);
    }
    plane.run(&["apply", "-f", "shop.yaml"]).unwrap();
    assert_eq!(next(), ["applied", "users"]);
    watch.kill().unwrap();
    watch.wait().unwrap();
}

/// A client that asks for clusters and rejects them. It is connected until both are dropped.
fn rejecting(
    plane: &Plane,
    runtime: &Runtime,
) -> (mpsc::Sender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>) {
    let node = Node { id: "orders-1".to_owned(), cluster: "users".to_owned(), ..Node::default() };
    let first =
        DeltaDiscoveryRequest { node: Some(node), type_url: Kind::Cluster.type_url().to_owned(), ..Default::default() };
    let endpoint = Endpoint::from_shared(format!("unix:{}", plane.socket().display())).unwrap();
    let (requests, receiver) = mpsc::channel(4);
    runtime.block_on(async {
        let mut client = AggregatedDiscoveryServiceClient::new(endpoint.connect().await.unwrap());
        requests.send(first.clone()).await.unwrap();
        let stream = client.delta_aggregated_resources(ReceiverStream::new(receiver));
        let mut responses = stream.await.unwrap().into_inner();
        let response = responses.message().await.unwrap().unwrap();
        let error_detail = Some(rpc::Status { message: "not these".to_owned(), ..rpc::Status::default() });
        let refusal = DeltaDiscoveryRequest { node: None, response_nonce: response.nonce, error_detail, ..first };
        requests.send(refusal).await.unwrap();
        (requests, responses)
    })
}

/// It comes, and has rejected what it was sent: at once, or with other lines before where it is seen between the two.
fn shown_rejecting(lines: &mut impl Iterator<Item = String>) {
    let first = lines.next().unwrap();
    assert!(first.starts_with("connected   orders-1"), "{first}");
    let rejected = |line: &String| line == "orders-1 rejected CDS: not these";
    let last = std::iter::once(first).chain(lines.take_while(|line| !rejected(line))).last().unwrap();
    assert!(last.contains("orders-1   users     REJECTED"), "{last}");
}

#[test]
fn a_watch_of_proxies_shows_who_comes_rejects_and_goes_also_while_nobody_answers() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (plane, directory) = plane();
    plane.run(&["apply", "-f", "shop.yaml"]).unwrap();
    let mut watch = plane.command(&["proxies", "--watch"]);
    let mut watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut said = BufReader::new(watch.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().starts_with("EVENT       NAME   CLUSTER   CDS"));
    let proxy = rejecting(&plane, &runtime);
    shown_rejecting(&mut lines);
    drop(proxy);
    let gone = lines.next().unwrap();
    assert!(gone.starts_with("gone        orders-1"), "{gone}");

    // It goes while there is no control plane.
    let _proxy = rejecting(&plane, &runtime);
    shown_rejecting(&mut lines);
    drop(plane);
    let broke = said.next().unwrap();
    assert!(broke.ends_with("connecting again, to go on with who is connected then"), "{broke}");
    let plane = Plane::start(MESH, directory.path());
    assert_eq!(said.next().unwrap(), "connected again");
    let gone = lines.next().unwrap();
    assert!(gone.starts_with("gone        orders-1"), "{gone}");
    watch.kill().unwrap();
    watch.wait().unwrap();
    let refused = plane.run(&["proxies", "--watch", "--output-watch-events"]).unwrap_err();
    assert!(refused.contains("is for -o json and -o yaml"), "{refused}");
}

#[test]
fn all_kinds_are_shown_in_tables_of_their_own() {
    let (plane, _directory) = plane();
    assert_eq!(plane.run(&["get", "all"]).unwrap(), "");
    plane.run(&["apply", "-f", "shop.yaml"]).unwrap();
    let shown = plane.run(&["get", "all"]).unwrap();
    let first = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
    let names: Vec<String> = shown.lines().map(first).collect();
    let route = "httproute.gateway.networking.k8s.io/canary";
    assert_eq!(names, ["NAME", "service/users", "service/users-v2", "", "NAME", route], "{shown}");
    let names = plane.run(&["get", "all", "-A", "-o", "name"]).unwrap();
    assert_eq!(names, format!("service/users\nservice/users-v2\n{route}\n"));
    plane.write("all.yaml", &plane.run(&["get", "all", "-o", "yaml"]).unwrap());
    plane.run(&["apply", "-f", "all.yaml"]).unwrap();
    for (arguments, what) in
        [(["get", "all", "users"], "`all` takes no names"), (["get", "all", "-w"], "a watch follows one kind")]
    {
        let refused = plane.run(&arguments).unwrap_err();
        assert!(refused.contains(what) && refused.contains("service, workload, httproute, servicepolicy"), "{refused}");
    }
}

#[test]
fn a_watch_in_json_tells_what_was_deleted() {
    let (plane, _directory) = plane();
    plane.run(&["apply", "-f", "shop.yaml"]).unwrap();
    let flags = ["get", "svc", "users", "--watch", "-o", "json", "--output-watch-events"];
    let mut watch = plane.command(&flags).stdout(Stdio::piped()).spawn().unwrap();
    let out = BufReader::new(watch.stdout.take().unwrap());
    let mut events = serde_json::Deserializer::from_reader(out).into_iter::<serde_json::Value>().map(Result::unwrap);
    let mut next = || {
        let event = events.next().unwrap();
        assert_eq!(event["object"]["metadata"]["name"], "users");
        event["type"].as_str().unwrap().to_owned()
    };
    assert_eq!(next(), "ADDED");
    plane.write("changed.yaml", &SHOP.replace("{name: users}", "{name: users, labels: {a: b}}"));
    plane.run(&["apply", "-f", "changed.yaml"]).unwrap();
    assert_eq!(next(), "MODIFIED");
    plane.run(&["delete", "svc", "users"]).unwrap();
    assert_eq!(next(), "DELETED");
    plane.run(&["apply", "-f", "shop.yaml"]).unwrap();
    assert_eq!(next(), "ADDED");
    watch.kill().unwrap();
    watch.wait().unwrap();
    let refused = plane.run(&["get", "svc", "--watch", "--output-watch-events"]).unwrap_err();
    assert!(refused.contains("is for -o json and -o yaml"), "{refused}");
}

#[test]
fn it_stops_when_told_and_says_how_it_is() {
    let (mut plane, _directory) = plane();
    assert!(plane.page("/healthz").starts_with("HTTP/1.1 200 "));
    assert!(plane.page("/readyz").starts_with("HTTP/1.1 200 "));
    plane.run(&["apply", "-f", "shop.yaml"]).unwrap();
    let metrics = plane.page("/metrics");
    for sample in [
        "outrigger_control_revision 1\n",
        "outrigger_control_objects{kind=\"Service\"} 2\n",
        "outrigger_control_requests_total{method=\"Apply\",code=\"Ok\"} 1\n",
    ] {
        assert!(metrics.contains(sample), "{sample}: {metrics}");
    }
    // A second one on the same files is refused.
    let second = peers::control(MESH)
        .args(["serve", "--http", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--data"])
        .arg(plane.data())
        .output()
        .unwrap();
    let reason = String::from_utf8(second.stderr).unwrap();
    assert!(!second.status.success() && reason.contains("another process has it open: stop that one"), "{reason}");

    let mut watch =
        plane.command(&["get", "svc", "--watch"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("EVENT"));
    plane.process.terminate();
    let status = plane.process.wait(PATIENCE).unwrap_or_else(|| panic!("{}", plane.process.output()));
    assert!(status.success(), "{}", plane.process.output());
    assert!(!plane.socket().exists());
    let said = BufReader::new(watch.stderr.take().unwrap()).lines().next().unwrap().unwrap();
    assert!(said.contains("the control plane is stopping") && said.contains("connecting again"), "{said}");
    watch.kill().unwrap();
    watch.wait().unwrap();
    let nobody = plane.run(&["proxies"]).unwrap_err();
    assert!(
        nobody.contains("start one by `outrigger serve`, or say where it is by --server or OUTRIGGER_SERVER"),
        "{nobody}"
    );
}
