//! `outrigger get`.

use clap::Args;
use outrigger_proto::outrigger::control::v1::control_client::ControlClient;
use outrigger_proto::outrigger::control::v1::{GetRequest, ListRequest, Object, ObjectKey};
use serde_json::{Value, json};
use tonic::Code;
use tonic::transport::Channel;

use super::table::{Columns, Table};
use super::{
    Failure, NamespaceArgs, Output, ServerArgs, kind_and_names, names, print, qualified, request, watch, yaml,
};
use crate::api::objects;
use crate::model::{Key, Kind};

/// Flags of `get`.
#[derive(Clone, Debug, Args)]
pub struct GetArgs {
    /// KIND [NAME...], or KIND/NAME..., or `all` for the objects of all kinds.
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

impl GetArgs {
    pub(super) fn is_table(&self) -> bool {
        matches!(self.output, Output::Table | Output::Wide)
    }
}

pub(super) async fn get(args: GetArgs) -> Result<(), Failure> {
    if args.objects.first().is_some_and(|word| word == "all") {
        return all(&args).await;
    }
    let (kind, names) = kind_and_names(&args.objects)?;
    if args.all_namespaces && !names.is_empty() {
        return Err(Failure("an object by its name is in one namespace: use -n".to_owned()));
    }
    if args.watch {
        return watch::watch(&args, kind, names).await;
    }
    let mut client = args.server.connect().await?;
    let mut found = Vec::new();
    if names.is_empty() {
        found = list(&mut client, &args, kind.as_str()).await?;
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
    if found.is_empty() && args.is_table() {
        none(&args, kind.as_str());
        return Ok(());
    }
    print(&show(&args, kind, names.len() == 1, &found))
}

/// The objects of all kinds: a table for each, with names as `get` takes them.
async fn all(args: &GetArgs) -> Result<(), Failure> {
    let kinds = || Kind::ALL.map(|kind| names(kind).first().copied().unwrap_or_default()).join(", ");
    if args.objects.len() > 1 {
        return Err(Failure(format!("`all` takes no names: name one of {} before them", kinds())));
    }
    if args.watch {
        return Err(Failure(format!("a watch follows one kind: name one of {}", kinds())));
    }
    let found = list(&mut args.server.connect().await?, args, "").await?;
    if !args.is_table() {
        // Every kind is shown in the same way.
        return print(&show(args, Kind::Service, false, &found));
    }
    let mut tables = Vec::new();
    for kind in Kind::ALL {
        let columns = Columns::new(kind, args.all_namespaces, args.output == Output::Wide);
        let mut table = Table::new(columns.heads());
        let objects = found.iter().filter(|object| Key::of(object).is_some_and(|key| key.kind == kind));
        let mut is_empty = true;
        for object in objects {
            let mut row = columns.row(&objects::json(object));
            if let Some(name) = row.get_mut(usize::from(args.all_namespaces)) {
                *name = format!("{}/{name}", qualified(kind));
            }
            table.add(row);
            is_empty = false;
        }
        if !is_empty {
            tables.push(table.text());
        }
    }
    if tables.is_empty() {
        none(args, "objects");
    }
    print(&tables.join("\n"))
}

/// Says that there is nothing.
fn none(args: &GetArgs, what: &str) {
    let place = if args.all_namespaces { String::new() } else { format!(" in namespace {:?}", args.namespace.name()) };
    eprintln!("no {what} found{place}");
}

/// All pages of a list; of all kinds, if none is named.
async fn list(client: &mut ControlClient<Channel>, args: &GetArgs, kind: &str) -> Result<Vec<Object>, Failure> {
    let namespace = if args.all_namespaces { "" } else { args.namespace.name() };
    let mut message = ListRequest { kind: kind.to_owned(), namespace: namespace.to_owned(), ..ListRequest::default() };
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

pub(super) fn name(object: &Object) -> String {
    Key::of(object).map(|key| format!("{}/{}\n", qualified(key.kind), key.name.name)).unwrap_or_default()
}

/// As JSON, indented.
pub(super) fn json_text(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}
