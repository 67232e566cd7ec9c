//! Restoring memory.

use std::ops::ControlFlow;

use vmcore::{Memory, PageClass, PhysRange, Progress, RangeMap};

use crate::share::share;
use crate::{RestoreError, Target};

/// What a restore writes, or would write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of memory that were saved.
    pub data: u64,
    /// Bytes of memory that are known to be zero.
    pub zeros: u64,
    /// Bytes of memory that were left out because they were free, and are filled.
    pub free: u64,
}

impl Summary {
    /// All bytes that are written.
    #[must_use]
    pub fn total(self) -> u64 {
        self.data + self.zeros + self.free
    }
}

/// Where memory belongs, and what becomes of the memory that was not saved.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The memory that the sleeping machine had where it may be written: its RAM without the window and
    /// low memory.
    pub machine: &'a RangeMap<()>,
    /// What each byte of free memory is to be, for a kernel that checks; `None` leaves it as it is.
    pub fill: Option<u8>,
}

/// How much a thread writes at a time.
const STEP: u64 = 8 << 20;

/// What is done to a range of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Write,
    Fill(u8),
}

/// All that is to be done, in order of address.
fn steps(
    memory: &(impl Memory + ?Sized),
    plan: Plan<'_>,
) -> Result<RangeMap<(Step, PageClass)>, RestoreError> {
    let mut steps = RangeMap::new();
    for (range, &class) in memory.contents().iter() {
        if !plan.machine.covers(range) {
            return Err(RestoreError::NotOfMachine { range });
        }
        let step = match class {
            PageClass::Data => Step::Write,
            PageClass::Zero => Step::Fill(0),
            PageClass::Free => continue,
        };
        steps.replace(range, (step, class));
    }
    if let Some(byte) = plan.fill {
        for gap in plan.machine.without(&steps).ranges() {
            steps.replace(gap, (Step::Fill(byte), PageClass::Free));
        }
    }
    Ok(steps)
}

/// Checks that all of `memory` can be restored to `target`, and writes nothing: a dry run.
///
/// # Errors
///
/// [`RestoreError`] with the first range that cannot be restored, and why.
pub fn check(
    memory: &(impl Memory + ?Sized),
    plan: Plan<'_>,
    target: &dyn Target,
) -> Result<Summary, RestoreError> {
    check_steps(&steps(memory, plan)?, target)
}

fn check_steps(
    steps: &RangeMap<(Step, PageClass)>,
    target: &dyn Target,
) -> Result<Summary, RestoreError> {
    let mut summary = Summary::default();
    for (range, (_, class)) in steps.iter() {
        target.check(range)?;
        *match class {
            PageClass::Data => &mut summary.data,
            PageClass::Zero => &mut summary.zeros,
            PageClass::Free => &mut summary.free,
        } += range.len();
    }
    Ok(summary)
}

