//! A survey of memory that is to be saved: what is known of its pages before they are looked at.
//!
//! It goes through memory once, in ascending order, and hands out parts that are written as they come. So
//! what it needs does not grow with the machine.

use std::collections::VecDeque;

use crate::{
    Memory, PAGE_SIZE, PageClass, PageMap, PageUse, PagesError, PhysAddr, PhysRange, RangeMap, Swap,
};

/// What is known of a page before it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// Nothing: it has to be read.
    Nothing,
    /// That it is zero.
    Zero,
    /// That it is not needed, although it could be read.
    Free,
    /// That it was left out of the source because it was free.
    LeftOut,
}

/// Memory that is looked at together, in runs of which the same is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    start: PhysAddr,
    runs: Vec<(Known, u64)>,
}

impl Part {
    /// Where it begins.
    pub(crate) fn start(&self) -> PhysAddr {
        self.start
    }

    /// Its memory in ascending order, and what is known of it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (PhysRange, Known)> {
        let mut at = self.start;
        self.runs.iter().filter_map(move |(known, pages)| {
            let range = PhysRange::from_len(at, pages * PAGE_SIZE)?;
            at = range.end();
            Some((range, *known))
        })
    }
}

/// The most pages of a part that have to be read, and the most runs.
const PART_PAGES: u64 = 256;
const PART_RUNS: usize = 400;

/// How much memory is asked about at once: no section of a map of pages is smaller on x86_64, and no
/// free block larger.
const STEP: u64 = 32 << 20;

/// Tells what pages of the machine's memory need not be saved; by its map of pages, most often.
pub(crate) trait Unneeded: Send {
    /// Hands ranges of raw memory in `range` that need not be saved to `each`.
    fn in_range(
        &mut self,
        range: PhysRange,
        each: &mut dyn FnMut(PhysRange),
    ) -> Result<(), PagesError>;
}

/// Goes through memory.
pub(crate) struct Survey<'a> {
    /// The memory that is to be saved.
    all: &'a RangeMap<()>,
    /// Which of it is there.
    contents: &'a RangeMap<PageClass>,
    unneeded: Option<Box<dyn Unneeded + 'a>>,
    /// Steps that are still to come, in descending order.
    steps: Vec<PhysRange>,
    /// Runs that were not handed out yet; those of one step.
    runs: VecDeque<(Known, u64)>,
    /// Where these begin.
    at: PhysAddr,
}

impl<'a> Survey<'a> {
    /// A survey of `all`, of which `contents` is there, without what is `unneeded`.
    pub(crate) fn new(
        all: &'a RangeMap<()>,
        contents: &'a RangeMap<PageClass>,
        unneeded: Option<Box<dyn Unneeded + 'a>>,
    ) -> Self {
        let mut steps: Vec<PhysRange> = all.ranges().collect();
        steps.reverse();
        Self {
            all,
            contents,
            unneeded,
            steps,
            runs: VecDeque::new(),
            at: PhysAddr::new(0),
        }
    }

    /// How many bytes it is about.
    pub(crate) fn total(&self) -> u64 {
        self.all.bytes()
    }

    /// The next part.
    pub(crate) fn next_part(&mut self) -> Result<Option<Part>, PagesError> {
        while self.runs.is_empty() {
            let Some(range) = self.steps.pop() else {
                return Ok(None);
            };
            let border = range.start().align_down(STEP).checked_add(STEP);
            let end = border.map_or(range.end(), |border| border.min(range.end()));
            self.steps
                .extend(PhysRange::new(end.get(), range.end().get()));
            if let Some(step) = PhysRange::new(range.start().get(), end.get()) {
                self.step(step)?;
            }
        }
        let start = self.at;
        let mut runs = Vec::new();
        let mut to_read = 0;
        while let Some((known, pages)) = self.runs.pop_front() {
            let room = match known {
                Known::Nothing => pages.min(PART_PAGES - to_read),
                _ => pages,
            };
            if room == 0 || runs.len() == PART_RUNS {
                self.runs.push_front((known, pages));
                break;
            }
            runs.push((known, room));
            if known == Known::Nothing {
                to_read += room;
            }
            // No overflow: within the step.
            self.at = self.at.checked_add(room * PAGE_SIZE).unwrap_or(self.at);
            if room < pages {
                self.runs.push_front((known, pages - room));
                break;
            }
        }
        Ok(Some(Part { start, runs }))
    }

