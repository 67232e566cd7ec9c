//! Which pages of saved memory hold something, which are zero, and which were free.

use std::ops::ControlFlow;
use std::sync::mpsc;
use std::thread;

use crate::{
    Memory, PAGE_SIZE, PageClass, PageMap, PageUse, PagesError, PhysAddr, PhysRange, RangeMap,
};

/// How much memory is looked at and handed out at once. No section of a map of pages is smaller on
/// x86_64, and no free block larger.
const CHUNK: u64 = 32 << 20;
/// How many chunks a thread may be ahead of what was handed out.
const AHEAD: usize = 4;

/// Tells the classes of all pages of saved memory.
///
/// Memory that [`Memory::contents`] calls [`PageClass::Free`] or [`PageClass::Zero`] is not read, nor is
/// what is free by the kernel's map of pages. A page that is both free and zero is free.
#[derive(Debug)]
pub struct Classifier<'a, 'm, M: Memory + ?Sized> {
    memory: &'m M,
    pages: Option<&'a PageMap<'m, M>>,
}

/// How much memory is of which class, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All of it.
    pub total: u64,
    /// [`PageClass::Data`].
    pub data: u64,
    /// [`PageClass::Zero`].
    pub zero: u64,
    /// [`PageClass::Free`].
    pub free: u64,
}

impl Counts {
    /// Counts the pages of `range`, as [`Classifier::for_each`] hands them out.
    pub fn add(&mut self, range: PhysRange, classes: &[PageClass]) {
        for_each_run(range, classes, |run, class| self.add_run(run, class));
    }

    /// Counts all of `range` as of `class`.
    pub fn add_run(&mut self, range: PhysRange, class: PageClass) {
        let len = range.len();
        self.total += len;
        *match class {
            PageClass::Data => &mut self.data,
            PageClass::Zero => &mut self.zero,
            PageClass::Free => &mut self.free,
        } += len;
    }
}

impl FromIterator<(PhysRange, PageClass)> for Counts {
    fn from_iter<I: IntoIterator<Item = (PhysRange, PageClass)>>(runs: I) -> Self {
        let mut counts = Self::default();
        for (range, class) in runs {
            counts.add_run(range, class);
        }
        counts
    }
}

impl<'a, 'm, M: Memory + Sync + ?Sized> Classifier<'a, 'm, M> {
    /// Tells the classes of `memory` with the help of its kernel's map of pages.
    #[must_use]
    pub fn new(memory: &'m M, pages: &'a PageMap<'m, M>) -> Self {
        Self {
            memory,
            pages: Some(pages),
        }
    }

    /// Tells only which pages are zero, and which `memory` itself says were free.
    #[must_use]
    pub fn without_pages(memory: &'m M) -> Self {
        Self {
            memory,
            pages: None,
        }
    }

