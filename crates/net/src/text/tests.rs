use proptest::prelude::*;

use super::*;

#[test]
fn addresses_are_read_as_kubernetes_reads_them() {
    use IpTextError::{Invalid, LeadingZeros, Mapped};
    #[rustfmt::skip]
    let cases = [
        // rule, text, sloppy reading, strict reading
        ("P1", "10.9.8.7",               Some("10.9.8.7"),    Ok(())),
        ("P1", "2001:db8::ffff",         Some("2001:db8::ffff"), Ok(())),
        ("P2", "010.002.003.004",        Some("10.2.3.4"),    Err(LeadingZeros)),
        ("P2", "00.0.0.0",               Some("0.0.0.0"),     Err(LeadingZeros)),
        ("P2", "0000000010.1.1.1",       Some("10.1.1.1"),    Err(LeadingZeros)),
        ("P2", "::ffff:1.2.3.4",         Some("1.2.3.4"),     Err(Mapped)),
        ("P2", "::ffff:102:304",         Some("1.2.3.4"),     Err(Mapped)),
        ("P3", "::ffff:01.2.3.4",        Some("1.2.3.4"),     Err(LeadingZeros)),
        ("P3", "fd00::00001",            Some("fd00::1"),     Err(LeadingZeros)),
        ("P3", "FE80:0:0:0:0:0:0:0abc",  Some("fe80::abc"),   Ok(())),
        ("P3", "::",                     Some("::"),          Ok(())),
        ("P3", "::1.2.3.4",              Some("::102:304"),   Ok(())),
        ("P3", "64:ff9b::192.0.2.33",    Some("64:ff9b::c000:221"), Ok(())),
        ("P3", "1:2:3:4:5:6:1.2.3.4",    Some("1:2:3:4:5:6:102:304"), Ok(())),
        ("P3", "1:2:3:4:5:6:7::",        Some("1:2:3:4:5:6:7:0"), Ok(())),
        ("P3", "::2:3:4:5:6:7:8",        Some("0:2:3:4:5:6:7:8"), Ok(())),
        ("P3", "1:2:3:4:5:6:7::8",       None, Err(Invalid)),
        ("P3", "1:2:3:4:5:6:7:8:9",      None, Err(Invalid)),
        ("P3", "1:2:3:4:5:6:7",          None, Err(Invalid)),
        ("P3", "1:2:3:4:5:6:7:",         None, Err(Invalid)),
        ("P3", "1:2:3:4:5:6:7:1.2.3.4",  None, Err(Invalid)),
        ("P3", "1:2:3:4:5:1.2.3.4",      None, Err(Invalid)),
        ("P3", "1::2::3",                None, Err(Invalid)),
        ("P3", ":::",                    None, Err(Invalid)),
        ("P3", ":1::",                   None, Err(Invalid)),
        ("P3", "1:::2",                  None, Err(Invalid)),
        ("P3", "fd00::10000",            None, Err(Invalid)),
        ("P3", "fe80::1%eth0",           None, Err(Invalid)),
        ("P3", "fd00::1 ",               None, Err(Invalid)),
        ("P3", "256.1.1.1",              None, Err(Invalid)),
        ("P3", "1.2.3",                  None, Err(Invalid)),
        ("P3", "1.2.3.4.5",              None, Err(Invalid)),
        ("P3", "1..2.3",                 None, Err(Invalid)),
        ("P3", "+1.2.3.4",               None, Err(Invalid)),
        ("P3", "",                       None, Err(Invalid)),
        ("P3", "None",                   None, Err(Invalid)),
        ("P3", "10.0.0.1/24",            None, Err(Invalid)),
        ("P3", "１.2.3.4",               None, Err(Invalid)),
    ];
    for (rule, text, sloppy, strict) in cases {
        assert_eq!(parse_ip_sloppy(text).map(|ip| ip.to_string()).as_deref(), sloppy, "{rule} {text}");
        assert_eq!(check_ip(text).map(drop), strict, "{rule} {text}");
    }
}

#[test]
fn p5_one_spelling_is_canonical() {
    for (text, want) in [
        ("2001:db8::1", Ok(())),
        ("2001:db8:0:0:0:0:0:1", Err("must be in canonical form (\"2001:db8::1\")")),
        ("2001:DB8::1", Err("must be in canonical form (\"2001:db8::1\")")),
        ("1:0:0:2:0:0:0:3", Err("must be in canonical form (\"1:0:0:2::3\")")),
        // RFC 5952 §4.2.2: one group of zeros is not shortened.
        ("1:0:2:3:4:5:6:7", Ok(())),
        ("10.0.0.1", Ok(())),
        ("10.0.0.01", Err("must not have leading 0s")),
        ("::ffff:1.2.3.4", Err("must not be an IPv4-mapped IPv6 address")),
        ("x", Err("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")),
    ] {
        let got = check_canonical_ip(text).map(drop).map_err(|error| error.to_string());
        assert_eq!(got, want.map_err(str::to_owned), "{text}");
    }
}

