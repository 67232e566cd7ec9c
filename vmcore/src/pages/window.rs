//! The part of the map of pages that was read last.

use super::PagesError;
use crate::{AddressSpace, Memory, MemoryError, PAGE_SIZE, TranslateError};

/// How many entries are read at once after a jump, and at most when reading on. Of memory that is free
/// mostly, one entry in 1024 is needed, of other memory all.
const FIRST: u64 = 64;
const MOST: u64 = 1024;

/// `struct page`s that lie one after the other.
pub(super) struct Window {
    size: u64,
    bytes: Vec<u8>,
    first: u64,
    count: u64,
    ahead: u64,
}

impl Window {
    /// A window for entries of `size` bytes.
    pub(super) fn new(size: u64) -> Self {
        Self {
            size,
            bytes: Vec::new(),
            first: 0,
            count: 0,
            ahead: FIRST,
        }
    }

    /// The entry of page `pfn`, which lies at `virt`; those of the pages up to `end` follow it. If it is
    /// not there, the error is how many entries are not there, at least 1.
    pub(super) fn page<M: Memory + ?Sized>(
        &mut self,
        space: &AddressSpace<'_, M>,
        virt: u64,
        pfn: u64,
        end: u64,
    ) -> Result<Result<&[u8], u64>, PagesError> {
        let inside = |this: &Self| {
            pfn.checked_sub(this.first)
                .filter(|index| *index < this.count)
        };
        if inside(self).is_none() {
            self.ahead = if self.count > 0 && pfn == self.first + self.count {
                MOST.min(self.ahead * 2)
            } else {
                FIRST
            };
            let most = end.saturating_sub(pfn).max(1);
            // Entries that begin in the same page of the map.
            let near = ((PAGE_SIZE - virt % PAGE_SIZE).div_ceil(self.size)).min(most);
            if !self.read(space, virt, pfn, self.ahead.min(most))?
                && !self.read(space, virt, pfn, near)?
            {
                return Ok(Err(near));
            }
        }
        let index = inside(self).unwrap_or(0);
        let at = usize::try_from(index * self.size).unwrap_or(usize::MAX);
        Ok(Ok(self.bytes.get(at..).unwrap_or_default()))
    }

    /// Reads `count` entries from `virt` on; false if they are not all there.
    fn read<M: Memory + ?Sized>(
        &mut self,
        space: &AddressSpace<'_, M>,
        virt: u64,
        pfn: u64,
        count: u64,
    ) -> Result<bool, PagesError> {
        self.count = 0;
        let len = usize::try_from(count * self.size).unwrap_or(usize::MAX);
        self.bytes.resize(len, 0);
        match space.read(virt, &mut self.bytes) {
            Ok(()) => {
                self.first = pfn;
                self.count = count;
                Ok(true)
            }
            Err(error @ TranslateError::Memory(MemoryError::Read { .. })) => Err(error.into()),
            Err(_) => Ok(false),
        }
    }
}
