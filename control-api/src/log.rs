//! The process's own log: lines on standard error.
//!
//! Some lines whoever reaches a port causes as often as they like, by connections that say nothing or a name that another
//! proxy has. They have the target [`BOUNDED`]: of those from one place of the program [`MOST`] are written in a
//! [`PERIOD`], and at its end the next one, with how many more there were. So are all of the libraries, which speak of
//! what peers send.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use outrigger_proto::prost_types::Timestamp;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span;
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber, callsite};

/// The target of what strangers cause, or what comes again with every request.
pub(crate) const BOUNDED: &str = "outrigger::bounded";

/// Lines from one place.
const MOST: u64 = 20;
/// In this time.
const PERIOD: Duration = Duration::from_secs(10);

/// What is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// What helps to find a fault.
    Debug,
    /// What an operator wants to know.
    Info,
    /// What an operator should look at.
    Warning,
    /// What went wrong.
    Error,
    /// Nothing.
    Off,
}

impl Level {
    fn filter(self) -> LevelFilter {
        match self {
            Level::Debug => LevelFilter::DEBUG,
            Level::Info => LevelFilter::INFO,
            Level::Warning => LevelFilter::WARN,
            Level::Error => LevelFilter::ERROR,
            Level::Off => LevelFilter::OFF,
        }
    }
}

/// Logs from now on. A second call changes nothing.
pub fn init(level: Level) {
    // Where nobody reads it, it is lost.
    let write = |line: &str| _ = std::io::stderr().write_all(line.as_bytes());
    _ = tracing::subscriber::set_global_default(Lines::new(level.filter(), PERIOD, write));
}

/// Writes lines like `2026-11-21T18:22:00.123Z info: revision 3: 2 written, 0 deleted`.
struct Lines {
    level: LevelFilter,
    pace: Arc<Pace>,
}

/// Where lines go, and how many came from each place that is bounded since its period began.
struct Pace {
    period: Duration,
    places: Mutex<HashMap<callsite::Identifier, Period>>,
    write: Box<dyn Fn(&str) + Send + Sync>,
}

struct Period {
    began: Instant,
    lines: u64,
}

impl Pace {
    fn write(&self, level: tracing::Level, text: &str) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = i32::try_from(since.subsec_millis()).unwrap_or_default();
        let time = Timestamp { seconds: since.as_secs().cast_signed(), nanos: millis * 1_000_000 };
        let level = match level {
            tracing::Level::ERROR => "error",
            tracing::Level::WARN => "warning",
            tracing::Level::INFO => "info",
            tracing::Level::DEBUG | tracing::Level::TRACE => "debug",
        };
        (self.write)(&format!("{time} {level}:{text}\n"));
    }

    /// Which line of its place's period this is, counted from 1, and when the period began.
    fn count(&self, place: callsite::Identifier) -> (u64, Instant) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let period = places.entry(place).or_insert_with(|| Period { began: Instant::now(), lines: 0 });
        // One from which lines are left out ends when they are told.
        if period.lines <= MOST && period.began.elapsed() >= self.period {
            *period = Period { began: Instant::now(), lines: 0 };
        }
        period.lines += 1;
        (period.lines, period.began)
    }

    /// At the end of the period: the first line that was left out, with how many came after it.
    fn tell(&self, metadata: &Metadata<'_>, text: &str) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = places.remove(&metadata.callsite()).map_or(0, |period| period.lines);
        drop(places);
        match lines.saturating_sub(MOST + 1) {
            0 => self.write(*metadata.level(), text),
            more => self.write(*metadata.level(), &format!("{text} (and {more} more like it)")),
        }
    }
}

impl Lines {
    fn new(level: LevelFilter, period: Duration, write: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { level, pace: Arc::new(Pace { period, places: Mutex::default(), write: Box::new(write) }) }
    }

    /// Ours; of the libraries only what went wrong.
    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        let bound = if is_ours(metadata) { self.level } else { self.level.min(LevelFilter::WARN) };
        metadata.is_event() && *metadata.level() <= bound
    }
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with("outrigger")
}

impl Subscriber for Lines {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.wants(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.wants(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let bounded = metadata.target() == BOUNDED || !is_ours(metadata);
        let (number, began) = if bounded { self.pace.count(metadata.callsite()) } else { (0, Instant::now()) };
        if number > MOST + 1 {
            return;
        }
        let text = text(event);
        if number <= MOST {
            self.pace.write(*metadata.level(), &text);
            return;
        }
        let pace = Arc::clone(&self.pace);
        // Of its own: some of those who log are in no runtime. One at most for each place.
        let wait = move || {
            while let Some(rest) = pace.period.checked_sub(began.elapsed()).filter(|rest| !rest.is_zero()) {
                std::thread::park_timeout(rest);
            }
            pace.tell(metadata, &text);
        };
        if let Err(error) = std::thread::Builder::new().name("log".to_owned()).spawn(wait) {
            self.pace.tell(metadata, &format!(" no thread for what is left out of the log: {error}"));
        }
    }

    fn enter(&self, _span: &span::Id) {}

    fn exit(&self, _span: &span::Id) {}
}

/// What an event says, in one line that begins with a space.
pub(crate) fn text(event: &Event<'_>) -> String {
    let mut line = String::new();
    event.record(&mut Text(&mut line));
    line
}

/// The message, then the fields as `name=value`.
struct Text<'l>(&'l mut String);

impl Visit for Text<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        _ = match field.name() {
            "message" => write!(self, " {value:?}"),
            name => write!(self, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

/// Much of a line was said by somebody else, who is not to write lines of their own: what would end it or act on a
/// terminal is escaped.
impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                control if control.is_control() => write!(self.0, "{}", control.escape_default())?,
                other => self.0.push(other),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_cause_is_cut_and_counted_when_the_period_ends_and_the_rest_is_all_there() {
        let (sender, lines) = std::sync::mpsc::channel();
        let period = Duration::from_secs(1);
        let log = Lines::new(LevelFilter::WARN, period, move |line| _ = sender.send(line.to_owned()));
        let strangers = |what: &str, count: u64| {
            for number in 1..=count {
                tracing::warn!(target: BOUNDED, "{what} {number}");
            }
        };
        let mut expected: Vec<String> = (1..=MOST).map(|number| format!("bounded {number}\n")).collect();
        expected.extend((1..=MOST + 30).map(|number| format!("ours {number}\n")));
        expected.extend((1..=MOST).map(|number| format!("a library's {number}\n")));
        let more = |what: &str| format!("{what} {} (and 29 more like it)\n", MOST + 1);
        expected.extend([more("bounded"), more("a library's")]);
        expected.push("again 1\n".to_owned());
        tracing::subscriber::with_default(log, || {
            strangers("bounded", MOST + 30);
            for number in 1..=MOST + 30 {
                tracing::warn!("ours {number}");
            }
            for number in 1..=MOST + 30 {
                tracing::warn!(target: "h2::proto::ping_pong", "a library's {number}");
            }
            for expected in expected {
                if expected.starts_with("again") {
                    strangers("again", 1);
                }
                let line = lines.recv_timeout(Duration::from_secs(20)).unwrap();
                assert!(line.ends_with(&format!("Z warning: {expected}")), "{line} is not {expected}");
            }
        });
    }

    #[test]
    fn an_event_is_one_line_whatever_it_says() {
        let mut line = String::new();
        Text(&mut line).write_str("node=über\n2026-11-22T00:00:00Z info: forged\x1b[2J").unwrap();
        assert_eq!(line, r"node=über\n2026-11-22T00:00:00Z info: forged\u{1b}[2J");
    }
}
