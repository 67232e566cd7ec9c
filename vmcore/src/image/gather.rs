//! Gathering the data of a part of memory: its pages that are not zero, one behind the other.

use std::ops::ControlFlow;

use super::chunk::Runs;
use crate::classify::is_zero;
use crate::survey::{Known, Part};
use crate::{Memory, MemoryError, PAGE_SIZE, PageClass, PhysRange};

/// How many free pages between others are read with them: to map them costs less than to map twice.
const BRIDGE: u64 = 32;

const PAGE: usize = PAGE_SIZE as usize;

/// Gathers pages in a buffer.
pub(super) struct Gather<'b> {
    buffer: &'b mut [u8],
    /// How many bytes of whole pages there are.
    len: usize,
    /// How many bytes of the page that comes next are there already.
    begun: usize,
    runs: Runs,
}

impl<'b> Gather<'b> {
    /// Gathers in `buffer`, which must have room for all that is looked at.
    pub(super) fn new(buffer: &'b mut [u8]) -> Self {
        Self {
            buffer,
            len: 0,
            begun: 0,
            runs: Runs::default(),
        }
    }

    /// Gathers the data of `part`, and tells the classes of its pages.
    pub(super) fn part(
        mut self,
        memory: &(impl Memory + ?Sized),
        part: &Part,
    ) -> Result<Runs, MemoryError> {
        let mut runs = part.iter().peekable();
        while let Some((range, known)) = runs.next() {
            match known {
                Known::Zero => self.runs.push(PageClass::Zero, range.len() / PAGE_SIZE),
                Known::Free | Known::LeftOut => {
                    self.runs.push(PageClass::Free, range.len() / PAGE_SIZE);
                }
                Known::Nothing => {
                    // What is read at once: all up to the next that cannot be, or is not worth it.
                    let mut group = vec![(range.len() as usize, true)];
                    let mut end = range.end();
                    while let Some((next, known)) = runs.next_if(|(next, known)| {
                        *known == Known::Nothing
                            || (*known == Known::Free && next.len() <= BRIDGE * PAGE_SIZE)
                    }) {
                        group.push((next.len() as usize, known == Known::Nothing));
                        end = next.end();
                    }
                    if let Some((len, false)) = group.last() {
                        // What is free at the end need not be read.
                        end = crate::PhysAddr::new(end.get() - *len as u64);
                    }
                    let Some(whole) = PhysRange::new(range.start().get(), end.get()) else {
                        continue;
                    };
                    self.group(memory, whole, &group)?;
                }
            }
        }
        Ok(self.runs)
    }

    /// Gathers `group`, the lengths of what `range` has and whether each is to be looked at.
    fn group(
        &mut self,
        memory: &(impl Memory + ?Sized),
        range: PhysRange,
        group: &[(usize, bool)],
    ) -> Result<(), MemoryError> {
        if !memory.is_mapped() {
            return self.read(memory, range, group);
        }
        let mut parts = group.iter().copied();
        let mut left = (0, true);
        memory.for_each_piece(range, &mut |piece| {
            let mut piece = piece;
            while !piece.is_empty() {
                if left.0 == 0 {
                    let Some(next) = parts.next() else {
                        return ControlFlow::Break(());
                    };
                    left = next;
                    if !left.1 {
                        self.runs.push(PageClass::Free, (left.0 / PAGE) as u64);
                    }
                }
                let (now, rest) = piece.split_at(piece.len().min(left.0));
                left.0 -= now.len();
                piece = rest;
                if left.1 {
                    self.look(now);
                }
            }
            ControlFlow::Continue(())
        })?;
        // Free pages at the end were not read.
        for (len, _) in parts.filter(|(_, look)| !look) {
            self.runs.push(PageClass::Free, (len / PAGE) as u64);
        }
        Ok(())
    }

    /// As [`group`](Self::group), of memory that is read right to where it is gathered.
    fn read(
        &mut self,
        memory: &(impl Memory + ?Sized),
        range: PhysRange,
        group: &[(usize, bool)],
    ) -> Result<(), MemoryError> {
        let mut at = range.start();
        for (len, look) in group.iter().copied() {
            if !look {
                self.runs.push(PageClass::Free, (len / PAGE) as u64);
            } else {
                let first = self.len;
                memory.read(at, &mut self.buffer[first..][..len])?;
                // Pages of zeros are closed up on.
                for from in (first..first + len).step_by(PAGE) {
                    let zero = is_zero(&self.buffer[from..][..PAGE]);
                    if !zero && from != self.len {
                        self.buffer.copy_within(from..from + PAGE, self.len);
                    }
                    self.page(zero);
                }
            }
            at = at
                .checked_add(len as u64)
                .ok_or(MemoryError::Absent { addr: at })?;
        }
        Ok(())
    }

    /// Takes the bytes that come next. They need not be whole pages.
    fn look(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        if self.begun > 0 {
            let (first, rest) = bytes.split_at(bytes.len().min(PAGE - self.begun));
            self.buffer[self.len + self.begun..][..first.len()].copy_from_slice(first);
            self.begun += first.len();
            bytes = rest;
            if self.begun == PAGE {
                self.begun = 0;
                let zero = is_zero(&self.buffer[self.len..][..PAGE]);
                self.page(zero);
            }
        }
        let (pages, rest) = bytes.as_chunks::<PAGE>();
        for page in pages {
            let zero = is_zero(page);
            if !zero {
                self.buffer[self.len..][..PAGE].copy_from_slice(page);
            }
            self.page(zero);
        }
        if !rest.is_empty() {
            self.buffer[self.len..][..rest.len()].copy_from_slice(rest);
            self.begun = rest.len();
        }
    }

    /// A page is whole: in the buffer, unless it is zero.
    fn page(&mut self, zero: bool) {
        if zero {
            self.runs.push(PageClass::Zero, 1);
        } else {
            self.len += PAGE;
            self.runs.push(PageClass::Data, 1);
        }
    }
}
