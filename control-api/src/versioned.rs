//! A sorted map of which many versions live side by side.
//!
//! What is in force is exchanged whole, and readers hold the version that they took for as long as they read it. The
//! next one differs in a few entries: a copy shares everything with its original, and a change of one entry copies a
//! leaf of some dozens and the list of leaves, whatever the map holds.

use std::fmt;
use std::sync::Arc;

/// The most entries of a leaf.
const LEAF: usize = 64;

/// A map that is cheap to copy.
#[derive(Clone)]
pub struct Map<K, V> {
    /// In the order of their keys; none is empty.
    leaves: Arc<Vec<Arc<Vec<(K, V)>>>>,
    len: usize,
}

impl<K: Ord + Clone, V: Clone> Map<K, V> {
    /// The leaf that holds the key, if any does.
    fn leaf(&self, key: &K) -> usize {
        self.leaves.partition_point(|leaf| leaf.first().is_some_and(|(first, _)| first <= key)).saturating_sub(1)
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        Some(self.get_key_value(key)?.1)
    }

    /// A key as the map has it, and its value.
    pub fn get_key_value(&self, key: &K) -> Option<(&K, &V)> {
        let leaf = self.leaves.get(self.leaf(key))?;
        let (key, value) = leaf.get(leaf.binary_search_by(|(other, _)| other.cmp(key)).ok()?)?;
        Some((key, value))
    }

    /// Whether the key is there.
    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// Puts a value under a key; the one that was there.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let place = self.leaf(&key);
        let leaves = Arc::make_mut(&mut self.leaves);
        if leaves.is_empty() {
            leaves.push(Arc::default());
        }
        let leaf = Arc::make_mut(leaves.get_mut(place)?);
        match leaf.binary_search_by(|(other, _)| other.cmp(&key)) {
            Ok(at) => return leaf.get_mut(at).map(|(_, held)| std::mem::replace(held, value)),
            Err(at) => leaf.insert(at, (key, value)),
        }
        self.len += 1;
        if leaf.len() > LEAF {
            let rest = leaf.split_off(LEAF / 2);
            leaves.insert(place + 1, Arc::new(rest));
        }
        None
    }

    /// Takes a key away; its value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let place = self.leaf(key);
        let at = self.leaves.get(place)?.binary_search_by(|(other, _)| other.cmp(key)).ok()?;
        let leaves = Arc::make_mut(&mut self.leaves);
        let leaf = Arc::make_mut(leaves.get_mut(place)?);
        let (_, value) = leaf.remove(at);
        if leaf.is_empty() {
            leaves.remove(place);
        }
        self.len -= 1;
        Some(value)
    }

    /// The entries that are not `before`, which holds for the first so many of them.
    pub fn from(&self, before: impl Fn(&K) -> bool) -> impl Iterator<Item = (&K, &V)> {
        let first = |leaf: &Arc<Vec<(K, V)>>| leaf.first().is_some_and(|(first, _)| before(first));
        let place = self.leaves.partition_point(first).saturating_sub(1);
        let (start, rest) = self.leaves.get(place..).and_then(<[_]>::split_first).unzip();
        let start = start.map(|leaf| leaf.get(leaf.partition_point(|(key, _)| before(key))..).unwrap_or_default());
        let rest = rest.into_iter().flatten().flat_map(|leaf| leaf.iter());
        start.into_iter().flatten().chain(rest).map(|(key, value)| (key, value))
    }

    /// All entries, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.leaves.iter().flat_map(|leaf| leaf.iter()).map(|(key, value)| (key, value))
    }

    /// All keys, in their order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All values, in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Self { leaves: Arc::default(), len: 0 }
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for Map<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> PartialEq for Map<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Ord + Clone + fmt::Debug, V: Clone + fmt::Debug> fmt::Debug for Map<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is done to a copy, it is the map of the standard library, and its original stays as it was.
        #[test]
        fn it_is_a_sorted_map(steps in proptest::collection::vec((any::<bool>(), 0..400_u32), 0..1500), from in 0..400_u32) {
            let (mut map, mut expected) = (Map::default(), BTreeMap::new());
            let mut copy = None;
            for (number, (put, key)) in steps.iter().enumerate() {
                if number == steps.len() / 2 {
                    copy = Some((map.clone(), expected.clone()));
                }
                match *put || number % 5 < 3 {
                    true => prop_assert_eq!(map.insert(*key, number), expected.insert(*key, number)),
                    false => prop_assert_eq!(map.remove(key), expected.remove(key)),
                }
                prop_assert_eq!(map.get(key), expected.get(key));
            }
            for (map, expected) in copy.into_iter().chain([(map, expected)]) {
                prop_assert_eq!(map.len(), expected.len());
                prop_assert!(map.iter().eq(expected.iter()));
                prop_assert!(map.from(|key| *key < from).eq(expected.range(from..)));
                prop_assert!(map.leaves.iter().all(|leaf| !leaf.is_empty() && leaf.len() <= LEAF));
            }
        }
    }

    #[test]
    fn a_change_leaves_other_leaves_shared() {
        let map: Map<u32, u32> = (0..10_000).map(|key| (key, key)).collect();
        let mut next = map.clone();
        next.insert(5_000, 0);
        let other = map.leaves.iter().zip(&*next.leaves).filter(|(old, new)| !Arc::ptr_eq(old, new)).count();
        assert_eq!((other, map.get(&5_000), next.get(&5_000)), (1, Some(&5_000), Some(&0)));
    }
}
