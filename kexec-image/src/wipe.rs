//! What a kernel in the window does before it goes back: it leaves nothing there.
//!
//! The kernel that goes on swaps its window back in, and has what was there instead among its free pages:
//! all memory of the kernel that saved or restored it, stacks and caches with keys among it. So the code that
//! goes back zeroes the window and low memory, all but itself. It cannot do so on the page tables that it is
//! entered with, which lie there too, and brings its own.

use vmcore::image::Paging;
use vmcore::{PAGE_SIZE, PhysAddr, PhysRange, RangeMap};

use crate::{PlanError, trampoline};

/// What a large page covers. That all CPUs have them goes without saying (Intel's manual, volume 3, section
/// 4.5.4).
const LARGE: u64 = 2 << 20;

/// Bits of an entry of a page table: it is there, it may be written, and it is a large page.
const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const LARGE_PAGE: u64 = 1 << 7;

/// Code that zeroes what a kernel in `window` used, which is that and `low`, and then goes back to the entry
/// `jump_back`: what is to lie from the beginning of the window on, in whole pages.
pub(crate) fn code(
    jump_back: PhysAddr,
    window: PhysRange,
    low: &RangeMap<()>,
    paging: Paging,
) -> Result<Vec<u8>, PlanError> {
    let refused = |why| PlanError::JumpBack {
        entry: jump_back,
        why,
    };
    let start = window.start();
    let second = start.checked_add(PAGE_SIZE).ok_or(refused(
        "the window has no room for the code that goes there",
    ))?;
    let mut tables = Tables::new(second, paging);
    for range in low.ranges().chain([window]) {
        tables.map(range);
    }
    tables.map(PhysRange::from_len(jump_back, 1).ok_or(refused("it is no address"))?);

    let own = PAGE_SIZE * (1 + tables.pages.len() as u64);
    let rest = start
        .checked_add(own)
        .and_then(|start| PhysRange::new(start.get(), window.end().get()))
        .ok_or(refused(
            "the window has no room for the code that goes there",
        ))?;
    let ranges: Vec<PhysRange> = low.ranges().chain([rest]).collect();
    let mut code = trampoline::wipe_and_resume(jump_back, second, &ranges);
    if code.len() as u64 > PAGE_SIZE {
        return Err(refused("low memory is in too many pieces"));
    }
    code.resize(PAGE_SIZE as usize, 0);
    for entry in tables.pages.iter().flatten() {
        code.extend(entry.to_le_bytes());
    }
    Ok(code)
}

/// Page tables that map some memory to where it is, by large pages.
struct Tables {
    /// Where the first of them lies, which is the root; the others follow.
    start: PhysAddr,
    levels: u32,
    pages: Vec<[u64; 512]>,
}

impl Tables {
    fn new(start: PhysAddr, paging: Paging) -> Self {
        Self {
            start,
            levels: paging.levels(),
            pages: vec![[0; 512]],
        }
    }

    /// Maps `range`, and what is in the same large pages.
    fn map(&mut self, range: PhysRange) {
        let mut at = range.start().align_down(LARGE);
        while at < range.end() {
            self.map_page(at);
            match at.checked_add(LARGE) {
                Some(next) => at = next,
                None => break,
            }
        }
    }

    fn map_page(&mut self, at: PhysAddr) {
        let mut table = 0;
        for level in (3..=self.levels).rev() {
            let index = index(at, level);
            if self.pages[table][index] == 0 {
                // Wraps only in tables that no machine has the memory for.
                let page = self.pages.len() as u64 * PAGE_SIZE;
                let page = self.start.get().wrapping_add(page);
                self.pages[table][index] = page | PRESENT | WRITABLE;
                self.pages.push([0; 512]);
            }
            let child = (self.pages[table][index] & !(PAGE_SIZE - 1)) - self.start.get();
            // No truncation: it is one of these pages.
            table = (child / PAGE_SIZE) as usize;
        }
        self.pages[table][index(at, 2)] = at.get() | PRESENT | WRITABLE | LARGE_PAGE;
    }
}

