//! Scopes and their shards: who holds which numbers, and how they are added up.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::histogram::Snapshot;

/// What a histogram's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Recorded in microseconds, shown in milliseconds.
    Milliseconds,
    /// Plain numbers.
    Count,
}

/// The value of a sample.
#[derive(Clone, Debug)]
pub enum Value {
    /// Counts up.
    Counter(u64),
    /// Goes up and down.
    Gauge(u64),
    /// A distribution.
    Histogram(Unit, Snapshot),
    /// A word (Envoy's text readout).
    Text(Arc<str>),
}

/// The name of a metric of one scope, shown as `cluster.backend.upstream_rq_total`. They are ordered as what is shown.
#[derive(Clone, Debug)]
pub struct SampleName {
    /// `http`, `cluster`, ...
    pub family: &'static str,
    /// The scope's name, sanitized; `None` where the family has one scope only.
    pub scope: Option<Arc<str>>,
    /// `upstream_rq_total`
    pub metric: Cow<'static, str>,
}

impl SampleName {
    fn bytes(&self) -> impl Iterator<Item = u8> {
        let scope = self.scope.iter().flat_map(|scope| scope.bytes().chain([b'.']));
        self.family.bytes().chain([b'.']).chain(scope).chain(self.metric.bytes())
    }
}

impl fmt::Display for SampleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.scope {
            Some(scope) => write!(f, "{}.{scope}.{}", self.family, self.metric),
            None => write!(f, "{}.{}", self.family, self.metric),
        }
    }
}

impl Ord for SampleName {
    fn cmp(&self, other: &Self) -> Ordering {
        if self.family == other.family
            && let (Some(one), Some(two)) = (&self.scope, &other.scope)
        {
            // Most are of one scope, however long its name, or of two of which neither begins with the other.
            if Arc::ptr_eq(one, two) {
                return self.metric.cmp(&other.metric);
            }
            let differs = one.bytes().zip(two.bytes()).find(|(one, two)| one != two);
            if let Some((one, two)) = differs {
                return one.cmp(&two);
            }
        }
        self.bytes().cmp(other.bytes())
    }
}

impl PartialOrd for SampleName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for SampleName {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for SampleName {}

/// One metric of one scope, added up over the workers.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its name.
    pub name: SampleName,
    /// The value.
    pub value: Value,
}

/// A struct of metrics; the macro `metric_structs` implements it.
pub trait Metrics: Default + Send + Sync + 'static {
    /// What the scope has once, for all workers.
    type Shared: Default + std::fmt::Debug + Send + Sync;

    /// Adds up the shards and hands out the samples.
    fn merge(shards: &[Arc<Self>], shared: &Self::Shared, out: &mut Merge<'_>);
}

/// Where the samples of one scope go.
pub struct Merge<'a> {
    family: &'static str,
    scope: Option<Arc<str>>,
    baseline: Option<&'a Baseline>,
    visit: &'a mut dyn FnMut(Sample),
}

impl Merge<'_> {
    /// Hands out one sample.
    pub fn sample(&mut self, metric: Cow<'static, str>, mut value: Value) {
        if let (Value::Counter(n), Some(baseline)) = (&mut value, self.baseline) {
            *n = n.wrapping_sub(baseline.get(&metric).copied().unwrap_or(0));
        }
        let name = SampleName { family: self.family, scope: self.scope.clone(), metric };
        (self.visit)(Sample { name, value });
    }
}

/// The counters as they were at the last reset.
type Baseline = BTreeMap<Cow<'static, str>, u64>;

/// The numbers of one cluster, one connection manager, one listener.
#[derive(Debug)]
pub struct Scope<T: Metrics> {
    name: Arc<str>,
    /// What all workers write: rare things, each with an atomic operation.
    pub shared: T::Shared,
    inner: Mutex<Inner<T>>,
}

#[derive(Debug)]
struct Inner<T> {
    /// By worker.
    shards: Vec<Option<Arc<T>>>,
    baseline: Option<Box<Baseline>>,
}

impl<T: Metrics> Scope<T> {
    /// The name, sanitized.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The shard of a worker (the control thread is the last one), made at the first call. Only that worker's thread
    /// may write to it; keep it, do not fetch it for each request.
    pub fn shard(&self, worker: usize) -> Arc<T> {
        let mut inner = lock(&self.inner);
        if inner.shards.len() <= worker {
            inner.shards.resize_with(worker + 1, || None);
        }
        match inner.shards.get_mut(worker) {
            Some(shard) => Arc::clone(shard.get_or_insert_default()),
            None => Arc::default(),
        }
    }

