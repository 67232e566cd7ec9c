//! The checksum of everything in an image.

use rapidhash::v3::rapidhash_v3;

/// How many bytes are looked at together.
pub(super) const BLOCK: usize = crate::BLOCK;

/// A checksum of 64 bits over bytes that come piece by piece.
///
/// Each block of 4096 bytes has its rapidhash V3, and the checksum is made of these one after the other:
/// rotated by 23 bits, combined with the hash by exclusive or, and multiplied by an odd number. So every
/// bit of every block counts, and so does their order; and what lies in many places can be checked where
/// it lies. It finds damage, not malice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checksum(u64);

impl Checksum {
    /// Of nothing yet.
    pub(super) fn new() -> Self {
        Self(0x6b6a_756d_7069_6d67)
    }

    /// Adds `bytes`; only the last that are added may be no whole blocks.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        for block in bytes.chunks(BLOCK) {
            let hash = rapidhash_v3(block);
            self.0 = (self.0.rotate_left(23) ^ hash).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }

    /// The checksum.
    pub(super) fn get(self) -> u64 {
        self.0
    }
}

/// The checksum of `bytes`.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    let mut sum = Checksum::new();
    sum.add(bytes);
    sum.get()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_bit_and_each_place_counts(len in 1..3 * BLOCK, bit in any::<usize>(), cut in 0..3_usize) {
            let bytes: Vec<u8> = (0..len).map(|at| (at / 7) as u8).collect();
            let sum = checksum(&bytes);
            let mut other = bytes.clone();
            other[bit / 8 % len] ^= 1 << (bit % 8);
            prop_assert_ne!(checksum(&other), sum);
            let (first, rest) = bytes.split_at((cut * BLOCK).min(len));
            let mut parts = Checksum::new();
            parts.add(first);
            parts.add(rest);
            prop_assert_eq!(parts.get(), sum);
        }
    }

    #[test]
    fn blocks_do_not_change_places() {
        let (one, two) = ([1; BLOCK], [2; BLOCK]);
        assert_ne!(
            checksum(&[one, two].concat()),
            checksum(&[two, one].concat())
        );
    }

    /// What is in images that exist.
    #[test]
    fn the_checksum_stays_what_it_is() {
        assert_eq!(checksum(b""), 0x6b6a_756d_7069_6d67);
        let sums = [checksum(b"kjump"), checksum(&[0; 8192])];
        assert_eq!(sums, KNOWN);
    }

    const KNOWN: [u64; 2] = [16_142_239_550_022_924_447, 1_431_033_168_836_126_040];
}
