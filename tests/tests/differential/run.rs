//! Runs scenarios on one side: all of them in one process where that works, in smaller groups where the process refuses
//! the configuration or dies, so that one bad scenario costs only itself.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use outrigger_tests::admin;
use outrigger_tests::ports::Reserved;
use outrigger_tests::upstream::{Record, Serving};

use crate::observation::{Observation, Seen, parse_stats};
use crate::scenario::{Placement, Scenario};
use crate::side::{Side, admin_socket, bootstrap};

/// How many scenarios run at once. They mostly wait.
const AT_ONCE: usize = 64;
/// After so long without an event at the upstreams, what they saw is complete.
const QUIET: Duration = Duration::from_millis(250);

/// Observations by the name of the scenario.
pub(crate) type Observations = BTreeMap<String, Observation>;

/// Runs `scenarios` on `side`.
pub(crate) fn run(side: &Side, scenarios: &[Scenario]) -> Observations {
    let (single, shared): (Vec<&Scenario>, Vec<&Scenario>) = scenarios.iter().partition(|s| s.alone || s.validated);
    let began = Instant::now();
    let mut observations = group(side, &shared);
    let after_group = began.elapsed();
    let each: Vec<Observations> =
        parallel(
            &single,
            4,
            |scenario| {
                if scenario.validated { validated(side, scenario) } else { group(side, &[*scenario]) }
            },
        );
    observations.extend(each.into_iter().flatten());
    if std::env::var_os("SLOW").is_some() {
        crate::report::say(&format!("run: {after_group:?} for the shared, {:?} for all", began.elapsed()));
    }
    observations
}

/// Applies `work` to all items, at most `at_once` at a time; the results stand in the order of the items.
fn parallel<I: Sync, T: Send>(items: &[I], at_once: usize, work: impl Fn(&I) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<T>>> = Mutex::new(items.iter().map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..at_once.min(items.len()) {
            scope.spawn(|| {
                while let Some((index, item)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    items.get(index).map(|item| (index, item))
                } {
                    let result = work(item);
                    results.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(result);
                }
            });
        }
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect()
}

/// One scenario with its upstreams running.
struct Stage<'a> {
    scenario: &'a Scenario,
    at: Placement,
    record: Arc<Record>,
    _serving: Vec<Serving>,
    _listener: Reserved,
}

impl<'a> Stage<'a> {
    fn new(scenario: &'a Scenario, directory: &std::path::Path) -> Self {
        let record = Arc::new(Record::default());
        let serving: Vec<Serving> = scenario
            .upstreams
            .iter()
            .map(|(name, upstream)| Serving::start(name, upstream, &record).expect("a free port"))
            .collect();
        let listener = Reserved::new().expect("a free port");
        let at = Placement {
            listener: listener.port(),
            upstreams: serving.iter().map(|serving| serving.ports().to_vec()).collect(),
            access_log: directory.join(format!("{}.log", scenario.name)).display().to_string(),
        };
        Self { scenario, at, record, _serving: serving, _listener: listener }
    }

    fn play(&self) -> Seen {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.at.listener));
        let began = Instant::now();
        let answered = self.scenario.client.play(address, &self.record);
        if std::env::var_os("SLOW").is_some() && began.elapsed() > Duration::from_secs(4) {
            crate::report::say(&format!("{} took {:?}", self.scenario.name, began.elapsed()));
        }
        let received = self.record.settle(QUIET);
        Seen { answered, received }
    }
}

