//! Earliest deadline first: weighted rotation without bursts, as Envoy schedules.
//!
//! Each entry has a deadline; the earliest is picked and gets a new one 1/weight later. Over time an entry is picked
//! in proportion to its weight, spread evenly, and no entry with a weight starves. Equal deadlines go by the order of
//! insertion, so equal weights are a plain rotation.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A schedule of indices. A pick is O(log n) and allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    heap: BinaryHeap<Entry>,
    now: f64,
    next_order: u64,
}

#[derive(Debug)]
struct Entry {
    deadline: f64,
    order: u64,
    index: u32,
}

impl Schedule {
    /// The weights of entries 0, 1, 2, ...; those of weight zero are never picked.
    pub(super) fn new(weights: impl Iterator<Item = f64>) -> Self {
        let mut schedule = Schedule::default();
        for (index, weight) in (0..).zip(weights).filter(|(_, weight)| *weight > 0.0) {
            schedule.insert(index, weight);
        }
        schedule
    }

    /// The next entry; `weight` says what it weighs now. `None` if no entry has a weight.
    pub(super) fn pick(&mut self, weight: impl FnOnce(usize) -> f64) -> Option<usize> {
        let mut first = self.heap.peek_mut()?;
        let index = first.index as usize;
        self.now = first.deadline;
        // Below this a weight is as good as none, and the deadline would leave the range where times can be told apart.
        first.deadline = self.now + 1.0 / weight(index).max(1e-9);
        first.order = self.next_order;
        self.next_order = self.next_order.wrapping_add(1);
        Some(index)
    }

    fn insert(&mut self, index: u32, weight: f64) {
        self.heap.push(Entry { deadline: self.now + 1.0 / weight, order: self.next_order, index });
        self.next_order = self.next_order.wrapping_add(1);
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        // A BinaryHeap gives its greatest first: the earliest must be the greatest.
        other.deadline.total_cmp(&self.deadline).then(other.order.cmp(&self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_weights_rotate_and_unequal_ones_interleave() {
        let picks = |weights: &[f64], n| {
            let mut schedule = Schedule::new(weights.iter().copied());
            (0..n).map(|_| schedule.pick(|i| weights[i]).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(picks(&[1.0, 1.0, 1.0], 6), [0, 1, 2, 0, 1, 2]);
        assert_eq!(picks(&[2.0, 1.0], 6), [0, 1, 0, 0, 1, 0]);
        assert_eq!(picks(&[0.0, 1.0], 2), [1, 1]);
        assert!(Schedule::new([0.0].into_iter()).pick(|_| 1.0).is_none());
    }

    #[test]
    fn a_long_life_loses_no_precision() {
        let mut schedule = Schedule::new([1.0, 3.0].into_iter());
        schedule.now = 1e12;
        schedule.heap.clear();
        schedule.insert(0, 1.0);
        schedule.insert(1, 3.0);
        let ones = (0..4000).filter(|_| schedule.pick(|i| [1.0, 3.0][i]) == Some(1)).count();
        assert!((2990..=3010).contains(&ones), "{ones}");
    }
}
