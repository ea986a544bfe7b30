//! `outrigger get --watch`: what is, then every change. Where the control plane or the connection ends, it goes on as soon
//! as there is one again; so does `outrigger proxies --watch`.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::pin::pin;
use std::time::Duration;

use outrigger_proto::outrigger::control::v1::watch_response::Event;
use outrigger_proto::outrigger::control::v1::{Object, WatchRequest, WatchResponse};
use prost::Message as _;
use serde_json::json;
use tonic::{Code, Status};

use super::get::{GetArgs, json_text, name};
use super::table::{Columns, Table};
use super::{Failure, Output, print, yaml};
use crate::api::objects;
use crate::model::{Key, Kind};

/// How long it waits before it connects again: twice as long each time, up to the second.
const BACK_OFF: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(10)];

pub(super) async fn watch(args: &GetArgs, kind: Kind, mut names: Vec<String>) -> Result<(), Failure> {
    if names.len() > 1 {
        return Err(Failure("a watch follows one object or all of a kind: name one".to_owned()));
    }
    if args.output_watch_events && !matches!(args.output, Output::Json | Output::Yaml) {
        return Err(Failure("--output-watch-events is for -o json and -o yaml; a table has a column EVENT".to_owned()));
    }
    let namespace = if args.all_namespaces { "" } else { args.namespace.name() };
    let mut message = WatchRequest {
        kind: kind.as_str().to_owned(),
        namespace: namespace.to_owned(),
        name: names.pop().unwrap_or_default(),
        after_revision: None,
    };
    let (mut shown, mut breaks) = (Shown::new(args, kind), Breaks::default());
    loop {
        let ended = follow(&message, &mut shown, &mut breaks).await?;
        if !shown.is_synced {
            return Err(ended);
        }
        message.after_revision = shown.whole;
        let what_then = match shown.whole {
            Some(revision) => format!("to go on after revision {revision}"),
            None => "to go on with what there is then".to_owned(),
        };
        breaks.wait(&ended, &what_then).await;
    }
}

/// What a watch waits for where there is no control plane.
#[derive(Debug, Default)]
pub(super) struct Breaks {
    /// How long it waited last, since there is none.
    waited: Option<Duration>,
}

impl Breaks {
    pub(super) async fn wait(&mut self, ended: &Failure, what_then: &str) {
        let [first, longest] = BACK_OFF;
        let wait = self.waited.map_or(first, |waited| waited.saturating_mul(2).min(longest));
        if self.waited.replace(wait).is_none() {
            eprintln!("{}: connecting again, {what_then}", ended.0);
        }
        tokio::time::sleep(wait).await;
    }

    /// The next event, which says that there is a control plane again. So does a watch that goes on for as long as was
    /// waited for it, but not the head of a response: it comes from one that ends each watch at once, too.
    pub(super) async fn next<T>(
        &mut self,
        event: impl Future<Output = Result<Option<T>, Status>>,
    ) -> Result<Option<T>, Status> {
        let mut event = pin!(event);
        if let Some(waited) = self.waited {
            let first = tokio::time::timeout(waited, &mut event).await;
            if matches!(first, Ok(Ok(Some(_))) | Err(_)) {
                self.waited = None;
                eprintln!("connected again");
            }
            if let Ok(first) = first {
                return first;
            }
        }
        event.await
    }
}

/// Shows events until none come any more: why, if it may go on.
async fn follow(message: &WatchRequest, shown: &mut Shown<'_>, breaks: &mut Breaks) -> Result<Failure, Failure> {
    let mut client = match shown.args.server.connect().await {
        Ok(client) => client,
        Err(failure) => return Ok(failure),
    };
    // Without a limit in time.
    let mut events = match client.watch(message.clone()).await {
        Ok(response) => response.into_inner(),
        Err(status) => return shown.broken(status),
    };
    if message.after_revision.is_none() {
        shown.unseen = shown.there.keys().cloned().collect();
    }
    loop {
        match breaks.next(events.message()).await {
            Ok(Some(response)) => shown.show(response)?,
            Ok(None) => return Ok(ended()),
            Err(status) => return shown.broken(status),
        }
    }
}

/// Why a watch may go on that ended without a word.
pub(super) fn ended() -> Failure {
    Failure("the control plane has ended the watch".to_owned())
}

/// Whether a watch may go on that ended with this.
pub(super) fn broken(status: Status) -> Result<Failure, Failure> {
    // A source: it is not the control plane that said so, but the connection.
    let may = matches!(status.code(), Code::Unavailable | Code::ResourceExhausted) || status.source().is_some();
    let failure = Failure::from(status);
    if may { Ok(failure) } else { Err(failure) }
}

