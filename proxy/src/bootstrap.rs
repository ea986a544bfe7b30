//! Finding and reading the bootstrap that the command line names.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::Path;

use outrigger_engine::config::access_log::{AccessLog, Sink};
use outrigger_engine::config::bootstrap::Bootstrap;
use outrigger_engine::config::hcm::RouteSource;
use outrigger_engine::config::listener::{FilterChain, NetworkFilter};
use outrigger_engine::config::report::{At, Problem, Report};
use outrigger_engine::config::value::DataSource;
use outrigger_engine::source::{Locator, Source, bootstrap_message};
use outrigger_proto::envoy::config::bootstrap::v3::Bootstrap as Message;

use crate::args::ConfigArgs;
use crate::configuration::resource;

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
    let sources = sources(&texts);
    let bootstrap = Bootstrap::load(&sources).map_err(|problems| lines(&problems))?;
    let report = Report::new();
    read_files(&bootstrap, &report.root());
    let (mut problems, _) = report.into_parts();
    if problems.is_empty() {
        return Ok(bootstrap);
    }
    Locator::new(&sources).locate(&mut problems);
    Err(lines(&problems))
}

/// Reads what a bootstrap only names, in files or in the environment, as it is read once at the start: certificates,
/// keys and trust, and the bodies of direct responses.
pub(crate) fn read_files(bootstrap: &Bootstrap, at: &At<'_>) {
    let at = at.field("static_resources");
    let list = at.field("clusters");
    for (index, cluster) in bootstrap.clusters.iter().enumerate() {
        resource::prepare_cluster(cluster, &list.index(index));
    }
    let list = at.field("listeners");
    for (index, listener) in bootstrap.listeners.iter().enumerate() {
        let at = list.index(index);
        resource::prepare_listener(listener, &at);
        check_access_logs(&listener.access_logs, &at);
        let chains = at.field("filter_chains");
        for (index, chain) in listener.filter_chains.iter().enumerate() {
            read_of_chain(chain, &chains.index(index));
        }
        if let Some(chain) = &listener.default_filter_chain {
            read_of_chain(chain, &at.field("default_filter_chain"));
        }
    }
}

fn read_of_chain(chain: &FilterChain, at: &At<'_>) {
    // A chain has one filter.
    let at = at.field("filters");
    let at = at.index(0);
    let at = at.field("typed_config");
    match &chain.filter {
        NetworkFilter::Http(manager) => {
            check_access_logs(&manager.access_logs, &at);
            if let RouteSource::Inline(table) = &manager.routes {
                table.load_bodies(&read, &at.field("route_config"));
            }
        }
        NetworkFilter::Tcp(proxy) => check_access_logs(&proxy.access_logs, &at),
    }
}

/// Refuses files of access logs that cannot be opened at the start. None is made here: whoever only validates wants no
/// files.
fn check_access_logs(logs: &[AccessLog], at: &At<'_>) {
    let list = at.field("access_log");
    for (index, log) in logs.iter().enumerate() {
        let Sink::File(path, _) = &log.sink else { continue };
        if let Err(reason) = can_be_appended_to(Path::new(&**path)) {
            list.index(index).field("typed_config").field("path").reject(path, reason);
        }
    }
}

