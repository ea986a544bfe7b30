//! Makes `proto/xds.fds` from the descriptor set inside the package envoy-types: the messages, enumerations and
//! services reachable from `proto/roots.txt`, without comments, options and everything else that no generated type
//! and no JSON conversion needs. A pool of the pruned set costs 10 MB while it lives, the whole one 49 MB.
//!
//! `cargo run -p outrigger-proto-prune` writes the file; with `--check` it only compares, and ends with 1 if it is not
//! what the roots say.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use prost::Message;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumOptions, FieldOptions, FileDescriptorSet, MessageOptions,
    ServiceDescriptorProto,
};

fn main() -> anyhow::Result<ExitCode> {
    let check = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--check") => true,
        Some(other) => bail!("unknown argument {other:?}; the only one is --check"),
    };
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let roots = std::fs::read_to_string(proto.join("roots.txt")).context("proto/roots.txt")?;
    let source = source_set()?;
    let set = FileDescriptorSet::decode(std::fs::read(&source)?.as_slice()).context("descriptor set of envoy-types")?;
    let pruned = prune(set, roots.lines().map(str::trim).filter(|line| !line.is_empty()))?.encode_to_vec();
    let target = proto.join("xds.fds");
    if check {
        if std::fs::read(&target).context("proto/xds.fds")? == pruned {
            return Ok(ExitCode::SUCCESS);
        }
        eprintln!("proto/xds.fds is not what proto/roots.txt says; run: cargo run -p outrigger-proto-prune");
        return Ok(ExitCode::FAILURE);
    }
    std::fs::write(&target, &pruned)?;
    println!("proto/xds.fds: {} bytes", pruned.len());
    Ok(ExitCode::SUCCESS)
}

/// Where cargo unpacked the package that carries the full descriptor set.
fn source_set() -> anyhow::Result<PathBuf> {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .context("cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let manifest = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "envoy-types")
        .and_then(|package| package["manifest_path"].as_str())
        .context("envoy-types is not among the packages of Cargo.lock")?;
    Ok(Path::new(manifest).with_file_name("src").join("generated").join("types.bin"))
}

fn prune<'a>(mut set: FileDescriptorSet, roots: impl Iterator<Item = &'a str>) -> anyhow::Result<FileDescriptorSet> {
    for file in &mut set.file {
        file.source_code_info = None;
        file.options = None;
        file.extension.clear();
        file.message_type.iter_mut().for_each(strip_message);
        file.enum_type.iter_mut().for_each(strip_enum);
        file.service.iter_mut().for_each(strip_service);
    }
    let mut messages = HashMap::new();
    let mut services = HashMap::new();
    for file in &set.file {
        let package = format!(".{}", file.package());
        file.message_type.iter().for_each(|message| index(&package, message, &mut messages));
        services.extend(file.service.iter().map(|service| (format!("{package}.{}", service.name()), service)));
    }

    let mut wanted = Vec::new();
    let mut kept_services = HashSet::new();
    for root in roots {
        let before = wanted.len();
        if let Some(package) = root.strip_suffix(".*") {
            let prefix = format!(".{package}.");
            wanted.extend(messages.keys().filter(|name| name.starts_with(&prefix)).cloned());
        } else if messages.contains_key(&format!(".{root}")) {
            wanted.push(format!(".{root}"));
        } else if let Some(service) = services.get(&format!(".{root}")) {
            kept_services.insert(format!(".{root}"));
            for method in &service.method {
                wanted.push(method.input_type().to_owned());
                wanted.push(method.output_type().to_owned());
            }
        }
        if wanted.len() == before {
            bail!("proto/roots.txt: nothing is named {root}");
        }
    }
    let mut kept = HashSet::new();
    while let Some(name) = wanted.pop() {
        if kept.insert(name.clone())
            && let Some(message) = messages.get(&name)
        {
            wanted.extend(message.field.iter().filter_map(|field| field.type_name.clone()));
        }
    }

    for file in &mut set.file {
        let package = format!(".{}", file.package());
        file.message_type.retain_mut(|message| keep_message(&package, message, &kept));
        file.enum_type.retain(|e| kept.contains(&format!("{package}.{}", e.name())));
        file.service.retain(|service| kept_services.contains(&format!("{package}.{}", service.name())));
    }
    let empty: HashSet<String> = set
        .file
        .iter()
        .filter(|file| file.message_type.is_empty() && file.enum_type.is_empty() && file.service.is_empty())
        .map(|file| file.name().to_owned())
        .collect();
    set.file.retain(|file| !empty.contains(file.name()));
    for file in &mut set.file {
        file.dependency.retain(|dependency| !empty.contains(dependency));
        file.public_dependency.clear();
        file.weak_dependency.clear();
    }
    Ok(set)
}

fn index<'a>(prefix: &str, message: &'a DescriptorProto, all: &mut HashMap<String, &'a DescriptorProto>) {
    let name = format!("{prefix}.{}", message.name());
    message.nested_type.iter().for_each(|nested| index(&name, nested, all));
    all.insert(name, message);
}

/// A message that is only the scope of a kept one stays, without its fields.
fn keep_message(prefix: &str, message: &mut DescriptorProto, kept: &HashSet<String>) -> bool {
    let name = format!("{prefix}.{}", message.name());
    message.nested_type.retain_mut(|nested| keep_message(&name, nested, kept));
    message.enum_type.retain(|e| kept.contains(&format!("{name}.{}", e.name())));
    if kept.contains(&name) {
        return true;
    }
    message.field.clear();
    message.oneof_decl.clear();
    !message.nested_type.is_empty() || !message.enum_type.is_empty()
}

fn strip_message(message: &mut DescriptorProto) {
    message.options = message
        .options
        .take()
        .filter(|options| options.map_entry.is_some())
        .map(|options| MessageOptions { map_entry: options.map_entry, ..Default::default() });
    message.reserved_name.clear();
    message.reserved_range.clear();
    for field in &mut message.field {
        field.json_name = None;
        field.options = field
            .options
            .take()
            .filter(|options| options.packed.is_some())
            .map(|options| FieldOptions { packed: options.packed, ..Default::default() });
    }
    message.oneof_decl.iter_mut().for_each(|oneof| oneof.options = None);
    message.enum_type.iter_mut().for_each(strip_enum);
    message.nested_type.iter_mut().for_each(strip_message);
}

fn strip_enum(e: &mut EnumDescriptorProto) {
    e.options = e
        .options
        .take()
        .filter(|options| options.allow_alias.is_some())
        .map(|options| EnumOptions { allow_alias: options.allow_alias, ..Default::default() });
    e.reserved_name.clear();
    e.reserved_range.clear();
    e.value.iter_mut().for_each(|value| value.options = None);
}

fn strip_service(service: &mut ServiceDescriptorProto) {
    service.options = None;
    service.method.iter_mut().for_each(|method| method.options = None);
}
