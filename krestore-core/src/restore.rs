//! Restoring a core.

use vmcore::elf::{Core, Load};
use vmcore::{PhysRange, Progress, RangeMap, ReadAt};

use crate::{RestoreError, Target};

/// What a restore writes, or would write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of memory that the core holds.
    pub data: u64,
    /// Bytes of memory that the core says are zero.
    pub zeros: u64,
}

/// How much is written between two calls of the progress callback.
const STEP: u64 = 8 << 20;

/// Checks that all of `core` can be restored to `target`, and writes nothing: a dry run.
///
/// `machine` is the memory that the sleeping machine had where it may be written: its RAM without the
/// window and low memory. Whoever has a bare core and nothing else to compare it with passes
/// [`Core::memory`].
///
/// # Errors
///
/// [`RestoreError`] with the first range that cannot be restored, and why.
pub fn check<S: ReadAt>(
    core: &Core<S>,
    machine: &RangeMap<()>,
    target: &dyn Target,
) -> Result<Summary, RestoreError> {
    let mut summary = Summary::default();
    for load in core.loads() {
        if !machine.covers(load.memory) {
            return Err(RestoreError::NotOfMachine { range: load.memory });
        }
        target.check(load.memory)?;
        summary.data += load.file_size;
        summary.zeros += load.memory.len() - load.file_size;
    }
    Ok(summary)
}

/// Writes all memory of `core` to `target`, after [`check`]ing all of it. `progress` is called every
/// few MiB.
///
/// # Errors
///
/// [`RestoreError`]. Those of [`check`] come before the first byte is written; after others, the target
/// is written in part and must not be jumped to.
pub fn restore<S: ReadAt>(
    core: &Core<S>,
    machine: &RangeMap<()>,
    target: &mut dyn Target,
    progress: &mut dyn FnMut(Progress),
) -> Result<Summary, RestoreError> {
    let summary = check(core, machine, target)?;
    let total = summary.data + summary.zeros;
    let mut done = 0;
    for (memory, offset) in core.loads().iter().flat_map(steps) {
        match offset {
            Some(offset) => target.write(memory, core.source(), offset)?,
            None => target.zero(memory)?,
        }
        done += memory.len();
        progress(Progress { done, total });
    }
    Ok(summary)
}

/// The pieces of a segment in order, each with where it lies in the file, or `None` if it is zero.
fn steps(load: &Load) -> impl Iterator<Item = (PhysRange, Option<u64>)> {
    let load = *load;
    let mut done = 0;
    std::iter::from_fn(move || {
        let (end, offset) = if done < load.file_size {
            (load.file_size, Some(load.offset + done))
        } else {
            (load.memory.len(), None)
        };
        let start = load.memory.start().checked_add(done)?;
        let step = PhysRange::from_len(start, STEP.min(end - done))?;
        done += step.len();
        Some((step, offset))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    use proptest::prelude::*;
    use vmcore::IoMem;
    use vmcore::elf::CoreHeaders;

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
            let result = match kind {
                0 => restore(&core, &core.memory(), &mut DevMem::open(file.path(), guard()).unwrap(), progress),
                1 => restore(&core, &core.memory(), &mut FileTarget::oldmem(file.path(), guard()).unwrap(), progress),
                _ => restore(&core, &core.memory(), &mut FileTarget::plain(file.reopen().unwrap()), progress),
            };
            let own = |first: u64, end: u64| first < 50 && end > 40;
            let refused = kind < 2 && runs.iter().any(|&(first, stored, zeros)| {
                let end = first + stored + zeros;
                own(first, end) || end > 64
            });
            prop_assert_eq!(result.is_err(), refused);
            for number in 0..80 {
                let saved = runs.iter().find(|&&(first, stored, zeros)| (first..first + stored + zeros).contains(&number));
                let expected = match saved {
                    Some(&(first, stored, _)) if !refused => if number < first + stored { number as u8 | 0x80 } else { 0 },
                    _ => 0x77,
                };
                prop_assert_eq!(page(file.as_file(), number), expected, "page {}", number);
            }
            if let Ok(summary) = result {
                let total = summary.data + summary.zeros;
                prop_assert_eq!(total, core.memory().bytes());
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
            check(&core, &core.memory(), &target).unwrap_err()
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
        let mut machine = core.memory();
        machine.remove(range(0x2000, 0x3000));
        let target = FileTarget::plain(tempfile::tempfile().unwrap());
        assert!(matches!(
            check(&core, &machine, &target),
            Err(RestoreError::NotOfMachine { .. })
        ));
    }

    #[test]
    fn every_map_asks_the_guard() {
        let file = memory_file();
        let mut target = DevMem::open(file.path(), guard()).unwrap();
        assert!(target.zero(range(39 * 4096, 41 * 4096)).is_err());
        assert!(target.read(range(45 * 4096, 45 * 4096 + 8)).is_err());
        let bytes = target.read(range(3 * 4096 + 5, 3 * 4096 + 13)).unwrap();
        assert_eq!(bytes, [0x77; 8]);
        assert!(DevMem::open(Path::new("/nonexistent"), guard()).is_err());
    }
}
