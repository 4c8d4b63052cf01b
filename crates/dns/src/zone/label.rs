//! Addresses as labels: `10-0-0-1`, `fd00--1`.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Room for the longest: 39 characters of eight groups; none of those is lengthened.
const ROOM: usize = 48;

/// An address as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dashed {
    text: [u8; ROOM],
    length: usize,
}

impl AsRef<[u8]> for Dashed {
    fn as_ref(&self) -> &[u8] {
        &self.text[..self.length]
    }
}

/// The canonical label of an address: RFC 5952 with dashes, and zeros where a dash would stand first or last.
pub fn dashed(ip: IpAddr) -> Dashed {
    let mut text = [0; ROOM];
    let mut rest = &mut text[1..];
    // Dots are left to IPv4: labels have none, so mapped addresses are written in groups.
    let written = match ip {
        IpAddr::V4(ip) => write!(rest, "{ip}"),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            None => write!(rest, "{ip}"),
            Some(_) => {
                let [.., high, low] = ip.segments();
                write!(rest, "::ffff:{high:x}:{low:x}")
            }
        },
    };
    let left = if written.is_ok() { rest.len() } else { ROOM - 1 };
    let mut end = ROOM - left;
    for byte in &mut text[1..end] {
        if matches!(byte, b'.' | b':') {
            *byte = b'-';
        }
    }
    if text[end - 1] == b'-' {
        text[end] = b'0';
        end += 1;
    }
    let start = if text[1] == b'-' {
        text[0] = b'0';
        0
    } else {
        1
    };
    text.copy_within(start..end, 0);
    Dashed { text, length: end - start }
}

/// The address that a label in lower case spells, in any way: three single dashes are an IPv4 address.
pub fn parse_dashed(label: &[u8]) -> Option<IpAddr> {
    let mut text = [0; ROOM];
    let text = text.get_mut(..label.len())?;
    text.copy_from_slice(label);
    if !text.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-') {
        return None;
    }
    let dashes = label.iter().filter(|byte| **byte == b'-').count();
    let v4 = dashes == 3 && !label.windows(2).any(|pair| pair == b"--");
    for byte in text.iter_mut().filter(|byte| **byte == b'-') {
        *byte = if v4 { b'.' } else { b':' };
    }
    let text = str::from_utf8(text).ok()?;
    if v4 {
        text.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
    } else {
        text.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
    }
}