    /// Hands out the samples of this scope alone, under the family's name.
    pub fn visit(&self, family: &'static str, visit: &mut dyn FnMut(Sample)) {
        let inner = lock(&self.inner);
        let shards = inner.shards.iter().flatten().cloned().collect::<Vec<_>>();
        let scope = Some(Arc::clone(&self.name));
        T::merge(&shards, &self.shared, &mut Merge { family, scope, baseline: inner.baseline.as_deref(), visit });
    }

    /// Whether somebody beside the table holds it or one of its shards.
    fn is_held(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1
            || lock(&self.inner).shards.iter().flatten().any(|shard| Arc::strong_count(shard) > 1)
    }

    fn reset_counters(&self) {
        let mut baseline = Baseline::new();
        let mut inner = lock(&self.inner);
        let shards = inner.shards.iter().flatten().cloned().collect::<Vec<_>>();
        let mut note = |sample: Sample| {
            if let Value::Counter(n) = sample.value {
                baseline.insert(sample.name.metric, n);
            }
        };
        T::merge(&shards, &self.shared, &mut Merge { family: "", scope: None, baseline: None, visit: &mut note });
        inner.baseline = Some(Box::new(baseline));
    }
}

/// The scopes of one kind, by name. A scope that nobody holds, nor a shard of it, is forgotten at the next look.
#[derive(Debug)]
pub struct Family<T: Metrics>(Mutex<HashMap<Arc<str>, Arc<Scope<T>>>>);

impl<T: Metrics> Default for Family<T> {
    fn default() -> Self {
        Family(Mutex::default())
    }
}

impl<T: Metrics> Family<T> {
    /// The scope of a name, made if there is none.
    pub fn scope(&self, name: &str) -> Arc<Scope<T>> {
        let mut scopes = lock(&self.0);
        if let Some(scope) = scopes.get(name) {
            return Arc::clone(scope);
        }
        // Before the table grows, so that it never holds more dead ones than living ones.
        if scopes.len() == scopes.capacity() {
            scopes.retain(|_, scope| scope.is_held());
        }
        let name = Arc::<str>::from(name);
        let inner = Mutex::new(Inner { shards: Vec::new(), baseline: None });
        let scope = Arc::new(Scope { name: Arc::clone(&name), shared: T::Shared::default(), inner });
        scopes.insert(name, Arc::clone(&scope));
        scope
    }

    /// The scopes that somebody holds, by name.
    pub fn scopes(&self) -> Vec<Arc<Scope<T>>> {
        let mut scopes = lock(&self.0);
        scopes.retain(|_, scope| scope.is_held());
        let mut scopes = scopes.values().cloned().collect::<Vec<_>>();
        scopes.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        scopes
    }

    pub(super) fn visit(&self, family: &'static str, visit: &mut dyn FnMut(Sample)) {
        for scope in self.scopes() {
            scope.visit(family, visit);
        }
    }

    pub(super) fn reset_counters(&self) {
        for scope in self.scopes() {
            scope.reset_counters();
        }
    }
}

/// Hands out the samples of a struct that the process has once.
pub(super) fn visit_one<T: Single>(metrics: &T, family: &'static str, visit: &mut dyn FnMut(Sample)) {
    metrics.merge(&mut Merge { family, scope: None, baseline: None, visit });
}