    /// Finds out what is known of the pages of `step`.
    fn step(&mut self, step: PhysRange) -> Result<(), PagesError> {
        let mut known = vec![Known::LeftOut; (step.len() / PAGE_SIZE) as usize];
        let mut set = |range: PhysRange, what: Known| {
            let Some(range) = range.intersection(step) else {
                return;
            };
            let page = |addr: u64| ((addr - step.start().get()) / PAGE_SIZE) as usize;
            let first = page(range.start().get().next_multiple_of(PAGE_SIZE));
            let end = page(range.end().get());
            if let Some(pages) = known.get_mut(first..end) {
                pages.fill(what);
            }
        };
        let mut torn = Vec::new();
        for (range, class) in self.contents.overlapping(step) {
            match class {
                PageClass::Data => set(range, Known::Nothing),
                PageClass::Zero => set(range, Known::Zero),
                PageClass::Free => {}
            }
            let ends = [range.start(), range.end()];
            torn.extend(ends.into_iter().filter(|end| !end.is_aligned(PAGE_SIZE)));
        }
        for at in torn {
            // A page of several parts can be read if all are there.
            let page = PhysRange::from_len(at.align_down(PAGE_SIZE), PAGE_SIZE);
            if let Some(page) = page
                && self.contents.covers(page)
                && self
                    .contents
                    .overlapping(page)
                    .all(|(_, class)| *class != PageClass::Free)
            {
                set(page, Known::Nothing);
            }
        }
        if let Some(unneeded) = &mut self.unneeded {
            unneeded.in_range(step, &mut |range| {
                let Some(range) = range.intersection(step) else {
                    return;
                };
                let page = |addr: u64| ((addr - step.start().get()) / PAGE_SIZE) as usize;
                let pages = known.get_mut(page(range.start().get())..page(range.end().get()));
                for page in pages.into_iter().flatten() {
                    if matches!(*page, Known::Nothing | Known::Zero) {
                        *page = Known::Free;
                    }
                }
            })?;
        }
        self.at = step.start();
        let runs = known.chunk_by(|a, b| a == b);
        self.runs
            .extend(runs.filter_map(|run| Some((*run.first()?, run.len() as u64))));
        Ok(())
    }
}

/// What a machine's own map of pages says that it does not need.
pub(crate) struct ByPageMap<'m, M: Memory + ?Sized, F> {
    pages: PageMap<'m, M>,
    needless: F,
    /// Of the memory in which the window waits, what is not needed.
    taken: RangeMap<()>,
    /// All of that memory.
    home: RangeMap<()>,
}

impl<'m, M: Memory + ?Sized, F: Fn(PageUse) -> bool> ByPageMap<'m, M, F> {
    /// By `pages`, of a machine whose memory changed places by `swap`, if it did. Pages of a use for which
    /// `needless` is true are not needed.
    pub(crate) fn new(
        pages: PageMap<'m, M>,
        swap: Option<&Swap>,
        needless: F,
    ) -> Result<Self, PagesError> {
        let (mut taken, mut home) = (RangeMap::new(), RangeMap::new());
        if let Some(swap) = swap {
            let mut seen = RangeMap::new();
            for range in swap.given() {
                pages.uses(range, &mut |run, page_use| {
                    if needless(page_use) {
                        seen.replace(run, ());
                    }
                })?;
            }
            taken = swap.raw(&seen);
            let runs = swap.taken().map(|range| (range, ())).collect();
            home = RangeMap::from_unsorted(runs).unwrap_or_default();
        }
        Ok(Self {
            pages,
            needless,
            taken,
            home,
        })
    }
}

