//! Plans: what `kexec_load(2)` is told.

use std::borrow::Cow;
use std::fmt;

use kexec_sys::{LoadFlags, MAX_SEGMENTS, Segment};
use vmcore::image::Identity;
use vmcore::{PAGE_SIZE, PhysAddr, PhysRange, RangeMap};
use zeroize::Zeroize;

use crate::{PlanError, trampoline, wipe};

/// What a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Jump to a kernel that saves this one, and come back.
    Save,
    /// Leave for a kernel that restores a sleeping one.
    Restore,
    /// Leave for a kernel that jumped away before.
    Return,
    /// Leave for a kernel that has the machine to itself.
    Boot,
    /// Wait for this kernel to panic, and look at its memory then.
    Panic,
}

/// A segment of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedSegment<'a> {
    /// What it holds, in a few words.
    pub what: &'static str,
    /// Where it goes; whole pages.
    pub memory: PhysRange,
    /// Its bytes; what is behind them in `memory` is zero.
    pub bytes: Cow<'a, [u8]>,
}

impl PlannedSegment<'_> {
    /// What a segment holds that hands a key on.
    pub(crate) const KEY: &'static str = "key";
}

/// What is to be loaded: segments, and where to enter them. Pure data that can be printed and tested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadPlan<'a> {
    purpose: Purpose,
    entry: PhysAddr,
    segments: Vec<PlannedSegment<'a>>,
}

impl<'a> LoadPlan<'a> {
    /// Checks the segments against what the kernel asks of them (`sanity_check_segment_list` in
    /// `kernel/kexec_core.c`), so that a plan that exists can be loaded.
    pub(crate) fn new(
        purpose: Purpose,
        entry: PhysAddr,
        mut segments: Vec<PlannedSegment<'a>>,
    ) -> Result<Self, PlanError> {
        segments.sort_by_key(|segment| segment.memory);
        if segments.len() > MAX_SEGMENTS {
            return Err(PlanError::TooManySegments {
                count: segments.len(),
            });
        }
        let mut covered = RangeMap::new();
        for PlannedSegment { memory, bytes, .. } in &segments {
            let whole = memory.is_aligned(PAGE_SIZE) && bytes.len() as u64 <= memory.len();
            if !whole || covered.insert(*memory, ()).is_err() {
                return Err(PlanError::Segment { memory: *memory });
            }
        }
        Ok(Self {
            purpose,
            entry,
            segments,
        })
    }

    /// The way back into a kernel that jumped away, from one that lives in `window`.
    ///
    /// The kernel that jumps maps its own RAM and the segments that it loads, nothing else
    /// (`init_pgtable` in `arch/x86/kernel/machine_kexec_64.c`). `jump_back` is in neither, so that
    /// the page around it is loaded as a segment that holds just what is there already, `page`.
    ///
    /// # Errors
    ///
    /// [`PlanError::JumpBack`] if the entry lies in the window, or the page is not a page.
    pub fn returning(
        jump_back: PhysAddr,
        page: &'a [u8],
        window: PhysRange,
    ) -> Result<Self, PlanError> {
        Self::returning_by(trampoline::resume(jump_back), jump_back, page, window)
    }

    /// As [`returning`](Self::returning), into the machine of `identity`. The kernel that goes back leaves
    /// nothing in the window and in low memory, which the machine gets among its free pages: both are zeroed.
    ///
    /// # Errors
    ///
    /// As [`returning`](Self::returning).
    pub fn returning_wiped(
        jump_back: PhysAddr,
        page: &'a [u8],
        identity: &Identity,
    ) -> Result<Self, PlanError> {
        let Identity {
            window,
            low,
            paging,
            ..
        } = identity;
        let code = wipe::code(jump_back, *window, low, *paging)?;
        Self::returning_by(code, jump_back, page, *window)
    }

