//! Ranges with holes.

use dyad_net::{IpFamily, IpNet};

/// The fewest prefixes that cover `net` without `holes` (`ipBlock.except`).
pub(super) fn without(net: IpNet, holes: &[IpNet]) -> Vec<IpNet> {
    let holes: Vec<IpNet> = holes.iter().copied().filter(|hole| family(hole) == family(&net)).collect();
    let mut left = Vec::new();
    carve(net.trunc(), &holes, &mut left);
    left
}

fn family(net: &IpNet) -> IpFamily {
    IpFamily::from(*net)
}

fn carve(net: IpNet, holes: &[IpNet], left: &mut Vec<IpNet>) {
    if holes.iter().any(|hole| hole.contains(&net)) {
        return;
    }
    let inside: Vec<IpNet> = holes.iter().copied().filter(|hole| net.contains(hole)).collect();
    if inside.is_empty() {
        left.push(net);
        return;
    }
    // A hole is inside and not all of it, so there are longer prefixes.
    let halves = net.subnets(net.prefix_len() + 1).into_iter().flatten();
    halves.for_each(|half| carve(half, &inside, left));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn holes_are_left_out() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        #[rustfmt::skip]
        let cases: [(&str, &[&str], &[&str]); 6] = [
            ("10.0.0.0/8", &[], &["10.0.0.0/8"]),
            ("10.0.0.0/8", &["10.0.0.0/9"], &["10.128.0.0/9"]),
            ("10.0.0.0/30", &["10.0.0.1/32"], &["10.0.0.0/32", "10.0.0.2/31"]),
            ("10.0.0.0/8", &["10.0.0.0/8"], &[]),
            ("::/0", &["fd00::/8", "10.0.0.0/8"], &["::/1", "8000::/2", "c000::/3", "e000::/4", "f000::/5", "f800::/6", "fc00::/8", "fe00::/7"]),
            ("2001:db8::/32", &["2001:db9::/32"], &["2001:db8::/32"]),
        ];
        for (from, holes, expected) in cases {
            let holes: Vec<_> = holes.iter().map(|hole| net(hole)).collect();
            let expected: Vec<_> = expected.iter().map(|part| net(part)).collect();
            assert_eq!(without(net(from), &holes), expected, "{from} without {holes:?}");
        }
    }

    proptest! {
        #[test]
        fn an_address_is_in_what_is_left_or_in_a_hole(
            length in 20u8..30, holes in prop::collection::vec((any::<u16>(), 20u8..33), 0..5), at in any::<u16>(),
        ) {
            let of = |bits: u16, length| IpNet::new(std::net::IpAddr::from((0x0a00_0000 | u32::from(bits)).to_be_bytes()), length).unwrap();
            let (net, ip) = (of(0, length).trunc(), of(at, 32));
            let holes: Vec<_> = holes.into_iter().map(|(bits, length)| of(bits, length).trunc()).collect();
            let left = without(net, &holes);
            let inside = left.iter().filter(|part| part.contains(&ip)).count();
            let expected = net.contains(&ip) && !holes.iter().any(|hole| hole.contains(&ip));
            prop_assert_eq!(inside, usize::from(expected));
        }
    }
}
