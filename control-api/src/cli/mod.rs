//! The command line: `outrigger serve`, and the commands of whoever uses it. These are a thin client of the control
//! API: what they can do, any gRPC client can.

mod apply;
mod connect;
mod delete;
mod describe;
mod get;
mod proxies;
mod proxies_watch;
mod read;
mod table;
mod watch;
mod yaml;

use std::error::Error;
use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Parser, Subcommand, ValueEnum};
use outrigger_proto::outrigger::control::v1::Object;
use tonic::{Code, TimeoutExpired};

pub use self::connect::ServerArgs;
pub use self::read::objects;
use crate::bootstrap::BootstrapArgs;
use crate::model::{DEFAULT_NAMESPACE, Kind};
use crate::serve::ServeArgs;

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The control plane of a service mesh, and its command line.
///
/// Objects are those of Kubernetes and of the Gateway API (Service, HTTPRoute), and a few of our own (Workload,
/// ServicePolicy): `outrigger apply -f FILE` takes their YAML as it is.
#[derive(Debug, Parser)]
#[command(name = "outrigger", bin_name = "outrigger", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the control plane: the store, the control API and xDS.
    Serve(ServeArgs),
    /// Create or update the objects in files: all of them, or none.
    Apply(apply::ApplyArgs),
    /// Show objects, and follow their changes.
    Get(get::GetArgs),
    /// Show an object with everything that became of it.
    Describe(describe::DescribeArgs),
    /// Delete objects: all of them, or none.
    Delete(delete::DeleteArgs),
    /// Show the proxies that are connected, and whether they accepted what they were sent; follow both.
    Proxies(proxies::ProxiesArgs),
    /// Write the file that a sidecar starts from, ours or Envoy.
    Bootstrap(BootstrapArgs),
}

/// In which namespace.
#[derive(Clone, Debug, Args)]
pub struct NamespaceArgs {
    /// The namespace; "default" if absent.
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}

impl NamespaceArgs {
    fn name(&self) -> &str {
        self.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)
    }
}

/// How objects are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A line for each.
    Table,
    /// A longer line for each.
    Wide,
    /// As YAML.
    Yaml,
    /// As JSON.
    Json,
    /// Kind and name only.
    Name,
}

/// Why a command failed: text for people, in lines.
#[derive(Debug)]
pub struct Failure(String);

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Failure(text)
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        let text = status.message();
        Failure(match status.code() {
            Code::Unimplemented => {
                format!(
                    "the control plane does not know this request ({text}): is it one of Outrigger, and of this version?"
                )
            }
            code if code == Code::DeadlineExceeded || cause(&status).is::<TimeoutExpired>() => {
                format!("the control plane has not answered in {} s: see its log", PATIENCE.as_secs())
            }
            // A server of TLS 1.3 refuses the client's certificate when the connection is there already.
            _ if status.source().is_some() => format!(
                "the connection to the control plane ended ({}): see its log; if it serves TLS, call it with --tls-ca, and if \
                 it asks for certificates, show one that it accepts by --tls-cert and --tls-key",
                cause(&status)
            ),
            _ if text.is_empty() => status.code().to_string(),
            _ => text.to_owned(),
        })
    }
}

/// An object as `get -o yaml` shows it.
pub fn yaml(object: &Object) -> String {
    yaml::text(&crate::api::objects::json(object))
}

/// The innermost reason.
fn cause<'e>(error: &'e (dyn Error + 'static)) -> &'e (dyn Error + 'static) {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause
}

/// Runs the program with its arguments (the first is the program's name) to its end.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // To standard output for --help and --version, else to standard error; nobody reads a failure of that.
            _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1));
        }
    };
    let result = match cli.command {
        Command::Serve(args) => crate::serve::serve(args).map_err(Failure),
        Command::Apply(args) => client(apply::apply(args)),
        Command::Get(args) => client(get::get(args)),
        Command::Describe(args) => client(describe::describe(args)),
        Command::Delete(args) => client(delete::delete(args)),
        Command::Proxies(args) => client(proxies::proxies(args)),
        Command::Bootstrap(args) => {
            crate::bootstrap::bootstrap(args).map_err(Failure).and_then(|text| print(&text).map(|()| ExitCode::SUCCESS))
        }
    };
    result.unwrap_or_else(|Failure(text)| {
        eprintln!("error: {text}");
        ExitCode::FAILURE
    })
}

fn client(command: impl Future<Output = Result<(), Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure(format!("no event loop: {error}")))?;
    runtime.block_on(command).map(|()| ExitCode::SUCCESS)
}

/// A request that does not wait for ever.
fn request<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(PATIENCE);
    request
}

/// Writes to standard output, in a way that a terminal takes none of it for an order: much of it is what strangers said,
/// such as the name of a proxy or why it refuses something. Where its reader has gone, as in `... | head`, there is
/// nothing left to do.
fn print(text: &str) -> Result<(), Failure> {
    let text = escaped(text, |char| matches!(char, '\n' | '\t'));
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.map_err(|error| Failure(format!("standard output: {error}"))),
    }
}

/// What is to stand in one line, whoever said it.
fn one_line(text: &str) -> String {
    escaped(text, |_| false)
}

