//! Dump levels: which pages of a machine that crashed are of no interest.

use std::fmt;
use std::str::FromStr;

use crate::{Classes, Memory, PageClass, PageMap, PageUse, PagesError, RangeMap, Saved};

/// What is left out of a dump, as makedumpfile(8) counts it: the sum of 1 for pages of zeros, 2 for the
/// cache of files without what file systems know of it, 4 for all of that cache, 8 for memory of
/// processes, 16 for free pages.
///
/// ```
/// use vmcore::{DumpLevel, PageUse};
///
/// let level: DumpLevel = "25".parse()?;
/// assert!(level.leaves_out_zeros());
/// assert!(level.leaves_out(PageUse::Anonymous));
/// assert!(!level.leaves_out(PageUse::Cache));
/// assert!("32".parse::<DumpLevel>().is_err());
/// # Ok::<(), vmcore::DumpLevelError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DumpLevel(u8);

/// What is no dump level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no dump level: it is a sum of 1 (pages of zeros), 2 (cache), 4 (all cache), 8 (memory of processes) and 16 (free pages)"
)]
pub struct DumpLevelError(String);

impl FromStr for DumpLevel {
    type Err = DumpLevelError;

    fn from_str(text: &str) -> Result<Self, DumpLevelError> {
        text.parse()
            .ok()
            .filter(|level| *level <= Self::ALL.0)
            .map(Self)
            .ok_or_else(|| DumpLevelError(text.to_owned()))
    }
}

impl fmt::Display for DumpLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl DumpLevel {
    /// Nothing is left out.
    pub const NOTHING: Self = Self(0);

    /// Free pages are left out.
    pub const FREE: Self = Self(16);

    /// All that can be left out is.
    pub const ALL: Self = Self(31);

    /// Whether pages of zeros are left out.
    #[must_use]
    pub fn leaves_out_zeros(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether pages are left out that were used for this.
    #[must_use]
    pub fn leaves_out(self, page_use: PageUse) -> bool {
        let bits = match page_use {
            PageUse::Cache => 2 | 4,
            PageUse::CachePrivate => 4,
            PageUse::Anonymous | PageUse::Hugetlb => 8,
            PageUse::Free => 16,
            PageUse::Slab | PageUse::Offline | PageUse::Poisoned | PageUse::Other => 0,
        };
        self.0 & bits != 0
    }
}

impl<M: Memory + Sync> Saved<M> {
    /// What of this machine, whose classes these are, a dump of `level` holds: all that the level leaves
    /// out is [`PageClass::Free`] in what is returned. It is for looking at, not for going on.
    ///
    /// If the machine's map of pages cannot be read, nothing is left out but pages of zeros, and
    /// [`Classes::unknown`] tells why.
    ///
    /// # Errors
    ///
    /// [`PagesError`] if the memory cannot be read.
    pub fn filtered(&self, classes: Classes, level: DumpLevel) -> Result<Classes, PagesError> {
        let mut seen = classes.seen.filter_map(|class| {
            Some(match class {
                PageClass::Zero if !level.leaves_out_zeros() => PageClass::Data,
                PageClass::Free if !level.leaves_out(PageUse::Free) => PageClass::Data,
                class => *class,
            })
        });
        let (Ok(view), Some(info), None) = (self.seen(), self.info(), &classes.unknown) else {
            return Ok(Classes { seen, ..classes });
        };
        let pages = PageMap::open(&view, info)?;
        let mut left_out: Vec<_> = Vec::new();
        for range in view.contents().ranges() {
            pages.uses(range, &mut |run, page_use| {
                if page_use != PageUse::Free && level.leaves_out(page_use) {
                    left_out.push(run);
                }
            })?;
        }
        let left_out = RangeMap::from_unsorted(
            left_out
                .into_iter()
                .map(|run| (run, PageClass::Free))
                .collect(),
        )
        .unwrap_or_default();
        seen = merged(&seen, &left_out);
        Ok(Classes { seen, ..classes })
    }
}

/// `map`, with what `over` has in its place.
fn merged(map: &RangeMap<PageClass>, over: &RangeMap<PageClass>) -> RangeMap<PageClass> {
    let rest = map.without(over);
    let entries = rest.iter().chain(over.iter());
    let entries = entries.map(|(range, class)| (range, *class)).collect();
    RangeMap::from_unsorted(entries).unwrap_or_else(|_| map.clone())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fake_machine::{Machine, RAM, blocks, kinds};
    use crate::{PAGE_SIZE, PhysAddr};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4))]

        #[test]
        fn each_page_is_left_out_by_its_use(kind in kinds(), blocks in blocks(), level in 0..32_u8) {
            let machine = Machine::new(kind, &blocks);
            let pages = PageMap::open(&machine.memory, &machine.info).unwrap();
            let info = Some(machine.info.clone());
            let saved = Saved::new(&machine.memory, Vec::new(), None, None, info, None);
            let level = DumpLevel(level);
            let classes = saved.filtered(saved.classify(1).unwrap(), level).unwrap();
            prop_assert!(classes.unknown.is_none());
            let all = RAM.iter().flat_map(|(start, end)| start / PAGE_SIZE..end / PAGE_SIZE);
            for pfn in all {
                let addr = PhysAddr::new(pfn * PAGE_SIZE);
                let found = classes.seen.get(addr).map(|(_, class)| *class);
                let page_use = pages.use_of(addr).unwrap();
                let expected = match (machine.class(pfn), page_use) {
                    (PageClass::Free, _) if level.0 & 16 != 0 => PageClass::Free,
                    (PageClass::Free, _) => PageClass::Data,
                    (_, page_use) if page_use != PageUse::Free && level.leaves_out(page_use) => {
                        PageClass::Free
                    }
                    (PageClass::Zero, _) if level.0 & 1 != 0 => PageClass::Zero,
                    _ => PageClass::Data,
                };
                prop_assert_eq!(found, Some(expected), "page {:#x}, {:?}", pfn, page_use);
            }
        }
    }

    /// The table of makedumpfile(8).
    #[test]
    fn levels_leave_out_what_the_manual_says() {
        let uses = [
            PageUse::Cache,
            PageUse::CachePrivate,
            PageUse::Anonymous,
            PageUse::Free,
        ];
        for (level, zero, left_out) in [
            (0, false, [false, false, false, false]),
            (1, true, [false; 4]),
            (2, false, [true, false, false, false]),
            (4, false, [true, true, false, false]),
            (8, false, [false, false, true, false]),
            (16, false, [false, false, false, true]),
            (31, true, [true; 4]),
        ] {
            let level = DumpLevel(level);
            assert_eq!(level.leaves_out_zeros(), zero, "{level}");
            assert_eq!(uses.map(|page| level.leaves_out(page)), left_out, "{level}");
            assert!(!level.leaves_out(PageUse::Slab) && !level.leaves_out(PageUse::Other));
        }
        for wrong in ["", "-1", "32", "0x1", "all"] {
            assert!(wrong.parse::<DumpLevel>().is_err(), "{wrong}");
        }
    }
}
