//! Content that can be told from any other: each page follows from a seed and its own number.

/// Words in a page of 4096 bytes.
pub(crate) const PAGE_WORDS: usize = 512;

/// Bytes in a page.
pub(crate) const PAGE_BYTES: usize = PAGE_WORDS * 8;

/// Words in a record, of which pages that compress are made.
const RECORD_WORDS: usize = 8;

/// How many records of a page the others repeat.
const PATTERNS: u64 = 4;

/// Pages of one kind lie together in blocks of so many, as those of one process do: 2 MiB.
const BLOCK_PAGES: u64 = 512;

/// Pages of content, numbered from 0.
///
/// Nearly all of them are random, which no codec can compress; one in 32 is zero, and one repeats a
/// word, since images treat such pages in a way of their own. As much as [`compressible`] says is made
/// of records that repeat within the page, which makes it half as large for any codec of today.
///
/// [`compressible`]: Self::compressible
#[derive(Clone, Copy, Debug)]
pub(crate) struct Content {
    seed: u64,
    compressible: u8,
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
        Self {
            seed,
            compressible: 0,
        }
    }

    /// The same, with `percent` of it compressible.
    pub(crate) fn compressible(self, percent: u8) -> Self {
        Self {
            compressible: percent,
            ..self
        }
    }

    /// What [`new`](Self::new) and [`compressible`](Self::compressible) take, to be handed to another process.
    pub(crate) fn numbers(self) -> [u64; 2] {
        [self.seed, u64::from(self.compressible)]
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
            _ if self.compresses(number / BLOCK_PAGES) => Words::Records(Records::new(start)),
            _ => Words::Random(Random::new(start)),
        }
    }

    /// Whether the block with this number is one of those that compress: they are spread evenly.
    fn compresses(self, block: u64) -> bool {
        let until = |block: u64| u128::from(block) * u128::from(self.compressible) / 100;
        until(block) != until(block + 1)
    }
}

/// Adds a word to a checksum that depends on the order of all words. Meant against accidents.
pub(crate) fn add_to_checksum(checksum: u64, word: u64) -> u64 {
    (checksum.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The words of a page.
enum Words {
    Same(u64),
    Random(Random),
    Records(Records),
}

impl Words {
    fn next(&mut self) -> u64 {
        match self {
            Self::Same(word) => *word,
            Self::Random(random) => random.next(),
            Self::Records(records) => records.next(),
        }
    }
}

/// Words that no codec finds anything in: Marsaglia's xorshift ("Xorshift RNGs", Journal of Statistical
/// Software 8, 2003).
struct Random(u64);

impl Random {
    /// The generator stays at 0 once it is there, so it does not start there.
    fn new(start: u64) -> Self {
        Self(start | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Records with a word of their own each; what follows it is new in three of eight, and in the others is
/// that of one of the page's first records.
struct Records {
    start: u64,
    at: usize,
    rest: Random,
}

impl Records {
    fn new(start: u64) -> Self {
        let rest = Random::new(start);
        Self { start, at: 0, rest }
    }

    fn next(&mut self) -> u64 {
        let (record, word) = (self.at / RECORD_WORDS, self.at % RECORD_WORDS);
        self.at += 1;
        if word > 0 {
            return self.rest.next();
        }
        let record = record as u64;
        let own = mix(self.start ^ record);
        let repeats = record >= PATTERNS && own % 8 < 5;
        let like = if repeats { own / 8 % PATTERNS } else { record };
        self.rest = Random::new(mix(!self.start ^ like));
        own
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
    use std::io::Write;

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

    /// How large `words` are when they are compressed page by page, in percent.
    fn compressed(words: &[u64]) -> usize {
        let pages = words.chunks(PAGE_WORDS).map(|page| {
            let bytes: Vec<u8> = page.iter().flat_map(|word| word.to_le_bytes()).collect();
            let fast = flate2::Compression::fast();
            let mut deflated = flate2::write::DeflateEncoder::new(Vec::new(), fast);
            deflated.write_all(&bytes).unwrap();
            deflated.finish().unwrap().len()
        });
        pages.sum::<usize>() * 100 / (words.len() * 8)
    }

    #[test]
    fn as_much_compresses_as_is_asked_for() {
        let block = BLOCK_PAGES as usize * PAGE_WORDS;
        let mut words = vec![0; 10 * block];
        for percent in [0, 30, 50, 100] {
            Content::new(5).compressible(percent).fill(&mut words, 0);
            let sizes: Vec<usize> = words.chunks(block).map(compressed).collect();
            // A page in sixteen is no more than a word in any case.
            assert!(
                sizes
                    .iter()
                    .all(|size| (40..55).contains(size) || *size > 90),
                "{sizes:?}"
            );
            let smaller = sizes.iter().filter(|size| **size < 55).count();
            assert_eq!(smaller, usize::from(percent) / 10);
        }
    }

    proptest! {
        #[test]
        fn any_changed_bit_is_noticed(
            seed: u64, compressible in 0_u8..=100, first in 0..u64::MAX / 2, at in 0..3 * PAGE_WORDS, bit in 0_u32..64,
        ) {
            let content = Content::new(seed).compressible(compressible);
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
