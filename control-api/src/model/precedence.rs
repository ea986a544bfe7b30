//! Which match of all routes of a parent comes first: the Gateway API's order.
//!
//! Exact paths, then expressions, then prefixes, the longest first; then whoever asks for a method, for more headers,
//! for more query parameters; then the older route, the name, and the order in the route. Where expressions rank is
//! left to us: before prefixes, and among themselves their text says nothing about how narrow they are.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use super::http_route::{Match, PathMatch, Rule};
use super::resolve::ResolvedRoute;

/// One match of one rule, at its place among all of them.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The route.
    pub route: Arc<ResolvedRoute>,
    /// The place of the rule in [`HttpRoute::rules`](super::HttpRoute::rules).
    pub rule: usize,
    /// The place of the match in the rule.
    pub matching: usize,
}

impl Entry {
    /// The rule.
    pub fn rule(&self) -> Option<&Rule> {
        self.route.route.rules.get(self.rule)
    }

    /// The match.
    pub fn matching(&self) -> Option<&Match> {
        self.rule()?.matches.get(self.matching)
    }
}

/// A match that no request reaches, since an equal one comes first.
#[derive(Clone, Debug)]
pub(super) struct Shadowed {
    pub(super) loser: Entry,
    pub(super) winner: Entry,
}

/// All matches of `routes` in the order in which they are asked, each once, and those that an equal one shadows.
pub(super) fn order(routes: &[Arc<ResolvedRoute>]) -> (Vec<Entry>, Vec<Shadowed>) {
    let mut entries: Vec<Entry> = routes
        .iter()
        .flat_map(|route| {
            route.route.rules.iter().enumerate().flat_map(move |(rule, written)| {
                (0..written.matches.len()).map(move |matching| Entry { route: Arc::clone(route), rule, matching })
            })
        })
        .collect();
    entries.sort_by(|a, b| key(a).cmp(&key(b)));
    let mut first: HashMap<&Match, &Entry> = HashMap::with_capacity(entries.len());
    let (mut kept, mut shadowed) = (Vec::with_capacity(entries.len()), Vec::new());
    for entry in &entries {
        let winner = entry.matching().map_or(entry, |matching| *first.entry(matching).or_insert(entry));
        if std::ptr::eq(winner, entry) {
            kept.push(entry.clone());
        } else {
            shadowed.push(Shadowed { winner: winner.clone(), loser: entry.clone() });
        }
    }
    (kept, shadowed)
}

/// What of the order the match itself says.
fn rank(entry: &Entry) -> (u8, Reverse<usize>, bool, Reverse<usize>, Reverse<usize>) {
    let Some(matching) = entry.matching() else { return (3, Reverse(0), true, Reverse(0), Reverse(0)) };
    let (kind, length) = match &matching.path {
        PathMatch::Exact(_) => (0, 0),
        PathMatch::Regex(_) => (1, 0),
        PathMatch::Prefix(prefix) => (2, prefix.chars().count()),
    };
    let (headers, query) = (matching.headers.len(), matching.query.len());
    (kind, Reverse(length), matching.method.is_none(), Reverse(headers), Reverse(query))
}

fn key(entry: &Entry) -> impl Ord + '_ {
    (rank(entry), entry.route.created, &entry.route.route.name, entry.rule, entry.matching)
}

#[cfg(test)]
mod tests {
    use super::super::Name;
    use super::super::http_filter::Filters;
    use super::super::http_route::{HttpRoute, RuleRetry};
    use super::*;

    fn route(created: u64, matches: Vec<Match>) -> Arc<ResolvedRoute> {
        let rule = Rule {
            index: 0,
            name: None,
            matches,
            filters: Filters::default(),
            backends: Vec::new(),
            request_timeout: None,
            attempt_timeout: None,
            retry: RuleRetry::default(),
        };
        let name = Name::new("default", &format!("route-{created}"));
        let route = HttpRoute {
            name,
            parents: Vec::new(),
            foreign: Vec::new(),
            notes: Vec::new(),
            rules: vec![rule],
            dropped: Vec::new(),
        };
        Arc::new(ResolvedRoute { route: Arc::new(route), created, backends: Vec::new() })
    }

    /// To compare each with all others would take minutes.
    #[test]
    fn many_matches_of_one_rank_are_ordered_and_equal_ones_found() {
        let exact = |path: usize| Match {
            path: PathMatch::Exact(format!("/{path}")),
            headers: Vec::new(),
            query: Vec::new(),
            method: None,
        };
        let younger = route(2, vec![exact(7), exact(200_000)]);
        let (kept, shadowed) = order(&[younger, route(1, (0..100_000).map(exact).collect())]);
        assert_eq!(kept.len(), 100_001);
        let [Shadowed { loser, winner }] = shadowed.try_into().unwrap();
        assert_eq!((loser.route.created, loser.matching), (2, 0));
        assert_eq!((winner.route.created, winner.matching), (1, 7));
    }
}
