//! Every reader of outside bytes in this crate, given bytes that are nearly right: none may panic or run away.

use serde_json::{Value, json};

use crate::normalize::{find_duplicates, quantity, time};
use crate::patch::{PatchType, apply, apply_untyped};
use crate::protobuf::tests::random::{self, Random};

/// Bodies that are tried per reader.
const ROUNDS: usize = 6000;

/// Damages a text the way broken clients and attackers do.
fn damaged(text: &[u8], random: &mut Random) -> Vec<u8> {
    const PIECES: [&[u8]; 16] = [
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\"",
        b"null",
        b"-1e999",
        b"18446744073709551616",
        b"\\ud800",
        b"\0",
        b"\xff",
        b"{\"a\":",
        b"\"$patch\":\"delete\",",
        b"[[[[[[[[",
    ];
    let mut bytes = text.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.below(4) {
            0 => bytes.truncate(at),
            1 => bytes.splice(at..at, PIECES[random.below(PIECES.len())].iter().copied()).for_each(drop),
            2 => {
                let end = (at + random.below(8)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random.next() as u8;
                }
            }
        }
    }
    bytes
}

#[test]
fn any_json_is_answered() {
    let schemas: Vec<_> = random::schemas().collect();
    let mut random = Random(11);
    for round in 0..ROUNDS {
        let (name, schema) = &schemas[random.below(schemas.len())];
        let body = damaged(random::object(schema, &mut random).to_string().as_bytes(), &mut random);
        let _ = find_duplicates(&body);
        match schema.decode(&body) {
            Ok(decoded) => {
                let again = schema.check_and_normalize(&decoded.object).map(|decoded| decoded.object);
                assert_eq!(again.as_ref(), Ok(&decoded.object), "{name}, round {round}");
            }
            Err(error) => assert!(!error.bad_request("Kind", "v1", &body).is_empty()),
        }
    }
}

#[test]
fn any_patch_is_answered() {
    let schemas: Vec<_> = random::schemas().collect();
    let mut random = Random(12);
    for _ in 0..ROUNDS {
        let (_, schema) = &schemas[random.below(schemas.len())];
        let original = random::object(schema, &mut random);
        let operations = json!([
            {"op": "test", "path": "/metadata/name", "value": "x"}, {"op": "add", "path": "/metadata/labels/a~1b", "value": "c"},
            {"op": "move", "from": "/spec", "path": "/spec/x"}, {"op": "copy", "from": "", "path": "/a"},
            {"op": "remove", "path": "/metadata/finalizers/-"}, {"op": "replace", "path": "", "value": original},
        ]);
        let kind = PatchType::ALL[random.below(PatchType::ALL.len())];
        let patch = if kind == PatchType::Json { operations } else { random::object(schema, &mut random) };
        let patch = damaged(patch.to_string().as_bytes(), &mut random);
        let _ = apply(schema, kind, &original, &patch);
        let _ = apply_untyped(PatchType::Json, &original, &patch);
        let _ = apply_untyped(PatchType::Merge, &Value::Null, &patch);
    }
}

#[test]
fn any_scalar_is_answered() {
    let mut random = Random(13);
    for _ in 0..ROUNDS * 4 {
        let text = damaged(b"2026-11-30T15:53:54.123456+01:00 1.5e3Gi", &mut random);
        let text = String::from_utf8_lossy(&text);
        let (start, end) = (random.below(text.len() + 1), random.below(text.len() + 1));
        let Some(part) = text.get(start.min(end)..start.max(end)) else { continue };
        for precision in [time::Precision::Seconds, time::Precision::Micros] {
            if let Ok(Some(once)) = time::canonical(part, precision) {
                assert_eq!(time::canonical(&once, precision), Ok(Some(once.clone())), "{part}");
            }
        }
        if let Ok(once) = quantity::canonical(part) {
            assert_eq!(quantity::canonical(&once), Ok(once.clone()), "{part}");
        }
    }
}
