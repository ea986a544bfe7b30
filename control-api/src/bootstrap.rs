//! `outrigger bootstrap`: the file that a proxy starts from, ours or Envoy.
//!
//! It says who the proxy is and where the control plane is; everything else comes from there. What the application
//! calls and serves stands in the node's metadata: see [`crate::node`].

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use clap::Args;
use prost_types::value::Kind;
use prost_types::{Struct, Value};

use crate::model::value::dns_label;
use crate::model::{DEFAULT_NAMESPACE, Name};
use crate::node::{self, Clash, Inbound, NodeConfig, To};
use crate::serve::Address;
use crate::tls::ClientTlsArgs;

/// Flags of `outrigger bootstrap`.
#[derive(Clone, Debug, Args)]
pub struct BootstrapArgs {
    /// The Service that the application is an instance of.
    #[arg(long, value_name = "NAME")]
    pub service: String,
    /// Its namespace.
    #[arg(short = 'n', long, value_name = "NAMESPACE", default_value = DEFAULT_NAMESPACE)]
    pub namespace: String,
    /// A port of the application: where callers come in, and where the application listens. PORT alone is on every
    /// address of IPv4; for IPv6 add one with `[::]:PORT`.
    #[arg(long, value_name = "[ADDRESS:]PORT=ADDRESS:PORT")]
    pub inbound: Vec<Inbound>,
    /// A Service that the application calls, and the address where it does. Without a port: the first one of the
    /// Service.
    #[arg(long, value_name = "[NAMESPACE/]SERVICE[:PORT]=ADDRESS:PORT")]
    pub to: Vec<To>,
    /// The control plane: HOST:PORT or unix:PATH.
    #[arg(long, alias = "control-plane", value_name = "ADDR", default_value = crate::DEFAULT_SERVER)]
    pub control: Address,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented by its type")]
    pub tls: ClientTlsArgs,
    /// Where the proxy serves its admin pages.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:15000")]
    pub admin: SocketAddr,
    /// The proxy's name, unique among all; else made of the Service, the port of the first --inbound (or --to) and the name of
    /// this machine.
    #[arg(long, value_name = "NAME")]
    pub id: Option<String>,
}

/// The bootstrap as YAML.
///
/// # Errors
/// What is wrong with the flags together.
pub fn bootstrap(args: BootstrapArgs) -> Result<String, String> {
    let BootstrapArgs { service, namespace, inbound, to, control, tls, admin, id } = args;
    check_names(&service, &namespace, &to)?;
    check_addresses(&inbound, &to, admin)?;
    if id.as_ref().is_some_and(String::is_empty) {
        return Err("--id must not be empty: leave it out to have one made".to_owned());
    }
    let id = id.unwrap_or_else(|| default_id(&service, &inbound, &to));
    let config = NodeConfig { service: Name::new(&namespace, &service), inbound, to };
    let mut metadata = String::new();
    write_struct(&mut metadata, &config.metadata(), 4);
    let (kind, endpoint) = control_plane(&control)?;
    let socket = transport_socket(&tls.or_environment(), &control)?;
    Ok(format!(
        "# Made by `outrigger bootstrap`. Everything else comes from the control plane.
node:
  id: {id}
  cluster: {cluster}
  metadata:
{metadata}admin:
  address:
    socket_address: {{ address: {admin_address}, port_value: {admin_port} }}
dynamic_resources:
  ads_config:
    api_type: DELTA_GRPC
    transport_api_version: V3
    grpc_services:
      - envoy_grpc: {{ cluster_name: xds }}
  # Not ready before the control plane has said what there is, however long that takes.
  cds_config: {{ ads: {{}}, initial_fetch_timeout: 0s, resource_api_version: V3 }}
  lds_config: {{ ads: {{}}, initial_fetch_timeout: 0s, resource_api_version: V3 }}
static_resources:
  clusters:
    - name: xds
      type: {kind}
      connect_timeout: 1s
{socket}      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config:
            # A control plane that went away without a word is noticed.
            http2_protocol_options: {{ connection_keepalive: {{ interval: 30s, timeout: 5s }} }}
      load_assignment:
        cluster_name: xds
        endpoints:
          - lb_endpoints:
              - endpoint:
                  address:
                    {endpoint}
",
        id = quoted(&id),
        cluster = quoted(&service),
        admin_address = quoted(&admin.ip().to_string()),
        admin_port = admin.port(),
    ))
}