/// A struct of metrics without shards, which the control thread writes.
pub trait Single {
    /// Hands out the samples.
    fn merge(&self, out: &mut Merge<'_>);

    /// Sets its counters to zero. A count at the same moment may outlive it: a reset is for people who watch.
    fn reset_counters(&self);
}

/// A panicked scrape leaves the numbers as good as they were.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Declares structs whose fields are metrics, with Envoy's names as the fields' names.
///
/// `counters`, `shared_counters`, `gauges`, `histograms` and `texts` (of a `single` one) are lists of names (`parts`
/// are fields with a `merge` of their own). With `shared = Type` (or `()`) the struct is a shard ([`Metrics`]), with
/// `single` there is one in the process ([`Single`]).
macro_rules! metric_structs {
    ($(
        $(#[$doc:meta])*
        $name:ident ($kind:ident $($shared:ty)?) {
            $(counters { $($counter:ident),* $(,)? })?
            $(shared_counters { $($many:ident),* $(,)? })?
            $(gauges { $($gauge:ident),* $(,)? })?
            $(histograms { $($histogram:ident: $unit:ident),* $(,)? })?
            $(texts { $($text:ident),* $(,)? })?
            $(parts { $($(#[$part_doc:meta])* $part:ident: $part_type:ty),* $(,)? })?
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $name {
            $($(#[doc = concat!("Counter `", stringify!($counter), "`.")] pub $counter: $crate::telemetry::stats::Counter,)*)?
            $($(#[doc = concat!("Counter `", stringify!($many), "`, written by several threads.")]
            pub $many: $crate::telemetry::stats::SharedCounter,)*)?
            $($(#[doc = concat!("Gauge `", stringify!($gauge), "`.")] pub $gauge: $crate::telemetry::stats::Gauge,)*)?
            $($(#[doc = concat!("Histogram `", stringify!($histogram), "`.")] pub $histogram: $crate::telemetry::stats::Histogram,)*)?
            $($(#[doc = concat!("Text readout `", stringify!($text), "`.")] pub $text: $crate::telemetry::stats::Text,)*)?
            $($($(#[$part_doc])* pub $part: $part_type,)*)?
        }

        $crate::telemetry::stats::scope::metric_structs! { @$kind $name $($shared)?;
            $($($counter)*)? $($($many)*)?; $($($gauge)*)?; $($($histogram $unit)*)?; $($($text)*)?; $($($part $part_type;)*)?
        }
    )*};
    (@shard $name:ident $shared:ty;
        $($counter:ident)*; $($gauge:ident)*; $($histogram:ident $unit:ident)*; ; $($part:ident $part_type:ty;)*
    ) => {
        impl $crate::telemetry::stats::Metrics for $name {
            type Shared = $shared;

            #[allow(unused, reason = "not every struct has everything")]
            fn merge(
                shards: &[std::sync::Arc<Self>],
                shared: &Self::Shared,
                out: &mut $crate::telemetry::stats::scope::Merge<'_>,
            ) {
                use std::borrow::Cow;
                use $crate::telemetry::stats::{Unit::*, Value};
                $crate::telemetry::stats::scope::Single::merge(shared, out);
                if shards.is_empty() {
                    return;
                }
                $(out.sample(
                    Cow::Borrowed(stringify!($counter)),
                    Value::Counter(shards.iter().fold(0u64, |sum, shard| sum.wrapping_add(shard.$counter.get()))),
                );)*
                $(out.sample(
                    Cow::Borrowed(stringify!($gauge)),
                    Value::Gauge(shards.iter().fold(0u64, |sum, shard| sum.wrapping_add(shard.$gauge.get()))),
                );)*
                $({
                    let mut snapshot = $crate::telemetry::stats::Snapshot::default();
                    shards.iter().for_each(|shard| shard.$histogram.merge_into(&mut snapshot));
                    out.sample(Cow::Borrowed(stringify!($histogram)), Value::Histogram($unit, snapshot));
                })*
                $(<$part_type>::merge(shards.iter().map(|shard| &shard.$part), out);)*
            }
        }
    };
    (@single $name:ident;
        $($counter:ident)*; $($gauge:ident)*; $($histogram:ident $unit:ident)*; $($text:ident)*; $($part:ident $part_type:ty;)*
    ) => {
        impl $crate::telemetry::stats::scope::Single for $name {
            #[allow(unused, reason = "not every struct has everything")]
            fn merge(&self, out: &mut $crate::telemetry::stats::scope::Merge<'_>) {
                use std::borrow::Cow;
                use $crate::telemetry::stats::{Unit::*, Value};
                $(out.sample(Cow::Borrowed(stringify!($counter)), Value::Counter(self.$counter.get()));)*
                $(out.sample(Cow::Borrowed(stringify!($gauge)), Value::Gauge(self.$gauge.get()));)*
                $({
                    let mut snapshot = $crate::telemetry::stats::Snapshot::default();
                    self.$histogram.merge_into(&mut snapshot);
                    out.sample(
                        Cow::Borrowed(stringify!($histogram)),
                        Value::Histogram($unit, snapshot),
                    );
                })*
                $(out.sample(Cow::Borrowed(stringify!($text)), Value::Text(self.$text.get()));)*
                $(<$part_type>::merge(std::iter::once(&self.$part), out);)*
            }

            fn reset_counters(&self) {
                $(self.$counter.reset();)*
            }
        }
    };
}
pub(crate) use metric_structs;

impl Single for () {
    fn merge(&self, _: &mut Merge<'_>) {}

    fn reset_counters(&self) {}
}
