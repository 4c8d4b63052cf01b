use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn maps_are_maps(steps in prop::collection::vec((0_u16..300, prop::option::of(any::<u8>())), 0..600)) {
        let (mut map, mut model) = (Map::default(), HashMap::new());
        for (key, value) in steps {
            let before = (map.clone(), model.get(&key).copied());
            map.set(key, value);
            match value {
                Some(value) => model.insert(key, value),
                None => model.remove(&key),
            };
            prop_assert_eq!(map.get(&key), model.get(&key));
            // Copies stay as they were.
            prop_assert_eq!(before.0.get(&key).copied(), before.1);
        }
        prop_assert_eq!(map.len(), model.len());
        prop_assert!((0..300).all(|key| map.get(&key) == model.get(&key)));
    }
}

/// A change of one key copies one leaf and what is above it, however large the map is; leaves stay small.
#[test]
fn copies_share_what_is_the_same() {
    let mut map = Map::default();
    for key in 0..60_000_u32 {
        map.set(key, Some(key));
    }
    let before = map.clone();
    map.set(7, Some(0));
    let branches = || before.nodes.iter().flatten().zip(map.nodes.iter().flatten());
    let other = branches().filter(|(old, new)| !Arc::ptr_eq(old, new));
    let leaves = other.clone().flat_map(|(old, new)| old.0.iter().flatten().zip(new.0.iter().flatten()));
    assert_eq!((other.count(), leaves.filter(|(old, new)| !Arc::ptr_eq(old, new)).count()), (1, 1));
    let longest = branches().flat_map(|(_, new)| new.0.iter().flatten()).map(|leaf| leaf.len()).max();
    assert!(longest.is_some_and(|longest| longest < 60), "{longest:?}");
}
