//! Names of addresses (RFC 1035 §3.5, RFC 3596 §2.5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::Name;

/// The name an address has under `in-addr.arpa` or `ip6.arpa`.
pub fn name(ip: IpAddr) -> Name {
    let mut wire = Vec::with_capacity(74);
    let mut label = |label: &[u8]| {
        wire.extend(u8::try_from(label.len()));
        wire.extend_from_slice(label);
    };
    match ip {
        IpAddr::V4(ip) => {
            ip.octets().iter().rev().for_each(|octet| label(octet.to_string().as_bytes()));
            label(b"in-addr");
        }
        IpAddr::V6(ip) => {
            for octet in ip.octets().iter().rev() {
                for nibble in [octet & 0xf, octet >> 4] {
                    label(&[b"0123456789abcdef"[usize::from(nibble)]]);
                }
            }
            label(b"ip6");
        }
    }
    label(b"arpa");
    label(b"");
    // Labels of one to seven bytes, 34 at most, ended by the root.
    Name::from_wire(&wire).unwrap_or_else(|_| Name::root())
}

/// The address a name is of, if it is of one.
pub fn address(name: &Name) -> Option<IpAddr> {
    let mut labels: Vec<&[u8]> = name.labels().collect();
    let is = |label: Option<&[u8]>, want: &str| {
        label.is_some_and(|label| label.eq_ignore_ascii_case(want.as_bytes()))
    };
    if !is(labels.pop(), "arpa") {
        return None;
    }
    match (labels.pop()?.to_ascii_lowercase().as_slice(), labels.len()) {
        (b"in-addr", 4) => {
            let mut octets = [0; 4];
            for (octet, label) in octets.iter_mut().rev().zip(&labels) {
                let text = std::str::from_utf8(label).ok()?;
                // One spelling: no sign, no leading zero.
                *octet = text.parse().ok().filter(|octet: &u8| octet.to_string() == text)?;
            }
            Some(Ipv4Addr::from(octets).into())
        }
        (b"ip6", 32) => {
            let mut bits = 0_u128;
            for label in labels.iter().rev() {
                let [digit] = **label else { return None };
                bits = bits << 4 | u128::from(char::from(digit).to_digit(16)?);
            }
            Some(Ipv6Addr::from_bits(bits).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_3596_2_5_names_of_addresses() {
        for (ip, want) in [
            ("192.0.2.33", "33.2.0.192.in-addr.arpa."),
            ("0.0.0.0", "0.0.0.0.in-addr.arpa."),
            (
                "4321:0:1:2:3:4:567:89ab",
                "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.0.0.0.0.1.2.3.4.ip6.arpa.",
            ),
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(name(ip).to_string(), want);
            assert_eq!(address(&want.to_uppercase().parse().unwrap()), Some(ip));
        }
        for none in [
            ".",
            "arpa.",
            "2.0.192.in-addr.arpa.",
            "1.2.3.4.5.in-addr.arpa.",
            "01.2.3.4.in-addr.arpa.",
            "+1.2.3.4.in-addr.arpa.",
            "256.2.3.4.in-addr.arpa.",
            "1.2.3.4.in-addr.example.",
            "1.ip6.arpa.",
        ] {
            assert_eq!(address(&none.parse().unwrap()), None, "{none}");
        }
    }
}
