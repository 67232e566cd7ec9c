//! Content that can be told from any other: each page follows from a seed and its own number.

/// Words in a page of 4096 bytes.
pub(crate) const PAGE_WORDS: usize = 512;

/// Bytes in a page.
pub(crate) const PAGE_BYTES: usize = PAGE_WORDS * 8;

/// Pages of content, numbered from 0.
///
/// Nearly all of them are random, which no codec can compress; one in 32 is zero, and one repeats a
/// word, since images treat such pages in a way of their own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Content {
    seed: u64,
}

/// What was found where content should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Checksum of what is there, right or wrong.
    pub(crate) checksum: u64,
    /// Pages that are not what they should be.
    pub(crate) wrong_pages: u64,
    /// Number of the first of them.
    pub(crate) first_wrong: Option<u64>,
}

impl Content {
    /// The content that follows from `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Fills `words` with pages from number `first` on.
    pub(crate) fn fill(self, words: &mut [u64], first: u64) {
        for (page, number) in words.chunks_mut(PAGE_WORDS).zip(first..) {
            let mut words = self.words(number);
            page.fill_with(|| words.next());
        }
    }

    /// Compares `words` with the pages from number `first` on.
    pub(crate) fn check(self, words: &[u64], first: u64) -> Findings {
        let mut findings = Findings::default();
        for (page, number) in words.chunks(PAGE_WORDS).zip(first..) {
            let mut expected = self.words(number);
            let mut difference = 0;
            for &word in page {
                difference |= word ^ expected.next();
                findings.checksum = add_to_checksum(findings.checksum, word);
            }
            if difference != 0 {
                findings.wrong_pages += 1;
                findings.first_wrong.get_or_insert(number);
            }
        }
        findings
    }

    /// The bytes of `pages` pages from number `first` on.
    pub(crate) fn bytes(self, first: u64, pages: usize) -> Vec<u8> {
        let mut words = vec![0; pages * PAGE_WORDS];
        self.fill(&mut words, first);
        words.into_iter().flat_map(u64::to_le_bytes).collect()
    }

    fn words(self, number: u64) -> Words {
        let start = mix(self.seed ^ mix(number));
        match number % 32 {
            30 => Words::Same(start),
            31 => Words::Same(0),
            // The generator stays at 0 once it is there, so it must not start there.
            _ => Words::Random(start | 1),
        }
    }
}

/// Adds a word to a checksum that depends on the order of all words. Meant against accidents.
pub(crate) fn add_to_checksum(checksum: u64, word: u64) -> u64 {
    (checksum.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The words of a page.
enum Words {
    Same(u64),
    Random(u64),
}

impl Words {
    fn next(&mut self) -> u64 {
        match self {
            Self::Same(word) => *word,
            // Marsaglia's xorshift: "Xorshift RNGs", Journal of Statistical Software 8 (2003).
            Self::Random(state) => {
                *state ^= *state << 13;
                *state ^= *state >> 7;
                *state ^= *state << 17;
                *state
            }
        }
    }
}

/// Spreads the bits of `value` over the whole word; the finalizer of `SplitMix64`.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn content_has_random_repeated_and_zero_pages() {
        let mut words = vec![1; 32 * PAGE_WORDS];
        Content::new(3).fill(&mut words, 64);
        let pages: Vec<_> = words.chunks(PAGE_WORDS).collect();
        assert!(pages[31].iter().all(|&word| word == 0));
        assert!(
            pages[30]
                .iter()
                .all(|&word| word == pages[30][0] && word != 0)
        );
        for page in &pages[..30] {
            let mut sorted = page.to_vec();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), PAGE_WORDS);
        }
    }

    #[test]
    fn pages_in_each_others_place_are_noticed() {
        let content = Content::new(9);
        let mut words = vec![0; 4 * PAGE_WORDS];
        content.fill(&mut words, 0);
        let right = content.check(&words, 0);
        let (left, rest) = words.split_at_mut(2 * PAGE_WORDS);
        left[PAGE_WORDS..].swap_with_slice(&mut rest[..PAGE_WORDS]);
        let findings = content.check(&words, 0);
        assert_eq!(findings.wrong_pages, 2);
        assert_eq!(findings.first_wrong, Some(1));
        assert_ne!(findings.checksum, right.checksum);
    }

    proptest! {
        #[test]
        fn any_changed_bit_is_noticed(
            seed: u64, first in 0..u64::MAX / 2, at in 0..3 * PAGE_WORDS, bit in 0_u32..64,
        ) {
            let content = Content::new(seed);
            let mut words = vec![0; 3 * PAGE_WORDS];
            content.fill(&mut words, first);
            let right = content.check(&words, first);
            prop_assert_eq!(right.wrong_pages, 0);
            prop_assert_eq!(right.first_wrong, None);

            words[at] ^= 1_u64 << bit;
            let findings = content.check(&words, first);
            prop_assert_eq!(findings.wrong_pages, 1);
            prop_assert_eq!(findings.first_wrong, Some(first + (at / PAGE_WORDS) as u64));
            prop_assert_ne!(findings.checksum, right.checksum);
        }
    }
}
