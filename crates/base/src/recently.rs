//! A small bounded cache.

use std::{collections::HashMap, hash::Hash};

/// Keeps about the last `capacity` entries that were used, in two generations: when the young one
/// is full it becomes the old one, and what was old and not used again is forgotten.
#[derive(Debug)]
pub struct Recently<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    generation: usize,
}

impl<K: Eq + Hash + Copy, V: Clone> Recently<K, V> {
    /// An empty cache.
    pub fn new(capacity: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), generation: capacity.div_ceil(2) }
    }

    /// The entry, which counts as used.
    pub fn get(&mut self, key: &K) -> Option<V> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let value = self.old.remove(key)?;
        self.put(*key, value.clone());
        Some(value)
    }

    /// Adds or replaces an entry.
    pub fn put(&mut self, key: K, value: V) {
        if self.young.len() >= self.generation {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_used() {
        let mut cache = Recently::new(8);
        (0..100).for_each(|n| {
            cache.put(n, n);
            assert_eq!(cache.get(&0), Some(0));
        });
        assert_eq!(cache.get(&99), Some(99));
        assert_eq!(cache.get(&50), None);
        assert!(cache.young.len() + cache.old.len() <= 8);
    }
}
