//! PING after a time, and the end of the connection when no answer comes: `connection_keepalive`.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::Sleep;

/// The timer of one connection.
#[derive(Debug)]
pub(super) struct Keepalive {
    pings: PingPong,
    interval: Duration,
    timeout: Duration,
    waiting: bool,
    timer: Pin<Box<Sleep>>,
}

impl Keepalive {
    /// Sends the first PING after `interval`.
    pub(super) fn new(pings: PingPong, (interval, timeout): (Duration, Duration)) -> Self {
        Keepalive { pings, interval, timeout, waiting: false, timer: Box::pin(tokio::time::sleep(interval)) }
    }

    /// Ready when the peer has not answered in time. Polled with the connection, whose frames it sends.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.waiting && self.pings.poll_pong(cx).is_ready() {
                self.waiting = false;
                self.timer.set(tokio::time::sleep(self.interval));
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.waiting {
                return Poll::Ready(());
            }
            // An error says that the connection is closed: its own end follows.
            self.waiting = self.pings.send_ping(Ping::opaque()).is_ok();
            self.timer.set(tokio::time::sleep(if self.waiting { self.timeout } else { self.interval }));
        }
    }
}
