//! Where the window of a machine lies after it jumped.
//!
//! A kernel that jumps *swaps* the pages of what it loads with pages that it took for that elsewhere
//! (`swap_pages` in `arch/x86/kernel/relocate_kernel_64.S`). It goes by a list of words, which stays in
//! its memory (`kimage_add_entry` in `kernel/kexec_core.c`, flags in `include/linux/kexec.h`): an address,
//! and in its low bits what it is: where pages go from here on, the next page of the list, a page that
//! goes there, the end.

use std::collections::HashSet;

use crate::{Memory, MemoryError, PAGE_SIZE, PageClass, PhysAddr, PhysRange, RangeMap};

/// How far away the bytes of an address lie, modulo 2^64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shift(u64);

impl Shift {
    fn between(from: PhysAddr, to: PhysAddr) -> Self {
        Self(to.get().wrapping_sub(from.get()))
    }

    /// Where `range` lies when it is shifted. All shifts come from pairs of pages that exist.
    fn apply(self, range: PhysRange) -> Option<PhysRange> {
        let start = range.start().get().wrapping_add(self.0);
        PhysRange::from_len(PhysAddr::new(start), range.len())
    }
}

/// Which pages of a machine changed places when it jumped.
///
/// There are two ways to look at the memory of a machine that jumped. *Raw* is where bytes lie now: what
/// has to be saved and restored. *As seen* is where they lay for the machine itself: what its own
/// pointers mean. The window is what differs; [`View`] turns one into the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swap {
    /// For the addresses of the window, where their bytes are now.
    away: RangeMap<Shift>,
    /// For where those bytes are now, the addresses that they belong to.
    home: RangeMap<Shift>,
}

/// Why the pages that changed places are not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwapError {
    /// The memory cannot be read.
    #[error("cannot read the page that the machine jumped from")]
    Memory(#[from] MemoryError),
    /// Nothing in the page of the jump-back entry leads to a list that makes sense.
    #[error(
        "no list of swapped pages starts in the page of the jump-back entry {entry} that has all of the window: this kernel keeps it elsewhere, or the memory is damaged"
    )]
    NoList {
        /// The jump-back entry.
        entry: PhysAddr,
    },
}

// What a word of the list is.
const DESTINATION: u64 = 1;
const INDIRECTION: u64 = 2;
const DONE: u64 = 4;
const SOURCE: u64 = 8;
const FLAGS: u64 = PAGE_SIZE - 1;

impl Swap {
    /// Finds the list in `memory`, which is raw: in the page of the jump-back entry, where every kernel
    /// keeps the list's head, but not all at the same place. So each word of that page is tried, and
    /// taken if what it leads to is a list that swaps all of `window` and `low`, the memory that the
    /// machine gave away, with as many other pages, and ends.
    ///
    /// # Errors
    ///
    /// [`SwapError`] if there is none, or if the page was not saved.
    pub fn find(
        memory: &(impl Memory + ?Sized),
        jump_back: PhysAddr,
        window: PhysRange,
        low: &RangeMap<()>,
    ) -> Result<Self, SwapError> {
        let mut given = low.clone();
        given.replace(window, ());
        let page = read_words(memory, jump_back.align_down(PAGE_SIZE))?;
        page.into_iter()
            .filter(|head| head & FLAGS == INDIRECTION)
            .find_map(|head| Self::follow(memory, head, &given))
            .ok_or(SwapError::NoList { entry: jump_back })
    }

    /// Follows the list that begins with the word `head`; `None` if it is not one that swaps `given`.
    fn follow(memory: &(impl Memory + ?Sized), head: u64, given: &RangeMap<()>) -> Option<Self> {
        let mut pairs: Vec<(PhysAddr, PhysAddr)> = Vec::new();
        // No page is taken twice. So there are no more pairs than the memory has different words, however
        // large the window is said to be and wherever the list leads.
        let mut taken = HashSet::new();
        // Each page of the list has at least one pair, but for the last; the head has none.
        let mut pairs_before = None;
        let mut destination = None;
        let mut words = vec![head].into_iter();
        loop {
            let word = words.next()?;
            let at = PhysAddr::new(word & !FLAGS);
            match word & FLAGS {
                DESTINATION => destination = Some(at),
                INDIRECTION => {
                    if pairs_before == Some(pairs.len()) {
                        return None;
                    }
                    pairs_before = Some(pairs.len());
                    words = read_words(memory, at).ok()?.into_iter();
                }
                SOURCE => {
                    let to = destination?;
                    if given.get(to).is_none() || !taken.insert(at) {
                        return None;
                    }
                    pairs.push((to, at));
                    destination = Some(to.checked_add(PAGE_SIZE)?);
                }
                DONE => break,
                _ => return None,
            }
        }
        let swap = Self::from_pairs(pairs, given)?;
        (swap.away.filter_map(|_| Some(())) == *given).then_some(swap)
    }

    /// The swap of these pairs of pages, of which the first is in `given` and the second is not, or is
    /// the same; `None` if a page is in two pairs.
    fn from_pairs(pairs: Vec<(PhysAddr, PhysAddr)>, given: &RangeMap<()>) -> Option<Self> {
        let page = |at| PhysRange::from_len(at, PAGE_SIZE);
        let mut away = Vec::with_capacity(pairs.len());
        let mut home = Vec::with_capacity(pairs.len());
        for (to, from) in pairs {
            // A page that was taken where it belongs changes places with itself.
            if to != from && given.get(from).is_some() {
                return None;
            }
            away.push((page(to)?, Shift::between(to, from)));
            home.push((page(from)?, Shift::between(from, to)));
        }
        Some(Self {
            away: RangeMap::from_unsorted(away).ok()?,
            home: RangeMap::from_unsorted(home).ok()?,
        })
    }