    /// The way back by `code`, which is entered where it begins.
    fn returning_by(
        code: Vec<u8>,
        jump_back: PhysAddr,
        page: &'a [u8],
        window: PhysRange,
    ) -> Result<Self, PlanError> {
        let refused = |why| PlanError::JumpBack {
            entry: jump_back,
            why,
        };
        if page.len() as u64 != PAGE_SIZE {
            return Err(refused("what was read there is not a page"));
        }
        let memory = PhysRange::from_len(jump_back.align_down(PAGE_SIZE), PAGE_SIZE)
            .ok_or(refused("it lies at the end of the address space"))?;
        if memory.overlaps(window) {
            return Err(refused("it lies in the window"));
        }
        let room = code.len() as u64;
        let code_at = PhysRange::from_len(window.start(), room.next_multiple_of(PAGE_SIZE))
            .filter(|pages| window.covers(*pages) && pages.is_aligned(PAGE_SIZE))
            .ok_or(refused(
                "the window has no page for the code that goes there",
            ))?;
        Self::new(
            Purpose::Return,
            code_at.start(),
            vec![
                PlannedSegment {
                    what: "trampoline",
                    memory: code_at,
                    bytes: code.into(),
                },
                PlannedSegment {
                    what: "jump-back page",
                    memory,
                    bytes: page.into(),
                },
            ],
        )
    }

    /// What the plan is for.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Where the CPU enters what was loaded.
    #[must_use]
    pub fn entry(&self) -> PhysAddr {
        self.entry
    }

    /// The segments in order of address.
    #[must_use]
    pub fn segments(&self) -> &[PlannedSegment<'a>] {
        &self.segments
    }

    /// How much memory all segments take, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments
            .iter()
            .map(|segment| segment.memory.len())
            .sum()
    }

    /// The flags that the plan is loaded with: only a kernel that is to come back has its context
    /// preserved, and what is for a panic goes to the memory that is reserved for that.
    #[must_use]
    pub fn flags(&self) -> LoadFlags {
        match self.purpose {
            Purpose::Save => LoadFlags::PRESERVE_CONTEXT,
            Purpose::Panic => LoadFlags::ON_CRASH,
            Purpose::Restore | Purpose::Return | Purpose::Boot => LoadFlags::empty(),
        }
    }

    /// The segments in the form that `kexec_load(2)` takes: from the highest to the lowest, and the
    /// longest stretch of zeros in as many as there may be.
    ///
    /// The kernel takes a page elsewhere for each page of a segment, in order. One that a later segment is
    /// for it puts aside, in front of those that it put aside before, and looks through them for each page
    /// that follows (`kimage_alloc_page` in `kernel/kexec_core.c`). Free memory is handed out in ascending
    /// order, so that what was put aside last is what the next lower segment begins with. In the order of
    /// their addresses, the time grows with the square of the size where the window is free.
    ///
    /// # Errors
    ///
    /// None in a plan that is sound; [`kexec_sys::Error`] names the segment else.
    pub fn to_segments(&self) -> Result<Vec<Segment<'_>>, kexec_sys::Error> {
        let spare = MAX_SEGMENTS.saturating_sub(self.segments.len()) as u64;
        let most_zeros = self.segments.iter().map(zeros).max().unwrap_or(0);
        let piece = match most_zeros.checked_div(spare) {
            Some(share) => share.next_multiple_of(PAGE_SIZE).max(PAGE_SIZE),
            None => u64::MAX,
        };
        let mut pieces = spare;
        let mut list = Vec::new();
        for segment in self.segments.iter().rev() {
            let start = segment.memory.start().get();
            let mut len = segment.memory.len();
            if zeros(segment) == most_zeros {
                let mut zeros = most_zeros;
                while pieces > 0 && zeros > 0 {
                    let taken = piece.min(zeros);
                    (len, zeros, pieces) = (len - taken, zeros - taken, pieces - 1);
                    // A segment of zeros alone is what is left over of it.
                    if len > 0 {
                        list.push(Segment::new(b"", start + len, taken)?);
                    } else {
                        len = taken;
                    }
                }
            }
            list.push(Segment::new(&segment.bytes, start, len)?);
        }
        Ok(list)
    }
}

/// How many bytes behind those of `segment` are zeros, in whole pages.
fn zeros(segment: &PlannedSegment<'_>) -> u64 {
    let bytes = (segment.bytes.len() as u64).next_multiple_of(PAGE_SIZE);
    segment.memory.len().saturating_sub(bytes)
}

/// A key does not outlive the plan that hands it on.
impl Drop for LoadPlan<'_> {
    fn drop(&mut self) {
        for segment in &mut self.segments {
            if let (PlannedSegment::KEY, Cow::Owned(bytes)) = (segment.what, &mut segment.bytes) {
                bytes.zeroize();
            }
        }
    }
}

