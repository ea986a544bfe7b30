//! Which match of all routes of a parent comes first: the Gateway API's order.
//!
//! Exact paths, then expressions, then prefixes, the longest first; then whoever asks for a method, for more headers,
//! for more query parameters; then the older route, the name, and the order in the route. Where expressions rank is
//! left to us: before prefixes, and among themselves their text says nothing about how narrow they are.

use std::cmp::Reverse;
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
    let mut kept: Vec<Entry> = Vec::with_capacity(entries.len());
    let mut shadowed = Vec::new();
    for entry in entries {
        // Equal matches have equal ranks, so they stand close to each other.
        let same_rank = kept.iter().rev().take_while(|other| rank(other) == rank(&entry));
        match same_rank.filter(|other| other.matching() == entry.matching()).last() {
            Some(winner) => shadowed.push(Shadowed { winner: winner.clone(), loser: entry }),
            None => kept.push(entry),
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
