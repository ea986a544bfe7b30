//! The process's own log, in Envoy's line format and with Envoy's component names, so that `-l`,
//! `--component-log-level` and `/logging` do what operators expect.
//!
//! A call site asks once whether it is on; the answer is kept by `tracing` until a level changes. So a silent `debug!`
//! on the request path costs one load. Secrets are never arguments of a log call.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span;
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};

/// A level, as Envoy names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything.
    Trace,
    /// What helps to find a fault.
    Debug,
    /// What an operator wants to know.
    Info,
    /// What an operator should look at.
    Warning,
    /// What went wrong.
    Error,
    /// Nothing of ours is; accepted for Envoy's sake.
    Critical,
    /// Nothing.
    Off,
}

impl Level {
    const ALL: [Level; 7] =
        [Level::Trace, Level::Debug, Level::Info, Level::Warning, Level::Error, Level::Critical, Level::Off];

    /// `warning`
    pub fn name(self) -> &'static str {
        match self {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
            Level::Critical => "critical",
            Level::Off => "off",
        }
    }

    fn filter(self) -> LevelFilter {
        match self {
            Level::Trace => LevelFilter::TRACE,
            Level::Debug => LevelFilter::DEBUG,
            Level::Info => LevelFilter::INFO,
            Level::Warning => LevelFilter::WARN,
            Level::Error => LevelFilter::ERROR,
            Level::Critical | Level::Off => LevelFilter::OFF,
        }
    }
}

impl FromStr for Level {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        let wanted = if text == "warn" { "warning" } else { text };
        let found = Level::ALL.into_iter().find(|level| level.name() == wanted);
        found.ok_or_else(|| LogError::Level(text.to_owned()))
    }
}

/// What can be wrong with a wish about the log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// No such level.
    #[error("unknown logger level: {0:?}")]
    Level(String),
    /// No such component.
    #[error("unknown logger name: {0:?}")]
    Component(String),
    /// Not of the form `name:level,name:level`.
    #[error("empty logger name or empty logger level")]
    Form,
    /// The log file cannot be opened.
    #[error("cannot open the log {0:?}: {1}")]
    Open(PathBuf, io::Error),
}

/// Component and module paths that belong to it; the longest path that begins a target decides. A target may also be a
/// component's name itself.
const COMPONENTS: &[(&str, &[&str])] = &[
    ("admin", &["outrigger_proxy::admin"]),
    (
        "config",
        &["outrigger_proxy::xds", "outrigger_engine::config", "outrigger_engine::source", "outrigger_engine::xds"],
    ),
    ("conn_handler", &["outrigger_proxy::listener"]),
    ("connection", &["outrigger_proxy::io", "outrigger_proxy::tls", "rustls", "tokio_rustls"]),
    ("dns", &["outrigger_proxy::cluster::dns", "hickory_resolver", "hickory_proto", "hickory_net"]),
    ("file", &["outrigger_proxy::telemetry::access_log"]),
    ("filter", &["outrigger_proxy::tcp"]),
    ("grpc", &["tonic", "outrigger_proxy::grpc"]),
    ("health_checker", &["outrigger_proxy::cluster::health"]),
    ("http", &["outrigger_proxy::http"]),
    ("http2", &["outrigger_proxy::http::codec::h2", "h2"]),
    ("main", &["outrigger_proxy"]),
    ("misc", &[]),
    ("pool", &["outrigger_proxy::cluster::pool"]),
    ("router", &["outrigger_proxy::http::router", "outrigger_engine::route"]),
    ("runtime", &["outrigger_proxy::runtime"]),
    ("stats", &["outrigger_proxy::telemetry::stats"]),
    ("upstream", &["outrigger_proxy::cluster", "outrigger_engine::balance", "outrigger_engine::resilience"]),
];
const MISC: usize = 12;

/// Each component's level.
static LEVELS: [AtomicU8; COMPONENTS.len()] = [const { AtomicU8::new(Level::Info as u8) }; COMPONENTS.len()];

