//! Certificates made of what clients ask for (RFC 5280), as kube-controller-manager signs them: names and key of the
//! request, usages of the object, everything else ours.
//!
//! Written by hand, because the subject goes in as it came: a user may be in many groups, in that order.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, SigningKey,
};

use super::der::{SEQUENCE, oid, sequence, tlv};
use super::request::Request;

/// Longest life of such a certificate, and what is given if nothing is asked for.
const LIFETIME: u64 = 365 * 86_400;
const LIFETIME_MIN: u64 = 600;
/// They begin a little earlier, for clocks that are behind; what lives long ends as much earlier.
const BACKDATED: Duration = Duration::from_secs(300);
const SHORT: u64 = 8 * 3600;

/// Who signs, as far as signing needs it.
pub(super) struct Signer<'a> {
    pub(super) key: &'a KeyPair,
    /// Its name, DER.
    pub(super) name: &'a [u8],
    pub(super) key_id: &'a [u8],
    /// When its own certificate ends, in seconds since 1970.
    pub(super) ends: u64,
}

/// X.509 times have two digits for the year until 2050 (RFC 5280 section 4.1.2.5).
fn time(seconds: u64) -> Result<Vec<u8>, String> {
    let at = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    let text = at.ok_or("a time beyond all calendars")?.strftime("%Y%m%d%H%M%SZ").to_string();
    Ok(if text.as_str() < "2050" { tlv(0x17, &text.as_bytes()[2..]) } else { tlv(0x18, text.as_bytes()) })
}

fn extension(numbers: &[u64], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[0x01, 0x01, 0xff] } else { &[] };
    sequence(&[&oid(numbers), critical, &tlv(0x04, value)])
}

/// Which bit of the key usage, or which extended usage.
enum Usage {
    Bit(u8),
    Extended(&'static [u64]),
}

fn usage(name: &str) -> Option<Usage> {
    use Usage::{Bit, Extended};
    Some(match name {
        "signing" | "digital signature" => Bit(0),
        "content commitment" => Bit(1),
        "key encipherment" => Bit(2),
        "data encipherment" => Bit(3),
        "key agreement" => Bit(4),
        "cert sign" => Bit(5),
        "crl sign" => Bit(6),
        "encipher only" => Bit(7),
        "decipher only" => Bit(8),
        "any" => Extended(&[2, 5, 29, 37, 0]),
        "server auth" => Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 1]),
        "client auth" => Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 2]),
        "code signing" => Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 3]),
        "email protection" | "s/mime" => Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 4]),
        "ipsec end system" => Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 5]),
        "ipsec tunnel" => Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 6]),
        "ipsec user" => Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 7]),
        "timestamping" => Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 8]),
        "ocsp signing" => Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 9]),
        "microsoft sgc" => Extended(&[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
        "netscape sgc" => Extended(&[2, 16, 840, 1, 113_730, 4, 1]),
        _ => return None,
    })
}

fn usages(names: &[String]) -> Result<Vec<u8>, String> {
    let (mut bits, mut extended): (u16, Vec<Vec<u8>>) = (0, Vec::new());
    for name in names {
        match usage(name).ok_or_else(|| format!("unrecognized usages: [{name}]"))? {
            Usage::Bit(bit) => bits |= 0x8000 >> bit,
            Usage::Extended(numbers) => extended.push(oid(numbers)),
        }
    }
    extended.sort();
    extended.dedup();
    let mut out = Vec::new();
    if bits != 0 {
        // A BIT STRING of as many bytes as have bits, and how many bits of the last do not count.
        let bytes = bits.to_be_bytes();
        let used = if bytes[1] == 0 { &bytes[..1] } else { &bytes[..] };
        let unused = used[used.len() - 1].trailing_zeros() as u8;
        out.extend(extension(&[2, 5, 29, 15], true, &tlv(0x03, &[&[unused], used].concat())));
    }
    if !extended.is_empty() {
        out.extend(extension(&[2, 5, 29, 37], false, &tlv(SEQUENCE, &extended.concat())));
    }
    Ok(out)
}

fn names(request: &Request) -> Vec<u8> {
    let mut list = Vec::new();
    for (tag, texts) in [(0x82, &request.dns), (0x81, &request.emails), (0x86, &request.uris)] {
        texts.iter().for_each(|text| list.extend(tlv(tag, text.as_bytes())));
    }
    for address in &request.addresses {
        list.extend(match address {
            std::net::IpAddr::V4(ip) => tlv(0x87, &ip.octets()),
            std::net::IpAddr::V6(ip) => tlv(0x87, &ip.octets()),
        });
    }
    if list.is_empty() {
        return list;
    }
    // Where the subject is empty these are all there is.
    extension(&[2, 5, 29, 17], request.subject == tlv(SEQUENCE, &[]), &tlv(SEQUENCE, &list))
}

fn algorithm(key: &KeyPair) -> Result<Vec<u8>, String> {
    let of = key.algorithm();
    Ok(match () {
        () if of == &PKCS_ECDSA_P256_SHA256 => sequence(&[&oid(&[1, 2, 840, 10_045, 4, 3, 2])]),
        () if of == &PKCS_ECDSA_P384_SHA384 => sequence(&[&oid(&[1, 2, 840, 10_045, 4, 3, 3])]),
        () if of == &PKCS_ED25519 => sequence(&[&oid(&[1, 3, 101, 112])]),
        () if of == &PKCS_RSA_SHA256 => sequence(&[&oid(&[1, 2, 840, 113_549, 1, 1, 11]), &tlv(0x05, &[])]),
        () => return Err("the authority's key is of a sort that signs no certificates here".into()),
    })
}

impl Signer<'_> {
    /// A certificate of what is asked for, PEM, for as many seconds as are, within bounds.
    pub(super) fn sign(
        &self,
        request: &Request,
        usage: &[String],
        seconds: Option<u64>,
        now: SystemTime,
    ) -> Result<String, String> {
        let life = seconds.unwrap_or(LIFETIME).clamp(LIFETIME_MIN, LIFETIME);
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let begin = now.saturating_sub(BACKDATED.as_secs());
        let end = if life < SHORT { now + life } else { begin + life };
        if now >= self.ends {
            return Err(format!("the authority has expired, at {} seconds after 1970", self.ends));
        }
        let algorithm = algorithm(self.key)?;
        let mut serial: [u8; 16] = rand::random();
        // Positive, and not shorter than it looks.
        serial[0] = serial[0] & 0x3f | 0x40;
        let extensions = [
            usages(usage)?,
            extension(&[2, 5, 29, 19], true, &tlv(SEQUENCE, &[])),
            extension(&[2, 5, 29, 35], false, &sequence(&[&tlv(0x80, self.key_id)])),
            names(request),
        ];
        let body = sequence(&[
            &tlv(0xa0, &tlv(0x02, &[2])),
            &tlv(0x02, &serial),
            &algorithm,
            self.name,
            &sequence(&[&time(begin)?, &time(end.min(self.ends))?]),
            &request.subject,
            &request.key,
            &tlv(0xa3, &tlv(SEQUENCE, &extensions.concat())),
        ]);
        let signature = self.key.sign(&body).map_err(|error| error.to_string())?;
        let whole = sequence(&[&body, &algorithm, &tlv(0x03, &[&[0], &signature[..]].concat())]);
        Ok(pem(&whole))
    }
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|byte| char::from(*byte)));
        out.push('\n');
    }
    out + "-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests;
