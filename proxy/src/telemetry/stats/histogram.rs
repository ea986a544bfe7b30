//! A log-linear histogram: 64 steps an octave, so that a value read back is less than 1 % off.
//!
//! Cells come in pages of one octave, made at the first value in it, and pages stand in a list in the order in which
//! they were made: latencies of one thing lie within a few octaves, and the usual one tends to be first. So an unused
//! histogram is two words, a used one some hundred bytes for each octave seen, and a record walks a page or two and
//! adds one. Cells have 32 bits; a full one goes on in a further page of the same octave.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Steps an octave, as a power of two.
const STEP_BITS: u32 = 6;
/// Cells of a page.
const STEPS: usize = 1 << STEP_BITS;

/// What one worker recorded. One thread writes, others read.
#[derive(Debug, Default)]
pub struct Histogram {
    first: Link,
}

type Link = OnceLock<Box<Page>>;

#[derive(Debug)]
struct Page {
    /// 0 holds the values below 64, one each; `n` those from 2^(n+5), 2^(n-1) each.
    octave: u32,
    cells: [AtomicU32; STEPS],
    next: Link,
}

/// The page and the cell of a value.
#[inline]
fn locate(value: u64) -> (u32, usize) {
    let octave = (u64::BITS - value.leading_zeros()).saturating_sub(STEP_BITS);
    (octave, (value >> octave.saturating_sub(1)) as usize & (STEPS - 1))
}

/// The least value of a cell, and how many values it holds.
fn bounds(octave: u32, cell: usize) -> (u64, u64) {
    match octave {
        0 => (cell as u64, 1),
        _ => ((STEPS as u64 + cell as u64) << (octave - 1), 1 << (octave - 1)),
    }
}

impl Histogram {
    /// Records one value, in microseconds where the histogram's unit is time.
    #[inline]
    pub fn record(&self, value: u64) {
        let (octave, cell) = locate(value);
        let mut link = &self.first;
        loop {
            let page = link.get_or_init(|| Box::new(Page::new(octave)));
            if page.octave == octave
                && let Some(cell) = page.cells.get(cell)
            {
                let count = cell.load(Ordering::Relaxed);
                if count != u32::MAX {
                    cell.store(count + 1, Ordering::Relaxed);
                    return;
                }
            }
            link = &page.next;
        }
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.first.get().is_none()
    }

    /// Adds what was recorded so far to `snapshot`.
    pub fn merge_into(&self, snapshot: &mut Snapshot) {
        let mut link = &self.first;
        while let Some(page) = link.get() {
            for (cell, count) in page.cells.iter().enumerate() {
                let count = u64::from(count.load(Ordering::Relaxed));
                if count > 0 {
                    *snapshot.cells.entry((page.octave, cell)).or_default() += count;
                    snapshot.count += count;
                }
            }
            link = &page.next;
        }
    }
}

impl Page {
    fn new(octave: u32) -> Self {
        Page { octave, cells: [const { AtomicU32::new(0) }; STEPS], next: Link::new() }
    }
}

/// Histograms added up, for reading.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    cells: BTreeMap<(u32, usize), u64>,
    count: u64,
}

impl Snapshot {
    /// How many values.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The sum of all values, less than 1 % off.
    pub fn sum(&self) -> f64 {
        self.cells.iter().map(|(&(octave, cell), &count)| middle(octave, cell) * count as f64).sum()
    }

