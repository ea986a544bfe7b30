//! What is shown, in which order, and what of it has to hold.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use crate::Cli;
use crate::client::Client;
use crate::directory;
use crate::measure::{Measures, Period};
use crate::mesh::{CONTROL, Mesh, PATIENCE};
use crate::screen::Screen;
use crate::traffic::{self, Traffic};

const SHOP: &str = include_str!("../shop.yaml");
const CANARY_10: &str = include_str!("../canary-10.yaml");
const CANARY_50: &str = include_str!("../canary-50.yaml");
const CANARY_100: &str = include_str!("../canary-100.yaml");
const LIMITS: &str = include_str!("../limits.yaml");

/// How long there is something to watch where nothing is said.
const USUAL: Duration = Duration::from_secs(60);
/// The shares of the steps of it: see [`Show::script`].
const SHARES: f64 = 8.6;
/// How often the table is drawn.
const REDRAW: Duration = Duration::from_millis(500);
/// So many requests say where traffic goes.
const ENOUGH: u64 = 40;
/// So many tell a quarter from a half: chance alone does that less than once in 100,000 times.
const ENOUGH_FOR_A_SHARE: u64 = 300;
/// From so many requests a second on they pile up at an instance that takes 200 ms.
const PILING_RATE: u32 = 50;
/// Far more than the limit in `limits.yaml`.
const BURST: u32 = 60;

/// Runs the demo.
pub(crate) fn run(cli: Cli) -> ExitCode {
    // One thread: children die with the thread that started them.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    LocalSet::new().block_on(&runtime, demo(cli)).unwrap_or_else(|reason| {
        eprintln!("{reason}");
        ExitCode::FAILURE
    })
}

/// Ends with 1 if something was not as it should, and as a signal ends others if one came before the script was over.
async fn demo(cli: Cli) -> Result<ExitCode, String> {
    let Cli { duration, stay, rate, sidecar } = cli;
    let stopped = stopped()?;
    let directory = directory::Directory::new().map_err(|error| format!("no directory for the mesh: {error}"))?;
    let client = Client::new();
    let mesh = Mesh::new(directory.path(), client.clone(), sidecar)?;
    let mut show = Show {
        mesh,
        client,
        screen: Screen::new(),
        measures: Rc::default(),
        traffic: None,
        rate,
        unit: duration.unwrap_or(USUAL).div_f64(SHARES),
        watched: Duration::ZERO,
        drawn: Instant::now(),
        title: String::new(),
        steps: 0,
        step_began: Instant::now(),
        began: Instant::now(),
        is_over: false,
        wrong: Vec::new(),
    };
    let result = tokio::select! {
        result = show.all(duration.is_some() && !stay) => result.map(|()| None),
        signal = stopped => Ok(Some(signal)),
    };
    if let Some(traffic) = show.traffic.take() {
        traffic.stop().await;
    }
    show.mesh.family.end().await;
    let signal = result?.filter(|_| !show.is_over);
    Ok(match (show.summary(), signal) {
        (false, _) => ExitCode::FAILURE,
        (true, None) => ExitCode::SUCCESS,
        (true, Some(signal)) => ExitCode::from(128 + signal),
    })
}

/// Waits for Ctrl-C or SIGTERM, of which none is lost from the call on: the number of the signal.
fn stopped() -> Result<impl Future<Output = u8>, String> {
    let on = |kind| signal(kind).map_err(|error| format!("no signals: {error}"));
    let (mut interrupt, mut terminate) = (on(SignalKind::interrupt())?, on(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => 2,
            _ = terminate.recv() => 15,
        }
    })
}

struct Show {
    mesh: Mesh,
    client: Client,
    screen: Screen,
    measures: Rc<RefCell<Measures>>,
    traffic: Option<Traffic>,
    /// Requests per second.
    rate: u32,
    /// The time of a step of share 1.
    unit: Duration,
    /// What of the time was there to watch.
    watched: Duration,
    drawn: Instant,
    title: String,
    steps: u32,
    step_began: Instant,
    began: Instant,
    /// Whether all steps were shown.
    is_over: bool,
    /// What should have held and did not.
    wrong: Vec<String>,
}

impl Show {
    async fn all(&mut self, ends: bool) -> Result<(), String> {
        self.start().await?;
        self.script().await?;
        self.is_over = true;
        if !ends {
            self.measures.borrow_mut().moment = Period::default();
            self.screen.say(
                "\nThe script is over; the mesh runs on, with half of the traffic to each version. Ctrl-C ends it.\n",
            );
            self.title = "running".to_owned();
            loop {
                let began = Instant::now();
                self.watch(1.0).await?;
                self.line(began.elapsed());
            }
        }
        Ok(())
    }