fn can_be_appended_to(path: &Path) -> Result<(), String> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Err("is a directory".to_owned()),
        // A pipe would wait for its reader, and a device may do anything: the start will see.
        Ok(found) if !found.is_file() => Ok(()),
        Ok(_) => OpenOptions::new().append(true).open(path).map(drop).map_err(|error| error.to_string()),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.to_string()),
        Err(_) => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            match std::fs::metadata(parent) {
                Ok(found) if found.is_dir() => Ok(()),
                Ok(_) => Err(format!("{} is not a directory", parent.display())),
                Err(error) => Err(format!("{}: {error}", parent.display())),
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

#[cfg(test)]
mod tests {
    use outrigger_engine::source::{Verdict, verdicts};

    use super::*;

    #[test]
    fn a_file_of_an_access_log_that_cannot_be_opened_is_refused_and_none_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().to_str().unwrap();
        std::fs::write(format!("{dir}/file"), "").unwrap();
        let load = |path: &str, log: &str| {
            let yaml = format!(
                r#"
static_resources:
  listeners:
    - address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
      filter_chains:
        - filters:
            - name: tcp
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
                stat_prefix: in
                cluster: app
                {}
      {}
  clusters: [{{ name: app, type: STATIC, connect_timeout: 1s }}]
"#,
                if log == "filter" { access_log(path) } else { String::new() },
                if log == "listener" { access_log(path) } else { String::new() },
            );
            super::load(&ConfigArgs { config_path: None, config_yaml: Some(yaml) }).err().unwrap_or_default()
        };
        for (log, place) in [
            ("filter", "--config-yaml:12:231: static_resources.listeners[0].filter_chains[0].filters[0].typed_config."),
            ("listener", "--config-yaml:13:221: static_resources.listeners[0]."),
        ] {
            let (place, at) = (place.split_once(": ").unwrap().1, place.split_once(":2").unwrap().0);
            for (path, reason) in [
                ("missing/log", format!("{dir}/missing: No such file or directory (os error 2)")),
                ("file/log", "Not a directory (os error 20)".to_owned()),
                ("", "is a directory".to_owned()),
            ] {
                let path = format!("{dir}/{path}");
                let problem = load(&path, log);
                assert!(problem.starts_with(at), "{problem}");
                assert!(
                    problem.ends_with(&format!(": {place}access_log[0].typed_config.path: {path}: {reason}")),
                    "{problem}"
                );
            }
            for path in [format!("{dir}/file"), format!("{dir}/new"), "/dev/null".to_owned(), "/dev/stdout".to_owned()]
            {
                assert_eq!(load(&path, log), "");
            }
        }
        assert_eq!(std::fs::read_dir(dir).unwrap().count(), 1);
    }

    fn access_log(path: &str) -> String {
        let name = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog";
        format!(r#"access_log: [{{ name: log, typed_config: {{ "@type": {name}, path: "{path}" }} }}]"#)
    }

    /// A bootstrap that reads certificates of both sides and a body from files of `DIR`.
    const TEXT: &str = r#"
static_resources:
  listeners:
    - name: in
      address: { socket_address: { address: 127.0.0.1, port_value: 1 } }
      filter_chains:
        - filters:
            - name: http
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: in
                route_config:
                  virtual_hosts:
                    - name: all
                      domains: ["*"]
                      routes:
                        - match: { prefix: / }
                          direct_response:
                            status: 200
                            body: { filename: DIR/body }
                http_filters:
                  - name: router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
          transport_socket:
            name: tls
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
              require_client_certificate: true
              common_tls_context:
                tls_certificates:
                  - certificate_chain: { filename: DIR/one.crt }
                    private_key: { filename: DIR/one.key }
                  - certificate_chain: { filename: DIR/two.crt }
                    private_key: { filename: DIR/two.key }
                validation_context:
                  trusted_ca: { filename: DIR/clients.crt }
  clusters:
    - name: up
      transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
          common_tls_context:
            tls_certificates:
              - certificate_chain: { filename: DIR/up.crt }
                private_key: { filename: DIR/up.key }
            validation_context:
              trusted_ca: { filename: DIR/hosts.crt }
              crl: { filename: DIR/hosts.crl }
"#;

    fn write_good(directory: &Path) {
        let at = |name: &str| directory.join(name);
        for name in ["one", "two", "up"] {
            let made = rcgen::generate_simple_self_signed([format!("{name}.test")]).unwrap();
            std::fs::write(at(&format!("{name}.crt")), made.cert.pem()).unwrap();
            std::fs::write(at(&format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
        }
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new([]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).unwrap().pem();
        for name in ["clients.crt", "hosts.crt"] {
            std::fs::write(at(name), &pem).unwrap();
        }
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2026, 1, 1),
            next_update: rcgen::date_time_ymd(2126, 1, 1),
            crl_number: rcgen::SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let issuer = rcgen::Issuer::new(params, key);
        std::fs::write(at("hosts.crl"), list.signed_by(&issuer).unwrap().pem().unwrap()).unwrap();
        std::fs::write(at("body"), "hello").unwrap();
    }

    /// What is done to a file, its name, the end of the field's path, and a part of the reason.
    type Fault = (fn(&Path), &'static str, &'static str, &'static str);

    fn missing(path: &Path) {
        std::fs::remove_file(path).unwrap();
    }

    fn empty(path: &Path) {
        std::fs::write(path, "").unwrap();
    }

    /// Base64 in the right frame that is nothing of the kind.
    fn rubbish(path: &Path) {
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        std::fs::write(path, format!("{}\nAAEC\n{}\n", lines[0], lines[lines.len() - 1])).unwrap();
    }

    /// A good file of another pair.
    fn anothers(path: &Path) {
        let other = path.with_file_name(if path.ends_with("one.key") { "two.key" } else { "one.key" });
        std::fs::copy(other, path).unwrap();
    }

    fn directory(path: &Path) {
        std::fs::remove_file(path).unwrap();
        std::fs::create_dir(path).unwrap();
    }

    const CHAIN: &str = "listeners[0].filter_chains[0].transport_socket.typed_config.common_tls_context";
    const CLUSTER: &str = "clusters[0].transport_socket.typed_config.common_tls_context";

    const FAULTS: &[Fault] = &[
        (missing, "one.crt", "tls_certificates[0].certificate_chain", "No such file"),
        (directory, "one.crt", "tls_certificates[0].certificate_chain", "Is a directory"),
        (empty, "one.crt", "tls_certificates[0].certificate_chain", "no certificate in it"),
        (rubbish, "one.crt", "tls_certificates[0].certificate_chain", "not X.509"),
        (missing, "two.crt", "tls_certificates[1].certificate_chain", "No such file"),
        (missing, "one.key", "tls_certificates[0].private_key", "No such file"),
        (empty, "one.key", "tls_certificates[0].private_key", "not a PEM private key"),
        (rubbish, "two.key", "tls_certificates[1].private_key", "failed to parse private key"),
        (anothers, "one.key", "tls_certificates[0].private_key", "not the key of the certificate"),
        (anothers, "two.key", "tls_certificates[1].private_key", "not the key of the certificate"),
        (missing, "clients.crt", "validation_context.trusted_ca", "No such file"),
        (empty, "clients.crt", "validation_context.trusted_ca", "no certificate in it"),
        (rubbish, "clients.crt", "validation_context.trusted_ca", "BadEncoding"),
        (missing, "up.crt", "tls_certificates[0].certificate_chain", "No such file"),
        (missing, "up.key", "tls_certificates[0].private_key", "No such file"),
        (anothers, "up.key", "tls_certificates[0].private_key", "not the key of the certificate"),
        (missing, "hosts.crt", "validation_context.trusted_ca", "No such file"),
        (empty, "hosts.crt", "validation_context.trusted_ca", "no certificate in it"),
        (missing, "hosts.crl", "validation_context.crl", "No such file"),
        (empty, "hosts.crl", "validation_context.crl", "no revocation list in it"),
        (rubbish, "hosts.crl", "validation_context.crl", "could not be parsed"),
        (missing, "body", "route_config.virtual_hosts[0].routes[0].direct_response.body", "No such file"),
    ];

    #[test]
    fn every_file_at_fault_is_named_with_field_reason_and_line() {
        let files = tempfile::tempdir().unwrap();
        let text = TEXT.replace("DIR", files.path().to_str().unwrap());
        let load = || {
            let args = ConfigArgs { config_path: None, config_yaml: Some(text.clone()) };
            load(&args).map(|_| ()).map_err(|faults| faults.lines().map(str::to_owned).collect::<Vec<_>>())
        };
        write_good(files.path());
        assert_eq!(load(), Ok(()));
        for &(spoil, file, field, reason) in FAULTS {
            let path = files.path().join(file);
            if path.is_dir() {
                std::fs::remove_dir(&path).unwrap();
            }
            write_good(files.path());
            spoil(&path);
            let faults = load().expect_err(file);
            let [fault] = faults.as_slice() else { panic!("{file}: {faults:#?}") };
            let around = match file {
                "body" => "",
                _ if file.starts_with("up") || file.starts_with("hosts") => CLUSTER,
                _ => CHAIN,
            };
            let line = 1 + text.lines().position(|line| line.contains(path.to_str().unwrap())).unwrap();
            for part in [&format!("--config-yaml:{line}:"), around, field, path.to_str().unwrap(), reason] {
                assert!(fault.contains(part), "{file}: no {part:?} in {fault}");
            }
            // The other way to ask says the same.
            let lines = verdicts(&[Source::new("--config-yaml", &text)], read_files);
            let rejected = lines.iter().filter(|line| matches!(line.verdict, Verdict::Rejected { .. }));
            let rejected: Vec<_> = rejected.map(|line| line.to_string().replacen("rejected: ", "", 1)).collect();
            assert_eq!(rejected, faults);
            if path.is_dir() {
                std::fs::remove_dir(&path).unwrap();
            }
        }
    }
}