/// What was shown.
struct Shown<'a> {
    args: &'a GetArgs,
    columns: Columns,
    table: Table,
    /// Whether all that was in force has come once.
    is_synced: bool,
    /// The newest revision of which everything came; none before all that is in force has come.
    whole: Option<u64>,
    /// The revision of the last event.
    last: u64,
    /// The objects that there are, as they were shown: a watch that goes on may send one once more.
    there: BTreeMap<Key, Vec<u8>>,
    /// Those that a watch which begins anew has not sent: at its end they are gone.
    unseen: BTreeSet<Key>,
}

impl<'a> Shown<'a> {
    fn new(args: &'a GetArgs, kind: Kind) -> Self {
        let columns = Columns::new(kind, args.all_namespaces, args.output == Output::Wide);
        let mut heads = vec!["EVENT"];
        heads.extend(columns.heads());
        let mut table = Table::new(heads);
        for (head, longest) in [("EVENT", "applied"), ("HEALTH", "Unhealthy"), ("AGE", "9m59s")] {
            table.expect(head, longest);
        }
        let (there, unseen) = (BTreeMap::new(), BTreeSet::new());
        Self { args, columns, table, is_synced: false, whole: None, last: 0, there, unseen }
    }

    /// As [`broken`]. Where the log has too little to go on, all that is in force says what has changed.
    fn broken(&mut self, status: Status) -> Result<Failure, Failure> {
        if status.code() != Code::OutOfRange {
            return broken(status);
        }
        self.whole = None;
        Ok(Failure::from(status))
    }

    fn show(&mut self, response: WatchResponse) -> Result<(), Failure> {
        let event = response.event();
        if event == Event::Synced {
            (self.whole, self.last) = (Some(response.revision), response.revision);
            if !std::mem::replace(&mut self.is_synced, true) {
                return if self.args.is_table() { print(&self.table.text()) } else { Ok(()) };
            }
            for key in std::mem::take(&mut self.unseen) {
                let gone = self.there.remove(&key).and_then(|bytes| Object::decode(bytes.as_slice()).ok());
                gone.map_or(Ok(()), |object| self.tell("DELETED", &object))?;
            }
            return Ok(());
        }
        // Events of a set come one behind the other: the one before is whole.
        if self.whole.is_some() && response.revision > self.last {
            self.whole = Some(std::mem::replace(&mut self.last, response.revision));
        }
        let Some(object) = response.object else { return Ok(()) };
        let Some(kind) = Key::of(&object).and_then(|key| self.news(event, key, &object)) else { return Ok(()) };
        self.tell(kind, &object)
    }

    /// `kind`: what kubectl calls the event.
    fn tell(&mut self, kind: &str, object: &Object) -> Result<(), Failure> {
        let mut value = objects::json(object);
        if self.args.output_watch_events {
            value = json!({"type": kind, "object": value});
        }
        match self.args.output {
            Output::Yaml => print(&format!("---\n{}", yaml::text(&value))),
            Output::Json => print(&json_text(&value)),
            Output::Name => print(&name(object)),
            Output::Table | Output::Wide => {
                let word = match kind {
                    _ if !self.is_synced => "",
                    "DELETED" => "deleted",
                    _ => "applied",
                };
                let mut row = vec![word.to_owned()];
                row.extend(self.columns.row(&value));
                if self.is_synced {
                    return print(&self.table.later(row));
                }
                self.table.add(row);
                Ok(())
            }
        }
    }

    /// What kubectl calls the event; none if it was shown before.
    fn news(&mut self, event: Event, key: Key, object: &Object) -> Option<&'static str> {
        if event == Event::Deleted {
            return self.there.remove(&key).map(|_| "DELETED");
        }
        self.unseen.remove(&key);
        let bytes = object.encode_to_vec();
        match self.there.insert(key, bytes.clone()) {
            None => Some("ADDED"),
            Some(before) if before == bytes => None,
            Some(_) => Some("MODIFIED"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_ends_each_watch_is_asked_ever_less_often() {
        let (mut breaks, began) = (Breaks::default(), Instant::now());
        let broke = Failure("broke".to_owned());
        for waited in [250, 750, 1750, 3750] {
            breaks.wait(&broke, "").await;
            assert_eq!(began.elapsed().as_millis(), waited);
            _ = breaks.next::<()>(async { Err(Status::unavailable("stopping")) }).await.unwrap_err();
        }
        // An event came, or nothing for as long.
        breaks.next(async { Ok(Some(())) }).await.unwrap();
        assert_eq!(breaks.waited, None);
        breaks.wait(&broke, "").await;
        let silent = tokio::time::timeout(Duration::from_secs(1), breaks.next::<()>(std::future::pending()));
        assert!(silent.await.is_err() && breaks.waited.is_none());
    }
}
