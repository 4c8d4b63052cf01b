//! What stands in the maps, byte by byte: the counterpart of `bpf/maps.h`.
//!
//! Addresses are 16 bytes in both families, IPv4 ones mapped; addresses and ports are in network order, everything
//! else in that of the machine. All padding is zero, for it is part of the keys.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dyad_net::IpFamily;
use dyad_program::{Endpoint, Frontend};

/// Endpoints in a block.
pub(crate) const BLOCK: usize = 8;

const ADDRESS: usize = 16;
const END: usize = 20;

/// `struct address`
pub(crate) type AddressBytes = [u8; ADDRESS];
/// `struct end`
pub(crate) type EndBytes = [u8; END];
/// `struct frontend_key`
pub(crate) type FrontendKey = [u8; 20];
/// `struct block_key`
pub(crate) type BlockKey = [u8; 24];
/// `struct block`
pub(crate) type BlockBytes = [u8; BLOCK * END];
/// `struct member_key`
pub(crate) type MemberKey = [u8; 40];

/// What becomes of connections to a frontend: `struct frontend`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FrontendValue {
    /// 0 where clients are not remembered.
    pub(crate) sticky_secs: u32,
    /// 0 where it is left to nftables.
    pub(crate) endpoints: u16,
}

impl FrontendValue {
    pub(crate) fn to_bytes(self) -> [u8; 8] {
        let [a, b, c, d] = self.sticky_secs.to_ne_bytes();
        let [e, f] = self.endpoints.to_ne_bytes();
        [a, b, c, d, e, f, u8::from(self.endpoints > 0), 0]
    }

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, d, e, f, _, _] = <&[u8; 8]>::try_from(bytes).ok()?;
        Some(Self { sticky_secs: u32::from_ne_bytes([a, b, c, d]), endpoints: u16::from_ne_bytes([e, f]) })
    }

    /// How many blocks it has.
    pub(crate) fn blocks(self) -> u16 {
        self.endpoints.div_ceil(BLOCK as u16)
    }
}

/// `struct pod`, but for what the programs themselves keep there.
pub(crate) fn pod(link: u32, is_isolated: bool) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&link.to_ne_bytes());
    bytes[4..].copy_from_slice(&u32::from(is_isolated).to_ne_bytes());
    bytes
}

/// The link of a `struct pod`.
pub(crate) fn link_of_pod(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

pub(crate) fn address(ip: IpAddr) -> AddressBytes {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// The address in the first 16 bytes.
pub(crate) fn parse_address(bytes: &[u8]) -> Option<IpAddr> {
    let bytes = <AddressBytes>::try_from(bytes.get(..ADDRESS)?).ok()?;
    Some(Ipv6Addr::from(bytes).to_canonical())
}

pub(crate) fn end(ip: IpAddr, port: u16) -> EndBytes {
    let mut bytes = [0; END];
    bytes[..ADDRESS].copy_from_slice(&address(ip));
    bytes[ADDRESS..ADDRESS + 2].copy_from_slice(&port.to_be_bytes());
    bytes
}

/// The key of a frontend of a table of `family`.
pub(crate) fn frontend_key(family: IpFamily, at: Frontend) -> FrontendKey {
    let unspecified: IpAddr = match family {
        IpFamily::V4 => Ipv4Addr::UNSPECIFIED.into(),
        IpFamily::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    let (ip, protocol, port) = match at {
        Frontend::Address(ip, protocol, port) => (ip, protocol, port),
        Frontend::NodePort(protocol, port) => (unspecified, protocol, port),
    };
    let mut bytes = end(ip, port);
    bytes[ADDRESS + 2] = protocol.number();
    bytes
}

pub(crate) fn block_key(at: FrontendKey, number: u16) -> BlockKey {
    let mut bytes = [0; 24];
    bytes[..20].copy_from_slice(&at);
    bytes[20..22].copy_from_slice(&number.to_ne_bytes());
    bytes
}

/// A block with these endpoints, of which there is at least one; what is left is filled with them too.
pub(crate) fn block(endpoints: &[Endpoint]) -> BlockBytes {
    let mut bytes = [0; BLOCK * END];
    for (place, endpoint) in bytes.chunks_exact_mut(END).zip(endpoints.iter().cycle()) {
        place.copy_from_slice(&end(endpoint.ip, endpoint.port));
    }
    bytes
}

pub(crate) fn member_key(at: FrontendKey, endpoint: Endpoint) -> MemberKey {
    let mut bytes = [0; 40];
    bytes[..20].copy_from_slice(&at);
    bytes[20..].copy_from_slice(&end(endpoint.ip, endpoint.port));
    bytes
}

/// `struct original_key`: what a socket was told about an endpoint.
pub(crate) fn original_key(cookie: u64, endpoint: Endpoint) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&cookie.to_ne_bytes());
    bytes[8..28].copy_from_slice(&end(endpoint.ip, endpoint.port));
    bytes
}

/// The addresses of the two ends of a `struct flow_key`.
pub(crate) fn ends_of_flow(key: &[u8]) -> Option<[IpAddr; 2]> {
    Some([parse_address(key)?, parse_address(key.get(ADDRESS..)?)?])
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn parse_end(bytes: &[u8]) -> Option<SocketAddr> {
        let port = u16::from_be_bytes(bytes.get(ADDRESS..ADDRESS + 2)?.try_into().ok()?);
        Some(SocketAddr::new(parse_address(bytes)?, port))
    }

    #[test]
    fn what_is_written_is_read_back() {
        let value = FrontendValue { sticky_secs: 10_800, endpoints: 17 };
        assert_eq!(FrontendValue::parse(&value.to_bytes()), Some(value));
        assert_eq!(value.blocks(), 3);
        for text in ["10.96.0.1:80", "[fd00::1]:443", "0.0.0.0:1"] {
            let at: SocketAddr = text.parse().unwrap();
            assert_eq!(parse_end(&end(at.ip(), at.port())), Some(at));
        }
        assert_eq!(link_of_pod(&pod(7, true)), Some(7));
    }

    #[test]
    fn blocks_are_full() {
        let endpoint = |port| Endpoint { ip: Ipv4Addr::LOCALHOST.into(), port };
        let bytes = block(&[endpoint(1), endpoint(2), endpoint(3)]);
        let ports: Vec<_> = bytes.chunks_exact(END).map(|end| parse_end(end).unwrap().port()).collect();
        assert_eq!(ports, [1, 2, 3, 1, 2, 3, 1, 2]);
    }
}