/// A line for each segment, and one for the entry.
impl fmt::Display for LoadPlan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            let range = segment.memory.to_string();
            let kib = segment.memory.len() >> 10;
            writeln!(f, "{range:<24} {kib:>8} KiB  {}", segment.what)?;
        }
        write!(f, "entry at {}", self.entry)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(start: u64, end: u64) -> PhysRange {
        PhysRange::new(start, end).unwrap()
    }

    #[test]
    fn the_way_back_keeps_the_page_of_the_entry() {
        let page: Vec<u8> = (0..4096u32).map(|at| at as u8).collect();
        let window = range(0x400_0000, 0xa00_0000);
        let plan = LoadPlan::returning(PhysAddr::new(0x1234_50f2), &page, window).unwrap();
        assert_eq!(plan.flags(), LoadFlags::empty());
        assert_eq!(plan.entry(), window.start());
        let [code, kept] = plan.segments() else {
            panic!("two segments")
        };
        assert_eq!(code.memory, range(0x400_0000, 0x400_1000));
        assert_eq!(kept.memory, range(0x1234_5000, 0x1234_6000));
        assert_eq!(kept.bytes, page);
        assert!(plan.to_segments().is_ok());
    }

    proptest! {
        #[test]
        fn what_is_loaded_is_what_was_planned(sizes in prop::collection::vec((1..40u64, 0..0x9000usize), 1..17)) {
            let mut start = 0x10_0000;
            let segments = sizes.iter().map(|&(pages, bytes)| {
                let memory = PhysRange::from_len(PhysAddr::new(start), pages * PAGE_SIZE).unwrap();
                start += (pages + pages % 2) * PAGE_SIZE;
                let bytes: Vec<u8> = (0..bytes.min(memory.len() as usize)).map(|at| at as u8).collect();
                PlannedSegment { what: "test", memory, bytes: bytes.into() }
            });
            let plan = LoadPlan::new(Purpose::Save, PhysAddr::new(0x1000), segments.collect()).unwrap();
            let loaded = plan.to_segments().unwrap();
            prop_assert!(loaded.len() <= MAX_SEGMENTS);
            prop_assert!(loaded.is_sorted_by(|one, next| one.mem() >= next.end()));
            for planned in plan.segments() {
                let within = loaded.iter().filter(|loaded| {
                    planned.memory.contains(PhysAddr::new(loaded.mem()))
                });
                let (mut len, mut bytes) = (0, Vec::new());
                for segment in within {
                    len += segment.memsz();
                    if !segment.buf().is_empty() {
                        prop_assert_eq!(segment.mem(), planned.memory.start().get());
                        bytes.extend_from_slice(segment.buf());
                    }
                }
                prop_assert_eq!(len, planned.memory.len());
                prop_assert_eq!(bytes, planned.bytes.to_vec());
            }
            // The longest stretch of zeros is shared out, if there is one.
            let longest: u64 = plan.segments().iter().map(zeros).max().unwrap() / PAGE_SIZE;
            let pieces = (longest as usize).min(MAX_SEGMENTS - sizes.len());
            prop_assert!(loaded.len() >= sizes.len() + pieces / 2);
        }
    }

    #[test]
    fn segments_that_a_kernel_would_refuse_make_no_plan() {
        let plan = |ranges: &[PhysRange]| {
            let segment = |&memory| PlannedSegment {
                what: "test",
                memory,
                bytes: b"x".into(),
            };
            let segments = ranges.iter().map(segment).collect();
            LoadPlan::new(Purpose::Save, PhysAddr::new(0x1000), segments)
        };
        assert!(plan(&[range(0x2000, 0x3000), range(0x1000, 0x2000)]).is_ok());
        assert!(matches!(
            plan(&[range(0x1000, 0x2001)]),
            Err(PlanError::Segment { .. })
        ));
        let overlapping = [range(0x1000, 0x3000), range(0x2000, 0x4000)];
        assert!(matches!(plan(&overlapping), Err(PlanError::Segment { .. })));
        let many: Vec<_> = (1..18)
            .map(|page| range(page * 0x1000, (page + 1) * 0x1000))
            .collect();
        assert!(plan(&many[..16]).is_ok());
        assert!(matches!(
            plan(&many),
            Err(PlanError::TooManySegments { count: 17 })
        ));
    }

    #[test]
    fn an_entry_that_cannot_be_right_is_refused() {
        let page = [0; 4096];
        let window = range(0x400_0000, 0xa00_0000);
        for (entry, page) in [
            (0x500_0000, &page[..]),
            (0x100_0000, &page[1..]),
            (u64::MAX, &page),
        ] {
            assert!(LoadPlan::returning(PhysAddr::new(entry), page, window).is_err());
        }
    }
}