/// What `apply` would never take names no Service.
fn check_names(service: &str, namespace: &str, to: &[To]) -> Result<(), String> {
    let name = |flag: &str, text: &str| dns_label(text).map_err(|reason| format!("{flag}: {text:?} {reason}"));
    name("--service", service)?;
    name("--namespace", namespace)?;
    for to in to {
        let flag = format!("--to {to}");
        name(&flag, &to.service)?;
        to.namespace.as_deref().map_or(Ok(()), |namespace| name(&flag, namespace))?;
        match to.port.as_deref().map(|port| (port, port.parse::<u32>())) {
            Some((port, Ok(number))) if !(1..=65535).contains(&number) => {
                return Err(format!("{flag}: port {port} must be 1 to 65535"));
            }
            Some((port, Err(_))) => name(&flag, port)?,
            _ => {}
        }
    }
    Ok(())
}

/// Only the admin's port may be 0: of others nobody would know which port they got.
fn check_addresses(inbound: &[Inbound], to: &[To], admin: SocketAddr) -> Result<(), String> {
    let admin = (admin.port() != 0).then_some(admin);
    let Some(clash) = node::clash(inbound, to, admin) else { return Ok(()) };
    Err(match clash {
        Clash::Inbound(place, reason) => {
            format!("--inbound {}: {reason}", inbound.get(place).map(Inbound::to_string).unwrap_or_default())
        }
        Clash::To(place, reason) => format!("--to {}: {reason}", to.get(place).map(To::to_string).unwrap_or_default()),
    })
}

/// Type and address of the cluster.
fn control_plane(control: &Address) -> Result<(&'static str, String), String> {
    match control {
        Address::Unix(path) => {
            let path = absolute(path)?;
            Ok(("STATIC", format!("pipe: {{ path: {} }}", quoted(&path))))
        }
        Address::Tcp(address) => {
            let (_, port) = address.rsplit_once(':').ok_or("--control must be HOST:PORT or unix:PATH")?;
            let host = host_of(address);
            let kind = if host.parse::<IpAddr>().is_ok() { "STATIC" } else { "STRICT_DNS" };
            Ok((kind, format!("socket_address: {{ address: {}, port_value: {port} }}", quoted(host))))
        }
    }
}

/// A path as the proxy finds it, wherever it is started.
fn absolute(path: &Path) -> Result<String, String> {
    let absolute = std::path::absolute(path).ok();
    let text = absolute.as_deref().and_then(Path::to_str);
    text.map(str::to_owned).ok_or_else(|| format!("{}: the path is not text", path.display()))
}

/// TLS to the control plane, where it is asked for. The files are read by the proxy.
fn transport_socket(tls: &ClientTlsArgs, control: &Address) -> Result<String, String> {
    tls.check()?;
    let Some(authorities) = &tls.tls_ca else { return Ok(String::new()) };
    let Address::Tcp(address) = control else {
        return Err("--tls-ca is for TCP: a socket file is for its owner alone".to_owned());
    };
    let file = |path: &Path| absolute(path).map(|path| format!("{{ filename: {} }}", quoted(&path)));
    let name = tls.tls_server_name.as_deref().unwrap_or_else(|| host_of(address));
    // An address is no name that a client may ask for.
    let (sni, kind) = match name.parse::<IpAddr>() {
        Ok(_) => (String::new(), "IP_ADDRESS"),
        Err(_) => (format!("          sni: {}\n", quoted(name)), "DNS"),
    };
    let mut text = format!(
        "      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
{sni}          common_tls_context:
            alpn_protocols: [h2]
"
    );
    if let (Some(cert), Some(key)) = (&tls.tls_cert, &tls.tls_key) {
        let (cert, key) = (file(cert)?, file(key)?);
        // Writing to a String cannot fail.
        _ = writeln!(text, "            tls_certificates:\n              - certificate_chain: {cert}");
        _ = writeln!(text, "                private_key: {key}");
    }
    let (authorities, name) = (file(authorities)?, quoted(name));
    _ = writeln!(text, "            validation_context:\n              trusted_ca: {authorities}");
    _ = writeln!(text, "              match_typed_subject_alt_names:");
    _ = writeln!(text, "                - {{ san_type: {kind}, matcher: {{ exact: {name} }} }}");
    Ok(text)
}