    async fn start(&mut self) -> Result<(), String> {
        self.screen.say(
            "Starting a control plane, and the shop: orders calls users and products, and products has two versions.",
        );
        let began = Instant::now();
        self.mesh.start_control().await?;
        self.apply("deploy/demo/shop.yaml", SHOP).await?;
        self.apply("deploy/demo/canary-10.yaml", CANARY_10).await?;
        let workloads = self.mesh.workloads();
        self.mesh.apply(&workloads).await?;
        self.screen.say("  $ outrigger apply -f -     # a Workload for each instance: its address, port and labels");
        self.mesh.start_instances().await?;
        let shop = self.mesh.shop()?;
        // The first request that succeeds says that every sidecar has its configuration.
        let deadline = Instant::now() + PATIENCE;
        while let Some(error) = traffic::order(&self.client, &format!("{shop}/orders/0")).await.error {
            self.mesh.family.check()?;
            if Instant::now() > deadline {
                return Err(format!("the shop does not answer: {error}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.screen.say(&format!(
            "{} processes after {:.1} s. Every instance has its own sidecar, and they speak only through these.\n",
            self.mesh.family.len(),
            began.elapsed().as_secs_f64()
        ));
        self.addresses(&shop)?;
        self.began = Instant::now();
        self.traffic = Some(Traffic::start(self.client.clone(), shop, self.rate, self.measures.clone()));
        Ok(())
    }

    fn addresses(&mut self, shop: &str) -> Result<(), String> {
        let program = program();
        let (api, pages) = (self.mesh.api, self.mesh.pages);
        let mut text = format!(
            "  the shop                     {shop}/orders/1\n  the control plane's API      {api} (gRPC)\n  \
             the control plane's pages    http://{pages}/metrics\n"
        );
        for instance in &self.mesh.instances {
            text += &format!("  {:<28} http://{}/clusters\n", format!("sidecar of {}", instance.name), instance.admin);
        }
        text += &format!(
            "\nTry in another terminal while it runs:\n  $ curl -s {shop}/orders/7\n  \
             $ {program} control proxies --server {api}\n  \
             $ {program} control get httproute products -o yaml --server {api}\n"
        );
        self.screen.say(&text);
        Ok(())
    }

    async fn script(&mut self) -> Result<(), String> {
        self.step(
            "A canary: 10 % of the requests go to version 2",
            "See: one in ten answers of products is from v2.\n\
             Why: the HTTPRoute weighs its backends 90 to 10, and the sidecar of orders chooses for each request.",
        );
        self.watch(1.0).await?;
        self.traffic_moved("v2", 0.0..0.3).await?;
        self.done();

        self.step(
            "The canary does well: half of the requests",
            "See: both versions get as much, and no request fails while it changes.\n\
             Why: one object is applied; the control plane compiles it and sends each sidecar only what changed.",
        );
        self.apply("deploy/demo/canary-50.yaml", CANARY_50).await?;
        self.traffic_moved("v2", 0.25..0.75).await?;
        self.watch(1.0).await?;
        self.done();

        self.step(
            "All requests to version 2",
            "See: v1 gets nothing more as soon as the sidecar of orders has the change; what it got until then is in the table.\n\
             Why: its weight is 0. It stays connected: going back is as quick.",
        );
        self.apply("deploy/demo/canary-100.yaml", CANARY_100).await?;
        self.traffic_moved("v2", 1.0..1.1).await?;
        self.watch(1.0).await?;
        self.done();

        self.failing().await?;
        self.slow().await?;
        self.breaker().await?;
        self.control().await
    }

    async fn failing(&mut self) -> Result<(), String> {
        self.step(
            "An instance fails: products-v2-1 answers 503 to everything",
            "See: customers notice nothing; p99 grows a little.\n\
             Why: the HTTPRoute lets the sidecar try a GET again that is answered 503, and it tries the other instance.",
        );
        let before = self.mesh.counter("orders-1", "upstream_rq_retry").await?;
        self.mesh.fault("products-v2-1", r#"{"status": 503}"#).await?;
        self.watch(1.2).await?;
        self.mesh.fault("products-v2-1", "{}").await?;
        let retries = self.mesh.counter("orders-1", "upstream_rq_retry").await?.saturating_sub(before);
        self.screen.say(&format!("  The sidecar of orders tried {retries} requests again."));
        self.expect(retries > 0, "no request was tried again while an instance failed");
        self.done();
        Ok(())
    }

    async fn slow(&mut self) -> Result<(), String> {
        self.step(
            "An instance is slow: products-v2-1 takes 200 ms",
            "See: most answers come from products-v2-2, and p50 stays low.\n\
             Why: of two instances the sidecar takes the one with fewer requests under way, and these pile up where it is slow.",
        );
        self.mesh.fault("products-v2-1", r#"{"delay": 200}"#).await?;
        // Two are drawn, and may be the same one: the slow one's share is a quarter, where it would be a half.
        if self.rate >= PILING_RATE {
            self.probe(ENOUGH_FOR_A_SHARE, |period| period.share_of("products-v2-1") < 0.375).await?;
        }
        self.watch(0.8).await?;
        self.mesh.fault("products-v2-1", "{}").await?;
        self.done();
        Ok(())
    }

    async fn breaker(&mut self) -> Result<(), String> {
        self.step(
            "A circuit breaker: at most 8 requests at a time, and a burst of 60",
            "See: what is too much is turned away at once, and the others are as quick as ever.\n\
             Why: the ServicePolicy limits what is under way. Rather some customers hear no than all wait.",
        );
        self.measures.borrow_mut().limited = true;
        for name in ["products-v2-1", "products-v2-2"] {
            self.mesh.fault(name, r#"{"delay": 20}"#).await?;
        }
        self.apply("deploy/demo/limits.yaml", LIMITS).await?;
        let shop = self.mesh.shop()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (ok, turned_away) = traffic::burst(&self.client, &shop, BURST, &self.measures).await;
            if turned_away > 0 {
                self.screen
                    .say(&format!("  Of {BURST} requests at once {ok} were answered and {turned_away} turned away."));
                break;
            }
            if Instant::now() > deadline {
                self.expect(false, "the limit turned no request away");
                break;
            }
        }
        let opened = self.mesh.counter("orders-1", "upstream_rq_active_overflow").await?;
        self.screen.say(&format!("  The sidecar of orders counts {opened} by now, in upstream_rq_active_overflow."));
        self.watch(1.0).await?;
        for name in ["products-v2-1", "products-v2-2"] {
            self.mesh.fault(name, "{}").await?;
        }
        self.command(&["delete", "servicepolicy", "products-limits"]).await?;
        // When a burst goes through, the limit is gone; then nothing is to be turned away any more.
        let deadline = Instant::now() + PATIENCE;
        while traffic::burst(&self.client, &shop, BURST, &self.measures).await.1 > 0 {
            if Instant::now() > deadline {
                self.expect(false, "the limit is in force after it was deleted");
                break;
            }
        }
        self.probe(ENOUGH, |period| period.shed == 0).await?;
        self.measures.borrow_mut().limited = false;
        self.done();
        Ok(())
    }

    async fn control(&mut self) -> Result<(), String> {
        self.step(
            "The control plane is killed: kill -9",
            "See: nothing. Then it comes back, and a change arrives as before.\n\
             Why: it is not in the path of requests; sidecars keep what they have, and its data was on the disk before it said so.",
        );
        self.mesh.family.kill(CONTROL).await;
        self.watch(1.4).await?;
        self.mesh.start_control().await?;
        self.screen.say("  It is back, with everything that was applied.");
        self.apply("deploy/demo/canary-50.yaml", CANARY_50).await?;
        self.traffic_moved("v2", 0.25..0.75).await?;
        self.watch(1.2).await?;
        self.done();
        Ok(())
    }

    fn step(&mut self, title: &str, text: &str) {
        self.steps += 1;
        self.title = format!("{}. {title}", self.steps);
        self.screen.say(&format!("{}\n{}", self.title, indented(text)));
        self.measures.borrow_mut().step = Period::default();
        self.step_began = Instant::now();
    }

    /// Shows what a step was.
    fn done(&mut self) {
        let step = std::mem::take(&mut self.measures.borrow_mut().step);
        let mut text = step.table(self.step_began.elapsed()).join("\n");
        text += &format!("\n  {}\n", verdict(&step));
        self.screen.say(&text);
    }

    async fn apply(&mut self, file: &str, yaml: &str) -> Result<(), String> {
        self.screen.say(&format!("  $ outrigger apply -f {file}"));
        self.mesh.apply(yaml).await.map_err(|error| format!("{file}: {error}"))
    }

    async fn command(&mut self, arguments: &[&str]) -> Result<(), String> {
        self.screen.say(&format!("  $ outrigger {}", arguments.join(" ")));
        self.mesh.command(arguments, "").await.map(drop)
    }

    /// Lets traffic flow for so many units, and shows it.
    async fn watch(&mut self, units: f64) -> Result<(), String> {
        let end = Instant::now() + self.unit.mul_f64(units);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let nap = left.min(REDRAW);
            tokio::time::sleep(nap).await;
            self.watched += nap;
            self.draw();
            self.mesh.family.check()?;
        }
    }

    fn draw(&mut self) {
        let elapsed = self.drawn.elapsed();
        if elapsed < REDRAW || !self.screen.is_live() {
            return;
        }
        self.drawn = Instant::now();
        let moment = std::mem::take(&mut self.measures.borrow_mut().moment);
        let mut lines = vec![format!("  -- now: {} --", self.title)];
        lines.extend(moment.table(elapsed));
        self.screen.draw(&lines);
    }

    /// Without a terminal there is no table: a line says how it goes.
    fn line(&mut self, period: Duration) {
        if !self.screen.is_live() {
            let moment = std::mem::take(&mut self.measures.borrow_mut().moment);
            self.screen.say(&format!("  {:.0} s more: {}", period.as_secs_f64(), verdict(&moment)));
        }
    }

    /// Waits until the share of a version is in a range.
    async fn traffic_moved(&mut self, version: &str, range: std::ops::Range<f64>) -> Result<(), String> {
        let name = version.to_owned();
        self.probe(ENOUGH, move |period| range.contains(&period.share(&name))).await
    }

    /// Looks at so many requests again and again, until they are as they should be.
    async fn probe(&mut self, enough: u64, right: impl Fn(&Period) -> bool) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.measures.borrow_mut().probe = Period::default();
            while self.measures.borrow().probe.requests() < enough {
                tokio::time::sleep(Duration::from_millis(20)).await;
                self.draw();
                self.mesh.family.check()?;
            }
            if right(&self.measures.borrow().probe) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let title = self.title.clone();
                self.expect(false, &format!("{title}: not within {PATIENCE:?}"));
                return Ok(());
            }
        }
    }

