//! The one model of memory: an ordered list of physical ranges that do not overlap, each with a class.

use crate::{PhysAddr, PhysRange};

/// An ordered list of non-overlapping physical ranges, each with a class `C`.
///
/// Every view of a machine's memory is one of these: a firmware map (class: the kind of memory), the
/// contents of a core (class: where the bytes lie in the file), a plan (class: what to do with them).
/// Neighbours of equal class are one entry, so two maps that mean the same compare equal.
///
/// ```
/// use vmcore::{PhysRange, RangeMap};
///
/// let range = |start, end| PhysRange::new(start, end).unwrap();
/// let mut map = RangeMap::new();
/// map.insert(range(0x4000, 0x6000), "ram")?;
/// map.insert(range(0x1000, 0x2000), "ram")?;
/// map.insert(range(0x2000, 0x4000), "ram")?;
/// assert_eq!(map.iter().collect::<Vec<_>>(), [(range(0x1000, 0x6000), &"ram")]);
///
/// map.remove(range(0x3000, 0x4000));
/// assert_eq!(map.bytes(), 0x4000);
/// assert!(map.insert(range(0x0, 0x1001), "rom").is_err());
/// # Ok::<(), vmcore::Overlap>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeMap<C> {
    entries: Vec<(PhysRange, C)>,
}

/// Two ranges claim the same memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("memory range {new} overlaps {present}")]
pub struct Overlap {
    /// The range that was to be inserted.
    pub new: PhysRange,
    /// The range that was there before.
    pub present: PhysRange,
}

impl<C> Default for RangeMap<C> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
        }
    }
}

impl<C> RangeMap<C> {
    /// A map of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The ranges in ascending order.
    #[must_use]
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (PhysRange, &C)> + ExactSizeIterator {
        self.entries.iter().map(|(range, class)| (*range, class))
    }

    /// The ranges in ascending order, without their classes.
    #[must_use]
    pub fn ranges(&self) -> impl DoubleEndedIterator<Item = PhysRange> + ExactSizeIterator {
        self.entries.iter().map(|(range, _)| *range)
    }

    /// How many ranges there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the map is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many bytes all ranges have together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        // Ranges do not overlap, so their sum fits into the address space.
        self.ranges().map(PhysRange::len).sum()
    }

    /// Index of the first entry that ends above `addr`.
    fn first_ending_above(&self, addr: PhysAddr) -> usize {
        self.entries
            .partition_point(|(range, _)| range.end() <= addr)
    }

    /// The ranges that share an address with `range`, in ascending order.
    pub fn overlapping(
        &self,
        range: PhysRange,
    ) -> impl Iterator<Item = (PhysRange, &C)> + use<'_, C> {
        self.entries[self.first_ending_above(range.start())..]
            .iter()
            .take_while(move |(entry, _)| entry.start() < range.end())
            .map(|(entry, class)| (*entry, class))
    }

    /// The range that holds `addr`.
    #[must_use]
    pub fn get(&self, addr: PhysAddr) -> Option<(PhysRange, &C)> {
        let (range, class) = self.entries.get(self.first_ending_above(addr))?;
        range.contains(addr).then_some((*range, class))
    }

    /// Whether every address of `range` lies in some range of the map, whatever their classes.
    #[must_use]
    pub fn covers(&self, range: PhysRange) -> bool {
        let mut reached = range.start();
        for (entry, _) in self.overlapping(range) {
            if entry.start() > reached {
                return false;
            }
            reached = entry.end();
        }
        reached >= range.end()
    }
}

impl<C: Clone + PartialEq> RangeMap<C> {
    /// Adds `range` with `class`; it becomes one with neighbours of the same class.
    ///
    /// # Errors
    ///
    /// [`Overlap`] if some address of `range` is in the map already; the map is then unchanged.
    pub fn insert(&mut self, range: PhysRange, class: C) -> Result<(), Overlap> {
        let at = self.first_ending_above(range.start());
        if let Some((present, _)) = self.entries.get(at)
            && present.overlaps(range)
        {
            return Err(Overlap {
                new: range,
                present: *present,
            });
        }
        self.entries.insert(at, (range, class));
        self.join(at);
        if at > 0 {
            self.join(at - 1);
        }
        Ok(())
    }

    /// A map of these ranges, in whatever order they are.
    ///
    /// # Errors
    ///
    /// [`Overlap`] if two of them share an address.
    pub fn from_unsorted(mut entries: Vec<(PhysRange, C)>) -> Result<Self, Overlap> {
        entries.sort_unstable_by_key(|(range, _)| *range);
        let mut map = Self::new();
        for (range, class) in entries {
            map.insert(range, class)?;
        }
        Ok(map)
    }

    /// The map without the addresses that `others` has, in one pass over both.
    #[must_use]
    pub fn without<D>(&self, others: &RangeMap<D>) -> Self {
        let mut left = Self::new();
        let mut others = others.ranges().peekable();
        for (range, class) in &self.entries {
            let mut at = range.start().get();
            while let Some(other) = others.next_if(|other| other.end() <= range.end()) {
                let gap = PhysRange::new(at, other.start().get());
                left.entries.extend(gap.map(|gap| (gap, class.clone())));
                at = at.max(other.end().get());
            }
            // What reaches beyond the range is still there for the next one.
            let end = others.peek().map_or(range.end(), |other| {
                range.end().min(other.start().max(range.start()))
            });
            let rest = PhysRange::new(at, end.get());
            left.entries.extend(rest.map(|rest| (rest, class.clone())));
        }
        left
    }