impl<M: Memory + Sync + ?Sized, F: Fn(PageUse) -> bool + Send> Unneeded for ByPageMap<'_, M, F> {
    fn in_range(
        &mut self,
        range: PhysRange,
        each: &mut dyn FnMut(PhysRange),
    ) -> Result<(), PagesError> {
        // What the machine saw at these addresses was what it had loaded.
        let mut stays = RangeMap::new();
        stays.replace(range, ());
        for part in stays.without(&self.home).ranges() {
            self.pages.uses(part, &mut |run, page_use| {
                if (self.needless)(page_use) {
                    each(run);
                }
            })?;
        }
        for (taken, ()) in self.taken.overlapping(range) {
            each(taken);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGES: u64 = 20_000;

    fn pages(first: u64, count: u64) -> Option<PhysRange> {
        PhysRange::new(first * PAGE_SIZE, (first + count) * PAGE_SIZE)
    }

    fn map<C: Clone + PartialEq>(runs: &[(u64, u64, C)]) -> RangeMap<C> {
        let mut map = RangeMap::new();
        for (first, count, class) in runs {
            if let Some(range) = pages(*first, *count) {
                map.replace(range, class.clone());
            }
        }
        map
    }

    struct These(RangeMap<()>);

    impl Unneeded for These {
        fn in_range(
            &mut self,
            range: PhysRange,
            each: &mut dyn FnMut(PhysRange),
        ) -> Result<(), PagesError> {
            for (free, ()) in self.0.overlapping(range) {
                each(free);
            }
            Ok(())
        }
    }

    fn class() -> impl Strategy<Value = PageClass> {
        prop_oneof![
            Just(PageClass::Data),
            Just(PageClass::Zero),
            Just(PageClass::Free)
        ]
    }

    fn runs<C: std::fmt::Debug>(
        class: impl Strategy<Value = C>,
    ) -> impl Strategy<Value = Vec<(u64, u64, C)>> {
        prop::collection::vec((0..PAGES, 0..PAGES / 3, class), 0..12)
    }

    proptest! {
        /// Each page is handed out once, in order, with what is known of it, in parts that are not too large.
        #[test]
        fn parts_are_all_of_memory(
            all in runs(Just(())),
            contents in runs(class()),
            free in runs(Just(())),
            odd in 0..PAGE_SIZE,
        ) {
            let (all, mut contents, free) = (map(&all), map(&contents), map(&free));
            // A page of which a part was not saved cannot be read.
            let torn = pages(77, 1).unwrap();
            if odd > 0 {
                contents.remove(PhysRange::from_len(torn.start(), odd).unwrap());
            }
            let mut survey = Survey::new(&all, &contents, Some(Box::new(These(free.clone()))));
            prop_assert_eq!(survey.total(), all.bytes());
            let mut seen = RangeMap::new();
            let mut last = PhysAddr::new(0);
            while let Some(part) = survey.next_part().unwrap() {
                prop_assert!(part.start() >= last);
                let read = part.runs.iter().filter(|(known, _)| *known == Known::Nothing);
                prop_assert!(read.map(|(_, pages)| pages).sum::<u64>() <= PART_PAGES);
                prop_assert!(part.runs.len() <= PART_RUNS && !part.runs.is_empty());
                for (range, known) in part.iter() {
                    prop_assert!(seen.insert(range, known).is_ok());
                    last = range.end();
                }
            }
            prop_assert!(all.ranges().all(|range| seen.covers(range)));
            prop_assert_eq!(seen.bytes(), all.bytes());
            for page in 0..PAGES * 4 / 3 {
                let page = pages(page, 1).unwrap();
                if !all.covers(page) {
                    continue;
                }
                let known = seen.get(page.start()).map(|(_, known)| *known);
                let class = contents.get(page.start()).map(|(_, class)| *class);
                let there = contents.covers(page);
                let expected = match class {
                    Some(PageClass::Data | PageClass::Zero) if there && free.covers(page) => Known::Free,
                    Some(PageClass::Data) if there => Known::Nothing,
                    Some(PageClass::Zero) if there => Known::Zero,
                    _ => Known::LeftOut,
                };
                prop_assert_eq!(known, Some(expected), "{}", page);
            }
        }
    }
}
