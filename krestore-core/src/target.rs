//! Where memory is restored to.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use vmcore::PhysRange;

use crate::{Guard, RestoreError};

/// Fills bytes that are to become memory.
pub type Filler<'a> = dyn FnMut(&mut [u8]) -> Result<(), RestoreError> + 'a;

/// Something that memory can be restored to, by several threads at once.
pub trait Target: Sync {
    /// Whether this is the memory of the machine, so that it can be jumped to when it is restored.
    fn is_memory(&self) -> bool;

    /// Whether the bytes that a [`Filler`] gets are the memory itself, so that those which it does not fill stay
    /// what they are.
    fn is_mapped(&self) -> bool;

    /// How many bytes are best placed at once.
    fn piece(&self) -> u64;

    /// Checks that `range` may be written, and can be.
    ///
    /// # Errors
    ///
    /// [`RestoreError`] that says what is in the way.
    fn check(&self, range: PhysRange) -> Result<(), RestoreError>;

    /// Lets `filler` fill `range`, of which it gets all bytes at once.
    ///
    /// # Errors
    ///
    /// [`RestoreError`], that of `filler` among them; `range` may then be written in part.
    fn place(&self, range: PhysRange, filler: &mut Filler<'_>) -> Result<(), RestoreError>;

    /// Writes `bytes` from the beginning of `range` on, which has as many.
    ///
    /// # Errors
    ///
    /// As [`place`](Self::place).
    fn write(&self, range: PhysRange, bytes: &[u8]) -> Result<(), RestoreError>;

    /// Makes all bytes of `range` the same.
    ///
    /// # Errors
    ///
    /// As [`place`](Self::place).
    fn fill(&self, range: PhysRange, byte: u8) -> Result<(), RestoreError> {
        for piece in range.pieces(self.piece()) {
            self.place(piece, &mut |bytes| {
                bytes.fill(byte);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Reads what is in `range` now.
    ///
    /// # Errors
    ///
    /// [`RestoreError`] if it cannot be read.
    fn read(&self, range: PhysRange) -> Result<Vec<u8>, RestoreError>;
}

/// A file whose offsets are physical addresses, written by `pwrite(2)`: `/dev/oldmem`, or a plain file
/// that becomes a picture of memory.
#[derive(Debug)]
pub struct FileTarget {
    file: File,
    /// `/dev/oldmem` has one: memory is behind it.
    guard: Option<Guard>,
}

impl FileTarget {
    /// Where the device is that reads and writes memory of a kernel that was there before. The 2007
    /// patches made it writable, and a module can bring it back.
    pub const OLDMEM: &str = "/dev/oldmem";

    /// Opens the device `/dev/oldmem` at `path`.
    ///
    /// # Errors
    ///
    /// If it is not there or cannot be opened.
    pub fn oldmem(path: &Path, guard: Guard) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self {
            file,
            guard: Some(guard),
        })
    }

    /// Restores to a plain file, which must be open for reading and writing: the byte at offset N
    /// becomes the byte at address N. Where the core has no memory the file has holes.
    #[must_use]
    pub fn plain(file: File) -> Self {
        Self { file, guard: None }
    }
}

impl Target for FileTarget {
    fn is_memory(&self) -> bool {
        self.guard.is_some()
    }

    fn is_mapped(&self) -> bool {
        false
    }

    fn piece(&self) -> u64 {
        1 << 20
    }

    fn check(&self, range: PhysRange) -> Result<(), RestoreError> {
        match &self.guard {
            Some(guard) => guard.check(range),
            None => Ok(()),
        }
    }

    fn place(&self, range: PhysRange, filler: &mut Filler<'_>) -> Result<(), RestoreError> {
        self.check(range)?;
        // Callers place a piece at a time.
        let mut bytes = vec![0; range.len() as usize];
        filler(&mut bytes)?;
        self.write(range, &bytes)
    }

    fn write(&self, range: PhysRange, bytes: &[u8]) -> Result<(), RestoreError> {
        self.check(range)?;
        self.file
            .write_all_at(bytes, range.start().get())
            .map_err(|source| RestoreError::Target { range, source })
    }

    fn read(&self, range: PhysRange) -> Result<Vec<u8>, RestoreError> {
        let mut bytes = vec![0; range.len() as usize];
        self.file
            .read_exact_at(&mut bytes, range.start().get())
            .map_err(|source| RestoreError::Target { range, source })?;
        Ok(bytes)
    }
}
