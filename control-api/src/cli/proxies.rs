//! `outrigger proxies`.

use clap::Args;
use outrigger_engine::xds::Kind;
use outrigger_proto::outrigger::control::v1::{ListProxiesRequest, Proxy, ProxyType};
use serde_json::{Value, json};

use super::get::json_text;
use super::table::Table;
use super::{Failure, Output, ServerArgs, age, one_line, print, proxies_watch, request, yaml};

/// Flags of `proxies`.
#[derive(Clone, Debug, Args)]
pub struct ProxiesArgs {
    /// How proxies are shown; wide adds the versions.
    #[arg(short = 'o', long, value_name = "FORMAT", value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Show who is connected, then each proxy that comes, changes or goes, until interrupted.
    #[arg(short = 'w', long)]
    pub watch: bool,
    /// With --watch and -o json or yaml: each proxy within its event, {"type": "ADDED", "object": ...}; else nothing
    /// tells that one has gone. Types are ADDED (what is, too), MODIFIED and DELETED.
    #[arg(long, requires = "watch")]
    pub output_watch_events: bool,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented by its type")]
    pub server: ServerArgs,
}

impl ProxiesArgs {
    pub(super) fn is_table(&self) -> bool {
        matches!(self.output, Output::Table | Output::Wide)
    }
}

pub(super) async fn proxies(args: ProxiesArgs) -> Result<(), Failure> {
    if args.watch {
        return proxies_watch::watch(&args).await;
    }
    let mut client = args.server.connect().await?;
    let proxies = client.list_proxies(request(ListProxiesRequest {})).await?.into_inner().proxies;
    let whole = || Value::from(proxies.iter().map(value).collect::<Vec<_>>());
    let text = match args.output {
        Output::Json => json_text(&whole()),
        Output::Yaml => yaml::text(&whole()),
        Output::Name => proxies.iter().map(name).collect(),
        Output::Table | Output::Wide if proxies.is_empty() => {
            eprintln!("no proxy is connected");
            return Ok(());
        }
        Output::Table | Output::Wide => table(&proxies, args.output == Output::Wide),
    };
    print(&text)
}

pub(super) fn heads(wide: bool) -> Vec<&'static str> {
    let mut heads = vec!["NAME", "CLUSTER"];
    heads.extend(Kind::ALL.map(Kind::abbreviation));
    heads.push("AGE");
    if wide {
        heads.extend(["ADDRESS", "AGENT", "PROTOCOL"]);
    }
    heads
}

pub(super) fn row(proxy: &Proxy, wide: bool) -> Vec<String> {
    let mut row = vec![proxy.id.clone(), proxy.cluster.clone()];
    row.extend(Kind::ALL.map(|kind| of_kind(proxy, kind).map_or("-".to_owned(), |state| cell(state, wide))));
    row.push(age(&proxy.connected_since));
    if wide {
        let address = if proxy.address.is_empty() { "-" } else { &proxy.address };
        row.extend([address, proxy.agent.as_str(), proxy.protocol.as_str()].map(str::to_owned));
    }
    row
}

/// A line or more for each kind of which it rejected something.
pub(super) fn rejections(proxy: &Proxy) -> String {
    let rejection = |kind: Kind| {
        let reason = of_kind(proxy, kind)?.rejected.as_deref()?.replace('\n', "\n  ");
        Some(format!("{} rejected {}: {reason}\n", one_line(&proxy.id), kind.abbreviation()))
    };
    Kind::ALL.into_iter().filter_map(rejection).collect()
}

fn of_kind(proxy: &Proxy, kind: Kind) -> Option<&ProxyType> {
    proxy.types.iter().find(|state| state.type_url == kind.type_url())
}

fn table(proxies: &[Proxy], wide: bool) -> String {
    let mut table = Table::new(heads(wide));
    for proxy in proxies {
        table.add(row(proxy, wide));
    }
    with_rejections(&table, &proxies.iter().map(rejections).collect::<String>())
}

pub(super) fn with_rejections(table: &Table, rejections: &str) -> String {
    if rejections.is_empty() { table.text() } else { format!("{}\n{rejections}", table.text()) }
}

pub(super) fn name(proxy: &Proxy) -> String {
    one_line(&proxy.id) + "\n"
}

/// `SYNCED 12`, `STALE 12`, `REJECTED 12`: the state and how many resources. Wide: the version accepted last, too.
fn cell(state: &ProxyType, wide: bool) -> String {
    let word = match &state.rejected {
        Some(_) => "REJECTED",
        None if state.sent_version == state.accepted_version => "SYNCED",
        None => "STALE",
    };
    let version = if !wide {
        String::new()
    } else if state.accepted_version.is_empty() {
        " (none)".to_owned()
    } else {
        format!(" ({})", state.accepted_version)
    };
    format!("{word} {}{version}", state.resources)
}

pub(super) fn value(proxy: &Proxy) -> Value {
    let types = proxy.types.iter().map(|state| {
        json!({
            "typeUrl": state.type_url,
            "resources": state.resources,
            "sentVersion": state.sent_version,
            "acceptedVersion": state.accepted_version,
            "rejected": state.rejected,
        })
    });
    json!({
        "id": proxy.id,
        "cluster": proxy.cluster,
        "agent": proxy.agent,
        "protocol": proxy.protocol,
        "connectedSince": proxy.connected_since,
        "address": proxy.address,
        "types": types.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_proxy_shows_where_it_is_and_why_it_refused() {
        let state = |kind: Kind, accepted: &str, rejected: Option<&str>| ProxyType {
            type_url: kind.type_url().to_owned(),
            resources: 3,
            sent_version: "b".to_owned(),
            accepted_version: accepted.to_owned(),
            rejected: rejected.map(str::to_owned),
        };
        let types = vec![
            state(Kind::Cluster, "b", None),
            state(Kind::Endpoints, "a", None),
            state(Kind::Listener, "a", Some("no")),
        ];
        let proxy = Proxy { id: "orders-1".to_owned(), cluster: "orders".to_owned(), types, ..Proxy::default() };
        assert_eq!(
            table(&[proxy], false),
            "NAME       CLUSTER   CDS        EDS       LDS          RDS   AGE
orders-1   orders    SYNCED 3   STALE 3   REJECTED 3   -

orders-1 rejected LDS: no
"
        );
    }

    #[test]
    fn what_a_proxy_says_of_itself_is_one_cell_and_its_reasons_are_below_its_name() {
        let state = ProxyType {
            type_url: Kind::Listener.type_url().to_owned(),
            rejected: Some("first\norders rejected CDS: second".to_owned()),
            ..ProxyType::default()
        };
        let proxy = Proxy { id: "\u{1b}[2Ja\norders   SYNCED".to_owned(), types: vec![state], ..Proxy::default() };
        assert_eq!(
            table(&[proxy], false),
            r"NAME                              CLUSTER   CDS   EDS   LDS          RDS   AGE
\u001b[2Ja\u000aorders   SYNCED             -     -     REJECTED 0   -

\u001b[2Ja\u000aorders   SYNCED rejected LDS: first
  orders rejected CDS: second
"
        );
    }
}
