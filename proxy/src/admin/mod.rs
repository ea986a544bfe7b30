//! The admin interface: Envoy's endpoints with Envoy's answers, for operators, `istioctl`, pilot-agent and scrapers.
//!
//! [`handle`] knows nothing of transports: the control thread serves it through the same codec as any listener. Long
//! answers (`/stats`, `/config_dump`) take milliseconds to make, so it is called on a thread that may be busy; what may be
//! far longer than what it tells of is written in [`Parts`]. What
//! changes something is POST only, so that a link or a crawler cannot do it.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

pub(crate) mod certs;
mod config_dump;
mod csds;
mod json;
mod parts;
mod query;
pub mod server;
mod stats;
pub(crate) mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use outrigger_engine::stream_info::Address;
use outrigger_proto::envoy::admin::v3::{
    Certificate, ClusterStatus, CommandLineOptions, HostStatus, server_info::State as ServerState,
    unready_targets_dumps,
};
use outrigger_proto::envoy::config::bootstrap::v3::Bootstrap;
use outrigger_proto::envoy::config::core::v3::Node;

pub use self::parts::Parts;
use self::query::Query;
use crate::configuration::record::Record;
use crate::telemetry::log;
use crate::telemetry::stats::Stats;

/// What the admin interface shows and does; the process implements it.
pub trait AdminState: Send + Sync {
    /// The statistics.
    fn stats(&self) -> &Stats;

    /// Brings up to date what is not counted but looked up, just before statistics are shown: uptime, breakers that are
    /// open, listeners that are active.
    fn refresh(&self) {}

    /// Where the process is between start and end.
    fn server_state(&self) -> ServerState;

    /// Since the process started.
    fn uptime(&self) -> std::time::Duration;

    /// The command line.
    fn command_line(&self) -> CommandLineOptions;

    /// Who we are.
    fn node(&self) -> Node;

    /// The bootstrap as it was read, or why it cannot be shown.
    fn bootstrap(&self) -> Result<Bootstrap, String>;

    /// When the bootstrap was applied.
    fn bootstrap_time(&self) -> std::time::SystemTime;

    /// Hands out every cluster without its hosts, in the order of their names, and its hosts, one at a time.
    ///
    /// # Errors
    /// That of the first visit that fails, which is the last one.
    fn clusters(&self, visit: VisitCluster<'_>) -> fmt::Result;

    /// What became of each resource that came from outside.
    fn record(&self) -> &Record;

    /// Every listener that is bound, with its name and addresses (at least one).
    fn listeners(&self) -> Vec<(String, Vec<Address>)>;

    /// The certificates in use.
    fn certificates(&self) -> Vec<Certificate>;

    /// What the start still waits for.
    fn unready_targets(&self) -> Vec<unready_targets_dumps::UnreadyTargetsDump>;

    /// Runtime keys and values.
    fn runtime(&self) -> BTreeMap<String, String>;

    /// `/healthcheck/fail` (true), `/healthcheck/ok` (false).
    fn fail_health_checks(&self, fail: bool);

    /// `/drain_listeners`
    fn drain_listeners(&self, drain: DrainListeners);

    /// `/reopen_logs`
    fn reopen_logs(&self);

    /// `/quitquitquit`
    fn quit(&self);
}

/// Takes a cluster and its hosts.
pub type VisitCluster<'v> = &'v mut dyn FnMut(ClusterStatus, &mut dyn Iterator<Item = HostStatus>) -> fmt::Result;

/// How listeners are to be drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainListeners {
    /// Only those whose `traffic_direction` is `INBOUND`.
    pub inbound_only: bool,
    /// Let connections end within the drain time before the listeners close.
    pub graceful: bool,
    /// Drain the connections and keep the listeners.
    pub skip_exit: bool,
}

/// An answer.
pub struct Response {
    /// The status code.
    pub status: u16,
    /// `content-type`.
    pub content_type: &'static str,
    /// The body.
    pub body: Body,
}

/// What an answer has after its head.
pub enum Body {
    /// All of it.
    Whole(Bytes),
    /// Who writes it. It fails only where nobody reads it any more.
    Parts(Write),
}

