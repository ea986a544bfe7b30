//! What was asked of the API, and how it ended.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tonic::Code;

/// A method of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each is what control.proto calls so")]
pub enum Method {
    Apply,
    Get,
    List,
    Delete,
    Watch,
    ListProxies,
    WatchProxies,
}

impl Method {
    /// As the .proto file spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Method::Apply => "Apply",
            Method::Get => "Get",
            Method::List => "List",
            Method::Delete => "Delete",
            Method::Watch => "Watch",
            Method::ListProxies => "ListProxies",
            Method::WatchProxies => "WatchProxies",
        }
    }
}

/// Requests by method and code. Writes come by the second, not by the microsecond: a lock will do.
#[derive(Debug, Default)]
pub struct Counters {
    requests: Mutex<BTreeMap<(Method, i32), u64>>,
}

impl Counters {
    pub(super) fn count(&self, method: Method, code: Code) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let count = requests.entry((method, code.into())).or_default();
        *count = count.saturating_add(1);
    }

    /// Requests so far, by method and code.
    pub fn requests(&self) -> Vec<(Method, Code, u64)> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.iter().map(|(&(method, code), &count)| (method, Code::from(code), count)).collect()
    }
}
