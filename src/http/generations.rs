//! A bounded map that forgets what has not been used for long.
//!
//! Two generations: what is used moves into the young one; when that is full, it becomes the old one
//! and the former old one is dropped. So at most twice the limit is held, nothing used lately is
//! lost, and every operation is one or two look-ups, without a list to keep in order.

use std::collections::BTreeMap;

/// See the module.
#[derive(Debug)]
pub(super) struct Generations<K, V> {
    young: BTreeMap<K, V>,
    old: BTreeMap<K, V>,
    young_max: usize,
}

impl<K: Ord + Clone, V> Generations<K, V> {
    /// Holds at least the `young_max` entries used last, at most twice as many.
    pub(super) fn new(young_max: usize) -> Self {
        Self { young: BTreeMap::new(), old: BTreeMap::new(), young_max }
    }

    /// The entry, which counts as used.
    pub(super) fn get(&mut self, key: &K) -> Option<&mut V> {
        if !self.young.contains_key(key) {
            let value = self.old.remove(key)?;
            self.insert(key.clone(), value);
        }
        self.young.get_mut(key)
    }

    /// Puts an entry in.
    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.young_max {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, key: &K) {
        self.young.remove(key);
        self.old.remove(key);
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_and_keeps_what_is_used() {
        let mut map = Generations::new(10);
        map.insert(0, "kept");
        for key in 1..1_000 {
            map.insert(key, "passing");
            assert!(map.get(&0).is_some(), "used all the time");
            assert!(map.young.len() + map.old.len() <= 20);
        }
        assert!(map.get(&1).is_none());
        map.remove(&0);
        assert!(map.get(&0).is_none());
    }
}
