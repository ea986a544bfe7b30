//! Finding and reading the bootstrap that the command line names.

use std::sync::Arc;

use outrigger_engine::config::bootstrap::Bootstrap;
use outrigger_engine::source::Source;

use crate::args::ConfigArgs;

/// The texts of the bootstrap, each with its name.
pub fn texts(args: &ConfigArgs) -> Result<Vec<(String, String)>, String> {
    let mut texts = Vec::new();
    if let Some(path) = &args.config_path {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        texts.push((path.display().to_string(), text));
    }
    if let Some(yaml) = &args.config_yaml {
        texts.push(("--config-yaml".to_owned(), yaml.clone()));
    }
    if texts.is_empty() {
        return Err("no bootstrap: give one by -c FILE or --config-yaml YAML".to_owned());
    }
    Ok(texts)
}

/// Reads and validates the bootstrap. On failure every fault, one a line.
pub fn load(args: &ConfigArgs) -> Result<Bootstrap, String> {
    let texts = texts(args)?;
    let sources: Vec<Source<'_>> = texts.iter().map(|(name, text)| Source { name: Arc::from(&**name), text }).collect();
    Bootstrap::load(&sources)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

/// The message itself, read again: nobody keeps it.
pub fn message(args: &ConfigArgs) -> Result<outrigger_proto::envoy::config::bootstrap::v3::Bootstrap, String> {
    _ = texts(args)?;
    Err("not kept".into())
}