    /// The value below or at which the share `quantile` (0 to 1) of all values lies, less than 1 % off; `None` when
    /// nothing was recorded.
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let rank = ((quantile.clamp(0.0, 1.0) * self.count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (&(octave, cell), &count) in &self.cells {
            seen += count;
            if seen >= rank {
                return Some(middle(octave, cell));
            }
        }
        None
    }

    /// How many values were at most `bound`; those of a cell that lies across it count by its middle.
    pub fn at_most(&self, bound: f64) -> u64 {
        self.cells
            .iter()
            .take_while(|&(&(octave, cell), _)| middle(octave, cell) <= bound)
            .map(|(_, &count)| count)
            .sum()
    }

    /// Adds the values of `other`.
    pub fn add(&mut self, other: &Snapshot) {
        for (&cell, &count) in &other.cells {
            *self.cells.entry(cell).or_default() += count;
        }
        self.count += other.count;
    }
}

/// The middle of a cell's values.
fn middle(octave: u32, cell: usize) -> f64 {
    let (least, width) = bounds(octave, cell);
    least as f64 + (width - 1) as f64 / 2.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn snapshot(values: &[u64]) -> Snapshot {
        let histogram = Histogram::default();
        for &value in values {
            histogram.record(value);
        }
        let mut snapshot = Snapshot::default();
        histogram.merge_into(&mut snapshot);
        snapshot
    }

    /// Values of every magnitude.
    fn values() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec((0u32..64, any::<u64>()).prop_map(|(shift, bits)| bits >> shift), 1..200)
    }

    proptest! {
        #[test]
        fn a_value_read_back_is_less_than_one_percent_off(shift in 0u32..64, bits in any::<u64>()) {
            let value = bits >> shift;
            let read = snapshot(&[value]).quantile(0.5).unwrap();
            prop_assert!((read - value as f64).abs() <= value as f64 * 0.01, "{value} reads {read}");
        }

        #[test]
        fn quantiles_are_those_of_the_sorted_values(mut values in values(), quantile in 0.0..1.0f64) {
            let read = snapshot(&values).quantile(quantile).unwrap();
            values.sort_unstable();
            let rank = ((quantile * values.len() as f64).ceil() as usize).max(1);
            let exact = values[rank - 1] as f64;
            prop_assert!((read - exact).abs() <= exact * 0.01, "{exact} reads {read}");
        }

        #[test]
        fn merging_shards_is_recording_all_in_one(left in values(), right in values()) {
            let mut merged = snapshot(&left);
            merged.add(&snapshot(&right));
            let both = snapshot(&[left, right].concat());
            prop_assert_eq!(&merged.cells, &both.cells);
            prop_assert_eq!(merged.count(), both.count());
        }

        #[test]
        fn counts_and_sums_hold(values in prop::collection::vec(0u64..1 << 40, 1..200), bound in 0u64..1 << 40) {
            let snapshot = snapshot(&values);
            let sum = values.iter().sum::<u64>() as f64;
            prop_assert!((snapshot.sum() - sum).abs() <= sum * 0.01);
            let sure = values.iter().filter(|&&v| (v as f64) < bound as f64 * 0.98).count() as u64;
            let perhaps = values.iter().filter(|&&v| (v as f64) <= bound as f64 * 1.02).count() as u64;
            prop_assert!((sure..=perhaps).contains(&snapshot.at_most(bound as f64)));
        }
    }

    #[test]
    fn small_numbers_are_exact() {
        let all = (0..64).collect::<Vec<_>>();
        let snapshot = snapshot(&all);
        assert_eq!(snapshot.quantile(0.0), Some(0.0));
        assert_eq!(snapshot.quantile(1.0), Some(63.0));
        assert_eq!(snapshot.at_most(9.0), 10);
    }

    #[test]
    fn a_full_cell_goes_on_in_a_further_page() {
        let histogram = Histogram::default();
        histogram.record(7);
        histogram.first.get().unwrap().cells[7].store(u32::MAX, Ordering::Relaxed);
        histogram.record(7);
        let mut snapshot = Snapshot::default();
        histogram.merge_into(&mut snapshot);
        assert_eq!(snapshot.count(), u64::from(u32::MAX) + 1);
    }

    #[test]
    fn an_unused_histogram_is_two_words() {
        assert!(size_of::<Histogram>() <= 16);
        assert!(size_of::<Page>() <= 288);
    }
}
