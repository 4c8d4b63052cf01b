//! As much of DER (X.690) as is written here.

pub(crate) const SEQUENCE: u8 = 0x30;

/// A value of a type, with its length.
pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let length = content.len().to_be_bytes();
            let digits = &length[length.iter().take_while(|byte| **byte == 0).count()..];
            out.push(0x80 | digits.len() as u8);
            out.extend_from_slice(digits);
        }
    }
    out.extend_from_slice(content);
    out
}

/// Several, as one.
pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(SEQUENCE, &parts.concat())
}

/// An object identifier.
pub(crate) fn oid(numbers: &[u64]) -> Vec<u8> {
    let mut content = vec![(numbers[0] * 40 + numbers[1]) as u8];
    for number in &numbers[2..] {
        let digits = (64 - number.leading_zeros()).div_ceil(7).max(1);
        for digit in (0..digits).rev() {
            let more = if digit == 0 { 0 } else { 0x80 };
            content.push(more | (number >> (7 * digit) & 0x7f) as u8);
        }
    }
    tlv(0x06, &content)
}

/// The SubjectPublicKeyInfo of an RSAPublicKey (RFC 3279 section 2.3.1).
pub(crate) fn rsa_info(key: &[u8]) -> Vec<u8> {
    let algorithm = sequence(&[&oid(&[1, 2, 840, 113_549, 1, 1, 1]), &tlv(0x05, &[])]);
    sequence(&[&algorithm, &tlv(0x03, &[&[0], key].concat())])
}

/// That of a point on P-256 (RFC 5480 section 2).
pub(crate) fn p256_info(point: &[u8]) -> Vec<u8> {
    let algorithm = sequence(&[&oid(&[1, 2, 840, 10_045, 2, 1]), &oid(&[1, 2, 840, 10_045, 3, 1, 7])]);
    sequence(&[&algorithm, &tlv(0x03, &[&[0], point].concat())])
}
