//! What waits for the readers of watches. Each has a few pieces on its way, of 64 KiB or one object, and all together have
//! [`MOST`]: a thousand that do not read could else have any number of large objects kept. Where others wait for room, the
//! one that has taken it up for longest is ended.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::Status;

use crate::connection::Cut;

/// How many bytes of objects all watches together may have on their way: of small ones, all that [`super::WATCHES`] have.
pub(super) const MOST: u32 = 256 << 20;
/// How long each may take to be read while others wait for room.
pub(super) const HOLD: Duration = Duration::from_secs(1);
/// How many watches may copy from the disk at once.
const COPYING: usize = 4;

/// What waits for the readers of all watches.
#[derive(Debug)]
pub struct Waiting {
    most: u32,
    /// A permit for each byte.
    room: Arc<Semaphore>,
    /// Whose turn it is to get room. The others wait for that: each would else end a watch, for the same room.
    turn: AsyncMutex<()>,
    pub(super) copying: Arc<Semaphore>,
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    last: u64,
    /// Since when a piece has its room, and what ends its watch: the oldest first.
    pieces: BTreeMap<u64, (Instant, Cut)>,
}

impl Waiting {
    /// At most so many bytes.
    pub(super) fn new(most: u32) -> Self {
        let permits = |number| Arc::new(Semaphore::new(number));
        let (room, copying) = (permits(most as usize), permits(COPYING));
        Self { most, room, turn: AsyncMutex::default(), copying, list: Mutex::default() }
    }

    /// Waits for room for a piece; one that is larger than all the room gets all of it. `cut` ends its watch.
    pub(super) async fn take(self: &Arc<Self>, bytes: usize, cut: &Cut) -> Taken {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.most);
        let turn = self.turn.lock().await;
        let mut room = std::pin::pin!(Arc::clone(&self.room).acquire_many_owned(bytes));
        let room = loop {
            match tokio::time::timeout(HOLD, &mut room).await {
                Ok(room) => break room.ok(),
                Err(_) => self.end_longest(),
            }
        };
        drop(turn);
        let mut list = self.list();
        list.last += 1;
        let number = list.last;
        list.pieces.insert(number, (Instant::now(), cut.clone()));
        Taken { waiting: Arc::clone(self), number, _room: room }
    }

    fn end_longest(&self) {
        let list = self.list();
        let late = list.pieces.values().take_while(|(since, _)| since.elapsed() >= HOLD);
        // The first that is not ended yet.
        _ = late.map(|(_, cut)| cut).find(|cut| cut.cut());
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The room of a piece, until it is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    waiting: Arc<Waiting>,
    number: u64,
    _room: Option<OwnedSemaphorePermit>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.waiting.list().pieces.remove(&self.number);
    }
}

/// A piece: its events, and its room.
pub(super) type Piece<T> = (Vec<T>, Taken);

/// The events of a watch.
#[derive(Debug)]
pub struct Events<T> {
    pieces: mpsc::Receiver<Result<Piece<T>, Status>>,
    events: std::vec::IntoIter<T>,
    /// Of the last piece, as long as its last event may be on its way.
    taken: Option<Taken>,
}

impl<T> Events<T> {
    pub(super) fn new(pieces: mpsc::Receiver<Result<Piece<T>, Status>>) -> Self {
        Self { pieces, events: Vec::new().into_iter(), taken: None }
    }
}

impl<T: Unpin> Stream for Events<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(event) = this.events.next() {
                return Poll::Ready(Some(Ok(event)));
            }
            // Asked for the next message, the transport has sent the one before.
            this.taken = None;
            match ready!(this.pieces.poll_recv(context)) {
                Some(Ok((events, taken))) => (this.events, this.taken) = (events.into_iter(), Some(taken)),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => return Poll::Ready(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_watch_gives_way_to_all_that_wait() {
        let waiting = Arc::new(Waiting::new(3));
        let cuts = [(); 3].map(|()| Cut::default());
        let mut held = Vec::new();
        for cut in &cuts {
            held.push(waiting.take(1, cut).await);
        }
        let cut = Cut::default();
        let waiters = async { tokio::join!(waiting.take(1, &cut), waiting.take(1, &cut), waiting.take(1, &cut)) };
        assert!(tokio::time::timeout(HOLD * 3 / 2, waiters).await.is_err());
        // `false`: it was ended before.
        assert_eq!(cuts.map(|cut| cut.cut()), [false, true, true]);
    }
}