/// The host of `HOST:PORT`, an address of IPv6 without its brackets.
pub(crate) fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// Two proxies of a machine listen at different ports.
fn default_id(service: &str, inbound: &[Inbound], to: &[To]) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let listen = inbound.first().map(|inbound| inbound.listen).or_else(|| to.first().map(|to| to.listen));
    let port = listen.map(|listen| format!("-{}", listen.port())).unwrap_or_default();
    format!("{service}{port}@{}", host.trim())
}

/// Texts, lists of texts and such structures, as a block.
fn write_struct(out: &mut String, message: &Struct, indent: usize) {
    for (key, value) in &message.fields {
        // Writing to a String cannot fail.
        _ = write!(out, "{:indent$}{}:", "", key);
        match &value.kind {
            Some(Kind::StructValue(inner)) => {
                out.push('\n');
                write_struct(out, inner, indent + 2);
            }
            Some(Kind::ListValue(list)) if list.values.is_empty() => out.push_str(" []\n"),
            Some(Kind::ListValue(list)) => {
                out.push('\n');
                for value in &list.values {
                    _ = writeln!(out, "{:indent$}  - {}", "", quoted(text(value)));
                }
            }
            _ => _ = writeln!(out, " {}", quoted(text(value))),
        }
    }
}

fn text(value: &Value) -> &str {
    match &value.kind {
        Some(Kind::StringValue(text)) => text,
        _ => "",
    }
}

