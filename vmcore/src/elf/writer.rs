//! Writing a core of memory whose pages are known.

use std::io::{self, Write};
use std::ops::ControlFlow;

use super::{CoreHeaders, Load};
use crate::{Memory, MemoryError, PAGE_SIZE, PageClass, PhysAddr, PhysRange, Progress, RangeMap};

/// A core that is to be written: which memory goes into it, and where in the file each byte will be.
///
/// Free pages are left out. Zero pages are in the core but take no room in the file: they are the part
/// of a segment that is beyond its size in the file, as `makedumpfile -E` writes them too.
///
/// A core that takes many segments is made to take fewer, since not every tool can read more than
/// 65,534: pages between data are then written although they are free or zero, few first.
///
/// ```
/// use vmcore::elf::{Core, CoreHeaders, CoreWriter, Load};
/// use vmcore::{Memory, PageClass, PhysAddr, PhysRange};
///
/// let range = |start, end| PhysRange::new(start, end).unwrap();
/// let mut headers = CoreHeaders::new();
/// headers.load(Load { memory: range(0, 0x3000), offset: 120, file_size: 0x3000, virt: 0 });
/// let whole = Core::open([headers.encode(), vec![7; 0x3000]].concat())?;
///
/// let mut classes = whole.contents().clone();
/// classes.replace(range(0x1000, 0x2000), PageClass::Zero);
/// classes.replace(range(0x2000, 0x3000), PageClass::Free);
/// let writer = CoreWriter::new(&whole, &classes, &[], |addr| addr.get());
/// let mut file = Vec::new();
/// writer.write(&whole, &mut file, &mut |_| {})?;
/// assert_eq!(file.len() as u64, writer.size());
///
/// let core = Core::open(file)?;
/// assert_eq!(core.contents().bytes(), 0x2000);
/// assert!(core.read(PhysAddr::new(0x2000), &mut [0]).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct CoreWriter {
    headers: Vec<u8>,
    data: Vec<PhysRange>,
    size: u64,
}

/// Why a core could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CoreWriteError {
    /// The memory could not be read.
    #[error("the memory that is to be saved cannot be read")]
    Memory(#[from] MemoryError),
    /// The target could not be written.
    #[error("the core cannot be written")]
    Write(#[source] io::Error),
}

/// How many segments are few enough: some less than the most that fit into the number of them.
const FEW: usize = 60_000;

impl CoreWriter {
    /// The core of what `memory` has, as `classes` tell its pages apart, with these encoded notes.
    /// `virt` is the kernel's virtual address of a physical one.
    pub fn new(
        memory: &(impl Memory + ?Sized),
        classes: &RangeMap<PageClass>,
        notes: &[u8],
        virt: impl Fn(PhysAddr) -> u64,
    ) -> Self {
        let segments = few_segments(memory.contents(), classes);
        let count = segments.len() + usize::from(!notes.is_empty());
        let notes_at = CoreHeaders::size_of(count);
        // No overflow: the headers of what is in memory.
        let data_at = (notes_at + notes.len() as u64).next_multiple_of(PAGE_SIZE);

        let mut headers = CoreHeaders::new();
        if !notes.is_empty() {
            headers.notes(notes_at, notes.len() as u64);
        }
        let mut size = data_at;
        let mut data = Vec::new();
        for segment in &segments {
            headers.load(Load {
                memory: segment.memory,
                offset: size,
                file_size: segment.stored,
                virt: virt(segment.memory.start()),
            });
            // No overflow: what is stored are parts of the address space.
            size += segment.stored;
            data.extend(PhysRange::from_len(segment.memory.start(), segment.stored));
        }
        let mut headers = headers.encode();
        headers.extend_from_slice(notes);
        headers.resize(data_at as usize, 0);
        Self {
            headers,
            data,
            size,
        }
    }

    /// How many bytes the core takes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Writes the core of `memory`, which must be the one that it was made for.
    ///
    /// # Errors
    ///
    /// [`CoreWriteError`] that says which side failed.
    pub fn write(
        &self,
        memory: &(impl Memory + ?Sized),
        sink: &mut impl Write,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), CoreWriteError> {
        let total = self.size;
        sink.write_all(&self.headers)
            .map_err(CoreWriteError::Write)?;
        let mut done = self.headers.len() as u64;
        progress(Progress { done, total });
        for range in &self.data {
            let mut written = Ok(());
            memory.for_each_piece(*range, &mut |piece| {
                written = sink.write_all(piece);
                done += piece.len() as u64;
                progress(Progress { done, total });
                match written {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                }
            })?;
            written.map_err(CoreWriteError::Write)?;
        }
        Ok(())
    }
}

/// A segment: memory, of which the first bytes are stored and the others are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    memory: PhysRange,
    stored: u64,
}

/// The segments of `classes`, with as many small gaps filled as it takes for them to be few.
fn few_segments(contents: &RangeMap<PageClass>, classes: &RangeMap<PageClass>) -> Vec<Segment> {
    let mut gap = 0;
    loop {
        let segments = segments(contents, classes, gap);
        // Gaps of 128 MiB are wide enough: what still has many segments gets them.
        if segments.len() <= FEW || gap >= 128 << 20 {
            return segments;
        }
        gap = (2 * gap).max(PAGE_SIZE);
    }
}

/// The segments of `classes`, where free and zero pages count as data if no more than `gap` bytes of
/// them lie between data, and can be read.
fn segments(
    contents: &RangeMap<PageClass>,
    classes: &RangeMap<PageClass>,
    gap: u64,
) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    for (range, class) in classes.iter() {
        if *class == PageClass::Free {
            continue;
        }
        let stored = if *class == PageClass::Data {
            range.len()
        } else {
            0
        };
        let last = segments.last_mut();
        match (class, last) {
            (PageClass::Zero, Some(last)) if last.memory.end() == range.start() => {
                last.memory = hull(last.memory, range);
            }
            (PageClass::Data, Some(last)) if joins(contents, *last, range, gap) => {
                last.memory = hull(last.memory, range);
                last.stored = last.memory.len();
            }
            _ => segments.push(Segment {
                memory: range,
                stored,
            }),
        }
    }
    segments
}

