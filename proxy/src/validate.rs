//! `outrigger-proxy validate`: what becomes of every field of a bootstrap.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use outrigger_engine::source::{Source, Verdict, verdicts};

use crate::bootstrap::read_files;

/// Says for every field of the bootstrap whether it is used, harmless (and why) or rejected (and why), with its line
/// and column. The exit code is 1 if a field is rejected, or if there is nothing to read.
pub fn validate(config_path: Option<&Path>, config_yaml: Option<&str>) -> ExitCode {
    let mut out = io::stdout().lock();
    match write_verdicts(config_path, config_yaml, &mut out) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Whoever listened has gone, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(error) => {
            _ = writeln!(io::stderr(), "outrigger-proxy: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes a line for each field and a summary. Says whether the bootstrap is accepted.
fn write_verdicts(config_path: Option<&Path>, config_yaml: Option<&str>, out: &mut impl Write) -> io::Result<bool> {
    let file = config_path.map(|path| Ok((path.display().to_string(), read(path)?))).transpose();
    let file = file.map_err(|error: io::Error| {
        let path = config_path.unwrap_or(Path::new("")).display();
        io::Error::new(error.kind(), format!("cannot read {path}: {error}"))
    })?;
    let mut sources = Vec::new();
    sources.extend(file.as_ref().map(|(name, text)| Source::new(name, text)));
    sources.extend(config_yaml.map(|text| Source::new("--config-yaml", text)));
    if sources.is_empty() {
        return Err(io::Error::other("nothing to validate: give -c FILE or --config-yaml"));
    }
    let (mut used, mut harmless, mut rejected) = (0u32, 0u32, 0u32);
    let mut out = io::BufWriter::new(out);
    for line in verdicts(&sources, read_files) {
        writeln!(out, "{line}")?;
        let count = match line.verdict {
            Verdict::Used => &mut used,
            Verdict::Harmless(_) => &mut harmless,
            Verdict::Rejected { .. } => &mut rejected,
        };
        *count = count.saturating_add(1);
    }
    let summary = if rejected == 0 { "accepted" } else { "refused" };
    writeln!(out, "{summary}: {used} fields used, {harmless} harmless, {rejected} rejected")?;
    out.flush()?;
    Ok(rejected == 0)
}

fn read(path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(path: Option<&Path>, yaml: Option<&str>) -> (bool, String) {
        let mut out = Vec::new();
        let accepted = write_verdicts(path, yaml, &mut out).unwrap();
        (accepted, String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_rejected_field_makes_the_bootstrap_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "node: {id: x}\n").unwrap();
        let name = file.path().display();
        let (accepted, text) = run(Some(file.path()), None);
        assert!(accepted);
        assert_eq!(text, format!("{name}:1:12: used: node.id\naccepted: 1 fields used, 0 harmless, 0 rejected\n"));

        let (accepted, text) = run(Some(file.path()), Some("flags_path: /x"));
        assert!(!accepted);
        assert!(text.contains("--config-yaml:1:13: rejected: flags_path: not in this version\n"), "{text}");
        assert!(text.ends_with("refused: 1 fields used, 0 harmless, 1 rejected\n"), "{text}");
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        assert!(write_verdicts(Some(Path::new("/nonexistent")), None, &mut Vec::new()).is_err());
        assert!(write_verdicts(None, None, &mut Vec::new()).is_err());
    }
}
