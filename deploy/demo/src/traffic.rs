//! The customers of the shop: a steady rate of requests that waits for nobody, so that slow answers do not make it
//! slower.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use crate::app::{CALL, Call};
use crate::client::Client;
use crate::measure::{Measures, Seen};

/// Sends requests until it is stopped.
#[derive(Debug)]
pub(crate) struct Traffic {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Traffic {
    /// To `url`, so many a second.
    pub(crate) fn start(client: Client, url: String, rate: u32, measures: Rc<RefCell<Measures>>) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::task::spawn_local(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
            // After a stall of the machine there is no burst.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            let mut requests = JoinSet::new();
            for id in 1_u64.. {
                tokio::select! {
                    _ = ticks.tick() => {}
                    _ = &mut stopped => break,
                }
                while requests.try_join_next().is_some() {}
                let (client, measures) = (client.clone(), measures.clone());
                let url = format!("{url}/orders/{id}");
                requests.spawn_local(async move {
                    let seen = order(&client, &url).await;
                    measures.borrow_mut().record(&seen);
                });
            }
            while requests.join_next().await.is_some() {}
        });
        Self { stop, task }
    }

    /// Sends no more, and waits for the answers to what was sent.
    pub(crate) async fn stop(self) {
        // Either fails only where the task is over.
        _ = self.stop.send(());
        _ = self.task.await;
    }
}

/// One request to the shop.
pub(crate) async fn order(client: &Client, url: &str) -> Seen {
    let began = Instant::now();
    let answer = client.get(url).await;
    let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    match answer {
        Err(error) => Seen { micros, error: Some(format!("{url}: {error}")), calls: Vec::new() },
        Ok(answer) => {
            let calls = answer.headers.get_all(CALL).iter();
            let calls = calls.filter_map(|call| Call::read(call.to_str().ok()?)).collect();
            let error = (!answer.status.is_success()).then(|| {
                let body = String::from_utf8_lossy(&answer.body).into_owned();
                format!("{url}: {} {}", answer.status.as_u16(), body.trim())
            });
            Seen { micros, error, calls }
        }
    }
}

/// So many requests at once.
pub(crate) async fn burst(client: &Client, url: &str, size: u32, measures: &RefCell<Measures>) -> (u32, u32) {
    let requests: Vec<_> = (0..size)
        .map(|id| {
            let (client, url) = (client.clone(), format!("{url}/orders/{id}"));
            tokio::task::spawn_local(async move { order(&client, &url).await })
        })
        .collect();
    let (mut ok, mut turned_away) = (0, 0);
    for request in requests {
        let Ok(seen) = request.await else { continue };
        *if seen.error.is_none() { &mut ok } else { &mut turned_away } += 1;
        measures.borrow_mut().record(&seen);
    }
    (ok, turned_away)
}
