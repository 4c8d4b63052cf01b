//! Services (section A): which families and addresses they have, what may be said of them and how it may change.
//!
//! A request takes this way: [`defaults`] fills in what depends on nothing but the object; [`families`] decides which
//! families the Service has from what it says, what it was and what the cluster has; [`allocate`] takes addresses and
//! ports; [`wipe`] drops what the new type has no use for; [`validate`] checks what came out. Allocation comes before
//! validation (Q1), so each request's [`Allocator`] is dropped, with all it took, when validation fails (Q2).
//!
//! Deliberate differences from Kubernetes 1.36: K3, K4, K9, K11; a node port named twice for one protocol in an update
//! is a 422 as it is in a create, not a 500 (A144); ports in the manifest of an ExternalName Service, which reserve
//! nothing, are not mistaken for its own when it changes its type or goes.

use serde_json::{Value, json};

use crate::{Allocator, ClusterNet, Context, FieldError, Refusal, Strategy, names, wire};

mod allocate;
mod defaults;
mod families;
mod immutable;
mod linked;
mod read;
mod spec;
mod status;
mod update;
mod validate;
mod warnings;
mod wipe;

use spec::Spec;

/// The strategy of core/v1 Services.
pub static SERVICE: ServiceStrategy = ServiceStrategy;

/// What a Service means.
#[derive(Clone, Copy, Debug)]
pub struct ServiceStrategy;

impl Strategy for ServiceStrategy {
    fn default(&self, object: &mut Value) {
        // What is no Service is refused when the request is carried out.
        if let Ok(mut spec) = Spec::read(object) {
            defaults::apply(&mut spec);
            defaults::apply_status(&spec, object);
            spec.write(object);
        }
    }

    fn decorate(&self, object: &mut Value, cluster: &ClusterNet) -> bool {
        let Ok(mut spec) = Spec::read(object) else { return false };
        let stored = spec.clone();
        read::decorate(&mut spec, cluster);
        let decorated = spec != stored;
        if decorated {
            spec.write(object);
        }
        decorated
    }

    fn begin_create(
        &self,
        new: &mut Value,
        cx: &Context<'_>,
        alloc: &mut dyn Allocator,
    ) -> Result<(), Refusal> {
        let mut spec = Spec::read(new)?;
        spec.fill_plural();
        families::infer(&mut spec, None, cx.cluster)?;
        allocate::Allocation::new(new, cx.cluster, alloc).create(&mut spec)?;
        spec.write(new);
        Ok(())
    }

    fn begin_update(
        &self,
        new: &mut Value,
        old: &Value,
        cx: &Context<'_>,
        alloc: &mut dyn Allocator,
    ) -> Result<(), Refusal> {
        let (mut spec, old) = (Spec::read(new)?, Spec::read(old)?);
        update::copy_allocated(&mut spec, &old);
        update::sync_cluster_ips(&mut spec, &old);
        families::infer(&mut spec, Some(&old), cx.cluster)?;
        allocate::Allocation::new(new, cx.cluster, alloc).update(&mut spec, &old)?;
        spec.write(new);
        Ok(())
    }

    fn begin_delete(&self, old: &Value, alloc: &mut dyn Allocator) {
        if let Ok(mut spec) = Spec::read(old) {
            spec.fill_plural();
            allocate::release(&spec, alloc);
        }
    }

    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        wire::set(new, "status", json!({"loadBalancer": {}}));
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, cx: &Context<'_>) {
        if cx.subresource == "status" {
            wire::copy(new, old, "spec");
            return;
        }
        wire::copy(new, old, "status");
        if let (Ok(mut spec), Ok(old)) = (Spec::read(new), Spec::read(old)) {
            wipe::apply(&mut spec, &old);
            spec.write(new);
            if !spec.is_load_balancer() {
                // A115
                wire::set(wire::child(new, "status"), "loadBalancer", json!({}));
            }
        }
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        match Spec::read(new) {
            Ok(spec) => validate::service(new, &spec, None),
            Err(error) => vec![error.into()],
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        if cx.subresource == "status" {
            return status::validate(new, old);
        }
        match (Spec::read(new), Spec::read(old)) {
            (Ok(spec), Ok(old_spec)) => {
                let mut errors = immutable::check(&spec, &old_spec);
                errors.extend(validate::service(new, &spec, Some((old, &old_spec))));
                errors
            }
            (Err(error), _) | (_, Err(error)) => vec![error.into()],
        }
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>, cx: &Context<'_>) -> Vec<String> {
        if cx.subresource == "status" {
            return status::warnings(new);
        }
        Spec::read(new).map(|spec| warnings::collect(new, &spec)).unwrap_or_default()
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        // A103: since 1.34 a Service's name may begin with a digit.
        names::dns1123_label(name)
    }
}