/// Whether what lies between the stored bytes of `last` and `range` is small enough to be stored too.
fn joins(contents: &RangeMap<PageClass>, last: Segment, range: PhysRange, gap: u64) -> bool {
    let stored_end = last.memory.start().get() + last.stored;
    let Some(between) = PhysRange::new(stored_end, range.start().get()) else {
        // No byte lies between them, but they are two runs: what is said of them differs elsewhere.
        return true;
    };
    let readable = |range| {
        contents.covers(range)
            && contents
                .overlapping(range)
                .all(|(_, class)| *class != PageClass::Free)
    };
    last.stored > 0 && between.len() <= gap && readable(between)
}

fn hull(low: PhysRange, high: PhysRange) -> PhysRange {
    PhysRange::new(low.start().get(), high.end().get()).unwrap_or(low)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::elf::Core;

    const PAGES: u64 = 40;

    /// Memory whose pages are full of their number, but for zero pages, and what is known of them.
    fn machine(classes: &[Option<PageClass>]) -> (Core<Vec<u8>>, RangeMap<PageClass>) {
        let mut headers = CoreHeaders::new();
        headers.load(Load {
            memory: PhysRange::new(0, PAGES * PAGE_SIZE).unwrap(),
            offset: PAGE_SIZE,
            file_size: PAGES * PAGE_SIZE,
            virt: 0,
        });
        let mut file = headers.encode();
        file.resize(PAGE_SIZE as usize, 0);
        let mut map = RangeMap::new();
        for (number, class) in (0..).zip(classes) {
            let byte = match class {
                Some(PageClass::Zero) => 0,
                _ => number as u8 + 1,
            };
            file.extend([byte; PAGE_SIZE as usize]);
            let page = PhysRange::new(number * PAGE_SIZE, (number + 1) * PAGE_SIZE).unwrap();
            if let Some(class) = class {
                map.replace(page, *class);
            }
        }
        (Core::open(file).unwrap(), map)
    }

    fn classes() -> impl Strategy<Value = Vec<Option<PageClass>>> {
        let class = prop_oneof![
            Just(None),
            Just(Some(PageClass::Data)),
            Just(Some(PageClass::Zero)),
            Just(Some(PageClass::Free))
        ];
        prop::collection::vec(class, PAGES as usize)
    }

    proptest! {
        /// Written and read again, data is data, zeros are zeros, and nothing else is there.
        #[test]
        fn what_is_written_reads_back(classes in classes(), notes in 0..200_usize) {
            let (memory, map) = machine(&classes);
            let notes = vec![1; notes];
            let writer = CoreWriter::new(&memory, &map, &notes, |addr| addr.get() + 0x1000_0000);
            let mut file = Vec::new();
            let mut last = None;
            writer.write(&memory, &mut file, &mut |at| last = Some(at)).unwrap();
            prop_assert_eq!(file.len() as u64, writer.size());
            let size = writer.size();
            prop_assert!(last.is_some_and(|at| at.done == size && at.total == size));

            let core = Core::open(file).unwrap();
            let kept = map.filter_map(|class| (*class != PageClass::Free).then_some(*class));
            prop_assert_eq!(core.contents(), &kept);
            prop_assert!(core.loads().iter().all(|load| load.virt == load.memory.start().get() + 0x1000_0000));
            for (number, class) in (0..).zip(&classes) {
                let mut bytes = [9; PAGE_SIZE as usize];
                let read = core.read(PhysAddr::new(number * PAGE_SIZE), &mut bytes);
                match class {
                    Some(PageClass::Data) => prop_assert_eq!(bytes, [number as u8 + 1; PAGE_SIZE as usize]),
                    Some(PageClass::Zero) => prop_assert_eq!(bytes, [0; PAGE_SIZE as usize]),
                    _ => prop_assert!(read.is_err()),
                }
            }
        }

        /// With gaps filled there are fewer segments, which hold all that they should.
        #[test]
        fn filled_gaps_lose_nothing(classes in classes(), gap in 0..5_u64) {
            let (memory, map) = machine(&classes);
            let fine = segments(memory.contents(), &map, 0);
            let coarse = segments(memory.contents(), &map, gap * PAGE_SIZE);
            prop_assert!(coarse.len() <= fine.len());
            for (range, class) in map.iter() {
                let held = coarse.iter().any(|segment| match class {
                    PageClass::Free => true,
                    PageClass::Zero => segment.memory.covers(range),
                    PageClass::Data => PhysRange::from_len(segment.memory.start(), segment.stored)
                        .is_some_and(|stored| stored.covers(range)),
                });
                prop_assert!(held, "{range} {class:?}");
            }
        }
    }

    #[test]
    fn many_segments_become_few() {
        let mut contents = RangeMap::new();
        let all = PhysRange::new(0, 400_000 * PAGE_SIZE).unwrap();
        contents.replace(all, PageClass::Data);
        let classes = (0..400_000).map(|number| {
            let class = [PageClass::Data, PageClass::Free][number as usize % 2];
            let page = PhysRange::from_len(PhysAddr::new(number * PAGE_SIZE), PAGE_SIZE);
            (page.unwrap(), class)
        });
        let classes = RangeMap::from_unsorted(classes.collect()).unwrap();
        assert!(segments(&contents, &classes, 0).len() > FEW);
        assert!(few_segments(&contents, &classes).len() <= FEW);
    }
}