    /// Hands the classes of all memory in `range`, or of all memory, to `each`, in ascending order until
    /// it breaks. It gets ranges of at most 32 MiB, and the class of each page in them; a range that
    /// begins or ends within a page has a class for that part of a page.
    ///
    /// `threads` threads do the work, this one if that is 0 or 1. What they need does not depend on the
    /// size of the machine.
    ///
    /// # Errors
    ///
    /// [`PagesError`] if memory cannot be read. What comes before it has been handed out then.
    pub fn for_each(
        &self,
        threads: usize,
        range: Option<PhysRange>,
        each: &mut dyn FnMut(PhysRange, &[PageClass]) -> ControlFlow<()>,
    ) -> Result<(), PagesError> {
        if threads <= 1 {
            let pages = self.pages.cloned();
            for chunk in self.chunks(range) {
                if each(chunk, &self.chunk(pages.as_ref(), chunk)?).is_break() {
                    break;
                }
            }
            return Ok(());
        }
        thread::scope(|scope| {
            let results: Vec<_> = (0..threads)
                .map(|nth| {
                    let (sender, receiver) = mpsc::sync_channel(AHEAD);
                    scope.spawn(move || {
                        let pages = self.pages.cloned();
                        for chunk in self.chunks(range).skip(nth).step_by(threads) {
                            let classes = self.chunk(pages.as_ref(), chunk);
                            let stop = classes.is_err();
                            // Nobody listens any more after an error or a break.
                            if sender.send((chunk, classes)).is_err() || stop {
                                break;
                            }
                        }
                    });
                    receiver
                })
                .collect();
            // Chunk n is the work of thread n % threads, so this is their order. The first thread that
            // has no more of them would have had the one behind the last.
            for receiver in results.iter().cycle() {
                let Ok((chunk, classes)) = receiver.recv() else {
                    break;
                };
                if each(chunk, &classes?).is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    /// The classes of all memory, by the work of `threads` threads. This takes room for each run of pages
    /// of one class.
    ///
    /// # Errors
    ///
    /// As [`for_each`](Self::for_each).
    pub fn classes(&self, threads: usize) -> Result<RangeMap<PageClass>, PagesError> {
        let mut map = RangeMap::new();
        self.for_each(threads, None, &mut |range, classes| {
            for_each_run(range, classes, |run, class| {
                let inserted = map.insert(run, class);
                debug_assert!(inserted.is_ok(), "chunks come in ascending order");
            });
            ControlFlow::Continue(())
        })?;
        Ok(map)
    }

    /// All memory in `range` as ranges that cross no border of a chunk.
    fn chunks(&self, range: Option<PhysRange>) -> impl Iterator<Item = PhysRange> {
        let all = range.or_else(|| PhysRange::new(0, u64::MAX));
        let mut entries = all
            .into_iter()
            .flat_map(|all| {
                self.memory
                    .contents()
                    .overlapping(all)
                    .filter_map(move |(entry, _)| entry.intersection(all))
            })
            .peekable();
        let mut left: Option<PhysRange> = None;
        std::iter::from_fn(move || {
            let first = match left.take() {
                Some(rest) => rest,
                None => entries.next()?,
            };
            let start = first.start().get();
            let border = first.start().align_down(CHUNK).get().saturating_add(CHUNK);
            let mut end = first.end().get();
            // Entries that touch are looked at together.
            while end < border
                && let Some(next) = entries.next_if(|next| next.start().get() == end)
            {
                end = next.end().get();
            }
            if end > border {
                left = PhysRange::new(border, end);
                end = border;
            }
            PhysRange::new(start, end)
        })
    }

    /// The class of each page of `chunk`.
    fn chunk(
        &self,
        pages: Option<&PageMap<'m, M>>,
        chunk: PhysRange,
    ) -> Result<Vec<PageClass>, PagesError> {
        let mut classes = vec![PageClass::Data; page_index(chunk, chunk.end().get() - 1) + 1];
        if let Some(pages) = pages {
            pages.uses(chunk, &mut |run, page_use| {
                if page_use == PageUse::Free {
                    set(&mut classes, chunk, run, PageClass::Free);
                }
            })?;
        }
        // Where a page is made of parts that the memory itself has of several classes, it is zero if all
        // parts are, and free if any part is: that part cannot be read.
        let mut zero = vec![true; classes.len()];
        let entries = |wanted| {
            self.memory
                .contents()
                .overlapping(chunk)
                .filter(move |(_, class)| **class == wanted)
                .filter_map(|(entry, _)| entry.intersection(chunk))
        };
        for entry in entries(PageClass::Free) {
            set(&mut classes, chunk, entry, PageClass::Free);
        }
        for entry in entries(PageClass::Data) {
            self.read_used(chunk, entry, &classes, &mut zero)?;
        }
        for (class, zero) in classes.iter_mut().zip(zero) {
            if *class == PageClass::Data && zero {
                *class = PageClass::Zero;
            }
        }
        Ok(classes)
    }

    /// Looks at the pages of `entry` that are not free, and tells those that are not zero.
    fn read_used(
        &self,
        chunk: PhysRange,
        entry: PhysRange,
        classes: &[PageClass],
        zero: &mut [bool],
    ) -> Result<(), PagesError> {
        let first = page_index(chunk, entry.start().get());
        let last = page_index(chunk, entry.end().get() - 1);
        let mut at = first;
        while at <= last {
            let same = classes[at..=last]
                .iter()
                .take_while(|class| **class == classes[at])
                .count();
            let run = page_run(chunk, at, at + same).and_then(|run| run.intersection(entry));
            if classes[at] != PageClass::Free
                && let Some(run) = run
            {
                let mut addr = run.start().get();
                self.memory.for_each_piece(run, &mut |piece| {
                    let mut piece = piece;
                    while !piece.is_empty() {
                        let in_page = PAGE_SIZE - addr % PAGE_SIZE;
                        let part = piece.len().min(in_page as usize);
                        let (page, rest) = piece.split_at(part);
                        if let Some(zero) = zero.get_mut(page_index(chunk, addr)) {
                            *zero = *zero && is_zero(page);
                        }
                        piece = rest;
                        addr = addr.saturating_add(part as u64);
                    }
                    ControlFlow::Continue(())
                })?;
            }
            at += same;
        }
        Ok(())
    }
}

/// Hands out neighbours of one class as one range.
pub fn for_each_run(
    range: PhysRange,
    classes: &[PageClass],
    mut each: impl FnMut(PhysRange, PageClass),
) {
    let mut at = 0;
    for same in classes.chunk_by(|a, b| a == b) {
        let run = page_run(range, at, at + same.len()).and_then(|run| run.intersection(range));
        if let (Some(run), Some(class)) = (run, same.first()) {
            each(run, *class);
        }
        at += same.len();
    }
}

/// Which page of `chunk` the address `addr` is in, from 0 on.
fn page_index(chunk: PhysRange, addr: u64) -> usize {
    let index = (addr / PAGE_SIZE).saturating_sub(chunk.start().get() / PAGE_SIZE);
    usize::try_from(index).unwrap_or(usize::MAX)
}

/// The pages of `chunk` from `first` up to but not including `end`.
fn page_run(chunk: PhysRange, first: usize, end: usize) -> Option<PhysRange> {
    let base = chunk.start().align_down(PAGE_SIZE);
    let addr = |index: usize| {
        let offset = (index as u64).saturating_mul(PAGE_SIZE);
        base.checked_add(offset).map_or(u64::MAX, PhysAddr::get)
    };
    PhysRange::new(addr(first), addr(end))
}

/// Gives all pages of `chunk` that `range` touches the class `class`.
fn set(classes: &mut [PageClass], chunk: PhysRange, range: PhysRange, class: PageClass) {
    let first = page_index(chunk, range.start().get());
    let last = page_index(chunk, range.end().get() - 1);
    if let Some(pages) = classes.get_mut(first..=last) {
        pages.fill(class);
    }
}

/// Whether all of `bytes` are zero.
///
/// Most pages that are not zero do not begin with zeros. Otherwise, 256 bytes are looked at without a
/// branch, in a form that the compiler makes vector instructions of.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    if bytes.iter().take(8).any(|byte| *byte != 0) {
        return false;
    }
    let (blocks, rest) = bytes.as_chunks::<256>();
    blocks.iter().all(|block| {
        let (words, _) = block.as_chunks::<8>();
        words
            .iter()
            .fold(0, |all, word| all | u64::from_ne_bytes(*word))
            == 0
    }) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests;
