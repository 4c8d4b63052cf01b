//! Fields that hold addresses and prefixes: what is refused, and what is warned of (P2 to P6).

use dyad_net::IpFamily;
use serde_json::Value;

use crate::{ErrorType, FieldError};

/// The error of an address in a field older than strict validation (P3); what was there before may stay (P4).
pub(crate) fn legacy_ip(field: &str, value: &str, old: &[&str]) -> Option<FieldError> {
    if old.contains(&value) {
        return None;
    }
    dyad_net::check_ip(value).err().map(|error| FieldError::invalid(field, value, error.to_string()))
}

/// The error of a prefix in a field older than strict validation (P3); what was there before may stay (P4).
pub(crate) fn legacy_cidr(field: &str, value: &str, old: &[&str]) -> Option<FieldError> {
    if old.contains(&value) {
        return None;
    }
    dyad_net::check_cidr(value).err().map(|error| FieldError::invalid(field, value, error.to_string()))
}

/// The errors of an address that traffic is to be sent to; how it is spelt does not matter here.
pub(crate) fn endpoint_ip(field: &str, value: &str) -> Vec<FieldError> {
    let Some(ip) = dyad_net::parse_ip_sloppy(value) else {
        return vec![FieldError::invalid(field, value, "must be a valid IP address")];
    };
    let (link_local, link_local_multicast) = match ip {
        std::net::IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        std::net::IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip.segments()[0] & 0xff0f == 0xff02),
    };
    let unspecified = format!("may not be unspecified ({value})");
    let refusals = [
        (ip.is_unspecified(), unspecified.as_str()),
        (ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (link_local_multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ];
    let refused = refusals.into_iter().filter(|(refused, _)| *refused);
    refused.map(|(_, text)| FieldError::invalid(field, value, text)).collect()
}

/// The errors of several addresses that are not one of each family.
///
/// `shown` is the list as Kubernetes prints it.
pub(crate) fn one_ip_per_family(field: &str, ips: &[&str], shown: Value) -> Vec<FieldError> {
    let families = ips.iter().enumerate().map(|(index, ip)| {
        dyad_net::parse_ip_sloppy(ip)
            .map(IpFamily::from)
            .ok_or_else(|| format!("failed to check for dual stack with error:invalid IP[{index}]: {ip}"))
    });
    one_per_family(field, families, shown, "may specify no more than one IP for each IP family")
}

/// The errors of several prefixes that are not one of each family.
pub(crate) fn one_cidr_per_family(field: &str, cidrs: &[&str], problem: &str) -> Vec<FieldError> {
    let families = cidrs.iter().enumerate().map(|(index, cidr)| {
        dyad_net::parse_cidr_sloppy(cidr).map(|(ip, _)| IpFamily::from(ip)).ok_or_else(|| {
            format!(
                "invalid PodCIDRs. failed to check with dual stack with error:invalid CIDR[{index}]: <nil> (invalid CIDR \
                 address: {cidr})"
            )
        })
    });
    one_per_family(field, families, cidrs.into(), problem)
}

fn one_per_family(
    field: &str,
    families: impl ExactSizeIterator<Item = Result<IpFamily, String>>,
    shown: Value,
    problem: &str,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let count = families.len();
    if count < 2 {
        return errors;
    }
    let families = families.collect::<Result<Vec<_>, _>>().unwrap_or_else(|text| {
        errors.push(FieldError::new(ErrorType::Internal, field, Value::Null, text));
        Vec::new()
    });
    if count > 2 || IpFamily::BOTH.iter().any(|family| !families.contains(family)) {
        errors.push(FieldError::invalid(field, shown, problem));
    }
    errors
}

/// The warning of an address that is accepted but better spelt otherwise (P6).
pub(crate) fn ip_warning(field: &str, value: &str) -> Option<String> {
    let ip = dyad_net::parse_ip_sloppy(value)?;
    if dyad_net::check_ip(value).is_err() {
        return Some(format!("{field}: non-standard IP address {value:?} is invalid: use \"{ip}\""));
    }
    (ip.is_ipv6() && ip.to_string() != value)
        .then(|| format!("{field}: IPv6 address {value:?} should be in RFC 5952 canonical format (\"{ip}\")"))
}

/// The warning of a prefix that is accepted but better spelt otherwise (P6).
pub(crate) fn cidr_warning(field: &str, value: &str) -> Option<String> {
    let (ip, net) = dyad_net::parse_cidr_sloppy(value)?;
    if ip != net.addr() {
        let bits = IpFamily::from(ip).bits();
        return Some(format!(
            "{field}: CIDR value {value:?} is ambiguous in this context (should be \"{net}\" or \"{ip}/{bits}\"?)"
        ));
    }
    if dyad_net::check_cidr(value).is_err() {
        return Some(format!("{field}: non-standard CIDR value {value:?} is invalid: use \"{net}\""));
    }
    (ip.is_ipv6() && net.to_string() != value).then(|| {
        format!("{field}: IPv6 CIDR value {value:?} should be in RFC 5952 canonical format (\"{net}\")")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(errors: impl IntoIterator<Item = FieldError>) -> Vec<String> {
        errors.into_iter().map(|error| error.to_string()).collect()
    }

    #[test]
    fn old_values_stay() {
        assert_eq!(
            shown(legacy_ip("f", "010.1.1.1", &[])),
            ["f: Invalid value: \"010.1.1.1\": must not have leading 0s"],
            "P3"
        );
        assert_eq!(legacy_ip("f", "010.1.1.1", &["010.1.1.1"]), None, "P4");
        assert_eq!(legacy_cidr("f", "10.0.0.1/24", &["10.0.0.1/24"]), None, "P4");
    }

    #[test]
    fn endpoints_are_somewhere_else() {
        for ip in ["10.0.0.1", "fd00::1", "8.8.8.8", "239.0.0.1"] {
            assert!(endpoint_ip("f", ip).is_empty(), "E4: {ip}");
        }
        for ip in ["0.0.0.0", "::", "127.0.0.1", "::1", "169.254.0.1", "fe80::1", "224.0.0.1", "ff02::1"] {
            assert_eq!(endpoint_ip("f", ip).len(), 1, "E4: {ip}");
        }
    }

    #[test]
    fn warnings_say_the_better_spelling() {
        let rows = [
            (ip_warning("f", "10.0.0.1"), None),
            (ip_warning("f", "fd00::1"), None),
            (ip_warning("f", "x"), None),
            (
                ip_warning("f", "010.0.0.1"),
                Some("f: non-standard IP address \"010.0.0.1\" is invalid: use \"10.0.0.1\""),
            ),
            (
                ip_warning("f", "FD00::1"),
                Some("f: IPv6 address \"FD00::1\" should be in RFC 5952 canonical format (\"fd00::1\")"),
            ),
            (cidr_warning("f", "10.0.0.0/24"), None),
            (
                cidr_warning("f", "10.0.0.1/24"),
                Some(
                    "f: CIDR value \"10.0.0.1/24\" is ambiguous in this context (should be \"10.0.0.0/24\" or \"10.0.0.1/32\"?)",
                ),
            ),
            (
                cidr_warning("f", "FD00::/64"),
                Some(
                    "f: IPv6 CIDR value \"FD00::/64\" should be in RFC 5952 canonical format (\"fd00::/64\")",
                ),
            ),
        ];
        for (warning, wanted) in rows {
            assert_eq!(warning.as_deref(), wanted, "P6");
        }
    }
}
