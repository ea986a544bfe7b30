//! Killed by -9 at any point, the control plane loses no write that it acknowledged, and starts again by itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use outrigger_proto::outrigger::control::v1::control_client::ControlClient;
use outrigger_proto::outrigger::control::v1::object::Kind;
use outrigger_proto::outrigger::control::v1::{
    ApplyRequest, ListRequest, Object, ObjectMeta, Service, ServicePort, ServiceSpec,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use outrigger_tests::plane::Plane;

use crate::shop::{MESH, PATIENCE};

/// How often it is killed, however long that takes: only a single step may not take too long.
const KILLS: usize = 100;
/// Writers at a time, each with two objects of its own in every set.
const WRITERS: usize = 4;

/// What one writer knows: the last count that was acknowledged, and the last that was sent.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    acknowledged: u64,
    sent: u64,
}

async fn connect(socket: PathBuf) -> Result<ControlClient<Channel>, tonic::transport::Error> {
    Endpoint::from_shared(format!("unix:{}", socket.display()))?.connect().await.map(ControlClient::new)
}

fn service(name: &str, count: u64) -> Object {
    Object {
        kind: Some(Kind::Service(Service {
            api_version: "v1".to_owned(),
            kind: "Service".to_owned(),
            metadata: Some(ObjectMeta {
                name: name.to_owned(),
                annotations: BTreeMap::from([("count".to_owned(), count.to_string())]),
                ..ObjectMeta::default()
            }),
            spec: Some(ServiceSpec {
                ports: vec![ServicePort { port: Some(80), ..ServicePort::default() }],
                ..ServiceSpec::default()
            }),
            status: None,
        })),
    }
}

/// Writes sets of two objects, one after the other, until the control plane is gone.
async fn write(writer: usize, socket: PathBuf, mut known: Known, acknowledged: mpsc::UnboundedSender<u64>) -> Known {
    // It may be gone before a writer came.
    let Ok(mut client) = connect(socket).await else { return known };
    loop {
        known.sent += 1;
        let objects = ["left", "right"].map(|side| service(&format!("{side}-{writer}"), known.sent)).to_vec();
        let Ok(response) = client.apply(ApplyRequest { objects, dry_run: false }).await else { return known };
        known.acknowledged = known.sent;
        // Nobody counts any more once the process is killed.
        let _ = acknowledged.send(response.into_inner().revision);
    }
}

/// The count of each object, and the revision.
async fn stored(socket: PathBuf) -> (BTreeMap<String, u64>, u64) {
    let response = connect(socket).await.unwrap().list(ListRequest::default()).await.unwrap().into_inner();
    let count = |object: Object| {
        let Some(Kind::Service(Service { metadata: Some(metadata), .. })) = object.kind else { panic!("{object:?}") };
        (metadata.name, metadata.annotations["count"].parse().unwrap())
    };
    (response.objects.into_iter().map(count).collect(), response.revision)
}

/// Kills it after `writes` acknowledged ones, others being under way.
async fn killed(directory: &Path, known: &mut [Known], writes: usize, newest: &mut u64) {
    let plane = Plane::start(MESH, directory);
    let (counts, revision) = stored(plane.socket()).await;
    assert!(revision >= *newest, "revision {newest} was acknowledged, {revision} is stored");
    for (writer, Known { acknowledged, sent }) in known.iter().enumerate() {
        let [left, right] = ["left", "right"].map(|side| counts.get(&format!("{side}-{writer}")).copied().unwrap_or(0));
        assert_eq!(left, right, "a set is stored whole or not at all");
        assert!((*acknowledged..=*sent).contains(&left), "stored is {left} of {acknowledged} to {sent}");
    }
    let (acknowledged, mut acknowledgements) = mpsc::unbounded_channel();
    let mut writers = JoinSet::new();
    for (writer, known) in known.iter().enumerate() {
        let (socket, known, acknowledged) = (plane.socket(), *known, acknowledged.clone());
        writers.spawn(async move { (writer, write(writer, socket, known, acknowledged).await) });
    }
    drop(acknowledged);
    for _ in 0..writes {
        let revision = tokio::time::timeout(PATIENCE, acknowledgements.recv()).await.unwrap();
        *newest = revision.unwrap().max(*newest);
    }
    drop(plane);
    while let Some(ended) = writers.join_next().await {
        let (writer, after) = ended.unwrap();
        known[writer] = after;
    }
    while let Some(revision) = acknowledgements.recv().await {
        *newest = revision.max(*newest);
    }
}

#[test]
fn a_hundred_kills_lose_no_acknowledged_write() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (mut known, mut newest) = ([Known::default(); WRITERS], 0);
    let began = Instant::now();
    for kill in 0..KILLS {
        // From none at all to several sets of each writer.
        runtime.block_on(killed(directory.path(), &mut known, kill * 5 % 7, &mut newest));
    }
    println!("killed {KILLS} times in {:?}, {newest} revisions acknowledged", began.elapsed());
    assert!(newest >= 100, "the kills have to come under writes, and only {newest} were acknowledged");
}
