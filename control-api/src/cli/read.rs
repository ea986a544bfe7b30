//! Files of objects: read, checked for form, and kept so that what the control plane says of a field can be shown with
//! its line.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use outrigger_engine::config::report::{Location, Problem, Report};
use outrigger_engine::source::{Document, Schema, Source, documents};
use outrigger_proto::CONTROL_DESCRIPTORS;
use outrigger_proto::outrigger::control::v1::Object;
use tonic_types::StatusExt;

use super::Failure;
use crate::api::objects;
use crate::model::{Key, Kind};

/// The texts of the files that were named.
#[derive(Debug, Default)]
pub(super) struct Texts(Vec<(String, String)>);

impl Texts {
    /// Reads each file, the YAML and JSON files of each directory in the order of their names, and standard input for
    /// `-`. Hidden files of a directory are left out: they are other tools', such as an editor's copies and locks.
    pub(super) fn read(names: &[PathBuf]) -> Result<Self, Failure> {
        let mut texts = Texts::default();
        for name in names {
            if name.as_os_str() == "-" {
                let mut bytes = Vec::new();
                std::io::stdin()
                    .read_to_end(&mut bytes)
                    .map_err(|error| Failure(format!("standard input: {error}")))?;
                texts.0.push(("<stdin>".to_owned(), utf8("<stdin>", bytes)?));
            } else if name.is_dir() {
                for file in files(name)? {
                    texts.add(&file)?;
                }
            } else {
                texts.add(name)?;
            }
        }
        Ok(texts)
    }

    fn add(&mut self, file: &Path) -> Result<(), Failure> {
        let name = file.display().to_string();
        let bytes = std::fs::read(file).map_err(|error| Failure(unread(file, &error)))?;
        let text = utf8(&name, bytes)?;
        self.0.push((name, text));
        Ok(())
    }

    /// The objects in the texts. `namespace`: of those that name none; `done`: what is not done to any of them if one
    /// is wrong.
    ///
    /// Every fault of form is named, with its place.
    pub(super) fn objects(&self, namespace: Option<&str>, done: &'static str) -> Result<Objects<'_>, Failure> {
        let mut found = Objects { read: Vec::new(), namespace: namespace.map(str::to_owned), done };
        let (schema, mut faults) = (Schema::new(CONTROL_DESCRIPTORS), Faults::default());
        for (name, text) in &self.0 {
            match documents(&Source::new(name, text)) {
                Ok(documents) => documents.into_iter().for_each(|document| found.add(document, &schema, &mut faults)),
                Err(problem) => faults.0.push(problem.to_string()),
            }
        }
        faults.check(done)?;
        if found.read.is_empty() {
            let names: Vec<&str> = self.0.iter().map(|(name, _)| name.as_str()).collect();
            return Err(Failure(format!("no objects in {}", names.join(", "))));
        }
        Ok(found)
    }
}

/// The objects of a text, as `apply -f` reads them before it asks the control plane. `name`: of the file.
///
/// # Errors
/// Every fault of form, a line for each, with its place.
pub fn objects(name: &str, text: &str) -> Result<Vec<Object>, Failure> {
    let texts = Texts(vec![(name.to_owned(), text.to_owned())]);
    Ok(texts.objects(None, "applied")?.read.into_iter().map(|read| read.object).collect())
}

/// The text of a file, which has to be UTF-8.
fn utf8(name: &str, bytes: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|error| {
        let (before, bytes) = (error.utf8_error().valid_up_to(), error.as_bytes());
        let good = bytes.get(..before).unwrap_or_default();
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        let start = good.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        // What is good is text.
        let column = String::from_utf8_lossy(good.get(start..).unwrap_or_default()).chars().count() + 1;
        let byte = bytes.get(before).copied().unwrap_or_default();
        Failure(format!("{name}:{line}:{column}: the byte {byte:#04x} is not UTF-8: save the file as UTF-8"))
    })
}

/// Why a file cannot be read. Of a link that leads nowhere the kernel says only that there is no file.
fn unread(file: &Path, error: &std::io::Error) -> String {
    match std::fs::read_link(file) {
        Ok(target) if error.kind() == std::io::ErrorKind::NotFound => {
            format!("{}: is a link to {}, which does not exist", file.display(), target.display())
        }
        _ => format!("{}: {error}", file.display()),
    }
}

