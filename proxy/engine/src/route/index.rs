//! Which routes of a virtual host can match a path at all: exact paths by hash, prefixes by a sorted table.
//!
//! The index only narrows: each candidate is still asked, in configuration order, so that a virtual host with an index
//! takes the same route as one without.

use std::collections::{BTreeMap, HashMap};

use smallvec::SmallVec;

use crate::route::matching::PathMatch;

/// Below this many routes asking each is cheaper.
const MIN_ROUTES: usize = 9;

/// Route numbers by path, each list ascending.
#[derive(Debug)]
pub(crate) struct Index {
    exact: HashMap<Box<[u8]>, Box<[u32]>>,
    /// Sorted by prefix.
    prefixes: Box<[PrefixEntry]>,
    /// Routes that may match any path.
    others: Box<[u32]>,
}

#[derive(Debug)]
struct PrefixEntry {
    prefix: Box<[u8]>,
    routes: Box<[u32]>,
    /// The longest other entry that is a prefix of this one.
    parent: Option<u32>,
}

impl Index {
    /// An index of routes, by their paths and whether these are case-sensitive. `None` where it would not pay.
    pub(crate) fn new<'a>(routes: impl ExactSizeIterator<Item = (&'a PathMatch, bool)>) -> Option<Index> {
        if routes.len() < MIN_ROUTES {
            return None;
        }
        let mut exact: HashMap<Box<[u8]>, Vec<u32>> = HashMap::new();
        let mut prefixes: BTreeMap<Box<[u8]>, Vec<u32>> = BTreeMap::new();
        let mut others = Vec::new();
        for ((path, case_sensitive), number) in routes.zip(0u32..) {
            match path {
                PathMatch::Exact(text) if case_sensitive => {
                    exact.entry(text.as_bytes().into()).or_default().push(number);
                }
                PathMatch::Prefix(text) | PathMatch::SeparatedPrefix(text) if case_sensitive => {
                    prefixes.entry(text.as_bytes().into()).or_default().push(number);
                }
                _ => others.push(number),
            }
        }
        let mut entries: Vec<PrefixEntry> = Vec::with_capacity(prefixes.len());
        // Sorted, a prefix stands in front of all that begin with it: the open ones are a stack.
        let mut open: Vec<u32> = Vec::new();
        for ((prefix, routes), number) in prefixes.into_iter().zip(0u32..) {
            while let Some(top) = open.last() {
                let begins = entries.get(*top as usize).is_some_and(|entry| prefix.starts_with(&entry.prefix));
                if begins {
                    break;
                }
                open.pop();
            }
            entries.push(PrefixEntry { prefix, routes: routes.into(), parent: open.last().copied() });
            open.push(number);
        }
        Some(Index {
            exact: exact.into_iter().map(|(path, routes)| (path, routes.into())).collect(),
            prefixes: entries.into(),
            others: others.into(),
        })
    }

    /// The first candidate for `path`, in configuration order, that `matches` accepts.
    pub(crate) fn find(&self, path: &[u8], mut matches: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut lists: SmallVec<[&[u32]; 8]> = SmallVec::new();
        lists.push(&self.others);
        if let Some(routes) = self.exact.get(path) {
            lists.push(routes);
        }
        let mut at = self.prefixes.partition_point(|entry| *entry.prefix <= *path).checked_sub(1);
        while let Some(entry) = at.and_then(|at| self.prefixes.get(at)) {
            if path.starts_with(&entry.prefix) {
                lists.push(&entry.routes);
            }
            at = entry.parent.map(|parent| parent as usize);
        }
        loop {
            let next = lists.iter_mut().min_by_key(|list| list.first().copied().unwrap_or(u32::MAX))?;
            let (route, rest) = next.split_first()?;
            *next = rest;
            if matches(*route) {
                return Some(*route);
            }
        }
    }
}
