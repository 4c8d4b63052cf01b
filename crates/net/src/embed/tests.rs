use proptest::prelude::*;

use super::*;

fn pref(text: &str) -> Pref64 {
    text.parse().unwrap()
}

#[test]
fn rfc_6052_2_4_addresses_of_every_length() {
    for (prefix, want) in [
        ("2001:db8::/32", "2001:db8:c000:221::"),
        ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
        ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
        ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
        ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
        ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
        ("64:ff9b::/96", "64:ff9b::192.0.2.33"),
    ] {
        let (ip, want) = (Ipv4Addr::new(192, 0, 2, 33), want.parse().unwrap());
        assert_eq!(pref(prefix).embed(ip), want, "{prefix}");
        assert_eq!(pref(prefix).extract_strict(want), Some(ip), "{prefix}");
    }
}

#[test]
fn b1_suffix_and_octet_u() {
    for (prefix, ip, lenient, strict) in [
        // A suffix is ignored, but is not what we would have written.
        ("2001:db8::/32", "2001:db8:c000:221:0:1::", Some("192.0.2.33"), None),
        ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100:1", Some("192.0.2.33"), None),
        // Octet u is zero in every address.
        ("2001:db8::/32", "2001:db8:c000:221:100::", None, None),
        ("2001:db8:122:344::/64", "2001:db8:122:344:1c0:2:2100::", None, None),
        // Another prefix.
        ("64:ff9b::/96", "64:ff9b:1::192.0.2.33", None, None),
    ] {
        let (prefix, ip) = (pref(prefix), ip.parse().unwrap());
        let text = |ip: Option<Ipv4Addr>| ip.map(|ip| ip.to_string());
        assert_eq!(text(prefix.extract(ip)).as_deref(), lenient, "{prefix} {ip}");
        assert_eq!(text(prefix.extract_strict(ip)).as_deref(), strict, "{prefix} {ip}");
    }
}

#[test]
fn rfc_6052_2_2_prefixes_that_carry_nothing() {
    for (text, want) in [
        ("64:ff9b::", "\"64:ff9b::\" is not an IPv6 prefix: write one like 64:ff9b::/96"),
        ("10.0.0.0/8", "\"10.0.0.0/8\" is not an IPv6 prefix: write one like 64:ff9b::/96"),
        (
            "2001:db8::/80",
            "2001:db8::/80 can't carry IPv4 addresses: its length must be 32, 40, 48, 56, 64 or 96 (RFC 6052 §2.2)",
        ),
        (
            "2001:db8:0:0:100::/96",
            "2001:db8:0:0:100::/96 can't carry IPv4 addresses: bits 64 to 71 must be zero (RFC 6052 §2.2)",
        ),
        ("64:ff9b::1/96", "64:ff9b::1/96 has bits set beyond its length: write 64:ff9b::/96"),
    ] {
        assert_eq!(text.parse::<Pref64>().unwrap_err().to_string(), want, "{text}");
    }
}

#[test]
fn rfc_6052_3_1_what_a_prefix_may_carry() {
    #[rustfmt::skip]
    let cases = [
        // address, well-known prefix, any other
        ("93.184.216.34",   true,  true),
        ("10.0.0.5",        false, true),
        ("172.15.255.255",  true,  true),
        ("172.16.0.1",      false, true),
        ("192.168.1.1",     false, true),
        ("100.64.0.1",      false, true),
        ("192.0.0.170",     true,  true),
        ("192.0.0.171",     true,  true),
        ("192.0.0.8",       false, true),
        ("192.0.2.1",       false, true),
        ("198.19.0.1",      false, true),
        ("198.51.100.1",    false, true),
        ("203.0.113.1",     false, true),
        ("0.1.2.3",         false, false),
        ("127.0.0.1",       false, false),
        ("169.254.169.254", false, false),
        ("224.0.0.1",       false, false),
        ("255.255.255.255", false, false),
    ];
    for (ip, well_known, other) in cases {
        let address = ip.parse().unwrap();
        assert_eq!(Pref64::WELL_KNOWN.may_carry(address), well_known, "{ip}");
        assert_eq!(Pref64::LOCAL.may_carry(address), other, "{ip}");
    }
}

#[test]
fn b1_prefixes_neutral_to_checksums() {
    assert!(Pref64::WELL_KNOWN.is_checksum_neutral());
    assert!(Pref64::LOCAL.is_checksum_neutral());
    assert!(!pref("2001:db8::/96").is_checksum_neutral());
    assert_eq!(pref("2001:db8:1::/48").checksum_neutral(), Some(pref("2001:db8:1:0:0:d245::/96")));
    assert_eq!(pref("64:ff9b::/96").checksum_neutral(), None, "no word is left to choose");
}

fn any_pref() -> impl Strategy<Value = Pref64> {
    (any::<u128>(), prop::sample::select(vec![32, 40, 48, 56, 64, 96])).prop_map(|(bits, length)| {
        let mut octets = bits.to_be_bytes();
        octets[U] = 0;
        Pref64::new(Ipv6Net::new(octets.into(), length).unwrap().trunc()).unwrap()
    })
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(pref in any_pref(), bits: u32, suffix: u128) {
        let ip = Ipv4Addr::from_bits(bits);
        let embedded = pref.embed(ip);
        prop_assert!(pref.net().contains(&embedded));
        prop_assert_eq!(embedded.octets()[U], 0);
        prop_assert_eq!(pref.extract(embedded), Some(ip));
        prop_assert_eq!(pref.extract_strict(embedded), Some(ip));
        // The suffix is what neither the prefix, the octet u nor the address takes.
        let taken = pref.embed(Ipv4Addr::BROADCAST).to_bits() ^ pref.embed(Ipv4Addr::UNSPECIFIED).to_bits();
        let fixed = taken | u128::from(pref.net().netmask()) | (0xff << 56);
        let other = Ipv6Addr::from_bits(embedded.to_bits() | (suffix & !fixed));
        prop_assert_eq!(pref.extract(other), Some(ip));
        prop_assert_eq!(pref.extract_strict(other).is_some(), other == embedded);
    }

    #[test]
    fn a_neutral_prefix_keeps_its_beginning(pref in any_pref()) {
        if let Some(neutral) = pref.checksum_neutral() {
            prop_assert!(pref.net().contains(&neutral.net().addr()));
            prop_assert!(neutral.is_checksum_neutral());
        } else {
            prop_assert_eq!(pref.net().prefix_len(), 96);
        }
    }
}
