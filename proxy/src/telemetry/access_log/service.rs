//! The control thread's part in a gRPC access log: it keeps a stream to the service and sends what workers hand over.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::grpc::METHOD;
use super::logger::NewStream;
use crate::grpc::Call;
use crate::worker::Worker;

/// Between two attempts to open a stream, doubling from the first to the second.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// How long a service may take to say that it has all entries of a log that has ended.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Sends the entries of all logs that come from `logs`. After `ended` (no worker logs any more) it is done when all
/// that they have handed over is sent.
pub async fn run(worker: Rc<Worker>, mut logs: mpsc::UnboundedReceiver<NewStream>, mut ended: oneshot::Receiver<()>) {
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            Some(log) = logs.recv() => { streams.spawn_local(send(worker.clone(), log)); }
            Some(_) = streams.join_next() => {}
            _ = &mut ended => break,
        }
    }
    while let Ok(log) = logs.try_recv() {
        streams.spawn_local(send(worker.clone(), log));
    }
    while streams.join_next().await.is_some() {}
}

/// Sends the entries of a log until it is no longer configured, or no worker is left.
async fn send(worker: Rc<Worker>, log: NewStream) {
    let NewStream { id, mut stream } = log;
    let mut call = None::<Call>;
    let mut back_off = BACK_OFF.0;
    loop {
        let next = poll_fn(|cx| {
            // A stream that the service ended is noticed while nothing is to be sent, too.
            if call.as_mut().is_some_and(|call| call.poll_end(cx).is_ready()) {
                call = None;
            }
            stream.poll_batch(cx)
        });
        let Some(batch) = next.await else {
            // A stream that is only dropped takes along what is still on its way.
            if let Some(mut call) = call {
                _ = timeout(LAST_WORD, call.finish()).await;
            }
            return;
        };
        // Entries wait here, and behind them in the queue, until the service is back.
        loop {
            let (first, opened) = match call.take() {
                Some(call) => (false, Ok(call)),
                None => (true, Call::open(&worker, &id.service, METHOD).await),
            };
            let sent = match opened {
                Ok(mut opened) => opened.send_only(stream.message(&batch, first)).await.map(|()| opened),
                Err(error) => Err(error),
            };
            match sent {
                Ok(opened) => {
                    call = Some(opened);
                    back_off = BACK_OFF.0;
                    break;
                }
                Err(error) => {
                    tracing::warn!("access log service in cluster {:?}: {error}", id.service.cluster);
                    sleep(back_off).await;
                    back_off = back_off.saturating_mul(2).min(BACK_OFF.1);
                }
            }
        }
    }
}