    fn expect(&mut self, holds: bool, otherwise: &str) {
        if !holds {
            self.wrong.push(otherwise.to_owned());
        }
    }

    /// Shows what it all was; whether it was as it should.
    fn summary(&mut self) -> bool {
        let measures = self.measures.borrow();
        let all = &measures.all;
        let mut text = format!(
            "In all, {:.0} s, {:.0} of them to watch and the rest until what was changed showed:\n{}",
            self.began.elapsed().as_secs_f64(),
            self.watched.as_secs_f64(),
            all.table(self.began.elapsed()).join("\n")
        );
        text += &format!("\n  {}", verdict(all));
        for wrong in &self.wrong {
            text += &format!("\n  Wrong: {wrong}");
        }
        if let Some(failure) = &all.first_failure {
            text += &format!("\n  The first that failed: {failure}");
        }
        let right = all.failed == 0 && self.wrong.is_empty();
        drop(measures);
        self.screen.say(&text);
        right
    }
}

/// What became of the requests of a period.
fn verdict(period: &Period) -> String {
    let mut text = format!("{} requests, {} failed", period.requests(), period.failed);
    if period.shed > 0 {
        text += &format!(", {} turned away by the limit", period.shed);
    }
    text
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

/// This program, as a shell calls it from any directory: by its name where that finds it, else by its whole path.
fn program() -> String {
    let Ok(program) = std::env::current_exe() else { return "outrigger-demo".to_owned() };
    let path = std::env::var_os("PATH").unwrap_or_default();
    called(&program, &path)
}

fn called(program: &Path, path: &OsStr) -> String {
    let name = program.file_name().unwrap_or_default();
    let first = std::env::split_paths(path).map(|directory| directory.join(name)).find(|file| file.is_file());
    let is_found = first.and_then(|file| file.canonicalize().ok()).is_some_and(|file| file == program);
    let text = if is_found { name.to_string_lossy() } else { program.to_string_lossy() };
    let is_plain = |character: char| character.is_alphanumeric() || "/._-+".contains(character);
    if text.chars().all(is_plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_work_from_any_directory() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().canonicalize().unwrap();
        let (bin, other) = (home.join("bin"), home.join("it's other"));
        for directory in [&bin, &other] {
            std::fs::create_dir(directory).unwrap();
            std::fs::write(directory.join("demo"), "").unwrap();
        }
        let program = bin.join("demo");
        let path = |directories: &[&Path]| std::env::join_paths(directories).unwrap();
        assert_eq!(called(&program, &path(&[&home, &bin, &other])), "demo");
        // Nowhere, or another comes first.
        assert_eq!(called(&program, OsStr::new("")), program.display().to_string());
        assert_eq!(called(&program, &path(&[&other, &bin])), program.display().to_string());
        // A shell reads it as one word.
        let quoted = called(&other.join("demo"), OsStr::new(""));
        let output = std::process::Command::new("sh").args(["-c", &format!("printf %s {quoted}")]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), other.join("demo").display().to_string());
    }
}
