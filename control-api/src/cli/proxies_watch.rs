//! `outrigger proxies --watch`: who is connected, then each proxy that comes, changes or goes. What came and went while there
//! was no control plane shows once there is one again.

use std::collections::{BTreeMap, BTreeSet};

use outrigger_engine::xds::Kind;
use outrigger_proto::outrigger::control::v1::watch_proxies_response::Event;
use outrigger_proto::outrigger::control::v1::{Proxy, WatchProxiesRequest, WatchProxiesResponse};
use serde_json::json;

use super::get::json_text;
use super::proxies::{ProxiesArgs, heads, name, rejections, row, value, with_rejections};
use super::table::Table;
use super::watch::{Breaks, broken, ended};
use super::{Failure, Output, print, yaml};

pub(super) async fn watch(args: &ProxiesArgs) -> Result<(), Failure> {
    if args.output_watch_events && !matches!(args.output, Output::Json | Output::Yaml) {
        return Err(Failure("--output-watch-events is for -o json and -o yaml; a table has a column EVENT".to_owned()));
    }
    let (mut shown, mut breaks) = (Shown::new(args), Breaks::default());
    loop {
        let ended = follow(&mut shown, &mut breaks).await?;
        if !shown.is_whole {
            return Err(ended);
        }
        breaks.wait(&ended, "to go on with who is connected then").await;
    }
}

/// Shows events until none come any more: why, if it may go on.
async fn follow(shown: &mut Shown<'_>, breaks: &mut Breaks) -> Result<Failure, Failure> {
    let mut client = match shown.args.server.connect().await {
        Ok(client) => client,
        Err(failure) => return Ok(failure),
    };
    // Without a limit in time.
    let mut events = match client.watch_proxies(WatchProxiesRequest {}).await {
        Ok(response) => response.into_inner(),
        Err(status) => return broken(status),
    };
    shown.initial.clear();
    loop {
        match breaks.next(events.message()).await {
            Ok(Some(response)) => print(&shown.show(response))?,
            Ok(None) => return Ok(ended()),
            Err(status) => return broken(status),
        }
    }
}

/// Which proxy it is. Those with one id and a socket file are shown as one that changes.
type Id = (String, String);

/// What was shown.
struct Shown<'a> {
    args: &'a ProxiesArgs,
    table: Table,
    /// Of the proxies in the table, before it is shown.
    rejections: String,
    /// Whether all that were connected at first have come.
    is_whole: bool,
    there: BTreeMap<Id, Proxy>,
    /// Who was connected when this watch began.
    initial: BTreeSet<Id>,
}

impl<'a> Shown<'a> {
    fn new(args: &'a ProxiesArgs) -> Self {
        let mut all = vec!["EVENT"];
        all.extend(heads(args.output == Output::Wide));
        let mut table = Table::new(all);
        for (head, longest) in [("EVENT", "connected"), ("AGE", "9m59s")] {
            table.expect(head, longest);
        }
        for kind in Kind::ALL.map(Kind::abbreviation) {
            table.expect(kind, "REJECTED 10");
        }
        let (there, initial) = (BTreeMap::new(), BTreeSet::new());
        Self { args, table, rejections: String::new(), is_whole: false, there, initial }
    }

    /// The text of an event.
    fn show(&mut self, response: WatchProxiesResponse) -> String {
        let event = response.event();
        let Some(proxy) = response.proxy else {
            return if event == Event::Synced { self.synced() } else { String::new() };
        };
        let id = (proxy.id.clone(), proxy.address.clone());
        match event {
            Event::Gone => return self.gone(&id),
            Event::Initial => _ = self.initial.insert(id.clone()),
            Event::Changed | Event::Synced | Event::Unspecified => {}
        }
        match self.there.insert(id, proxy.clone()) {
            None => self.text("connected", "ADDED", &proxy),
            Some(before) if before == proxy => String::new(),
            Some(_) => self.text("changed", "MODIFIED", &proxy),
        }
    }

    /// All that are connected have come: the others went while nobody looked.
    fn synced(&mut self) -> String {
        if !std::mem::replace(&mut self.is_whole, true) {
            return if self.args.is_table() { with_rejections(&self.table, &self.rejections) } else { String::new() };
        }
        let gone: Vec<Id> = self.there.keys().filter(|id| !self.initial.contains(*id)).cloned().collect();
        gone.iter().map(|id| self.gone(id)).collect()
    }

    fn gone(&mut self, id: &Id) -> String {
        self.there.remove(id).map(|proxy| self.text("gone", "DELETED", &proxy)).unwrap_or_default()
    }

    /// `kind`: what kubectl calls the event.
    fn text(&mut self, event: &str, kind: &str, proxy: &Proxy) -> String {
        let value = || match self.args.output_watch_events {
            true => json!({"type": kind, "object": value(proxy)}),
            false => value(proxy),
        };
        match self.args.output {
            Output::Yaml => format!("---\n{}", yaml::text(&value())),
            Output::Json => json_text(&value()),
            Output::Name => name(proxy),
            Output::Table | Output::Wide => {
                let mut cells = vec![if self.is_whole { event.to_owned() } else { String::new() }];
                cells.extend(row(proxy, self.args.output == Output::Wide));
                let rejections = if event == "gone" { String::new() } else { rejections(proxy) };
                if self.is_whole {
                    return self.table.later(cells) + &rejections;
                }
                self.table.add(cells);
                self.rejections.push_str(&rejections);
                String::new()
            }
        }
    }
}
