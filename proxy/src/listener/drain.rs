//! How the connections of a filter chain that goes, or of listeners that are drained, are told to end: all at once, or
//! spread over the drain time, so that their clients do not come back in one moment.
//!
//! An answer over HTTP/1 says `connection: close` with a probability that grows with the time gone, as in Envoy. A
//! connection of HTTP/2 has one moment in that time for its GOAWAY, whether it answers something then or not: Envoy
//! tells it with an answer only, and a quiet one never.

use std::cell::Cell;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use crate::args::DrainStrategy;
use crate::worker::{LocalEvent, Registration};

/// Whether, since when and over which time connections are told to end.
#[derive(Debug, Default)]
pub struct Drain {
    begun: Rc<LocalEvent>,
    span: Cell<Option<Span>>,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    since: Instant,
    /// Zero: at once.
    length: Duration,
}

impl Drain {
    /// Begins; what has begun goes on as it is. `time` is that of `--drain-time-s`.
    pub fn begin(&self, strategy: DrainStrategy, time: Duration) {
        let length = match strategy {
            DrainStrategy::Gradual => time,
            DrainStrategy::Immediate => Duration::ZERO,
        };
        self.enter(Span { since: Instant::now(), length });
    }

    /// Does what `other` does, if that has begun.
    pub fn join(&self, other: &Drain) {
        if let Some(span) = other.span.get() {
            self.enter(span);
        }
    }

    fn enter(&self, span: Span) {
        if self.span.get().is_none() {
            self.span.set(Some(span));
            self.begun.set();
        }
    }

    /// Has `waker` woken at the begin.
    pub fn register(&self, waker: &Waker) -> Registration {
        self.begun.register(waker)
    }

    /// Whether an answer of now shall be its connection's last. `random` is asked only during a gradual drain.
    pub fn closes(&self, random: impl FnOnce() -> u64) -> bool {
        let Some(span) = self.span.get() else { return false };
        let gone = span.since.elapsed();
        let lot = || u128::from(random()).checked_rem(span.length.as_millis()).unwrap_or(0);
        gone >= span.length || lot() < gone.as_millis()
    }

    /// The moment of a connection whose lot is `random`, once the drain has begun.
    pub fn moment(&self, random: u64) -> Option<Instant> {
        let span = self.span.get()?;
        let millis = u64::try_from(span.length.as_millis()).unwrap_or(u64::MAX);
        span.since.checked_add(Duration::from_millis(random.checked_rem(millis).unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    /// Lots that are spread evenly.
    const LOTS: u64 = 1000;

    fn lots() -> impl Iterator<Item = u64> {
        (0..LOTS).map(|n| n * 60)
    }

    fn closing(drain: &Drain) -> usize {
        lots().filter(|lot| drain.closes(|| *lot)).count()
    }

    fn told(drain: &Drain) -> usize {
        lots().filter(|lot| drain.moment(*lot).is_some_and(|at| at <= Instant::now())).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_gradual_drain_closes_as_many_of_all_as_time_is_gone() {
        let drain = Drain::default();
        assert_eq!((closing(&drain), told(&drain)), (0, 0), "it has not begun");
        drain.begin(DrainStrategy::Gradual, MINUTE);
        assert_eq!((closing(&drain), told(&drain)), (0, 1), "one lot is the very begin");
        for quarter in 1..=3 {
            advance(MINUTE / 4).await;
            assert_eq!((closing(&drain), told(&drain)), (250 * quarter, 250 * quarter + 1));
        }
        advance(MINUTE / 4).await;
        assert_eq!((closing(&drain), told(&drain)), (1000, 1000), "the time is over");
    }

    #[tokio::test(start_paused = true)]
    async fn an_immediate_drain_closes_all_at_once_and_asks_for_no_lot() {
        let drain = Drain::default();
        drain.begin(DrainStrategy::Immediate, MINUTE);
        assert!(drain.closes(|| panic!("not needed")));
        assert_eq!(told(&drain), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn what_joins_a_drain_is_as_far_as_that_is() {
        let (first, second) = (Drain::default(), Drain::default());
        second.join(&first);
        assert_eq!(second.moment(0), None);
        first.begin(DrainStrategy::Gradual, MINUTE);
        advance(MINUTE / 2).await;
        second.join(&first);
        assert_eq!(closing(&second), 500);
        second.begin(DrainStrategy::Immediate, MINUTE);
        assert_eq!(closing(&second), 500, "what has begun goes on as it is");
    }
}