/// Writes a body.
pub type Write = Box<dyn FnOnce(&dyn AdminState, &mut Parts<'_>) -> fmt::Result + Send>;

/// What every answer has besides its content type.
pub const HEADERS: [(&str, &str); 2] =
    [("cache-control", "no-cache, max-age=0"), ("x-content-type-options", "nosniff")];

const TEXT: &str = "text/plain; charset=UTF-8";
const JSON: &str = "application/json";

impl Response {
    fn new(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Response { status, content_type, body: Body::Whole(body.into()) }
    }

    fn text(body: impl Into<Bytes>) -> Self {
        Response::new(200, TEXT, body)
    }

    fn error(status: u16, body: impl Into<Bytes>) -> Self {
        Response::new(status, TEXT, body)
    }

    fn json(body: impl Into<Bytes>) -> Self {
        Response::new(200, JSON, body)
    }

    fn parts(
        content_type: &'static str,
        write: impl FnOnce(&dyn AdminState, &mut Parts<'_>) -> fmt::Result + Send + 'static,
    ) -> Self {
        Response { status: 200, content_type, body: Body::Parts(Box::new(write)) }
    }
}

/// Something that can be asked for.
struct Endpoint {
    path: &'static str,
    /// Changes something.
    post: bool,
    help: &'static str,
    parameters: &'static [(&'static str, &'static str)],
    answer: fn(&dyn AdminState, &Query) -> Response,
}

/// Answers a request. `target` is the path with its query, `body` counts as a further query if the request is a POST
/// (Envoy reads forms).
pub fn handle(state: &dyn AdminState, method: &str, target: &str, body: &[u8]) -> Response {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let Some(endpoint) = ENDPOINTS.iter().find(|endpoint| endpoint.path == path) else {
        return Response::error(404, format!("invalid path. {}", help()));
    };
    if endpoint.post && method != "POST" {
        tracing::error!("admin path {path:?} mutates state, method={method} rather than POST");
        return Response::error(405, format!("Method {method} not allowed, POST required."));
    }
    let mut query = Query::parse(query);
    if method == "POST" {
        query.append(&String::from_utf8_lossy(body));
    }
    (endpoint.answer)(state, &query)
}

const FILTER: (&str, &str) = ("filter", "Regular expression for filtering stats");
const USED_ONLY: (&str, &str) = ("usedonly", "Only include stats that have been written by system since restart");
const FORMAT: (&str, &str) = ("format", "File format to use; One of (text, json)");

/// By path.
const ENDPOINTS: &[Endpoint] = &[
    get("/", "Admin home page", &[], |_, _| home()),
    get("/certs", "print certs on machine", &[], |state, _| status::certs(state)),
    get(
        "/clusters",
        "upstream cluster status",
        &[("filter", "Regular expression for filtering clusters by name"), FORMAT],
        status::clusters,
    ),
    get(
        "/config_dump",
        "dump current configs",
        &[
            ("resource", "The resource to dump"),
            ("mask", "The mask to apply; with a resource, it is applied to each of its elements"),
            ("name_regex", "Dump only the currently loaded configurations whose names match the specified regex"),
            ("include_eds", "Dump currently loaded configuration including EDS"),
        ],
        config_dump::config_dump,
    ),
    get("/contention", "dump current mutex contention stats (if enabled)", &[], |_, _| {
        Response::text("Mutex contention tracing is not enabled.")
    }),
    post(
        "/drain_listeners",
        "drain listeners",
        &[
            ("graceful", "Enter a graceful drain period prior to closing listeners"),
            ("skip_exit", "Drain the connections but never stop the listeners"),
            ("inboundonly", "Drain only listeners whose traffic_direction is INBOUND"),
        ],
        |state, query| {
            state.drain_listeners(DrainListeners {
                inbound_only: query.has("inboundonly"),
                graceful: query.has("graceful"),
                skip_exit: query.has("skip_exit"),
            });
            Response::text("OK\n")
        },
    ),
    post("/healthcheck/fail", "cause the server to fail health checks", &[], |state, _| {
        state.fail_health_checks(true);
        Response::text("OK\n")
    }),
    post("/healthcheck/ok", "cause the server to pass health checks", &[], |state, _| {
        state.fail_health_checks(false);
        Response::text("OK\n")
    }),
    get("/help", "print out list of admin commands", &[], |_, _| Response::text(help())),
    get("/init_dump", "dump what the start still waits for", &[], |state, _| status::init_dump(state)),
    get("/listeners", "print listener info", &[FORMAT], status::listeners),
    post(
        "/logging",
        "query/change logging levels",
        &[
            ("level", "Set all loggers; One of (trace, debug, info, warning, error, critical, off)"),
            ("paths", "Set some loggers: <logger_name1>:<desired_level1>,<logger_name2>:<desired_level2>"),
            ("<logger_name>", "Set one logger"),
        ],
        |_, query| logging(query),
    ),
    get("/memory", "print current allocation/heap usage", &[], |_, _| status::memory()),
    post("/quitquitquit", "exit the server", &[], |state, _| {
        state.quit();
        Response::text("OK\n")
    }),
    get("/ready", "print server state, return 200 if LIVE, otherwise return 503", &[], |state, _| {
        let server_state = state.server_state();
        let status = if server_state == ServerState::Live { 200 } else { 503 };
        Response::new(status, TEXT, format!("{}\n", server_state.as_str_name()))
    }),
    post("/reopen_logs", "reopen access logs", &[], |state, _| {
        state.reopen_logs();
        Response::text("OK\n")
    }),
    post("/reset_counters", "reset all counters to zero", &[], |state, _| {
        state.stats().reset_counters();
        Response::text("OK\n")
    }),
    get("/runtime", "print runtime values", &[], |state, _| status::runtime(state)),
    get("/server_info", "print server version/status information", &[], |state, _| status::server_info(state)),
    get(
        "/stats",
        "print server stats",
        &[
            USED_ONLY,
            FILTER,
            ("format", "Format to use; One of (text, json, prometheus)"),
            ("type", "Stat types to include.; One of (All, Counters, Histograms, Gauges, TextReadouts)"),
            ("histogram_buckets", "Histogram bucket display mode; One of (summary)"),
        ],
        |_, query| stats::stats(query),
    ),
    get(
        "/stats/prometheus",
        "print server stats in prometheus format",
        &[
            USED_ONLY,
            FILTER,
            ("text_readouts", "Render text_readouts as new gauges with value 0"),
            ("histogram_buckets", "Histogram bucket display mode; One of (cumulative)"),
        ],
        |_, query| stats::prometheus(query),
    ),
    // As the annotation of the service's method says; by gRPC, see `csds`.
    get(
        "/v3/discovery:client_status",
        "print what became of each resource that came by discovery (CSDS)",
        &[("exclude_resource_contents", "Leave out the resources themselves")],
        csds::client_status,
    ),
];

type Answer = fn(&dyn AdminState, &Query) -> Response;
type Parameters = &'static [(&'static str, &'static str)];

const fn get(path: &'static str, help: &'static str, parameters: Parameters, answer: Answer) -> Endpoint {
    Endpoint { path, post: false, help, parameters, answer }
}

const fn post(path: &'static str, help: &'static str, parameters: Parameters, answer: Answer) -> Endpoint {
    Endpoint { path, post: true, help, parameters, answer }
}

fn help() -> String {
    let mut text = String::from("admin commands are:\n");
    for Endpoint { path, post, help, parameters, .. } in ENDPOINTS {
        text.push_str(&format!("  {path}{}: {help}\n", if *post { " (POST)" } else { "" }));
        for (name, help) in *parameters {
            text.push_str(&format!("      {name}: {help}\n"));
        }
    }
    text
}

fn home() -> Response {
    let mut page = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><title>Outrigger Admin</title></head>\n<body>\n<table>\n\
         <thead><th>Command</th><th>Description</th></thead>\n",
    );
    for Endpoint { path, post, help, .. } in ENDPOINTS {
        let name = path.trim_start_matches('/');
        let command = match post {
            true => format!("<form action=\"{path}\" method=\"post\"><button>{name}</button></form>"),
            false => format!("<a href=\"{path}\">{name}</a>"),
        };
        page.push_str(&format!("<tr><td>{command}</td><td>{help}</td></tr>\n"));
    }
    page.push_str("</table>\n</body>\n</html>\n");
    Response::new(200, "text/html; charset=UTF-8", page)
}

/// Changes levels as the query says, and shows them.
fn logging(query: &Query) -> Response {
    let change = || match (query.get("level"), query.get("paths"), query.pairs()) {
        (None, None, []) => Ok(()),
        (Some(level), ..) if !level.is_empty() => level.parse().map(log::set_all),
        (_, Some(paths), _) => log::parse_components(paths).and_then(|levels| log::set(&levels)),
        (_, _, [(name, level)]) => level.parse().and_then(|level| log::set(&[(name, level)])),
        _ => Err(log::LogError::Form),
    };
    if let Err(error) = change() {
        return Response::error(
            400,
            format!(
                "error: {error}\n\n\
                 usage: /logging?<name>=<level> (change single level)\n\
                 usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)\n\
                 usage: /logging?level=<level> (change all levels)\n"
            ),
        );
    }
    let mut text = String::from("active loggers:\n");
    for (name, level) in log::levels() {
        text.push_str(&format!("  {name}: {}\n", level.name()));
    }
    text.push('\n');
    Response::text(text)
}
