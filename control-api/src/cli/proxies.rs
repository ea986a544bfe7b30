//! `outrigger proxies`.

use clap::Args;
use outrigger_engine::xds::Kind;
use outrigger_proto::outrigger::control::v1::{ListProxiesRequest, Proxy, ProxyType};
use serde_json::{Value, json};

use super::get::json_text;
use super::table::Table;
use super::{Failure, Output, ServerArgs, age, one_line, print, request, yaml};

/// Flags of `proxies`.
#[derive(Clone, Debug, Args)]
pub struct ProxiesArgs {
    /// How proxies are shown; wide adds the versions.
    #[arg(short = 'o', long, value_name = "FORMAT", value_enum, default_value_t = Output::Table)]
    pub output: Output,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented by its type")]
    pub server: ServerArgs,
}

pub(super) async fn proxies(args: ProxiesArgs) -> Result<(), Failure> {
    let mut client = args.server.connect().await?;
    let proxies = client.list_proxies(request(ListProxiesRequest {})).await?.into_inner().proxies;
    let whole = || Value::from(proxies.iter().map(value).collect::<Vec<_>>());
    let text = match args.output {
        Output::Json => json_text(&whole()),
        Output::Yaml => yaml::text(&whole()),
        Output::Name => proxies.iter().map(|proxy| one_line(&proxy.id) + "\n").collect(),
        Output::Table | Output::Wide if proxies.is_empty() => {
            eprintln!("no proxy is connected");
            return Ok(());
        }
        Output::Table | Output::Wide => table(&proxies, args.output == Output::Wide),
    };
    print(&text)
}

fn table(proxies: &[Proxy], wide: bool) -> String {
    let mut heads = vec!["NAME", "CLUSTER"];
    heads.extend(Kind::ALL.map(Kind::abbreviation));
    heads.push("AGE");
    if wide {
        heads.extend(["ADDRESS", "AGENT", "PROTOCOL"]);
    }
    let mut table = Table::new(heads);
    let mut rejections = String::new();
    for proxy in proxies {
        let mut row = vec![proxy.id.clone(), proxy.cluster.clone()];
        for kind in Kind::ALL {
            let state = proxy.types.iter().find(|state| state.type_url == kind.type_url());
            row.push(state.map_or("-".to_owned(), |state| cell(state, wide)));
            if let Some(reason) = state.and_then(|state| state.rejected.as_deref()) {
                let (id, kind, reason) = (one_line(&proxy.id), kind.abbreviation(), reason.replace('\n', "\n  "));
                rejections.push_str(&format!("{id} rejected {kind}: {reason}\n"));
            }
        }
        row.push(age(&proxy.connected_since));
        if wide {
            let address = if proxy.address.is_empty() { "-" } else { &proxy.address };
            row.extend([address, proxy.agent.as_str(), proxy.protocol.as_str()].map(str::to_owned));
        }
        table.add(row);
    }
    if rejections.is_empty() { table.text() } else { format!("{}\n{rejections}", table.text()) }
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

fn value(proxy: &Proxy) -> Value {
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
