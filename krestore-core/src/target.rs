//! Where memory is restored to.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use vmcore::{PhysAddr, PhysRange, ReadAt};

use crate::{Guard, RestoreError};

/// Something that memory can be restored to.
pub trait Target {
    /// Checks that `range` may be written, and can be.
    ///
    /// # Errors
    ///
    /// [`RestoreError`] that says what is in the way.
    fn check(&self, range: PhysRange) -> Result<(), RestoreError>;

    /// Writes the bytes of `source` from `offset` on to `range`.
    ///
    /// # Errors
    ///
    /// [`RestoreError`]; `range` may then be written in part.
    fn write(
        &mut self,
        range: PhysRange,
        source: &dyn ReadAt,
        offset: u64,
    ) -> Result<(), RestoreError>;

    /// Makes all bytes of `range` zero.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    fn zero(&mut self, range: PhysRange) -> Result<(), RestoreError>;

    /// Reads what is at `addr`.
    ///
    /// # Errors
    ///
    /// [`RestoreError`] if it cannot be read.
    fn read(&mut self, addr: PhysAddr, buf: &mut [u8]) -> Result<(), RestoreError>;
}

/// How the file of a target that takes `pwrite(2)` is used: offsets are physical addresses.
fn write_pieces(
    file: &File,
    range: PhysRange,
    source: &dyn ReadAt,
    offset: u64,
) -> Result<(), RestoreError> {
    let failed = |source| RestoreError::Copy { range, source };
    let end = offset
        .checked_add(range.len())
        .ok_or_else(|| failed(io::ErrorKind::UnexpectedEof.into()))?;
    let mut at = range.start().get();
    source
        .for_each_piece(offset..end, &mut |piece| {
            file.write_all_at(piece, at)?;
            at += piece.len() as u64;
            Ok(())
        })
        .map_err(failed)
}

/// Writes zeros to `range`.
fn write_zeros(file: &File, range: PhysRange) -> Result<(), RestoreError> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut at = range.start().get();
    while at < range.end().get() {
        let len = (range.end().get() - at).min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..len as usize], at)
            .map_err(|source| RestoreError::Copy { range, source })?;
        at += len;
    }
    Ok(())
}

/// Reads from a file at `addr`.
fn read(file: &File, addr: PhysAddr, buf: &mut [u8]) -> Result<(), RestoreError> {
    file.read_exact_at(buf, addr.get()).map_err(|source| {
        let len = (buf.len() as u64).max(1);
        match PhysRange::from_len(addr, len) {
            Some(range) => RestoreError::Copy { range, source },
            None => vmcore::elf::CoreError::NoMemory { addr }.into(),
        }
    })
}

/// `/dev/oldmem` with a write operation: offsets are physical addresses, and `pwrite(2)` writes memory.
/// The 2007 patches brought it, and a module can bring it back.
#[derive(Debug)]
pub struct OldMem {
    file: File,
    guard: Guard,
}

impl OldMem {
    /// Where the device is.
    pub const PATH: &str = "/dev/oldmem";

    /// Opens the device at `path`.
    ///
    /// # Errors
    ///
    /// If it is not there or cannot be opened.
    pub fn open(path: &Path, guard: Guard) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self { file, guard })
    }
}

impl Target for OldMem {
    fn check(&self, range: PhysRange) -> Result<(), RestoreError> {
        self.guard.check(range)
    }

    fn write(
        &mut self,
        range: PhysRange,
        source: &dyn ReadAt,
        offset: u64,
    ) -> Result<(), RestoreError> {
        write_pieces(&self.file, range, source, offset)
    }

    fn zero(&mut self, range: PhysRange) -> Result<(), RestoreError> {
        write_zeros(&self.file, range)
    }

    fn read(&mut self, addr: PhysAddr, buf: &mut [u8]) -> Result<(), RestoreError> {
        read(&self.file, addr, buf)
    }
}

/// A plain file that becomes a picture of physical memory: the byte at offset N is the byte at address
/// N. Where the core has no memory the file has holes.
#[derive(Debug)]
pub struct FileTarget {
    file: File,
}

impl FileTarget {
    /// Restores to `file`, which must be open for reading and writing.
    #[must_use]
    pub fn new(file: File) -> Self {
        Self { file }
    }
}

impl Target for FileTarget {
    /// Any range will do: no memory is behind it.
    fn check(&self, _range: PhysRange) -> Result<(), RestoreError> {
        Ok(())
    }

    fn write(
        &mut self,
        range: PhysRange,
        source: &dyn ReadAt,
        offset: u64,
    ) -> Result<(), RestoreError> {
        write_pieces(&self.file, range, source, offset)
    }

    fn zero(&mut self, range: PhysRange) -> Result<(), RestoreError> {
        write_zeros(&self.file, range)
    }

    fn read(&mut self, addr: PhysAddr, buf: &mut [u8]) -> Result<(), RestoreError> {
        read(&self.file, addr, buf)
    }
}