/// Writes all of `memory` to `target`, after [`check`]ing all of it, by the work of `threads` threads.
///
/// # Errors
///
/// [`RestoreError`]. Those of [`check`] come before the first byte is written; after others, the target
/// is written in part and must not be jumped to.
pub fn restore(
    memory: &(dyn Memory + Sync),
    plan: Plan<'_>,
    target: &dyn Target,
    threads: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<Summary, RestoreError> {
    let steps = steps(memory, plan)?;
    let summary = check_steps(&steps, target)?;
    let pieces = steps.iter().flat_map(|(range, (step, _))| {
        let pieces = range.pieces(STEP.min(target.piece()));
        pieces.map(move |piece| Ok::<_, RestoreError>((piece, *step)))
    });
    let work = |(): &mut (), (piece, step): (PhysRange, Step)| {
        match step {
            Step::Write => write(memory, piece, target)?,
            Step::Fill(byte) => target.fill(piece, byte)?,
        }
        Ok::<_, RestoreError>(piece.len())
    };
    share(threads, pieces, || (), work, summary.total(), progress)?;
    Ok(summary)
}

/// Writes what `memory` has in `range` to `target`, with one copy.
fn write(
    memory: &(dyn Memory + Sync),
    range: PhysRange,
    target: &dyn Target,
) -> Result<(), RestoreError> {
    let failed = |source| RestoreError::Memory { range, source };
    if target.is_mapped() {
        return target.place(range, &mut |bytes| {
            memory.read(range.start(), bytes).map_err(failed)
        });
    }
    let mut left = Some(range);
    let mut written = Ok(());
    memory
        .for_each_piece(range, &mut |bytes| {
            let Some(rest) = left else {
                return ControlFlow::Break(());
            };
            let len = bytes.len() as u64;
            if let Some(piece) = PhysRange::from_len(rest.start(), len) {
                written = target.write(piece, bytes);
                left = PhysRange::new(piece.end().get(), rest.end().get());
            }
            if written.is_ok() {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })
        .map_err(failed)?;
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    use proptest::prelude::*;
    use vmcore::elf::{Core, CoreHeaders, Load};
    use vmcore::{IoMem, PhysRange};

    use super::*;
    use crate::{DevMem, FileTarget, Guard};

    fn range(start: u64, end: u64) -> PhysRange {
        PhysRange::new(start, end).unwrap()
    }

    /// A core with these pages: runs of `(first, stored pages, zero pages)`.
    fn core_of(runs: &[(u64, u64, u64)]) -> Core<Vec<u8>> {
        let mut headers = CoreHeaders::new();
        let mut offset = 64 + 56 * runs.len() as u64;
        let mut data = Vec::new();
        for &(first, stored, zeros) in runs {
            headers.load(Load {
                memory: range(first * 4096, (first + stored + zeros) * 4096),
                offset,
                file_size: stored * 4096,
                virt: 0,
            });
            offset += stored * 4096;
            for page in first..first + stored {
                data.resize(data.len() + 4096, page as u8 | 0x80);
            }
        }
        Core::open([headers.encode(), data].concat()).unwrap()
    }

    fn memory_file() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(80 * 4096).unwrap();
        for page in 0..80 {
            file.as_file()
                .write_all_at(&[0x77; 4096], page * 4096)
                .unwrap();
        }
        file
    }

    /// The byte that a page is full of.
    fn page(file: &std::fs::File, page: u64) -> u8 {
        let mut bytes = [0; 4096];
        file.read_exact_at(&mut bytes, page * 4096).unwrap();
        assert_eq!(bytes, [bytes[0]; 4096]);
        bytes[0]
    }

    /// The guard of a kernel that owns the pages 40 to 49 of a memory of 80.
    fn guard() -> Guard {
        Guard::new(
            &IoMem::parse(
                "00000000-00027fff : Reserved\n\
                 00028000-00031fff : System RAM\n\
                 00032000-0003ffff : Reserved\n\
                 00040000-0004ffff : PCI Bus 0000:00\n",
            )
            .unwrap(),
        )
    }

    proptest! {
        /// What is in the core comes to be in the target, and nothing else changes; or nothing does.
        #[test]
        fn memory_is_restored_or_left_alone(
            gaps in prop::collection::vec((0..12u64, 0..6u64, 0..4u64), 1..8),
            kind in 0..3,
            free in 0..80u64,
            fill in prop::option::of(prop_oneof![Just(0), Just(0xaa_u8)]),
            threads in 1..4_usize,
        ) {
            let mut at = 0;
            let mut runs = Vec::new();
            for (gap, stored, zeros) in gaps {
                at += gap;
                if stored + zeros > 0 && at + stored + zeros <= 80 {
                    runs.push((at, stored, zeros));
                    at += stored + zeros;
                }
            }
            let core = core_of(&runs);
            let file = memory_file();
            let mut calls = Vec::new();
            let progress = &mut |at| calls.push(at);
            // The machine has all pages of the core, and one more that was free.
            let mut machine = core.contents().filter_map(|_| Some(()));
            machine.replace(range(free * 4096, (free + 1) * 4096), ());
            let plan = Plan { machine: &machine, fill };
            let target: Box<dyn Target> = match kind {
                0 => Box::new(DevMem::open(file.path(), guard()).unwrap()),
                1 => Box::new(FileTarget::oldmem(file.path(), guard()).unwrap()),
                _ => Box::new(FileTarget::plain(file.reopen().unwrap())),
            };
            let result = restore(&core, plan, target.as_ref(), threads, progress);
            let own = |first: u64, end: u64| first < 50 && end > 40;
            let filled = fill.map(|_| (free, 1, 0));
            let refused = kind < 2 && runs.iter().copied().chain(filled).any(|(first, stored, zeros)| {
                let end = first + stored + zeros;
                own(first, end) || end > 64
            });
            prop_assert_eq!(result.is_err(), refused);
            for number in 0..80 {
                let saved = runs.iter().find(|&&(first, stored, zeros)| (first..first + stored + zeros).contains(&number));
                let expected = match saved {
                    Some(&(first, stored, _)) if !refused => if number < first + stored { number as u8 | 0x80 } else { 0 },
                    None if !refused && number == free => fill.unwrap_or(0x77),
                    _ => 0x77,
                };
                prop_assert_eq!(page(file.as_file(), number), expected, "page {}", number);
            }
            if let Ok(summary) = result {
                let total = summary.total();
                prop_assert_eq!(summary.data + summary.zeros, core.contents().bytes());
                prop_assert!(calls.is_sorted_by_key(|at| at.done));
                prop_assert!(calls.last().is_none_or(|at| at.done == total && at.total == total));
            }
        }
    }

    #[test]
    fn the_running_kernel_and_devices_are_named() {
        let file = memory_file();
        let target = DevMem::open(file.path(), guard()).unwrap();
        let refusal = |first| {
            let core = core_of(&[(first, 2, 0)]);
            let machine = core.contents().filter_map(|_| Some(()));
            check(
                &core,
                Plan {
                    machine: &machine,
                    fill: None,
                },
                &target,
            )
            .unwrap_err()
        };
        assert!(
            matches!(refusal(39), RestoreError::OwnMemory { owned, .. } if owned == range(40 * 4096, 50 * 4096))
        );
        assert!(
            matches!(refusal(63), RestoreError::Occupied { name, .. } if name == "PCI Bus 0000:00")
        );
    }

    #[test]
    fn memory_that_the_machine_never_had_is_refused() {
        let core = core_of(&[(1, 4, 0)]);
        let mut machine = core.contents().filter_map(|_| Some(()));
        machine.remove(range(0x2000, 0x3000));
        let target = FileTarget::plain(tempfile::tempfile().unwrap());
        assert!(matches!(
            check(
                &core,
                Plan {
                    machine: &machine,
                    fill: None
                },
                &target
            ),
            Err(RestoreError::NotOfMachine { .. })
        ));
    }

    #[test]
    fn every_map_asks_the_guard() {
        let file = memory_file();
        let target = DevMem::open(file.path(), guard()).unwrap();
        assert!(target.fill(range(39 * 4096, 41 * 4096), 0).is_err());
        assert!(target.read(range(45 * 4096, 45 * 4096 + 8)).is_err());
        let bytes = target.read(range(3 * 4096 + 5, 3 * 4096 + 13)).unwrap();
        assert_eq!(bytes, [0x77; 8]);
        assert!(DevMem::open(Path::new("/nonexistent"), guard()).is_err());
    }
}
