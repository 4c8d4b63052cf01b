//! Histories of requests with their outcomes written down in `histories.json`.
//!
//! A step is `put` (create or replace), `patch` (merge patch of the spec), `status` or `delete`; it wants either the
//! fields of `spec` it names (`null`: not there), or the `errors`.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::world::World;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct History {
    name: String,
    rules: String,
    families: String,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    service: String,
    put: Option<Value>,
    patch: Option<Value>,
    status: Option<Value>,
    #[serde(default)]
    delete: bool,
    #[serde(default)]
    want: Map<String, Value>,
    #[serde(default)]
    errors: Vec<String>,
}

#[test]
fn histories_end_as_written() {
    let histories: Vec<History> = serde_json::from_str(include_str!("histories.json")).unwrap();
    for History { name, rules, families, steps } in histories {
        let mut world = World::of(&families);
        for (index, step) in steps.into_iter().enumerate() {
            let row = format!("{name} ({rules}), step {index}");
            let Step { service, put, patch, status, delete, want, errors } = step;
            let outcome = match (put, patch, status, delete) {
                (Some(spec), None, None, false) => world.put(&service, spec),
                (None, Some(patch), None, false) => world.patch(&service, patch),
                (None, None, Some(status), false) => world.put_status(&service, status),
                (None, None, None, true) => {
                    world.delete(&service);
                    continue;
                }
                _ => panic!("{row}: one thing a step"),
            };
            match outcome {
                Err(got) => assert_eq!(got, errors, "{row}"),
                Ok(object) => {
                    assert!(errors.is_empty(), "{row}: accepted, wanted {errors:?}");
                    for (field, want) in want {
                        assert_eq!(object["spec"][field.as_str()], want, "{row}: {field}");
                    }
                }
            }
        }
    }
}