/// Escapes control characters, except those that are `allowed`.
fn escaped(text: &str, allowed: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char.is_control() && !allowed(char) {
            // As JSON and YAML have it, too.
            true => out.push_str(&format!("\\u{:04x}", u32::from(char))),
            false => out.push(char),
        }
    }
    out
}

/// The names by which a kind is known on the command line, the first being the one that messages show.
fn names(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Service => &["service", "services", "svc"],
        Kind::Workload => &["workload", "workloads", "wl"],
        Kind::HttpRoute => &["httproute", "httproutes"],
        Kind::ServicePolicy => &["servicepolicy", "servicepolicies"],
    }
}

/// The group of a kind's `apiVersion`; Kubernetes' first kinds have none.
fn group(kind: Kind) -> Option<&'static str> {
    kind.api_versions().first().and_then(|version| version.split_once('/')).map(|(group, _)| group)
}

/// `httproute.gateway.networking.k8s.io`: the kind as messages show it.
fn qualified(kind: Kind) -> String {
    let name = names(kind).first().copied().unwrap_or_default();
    group(kind).map_or_else(|| name.to_owned(), |group| format!("{name}.{group}"))
}

/// The kind that is meant, by any of its names, with its group or without.
fn kind_named(text: &str) -> Result<Kind, Failure> {
    let lower = text.to_ascii_lowercase();
    let (name, given) = lower.split_once('.').map_or((lower.as_str(), None), |(name, group)| (name, Some(group)));
    let is_it = |kind: &Kind| names(*kind).contains(&name) && (given.is_none() || given == group(*kind));
    Kind::ALL.into_iter().find(is_it).ok_or_else(|| {
        let reason = Kind::why_not(text, Kind::ALL.into_iter().flat_map(names).copied());
        Failure(format!("{text:?}: {reason}"))
    })
}

/// `KIND NAME...` or `KIND/NAME...` as kubectl takes both.
fn kind_and_names(words: &[String]) -> Result<(Kind, Vec<String>), Failure> {
    let (first, rest) = words.split_first().ok_or_else(|| Failure("say which kind".to_owned()))?;
    match first.split_once('/') {
        None => Ok((kind_named(first)?, rest.to_vec())),
        Some((kind, name)) => {
            let kind = kind_named(kind)?;
            let mut names = vec![name.to_owned()];
            for word in rest {
                match word.split_once('/') {
                    Some((other, name)) if kind_named(other)? == kind => names.push(name.to_owned()),
                    _ => return Err(Failure(format!("{word:?}: write all as KIND/NAME, of one kind"))),
                }
            }
            Ok((kind, names))
        }
    }
}

/// How long ago a time is, as kubectl writes it: `45s`, `12m`, `3h12m`, `5d`. Empty if the time is unknown.
fn age(time: &str) -> String {
    let Ok(then) = time.parse::<outrigger_proto::prost_types::Timestamp>() else { return String::new() };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = now.saturating_sub(u64::try_from(then.seconds).unwrap_or_default());
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (minutes, hours, days) {
        (0 | 1, ..) => format!("{seconds}s"),
        (2..10, ..) => format!("{minutes}m{}s", seconds % 60),
        (_, 0..3, _) => format!("{minutes}m"),
        (_, 3..8, _) => format!("{hours}h{}m", minutes % 60),
        (_, 8..48, _) => format!("{hours}h"),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_are_sound_and_each_has_help() {
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            assert!(sub.get_about().is_some(), "{}", sub.get_name());
            for arg in sub.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {}", sub.get_name(), arg.get_id());
            }
        }
    }

    #[test]
    fn a_limit_by_which_nothing_would_work_is_refused_with_the_range() {
        for flag in ["--xds-max-streams", "--xds-max-names", "--log-entries"] {
            assert!(Cli::try_parse_from(["outrigger", "serve", flag, "1"]).is_ok());
            let refused = Cli::try_parse_from(["outrigger", "serve", flag, "0"]).unwrap_err().to_string();
            assert!(refused.contains(flag) && refused.contains("must be a number, 1 or more"), "{refused}");
        }
    }

    #[test]
    fn kinds_have_the_names_that_kubectl_takes() {
        let with_group = ["httproute.gateway.networking.k8s.io", "httproutes.gateway.networking.k8s.io"];
        for text in ["HTTPRoute", "httproutes"].into_iter().chain(with_group) {
            assert_eq!(kind_named(text).unwrap(), Kind::HttpRoute, "{text}");
        }
        assert_eq!(kind_named("svc").unwrap(), Kind::Service);
        let Failure(text) = kind_named("httprout").unwrap_err();
        assert_eq!(text, r#""httprout": no such kind; did you mean "httproute" or "httproutes"?"#);
        for later in ["grpcroutes", "authorizationpolicies", "tlsroute.gateway.networking.k8s.io", "Gateway"] {
            let Failure(text) = kind_named(later).unwrap_err();
            let there = "there are Service, Workload, HTTPRoute, ServicePolicy";
            assert_eq!(text, format!("{later:?}: not in this version; {there}"));
        }
        assert!(kind_named("service.apps").is_err() && kind_named("httproutes.networking.k8s.io").is_err());
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let (kind, names) = kind_and_names(&words("svc/a service/b")).unwrap();
        assert_eq!((kind, names), (Kind::Service, words("a b")));
        assert!(kind_and_names(&words("svc/a httproute/b")).is_err());
    }
}