/// The place of `at` in a table of this level, 1 being the lowest.
fn index(at: PhysAddr, level: u32) -> usize {
    // No truncation: nine bits.
    (at.get() >> (12 + 9 * (level - 1)) & 511) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tables(code: &[u8]) -> Vec<[u64; 512]> {
        let (words, rest) = code[PAGE_SIZE as usize..].as_chunks::<8>();
        assert!(rest.is_empty());
        let words: Vec<u64> = words.iter().copied().map(u64::from_le_bytes).collect();
        let (pages, rest) = words.as_chunks::<512>();
        assert!(rest.is_empty());
        pages.to_vec()
    }

    /// Where a CPU gets to with `at`, on tables that lie at `start`; `None` if they do not map it.
    fn walk(pages: &[[u64; 512]], start: PhysAddr, levels: u32, at: u64) -> Option<u64> {
        let mut table = 0;
        for level in (2..=levels).rev() {
            let entry = pages[table][(at >> (12 + 9 * (level - 1)) & 511) as usize];
            if entry & PRESENT == 0 {
                return None;
            }
            assert!(entry & WRITABLE != 0);
            let to = entry & !0xfff;
            if level == 2 {
                assert!(entry & LARGE_PAGE != 0 && to.is_multiple_of(LARGE));
                return Some(to + at % LARGE);
            }
            assert!(entry & LARGE_PAGE == 0);
            table = ((to - start.get()) / PAGE_SIZE) as usize;
            assert!(table > 0 && table < pages.len());
        }
        None
    }

    proptest! {
        /// All that is written, and the page that is jumped to, is mapped to where it is; and nothing that
        /// is zeroed is what this runs on.
        #[test]
        fn what_is_zeroed_is_mapped_and_is_not_the_code_itself(
            start in 0x100..0x40_0000_u64,
            pages in 16..0x1_0000_u64,
            entry in 0x10_0000..1_u64 << 46,
            five in any::<bool>(),
        ) {
            let window = PhysRange::from_len(PhysAddr::new(start * PAGE_SIZE), pages * PAGE_SIZE).unwrap();
            let mut low = RangeMap::new();
            for (start, end) in [(0x1000, 0x9f000), (0xf0000, 0x10_0000)] {
                low.insert(PhysRange::new(start, end).unwrap(), ()).unwrap();
            }
            let paging = if five { Paging::FiveLevel } else { Paging::FourLevel };
            let code = code(PhysAddr::new(entry), window, &low, paging).unwrap();
            prop_assert_eq!(code.len() % PAGE_SIZE as usize, 0);
            let tables = tables(&code);
            let levels = paging.levels();
            let own = PhysRange::from_len(window.start(), code.len() as u64).unwrap();
            let at = window.start().checked_add(PAGE_SIZE).unwrap();
            let walk = |address: u64| walk(&tables, at, levels, address);
            let places = [0x1000, 0x9efff, 0xfffff, window.start().get(), window.end().get() - 1, entry];
            for place in places.into_iter().chain((window.start().get()..window.end().get()).step_by(1 << 20)) {
                prop_assert_eq!(walk(place), Some(place));
            }
            prop_assert_eq!(walk(window.end().get() + 2 * LARGE).filter(|_| entry / LARGE != window.end().get() / LARGE + 2), None);

            let zeroed = trampoline::wiped(&code[..PAGE_SIZE as usize]);
            prop_assert!(zeroed.iter().all(|range| !range.overlaps(own)));
            let bytes: u64 = zeroed.iter().map(|range| range.len()).sum();
            prop_assert_eq!(bytes, window.len() - own.len() + low.bytes());
        }
    }

    #[test]
    fn a_window_without_room_is_refused() {
        let window = PhysRange::new(0x100_0000, 0x100_3000).unwrap();
        let code = |low| code(PhysAddr::new(0x1234_50f2), window, low, Paging::FiveLevel);
        assert!(code(&RangeMap::new()).is_err());
    }
}