#[test]
fn prefixes_are_read_as_kubernetes_reads_them() {
    use CidrTextError::{HostBits, Invalid, LeadingZeros, Mapped};
    #[rustfmt::skip]
    let cases = [
        ("P3", "10.9.8.0/24",        Some(("10.9.8.0", "10.9.8.0/24")), Ok(())),
        ("P3", "2001:db8::/64",      Some(("2001:db8::", "2001:db8::/64")), Ok(())),
        ("P3", "2001:DB8:0::/64",    Some(("2001:db8::", "2001:db8::/64")), Ok(())),
        ("P3", "0.0.0.0/0",          Some(("0.0.0.0", "0.0.0.0/0")), Ok(())),
        ("P3", "::/0",               Some(("::", "::/0")), Ok(())),
        ("P3", "10.9.8.7/24",        Some(("10.9.8.7", "10.9.8.0/24")), Err(HostBits)),
        ("P2", "010.9.8.0/24",       Some(("10.9.8.0", "10.9.8.0/24")), Err(LeadingZeros)),
        ("P2", "10.9.8.0/024",       Some(("10.9.8.0", "10.9.8.0/24")), Err(LeadingZeros)),
        ("P2", "010.9.8.7/24",       Some(("10.9.8.7", "10.9.8.0/24")), Err(LeadingZeros)),
        ("P2", "::ffff:1.2.3.4/120", Some(("1.2.3.4", "1.2.3.0/24")), Err(Mapped)),
        ("P2", "::ffff:1.2.3.4/64",  Some(("1.2.3.4", "::/64")), Err(Mapped)),
        ("P3", "10.9.8.0/33",        None, Err(Invalid)),
        ("P3", "fd00::/129",         None, Err(Invalid)),
        ("P3", "10.9.8.0",           None, Err(Invalid)),
        ("P3", "10.9.8.0/",          None, Err(Invalid)),
        ("P3", "/24",                None, Err(Invalid)),
        ("P3", "10.9.8.0/24/24",     None, Err(Invalid)),
        ("P3", "10.9.8.0/-1",        None, Err(Invalid)),
        ("P3", " 10.9.8.0/24",       None, Err(Invalid)),
        ("P3", "10.9.8.0/99999999999999", None, Err(Invalid)),
    ];
    for (rule, text, sloppy, strict) in cases {
        let got = parse_cidr_sloppy(text).map(|(ip, net)| (ip.to_string(), net.to_string()));
        assert_eq!(got, sloppy.map(|(ip, net)| (ip.to_owned(), net.to_owned())), "{rule} {text}");
        assert_eq!(check_cidr(text).map(drop), strict, "{rule} {text}");
    }
    assert_eq!(
        check_canonical_cidr("2001:db8:0::/64").unwrap_err().to_string(),
        "must be in canonical form (\"2001:db8::/64\")"
    );
}

proptest! {
    /// The strict reader and the standard library agree, save for mapped addresses.
    #[test]
    fn strict_reading_agrees_with_the_standard_library(text in "[0-9a-f:.]{0,20}|(0{0,2}[0-9]{1,3}\\.){3}[0-9]{1,3}|([0-9a-f]{0,5}:){1,8}[0-9a-f.]{0,9}") {
        let theirs = text.parse::<IpAddr>().ok();
        match check_ip(&text) {
            Err(IpTextError::Mapped) => prop_assert!(theirs.is_some()),
            ours => prop_assert_eq!(ours.ok(), theirs),
        }
    }

    #[test]
    fn what_is_written_reads_back(bits: u128, length in 0u8..=128) {
        let ip = IpAddr::V6(bits.into());
        prop_assert_eq!(parse_ip_sloppy(&ip.to_string()), Some(ip.to_canonical()));
        let net = IpNet::new(ip, length).unwrap().trunc();
        prop_assert_eq!(check_canonical_cidr(&net.to_string()).ok(), Some(net).filter(|_| bits >> 32 != 0xffff));
    }

    #[test]
    fn nothing_panics(text in "\\PC{0,24}") {
        let _ = (check_canonical_ip(&text), check_canonical_cidr(&text), parse_cidr_sloppy(&text));
    }
}
