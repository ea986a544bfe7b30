//! Killed by -9 at any point, the control plane loses no write that it acknowledged, and starts again by itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use outrigger_proto::outrigger::control::v1::control_client::ControlClient;
use outrigger_proto::outrigger::control::v1::object::Kind;
use outrigger_proto::outrigger::control::v1::{
    ApplyRequest, ListRequest, Object, ObjectMeta, Service, ServicePort, ServiceSpec,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use outrigger_tests::plane::{Plane, listens};

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

/// What a writer tells of a set.
#[derive(Clone, Copy, Debug)]
enum Told {
    Sends,
    /// Its revision, and how long that took.
    Acknowledged(u64, Duration),
}

/// When it is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// After so many acknowledged writes, others being under way.
    Acknowledged(usize),
    /// At any point of a start, ready or not.
    Starting,
    /// So many writes are sent, and it is anywhere between the last of them and its acknowledgement.
    Sent(usize),
}

/// Numbers from a seed that goes on.
#[derive(Debug)]
struct Random(u64);

impl Random {
    /// From none to about that long.
    fn up_to(&mut self, longest: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_micros(self.0 % (longest.as_micros() as u64 + 1))
    }
}

/// What the test knows, and what the kills came to.
#[derive(Debug)]
struct Run {
    known: [Known; WRITERS],
    /// The newest revision that was acknowledged.
    newest: u64,
    /// How long the last start and the last write took.
    start: Duration,
    write: Duration,
    random: Random,
    /// Kills before it said that it is ready, and sets that were stored and not acknowledged.
    starting: usize,
    unacknowledged: usize,
}

/// Writes sets of two objects, one after the other, until the control plane is gone.
async fn write(writer: usize, socket: PathBuf, mut known: Known, told: mpsc::UnboundedSender<Told>) -> Known {
    // It may be gone before a writer came.
    let Ok(mut client) = connect(socket).await else { return known };
    loop {
        known.sent += 1;
        let objects = ["left", "right"].map(|side| service(&format!("{side}-{writer}"), known.sent)).to_vec();
        let began = Instant::now();
        // Nobody counts any more once the process is killed.
        let _ = told.send(Told::Sends);
        let Ok(response) = client.apply(ApplyRequest { objects, dry_run: false }).await else { return known };
        known.acknowledged = known.sent;
        let _ = told.send(Told::Acknowledged(response.into_inner().revision, began.elapsed()));
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

impl Run {
    /// Kills it at the moment, having looked at what it has.
    async fn killed(&mut self, directory: &Path, moment: Moment) {
        if matches!(moment, Moment::Starting) {
            // Half as long again: at its end, and a little later, it is ready.
            let delay = self.random.up_to(self.start * 3 / 2);
            let process = Plane::spawn(MESH, directory);
            std::thread::park_timeout(delay);
            self.starting += usize::from(listens(&process.output()).is_none());
            return;
        }
        let began = Instant::now();
        let plane = Plane::start(MESH, directory);
        self.start = began.elapsed();
        self.check(plane.socket()).await;
        let (told, mut hears) = mpsc::unbounded_channel();
        let mut writers = JoinSet::new();
        for (writer, known) in self.known.iter().enumerate() {
            let (socket, known, told) = (plane.socket(), *known, told.clone());
            writers.spawn(async move { (writer, write(writer, socket, known, told).await) });
        }
        drop(told);
        let (mut sent, mut acknowledged) = (0, 0);
        let is_it = |sent: usize, acknowledged: usize| match moment {
            Moment::Acknowledged(writes) => acknowledged >= writes,
            Moment::Sent(writes) => sent >= writes,
            Moment::Starting => true,
        };
        while !is_it(sent, acknowledged) {
            match tokio::time::timeout(PATIENCE, hears.recv()).await.unwrap().unwrap() {
                Told::Sends => sent += 1,
                Told::Acknowledged(revision, took) => {
                    acknowledged += 1;
                    (self.newest, self.write) = (self.newest.max(revision), took);
                }
            }
        }
        let delay = match moment {
            Moment::Sent(_) => self.random.up_to(self.write * 2),
            Moment::Acknowledged(_) | Moment::Starting => Duration::ZERO,
        };
        // On a thread of its own: the writers go on meanwhile.
        let kill = move || {
            std::thread::park_timeout(delay);
            drop(plane);
        };
        tokio::task::spawn_blocking(kill).await.unwrap();
        while let Some(ended) = writers.join_next().await {
            let (writer, after) = ended.unwrap();
            self.known[writer] = after;
        }
        while let Some(told) = hears.recv().await {
            if let Told::Acknowledged(revision, _) = told {
                self.newest = revision.max(self.newest);
            }
        }
    }

    /// Every acknowledged write is there, and every other is there whole or not at all.
    async fn check(&mut self, socket: PathBuf) {
        let (counts, revision) = stored(socket).await;
        let newest = self.newest;
        assert!(revision >= newest, "revision {newest} was acknowledged, {revision} is stored");
        for (writer, Known { acknowledged, sent }) in self.known.iter_mut().enumerate() {
            let count = |side| counts.get(&format!("{side}-{writer}")).copied().unwrap_or(0);
            let [left, right] = ["left", "right"].map(count);
            assert_eq!(left, right, "a set is stored whole or not at all");
            assert!((*acknowledged..=*sent).contains(&left), "stored is {left} of {acknowledged} to {sent}");
            self.unacknowledged += usize::from(left > *acknowledged);
            // Who has read it counts on it, too.
            *acknowledged = left;
        }
    }
}

#[test]
fn a_hundred_kills_lose_no_acknowledged_write() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = since_1970.as_nanos() as u64 | 1;
    // Shown where it fails.
    println!("the delays are of seed {seed}");
    let mut run = Run {
        known: [Known::default(); WRITERS],
        newest: 0,
        start: Duration::ZERO,
        write: Duration::ZERO,
        random: Random(seed),
        starting: 0,
        unacknowledged: 0,
    };
    let began = Instant::now();
    for kill in 0..KILLS {
        let moment = match kill % 3 {
            // From none at all to several sets of each writer.
            0 => Moment::Acknowledged(kill * 5 % 7),
            1 => Moment::Starting,
            _ => Moment::Sent(1 + kill * 5 % 7),
        };
        runtime.block_on(run.killed(directory.path(), moment));
    }
    // The last one, too, has lost nothing.
    let plane = Plane::start(MESH, directory.path());
    runtime.block_on(run.check(plane.socket()));
    let Run { newest, starting, unacknowledged, .. } = run;
    println!(
        "killed {KILLS} times in {:?}, {starting} of them before it was ready: {newest} revisions acknowledged, \
         {unacknowledged} sets stored that were not",
        began.elapsed()
    );
    assert!(newest >= 100, "the kills have to come under writes, and only {newest} were acknowledged");
    assert!(starting >= 5, "only {starting} kills came during a start");
    assert!(unacknowledged >= 1, "no kill came between a commit and its acknowledgement");
}
