//! Bytes that nobody meant, for some seconds.

use std::time::{Duration, Instant};

use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;

/// A generator of numbers (xorshift): the same ones each time.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % sides.max(1)
    }

    /// Changes a packet: bits, bytes, counts and pointers, its length.
    pub(crate) fn mutate(&mut self, packet: &mut Vec<u8>) {
        for _ in 0..=self.roll(4) {
            let at = self.roll(packet.len());
            match self.roll(6) {
                _ if packet.is_empty() => packet.push(self.roll(256) as u8),
                0 => packet[at] ^= 1 << self.roll(8),
                1 => packet[at] = self.roll(256) as u8,
                2 => packet[at] = [0, 1, 63, 64, 127, 191, 192, 255][self.roll(8)],
                3 => packet.truncate(at),
                4 => {
                    let end = at + self.roll(packet.len() - at);
                    packet.extend_from_within(at..end);
                }
                _ => {
                    packet[at] = 0xc0;
                    if let Some(low) = packet.get_mut(at + 1) {
                        *low = self.roll(64) as u8;
                    }
                }
            }
        }
    }
}

/// What is read once can be written, and is read again as the same; nothing panics.
#[test]
fn any_bytes_are_read_or_refused() {
    let mut runner = TestRunner::deterministic();
    let mut message = || any_message().new_tree(&mut runner).unwrap().current().to_bytes();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let seeds: Vec<_> = (0..200).map(|_| message()).collect();
    let end = Instant::now() + Duration::from_secs(4);
    let (mut read, mut refused) = (0, 0);
    while Instant::now() < end {
        for _ in 0..100 {
            let mut packet = if dice.roll(10) == 0 {
                (0..dice.roll(100)).map(|_| dice.roll(256) as u8).collect()
            } else {
                seeds[dice.roll(seeds.len())].clone()
            };
            dice.mutate(&mut packet);
            match Message::parse(&packet) {
                Err(_) => refused += 1,
                Ok(message) => {
                    read += 1;
                    let mut again = Vec::new();
                    message.encode(&mut again, MAX_MESSAGE);
                    // Without compression of all names, what was read may not fit again.
                    if !Message::parse(&again).unwrap().header.truncated {
                        assert_eq!(Message::parse(&again).as_ref(), Ok(&message), "{packet:?}");
                    }
                }
            }
        }
    }
    assert!(read > 100 && refused > 100, "{read} read, {refused} refused");
}