/// Which component a target belongs to.
fn component(target: &str) -> usize {
    let mut best = (MISC, 0);
    for (index, (name, paths)) in COMPONENTS.iter().enumerate() {
        if *name == target {
            return index;
        }
        for path in *paths {
            let rest = target.strip_prefix(path);
            if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::")) && path.len() > best.1 {
                best = (index, path.len());
            }
        }
    }
    best.0
}

fn level_of(component: usize) -> Level {
    let level = LEVELS.get(component).map_or(Level::Info as u8, |level| level.load(Ordering::Relaxed));
    Level::ALL.get(usize::from(level)).copied().unwrap_or(Level::Info)
}

/// Every component with its level, by name.
pub fn levels() -> Vec<(&'static str, Level)> {
    COMPONENTS.iter().enumerate().map(|(index, (name, _))| (*name, level_of(index))).collect()
}

/// Sets the level of every component.
pub fn set_all(level: Level) {
    LEVELS.iter().for_each(|slot| slot.store(level as u8, Ordering::Relaxed));
    tracing::callsite::rebuild_interest_cache();
}

/// Sets the levels of some components; on an error none is set.
pub fn set(levels: &[(&str, Level)]) -> Result<(), LogError> {
    let known = |name: &str| COMPONENTS.iter().position(|(known, _)| *known == name);
    let slots = levels
        .iter()
        .map(|&(name, level)| Ok((known(name).ok_or_else(|| LogError::Component(name.to_owned()))?, level)))
        .collect::<Result<Vec<_>, LogError>>()?;
    for (index, level) in slots {
        if let Some(slot) = LEVELS.get(index) {
            slot.store(level as u8, Ordering::Relaxed);
        }
    }
    tracing::callsite::rebuild_interest_cache();
    Ok(())
}

/// Reads `name:level,name:level`, as `--component-log-level` and `/logging?paths=` have it.
pub fn parse_components(text: &str) -> Result<Vec<(&str, Level)>, LogError> {
    let pairs = text.split(',').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| match pair.rsplit_once(':') {
            Some((name, level)) if !name.is_empty() && !level.is_empty() => Ok((name, level.parse()?)),
            _ => Err(LogError::Form),
        })
        .collect()
}

/// Where lines go.
enum Output {
    Stderr,
    File(PathBuf, File),
}

static OUTPUT: OnceLock<Mutex<Output>> = OnceLock::new();

fn open(path: &Path) -> Result<File, LogError> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map_err(|error| LogError::Open(path.to_owned(), error))
}

/// Starts logging: `level` (`-l`) for all, `components` (`--component-log-level`) for some, to `path` (`--log-path`) or
/// standard error. A second call changes the levels only.
pub fn init(level: Level, components: &str, path: Option<&Path>) -> Result<(), LogError> {
    let components = parse_components(components)?;
    let output = match path {
        Some(path) => Output::File(path.to_owned(), open(path)?),
        None => Output::Stderr,
    };
    set_all(level);
    set(&components)?;
    if OUTPUT.set(Mutex::new(output)).is_ok() {
        // Fails only where somebody else has set one, as a test may have.
        let _ = tracing::subscriber::set_global_default(Logger);
    }
    Ok(())
}

/// Opens the log file again, after something moved it away.
pub fn reopen() -> Result<(), LogError> {
    let Some(output) = OUTPUT.get() else { return Ok(()) };
    if let Output::File(path, file) = &mut *output.lock().unwrap_or_else(PoisonError::into_inner) {
        *file = open(path)?;
    }
    Ok(())
}

/// Prints events. Spans are of no use here: what a line is about stands in the line.
struct Logger;

