//! The second bitmap: which pages a dump holds, and the how manieth of them a page is.

use std::io;

use super::DumpError;
use super::window::Window;
use crate::{PAGE_SIZE, PageClass, PhysRange, RangeMap, ReadAt};

/// Bytes of the bitmap that share an entry in the table of ranks: 4,096 pages, 16 MiB of memory.
const SECTION: usize = 512;
/// Pages of such a section.
const SECTION_PAGES: u64 = SECTION as u64 * 8;

/// Which pages are there. The bits stay in the file; what is kept is the rank of the first page of
/// every section that has one.
#[derive(Debug)]
pub(super) struct Bitmap {
    /// Where it lies in the file.
    offset: u64,
    /// How many bits count.
    pages: u64,
    /// Sections with bits set, in order: the section's number, and how many bits are set before it.
    ranks: Vec<(u64, u64)>,
    /// How many bits are set.
    count: u64,
}

impl Bitmap {
    /// Goes through the bitmap of `pages` bits at `offset`, whose end was checked. Returns it with the
    /// memory whose bits are set.
    pub(super) fn scan(
        source: &impl ReadAt,
        offset: u64,
        pages: u64,
    ) -> Result<(Self, RangeMap<PageClass>), DumpError> {
        let mut bitmap = Self {
            offset,
            pages,
            ranks: Vec::new(),
            count: 0,
        };
        let mut runs = Runs::default();
        let mut piece = vec![0; 1 << 20];
        let len = pages.div_ceil(8);
        let mut done = 0;
        while done < len {
            let now = usize::try_from(len - done).map_or(piece.len(), |left| left.min(piece.len()));
            let at = offset + done;
            source
                .read_exact_at(&mut piece[..now], at)
                .map_err(|source| DumpError::Read { offset: at, source })?;
            for (index, section) in piece[..now].chunks(SECTION).enumerate() {
                // Pieces are whole sections, but for the last.
                bitmap.scan_section(done / SECTION as u64 + index as u64, section, &mut runs);
            }
            done += now as u64;
        }
        Ok((bitmap, runs.finish()))
    }

    fn scan_section(&mut self, number: u64, section: &[u8], runs: &mut Runs) {
        if section.iter().all(|byte| *byte == 0) {
            return;
        }
        let before = self.count;
        for (index, word) in (0..).zip(words(section)) {
            let first = number * SECTION_PAGES + index * 64;
            let word = word & below(self.pages.saturating_sub(first));
            runs.word(first, word);
            self.count += u64::from(word.count_ones());
        }
        if self.count > before {
            self.ranks.push((number, before));
        }
    }

    /// How many pages are there.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// How many pages are there below `pfn`; `None` if that page itself is not.
    pub(super) fn rank(
        &self,
        source: &impl ReadAt,
        window: &mut Window,
        pfn: u64,
    ) -> io::Result<Option<u64>> {
        let number = pfn / SECTION_PAGES;
        let Ok(index) = self
            .ranks
            .binary_search_by_key(&number, |(number, _)| *number)
        else {
            return Ok(None);
        };
        if pfn >= self.pages {
            return Ok(None);
        }
        let skip = number * SECTION as u64;
        let left = self.pages.div_ceil(8) - skip;
        let len = usize::try_from(left).map_or(SECTION, |left| left.min(SECTION));
        let section = window.fetch(source, self.offset + skip, len)?;
        let mut rank = self.ranks[index].1;
        let bit = pfn % SECTION_PAGES;
        for (index, word) in (0..).zip(words(section)) {
            if index == bit / 64 {
                let set = word & 1 << (bit % 64) != 0;
                rank += u64::from((word & below(bit % 64)).count_ones());
                return Ok(set.then_some(rank));
            }
            rank += u64::from(word.count_ones());
        }
        Ok(None)
    }
}

/// The bits of `bytes` as words, the lowest bit first; the last word is filled up with zeros.
fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    })
}

/// A word whose lowest `bits` bits are set.
fn below(bits: u64) -> u64 {
    match bits {
        0..64 => (1 << bits) - 1,
        _ => u64::MAX,
    }
}

/// Pages in ascending order, made into ranges.
#[derive(Default)]
struct Runs {
    map: RangeMap<PageClass>,
    /// The page frames of the range that may still grow.
    open: Option<(u64, u64)>,
}

impl Runs {
    /// Adds the pages of `word`, whose lowest bit is page `first`.
    fn word(&mut self, first: u64, mut word: u64) {
        let mut bit = 0;
        while word != 0 {
            bit += word.trailing_zeros();
            word >>= word.trailing_zeros();
            let ones = word.trailing_ones();
            self.run(first + u64::from(bit), u64::from(ones));
            bit += ones;
            word = word.checked_shr(ones).unwrap_or(0);
        }
    }

    fn run(&mut self, start: u64, pages: u64) {
        match &mut self.open {
            Some((_, end)) if *end == start => *end += pages,
            _ => {
                self.close();
                self.open = Some((start, start + pages));
            }
        }
    }

    fn close(&mut self) {
        if let Some((start, end)) = self.open.take()
            // No overflow: page frames have 40 bits.
            && let Some(range) = PhysRange::new(start * PAGE_SIZE, end * PAGE_SIZE)
        {
            // At the end of the map, where this takes no time to speak of.
            let inserted = self.map.insert(range, PageClass::Data);
            debug_assert!(inserted.is_ok(), "runs are in ascending order");
        }
    }

    fn finish(mut self) -> RangeMap<PageClass> {
        self.close();
        self.map
    }
}