fn group(side: &Side, scenarios: &[&Scenario]) -> Observations {
    if scenarios.is_empty() {
        return Observations::new();
    }
    let directory = tempfile::tempdir().expect("a directory");
    let stages: Vec<Stage<'_>> = scenarios.iter().map(|scenario| Stage::new(scenario, directory.path())).collect();
    let pairs: Vec<_> = stages.iter().map(|stage| (stage.scenario, &stage.at)).collect();
    let mut process = match side.start(directory.path(), &bootstrap(directory.path(), &pairs)) {
        Ok(process) => process,
        Err(_) if scenarios.len() > 1 => {
            drop(stages);
            let (accepted, mut observations) = sort_out(side, scenarios);
            if accepted.len() == scenarios.len() {
                // Each half starts, both together do not.
                let (left, right) = scenarios.split_at(scenarios.len() / 2);
                observations.extend(group(side, left));
                observations.extend(group(side, right));
            } else {
                observations.extend(group(side, &accepted));
            }
            return observations;
        }
        Err(why) => {
            return [(scenarios[0].name.clone(), refusal(&why))].into();
        }
    };
    let began = Instant::now();
    let mut seen = parallel(&stages, AT_ONCE, |stage| {
        let mut seen = stage.play();
        // The last one first: what waits for another one goes before it, and does not take its place for a moment.
        seen.answered.iter_mut().rev().for_each(outrigger_tests::client::Answered::close);
        // The proxy is to hear of one end before the other: which came first decides what it counts.
        stage.record.settle(QUIET / 2);
        stage.record.stop();
        seen
    });
    let played = began.elapsed();
    let stats = settled_stats(directory.path());
    let settled = began.elapsed();
    process.terminate();
    let ended = process.wait(Duration::from_secs(20));
    if std::env::var_os("SLOW").is_some() {
        crate::report::say(&format!(
            "group {}: played {played:?} settled {settled:?} ended {:?}",
            stages.len(),
            began.elapsed()
        ));
    }
    if !ended.is_some_and(|status| status.success()) {
        if scenarios.len() > 1 {
            drop(stages);
            return parallel(scenarios, 4, |scenario| group(side, &[*scenario])).into_iter().flatten().collect();
        }
        seen.clear();
        let line = format!("the proxy ended with {ended:?}: {}", process.output());
        return [(scenarios[0].name.clone(), Observation::line(&line))].into();
    }
    let stats = parse_stats(&stats);
    stages
        .iter()
        .zip(&seen)
        .map(|(stage, seen)| {
            let log = std::fs::read_to_string(&stage.at.access_log).unwrap_or_default();
            (stage.scenario.name.clone(), Observation::new(stage.scenario, &stage.at, seen, &stats, &log))
        })
        .collect()
}

/// Which of these the side starts with, and what it says of the others. Each is tried alone.
fn sort_out<'a>(side: &Side, scenarios: &[&'a Scenario]) -> (Vec<&'a Scenario>, Observations) {
    let tried = parallel(scenarios, 4, |scenario| {
        let directory = tempfile::tempdir().expect("a directory");
        let stage = Stage::new(scenario, directory.path());
        side.start(directory.path(), &bootstrap(directory.path(), &[(scenario, &stage.at)])).map(drop)
    });
    let mut accepted = Vec::new();
    let mut refused = Observations::new();
    for (scenario, result) in scenarios.iter().zip(tried) {
        match result {
            Ok(()) => accepted.push(*scenario),
            Err(why) => _ = refused.insert(scenario.name.clone(), refusal(&why)),
        }
    }
    (accepted, refused)
}

/// The observation of a configuration that should have been served. The reason is the program's own.
fn refusal(why: &str) -> Observation {
    let last = why.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    Observation::line(&format!("the proxy did not start: {last}"))
}

/// The statistics once no connection is left, or after 3 seconds.
fn settled_stats(directory: &std::path::Path) -> String {
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        let stats =
            admin::request(&admin_socket(directory), "GET", "/stats").map_or_else(String::new, |(_, body)| body);
        let active = parse_stats(&stats)
            .iter()
            .any(|(name, value)| *value > 0 && name.ends_with("_cx_active") && !name.contains("admin"));
        if !active || Instant::now() > deadline {
            return stats;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Is the configuration accepted, by `--mode validate` and by a start in earnest?
fn validated(side: &Side, scenario: &Scenario) -> Observations {
    let directory = tempfile::tempdir().expect("a directory");
    let stage = Stage::new(scenario, directory.path());
    let bootstrap = bootstrap(directory.path(), &[(scenario, &stage.at)]);
    let validated = side.validates(directory.path(), &bootstrap);
    let started = side.start(directory.path(), &bootstrap).is_ok();
    let word = |accepted| if accepted { "accepted" } else { "refused" };
    let mut observation = Observation::line(&format!("--mode validate: {}", word(validated)));
    observation.lines.push(format!("start: {}", word(started)));
    [(scenario.name.clone(), observation)].into()
}