impl Subscriber for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= level_of(component(metadata.target())).filter()
    }

    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        levels().into_iter().map(|(_, level)| level.filter()).max()
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = String::with_capacity(160);
        format_line(&mut line, SystemTime::now(), event.metadata());
        event.record(&mut Fields(&mut line));
        line.push('\n');
        let Some(output) = OUTPUT.get() else { return };
        // There is no better place to complain about a log that cannot be written.
        let _ = match &mut *output.lock().unwrap_or_else(PoisonError::into_inner) {
            Output::Stderr => io::stderr().write_all(line.as_bytes()),
            Output::File(_, file) => file.write_all(line.as_bytes()),
        };
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// `[2026-11-21 15:14:54.943][15099][warning][main] `
fn format_line(line: &mut String, now: SystemTime, metadata: &Metadata<'_>) {
    let level = match *metadata.level() {
        tracing::Level::TRACE => Level::Trace,
        tracing::Level::DEBUG => Level::Debug,
        tracing::Level::INFO => Level::Info,
        tracing::Level::WARN => Level::Warning,
        tracing::Level::ERROR => Level::Error,
    };
    let name = COMPONENTS.get(component(metadata.target())).map_or("misc", |(name, _)| name);
    let thread = rustix::thread::gettid().as_raw_nonzero();
    // Writing to a string cannot fail.
    let _ = write!(line, "[{}][{thread}][{}][{name}] ", Utc(now), level.name());
}

/// A time as `2026-11-21 15:14:54.943`, UTC.
struct Utc(SystemTime);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{:03}", since.subsec_millis())
    }
}

/// Year, month and day of a number of days since 1970-01-01, counted in the 400-year cycles of the Gregorian calendar
/// with years that begin in March, so that the leap day comes last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (cycle, day_of_cycle) = (days / 146_097, days % 146_097);
    let year_of_cycle = (day_of_cycle - day_of_cycle / 1460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (cycle * 400 + year_of_cycle + next, month, day)
}

/// The message, then the other fields as `name=value`.
struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = match field.name() {
            "message" => write!(self.0, "{value}"),
            name => write!(self.0, " {name}={value}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_belong_to_the_component_with_the_longest_path() {
        for (target, name) in [
            ("outrigger_proxy::http::codec::h1", "http"),
            ("outrigger_proxy::http::codec::h2::body", "http2"),
            ("outrigger_proxy::http::router", "router"),
            ("outrigger_proxy::httpfoo", "main"),
            ("outrigger_proxy::cluster::pool", "pool"),
            ("outrigger_proxy::cluster", "upstream"),
            ("h2::proto::connection", "http2"),
            ("mio", "misc"),
            ("router", "router"),
        ] {
            assert_eq!(COMPONENTS[component(target)].0, name, "{target}");
        }
        assert_eq!(COMPONENTS[MISC].0, "misc");
    }

    #[test]
    fn times_are_printed_as_envoy_does() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00.007"),
            (951_782_400, "2000-02-29 00:00:00.007"),
            (1_795_274_094, "2026-11-21 15:14:54.007"),
            (4_107_542_399, "2100-02-28 23:59:59.007"),
            (4_107_542_400, "2100-03-01 00:00:00.007"),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(7);
            assert_eq!(Utc(time).to_string(), text);
        }
    }

    #[test]
    fn a_list_of_components_is_read_or_refused() {
        let read = parse_components("http:debug,upstream:warn").unwrap();
        assert_eq!(read, [("http", Level::Debug), ("upstream", Level::Warning)]);
        assert!(parse_components("").unwrap().is_empty());
        for wrong in ["http", "http:", ":info", "http:loud"] {
            assert!(parse_components(wrong).is_err(), "{wrong}");
        }
        assert!(matches!(set(&[("nobody", Level::Info)]), Err(LogError::Component(_))));
    }

    #[test]
    fn lines_reach_the_file_by_their_components_level() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        init(Level::Warning, "router:debug", Some(&path)).unwrap();
        tracing::debug!(target: "router", host = "10.0.0.1:80", "picked");
        tracing::info!(target: "upstream", "silent");
        tracing::warn!(target: "main", attempts = 3, "loud");
        set(&[("upstream", Level::Info)]).unwrap();
        tracing::info!(target: "upstream", "no longer silent");
        std::fs::rename(&path, directory.path().join("old")).unwrap();
        reopen().unwrap();
        tracing::error!(target: "main", "in the new file");
        let old = std::fs::read_to_string(directory.path().join("old")).unwrap();
        let lines = old.lines().map(|line| line.splitn(3, "][").nth(2).unwrap()).collect::<Vec<_>>();
        assert_eq!(
            lines,
            [
                "debug][router] picked host=10.0.0.1:80",
                "warning][main] loud attempts=3",
                "info][upstream] no longer silent"
            ]
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
        set_all(Level::Off);
    }
}