    /// Takes `range` out of the map; ranges that lie in it partly are cut.
    pub fn remove(&mut self, range: PhysRange) {
        let first = self.first_ending_above(range.start());
        let count = self.overlapping(range).count();
        let mut left = Vec::with_capacity(2);
        for (entry, class) in &self.entries[first..first + count] {
            let below = PhysRange::new(entry.start().get(), range.start().get());
            let above = PhysRange::new(range.end().get(), entry.end().get());
            for part in [below, above].into_iter().flatten() {
                left.push((part, class.clone()));
            }
        }
        self.entries.splice(first..first + count, left);
    }

    /// Gives `range` the class `class`, whatever its addresses had before.
    pub fn replace(&mut self, range: PhysRange, class: C) {
        self.remove(range);
        let inserted = self.insert(range, class);
        debug_assert!(inserted.is_ok(), "the range was just removed");
    }

    /// The ranges whose class satisfies `keep`, with the class that `keep` gives them. Overlap cannot
    /// arise, since the ranges stay as they are; neighbours that now are of one class become one.
    pub fn filter_map<D: Clone + PartialEq>(
        &self,
        mut keep: impl FnMut(&C) -> Option<D>,
    ) -> RangeMap<D> {
        let mut entries: Vec<(PhysRange, D)> = Vec::new();
        for (range, class) in &self.entries {
            let Some(class) = keep(class) else { continue };
            match entries.last_mut() {
                Some((last, last_class)) if last.end() == range.start() && *last_class == class => {
                    *last = hull(*last, *range);
                }
                _ => entries.push((*range, class)),
            }
        }
        RangeMap { entries }
    }

    /// The whole pages of `align` bytes in each range, without ranges that hold none.
    ///
    /// # Panics
    ///
    /// If `align` is not a power of two.
    #[must_use]
    pub fn shrink_to(&self, align: u64) -> Self {
        let mut shrunk = Self::new();
        for (range, class) in &self.entries {
            if let Some(range) = range.shrink_to(align) {
                shrunk.entries.push((range, class.clone()));
            }
        }
        shrunk
    }

    /// Makes the entries `at` and `at + 1` one if they touch and are of one class.
    fn join(&mut self, at: usize) {
        let Some([(low, low_class), (high, high_class)]) = self.entries.get(at..at + 2) else {
            return;
        };
        if low.end() == high.start() && low_class == high_class {
            self.entries[at].0 = hull(*low, *high);
            self.entries.remove(at + 1);
        }
    }
}

/// The range from the start of `low` to the end of `high`, which follows it.
fn hull(low: PhysRange, high: PhysRange) -> PhysRange {
    PhysRange::new(low.start().get(), high.end().get()).unwrap_or(low)
}

impl<'a, C> IntoIterator for &'a RangeMap<C> {
    type Item = &'a (PhysRange, C);
    type IntoIter = std::slice::Iter<'a, (PhysRange, C)>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 24;

    /// What is done to a map: a range of small numbers gets a class, or is removed.
    fn steps() -> impl Strategy<Value = Vec<(u64, u64, Option<u8>)>> {
        prop::collection::vec((0..SIZE, 1..=SIZE, prop::option::of(0..2u8)), 0..20)
    }

    proptest! {
        /// A map behaves as an array that holds the class of every address.
        #[test]
        fn a_map_is_a_short_way_to_write_an_array(steps in steps()) {
            let mut map = RangeMap::new();
            let mut array = [None; SIZE as usize];
            for (start, end, class) in steps {
                let Some(range) = PhysRange::new(start, end) else { continue };
                let cells = &mut array[start as usize..end as usize];
                match class {
                    Some(class) => map.replace(range, class),
                    None => map.remove(range),
                }
                cells.fill(class);
                for (at, cell) in array.iter().enumerate() {
                    let entry = map.get(PhysAddr::new(at as u64));
                    prop_assert_eq!(entry.map(|(_, class)| *class), *cell);
                }
                let entries: Vec<_> = map.iter().collect();
                for pair in entries.windows(2) {
                    let (low, high) = (pair[0], pair[1]);
                    prop_assert!(low.0.end() < high.0.start() || (low.0.end() == high.0.start() && low.1 != high.1));
                }
                prop_assert_eq!(map.covers(range), class.is_some());
                prop_assert_eq!(map.insert(range, 9).is_ok(), class.is_none());
                if class.is_none() {
                    map.remove(range);
                }
            }
        }

        #[test]
        fn what_others_have_is_taken_out(steps in steps(), others in steps()) {
            let map_of = |steps: Vec<(u64, u64, Option<u8>)>| {
                let mut map = RangeMap::new();
                for (start, end, class) in steps {
                    if let (Some(range), Some(class)) = (PhysRange::new(start, end), class) {
                        map.replace(range, class);
                    }
                }
                map
            };
            let (map, others) = (map_of(steps), map_of(others));
            let mut expected = map.clone();
            for range in others.ranges() {
                expected.remove(range);
            }
            prop_assert_eq!(map.without(&others), expected.clone());
            let shuffled = expected.iter().rev().map(|(range, class)| (range, *class)).collect();
            prop_assert_eq!(RangeMap::from_unsorted(shuffled), Ok(expected));
        }

        #[test]
        fn shrinking_keeps_whole_pages_only(steps in steps()) {
            let mut map = RangeMap::new();
            for (start, end, class) in steps {
                if let (Some(range), Some(class)) = (PhysRange::new(start, end), class) {
                    map.replace(range, class);
                }
            }
            let shrunk = map.shrink_to(4);
            for page in 0..SIZE / 4 {
                let page = PhysRange::new(page * 4, page * 4 + 4).unwrap();
                let whole = map.overlapping(page).any(|(range, _)| range.covers(page));
                prop_assert_eq!(shrunk.covers(page), whole);
            }
        }
    }
}
