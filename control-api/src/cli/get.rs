//! `outrigger get`.

use std::collections::BTreeSet;

use clap::Args;
use outrigger_proto::outrigger::control::v1::control_client::ControlClient;
use outrigger_proto::outrigger::control::v1::watch_response::Event;
use outrigger_proto::outrigger::control::v1::{GetRequest, ListRequest, Object, ObjectKey, WatchRequest};
use serde_json::{Value, json};
use tonic::Code;
use tonic::transport::Channel;

use super::table::{Columns, Table};
use super::{Failure, NamespaceArgs, Output, ServerArgs, kind_and_names, print, qualified, request, yaml};
use crate::api::objects;
use crate::model::{Key, Kind};

/// Flags of `get`.
#[derive(Clone, Debug, Args)]
pub struct GetArgs {
    /// KIND [NAME...], or KIND/NAME...
    #[arg(value_name = "KIND NAME", required = true)]
    pub objects: Vec<String>,
    /// How objects are shown.
    #[arg(short = 'o', long, value_name = "FORMAT", value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Show what is, then every change as it happens, until interrupted.
    #[arg(short = 'w', long)]
    pub watch: bool,
    /// With --watch and -o json or yaml: each object within its event, {"type": "ADDED", "object": ...}; else nothing
    /// tells that one was deleted. Types are ADDED (what is, too), MODIFIED and DELETED.
    #[arg(long, requires = "watch")]
    pub output_watch_events: bool,
    /// In all namespaces.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented by its type")]
    pub namespace: NamespaceArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented by its type")]
    pub server: ServerArgs,
}

pub(super) async fn get(args: GetArgs) -> Result<(), Failure> {
    let (kind, names) = kind_and_names(&args.objects)?;
    if args.all_namespaces && !names.is_empty() {
        return Err(Failure("an object by its name is in one namespace: use -n".to_owned()));
    }
    if args.watch {
        return watch(&args, kind, names).await;
    }
    let mut client = args.server.connect().await?;
    let mut found = Vec::new();
    if names.is_empty() {
        let namespace = if args.all_namespaces { "" } else { args.namespace.name() };
        found = list(&mut client, kind, namespace).await?;
    }
    let mut missing = Vec::new();
    for name in &names {
        let message = GetRequest { key: Some(key(kind, args.namespace.name(), name)) };
        match client.get(request(message)).await {
            Ok(response) => found.extend(response.into_inner().object),
            Err(status) if status.code() == Code::NotFound => missing.push(Failure::from(status).0),
            Err(status) => return Err(status.into()),
        }
    }
    if !missing.is_empty() {
        if !found.is_empty() {
            print(&show(&args, kind, false, &found))?;
        }
        return Err(Failure(missing.join("\n")));
    }
    if found.is_empty() && matches!(args.output, Output::Table | Output::Wide) {
        let place =
            if args.all_namespaces { String::new() } else { format!(" in namespace {:?}", args.namespace.name()) };
        eprintln!("no {} found{place}", kind.as_str());
        return Ok(());
    }
    print(&show(&args, kind, names.len() == 1, &found))
}

/// All pages of a list.
async fn list(client: &mut ControlClient<Channel>, kind: Kind, namespace: &str) -> Result<Vec<Object>, Failure> {
    let mut message =
        ListRequest { kind: kind.as_str().to_owned(), namespace: namespace.to_owned(), ..ListRequest::default() };
    let mut found = Vec::new();
    loop {
        let page = client.list(request(message.clone())).await?.into_inner();
        found.extend(page.objects);
        if page.next_page_token.is_empty() {
            return Ok(found);
        }
        message.page_token = page.next_page_token;
    }
}

fn key(kind: Kind, namespace: &str, name: &str) -> ObjectKey {
    ObjectKey {
        kind: kind.as_str().to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        resource_version: String::new(),
    }
}

/// `single`: it was asked for by name, and is shown as itself instead of as a list of one.
fn show(args: &GetArgs, kind: Kind, single: bool, found: &[Object]) -> String {
    let whole = || match found {
        [object] if single => objects::json(object),
        _ => json!({"apiVersion": "v1", "kind": "List", "items": found.iter().map(objects::json).collect::<Vec<_>>()}),
    };
    match args.output {
        Output::Yaml => yaml::text(&whole()),
        Output::Json => json_text(&whole()),
        Output::Name => found.iter().map(name).collect(),
        Output::Table | Output::Wide => {
            let columns = Columns::new(kind, args.all_namespaces, args.output == Output::Wide);
            let mut table = Table::new(columns.heads());
            for object in found {
                table.add(columns.row(&objects::json(object)));
            }
            table.text()
        }
    }
}

fn name(object: &Object) -> String {
    Key::of(object).map(|key| format!("{}/{}\n", qualified(key.kind), key.name.name)).unwrap_or_default()
}

/// What kubectl calls the event. `there`: the objects that there are.
fn event_type(event: Event, key: Key, there: &mut BTreeSet<Key>) -> &'static str {
    if event == Event::Deleted {
        there.remove(&key);
        "DELETED"
    } else if there.insert(key) {
        "ADDED"
    } else {
        "MODIFIED"
    }
}

/// As JSON, indented.
pub(super) fn json_text(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

async fn watch(args: &GetArgs, kind: Kind, mut names: Vec<String>) -> Result<(), Failure> {
    if names.len() > 1 {
        return Err(Failure("a watch follows one object or all of a kind: name one".to_owned()));
    }
    if args.output_watch_events && !matches!(args.output, Output::Json | Output::Yaml) {
        return Err(Failure("--output-watch-events is for -o json and -o yaml; a table has a column EVENT".to_owned()));
    }
    let namespace = if args.all_namespaces { "" } else { args.namespace.name() };
    let message = WatchRequest {
        kind: kind.as_str().to_owned(),
        namespace: namespace.to_owned(),
        name: names.pop().unwrap_or_default(),
        after_revision: None,
    };
    let mut client = args.server.connect().await?;
    // Without a limit in time.
    let mut events = client.watch(message).await?.into_inner();
    let columns = Columns::new(kind, args.all_namespaces, args.output == Output::Wide);
    let mut heads = vec!["EVENT"];
    heads.extend(columns.heads());
    let mut table = Table::new(heads);
    for (head, longest) in [("EVENT", "applied"), ("HEALTH", "Unhealthy"), ("AGE", "9m59s")] {
        table.expect(head, longest);
    }
    let mut synced = false;
    let mut there = BTreeSet::new();
    while let Some(response) = events.message().await? {
        let event = response.event();
        let word = match event {
            Event::Applied => "applied",
            Event::Deleted => "deleted",
            Event::Initial | Event::Synced | Event::Unspecified => "",
        };
        if event == Event::Synced {
            synced = true;
            if matches!(args.output, Output::Table | Output::Wide) {
                print(&table.text())?;
            }
            continue;
        }
        let Some(object) = response.object else { continue };
        let mut shown = objects::json(&object);
        if args.output_watch_events {
            let Some(key) = Key::of(&object) else { continue };
            shown = json!({"type": event_type(event, key, &mut there), "object": shown});
        }
        match args.output {
            Output::Yaml => print(&format!("---\n{}", yaml::text(&shown)))?,
            Output::Json => print(&json_text(&shown))?,
            Output::Name => print(&name(&object))?,
            Output::Table | Output::Wide => {
                let mut row = vec![word.to_owned()];
                row.extend(columns.row(&shown));
                if synced {
                    print(&table.later(row))?;
                } else {
                    table.add(row);
                }
            }
        }
    }
    Err(Failure("the control plane has ended the watch".to_owned()))
}