    /// The memory that the machine gave away: the window, and low memory.
    pub fn given(&self) -> impl Iterator<Item = PhysRange> {
        self.away.ranges()
    }

    /// Where the contents of [`given`](Self::given) wait.
    pub fn taken(&self) -> impl Iterator<Item = PhysRange> {
        self.home.ranges()
    }

    /// What is said of raw memory, said of memory as the machine saw it. The pages in which the window
    /// waits are not there: what they held for the machine was what it had loaded.
    #[must_use]
    pub fn seen<C: Clone + PartialEq>(&self, raw: &RangeMap<C>) -> RangeMap<C> {
        self.moved(raw, &self.away)
    }

    /// What is said of memory as the machine saw it, said of where its bytes are now.
    #[must_use]
    pub fn raw<C: Clone + PartialEq>(&self, seen: &RangeMap<C>) -> RangeMap<C> {
        self.moved(seen, &self.home)
    }

    fn moved<C: Clone + PartialEq>(
        &self,
        map: &RangeMap<C>,
        shifts: &RangeMap<Shift>,
    ) -> RangeMap<C> {
        let stays = map.without(&self.away).without(&self.home);
        let mut entries: Vec<(PhysRange, C)> = Vec::new();
        for (range, shift) in shifts.iter() {
            let Some(bytes) = shift.apply(range) else {
                continue;
            };
            let back = Shift(shift.0.wrapping_neg());
            for (part, class) in map.overlapping(bytes) {
                let place = part.intersection(bytes).and_then(|part| back.apply(part));
                entries.extend(place.map(|place| (place, class.clone())));
            }
        }
        entries.extend(stays.iter().map(|(range, class)| (range, class.clone())));
        // Pages are in one pair each, so nothing comes to lie where something else is.
        RangeMap::from_unsorted(entries).unwrap_or_default()
    }
}

/// Reads a page of words.
fn read_words(memory: &(impl Memory + ?Sized), at: PhysAddr) -> Result<Vec<u64>, MemoryError> {
    let mut page = vec![0; PAGE_SIZE as usize];
    memory.read(at, &mut page)?;
    let words = page.chunks_exact(8);
    Ok(words
        .map(|word| {
            word.iter()
                .rev()
                .fold(0, |value, byte| value << 8 | u64::from(*byte))
        })
        .collect())
}

/// The memory of a machine that jumped, seen the other way.
#[derive(Clone, Debug)]
pub struct View<M> {
    memory: M,
    shifts: RangeMap<Shift>,
    contents: RangeMap<PageClass>,
}

impl<M: Memory> View<M> {
    /// Raw memory as the machine itself saw it.
    pub fn seen(memory: M, swap: &Swap) -> Self {
        Self {
            shifts: swap.away.clone(),
            contents: swap.seen(memory.contents()),
            memory,
        }
    }

    /// Memory as the machine saw it, where its bytes are now.
    pub fn raw(memory: M, swap: &Swap) -> Self {
        Self {
            shifts: swap.home.clone(),
            contents: swap.raw(memory.contents()),
            memory,
        }
    }

    /// Memory that is looked at as it is: nothing was swapped.
    pub fn plain(memory: M) -> Self {
        Self {
            shifts: RangeMap::new(),
            contents: memory.contents().clone(),
            memory,
        }
    }

    /// What this is a view of.
    pub fn inner(&self) -> &M {
        &self.memory
    }

    /// The first part of `range`, and where its bytes lie in the underlying memory.
    fn locate(&self, range: PhysRange) -> Result<(PhysRange, PhysRange), MemoryError> {
        let addr = range.start();
        let absent = MemoryError::Absent { addr };
        let here = match self.contents.get(addr) {
            Some((here, PageClass::Data | PageClass::Zero)) => here,
            Some((_, PageClass::Free)) | None => return Err(absent),
        };
        let (end, shift) = match self.shifts.overlapping(range).next() {
            Some((entry, shift)) if entry.contains(addr) => (entry.end(), *shift),
            Some((entry, _)) => (entry.start(), Shift(0)),
            None => (range.end(), Shift(0)),
        };
        let end = end.min(range.end()).min(here.end());
        PhysRange::new(addr.get(), end.get())
            .and_then(|part| Some((part, shift.apply(part)?)))
            .ok_or(absent)
    }
}

impl<M: Memory> Memory for View<M> {
    fn contents(&self) -> &RangeMap<PageClass> {
        &self.contents
    }

    fn read(&self, addr: PhysAddr, buf: &mut [u8]) -> Result<(), MemoryError> {
        let mut left = PhysRange::from_len(addr, buf.len() as u64);
        if left.is_none() && !buf.is_empty() {
            return Err(MemoryError::Absent { addr });
        }
        let mut rest = buf;
        while let Some(range) = left {
            let (part, bytes) = self.locate(range)?;
            let (now, later) = rest.split_at_mut(part.len() as usize);
            self.memory.read(bytes.start(), now)?;
            rest = later;
            left = PhysRange::new(part.end().get(), range.end().get());
        }
        Ok(())
    }

    fn is_mapped(&self) -> bool {
        self.memory.is_mapped()
    }

    fn for_each_piece(
        &self,
        range: PhysRange,
        each: &mut dyn FnMut(&[u8]) -> std::ops::ControlFlow<()>,
    ) -> Result<(), MemoryError> {
        let mut left = Some(range);
        let mut broken = false;
        while let Some(range) = left.filter(|_| !broken) {
            let (part, bytes) = self.locate(range)?;
            self.memory.for_each_piece(bytes, &mut |piece| {
                let flow = each(piece);
                broken = flow.is_break();
                flow
            })?;
            left = PhysRange::new(part.end().get(), range.end().get());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
