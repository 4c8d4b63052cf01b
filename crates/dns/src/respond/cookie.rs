//! Server cookies that any server with the same secret can check (RFC 9018).

use std::net::IpAddr;

/// How old a cookie may be, and how far in the future, in seconds (RFC 9018 section 4.3).
const AGE: u32 = 3600;
const AHEAD: u32 = 300;

/// The server's part for a client's.
pub(super) fn make(secret: &[u8; 16], client: &[u8; 8], ip: IpAddr, now: u32) -> [u8; 16] {
    let mut input = [0; 32];
    input[..8].copy_from_slice(client);
    // Version, and three bytes that are reserved.
    input[8] = 1;
    input[12..16].copy_from_slice(&now.to_be_bytes());
    let length = match ip {
        IpAddr::V4(ip) => {
            input[16..20].copy_from_slice(&ip.octets());
            20
        }
        IpAddr::V6(ip) => {
            input[16..].copy_from_slice(&ip.octets());
            32
        }
    };
    let hash = siphash(secret, &input[..length]).to_le_bytes();
    let mut cookie = [0; 16];
    cookie[..8].copy_from_slice(&input[8..16]);
    cookie[8..].copy_from_slice(&hash);
    cookie
}

/// Whether a server's part was made here, for this client, and not long ago.
pub(super) fn is_valid(secret: &[u8; 16], client: &[u8; 8], server: &[u8], ip: IpAddr, now: u32) -> bool {
    let Ok([1, _, _, _, a, b, c, d, ..]) = <&[u8; 16]>::try_from(server) else { return false };
    let made = u32::from_be_bytes([*a, *b, *c, *d]);
    let fresh = now.wrapping_sub(made) <= AGE || made.wrapping_sub(now) <= AHEAD;
    fresh && make(secret, client, ip, made) == *server
}

/// SipHash-2-4.
fn siphash(key: &[u8; 16], data: &[u8]) -> u64 {
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
    let (k0, k1) = (word(&key[..8]), word(&key[8..]));
    let mut state = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let (words, rest) = data.as_chunks::<8>();
    let last = word(rest) | (data.len() as u64) << 56;
    for word in words.iter().map(|bytes| u64::from_le_bytes(*bytes)).chain([last]) {
        state[3] ^= word;
        round(&mut state);
        round(&mut state);
        state[0] ^= word;
    }
    state[2] ^= 0xff;
    (0..4).for_each(|_| round(&mut state));
    state[0] ^ state[1] ^ state[2] ^ state[3]
}

const fn round([v0, v1, v2, v3]: &mut [u64; 4]) {
    *v0 = v0.wrapping_add(*v1);
    *v1 = v1.rotate_left(13) ^ *v0;
    *v0 = v0.rotate_left(32);
    *v2 = v2.wrapping_add(*v3);
    *v3 = v3.rotate_left(16) ^ *v2;
    *v0 = v0.wrapping_add(*v3);
    *v3 = v3.rotate_left(21) ^ *v0;
    *v2 = v2.wrapping_add(*v1);
    *v1 = v1.rotate_left(17) ^ *v2;
    *v2 = v2.rotate_left(32);
}
