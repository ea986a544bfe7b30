//! A deadline that moves often and rings rarely.
//!
//! A request has several time limits and mostly meets none. Entering and leaving tokio's timer wheel for each costs
//! more than the limits are worth, so an alarm stays where it was set as long as that is not too late: it then rings
//! early, is found too early, and is set again. A keep-alive connection enters the wheel once in a timeout instead of
//! several times in a request.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// A reusable timer.
#[derive(Debug, Default)]
pub struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Ready when `deadline` has passed; never for `None`.
    pub fn poll(&mut self, cx: &mut Context<'_>, deadline: Option<Instant>) -> Poll<()> {
        let Some(deadline) = deadline else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline || sleep.is_elapsed() {
            sleep.as_mut().reset(deadline);
        }
        loop {
            match sleep.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if sleep.deadline() >= deadline => return Poll::Ready(()),
                // It rang for an earlier deadline.
                Poll::Ready(()) => sleep.as_mut().reset(deadline),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rings_at_the_latest_deadline_asked_for() {
        let mut alarm = Alarm::default();
        let start = Instant::now();
        let (early, late) = (start + Duration::from_secs(1), start + Duration::from_secs(9));
        poll_fn(|cx| {
            assert!(alarm.poll(cx, Some(early)).is_pending());
            assert!(alarm.poll(cx, None).is_pending());
            Poll::Ready(())
        })
        .await;
        poll_fn(|cx| alarm.poll(cx, Some(late))).await;
        assert_eq!(start.elapsed(), Duration::from_secs(9));
        let sooner = Instant::now() + Duration::from_secs(2);
        poll_fn(|cx| {
            assert!(alarm.poll(cx, Some(sooner + Duration::from_secs(60))).is_pending());
            Poll::Ready(())
        })
        .await;
        poll_fn(|cx| alarm.poll(cx, Some(sooner))).await;
        assert_eq!(Instant::now(), sooner);
    }
}