fn files(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |error: std::io::Error| Failure(format!("{}: {error}", directory.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if is_hidden || !matches!(extension, Some("yaml" | "yml" | "json")) {
            continue;
        }
        if std::fs::metadata(&path).map_err(|error| Failure(unread(&path, &error)))?.is_file() {
            files.push(path);
        }
    }
    if files.is_empty() {
        let name = directory.display();
        return Err(Failure(format!("{name}: no files *.yaml, *.yml or *.json in it (hidden ones are left out)")));
    }
    files.sort();
    Ok(files)
}

/// What is wrong, a line for each.
#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    /// `shop.yaml:12:7: HTTPRoute default/products: spec.rules[0].name: value: reason`
    fn add(&mut self, location: Option<Location>, object: &str, path: &str, description: &str) {
        let mut line = location.map(|location| format!("{location}: ")).unwrap_or_default();
        for part in [object, path] {
            if !part.is_empty() {
                line.push_str(part);
                line.push_str(": ");
            }
        }
        line.push_str(description);
        self.0.push(line);
    }

    fn check(self, done: &str) -> Result<(), Failure> {
        match self.0.len() {
            0 => Ok(()),
            1 => Err(Failure(format!("{}\nnothing was {done}", self.0.concat()))),
            count => Err(Failure(format!("{count} faults\n{}\nnothing was {done}", self.0.join("\n")))),
        }
    }
}

/// An object with the document that it was read from.
#[derive(Debug)]
pub(super) struct Read<'t> {
    pub(super) key: Key,
    pub(super) object: Object,
    document: Document<'t>,
}

/// Objects in the order of the texts.
#[derive(Debug)]
pub(super) struct Objects<'t> {
    pub(super) read: Vec<Read<'t>>,
    namespace: Option<String>,
    done: &'static str,
}

impl<'t> Objects<'t> {
    fn add(&mut self, document: Document<'t>, schema: &Schema, faults: &mut Faults) {
        let Some(name) = document.scalar("kind") else {
            let known: Vec<&str> = Kind::ALL.into_iter().map(Kind::as_str).collect();
            let reason = format!("is missing: it is one of {}", known.join(", "));
            return faults.add(document.location(""), "", "kind", &reason);
        };
        if name == "List" {
            let elements = document.elements("items").unwrap_or_default();
            return elements.into_iter().for_each(|element| self.add(element, schema, faults));
        }
        let Some(kind) = objects::kind(name) else {
            let reason = Kind::why_not(name, Kind::ALL.into_iter().map(Kind::as_str));
            return faults.add(document.location("kind"), "", "kind", &format!("{name}: {reason}"));
        };
        let report = Report::new();
        let bytes = document.encode(schema, &objects::message_name(kind), &report);
        let problems = report.into_parts().0;
        if !problems.is_empty() {
            let title = kind.as_str();
            for Problem { path, value, reason, location } in problems {
                let description = if value.is_empty() { reason } else { format!("{value}: {reason}") };
                faults.add(location, title, &path, &description);
            }
            return;
        }
        let mut object = match objects::decode(kind, &bytes) {
            Ok(object) => object,
            Err(error) => return faults.add(document.location(""), kind.as_str(), "", &error.to_string()),
        };
        if let Some(namespace) = &self.namespace {
            objects::default_namespace(&mut object, namespace);
        }
        if let Some(key) = Key::of(&object) {
            self.read.push(Read { key, object, document });
        }
    }

    /// What the control plane says is wrong, with the lines where it stands.
    pub(super) fn explain(&self, status: &tonic::Status) -> Failure {
        let violations = status.get_details_bad_request().map(|details| details.field_violations).unwrap_or_default();
        let mut faults = Faults::default();
        // Two objects may say the same of the same field; each is named by its place.
        let mut rest: BTreeMap<String, String> = BTreeMap::new();
        for violation in violations {
            match self.place(&violation.field) {
                Some((read, path)) => {
                    let location = read.document.location(path);
                    faults.add(location, &read.key.to_string(), path, &violation.description);
                }
                None => _ = rest.insert(violation.field, violation.description),
            }
        }
        for (field, description) in rest {
            faults.add(None, "", &field, &description);
        }
        match faults.check(self.done) {
            Err(failure) => failure,
            Ok(()) => status.clone().into(),
        }
    }

