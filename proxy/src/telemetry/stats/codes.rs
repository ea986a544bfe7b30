//! Response codes of a cluster: one increment a request, from which seven of Envoy's counters follow.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use super::metric::Counter;
use super::scope::{Merge, Value};

/// Whose request it was: Envoy counts the answers of each a second time under `<origin>.`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The request did not come from within the mesh (`x-envoy-internal` is not `true`).
    External = 0,
    /// The request had `x-envoy-internal: true`.
    Internal = 1,
    /// The answer of an attempt that was retried; it counts under `retry.` only.
    Retry = 2,
}

impl Origin {
    const ALL: [(Origin, &str); 3] =
        [(Origin::External, "external."), (Origin::Internal, "internal."), (Origin::Retry, "retry.")];
}

const ENTRIES: usize = 4;
const CODE_BITS: u32 = 12;

/// Counts by status code and origin. A few codes make up nearly all answers, so they stand in a list, in the order in
/// which they first came. One thread writes, others read.
#[derive(Debug, Default)]
pub struct Codes {
    /// Origin and code; 0 is free.
    keys: [AtomicU16; ENTRIES],
    counts: [Counter; ENTRIES],
    more: OnceLock<Box<Codes>>,
}

impl Codes {
    /// Counts one answer. A code above 4095 cannot come from a parser of ours and is not counted.
    pub fn inc(&self, code: u16, origin: Origin) {
        if code == 0 || code >> CODE_BITS != 0 {
            return;
        }
        let key = code | (origin as u16) << CODE_BITS;
        let mut page = self;
        loop {
            for (slot, count) in page.keys.iter().zip(&page.counts) {
                match slot.load(Ordering::Relaxed) {
                    0 => {
                        count.inc();
                        slot.store(key, Ordering::Release);
                        return;
                    }
                    found if found == key => return count.inc(),
                    _ => {}
                }
            }
            page = page.more.get_or_init(Default::default);
        }
    }

    fn merge_into(&self, counts: &mut BTreeMap<(u16, u16), u64>) {
        let mut page = Some(self);
        while let Some(Codes { keys, counts: values, more }) = page {
            for (key, value) in keys.iter().zip(values) {
                let key = key.load(Ordering::Acquire);
                if key != 0 {
                    *counts.entry((key >> CODE_BITS, key & ((1 << CODE_BITS) - 1))).or_default() += value.get();
                }
            }
            page = more.get().map(|page| &**page);
        }
    }

    /// `upstream_rq_<code>`, `upstream_rq_<n>xx` and `upstream_rq_completed`, each in total and by origin.
    pub(super) fn merge<'a>(shards: impl Iterator<Item = &'a Codes>, out: &mut Merge<'_>) {
        let mut counts = BTreeMap::new();
        for shard in shards {
            shard.merge_into(&mut counts);
        }
        let mut total = BTreeMap::<u16, u64>::new();
        for (origin, prefix) in Origin::ALL {
            let codes = counts.iter().filter(|((o, _), _)| *o == origin as u16).map(|(&(_, code), &n)| (code, n));
            let codes = codes.collect::<BTreeMap<_, _>>();
            if origin != Origin::Retry {
                for (&code, &n) in &codes {
                    *total.entry(code).or_default() += n;
                }
            }
            if !codes.is_empty() {
                emit(prefix, &codes, out);
            }
        }
        emit("", &total, out);
    }
}

fn emit(prefix: &'static str, codes: &BTreeMap<u16, u64>, out: &mut Merge<'_>) {
    let mut classes = BTreeMap::<u16, u64>::new();
    for (&code, &n) in codes {
        out.sample(Cow::Owned(format!("{prefix}upstream_rq_{code}")), Value::Counter(n));
        *classes.entry(code / 100).or_default() += n;
    }
    for (&class, &n) in classes.iter().filter(|(class, _)| (1..=5).contains(*class)) {
        out.sample(Cow::Owned(format!("{prefix}upstream_rq_{class}xx")), Value::Counter(n));
    }
    let completed = codes.values().sum();
    out.sample(Cow::Owned(format!("{prefix}upstream_rq_completed")), Value::Counter(completed));
}

/// Answers by the first digit of their code, as a connection manager counts them; above 5 all in one.
#[derive(Debug, Default)]
pub struct CodeClasses([Counter; 6]);

impl CodeClasses {
    /// Counts one answer.
    pub fn inc(&self, code: u16) {
        let class = usize::from(code / 100).checked_sub(1);
        if let Some(counter) = class.and_then(|class| self.0.get(class.min(5))) {
            counter.inc();
        }
    }

    /// `downstream_rq_<n>xx` and `downstream_rq_completed`.
    pub(super) fn merge<'a>(shards: impl Iterator<Item = &'a CodeClasses>, out: &mut Merge<'_>) {
        const NAMES: [&str; 5] =
            ["downstream_rq_1xx", "downstream_rq_2xx", "downstream_rq_3xx", "downstream_rq_4xx", "downstream_rq_5xx"];
        let mut sums = [0u64; 6];
        for CodeClasses(counters) in shards {
            for (sum, counter) in sums.iter_mut().zip(counters) {
                *sum += counter.get();
            }
        }
        for (name, sum) in NAMES.into_iter().zip(sums) {
            out.sample(Cow::Borrowed(name), Value::Counter(sum));
        }
        out.sample(Cow::Borrowed("downstream_rq_completed"), Value::Counter(sums.iter().sum()));
    }
}
