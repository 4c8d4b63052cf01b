//! A hash map that is copied in no time: copies share all but what changes.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Branches of each of two levels: 4096 leaves, with a few entries each in a large cluster.
const WIDTH: usize = 64;

/// A map whose copies share nodes and leaves until one of them is changed.
#[derive(Clone, Debug)]
pub(crate) struct Map<K, V> {
    nodes: Vec<Option<Arc<Branch<K, V>>>>,
    length: usize,
}

/// Entries themselves, not a pointer to them: every step to memory that is not at hand costs as much as all else.
type Leaf<K, V> = Arc<[Item<K, V>]>;

#[derive(Clone, Debug)]
struct Branch<K, V>([Option<Leaf<K, V>>; WIDTH]);

#[derive(Clone, Debug)]
struct Item<K, V> {
    hash: u32,
    key: K,
    value: V,
}

/// Where a key is.
#[derive(Clone, Copy)]
struct Path {
    node: usize,
    leaf: usize,
    hash: u32,
}

impl Path {
    fn of<Q: Hash + ?Sized>(key: &Q) -> Self {
        let mut fold = Fold(0);
        key.hash(&mut fold);
        // The upper bits of a product depend on all of the key.
        let hash = fold.finish();
        Self { node: (hash >> 58) as usize, leaf: (hash >> 52) as usize % WIDTH, hash: (hash >> 20) as u32 }
    }
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Self { nodes: (0..WIDTH).map(|_| None).collect(), length: 0 }
    }
}

impl<K: Eq + Hash, V> Map<K, V> {
    /// The value of a key.
    pub(crate) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.item(key).map(|item| &item.value)
    }

    /// The key itself, to share it.
    pub(crate) fn key<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&K>
    where
        K: Borrow<Q>,
    {
        self.item(key).map(|item| &item.key)
    }

    fn item<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&Item<K, V>>
    where
        K: Borrow<Q>,
    {
        let path = Path::of(key);
        let leaf = self.nodes[path.node].as_ref()?.0[path.leaf].as_ref()?;
        leaf.iter().find(|item| item.hash == path.hash && item.key.borrow() == key)
    }

    /// How many there are.
    pub(crate) const fn len(&self) -> usize {
        self.length
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Map<K, V> {
    /// Sets or removes the value of a key.
    pub(crate) fn set(&mut self, key: K, value: Option<V>) {
        let path = Path::of(&key);
        let branch = self.nodes[path.node].get_or_insert_with(|| Arc::new(Branch([const { None }; WIDTH])));
        let slot = &mut Arc::make_mut(branch).0[path.leaf];
        let leaf = slot.get_or_insert_default();
        let at = leaf.iter().position(|item| item.hash == path.hash && item.key == key);
        match (at, value) {
            (None, None) => {}
            (Some(at), Some(value)) => Arc::make_mut(leaf)[at].value = value,
            (None, Some(value)) => {
                let item = Item { hash: path.hash, key, value };
                *leaf = leaf.iter().cloned().chain([item]).collect();
                self.length += 1;
            }
            (Some(at), None) => {
                let others = leaf.iter().enumerate().filter(|(other, _)| *other != at);
                *leaf = others.map(|(_, item)| item.clone()).collect();
                self.length -= 1;
            }
        }
        if leaf.is_empty() {
            *slot = None;
        }
    }
}

/// A fast hash for keys that are chosen inside of the cluster, not by clients: those can only look up.
struct Fold(u64);

impl Fold {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

    fn add(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * u128::from(Self::MULTIPLIER);
        self.0 = (product as u64) ^ ((product >> 64) as u64).rotate_left(23);
    }
}

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.add(u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.add(u64::from_le_bytes(last));
    }

    fn write_usize(&mut self, number: usize) {
        self.0 ^= number as u64;
    }

    fn write_isize(&mut self, number: isize) {
        self.0 ^= number.cast_unsigned() as u64;
    }

    fn finish(&self) -> u64 {
        (self.0 ^ self.0 >> 32).wrapping_mul(Self::MULTIPLIER)
    }
}

#[cfg(test)]
mod tests;