    /// The object and the path in it, of `objects[2].httpRoute.spec.rules[0].name`.
    fn place<'p>(&self, field: &'p str) -> Option<(&Read<'t>, &'p str)> {
        let (index, path) = field.strip_prefix("objects[")?.split_once(']')?;
        let read = self.read.get(index.parse::<usize>().ok()?)?;
        let path = path.strip_prefix('.').unwrap_or(path);
        let path = path.strip_prefix(objects::field_name(read.key.kind)).unwrap_or(path);
        Some((read, path.strip_prefix('.').unwrap_or(path)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Texts {
        Texts(vec![("shop.yaml".to_owned(), text.to_owned())])
    }

    #[test]
    fn every_fault_has_its_line_its_path_and_what_was_meant() {
        let text = "\
kind: Servce
---
kind: Service
spec:
  port: 80
---
kind: HTTPRoute
spec: {rules: [{timeouts: {request: 5}}]}
---
metadata: {}
---
kind: TLSRoute
---
kind: Deployment
";
        let Failure(reason) = texts(text).objects(None, "deleted").unwrap_err();
        assert_eq!(
            reason,
            "6 faults
shop.yaml:1:7: kind: Servce: no such kind; did you mean \"Service\"?
shop.yaml:5:3: Service: spec.port: ServiceSpec has no such field; did you mean \"ports\"?
shop.yaml:8:37: HTTPRoute: spec.rules[0].timeouts.request: 5: must be a string: put it in quotes
shop.yaml:10:1: kind: is missing: it is one of Service, Workload, HTTPRoute, ServicePolicy
shop.yaml:12:7: kind: TLSRoute: not in this version; there are Service, Workload, HTTPRoute, ServicePolicy
shop.yaml:14:7: kind: Deployment: no such kind; there are Service, Workload, HTTPRoute, ServicePolicy
nothing was deleted"
        );
    }

    #[test]
    fn what_the_server_refuses_is_shown_with_its_line() {
        let texts =
            texts("kind: List\nitems:\n- kind: Service\n  metadata: {name: a}\n  spec:\n    ports:\n    - port: 0\n");
        let objects = texts.objects(Some("shop"), "applied").unwrap();
        assert_eq!(objects.read[0].key.to_string(), "Service shop/a");
        let mut details = tonic_types::ErrorDetails::new();
        details.add_bad_request_violation("objects[0].service.spec.ports[0].port", "0: must be 1 to 65535");
        let status = tonic::Status::with_error_details(tonic::Code::InvalidArgument, "a field is wrong", details);
        let Failure(reason) = objects.explain(&status);
        assert_eq!(
            reason,
            "shop.yaml:7:13: Service shop/a: spec.ports[0].port: 0: must be 1 to 65535\nnothing was applied"
        );
    }

    #[test]
    fn a_file_that_is_no_utf8_is_named_with_the_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"kind: Service\n# gr\xc3\xbc\xdfe\n").unwrap();
        let Failure(reason) = Texts::read(&[file.path().to_owned()]).unwrap_err();
        let name = file.path().display();
        assert_eq!(reason, format!("{name}:2:6: the byte 0xdf is not UTF-8: save the file as UTF-8"));
    }

    #[test]
    fn a_directory_is_its_yaml_files_by_name() {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("b.yaml", "kind: Service\nmetadata: {name: b}"),
            ("a.json", "{\"kind\": \"Service\", \"metadata\": {\"name\": \"a\"}}"),
            ("c.txt", "x: ["),
            (".b.yaml", "x: ["),
            ("b.yaml~", "x: ["),
        ] {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let texts = Texts::read(&[directory.path().to_owned()]).unwrap();
        let objects = texts.objects(None, "applied").unwrap();
        let keys: Vec<String> = objects.read.iter().map(|read| read.key.to_string()).collect();
        assert_eq!(keys, ["Service default/a", "Service default/b"]);

        // As Emacs locks a file, and as a file that is gone is missed.
        let link = |name: &str| std::os::unix::fs::symlink("nowhere.yaml", directory.path().join(name)).unwrap();
        link(".#b.yaml");
        assert!(Texts::read(&[directory.path().to_owned()]).is_ok());
        link("d.yaml");
        for named in [directory.path().to_owned(), directory.path().join("d.yaml")] {
            let Failure(reason) = Texts::read(&[named]).unwrap_err();
            let name = directory.path().join("d.yaml");
            assert_eq!(reason, format!("{}: is a link to nowhere.yaml, which does not exist", name.display()));
        }
        let empty = tempfile::tempdir().unwrap();
        std::fs::write(empty.path().join(".a.yaml"), "x: [").unwrap();
        let Failure(reason) = Texts::read(&[empty.path().to_owned()]).unwrap_err();
        let name = empty.path().display();
        assert_eq!(reason, format!("{name}: no files *.yaml, *.yml or *.json in it (hidden ones are left out)"));
    }
}
