//! Addresses and links of a node's pods.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dyad_links::{Handle, pod, sysctl};
use dyad_net::{DualStack, IpFamily, IpNet, Pool, StaticBand};
use tracing::warn;

use crate::cni;
use crate::error::Error;

/// Used when the node's own link does not say otherwise, in bytes.
const DEFAULT_MTU: u32 = 1500;

/// The addresses a node gives to its pods, from its `podCIDRs`. Pure.
#[derive(Debug)]
pub(crate) struct Addresses {
    pools: DualStack<Pool>,
    next: u128,
}

impl Addresses {
    /// Of ranges in the node's order of families; `None` if there are none or two of one family.
    pub(crate) fn new(ranges: &[IpNet]) -> Option<Self> {
        let pools = ranges.iter().map(|&range| {
            let family = IpFamily::from(range);
            let mut pool = Pool::new(family, StaticBand::None);
            pool.add_range(range).ok()?;
            Some((family, pool))
        });
        let pools = DualStack::from_ordered(pools.collect::<Option<Vec<_>>>()?)?;
        Some(Self { pools, next: 0 })
    }

    /// One address per family, in the order of `families`; neither is taken if one family has none left.
    ///
    /// Every pod gets the next ones, so that an address is not given again as soon as it is free, and while all ranges
    /// last the same number in each family: 10.244.1.5 goes with fd00:10:244:1::5.
    pub(crate) fn take(&mut self, order: IpFamily) -> Result<DualStack<IpAddr>, IpFamily> {
        let (mut taken, seed) = (Vec::new(), self.next);
        for family in [order, order.other()] {
            match self.pool(family).map(|pool| pool.take(seed)) {
                None => {}
                Some(Ok(ip)) => taken.push((family, ip)),
                Some(Err(_)) => {
                    taken.iter().for_each(|(_, ip)| self.release(*ip));
                    return Err(family);
                }
            }
        }
        self.next += 1;
        DualStack::from_ordered(taken).ok_or(order)
    }

    /// Marks the addresses of a pod that was found running.
    pub(crate) fn occupy(&mut self, ip: IpAddr) {
        if let Some(pool) = self.pool(ip.into()) {
            pool.occupy(ip);
        }
        // Go on behind it.
        self.next += 1;
    }

    /// Gives an address back.
    pub(crate) fn release(&mut self, ip: IpAddr) {
        if let Some(pool) = self.pool(ip.into()) {
            pool.release(ip);
        }
    }

    fn pool(&mut self, family: IpFamily) -> Option<&mut Pool> {
        self.pools.iter_mut().find(|(known, _)| *known == family).map(|(_, pool)| pool)
    }
}

/// Who connects pods.
#[derive(Debug)]
pub(crate) enum Wiring {
    /// The kubelet itself.
    Own(Network),
    /// Plugins that it calls.
    Plugins(cni::Runtime),
}

/// Makes and removes pod links.
#[derive(Debug)]
pub(crate) struct Network {
    handle: Mutex<Handle>,
    node_ips: DualStack<IpAddr>,
    mtu: u32,
}

impl Network {
    /// In the network namespace of the calling thread, which becomes a router.
    pub(crate) fn open(node_ips: DualStack<IpAddr>, mtu: Option<u32>) -> Result<Self, Error> {
        if let Err(error) = sysctl::forward() {
            warn!(error = %error, "the node may not forward packets for its pods");
        }
        let mut handle = Handle::open()?;
        let mtu = match mtu {
            Some(mtu) => mtu,
            None => mtu_of(&mut handle, *node_ips.primary())?,
        };
        Ok(Self { handle: Mutex::new(handle), node_ips, mtu })
    }

    fn handle(&self) -> MutexGuard<'_, Handle> {
        // Its only state is a sequence number: a panic of another thread does not spoil it.
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects a pod. Blocks for about a millisecond.
    pub(crate) fn connect(
        &self,
        key: &str,
        netns: &OwnedFd,
        addresses: &DualStack<IpAddr>,
    ) -> Result<(), Error> {
        let link = pod::PodLink {
            key,
            netns: netns.as_fd(),
            addresses: addresses.clone(),
            node: Some(self.node_ips.clone()),
            mtu: self.mtu,
        };
        Ok(pod::add(&mut self.handle(), &link)?)
    }