/// A text in double quotes, as JSON and YAML have it alike.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use outrigger_engine::config::bootstrap::Bootstrap;
    use outrigger_engine::source::{Source, bootstrap_message};

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        args: BootstrapArgs,
    }

    fn made(flags: &str) -> Result<String, String> {
        let flags = Flags::try_parse_from(std::iter::once("bootstrap").chain(flags.split_whitespace()));
        bootstrap(flags.map_err(|error| error.to_string())?.args)
    }

    #[test]
    fn a_bootstrap_says_who_and_where() {
        let yaml = made(
            "--service orders -n shop --id orders-1 --inbound 8080=127.0.0.1:9080 --to users=127.0.0.1:9101 \
             --to other/products:http=127.0.0.1:9102 --control control.test:15010 --admin [::1]:9901",
        )
        .unwrap();
        let message = bootstrap_message(&[Source::new("made", &yaml)]).unwrap();
        let node = message.node.unwrap();
        assert_eq!((node.id.as_str(), node.cluster.as_str()), ("orders-1", "orders"));
        let config = NodeConfig::of(&node).unwrap().unwrap();
        assert_eq!(config.service, Name::new("shop", "orders"));
        assert_eq!(config.inbound, ["8080=127.0.0.1:9080".parse().unwrap()]);
        let to = ["users=127.0.0.1:9101", "other/products:http=127.0.0.1:9102"];
        assert_eq!(config.to, to.map(|text| text.parse().unwrap()));
        assert!(Bootstrap::load(&[Source::new("made", &yaml)]).is_ok(), "{yaml}");
        // Else the start would go on without listeners after a while, and say that it is ready.
        let dynamic = message.dynamic_resources.unwrap();
        for source in [dynamic.cds_config, dynamic.lds_config] {
            assert_eq!(source.unwrap().initial_fetch_timeout, Some(Default::default()));
        }
        for part in
            ["type: STRICT_DNS", "address: \"control.test\", port_value: 15010", "address: \"::1\", port_value: 9901"]
        {
            assert!(yaml.contains(part), "{part}\n{yaml}");
        }
    }

    #[test]
    fn the_control_plane_may_be_a_socket_file() {
        let yaml = made("--service orders --control unix:/run/outrigger.sock").unwrap();
        assert!(yaml.contains("pipe: { path: \"/run/outrigger.sock\" }"), "{yaml}");
        assert!(bootstrap_message(&[Source::new("made", &yaml)]).is_ok());
        // The proxy may be started elsewhere.
        let yaml = made("--service orders --control unix:outrigger.sock").unwrap();
        let here = std::env::current_dir().unwrap();
        assert!(yaml.contains(&format!("pipe: {{ path: \"{}/outrigger.sock\" }}", here.display())), "{yaml}");
        let yaml = made("--service orders --control [::1]:1").unwrap();
        assert!(yaml.contains("type: STATIC") && yaml.contains("address: \"::1\", port_value: 1 "), "{yaml}");
    }

    #[test]
    fn the_control_plane_may_be_called_by_tls() {
        let tls = "--tls-ca /ca.pem --tls-cert /c.pem --tls-key /k.pem";
        for (control, parts) in [
            ("control.test:15010", ["sni: \"control.test\"", "san_type: DNS, matcher: { exact: \"control.test\" }"]),
            (
                "[::1]:15010",
                ["trusted_ca: { filename: \"/ca.pem\" }", "san_type: IP_ADDRESS, matcher: { exact: \"::1\" }"],
            ),
            ("10.0.0.1:1 --tls-server-name control.test", ["sni: \"control.test\"", "exact: \"control.test\""]),
        ] {
            let yaml = made(&format!("--service orders --control {control} {tls}")).unwrap();
            for part in parts {
                assert!(yaml.contains(part), "{part}\n{yaml}");
            }
            assert!(bootstrap_message(&[Source::new("made", &yaml)]).is_ok(), "{yaml}");
        }
    }

    #[test]
    fn one_port_on_several_addresses_is_no_fault() {
        for flags in [
            "--inbound 127.0.0.1:1=127.0.0.2:1 --to a=127.0.0.3:1",
            "--inbound 1=[::1]:1",
            "--to a:http=127.0.0.1:1 --admin 127.0.0.1:0",
        ] {
            assert!(made(&format!("--service orders {flags}")).is_ok(), "{flags}");
        }
    }

    #[test]
    fn flags_that_cannot_stand_together() {
        for (flags, reason) in [
            ("--service orders --to a=127.0.0.1:1 --to b=127.0.0.1:1", "127.0.0.1:1 is listened on twice"),
            ("--service orders --inbound 127.0.0.1:15000=127.0.0.1:1", "127.0.0.1:15000 is listened on twice"),
            (
                "--service orders --inbound 1=127.0.0.1:2 --to b=127.0.0.1:1",
                "127.0.0.1:1 is listened on twice, by 0.0.0.0:1 too",
            ),
            ("--service orders --inbound 8080=127.0.0.1:8080", "the proxy itself listens on 0.0.0.0:8080"),
            ("--service orders --inbound 127.0.0.1:1=0.0.0.0:1", "the proxy itself listens on 127.0.0.1:1"),
            (
                "--service orders --inbound 1=127.0.0.1:2 --inbound 2=127.0.0.1:3",
                "the proxy itself listens on 0.0.0.0:2",
            ),
            ("--service orders --inbound 1=127.0.0.1:15000", "the proxy itself listens on 127.0.0.1:15000"),
            ("--service orders --inbound 0=127.0.0.1:1", "a port must be 1 to 65535"),
            ("--service orders --inbound 1=127.0.0.1:0", "a port must be 1 to 65535"),
            ("--service orders --to a=127.0.0.1:0", "a port must be 1 to 65535"),
            ("--service orders --to a:0=127.0.0.1:1", "port 0 must be 1 to 65535"),
            ("--service orders --to a:99999=127.0.0.1:1", "port 99999 must be 1 to 65535"),
            ("--service orders --to a:WEB=127.0.0.1:1", "\"WEB\" must be 1 to 63 lower case letters"),
            ("--service orders --to WEB!=127.0.0.1:1", "\"WEB!\" must be 1 to 63 lower case letters"),
            ("--service orders --to Shop/a=127.0.0.1:1", "\"Shop\" must be 1 to 63 lower case letters"),
            ("--service a\"b", "--service: \"a\\\"b\" must be 1 to 63 lower case letters"),
            ("--service=", "--service: \"\" must be 1 to 63 lower case letters"),
            ("--service orders -n Shop", "--namespace: \"Shop\" must be"),
            ("--service orders --id=", "--id must not be empty"),
            ("--service orders --to a=1", "is not an address and a port"),
            ("--to a=127.0.0.1:1", "--service <NAME>"),
            ("--service orders --tls-cert /c.pem", "--tls-cert and --tls-key go together"),
            ("--service orders --tls-server-name a", "say by --tls-ca"),
            ("--service orders --control unix:/a --tls-ca /ca.pem", "--tls-ca is for TCP"),
            (
                "--service orders --control http://127.0.0.1:1",
                "HOST:PORT or unix:PATH: write 127.0.0.1:1, without http://",
            ),
        ] {
            let error = made(flags).unwrap_err();
            assert!(error.contains(reason), "{flags}: {error}");
        }
    }
}
