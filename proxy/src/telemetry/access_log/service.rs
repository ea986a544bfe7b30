//! The control thread's part in a gRPC access log: it keeps a stream to the service and sends what workers hand over.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;

use super::grpc::METHOD;
use super::logger::NewStream;
use crate::grpc::Call;
use crate::worker::Worker;

/// Between two attempts to open a stream, doubling from the first to the second.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Sends the entries of a log until it is no longer configured.
pub async fn send(worker: Rc<Worker>, log: NewStream) {
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
        let Some(batch) = next.await else { return };
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
                    back_off = (back_off * 2).min(BACK_OFF.1);
                }
            }
        }
    }
}