    /// Takes a pod off the network; its link goes with its namespace.
    pub(crate) fn disconnect(&self, key: &str) -> Result<(), Error> {
        Ok(pod::del(&mut self.handle(), key)?)
    }

    /// Removes the links of pods that are not in `keys`, left from a kubelet that ended at a bad moment.
    pub(crate) fn remove_others(&self, keys: &[String]) -> Result<(), Error> {
        let mut handle = self.handle();
        for existing in pod::list(&mut handle)? {
            if !keys.contains(&existing.key) {
                pod::del(&mut handle, &existing.key)?;
            }
        }
        Ok(pod::reap(&mut handle)?)
    }
}

/// The packet size of the link that has the node's address, if that is not loopback.
fn mtu_of(handle: &mut Handle, ip: IpAddr) -> Result<u32, Error> {
    let on =
        handle.addresses()?.into_iter().find(|address| address.net.addr() == ip).map(|address| address.link);
    let link = handle.links()?.into_iter().find(|link| Some(link.index) == on && link.kind.is_some());
    Ok(link.map_or(DEFAULT_MTU, |link| link.mtu))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(ranges: &[&str]) -> Addresses {
        let ranges: Vec<IpNet> = ranges.iter().map(|range| range.parse().unwrap()).collect();
        Addresses::new(&ranges).unwrap()
    }

    fn texts(taken: &DualStack<IpAddr>) -> Vec<String> {
        taken.iter().map(|(_, ip)| ip.to_string()).collect()
    }

    #[test]
    fn b7_pods_get_one_address_per_family_in_the_nodes_order() {
        let mut pool = addresses(&["10.244.1.0/24", "fd00:10:244:1::/64"]);
        assert_eq!(texts(&pool.take(IpFamily::V4).unwrap()), ["10.244.1.1", "fd00:10:244:1::1"]);
        assert_eq!(texts(&pool.take(IpFamily::V6).unwrap()), ["fd00:10:244:1::2", "10.244.1.2"]);
        let mut single = addresses(&["fd00:10:244:1::/64"]);
        assert_eq!(texts(&single.take(IpFamily::V4).unwrap()), ["fd00:10:244:1::1"]);
    }

    #[test]
    fn an_address_is_given_again_only_after_the_others() {
        let mut pool = addresses(&["10.244.1.0/29"]);
        let first = pool.take(IpFamily::V4).unwrap();
        pool.release(*first.primary());
        let given: Vec<String> = (0..6).map(|_| texts(&pool.take(IpFamily::V4).unwrap()).remove(0)).collect();
        assert_eq!(given.last().unwrap(), "10.244.1.1", "{given:?}");
        assert_eq!(pool.take(IpFamily::V4).unwrap_err(), IpFamily::V4);
    }

    #[test]
    fn a_family_without_addresses_gives_none_of_the_other() {
        let mut pool = addresses(&["fd00::/64", "10.244.1.0/30"]);
        let taken = [pool.take(IpFamily::V6).unwrap(), pool.take(IpFamily::V6).unwrap()];
        assert_eq!(pool.take(IpFamily::V6).unwrap_err(), IpFamily::V4);
        pool.release(*taken[0].secondary().unwrap());
        assert_eq!(texts(&pool.take(IpFamily::V6).unwrap())[1], "10.244.1.1");
    }

    #[test]
    fn addresses_of_pods_found_running_are_not_given_again() {
        let mut pool = addresses(&["10.244.1.0/24", "fd00::/64"]);
        for ip in ["10.244.1.1", "fd00::1", "10.244.1.2"] {
            pool.occupy(ip.parse().unwrap());
        }
        let next = texts(&pool.take(IpFamily::V4).unwrap());
        assert!(
            !["10.244.1.1", "10.244.1.2"].contains(&next[0].as_str()) && next[1] != "fd00::1",
            "{next:?}"
        );
    }

    #[test]
    fn two_ranges_of_one_family_are_refused() {
        let ranges: Vec<IpNet> =
            ["10.0.0.0/24", "10.0.1.0/24"].iter().map(|range| range.parse().unwrap()).collect();
        assert!(Addresses::new(&ranges).is_none());
        assert!(Addresses::new(&[]).is_none());
    }
}
