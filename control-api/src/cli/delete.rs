//! `outrigger delete`.

use std::path::PathBuf;

use clap::Args;
use outrigger_proto::outrigger::control::v1::{DeleteRequest, ObjectKey};

use super::read::Texts;
use super::{Failure, NamespaceArgs, ServerArgs, kind_and_names, print, qualified, request};
use crate::model::{Key, Kind, Name};

/// Flags of `delete`.
#[derive(Clone, Debug, Args)]
pub struct DeleteArgs {
    /// KIND NAME..., or KIND/NAME...
    #[arg(value_name = "KIND NAME", required_unless_present = "files", conflicts_with = "files")]
    pub objects: Vec<String>,
    /// The objects in a file, in the files of a directory, or in standard input (-). May be given again.
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Say what would be deleted; delete nothing.
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented by its type")]
    pub namespace: NamespaceArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented by its type")]
    pub server: ServerArgs,
}

pub(super) async fn delete(args: DeleteArgs) -> Result<(), Failure> {
    let keys = if args.files.is_empty() {
        let (kind, names) = kind_and_names(&args.objects)?;
        if names.is_empty() {
            return Err(Failure(format!("say which: outrigger delete {} NAME", kind.as_str())));
        }
        let namespace = args.namespace.name();
        names.iter().map(|name| Key { kind, name: Name::new(namespace, name) }).collect()
    } else {
        keys(&args)?
    };
    let wanted = |key: &Key| ObjectKey {
        kind: key.kind.as_str().to_owned(),
        namespace: key.name.namespace.to_string(),
        name: key.name.name.to_string(),
        resource_version: String::new(),
    };
    let message = DeleteRequest { keys: keys.iter().map(wanted).collect(), dry_run: args.dry_run };
    let mut client = args.server.connect().await?;
    client.delete(request(message)).await?;
    let suffix = if args.dry_run { " (dry run)" } else { "" };
    let line = |key: &Key| format!("{}/{} deleted{suffix}\n", qualified(key.kind), key.name.name);
    print(&keys.iter().map(line).collect::<String>())
}

fn keys(args: &DeleteArgs) -> Result<Vec<Key>, Failure> {
    let texts = Texts::read(&args.files)?;
    let objects = texts.objects(args.namespace.namespace.as_deref(), "deleted")?;
    let mut keys: Vec<Key> = objects.read.into_iter().map(|read| read.key).collect();
    // What routes to a Service goes before it.
    keys.sort_by_key(|key| std::cmp::Reverse(order(key.kind)));
    Ok(keys)
}

fn order(kind: Kind) -> usize {
    Kind::ALL.into_iter().position(|other| other == kind).unwrap_or_default()
}
