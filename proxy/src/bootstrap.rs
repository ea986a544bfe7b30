//! Finding and reading the bootstrap that the command line names.

use outrigger_engine::config::bootstrap::Bootstrap;
use outrigger_engine::config::hcm::RouteSource;
use outrigger_engine::config::listener::NetworkFilter;
use outrigger_engine::config::report::{At, Problem, Report};
use outrigger_engine::config::value::DataSource;
use outrigger_engine::source::{Source, bootstrap_message};
use outrigger_proto::envoy::config::bootstrap::v3::Bootstrap as Message;

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
    let bootstrap = Bootstrap::load(&sources(&texts)).map_err(|problems| lines(&problems))?;
    let report = Report::new();
    load_bodies(&bootstrap, &report.root());
    match report.into_parts().0.as_slice() {
        [] => Ok(bootstrap),
        problems => Err(lines(problems)),
    }
}

/// Reads the bodies of direct responses that stand in files or in the environment.
fn load_bodies(bootstrap: &Bootstrap, at: &At<'_>) {
    let at = at.field("static_resources");
    let list = at.field("listeners");
    for (index, listener) in bootstrap.listeners.iter().enumerate() {
        let at = list.index(index);
        for chain in listener.filter_chains.iter().chain(&listener.default_filter_chain) {
            if let NetworkFilter::Http(manager) = &chain.filter {
                let RouteSource::Inline(table) = &manager.routes else { continue };
                table.load_bodies(&read, &at.field("route_config"));
            }
        }
    }
}

/// The bytes of a data source.
pub(crate) fn read(source: &DataSource) -> Result<Vec<u8>, String> {
    match source {
        DataSource::Inline(bytes) => Ok(bytes.to_vec()),
        DataSource::File(path) => std::fs::read(&**path).map_err(|error| format!("{path}: {error}")),
        DataSource::Environment(name) => {
            std::env::var(&**name).map(String::into_bytes).map_err(|error| format!("{name}: {error}"))
        }
    }
}

/// The message itself, read again: nobody keeps it.
pub fn message(args: &ConfigArgs) -> Result<Message, String> {
    let texts = texts(args)?;
    bootstrap_message(&sources(&texts)).map_err(|problems| lines(&problems))
}

fn sources(texts: &[(String, String)]) -> Vec<Source<'_>> {
    texts.iter().map(|(name, text)| Source::new(name, text)).collect()
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
