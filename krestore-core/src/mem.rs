//! Memory through mappings of `/dev/mem`.
//!
//! With `CONFIG_STRICT_DEVMEM`, reading and writing `/dev/mem` stops where the running kernel's own RAM
//! does, but mapping reaches all memory that is not its own (`drivers/char/mem.c`, `mmap_mem`;
//! `arch/x86/mm/init.c`, `devmem_is_allowed`). Without `O_SYNC` memory is mapped write-back.
#![allow(
    unsafe_code,
    reason = "a mapping of physical memory is sound only if nobody else uses that memory, which the guard sees to"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use memmap2::{MmapMut, MmapOptions};
use vmcore::{PAGE_SIZE, PhysRange};

use crate::target::Filler;
use crate::{Guard, RestoreError, Target};

/// `/dev/mem`, mapped 16 MiB at a time.
#[derive(Debug)]
pub struct DevMem {
    file: File,
    guard: Guard,
}

impl DevMem {
    /// Where the device is.
    pub const PATH: &str = "/dev/mem";

    /// Opens the device at `path`.
    ///
    /// # Errors
    ///
    /// If it is not there (`CONFIG_DEVMEM`), or cannot be opened (root, lockdown).
    pub fn open(path: &Path, guard: Guard) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self { file, guard })
    }

    /// Maps the whole pages around `range`, after the guard has allowed them; returns the mapping, and
    /// where in it `range` begins.
    fn map(&self, range: PhysRange) -> Result<(MmapMut, usize), RestoreError> {
        let failed = |source| RestoreError::Map {
            range,
            device: Self::PATH,
            source,
        };
        let start = range.start().align_down(PAGE_SIZE);
        let end = range
            .end()
            .align_up(PAGE_SIZE)
            .ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        let pages = PhysRange::new(start.get(), end.get()).unwrap_or(range);
        self.guard.check(pages)?;
        let len = usize::try_from(pages.len()).map_err(|error| failed(io::Error::other(error)))?;
        let skip = usize::try_from(range.start().get() - start.get())
            .map_err(|error| failed(io::Error::other(error)))?;
        // SAFETY: the mapping is only sound if nobody else uses that memory while it exists. The guard
        // found that the running kernel does not own it and that it is no device; it belongs to a
        // kernel that stands still. `/dev/mem` has no size that could shrink.
        let map = unsafe {
            MmapOptions::new()
                .offset(start.get())
                .len(len)
                .map_mut(&self.file)
        };
        Ok((map.map_err(failed)?, skip))
    }
}

/// How much is mapped at a time. To take a mapping away interrupts all CPUs that this program runs on,
/// so few large ones are better.
const PIECE: u64 = 16 << 20;

impl Target for DevMem {
    fn is_memory(&self) -> bool {
        true
    }

    fn is_mapped(&self) -> bool {
        true
    }

    fn piece(&self) -> u64 {
        PIECE
    }

    fn check(&self, range: PhysRange) -> Result<(), RestoreError> {
        self.guard.check(range)
    }

    fn place(&self, range: PhysRange, filler: &mut Filler<'_>) -> Result<(), RestoreError> {
        let (mut map, skip) = self.map(range)?;
        filler(&mut map[skip..][..range.len() as usize])
    }

    fn write(&self, range: PhysRange, bytes: &[u8]) -> Result<(), RestoreError> {
        self.place(range, &mut |place| {
            place.copy_from_slice(bytes);
            Ok(())
        })
    }

    fn read(&self, range: PhysRange) -> Result<Vec<u8>, RestoreError> {
        let (map, skip) = self.map(range)?;
        Ok(map[skip..][..range.len() as usize].to_vec())
    }
}
