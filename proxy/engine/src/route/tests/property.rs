//! The indexes against the plain scan.

use outrigger_proto::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use proptest::prelude::*;

use crate::config::report::Report;
use crate::route::RouteTable;
use crate::route::domains::Domains;
use crate::route::index::Index;
use crate::route::matching::{Path, PathMatch};
use crate::testing::{message, request};

use super::{found, named};

/// Few letters and slashes, so that paths collide.
const PATH: &str = "/([ab]/?){0,4}";

fn matcher() -> impl Strategy<Value = String> {
    (PATH, 0..5usize, any::<bool>()).prop_map(|(path, kind, case)| {
        let case = if case { "" } else { ", case_sensitive: false" };
        match kind {
            0 => format!("path: {path}{case}"),
            1 if path.len() > 1 && !path.ends_with('/') => format!("path_separated_prefix: {path}{case}"),
            2 => format!("safe_regex: {{regex: '{path}[ab]*'}}"),
            3 => format!("prefix: {path}{case}, headers: [{{name: x}}]"),
            _ => format!("prefix: {path}{case}"),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_index_finds_what_the_scan_finds(
        rules in prop::collection::vec(matcher(), 0..30),
        paths in prop::collection::vec(PATH, 1..20),
    ) {
        let rules: Vec<_> = rules.iter().enumerate().map(|(i, rule)| (format!("r{i}"), rule)).collect();
        let rules: Vec<_> = rules.iter().map(|(name, rule)| (name.as_str(), rule.as_str())).collect();
        let table = named(&rules);
        let host = &table.virtual_hosts[0];
        let index = Index::new(host.routes.iter().map(|route| (&route.matches.path, route.matches.case_sensitive)));
        prop_assert_eq!(index.is_some(), rules.len() >= 9);
        for path in &paths {
            for path in [path.clone(), path.to_uppercase(), format!("{path}?a=/b")] {
                for headers in [&[][..], &[("x", "1")]] {
                    let request = request("h", &path, headers);
                    let parts = Path::new(request.path.as_bytes(), false);
                    let scanned = host.scan(&parts, &request, 0).map_or("-", |route| &route.name);
                    prop_assert_eq!(found(&table, &request, 0), scanned, "{}", path);
                }
            }
        }
    }

    #[test]
    fn domains_find_what_the_rules_say(
        names in prop::collection::btree_set(r"\*|\*?[ab.]{1,4}|[ab.]{1,4}\*", 1..20),
        hosts in prop::collection::vec(r"[abAB.]{0,6}", 1..20),
    ) {
        let names: Vec<_> = names.into_iter().collect();
        let mut domains = Domains::default();
        for (name, number) in names.iter().zip(0..) {
            prop_assert!(domains.insert(name, number));
        }
        for host in hosts {
            let lower = host.to_ascii_lowercase();
            // The kind of the match, and its length: the greatest wins.
            let rank = |name: &String| match (name.strip_prefix('*'), name.strip_suffix('*')) {
                (Some(""), _) => Some((0, 0)),
                (Some(suffix), _) => (lower.len() > suffix.len() && lower.ends_with(suffix)).then_some((2, suffix.len())),
                (None, Some(prefix)) => {
                    (lower.len() > prefix.len() && lower.starts_with(prefix)).then_some((1, prefix.len()))
                }
                (None, None) => (*name == lower).then_some((3, 0)),
            };
            let best = names.iter().filter(|name| rank(name).is_some()).max_by_key(|name| rank(name));
            let found = domains.find(Some(host.as_bytes()), false).map(|number| &names[number as usize]);
            prop_assert_eq!(found, best, "{}", host);
        }
    }

    #[test]
    fn no_path_and_no_rule_panics(path in "[!-~]{0,40}", prefix in "[!-~]{0,10}") {
        let parts = Path::new(path.as_bytes(), true);
        let matches = [PathMatch::Prefix(prefix.clone().into()), PathMatch::Exact(prefix.into())];
        let routes: Vec<_> = matches.iter().cycle().take(12).map(|matcher| (matcher, true)).collect();
        let index = Index::new(routes.into_iter());
        index.unwrap().find(parts.matched, |_| false);
    }
}

#[test]
fn ten_thousand_virtual_hosts_are_told_apart() {
    let host: VirtualHost =
        message("{name: v, routes: [{name: r, match: {prefix: /}, direct_response: {status: 200}}]}");
    let mut table = RouteConfiguration::default();
    for i in 0..10_000 {
        let name = format!("svc{i}.example");
        let mut host = host.clone();
        host.routes[0].name = format!("r{i}");
        host.domains = vec![format!("*.{name}"), format!("{name}:80"), name];
        table.virtual_hosts.push(host);
    }
    let table = RouteTable::convert(table, &Report::new().root()).unwrap();
    for (host, name) in
        [("svc0.example", "r0"), ("SVC9999.example:80", "r9999"), ("x.svc77.example", "r77"), ("svc", "-")]
    {
        assert_eq!(found(&table, &request(host, "/", &[]), 0), name, "{host}");
    }
}
