//! The command `xds`: what a configuration that comes by delta xDS costs while the proxy serves. Memory of a mesh of
//! 2,000 clusters at rest and after a hundred pushes that change all of it; CPU of a push of 10,000 clusters off the
//! worker, and what traffic and the admin interface feel of it, on one core.

mod mesh;
mod priority;
mod traffic;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use outrigger_control::xds::View;
use tokio::time::{Instant, sleep};

use self::mesh::{Management, Mesh, bootstrap};
use self::traffic::{Load, quantile, until_answers, upstream};
use crate::machine::{Cores, Place, free_ports};
use crate::peer::Peer;
use crate::process::{Cpu, Memory, Process, get};
use crate::report::{cell, table};

#[derive(Args)]
pub(crate) struct Options {
    /// Requests a second while the configuration changes
    #[arg(long, default_value_t = 5000)]
    rate: u32,
    /// How often the large push is repeated with other contents
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Only this part
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// A small mesh and no waiting: shows that everything runs, measures nothing
    #[arg(long)]
    smoke: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Memory,
    Push,
}

/// A proxy with its management server.
struct Scene {
    management: Management,
    proxy: Process,
    http: u16,
    admin: u16,
    mesh: Mesh,
    _directory: tempfile::TempDir,
}

impl Scene {
    async fn start(program: &Path, cores: Cores, mesh: Mesh) -> anyhow::Result<Self> {
        let management = Management::start(&mesh)?;
        let [http, admin] = free_ports()?;
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("bootstrap.yaml");
        std::fs::write(&file, bootstrap(http, admin, management.port))?;
        let mut proxy = Peer::Outrigger.launch(program, cores, &file, directory.path())?;
        proxy.listening(http).await?;
        management.first().await?;
        Ok(Self { management, proxy, http, admin, mesh, _directory: directory })
    }

    async fn push(&mut self, change: impl FnOnce(&mut Mesh)) -> anyhow::Result<Duration> {
        change(&mut self.mesh);
        self.management.push(&self.mesh.view()).await
    }
}

pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let cores = Cores::find()?;
    if let Some(core) = cores.of(Place::Load) {
        let own = ["-a", "-c", "-p", &core.to_string(), &std::process::id().to_string()];
        let pinned = tokio::process::Command::new("taskset").args(own).output().await.context("taskset")?;
        if !pinned.status.success() {
            bail!("taskset: {}", String::from_utf8_lossy(&pinned.stderr));
        }
    }
    let program = Peer::Outrigger.program().await?;
    let wants = |part| options.only.is_none_or(|only| only == part);
    if wants(Part::Memory) {
        memory(options, &program, cores).await.context("memory")?;
    }
    if wants(Part::Push) {
        push(options, &program, cores).await.context("push")?;
    }
    Ok(())
}

async fn memory(options: &Options, program: &Path, cores: Cores) -> anyhow::Result<()> {
    let (clusters, pushes, rest) = if options.smoke { (50, 3, 0) } else { (2000, 100, 5) };
    let rest = Duration::from_secs(rest);
    let target = upstream('a').await?;
    let mesh = Mesh { clusters, endpoints: 10, target, change: 0, inline: false, label: 0 };
    let mut scene = Scene::start(program, cores, mesh).await?;
    let mut rows = Vec::new();
    let mut row = |state: String, memory: Memory| {
        let mebibytes = |kb: u64| format!("{:.1}", kb as f64 / 1024.0);
        rows.push(vec![state, mebibytes(memory.rss_kb), mebibytes(memory.peak_kb)]);
    };
    sleep(rest).await;
    row(format!("{clusters} clusters × 10 endpoints, {clusters} routes"), scene.proxy.memory()?);
    for _ in 0..pushes {
        scene.push(|mesh| mesh.change += 1).await?;
    }
    sleep(rest).await;
    row(format!("… after {pushes} pushes that change all of it"), scene.proxy.memory()?);
    println!("{}", table(&["by delta xDS", "RSS MiB", "peak MiB"], &rows));
    scene.proxy.stop().await
}

/// The one worker.
const WORKER: &str = "worker:0";

/// What one push did.
struct Effect {
    /// Until the server knows that it was taken.
    accepted: Duration,
    /// Milliseconds of CPU.
    control: f64,
    worker: f64,
    /// Milliseconds that the worker was ready to run and did not: another thread had its core.
    waited: f64,
    p99: Duration,
    p99_before: Duration,
    /// In the seconds after it was taken, in which what it replaced is freed and given back.
    p99_after: Duration,
    /// Of requests that did not go through the proxy.
    p99_direct: Duration,
    /// The slowest answer of `/ready`.
    ready: Duration,
    /// How much of the time before the push the worker ran, and how much the bench did.
    busy: f64,
    own: f64,
}

