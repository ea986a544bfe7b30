//! `outrigger apply`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use outrigger_proto::outrigger::control::v1::applied::Outcome;
use outrigger_proto::outrigger::control::v1::{Applied, ApplyRequest};
use prost::Message as _;

use super::read::Texts;
use super::{Failure, NamespaceArgs, ServerArgs, print, qualified, request};
use crate::api::objects;
use crate::model::{Key, Kind};
use crate::serve::LARGEST_MESSAGE;

/// Flags of `apply`.
#[derive(Clone, Debug, Args)]
pub struct ApplyArgs {
    /// A file of objects in YAML or JSON, a directory of such files, or - for standard input. May be given again.
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Check everything and show what would differ; change nothing.
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented by its type")]
    pub namespace: NamespaceArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented by its type")]
    pub server: ServerArgs,
}

pub(super) async fn apply(args: ApplyArgs) -> Result<(), Failure> {
    let texts = Texts::read(&args.files)?;
    let objects = texts.objects(args.namespace.namespace.as_deref(), "applied")?;
    let message =
        ApplyRequest { objects: objects.read.iter().map(|read| read.object.clone()).collect(), dry_run: args.dry_run };
    fits(&message, LARGEST_MESSAGE)?;
    let mut client = args.server.connect().await?;
    let response = client.apply(request(message)).await.map_err(|status| objects.explain(&status))?.into_inner();
    let warnings = response.applied.iter().flat_map(warnings);
    warnings.for_each(|warning| eprintln!("warning: {warning}"));
    print(&response.applied.iter().map(|applied| line(applied, args.dry_run)).collect::<String>())
}

/// What was taken and does not do all that it says: a backend that does not exist yet, a rule that no request reaches.
fn warnings(applied: &Applied) -> BTreeSet<String> {
    let Some((object, key)) = applied.object.as_ref().and_then(|object| Some((object, Key::of(object)?))) else {
        return BTreeSet::new();
    };
    let name = format!("{}/{}", qualified(key.kind), key.name.name);
    let json = objects::json(object);
    let status = &json["status"];
    // No condition can say it: each is at a parent.
    let unattached = key.kind == Kind::HttpRoute && json["spec"]["parentRefs"].as_array().is_none_or(Vec::is_empty);
    let unattached = unattached.then(|| format!("{name}: spec.parentRefs is empty: the route is attached to nothing"));
    let parents = ["parents", "ancestors"].into_iter().filter_map(|list| status[list].as_array()).flatten();
    let holders = parents.chain([status]);
    let conditions = holders.filter_map(|holder| holder["conditions"].as_array()).flatten();
    let suspicious = conditions.filter_map(|condition| {
        let text = |name: &str| condition[name].as_str().unwrap_or_default();
        let (kind, message) = (text("type"), text("message"));
        let is_good = match kind {
            // Its message is what has no effect, or another one than it seems to have.
            "Accepted" | "ResolvedRefs" if text("status") == "True" => message.is_empty(),
            // There because it is so.
            "Shadowed" | "PartiallyInvalid" => text("status") != "True",
            _ => text("status") != "False",
        };
        (!is_good).then(|| format!("{name}: {kind}: {}: {message}", text("reason")))
    });
    suspicious.chain(unattached).collect()
}

/// The transport would end the connection over it.
fn fits(message: &ApplyRequest, most: usize) -> Result<(), Failure> {
    let length = message.encoded_len();
    if length <= most {
        return Ok(());
    }
    let count = message.objects.len();
    Err(Failure(format!(
        "the {count} objects take {length} bytes, and the control plane takes {most} at a time: apply them in several parts, \
         Services first\nnothing was applied"
    )))
}

/// `httproute.gateway.networking.k8s.io/products configured`; in a dry run, what differs below it.
fn line(applied: &Applied, dry_run: bool) -> String {
    let Some(key) = applied.object.as_ref().and_then(Key::of) else { return String::new() };
    let outcome = match applied.outcome() {
        Outcome::Created => "created",
        Outcome::Configured => "configured",
        Outcome::Unchanged | Outcome::Unspecified => "unchanged",
    };
    let mut text = format!("{}/{} {outcome}", qualified(key.kind), key.name.name);
    if !dry_run {
        return text + "\n";
    }
    text.push_str(" (dry run)\n");
    if applied.outcome() == Outcome::Configured {
        for difference in &applied.differences {
            let or_none = |text: &str| if text.is_empty() { "(none)".to_owned() } else { text.to_owned() };
            let (before, after) = (or_none(&difference.before), or_none(&difference.after));
            text.push_str(&format!("  {}: {before} -> {after}\n", difference.path));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_for_a_message_is_said_before_it_is_sent() {
        let message = ApplyRequest { objects: vec![Default::default(); 50], dry_run: false };
        assert!(fits(&message, 100).is_ok());
        let Failure(reason) = fits(&message, 99).unwrap_err();
        assert!(reason.starts_with("the 50 objects take 100 bytes") && reason.contains("in several parts"), "{reason}");
    }
}
