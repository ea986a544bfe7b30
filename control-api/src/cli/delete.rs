//! `outrigger delete`.

use std::path::PathBuf;

use clap::Args;
use outrigger_proto::outrigger::control::v1::{DeleteRequest, Object, ObjectKey};

use super::read::Texts;
use super::{Failure, NamespaceArgs, ServerArgs, kind_and_names, print, qualified, request};
use crate::api::Doomed;
use crate::api::objects::metadata;
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
    let doomed = if args.files.is_empty() {
        let (kind, names) = kind_and_names(&args.objects)?;
        if names.is_empty() {
            return Err(Failure(format!("say which: outrigger delete {} NAME", kind.as_str())));
        }
        let namespace = args.namespace.name();
        let any = |name: &String| Doomed {
            key: Key { kind, name: Name::new(namespace, name) },
            resource_version: String::new(),
        };
        names.iter().map(any).collect()
    } else {
        doomed(&Texts::read(&args.files)?, args.namespace.namespace.as_deref())?
    };
    let wanted = |Doomed { key, resource_version }: &Doomed| ObjectKey {
        kind: key.kind.as_str().to_owned(),
        namespace: key.name.namespace.to_string(),
        name: key.name.name.to_string(),
        resource_version: resource_version.clone(),
    };
    let message = DeleteRequest { keys: doomed.iter().map(wanted).collect(), dry_run: args.dry_run };
    let mut client = args.server.connect().await?;
    client.delete(request(message)).await?;
    let suffix = if args.dry_run { " (dry run)" } else { "" };
    let line = |Doomed { key, .. }: &Doomed| format!("{}/{} deleted{suffix}\n", qualified(key.kind), key.name.name);
    print(&doomed.iter().map(line).collect::<String>())
}

/// The objects of files. A `resourceVersion` that stands there has to be the one in force.
fn doomed(texts: &Texts, namespace: Option<&str>) -> Result<Vec<Doomed>, Failure> {
    let objects = texts.objects(namespace, "deleted")?;
    let version =
        |object: &Object| metadata(object).and_then(|metadata| metadata.resource_version.clone()).unwrap_or_default();
    let mut doomed: Vec<Doomed> = objects
        .read
        .into_iter()
        .map(|read| Doomed { resource_version: version(&read.object), key: read.key })
        .collect();
    // What routes to a Service goes before it.
    doomed.sort_by_key(|doomed| std::cmp::Reverse(order(doomed.key.kind)));
    Ok(doomed)
}

fn order(kind: Kind) -> usize {
    Kind::ALL.into_iter().position(|other| other == kind).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_in_a_file_has_to_be_the_one_in_force() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text =
            "kind: Service\nmetadata: {name: a, resourceVersion: '7'}\n---\nkind: HTTPRoute\nmetadata: {name: b}\n";
        std::fs::write(file.path(), text).unwrap();
        let doomed = doomed(&Texts::read(&[file.path().to_owned()]).unwrap(), None).unwrap();
        let versions: Vec<_> =
            doomed.iter().map(|doomed| (doomed.key.to_string(), doomed.resource_version.as_str())).collect();
        assert_eq!(versions, [("HTTPRoute default/b".to_owned(), ""), ("Service default/a".to_owned(), "7")]);
    }
}