async fn push(options: &Options, program: &Path, cores: Cores) -> anyhow::Result<()> {
    let (clusters, rate, pause) = if options.smoke { (50, 100, 100) } else { (10_000, options.rate, 2000) };
    let pause = Duration::from_millis(pause);
    let targets = [('a', upstream('a').await?), ('b', upstream('b').await?)];
    let mesh = Mesh { clusters: 0, endpoints: 5, target: targets[0].1, change: 0, inline: false, label: 0 };
    let mut scene = Scene::start(program, cores, mesh).await?;
    until_answers(scene.http, 'a', Instant::now()).await?;
    match (cores.of(Place::Proxy), cores.of(Place::Load)) {
        (Some(proxy), Some(load)) => println!(
            "The proxy, all its threads, on core {proxy}; load ({rate} requests a second), upstreams and management server \
             (nice 10) on core {load}. A push is encoded before its time runs.\n"
        ),
        _ => println!("One core for everything: what the proxy does cannot be told from what load and server do.\n"),
    }

    let mut pushes = vec![("the same again", vec![]), ("all changed", vec![])];
    let mut first = Vec::new();
    first.push(effect(&mut scene, rate, pause, |mesh| mesh.clusters = clusters).await?);
    for _ in 0..options.rounds {
        pushes[0].1.push(effect(&mut scene, rate, pause, |mesh| mesh.label += 1).await?);
        pushes[1].1.push(effect(&mut scene, rate, pause, |mesh| mesh.change += 1).await?);
    }
    pushes.insert(0, ("new", first));
    let rows: Vec<Vec<String>> = pushes
        .iter()
        .map(|(what, effects)| {
            let ms = |of: fn(&Effect) -> f64, decimals| cell(effects.iter().map(of), decimals);
            vec![
                format!("{clusters} clusters × 5, {what}"),
                ms(|effect| effect.control, 0),
                ms(|effect| effect.worker, 0),
                ms(|effect| effect.waited, 0),
                ms(|effect| effect.accepted.as_secs_f64() * 1e3, 0),
                ms(|effect| effect.p99_before.as_secs_f64() * 1e3, 1),
                ms(|effect| effect.p99.as_secs_f64() * 1e3, 1),
                ms(|effect| effect.p99_after.as_secs_f64() * 1e3, 1),
                ms(|effect| effect.p99_direct.as_secs_f64() * 1e3, 1),
                ms(|effect| effect.ready.as_secs_f64() * 1e3, 1),
            ]
        })
        .collect();
    let head = [
        "push, ms",
        "CPU off the worker",
        "CPU of the worker",
        "worker waited",
        "until acknowledged",
        "p99 before",
        "p99 meanwhile",
        "p99 after",
        "past the proxy",
        "slowest /ready",
    ];
    println!("{}", table(&head, &rows));
    let effects = || pushes.iter().flat_map(|(_, effects)| effects);
    let mean = |of: fn(&Effect) -> f64| effects().map(of).sum::<f64>() / effects().count() as f64;
    let (busy, own) = (mean(|effect| effect.busy), mean(|effect| effect.own));
    println!(
        "Load: {rate} requests a second take {:.0} % of the worker's core. Half of it would be {:.0} a second; load and \
         upstreams, which take {:.0} % of theirs now, could make {:.0}.\n",
        busy * 100.0,
        f64::from(rate) / busy / 2.0,
        own * 100.0,
        f64::from(rate) / own
    );

    let load = Load::start(scene.http, targets[0].1, rate);
    let mut moves = Moves::new(&mut scene, targets);
    for _ in 0..if options.smoke { 4 } else { 40 } {
        moves.next().await?;
    }
    println!("A changed endpoint is picked after {} ms.", moves.picked());
    for (inline, of) in [(false, "by EDS, which come with them,"), (true, "in themselves")] {
        moves.scene.mesh.inline = inline;
        for _ in 0..options.rounds {
            moves.while_clusters_change().await?;
        }
        println!("… while {clusters} changed clusters with endpoints {of} are applied: after {} ms.", moves.picked());
    }
    load.stop().await?;
    scene.proxy.stop().await
}

