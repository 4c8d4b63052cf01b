//! What the server makes up: times, uids and names.

use jiff::Timestamp;
use rand::Rng;

/// Letters of generated names: none that make words, none that look alike (J48).
const NAME_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
/// Longest generated name.
const NAME_MAX: usize = 63;

/// Now, RFC 3339 in whole seconds.
pub(crate) fn now() -> String {
    time(Timestamp::now())
}

/// A moment, RFC 3339 in whole seconds.
pub(crate) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A random (version 4) UUID.
pub(crate) fn uid() -> String {
    let random: u128 = rand::random();
    let bits = (random & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// A name that begins with `prefix` (J48).
pub(crate) fn generate_name(prefix: &str) -> String {
    let mut end = prefix.len().min(NAME_MAX - SUFFIX_LENGTH);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = prefix[..end].to_owned();
    let mut random = rand::rng();
    for _ in 0..SUFFIX_LENGTH {
        name.push(char::from(NAME_LETTERS[random.random_range(0..NAME_LETTERS.len())]));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_say_their_version() {
        let uid = uid();
        assert_eq!(uid.len(), 36);
        assert_eq!(&uid[14..15], "4");
        assert!("89ab".contains(&uid[19..20]), "{uid}");
    }

    #[test]
    fn j48_generated_names_keep_within_63_letters() {
        assert_eq!(generate_name("web-").len(), 9);
        assert_eq!(generate_name(&"a".repeat(80)).len(), 63);
        assert!(generate_name("x-")[2..].bytes().all(|letter| NAME_LETTERS.contains(&letter)));
    }

    #[test]
    fn times_are_whole_seconds_of_utc() {
        assert_eq!(time("2026-01-02T03:04:05.678Z".parse().unwrap()), "2026-01-02T03:04:05Z");
    }
}
