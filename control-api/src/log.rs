//! The process's own log: lines on standard error.
//!
//! Strangers cause warnings as often as they like, by connections that say nothing or a name that another proxy has; so
//! of those from one place of the program there are [`MOST`] in a [`PERIOD`], and the next one says how many were left out.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::hash::Hash;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use outrigger_proto::prost_types::Timestamp;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span;
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber, callsite};

/// Warnings from one place.
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
    _ = tracing::subscriber::set_global_default(Lines { level: level.filter(), pace: Pace::default() });
}

/// How many lines were written of each place since its period began.
struct Pace<P>(Mutex<HashMap<P, Period>>);

struct Period {
    began: Instant,
    lines: u64,
}

impl<P> Default for Pace<P> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<P: Eq + Hash> Pace<P> {
    /// How many lines of the place were left out before this one, which is to be written; `None`: it is left out.
    fn admits(&self, place: P, now: Instant) -> Option<u64> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let period = places.entry(place).or_insert(Period { began: now, lines: 0 });
        let mut left_out = 0;
        if now.duration_since(period.began) >= PERIOD {
            left_out = period.lines.saturating_sub(MOST);
            *period = Period { began: now, lines: 0 };
        }
        period.lines += 1;
        (period.lines <= MOST).then_some(left_out)
    }
}

/// Writes lines like `2026-11-21T18:22:00.123Z info: revision 3: 2 written, 0 deleted`.
struct Lines {
    level: LevelFilter,
    pace: Pace<callsite::Identifier>,
}

impl Lines {
    /// Ours; of the libraries only what went wrong.
    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        let bound =
            if metadata.target().starts_with("outrigger") { self.level } else { self.level.min(LevelFilter::WARN) };
        metadata.is_event() && *metadata.level() <= bound
    }
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
        let left_out = match *metadata.level() {
            tracing::Level::WARN => self.pace.admits(metadata.callsite(), Instant::now()),
            _ => Some(0),
        };
        let Some(left_out) = left_out else { return };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = i32::try_from(since.subsec_millis()).unwrap_or_default();
        let time = Timestamp { seconds: since.as_secs().cast_signed(), nanos: millis * 1_000_000 };
        let level = match *metadata.level() {
            tracing::Level::ERROR => "error",
            tracing::Level::WARN => "warning",
            tracing::Level::INFO => "info",
            tracing::Level::DEBUG | tracing::Level::TRACE => "debug",
        };
        let mut line = format!("{time} {level}:");
        line.push_str(&text(event));
        if left_out > 0 {
            // Writing to a String cannot fail.
            _ = write!(line, " (and {left_out} like it were left out)");
        }
        line.push('\n');
        // Where nobody reads it, it is lost.
        _ = std::io::stderr().write_all(line.as_bytes());
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
    fn a_place_that_warns_ever_again_is_cut_and_the_next_warning_says_how_often() {
        let pace = Pace::default();
        let began = Instant::now();
        let written = (0..MOST + 30).filter_map(|_| pace.admits("idle", began)).collect::<Vec<_>>();
        assert_eq!(written, [0; MOST as usize]);
        assert_eq!(pace.admits("twins", began), Some(0), "another place");
        assert_eq!(pace.admits("idle", began + PERIOD), Some(30));
        assert_eq!(pace.admits("idle", began + PERIOD), Some(0));
        assert_eq!(pace.admits("idle", began + 3 * PERIOD), Some(0));
    }

    #[test]
    fn an_event_is_one_line_whatever_it_says() {
        let mut line = String::new();
        Text(&mut line).write_str("node=über\n2026-11-22T00:00:00Z info: forged\x1b[2J").unwrap();
        assert_eq!(line, r"node=über\n2026-11-22T00:00:00Z info: forged\u{1b}[2J");
    }
}
