//! Addresses and prefixes in fields of objects: what is refused (P3, P4), and what is let through with a warning (P6).

use std::net::IpAddr;

use dyad_net::{IpFamily, IpNet, check_cidr, check_ip, parse_cidr_sloppy, parse_ip_sloppy};

use crate::FieldError;

fn is_stored<S: AsRef<str>>(value: &str, stored: impl IntoIterator<Item = S>) -> bool {
    stored.into_iter().any(|old| old.as_ref() == value)
}

/// What is wrong with an address in an old field; nothing if the same text is in `stored`, the values the field has
/// in the stored object (P4).
pub fn legacy_ip<S: AsRef<str>>(
    field: impl Into<String>,
    value: &str,
    stored: impl IntoIterator<Item = S>,
) -> Option<FieldError> {
    if is_stored(value, stored) {
        return None;
    }
    check_ip(value).err().map(|error| FieldError::invalid(field, value, error.to_string()))
}

/// What is wrong with a prefix in an old field; nothing if the same text is in `stored` (P4).
pub fn legacy_cidr<S: AsRef<str>>(
    field: impl Into<String>,
    value: &str,
    stored: impl IntoIterator<Item = S>,
) -> Option<FieldError> {
    if is_stored(value, stored) {
        return None;
    }
    check_cidr(value).err().map(|error| FieldError::invalid(field, value, error.to_string()))
}

/// What keeps an address from being an endpoint, or an external address of a Service (A93).
pub fn endpoint_ip(field: &str, value: &str) -> Vec<FieldError> {
    let Some(ip) = parse_ip_sloppy(value) else {
        return vec![FieldError::invalid(field, value, "must be a valid IP address")];
    };
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let link_local_multicast = match ip {
        IpAddr::V4(ip) => ip.octets().starts_with(&[224, 0, 0]),
        // ffx2::/16: the scope is in the low half of the second octet (RFC 4291 §2.7).
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    };
    [
        (ip.is_unspecified(), format!("may not be unspecified ({value})")),
        (ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()),
        (
            link_local_multicast,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned(),
        ),
    ]
    .into_iter()
    .filter(|(is_so, _)| *is_so)
    .map(|(_, detail)| FieldError::invalid(field, value, detail))
    .collect()
}

/// The warning about an address that is accepted though it is not spelt as it should be (P6).
pub fn ip_warning(field: &str, value: &str) -> Option<String> {
    let ip = parse_ip_sloppy(value)?;
    if check_ip(value).is_err() {
        return Some(format!("{field}: non-standard IP address {value:?} is invalid: use \"{ip}\""));
    }
    (IpFamily::from(ip) == IpFamily::V6 && ip.to_string() != value).then(|| {
        format!("{field}: IPv6 address {value:?} should be in RFC 5952 canonical format (\"{ip}\")")
    })
}

