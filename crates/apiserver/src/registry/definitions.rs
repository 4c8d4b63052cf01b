//! Looks after definitions: accepts their names, establishes them, and ends them with their objects (J6).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use dyad_custom::{FINALIZER, GROUP, PLURAL, condition, is_established, set_condition, settle};
use serde_json::Value;

use super::options::{DeleteOptions, FieldValidation, ListOptions, WriteOptions};
use super::stored::Selection;
use super::update::Compute;
use super::write::{Scope, meta_text};
use super::{Registry, closed, values};
use crate::auth::UserInfo;
use crate::status::ApiError;

/// Who writes the status of definitions.
const MANAGER: &str = "kube-apiserver";
/// Between two looks at objects that take their time to go, and after a failure.
const AGAIN: Duration = Duration::from_millis(500);

impl Registry {
    /// Keeps definitions settled until the server shuts down.
    pub(crate) async fn keep_definitions(self: Arc<Self>) {
        let mut closing = self.closing.subscribe();
        let mut changed = self.builtin(GROUP, PLURAL).cache.subscribe();
        let mut done = HashMap::new();
        loop {
            changed.borrow_and_update();
            let settled = self.settle_definitions(&mut done).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "definitions can't be settled");
                false
            });
            tokio::select! {
                () = closed(&mut closing) => return,
                changed = changed.changed() => if changed.is_err() {
                    return;
                },
                () = tokio::time::sleep(AGAIN), if !settled => {}
            }
        }
    }

    /// One look at all definitions; whether there is nothing left to do. `done` are the revisions of those that are what
    /// they should be, whatever becomes of others.
    async fn settle_definitions(&self, done: &mut HashMap<Box<str>, u64>) -> Result<bool, ApiError> {
        let mut settled = true;
        let stored = self.builtin(GROUP, PLURAL).cache.snapshot("").items;
        done.retain(|uid, _| stored.iter().any(|stored| stored.meta.uid == *uid));
        for stored in &stored {
            if done.get(&stored.meta.uid) == Some(&stored.rev) {
                continue;
            }
            let definition = &stored.value();
            let terminating = !definition["metadata"]["deletionTimestamp"].is_null();
            if terminating {
                settled &= self.end_definition(definition).await?;
                continue;
            }
            let now = values::now();
            // Those that were settled just now count: each write is waited for.
            let others = self.objects(GROUP, dyad_custom::KIND, "");
            if settle(definition, &others, &now) == *definition {
                if is_established(definition) {
                    done.insert(stored.meta.uid.clone(), stored.rev);
                }
            } else {
                self.write_definition(definition, &|current| {
                    *current = settle(current, &others, &now);
                })
                .await?;
            }
        }
        Ok(settled)
    }

    /// Deletes the objects of a definition, and then lets it go; whether it is gone.
    async fn end_definition(&self, definition: &Value) -> Result<bool, ApiError> {
        let finalizers = definition["metadata"]["finalizers"].as_array();
        if !finalizers.is_some_and(|list| list.iter().any(|finalizer| finalizer == FINALIZER)) {
            return Ok(true);
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (group, plural) =
            (text(&definition["spec"]["group"]), text(&definition["spec"]["names"]["plural"]));
        let resource = self.custom().resource(&group, &plural);
        let built_in = self.by_name.contains_key(&(group, plural));
        let end = match resource.filter(|_| is_established(definition)) {
            None if built_in => {
                ("OverlappingBuiltInResource", "instances overlap with built-in resources in storage")
            }
            None => ("NeverEstablished", "resource was never established"),
            Some(resource) => {
                if condition(definition, "Terminating")
                    .is_none_or(|said| said["reason"] == "InstanceDeletionPending")
                {
                    self.write_definition(definition, &|current| {
                        let said =
                            ("True", "InstanceDeletionInProgress", "CustomResource deletion is in progress");
                        set_condition(current, "Terminating", said, &values::now());
                    })
                    .await?;
                }
                let served =
                    self.custom().all().find(|served| Arc::ptr_eq(&served.resource, &resource)).cloned();
                let namespaces: BTreeSet<String> = resource
                    .cache
                    .snapshot("")
                    .items
                    .iter()
                    .map(|stored| stored.meta.namespace.to_string())
                    .collect();
                if let Some(served) = &served {
                    let user = UserInfo::server();
                    for namespace in &namespaces {
                        let scope = Scope {
                            served,
                            namespace,
                            name: "",
                            subresource: "",
                            user: &user,
                            verb: "deletecollection",
                        };
                        let selection = Selection { namespace: namespace.clone(), ..Selection::default() };
                        let list = ListOptions { selection, ..ListOptions::default() };
                        self.delete_collection(scope, &list, &DeleteOptions::default()).await?;
                    }
                }
                self.until_as_new_as(None).await?;
                if resource.cache.len() > 0 {
                    return Ok(false);
                }
                ("InstanceDeletionCompleted", "removed all instances")
            }
        };
        self.write_definition(definition, &|current| {
            set_condition(current, "Terminating", ("False", end.0, end.1), &values::now());
            if let Some(list) = current["metadata"]["finalizers"].as_array_mut() {
                list.retain(|finalizer| finalizer != FINALIZER);
            }
        })
        .await?;
        Ok(true)
    }

    /// Writes the status of a definition, if it is still there.
    async fn write_definition(
        &self,
        definition: &Value,
        change: &(dyn Fn(&mut Value) + Sync),
    ) -> Result<(), ApiError> {
        let user = UserInfo::server();
        let uid = &definition["metadata"]["uid"];
        let scope = Scope {
            served: self.builtin_served(GROUP, PLURAL),
            namespace: "",
            name: meta_text(definition, "name"),
            subresource: "status",
            user: &user,
            verb: "update",
        };
        let with = |current: &mut Value| {
            if current["metadata"]["uid"] == *uid {
                change(current);
            }
            Ok(())
        };
        let options = WriteOptions {
            manager: MANAGER.to_owned(),
            field_validation: FieldValidation::Ignore,
            dry_run: false,
            force: false,
        };
        match self.update(scope, Compute::With(&with), &options, &mut Vec::new()).await {
            Ok(_) => self.until_as_new_as(None).await,
            Err(error) if error.reason() == "NotFound" => Ok(()),
            Err(error) => Err(error),
        }
    }
}