/// The endpoint that traffic uses, moved again and again.
struct Moves<'a> {
    scene: &'a mut Scene,
    targets: [(char, u16); 2],
    view: Arc<View>,
    /// Milliseconds.
    picked: Vec<f64>,
}

impl<'a> Moves<'a> {
    fn new(scene: &'a mut Scene, targets: [(char, u16); 2]) -> Self {
        let view = scene.mesh.view();
        Self { scene, targets, view, picked: Vec::new() }
    }

    /// Moves it, and waits until requests go to where it is.
    async fn next(&mut self) -> anyhow::Result<()> {
        self.targets.reverse();
        let [(letter, target), _] = self.targets;
        self.scene.mesh.target = target;
        let view = self.scene.mesh.moved(&self.view);
        let told = Instant::now();
        self.scene.management.tell(&view);
        self.picked.push(until_answers(self.scene.http, letter, told).await?.as_secs_f64() * 1e3);
        // To free the one before takes time too.
        self.view = view;
        Ok(())
    }

    /// Moves it from the moment when changed clusters are sent until they are acknowledged.
    async fn while_clusters_change(&mut self) -> anyhow::Result<()> {
        self.scene.mesh.change += 1;
        self.view = self.scene.mesh.view();
        let accepted = self.scene.management.accepted();
        self.scene.management.tell(&self.view);
        // A few are acknowledged before anybody looks.
        while !self.scene.management.awaits_clusters() && self.scene.management.accepted() == accepted {
            sleep(Duration::from_millis(1)).await;
        }
        while self.scene.management.awaits_clusters() {
            self.next().await?;
        }
        self.scene.management.quiet().await
    }

    /// What was measured since this was asked for last.
    fn picked(&mut self) -> String {
        cell(std::mem::take(&mut self.picked), 1)
    }
}

/// Pushes under load, with a pause before it to compare with.
async fn effect(
    scene: &mut Scene,
    rate: u32,
    pause: Duration,
    change: impl FnOnce(&mut Mesh),
) -> anyhow::Result<Effect> {
    let target = scene.mesh.target;
    change(&mut scene.mesh);
    let view = scene.mesh.view();
    let load = Load::start(scene.http, target, rate);
    sleep(pause / 4).await;
    let began = Instant::now();
    let (own, worker) = (Cpu::own()?, scene.proxy.thread_times(WORKER)?);
    sleep(pause).await;
    let pushed = Instant::now();
    let (own, before) = (Cpu::own()?.since(own), worker);
    let (cpu, worker) = (scene.proxy.cpu()?, scene.proxy.thread_times(WORKER)?);
    let share = |used_us: u64| used_us as f64 / 1e6 / (pushed - began).as_secs_f64();
    let (busy, own) = (share(worker.cpu_us - before.cpu_us), share(own.user_us + own.system_us));
    let mut slowest = Duration::ZERO;
    let accepted = {
        let push = scene.management.push(&view);
        tokio::pin!(push);
        loop {
            let asked = Instant::now();
            // The push goes on while the admin interface answers, and is looked at between two questions.
            tokio::select! {
                biased;
                ready = get(scene.admin, "/ready") => {
                    ready?;
                    slowest = slowest.max(asked.elapsed());
                }
                accepted = &mut push => break accepted?,
            }
            tokio::select! {
                accepted = &mut push => break accepted?,
                () = sleep(Duration::from_millis(5)) => {}
            }
        }
    };
    let ended = pushed + accepted;
    // What is given back after the acknowledgement, two seconds after it, counts too.
    sleep(pause * 3 / 2).await;
    let over = Instant::now();
    let used = scene.proxy.cpu()?.since(cpu);
    let used = used.user_us + used.system_us;
    let now = scene.proxy.thread_times(WORKER)?;
    let (worker, waited) = (now.cpu_us - worker.cpu_us, now.waited_us - worker.waited_us);
    let samples = load.stop().await?;
    Ok(Effect {
        accepted,
        control: used.saturating_sub(worker) as f64 / 1e3,
        worker: worker as f64 / 1e3,
        waited: waited as f64 / 1e3,
        p99: quantile(&samples.proxied, pushed, ended, 0.99),
        p99_before: quantile(&samples.proxied, began, pushed, 0.99),
        p99_after: quantile(&samples.proxied, ended, over, 0.99),
        p99_direct: quantile(&samples.direct, pushed, ended, 0.99),
        ready: slowest,
        busy,
        own,
    })
}