/// The warnings about a prefix that is accepted though it is not spelt as it should be (P6).
pub fn cidr_warnings(field: &str, value: &str) -> Vec<String> {
    let Some((ip, net)) = parse_cidr_sloppy(value) else { return Vec::new() };
    let mut warnings = Vec::new();
    if ip != net.network() {
        let single = IpNet::from(ip);
        warnings.push(format!(
            "{field}: CIDR value {value:?} is ambiguous in this context (should be \"{net}\" or \"{single}\"?)"
        ));
    }
    use dyad_net::CidrTextError::{LeadingZeros, Mapped};
    if matches!(check_cidr(value), Err(LeadingZeros | Mapped)) {
        warnings.push(format!("{field}: non-standard CIDR value {value:?} is invalid: use \"{net}\""));
    }
    if warnings.is_empty() && IpFamily::from(net) == IpFamily::V6 && net.to_string() != value {
        warnings.push(format!(
            "{field}: IPv6 CIDR value {value:?} should be in RFC 5952 canonical format (\"{net}\")"
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p4_what_is_stored_is_not_looked_at_again() {
        let stored = ["010.0.0.1", "junk"];
        assert_eq!(legacy_ip("f", "010.0.0.1", stored), None);
        assert_eq!(legacy_ip("f", "junk", stored), None);
        let error = legacy_ip("f", "010.0.0.2", stored).unwrap();
        assert_eq!(error.to_string(), "f: Invalid value: \"010.0.0.2\": must not have leading 0s");
        assert_eq!(legacy_cidr("f", "10.0.0.1/8", ["10.0.0.1/8"]), None);
        let error = legacy_cidr("f", "10.0.0.1/8", ["10.0.0.1/9"]).unwrap();
        assert_eq!(
            error.to_string(),
            "f: Invalid value: \"10.0.0.1/8\": must not have bits set beyond the prefix length"
        );
    }

    #[test]
    fn a93_addresses_that_are_no_endpoints() {
        for (ip, want) in [
            ("1.2.3.4", None),
            ("fd00::1", None),
            ("239.1.1.1", None),
            ("224.0.1.1", None),
            ("ff05::1", None),
            ("0.0.0.0", Some("may not be unspecified (0.0.0.0)")),
            ("::", Some("may not be unspecified (::)")),
            ("127.1.2.3", Some("may not be in the loopback range (127.0.0.0/8, ::1/128)")),
            ("::1", Some("may not be in the loopback range (127.0.0.0/8, ::1/128)")),
            ("169.254.1.1", Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)")),
            ("febf::1", Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)")),
            ("224.0.0.251", Some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")),
            ("ff12::fb", Some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")),
            ("::ffff:127.0.0.1", Some("may not be in the loopback range (127.0.0.0/8, ::1/128)")),
        ] {
            let got: Vec<_> = endpoint_ip("f", ip).into_iter().map(|error| error.detail).collect();
            assert_eq!(got, want.into_iter().collect::<Vec<_>>(), "{ip}");
        }
    }

    #[test]
    fn p6_warnings() {
        for (ip, want) in [
            ("1.2.3.4", None),
            ("fd00::1", None),
            ("None", None),
            ("01.2.3.4", Some("f: non-standard IP address \"01.2.3.4\" is invalid: use \"1.2.3.4\"")),
            ("::ffff:1.2.3.4", Some("f: non-standard IP address \"::ffff:1.2.3.4\" is invalid: use \"1.2.3.4\"")),
            ("FD00::1", Some("f: IPv6 address \"FD00::1\" should be in RFC 5952 canonical format (\"fd00::1\")")),
        ] {
            assert_eq!(ip_warning("f", ip).as_deref(), want, "{ip}");
        }
        let cases: &[(&str, &[&str])] = &[
            ("10.0.0.0/8", &[]),
            ("fd00::/64", &[]),
            ("junk", &[]),
            (
                "10.0.0.1/8",
                &["f: CIDR value \"10.0.0.1/8\" is ambiguous in this context (should be \"10.0.0.0/8\" or \
                   \"10.0.0.1/32\"?)"],
            ),
            ("010.0.0.0/8", &["f: non-standard CIDR value \"010.0.0.0/8\" is invalid: use \"10.0.0.0/8\""]),
            (
                "FD00::/64",
                &["f: IPv6 CIDR value \"FD00::/64\" should be in RFC 5952 canonical format (\"fd00::/64\")"],
            ),
            (
                "::ffff:10.0.0.1/104",
                &[
                    "f: CIDR value \"::ffff:10.0.0.1/104\" is ambiguous in this context (should be \"10.0.0.0/8\" or \
                     \"10.0.0.1/32\"?)",
                    "f: non-standard CIDR value \"::ffff:10.0.0.1/104\" is invalid: use \"10.0.0.0/8\"",
                ],
            ),
        ];
        for (cidr, want) in cases {
            assert_eq!(cidr_warnings("f", cidr), *want, "{cidr}");
        }
    }
}
