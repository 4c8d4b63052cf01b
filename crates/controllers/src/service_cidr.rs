//! ServiceCIDRs: ready while they are there, and gone only when nobody has an address of theirs (C30 to C34).

use std::time::Duration;

use dyad_net::{IpFamily, IpNet, service_range_contains};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use std::net::IpAddr;
use tokio::task::JoinSet;

use crate::queue::{Controller, Error, Key, Next};
use crate::{Shared, spawn};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// Time for every server to stop handing out addresses of the range (C33).
const SETTLE: i64 = 10;

struct ServiceCidrs(Shared);

pub(crate) fn start(world: &Shared, tasks: &mut JoinSet<()>) {
    spawn(tasks, ServiceCidrs(world.clone()), |queue| {
        let (cidrs, weak) = (queue.clone(), std::sync::Arc::downgrade(world));
        world.service_cidrs.on_change(move |old, new| {
            if let Some(cidr) = new.or(old) {
                cidrs.add(Key::of(cidr));
            }
            // A new range may cover one that waits to go.
            if let Some(world) = weak.upgrade() {
                deleting(&world).for_each(|key| cidrs.add(key));
            }
        });
        let (addresses, weak) = (queue.clone(), std::sync::Arc::downgrade(world));
        world.ip_addresses.on_change(move |_, _| {
            if let Some(world) = weak.upgrade() {
                deleting(&world).for_each(|key| addresses.add(key));
            }
        });
    });
}

fn deleting(world: &Shared) -> impl Iterator<Item = Key> + use<> {
    let all = world.service_cidrs.all();
    all.into_iter().filter(|cidr| cidr.metadata.deletion_timestamp.is_some()).map(|cidr| Key::of(&*cidr))
}

fn ranges(cidr: &ServiceCIDR) -> Vec<IpNet> {
    let cidrs = cidr.spec.as_ref().and_then(|spec| spec.cidrs.as_ref());
    cidrs.into_iter().flatten().filter_map(|text| text.parse().ok()).collect()
}

/// Whether ranges may go (C31): others cover them, or no address lies in them alone.
fn may_go(mine: &[IpNet], others: &[IpNet], addresses: &[IpAddr]) -> bool {
    mine.iter().all(|range| {
        others.iter().any(|other| other.contains(range))
            || !addresses.iter().any(|ip| {
                IpFamily::from(*ip) == IpFamily::from(*range)
                    && service_range_contains(range, *ip)
                    && !others.iter().any(|other| service_range_contains(other, *ip))
            })
    })
}

impl Controller for ServiceCidrs {
    const NAME: &'static str = "service-cidr";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(cidr) = self.0.service_cidrs.named(&key.name) else { return Ok(None) };
        let api = Api::<ServiceCIDR>::all(self.0.client.clone());
        let Some(deleted) = &cidr.metadata.deletion_timestamp else {
            if !cidr.finalizers().iter().any(|one| one == FINALIZER) {
                let patch = json!({"metadata": {"uid": cidr.uid(), "finalizers": [FINALIZER]}});
                api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
            }
            self.set_ready(&cidr, "True", "", "Kubernetes Service CIDR is ready").await?;
            return Ok(None);
        };
        if !cidr.finalizers().iter().any(|one| one == FINALIZER) {
            return Ok(None);
        }
        let others = self.0.service_cidrs.all();
        let others = others
            .iter()
            .filter(|other| other.name_any() != key.name && other.metadata.deletion_timestamp.is_none());
        let others: Vec<IpNet> = others.flat_map(|other| ranges(other)).collect();
        let managed = |labels: &std::collections::BTreeMap<String, String>| {
            labels.get("ipaddress.kubernetes.io/managed-by").is_some_and(|by| by == "ipallocator.k8s.io")
        };
        let addresses = self.0.ip_addresses.all();
        let addresses: Vec<IpAddr> = addresses
            .iter()
            .filter(|ip| managed(ip.labels()))
            .filter_map(|ip| ip.name_any().parse().ok())
            .collect();
        if !may_go(&ranges(&cidr), &others, &addresses) {
            let message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
            self.set_ready(&cidr, "False", "Terminating", message).await?;
            return Ok(None);
        }
        let left = deleted.0.as_second() + SETTLE - Timestamp::now().as_second();
        if left > 0 {
            return Ok(Some(Duration::from_secs(left.unsigned_abs())));
        }
        let patch =
            json!({"metadata": {"uid": cidr.uid(), "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
        api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
        Ok(None)
    }
}

impl ServiceCidrs {
    async fn set_ready(
        &self,
        cidr: &ServiceCIDR,
        status: &str,
        reason: &str,
        message: &str,
    ) -> Result<(), Error> {
        let conditions = cidr.status.as_ref().and_then(|status| status.conditions.as_ref());
        if conditions.into_iter().flatten().any(|one| one.type_ == "Ready" && one.status == status) {
            return Ok(());
        }
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default().to_string();
        let condition = json!({"type": "Ready", "status": status, "reason": reason, "message": message, "lastTransitionTime": now});
        let patch = json!({"metadata": {"uid": cidr.uid()}, "status": {"conditions": [condition]}});
        let api = Api::<ServiceCIDR>::all(self.0.client.clone());
        api.patch_status(&cidr.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c31_a_range_goes_when_no_address_needs_it() {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
        let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        #[rustfmt::skip]
        let cases = [
            (&["10.0.0.0/24"][..],              &[][..],                &[][..],                    true,  "empty"),
            (&["10.0.0.0/24"],                  &[],                    &["10.0.0.9"],              false, "in use"),
            (&["10.0.0.0/24"],                  &["10.0.0.0/16"],       &["10.0.0.9"],              true,  "covered by a larger one"),
            (&["10.0.0.0/24"],                  &["10.0.0.0/28"],       &["10.0.0.9"],              true,  "the address is in another, too"),
            (&["10.0.0.0/24"],                  &["10.0.0.0/29"],       &["10.0.0.7"],              false, "P8: a broadcast address is in none"),
            (&["10.0.0.0/24", "fd00::/112"],    &["10.0.0.0/24"],       &["fd00::5"],               false, "the other family is in use"),
            (&["10.0.0.0/24"],                  &[],                    &["10.0.1.9", "fd00::1"],   true,  "addresses elsewhere"),
        ];
        for (mine, others, addresses, goes, why) in cases {
            assert_eq!(may_go(&nets(mine), &nets(others), &ips(addresses)), goes, "{why}");
        }
    }
}
